"""The adapter `doe`: outlier exposure at weights that are perturbed batch by batch."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from um_bench.adapters import Batch, Exposure, Loader, Paper, Plan
from um_bench.errors import UsageError
from um_bench_outliers.oe import OE

_TINY = 1e-20
"""Added to a gradient's norm, which may be 0."""


@dataclass(frozen=True, kw_only=True)
class DOE(OE):
    """`oe`, whose outlier term is seen by weights moved along the gradient of a surrogate.

    A change of the weights acts on the outliers as a change of their images would, so that more
    kinds of outliers are seen than there are in the auxiliary set.
    """

    paper: ClassVar[Paper | None] = Paper(
        "Out-of-distribution Detection with Implicit Outlier Transformation",
        "ICLR",
        2023,
        "https://arxiv.org/abs/2303.05033",
    )

    alpha: float = 1.0
    """Weight of the outlier term."""
    warmup: int = 5
    """Epochs of plain `oe` before; at most half of the recipe's epochs, rounded down."""
    gammas: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    """Sizes of the perturbation relative to each weight's norm; each batch draws one."""
    smoothing: float = 0.6
    """Share of the direction that stays from batch to batch, in [0, 1)."""
    clip: float = 1.0
    """Largest norm of each term's gradient."""
    ascend: bool = False
    """Move up the surrogate's gradient, to the worst case, as the paper argues; its code moves
    down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup < 0:
            raise UsageError(f"warmup must be at least 0 epochs, got {self.warmup}")
        if not self.gammas or min(self.gammas) <= 0:
            raise UsageError(f"gammas must be one positive number or more, got {self.gammas}")
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"smoothing must be in [0, 1), got {self.smoothing}")
        if not self.clip > 0:
            raise UsageError(f"clip must be a positive norm, got {self.clip}")

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, with `oe_term` at perturbed weights beside the ID loss."""
        return dataclasses.replace(super().prepare(model, train), exposure=Perturbing(self))


class Perturbing(Exposure):
    """Takes the outlier term's gradient at perturbed weights, the ID term's at the weights.

    Source:
        Wang et al., ICLR 2023, arXiv:2303.05033; doe_final.py and utils/utils_awp.py of
        QizhouWang/DOE (065bd3a).
    """

    def __init__(self, settings: DOE) -> None:
        self.settings = settings
        self.direction: dict[str, Tensor] = {}
        """By the name of a weight: where it is moved, of the weight's norm."""

    def backward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Add the two gradients, each clipped, to `.grad`; return the detached loss.

        The optimiser steps once, from the weights as they were. BatchNorm's running statistics
        follow the pass at the weights alone.
        """
        weights = [p for p in model.parameters() if p.requires_grad]
        if batch.epoch < min(self.settings.warmup, batch.epochs // 2):
            terms = batch.terms(model)
            loss = terms.id_term + terms.outlier_term
            set_gradients(weights, self._clipped(loss, weights))
            return loss.detach()
        # Drawn on the CPU: the same numbers whatever the device.
        gamma = self.settings.gammas[int(torch.randint(len(self.settings.gammas), ()))]
        with unchanged_buffers(model):
            self._turn(surrogate_direction(model, batch))
            with perturbed(model, self.direction, gamma):
                outlier_term = batch.terms(model).outlier_term
                by_outliers = self._clipped(outlier_term, weights)
        id_term = batch.terms(model).id_term
        by_id = self._clipped(id_term, weights)
        set_gradients(weights, [a + b for a, b in zip(by_outliers, by_id, strict=True)])
        return (id_term + outlier_term).detach()

    def _turn(self, towards: Mapping[str, Tensor]) -> None:
        """Move the direction, which is a running mean."""
        keep, sign = self.settings.smoothing, 1 if self.settings.ascend else -1
        for name, new in towards.items():
            old = self.direction.get(name, sign * new)
            self.direction[name] = keep * old + (1 - keep) * sign * new

    def _clipped(self, term: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        gradients = torch.autograd.grad(term, weights, allow_unused=True, materialize_grads=True)
        return clipped(gradients, self.settings.clip)


def surrogate(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how steeply the outliers' OE term changes with the scale of the logits, squared.

    The slope at scale 1 is the mean over outliers of sum_c softmax(z)_c z_c - mean_c z_c. It is 0
    where all logits of an outlier are equal, which is where the OE term is least.

    Args:
        logits: (N+M, K).
        labels: (N+M,), < 0 = outlier.
    """
    z = logits[labels < 0]
    return ((z.softmax(dim=1) * z).sum(dim=1) - z.mean(dim=1)).mean().square()


def surrogate_direction(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the surrogate's gradient, scaled to each weight's norm, by the weights' names.

    What is trained and has two dimensions or more counts as a weight; biases and the scales of
    normalisation stay where they are.
    """
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.dim() > 1 and "weight" in name
    }
    if not weights:
        return {}
    steepness = surrogate(model(batch.images), batch.labels)
    gradients = torch.autograd.grad(
        steepness, list(weights.values()), allow_unused=True, materialize_grads=True
    )
    return {
        name: gradient * (weight.detach().norm() / (gradient.norm() + _TINY))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


@contextmanager
def perturbed(model: nn.Module, direction: Mapping[str, Tensor], size: float) -> Iterator[None]:
    """Add `size` times a direction to some weights while the block runs.

    Afterwards they are what they were, bit for bit, whatever happens in the block: they are copied
    back, because adding and subtracting the same number does not give the first one back.
    """
    weights = {name: w for name, w in model.named_parameters() if name in direction}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.add_(direction[name], alpha=size)
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Put every buffer back when the block ends: BatchNorm's running statistics, above all."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])


def clipped(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Return gradients scaled down together so that their joint norm is at most `limit`."""
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    return [gradient * (limit / (norm + 1e-6)).clamp(max=1) for gradient in gradients]


def set_gradients(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Hand each weight its gradient, for the optimiser."""
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
