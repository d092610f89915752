"""Training of the classifier that is to be explained: cross-entropy on image labels."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cfxai.methods.learning_rate import LearningRate
from cfxai.nn.ema import Average
from cfxai.protocols import Labels, Logits


class Classification:
    """AdamW on the cross-entropy. The weights are averaged; the average is what is explained later.

    Args:
        classifier: [b c *spatial] in [-1, 1] -> logits [b k].
        steps: length of the training.
        learning_rate: its peak.
        schedule: how it changes, see `LearningRate`.
        smoothing: label smoothing; a little keeps logits in a range where explanations have gradients.
        class_weights: [k], how much an image of each class counts: the loss is the mean of w_y CE(x, y) over images,
            so that parts of a batch add up to the whole.
        accumulate: equal parts that a batch passes the network in, to need less memory; the gradient is that of the
            whole batch. BatchNorm sees each part by itself.
        head: the layer that learns alone; the rest is frozen: in evaluation mode, without gradients. None = all learn.
        unfreeze_at: from this share of the steps on, all learn; None = never.
    """

    name = "classification"

    def __init__(
        self,
        classifier: nn.Module,
        *,
        steps: int,
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        weight_decay: float = 1e-2,
        smoothing: float = 0.02,
        class_weights: Sequence[float] | None = None,
        accumulate: int = 1,
        head: nn.Module | None = None,
        unfreeze_at: float | None = None,
    ) -> None:
        classifier.requires_grad_(True)  # the method that will explain it may have frozen it
        self.classifier, self.smoothing, self.accumulate, self.head = classifier, smoothing, accumulate, head
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float)
        self.frozen_steps = 0.0 if head is None else steps * (1.0 if unfreeze_at is None else unfreeze_at)
        self.average = Average(classifier, 0.99)
        self.rate = LearningRate(schedule, learning_rate, steps)
        self.modules = nn.ModuleDict({"classifier": classifier, "average": self.average, "rate": self.rate})
        optimizer = AdamW(classifier.parameters(), learning_rate, weight_decay=weight_decay)
        self.optimizers: Mapping[str, Optimizer] = {"classifier": optimizer}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for group in self.optimizers["classifier"].param_groups:
            group["lr"] = self.rate(step)
        self._choose_what_learns(step)
        parts = (batch[name].chunk(self.accumulate) for name in ("image", "label"))
        for image, label in zip(*parts, strict=True):
            logits = self.classifier(image).float()
            yield "classifier", {"ce": self._cross_entropy(logits, label)}
        self.average.update(self.classifier)

    def _choose_what_learns(self, step: int) -> None:
        if self.head is None or step >= self.frozen_steps:
            self.classifier.requires_grad_(True).train()
        else:
            self.classifier.requires_grad_(False).eval()
            self.head.requires_grad_(True).train()

    def _cross_entropy(self, logits: Logits, label: Labels) -> Tensor:
        if self.class_weights is None:
            return F.cross_entropy(logits, label, label_smoothing=self.smoothing)
        each = F.cross_entropy(logits, label, label_smoothing=self.smoothing, reduction="none")
        return (self.class_weights.to(label.device)[label] * each).mean()
