"""A leaderboard for programs: CSV with a line per cell, and JSON with everything.

Every row and cell names its `adapter` and `detector`. Metrics are fractions in [0, 1]. What is a
time has `seconds` in its name, and nothing else has.

A text that a spreadsheet would compute has an apostrophe in front of it in CSV, and only there:
spreadsheets show it without.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from um_bench.alarms import Alarm
from um_bench.leaderboard import METRICS, SECONDS, Board, Part, Row, Slot, Spread

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Starts of texts that spreadsheets compute. OWASP, CSV Injection."""

DIGITS = 12
"""Of a hash, where it only tells things apart."""


def to_csv(board: Board) -> str:
    """Return one line per cell, seed by seed; a field without a value is empty."""
    cells = [_cell(board, row, slot) for row in board.rows for slot in row.slots]
    lines = _Lines()
    # A field with either half of this terminator is quoted: half of a line's end would do.
    writer = csv.DictWriter(lines, fieldnames=list(cells[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: _defused(value) for name, value in cell.items()} for cell in cells)
    # Half of a surrogate pair can be in JSON, and cannot be written as UTF-8.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


class _Lines(list[str]):
    """What a csv.writer writes, line by line, without the lines' ends."""

    def write(self, line: str) -> None:
        """Take one line."""
        self.append(line.removesuffix("\r\n"))


def _defused(value: Any) -> Any:
    """Return a text that no spreadsheet takes for a formula; numbers stay, negative ones too."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def to_json(board: Board) -> str:
    """Return the suite, the aggregated rows, every cell, and what is missing, as strict JSON."""
    content: dict[str, Any] = {
        "suite": _suite(board),
        "states": board.states,
        "rows": [_row(row) for row in board.rows],
        "cells": [
            {**_cell(board, row, slot), **_details(slot)}
            for row in board.rows
            for slot in row.slots
        ],
        "holes": [hole._asdict() for hole in board.holes],
        "warnings": board.warnings,
        "alarms": [_alarm(alarm) for alarm in board.alarms],
        "rankings": [
            {**table.section._asdict(), "group": table.group, "metric": table.metric}
            | ranking._asdict()
            for table, ranking in board.judged.tables.items()
        ],
        "made_with": board.made_with,
    }
    parts = (f"{json.dumps(name)}: {_lines(value)}" for name, value in content.items())
    return "{\n" + ",\n".join(parts) + "\n}"


def _lines(value: Any) -> str:
    """Return JSON, of a list with a line for each item: short to diff, fast to write."""
    if not isinstance(value, list):
        return _json(value)
    return "[\n" + ",\n".join(map(_lines, value)) + "\n]" if value else "[]"


def _json(value: Any) -> str:
    """Return strict JSON. NaN and infinities, which only an edited file can hold, become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _cell(board: Board, row: Row, slot: Slot) -> dict[str, Any]:
    record = slot.record
    done = record is not None and record.state == "done"
    metrics = record.metrics if record and done else {}
    counts = record.counts if record else {}
    prints = record.fingerprints if record else {}
    weights = record.weights if record else {}
    seconds = record.seconds if record else {}
    return {
        "suite": board.info.name,
        "id_set": row.key.id_set,
        "backbone": row.key.backbone,
        "adapter": row.adapter,
        "adapter_label": row.key.adapter_label,
        "auxiliary": row.key.auxiliary,
        "detector": row.detector,
        "detector_label": row.key.detector_label,
        "seed": slot.seed,
        "ood_set": slot.ood_set,
        "group": slot.group,
        "state": slot.state,
        "reason": record.reason if record else "",
        **{name: metrics.get(name) for name in (*METRICS, "id_accuracy", "base_id_accuracy")},
        "id_images": counts.get("id"),
        "ood_images": counts.get("ood"),
        "id_fingerprint": prints.get("id", "")[:DIGITS],
        "ood_fingerprint": prints.get("ood", "")[:DIGITS],
        "base_weights": weights.get("base", "")[:DIGITS],
        "adapted_weights": weights.get("adapted", "")[:DIGITS],
        **{f"{name}_seconds": seconds.get(name) for name in SECONDS},
    }


def _details(slot: Slot) -> dict[str, Any]:
    """Return what a cell has and a line of CSV has no place for."""
    record = slot.record
    if record is None:
        return {}
    return {
        "key": record.key,
        "job_key": record.job_key,
        "hyperparameters": record.hyperparameters,
        "notes": record.notes,
        "scores": record.scores,
        "traceback": record.traceback,
    }


def _alarm(alarm: Alarm) -> dict[str, Any]:
    return {
        "name": alarm.name,
        **alarm.where._asdict(),
        "text": alarm.text,
        "cells": len(alarm.cells),
    }


def _suite(board: Board) -> dict[str, Any]:
    info = board.info
    return {
        **dataclasses.asdict(info),
        "main_group": info.main_group,
        "shifted": dict(info.shifted),
        "ood": [ood._asdict() for ood in info.ood],
        "sets": [facts._asdict() for facts in board.sets],
    }


def _row(row: Row) -> dict[str, Any]:
    adapted = row.adapted
    return {
        "id_set": row.key.id_set,
        "backbone": row.key.backbone,
        "adapter": row.adapter,
        "adapter_label": row.key.adapter_label,
        "auxiliary": row.key.auxiliary,
        "detector": row.detector,
        "detector_label": row.key.detector_label,
        "hyperparameters": row.hyperparameters,
        "states": row.states,
        "groups": {name: _part(part) for name, part in row.groups.items()},
        "ood_sets": {name: _part(part) for name, part in row.sets.items()},
        "id_accuracy": _spread(adapted.id_accuracy),
        "base_id_accuracy": _spread(adapted.base_id_accuracy),
        "id_accuracy_deltas": dict(_spreads(adapted.id_accuracy_deltas)),
        "notes": dict(_spreads(adapted.notes)),
        **{f"{name}_seconds": _spread(value) for name, value in row.seconds.items()},
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "complete": part.complete,
        "states": part.states,
        "averaged": part.averaged,
        "alarms": part.alarms,
        "ranks": part.ranks,
        **dict(_spreads(part.metrics)),
        "deltas": {
            name: {metric: _difference(delta) for metric, delta in deltas.items()}
            for name, deltas in part.deltas.items()
        },
    }


def _spreads(values: Mapping[str, Spread]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in values.items():
        yield name, _spread(value)


def _spread(value: Spread) -> dict[str, Any]:
    return {"mean": value.mean, "sd": value.sd, "n": value.n, "by_seed": value.by_seed}


def _difference(value: Spread) -> dict[str, Any]:
    interval = value.interval
    return {
        **_spread(value),
        "interval": [interval.low, interval.high] if interval else None,
        "over": interval.over if interval else None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
