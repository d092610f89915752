"""What the classifier says of a user's image: of a volume in slices, what it says of the most abnormal one."""

from collections.abc import Sequence

import torch
from torch import nn

from cfxai.explaining.opening import Opened
from cfxai.protocols import NORMAL, Image, Logits


def classify(
    opened: Opened, classifier: nn.Module, classes: Sequence[str], device: torch.device, batch_size: int = 16
) -> dict[str, float]:
    """By class, the probability of the image, or of a volume's most abnormal slice."""
    return most_abnormal(probabilities(classifier, torch.from_numpy(opened.images), device, batch_size), classes)


@torch.no_grad()
def probabilities(classifier: nn.Module, images: Image, device: torch.device, batch_size: int) -> Logits:
    """The classifier's softmax, on the CPU."""
    return torch.cat([classifier(batch.to(device)).float().softmax(1).cpu() for batch in images.split(batch_size)])


def most_abnormal(found: Logits, classes: Sequence[str]) -> dict[str, float]:
    """By class, the probabilities of the image that is least probably normal."""
    return dict(zip(classes, found[found[:, NORMAL].argmin()].tolist(), strict=True))
