"""Counterfactuals by search in the code of an autoencoder: z moves until the rendered image is called otherwise.

Wachter et al. 2018, arXiv:1711.00399, with the gradient of the classifier through a short rendering, after Ha & Bender
2025, arXiv:2503.20595. Where `cfxai.methods.latent_shift` trusts a head on z, here the classifier itself says where to
go, at the price of a rendering in every step. x_T is found once, and keeps what z does not say.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cfxai.latents.latent_space import LatentSpace
from cfxai.methods.latent_explainer import CLASSIFIER, LatentExplainer, Representation
from cfxai.methods.optimise import Search
from cfxai.nn.freeze import frozen
from cfxai.protocols import Counterfactual, Image, Labels, Verify


class OptimiseLatent(LatentExplainer):
    """Search for the least move of z, z' = z + R u with d = ‖u‖: its Mahalanobis length, in standard deviations.

    R is the root of the latents' covariance, without the directions of what the space is to hold: they stay as they
    are. Images are rendered by the autoencoder's own sampling, which therefore should have few steps.

    Args:
        classifier: f, left untouched.
        autoencoder, space, told, verify: see `LatentExplainer`. The head does not lead the search; it reads what was
            found.
        margin, weight, rounds, steps, learning_rate, patience: of the `Search`; the rate in standard deviations.

    Raises:
        ConfigError: what `Search` refuses.
    """

    name = "optimise_latent"
    both_ways = True
    if_collapsed = "more method.steps or method.rounds, or more trainer.steps"

    def __init__(
        self,
        classifier: nn.Module,
        autoencoder: Representation,
        *,
        space: LatentSpace,
        told: str = CLASSIFIER,
        verify: Verify | None = None,
        margin: float = 2.2,
        weight: float = 2.0,
        rounds: int = 3,
        steps: int = 15,
        learning_rate: float = 0.2,
        patience: int = 3,
    ) -> None:
        super().__init__(classifier, autoencoder, space=space, told=told, verify=verify)
        self.search = Search(
            margin=margin, weight=weight, rounds=rounds, steps=steps, learning_rate=learning_rate, patience=patience
        )

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to the nearest rendered image found that f calls `target`; not random.

        Extras: the head's readings before and after.

        Raises:
            ConfigError: the space is not fitted.
        """
        with torch.no_grad():
            z, root = self.autoencoder.encode(image), self.space.root()
            noise = self.autoencoder.encode_stochastic(image, z)

        def decode(u: Float[Tensor, "m z"], rows: Int[Tensor, " m"]) -> Image:
            return self.autoencoder.render(noise[rows], z[rows] + u @ root, z[rows]).clamp(-1, 1)

        with frozen(self.classifier), frozen(self.network):
            found = self.search(torch.zeros_like(z), decode, self.classifier, target, lambda u: u.norm(dim=1))
        with torch.no_grad():
            rendered = decode(found, torch.arange(len(image), device=image.device))
            if self.verify:
                rendered = self.verify(image, rendered, target, self.classifier)
            return Counterfactual(image, rendered, target, self._readings(z, z + found @ root, rendered))
