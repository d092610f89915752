"""Counterfactuals by search: the nearest point that the classifier calls otherwise (Wachter et al. 2018).

min d(x, x_cf) + c * error(f(x_cf), target), arXiv:1711.00399, eq. 2: the weight c starts small and is raised for the
images that do not reach the target, so that the answer is as near as the search finds. In pixels this is a baseline,
close to an adversarial perturbation (`cfxai.methods.adversarial`), and nothing is trained; in the code of an
autoencoder (`cfxai.methods.optimise_latent`) it moves along what images vary in.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cfxai.errors import ConfigError
from cfxai.losses import logit_lead
from cfxai.nn.freeze import frozen
from cfxai.protocols import Counterfactual, Image, Labels, Logits, Verify

RAISE = 5.0
"""Factor of c from one round to the next."""

Points = Float[Tensor, "b ..."]
Decode = Callable[[Points, Int[Tensor, " b"]], Image]
Distance = Callable[[Points], Float[Tensor, " b"]]


class Search:
    """How long and how eagerly to search.

    Args:
        margin: that the target's logit shall lead by; 2.2 is a probability of 0.9 with two classes.
        weight: c, of the classifier in the first round.
        rounds, steps: of Adam at `learning_rate`; each round continues from where the last one ended.
        patience: steps without a nearer answer after which an image that has one is left at that.

    Raises:
        ConfigError: no rounds or steps, or a negative patience.
    """

    def __init__(
        self, *, margin: float, weight: float, rounds: int, steps: int, learning_rate: float, patience: int
    ) -> None:
        if rounds < 1 or steps < 1:
            raise ConfigError(f"method: rounds and steps must be 1 or more, got {rounds} and {steps}.")
        if patience < 0:
            raise ConfigError(f"method.patience: must be 0 or more, got {patience}.")
        self.margin, self.weight, self.learning_rate = margin, weight, learning_rate
        self.rounds, self.steps, self.patience = rounds, steps, patience

    def __call__(
        self,
        start: Points,
        decode: Decode,
        classifier: Callable[[Image], Logits],
        target: Labels,
        distance: Distance,
    ) -> Points:
        """The nearest point found whose target logit leads by the margin; where none does, the one closest to that.

        Each image's search is its own, and ends by itself. Not random.

        Args:
            start: what is moved: images, or what stands for them.
            decode: makes images of points, differentiable; told which rows of `start` they come from.
            distance: of what was added to the start, to be small.
        """
        start, count = start.detach(), len(start)
        point, best = start.clone().requires_grad_(), start.clone()
        nearest = torch.full((count,), torch.inf, device=start.device)
        short = torch.full_like(nearest, torch.inf)  # how far the best point is from the margin asked for
        c, waited = torch.full_like(nearest, self.weight), torch.zeros_like(nearest)
        searching = torch.ones_like(nearest, dtype=torch.bool)
        for _ in range(self.rounds):
            optimizer = Adam([point], self.learning_rate)
            reached = torch.zeros_like(searching)
            for _ in range(self.steps):
                rows = searching.nonzero()[:, 0]
                if not len(rows):
                    return best
                with torch.enable_grad():
                    here = point[rows]
                    lacking = (self.margin - logit_lead(classifier(decode(here, rows)), target[rows])).clamp_min(0)
                    far = distance(here - start[rows])
                    (point.grad,) = torch.autograd.grad((far + c[rows] * lacking).sum(), point)
                here, lacking, far = here.detach(), lacking.detach(), far.detach()
                better = torch.where(lacking > 0, lacking < short[rows], (short[rows] > 0) | (far < nearest[rows]))
                chosen = rows[better]
                best[chosen], nearest[chosen], short[chosen] = here[better], far[better], lacking[better]
                reached[rows] |= lacking <= 0
                waited[rows] = torch.where(better, 0, waited[rows] + 1)
                searching &= (short > 0) | (nearest > 0) & (waited < self.patience)
                optimizer.step()
            c = torch.where(reached, c, c * RAISE)
        return best


class Optimise:
    """Search in pixels: d = mean |x_cf - x| + smooth * mean |difference of neighbouring changes|.

    Args:
        classifier: f, left untouched.
        smooth: of the change's total variation.
        margin, weight, rounds, steps, learning_rate, patience: of the `Search`; the learning rate in units of [-1, 1].
        verify: undoes changes that the classifier does not need; null = none.

    Raises:
        ConfigError: what `Search` refuses.
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
        patience: int = 60,
        verify: Verify | None = None,
    ) -> None:
        self.classifier, self.smooth, self.verify = classifier.eval().requires_grad_(False), smooth, verify
        self.search = Search(
            margin=margin, weight=weight, rounds=rounds, steps=steps, learning_rate=learning_rate, patience=patience
        )
        self.modules = nn.ModuleDict()
        self.optimizers: Mapping[str, Optimizer] = {}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """None: nothing is trained."""
        yield from ()

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to the nearest image found that f calls `target`; not random."""
        with frozen(self.classifier):
            found = self.search(image, lambda x, _: x.clamp(-1, 1), self.classifier, target, self._distance)
        found = found.clamp(-1, 1)
        if self.verify:
            found = self.verify(image, found, target, self.classifier)
        return Counterfactual(image, found, target)

    def _distance(self, change: Image) -> Float[Tensor, " b"]:
        size = change.abs().flatten(1).mean(1)
        for axis in range(2, change.ndim):
            size = size + self.smooth * change.diff(dim=axis).abs().flatten(1).mean(1)
        return size
