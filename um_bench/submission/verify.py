"""A submission, or a suite's folder -> everything that is wrong with it, found without trust.

Nothing is unpacked, no code in it is run, and no number is believed that can be computed again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from um_bench.difference import compare, grouped
from um_bench.errors import DamagedError, UmBenchError, UsageError
from um_bench.leaderboard import Info, info_of, read_results
from um_bench.records import Record, check_of, from_json, slug
from um_bench.submission import plausible, shipped
from um_bench.submission.archive import (
    MANIFEST,
    SUITE,
    Files,
    FolderFiles,
    ZipFiles,
    records_in,
    scores_in,
    sha256_of_file,
)
from um_bench.submission.findings import Finding, Report
from um_bench.submission.plausible import place_of
from um_bench.submission.recompute import metrics_of, ranking_of
from um_bench.submission.score_file import scores_in as arrays_in
from um_bench.suite import is_full_spectrum

FORMAT = 1
"""Version of the manifest."""
TOLERANCE = 1e-9
"""Largest difference of two computations of a metric: sums in another order differ by 1e-15."""


def verify(path: Path, against: Path | None = None) -> list[Report]:
    """Return a report on each suite in an archive or folder.

    Args:
        path: an archive of `um-bench submit`, a suite's results folder, or a folder of these.
        against: a folder of results, of all suites or of one, whose records are known: a set of
            images must be the same there.

    Raises:
        UsageError: if there is nothing of the kind there, or `against` cannot be used.
    """
    if path.is_file():
        return [check(path, ZipFiles(path), against, sha256=sha256_of_file(path))]
    if (path / "records").is_dir():
        return [check(path, FolderFiles(path), against)]
    folders = sorted({one.parent.parent for one in path.glob("*/records/*.jsonl")})
    if not folders:
        raise UsageError(
            f"{path}: give an archive that um-bench submit wrote, a suite's results folder (with "
            "records/ in it), or a folder of such folders"
        )
    return [check(folder, FolderFiles(folder), against) for folder in folders]


@dataclass
class _Desk:
    """One submission while it is looked at."""

    files: Files
    findings: list[Finding] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    """Of each file that was read."""
    recomputed: int = 0
    largest: float = 0.0
    ranked: int = 0

    def problem(self, check: str, place: str, text: str) -> None:
        self.findings.append(Finding(check, place, text))

    def remark(self, check: str, place: str, text: str) -> None:
        self.findings.append(Finding(check, place, text, is_problem=False))

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None, having said why."""
        try:
            content = self.files.read(name)
        except DamagedError as error:
            self.problem("files", name, str(error))
            return None
        self.hashes[name] = hashlib.sha256(content).hexdigest()
        return content


def check(
    path: Path,
    files: Files,
    against: Path | None = None,
    *,
    sha256: str = "",
    finished: bool = False,
) -> Report:
    """Return a report on one submission.

    Args:
        path: what it is called.
        files: what is in it.
        against: as in `verify`.
        sha256: of the archive.
        finished: whether a folder is held to what an archive is: every cell, every score.
    """
    desk = _Desk(files, findings=[*files.findings])
    if desk.findings and not files.sizes:
        return Report(path=path, suite="", sha256=sha256, findings=tuple(desk.findings))
    packed = isinstance(files, ZipFiles)
    manifest = _manifest(desk) if packed else {}
    info = _info(desk)
    records = list(_records(desk))
    if not records and not desk.findings:
        desk.problem("records", "", "there is no record in it")
    partial = bool(manifest.get("partial"))
    desk.findings += plausible.findings_of(records, info)
    _complete(desk, records, info, strict=(packed or finished) and not partial)
    _score_files(desk, records, required=packed or finished)
    if packed:
        _listed(desk, manifest)
    if info is not None:
        desk.findings += shipped.remarks(records, info)
    if against is not None:
        _beside(desk, records, info, against)
    return Report(
        path=path,
        suite=info.name if info else "",
        sha256=sha256,
        states=dict(Counter(record.state for record in records).most_common()),
        partial=partial,
        recomputed=desk.recomputed,
        largest=desk.largest,
        ranked=desk.ranked,
        facts=tuple(desk.facts),
        findings=tuple(desk.findings),
    )


def _manifest(desk: _Desk) -> Mapping[str, Any]:
    if MANIFEST not in desk.files.sizes:
        desk.problem("files", MANIFEST, "is missing: pack it with um-bench submit")
        return {}
    content = desk.read(MANIFEST) or b""
    try:
        table = json.loads(content)
        known = table["format"] == FORMAT
        files = {str(k): (int(v["bytes"]), str(v["sha256"])) for k, v in table["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        desk.problem("files", MANIFEST, f"cannot be used ({type(error).__name__}: {error})")
        return {}
    if not known:
        desk.problem("files", MANIFEST, f"is of format {table['format']!r}; known is {FORMAT}")
    return {**table, "files": files}


def _listed(desk: _Desk, manifest: Mapping[str, Any]) -> None:
    """Compare what was read with the manifest's list."""
    listed = manifest.get("files", {})
    for name in sorted({*listed, *desk.files.sizes} - {MANIFEST}):
        if name not in desk.files.sizes:
            desk.problem("files", name, "is in the manifest, and not in the archive")
        elif name not in listed:
            desk.problem("files", name, "is in the archive, and not in the manifest")
        elif name in desk.hashes:
            told = (desk.files.sizes[name], desk.hashes[name])
            if told != listed[name]:
                desk.problem("files", name, "is not what the manifest says: size or SHA-256 differ")


def _info(desk: _Desk) -> Info | None:
    if SUITE not in desk.files.sizes:
        desk.problem("suite", SUITE, "is missing: it says which cells there should be")
        return None
    content = desk.read(SUITE)
    if content is None:
        return None
    try:
        return info_of(content.decode("utf-8"), SUITE)
    except (UmBenchError, ValueError, RecursionError) as error:
        desk.problem("suite", SUITE, str(error))
        return None


def _records(desk: _Desk) -> Iterator[Record]:
    for name in records_in(desk.files):
        content = desk.read(name)
        for number, line in enumerate(_lines(content), start=1):
            try:
                yield from_json(line)
            except UsageError as error:
                desk.problem("records", f"{name}, line {number}", str(error))


def _lines(content: bytes | None) -> list[str]:
    if not content:
        return []
    return [line.decode("utf-8", "replace") for line in content.removesuffix(b"\n").split(b"\n")]


def _complete(desk: _Desk, records: Sequence[Record], info: Info | None, *, strict: bool) -> None:
    if info is None:
        return
    for text in plausible.incomplete(records, info):
        desk.findings.append(Finding("complete", "", text, is_problem=strict))


def _score_files(desk: _Desk, records: Sequence[Record], *, required: bool) -> None:
    """Compute again what the files of scores say, where there are any."""
    named = _named_scores(desk, records)
    there = scores_in(desk.files)
    if not there and not required:
        desk.facts.append(f"No scores here: the metrics of {len(named):,} cells are not checked.")
        return
    for name in sorted(named.keys() - set(there)):
        desk.problem("scores", place_of(named[name]), f"{name} is missing")
    sides: dict[tuple[object, ...], tuple[str, Record]] = {}
    for name in there:
        if name in named:
            _score_file(desk, name, named[name], sides)
        else:
            # A folder keeps those of a cell that was run again under another name.
            archive = isinstance(desk.files, ZipFiles)
            desk.findings.append(Finding("scores", name, "is of no done cell", archive))


def _named_scores(desk: _Desk, records: Sequence[Record]) -> dict[str, Record]:
    """Return the record of each file of scores that a done cell names."""
    named: dict[str, Record] = {}
    for record in records:
        if record.state != "done":
            continue
        if not record.scores:
            desk.problem("scores", place_of(record), "names no file of scores")
        elif named.setdefault(record.scores, record) is not record:
            other = place_of(named[record.scores])
            desk.problem("scores", place_of(record), f"names the same file of scores as {other}")
    return named


def _score_file(
    desk: _Desk,
    name: str,
    record: Record,
    sides: dict[tuple[object, ...], tuple[str, Record]],
) -> None:
    content = desk.read(name)
    if content is None:
        return
    place = place_of(record)
    if check_of(content) != record.scores_check:
        desk.problem("scores", place, f"{name} is not the file of which the record has the check")
    images = {"id": _id_images(record), "ood": record.counts.get("ood", 0)}
    try:
        arrays = arrays_in(content, images)
        if not all(images.values()):
            raise DamagedError("has a side without images")
    except DamagedError as error:
        desk.problem("scores", place, f"{name}: {error}")
        return
    found = metrics_of(arrays["id"], arrays["ood"])
    desk.recomputed += 1
    _compare_metrics(desk, record, found)
    if record.ranking:
        desk.ranked += 1
        if ranking_of(arrays["id"], arrays["ood"]) != record.ranking:
            desk.problem("ranking", place, "the scores put the images in another order")
    digest = check_of(arrays["id"].tobytes())
    first, other = sides.setdefault(plausible.id_scores_place(record), (digest, record))
    if first != digest:
        desk.remark(
            "scores",
            place,
            f"its ID scores are not those of {place_of(other)}, though model, detector and images "
            "are the same: the detector draws at random, or the cells were computed apart",
        )


def _id_images(record: Record) -> int:
    more = record.counts.get("shifted", 0) if is_full_spectrum(record.group) else 0
    return record.counts.get("id", 0) + more


def _compare_metrics(desk: _Desk, record: Record, found: Mapping[str, float]) -> None:
    wrong = []
    for name, value in found.items():
        told = record.metrics.get(name)
        if told is None:
            continue  # told elsewhere
        desk.largest = max(desk.largest, abs(value - told))
        if not abs(value - told) <= TOLERANCE:
            wrong.append(f"{name} {told:.6f}, from the scores {value:.6f}")
    if wrong:
        desk.problem("metrics", place_of(record), "; ".join(wrong))


def _beside(desk: _Desk, records: Sequence[Record], info: Info | None, against: Path) -> None:
    folder = (
        against if (against / "records").is_dir() else against / slug(info.name if info else "")
    )
    if not (folder / "records").is_dir():
        if not any(against.glob("*/records")):
            raise UsageError(f"{against}: no folder of results to compare with")
        desk.facts.append(f"{against} has no records of this suite: its images are not compared.")
        return
    theirs, _ = read_results(folder)
    desk.findings += plausible.of_other_images(records, theirs, str(folder))
    difference = compare(theirs, records)
    lines = {record.cell: record for record in theirs}
    equal = sum(lines.get(record.cell) == record for record in records)
    desk.facts.append(
        f"Beside {folder}: {difference.in_both:,} cells in both, {equal:,} of them the same record "
        f"to the last field; {difference.identical:,} with the same numbers, "
        f"{len(difference.moved):,} with others."
    )
    for group in grouped(difference.moved):
        if group.alarming:
            desk.remark(
                "reference",
                "",
                f"{len(group.moves):,} cells have other numbers than in {folder}, and "
                f"{group.causes[0].detail}. um-bench diff tells more.",
            )
