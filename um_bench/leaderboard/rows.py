"""The numbers of a row: over seeds, over the sets of a group, and paired with its references."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from um_bench import alarms
from um_bench.comparability import is_comparable, is_paired, same_start
from um_bench.leaderboard.arrangement import Arrangement, Cells, is_finite, is_fraction, trackless
from um_bench.leaderboard.board import (
    METRICS,
    SECONDS,
    Adapted,
    Part,
    Row,
    RowKey,
    Slot,
    Spread,
    count_states,
)
from um_bench.records import Record
from um_bench.suite import Job

Numbers: TypeAlias = Mapping[str, dict[int, float]]
"""OOD set -> seed -> a number; what has none is left out."""


def row_of(sweep: Arrangement, key: RowKey) -> Row:
    """Return one row over all seeds and OOD sets."""
    info, cells = sweep.info, sweep.rows[key]
    done = {place: record for place, record in cells.items() if record.state == "done"}
    numbers = _numbers(done)
    paired = {name: _differences(done, its) for name, its in _paired(sweep, key, done).items()}
    slots = [
        Slot(ood.name, ood.group, seed, cells.get((ood.name, seed)))
        for ood in info.ood
        for seed in info.seeds
    ]

    marked = _marked(sweep, cells)
    by_set = {name: list(its) for name, its in itertools.groupby(slots, lambda slot: slot.ood_set)}

    def part(members: Sequence[str]) -> Part:
        its = [slot for name in members for slot in by_set[name]]
        return _part(sweep, numbers, paired, members, its, marked)

    first = next(iter(cells.values()))
    return Row(
        key=key,
        adapter=first.adapter,
        detector=first.detector,
        hyperparameters=next(iter(done.values()), first).hyperparameters,
        slots=tuple(slots),
        sets={ood.name: part([ood.name]) for ood in info.ood},
        groups={group: part(info.members(group)) for group in info.groups},
        adapted=_adapted(sweep, key),
        seconds=_seconds(done, info.seeds),
    )


def _marked(sweep: Arrangement, cells: Cells) -> dict[tuple[str, int], list[str]]:
    """Return the names of the alarms of a row's cells that have any."""
    if not sweep.marks:
        return {}
    raised = {place: sweep.marks.get(record.cell, ()) for place, record in cells.items()}
    return {place: [alarm.name for alarm in its] for place, its in raised.items() if its}


def _paired(sweep: Arrangement, key: RowKey, done: Cells) -> dict[str, Cells]:
    """Return each reference's cells that a row's done cells can be compared with."""
    found = {}
    for name, label in sweep.references.get((key.id_set, key.backbone), {}).items():
        if label != key.adapter_label:
            theirs = sweep.of_any_track.get(trackless(key._replace(adapter_label=label)), {})
            found[name] = {
                place: other
                for place, other in theirs.items()
                if place in done and is_paired(done[place], other)
            }
    return found


def _numbers(done: Cells) -> dict[str, Numbers]:
    """Return by metric what a row's cells have."""
    its: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for (ood_set, seed), record in done.items():
        its.setdefault(ood_set, []).append((seed, record.metrics))
    return {
        m: {ood_set: {seed: of[m] for seed, of in found} for ood_set, found in its.items()}
        for m in METRICS
    }


def _differences(done: Cells, theirs: Cells) -> dict[str, Numbers]:
    """Return by metric a row's cells minus its reference's."""
    its: dict[str, list[tuple[int, dict[str, float], dict[str, float]]]] = {}
    for place, other in theirs.items():
        its.setdefault(place[0], []).append((place[1], done[place].metrics, other.metrics))
    return {
        m: {
            ood_set: {seed: mine[m] - other[m] for seed, mine, other in found}
            for ood_set, found in its.items()
        }
        for m in METRICS
    }


def _part(
    sweep: Arrangement,
    numbers: Mapping[str, Numbers],
    paired: Mapping[str, Mapping[str, Numbers]],
    members: Sequence[str],
    slots: Sequence[Slot],
    marked: Mapping[tuple[str, int], Sequence[str]],
) -> Part:
    states = count_states(slot.state for slot in slots)
    raised = {name for slot in slots for name in marked.get((slot.ood_set, slot.seed), ())}
    seeds = sweep.info.seeds
    averaged = tuple(name for name in members if name in sweep.here)
    return Part(
        metrics={m: over_seeds(numbers[m], averaged, seeds) for m in METRICS},
        deltas={
            name: {m: over_seeds(differences[m], averaged, seeds) for m in METRICS}
            for name, differences in paired.items()
        },
        states=states,
        averaged=averaged,
        complete=set(states) == {"done"},
        alarms=tuple(name for name in alarms.MEANINGS if name in raised),
    )


def spread(by_seed: dict[int, float]) -> Spread:
    """Return mean and sample standard deviation over seeds."""
    n = len(by_seed)
    if n == 0:
        return Spread({}, None, None)
    mean = math.fsum(by_seed.values()) / n
    if n == 1:
        return Spread(by_seed, mean, None)
    squares = math.fsum([(value - mean) ** 2 for value in by_seed.values()])
    return Spread(by_seed, mean, math.sqrt(squares / (n - 1)))


def over_seeds(numbers: Numbers, sets: Sequence[str], seeds: tuple[int, ...]) -> Spread:
    """Return the unweighted mean over `sets` per seed; a seed that lacks one set has none."""
    its = [numbers.get(name, {}) for name in sets]
    if len(its) == 1:
        (only,) = its
        # Most often every seed is there, in its place.
        return spread(only if (*only,) == seeds else {s: only[s] for s in seeds if s in only})
    shared = set.intersection(*map(set, its)) if its else set()
    return spread(
        {seed: math.fsum([of[seed] for of in its]) / len(its) for seed in seeds if seed in shared}
    )


def _adapted(sweep: Arrangement, key: RowKey) -> Adapted:
    def models(label: str) -> dict[int, Record]:
        jobs = {seed: Job(key.id_set, key.backbone, seed, label) for seed in sweep.info.seeds}
        return {seed: sweep.models[job] for seed, job in jobs.items() if job in sweep.models}

    mine = models(key.adapter_label)
    labels = sweep.references.get((key.id_set, key.backbone), {})
    others = {name: models(label) for name, label in labels.items()}
    notes = sorted({name for record in mine.values() for name in record.notes})
    return Adapted(
        id_accuracy=_spread_of({seed: _id_accuracy(record) for seed, record in mine.items()}),
        base_id_accuracy=_spread_of(_base_accuracies(mine, others.get("none", {}))),
        id_accuracy_deltas={
            name: spread(_accuracy_deltas(mine, theirs))
            for name, theirs in others.items()
            if labels[name] != key.adapter_label
        },
        notes={
            name: _spread_of({seed: record.notes.get(name) for seed, record in mine.items()})
            for name in notes
        },
    )


def _spread_of(values: Mapping[int, float | None]) -> Spread:
    return spread({seed: float(value) for seed, value in values.items() if is_finite(value)})


def _id_accuracy(record: Record) -> float | None:
    value = record.metrics.get("id_accuracy")
    return value if is_fraction(value) else None


def _base_accuracies(
    mine: Mapping[int, Record], unchanged: Mapping[int, Record]
) -> dict[int, float | None]:
    """Return the base models' accuracies: as recorded, or those of `none` on the same weights."""
    found = {}
    for seed, record in mine.items():
        value: float | None = record.metrics.get("base_id_accuracy")
        other = unchanged.get(seed)
        if value is None and other and same_start(record, other):
            value = _id_accuracy(other)
        found[seed] = value if is_fraction(value) else None
    return found


def _accuracy_deltas(mine: Mapping[int, Record], theirs: Mapping[int, Record]) -> dict[int, float]:
    deltas = {}
    for seed in mine.keys() & theirs.keys():
        pair = _id_accuracy(mine[seed]), _id_accuracy(theirs[seed])
        if is_comparable(mine[seed], theirs[seed]) and pair[0] is not None and pair[1] is not None:
            deltas[seed] = pair[0] - pair[1]
    return dict(sorted(deltas.items()))


def _seconds(done: Cells, seeds: Sequence[int]) -> dict[str, Spread]:
    its: dict[int, list[dict[str, float]]] = {seed: [] for seed in seeds}
    for (_, seed), record in done.items():
        its[seed].append(record.seconds)
    found = {}
    for name in SECONDS:
        times = {
            seed: [time for of in tables if is_finite(time := of.get(name))]
            for seed, tables in its.items()
        }
        by_seed = {seed: math.fsum(of) / len(of) for seed, of in times.items() if of}
        if by_seed:
            found[name] = spread(by_seed)
    return found
