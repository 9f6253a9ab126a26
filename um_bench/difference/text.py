"""What moved, as text for a terminal and as JSON values."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tabulate import tabulate

from um_bench.difference.causes import KINDS, UNEXPLAINED
from um_bench.difference.compare import METRICS, Change, Difference, Group, Move, Place, grouped
from um_bench.difference.folders import Report
from um_bench.records import Record
from um_bench.render.text import printable

GROUPS = 12
"""Groups of causes that are shown; JSON has all."""
ROWS = 10
"""Rows of each group that are shown."""
REASONS = 10
WIDTH = 100
_NAMES = 4
_HEADS = {
    "auroc": "AUROC",
    "fpr95_ood": "FPR95 OOD+",
    "fpr95_id": "FPR95 ID+",
    "id_accuracy": "ID accuracy",
}


def as_text(report: Report) -> str:
    """Return the report for a terminal: a summary, then what moved by cause and by row."""
    blocks = [_filled(f"A: {report.a}\nB: {report.b}")]
    for name, difference in report.suites.items():
        blocks += _suite(name, difference)
    for side, names in (("A", report.only_a), ("B", report.only_b)):
        if names:
            blocks.append(_filled(f"Suites in {side} only: {', '.join(names)}."))
    return "\n\n".join(blocks)


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as JSON values. Metrics are fractions, changes too."""
    return {
        "a": str(report.a),
        "b": str(report.b),
        "exit_status": report.exit_status,
        "suites": {name: _difference_dict(one) for name, one in report.suites.items()},
        "suites_only_a": [*report.only_a],
        "suites_only_b": [*report.only_b],
    }


def _difference_dict(difference: Difference) -> dict[str, Any]:
    return {
        "in_both": difference.in_both,
        "identical": difference.identical,
        "moved": [
            {
                "causes": [cause._asdict() for cause in group.causes],
                "alarming": group.alarming,
                "cells": [_move_dict(move) for move in group.moves],
            }
            for group in grouped(difference.moved)
        ],
        "ended": [
            {
                **_cell_dict(a),
                "before": {"state": a.state, "reason": a.reason},
                "after": {"state": b.state, "reason": b.reason},
            }
            for a, b in difference.ended
        ],
        "only_a": [_cell_dict(record) for record in difference.only_a],
        "only_b": [_cell_dict(record) for record in difference.only_b],
        "set_aside": [*difference.set_aside],
    }


def _move_dict(move: Move) -> dict[str, Any]:
    changes = {
        name: {
            "before": change.before,
            "after": change.after,
            "change": None if change.points is None else change.points / 100,
        }
        for name, change in move.changes.items()
    }
    return {
        **_cell_dict(move.a),
        "changes": changes,
        "key": [move.a.key, move.b.key],
        "weights": [move.a.weights, move.b.weights],
    }


def _cell_dict(record: Record) -> dict[str, Any]:
    return {
        "id_set": record.id_set,
        "backbone": record.backbone,
        "seed": record.seed,
        "adapter": record.adapter_label,
        "detector": record.detector_label,
        "ood_set": record.ood_set,
    }


def _suite(name: str, difference: Difference) -> Iterator[str]:
    title = printable(name)
    yield f"{title}\n{'=' * len(title)}\n\n{_filled(_summary(difference))}"
    groups = grouped(difference.moved)
    for group in groups[:GROUPS]:
        yield _group(group)
    if len(groups) > GROUPS:
        cells = sum(len(group.moves) for group in groups[GROUPS:])
        yield (
            f"{_count(cells, 'cell')} moved for {len(groups) - GROUPS} further sets of causes, "
            "which --format json names."
        )
    if difference.ended:
        yield _ended(difference.ended)
    for side, records in (("A", difference.only_a), ("B", difference.only_b)):
        if records:
            yield _filled(f"In {side} only: {_count(len(records), 'cell')}: {_where(records)}.")


def _summary(difference: Difference) -> str:
    parts = [f"{difference.identical:,} identical", f"{len(difference.moved):,} moved"]
    if difference.ended:
        parts.append(f"{len(difference.ended):,} ended otherwise")
    text = f"{_count(difference.in_both, 'cell')} in both: {', '.join(parts)}"
    if difference.moved:
        text += f"; largest {_largest(difference.moved[0])}"
    text += "."
    alarming = [group for group in grouped(difference.moved) if group.causes[0].kind == UNEXPLAINED]
    if alarming:
        cells = sum(len(group.moves) for group in alarming)
        text += f" ALARM: for {_count(cells, 'cell')}, {KINDS[UNEXPLAINED]}."
    for side, records in (("A", difference.only_a), ("B", difference.only_b)):
        text += f" {len(records):,} only in {side}." if records else ""
    for side, count in zip("AB", difference.set_aside, strict=True):
        text += f" Older records of the same cells in {side}: {count:,}." if count else ""
    return text


def _largest(move: Move) -> str:
    name, change = max(move.changes.items(), key=lambda item: item[1].size)
    return f"{_HEADS.get(name, name)} {_points(change)} points ({_cell(move.a)})"


def _cell(record: Record) -> str:
    return (
        f"{record.adapter_label} with {record.detector_label} on {record.ood_set}, "
        f"seed {record.seed}"
    )


def _points(change: Change | None) -> str:
    if change is None or change.before == change.after:
        return ""
    if change.points is None:
        return "came" if change.before is None else "gone"
    # two digits, and never a change that reads as none
    return f"{change.points:+.2f}" if abs(change.points) >= 0.005 else f"{change.points:+.0e}"


def _group(group: Group) -> str:
    kinds = dict.fromkeys(cause.kind for cause in group.causes)
    title = "; ".join(KINDS[kind] for kind in kinds)
    mark = "! " if group.alarming else ""
    lines = [f"{mark}{_count(len(group.moves), 'cell')}: {title}"]
    lines += [_item(f"{cause.kind}: {cause.detail}") for cause in group.causes]
    rows = group.rows
    table = _table(rows, named=_named(rows))
    lines.append(textwrap.indent(table, "  "))
    if len(rows) > ROWS:
        cells = sum(len(moves) for moves in list(rows.values())[ROWS:])
        lines.append(f"  and {len(rows) - ROWS} further rows with {_count(cells, 'cell')}")
    return "\n".join(lines)


def _named(rows: Iterable[Place]) -> bool:
    """Return whether rows have to be told apart by ID set and backbone."""
    return len({(place.id_set, place.backbone) for place in rows}) > 1


def _table(rows: dict[Place, list[Move]], *, named: bool) -> str:
    heads = ["adapter", "detector", "cells", *_HEADS.values(), "largest on"]
    cells = []
    for place, moves in list(rows.items())[:ROWS]:
        most = {name: _most(moves, name) for name in METRICS}
        adapter = f"{place.adapter} ({place.backbone} on {place.id_set})" if named else ""
        first = moves[0].a
        cells.append(
            [
                adapter or place.adapter,
                place.detector,
                f"{len(moves):,}",
                *(_points(change) for change in most.values()),
                f"{first.ood_set}, seed {first.seed}",
            ]
        )
    shown = [[printable(cell) for cell in row] for row in cells]
    align = ("left", "left", "right", *("right" for _ in _HEADS), "left")
    return str(tabulate(shown, headers=heads, colalign=align, disable_numparse=True))


def _most(moves: Sequence[Move], name: str) -> Change | None:
    changes = [move.changes[name] for move in moves if name in move.changes]
    return max(changes, key=lambda change: change.size, default=None)


def _ended(pairs: Sequence[tuple[Record, Record]]) -> str:
    found: dict[tuple[str, str, str], list[Record]] = {}
    for a, b in pairs:
        reason = b.reason if b.state != "done" else a.reason
        found.setdefault((a.state, b.state, reason), []).append(b)
    most = sorted(found.items(), key=lambda item: -len(item[1]))
    lines = ["Ended otherwise:"]
    for (before, after, reason), records in most[:REASONS]:
        why = f": {' '.join(reason.split())[:300]}" if reason else ""
        count = _count(len(records), "cell")
        lines.append(_item(f"{before} -> {after}, {count} ({_where(records)}){why}"))
    if len(most) > REASONS:
        lines.append(f"  and {len(most) - REASONS} further reasons, which --format json names")
    return "\n".join(lines)


def _where(records: Sequence[Record]) -> str:
    parts = (
        _which("adapter", Counter(record.adapter_label for record in records)),
        _which("detector", Counter(record.detector_label for record in records)),
        _which("OOD set", Counter(record.ood_set for record in records)),
        _which("seed", Counter(str(record.seed) for record in records)),
    )
    return "; ".join(parts)


def _which(kind: str, names: Counter[str]) -> str:
    listed = ", ".join(list(names)[:_NAMES])
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{kind}{'s' * (len(names) > 1)} {listed}{more}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _item(text: str) -> str:
    return _filled(text, first="  ", rest="    ")


def _filled(text: str, first: str = "", rest: str = "") -> str:
    """Return a text of one or several lines, each printable and none too long."""
    return "\n".join(
        textwrap.fill(
            printable(line),
            WIDTH,
            initial_indent=first,
            subsequent_indent=rest,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for line in text.split("\n")
    )
