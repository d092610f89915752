"""What is found about one image, at its own size and in its own geometry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped

from cfxai.explaining.opening import Opened
from cfxai.explaining.own_grid import in_file_order

Stack = Shaped[np.ndarray, "depth h w"]


@dataclass(frozen=True)
class Explanation:
    """One image and what it would have looked like for the classifier to call it otherwise.

    Arrays have the shape of the image's file: [row, column], [row, column, 3], or a volume in its file's voxel order.

    Attributes:
        opened: the image. changed: [colours depth h w], the counterfactual in the same order.
        saliency_stacks: by attributor, [depth h w], what speaks for the finding, >= 0, each map on a scale of its own.
        before: by class, the classifier's probability of the image; of a volume in slices, that of its most abnormal
            one. after: the same of the counterfactual, as the classifier sees it.
        target: the class that was asked for.
        threshold: of `mask`.
        notes: what was assumed, and what the method cannot do, in sentences.
    """

    opened: Opened
    changed: Float[np.ndarray, "colours depth h w"]
    before: Mapping[str, float]
    after: Mapping[str, float]
    target: str
    threshold: float
    saliency_stacks: Mapping[str, Stack] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def flipped(self) -> bool:
        """Whether the classifier calls the counterfactual what was asked for, and the image something else."""
        return called(self.after) == self.target != called(self.before)

    @property
    def image(self) -> Float[np.ndarray, "..."]:
        """Native values."""
        return in_file_order(self.opened, self.opened.pixels)

    @cached_property
    def counterfactual(self) -> Float[np.ndarray, "..."]:
        """Native values: the image plus the change; where nothing changes, the same to the last bit."""
        return in_file_order(self.opened, self.changed)

    @cached_property
    def difference(self) -> Float[np.ndarray, "..."]:
        """|x - x_cf| as a share of the run's intensity range, mean of the channels."""
        return self.as_given(self.difference_stack)

    @property
    def mask(self) -> Bool[np.ndarray, "..."]:
        """Where the difference is above the threshold."""
        return self.mask_at(self.threshold)

    def mask_at(self, threshold: float) -> Bool[np.ndarray, "..."]:
        """The mask at a threshold in [0, 1]."""
        return self.difference > threshold

    @property
    def saliency(self) -> dict[str, Float[np.ndarray, "..."]]:
        """By attributor, in the geometry of the image."""
        return {name: self.as_given(stack) for name, stack in self.saliency_stacks.items()}

    @property
    def mask_size(self) -> float | None:
        """mm² of the mask of a picture, mm³ of that of a volume; None where the size of a pixel is unknown."""
        return None if self.opened.pixel_size is None else float(self.mask.sum() * self.opened.pixel_size)

    @cached_property
    def difference_stack(self) -> Float[np.ndarray, "depth h w"]:
        """`difference` as it is looked at."""
        low, high = self.opened.limits
        return np.abs(self.changed - self.opened.pixels).mean(0) / np.float32(high - low)

    def as_given(self, stack: Stack) -> Shaped[np.ndarray, "..."]:
        """A map [depth h w] as looked at, in the order and shape of the image's file."""
        return in_file_order(self.opened, stack[None])

    def save(self, directory: str | Path, name: str | None = None) -> list[Path]:
        """Writes counterfactual, difference, mask and saliency losslessly, and a panel to look at; see `saving`."""
        from cfxai.explaining.saving import save  # it draws, which takes a second to import

        return save(self, Path(directory), name)


def called(probabilities: Mapping[str, float]) -> str:
    """The most probable class."""
    return max(probabilities, key=lambda name: probabilities[name])
