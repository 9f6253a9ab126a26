"""Curves of one cell's outlier scores, higher = more OOD: a thinned ROC, and a histogram."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from um_bench.errors import UmBenchError

_FENCE = 3.0
"""Interquartile ranges beyond the quartiles that a histogram shows. Nothing of a normal
distribution lies outside, of a Cauchy distribution 9 %."""
_NARROWEST = 1e-9
"""Of a histogram, as a share of its scores' magnitude: finer edges may round to one."""


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic; OOD is the positive class.

    Both rates rise from 0 to 1, in float64 (P,). Between two points the curve is a straight line,
    as scores that tie make it.
    """

    fpr: NDArray[np.float64]
    """Share of ID images that are flagged."""
    tpr: NDArray[np.float64]
    """Share of OOD images that are flagged."""
    auroc: float
    """Of all scores, not of the points: a fraction in [0, 1], ties counted half."""


@dataclass(frozen=True)
class Histogram:
    """How many scores of each side are in each of B bins of one width, shared by both sides.

    The first and the last bin also hold what lies beyond the edges.
    """

    edges: NDArray[np.float64]
    """(B + 1,), rising."""
    id_counts: NDArray[np.int64]
    ood_counts: NDArray[np.int64]
    below: int
    """Scores of both sides under the first edge; they are in the first bin."""
    above: int
    """Scores of both sides over the last edge; they are in the last bin."""


def thinned_roc(id_scores: ArrayLike, ood_scores: ArrayLike, points: int = 201) -> Roc:
    """Return the ROC of outlier scores in at most so many points.

    A curve of no more corners than that is exact. Of others, points are taken on the curve at
    equal steps of FPR + TPR, which grows from 0 to 2 along it. What is drawn is then nowhere
    further from the curve than 0.71 / (points - 1), and the area under it differs by no more than
    0.5 / (points - 1): between two points, both curve and line are inside their rectangle.

    Args:
        id_scores: (N,), finite, higher = more OOD.
        ood_scores: (M,).
        points: at least 3, so that a perfect detector keeps its corner.

    Raises:
        UmBenchError: if a side is empty, no row of numbers, or not finite.
        ValueError: if points is less than 3.
    """
    if points < 3:
        raise ValueError(f"a ROC needs at least 3 points, got {points}")
    fpr, tpr = _corners(_checked("ID", id_scores), _checked("OOD", ood_scores))
    auroc = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
    if len(fpr) > points:
        steps = np.linspace(0.0, 2.0, points)
        fpr, tpr = (_along(fpr + tpr, rate, steps) for rate in (fpr, tpr))
    return Roc(fpr, tpr, min(auroc, 1.0))


def shared_histogram(id_scores: ArrayLike, ood_scores: ArrayLike, bins: int = 60) -> Histogram:
    """Return counts of both sides' outlier scores over the same bins.

    The edges reach from the lower to the upper fence of the two sides, where a side's fences are
    three interquartile ranges beyond its quartiles, and no further than the scores do. So a few
    scores far away do not squeeze all others into one bin. Where half of both sides' scores tie,
    the edges are the smallest and the largest score.

    Args:
        id_scores: (N,), finite, higher = more OOD.
        ood_scores: (M,).
        bins: at least 1.

    Raises:
        UmBenchError: if a side is empty, no row of numbers, or not finite.
        ValueError: if bins is less than 1.
    """
    if bins < 1:
        raise ValueError(f"a histogram needs at least 1 bin, got {bins}")
    sides = [_checked("ID", id_scores), _checked("OOD", ood_scores)]
    low, high = _range(sides)
    edges = np.linspace(low, high, bins + 1)
    id_counts, ood_counts = (np.histogram(np.clip(side, low, high), edges)[0] for side in sides)
    below = sum(int(np.count_nonzero(side < low)) for side in sides)
    above = sum(int(np.count_nonzero(side > high)) for side in sides)
    return Histogram(edges, id_counts.astype(np.int64), ood_counts.astype(np.int64), below, above)


def _checked(side: str, scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise UmBenchError(f"{side} scores must be (N,) with N >= 1, got {values.shape}")
    broken = int(np.count_nonzero(~np.isfinite(values)))
    if broken:
        raise UmBenchError(f"{broken} of {len(values)} {side} scores are not finite")
    return values


def _corners(
    id_scores: NDArray[np.float64], ood_scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return FPR and TPR where the curve turns, from (0, 0) to (1, 1)."""
    thresholds, place = np.unique(np.concatenate([id_scores, ood_scores]), return_inverse=True)
    sides = (place[: len(id_scores)], place[len(id_scores) :])
    # how many of each side have exactly this score, from the highest down
    steps = [np.bincount(side, minlength=len(thresholds))[::-1] for side in sides]
    flagged = [np.concatenate([[0], np.cumsum(step)]) for step in steps]
    before, after = slice(None, -1), slice(1, None)
    turns = steps[0][before] * steps[1][after] != steps[1][before] * steps[0][after]
    kept = np.concatenate([[True], turns, [True]])
    return flagged[0][kept] / len(id_scores), flagged[1][kept] / len(ood_scores)


def _along(
    length: NDArray[np.float64], rate: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a rate at steps of the curve's length; rounding makes it neither fall nor leave 1."""
    rates: NDArray[np.float64] = np.maximum.accumulate(np.interp(steps, length, rate))
    rates[0], rates[-1] = 0.0, 1.0
    return np.minimum(rates, 1.0)


def _range(sides: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the first and the last edge of a histogram of both sides."""
    fences = []
    for side in sides:
        first, third = np.quantile(side, [0.25, 0.75])
        reach = _FENCE * (third - first)
        fences += [max(first - reach, side.min()), min(third + reach, side.max())]
    low, high = float(min(fences)), float(max(fences))
    least = _NARROWEST * max(abs(low), abs(high))
    if high - low <= least:
        low = float(min(side.min() for side in sides))
        high = float(max(side.max() for side in sides))
    if high - low <= least:
        around = max(0.5, least)
        return low - around, high + around
    return low, high
