"""The loss constraint: how large the loss becomes when a few random weights are taken away."""

import copy
import dataclasses
import statistics
from dataclasses import dataclass

import torch
from torch import nn

from um_bench.data import Loader
from um_bench.errors import UsageError
from um_bench.training import mean_loss
from um_bench_um.masks import bake, check_keep, mask_weights

BATCH_SIZE = 512
"""Source: configs/estimate_loss/estimate_loss_cifar10.yaml (1640ce6)."""


@dataclass(frozen=True)
class Constraint:
    """An estimate of the loss constraint, in nats."""

    losses: tuple[float, ...]
    """Mean training loss under each mask."""

    @property
    def mean(self) -> float:
        """The constraint."""
        return statistics.fmean(self.losses)

    @property
    def sd(self) -> float:
        """Standard deviation over masks (n - 1 in the denominator); 0 for a single mask."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else 0.0


def estimate_constraint(
    model: nn.Module, train: Loader, *, keep: float = 0.965, masks: int = 5
) -> Constraint:
    """Return the training loss of `model` under seeded random masks.

    Each mask drops a uniformly random share 1 - keep of the weights of every convolution and
    linear layer. The loss is the mean plain cross-entropy in eval mode over the training images
    as they are augmented for training. The authors take a single unseeded mask; the draw moves
    the result by a quarter, so several are averaged.

    Args:
        model: images -> logits (N, K); it is not changed.
        train: the ID training set.
        keep: share of weights kept, in (0, 1]; at 1 the result is the training loss.
        masks: how many masks, drawn with seeds 0, 1, ...

    Raises:
        UsageError: if keep or masks is out of range.

    Source:
        estimate_loss.py:79-100 and trainers/default.py:120-167 (1640ce6).
    """
    check_keep(keep)
    if masks < 1:
        raise UsageError(f"at least one mask is needed to estimate the constraint, got {masks}")
    large = dataclasses.replace(train, batch_size=BATCH_SIZE)
    return Constraint(tuple(_loss_under_mask(model, large, keep, seed) for seed in range(masks)))


def _loss_under_mask(model: nn.Module, train: Loader, keep: float, seed: int) -> float:
    # Drawn on the CPU: the same masks whatever the device.
    masked = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask_weights(masked, keep)
    return mean_loss(bake(masked).to(train.device), train)
