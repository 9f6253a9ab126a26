"""What every page shows, before it has a format: tables of values, and the words around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from um_bench.leaderboard import Board, Info, Row
from um_bench.render import columns as columns_of
from um_bench.render import words
from um_bench.render.columns import NEITHER, Column, Quantity
from um_bench.render.values import Reading, Value, percent

ORDERS = ("auroc", "detector", "adapter")


class Grid(NamedTuple):
    """A table. Its first two columns name the adapter and the detector."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that is shown, in its order."""

    name: str
    title: str
    description: tuple[str, ...]
    """Paragraphs."""
    reading: tuple[str, ...]
    """How to read the numbers: above the tables."""
    grids: tuple[Grid, ...]
    notes: tuple[words.Notes, ...]
    """Below the tables."""


def view(
    board: Board, *, per_set: bool, order: str, columns: Sequence[str], marks: words.Marks
) -> Page:
    """Return the page of a leaderboard.

    Args:
        board: what is shown.
        per_set: as in `render`.
        order: as in `render`.
        columns: as in `render`.
        marks: how the format marks the best of a column.

    Raises:
        UsageError: if a column is unknown.
    """
    info = board.info
    chosen = columns_of.named(info, columns)
    metrics = columns_of.metrics_of(chosen)
    grids: list[Grid] = []
    for section in board.sections:
        rows = [row for row in board.rows if row.key.section == section]
        rows.sort(key=_row_order(info, order))
        title = words.section_title(section) if len(board.sections) > 1 else ""
        quantities = columns_of.main_quantities(board, section, chosen)
        grids.append(_grid(title, info, rows, quantities))
        for metric in metrics if per_set else ():
            name = ": ".join(filter(None, (title, f"{words.METRIC[metric]}, OOD set by OOD set")))
            grids.append(_grid(name, info, rows, columns_of.set_quantities(board, metric)))
    return Page(
        name=info.name,
        title=info.title or info.name,
        description=words.paragraphs(info.description),
        reading=words.reading(board, metrics, order),
        grids=tuple(grids),
        notes=words.notes(board, chosen, marks),
    )


def _row_order(info: Info, order: str) -> Callable[[Row], tuple[object, ...]]:
    """Return a sort key; rows that it does not tell apart stay in the suite's order."""
    known = {label: i for i, label in enumerate(info.detectors)}

    def key(row: Row) -> tuple[object, ...]:
        if order == "adapter":  # the rows' own order
            return ()
        if order == "detector":
            label = row.key.detector_label
            return known.get(label, len(known)), label
        auroc = row.groups[info.main_group].metrics["auroc"]
        return auroc.n == 0, auroc.n < len(info.seeds), -(auroc.mean or 0.0)

    return key


def _grid(title: str, info: Info, rows: Sequence[Row], quantities: Sequence[Quantity]) -> Grid:
    columns = [
        values_of(info, [quantity.read(row) for row in rows], quantity) for quantity in quantities
    ]
    names = ((row.key.adapter_label, row.key.detector_label) for row in rows)
    labels = [tuple(Value(name, is_number=False) for name in pair) for pair in names]
    return Grid(
        title,
        (Column("", "adapter"), Column("", "detector"), *(q.column for q in quantities)),
        tuple(
            (*label, *values)
            for label, values in zip(labels, zip(*columns, strict=True), strict=True)
        ),
    )


def values_of(info: Info, readings: Sequence[Reading], quantity: Quantity) -> list[Value]:
    """Return what a column shows of the rows of a table, the best and what is tied marked."""
    expected = len(info.seeds)
    best = _best(readings, quantity, expected)
    shown = [quantity.write(reading, expected) for reading in readings]
    for place, reading in enumerate(readings):
        if place in best:
            shown[place] = shown[place]._replace(best=True)
        elif quantity.better != NEITHER and _is_tied(reading):
            shown[place] = shown[place]._replace(tied=True)
    return shown


def _is_tied(reading: Reading) -> bool:
    return reading.rank is not None and reading.rank.first == 1


def _best(readings: Sequence[Reading], quantity: Quantity, expected: int) -> set[int]:
    """Return the places of the best mean; all that look the same as it are as good."""
    shown = {
        place: float(percent(reading.spread.mean))
        for place, reading in enumerate(readings)
        if reading.complete and reading.spread.n == expected and reading.spread.mean is not None
    }
    if quantity.better == NEITHER or len(shown) < 2:
        return set()
    best = max(value * quantity.better for value in shown.values())
    return {place for place, value in shown.items() if value * quantity.better == best}
