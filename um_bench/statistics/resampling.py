"""Bootstrap replicates of a cell's metrics, over ID and OOD images, from one sort of its scores.

A replicate draws as many images as there are, with replacement. How often each was drawn depends on
the set of images alone, so two models that scored the same images have the same replicates: their
difference, replicate by replicate, is paired by image, and neither needs the other's scores.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from um_bench.errors import UsageError
from um_bench.statistics.terms import METRICS, REPLICATES

Array: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.float64] | NDArray[np.int32]
"""Weights: whole numbers where they are counts."""
Label = TypeVar("Label")

_SEED = 20261124
_AT_ONCE = 1 << 18
"""Images times replicates held at a time: measured, larger arrays take longer for each image."""


class ImageSet(NamedTuple):
    """Which images were scored."""

    fingerprint: str
    """Of their content: equal for equal images in equal order, and for nothing else."""
    images: int


class Sampled(NamedTuple):
    """A metric of one model on one set, or averaged over sets; fractions in [0, 1]."""

    value: float
    replicates: Array | None = None
    """(B,): the metric on each resample of the images; None where no scores are kept."""


@dataclass(frozen=True)
class Arranged:
    """The scores of one model on one ID and one OOD set, sorted once for any weights."""

    id_order: NDArray[np.intp]
    """(N,): ID images by score, ascending."""
    ood_order: NDArray[np.intp]
    """(M,): OOD images by score, ascending."""
    id_below: NDArray[np.intp]
    """(M,): how many ID images score lower than each OOD image, in `ood_order`."""
    id_up_to: NDArray[np.intp]
    """(M,): lower or equal."""
    ood_up_to: NDArray[np.intp]
    """(N,): how many OOD images score lower than each ID image or equal, in `id_order`."""


def arrange(id_scores: ArrayLike, ood_scores: ArrayLike) -> Arranged:
    """Return the order of outlier scores, higher = more OOD; only exactly equal ones tie.

    Args:
        id_scores: (N,).
        ood_scores: (M,).

    Raises:
        UsageError: if a side is empty, is not one score per image, or has one that is not finite.
    """
    of_id, of_ood = _checked("ID", id_scores), _checked("OOD", ood_scores)
    id_order, ood_order = np.argsort(of_id, kind="stable"), np.argsort(of_ood, kind="stable")
    of_id, of_ood = of_id[id_order], of_ood[ood_order]
    return Arranged(
        id_order,
        ood_order,
        np.searchsorted(of_id, of_ood, side="left"),
        np.searchsorted(of_id, of_ood, side="right"),
        np.searchsorted(of_ood, of_id, side="right"),
    )


def weighted_metrics(
    scores: Arranged, id_weights: ArrayLike, ood_weights: ArrayLike
) -> dict[str, Array]:
    """Return metric -> (B,): what `um_bench.metrics.ood_metrics` gives for weighted images.

    The weighted AUROC is the weighted mean of placement values: the share of ID that scores lower
    than an OOD image, ties counted half. Whole numbers as weights give exact sums, and so the same
    bytes on every machine.

    Source: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, "Comparing the areas under two or more
    correlated receiver operating characteristic curves", Biometrics 44 (1988).

    Args:
        scores: from `arrange`.
        id_weights: (B, N), not negative, each row with a positive sum; order of the images.
        ood_weights: (B, M), likewise.
    """
    of_id = _cumulated(_ordered(id_weights, scores.id_order))
    ood = _ordered(ood_weights, scores.ood_order)
    of_ood = _cumulated(ood)
    id_total, ood_total = of_id[:, -1], of_ood[:, -1]
    lower = of_id.take(scores.id_below, axis=1)
    tied = not np.array_equal(scores.id_below, scores.id_up_to)
    placed = np.einsum("bm,bm->b", lower, ood, dtype=np.float64)
    if tied:
        up_to = of_id.take(scores.id_up_to, axis=1)
        placed = (placed + np.einsum("bm,bm->b", up_to, ood, dtype=np.float64)) / 2
    # The highest threshold that at least 95 % of OOD reach, and the lowest that 95 % of ID keep to.
    reached = _leading(of_ood[:, :-1], lambda below: (ood_total - below) / ood_total >= 0.95) - 1
    kept = _leading(of_id[:, 1:], lambda up_to: up_to / id_total < 0.95)
    replicate = np.arange(len(of_id))
    flagged = id_total - of_id[replicate, scores.id_below[reached]]
    accepted = of_ood[replicate, scores.ood_up_to[kept]]
    return {
        "auroc": placed / id_total / ood_total,
        "fpr95_ood": flagged / id_total,
        "fpr95_id": accepted / ood_total,
    }


def sample_metrics(
    scores: Mapping[Label, tuple[ArrayLike, ArrayLike]],
    id_set: ImageSet,
    ood_set: ImageSet,
    replicates: int = REPLICATES,
) -> dict[Label, dict[str, Sampled]]:
    """Return, for each model, metric -> value and replicates on one ID and one OOD set.

    Models are independent of each other; several at once share the drawing of images. Images of
    the two sets are drawn independently, those of the ID set alike for every OOD set, so that
    `mean_over_sets` of what this returns is a replicate of the group's average.

    Source: A. B. Owen, D. Eckles, "Bootstrapping data arrays of arbitrary order", Annals of Applied
    Statistics 6 (2012): one weight for each image, whatever else it is crossed with.

    Args:
        scores: outlier scores (N,) of the ID set and (M,) of the OOD set, by model.
        id_set: what was scored, for N = `id_set.images`.
        ood_set: for M = `ood_set.images`.
        replicates: B. The first of them do not depend on how many there are. A set of one image
            cannot be resampled: then there are none.

    Raises:
        UsageError: if scores are missing or not finite, or not as many as the images.
    """
    arranged = {label: arrange(*pair) for label, pair in scores.items()}
    for label, one in arranged.items():
        given = len(one.id_order), len(one.ood_order)
        if given != (id_set.images, ood_set.images):
            raise UsageError(
                f"{label}: {given[0]} ID and {given[1]} OOD scores, but the sets have "
                f"{id_set.images} and {ood_set.images} images. Score all of both, in their order."
            )
    found: dict[Label, list[dict[str, Array]]] = {label: [] for label in scores}
    varying = min(id_set.images, ood_set.images) > 1
    for counts in _drawn((id_set, ood_set), replicates if varying else 0):
        for label, one in arranged.items():
            found[label].append(weighted_metrics(one, *counts))
    once = np.ones((1, id_set.images), dtype=int), np.ones((1, ood_set.images), dtype=int)
    sampled = {}
    for label, one in arranged.items():
        plain = weighted_metrics(one, *once)
        sampled[label] = {
            metric: Sampled(float(plain[metric][0]), _joined(metric, found[label]))
            for metric in METRICS
        }
    return sampled


def mean_over_sets(parts: Sequence[Sampled]) -> Sampled:
    """Return the unweighted mean over OOD sets of one model's metric, as groups have it.

    Raises:
        UsageError: if there is nothing to average, or the numbers of replicates differ.
    """
    if not parts:
        raise UsageError("there is no set to average over")
    value = float(np.mean([part.value for part in parts]))
    samples = [part.replicates for part in parts if part.replicates is not None]
    if len(samples) < len(parts):
        return Sampled(value)
    return Sampled(value, np.mean(stacked(samples), axis=0))


def stacked(samples: Sequence[Array]) -> Array:
    """Return replicates (K, B) of K values.

    Raises:
        UsageError: if they are not equally many.
    """
    counts = sorted({len(sample) for sample in samples})
    if len(counts) > 1:
        raise UsageError(
            f"replicates can be paired only if there are equally many; these have {counts}. "
            "Make them all with the same number."
        )
    return np.stack(samples).astype(np.float64)


def draw_counts(images: ImageSet, replicates: int) -> Iterator[NDArray[np.int32]]:
    """Yield one (N,) per replicate: how often each image was drawn; whole numbers with sum N."""
    for (counts,) in _drawn((images,), replicates):
        yield from counts


def _drawn(sets: Sequence[ImageSet], replicates: int) -> Iterator[list[NDArray[np.int32]]]:
    """Yield counts (b, N) for each set, for some replicates at a time."""
    streams = [np.random.PCG64(np.random.SeedSequence(_entropy(one))) for one in sets]
    at_once = max(1, _AT_ONCE // max(one.images for one in sets))
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        yield [_counts(stream, one.images, size) for stream, one in zip(streams, sets, strict=True)]


def _entropy(images: ImageSet) -> list[int]:
    digest = hashlib.sha256(f"{images.fingerprint}\0{images.images}".encode()).digest()
    return [_SEED, *(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4))]


def _counts(stream: np.random.PCG64, images: int, size: int) -> NDArray[np.int32]:
    # Raw bits, because numpy promises these to stay the same, and not what Generator makes of them
    # (NEP 19). Half of one is a draw; being not quite even costs images / 2^32 of a probability.
    raw = stream.random_raw((size, (images + 1) // 2)).astype("<u8", copy=False)
    places = raw.view("<u4")[:, :images].astype(np.uint64)  # numpy 1 would not widen the product
    places *= np.uint64(images)
    places >>= np.uint64(32)
    places += np.arange(size, dtype=np.uint64)[:, None] * np.uint64(images)
    counts = np.bincount(places.view(np.int64).ravel(), minlength=size * images)
    return counts.reshape(size, images).astype(np.int32)


def _joined(metric: str, parts: Sequence[Mapping[str, Array]]) -> Array | None:
    return np.concatenate([part[metric] for part in parts]) if parts else None


def _ordered(weights: ArrayLike, order: NDArray[np.intp]) -> Numbers:
    array = np.asarray(weights)
    # Whole numbers stay whole: they add up exactly, and many times as fast.
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.int32, copy=False).take(order, axis=1)
    return array.astype(np.float64, copy=False).take(order, axis=1)


def _cumulated(weights: Numbers) -> Numbers:
    """Return (B, N + 1): the weight of the first 0 .. N images."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), dtype=weights.dtype)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _leading(sums: Numbers, holds: Callable[[Numbers], NDArray[np.bool_]]) -> NDArray[np.intp]:
    """Return (B,): for how many of the first columns a condition holds, by bisection.

    Args:
        sums: (B, N), ascending in each row.
        holds: (B,), one value of each row -> whether; true up to some column and then false.
    """
    rows, last = np.arange(len(sums)), sums.shape[1] - 1
    low, high = np.zeros(len(sums), dtype=np.intp), np.full(len(sums), last + 1, dtype=np.intp)
    while (low < high).any():
        middle = (low + high) // 2
        further = holds(sums[rows, np.minimum(middle, last)]) & (low < high)
        high = np.where(further | (low == high), high, middle)
        low = np.where(further, middle + 1, low)
    return low


def _checked(side: str, scores: ArrayLike) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{side} scores must be (N,) with N >= 1, got {array.shape}")
    broken = int((~np.isfinite(array)).sum())
    if broken:
        raise UsageError(f"{broken} of {len(array)} {side} scores are not finite")
    return array
