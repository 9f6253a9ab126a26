"""Bayesian linear regression without a bias: the posterior of the weights, and draws from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Sums(NamedTuple):
    """What a regression needs to know of features z (N, D) with weights c (N,)."""

    gram: Tensor
    """Sum of c z z^T, (D, D)."""
    total: Tensor
    """Sum of c z, (D,)."""


@dataclass(frozen=True)
class Posterior:
    """A normal distribution over weights (D,)."""

    mean: Tensor
    """(D,) float64, on the CPU."""
    factor: Tensor
    """(D, D) float64: lower Cholesky factor of the precision, which is the covariance's inverse."""

    @property
    def covariance(self) -> Tensor:
        """(D, D)."""
        identity = torch.eye(len(self.mean), dtype=self.factor.dtype)
        inverse: Tensor = torch.linalg.solve_triangular(self.factor, identity, upper=False)
        return inverse.mT @ inverse

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return weights (D,) drawn by a generator on the CPU."""
        noise = torch.randn(len(self.mean), dtype=self.mean.dtype, generator=generator)
        return self.mean + _solve(self.factor.mT, noise, upper=True)


def posterior(gram: Tensor, moment: Tensor, *, prior: float, noise: float) -> Posterior:
    """Return the posterior of w in y = w z + e, where w ~ N(0, prior * I) and e ~ N(0, noise).

    Its precision is A = Z^T Z / noise + I / prior, its mean A^-1 Z^T y / noise.

    Args:
        gram: Z^T Z, (D, D), of features Z (N, D).
        moment: Z^T y, (D,), of targets y (N,).
        prior: variance of each weight.
        noise: variance of a target.
    """
    gram, moment = gram.double().cpu(), moment.double().cpu()
    precision = gram / noise + torch.eye(len(moment), dtype=gram.dtype) / prior
    factor = torch.linalg.cholesky(precision)
    mean = _solve(factor.mT, _solve(factor, moment / noise, upper=False), upper=True)
    return Posterior(mean, factor)


def _solve(factor: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(factor, right[:, None], upper=upper)
    return solution[:, 0]


def weighted_sums(features: Iterable[Tensor], weights: Tensor) -> Sums:
    """Return the sums over batches of features.

    Args:
        features: (B, D) each, float64, at least one batch.
        weights: (N,), of all batches together.
    """
    start = 0
    gram = total = torch.zeros(())
    for batch in features:
        weighted = batch * weights[start : start + len(batch), None].to(batch)
        gram, total = gram.to(batch) + batch.mT @ weighted, total.to(batch) + weighted.sum(dim=0)
        start += len(batch)
    return Sums(gram, total)
