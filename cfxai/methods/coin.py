"""COIN, counterfactual inpainting for weakly supervised segmentation (Shvetsov et al. 2024, arXiv:2404.12832).

A generator removes whatever makes a frozen classifier f call an image abnormal and leaves normal images alone;
|x - x'| then segments the lesion, trained from image labels only. This is the paper's method with our repairs:

- the classifier term is computed on logits, since the published KL has no gradient for confident images;
- the change is a bounded residual that is exactly the identity at zero (in the generator: `add_bounded`);
- the discriminator compares images that f calls normal with counterfactuals of images that f calls abnormal, so that it
  cannot tell them apart by their lesions; the published one sees every image beside every counterfactual;
- steps that train the discriminator alone build no graph through the generator;
- discriminator and classifier are frozen while the generator learns: no weight gradients, spectral-norm vectors still.

`compat=coin2024` selects the published networks, terms and order of events.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cfxai import losses
from cfxai.nn.ema import Average
from cfxai.nn.freeze import frozen
from cfxai.protocols import NORMAL, Counterfactual, Image, Labels, Logits


class CoinLoss:
    """The weights of COIN's terms and the forms they take; a weight of 0 switches its term off, uncomputed.

    Args:
        adv: the discriminator's verdict. kl: the classifier's.
        rec: |x - x'| and the cyclic term. tv: edges of the change.
        minc: a further |x - x'| (the published code adds it with weight 1 unless told otherwise).
        adversarial: the published code trains `bce` where its configuration says `mse`.
        consistency: `logits`, or the published `clamped`.
        cyclic: what G(x') must return: the `counterfactual` itself, or the `image` (published).
        variation: `absolute`, or the published `squared` on the 255 scale.
    """

    def __init__(
        self,
        adv: float = 1.0,
        kl: float = 1.0,
        rec: float = 1.0,
        tv: float = 0.0,
        minc: float = 0.0,
        adversarial: losses.Adversarial = "hinge",
        consistency: Literal["logits", "clamped"] = "logits",
        cyclic: Literal["counterfactual", "image"] = "counterfactual",
        variation: Literal["absolute", "squared"] = "absolute",
    ) -> None:
        self.adv, self.kl, self.rec, self.tv, self.minc = adv, kl, rec, tv, minc
        self.adversarial, self.cyclic = adversarial, cyclic
        self.consistency = {"logits": losses.consistency_logits, "clamped": losses.consistency_clamped}[consistency]
        self.variation = {"absolute": losses.total_variation, "squared": losses.total_variation_squared}[variation]


class Coin:
    """The method: its losses and its `generate`.

    Args:
        classifier: f, frozen.
        generator: (image, condition) -> counterfactual. discriminator: (image, condition) -> logits.
        loss: the terms and their weights.
        steps: length of the training; the learning rate falls to zero over its last `decay` share.
        generator_every: the generator learns on every n-th step, the discriminator on every one (5 in the paper).
        average: decay of the exponential moving average of the generator that `generate` uses; 0 = none.
        discriminate: `normal` = real images that f calls normal against counterfactuals of those it calls abnormal;
            `all` = every image against every counterfactual (published).
        condition: what the generator is told beside the image: `called` = what f calls it (the code's second version),
            `wanted` = what f should call the counterfactual (the paper's version: always normal).
        freeze: the discriminator while the generator learns; published, its spectral-norm vectors move then too.
    """

    name = "coin"

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
        discriminate: Literal["normal", "all"] = "normal",
        condition: Literal["called", "wanted"] = "called",
        freeze: bool = True,
    ) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.generator, self.discriminator, self.loss = generator, discriminator, loss
        self.average = Average(generator, average)
        self.modules = nn.ModuleDict({"generator": generator, "discriminator": discriminator, "average": self.average})
        self.optimizers: Mapping[str, Optimizer] = {
            name: Adam(network.parameters(), learning_rate, (betas[0], betas[1]))
            for name, network in (("generator", generator), ("discriminator", discriminator))
        }
        self.steps, self.learning_rate, self.decay = steps, learning_rate, decay
        self.generator_every, self.discriminate = generator_every, discriminate
        self.condition, self.freeze = condition, freeze

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        self._schedule(step)
        image = batch["image"]
        with torch.no_grad():
            prediction = self.classifier(image).float().softmax(1)
        called = prediction.argmax(1)
        wanted = self._wanted(prediction)
        normal = torch.full_like(called, NORMAL)

        learns = step % self.generator_every == 0
        with nullcontext() if learns else torch.no_grad():
            counterfactual = self.generator(image, called if self.condition == "called" else normal)
        if learns:
            yield "generator", self._generator_terms(image, counterfactual, called, wanted)
            self.average.update(self.generator)

        real, fake, condition = image, counterfactual.detach(), called
        if self.discriminate == "normal":
            real, condition, fake = image[called == NORMAL], called[called == NORMAL], fake[called != NORMAL]
        if self.loss.adv and len(real) and len(fake):
            verdict_real = self.discriminator(real, condition)
            verdict_fake = self.discriminator(fake, normal[: len(fake)])
            terms = losses.adversarial_discriminator(verdict_real, verdict_fake, self.loss.adversarial)
            yield "discriminator", {f"d_{name}": value for name, value in terms.items()}

    def _generator_terms(
        self, image: Image, counterfactual: Image, called: Labels, wanted: Logits
    ) -> dict[str, Tensor]:
        weight, terms, normal = self.loss, {}, torch.full_like(called, NORMAL)
        if weight.adv:
            judged = called != NORMAL if self.discriminate == "normal" else torch.ones_like(called, dtype=torch.bool)
            if judged.any():
                with frozen(self.discriminator) if self.freeze else nullcontext():
                    verdict = self.discriminator(counterfactual[judged], normal[judged])
                terms["adv"] = weight.adv * losses.adversarial_generator(verdict, weight.adversarial)
        if weight.kl:
            terms["kl"] = weight.kl * weight.consistency(self.classifier(counterfactual), wanted)
        if weight.rec:
            again = self.generator(counterfactual, normal)
            origin = counterfactual if weight.cyclic == "counterfactual" else image
            terms["rec"] = weight.rec * (losses.l1(image, counterfactual) + losses.l1(origin, again))
        if weight.minc:
            terms["minc"] = weight.minc * losses.l1(image, counterfactual)
        if weight.tv:
            terms["tv"] = weight.tv * weight.variation(image, counterfactual)
        return terms

    def _wanted(self, prediction: Logits) -> Logits:
        """What f should say of the counterfactual: normal where it says abnormal, unchanged where it says normal."""
        target = F.one_hot(torch.full_like(prediction.argmax(1), NORMAL), prediction.shape[1]).float()
        return torch.where(prediction.argmax(1, keepdim=True) == NORMAL, prediction, target)

    def _schedule(self, step: int) -> None:
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * min(1.0, left)

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to its counterfactual; `target` must be the normal class: COIN goes one way."""
        if (target != NORMAL).any():
            raise ValueError("COIN inpaints towards the normal class (0) only.")
        generator = self.average.module if self.average.decay else self.generator
        with torch.no_grad(), frozen(generator):
            condition = self.classifier(image).argmax(1) if self.condition == "called" else target
            return Counterfactual(image, generator(image, condition).float(), target)
