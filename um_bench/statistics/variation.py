"""Why the mean of a difference over seeds varies, and the test of its being 0.

It varies for three reasons:

- other seeds would differ: S^2 / n, with S^2 the sample variance over n seeds;
- other images would differ, alike for all seeds: the mean covariance between two seeds'
  replicates;
- other images would differ, for each seed in its own way. This is part of S^2 already, and a floor
  of what S^2 estimates.

The sum of the first two is unbiased. A bootstrap that draws seeds too, with replacement, counts the
third twice and the first (n - 1) / n times.

Source: N. A. Obuchowski, H. E. Rockette, "Hypothesis testing of diagnostic accuracy for multiple
readers and multiple tests", Communications in Statistics: Simulation and Computation 24 (1995),
whose readers are our seeds; A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1
(2007), for what resampling both does.
"""

import functools
from typing import NamedTuple

import numpy as np

from um_bench.statistics.resampling import Array
from um_bench.statistics.terms import Over

_AT_ONCE = 1 << 14
"""Tests in one array: each takes some hundred numbers."""


class Variation(NamedTuple):
    """Why means of differences over seeds vary: arrays of one shape, one place for each mean."""

    seeds: int
    """n."""
    between: Array
    """S^2: variance of the difference between seeds; 0 where there is one seed."""
    shared: Array
    """Variance by images that is the same for all seeds; with one seed, all of it."""
    single: Array
    """Variance by images of one seed's difference beyond that."""
    over: Over


def variation(differences: Array, replicates: Array | None) -> Variation:
    """Return how K means over seeds vary.

    Args:
        differences: (K, n), by seed.
        replicates: (K, n, B) of them, paired by image, or None.
    """
    n = differences.shape[1]
    zero = np.zeros(len(differences))
    between = differences.var(axis=1, ddof=1) if n > 1 else zero
    if replicates is None:
        return Variation(n, between, zero, zero, "seeds" if n > 1 else "nothing")
    return with_images(
        n,
        between,
        of_mean=replicates.mean(axis=1).var(axis=1, ddof=1),
        of_one=replicates.var(axis=2, ddof=1).mean(axis=1),
    )


def with_images(n: int, between: Array, of_mean: Array, of_one: Array) -> Variation:
    """Return the variation over seeds, if there are several, and images.

    Args:
        n: how many seeds.
        between: (K,) S^2.
        of_mean: (K,) variance by images of the mean over seeds.
        of_one: (K,) the same of one seed's difference, averaged over seeds.
    """
    if n == 1:
        return Variation(n, between, of_mean, np.zeros_like(of_mean), "images")
    # of_mean = shared + single / n and of_one = shared + single; either may come out below 0.
    single = np.clip((of_one - of_mean) * n / (n - 1), 0, of_one)
    return Variation(n, between, of_one - single, single, "seeds and images")


def images_only(found: Variation) -> Variation:
    """Return the variation of the mean of these very models: by images alone."""
    shared = found.shared + found.single / found.seeds
    return Variation(1, np.zeros_like(shared), shared, np.zeros_like(shared), "images")


def p_values(means: Array, found: Variation, freedom: float | None = None) -> Array:
    """Return (K,) two-sided p-values of means being 0; 1 where the mean is exactly 0.

    The error is a sum of Student's t (seeds) and a normal variable (images), as in the
    Behrens-Fisher problem. S^2 may be small by chance; this stays valid far out in the tail, where
    degrees of freedom by Satterthwaite's formula do not. Without image variance it is the
    t-test over seeds, with one seed the z-test over images.

    Source: G. K. Robinson, "Properties of Student's t and of the Behrens-Fisher solution to the two
    means problem", Annals of Statistics 4 (1976), for the test being conservative.

    Args:
        means: (K,), over seeds.
        found: how they vary.
        freedom: degrees of freedom of `found.between`; n - 1 if None.
    """
    from scipy.special import ndtr  # late: pages are rendered without it

    freedom = found.seeds - 1 if freedom is None else freedom
    found_p = np.empty(len(means))
    for start in range(0, len(means), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        weights, variances = _mixture(found, freedom, some)
        distances = np.abs(means[some])[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):  # no variance at all: certain, or no
            tails = 2 * ndtr(-distances / np.sqrt(variances))  # difference, which is set below
        found_p[some] = tails @ weights
    return np.where(means == 0, 1.0, np.minimum(found_p, 1.0))


def _mixture(found: Variation, freedom: float, some: slice) -> tuple[Array, Array]:
    """Return weights (Q,) and variances (K, Q): the error is a mixture of normals.

    Student's t is a normal variable whose variance is drawn: S^2 over chi-squared / freedom.
    """
    shared = found.shared[some, None]
    if found.seeds == 1:
        return np.ones(1), shared
    weights, ratios = _chi_squared(freedom)
    between, single = found.between[some, None], found.single[some, None]
    return weights, np.maximum(between / ratios, single) / found.seeds + shared


@functools.lru_cache(maxsize=32)
def _chi_squared(freedom: float) -> tuple[Array, Array]:
    """Return weights and values (Q,) of chi-squared / freedom, for means of functions of it.

    The trapezoidal rule in log-odds of the probability: dense in both tails, whose weight is
    needed where p-values are small. Against Student's t: to 1e-6 of p, down to p = 1e-9.
    """
    from scipy.special import gammaincinv

    odds = np.linspace(-36, 30, 331)
    probability = 1 / (1 + np.exp(-odds))
    weights = probability * (1 - probability)
    return weights / weights.sum(), gammaincinv(freedom / 2, probability) * 2 / freedom
