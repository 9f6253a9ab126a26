"""How well outlier scores separate ID from OOD: a thin layer on pytorch_ood.metrics."""

import torch
from pytorch_ood.metrics import AUPR, AUROC, FPRAtTPR, MetricCollection, functional
from torch import Tensor

from um_bench.errors import UmBenchError


def ood_metrics(id_scores: Tensor, ood_scores: Tensor) -> dict[str, float]:
    """Return what separates one ID set from one OOD set, as fractions in [0, 1].

    Scores are ranked as they are, so that only exactly equal ones tie; rates and areas are
    computed in float64.

    Args:
        id_scores: outlier scores (N,), higher = more OOD, any finite range.
        ood_scores: outlier scores (M,).

    Returns:
        auroc: probability that an OOD image scores higher than an ID image, ties counted half.
        aupr_in, aupr_out: area under precision over recall by the trapezoidal rule, ID or OOD
            positive; both depend on the two sets' sizes.
        fpr95_ood: share of ID flagged where at least 95 % of OOD is (OOD positive).
        fpr95_id: share of OOD accepted where at least 95 % of ID is (ID positive).

    Raises:
        UmBenchError: if a side is empty, has not one score per image, or a score is not finite.
    """
    for side, scores in (("ID", id_scores), ("OOD", ood_scores)):
        _check(side, scores)
    scores = torch.cat([id_scores, ood_scores])
    labels = torch.cat([torch.zeros(len(id_scores)), -torch.ones(len(ood_scores))]).long()
    # one sort serves all four; the positive class of the fifth needs a second
    shared = MetricCollection([AUROC(), AUPR("id"), AUPR("ood"), FPRAtTPR(0.95)])
    found = shared.update(scores=scores, labels=labels).compute()
    values = {
        "auroc": found["AUROC"],
        "aupr_in": found["AUPR-IN"],
        "aupr_out": found["AUPR-OUT"],
        "fpr95_ood": found["FPR95TPR"],
        "fpr95_id": float(functional.fpr_at_tpr(-scores, -1 - labels, 0.95)),
    }
    # An area is a sum of many parts: that of a perfect detector may round to 1 + 2e-16.
    return {name: min(max(value, 0.0), 1.0) for name, value in values.items()}


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of ID images (label >= 0) whose largest logit is their class's.

    Args:
        logits: (N, K).
        labels: (N,); images with labels < 0 are left out.

    Raises:
        UmBenchError: if there is no ID image, or a logit is not finite.
    """
    known = labels >= 0
    if not known.any():
        raise UmBenchError(f"accuracy needs ID images, all {len(labels)} labels are below 0")
    if not logits.isfinite().all():
        raise UmBenchError("accuracy needs finite logits; the classifier's weights are unusable")
    return float(functional.accuracy(logits.argmax(dim=1), labels))


def _check(side: str, scores: Tensor) -> None:
    if scores.ndim != 1 or scores.numel() == 0:
        raise UmBenchError(f"{side} scores must be (N,) with N >= 1, got {tuple(scores.shape)}")
    broken = int((~scores.isfinite()).sum())
    if broken:
        raise UmBenchError(f"{broken} of {len(scores)} {side} scores are not finite")
