"""UM's loss: cross-entropy that climbs where it has fallen below the constraint."""

import torch.nn.functional as F
from torch import Tensor, nn

from um_bench.errors import UsageError


def um_loss(logits: Tensor, labels: Tensor, constraint: float, *, beta: float = 1.0) -> Tensor:
    """Return |beta * CE - c| + c, with the mean cross-entropy CE of the whole batch.

    Descends above the constraint, climbs with the same strength below it. The absolute value is
    taken of the batch's mean, not of each sample: in data-parallel training gather the logits of
    the global batch first.

    Args:
        logits: (N, K), any real numbers.
        labels: (N,) int64 in [0, K).
        constraint: c in nats, on the scale of beta * CE.
        beta: weight of the cross-entropy before it is compared.

    Returns:
        A scalar in nats, never below the constraint.

    Source:
        Zhu et al., ICML 2023, arXiv:2306.03715; utils/custom_loss.py:16-20 (1640ce6).
    """
    return (beta * F.cross_entropy(logits, labels) - constraint).abs() + constraint


class UMLoss(nn.Module):
    """`um_loss` as a criterion, for anybody's own training loop.

    Example:
        >>> criterion = UMLoss(constraint=0.15)
        >>> loss = criterion(model(images), labels)  # doctest: +SKIP
    """

    def __init__(self, constraint: float, *, beta: float = 1.0) -> None:
        super().__init__()
        check_constraint(constraint)
        self.constraint = constraint
        self.beta = beta

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss in nats of logits (N, K) against labels (N,)."""
        return um_loss(logits, labels, self.constraint, beta=self.beta)

    def extra_repr(self) -> str:
        """Return the hyperparameters as shown by `print`."""
        return f"constraint={self.constraint}, beta={self.beta}"


def check_constraint(constraint: float) -> None:
    """Refuse a constraint that is no positive finite number: at 0 the loss is plain cross-entropy.

    Raises:
        UsageError: if it is not in (0, inf).
    """
    if not 0 < constraint < float("inf"):
        raise UsageError(
            f"the loss constraint must be a positive number of nats, got {constraint}; leave it "
            "out to have it estimated, or use the adapter finetune for plain cross-entropy"
        )
