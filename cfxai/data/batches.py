"""Batches as a function of seed and step alone, so that an interrupted run continues without any state."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Generator

from cfxai.data.arrays import Dataset
from cfxai.errors import DataError


class Batches:
    """`batches(step)` gives the step's batch, the same whenever it is asked for.

    Every image comes once before any of its class comes again. When balanced, the classes take turns, so that each is
    equally likely whatever its size.

    Args:
        dataset: where images come from.
        batch_size: images per batch.
        seed: of order and augmentation.
        balanced: whether classes take turns.
        strata: the class of each image in that sense; None = its label.
        augment: changes a batch with the given generator; see `cfxai.data.augment`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int,
        balanced: bool = True,
        strata: Int[np.ndarray, " n"] | None = None,
        augment: Callable[[dict[str, Any], Generator], dict[str, Any]] | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.seed, self.augment = dataset, batch_size, seed, augment
        classes = dataset.labels if strata is None else strata
        names = np.unique(classes)
        if balanced and len(names) < 2:
            raise DataError(
                f"All {len(dataset)} images of a split have label {names[0]}, but balanced batches need all classes;"
                " check the labels, data.lesion_labels and data.min_lesion_area."
                if strata is None
                else f"The classifier puts all {len(dataset)} images into one class, but trainer.balanced_by=condition"
                " needs several; check the classifier, or set trainer.balanced_by=label."
            )
        everything = np.arange(len(dataset))
        self._pools = [everything[classes == name] for name in names] if balanced else [everything]
        self._order = lru_cache(maxsize=2 * len(self._pools))(self._order_of)

    def indices(self, step: int) -> list[int]:
        """The items of the step's batch."""
        draws = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [self._draw(*reversed(divmod(draw, len(self._pools)))) for draw in draws]

    def __call__(self, step: int) -> dict[str, Any]:
        batch = self.dataset.batch(self.indices(step))
        if self.augment is None:
            return batch
        seed = int(np.random.SeedSequence((self.seed, step)).generate_state(1, np.uint64)[0])
        return self.augment(batch, torch.Generator().manual_seed(seed))

    def _draw(self, pool: int, count: int) -> int:
        """The `count`-th draw of a class."""
        epoch, place = divmod(count, len(self._pools[pool]))
        return int(self._order(pool, epoch)[place])

    def _order_of(self, pool: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, pool, epoch)).permutation(self._pools[pool])
