"""sweep(opened, …): one image at several levels of severity, at its own size and in its own geometry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from cfxai.errors import ConfigError, NumericsError
from cfxai.explaining.classify import classify, most_abnormal, probabilities
from cfxai.explaining.opening import Opened
from cfxai.explaining.own_grid import in_file_order, with_change
from cfxai.protocols import Graded
from cfxai.sweeps import usual_levels


@dataclass(frozen=True)
class Sweep:
    """One image as the method would show it at each level.

    Attributes:
        opened: the image.
        levels: of severity, on the method's scale.
        changes: [levels n c *spatial], what each of them changes of the image's cells, in [-1, 1].
        before: by class, the classifier's probability of the image; of a volume in slices, that of its most abnormal
            one. probabilities: the same of the image at each level, as the classifier sees it.
    """

    opened: Opened
    levels: tuple[float, ...]
    changes: Float[np.ndarray, "levels n c *spatial"]
    before: Mapping[str, float]
    probabilities: tuple[Mapping[str, float], ...]

    @cached_property
    def images(self) -> list[Float[np.ndarray, "..."]]:
        """At each level, in native values and in the shape of the image's file: the image plus the change."""
        return [in_file_order(self.opened, self.stack(position)) for position in range(len(self.levels))]

    def stack(self, position: int) -> Float[np.ndarray, "colours depth h w"]:
        """At one of the levels, by its position, native values the way they are looked at."""
        return with_change(self.opened, self.changes[position])

    def save(self, directory: str | Path, name: str | None = None) -> list[Path]:
        """Writes NAME-sweep.png, all levels side by side, and NAME-sweep.gif, that goes through them; see `saving`."""
        from cfxai.explaining.saving import save_sweep  # it draws, which takes a second to import

        return save_sweep(self, Path(directory), name)


def sweep(
    opened: Opened,
    classifier: nn.Module,
    method: Graded,
    levels: Sequence[float] | None,
    *,
    classes: Sequence[str],
    device: torch.device,
    batch_size: int = 16,
) -> Sweep:
    """Renders the image at each level; all slices of a volume in slices at the same one.

    Args:
        levels: None = some from normal to the worst.
        classes: names of the classes, the first is normal.
        batch_size: rendered images at a time.

    Raises:
        ConfigError: no levels, one that the method does not know, or a method without such a scale.
    """
    asked = usual_levels(method) if levels is None else torch.tensor(levels, dtype=torch.float32)
    if not len(asked):
        raise ConfigError("levels: name at least one, or leave them out.")
    changes, after = [], []
    for batch in torch.from_numpy(opened.images).split(max(1, batch_size // len(asked))):
        rendered = method.sweep(batch.to(device), asked.to(device)).cpu()
        if not rendered.isfinite().all():
            raise NumericsError(f"{opened.name}: its sweep is not finite; the run's weights are damaged.")
        changes.append((rendered - batch).float())
        after.append(torch.stack([probabilities(classifier, one, device, batch_size) for one in rendered]))
    return Sweep(
        opened=opened,
        levels=tuple(round(level, 6) for level in asked.tolist()),
        changes=torch.cat(changes, 1).numpy(),
        before=classify(opened, classifier, classes, device, batch_size),
        probabilities=tuple(most_abnormal(found, classes) for found in torch.cat(after, 1)),
    )


def severity(opened: Opened, method: Graded, device: torch.device, batch_size: int = 16) -> float:
    """Where on the method's scale the image is, or the most severe slice of a volume.

    Raises:
        ConfigError: the method has no such scale.
    """
    batches = torch.from_numpy(opened.images).split(batch_size)
    with torch.no_grad():
        return max(float(method.severity(batch.to(device)).max()) for batch in batches)
