"""COIN, counterfactual inpainting for weakly supervised segmentation (Shvetsov et al. 2024, arXiv:2404.12832).

A generator removes whatever makes a frozen classifier f call an image abnormal and leaves normal images alone;
|x - x'| then segments the lesion, trained from image labels only. This is the paper's method with our repairs:

- the classifier term is computed on logits, since the published KL has no gradient for confident images;
- the change is a bounded residual that is exactly the identity at zero (in the generator: `add_bounded`);
- the discriminator compares images that f calls normal with counterfactuals of images that f calls abnormal, so that it
  cannot tell them apart by their lesions; the published one sees every image beside every counterfactual;
- steps that train the discriminator alone build no graph through the generator;
- discriminator and classifier are frozen while the generator learns: no weight gradients, spectral-norm vectors still.

`compat=coin2024` selects the published networks, terms and order of events; `compat=singla` the method that COIN
builds on, progressive exaggeration (Singla et al. 2021, arXiv:2101.04230), which also turns normal images abnormal.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cfxai import losses
from cfxai.errors import ConfigError
from cfxai.methods.coin_loss import CoinLoss
from cfxai.nn.adam import AdamWithoutMomentum
from cfxai.nn.eager import eager
from cfxai.nn.ema import Average
from cfxai.nn.features import penultimate
from cfxai.nn.freeze import frozen
from cfxai.nn.patches import patchwise
from cfxai.protocols import NORMAL, Counterfactual, Image, Labels, Logits, Mask, Verify


class Conditional(Protocol):
    """What Singla's terms need of a generator: several counterfactuals of an image that is encoded once."""

    def under(self, image: Image, conditions: Sequence[Labels]) -> list[Image]: ...


class Several(Protocol):
    """What a discriminator may offer: the logits of several batches, as of one call after another, for less."""

    def each(self, batches: Sequence[tuple[Image, Labels]]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Task:
    """What f says of a batch and what it should say of the counterfactuals.

    Attributes:
        level: the bin of each image's abnormal probability, 0 = normal. goal: that of the wanted probability.
        wanted: the wanted probabilities of all classes.
        organ: where CARL looks more closely.
    """

    image: Image
    level: Labels
    goal: Labels
    wanted: Logits
    organ: Mask | None = None


class Coin:
    """The method: its losses and its `generate`.

    Args:
        classifier: f, frozen.
        generator: (image, condition) -> counterfactual. discriminator: (image, condition) -> logits.
        loss: the terms and their weights.
        steps: length of the training; the learning rate falls to zero over its last `decay` share.
        generator_every: the generator learns on every n-th step, the discriminator on every one (5 in the paper).
        average: decay of the exponential moving average of the generator that `generate` uses; 0 = none.
        direction: `normal`: images that f calls abnormal become normal and the others stay (COIN); `both`: each is
            asked for the probability 1 - f(x) (Singla), with two classes.
        bins: of the abnormal probability; which bin an image is in, or shall be in, is the networks' condition. Only
            the first counts as normal.
        discriminate: `normal` = real images that f calls normal against counterfactuals of those it calls abnormal;
            `all` = every image against every counterfactual (published).
        condition: what the generator is told beside the image: `called` = the bin of f(x) (the code's second version),
            `wanted` = the bin that the counterfactual shall be in (the paper's version).
        freeze: the discriminator while the generator learns; published, its spectral-norm vectors move then too.
        reference: what the counterfactual is compared with: the `image`, or its `reconstruction`, the generator's
            output when nothing shall change, which keeps the generator's blur out of the difference (Singla).
        verify: undoes changes that the classifier does not need; null = none.
        patch: sides in pixels of the patches in which `generate` works on images too large for one pass; null = whole.
        overlap: of neighbouring patches, as a share of their side.

    Raises:
        ConfigError: settings that contradict each other.
    """

    name = "coin"
    if_collapsed = "a larger loss.kl or a smaller loss.rec"

    def __init__(
        self,
        classifier: nn.Module,
        generator: nn.Module,
        *,
        discriminator: nn.Module,
        loss: CoinLoss,
        steps: int,
        learning_rate: float = 2e-4,
        betas: Sequence[float] = (0.0, 0.999),
        decay: float = 0.0,
        generator_every: int = 5,
        average: float = 0.999,
        direction: Literal["normal", "both"] = "normal",
        bins: int = 2,
        discriminate: Literal["normal", "all"] = "normal",
        condition: Literal["called", "wanted"] = "called",
        freeze: bool = True,
        reference: Literal["image", "reconstruction"] = "image",
        verify: Verify | None = None,
        patch: int | Sequence[int] | None = None,
        overlap: float = 0.25,
    ) -> None:
        if direction == "both" and discriminate == "normal":
            raise ConfigError("method.discriminate: must be all when method.direction is both.")
        if loss.reconstruct == "self" and not hasattr(generator, "under"):
            raise ConfigError(
                "loss.reconstruct: self needs a generator that listens to its condition, as coin2024 does."
            )
        if bins < 2:
            raise ConfigError(f"method.bins: must be 2 or more, got {bins}.")
        self.classifier = classifier.eval().requires_grad_(False)
        self.generator, self.discriminator, self.loss = generator, discriminator, loss
        self.average = Average(generator, average) if average else None
        self.modules = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
        if self.average:
            self.modules["average"] = self.average
        self.optimizers: Mapping[str, Optimizer] = {
            name: _adam(network, learning_rate, betas)
            for name, network in (("generator", generator), ("discriminator", discriminator))
        }
        self.steps, self.learning_rate, self.decay = steps, learning_rate, decay
        self.generator_every, self.discriminate, self.freeze = generator_every, discriminate, freeze
        self.direction, self.bins, self.condition = direction, bins, condition
        self.both_ways = direction == "both"
        self.reference, self.verify = reference, verify
        self.patch, self.overlap = patch, overlap

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        self._schedule(step)
        task = self._task(batch["image"], batch.get("organ"))
        learns = step % self.generator_every == 0
        with nullcontext() if learns else torch.no_grad():
            if learns and self.loss.rec and self.loss.reconstruct == "self":
                generator = cast(Conditional, self.generator)
                counterfactual, kept = generator.under(task.image, [self._told(task), task.level])
            else:
                counterfactual, kept = self.generator(task.image, self._told(task)), None
        if learns:
            yield "generator", self._generator_terms(task, counterfactual, kept)
            self.optimizers["generator"].zero_grad()  # room for the discriminator's gradients
            if self.average:
                self.average.update(self.generator)
        if self.loss.adv and (terms := self._discriminator_terms(task, counterfactual.detach())):
            yield "discriminator", terms
            self.optimizers["discriminator"].zero_grad()

    def _generator_terms(self, task: Task, counterfactual: Image, kept: Image | None) -> dict[str, Tensor]:
        weight, terms, image = self.loss, {}, task.image
        real, fake = self._compared(task)
        relativistic = weight.adversarial == "relativistic"
        if weight.adv and len(task.goal[fake]) and (len(task.level[real]) or not relativistic):

            def adversarial(changed: Image) -> Tensor:
                verdict = self.discriminator(changed[fake], task.goal[fake])
                on_real = self.discriminator(image[real], task.level[real]) if relativistic else None
                return losses.adversarial_generator(verdict, weight.adversarial, on_real)

            with frozen(self.discriminator, still=self.freeze):
                terms["adv"] = weight.adv * eager(adversarial, counterfactual)
        if weight.kl:

            def consistency(changed: Image) -> Tensor:
                return weight.consistency(self.classifier(changed), task.wanted)

            terms["kl"] = weight.kl * eager(consistency, counterfactual)
        if weight.rec:
            terms["rec"] = weight.rec * self._reconstruction(task, counterfactual, kept)
        if weight.minc:
            terms["minc"] = weight.minc * losses.l1(image, counterfactual)
        if weight.tv:
            terms["tv"] = weight.tv * weight.variation(image, counterfactual)
        if weight.features and len(task.level[real]) and len(task.goal[fake]):
            features = penultimate(self.classifier)
            matched = losses.feature_matching(features(counterfactual[fake]), features(image[real]))
            terms["features"] = weight.features * matched
        return terms

    def _reconstruction(self, task: Task, counterfactual: Image, kept: Image | None) -> Tensor:
        """COIN's |x - x'| and cyclic term, or Singla's: told to keep the class (`kept`), or to go back, G returns x."""
        weight, image = self.loss, task.image
        if kept is None:
            change = self._distance(image, counterfactual, task)
            if weight.cyclic == "none":
                return change
            origin = counterfactual if weight.cyclic == "counterfactual" else image
            again = self.generator(counterfactual, torch.full_like(task.level, NORMAL))
            return change + self._distance(origin, again, task)
        back = self.generator(counterfactual, task.level)
        return self._distance(image, kept, task) + self._distance(image, back, task)

    def _distance(self, a: Image, b: Image, task: Task) -> Tensor:
        if self.loss.distance == "l1":
            return losses.l1(a, b)
        if task.organ is None:
            raise ConfigError("loss.distance: carl needs to know where the organ is; set data.organ_masks=true.")
        return losses.carl(a, b, task.organ)

    def _discriminator_terms(self, task: Task, counterfactual: Image) -> dict[str, Tensor]:
        real, fake = self._compared(task)
        images, changed = task.image[real], counterfactual[fake]
        if not (len(images) and len(changed)):
            return {}
        if self.loss.penalty:
            images, changed = images.detach().requires_grad_(), changed.detach().requires_grad_()
        batches = [(images, task.level[real]), (changed, task.goal[fake])]
        if hasattr(self.discriminator, "each"):
            on_real, on_fake = cast(Several, self.discriminator).each(batches)
        else:
            on_real, on_fake = (self.discriminator(*batch) for batch in batches)
        terms = losses.adversarial_discriminator(on_real, on_fake, self.loss.adversarial)
        if self.loss.penalty:
            terms["r1"] = self.loss.penalty / 2 * losses.gradient_penalty(on_real, images)
            terms["r2"] = self.loss.penalty / 2 * losses.gradient_penalty(on_fake, changed)
        return {f"d_{name}": value for name, value in terms.items()}

    def _task(self, image: Image, organ: Mask | None = None) -> Task:
        called = self._called(image)
        if self.direction == "both" and called.shape[1] != 2:
            raise ConfigError(f"method.direction: both needs a classifier of 2 classes, not {called.shape[1]}.")
        wanted = called.flip(1) if self.direction == "both" else self._healed(called)
        return Task(image, self._bin(called), self._bin(wanted), wanted, organ)

    @torch.no_grad()
    def _called(self, image: Image) -> Logits:
        return self.classifier(image).float().softmax(1)

    def condition_of(self, image: Image) -> Labels:
        """The bin that f puts each image in; training batches can be balanced by it."""
        return self._bin(self._called(image))

    def _healed(self, called: Logits) -> Logits:
        """Normal for certain where f does not say normal already."""
        certain = F.one_hot(torch.full_like(called.argmax(1), NORMAL), called.shape[1]).to(called)
        return torch.where(self._bin(called)[:, None] == 0, called, certain)

    def _bin(self, probability: Logits) -> Labels:
        return ((1 - probability[:, NORMAL]) * self.bins).long().clamp(0, self.bins - 1)

    def _told(self, task: Task) -> Labels:
        return task.level if self.condition == "called" else task.goal

    def _compared(self, task: Task) -> tuple[Tensor, Tensor] | tuple[slice, slice]:
        """Which images are real, and which counterfactuals fake, to the discriminator."""
        if self.discriminate == "all":
            return slice(None), slice(None)
        return task.level == 0, task.level != 0

    def _schedule(self, step: int) -> None:
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * min(1.0, left)

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to its counterfactual for the class `target`.

        Raises:
            ValueError: `target` is not the normal class, and the method was trained to go that one way.
        """
        if self.direction == "normal" and (target != NORMAL).any():
            raise ValueError(
                "COIN inpaints towards the normal class (0) only; Singla's method.direction=both goes both ways."
            )
        generator = self.average.module if self.average else self.generator
        with torch.no_grad(), frozen(generator):
            task = self._task(image)
            if self.direction == "both":  # what is of the wanted class already shall stay as it is
                stays = (task.level >= self.bins / 2) == (target != NORMAL)
                task = replace(task, goal=torch.where(stays, task.level, task.goal))
            counterfactual = patchwise(generator, image, self._told(task), self.patch, self.overlap).float()
            if self.verify:
                counterfactual = self.verify(image, counterfactual, target, self.classifier)
            if self.reference == "reconstruction":
                image = patchwise(generator, image, task.level, self.patch, self.overlap).float()
            return Counterfactual(image, counterfactual, target)


def _adam(network: nn.Module, learning_rate: float, betas: Sequence[float]) -> Optimizer:
    first, second = betas
    if first:
        return Adam(network.parameters(), learning_rate, (first, second))
    return AdamWithoutMomentum(network.parameters(), learning_rate, second)
