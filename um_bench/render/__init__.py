"""A leaderboard as text: for the terminal, Markdown, LaTeX with BibTeX, HTML, CSV and JSON."""

import functools
from collections.abc import Callable, Sequence

from um_bench.errors import unknown_name
from um_bench.leaderboard import Board
from um_bench.render import bibtex, latex, machine, markdown, page, terminal
from um_bench.render.columns import COLUMNS, COLUMNS_SHOWN
from um_bench.render.view import ORDERS, Page, view
from um_bench.render.words import Marks

_PAGES: dict[str, tuple[Callable[[Page], str], Marks]] = {
    "table": (terminal.render, Marks(terminal.BEST, terminal.TIED)),
    "markdown": (markdown.render, Marks("Bold", "italic")),
    "latex": (latex.render, Marks("Bold", "underlined")),
}
_PAGE_MARKS = Marks("Bold", "underlined")
__all__ = ["COLUMNS", "FORMATS", "JOINABLE", "render"]

_DATA: dict[str, Callable[[Board], str]] = {
    "csv": machine.to_csv,
    "json": machine.to_json,
    "bibtex": bibtex.render,
}
FORMATS = ("table", "markdown", "csv", "latex", "bibtex", "json", "html")
JOINABLE = ("table", "markdown", "latex")
"""Formats in which the texts of several suites can simply follow each other."""


def render(
    board: Board,
    format: str = "table",
    *,
    per_set: bool = False,
    order: str = "auroc",
    columns: Sequence[str] = COLUMNS_SHOWN,
) -> str:
    """Return a leaderboard as text, without a line's end at its end.

    The same records give the same bytes, in whatever order they were read. CSV and JSON hold
    everything, BibTeX the papers: `per_set`, `order` and `columns` do not change them. The HTML
    page holds everything too; they say what it shows first.

    Args:
        board: what is shown.
        format: one of FORMATS.
        per_set: add a table for each metric, with a column for each OOD set.
        order: of the rows: `auroc` (mean of the main group, highest first), `detector` (the
            adapters of one detector together), `adapter` (the detectors of one adapter together).
        columns: of each group `auroc`, `fpr95` (in the suite's convention), `fpr95_ood`,
            `fpr95_id`, `aupr_in`, `aupr_out`, `rank`; then `id-accuracy`, `delta`, `cost`.

    Raises:
        UsageError: if the format, the order or a column is unknown.
    """
    if format in _DATA:
        return _DATA[format](board)
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if order not in ORDERS:
        raise unknown_name("order of rows", order, ORDERS)
    shown = functools.partial(view, board, per_set=per_set, order=order, columns=columns)
    if format == "html":
        start = page.Start(columns=tuple(columns), per_set=per_set, order=order)
        return page.render(board, shown(marks=_PAGE_MARKS), start)
    write, marks = _PAGES[format]
    return write(shown(marks=marks))
