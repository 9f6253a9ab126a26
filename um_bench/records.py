"""Record and Provenance: what is known of one cell, kept as JSON lines, one file a job."""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import math
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

from um_bench.errors import DamagedError, StorageError, UsageError
from um_bench.suite import Cell, Job

if TYPE_CHECKING:
    import msgspec

SCHEMA = 1
"""Version of the record's fields. A reader refuses records of a newer schema than its own."""

_CHECK = '{"check": "'

STATES = ("done", "failed", "unsupported", "missing-data", "stale")
"""done: has metrics. failed: with reason and traceback. unsupported: cannot work, with reason.
missing-data: a set is not here, says how to get it. stale: made from something that has changed."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where and with what a record was made. Not part of a cell's identity."""

    created: str
    """UTC, ISO 8601."""
    device: str
    platform: str
    versions: dict[str, str]
    """Distribution -> version: um-bench, torch, timm, pytorch-ood, the plugin's own, python."""
    deterministic: bool = False
    threads: int = 1
    """Of torch on the CPU: with others, sums come out in another order."""
    processes: int = 1
    """That trained each model together: with others, sums come out in another order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One cell: what it is, how it ended, its numbers. Metrics are fractions in [0, 1]."""

    schema: int = SCHEMA
    suite: str
    key: str
    """Hash of everything that decides the numbers: weights, detector, sets, preprocessing, code."""
    job_key: str
    """Hash of everything that decides the adapted weights."""
    state: str
    reason: str = ""
    traceback: str = ""
    id_set: str
    backbone: str
    seed: int
    adapter: str
    """The bare name: `none`, `um`, `oe+um`."""
    adapter_label: str
    """With the settings that were given: `um@constraint=0.15`."""
    auxiliary: str = ""
    """The auxiliary outliers that the model, or its base, was trained with; empty = with none."""
    detector: str
    detector_label: str
    ood_set: str
    group: str
    """`near` or `far`, or the same with `-fs`: over the full spectrum."""
    metrics: dict[str, float] = field(default_factory=dict)
    """auroc, aupr_in, aupr_out, fpr95_ood, fpr95_id, id_accuracy (of the adapted model),
    base_id_accuracy (of the classifier before it was adapted)."""
    counts: dict[str, int] = field(default_factory=dict)
    """Images by role: id, ood, train, fit (what the detector is fitted on), auxiliary, ..."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Content hashes of the sets, by the same roles."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """Every value that was used, defaults included: adapter, detector, recipe, preprocessing."""
    notes: dict[str, float] = field(default_factory=dict)
    """What the adapter estimated, e.g. constraint and constraint_sd in nats."""
    weights: dict[str, str] = field(default_factory=dict)
    """Content hashes: base, adapted."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock: what this cell would have taken alone. What cells share stands in each of them in
    full, so that sums over cells count it again and again. data: loading all sets of the run.
    base, adapt: training, once a job; 0 where nothing was trained. outputs: one pass over each set
    that the cell needs, those that its detector is fitted on included; a set is passed over once a
    job. fit: fitting the detector, or searching its settings, from these outputs, once for all OOD
    sets. score: scoring the ID and the OOD test set, the former once for all OOD sets."""
    spent: dict[str, float] = field(default_factory=dict)
    """Wall-clock that computing this cell added to its run, by stage: data, base, adapt, pass, fit,
    score. What cells share is in the first of them that was computed: sums are without doubles."""
    scores: str = ""
    """File of the per-image scores, relative to the results folder."""
    scores_check: str = ""
    """`check_of` its content."""
    alarms: dict[str, str] = field(default_factory=dict)
    """What was raised while the cell was computed: name -> words. See `um_bench.alarms`."""
    ranking: str = ""
    """Hash of the order of the cell's scores, ID and OOD together, ties kept: equal where two
    detectors rank the same images alike. `um_bench.watch.ranking_of` makes it."""
    opened: dict[str, list[str]] = field(default_factory=dict)
    """What each stage read of the data: base, adapt, fit -> references of sets, and files that are
    in none, from the data folder down. A stage that was not run (`none`, a checkpoint) is left
    out."""
    losses: list[float] = field(default_factory=list)
    """Mean training loss of each epoch of the adapter in nats; empty where nothing was trained."""
    provenance: Provenance

    @property
    def job(self) -> Job:
        """The job that this cell belongs to."""
        return Job(self.id_set, self.backbone, self.seed, self.adapter_label)

    @property
    def cell(self) -> Cell:
        """This record's place in the sweep."""
        return Cell(self.job, self.detector_label, self.ood_set)


UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError),
    RecursionError,  # a million brackets
    OverflowError,  # a whole number that is too large for a float
)
"""What a text that is no record makes its reader raise."""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_SCORES = re.compile(r"(?:(?![./])[A-Za-z0-9._@=+-]+/)*(?!\.)[A-Za-z0-9._@=+-]+")
"""What `slug` makes, joined by slashes: neither absolute nor upwards."""
_NUMBERS = frozenset((int, float))
_LISTS = frozenset((list,))


class Expected(NamedTuple):
    """What a field may be, told by exact types: True is no number here."""

    name: str
    kind: type
    items: frozenset[type] | None
    """Of a table or list; None = any."""


def expected(kind: type) -> tuple[Expected, ...]:
    """Return what the fields of a dataclass may be, as it declares them."""
    found = []
    for its in dataclasses.fields(kind):
        inner = get_args(its.type)
        items = _items(inner[-1]) if inner else None
        outer: Any = get_origin(its.type) or its.type
        found.append(Expected(its.name, outer, items))
    return tuple(one for one in found if one.kind is not Provenance)


def _items(kind: Any) -> frozenset[type] | None:
    known = {float: _NUMBERS, list[str]: _LISTS, Any: None}
    return known[kind] if kind in known else frozenset((kind,))


_RECORD_FIELDS = expected(Record)
PROVENANCE_FIELDS = expected(Provenance)


def misfit(table: dict[str, Any], fields: Iterable[Expected]) -> str:
    """Return which value has not the type that its field declares; empty where all have."""
    for name, kind, items in fields:
        if name not in table:
            continue
        value: Any = table[name]
        if type(value) is not kind:
            return f"{name} must be {kind.__name__}, got {_short(value)}"
        if items is not None:
            inside: Any = value.values() if isinstance(value, dict) else value
            if not items.issuperset(map(type, inside)):
                kinds = " or ".join(sorted(one.__name__ for one in items))
                return f"{name} must hold {kinds} only, got {_short(value)}"
            if items is _NUMBERS and not math.isfinite(sum(inside)):
                return f"{name} must hold finite numbers, got {_short(value)}"
            if items is _LISTS and any(type(text) is not str for its in inside for text in its):
                return f"{name} must hold lists of names, got {_short(value)}"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def content_key(*parts: Any) -> str:
    """Return a SHA-256 over JSON values, the same for the same content in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_LONGEST = 120
_HASHED = 9
"""Letters of what tells names apart that were made safe."""
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever follows the dot."""


def slug(*parts: str) -> str:
    """Return a readable file name, safe on every file system, that differs where parts do.

    Of a name that it made, it returns that name: a folder of results is found by its own.
    """
    text = "--".join(parts)
    safe = re.sub(r"[^A-Za-z0-9._@=+-]+", "_", text).strip(".")[: _LONGEST + _HASHED]
    ambiguous = len(parts) > 1 and any("--" in part for part in parts)
    start = "_" if _DEVICE.fullmatch(safe) or not safe else ""
    if safe == text and not (ambiguous or start):
        return safe
    return f"{start}{safe[: _LONGEST - 1]}-{content_key(*parts)[:8]}"


def suite_folder(results: Path, name: str) -> Path:
    """Return where a suite's records and scores are, below the folder of all results."""
    return results / slug(name)


def job_file(folder: Path, job: Job) -> Path:
    """Return the file that holds a job's records, below a suite's results folder."""
    name = slug(job.id_set, job.backbone, f"seed{job.seed}", job.adapter)
    return folder / "records" / f"{name}.jsonl"


def check_of(content: bytes) -> str:
    """Return what tells whether a file or line is what was written: 16 digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def to_json(record: Record) -> str:
    """Return one line of JSON without the line's end; its first item is a check of the others."""
    return sealed(dataclasses.asdict(record))


def sealed(table: dict[str, Any]) -> str:
    """Return a table as one line of JSON; its first item is a check of the others."""
    body = json.dumps(table, sort_keys=True, allow_nan=False)[1:]
    return f'{_CHECK}{check_of(body.encode())}", {body}'


def unsealed(line: str, what: str) -> Any:
    """Return the table in a line that `sealed` made.

    Args:
        line: without its end.
        what: it holds, as errors call it: `a record`.

    Raises:
        DamagedError: if the line is not what was written.
        ValueError: if it is no JSON.
    """
    return _DECODER.decode(_checked(line, what).decode())


def _checked(line: str, what: str) -> bytes:
    """Return the JSON of the table in a line that is what was written."""
    start = len(_CHECK)
    check, body = line[start : start + 16], line[start + 19 :].encode("utf-8", "replace")
    if not line.startswith(_CHECK) or check_of(body) != check:
        raise DamagedError(
            f"not {what} as um-bench wrote it: damaged or edited. Run the suite again: such a "
            "line is set aside, and what it held is computed anew."
        )
    return b"{" + body


def from_json(line: str) -> Record:
    """Return the record in one line. Tables that it has in common with others are the same object.

    Raises:
        DamagedError: if the line is not what was written.
        UsageError: if it is no record of a schema that this version knows.
    """
    try:
        body = _checked(line, "a record")
        record = _plain(body) or _any(body)
    except UNREADABLE as error:
        raise UsageError(f"not a record of um-bench: {error}") from error
    if record.state not in STATES:
        raise UsageError(f"unknown state {record.state!r}; known: {', '.join(STATES)}")
    if record.scores and _SCORES.fullmatch(record.scores) is None:
        raise UsageError(
            f"scores is {record.scores!r}, which is no file below the suite's results folder"
        )
    return record


def _any(body: bytes) -> Record:
    """Return the record in JSON that may be anything, or raise what is wrong with it."""
    table = _DECODER.decode(body.decode())
    if table["schema"] > SCHEMA:
        raise UsageError(
            f"schema {table['schema']} is newer than this um-bench knows ({SCHEMA}); upgrade it"
        )
    made = table.pop("provenance")
    wrong = misfit(table, _RECORD_FIELDS) or misfit(made, PROVENANCE_FIELDS)
    record = Record(**table, provenance=Provenance(**made))
    if wrong:
        raise ValueError(wrong)
    return record


_OWN = ("metrics", "seconds", "spent")
_SHARED = tuple(
    one.name for one in _RECORD_FIELDS if one.kind in (dict, list) and one.name not in _OWN
)
"""Tables and lists that many records have in common."""
_DIFFERENT = ("key", "scores", "scores_check")
_NAMES = tuple(one.name for one in _RECORD_FIELDS if one.kind is str and one.name not in _DIFFERENT)
"""Texts that many records have in common."""
_UNTOLD = tuple(one for one in _RECORD_FIELDS if one.kind is not str and one.name not in _SHARED)
"""What neither the decoder nor `_shared` looks at."""


def _plain(body: bytes) -> Record | None:
    """Return the record in JSON; None where anything is unusual: `_any` tells what.

    Measured with 102,400 records: 0.4 of the time that `_any` takes, and a third of the memory.
    """
    import msgspec  # late: 7 ms, for which commands that read no record need not wait

    try:
        table = msgspec.structs.asdict(_decoder().decode(body))
        for name in _SHARED:
            table[name] = _shared(name, bytes(table[name]))
        table["provenance"] = _made(bytes(table["provenance"]))
    except (msgspec.MsgspecError, *UNREADABLE):
        return None
    if table["schema"] != SCHEMA or misfit(table, _UNTOLD):
        return None
    for name in _NAMES:
        table[name] = sys.intern(table[name])
    return Record(**table)


@functools.cache
def _decoder() -> "msgspec.json.Decoder[msgspec.Struct]":
    """Return a decoder of a record's fields that leaves shared ones as they are written."""
    import msgspec

    def kind(name: str) -> Any:
        if name in (*_SHARED, "provenance"):
            return msgspec.Raw
        return str if name in (*_NAMES, *_DIFFERENT) else Any

    def default(its: Any) -> Any:
        value = its.default_factory() if callable(its.default_factory) else its.default
        if value is dataclasses.MISSING:
            return msgspec.NODEFAULT
        return msgspec.Raw(json.dumps(value).encode()) if kind(its.name) is msgspec.Raw else value

    fields = [(its.name, kind(its.name), default(its)) for its in dataclasses.fields(Record)]
    line = msgspec.defstruct("Line", fields, kw_only=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(line)


_MOST_SHARED = 8192


@functools.lru_cache(_MOST_SHARED)
def _shared(name: str, text: bytes) -> Any:
    """Return the value of a field, the same object for the same JSON."""
    value = _DECODER.decode(text.decode())
    wrong = misfit({name: value}, _RECORD_FIELDS)
    if wrong:
        raise ValueError(wrong)
    return value


@functools.lru_cache(_MOST_SHARED)
def _made(text: bytes) -> Provenance:
    """Return the provenance in JSON, the same object for the same JSON."""
    table = _DECODER.decode(text.decode())
    wrong = misfit(table, PROVENANCE_FIELDS)
    if wrong:
        raise ValueError(wrong)
    return Provenance(**table)


def read_file(path: Path) -> list[Record]:
    """Return the records of one job's file.

    Raises:
        UsageError: if it cannot be read or a line is no record; file and line are named.
    """
    records = []
    for record in _told(path):
        if isinstance(record, DamagedError):
            raise record
        records.append(record)
    return records


def _told(path: Path) -> Iterator[Record | DamagedError]:
    """Yield what each line of a file holds: a record, or the error that the line is damaged.

    Raises:
        UsageError: if the file cannot be read, or a line is whole and no record that can be used.
    """
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield from_json(line)
        except UsageError as error:
            named = type(error)(f"{path}, line {number}: {error}")
            if not isinstance(named, DamagedError):
                raise named from error
            yield named


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    # Not by str.splitlines, which also ends lines where a damaged byte looks like it.
    return [line.decode("utf-8", "replace") for line in content.removesuffix(b"\n").split(b"\n")]


def read_folder(folder: Path) -> Iterator[Record]:
    """Yield all records below a suite's results folder, file by file in order of name."""
    for path in sorted((folder / "records").glob("*.jsonl")):
        yield from read_file(path)


@contextlib.contextmanager
def all_kept() -> Iterator[None]:
    """Look for no garbage in the `with` block.

    Records are tables in tables, all of which are kept, and the collector goes through them again
    and again: with 2,160 that is a sixth of the time, with 100,000 half of it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_file(path: Path, records: Iterable[Record]) -> None:
    """Replace a job's file in one step: whoever reads it sees the old lines or the new ones.

    Raises:
        StorageError: if it cannot be written; the old file is then as it was.
    """
    text = "".join(f"{to_json(record)}\n" for record in records)
    write_atomically(path, text.encode())


class JobFile:
    """The records of one job, by cell: read once, and replaced as a whole when some change.

    A file in which a line is damaged is copied aside (`.damaged`); the other lines are kept.

    Raises:
        UsageError: if a line is a record of a newer schema; file and line are named.
        StorageError: if a damaged file cannot be copied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[Cell, Record] = {}
        self.damaged = 0
        """How many lines were not what was written."""
        for record in _told(path) if path.exists() else ():
            if isinstance(record, DamagedError):
                self.damaged += 1
            else:
                self.records[record.cell] = record
        if self.damaged:
            write_atomically(self.aside, path.read_bytes())
            write_file(path, self.records.values())

    @property
    def aside(self) -> Path:
        """Where a damaged file is copied to."""
        return self.path.with_name(f"{self.path.name}.damaged")

    def put(self, records: Iterable[Record]) -> None:
        """Take these records in the place of their cells' old ones, and write the file.

        Raises:
            StorageError: if it cannot be written.
        """
        self.records |= {record.cell: record for record in records}
        write_file(self.path, self.records.values())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Raises:
        StorageError: if that fails (no space, no permission); what was there before still is.
    """
    # Opened by hand: tempfile's files can be read by their owner alone.
    temporary = path.parent / f".{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}). What was written before is "
            "safe; make room or give another --results, then run the same command again."
        ) from error
