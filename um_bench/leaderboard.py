"""Records -> aggregated rows: means over seeds, paired deltas, and every hole with its reason.

A row is one (ID set, backbone, adapter, detector). Its numbers are given for each OOD set and for
each group of sets. A group's number is the unweighted mean over its sets, seed by seed, and only
then mean and standard deviation are taken over seeds.

What is not there is never averaged away:

- A set on which no cell at all is done (nobody has its images) is left out of its group's average,
  for every row alike. The average is then one over "3 of 4 sets", and no row is complete.
- A row that lacks any other set on some seed has no group average on that seed.
- A row is complete for a group if every set of it is done on every seed. Only complete rows are
  compared with each other.

Groups `near-fs` and `far-fs` are the full spectrum: the same OOD sets, scored against the ID test
set and its covariate-shifted sets together. They are groups of their own, never averaged with
`near` and `far`.

Models that were trained with auxiliary outliers are a track of their own, in a table of its own:
they have seen what the others have not. Their deltas are taken from the same references, which are
trained without.
"""

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar

from um_bench import alarms, comparability
from um_bench.alarms import Alarm
from um_bench.comparability import References, Section, is_comparable, is_paired, same_start
from um_bench.errors import UsageError
from um_bench.records import STATES as RECORD_STATES
from um_bench.records import Record, read_folder, to_json
from um_bench.suite import Cell, Job, OodSet, is_full_spectrum

METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_ood", "fpr95_id")
"""Per cell, fractions in [0, 1]."""
REFERENCES = ("none", "finetune")
"""Adapters that every other one is compared with, paired by seed and base weights."""
SECONDS = ("base", "adapt", "outputs", "fit", "score")
NOT_RUN = "not-run"
"""The state of a cell that the suite has and the records do not."""
STATES = (*RECORD_STATES, NOT_RUN)

T = TypeVar("T")
Cells: TypeAlias = dict[tuple[str, int], Record]
"""One row's records by (OOD set, seed)."""
Value: TypeAlias = Callable[[str, int], float | None]
"""(OOD set, seed) -> a number, or None where there is none."""


class RowKey(NamedTuple):
    """What a row is."""

    id_set: str
    backbone: str
    auxiliary: str
    """As in `Section`."""
    adapter_label: str
    detector_label: str

    @property
    def section(self) -> Section:
        """The table that the row is in."""
        return Section(self.id_set, self.backbone, self.auxiliary)


class Spread(NamedTuple):
    """One quantity over seeds, in its own unit (metrics: fractions)."""

    by_seed: dict[int, float]
    mean: float | None
    """None where no seed has a value."""
    sd: float | None
    """Sample standard deviation (n - 1); None for fewer than two seeds."""

    @property
    def n(self) -> int:
        """How many seeds have a value."""
        return len(self.by_seed)


class Part(NamedTuple):
    """One row's numbers on one OOD set, or averaged over the sets of a group."""

    metrics: dict[str, Spread]
    deltas: dict[str, dict[str, Spread]]
    """Reference adapter -> metric -> this row minus the reference, over the seeds that pair."""
    states: dict[str, int]
    """How many cells are in which state; states without a cell are left out."""
    averaged: tuple[str, ...]
    """The sets that the numbers are over."""
    complete: bool
    """Whether every set is done on every seed."""
    alarms: tuple[str, ...]
    """Names of the alarms that any of its cells raises, as in `um_bench.alarms.MEANINGS`."""


class Slot(NamedTuple):
    """One cell's place in a row, and what is known of it."""

    ood_set: str
    group: str
    seed: int
    record: Record | None

    @property
    def state(self) -> str:
        """The record's state, or `not-run`."""
        return self.record.state if self.record else NOT_RUN


class Adapted(NamedTuple):
    """What holds for an adapter whatever the detector; once per job."""

    id_accuracy: Spread
    """Of the adapted models, on the ID test set."""
    base_id_accuracy: Spread
    """Of the classifiers before they were adapted."""
    id_accuracy_deltas: dict[str, Spread]
    """Reference adapter -> this adapter's minus the reference's, over the seeds that pair."""
    notes: dict[str, Spread]
    """What the adapter estimated, e.g. the constraint in nats."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One (ID set, backbone, adapter, detector) over all seeds and OOD sets."""

    key: RowKey
    adapter: str
    """The bare name, as are `none` and `oe+um`; the key has it with its settings."""
    detector: str
    hyperparameters: dict[str, Any]
    """Every value that was used, from one of the row's cells."""
    slots: tuple[Slot, ...]
    sets: dict[str, Part]
    groups: dict[str, Part]
    adapted: Adapted
    seconds: dict[str, Spread]
    """Wall-clock by stage: mean over the row's cells, seed by seed."""

    @property
    def states(self) -> dict[str, int]:
        """How many of the row's cells are in which state."""
        return _count_states(slot.state for slot in self.slots)


class SetFacts(NamedTuple):
    """What the records know of one image set."""

    name: str
    group: str
    """`near`, `far`, ...; `id`; `auxiliary`: outliers that were trained with; or `shifted`: all of
    the covariate-shifted ID images."""
    source: str
    images: tuple[int, ...]
    """How many were scored; more than one number if the records differ."""
    fingerprints: tuple[str, ...]
    """First 12 hex digits; more than one if the records differ."""
    here: bool
    """Whether any cell on it is done."""


class Hole(NamedTuple):
    """Cells that have no numbers for one and the same reason."""

    state: str
    reason: str
    cells: int
    adapters: tuple[str, ...]
    detectors: tuple[str, ...]
    ood_sets: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a suite says of itself: the content of suite.json."""

    name: str
    title: str = ""
    description: str = ""
    fpr95: str = "ood"
    """Which class is positive in the FPR95 that tables show: `ood` or `id`."""
    ood: tuple[OodSet, ...]
    shifted: tuple[tuple[str, str], ...] = ()
    """Names and sources of the covariate-shifted ID sets."""
    seeds: tuple[int, ...] = ()
    adapters: tuple[str, ...] = ()
    """Labels; every one is expected with every detector."""
    tracks: dict[str, str] = field(default_factory=dict)
    """Label -> the auxiliary outliers that its models have seen; empty = none."""
    detectors: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of OOD sets: near, far, any other, then those of the full spectrum."""
        return tuple(dict.fromkeys(ood.group for ood in self.ood))

    @property
    def main_group(self) -> str:
        """The group that orders the rows and that deltas are shown for: far, if there is one."""
        plain = [group for group in self.groups if not is_full_spectrum(group)]
        return (plain or self.groups)[-1]

    def members(self, group: str) -> tuple[str, ...]:
        """The sets of a group, in the suite's order."""
        return tuple(ood.name for ood in self.ood if ood.group == group)


@dataclass(frozen=True, kw_only=True)
class Board:
    """Everything that a leaderboard shows."""

    info: Info
    rows: tuple[Row, ...]
    """Every row that has a record, in the suite's order."""
    states: dict[str, int]
    """How many cells of the suite are in which state, those of rows without any record included."""
    holes: tuple[Hole, ...]
    sets: tuple[SetFacts, ...]
    """The ID sets, then the OOD sets in the suite's order."""
    made_with: dict[str, tuple[str, ...]]
    """`device`, `platform` and distributions -> the values in the records."""
    warnings: tuple[str, ...]
    """What makes numbers less comparable than they look."""
    alarms: tuple[Alarm, ...]
    """What calls for a second look before a number is believed, the most serious first."""

    @property
    def sections(self) -> tuple[Section, ...]:
        """The tables: those without auxiliary outliers first."""
        found = dict.fromkeys(row.key.section for row in self.rows)
        return tuple(sorted(found, key=lambda section: bool(section.auxiliary)))


# --- From a folder ---


def read_board(folder: Path) -> Board:
    """Return the leaderboard of one suite's results folder.

    Raises:
        UsageError: if there are no records, or a file in it cannot be used (it is named).
    """
    return make_board(*read_results(folder))


def read_results(folder: Path) -> tuple[list[Record], Info | None]:
    """Return the records of one suite's results folder, and what the suite says of itself.

    Raises:
        UsageError: if there are no records, or a file in it cannot be used (it is named).
    """
    records = list(read_folder(folder))
    if not records:
        raise UsageError(
            f"{folder}: no records in it. Fill it first (um-bench run --suite NAME), or name the "
            "folder that holds them with --results."
        )
    return records, read_info(folder / "suite.json")


def read_info(path: Path) -> Info | None:
    """Return what a suite says of itself, or None if the file is not there.

    Raises:
        UsageError: if the file is there and cannot be used.
    """
    if not path.exists():
        return None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        info = Info(
            name=str(table["name"]),
            title=str(table.get("title", "")),
            description=str(table.get("description", "")),
            fpr95=table.get("fpr95", "ood"),
            ood=tuple(
                OodSet(str(s["name"]), str(s["group"]), str(s.get("source", "")))
                for s in table["ood"]
            ),
            shifted=tuple((str(k), str(v)) for k, v in table.get("shifted", {}).items()),
            seeds=tuple(int(seed) for seed in table.get("seeds", ())),
            adapters=tuple(str(label) for label in table.get("adapters", ())),
            tracks={str(k): str(v) for k, v in table.get("tracks", {}).items()},
            detectors=tuple(str(label) for label in table.get("detectors", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: does not describe a suite ({type(error).__name__}: {error}). Without this "
            "file the sets, seeds and names are taken from the records."
        ) from error
    if info.fpr95 not in ("ood", "id"):
        raise UsageError(f"{path}: fpr95 must be 'ood' or 'id', got {info.fpr95!r}")
    return info


# --- From records ---


@dataclass(frozen=True, kw_only=True)
class _Sweep:
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


def make_board(records: Iterable[Record], info: Info | None = None) -> Board:
    """Return the leaderboard of a suite's records, in any order.

    Args:
        records: of one suite; of several records of one cell, the latest counts.
        info: the suite's own words and order. What only the records name (sets, seeds,
            adapters, detectors) is shown as well; with None that is all there is.

    Raises:
        UsageError: if there is no record.
    """
    latest, superseded = newest(records)
    if not latest:
        raise UsageError("there are no records to make a leaderboard of")
    unnamed = _unnamed_sets(info, latest) if info else {}
    info = _completed(info, latest)
    sweep = _arrange(latest, info)
    rows = tuple(_row(sweep, key) for key in sweep.rows)
    holes, states = _holes(sweep)
    done = [r for cells in sweep.rows.values() for r in cells.values() if r.state == "done"]
    facts = tuple(_set_facts(info, done))
    return Board(
        info=info,
        rows=rows,
        states=states,
        holes=holes,
        sets=facts,
        made_with=_made_with(done),
        warnings=(
            *_warn_of_records(superseded, unnamed),
            *comparability.of_sets((f.name, f.fingerprints) for f in facts),
            *comparability.of_settings(done),
            *comparability.of_jobs(done),
            *comparability.of_references(sweep.models, sweep.references),
            *comparability.of_recipes(sweep.models, sweep.references),
        ),
        alarms=sweep.alarms,
    )


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


def _completed(info: Info | None, records: Sequence[Record]) -> Info:
    """Return `info` with the OOD sets and seeds that only the records name."""
    if info is None:
        info = Info(name=min(record.suite for record in records), ood=())
    further = (OodSet(name, group, "") for name, group in _unnamed_sets(info, records).items())
    return dataclasses.replace(
        info,
        ood=tuple(sorted((*info.ood, *further), key=lambda ood: _group_order(ood.group))),
        seeds=tuple(sorted({*info.seeds, *(record.seed for record in records)})),
    )


def _unnamed_sets(info: Info | None, records: Iterable[Record]) -> dict[str, str]:
    """Return set -> group of the OOD sets that the records name and `info` does not."""
    named = {ood.name for ood in info.ood} if info else set()
    groups: dict[str, str] = {}
    for record in sorted(records, key=lambda record: (record.ood_set, record.group)):
        if record.ood_set not in named:
            groups.setdefault(record.ood_set, record.group)
    return groups


def _group_order(group: str) -> tuple[bool, int, str]:
    order = {"near": 0, "far": 1, "near-fs": 0, "far-fs": 1}
    return is_full_spectrum(group), order.get(group, 2), group


def _arrange(records: Sequence[Record], info: Info) -> _Sweep:
    checked = [_checked(record) for record in records]
    rows: dict[RowKey, Cells] = {}
    of_any_track: dict[RowKey, Cells] = {}
    models: dict[Job, Record] = {}
    for record in sorted(checked, key=_suite_order(info)):
        key, place = _row_key(record), (record.ood_set, record.seed)
        rows.setdefault(key, {})[place] = record
        of_any_track.setdefault(_trackless(key), {})[place] = record
        if record.state == "done":
            models.setdefault(record.job, record)
    raised = alarms.of_records(checked)
    return _Sweep(
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


def _trackless(key: RowKey) -> RowKey:
    return key._replace(auxiliary="")


def _checked(record: Record) -> Record:
    """Return the record, as failed if it claims to be done and its numbers cannot be used."""
    if record.state != "done":
        return record
    bad = [name for name in METRICS if not _is_fraction(record.metrics.get(name))]
    if not bad:
        return record
    values = ", ".join(f"{name} = {record.metrics.get(name)!r}" for name in bad)
    reason = f"its record says done, but not with fractions in [0, 1]: {values}"
    return dataclasses.replace(record, state="failed", reason=reason)


def _is_fraction(value: object) -> TypeGuard[float]:
    return _is_finite(value) and 0 <= value <= 1


def _is_finite(value: object) -> TypeGuard[float]:
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


# --- Numbers ---


def spread(by_seed: dict[int, float]) -> Spread:
    """Return mean and sample standard deviation over seeds."""
    n = len(by_seed)
    if n == 0:
        return Spread({}, None, None)
    mean = math.fsum(by_seed.values()) / n
    if n == 1:
        return Spread(by_seed, mean, None)
    squares = math.fsum((value - mean) ** 2 for value in by_seed.values())
    return Spread(by_seed, mean, math.sqrt(squares / (n - 1)))


def over_seeds(value: Value, sets: Sequence[str], seeds: Sequence[int]) -> Spread:
    """Return the unweighted mean over `sets` per seed; a seed that lacks one set has none."""
    by_seed = {}
    for seed in seeds:
        values = [v for v in (value(ood_set, seed) for ood_set in sets) if v is not None]
        if values and len(values) == len(sets):
            by_seed[seed] = math.fsum(values) / len(values)
    return spread(by_seed)


def _metric(done: Cells, metric: str) -> Value:
    def value(ood_set: str, seed: int) -> float | None:
        record = done.get((ood_set, seed))
        return record.metrics[metric] if record else None

    return value


def _delta(done: Cells, paired: Cells, metric: str) -> Value:
    def value(ood_set: str, seed: int) -> float | None:
        other = paired.get((ood_set, seed))
        return done[ood_set, seed].metrics[metric] - other.metrics[metric] if other else None

    return value


def _row(sweep: _Sweep, key: RowKey) -> Row:
    info, cells = sweep.info, sweep.rows[key]
    done = {place: record for place, record in cells.items() if record.state == "done"}
    paired = _paired(sweep, key, done)
    slots = [
        Slot(ood.name, ood.group, seed, cells.get((ood.name, seed)))
        for ood in info.ood
        for seed in info.seeds
    ]

    def part(members: Sequence[str]) -> Part:
        its = [slot for slot in slots if slot.ood_set in members]
        return _part(sweep, done, paired, members, its)

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


def _paired(sweep: _Sweep, key: RowKey, done: Cells) -> dict[str, Cells]:
    """Return each reference's cells that a row's done cells can be compared with."""
    found = {}
    for name, label in sweep.references.get((key.id_set, key.backbone), {}).items():
        if label != key.adapter_label:
            theirs = sweep.of_any_track.get(_trackless(key._replace(adapter_label=label)), {})
            found[name] = {
                place: other
                for place, other in theirs.items()
                if place in done and is_paired(done[place], other)
            }
    return found


def _part(
    sweep: _Sweep,
    done: Cells,
    paired: Mapping[str, Cells],
    members: Sequence[str],
    slots: Sequence[Slot],
) -> Part:
    states = _count_states(slot.state for slot in slots)
    raised = [
        alarm.name
        for slot in slots
        if slot.record
        for alarm in sweep.marks.get(slot.record.cell, ())
    ]
    seeds = sweep.info.seeds
    averaged = tuple(name for name in members if name in sweep.here)
    return Part(
        metrics={m: over_seeds(_metric(done, m), averaged, seeds) for m in METRICS},
        deltas={
            name: {m: over_seeds(_delta(done, theirs, m), averaged, seeds) for m in METRICS}
            for name, theirs in paired.items()
        },
        states=states,
        averaged=averaged,
        complete=set(states) == {"done"},
        alarms=tuple(name for name in alarms.MEANINGS if name in raised),
    )


def _count_states(states: Iterable[str]) -> dict[str, int]:
    counts = Counter(states)
    return {state: counts[state] for state in STATES if state in counts}


def _adapted(sweep: _Sweep, key: RowKey) -> Adapted:
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
    return spread({seed: float(value) for seed, value in values.items() if _is_finite(value)})


def _id_accuracy(record: Record) -> float | None:
    value = record.metrics.get("id_accuracy")
    return value if _is_fraction(value) else None


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
        found[seed] = value if _is_fraction(value) else None
    return found


def _accuracy_deltas(mine: Mapping[int, Record], theirs: Mapping[int, Record]) -> dict[int, float]:
    deltas = {}
    for seed in mine.keys() & theirs.keys():
        pair = _id_accuracy(mine[seed]), _id_accuracy(theirs[seed])
        if is_comparable(mine[seed], theirs[seed]) and pair[0] is not None and pair[1] is not None:
            deltas[seed] = pair[0] - pair[1]
    return dict(sorted(deltas.items()))


def _seconds(done: Cells, seeds: Sequence[int]) -> dict[str, Spread]:
    found = {}
    for name in SECONDS:
        times: dict[int, list[float]] = {seed: [] for seed in seeds}
        for (_, seed), record in done.items():
            if _is_finite(record.seconds.get(name)):
                times[seed].append(record.seconds[name])
        by_seed = {seed: math.fsum(of) / len(of) for seed, of in times.items() if of}
        if by_seed:
            found[name] = spread(by_seed)
    return found


# --- Holes, facts, warnings ---


def _expected(sweep: _Sweep) -> Iterator[RowKey]:
    """Yield every row that has a record, and every one that the suite names."""
    yield from sweep.rows
    info = sweep.info
    for id_set, backbone in dict.fromkeys((key.id_set, key.backbone) for key in sweep.rows):
        for adapter, detector in itertools.product(info.adapters, info.detectors):
            key = RowKey(id_set, backbone, info.tracks.get(adapter, ""), adapter, detector)
            if key not in sweep.rows:
                yield key


def _holes(sweep: _Sweep) -> tuple[tuple[Hole, ...], dict[str, int]]:
    found: dict[tuple[str, str], list[tuple[RowKey, str, int]]] = {}
    done = 0
    for key in _expected(sweep):
        cells = sweep.rows.get(key, {})
        for place in ((ood.name, seed) for ood in sweep.info.ood for seed in sweep.info.seeds):
            record = cells.get(place)
            if record and record.state == "done":
                done += 1
                continue
            why = (record.state, record.reason) if record else (NOT_RUN, "")
            found.setdefault(why, []).append((key, *place))
    holes = [_hole(*why, places) for why, places in found.items()]
    holes.sort(key=lambda hole: (STATES.index(hole.state), -hole.cells, hole.reason))
    counts = Counter({"done": done} if done else {})
    for hole in holes:
        counts[hole.state] += hole.cells
    return tuple(holes), {state: counts[state] for state in STATES if state in counts}


def _hole(state: str, reason: str, places: Sequence[tuple[RowKey, str, int]]) -> Hole:
    return Hole(
        state=state,
        reason=reason,
        cells=len(places),
        adapters=_unique(key.adapter_label for key, _, _ in places),
        detectors=_unique(key.detector_label for key, _, _ in places),
        ood_sets=_unique(ood_set for _, ood_set, _ in places),
        seeds=tuple(sorted({seed for _, _, seed in places})),
    )


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _set_facts(info: Info, done: Sequence[Record]) -> Iterator[SetFacts]:
    """Yield what the records know of each set, the ID sets first."""
    images: dict[tuple[str, str], set[int]] = {}
    prints: dict[tuple[str, str], set[str]] = {}
    shifted = ", ".join(name for name, _ in info.shifted) or "covariate-shifted images"
    for record in done:
        names = {"id": record.id_set, "shifted": shifted, "ood": record.ood_set}
        names["auxiliary"] = record.auxiliary
        for kind in names.keys() & {"id", "ood", *record.counts}:
            place = (kind, names[kind])
            images.setdefault(place, set()).add(record.counts.get(kind, 0))
            prints.setdefault(place, set()).add(_start(record.fingerprints.get(kind, "")))
    sources = ", ".join(source for _, source in info.shifted)
    own = [OodSet(name, kind, "") for kind, name in sorted(images) if kind == "id"]
    own += [OodSet(name, kind, sources) for kind, name in images if kind == "shifted"]
    own += [OodSet(name, kind, "") for kind, name in sorted(images) if kind == "auxiliary"]
    for known in (*own, *info.ood):
        place = (known.group if known in own else "ood", known.name)
        counts, hashes = images.get(place, set()) - {0}, prints.get(place, set()) - {""}
        yield SetFacts(*known, tuple(sorted(counts)), tuple(sorted(hashes)), place in images)


def _start(fingerprint: str) -> str:
    """Return the first digits of a fingerprint, or of each of several, joined by `+`."""
    return "+".join(one[:12] for one in fingerprint.split("+"))


def _made_with(done: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {"device": set(), "platform": set()}
    for record in done:
        made = record.provenance
        found["device"].add(made.device)
        found["platform"].add(made.platform)
        for name, version in made.versions.items():
            found.setdefault(name, set()).add(version)
    known = {name: tuple(sorted(values)) for name, values in found.items() if values}
    return dict(sorted(known.items()))


def _warn_of_records(superseded: int, unnamed: Mapping[str, str]) -> Iterator[str]:
    if superseded:
        yield f"Older records of the same cells were set aside: {superseded}."
    if unnamed:
        yield f"The records hold OOD sets that the suite does not name: {', '.join(unnamed)}."
