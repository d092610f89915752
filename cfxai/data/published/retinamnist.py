"""RetinaMNIST: fundus photographs with grades of diabetic retinopathy."""

from pathlib import Path
from typing import Any

import numpy as np

from cfxai.data.published.published_set import PublishedSet
from cfxai.data.reference import Stacks

SPLITS = ("train", "val", "test")


class RetinaMnist(PublishedSet):
    """RetinaMNIST of MedMNIST v2 (Yang 2023, Sci Data 10:41): 1080, 120 and 400 colour pictures, grades 0 to 4.

    The stack holds the arrays `train_images` [n, h, w, 3] and `train_labels` [n, 1], and the same for `val` and `test`;
    the pictures stay in it. MedMNIST does not say whose eye a picture shows.

    Args:
        folder: where the stack lies.
        stack: its file name.
    """

    name = "retinamnist"
    download = "download retinamnist_128.npz from MedMNIST (Zenodo record 10519652) and put it there"

    def __init__(self, folder: str | Path, stack: str = "retinamnist_128.npz") -> None:
        super().__init__(folder, [stack])
        self.stack = stack

    def cases(self) -> list[str]:
        """The official splits."""
        return list(SPLITS)

    def rows(self, case: str, output: Path) -> list[dict[str, Any]]:
        """A row for each picture."""
        path = (self.folder / self.stack).resolve()
        grades = np.ravel(Stacks().array(path, f"{case}_labels"))
        return [
            {"image": f"{path}::{case}_images::{number}", "grade": int(grade), "split": case}
            for number, grade in enumerate(grades)
        ]
