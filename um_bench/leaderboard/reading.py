"""A results folder -> its records, and what the suite says of itself."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from um_bench.errors import UsageError
from um_bench.leaderboard.board import Board, Info
from um_bench.leaderboard.curve_file import Curves, read_curves, update_curves
from um_bench.leaderboard.making import make_board
from um_bench.leaderboard.significance import (
    Resampled,
    digest_of,
    read_judgement,
    write_judgement,
)
from um_bench.papers import Cited, Paper
from um_bench.records import Record, read_folder
from um_bench.suite import OodSet


def read_board(folder: Path) -> Board:
    """Return the leaderboard of one suite's results folder.

    Raises:
        UsageError: if there are no records, or a file in it cannot be used (it is named).
    """
    return board_of(folder, *read_results(folder))


def board_of(folder: Path, records: Sequence[Record], info: Info | None) -> Board:
    """Return the leaderboard of what `read_results` found in a folder, and of what is beside it."""
    judged = read_judgement(folder, digest_of(records, info))
    resampled = {} if judged else _replicates(folder, records)
    board = make_board(records, info, resampled=resampled, judged=judged)
    return dataclasses.replace(board, curves=_of_these(read_curves(folder), records))


def _of_these(curves: Curves, records: Iterable[Record]) -> Curves:
    """Return the curves of these records, in an order that does not depend on theirs."""
    checks = {record.scores_check for record in records if record.state == "done"}
    return {check: curves[check] for check in sorted(checks & curves.keys())}


def write_statistics(folder: Path) -> None:
    """Write what outlives the scores beside the records: intervals and ranks, and curves.

    What is there already, of the same records and of their scores, is left as it is.

    Raises:
        UsageError: if there are no records, or a file in the folder cannot be used.
        StorageError: if the file cannot be written.
    """
    records, info = read_results(folder)
    digest = digest_of(records, info)
    known = read_judgement(folder, digest)
    if not (known and known.whole):
        board = make_board(records, info, resampled=_replicates(folder, records))
        write_judgement(folder, board.judged, digest)
    update_curves(folder, records)


def _replicates(folder: Path, records: Sequence[Record]) -> Resampled:
    from um_bench.replicates import read_replicates  # late: numpy

    return read_replicates(folder, records)


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
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    return info_of(text, path)


def info_of(text: str, path: str | Path) -> Info:
    """Return what a suite says of itself in the text of a suite.json.

    Raises:
        UsageError: if it cannot be used; `path` is named.
    """
    try:
        table = json.loads(text)
        info = Info(
            name=str(table["name"]),
            title=str(table.get("title", "")),
            description=str(table.get("description", "")),
            fpr95=table.get("fpr95", "ood"),
            ood=tuple(
                OodSet(str(s["name"]), str(s["group"]), str(s.get("source", "")))
                for s in table["ood"]
            ),
            id_test=str(table.get("id", {}).get("test", "")),
            shifted=tuple((str(k), str(v)) for k, v in table.get("shifted", {}).items()),
            seeds=tuple(int(seed) for seed in table.get("seeds", ())),
            adapters=tuple(str(label) for label in table.get("adapters", ())),
            tracks={str(k): str(v) for k, v in table.get("tracks", {}).items()},
            detectors=tuple(str(label) for label in table.get("detectors", ())),
            papers=tuple(_cited(one) for one in table.get("papers", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path}: does not describe a suite ({type(error).__name__}: {error}). Without this "
            "file the sets, seeds and names are taken from the records."
        ) from error
    if info.fpr95 not in ("ood", "id"):
        raise UsageError(f"{path}: fpr95 must be 'ood' or 'id', got {info.fpr95!r}")
    return info


def _cited(table: Mapping[str, Any]) -> Cited:
    title, venue, url = (str(table[name]) for name in ("title", "venue", "url"))
    paper = Paper(title, venue, int(table["year"]), url)
    return Cited(str(table["kind"]), str(table["name"]), paper)
