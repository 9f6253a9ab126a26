"""The numbers of a page as data: what the tables would show, seed by seed as well.

A page computes nothing: every text that it shows is written by `um_bench.render.values`, and every
mark is decided in `um_bench.render.view`. Percents travel as whole hundredths, which are exactly
the two decimals that are shown.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from um_bench.comparability import Section
from um_bench.leaderboard import METRICS, Board, Row, Spread
from um_bench.render import columns as columns_of
from um_bench.render import values, words
from um_bench.render.columns import COLUMNS, Quantity
from um_bench.render.values import Reading, Value
from um_bench.render.view import values_of

_KINDS: dict[Callable[[Reading, int], Value], str] = {
    values.mean: "percent",
    values.mean_and_sd: "percent",
    values.difference: "difference",
    values.seconds: "text",
    values.ranks: "text",
}


def sections_of(board: Board) -> list[dict[str, Any]]:
    """Return each table: what its rows have in common, their names, and their columns."""
    return [_section(board, section) for section in board.sections]


def _section(board: Board, section: Section) -> dict[str, Any]:
    places = [i for i, row in enumerate(board.rows) if row.key.section == section]
    rows = [board.rows[i] for i in places]
    return {
        **section._asdict(),
        "title": words.section_title(section),
        "rows": places,
        "adapters": [row.key.adapter_label for row in rows],
        "detectors": [row.key.detector_label for row in rows],
        "columns": [
            _column(board, rows, view, quantity) for view, quantity in _quantities(board, section)
        ],
    }


def _quantities(board: Board, section: Section) -> Iterator[tuple[str, Quantity]]:
    """Yield every column once: of the averages, of each OOD set, and of the differences."""
    info = board.info
    shown = [name for name in COLUMNS if name not in ("fpr95", "delta")]
    for quantity in columns_of.main_quantities(board, section, shown):
        yield "mean", quantity
    for metric in METRICS:
        for quantity in columns_of.set_quantities(board, metric):
            if quantity.part not in info.groups:
                yield "set", quantity
    for quantity in columns_of.delta_quantities(board, section):
        yield "delta", quantity


def _column(board: Board, rows: Sequence[Row], view: str, quantity: Quantity) -> dict[str, Any]:
    readings = [quantity.read(row) for row in rows]
    shown = values_of(board.info, readings, quantity)
    kind = _KINDS[quantity.write]
    write = _digits if kind != "text" else str
    there = [reading.spread.mean is not None for reading in readings]
    column = {
        "view": view,
        "name": quantity.name,
        "part": quantity.part,
        "group": quantity.column.group,
        "head": quantity.column.name,
        "note": quantity.column.note,
        "kind": kind,
        "better": quantity.better,
        "mean": [write(v.text) if here else None for v, here in zip(shown, there, strict=True)],
        "sd": [_digits(value.sd) if value.sd else None for value in shown],
        "half": [_digits(value.half) if value.half else None for value in shown],
        # Of one OOD set and one seed, the cell has the number.
        "seeds": _by_seed(board, readings, quantity) if view != "set" else {},
        **_marks(shown, readings, there, kind),
    }
    return {name: value for name, value in column.items() if not _is_void(value)}


def _is_void(value: Any) -> bool:
    return value in ("", {}) or (isinstance(value, list) and all(one is None for one in value))


def _marks(
    shown: Sequence[Value], readings: Sequence[Reading], there: Sequence[bool], kind: str
) -> dict[str, Any]:
    """Return the rows of a column that have a mark, and what stands where there is no number."""
    is_delta = kind == "difference"
    return {
        "best": [i for i, value in enumerate(shown) if value.best],
        "tied": [i for i, value in enumerate(shown) if value.tied],
        "sure": [i for i, reading in enumerate(readings) if is_delta and _excludes_zero(reading)],
        "instead": {i: shown[i].text for i, here in enumerate(there) if not here},
        "incomplete": {i: value.incomplete for i, value in enumerate(shown) if value.incomplete},
        "alarms": {i: value.alarms for i, value in enumerate(shown) if value.alarms},
    }


def _excludes_zero(reading: Reading) -> bool:
    interval = reading.spread.interval
    return interval is not None and not interval.low <= 0 <= interval.high


def _by_seed(board: Board, readings: Sequence[Reading], quantity: Quantity) -> dict[int, list[Any]]:
    """Return each seed's values, for as long as its list has any."""
    if quantity.write is values.ranks:
        return {}
    seeds = board.info.seeds
    if quantity.write is values.seconds:
        return {
            seed: [_seconds(quantity, reading.spread, seed) for reading in readings]
            for seed in seeds
        }
    spreads = [reading.spread.by_seed for reading in readings]
    return {
        seed: [values.hundredths(by[seed]) if seed in by else None for by in spreads]
        for seed in seeds
    }


def _seconds(quantity: Quantity, spread: Spread, seed: int) -> str | None:
    value = spread.by_seed.get(seed)
    if value is None:
        return None
    return quantity.write(Reading(Spread({seed: value}, value, None)), 1).text


def _digits(text: str) -> int:
    """Return a text with two decimals as a whole number of hundredths."""
    return int(text.replace(".", ""))
