"""What results are told in: plain values, so that pages are rendered without numpy."""

from typing import Literal, NamedTuple, TypeAlias

Over: TypeAlias = Literal["seeds and images", "seeds", "images", "nothing"]
"""What an interval or a test lets vary. `images`: it is about these trained models, whatever other
seeds would give. `seeds`: about these test images. `nothing`: there is no interval, or no test."""
METRICS = ("auroc", "fpr95_ood", "fpr95_id")
"""As in `um_bench.metrics`: fractions in [0, 1]."""
REPLICATES = 300
"""As many as the coverage of intervals was measured with. A standard error has then a relative SD
of 1 / sqrt(2 * 300): 4 %."""
LEVEL = 0.95
"""Share of intervals that hold the true difference."""
ALPHA = 0.05
"""Probability of any false separation in a table."""


class Interval(NamedTuple):
    """A confidence interval of a difference, in the metric's unit (fractions)."""

    low: float
    high: float
    level: float
    """Such as 0.95."""
    over: Over


class RankRange(NamedTuple):
    """The ranks that a row may have; 1 is best."""

    first: int
    """1 + how many rows are significantly better."""
    last: int
    """All rows less how many are significantly worse."""

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
