r"""A page as LaTeX: tables with booktabs' rules, to be \input into a paper."""

from collections.abc import Iterator, Sequence
from itertools import groupby

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


def render(page: Page) -> str:
    """Return the page as LaTeX, in ASCII and accented Latin letters only."""
    head = (
        r"% Needs \usepackage{booktabs}, and UTF-8, which is LaTeX's default. What to cite:"
        f"\n% um-bench leaderboard --suite {printable(page.name)} --format bibtex"
    )
    notes = [
        f"% {printable(line)}"
        for part in page.notes
        for line in (f"{part.heading}:", *(f"  {line}" for line in part.lines))
    ]
    tables = [_table(page, grid, number) for number, grid in enumerate(page.grids)]
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


def _table(page: Page, grid: Grid, number: int) -> str:
    caption = [f"{page.title}." if not grid.title else f"{page.title}: {grid.title}."]
    names = "".join("r" if column.group else "l" for column in grid.columns)
    label = "".join(c if c.isascii() and c.isalnum() else "-" for c in page.name)
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(' '.join((*caption, *page.reading)))}}}",
            rf"\label{{tab:{label}{f'-{number}' if number else ''}}}",
            r"\smallskip",
            rf"\begin{{tabular}}{{@{{}}{names}@{{}}}}",
            r"\toprule",
            *_head(grid.columns),
            r"\midrule",
            *(_line([_value(value) for value in row]) for row in grid.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
        ]
    )


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
    yield _line([escape(column.name) for column in columns])
    if any(column.note for column in columns):
        yield _line([escape(column.note) for column in columns])


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
