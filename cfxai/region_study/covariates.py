"""What else about the patients might explain a difference between groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from cfxai.errors import DataError


def covariates_of(
    images: pd.DataFrame, names: Sequence[str], file: Path | None = None
) -> Float[np.ndarray, "n c"] | None:
    """Columns of the study's own table (`score`, the target's) or of a CSV with a column `id`; classes become 0 / 1.

    Raises:
        DataError: a column or an image that the CSV lacks.
    """
    if not names:
        return None
    table = images
    if file is not None:
        try:
            beside = pd.read_csv(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read as a CSV file.") from error
        if "id" not in beside:
            raise DataError(
                f"{file}: has no column id; it needs one with the images' ids, like {images['id'].iloc[0]}."
            )
        table = images.merge(beside.drop_duplicates("id"), on="id", how="left", suffixes=("", "_beside"))
    if missing := [name for name in names if name not in table]:
        raise DataError(f"covariates: there is no column {missing[0]}; there are {', '.join(map(str, table.columns))}.")
    chosen = pd.get_dummies(table[list(names)], drop_first=True, dummy_na=False)
    return chosen.to_numpy(float)
