"""A leaderboard as one HTML file that opens from disk: nothing is loaded from anywhere.

Without a script it is the tables of every other format. With it, the same numbers are sorted,
filtered, drawn, and traced to their records. Python decides every number, text and mark
(`numbers`, `cells`); the script (`app/`) only shows them.
"""

from um_bench.leaderboard import Board
from um_bench.render.page import document, tables
from um_bench.render.page.cells import alarms_of, cells_of, holes_of
from um_bench.render.page.numbers import sections_of
from um_bench.render.page.packing import embedded, shown
from um_bench.render.page.start import Start, start_of
from um_bench.render.view import Page

__all__ = ["Start", "render"]


def render(board: Board, page: Page, start: Start) -> str:
    """Return the page as a complete HTML document.

    Args:
        board: everything that it can show.
        page: what it shows without a script.
        start: what it shows first.
    """
    data = {
        **shown(start_of(board, start)),
        "sections": shown(sections_of(board)),
        "cells": cells_of(board),
        "alarms": shown(alarms_of(board)),
        "holes": shown(holes_of(board)),
        "curves": board.curves,
    }
    return document.written(
        title=tables.escape(page.title),
        about=tables.about(page),
        grids=tables.grids(page),
        below=tables.below(page),
        data=embedded(data),
    )
