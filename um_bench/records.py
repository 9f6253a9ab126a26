"""Record and Provenance: what is known of one cell, kept as JSON lines, one file a job."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from um_bench.errors import StorageError, UsageError
from um_bench.suite import Cell, Job

SCHEMA = 1
"""Version of the record's fields. A reader refuses records of a newer schema than its own."""

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


@dataclass(frozen=True, kw_only=True)
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
    """Wall-clock: base, adapt, outputs (one pass over all sets), fit, score."""
    scores: str = ""
    """File of the per-image scores, relative to the results folder."""
    provenance: Provenance

    @property
    def job(self) -> Job:
        """The job that this cell belongs to."""
        return Job(self.id_set, self.backbone, self.seed, self.adapter_label)

    @property
    def cell(self) -> Cell:
        """This record's place in the sweep."""
        return Cell(self.job, self.detector_label, self.ood_set)


def content_key(*parts: Any) -> str:
    """Return a SHA-256 over JSON values, the same for the same content in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def slug(*parts: str) -> str:
    """Return a readable file name, safe on every file system, that differs where parts do."""
    text = "--".join(parts)
    safe = re.sub(r"[^A-Za-z0-9._@=+-]+", "_", text).strip("._")[:120] or "_"
    if safe == text and not any("--" in part for part in parts):
        return safe
    return f"{safe}-{content_key(*parts)[:8]}"


def suite_folder(results: Path, name: str) -> Path:
    """Return where a suite's records and scores are, below the folder of all results."""
    return results / slug(name)


def job_file(folder: Path, job: Job) -> Path:
    """Return the file that holds a job's records, below a suite's results folder."""
    name = slug(job.id_set, job.backbone, f"seed{job.seed}", job.adapter)
    return folder / "records" / f"{name}.jsonl"


def to_json(record: Record) -> str:
    """Return one line of JSON without the line's end."""
    return json.dumps(dataclasses.asdict(record), sort_keys=True, allow_nan=False)


def from_json(line: str) -> Record:
    """Return the record in one line.

    Raises:
        UsageError: if the line is no record of a schema that this version knows.
    """
    try:
        table = json.loads(line)
        if table["schema"] > SCHEMA:
            raise UsageError(
                f"schema {table['schema']} is newer than this um-bench knows ({SCHEMA}); upgrade it"
            )
        provenance = Provenance(**table.pop("provenance"))
        record = Record(**table, provenance=provenance)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"not a record of um-bench: {error}") from error
    if record.state not in STATES:
        raise UsageError(f"unknown state {record.state!r}; known: {', '.join(STATES)}")
    return record


def read_file(path: Path) -> list[Record]:
    """Return the records of one job's file.

    Raises:
        UsageError: if it cannot be read or a line is no record; file and line are named.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(from_json(line))
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
    return records


def read_folder(folder: Path) -> Iterator[Record]:
    """Yield all records below a suite's results folder, file by file in order of name."""
    for path in sorted((folder / "records").glob("*.jsonl")):
        yield from read_file(path)


def write_file(path: Path, records: Iterable[Record]) -> None:
    """Replace a job's file in one step: whoever reads it sees the old lines or the new ones.

    Raises:
        StorageError: if it cannot be written; the old file is then as it was.
    """
    text = "".join(f"{to_json(record)}\n" for record in records)
    write_atomically(path, text.encode())


class JobFile:
    """The records of one job, by cell: read once, and replaced as a whole when some change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = {r.cell: r for r in read_file(path)} if path.exists() else {}

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
