"""Paired differences between two rows, with an interval over seeds, test images, or both.

The difference of one seed is that of two models with the same base weights, on the same images. An
interval has to allow for few seeds: their variance is itself uncertain, that of the images is not.
Its half width is therefore the root of two squares: Student's t with n - 1 degrees of freedom times
the error by seeds, beyond what images explain, and the normal quantile times the error by images,
which the bootstrap over images measures.

Measured on simulated models by `benchmarks/intervals.py`, nominal 95 % cover 93 to 97 % for 3 to 10
seeds, whichever source prevails; the plain bootstrap over both, 84 to 98 %. With 2 seeds the
intervals are wide, and cover more.

Source: W. G. Howe, "Approximate confidence limits on the mean of X + Y where X and Y are two tabled
independent random variables", Journal of the American Statistical Association 69 (1974).
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from um_bench.errors import UsageError
from um_bench.statistics.resampling import Array, Sampled, stacked
from um_bench.statistics.terms import LEVEL, Interval, Over
from um_bench.statistics.variation import variation


class Delta(NamedTuple):
    """One row's metric minus another's, over the seeds that both have; fractions."""

    mean: float
    by_seed: dict[int, float]
    interval: Interval | None
    """None where nothing can vary: one seed, and no replicates."""


def paired_delta(
    ours: Mapping[int, Sampled], theirs: Mapping[int, Sampled], level: float = LEVEL
) -> Delta:
    """Return ours minus theirs, with an interval over all that can vary.

    A seed that only one of them has is left out. Images vary if every value has replicates.

    Args:
        ours: by seed, on one set or averaged over a group by `mean_over_sets`.
        theirs: likewise; the models of one seed must start from the same base weights.
        level: of the interval, in (0, 1).

    Raises:
        UsageError: if no seed is in both, `level` is out of range, or the numbers of replicates
            differ.
    """
    if not 0 < level < 1:
        raise UsageError(f"level must be between 0 and 1, such as 0.95, got {level}")
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise UsageError(
            f"no seed is in both: {sorted(ours)} and {sorted(theirs)}. Differences are paired by "
            "seed; run both on the same ones."
        )
    by_seed = {seed: ours[seed].value - theirs[seed].value for seed in seeds}
    mean = math.fsum(by_seed.values()) / len(seeds)
    halves, over = half_widths(np.array([[*by_seed.values()]]), _paired(seeds, ours, theirs), level)
    if over == "nothing":
        return Delta(mean, by_seed, None)
    half = float(halves[0])
    return Delta(mean, by_seed, Interval(mean - half, mean + half, level, over))


def half_widths(
    differences: Array, replicates: Array | None, level: float = LEVEL
) -> tuple[Array, Over]:
    """Return half the width (K,) of the intervals of K means over seeds, and what varies.

    Args:
        differences: (K, n), by seed.
        replicates: (K, n, B) of them, paired by image; None where no scores are kept.
        level: of the interval, in (0, 1).
    """
    from scipy.special import stdtrit  # late: pages are rendered without it

    found = variation(differences, replicates)
    n, at = found.seeds, (1 + level) / 2
    by_images = found.shared + found.single / n
    of_images = NormalDist().inv_cdf(at) ** 2 * by_images
    if n == 1:
        return np.sqrt(of_images), found.over
    # One degree of freedom is too little to subtract from: 86 % was measured.
    explained = found.single if n > 2 else np.zeros_like(found.single)
    by_seeds = np.maximum(found.between - explained, 0.0) / n
    return np.sqrt(stdtrit(n - 1, at) ** 2 * by_seeds + of_images), found.over


def _paired(
    seeds: Sequence[int], ours: Mapping[int, Sampled], theirs: Mapping[int, Sampled]
) -> Array | None:
    """Return replicates of the differences (1, n, B), or None if any are missing."""
    samples = [side[seed].replicates for side in (ours, theirs) for seed in seeds]
    kept = [sample for sample in samples if sample is not None]
    if len(kept) < len(samples):
        return None
    both = stacked(kept)
    return (both[: len(seeds)] - both[len(seeds) :])[None]
