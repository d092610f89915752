"""Every loss term as a pure function of float32 tensors, with its formula and source; methods apply the weights."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cfxai.protocols import Image, Labels, Logits, Mask

Independent = Literal["hinge", "bce", "least_squares"]
"""Adversarial losses that judge each image by itself."""
Adversarial = Literal[Independent, "relativistic"]
Scores = Float[Tensor, "b *patches"]


def adversarial_generator(
    fake: Scores, kind: Adversarial, real: Float[Tensor, "n *patches"] | None = None
) -> Float[Tensor, ""]:
    """What the generator pays for looking fake; `real`, the verdicts on real images, is for `relativistic` only.

    hinge: -mean D(x') (Lim & Ye 2017, arXiv:1705.02894); bce: -mean log sigmoid D(x') (Goodfellow et al. 2014);
    least_squares: mean (D(x') - 1)^2 (Mao et al. 2017, arXiv:1611.04076);
    relativistic: -mean log sigmoid(D(x') - D(x)) over all pairs (Jolicoeur-Martineau 2018, arXiv:1807.00734).
    """
    fake = fake.float()
    match kind:
        case "relativistic":
            assert real is not None
            return F.softplus(real.float()[:, None] - fake[None]).mean()
        case "hinge":
            return -fake.mean()
        case "bce":
            return F.softplus(-fake).mean()
        case "least_squares":
            return (fake - 1).square().mean()


def adversarial_discriminator(
    real: Scores, fake: Float[Tensor, "n *patches"], kind: Adversarial
) -> dict[str, Float[Tensor, ""]]:
    """What the discriminator pays, halved as COIN does: its errors on real and on fake images, separately.

    hinge: relu(1 - D(x)), relu(1 + D(x')); bce and least_squares: against 1 and 0; relativistic, of both at once:
    -log sigmoid(D(x) - D(x')), not halved.
    """
    if kind == "relativistic":
        return {"pairs": F.softplus(fake.float()[None] - real.float()[:, None]).mean()}
    on_real, on_fake = discriminator_error(real, kind, real=True), discriminator_error(fake, kind, real=False)
    return {"real": on_real / 2, "fake": on_fake / 2}


def discriminator_error(scores: Scores, kind: Independent, *, real: bool) -> Float[Tensor, ""]:
    """The discriminator's error on real or on fake images, in full: see `adversarial_discriminator`."""
    scores, sign = scores.float(), 1 if real else -1
    match kind:
        case "hinge":
            return F.relu(1 - sign * scores).mean()
        case "bce":
            return F.softplus(-sign * scores).mean()
        case "least_squares":
            return (scores - int(real)).square().mean()


def gradient_penalty(scores: Scores, image: Image) -> Float[Tensor, ""]:
    """E ||d D(x) / d x||^2, half of R1 on real images and of R2 on fake ones (Mescheder et al. 2018, arXiv:1801.04406).

    `image` must require gradients and `scores` be computed from it; the penalty can be differentiated again.
    """
    (gradient,) = torch.autograd.grad(scores.float().sum(), image, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


def consistency_logits(logits: Logits, wanted: Logits) -> Float[Tensor, ""]:
    """KL(wanted || softmax(logits)), computed from logits so that its gradient never vanishes.

    The published form (`consistency_clamped`) has no gradient for images beyond logit 11.5: the most confident
    abnormal images, which need the most change, are not moved at all.
    """
    log_p = F.log_softmax(logits.float(), 1)
    return (torch.xlogy(wanted, wanted) - wanted * log_p).sum(1).mean()


def consistency_clamped(logits: Logits, wanted: Logits) -> Float[Tensor, ""]:
    """COIN's published classifier term: KL between Bernoulli probabilities clamped to [1e-5, 1 - 1e-5].

    mean t log(t/p) + (1-t) log((1-t)/(1-p)) with p, t the abnormal probabilities; two classes only.
    """
    p = (logits[:, 1] - logits[:, 0]).float().sigmoid().clamp(1e-5, 1 - 1e-5)
    t = wanted[:, 1].clamp(1e-5, 1 - 1e-5)
    return (t * (t / p).log() + (1 - t) * ((1 - t) / (1 - p)).log()).mean()


def squared_error(logits: Logits, wanted: Logits) -> Float[Tensor, ""]:
    """mean of sum_k (softmax(logits)_k - wanted_k)^2, GANterfactual's classifier term (Mertes et al. 2022).

    Its formula sums over classes; both published codes average. The gradient vanishes where f is certain of another
    class: towards that one, nothing moves (doi:10.3389/frai.2022.825565).
    """
    return (logits.float().softmax(1) - wanted).square().sum(1).mean()


def cross_entropy(logits: Logits, target: Labels) -> Float[Tensor, ""]:
    """-mean log p(target), from logits: its gradient on the target's logit is 1 - p(target), never zero before 1."""
    return F.cross_entropy(logits.float(), target)


def ordinal_cross_entropy(above: Float[Tensor, "b t"], grade: Labels) -> Float[Tensor, ""]:
    """Mean over images and thresholds of -log p(grade > k is answered rightly), for logits `above` of grade > 0, > 1, …

    Args:
        grade: [b], 0 … t.
    """
    exceeded = grade[:, None] > torch.arange(above.shape[1], device=grade.device)
    return F.binary_cross_entropy_with_logits(above, exceeded.to(above.dtype))


def logit_margin(logits: Logits, target: Labels, margin: float) -> Float[Tensor, ""]:
    """mean relu(margin - (z_target - max of the others)): no more than this is asked for (Carlini & Wagner 2017, f_6).

    arXiv:1608.04644. With two classes a margin of 2.2 is p(target) = 0.9.
    """
    return F.relu(margin - logit_lead(logits, target)).mean()


def logit_lead(logits: Logits, target: Labels) -> Float[Tensor, " b"]:
    """z_target - max of the others: above 0 where the target is what the classifier calls."""
    z = logits.float()
    return z.gather(1, target[:, None])[:, 0] - z.scatter(1, target[:, None], -torch.inf).amax(1)


def target_probability(logits: Logits, target: Labels, wanted: float) -> Float[Tensor, ""]:
    """KL between Bernoulli(wanted) and Bernoulli(p(target)), mean over images: zero where p(target) = wanted < 1.

    Computed from logits, as log p/(1-p) of the target against all others together.
    """
    z = logits.float()
    own = z.gather(1, target[:, None])[:, 0]
    odds = own - z.scatter(1, target[:, None], -torch.inf).logsumexp(1)
    q = torch.full_like(odds, wanted)
    entropy = -(torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q))
    return F.binary_cross_entropy_with_logits(odds, q) - entropy.mean()


def l1(a: Image, b: Image) -> Float[Tensor, ""]:
    """mean |a - b|, on the [-1, 1] scale."""
    return (a - b).abs().float().mean()


def carl(a: Image, b: Image, organ: Mask) -> Float[Tensor, ""]:
    """Content-aware reconstruction: |a - b| averaged over each image's organ, plus over the rest (Singla et al. 2021).

    A small organ weighs as much as all that surrounds it. The published code sums over channels.
    """
    change = (a - b).abs().float().sum(1).flatten(1)
    regions = torch.stack([organ, ~organ]).flatten(2).to(change)
    return ((change * regions).sum(2) / (regions.sum(2) + 1e-8)).mean(1).sum()


def feature_matching(found: Float[Tensor, "b f"], wanted: Float[Tensor, "n f"]) -> Float[Tensor, ""]:
    """Mean squared difference of the mean features of two groups of images (Salimans et al. 2016, arXiv:1606.03498)."""
    return (found.float().mean(0) - wanted.float().mean(0)).square().mean()


def total_variation(image: Image, counterfactual: Image) -> Float[Tensor, ""]:
    """Anisotropic total variation of the change: the mean absolute difference between neighbours of x' - x.

    Zero for no change and for a constant one; it asks for few edges in the change, not for small ones.
    """
    change = (counterfactual - image).float()
    return torch.stack([change.diff(dim=axis).abs().mean() for axis in range(2, change.ndim)]).sum()


def total_variation_squared(image: Image, counterfactual: Image) -> Float[Tensor, ""]:
    """COIN's published term: squared differences between neighbours of d = 255 |x - x'| / 2, summed over axes.

    The factor 255^2 is why the paper's weight is 0.05 or 5e-5; it dominates the published loss at the start.
    """
    change = 255 * ((image - counterfactual) / 2).abs().float()
    return torch.stack([change.diff(dim=axis).square().mean() for axis in range(2, change.ndim)]).sum()
