"""Can readers tell counterfactuals from real images? Blinded trials, ratings in a CSV file, and what they amount to."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from jaxtyping import Bool
from scipy.stats import bootstrap
from statsmodels.stats.proportion import proportion_confint

from cfxai.errors import ConfigError, DataError
from cfxai.run.checkpoint import write_atomically
from cfxai.viz import Picture

COLUMNS = ["time", "reader", "image", "shown", "answer", "confidence", "seconds"]
REAL, MADE = "real", "counterfactual"
RESAMPLES = 2000


@dataclass(frozen=True)
class Trial:
    """A picture [h w *rgb] in [0, 1] to be judged; `image` is its name in the run's data, which no reader sees."""

    image: str
    shown: str
    picture: Picture


class ReaderStudy:
    """The trials of a study and the file of its ratings; several readers and processes may rate at once.

    Args:
        trials: each image once. ratings: CSV, made if need be.

    Raises:
        ConfigError: `ratings` is another kind of table.
    """

    def __init__(self, trials: Sequence[Trial], ratings: Path) -> None:
        self.trials, self.ratings = list(trials), ratings
        self._lock = FileLock(ratings.with_name(f".{ratings.name}.lock"))
        ratings.parent.mkdir(parents=True, exist_ok=True)
        self.table()

    def table(self) -> pd.DataFrame:
        """The ratings so far, a row each."""
        if not self.ratings.is_file():
            return pd.DataFrame(columns=COLUMNS)
        try:
            table = pd.read_csv(self.ratings, dtype={"reader": str, "image": str}, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--reader-study {self.ratings}: cannot be read ({error}); name another file.") from error
        if list(table.columns) != COLUMNS:
            raise ConfigError(f"--reader-study {self.ratings}: has other columns than ratings; name another file.")
        return table

    def left(self, reader: str) -> list[Trial]:
        """What the reader has not rated yet, in an order of the reader's own that stays the same."""
        seed = int.from_bytes(hashlib.sha256(reader.encode()).digest()[:8])
        order = random.Random(seed).sample(self.trials, len(self.trials))
        table = self.table()
        rated = set(table["image"][table["reader"] == reader])
        return [trial for trial in order if trial.image not in rated]

    def rate(self, reader: str, trial: Trial, answer: str, confidence: int, seconds: float) -> None:
        """Adds a rating; the file is whole at every moment. A second one of the same image is not counted."""
        if answer not in (REAL, MADE) or not 1 <= confidence <= 5 or not reader.strip():
            raise DataError("A rating needs a reader, an answer, and a confidence from 1 to 5.")
        with self._lock:
            table = self.table()
            if ((table["reader"] == reader) & (table["image"] == trial.image)).any():
                return
            now = datetime.now(UTC).isoformat(timespec="seconds")
            row = [now, reader, trial.image, trial.shown, answer, confidence, round(seconds, 1)]
            table = pd.DataFrame([*table.to_numpy(dtype=object).tolist(), row], columns=COLUMNS)
            write_atomically(self.ratings, table.to_csv(index=False).encode())

    def summary(self) -> pd.DataFrame:
        """Per reader: images, accuracy and Cohen's kappa with the truth; per two readers: kappa of their answers."""
        table = self.table()
        rows = [_of_reader(str(reader), own) for reader, own in table.groupby("reader")]
        answers = table.pivot(index="image", columns="reader", values="answer")
        for a, b in combinations(answers.columns, 2):
            both = answers[[a, b]].dropna()
            if len(both) > 1:
                found, interval = agreement(both[a].to_numpy(), both[b].to_numpy())
                rows.append({"reader": f"{a} and {b}", "images": len(both), "kappa": found, "kappa 95 %": interval})
        return pd.DataFrame(rows, columns=["reader", "images", "accuracy", "accuracy 95 %", "kappa", "kappa 95 %"])


def _of_reader(reader: str, own: pd.DataFrame) -> dict[str, object]:
    right, n = int((own["answer"] == own["shown"]).sum()), len(own)
    low, high = proportion_confint(right, n, alpha=0.05, method="wilson")
    found, interval = agreement(own["answer"].to_numpy(), own["shown"].to_numpy())
    return {
        "reader": reader,
        "images": n,
        "accuracy": f"{right / n:.2f}",
        "accuracy 95 %": f"{low:.2f} to {high:.2f}",
        "kappa": found,
        "kappa 95 %": interval,
    }


def agreement(a: np.ndarray, b: np.ndarray) -> tuple[str, str]:
    """Cohen's kappa of two lists of answers, and its 95 % percentile bootstrap over images; "–" where undefined."""
    made_a, made_b = (np.asarray(answers) == MADE for answers in (a, b))
    found = float(kappa(made_a, made_b))
    if not np.isfinite(found):
        return "–", "–"
    drawn = bootstrap(
        (made_a, made_b), kappa, paired=True, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=0
    ).bootstrap_distribution
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{found:.2f}", f"{low:.2f} to {high:.2f}"


def kappa(a: Bool[np.ndarray, "*many n"], b: Bool[np.ndarray, "*many n"], axis: int = -1) -> np.ndarray:
    """Cohen's kappa of two answers, of many samples at once (scikit-learn's is one by one); NaN where all agree on one.

    (p_o - p_e) / (1 - p_e), with the observed agreement p_o and the one expected by chance p_e (Cohen 1960).
    """
    observed, of_a, of_b = (a == b).mean(axis), a.mean(axis), b.mean(axis)
    chance = of_a * of_b + (1 - of_a) * (1 - of_b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((observed - chance) / (1 - chance))
