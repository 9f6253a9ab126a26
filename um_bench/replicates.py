"""Files of replicates: each cell's metrics on resamples of its images, kept beside the scores.

One file a job. A cell's replicates depend on its scores and on which images they are of, and are
made once: a job that is resumed or extended adds what is missing.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from um_bench.records import Record, content_key, job_file, write_atomically
from um_bench.scores import load_scores
from um_bench.statistics import METRICS, REPLICATES, ImageSet, sample_metrics
from um_bench.suite import Cell, Job

Replicates: TypeAlias = NDArray[np.float32]
"""(M, B): of `METRICS` of `um_bench.statistics`, in that order; fractions in [0, 1]."""

_METHOD = 1
"""Change it where replicates of the same scores would come out otherwise."""
_AT_ONCE = 16
"""Detectors whose scores are held sorted at a time."""


class _Images(NamedTuple):
    """What a cell's scores are of."""

    id_set: ImageSet
    ood_set: ImageSet


def replicates_file(folder: Path, job: Job) -> Path:
    """Return the file that holds a job's replicates, below a suite's results folder."""
    return folder / "replicates" / f"{job_file(folder, job).stem}.npz"


def update_replicates(folder: Path, job: Job, records: Iterable[Record]) -> None:
    """Resample what has scores and is not resampled yet, and write the job's file.

    Args:
        folder: of the suite's results.
        job: whose file it is.
        records: all of the job's.

    Raises:
        UsageError: if a file of scores cannot be read.
        StorageError: if the file cannot be written.
    """
    path = replicates_file(folder, job)
    before = _read(path)
    done = {_key(r): r for r in records if r.state == "done" and r.scores}
    missing = [record for key, record in done.items() if key not in before]
    kept = {key: before[key] for key in done.keys() & before.keys()}
    if not missing and len(kept) == len(before):
        return
    found = {**kept, **_resampled(folder, missing)}
    keys = sorted(found)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        keys=np.array(keys, dtype="U16"),
        replicates=np.stack([found[key] for key in keys]) if keys else np.empty(0, np.float32),
    )
    write_atomically(path, buffer.getvalue())


def read_replicates(folder: Path, records: Iterable[Record]) -> dict[Cell, Replicates]:
    """Return the replicates of cells that have some, whose scores are still those of the record."""
    found: dict[Cell, Replicates] = {}
    of_job: dict[Job, Mapping[str, Replicates]] = {}
    for record in records:
        if record.job not in of_job:
            of_job[record.job] = _read(replicates_file(folder, record.job))
        values = of_job[record.job].get(_key(record)) if of_job[record.job] else None
        if values is not None:
            found[record.cell] = values
    return found


def _key(record: Record) -> str:
    """Return what a cell's replicates are made of: its scores, their images, and how."""
    images = _images(record)
    return content_key("replicates", _METHOD, REPLICATES, record.scores_check, images)[:16]


def _images(record: Record) -> _Images:
    """Return which images were scored; of the full spectrum, shifted ones follow the ID test set's.

    The ID test set is the same for every OOD set, so that all are resampled alike.
    """
    prints, counts = record.fingerprints, record.counts
    shifted = f"+{prints['shifted']}" if "shifted" in prints else ""
    known = counts.get("id", 0) + counts.get("shifted", 0)
    return _Images(
        ImageSet(f"{prints.get('id', '')}{shifted}", known),
        ImageSet(prints.get("ood", ""), counts.get("ood", 0)),
    )


def _resampled(folder: Path, records: Sequence[Record]) -> dict[str, Replicates]:
    groups: dict[_Images, list[Record]] = {}
    for record in records:
        groups.setdefault(_images(record), []).append(record)
    found: dict[str, Replicates] = {}
    for images, members in groups.items():
        for start in range(0, len(members), _AT_ONCE):
            found |= _resampled_together(folder, images, members[start : start + _AT_ONCE])
    return found


def _resampled_together(
    folder: Path, images: _Images, records: Sequence[Record]
) -> dict[str, Replicates]:
    """Return the replicates of cells on the same images: each resample is drawn once for all."""
    scores = {_key(record): load_scores(folder / record.scores) for record in records}
    pairs = {key: (sides["id"], sides["ood"]) for key, sides in scores.items()}
    found: dict[str, Replicates] = {}
    for key, sampled in sample_metrics(pairs, *images, REPLICATES).items():
        rows = [sampled[metric].replicates for metric in METRICS]
        # A set of one image cannot be resampled.
        found[key] = np.array([row for row in rows if row is not None], dtype=np.float32)
    return {key: rows for key, rows in found.items() if len(rows) == len(METRICS)}


def _read(path: Path) -> dict[str, Replicates]:
    """Return a file's replicates by key; empty where it is not there or not as it was written."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            keys, values = arrays["keys"], arrays["replicates"]
    # A damaged file makes its reader fail anywhere; what it held is made again.
    except Exception:
        return {}
    fits = values.dtype == np.float32 and values.shape == (len(keys), len(METRICS), REPLICATES)
    return dict(zip(keys.tolist(), values, strict=True)) if fits else {}
