"""The terms that COIN's generator and discriminator learn from, ours and those published, and their weights."""

from typing import Literal

from cfxai import losses


class CoinLoss:
    """The weights of COIN's terms and the forms they take; a weight of 0 switches its term off, uncomputed.

    Args:
        adv: the discriminator's verdict. kl: the classifier's.
        rec: what must be preserved, see `reconstruct`. tv: edges of the change.
        minc: a further |x - x'| (the published code adds it with weight 1 unless told otherwise).
        features: mean classifier features of counterfactuals against those of normal images.
        penalty: gamma of R1 and R2, on the discriminator's gradients with respect to real and fake images.
        adversarial: the published code trains `bce` where its configuration says `mse` (`least_squares`).
        consistency: `logits`, or the published `clamped`.
        reconstruct: `change`: |x - x'| and the cyclic term (COIN); `self`: told to keep the class, or to go back from
            the counterfactual, G returns the image (Singla).
        cyclic: what G(x') must return: the `counterfactual` itself, the `image` (published), or `none`: no such term.
        distance: of `rec`: `l1`, or `carl`, which looks at the organ and at the rest (needs data.organ_masks=true).
        variation: `absolute`, or the published `squared` on the 255 scale.
    """

    def __init__(
        self,
        adv: float = 1.0,
        kl: float = 1.0,
        rec: float = 1.0,
        tv: float = 0.0,
        minc: float = 0.0,
        features: float = 0.0,
        penalty: float = 0.0,
        adversarial: losses.Adversarial = "hinge",
        consistency: Literal["logits", "clamped"] = "logits",
        reconstruct: Literal["change", "self"] = "change",
        cyclic: Literal["counterfactual", "image", "none"] = "counterfactual",
        distance: Literal["l1", "carl"] = "l1",
        variation: Literal["absolute", "squared"] = "absolute",
    ) -> None:
        self.adv, self.kl, self.rec, self.tv, self.minc = adv, kl, rec, tv, minc
        self.features, self.penalty = features, penalty
        self.adversarial, self.reconstruct, self.cyclic, self.distance = adversarial, reconstruct, cyclic, distance
        self.consistency = {"logits": losses.consistency_logits, "clamped": losses.consistency_clamped}[consistency]
        self.variation = {"absolute": losses.total_variation, "squared": losses.total_variation_squared}[variation]
