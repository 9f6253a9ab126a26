"""Curves of the cells' scores, kept beside the records: scores stay with whoever ran the suite.

A curve is of scores, so it is known by their check, which the record has. Whatever else changes
in the records, a curve is never shown of other scores than its own.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from um_bench.records import UNREADABLE, Record, write_atomically

FILE = "curves.json"
MOST_CURVES = 2_500
"""Cells: of more, none are kept, because a page of 3 MB would not hold them."""
POINTS = 61
"""Of a ROC."""
BINS = 30
STEPS = 1_000
"""Rates are whole numbers of this."""
_SCHEMA = 1

Curve: TypeAlias = dict[str, list[float]]
"""`fpr` and `tpr`: steps from point to point of the ROC, in 1 / STEPS. `edges`: first and last of
the histogram. `id` and `ood`: images in each of its BINS bins; the outer ones have all beyond."""
Curves: TypeAlias = dict[str, Curve]
"""`scores_check` of a record -> its curve."""
_NAMES = frozenset(("fpr", "tpr", "edges", "id", "ood"))


def update_curves(folder: Path, records: Iterable[Record]) -> None:
    """Write the curves of all records whose scores are here, or were when they were drawn.

    Raises:
        UsageError: if a file of scores is whole and holds something else.
        StorageError: if the file cannot be written.
    """
    wanted = {r.scores_check: r for r in records if r.state == "done" and r.scores_check}
    if len(wanted) > MOST_CURVES:
        (folder / FILE).unlink(missing_ok=True)
        return
    from um_bench.leaderboard.curve_drawing import curve_of  # late: numpy
    from um_bench.scores import is_whole, load_scores

    before = read_curves(folder)
    found = {check: before[check] for check in wanted.keys() & before.keys()}
    for check in wanted.keys() - found.keys():
        path = folder / wanted[check].scores
        if is_whole(path, check):
            found[check] = curve_of(**load_scores(path))
    if found != before:
        write_atomically(folder / FILE, f"{to_json(found)}\n".encode())


def to_json(curves: Curves) -> str:
    """Return curves as JSON, a line for each, in an order that depends on their keys alone."""
    lines = [
        f"{json.dumps(check)}: {json.dumps(curves[check], separators=(',', ':'))}"
        for check in sorted(curves)
    ]
    return f'{{"schema": {_SCHEMA}, "curves": {{\n' + ",\n".join(lines) + "\n}}"


def read_curves(folder: Path) -> Curves:
    """Return the curves in a folder; none where there is no file, or not such a one."""
    try:
        table = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if table["schema"] != _SCHEMA:
            return {}
        return {str(check): _checked(curve) for check, curve in table["curves"].items()}
    except (OSError, *UNREADABLE):
        return {}  # they are drawn again where the scores are


def _checked(curve: Mapping[str, Sequence[Any]]) -> Curve:
    if curve.keys() != _NAMES or len(curve["fpr"]) != len(curve["tpr"]):
        raise ValueError("no curve")
    for name, numbers in curve.items():
        kinds = (int, float) if name == "edges" else (int,)
        if type(numbers) is not list or any(type(number) not in kinds for number in numbers):
            raise ValueError(f"{name} are no numbers")
    if not all(map(math.isfinite, curve["edges"])):
        raise ValueError("an edge is not finite")
    return {name: list(numbers) for name, numbers in curve.items()}
