"""What a page shows without a script: its words, and its tables as they are in all formats."""

import re
from html import escape as escape_html
from itertools import groupby

from um_bench.alarms import MEANINGS
from um_bench.render.columns import Column
from um_bench.render.text import printable
from um_bench.render.values import Value
from um_bench.render.view import Grid, Page
from um_bench.render.words import ALARM, INCOMPLETE, STATE, Notes

MOST_ROWS = 300
"""Of a table that is shown where scripts do not run."""

_REASONS = {word: state for state, word in STATE.items()}


def about(page: Page) -> str:
    """Return what stands above the tables."""
    paragraphs = "\n".join(f"<p>{escape(text)}</p>" for text in page.description)
    return f"<div>\n{paragraphs}\n</div>\n{_items(page.reading, 'reading')}"


def grids(page: Page) -> str:
    """Return the tables; of one with very many rows, the first."""
    return "\n".join(_grid(page, grid) for grid in page.grids)


def below(page: Page) -> str:
    """Return what stands below the tables."""
    return "\n".join(_notes(notes) for notes in page.notes)


def escape(text: str) -> str:
    """Return text that HTML shows as it is, in an attribute too."""
    return escape_html(printable(text), quote=True)


def _items(lines: tuple[str, ...], kind: str = "") -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">\n{items}\n</ul>' if kind else f"<ul>\n{items}\n</ul>"


def _notes(notes: Notes) -> str:
    return f"<section>\n<h2>{escape(notes.heading)}</h2>\n{_items(notes.lines)}\n</section>"


def _grid(page: Page, grid: Grid) -> str:
    title = escape(grid.title or page.title)
    heading = f"<h2>{title}</h2>\n" if grid.title else ""
    rows = "\n".join(_row(grid, row) for row in grid.rows[:MOST_ROWS])
    rest = len(grid.rows) - MOST_ROWS
    more = f"<p>{rest:,} further rows are shown where scripts run.</p>\n" if rest > 0 else ""
    return (
        f'{heading}<div class="scroll" role="region" aria-label="{title}" tabindex="0">\n<table>\n'
        f"<caption>{title}</caption>\n<thead>\n{_head(grid)}\n</thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n{more}"
    )


def _head(grid: Grid) -> str:
    above, below = [], []
    for group, members in groupby(grid.columns, key=lambda column: column.group):
        columns = list(members)
        if not group:
            above += [_name(column) for column in columns]
            continue
        above.append(
            f'<th scope="colgroup" colspan="{len(columns)}" class="first">{escape(group)}</th>'
        )
        below += [_column(column, first=not place) for place, column in enumerate(columns)]
    return f"<tr>{''.join(above)}</tr>\n<tr>{''.join(below)}</tr>"


def _name(column: Column) -> str:
    return f'<th scope="col" rowspan="2" class="names">{escape(column.name)}</th>'


def _column(column: Column, *, first: bool) -> str:
    note = f"<small>{escape(column.note)}</small>" if column.note else ""
    kind = ' class="first"' if first else ""
    return f'<th scope="col"{kind}>{escape(column.name)}{note}</th>'


def _row(grid: Grid, row: tuple[Value, ...]) -> str:
    cells = []
    before = ""
    for column, value in zip(grid.columns, row, strict=True):
        cells.append(_value(value, first=column.group != before))
        before = column.group
    return f"<tr>{''.join(cells)}</tr>"


def _value(value: Value, *, first: bool) -> str:
    if not value.is_number:
        # A long name may break where one of its settings ends.
        name = re.sub("([@:+])", r"\1<wbr>", escape(value.text))
        return f'<th scope="row">{name}</th>'
    kinds = ["first"] * first + ["best"] * value.best + ["tied"] * value.tied
    text = escape(value.text)
    if value.text in _REASONS:
        kinds += ["state", _REASONS[value.text]]
    elif text.startswith("-"):
        text = f"&minus;{text[1:]}"
    if value.best:
        text = f"<strong>{text}</strong>"
    sd = f" <small>({escape(value.sd)})</small>" if value.sd else ""
    half = f" <small>±{escape(value.half)}</small>" if value.half else ""
    attribute = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{attribute}>{text}{sd}{half}{_marks(value)}</td>"


def _marks(value: Value) -> str:
    notes = {INCOMPLETE: value.incomplete, ALARM: "; ".join(MEANINGS[a] for a in value.alarms)}
    return "".join(_mark(mark, escape(note)) for mark, note in notes.items() if note)


def _mark(mark: str, note: str) -> str:
    shown = f'<abbr title="{note}" aria-hidden="true">{mark}</abbr>'
    return f'{shown}<span class="unseen">, {note}</span>'
