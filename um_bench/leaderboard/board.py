"""What a leaderboard is made of: rows, their parts, and what is missing. Plain data."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from um_bench.alarms import Alarm
from um_bench.comparability import Section
from um_bench.leaderboard.curve_file import Curves
from um_bench.papers import Cited
from um_bench.records import STATES as RECORD_STATES
from um_bench.records import Record
from um_bench.statistics import Interval, Over, RankRange
from um_bench.suite import OodSet, is_full_spectrum

METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_ood", "fpr95_id")
"""Per cell, fractions in [0, 1]."""
REFERENCES = ("none", "finetune")
"""Adapters that every other one is compared with, paired by seed and base weights."""
SECONDS = ("data", "base", "adapt", "outputs", "fit", "score")
NOT_RUN = "not-run"
"""The state of a cell that the suite has and the records do not."""
STATES = (*RECORD_STATES, NOT_RUN)


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
    interval: Interval | None = None
    """Of a difference, where anything can vary."""

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
    ranks: dict[str, RankRange] = {}  # noqa: RUF012 - of a tuple, and never changed
    """Metric -> the ranks that the row may have in its table; without those that are not ranked."""


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
        return count_states(slot.state for slot in self.slots)


class Table(NamedTuple):
    """Rows that are ranked together."""

    section: Section
    group: str
    metric: str


class Ranking(NamedTuple):
    """How the rows of a table were told apart."""

    over: Over
    rows: int
    seeds: int
    separated: int
    """Pairs of rows that were told apart."""
    pairs: int
    alpha: float
    """Probability of any false separation in the table."""


class Place(NamedTuple):
    """Where a part is."""

    row: RowKey
    kind: str
    """`groups` or `sets`, as in `Row`."""
    name: str


@dataclass(frozen=True)
class Judgement:
    """What differences between rows are worth; see `um_bench.leaderboard.significance`."""

    half_widths: dict[tuple[Place, str], dict[str, float]] = field(default_factory=dict)
    """(Part, reference adapter) -> metric -> half the width of the difference's interval."""
    over: dict[tuple[Place, str], Over] = field(default_factory=dict)
    """What these intervals let vary."""
    ranks: dict[tuple[Place, str], RankRange] = field(default_factory=dict)
    """(Part, metric) -> ranks."""
    tables: dict[Table, Ranking] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all of it knows of the test images: what the scores say is in it already."""
        overs = [*self.over.values(), *(ranking.over for ranking in self.tables.values())]
        return bool(overs) and all(over in ("images", "seeds and images") for over in overs)


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
    id_test: str = ""
    """The source of the ID test set; empty = suite.json does not say."""
    shifted: tuple[tuple[str, str], ...] = ()
    """Names and sources of the covariate-shifted ID sets."""
    seeds: tuple[int, ...] = ()
    adapters: tuple[str, ...] = ()
    """Labels; every one is expected with every detector."""
    tracks: dict[str, str] = field(default_factory=dict)
    """Label -> the auxiliary outliers that its models have seen; empty = none."""
    detectors: tuple[str, ...] = ()
    papers: tuple[Cited, ...] = ()
    """What its adapters and detectors come from, as far as that is known."""

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
    judged: Judgement
    """Intervals and ranks, which the rows have too, and how they were found."""
    curves: Curves = field(default_factory=dict)
    """ROC and histogram of cells, by the check of their scores; of as many as are kept."""

    @property
    def sections(self) -> tuple[Section, ...]:
        """The tables: those without auxiliary outliers first."""
        found = dict.fromkeys(row.key.section for row in self.rows)
        return tuple(sorted(found, key=lambda section: bool(section.auxiliary)))

    def tells_apart(self, section: Section, group: str, metric: str) -> bool:
        """Return whether any two rows of a table could be told apart by a metric."""
        ranking = self.judged.tables.get(Table(section, group, metric))
        return ranking is not None and ranking.separated > 0


def higher_is_better(metric: str) -> bool:
    """Return which end of one of METRICS is better."""
    return not metric.startswith("fpr95")


def count_states(states: Iterable[str]) -> dict[str, int]:
    """Return how many cells are in which state, in the order of STATES; others are left out."""
    counts = Counter(states)
    return {state: counts[state] for state in STATES if state in counts}
