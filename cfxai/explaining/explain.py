"""explain(opened, …): direction from the prediction, and the counterfactual on the image's own grid."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from cfxai.errors import NumericsError
from cfxai.explaining.classify import classify, most_abnormal, probabilities
from cfxai.explaining.explanation import Explanation
from cfxai.explaining.opening import Opened
from cfxai.explaining.own_grid import to_own_grid, with_change
from cfxai.protocols import NORMAL, Attributor, Explainer, Image, Labels, Logits, goes_both_ways

ONE_WAY = (
    "The image is called normal already, and the method only makes images normal: the counterfactual shows what it"
    " would change all the same."
)


def explain(
    opened: Opened,
    classifier: nn.Module,
    method: Explainer,
    *,
    classes: Sequence[str],
    device: torch.device,
    threshold: float,
    attributors: Mapping[str, Attributor] | None = None,
    batch_size: int = 16,
) -> Explanation:
    """Asks for the normal image where the classifier calls the image abnormal, else for the abnormal one.

    A volume in slices is as abnormal as its most abnormal slice, and all its slices are asked for the same class. Only
    the change is sampled back to the image's grid and added to it, so that detail which the classifier never saw stays.

    Args:
        classes: names of the classes, the first is normal.
        threshold: of |x - x_cf| in [0, 1], for the mask.
        attributors: asked about the abnormal class that the classifier finds most probable.
    """
    before = classify(opened, classifier, classes, device, batch_size)
    worst = list(before.values())
    target = NORMAL if np.argmax(worst) != NORMAL else 1 + int(np.argmax(worst[1:]))
    notes = list(opened.notes)
    if target != NORMAL and not goes_both_ways(method):
        target = NORMAL
        notes.append(ONE_WAY)
    change, after = _change(opened, method, classifier, target, device, batch_size)
    return Explanation(
        opened=opened,
        changed=with_change(opened, change.numpy()),
        before=before,
        after=most_abnormal(after, classes),
        target=classes[target],
        threshold=threshold,
        saliency_stacks={
            name: saliency(opened, attributor, before, device, batch_size)
            for name, attributor in (attributors or {}).items()
        },
        notes=tuple(notes),
    )


def saliency(
    opened: Opened,
    attributor: Attributor,
    before: Mapping[str, float],
    device: torch.device,
    batch_size: int = 16,
) -> Float[np.ndarray, "depth h w"]:
    """What speaks for the abnormal class that is the most probable `before`, >= 0, on the image's own grid.

    It is 0 where the classifier did not look.
    """
    finding = 1 + int(np.argmax(list(before.values())[1:]))
    maps = []
    for batch in torch.from_numpy(opened.images).split(batch_size):
        label = torch.full((len(batch),), finding, device=device)
        maps.append(attributor.attribute(batch.to(device), label).detach().clamp_min(0).float().cpu())
    return to_own_grid(opened, torch.cat(maps).numpy()[None])[0]


def _change(
    opened: Opened, method: Explainer, classifier: nn.Module, target: int, device: torch.device, batch_size: int
) -> tuple[Image, Logits]:
    """x_cf - x of every image, and the classifier's probabilities of x_cf."""
    changes, after = [], []
    for batch in torch.from_numpy(opened.images).split(batch_size):
        label: Labels = torch.full((len(batch),), target, device=device)
        found = method.generate(batch.to(device), label)
        if not found.counterfactual.isfinite().all():
            raise NumericsError(f"{opened.name}: its counterfactual is not finite; the run's weights are damaged.")
        changes.append((found.counterfactual - found.image).float().cpu())
        after.append(probabilities(classifier, found.counterfactual, device, batch_size))
    return torch.cat(changes), torch.cat(after)
