"""Training of the classifier that is to be explained: cross-entropy on image labels."""

from collections.abc import Iterator, Mapping
from math import cos, pi

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cfxai.nn.ema import Average


class Classification:
    """AdamW on the cross-entropy, the learning rate rising over 5 % of the steps and falling to zero by a cosine.

    The weights are averaged; the average is what is explained later.

    Args:
        classifier: [b c *spatial] in [-1, 1] -> logits [b k].
        steps: length of the training.
        smoothing: label smoothing; a little keeps logits in a range where explanations have gradients.
    """

    name = "classification"

    def __init__(
        self,
        classifier: nn.Module,
        *,
        steps: int,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        smoothing: float = 0.02,
    ) -> None:
        classifier.requires_grad_(True)  # the method that will explain it may have frozen it
        self.classifier, self.steps, self.learning_rate, self.smoothing = classifier, steps, learning_rate, smoothing
        self.average = Average(classifier, 0.99)
        self.modules = nn.ModuleDict({"classifier": classifier, "average": self.average})
        optimizer = AdamW(classifier.parameters(), learning_rate, weight_decay=weight_decay)
        self.optimizers: Mapping[str, Optimizer] = {"classifier": optimizer}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        self._schedule(step)
        self.classifier.train()
        logits = self.classifier(batch["image"]).float()
        yield "classifier", {"ce": F.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing)}
        self.average.update(self.classifier)

    def _schedule(self, step: int) -> None:
        warm = min(1.0, (step + 1) / max(1, self.steps // 20))
        for group in self.optimizers["classifier"].param_groups:
            group["lr"] = self.learning_rate * warm * (1 + cos(pi * step / self.steps)) / 2
