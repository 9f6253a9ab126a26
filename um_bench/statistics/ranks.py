"""Ranks with ties: which rows of a table can be told apart at all.

Rows are compared in pairs, by their differences seed by seed. If no row were better, the n
differences of all pairs would look the same after any rotation in the space of seeds, which leaves
their squares and products as they are. So the table is rotated at random, and a pair is told apart
where its statistic is larger than the largest one of a rotated table in all but `ALPHA` of these:
a single error rate for the whole table. It holds however rows depend on each other and whichever of
them varies most, which is what three seeds cannot tell. Pairs that were told apart are left out of
the next comparison (step-down). As images are the same for all seeds, each rotated table is given
the errors of one resample of them.

The statistic is Student's, with a constant in its denominator, so that a pair whose seeds happen to
agree is not the largest. For rows that do differ, the constant makes the error rate approximate.
`benchmarks/intervals.py` measures it.

Fewer than three seeds cannot be rotated: then images alone are tested, each pair by a normal
variable, and Holm's procedure holds the error rate.

Source: O. Langsrud, "Rotation tests", Statistics and Computing 15 (2005); P. H. Westfall,
S. S. Young, "Resampling-based multiple testing" (1993), for the step-down; V. G. Tusher,
R. Tibshirani, G. Chu, "Significance analysis of microarrays applied to the ionizing radiation
response", PNAS 98 (2001), for the constant; S. Holm, "A simple sequentially rejective multiple test
procedure", Scandinavian Journal of Statistics 6 (1979).
"""

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from um_bench.errors import UsageError
from um_bench.statistics.resampling import Array, Sampled, stacked
from um_bench.statistics.variation import Over, with_images

ALPHA = 0.05
"""Probability of any false separation in a table."""
FEWEST_SEEDS = 3
"""With two, far more than 5 % of rotations leave even the largest gap as it is."""
_ROTATIONS = 10
"""As a power of two. Fewer leave gaps on the sphere, and the error rate is then another one."""
_NOMINAL = 0.7
"""Share of alpha at which rotated tables are compared: the rest is for seeds that are not normal,
and for what resampled images leave out."""
_AT_ONCE = 1 << 21
"""Pairs times rotations held at a time."""

Label = TypeVar("Label", bound=Hashable)
Pairs: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp]]


class RankRange(NamedTuple):
    """The ranks that a row may have; 1 is best."""

    first: int
    """1 + how many rows are significantly better."""
    last: int
    """All rows less how many are significantly worse."""

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Ranks(NamedTuple, Generic[Label]):
    """The ranks of a table's rows, and what they were tested over."""

    by_row: dict[Label, RankRange]
    """In the order in which the rows were given."""
    over: Over
    """`nothing`: every row has every rank, because nothing could be tested."""
    seeds: int
    separated: int
    """Pairs that were told apart."""
    pairs: int
    alpha: float


def rank(
    rows: Mapping[Label, Mapping[int, Sampled]],
    *,
    higher_is_better: bool = True,
    alpha: float = ALPHA,
) -> Ranks[Label]:
    """Return each row's interval of ranks.

    With fewer than three seeds only images vary: rows that are told apart are so for these
    trained models, whatever other seeds would give. Without replicates only seeds do.

    Args:
        rows: row -> seed -> value on one set, or averaged over a group. Complete rows: all have
            the same seeds.
        higher_is_better: False for error rates.
        alpha: probability of any false separation among all rows.

    Raises:
        UsageError: if there is no row or no seed, rows have different seeds, some have replicates
            and others do not, or `alpha` is out of range.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha must be between 0 and 1, such as 0.05, got {alpha}")
    seeds = _common_seeds(rows)
    # In an order of its own, so that rounding does not depend on how the rows were given.
    labels = sorted(rows, key=str)
    values = np.array([[rows[label][seed].value for seed in seeds] for label in labels])
    replicates = _replicates([rows[label][seed] for label in labels for seed in seeds], len(seeds))
    upper, lower = np.triu_indices(len(labels), k=1)
    means = (values[upper] - values[lower]).mean(axis=1)
    over, apart = _told_apart(values, replicates, (upper, lower), alpha)
    better = np.zeros((len(labels), len(labels)), dtype=bool)
    ahead = (means > 0) == higher_is_better
    better[upper, lower] = apart & ahead
    better[lower, upper] = apart & ~ahead
    ranges = {
        label: RankRange(1 + int(better[:, i].sum()), len(labels) - int(better[i].sum()))
        for i, label in enumerate(labels)
    }
    return Ranks(
        by_row={label: ranges[label] for label in rows},
        over=over,
        seeds=len(seeds),
        separated=int(apart.sum()),
        pairs=len(means),
        alpha=alpha,
    )


def holm(p: Array, alpha: float) -> NDArray[np.bool_]:
    """Return (K,): which hypotheses Holm's step-down procedure rejects at family-wise `alpha`."""
    order = np.argsort(p, kind="stable")
    passed = p[order] <= alpha / np.arange(len(p), 0, -1)
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


def _common_seeds(rows: Mapping[Label, Mapping[int, Sampled]]) -> list[int]:
    if not rows:
        raise UsageError("there are no rows to rank")
    all_seeds = {seed for row in rows.values() for seed in row}
    if not all_seeds:
        raise UsageError("there are no seeds to rank rows by")
    for label, row in rows.items():
        missing = sorted(all_seeds - row.keys())
        if missing:
            raise UsageError(
                f"{label} has no value for seeds {missing}, which other rows have. Rank complete "
                "rows only."
            )
    return sorted(all_seeds)


def _replicates(cells: Sequence[Sampled], seeds: int) -> Array | None:
    """Return (R, n, B), or None where no cell has any."""
    kept = [cell.replicates for cell in cells if cell.replicates is not None]
    if not kept:
        return None
    if len(kept) < len(cells):
        raise UsageError(
            f"{len(kept)} of {len(cells)} values have replicates; all of them, or none, can be "
            "compared with each other"
        )
    return stacked(kept).reshape(-1, seeds, len(kept[0]))


def _told_apart(
    values: Array, replicates: Array | None, pairs: Pairs, alpha: float
) -> tuple[Over, NDArray[np.bool_]]:
    """Return what was let vary, and (K,) which pairs are told apart.

    Args:
        values: (R, n).
        replicates: (R, n, B), or None.
        pairs: two arrays (K,) of rows.
        alpha: probability of any false separation.
    """
    if values.shape[1] >= FEWEST_SEEDS:
        over: Over = "seeds" if replicates is None else "seeds and images"
        return over, rotated_apart(values, replicates, pairs, _NOMINAL * alpha)
    if replicates is None:
        return "nothing", np.zeros(len(pairs[0]), dtype=bool)
    means = values.mean(axis=1)
    variance = _of_pairs(replicates.mean(axis=1), pairs)
    return "images", holm(p_values(means[pairs[0]] - means[pairs[1]], variance), alpha)


def p_values(means: Array, variances: Array) -> Array:
    """Return (K,) two-sided p-values of normal variables being 0; 1 where one is exactly 0."""
    from scipy.special import ndtr  # late: pages are rendered without it

    with np.errstate(divide="ignore", invalid="ignore"):  # no variance: certain, or no difference
        tails = 2 * ndtr(-np.abs(means) / np.sqrt(variances))
    return np.where(means == 0, 1.0, tails)


def rotated_apart(
    values: Array, replicates: Array | None, pairs: Pairs, alpha: float
) -> NDArray[np.bool_]:
    """Return (K,): which pairs rotated tables tell apart; arguments as above."""
    n, (upper, lower) = values.shape[1], pairs
    differences = values[upper] - values[lower]
    means, squares = differences.mean(axis=1), (differences**2).sum(axis=1)
    varying = squares[squares > 0]
    constant = float(np.median(varying)) / n if len(varying) else 0.0
    observed = _statistic(means, means, squares, n, constant)
    order = np.argsort(-observed, kind="stable")
    first, second = upper[order], lower[order]
    bound = observed[order] * (1 - 1e-9)  # rounding alone does not tell apart
    factors = None if replicates is None else _shared_share(replicates, (first, second))
    larger = np.zeros(len(order), dtype=int)
    at_once = max(1, _AT_ONCE // max(1, len(order)))
    directions = _directions(n)
    for start in range(0, len(directions), at_once):
        chosen = np.arange(start, min(start + at_once, len(directions)))
        rows = values @ directions[chosen].T / np.sqrt(n)
        turned = rows[first] - rows[second]
        moved = turned
        if replicates is not None and factors is not None:
            errors = _errors(replicates, chosen)
            moved = turned + factors[:, None] * (errors[first] - errors[second])
        found = _statistic(moved, turned, squares[order, None], n, constant)
        largest = np.maximum.accumulate(found[::-1], axis=0)[::-1]  # of this pair and those after
        larger += (largest >= bound[:, None]).sum(axis=1)
    passed = np.logical_and.accumulate((1 + larger) / (1 + len(directions)) <= alpha)
    apart = np.zeros(len(order), dtype=bool)
    apart[order] = passed & (observed[order] > 0)
    return apart


def _statistic(means: Array, by_seeds: Array, squares: Array, n: int, constant: float) -> Array:
    """Return distances of means from 0, in units of how much seeds vary.

    Args:
        means: of the differences, images included.
        by_seeds: the part of them that seeds make.
        squares: sums of squares over seeds, the mean's included; no rotation changes them.
        n: seeds.
        constant: added to the variance between seeds.
    """
    between = np.maximum(squares - n * by_seeds**2, 0.0) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(means == 0, 0.0, np.abs(means) / np.sqrt(between + constant))


@functools.lru_cache(maxsize=8)
def _directions(n: int) -> Array:
    """Return (2 ** _ROTATIONS, n): where the mean over seeds is turned to, evenly over the sphere.

    A Sobol sequence: of as many random directions, too few may lie near that of the mean itself.
    """
    from scipy.special import ndtri
    from scipy.stats.qmc import Sobol

    even = Sobol(n, scramble=False).random_base2(_ROTATIONS)
    normal = ndtri(even + 0.5 / len(even))  # in the middle of its cell, none is 0
    found: Array = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    return found


def _errors(replicates: Array, chosen: NDArray[np.intp]) -> Array:
    """Return (R, c): by how much some resamples of the images move the rows' means over seeds."""
    of_rows = replicates.mean(axis=1)
    moved: Array = of_rows - of_rows.mean(axis=1, keepdims=True)
    return moved[:, chosen % moved.shape[1]]


def _shared_share(replicates: Array, pairs: Pairs) -> Array:
    """Return (K,): the part of pairs' SD by images, of the mean over seeds, that all seeds share.

    The rest differs from seed to seed, and is among what seeds show.
    """
    n = replicates.shape[1]
    of_mean = _of_pairs(replicates.mean(axis=1), pairs)
    of_one = np.mean([_of_pairs(replicates[:, i], pairs) for i in range(n)], axis=0)
    zero = np.zeros_like(of_mean)
    found = with_images(n, zero, of_mean, of_one)
    whole = found.shared + found.single / n
    share: Array = np.sqrt(np.divide(found.shared, whole, out=zero, where=whole > 0))
    return share


def _of_pairs(replicates: Array, pairs: Pairs) -> Array:
    """Return (K,): the variance of each pair's difference."""
    covariance = np.cov(replicates).reshape(len(replicates), len(replicates))
    variance = covariance.diagonal()
    upper, lower = pairs
    return np.maximum(variance[upper] + variance[lower] - 2 * covariance[upper, lower], 0.0)
