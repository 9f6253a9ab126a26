"""What records say by themselves: of one suite, of one set of images, of numbers that can be."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from um_bench import alarms, comparability
from um_bench.leaderboard import METRICS, Info
from um_bench.records import SCHEMA, Record
from um_bench.submission.findings import Finding
from um_bench.suite import Cell, Job, is_full_spectrum

ACCURACIES = ("id_accuracy", "base_id_accuracy")
FINISHED = ("done", "unsupported")
"""States that are how a cell ends for good."""
_HASH = re.compile(r"[0-9a-f]{64}(\+[0-9a-f]{64})*")
_ROUNDING = 0.01
"""Of a count of images, from an accuracy in float32: 10,000 images times 6e-8 is 0.0006."""


def place_of(record: Record) -> str:
    """Return a cell's names in one line."""
    return f"{record.adapter_label}, {record.detector_label}, {record.ood_set}, seed {record.seed}"


def findings_of(records: Sequence[Record], info: Info | None) -> Iterator[Finding]:
    """Yield what the records of one submission show without their scores."""
    yield from _lines(records)
    if info is not None:
        yield from _of_suite(records, info)
        yield from _further(records, info)
    yield from one_set_one_fingerprint(records)
    done = [record for record in records if record.state == "done"]
    for record in done:
        for text in _implausible(record):
            yield Finding("plausible", place_of(record), text)
    yield from _keys(done)
    yield from (Finding("plausible", "", text) for text in comparability.of_jobs(done))
    yield from (
        Finding("alarms", alarm.name, alarm.line, is_problem=False)
        for alarm in alarms.of_records(records)
    )
    yield from (
        Finding("cautions", "", text, is_problem=False) for text in comparability.of_settings(done)
    )


def _lines(records: Iterable[Record]) -> Iterator[Finding]:
    cells: Counter[Cell] = Counter()
    for record in records:
        if record.schema != SCHEMA:
            yield Finding(
                "records",
                place_of(record),
                f"is of schema {record.schema}; this um-bench writes {SCHEMA}: run the suite again",
            )
        cells[record.cell] += 1
        if cells[record.cell] == 2:
            yield Finding("records", place_of(record), "has more than one record")


def _of_suite(records: Iterable[Record], info: Info) -> Iterator[Finding]:
    groups = {ood.name: ood.group for ood in info.ood}
    foreign: Counter[str] = Counter()
    for record in records:
        if record.seed not in info.seeds:
            foreign[f"seed {record.seed}, which suite.json does not name"] += 1
        if record.suite != info.name:
            foreign[f"suite {record.suite}; suite.json is of {info.name}"] += 1
        if groups.get(record.ood_set) != record.group:
            foreign[
                f"OOD set {record.ood_set} in group {record.group}, which suite.json does not have"
            ] += 1
        track = info.tracks.get(record.adapter_label, record.auxiliary)
        if record.auxiliary != track:
            foreign[
                f"{record.adapter_label} trained with {record.auxiliary or 'no outliers'}; "
                f"suite.json says {track or 'none'}"
            ] += 1
    for text, cells in foreign.items():
        yield Finding("suite", "", f"{_cells(cells)}: {text}")


def _further(records: Iterable[Record], info: Info) -> Iterator[Finding]:
    """Remark on rows that runs before the last one, which suite.json is of, were asked for."""
    found: Counter[str] = Counter()
    for record in records:
        if record.adapter_label not in info.adapters:
            found[f"adapter {record.adapter_label}"] += 1
        if record.detector_label not in info.detectors:
            found[f"detector {record.detector_label}"] += 1
    for name, cells in found.items():
        text = f"{_cells(cells)}: {name}, beside those that suite.json names"
        yield Finding("suite", "", text, is_problem=False)


def incomplete(records: Iterable[Record], info: Info) -> Iterator[str]:
    """Yield what is missing, each reason once with its count: cells without record or numbers."""
    states = {record.cell: record for record in records}
    places = dict.fromkeys((cell.job.id_set, cell.job.backbone) for cell in states)
    found: Counter[str] = Counter()
    for id_set, backbone in places:
        for cell in _expected(info, id_set, backbone):
            record = states.get(cell)
            if record is None:
                found["not run"] += 1
            elif record.state not in FINISHED:
                found[f"{record.state}: {' '.join(record.reason.split())[:200]}"] += 1
    for reason, cells in found.most_common():
        yield f"{_cells(cells)}: {reason}"


def _expected(info: Info, id_set: str, backbone: str) -> Iterator[Cell]:
    names = itertools.product(info.seeds, info.adapters, info.detectors, info.ood)
    for seed, adapter, detector, ood in names:
        yield Cell(Job(id_set, backbone, seed, adapter), detector, ood.name)


def _cells(count: int) -> str:
    return f"{count:,} cell{'s' * (count != 1)}"


class Known(NamedTuple):
    """The images that stand behind a name."""

    fingerprint: str
    images: int | None
    place: str
    """A cell that says so."""


def known_sets(records: Iterable[Record]) -> dict[tuple[str, str], list[Known]]:
    """Return (role, name of the set) -> the different images that records have under it."""
    found: dict[tuple[str, str], dict[tuple[str, int | None], Known]] = {}
    for record in records:
        if record.state != "done":
            continue
        names = {
            "id": record.id_set,
            "train": record.id_set,
            "shifted": record.id_set,
            "ood": record.ood_set,
            "auxiliary": record.auxiliary,
        }
        for role in names.keys() & record.fingerprints.keys():
            value = record.fingerprints[role], record.counts.get(role)
            its = found.setdefault((role, names[role]), {})
            if value not in its:
                its[value] = Known(*value, place_of(record))
    return {place: list(its.values()) for place, its in sorted(found.items())}


def one_set_one_fingerprint(records: Iterable[Record]) -> Iterator[Finding]:
    """Yield each set that is not the same images, or not as many, in all cells."""
    for (role, name), values in known_sets(records).items():
        if len(values) > 1:
            shown = "; ".join(
                f"{one.fingerprint[:12]} with {one.images} images ({one.place})"
                for one in values[:3]
            )
            yield Finding("images", f"{role}: {name}", f"is {len(values)} different sets: {shown}")


def of_other_images(
    records: Iterable[Record], reference: Iterable[Record], name: str
) -> Iterator[Finding]:
    """Yield each set that is not the images that the records compared with have under its name."""
    theirs = known_sets(reference)
    for place, mine in known_sets(records).items():
        known = {one.fingerprint for one in theirs.get(place, ())}
        for one in mine:
            if known and one.fingerprint not in known:
                yield Finding(
                    "reference",
                    ": ".join(place),
                    f"is not the same images as in {name}: {one.fingerprint[:12]}, there "
                    f"{' or '.join(sorted(other[:12] for other in known))}",
                )


def _implausible(record: Record) -> Iterator[str]:
    """Yield why a done record cannot be what it says."""
    for name in (*METRICS, *ACCURACIES):
        value = record.metrics.get(name)
        if value is None or not 0 <= value <= 1:
            yield f"{name} is {value}, no fraction in [0, 1]"
    for role in ("id", "ood"):
        if record.counts.get(role, 0) < 1:
            yield f"counts {record.counts.get(role)} {role} images"
    for name, seconds in record.seconds.items():
        if seconds < 0:
            yield f"took {seconds} s for {name}"
    yield from _hashes(record)
    yield from _accuracies(record)


def _hashes(record: Record) -> Iterator[str]:
    told = {
        "key": record.key,
        "job_key": record.job_key,
        **{f"{name} weights": record.weights.get(name, "") for name in ("base", "adapted")},
        **{f"fingerprint of {role}": record.fingerprints.get(role, "") for role in ("id", "ood")},
    }
    for name, value in told.items():
        if not _HASH.fullmatch(value):
            yield f"{name} is {value[:80]!r}, no SHA-256"


def _accuracies(record: Record) -> Iterator[str]:
    images = record.counts.get("id", 0)
    # The full spectrum has its own images beside the ID test set: counted under another role.
    for name in ACCURACIES:
        right = record.metrics.get(name, 0.0) * images
        if abs(right - round(right)) > _ROUNDING:
            yield f"{name} would be {right:.3f} of {images:,} images right: no whole number"
    same = record.weights.get("base") == record.weights.get("adapted")
    if same and record.metrics.get("id_accuracy") != record.metrics.get("base_id_accuracy"):
        yield "one and the same weights have two ID accuracies"


def _keys(done: Iterable[Record]) -> Iterator[Finding]:
    """Yield keys under which there are different numbers: equal keys are equal in everything."""
    first: dict[str, Record] = {}
    for record in done:
        other = first.setdefault(record.key, record)
        if other is not record and any(
            other.metrics.get(name) != record.metrics.get(name) for name in METRICS
        ):
            yield Finding(
                "plausible",
                place_of(record),
                f"has the key of {place_of(other)}, and other numbers",
            )


def id_scores_place(record: Record) -> tuple[object, ...]:
    """Return what decides a cell's ID scores: they are computed once for all of its OOD sets."""
    full = is_full_spectrum(record.group)
    return record.job, record.detector_label, full, record.fingerprints.get("id")
