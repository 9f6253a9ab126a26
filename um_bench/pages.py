"""A suite's pages beside its records, as in leaderboards/: which are not what the records say."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

REPORT = "report"
PAGES = {"README.md": "markdown", "index.html": "html", "report.md": REPORT}
"""File beside `records` -> the format that it is written in; `report`: by `um-bench report`."""
_NEEDED = ("README.md",)


class StalePage(NamedTuple):
    """A page that has to be written again."""

    path: Path
    why: str
    command: str
    """Writes it."""


def stale_pages(results: Path, suite: str, render: Callable[[str], str]) -> Iterator[StalePage]:
    """Yield each page of a suite that is missing, or not what its records render now.

    Args:
        results: the folder of all suites' folders.
        suite: the name of the suite's folder.
        render: what is in a page, by format.
    """
    for name, kind in PAGES.items():
        path = results / suite / name
        if not path.exists():
            if name in _NEEDED:
                yield StalePage(path, "is missing", _command(results, suite, kind, path))
            continue
        if path.read_bytes() != render(kind).encode():
            why = "is not what the records say"
            yield StalePage(path, why, _command(results, suite, kind, path))


def _command(results: Path, suite: str, kind: str, path: Path) -> str:
    command = REPORT if kind == REPORT else "leaderboard"
    format_ = "" if kind == REPORT else f"--format {kind} "
    return (
        f"um-bench {command} --results {results.as_posix()} --suite {suite} {format_}"
        f"--out {path.as_posix()}"
    )
