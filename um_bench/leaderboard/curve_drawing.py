"""A cell's scores -> the curve of it that is kept."""

import numpy as np
from numpy.typing import NDArray

from um_bench.curves import shared_histogram, thinned_roc
from um_bench.leaderboard.curve_file import BINS, POINTS, STEPS, Curve

_DIGITS = 6


def curve_of(id: NDArray[np.float32], ood: NDArray[np.float32]) -> Curve:
    """Return the curve of outlier scores (N,) and (M,), higher = more OOD."""
    roc, histogram = thinned_roc(id, ood, POINTS), shared_histogram(id, ood, BINS)
    points = np.stack([roc.fpr, roc.tpr])
    steps = np.diff(_corners(np.rint(points * STEPS).astype(np.int64)))
    return {
        "fpr": steps[0].tolist(),
        "tpr": steps[1].tolist(),
        "edges": [float(f"{edge:.{_DIGITS}g}") for edge in histogram.edges[[0, -1]]],
        "id": histogram.id_counts.tolist(),
        "ood": histogram.ood_counts.tolist(),
    }


def _corners(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the points (2, P) at which a line turns, with its ends."""
    steps = np.diff(points)
    moved = np.concatenate([[True], (steps != 0).any(axis=0)])
    points = points[:, moved]
    steps = np.diff(points)
    turns = steps[0, :-1] * steps[1, 1:] != steps[1, :-1] * steps[0, 1:]
    return points[:, np.concatenate([[True], turns, [True]])]
