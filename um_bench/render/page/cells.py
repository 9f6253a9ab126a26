"""The records behind the numbers, as data: what each cell came to, and what it was made from.

Every row has the same places: OOD set by OOD set, and seed by seed within. What many cells share
(images, settings, the model) is kept once.
"""

from typing import Any

from um_bench.alarms import MEANINGS
from um_bench.leaderboard import METRICS, Board, Slot
from um_bench.records import Record
from um_bench.render import words
from um_bench.render.page.packing import Packed
from um_bench.render.values import percent
from um_bench.suite import Cell

DIGITS = 12
"""Of the hash that is another one for every cell; those that cells share are whole."""
_STAGES = ("outputs", "fit", "score")
"""Seconds that differ from cell to cell."""


class _Cells:
    """The columns, filled record by record."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[int | None]] = {name: [] for name in METRICS}
        self.keys: list[str] = []
        self.scores: list[str] = []
        self.seconds: dict[str, Packed[str]] = {name: Packed() for name in _STAGES}
        self.packed: dict[str, Packed[Any]] = {
            name: Packed()
            for name in (
                *("state", "reason", "traceback", "created", "made", "model", "images"),
                *("settings", "alarms"),
            )
        }

    def add(self, slot: Slot, raised: list[int], like: int) -> None:
        """Take the next cell. The last one with this `like` was on the same images, most often."""
        record = slot.record
        done = record is not None and record.state == "done"
        for name, column in self.metrics.items():
            value = record.metrics.get(name) if record and done else None
            column.append(None if value is None else int(percent(value).replace(".", "")))
        self.keys.append(record.key[:DIGITS] if record else "")
        self.scores.append(record.scores_check if record else "")
        for name, times in self.seconds.items():
            taken = record.seconds.get(name) if record else None
            times.add("" if taken is None else f"{taken:.3g}")
        for name, value in _shared(slot, raised).items():
            self.packed[name].add(value, like if name == "images" else None)

    def table(self) -> dict[str, Any]:
        """Return all columns."""
        return {
            "metrics": self.metrics,
            "key": self.keys,
            "scores": self.scores,
            "seconds": {name: column.table() for name, column in self.seconds.items()},
            **{name: column.table() for name, column in self.packed.items()},
        }


def cells_of(board: Board) -> dict[str, Any]:
    """Return what is known of each cell, row by row and place by place."""
    raised: dict[Cell, list[int]] = {}
    for place, alarm in enumerate(board.alarms):
        for cell in alarm.cells:
            raised.setdefault(cell, []).append(place)
    cells = _Cells()
    for row in board.rows:
        for place, slot in enumerate(row.slots):
            its = raised.get(slot.record.cell, []) if slot.record and raised else []
            cells.add(slot, its, like=place)
    return cells.table()


def alarms_of(board: Board) -> list[dict[str, str]]:
    """Return each alarm: its name, what that means, and where what was seen."""
    return [
        {"name": alarm.name, "means": MEANINGS.get(alarm.name, ""), "text": alarm.line}
        for alarm in board.alarms
    ]


def holes_of(board: Board) -> list[dict[str, Any]]:
    """Return what is not done, by reason."""
    return [{**hole._asdict(), "state": words.STATE[hole.state]} for hole in board.holes]


def _shared(slot: Slot, raised: list[int]) -> dict[str, Any]:
    record = slot.record
    state = {"state": words.STATE[slot.state], "alarms": raised}
    if record is None:
        nothing = dict.fromkeys(("reason", "traceback", "created"), "")
        return state | nothing | dict.fromkeys(("made", "model", "images", "settings"), None)
    return {
        **state,
        "reason": record.reason,
        "traceback": record.traceback,
        "created": record.provenance.created,
        "made": _made(record),
        "model": _model(record),
        "images": {"counts": record.counts, "fingerprints": record.fingerprints},
        "settings": record.hyperparameters,
    }


def _made(record: Record) -> dict[str, Any]:
    made = record.provenance
    return {
        "device": made.device,
        "platform": made.platform,
        "threads": made.threads,
        "deterministic": made.deterministic,
        "versions": made.versions,
    }


def _model(record: Record) -> dict[str, Any]:
    accuracies = ("id_accuracy", "base_id_accuracy")
    return {
        "job": record.job_key,
        "weights": record.weights,
        "accuracy": {n: record.metrics[n] for n in accuracies if n in record.metrics},
        "notes": record.notes,
        "losses": record.losses,
        "opened": record.opened,
        "seconds": {n: t for n, t in record.seconds.items() if n not in _STAGES},
    }

