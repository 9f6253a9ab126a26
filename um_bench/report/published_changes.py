"""What a paper says that its method changed, beside what it changed here, and what differs."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from um_bench.leaderboard import Board, Row, Spread
from um_bench.published import Entry, Report
from um_bench.report.differences import between

ID_ACCURACY = "id_accuracy"


class Beside(NamedTuple):
    """One published difference, and the same one here."""

    source: str
    """Title."""
    adapter: str
    reference: str
    detector: str
    """As the source calls it; empty for ID accuracy."""
    over: str
    """What the published number is averaged over; `id` for ID accuracy."""
    metric: str
    """As the source names it: `auroc`, `fpr95`, ..., `id_accuracy`."""
    published: float
    """Difference of the published means, a fraction."""
    here: dict[str, Spread]
    """Group -> the difference here; `id` for ID accuracy."""


def beside_published(board: Board, entries: Iterable[Entry]) -> list[Beside]:
    """Return the published differences of adapters that the board has, beside its own.

    A published difference is that of two numbers of one source, which differ in the training
    alone: an adapter and `none`, or `oe+um` and `oe`. It is a difference of means; how the two
    were paired, no source says.
    """
    id_sets = {row.key.id_set for row in board.rows}
    known = {
        (e.source.title, e.training.adapter, _name(e), e.over, e.metric): e
        for e in entries
        if e.protocol.id_set in id_sets and e.training.adapter
    }
    adapters = {row.key.adapter_label for row in board.rows}
    found = []
    for (source, adapter, detector, over, metric), entry in known.items():
        reference = adapter.split("+")[0] if "+" in adapter else "none"
        other = known.get((source, reference, detector, over, metric))
        if adapter == reference or other is None or not {adapter, reference} <= adapters:
            continue
        ours = entry.detector.detector if entry.detector else ""
        here = dict(_here(board, (adapter, reference), ours, entry))
        if here:
            published = entry.mean - other.mean
            found.append(
                Beside(source, adapter, reference, detector, over, metric, published, here)
            )
    return found


def _name(entry: Entry) -> str:
    return entry.detector.name if entry.detector else ""


def _here(
    board: Board, pair: tuple[str, str], detector: str, entry: Entry
) -> Iterator[tuple[str, Spread]]:
    ours, theirs = (_row(board, adapter, detector) for adapter in pair)
    if ours is None or theirs is None:
        return
    if entry.metric == ID_ACCURACY:
        found = between(ours, theirs, lambda row: row.adapted.id_accuracy)
        if found is not None:
            yield "id", found
        return
    positive = entry.protocol.fpr95_positive
    metric = f"fpr95_{positive}" if entry.metric == "fpr95" else entry.metric
    if metric not in next(iter(ours.groups.values())).metrics:
        return  # a source that does not state its convention
    for group in board.info.groups:
        found = between(ours, theirs, partial(_of_group, group, metric))
        if found is not None:
            yield group, found


def _of_group(group: str, metric: str, row: Row) -> Spread:
    return row.groups[group].metrics[metric]


def _row(board: Board, adapter: str, detector: str) -> Row | None:
    its = (row for row in board.rows if row.key.adapter_label == adapter)
    return next((row for row in its if not detector or row.detector == detector), None)


def why_not_comparable(report: Report, sources: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return for each source every reason that stands against comparing its numbers with these.

    Args:
        report: of `um-bench check`.
        sources: titles.
    """
    reasons: dict[str, dict[str, None]] = {title: {} for title in sources}
    for refusal in report.refused:
        if refusal.entry.source.title in reasons:
            reasons[refusal.entry.source.title].update(dict.fromkeys(refusal.reasons))
    return {title: tuple(its) for title, its in reasons.items()}
