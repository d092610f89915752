"""CycleGAN counterfactuals: normal images become abnormal ones and back, under a classifier's eye.

CycleGAN (Zhu et al. 2017, arXiv:1703.10593) with GANterfactual's classifier term (Mertes et al. 2022,
doi:10.3389/frai.2022.825565). With G(x, t) the image x as one of class t, D(x, t) whether x is a real image of class t,
and f the frozen classifier, the generators learn, for each image x of class s and another class t,

    adv             D(G(x, t), t) says real
    counterfactual  f(G(x, t)) says t
    cycle           |G(G(x, t), s) - x|
    identity        |G(x, s) - x|

Each term is the mean over the images of a class, summed over the classes: CycleGAN's sum over two directions. There
G(·, t) is a network for each t, and so is D (`cfxai.nn.per_class`); `StarGAN` has one of each for all classes.

CFE, a published code of this method, trains one discriminator, on fakes only, and asks the classifier for p = 1/2: its
images do not flip. `compat=anindya` selects that, `compat=ganterfactual` the code of GANterfactual; each translation is
made once a step, where CFE makes the fakes again for the discriminators.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cfxai import losses
from cfxai.errors import ConfigError
from cfxai.methods.image_pool import ImagePool
from cfxai.nn.eager import eager
from cfxai.nn.ema import Average
from cfxai.nn.freeze import frozen
from cfxai.protocols import NORMAL, Counterfactual, Image, Labels, Logits, Verify

FORMS = {
    "adversarial": get_args(losses.Independent),
    "towards": ("cross_entropy", "squared", "margin", "probability"),
    "targets": ("one_hot", "shipped"),
    "discriminator_loss": ("both", "separate", "shipped"),
}
"""What `CycleGANLoss` knows of each setting."""


class CycleGANLoss:
    """The weights of CycleGAN's terms and the forms they take; a weight of 0 switches its term off, uncomputed.

    Args:
        adv: the discriminators' verdict. counterfactual: the classifier's. cycle: there and back. identity: an image
            told to stay.
        penalty: gamma of R1, on the discriminators' gradients with respect to real images.
        adversarial: `least_squares`, `hinge` or `bce`.
        towards: how the classifier's verdict counts: `cross_entropy`; `squared` error of its probabilities (the
            papers'); `margin` of logits; `probability`: the target's shall be this one.
        margin: asked for by `margin`, in logits. probability: asked for by `probability`, in (0, 1).
        targets: of `squared`: `one_hot`, or as CFE's code has them, `shipped`: (1, 1) for normal and (0, 0) for
            abnormal. These two ask for the same, p = 1/2.
        discriminator_loss: `both` errors, on real and on fake images, halved as in CycleGAN; `separate`: a step for
            each, in full (GANterfactual's code); `shipped`: the error on fake abnormal images alone (CFE's), so that
            no discriminator ever learns what is real.

    Raises:
        ConfigError: an unknown form, or a value out of range.
    """

    def __init__(
        self,
        adv: float = 1.0,
        counterfactual: float = 1.0,
        cycle: float = 10.0,
        identity: float = 1.0,
        penalty: float = 0.0,
        adversarial: str = "least_squares",
        towards: str = "cross_entropy",
        margin: float = 2.2,
        probability: float = 0.9,
        targets: str = "one_hot",
        discriminator_loss: str = "both",
    ) -> None:
        given = {"adversarial": adversarial, "towards": towards, "targets": targets}
        for key, value in (given | {"discriminator_loss": discriminator_loss}).items():
            if value not in FORMS[key]:
                raise ConfigError(f"loss.{key}: choose one of {', '.join(FORMS[key])}, not '{value}'.")
        if targets == "shipped" and towards != "squared":
            raise ConfigError("loss.targets: shipped ones are for loss.towards=squared.")
        if not 0 < probability < 1:
            raise ConfigError(f"loss.probability: must be more than 0 and less than 1, got {probability}.")
        self.adv, self.counterfactual, self.cycle, self.identity = adv, counterfactual, cycle, identity
        self.penalty, self.adversarial = penalty, cast(losses.Independent, adversarial)
        self.towards, self.margin, self.probability, self.targets = towards, margin, probability, targets
        self.discriminator_loss = discriminator_loss

    def verdict(self, logits: Logits, target: Labels) -> Tensor:
        """The classifier's term, a scalar."""
        match self.towards:
            case "cross_entropy":
                return losses.cross_entropy(logits, target)
            case "margin":
                return losses.logit_margin(logits, target, self.margin)
            case "probability":
                return losses.target_probability(logits, target, self.probability)
        wanted = F.one_hot(target, logits.shape[1]).float()
        if self.targets == "shipped":
            wanted = (target == NORMAL).float()[:, None].expand_as(logits)
        return losses.squared_error(logits, wanted)


class CycleGAN:
    """The method: its losses and its `generate`.

    Args:
        classifier: f, frozen.
        generator: G, (image, target) -> image. discriminator: D, (image, class) -> logits.
        loss: the terms and their weights.
        steps: length of the training; the learning rate falls to zero over its last `decay` share.
        classes: of the classifier and the labels, and of G and D, whose attribute `classes` says so.
        average: decay of the exponential moving average of G that `generate` uses; 0 = none.
        pool: of earlier fakes for D; null = none.
        discriminators_first: D learns before G in a step (GANterfactual's code), not after.
        verify: undoes changes that the classifier does not need; null = none.

    Raises:
        ConfigError: fewer than two classes, or networks that do not tell these apart.
    """

    name = "cyclegan"
    both_ways = True
    if_collapsed = "a larger loss.counterfactual or a smaller loss.cycle and loss.identity"

    def __init__(
        self,
        classifier: nn.Module,
        generator: nn.Module,
        *,
        discriminator: nn.Module,
        loss: CycleGANLoss,
        steps: int,
        classes: int = 2,
        learning_rate: float = 2e-4,
        betas: Sequence[float] = (0.5, 0.999),
        decay: float = 0.5,
        average: float = 0.999,
        pool: ImagePool | None = None,
        discriminators_first: bool = False,
        verify: Verify | None = None,
    ) -> None:
        if classes < 2:
            raise ConfigError(f"method.classes: must be 2 or more, got {classes}.")
        for key, network in (("generator", generator), ("discriminator", discriminator)):
            if (told := getattr(network, "classes", 0)) != classes:
                raise ConfigError(
                    f"{key}.classes: is {told}, but method.classes {classes}; method=cyclegan has a network for each of"
                    f" 2 classes, and method=stargan one for all that is told them; see conf/stargan_pneumonia.yaml."
                )
        self.classifier = classifier.eval().requires_grad_(False)
        self.generator, self.discriminator, self.loss, self.pool = generator, discriminator, loss, pool
        self.average = Average(generator, average)
        self.modules = nn.ModuleDict({"generator": generator, "discriminator": discriminator, "average": self.average})
        if pool is not None:
            self.modules["pool"] = pool
        self.optimizers: Mapping[str, Optimizer] = {
            name: Adam(network.parameters(), learning_rate, (betas[0], betas[1]), fused=True)
            for name, network in (("generator", generator), ("discriminator", discriminator))
        }
        self.steps, self.learning_rate, self.decay = steps, learning_rate, decay
        self.classes, self.discriminators_first, self.verify = classes, discriminators_first, verify

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        self._schedule(step)
        image, source = batch["image"], batch["label"]
        target = (source + torch.randint(1, self.classes, source.shape, device=source.device)) % self.classes
        fake, kept = self._translated(image, source, target)
        phases = [
            self._generator_phase(image, source, target, fake, kept),
            self._discriminator_phase(image, source, target, fake.detach()),
        ]
        for phase in reversed(phases) if self.discriminators_first else phases:
            yield from phase

    def _translated(self, image: Image, source: Labels, target: Labels) -> tuple[Image, Image | None]:
        """G(x, t) and, where a term asks for it, G(x, s), in one pass."""
        if not self.loss.identity:
            return self.generator(image, target), None
        fake, kept = self.generator(torch.cat([image, image]), torch.cat([target, source])).chunk(2)
        return fake, kept

    def _generator_phase(
        self, image: Image, source: Labels, target: Labels, fake: Image, kept: Image | None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        weight, terms = self.loss, {}
        if weight.adv:

            def adversarial(changed: Image) -> Tensor:
                verdict = self.discriminator(changed, target)
                return over_classes(target, lambda i: losses.adversarial_generator(verdict[i], weight.adversarial))

            with frozen(self.discriminator):
                terms["adv"] = weight.adv * eager(adversarial, fake)
        if weight.counterfactual:

            def counterfactual(changed: Image) -> Tensor:
                logits = self._called(changed)
                return over_classes(target, lambda i: weight.verdict(logits[i], target[i]))

            terms["counterfactual"] = weight.counterfactual * eager(counterfactual, fake)
        if weight.cycle:
            back = self.generator(fake, source)
            terms["cycle"] = weight.cycle * over_classes(source, lambda i: losses.l1(back[i], image[i]))
        if kept is not None:
            terms["identity"] = weight.identity * over_classes(source, lambda i: losses.l1(kept[i], image[i]))
        yield "generator", terms
        if self.average.decay:
            self.average.update(self.generator)

    def _discriminator_phase(
        self, image: Image, source: Labels, target: Labels, fake: Image
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        if not self.loss.adv:
            return
        if self.pool is not None:
            fake = self.pool.exchange(fake, target)
        match self.loss.discriminator_loss:
            case "both":
                on_real, on_fake = self._error(image, source, real=True), self._error(fake, target, real=False)
                yield "discriminator", {"d_real": on_real / 2, "d_fake": on_fake / 2} | self._penalty(image, source)
            case "separate":
                yield "discriminator", {"d_real": self._error(image, source, real=True)} | self._penalty(image, source)
                yield "discriminator", {"d_fake": self._error(fake, target, real=False)}
            case "shipped":
                to = target != NORMAL
                if to.any():
                    yield "discriminator", {"d_fake": self._error(fake[to], target[to], real=False)}

    def _error(self, image: Image, label: Labels, *, real: bool) -> Tensor:
        verdict, kind = self.discriminator(image, label), self.loss.adversarial
        return over_classes(label, lambda i: losses.discriminator_error(verdict[i], kind, real=real))

    def _penalty(self, image: Image, source: Labels) -> dict[str, Tensor]:
        if not self.loss.penalty:
            return {}

        def squares(i: Tensor) -> Tensor:
            leaf = image[i].detach().requires_grad_()
            return losses.gradient_penalty(self.discriminator(leaf, source[i]), leaf)

        return {"d_r1": self.loss.penalty / 2 * over_classes(source, squares)}

    def _called(self, image: Image) -> Logits:
        logits = self.classifier(image)
        if (k := logits.shape[1]) != self.classes:
            raise ConfigError(f"method.classes: is {self.classes}, but the classifier has {k}; see method=stargan.")
        return logits

    def _schedule(self, step: int) -> None:
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * min(1.0, left)

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to each image's counterfactual for its class in `target`.

        Every image goes through G, whatever f calls it: one that is of its target class already is changed as little
        as the identity term has taught G, and that little is what the evaluation of normal images measures.

        Raises:
            ValueError: a target that is no class.
        """
        if not ((target >= 0) & (target < self.classes)).all():
            raise ValueError(f"target: classes are 0 to {self.classes - 1}.")
        generator = self.average.module if self.average.decay else self.generator
        with torch.no_grad(), frozen(generator):
            changed = generator(image, target).float()
            if self.verify:
                changed = self.verify(image, changed, target, self.classifier)
            return Counterfactual(image, changed, target)


def over_classes(of: Labels, term: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum over classes of a term of each class's images, which it is given as a mask [b]."""
    return torch.stack([term(of == label) for label in of.unique()]).sum()
