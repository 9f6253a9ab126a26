"""A page in GitHub's Markdown."""

import re
from collections.abc import Sequence

from um_bench.render.columns import Column
from um_bench.render.text import aligned, printable
from um_bench.render.values import Value
from um_bench.render.view import Grid, Page
from um_bench.render.words import Notes

_SPECIAL = str.maketrans(
    {
        # As entities, which mean the same in a table's cell and outside of one.
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        **{letter: f"\\{letter}" for letter in "\\`*_[]~$#"},
    }
)


def render(page: Page) -> str:
    """Return the page as Markdown."""
    blocks = [f"# {escape(page.title)}"]
    blocks += [_paragraph(text) for text in page.description]
    blocks.append("\n".join(f"- {_paragraph(line)}" for line in page.reading))
    blocks += [_grid(grid) for grid in page.grids]
    blocks += [_notes(notes) for notes in page.notes]
    return "\n\n".join(blocks)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table too."""
    return printable(text).translate(_SPECIAL)


def _paragraph(text: str) -> str:
    # At the start of a line these would make a list or a heading of it.
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escape(text))


def _notes(notes: Notes) -> str:
    lines = (f"- {_paragraph(line)}" for line in notes.lines)
    return "\n".join((f"## {escape(notes.heading)}", "", *lines))


def _grid(grid: Grid) -> str:
    head = [_head(column) for column in grid.columns]
    body = [[cell(value) for value in row] for row in grid.rows]
    lines = table(head, body, [bool(column.group) for column in grid.columns])
    return f"## {escape(grid.title)}\n\n{lines}" if grid.title else lines


def table(head: Sequence[str], body: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Return the lines of a table.

    Args:
        head: names of the columns, escaped.
        body: the cells of each row, escaped.
        right: for each column, whether its cells are at the right.
    """
    widths = [max(3, *map(len, texts)) for texts in zip(head, *body, strict=True)]
    rule = [f"{'-' * (w - 1)}{':' if r else '-'}" for w, r in zip(widths, right, strict=True)]
    lines = (aligned(cells, widths, right) for cells in (head, rule, *body))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(column: Column) -> str:
    note = f"({column.note})" if column.note else ""
    return escape(" ".join(text for text in (column.group, column.name, note) if text))


def cell(value: Value) -> str:
    """Return what one place of a table shows: bold where it is the best, italic where tied."""
    sd = f" ({value.sd})" if value.sd else ""
    half = f" ±{value.half}" if value.half else ""
    text = f"{escape(value.text)}{sd}{half}{value.marks}"
    emphasis = "**" if value.best else "_" * value.tied
    return f"{emphasis}{text}{emphasis}"
