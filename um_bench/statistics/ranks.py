"""Ranks with ties: which rows of a table can be told apart at all.

Every two rows are compared by the test of `um_bench.statistics.variation`, paired by seed and by
image. Holm's procedure holds the probability of any false separation in the table to `ALPHA`,
however the tests depend on each other.

With 3 seeds and 60 rows, a t-test of each pair alone (2 degrees of freedom) would need differences
of 190 standard errors. The pairs' variances between seeds are therefore drawn towards their common
value, as far as they resemble each other. How much that is worth in degrees of freedom is bounded
by what n seeds can show: rows of one table share models, and so are fewer than they look.

Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 6 (1979); G. K. Smyth, "Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments", Statistical Applications in Genetics and
Molecular Biology 3 (2004), for the variances; S. W. Greenhouse, S. Geisser, "On methods in the
analysis of profile data", Psychometrika 24 (1959), for the bound.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from um_bench.errors import UsageError
from um_bench.statistics.resampling import Array, Sampled, stacked
from um_bench.statistics.terms import ALPHA, Over, RankRange
from um_bench.statistics.variation import Variation, images_only, p_values, with_images

FEWEST_SEEDS = 3
"""With two, S^2 has one degree of freedom, and no gap that occurs would be found."""

Label = TypeVar("Label", bound=Hashable)


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
    freedom: float
    """Degrees of freedom of the variance between seeds, borrowed ones included; 0 where seeds do
    not vary."""
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
    found = _variation(values, replicates, upper, lower)
    freedom = 0.0
    if found.over == "nothing":
        apart = np.zeros(len(means), dtype=bool)
    else:
        if len(seeds) > 1 and found.over != "images":
            found, freedom = _moderated(found, values)
        apart = holm(p_values(means, found, freedom), alpha)
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
        over=found.over,
        seeds=len(seeds),
        separated=int(apart.sum()),
        pairs=len(means),
        freedom=freedom,
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


def _variation(
    values: Array, replicates: Array | None, upper: NDArray[np.intp], lower: NDArray[np.intp]
) -> Variation:
    """Return how the pairs' means over seeds vary, from covariances between rows."""
    n = values.shape[1]
    differences = values[upper] - values[lower]
    zero = np.zeros(len(differences))
    between = differences.var(axis=1, ddof=1) if n > 1 else zero
    if replicates is None:
        over: Over = "seeds" if n >= FEWEST_SEEDS else "nothing"
        return Variation(n, between, zero, zero, over)
    of_mean = _of_pairs(replicates.mean(axis=1), upper, lower)
    of_one = np.mean([_of_pairs(replicates[:, i], upper, lower) for i in range(n)], axis=0)
    found = with_images(n, between, of_mean, of_one)
    return found if n >= FEWEST_SEEDS else images_only(found)


def _of_pairs(replicates: Array, upper: NDArray[np.intp], lower: NDArray[np.intp]) -> Array:
    """Return (K,): the variance of each pair's difference."""
    covariance = np.cov(replicates).reshape(len(replicates), len(replicates))
    variance = covariance.diagonal()
    pairs = variance[upper] + variance[lower] - 2 * covariance[upper, lower]
    return np.maximum(pairs, 0.0)


def _moderated(found: Variation, values: Array) -> tuple[Variation, float]:
    """Return the variation with S^2 drawn towards a common value, and its degrees of freedom.

    Args:
        found: of the pairs.
        values: (R, n).
    """
    own = found.seeds - 1
    seen = found.between[found.between > 0]
    common, borrowed = _prior(seen, own) if len(seen) > 1 else (0.0, 0.0)
    borrowed = min(borrowed, _bound(values) - own)
    if borrowed <= 0:
        return found, float(own)
    between = (borrowed * common + own * found.between) / (borrowed + own)
    return found._replace(between=between), own + borrowed


def _prior(variances: Array, own: int) -> tuple[float, float]:
    """Return the common variance and what it is worth in degrees of freedom (may be infinite).

    By the mean and variance of log variances, which chi-squared alone spreads by trigamma(own / 2).
    """
    from scipy.special import digamma, polygamma  # late: pages are rendered without it

    logs = np.log(variances) - digamma(own / 2) + np.log(own / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, own / 2))
    if excess <= 0:
        return float(np.exp(logs.mean())), np.inf
    half = _inverse_trigamma(excess)
    return float(np.exp(logs.mean() + digamma(half) - np.log(half))), 2 * half


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value, for value > 0, by bisection of log x."""
    from scipy.special import polygamma

    low, high = -20.0, 20.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if polygamma(1, np.exp(middle)) > value else (low, middle)
    return float(np.exp(low))


def _bound(values: Array) -> float:
    """Return the degrees of freedom of the rows' pooled variance between seeds, at most (n - 1)^2.

    That of Greenhouse and Geisser: n - 1 times how many rows vary independently of each other. It
    is n - 1 if all rows vary as one, or only one does.
    """
    centred = values - values.mean(axis=1, keepdims=True)
    centred = centred - centred.mean(axis=0, keepdims=True)
    squares = np.linalg.svd(centred, compute_uv=False) ** 2
    total = float((squares**2).sum())
    own = values.shape[1] - 1
    return own * float(squares.sum()) ** 2 / total if total > 0 else float(own)
