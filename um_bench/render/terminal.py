"""A page for the terminal."""

import re
import textwrap
from collections.abc import Iterator, Sequence

from um_bench.render.columns import Column
from um_bench.render.text import aligned, printable, stacked
from um_bench.render.values import Value
from um_bench.render.view import Grid, Page
from um_bench.render.words import Notes

BEST = "*"
TIED = "~"
WIDTH = 100
"""Of prose, in letters."""
LABEL_WIDTH = 20
"""Names that are longer go on in the next line."""
GAP = "  "


def render(page: Page) -> str:
    """Return the page as plain text."""
    title = printable(page.title)
    blocks = [f"{title}\n{'=' * len(title)}"]
    blocks += [_wrapped(paragraph) for paragraph in page.description]
    blocks.append("\n".join(_wrapped(line) for line in page.reading))
    blocks += [_grid(grid) for grid in page.grids]
    blocks += [_notes(notes) for notes in page.notes]
    return "\n\n".join(blocks)


def _notes(notes: Notes) -> str:
    lines = (_wrapped(line, indent="  ") for line in notes.lines)
    return "\n".join((f"{notes.heading}:", *lines))


def _wrapped(line: str, indent: str = "") -> str:
    return textwrap.fill(
        printable(line),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=2 * indent,
        break_on_hyphens=False,
    )


def _grid(grid: Grid) -> str:
    head = stacked([_head(column) for column in grid.columns], from_below=True)
    columns = [list(_column(values)) for values in zip(*grid.rows, strict=True)]
    body = [line for row in zip(*columns, strict=True) for line in stacked(row)]
    widths = [max(map(len, texts)) for texts in zip(*head, *body, strict=True)]
    right = [bool(column.group) for column in grid.columns]
    rule = [("-" * width) for width in widths]
    lines = (GAP.join(aligned(line, widths, right)).rstrip() for line in (*head, rule, *body))
    table = "\n".join(lines)
    return f"{printable(grid.title)}\n\n{table}" if grid.title else table


def _head(column: Column) -> list[str]:
    texts = (printable(text) for text in (column.name, column.note) if text)
    # A group's name of several words takes several lines: all of its columns would be as wide.
    group = textwrap.wrap(printable(column.group), LABEL_WIDTH, break_on_hyphens=False)
    return [*group, *texts]


def _column(values: Sequence[Value]) -> Iterator[list[str]]:
    """Yield the lines of each place. What follows the means gets one width, so that they align."""
    width = max(len(value.sd) for value in values)
    wide = max(len(value.half) for value in values)
    for value in values:
        if not value.is_number:
            yield list(_pieces(printable(value.text)))
            continue
        mark = BEST * value.best + TIED * value.tied + value.marks
        sd = f" ({value.sd:>{width}})" if value.sd else ""
        half = f" ±{value.half:>{wide}}" if value.half else ""
        yield [f"{mark}{printable(value.text)}{sd}{half}"]


def _pieces(label: str) -> Iterator[str]:
    """Yield the lines of a name, broken where one of its settings ends."""
    line = ""
    for piece in re.findall(r"[^@:+]*[@:+]|[^@:+]+", label):
        for start in range(0, len(piece), LABEL_WIDTH):
            part = piece[start : start + LABEL_WIDTH]
            if line and len(line + part) > LABEL_WIDTH:
                yield line
                line = "  "
            line += part
    yield line
