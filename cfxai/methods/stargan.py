"""StarGAN counterfactuals: one generator for all classes (Choi et al. 2018, arXiv:1711.09020).

The losses are CycleGAN's (`cfxai.methods.cyclegan`), towards a class drawn at random among the others for each image. G
is told the class as constant channels; D has a verdict for each class on shared features (StarGAN v2, Choi et al. 2020,
arXiv:1912.01865). StarGAN's own classifier inside D is not needed: the classifier under explanation takes its place.
"""

from cfxai.methods.cyclegan import CycleGAN


class StarGAN(CycleGAN):
    """CycleGAN with networks that are told the class: `generator.classes` and `discriminator.classes` say so."""

    name = "stargan"
