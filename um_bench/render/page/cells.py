"""The records behind the numbers, as data: what each cell came to, and what it was made from.

Every row has the same places: OOD set by OOD set, and seed by seed within. What many cells share
(images, settings, the model) is kept once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from um_bench.alarms import MEANINGS
from um_bench.leaderboard import METRICS, Board, Slot
from um_bench.records import Record
from um_bench.render import words
from um_bench.render.page.packing import Packed, packed, shown
from um_bench.render.values import hundredths
from um_bench.suite import Cell

DIGITS = 12
"""Of the hash that is another one for every cell; those that cells share are whole."""
_OF_CELL = ("outputs", "fit", "score")
"""Seconds that differ from cell to cell."""
_TEXTS: Mapping[str, Callable[[Record], str]] = {
    "reason": lambda record: record.reason,
    "traceback": lambda record: record.traceback,
    "created": lambda record: record.provenance.created,
}
_SHARED: Mapping[str, tuple[tuple[str, ...], Callable[[Record], tuple[Any, ...]]]] = {
    "made": (
        ("device", "platform", "threads", "deterministic", "versions"),
        lambda record: (
            record.provenance.device,
            record.provenance.platform,
            record.provenance.threads,
            record.provenance.deterministic,
            record.provenance.versions,
        ),
    ),
    "model": (
        ("job", "weights", "notes", "losses", "opened"),
        lambda record: (
            record.job_key,
            record.weights,
            record.notes,
            record.losses,
            record.opened,
        ),
    ),
    "accuracy": (
        ("id_accuracy", "base_id_accuracy"),
        lambda record: (
            record.metrics.get("id_accuracy"),
            record.metrics.get("base_id_accuracy"),
        ),
    ),
    "stages": (
        ("data", "base", "adapt"),
        lambda record: (
            record.seconds.get("data"),
            record.seconds.get("base"),
            record.seconds.get("adapt"),
        ),
    ),
    "images": (
        ("counts", "fingerprints"),
        lambda record: (record.counts, record.fingerprints),
    ),
    "settings": (("all",), lambda record: (record.hyperparameters,)),
}
"""Column -> names of its values, and how they are read."""


def cells_of(board: Board) -> dict[str, Any]:
    """Return what is known of each cell, row by row and place by place."""
    slots = [slot for row in board.rows for slot in row.slots]
    records = [slot.record for slot in slots]
    places = [place for row in board.rows for place in range(len(row.slots))]
    return {
        "metrics": {name: _all_hundredths(records, name) for name in METRICS},
        "key": [record.key[:DIGITS] if record else "" for record in records],
        "scores": [record.scores_check if record else "" for record in records],
        "state": _column(packed(words.STATE[slot.state] for slot in slots)),
        "alarms": _column(packed(_raised(board, slots), places)),
        "seconds": {
            name: _column(packed(_seconds(record, name) for record in records)) for name in _OF_CELL
        },
        **{
            name: _column(packed(read(record) if record else "" for record in records))
            for name, read in _TEXTS.items()
        },
        **{
            name: _named(names, packed((read(r) if r else None for r in records), alike))
            for name, (names, read) in _SHARED.items()
            # A row has one detector and many models and sets: they come again in the next row.
            for alike in [None if name == "settings" else places]
        },
    }


def _column(column: Packed[Any]) -> dict[str, Any]:
    return {"of": shown(column.of), "at": column.at}


def _named(names: Sequence[str], column: Packed[Any]) -> dict[str, Any]:
    """Return a packed column of tuples as one of tables; None stays."""
    tables = [value and dict(zip(names, value, strict=True)) for value in column.of]
    return {"of": shown(tables), "at": column.at}


def _all_hundredths(records: Sequence[Record | None], metric: str) -> list[int | None]:
    return [
        hundredths(record.metrics[metric]) if record and record.state == "done" else None
        for record in records
    ]


def _seconds(record: Record | None, stage: str) -> str:
    seconds = record.seconds.get(stage) if record else None
    return "" if seconds is None else f"{seconds:.3g}"


def _raised(board: Board, slots: Sequence[Slot]) -> list[list[int]]:
    """Return for each slot the places of its alarms among all."""
    raised: dict[Cell, list[int]] = {}
    for place, alarm in enumerate(board.alarms):
        for cell in alarm.cells:
            raised.setdefault(cell, []).append(place)
    if not raised:
        return [[]] * len(slots)
    return [raised.get(slot.record.cell, []) if slot.record else [] for slot in slots]


def alarms_of(board: Board) -> list[dict[str, str]]:
    """Return each alarm: its name, what that means, and where what was seen."""
    return [
        {"name": alarm.name, "means": MEANINGS.get(alarm.name, ""), "text": alarm.line}
        for alarm in board.alarms
    ]


def holes_of(board: Board) -> list[dict[str, Any]]:
    """Return what is not done, by reason."""
    return [{**hole._asdict(), "state": words.STATE[hole.state]} for hole in board.holes]
