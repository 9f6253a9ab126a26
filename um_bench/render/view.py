"""What every page shows, before it has a format: tables of values, and the words around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from um_bench.alarms import ACCURACY_LOST
from um_bench.errors import unknown_name
from um_bench.leaderboard import METRICS, REFERENCES, Board, Info, Part, Row, Spread
from um_bench.render import words

METRICS_SHOWN = ("auroc", "fpr95")
"""The metrics of the standard table; `fpr95` is the one of the suite's convention."""
ORDERS = ("auroc", "detector", "adapter")
HIGHER, LOWER, NEITHER = 1, -1, 0


class Value(NamedTuple):
    """What one place of a table shows. All text is raw: every format escapes it in its way."""

    text: str
    """A name, a mean in percent, or why there is none."""
    sd: str = ""
    """Standard deviation in percent; empty where there is none."""
    best: bool = False
    """Whether it is the best of its column, among the complete ones."""
    incomplete: str = ""
    """What it is over, `2 of 3 seeds`, if that is not everything."""
    is_number: bool = True
    alarms: tuple[str, ...] = ()
    """Names of the alarms that what it is made of raises."""

    @property
    def marks(self) -> str:
        """What stands beside the number, each sign explained below the table."""
        return words.INCOMPLETE * bool(self.incomplete) + words.ALARM * bool(self.alarms)


class Column(NamedTuple):
    """The head of a column."""

    group: str
    """What neighbouring columns share; empty for names."""
    name: str
    note: str = ""
    """What its numbers are over, `3 of 4 sets`, if that is not everything."""


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


class _Reading(NamedTuple):
    """What one row has for one column."""

    spread: Spread
    complete: bool
    instead: str = words.NO_NUMBER
    """Shown where there is no number."""
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """A column of numbers: its head, where it comes from, which end of it is better."""

    column: Column
    read: Callable[[Row], _Reading]
    better: int = NEITHER
    signed: bool = False
    with_sd: bool = True


def view(board: Board, *, per_set: bool, order: str, metrics: Sequence[str], best: str) -> Page:
    """Return the page of a leaderboard.

    Args:
        board: what is shown.
        per_set: as in `render`.
        order: as in `render`.
        metrics: as in `render`.
        best: how the format marks the best of a column, in words.

    Raises:
        UsageError: if a metric is unknown.
    """
    info = board.info
    chosen = [_metric_name(info, name) for name in metrics]
    grids: list[Grid] = []
    for section in board.sections:
        rows = [row for row in board.rows if row.key.section == section]
        rows.sort(key=_row_order(info, order))
        title = words.section_title(section) if len(board.sections) > 1 else ""
        grids.append(_grid(title, info, rows, _main_quantities(board, rows, chosen)))
        for metric in chosen if per_set else ():
            name = ": ".join(filter(None, (title, f"{words.METRIC[metric]}, OOD set by OOD set")))
            grids.append(_grid(name, info, rows, _set_quantities(board, metric)))
    return Page(
        name=info.name,
        title=info.title or info.name,
        description=words.paragraphs(info.description),
        reading=words.reading(board, chosen, order),
        grids=tuple(grids),
        notes=words.notes(board, chosen, best),
    )


def _metric_name(info: Info, name: str) -> str:
    if name == "fpr95":
        return f"fpr95_{info.fpr95}"
    if name not in METRICS:
        raise unknown_name("metric", name, ("fpr95", *METRICS))
    return name


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


# --- Columns ---


def _main_quantities(board: Board, rows: Sequence[Row], metrics: Sequence[str]) -> list[_Quantity]:
    info = board.info
    quantities = [
        _of_part(_head(board, group, metric), metric, _group_of(group))
        for group in info.groups
        for metric in metrics
    ]
    quantities += [
        _Quantity(column=Column("ID acc.", "adapted"), read=_read_id_accuracy),
        _Quantity(column=Column("ID acc.", "base"), read=_read_base_accuracy, with_sd=False),
    ]
    known = {name for row in rows for name in row.groups[info.main_group].deltas}
    return quantities + [_delta(info, name) for name in REFERENCES if name in known]


def _set_quantities(board: Board, metric: str) -> list[_Quantity]:
    quantities = []
    for group in board.info.groups:
        title = words.group_title(group)
        for name in board.info.members(group):
            quantities.append(_of_part(Column(title, name), metric, _set_of(name)))
        head = Column(title, "mean", words.sets_missing(board, group))
        quantities.append(_of_part(head, metric, _group_of(group)))
    return quantities


def _head(board: Board, group: str, metric: str) -> Column:
    arrow = "↑" if _better(metric) == HIGHER else "↓"
    name = f"{words.METRIC[metric]} {arrow}"
    return Column(words.group_title(group), name, words.sets_missing(board, group))


def _better(metric: str) -> int:
    return LOWER if metric.startswith("fpr95") else HIGHER


def _of_part(column: Column, metric: str, part: Callable[[Row], Part]) -> _Quantity:
    def read(row: Row) -> _Reading:
        its = part(row)
        missing = [state for state in its.states if state != "done"]
        instead = words.STATE[missing[0]] if missing else words.NO_NUMBER
        raised = its.alarms if metric == "auroc" else ()
        marked = tuple(name for name in raised if name != ACCURACY_LOST)
        return _Reading(its.metrics[metric], its.complete, instead, marked)

    return _Quantity(column=column, read=read, better=_better(metric))


def _group_of(group: str) -> Callable[[Row], Part]:
    return lambda row: row.groups[group]


def _set_of(name: str) -> Callable[[Row], Part]:
    return lambda row: row.sets[name]


def _read_id_accuracy(row: Row) -> _Reading:
    raised = {name for part in row.groups.values() for name in part.alarms}
    marked = (ACCURACY_LOST,) if ACCURACY_LOST in raised else ()
    return _Reading(row.adapted.id_accuracy, complete=True, alarms=marked)


def _read_base_accuracy(row: Row) -> _Reading:
    return _Reading(row.adapted.base_id_accuracy, complete=True)


def _delta(info: Info, reference: str) -> _Quantity:
    nothing = Spread({}, None, None)

    def read(row: Row) -> _Reading:
        part = row.groups[info.main_group]
        return _Reading(part.deltas.get(reference, {}).get("auroc", nothing), part.complete)

    group = words.group_title(info.main_group)
    column = Column(f"Δ {group} AUROC", f"vs {reference}")
    return _Quantity(column=column, read=read, signed=True)


# --- Values ---


def _grid(title: str, info: Info, rows: Sequence[Row], quantities: Sequence[_Quantity]) -> Grid:
    columns = [_values(info, rows, quantity) for quantity in quantities]
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


def _values(info: Info, rows: Sequence[Row], quantity: _Quantity) -> list[Value]:
    readings = [quantity.read(row) for row in rows]
    expected = len(info.seeds)
    best = _best(readings, quantity, expected)
    return [
        _value(reading, quantity, expected)._replace(best=place in best)
        for place, reading in enumerate(readings)
    ]


def _best(readings: Sequence[_Reading], quantity: _Quantity, expected: int) -> set[int]:
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


def _value(reading: _Reading, quantity: _Quantity, expected: int) -> Value:
    spread = reading.spread
    if spread.mean is None:
        return Value(reading.instead)
    with_sd = quantity.with_sd and spread.sd is not None
    return Value(
        percent(spread.mean, signed=quantity.signed),
        sd=percent(spread.sd) if with_sd and spread.sd is not None else "",
        incomplete=f"{spread.n} of {expected} seeds" if spread.n < expected else "",
        alarms=reading.alarms,
    )


def percent(fraction: float, *, signed: bool = False) -> str:
    """Return a fraction in percent with two decimals; zero has no sign."""
    text = f"{100 * fraction:+.2f}" if signed else f"{100 * fraction:.2f}"
    return text.lstrip("+-") if float(text) == 0 else text
