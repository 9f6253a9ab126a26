"""The columns of a table: what each shows of a row, and which end of it is better."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from um_bench.alarms import ACCURACY_LOST
from um_bench.comparability import Section
from um_bench.errors import UsageError, unknown_name
from um_bench.leaderboard import (
    METRICS,
    REFERENCES,
    Board,
    Info,
    Part,
    Row,
    Spread,
    higher_is_better,
    spread,
)
from um_bench.render import values, words
from um_bench.render.values import Reading, Value

COLUMNS_SHOWN = ("auroc", "fpr95", "rank", "id-accuracy", "delta")
"""Those of the standard table; `fpr95` is the one of the suite's convention."""
COLUMNS = ("auroc", "fpr95", *METRICS[1:], "rank", "id-accuracy", "delta", "cost")
HIGHER, LOWER, NEITHER = 1, -1, 0
_NOTHING = Spread({}, None, None)
_SCORING = ("outputs", "fit", "score")


class Column(NamedTuple):
    """The head of a column."""

    group: str
    """What neighbouring columns share; empty for names."""
    name: str
    note: str = ""
    """What its numbers are over, `3 of 4 sets`, if that is not everything."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A column of numbers: its head, where they come from, how they are written."""

    name: str
    """What `--columns` calls it; of a metric, its name."""
    column: Column
    part: str = ""
    """The group or OOD set that it is about; empty for what is the same for all."""
    read: Callable[[Row], Reading]
    write: Callable[[Reading, int], Value] = values.mean_and_sd
    better: int = NEITHER


def named(info: Info, columns: Sequence[str]) -> list[str]:
    """Return the columns without repetition, `fpr95` in the suite's convention.

    Raises:
        UsageError: if there is none, or a name is unknown.
    """
    if not columns:
        raise UsageError(f"no column to show; known are {', '.join(sorted(COLUMNS))}")
    for name in columns:
        if name not in COLUMNS:
            raise unknown_name("column", name, COLUMNS)
    return list(dict.fromkeys(f"fpr95_{info.fpr95}" if n == "fpr95" else n for n in columns))


def metrics_of(columns: Sequence[str]) -> list[str]:
    """Return those columns that are metrics."""
    return [name for name in columns if name in METRICS]


def main_quantities(board: Board, section: Section, columns: Sequence[str]) -> list[Quantity]:
    """Return the columns of a section's main table, group by group."""
    quantities = [
        quantity
        for group in board.info.groups
        for quantity in _of_group(board, section, group, columns)
    ]
    for name in columns:
        if name == "id-accuracy":
            quantities += _accuracies()
        elif name == "delta":
            quantities += _deltas(board, section)
        elif name == "cost":
            quantities += _costs()
    return quantities


def set_quantities(board: Board, metric: str) -> list[Quantity]:
    """Return a column for each OOD set, and each group's mean."""
    quantities = []
    for group in board.info.groups:
        title = words.group_title(group)
        for name in board.info.members(group):
            quantities.append(_of_part(Column(title, name), metric, name, _set_of(name)))
        head = Column(title, "mean", words.sets_missing(board, group))
        quantities.append(_of_part(head, metric, group, _group_of(group)))
    return quantities


def delta_quantities(board: Board, section: Section) -> list[Quantity]:
    """Return the AUROC gained over each reference: on every group, then on every OOD set."""
    info = board.info
    parts = [(name, _group_of(name)) for name in info.groups]
    parts += [(ood.name, _set_of(ood.name)) for ood in info.ood]
    return [
        Quantity(
            name="delta",
            part=name,
            column=Column(f"Δ {words.group_title(name)} AUROC", f"vs {reference}"),
            read=_delta(part, reference),
            write=values.difference,
        )
        for reference in _references(board, section)
        for name, part in parts
    ]


def _of_group(
    board: Board, section: Section, group: str, columns: Sequence[str]
) -> Iterator[Quantity]:
    title, missing = words.group_title(group), words.sets_missing(board, group)
    for metric in metrics_of(columns):
        arrow = "↑" if _better(metric) == HIGHER else "↓"
        head = Column(title, f"{words.METRIC[metric]} {arrow}", missing)
        ranked = board.tells_apart(section, group, metric)
        yield _of_part(head, metric, group, _group_of(group), ranked=ranked)
    if "rank" in columns and board.tells_apart(section, group, "auroc"):
        read = _part_reader("auroc", _group_of(group), ranked=True)
        yield Quantity(
            name="rank", part=group, column=Column(title, "rank"), read=read, write=values.ranks
        )


def _better(metric: str) -> int:
    return HIGHER if higher_is_better(metric) else LOWER


def _of_part(
    column: Column, metric: str, name: str, part: Callable[[Row], Part], *, ranked: bool = False
) -> Quantity:
    read = _part_reader(metric, part, ranked=ranked)
    return Quantity(name=metric, part=name, column=column, read=read, better=_better(metric))


def _part_reader(
    metric: str, part: Callable[[Row], Part], *, ranked: bool
) -> Callable[[Row], Reading]:
    def read(row: Row) -> Reading:
        its = part(row)
        missing = [state for state in its.states if state != "done"]
        instead = words.STATE[missing[0]] if missing else words.NO_NUMBER
        raised = its.alarms if metric == "auroc" else ()
        marked = tuple(name for name in raised if name != ACCURACY_LOST)
        rank = its.ranks.get(metric) if ranked else None
        return Reading(its.metrics[metric], its.complete, instead, marked, rank)

    return read


def _group_of(group: str) -> Callable[[Row], Part]:
    return lambda row: row.groups[group]


def _set_of(name: str) -> Callable[[Row], Part]:
    return lambda row: row.sets[name]


def _accuracies() -> Iterator[Quantity]:
    def adapted(row: Row) -> Reading:
        raised = {name for part in row.groups.values() for name in part.alarms}
        marked = (ACCURACY_LOST,) if ACCURACY_LOST in raised else ()
        return Reading(row.adapted.id_accuracy, alarms=marked)

    def base(row: Row) -> Reading:
        return Reading(row.adapted.base_id_accuracy)

    name = "id-accuracy"
    yield Quantity(name=name, column=Column("ID acc.", "adapted"), read=adapted)
    yield Quantity(name=name, column=Column("ID acc.", "base"), read=base, write=values.mean)


def _deltas(board: Board, section: Section) -> Iterator[Quantity]:
    for quantity in delta_quantities(board, section):
        if quantity.part == board.info.main_group:
            yield quantity


def _references(board: Board, section: Section) -> list[str]:
    """Return the adapters that any row of a section is compared with."""
    group = board.info.main_group
    rows = (row for row in board.rows if row.key.section == section)
    known = {name for row in rows for name in row.groups[group].deltas}
    return [name for name in REFERENCES if name in known]


def _delta(part: Callable[[Row], Part], reference: str) -> Callable[[Row], Reading]:
    def read(row: Row) -> Reading:
        its = part(row)
        return Reading(its.deltas.get(reference, {}).get("auroc", _NOTHING), its.complete)

    return read


def _adapting(row: Row) -> Spread:
    return row.seconds.get("adapt", _NOTHING)


def _scoring(row: Row) -> Spread:
    stages = [row.seconds[name] for name in _SCORING if name in row.seconds]
    if len(stages) < len(_SCORING):
        return _NOTHING
    seeds = set.intersection(*(set(stage.by_seed) for stage in stages))
    return spread({seed: sum(stage.by_seed[seed] for stage in stages) for seed in sorted(seeds)})


COSTS: dict[str, Callable[[Row], Spread]] = {"adapting": _adapting, "scoring": _scoring}
"""Seconds of a row: for one model, and for one OOD set on average."""


def _costs() -> Iterator[Quantity]:
    for name, of in COSTS.items():
        read = functools.partial(_cost, of)
        column = Column("seconds", name)
        yield Quantity(name="cost", column=column, read=read, write=values.seconds)


def _cost(of: Callable[[Row], Spread], row: Row) -> Reading:
    return Reading(of(row))
