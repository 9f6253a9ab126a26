"""What the plain-text formats share: names that cannot break out of a line, columns that align."""

from collections.abc import Sequence
from itertools import zip_longest


def printable(text: str) -> str:
    r"""Return the text with everything that does not print (`\n`, `\x1b`) written out.

    Names and reasons come from plugins and files: a terminal's control sequence in one of them
    must not reach the terminal, nor a line's end the table.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def aligned(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """Return one row's cells, each padded to the width of its column."""
    return [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]


def stacked(cells: Sequence[Sequence[str]], *, from_below: bool = False) -> list[tuple[str, ...]]:
    """Return the lines of a row whose cells have several lines each.

    Args:
        cells: the lines of each cell.
        from_below: whether short cells are filled up with empty lines above, not below.
    """
    step = -1 if from_below else 1
    return list(zip_longest(*(cell[::step] for cell in cells), fillvalue=""))[::step]
