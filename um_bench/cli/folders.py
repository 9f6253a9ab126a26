"""Folders of results: which suites they hold, and their tables."""

from pathlib import Path
from typing import Any

from um_bench.errors import UsageError
from um_bench.suite import load_suite


def chosen_folders(suite: str | None, results: Path) -> list[str]:
    """Return the folder of the suite that is named, or those of all suites with results."""
    return [folder_of(suite)] if suite else suites_in(results)


def folder_of(name_or_file: str) -> str:
    """Return the name of a suite's folder; a file says it itself."""
    return load_suite(name_or_file).folder if name_or_file.endswith(".toml") else name_or_file


def table_of(results: Path, folder: str, kind: str, **view: Any) -> str:
    """Return a suite's leaderboard as text; see `render`."""
    from um_bench.leaderboard import read_board
    from um_bench.records import all_kept, suite_folder
    from um_bench.render import render

    with all_kept():
        return render(read_board(suite_folder(results, folder)), kind, **view)


def suites_in(results: Path) -> list[str]:
    """Return the suites that have records.

    Raises:
        UsageError: if there are none.
    """
    names = sorted({path.parent.parent.name for path in results.glob("*/records/*.jsonl")})
    if not names:
        raise UsageError(
            f"{results} holds no results. Run a suite first: um-bench run --suite digits-far-ood"
        )
    return names
