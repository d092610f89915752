"""The result of a test of one difference: its size and interval, its p-values, and what it could have found."""

from dataclasses import dataclass

from cfxai.regions.statistics.sentences import counted, left_out, number, p_value, sentence


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One member of a family of tests.

    Attributes:
        name: what is compared.
        difference: of the means, in units of the score. low, high: its 95 % BCa interval, not adjusted.
        statistic: t. p: of its permutation test. adjusted_p: within the family, by `correction`.
        family: number of tests adjusted together.
        margin: in units of the score; differences within ±margin would not matter. equivalence_p: that it lies there
            (two one-sided t tests). None: no margin was stated.
        detectable: the standardised difference that would be found with 80 % power at alpha / family.
        left_out: images that do not count, for want of a score or, within patients, of images of the other kind.
    """

    name: str
    difference: float
    low: float
    high: float
    statistic: float
    p: float
    adjusted_p: float
    correction: str
    family: int
    margin: float | None
    equivalence_p: float | None
    detectable: float
    alpha: float
    left_out: int

    def _worded(self, effects: str, rank_test: str, patients: str) -> str:
        size = f"{number(self.difference)} (95 % CI {number(self.low)} to {number(self.high)}), {effects}"
        adjusted = f"{p_value(self.adjusted_p, f'{self.correction} p')} in a family of {self.family}"
        test = f"permutation {p_value(self.p)}, {adjusted}, {rank_test}"
        parts = [f"{self.name}: {size}", test]
        if self.margin is not None and self.equivalence_p is not None:
            parts.append(f"no difference beyond ±{number(self.margin)}: TOST {p_value(self.equivalence_p)}")
        level = f"{number(self.alpha)}/{self.family}"
        parts.append(f"{patients}, enough to find {number(self.detectable)} SD with 80 % power at {level}")
        return sentence([*parts, *left_out(self.left_out)])


@dataclass(frozen=True, kw_only=True)
class GroupDifference(Difference):
    """Between two groups of patients.

    Attributes:
        hedges_g, cliff_delta: the difference standardised, and by ranks.
        brunner_munzel_p: of the rank test that permits unequal variances, not adjusted; NaN where the groups do not
            overlap, for which it is not defined.
        groups: their names, the first minus the second. patients: of each.
        covariates: number adjusted for; difference and effects are then those of the scores without what least squares
            gives to the covariates.
    """

    hedges_g: float
    cliff_delta: float
    brunner_munzel_p: float
    groups: tuple[str, str]
    patients: tuple[int, int]
    covariates: int

    @property
    def sentence(self) -> str:
        first, second = self.groups
        beside = f", adjusted for {counted(self.covariates, 'covariate')}" if self.covariates else ""
        return self._worded(
            f"Hedges g {number(self.hedges_g)}, Cliff δ {number(self.cliff_delta)}{beside}",
            p_value(self.brunner_munzel_p, "Brunner–Munzel p"),
            f"{counted(self.patients[0], 'patient')} {first}, {self.patients[1]} {second}",
        )


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Difference):
    """Between two scores of the same patients.

    Attributes:
        rank_biserial: in [-1, 1], 1 = higher in every patient. wilcoxon_p: of the signed ranks, not adjusted.
    """

    rank_biserial: float
    wilcoxon_p: float
    patients: int

    @property
    def sentence(self) -> str:
        return self._worded(
            f"rank-biserial r {number(self.rank_biserial)}",
            p_value(self.wilcoxon_p, "Wilcoxon p"),
            counted(self.patients, "patient"),
        )
