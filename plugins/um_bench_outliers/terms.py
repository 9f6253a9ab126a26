"""The loss terms of auxiliary outliers, without the cross-entropy of the ID images."""

import torch
from pytorch_ood.loss import OutlierExposureLoss
from torch import Tensor

from um_bench.errors import UsageError


def oe_term(logits: Tensor, labels: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Return alpha * mean(logsumexp(z) - mean_c z_c) over the outliers.

    It is the cross-entropy to the uniform distribution, less a constant: 0 is never reached, and
    log K is its least value per outlier at alpha 1.

    This is pytorch-ood's OutlierExposureLoss, given the outliers alone. Given the whole batch, it
    divides both its sums by the number of all rows: with as many outliers as ID images, that halves
    the cross-entropy and this term.

    Args:
        logits: (N+M, K) float32.
        labels: (N+M,), < 0 = outlier, of which there is at least one.
        alpha: weight.

    Source:
        Hendrycks et al., ICLR 2019, arXiv:1812.04606; utils/neural_linear_opt.py:192 (1640ce6).
    """
    outliers = labels < 0
    term: Tensor = OutlierExposureLoss(alpha=alpha)(logits[outliers], labels[outliers])
    return term


def energy_term(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.1,
    margin_in: float = -25.0,
    margin_out: float = -7.0,
) -> Tensor:
    """Return alpha * (mean max(0, E - m_in)^2 of ID + mean max(0, m_out - E)^2 of outliers).

    E = -logsumexp(z) is the energy. Each mean is over its own images. pytorch-ood's
    EnergyRegularizedLoss has these two means too, but only as a sum with the cross-entropy, which
    is not part of this term.

    Args:
        logits: (N+M, K).
        labels: (N+M,), < 0 = outlier; at least one of each kind.
        alpha: weight.
        margin_in: ID images above this energy are pushed down.
        margin_out: outliers below this energy are pushed up.

    Source:
        Liu et al., NeurIPS 2020, arXiv:2010.03759; utils/neural_linear_opt.py:194-203 (1640ce6).
    """
    energy = -logits.logsumexp(dim=1)
    outlier = labels < 0
    hinge = torch.where(outlier, margin_out - energy, energy - margin_in).relu().square()
    # By a product, not by picking rows: that would make the host wait for the device.
    shares = [kind.to(hinge.dtype) / kind.sum() for kind in (outlier, ~outlier)]
    return alpha * (hinge * (shares[0] + shares[1])).sum()


def check_alpha(alpha: float) -> None:
    """Refuse a weight of the outlier term that is no positive finite number.

    Raises:
        UsageError: if it is not in (0, inf).
    """
    if not 0 < alpha < float("inf"):
        raise UsageError(
            f"alpha is the weight of the outlier term, a positive number, got {alpha}; the adapter "
            "finetune trains without outliers"
        )
