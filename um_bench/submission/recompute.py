"""Metrics and ranking from scores once more, by other ways than the run took, without torch.

The run goes along the curves, threshold by threshold. Here the AUROC is a sum of ranks, and both
FPR95 come from one quantile. Nothing is shared but the definitions.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
"""(N,): outlier scores, higher = more OOD, finite."""

SAMPLED = 512
"""As in `um_bench.watch`."""


def metrics_of(id_scores: Row, ood_scores: Row) -> dict[str, float]:
    """Return AUROC, both AUPR and both FPR95 as fractions, as `um_bench.metrics` defines them.

    Args:
        id_scores: (N,), N >= 1.
        ood_scores: (M,), M >= 1.
    """
    return {
        "auroc": _auroc(id_scores, ood_scores),
        "aupr_in": _aupr(-id_scores, -ood_scores),
        "aupr_out": _aupr(ood_scores, id_scores),
        "fpr95_ood": _fpr95(ood_scores, id_scores),
        "fpr95_id": _fpr95(-id_scores, -ood_scores),
    }


def _auroc(id_scores: Row, ood_scores: Row) -> float:
    """Return the share of pairs in which the OOD image scores higher, ties counted half."""
    ordered = np.sort(id_scores)
    below = np.searchsorted(ordered, ood_scores, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(ordered, ood_scores, side="right").sum(dtype=np.int64)
    return int(below + not_above) / (2 * len(id_scores) * len(ood_scores))


def _fpr95(positive: Row, negative: Row) -> float:
    """Return the share of negatives at or above the highest threshold that 95 % of positives reach.

    Args:
        positive: (N,), higher = more positive.
        negative: (M,).
    """
    needed = -(-19 * len(positive) // 20)  # in whole numbers: 0.95 is no binary fraction
    threshold = np.sort(positive)[len(positive) - needed]
    return float(np.count_nonzero(negative >= threshold)) / len(negative)


def _aupr(positive: Row, negative: Row) -> float:
    """Return the area under precision over recall by the trapezoidal rule, from (0, 1) on.

    Args:
        positive: (N,), higher = more positive.
        negative: (M,).
    """
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    hits = _reaching(positive, thresholds)
    precision = np.concatenate([[1.0], hits / (hits + _reaching(negative, thresholds))])
    recall = np.concatenate([[0.0], hits / len(positive)])
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1])) / 2)


def _reaching(scores: Row, thresholds: Row) -> NDArray[np.int64]:
    """Return how many scores are at or above each threshold: (T,)."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def ranking_of(id_scores: Row, ood_scores: Row) -> str:
    """Return what `um_bench.watch.ranking_of` does: a hash of the order, of some and of all."""
    some = [side[_spread(len(side))] for side in (id_scores, ood_scores)]
    return f"{_order(*some)}.{_order(id_scores, ood_scores)}"


def _spread(count: int) -> NDArray[np.int64]:
    taken = min(count, SAMPLED)
    return np.arange(taken, dtype=np.int64) * count // max(taken, 1)


def _order(id_scores: Row, ood_scores: Row) -> str:
    ranks = np.unique(np.concatenate([id_scores, ood_scores]), return_inverse=True)[1]
    digest = hashlib.sha256(str([len(id_scores), len(ood_scores)]).encode())
    digest.update(ranks.astype("<i4").tobytes())
    return digest.hexdigest()[:16]
