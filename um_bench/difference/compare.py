"""Two lists of records -> the cells that moved, those that ended otherwise, those in one only."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from um_bench.difference.causes import ALARMING, KINDS, Cause, explain
from um_bench.leaderboard import newest
from um_bench.records import Record
from um_bench.suite import Cell

METRICS = ("auroc", "fpr95_ood", "fpr95_id", "id_accuracy")
"""Whose changes are shown. A cell has moved as soon as any metric in its record has."""


class Change(NamedTuple):
    """One metric of one cell, fractions; None = that record has no such number."""

    before: float | None
    after: float | None

    @property
    def points(self) -> float | None:
        """After minus before, in percentage points."""
        if self.before is None or self.after is None:
            return None
        return 100 * (self.after - self.before)

    @property
    def size(self) -> float:
        """How much it moved, in points; a number that came or went counts as the whole scale."""
        if self.before == self.after:
            return 0.0
        return 100.0 if self.points is None else abs(self.points)


class Place(NamedTuple):
    """A row of the leaderboard."""

    id_set: str
    backbone: str
    adapter: str
    """Label."""
    detector: str
    """Label."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A cell that is done in both, with other numbers."""

    a: Record
    b: Record
    causes: tuple[Cause, ...]
    changes: dict[str, Change]
    """By metric, all that differ."""

    @property
    def place(self) -> Place:
        """The row that it is in."""
        a = self.a
        return Place(a.id_set, a.backbone, a.adapter_label, a.detector_label)

    @cached_property
    def size(self) -> float:
        """Its largest change, in points."""
        return max(change.size for change in self.changes.values())


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells that moved for the same reasons."""

    causes: tuple[Cause, ...]
    moves: tuple[Move, ...]
    """The largest change first."""

    @property
    def alarming(self) -> bool:
        """Whether it calls for a look at once."""
        return any(cause.kind in ALARMING for cause in self.causes)

    @property
    def rows(self) -> dict[Place, list[Move]]:
        """The moves by row, the row with the largest change first."""
        found: dict[Place, list[Move]] = {}
        for move in self.moves:
            found.setdefault(move.place, []).append(move)
        return found


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What two lists of records of one suite say of each other."""

    in_both: int
    """Cells that have a record on both sides."""
    moved: tuple[Move, ...]
    """The largest change first."""
    ended: tuple[tuple[Record, Record], ...]
    """Cells whose state changed: both records."""
    only_a: tuple[Record, ...]
    only_b: tuple[Record, ...]
    set_aside: tuple[int, int]
    """Older records of the same cells, which were not compared, on each side."""

    @property
    def identical(self) -> int:
        """Cells in both that ended alike, with the same numbers."""
        return self.in_both - len(self.moved) - len(self.ended)

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.moved or self.ended or self.only_a or self.only_b)


def compare(a: Iterable[Record], b: Iterable[Record]) -> Difference:
    """Return what differs between two lists of records, in any order.

    Numbers are compared exactly. Times, dates and notes are not compared.
    """
    (old, old_aside), (new, new_aside) = newest(a), newest(b)
    before: dict[Cell, Record] = {record.cell: record for record in old}
    after: dict[Cell, Record] = {record.cell: record for record in new}
    both = [(record, after[cell]) for cell, record in before.items() if cell in after]
    moved = sorted(_moved(both), key=lambda move: -move.size)
    return Difference(
        in_both=len(both),
        moved=tuple(moved),
        ended=tuple(pair for pair in both if pair[0].state != pair[1].state),
        only_a=tuple(record for cell, record in before.items() if cell not in after),
        only_b=tuple(record for cell, record in after.items() if cell not in before),
        set_aside=(old_aside, new_aside),
    )


def grouped(moves: Iterable[Move]) -> list[Group]:
    """Return moves by what caused them: what alarms first, then the largest change first."""
    found: dict[tuple[Cause, ...], list[Move]] = {}
    for move in sorted(moves, key=lambda move: -move.size):
        found.setdefault(move.causes, []).append(move)
    groups = [Group(causes=causes, moves=tuple(its)) for causes, its in found.items()]
    order = list(KINDS)
    return sorted(groups, key=lambda group: (not group.alarming, _worst(group, order)))


def _worst(group: Group, order: list[str]) -> tuple[int, float]:
    first = order.index(group.causes[0].kind) if group.alarming else 0
    return first, -group.moves[0].size


def _moved(pairs: Iterable[tuple[Record, Record]]) -> Iterator[Move]:
    for a, b in pairs:
        if a.state == b.state == "done" and a.metrics != b.metrics:
            names = dict.fromkeys([*METRICS, *a.metrics, *b.metrics])
            changes = {name: Change(a.metrics.get(name), b.metrics.get(name)) for name in names}
            yield Move(
                a=a,
                b=b,
                causes=explain(a, b),
                changes={k: v for k, v in changes.items() if v.before != v.after},
            )
