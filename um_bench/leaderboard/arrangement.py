"""Records by row, checked and in the suite's order: what every row's numbers are computed from."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from um_bench import alarms
from um_bench.alarms import Alarm
from um_bench.comparability import References
from um_bench.leaderboard.board import METRICS, REFERENCES, Info, RowKey
from um_bench.records import Record, to_json
from um_bench.suite import Cell, Job, OodSet, is_full_spectrum

Cells: TypeAlias = dict[tuple[str, int], Record]
"""One row's records by (OOD set, seed)."""


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """The records, arranged; what every row's numbers are computed from."""

    info: Info
    rows: dict[RowKey, Cells]
    of_any_track: dict[RowKey, Cells]
    """The same, whatever the track, which is left out of the key."""
    alarms: tuple[Alarm, ...]
    marks: Mapping[Cell, tuple[Alarm, ...]]
    """The alarms of each cell that has any."""
    models: dict[Job, Record]
    """Each job's first done cell: its accuracy, weights and notes are the job's."""
    here: frozenset[str]
    """OOD sets on which any cell is done."""
    references: References


def newest(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Return one record per cell, the latest made, and how many were set aside for it."""
    kept: dict[Any, Record] = {}
    superseded = 0
    for record in records:
        other = kept.setdefault(record.cell, record)
        if other is not record:
            superseded += 1
            kept[record.cell] = max(record, other, key=_age)
    return list(kept.values()), superseded


def _age(record: Record) -> tuple[str, str]:
    # The text decides between records of one second, so that the order of files does not.
    return record.provenance.created, to_json(record)


def completed(info: Info | None, records: Sequence[Record]) -> Info:
    """Return `info` with the OOD sets and seeds that only the records name."""
    if info is None:
        info = Info(name=min(record.suite for record in records), ood=())
    further = (OodSet(name, group, "") for name, group in unnamed_sets(info, records).items())
    return dataclasses.replace(
        info,
        ood=tuple(sorted((*info.ood, *further), key=lambda ood: _group_order(ood.group))),
        seeds=tuple(sorted({*info.seeds, *(record.seed for record in records)})),
    )


def unnamed_sets(info: Info | None, records: Iterable[Record]) -> dict[str, str]:
    """Return set -> group of the OOD sets that the records name and `info` does not."""
    named = {ood.name for ood in info.ood} if info else set()
    groups: dict[str, str] = {}
    for ood_set, group in sorted({(record.ood_set, record.group) for record in records}):
        if ood_set not in named:
            groups.setdefault(ood_set, group)
    return groups


def _group_order(group: str) -> tuple[bool, int, str]:
    order = {"near": 0, "far": 1, "near-fs": 0, "far-fs": 1}
    return is_full_spectrum(group), order.get(group, 2), group


def arrange(records: Sequence[Record], info: Info) -> Arrangement:
    """Return one record per cell, arranged; `info` names every set and seed of theirs."""
    checked = [_checked(record) for record in records]
    rows: dict[RowKey, Cells] = {}
    of_any_track: dict[RowKey, Cells] = {}
    models: dict[Job, Record] = {}
    for record in sorted(checked, key=_suite_order(info)):
        key, place = _row_key(record), (record.ood_set, record.seed)
        rows.setdefault(key, {})[place] = record
        if record.state == "done":
            models.setdefault(record.job, record)
    for key, cells in rows.items():
        of_any_track.setdefault(trackless(key), {}).update(cells)
    raised = alarms.of_records(checked)
    return Arrangement(
        info=info,
        rows=rows,
        alarms=raised,
        marks=alarms.by_cell(raised),
        of_any_track=of_any_track,
        models=models,
        here=frozenset(r.ood_set for r in checked if r.state == "done"),
        references=_references(rows),
    )


def _row_key(record: Record) -> RowKey:
    return RowKey(
        record.id_set,
        record.backbone,
        record.auxiliary,
        record.adapter_label,
        record.detector_label,
    )


def trackless(key: RowKey) -> RowKey:
    """Return the row's key without its track."""
    return key._replace(auxiliary="")


def _checked(record: Record) -> Record:
    """Return the record, as failed if it claims to be done and its numbers cannot be used."""
    if record.state != "done":
        return record
    bad = [name for name in METRICS if not is_fraction(record.metrics.get(name))]
    if not bad:
        return record
    values = ", ".join(f"{name} = {record.metrics.get(name)!r}" for name in bad)
    reason = f"its record says done, but not with fractions in [0, 1]: {values}"
    return dataclasses.replace(record, state="failed", reason=reason)


def is_fraction(value: object) -> TypeGuard[float]:
    """Return whether a value is a number in [0, 1]."""
    return is_finite(value) and 0 <= value <= 1


def is_finite(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number; True is none."""
    # Asked a million times for a large board, nearly always of a float.
    if type(value) is float:
        return math.isfinite(value)
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _suite_order(info: Info) -> Callable[[Record], Any]:
    """Return a sort key: the suite's order, then what it does not name by alphabet."""
    adapters = {label: i for i, label in enumerate(info.adapters)}
    detectors = {label: i for i, label in enumerate(info.detectors)}
    sets = {ood.name: i for i, ood in enumerate(info.ood)}

    def key(record: Record) -> Any:
        return (
            record.id_set,
            record.backbone,
            record.auxiliary,
            adapters.get(record.adapter_label, len(adapters)),
            record.adapter_label,
            detectors.get(record.detector_label, len(detectors)),
            record.detector_label,
            sets[record.ood_set],
            record.seed,
        )

    return key


def _references(rows: Mapping[RowKey, Cells]) -> References:
    """Return the label of each reference: its bare name, or the only one it was run under."""
    labels: dict[tuple[str, str], dict[str, set[str]]] = {}
    for key, cells in rows.items():
        adapter = next(iter(cells.values())).adapter
        if adapter in REFERENCES:
            found = labels.setdefault((key.id_set, key.backbone), {}).setdefault(adapter, set())
            found.add(key.adapter_label)
    return {
        place: {
            name: name if name in found[name] else min(found[name])
            for name in REFERENCES
            if name in found and (name in found[name] or len(found[name]) == 1)
        }
        for place, found in labels.items()
    }
