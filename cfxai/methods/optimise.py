"""Counterfactuals by search: the nearest point that the classifier calls otherwise (Wachter et al. 2018).

min d(x, x_cf) + c * error(f(x_cf), target), arXiv:1711.00399, eq. 2: the weight c starts small and is raised for the
images that do not reach the target, so that the answer is as near as the search finds. In pixels this is a baseline,
close to an adversarial perturbation (`cfxai.methods.adversarial`); in the code of an autoencoder it moves along what
images vary in. Nothing is trained.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cfxai.errors import ConfigError
from cfxai.losses import logit_lead
from cfxai.nn.freeze import frozen
from cfxai.protocols import Counterfactual, Image, Labels, Logits

RAISE = 5.0
"""Factor of c from one round to the next."""

Distance = Callable[[Tensor], Float[Tensor, " b"]]
"""Of the points of a search from where they started."""


def search(
    start: Float[Tensor, "b ..."],
    decode: Callable[[Tensor], Image],
    classifier: Callable[[Image], Logits],
    target: Labels,
    distance: Distance,
    *,
    margin: float,
    weight: float,
    rounds: int,
    steps: int,
    learning_rate: float,
) -> Float[Tensor, "b ..."]:
    """The nearest point found whose target logit leads by `margin`; where none does, the one that comes closest to it.

    Args:
        start: what is moved: images, or codes of them. decode: makes images of it, differentiable.
        distance: to be small. weight: c in the first round.
        rounds, steps: of Adam at `learning_rate`; each round continues from where the last one ended.
    """
    point = start.detach().clone().requires_grad_()
    best, nearest = start.detach().clone(), torch.full((len(start),), torch.inf, device=start.device)
    short = torch.full_like(nearest, torch.inf)  # how far the best point is from the margin asked for
    c = torch.full_like(nearest, weight)
    for _ in range(rounds):
        optimizer = Adam([point], learning_rate)
        reached = torch.zeros_like(nearest, dtype=torch.bool)
        for _ in range(steps):
            with torch.enable_grad():
                lacking = (margin - logit_lead(classifier(decode(point)), target)).clamp_min(0)
                far = distance(point)
                (slope,) = torch.autograd.grad((far + c * lacking).sum(), point)
            better = torch.where(lacking > 0, lacking < short, (short > 0) | (far < nearest))
            best[better], nearest[better], short[better] = point.detach()[better], far.detach()[better], lacking[better]
            reached |= lacking <= 0
            point.grad = slope
            optimizer.step()
        c = torch.where(reached, c, c * RAISE)
    return best


class Optimise:
    """Search in pixels: d = mean |x_cf - x| + smooth * mean |difference of neighbouring changes|.

    Args:
        classifier: f, left untouched.
        margin: that the target's logit shall lead by; 2.2 is a probability of 0.9 with two classes.
        weight: of the classifier in the first round. smooth: of the change's total variation.
        rounds, steps: of the search. learning_rate: of its Adam, in units of [-1, 1] a step.

    Raises:
        ConfigError: no rounds or steps.
    """

    name = "optimise"
    both_ways = True

    def __init__(
        self,
        classifier: nn.Module,
        *,
        margin: float = 2.2,
        weight: float = 0.01,
        smooth: float = 1.0,
        rounds: int = 4,
        steps: int = 60,
        learning_rate: float = 0.02,
    ) -> None:
        if rounds < 1 or steps < 1:
            raise ConfigError(f"method: rounds and steps must be 1 or more, got {rounds} and {steps}.")
        self.classifier = classifier.eval().requires_grad_(False)
        self.margin, self.weight, self.smooth = margin, weight, smooth
        self.rounds, self.steps, self.learning_rate = rounds, steps, learning_rate
        self.modules = nn.ModuleDict()
        self.optimizers: Mapping[str, Optimizer] = {}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """None: nothing is trained."""
        yield from ()

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to the nearest image found that f calls `target`; not random."""
        with frozen(self.classifier):
            found = search(
                image,
                lambda x: x.clamp(-1, 1),
                self.classifier,
                target,
                lambda x: self._distance(x - image),
                margin=self.margin,
                weight=self.weight,
                rounds=self.rounds,
                steps=self.steps,
                learning_rate=self.learning_rate,
            )
        return Counterfactual(image, found.clamp(-1, 1), target)

    def _distance(self, change: Image) -> Float[Tensor, " b"]:
        size = change.abs().flatten(1).mean(1)
        for axis in range(2, change.ndim):
            size = size + self.smooth * change.diff(dim=axis).abs().flatten(1).mean(1)
        return size
