"""Published numbers: TOML files -> entries, each with what decides whether it can be compared.

A file is one table of one source. Its keys are the fields of the classes here; an unknown key is
an error. Numbers are read as the source prints them and kept as fractions in [0, 1].
"""

import dataclasses
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from um_bench.errors import UsageError, unknown_name
from um_bench.suite import build

T = TypeVar("T")

ID = "id"
"""What a row is `over` where it is about the ID test set alone: ID accuracy."""
SELECTED_METRICS = ("auroc", "fpr95", "aupr_in", "aupr_out", "id_accuracy")
"""Metrics as a file names them; which class is positive for `fpr95` is said by the protocol."""
NOT_STATED = "not stated"
_UNITS = {"percent": 100.0, "fraction": 1.0}
_WORDS = {
    "sd": ("population", "sample", NOT_STATED),
    "fpr95_positive": ("ood", "id", NOT_STATED),
    "fpr95_rule": ("at least 95 %", "closest to 95 %", NOT_STATED),
    "aupr_rule": ("trapezoid", "average precision", NOT_STATED),
}
_NEEDED = ("source", "unit", "protocol", "trainings", "rows")
_TABLES = (*_NEEDED, "sets", "averages", "detectors")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a source's numbers were made. What is absent is not known, and never assumed."""

    id_set: str
    id_images: int | None = None
    """ID test images."""
    id_test: str = ""
    """The ID test set as a suite names it, which says by what list; empty = not known."""
    train_images: int | None = None
    network: str
    """As the source calls it."""
    backbone: str = ""
    """The same network in um-bench; empty = it has none, or which one it was is not known."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """Fields of `um_bench.suite.Preprocessing`."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Fields of `um_bench.suite.Recipe`, of the base classifier."""
    adapter_recipe: dict[str, Any] = field(default_factory=dict)
    """The same, of training by an adapter."""
    weights: str = ""
    """Published weights that every number is made from; empty = trained for the source."""
    runs: int | None = None
    """Training runs behind a mean and its SD."""
    sd: str = NOT_STATED
    """`population`: over n; `sample`: over n - 1."""
    fpr95_positive: str = NOT_STATED
    """`ood` or `id`."""
    fpr95_rule: str = NOT_STATED
    """Which threshold is taken: where `at least 95 %` of the positive class are found, or where
    their share is `closest to 95 %`."""
    aupr_rule: str = NOT_STATED

    def __post_init__(self) -> None:
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where numbers were published."""

    name: str
    title: str
    url: str
    table: str
    """The place in it: file, table, lines."""
    commit: str = ""
    let_pass: tuple[str, ...] = ()
    """What differs from um-bench or cannot be verified from records, and is let pass. It is shown
    with every comparison."""

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise UsageError(f"url must start with https://, got {self.url!r}")


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """One OOD test set of a source."""

    name: str
    source: str = ""
    """The same images as a suite names them: a data set with its part; empty = not known."""
    images: int | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedDetector:
    """One detector of a source."""

    name: str
    """As the source calls it."""
    detector: str = ""
    """Its name in um-bench; empty = um-bench has no such detector."""
    settings: dict[str, Any] = field(default_factory=dict)
    searched: dict[str, Any] = field(default_factory=dict)
    """Setting -> the values of which one was chosen on validation sets, for each run."""
    fit_images: int | None = None
    """Images that it was fitted on; None = on none, or not known."""
    unknown: tuple[str, ...] = ()
    """Settings that are needed and not known."""
    let_pass: tuple[str, ...] = ()
    """As in `Source`."""


@dataclass(frozen=True, kw_only=True)
class PublishedTraining:
    """One way in which a source trained its classifiers."""

    name: str
    """As the source calls it."""
    adapter: str = ""
    """The same in um-bench, `none` for plain training; empty = um-bench has no such adapter."""
    from_scratch: bool = False
    """Whether a method other than plain training trained the classifier from the start."""
    unknown: tuple[str, ...] = ()
    """What is needed to do the same, and not known."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published number."""

    source: Source
    protocol: Protocol
    training: PublishedTraining
    detector: PublishedDetector | None
    """None for ID accuracy, which no detector has a part in."""
    over: str
    """`near`, `far`, ... or one set: what the number is averaged over; `id`: the ID test set."""
    sets: tuple[PublishedSet, ...]
    """The members of that average, unweighted. Empty where they are not known."""
    metric: str
    """One of `SELECTED_METRICS`."""
    mean: float
    """A fraction in [0, 1]."""
    sd: float | None
    """Of the same unit, as the source computes it; None = not known."""
    runs: int | None
    unknown: tuple[str, ...]
    """What is needed to compare, and not known."""

    @property
    def label(self) -> str:
        """Return what the source calls it, in one line."""
        detector = f" + {self.detector.name}" if self.detector else ""
        over = "" if self.over == ID else f", {self.over}"
        return f"{self.training.name}{detector}{over}: {self.metric}"

    @property
    def sample_sd(self) -> float | None:
        """Return the SD over n - 1, where it can be known; else as published."""
        runs = self.runs or 0
        if self.sd is None or self.protocol.sd != "population" or runs < 2:
            return self.sd
        return self.sd * math.sqrt(runs / (runs - 1))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of a file's `rows`: one method, over one set or average."""

    training: str
    detector: str = ""
    over: str
    runs: int | None = None
    unknown: tuple[str, ...] = ()
    auroc: tuple[float, ...] = ()
    """The mean, and its SD where there is one."""
    fpr95: tuple[float, ...] = ()
    aupr_in: tuple[float, ...] = ()
    aupr_out: tuple[float, ...] = ()
    id_accuracy: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _File:
    source: Source
    unit: str
    protocol: Protocol
    sets: Mapping[str, PublishedSet]
    averages: Mapping[str, tuple[str, ...]]
    trainings: Mapping[str, PublishedTraining]
    detectors: Mapping[str, PublishedDetector]


def shipped_files() -> list[Path]:
    """Return the files that come with um-bench."""
    return sorted(Path(str(resources.files("um_bench") / "published")).glob("*.toml"))


def read_published(*files: Path) -> tuple[Entry, ...]:
    """Return the numbers in these files, or in all that come with um-bench.

    Raises:
        UsageError: if a file cannot be read or used; file, row and key are named.
    """
    return tuple(entry for path in files or shipped_files() for entry in _read_file(path))


def _read_file(path: Path) -> Iterator[Entry]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    where = path.name
    for key in table:
        if key not in _TABLES:
            raise UsageError(f"{where}: {unknown_name('table', key, _TABLES)}")
    missing = [key for key in _NEEDED if key not in table]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} missing")
    if table["unit"] not in _UNITS:
        raise UsageError(f"{where}: {unknown_name('unit', str(table['unit']), _UNITS)}")
    file = _File(
        source=_strict(Source, table["source"], f"{where}: source"),
        unit=table["unit"],
        protocol=_strict(Protocol, table["protocol"], f"{where}: protocol"),
        sets=_named(PublishedSet, table.get("sets", {}), f"{where}: sets"),
        averages=_averages(table.get("averages", {}), f"{where}: averages"),
        trainings=_named(PublishedTraining, table["trainings"], f"{where}: trainings"),
        detectors=_named(PublishedDetector, table.get("detectors", {}), f"{where}: detectors"),
    )
    for number, row in enumerate(table["rows"], start=1):
        place = f"{where}: row {number}"
        yield from _entries(file, _strict(_Row, row, place), place)


def _averages(tables: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    for name, sets in tables.items():
        if not isinstance(sets, list) or not all(isinstance(one, str) for one in sets):
            raise UsageError(f"{where}.{name} must be a list of sets, got {sets!r}")
    return {name: tuple(sets) for name, sets in tables.items()}


def _named(kind: type[T], tables: Mapping[str, Any], where: str) -> dict[str, T]:
    return {
        name: _strict(kind, table, f"{where}.{name}", name=name) for name, table in tables.items()
    }


def _strict(kind: type[T], table: Any, where: str, **more: str) -> T:
    """Return the dataclass made from a table, whose lists and tables are checked as well."""
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table, got {table!r}")
    twice = more.keys() & table.keys()
    if twice:
        raise UsageError(f"{where}: {', '.join(twice)} is that of the table; leave it out")
    declared = {f.name: f.type for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in table.items():
        texts = declared.get(key) == tuple[str, ...]
        if texts and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise UsageError(f"{where}: {key} must be a list of strings, got {value!r}")
        if declared.get(key) == tuple[float, ...] and not isinstance(value, list):
            raise UsageError(f"{where}: {key} must be [mean] or [mean, SD], got {value!r}")
        if declared.get(key) == dict[str, Any] and not isinstance(value, dict):
            raise UsageError(f"{where}: {key} must be a table, got {value!r}")
    return build(kind, {**more, **table}, where)


def _entries(file: _File, row: _Row, where: str) -> Iterator[Entry]:
    given = [name for name in SELECTED_METRICS if getattr(row, name)]
    if not given:
        raise UsageError(f"{where}: no number; known: {', '.join(SELECTED_METRICS)}")
    if (row.over == ID) != (given == ["id_accuracy"]):
        raise UsageError(f"{where}: id_accuracy, and it alone, is over {ID!r}")
    if row.training not in file.trainings:
        raise UsageError(f"{where}: {unknown_name('training', row.training, file.trainings)}")
    if row.detector and row.detector not in file.detectors:
        raise UsageError(f"{where}: {unknown_name('detector', row.detector, file.detectors)}")
    if bool(row.detector) == (row.over == ID):
        raise UsageError(f"{where}: every metric but id_accuracy needs a detector")
    training, detector = file.trainings[row.training], file.detectors.get(row.detector)
    for metric in given:
        mean, sd = _numbers(getattr(row, metric), file.unit, f"{where}: {metric}")
        yield Entry(
            source=file.source,
            protocol=file.protocol,
            training=training,
            detector=detector,
            over=row.over,
            sets=_members(file, row.over, where),
            metric=metric,
            mean=mean,
            sd=sd,
            runs=row.runs or file.protocol.runs,
            unknown=(*row.unknown, *training.unknown, *(detector.unknown if detector else ())),
        )


def _members(file: _File, over: str, where: str) -> tuple[PublishedSet, ...]:
    if over == ID:
        return ()
    names = file.averages.get(over, (over,))
    for name in names:
        if name not in file.sets:
            known = {**file.sets, **file.averages, ID: ()}
            raise UsageError(f"{where}: {unknown_name('set or average', name, known)}")
    return tuple(file.sets[name] for name in names)


def _numbers(values: tuple[float, ...], unit: str, where: str) -> tuple[float, float | None]:
    """Return mean and SD as fractions; an SD that is not given is None."""
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(values) > 2 or not plain:
        raise UsageError(f"{where} must be [mean] or [mean, SD], got {list(values)!r}")
    scale = _UNITS[unit]
    mean, *rest = (value / scale for value in values)
    # no table has a mean below 1 %: what looks like one is a fraction, and the unit is wrong
    if not 0 <= mean <= 1 or (unit == "percent" and mean < 0.01):
        raise UsageError(f"{where}: {values[0]!r} cannot be in {unit}; see `unit`")
    if rest and not 0 < rest[0] < 0.5:
        raise UsageError(f"{where}: an SD of {values[1]!r} cannot be in {unit}; leave out one of 0")
    return mean, (rest[0] if rest else None)
