"""Why the mean of a difference over seeds varies.

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

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from um_bench.statistics.resampling import Array

Over: TypeAlias = Literal["seeds and images", "seeds", "images", "nothing"]
"""What an interval or a test lets vary. `images`: it is about these trained models, whatever other
seeds would give. `seeds`: about these test images. `nothing`: there is no interval, or no test."""


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
