"""Counterfactuals by a move in the code of an autoencoder: read z, move it across the boundary, render.

Atad et al. 2024, arXiv:2408.01571. An image is the pair (z, x_T) of a diffusion autoencoder. A linear head on z tells
classes or grades, so that the shortest way to another one is known in closed form (`cfxai.latents`); x_T keeps what z
does not say. Which way to go is told by what the head reads in the image, never by a label. Whether the rendered image
is what was asked for is asked again: it is encoded once more, and shown to the classifier by the evaluation.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.latents.destinations import Scores
from cfxai.latents.latent_space import LatentSpace
from cfxai.methods.correction import corrected
from cfxai.methods.latent_explainer import CLASSIFIED, CLASSIFIER, GRADE, Latent, LatentExplainer, Representation
from cfxai.protocols import NORMAL, Counterfactual, Image, Labels, Verify

STRONGER = 1.25
"""Factor from one strength of a change to the next."""
CLOSE = 0.02
"""Share of the scale from normal to the worst by which what is read in a sweep may differ from what was asked for."""


class LatentShift(LatentExplainer):
    """The method: the autoencoder is trained and the head fitted as in `LatentExplainer`; z moves in closed form.

    Args:
        classifier, autoencoder, space, told, verify: see `LatentExplainer`.
        depth: how far into the class to go: 0 = its boundary, 1 = where its training images typically are, beyond which
            an image of the class itself never goes. Of a multinomial head, logits beyond the boundary.
        direction: of the move; see `LatentSpace`.
        strongest: where head or classifier do not see the target in the rendered image yet, its change is made stronger
            step by step, up to so many times; where that does not help, it stays as it is rendered. 1 = all stay so
            (published).
        corrections: how often an image of a sweep is rendered again, at most, for the head to read in it the level that
            was asked for; 0 = it stays as it is rendered (published).

    Raises:
        ConfigError: a negative depth or number of corrections, or a strength below 1.
    """

    name = "latent_shift"
    both_ways = True
    if_collapsed = "a larger method.depth, more trainer.steps or another autoencoder.patch"

    def __init__(
        self,
        classifier: nn.Module,
        autoencoder: Representation,
        *,
        space: LatentSpace,
        told: str = CLASSIFIER,
        verify: Verify | None = None,
        depth: float = 1.0,
        direction: str = "covariance",
        strongest: float = 6.0,
        corrections: int = 3,
    ) -> None:
        if depth < 0:
            raise ConfigError(f"method.depth: must be 0 or more, got {depth}.")
        if strongest < 1:
            raise ConfigError(f"method.strongest: must be 1 or more, got {strongest}.")
        if corrections < 0:
            raise ConfigError(f"method.corrections: must be 0 or more, got {corrections}.")
        super().__init__(classifier, autoencoder, space=space, told=told, verify=verify)
        self.depth, self.direction, self.corrections = depth, direction, corrections
        steps = math.ceil(math.log(strongest, STRONGER))
        self.strengths = [min(STRONGER**step, strongest) for step in range(steps + 1)]

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to each image's counterfactual for its class in `target`.

        An image that lies as deep in its target already is only rendered again. Where a head is told grades, one that
        the classifier does not see gives way to the next. Extras: the head's readings before and after.
        """
        with torch.no_grad():
            z = self.autoencoder.encode(image)
            noise = self.autoencoder.encode_stochastic(image, z)
            depth = self._depths(image, target)
            moved = self._into(z, target, depth)
            rendered = self._rendered(noise, moved, z)
            unseen = ~self._reads(rendered, target)
            for grade in self.space.grades[2:] if self.told == GRADE else ():
                rows = (unseen & (target > NORMAL) & (target < grade)).nonzero()[:, 0]
                if len(rows):
                    moved[rows] = self._into(z[rows], grade.expand(len(rows)), depth[rows])
                    rendered[rows] = self._rendered(noise[rows], moved[rows], z[rows])
                    unseen[rows] = ~self._reads(rendered[rows], target[rows])
            rendered = _amplified(image, rendered, self._strength(image, rendered, target, unseen))
            rendered = self._verified(image, rendered, target)
            return Counterfactual(image, rendered, target, self._readings(z, moved, rendered))

    def _depths(self, image: Image, target: Labels) -> Float[Tensor, " b"]:
        depth = torch.full((len(image),), self.depth, device=image.device)
        return depth if self.depth <= 1 else depth.masked_fill(self._reads(image, target), 1.0)

    def _into(self, z: Latent, target: Labels, depth: Float[Tensor, " b"]) -> Latent:
        if self.space.head.ordered:
            return self.space.into_class(z, target, depth, self.direction)
        return self.space.to_class(z, target, self.depth, self.direction)

    def _strength(self, image: Image, rendered: Image, target: Labels, todo: Bool[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The least s = 1, 1.25, 1.25^2, ... `strongest` at which x + s (x' - x) is read as the target.

        By head and classifier; where they never agree, by the classifier, which is to be explained; where that never
        does, 1, as a change that saturates would only hide what was found. 1 where there is nothing `todo`.
        """
        strength, called_at = torch.ones(len(image), device=image.device), torch.zeros(len(image), device=image.device)
        todo = todo.clone()
        for tried in self.strengths:
            if not len(rows := todo.nonzero()[:, 0]):
                break
            stronger = _amplified(image[rows], rendered[rows], strength.new_full((len(rows),), tried))
            read, called = self._seen(stronger, target[rows])
            called_at[rows[called & (called_at[rows] == 0)]] = tried
            strength[rows[read & called]] = tried
            todo[rows[read & called]] = False
        return torch.where(todo, called_at.clamp_min(1), strength)

    def _verified(self, image: Image, rendered: Image, target: Labels) -> Image:
        """Without needless changes, unless the head then no longer sees the target."""
        if not self.verify:
            return rendered
        verified = self.verify(image, rendered, target, self.classifier)
        lost = self._reads(rendered, target) & ~self._reads(verified, target)
        return torch.where(lost.view(-1, *[1] * (image.ndim - 1)), rendered, verified)

    def _reads(self, image: Image, target: Labels) -> Bool[Tensor, " b"]:
        read, called = self._seen(image, target)
        return read & called

    def _seen(self, image: Image, target: Labels) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"]]:
        """Whether the target is seen by the head, and by the classifier; by the head alone if told a column."""
        read = self.space.predicted(self.autoencoder.encode(image))
        if self.told not in CLASSIFIED:
            return read == target, read == target
        called = self.classifier(image).argmax(1)
        if self.told == GRADE:  # a worse one is abnormal, too
            read = torch.where(target > NORMAL, read.minimum(target), read)
            return read == target, (called > NORMAL) == (target > NORMAL)
        return read == target, called == target

    def sweep(self, image: Image, levels: Float[Tensor, " n"]) -> Float[Tensor, "n b c *spatial"]:
        """The images at several levels of severity: grades of a head that knows more than two; else from 0, where
        normal training images typically are, to 1, where abnormal ones are.

        Each image is inverted once. What the head reads in a rendering tells what to ask for next (`corrected`).

        Raises:
            ConfigError: a grade that is outside the trained range, or a head of classes without order.
        """
        with torch.no_grad():
            z = self.autoencoder.encode(image)
            noise = self.autoencoder.encode_stochastic(image, z)
            own = self.space.score(z)[:, 0].repeat(len(levels))
            wanted = self._scores_at(levels.to(own)).repeat_interleave(len(image))

            def render(scores: Scores, which: Int[Tensor, " k"]) -> tuple[Image, Scores]:
                origin = z[which % len(image)]
                moved = self.space.to_score(origin, scores, self.direction)
                rendered = self._rendered(noise[which % len(image)], moved, origin)
                return rendered, self.space.score(self.autoencoder.encode(rendered))[:, 0]

            normal, worst = self._scores_at(self.levels(2).to(own))
            close = CLOSE * float(worst - normal)
            found = corrected(render, own, wanted, corrections=self.corrections, close=close)
            return found.unflatten(0, (len(levels), len(image)))

    def levels(self, count: int) -> Float[Tensor, " n"]:
        """`count` levels for `sweep`, evenly spaced from normal to the worst."""
        return torch.linspace(0, float(self.space.grades[-1]), count)

    def severity(self, image: Image) -> Float[Tensor, " b"]:
        """Where on the scale of `levels` each image is; unless that is of grades, perhaps beyond its ends."""
        z = self.autoencoder.encode(image)
        if len(self.space.grades) > 2:
            return self.space.grade(z)
        normal, abnormal = self.space.typical
        return (self.space.score(z)[:, 0] - normal) / (abnormal - normal)

    def _scores_at(self, levels: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What the head would read at each level."""
        if len(self.space.grades) > 2:
            return self.space.score_at(levels)
        normal, abnormal = self.space.typical.to(levels)
        return normal + (abnormal - normal) * levels

    def _rendered(self, noise: Image, z: Latent, origin: Latent) -> Image:
        return self.autoencoder.render(noise, z, origin).clamp(-1, 1)


def _amplified(image: Image, rendered: Image, strength: Float[Tensor, " b"]) -> Image:
    """x + s (x' - x)."""
    return (image + strength.view(-1, *[1] * (image.ndim - 1)) * (rendered - image)).clamp(-1, 1)
