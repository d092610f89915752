"""A head in its latent space: what a latent says, and the shortest way to where it says something else."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor, nn

from cfxai.errors import ConfigError, DataError
from cfxai.latents.confounders import confounder_directions
from cfxai.latents.destinations import (
    Scores,
    beyond_boundary,
    deep_in_class,
    inside_class,
    level_of,
    of_grade,
    of_probability,
)
from cfxai.latents.heads import KINDS, Kind, fit_head
from cfxai.latents.linear_head import Latents, LinearHead, outstretched
from cfxai.latents.moves import holding, least_move, least_move_beyond, named_metric, square_root
from cfxai.latents.statistics import statistics
from cfxai.protocols import Labels


class LatentSpace(nn.Module):
    """One head and the latents' statistics, all buffers, so that it is saved and moved like any module.

    Moves are the shortest under a metric, `direction`: "covariance", Mahalanobis' with the training latents' shrunk
    covariance, which keeps a latent among those that images have; "weight", Euclid's, straight along w; "published",
    along sd ⊙ w as in Atad et al. 2024, arXiv:2408.01571. They are computed in double precision. Scores, probabilities
    and grades can be differentiated with respect to z.

    Args:
        dimension: d, of z.
        classes: labels are 0, 1 … classes - 1, 0 = normal.
        kind: of head; see `cfxai.latents.heads`. Logistic, svm and lda tell 0 from the rest, whatever the grade.
        hold: names of the covariates that moves leave alone: confounders, or other findings.

    Raises:
        ConfigError: no such kind, sizes that it cannot have, or `hold` is no list.
    """

    mean: Tensor
    sd: Tensor
    covariance: Tensor
    weight: Tensor
    bias: Tensor
    grades: Tensor
    thresholds: Tensor
    centres: Tensor
    typical: Tensor
    confounders: Tensor
    model: Tensor
    kind_number: Tensor

    def __init__(self, dimension: int, classes: int = 2, *, kind: str = "ordinal", hold: Sequence[str] = ()) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"kind: choose one of {', '.join(KINDS)}, not '{kind}'.")
        if classes < (least := 3 if kind == "multinomial" else 2):
            raise ConfigError(f"classes: a head of kind {kind} has {least} or more, got {classes}.")
        if isinstance(hold, str):
            raise ConfigError(f"hold: must be a list of names, such as [{hold}].")
        self.classes, self.hold = classes, tuple(hold)
        known = classes if kind in ("ordinal", "ols_distance", "multinomial") else 2
        rows, ordered = (known, 0) if kind == "multinomial" else (1, known)
        sizes = {
            "mean": (dimension,), "sd": (dimension,), "covariance": (dimension, dimension),
            "weight": (rows, dimension), "bias": (rows,), "thresholds": (max(ordered - 1, 0),), "centres": (ordered,),
            "typical": (ordered,), "confounders": (dimension if hold else 0, dimension),
        }  # fmt: skip
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("grades", torch.arange(known))
        self.register_buffer("kind_number", torch.tensor(KINDS.index(kind), dtype=torch.uint8))
        self.register_buffer("model", torch.zeros(32, dtype=torch.uint8))  # sha256 of the model that made z

    @property
    def kind(self) -> Kind:
        return KINDS[int(self.kind_number)]

    def fit(
        self,
        z: Num[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        groups: Sequence[str] | Shaped[np.ndarray, " n"] | None = None,
        covariates: Mapping[str, Shaped[np.ndarray, " n"]] | None = None,
        *,
        digest: str | None = None,
        seed: int = 0,
    ) -> "LatentSpace":
        """Fits head, statistics and confounders' directions to training latents.

        Args:
            groups: patients, who stay within a fold of the cross-validation.
            covariates: numbers or names for each of `hold`; see `confounder_directions`.
            digest: sha256 of the model that made z, in hexadecimal; see `require_model`.

        Raises:
            DataError: a latent that is not finite, a class without latents or a label that is no class, or what
                `fit_head` and `confounder_directions` refuse.
            ConfigError: other covariates than those that are to be held.
        """
        latents, y = z.detach().cpu().double().numpy(), labels.cpu().numpy()
        if not np.isfinite(latents).all():
            raise DataError(f"Latents of {(~np.isfinite(latents).all(1)).sum()} training images are not finite.")
        if (found := np.unique(y).tolist()) != list(range(self.classes)):
            raise DataError(
                f"Training latents have the labels {found}, but there are {self.classes} classes from 0 on."
            )
        held = covariates or {}
        if set(held) != set(self.hold):
            raise ConfigError(f"hold: is {list(self.hold)}, but the covariates given are {list(held)}.")
        patients = None if groups is None else np.asarray(groups)
        found_statistics, head = statistics(latents), fit_head(self.kind, latents, y, patients, seed=seed).head
        values = {name: getattr(found_statistics, name) for name in ("mean", "sd", "covariance")}
        values |= {name: getattr(head, name) for name in ("weight", "bias", "grades", "thresholds", "centres")}
        if head.ordered:
            score, level = head.score(torch.from_numpy(latents))[:, 0], np.minimum(y, len(head.grades) - 1)
            values["typical"] = [score[level == one].median() for one in range(len(head.grades))]
            if self.kind == "ordinal":
                values["centres"] = outstretched(head.centres, values["typical"])
        if held:
            found_directions = confounder_directions(latents, held, patients, seed=seed)
            values["confounders"] = np.zeros(self.confounders.shape)  # there are d or fewer, the rest stays zero
            values["confounders"][: len(found_directions)] = found_directions
        if digest is not None:
            values["model"] = list(bytes.fromhex(digest))
        for name, value in values.items():
            getattr(self, name).copy_(torch.as_tensor(value))
        return self

    def require_model(self, digest: str) -> None:
        """
        Raises:
            ConfigError: it was fitted to latents of another model than `digest`'s.
        """
        if (own := bytes(self.model.tolist()).hex()) != digest:
            raise ConfigError(f"This latent space is of another model ({own[:8]}…, not {digest[:8]}…); fit it again.")

    @property
    def head(self) -> LinearHead:
        """
        Raises:
            ConfigError: not fitted.
        """
        if not self.sd.any():
            raise ConfigError("This latent space is not fitted; train the run to its end, or call fit.")
        return LinearHead(self.mean, self.weight, self.bias, self.grades, self.thresholds, self.centres)

    def score(self, z: Latents) -> Float[Tensor, "b k"]:
        """Logits: one column, or one for each class if `kind` is multinomial."""
        return self.head.score(z)

    def probability(self, z: Latents) -> Float[Tensor, "b g"]:
        """Of each label in `grades`."""
        return self.head.probability(z)

    def predicted(self, z: Latents) -> Labels:
        """The median grade, or the most probable class."""
        return self.head.predicted(z)

    def grade(self, z: Latents) -> Scores:
        """Between the grades, too; rounded it is `predicted`.

        Raises:
            ConfigError: a multinomial head, whose classes have no order.
        """
        return self._ordered("grade").grade(z)

    def score_at(self, grade: Scores) -> Scores:
        """A grade's centre, or between grades where `grade` reads so.

        Raises:
            ConfigError: a grade outside the trained range, or a multinomial head.
        """
        return of_grade(self._ordered("grade"), grade)

    def to_score(self, z: Latents, score: Scores, direction: str = "covariance", *, hold: bool = True) -> Latents:
        """The nearest latent with this score; with `hold`, and its confounders as they are."""
        return move_together(z, [(self, score)], direction, hold=hold)

    def to_boundary(
        self, z: Latents, margin: float = 0.0, direction: str = "covariance", *, hold: bool = True
    ) -> Latents:
        """Across the boundary between normal and any finding, to `margin` (in logits) beyond it; 0 is on it.

        Which way is told by what the head predicts, not by a label.
        """
        wanted = beyond_boundary(self._ordered("boundary"), self.score(z)[:, 0], margin)
        return self.to_score(z, wanted, direction, hold=hold)

    def to_probability(
        self, z: Latents, probability: Scores, direction: str = "covariance", *, hold: bool = True
    ) -> Latents:
        """To where any finding, a label above 0, has this probability.

        Raises:
            ConfigError: not between 0 and 1.
        """
        return self.to_score(z, of_probability(self._ordered("probability"), probability), direction, hold=hold)

    def to_grade(self, z: Latents, grade: Scores, direction: str = "covariance", *, hold: bool = True) -> Latents:
        """To `score_at` of it; raises what that raises."""
        return self.to_score(z, self.score_at(grade), direction, hold=hold)

    def to_class(
        self, z: Latents, target: Labels, margin: float = 0.0, direction: str = "covariance", *, hold: bool = True
    ) -> Latents:
        """The nearest latent that the head calls `target`, by `margin` (in logits); one that is there already stays.

        Of ordered grades it lies `margin` inside the target's thresholds, at most half-way in; otherwise the target's
        logit is `margin` above every other.

        Raises:
            ConfigError: a class that the head never saw.
        """
        head, level = self.head, level_of(self.head, target)
        if head.ordered:
            return self.to_score(z, inside_class(head, self.score(z)[:, 0], level, margin), direction, hold=hold)
        metric, latents, weight = self._metric(direction, hold=hold), _double(z), _double(self.weight)
        score, moved = self._double_score(latents), latents.copy()
        for t in level.unique().tolist():
            rows, others = (level == t).cpu().numpy(), np.arange(len(weight)) != t
            short = score[rows][:, others] - score[rows][:, [t]] + margin
            moved[rows] += least_move_beyond(short, weight[t] - weight[others], metric)
        return torch.from_numpy(moved).to(z)

    def into_class(
        self,
        z: Latents,
        target: Labels,
        depth: float | Scores = 1.0,
        direction: str = "covariance",
        *,
        hold: bool = True,
    ) -> Latents:
        """The nearest latent as deep in the class `target` as asked for; one that is there already stays.

        Depth 0 is the class's boundary, and 1 where its training latents typically (the median) are: unlike a margin in
        logits, it means the same under any penalty of the head.

        Raises:
            ConfigError: a class that the head never saw, or a multinomial head.
        """
        head = self._ordered("depth of a class")
        wanted = deep_in_class(head, self.typical, self.score(z)[:, 0], level_of(head, target), depth)
        return self.to_score(z, wanted, direction, hold=hold)

    def length(self, move: Latents) -> Scores:
        """Mahalanobis' length of moves z' - z: about how many standard deviations of the training latents."""
        return torch.from_numpy(np.linalg.norm(self._whitened(move), axis=1)).to(move)

    def nearest(self, z: Latents, latents: Float[Tensor, "n d"]) -> Scores:
        """Mahalanobis' distance of each z to the nearest of `latents`, such as those of the training images."""
        there, known = (torch.from_numpy(self._whitened(x)) for x in (z, latents))
        return torch.cdist(there, known).amin(1).to(z)

    def root(self) -> Float[Tensor, "d d"]:
        """R, symmetric: moves R u hold the confounders, and are ‖u‖ long by `length`; a ConfigError if not fitted."""
        return torch.from_numpy(square_root(self._metric("covariance", hold=True))).to(self.head.weight)

    def _double_score(self, z: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "b k"]:
        return (z - _double(self.mean)) @ _double(self.weight).T + _double(self.bias)

    def _whitened(self, x: Latents) -> np.ndarray:
        return np.linalg.solve(np.linalg.cholesky(_double(self.covariance)), _double(x).T).T

    def _metric(self, direction: str, *, hold: bool) -> np.ndarray:
        found = named_metric(direction, _double(self.covariance), _double(self.sd))
        return holding(found, _double(self.confounders)) if hold else found

    def _ordered(self, what: str) -> LinearHead:
        if not (head := self.head).ordered:
            raise ConfigError(f"A multinomial head has no {what}, as its classes have no order; ask for a class.")
        return head


def move_together(
    z: Latents,
    goals: Sequence[tuple[LatentSpace, Scores]],
    direction: str = "covariance",
    *,
    hold: bool = True,
) -> Latents:
    """The nearest latent at which each of several attributes has its score; z' = z + M A' (A M A')⁻¹ (wanted - A z).

    Args:
        goals: ordered heads on the same latents, and the scores wanted; to leave one alone, ask for its present score.
            The metric is the first's, and with `hold` so are the confounders.

    Raises:
        ConfigError: heads of different models' latents, or of directions that depend on each other.
    """
    spaces = [space for space, _ in goals]
    for space in spaces[1:]:
        space.require_model(bytes(spaces[0].model.tolist()).hex())
    latents, rows = _double(z), np.concatenate([_double(space._ordered("score").weight) for space in spaces])
    wanted = np.stack([_double(score) for _, score in goals], 1)
    change = wanted - np.concatenate([space._double_score(latents) for space in spaces], 1)
    return torch.from_numpy(latents + least_move(change, rows, spaces[0]._metric(direction, hold=hold))).to(z)


def _double(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()
