r"""A page as LaTeX: tables with booktabs' rules, to be \input into a paper.

A table that is wider than the text is scaled down to it; one of many rows becomes several, because
no float may be longer than a page.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from um_bench.render import words
from um_bench.render.columns import Column
from um_bench.render.text import printable
from um_bench.render.values import Value
from um_bench.render.view import Grid, Page

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After a line's \\ these two would be its arguments.
    "[": "{[}",
    "*": "{*}",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "–": "--",  # noqa: RUF001 - the sign that view writes where there is no number
}
_NOT_IN_THE_FONT = "×÷ÐðÞþ"  # noqa: RUF001 - of Latin-1's letters

_LONGEST = 40
"""Rows of a table; with its caption it fits a page of 9 inches of text."""
_WIDEST = 11
"""Letters of a column's name on one line."""


class _Part(NamedTuple):
    """Rows of a grid that are one table."""

    number: int
    of: int
    rows: tuple[tuple[Value, ...], ...]


def render(page: Page) -> str:
    """Return the page as LaTeX, in ASCII and accented Latin letters only."""
    head = (
        r"% Needs \usepackage{booktabs,graphicx}, and UTF-8, LaTeX's default. What to cite:"
        f"\n% um-bench leaderboard --suite {printable(page.name)} --format bibtex"
    )
    notes = [
        f"% {printable(line)}"
        for part in page.notes
        for line in (f"{part.heading}:", *(f"  {line}" for line in part.lines))
    ]
    tables = [
        _table(page, grid, number, part)
        for number, grid in enumerate(page.grids)
        for part in _parts(grid)
    ]
    return "\n\n".join([head, *tables, "\n".join(notes)])


def escape(text: str) -> str:
    """Return text that LaTeX sets as it is; letters that its fonts lack as their code point."""
    return "".join(_letter(letter) for letter in printable(text))


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii() or ("À" <= letter <= "ÿ" and letter not in _NOT_IN_THE_FONT):
        return letter
    return f"{{[}}U+{ord(letter):04X}]"


def _parts(grid: Grid) -> list[_Part]:
    """Return the rows in as few tables of nearly one length as pages can take."""
    count = max(1, -(-len(grid.rows) // _LONGEST))
    ends = [round(len(grid.rows) * n / count) for n in range(count + 1)]
    return [_Part(n + 1, count, grid.rows[ends[n] : ends[n + 1]]) for n in range(count)]


def _table(page: Page, grid: Grid, number: int, part: _Part) -> str:
    names = "".join("r" if column.group else "l" for column in grid.columns)
    label = "".join(c if c.isascii() and c.isalnum() else "-" for c in page.name)
    label += f"-{number}" * bool(number) + f"-part{part.number}" * (part.number > 1)
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(' '.join(_caption(page, grid, part)))}}}",
            rf"\label{{tab:{label}}}",
            r"\smallskip",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{names}@{{}}}}",
            r"\toprule",
            *_head(grid.columns),
            r"\midrule",
            *(_line([_value(value) for value in row]) for row in part.rows),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
        ]
    )


def _caption(page: Page, grid: Grid, part: _Part) -> Iterator[str]:
    """Yield what stands above a table; of a part that follows another, only which it is."""
    title = f"{page.title}: {grid.title}" if grid.title else page.title
    if part.of == 1:
        yield f"{title}."
    else:
        yield f"{title} (part {part.number} of {part.of})."
    if part.number > 1:
        return
    yield from page.reading
    values = [value for row in grid.rows for value in row]
    if any(value.best for value in values):
        yield "Bold: best mean of its column among complete rows."
    if any(value.tied for value in values):
        yield "Underlined: no row is significantly better."
    if any(value.half for value in values):
        yield "±: half the width of the difference's interval, else its SD in parentheses."
    marks = "".join(value.marks for value in values)
    if words.INCOMPLETE in marks:
        yield f"{words.INCOMPLETE}: over fewer seeds than the suite has."
    if words.ALARM in marks:
        yield f"{words.ALARM}: calls for a second look; comments in this table's source say why."


def _line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _head(columns: Sequence[Column]) -> Iterator[str]:
    groups, rules, start = [], [], 1
    for group, members in groupby(columns, key=lambda column: column.group):
        width = len(list(members))
        groups.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    yield _line(groups)
    yield "".join(rules)
    names = [_two_lines(column.name) for column in columns]
    if any(above for above, _ in names):
        yield _line([escape(above) for above, _ in names])
    yield _line([escape(name) for _, name in names])
    if any(column.note for column in columns):
        yield _line([escape(column.note) for column in columns])


def _two_lines(name: str) -> tuple[str, str]:
    """Return a column's name on two lines where it is wider than its numbers."""
    first, _, rest = name.partition(" ")
    return (first, rest) if len(name) > _WIDEST and rest else ("", name)


def _value(value: Value) -> str:
    if not value.is_number:
        return escape(value.text)
    sign = value.text[:1] if value.text[:1] in ("+", "-") else ""
    text = (f"${sign}$" if sign else "") + escape(value.text.removeprefix(sign))
    if value.best or value.tied:
        text = rf"\{'textbf' if value.best else 'underline'}{{{text}}}"
    sd = rf" {{\scriptsize({value.sd})}}" if value.sd else ""
    half = rf" {{\scriptsize$\pm${value.half}}}" if value.half else ""
    return f"{text}{sd}{half}{escape(value.marks)}"
