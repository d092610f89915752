"""explain(opened, …): direction from the prediction, counterfactual, and the way back to the image's own grid."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.data.geometry import Axis, resample
from cfxai.data.prepare import GREY
from cfxai.errors import NumericsError
from cfxai.explaining.explanation import Explanation
from cfxai.explaining.opening import Opened
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
    before = _probabilities(classifier, torch.from_numpy(opened.images), device, batch_size)
    worst = before[before[:, NORMAL].argmin()]
    named = _named(worst, classes)
    target = NORMAL if int(worst.argmax()) != NORMAL else 1 + int(worst[1:].argmax())
    notes = list(opened.notes)
    if target != NORMAL and not goes_both_ways(method):
        target = NORMAL
        notes.append(ONE_WAY)
    change, after = _change(opened, method, classifier, target, device, batch_size)
    return Explanation(
        opened=opened,
        changed=_changed(opened, change.numpy()),
        before=named,
        after=_named(after[after[:, NORMAL].argmin()], classes),
        target=classes[target],
        threshold=threshold,
        saliency_stacks={
            name: saliency(opened, attributor, named, device, batch_size)
            for name, attributor in (attributors or {}).items()
        },
        notes=tuple(notes),
    )


def classify(
    opened: Opened, classifier: nn.Module, classes: Sequence[str], device: torch.device, batch_size: int = 16
) -> dict[str, float]:
    """By class, the probability of the image, or of a volume's most abnormal slice."""
    found = _probabilities(classifier, torch.from_numpy(opened.images), device, batch_size)
    return _named(found[found[:, NORMAL].argmin()], classes)


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
    return _to_own_grid(opened, torch.cat(maps).numpy()[None])[0]


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
        after.append(_probabilities(classifier, found.counterfactual, device, batch_size))
    return torch.cat(changes), torch.cat(after)


@torch.no_grad()
def _probabilities(classifier: nn.Module, images: Image, device: torch.device, batch_size: int) -> Logits:
    return torch.cat([classifier(batch.to(device)).float().softmax(1).cpu() for batch in images.split(batch_size)])


def _named(probabilities: Tensor, classes: Sequence[str]) -> dict[str, float]:
    return dict(zip(classes, probabilities.tolist(), strict=True))


def _changed(opened: Opened, change: Float[np.ndarray, "n c *spatial"]) -> Float[np.ndarray, "colours depth h w"]:
    """The image with the change, in native values, inside what its format can hold."""
    if opened.channel is not None:
        change = change[:, opened.channel : opened.channel + 1]
    low, high = opened.limits
    native = _to_own_grid(opened, np.moveaxis(change, 1, 0) * np.float32((high - low) / 2))
    if len(native) == 3 and len(opened.pixels) == 1:
        native = np.tensordot(GREY, native, axes=1)[None]
    changed = opened.pixels + native  # a change of grey moves all colours alike
    return changed if opened.value_range is None else np.clip(changed, *opened.value_range)


def _to_own_grid(opened: Opened, cells: Float[np.ndarray, "c n *spatial"]) -> Float[np.ndarray, "c depth h w"]:
    """Values of cells at the image's pixels: linear between cells, their mean where pixels are larger; 0 outside."""
    pixels = resample(cells, [_inverse(axis) for axis in opened.axes], fill=0.0)
    if len(opened.axes) == 3:
        return pixels[:, 0]
    whole = np.zeros((len(cells), *opened.pixels.shape[1:]), np.float32)
    whole[:, opened.slices] = pixels
    return whole


def _inverse(axis: Axis) -> Axis:
    """The pixels of an image as cells over the cells that sample it."""
    return Axis(axis.size, -axis.start / axis.step, (axis.length - axis.start) / axis.step, axis.length)
