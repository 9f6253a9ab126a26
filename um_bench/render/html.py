"""A page as one HTML file: no script, nothing loaded from anywhere, light and dark."""

import re
from html import escape as escape_html
from itertools import groupby

from um_bench.alarms import MEANINGS
from um_bench.render.columns import Column
from um_bench.render.text import printable
from um_bench.render.values import Value
from um_bench.render.view import Grid, Page
from um_bench.render.words import ALARM, INCOMPLETE, STATE, Notes

# The policy is a second lock: should an escape be forgotten, still nothing runs or loads.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>"""

_STYLE = """
:root { --ink: #1c2024; --soft: #5b6470; --line: #d9dee4; --paper: #ffffff; --band: #f6f8fa;
  --bad: #a3281e; --best: #e5f3ea; --focus: #2563c9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4b0; --line: #323a43; --paper: #14181d; --band: #1b2127;
    --bad: #f2958b; --best: #17362a; --focus: #7fb0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.05rem; margin: 2.25rem 0 .5rem; }
p, ul { max-width: 48rem; margin: .5rem 0; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
li { margin: .2rem 0; }
.reading { color: var(--soft); font-size: .925rem; list-style: none; padding: 0; }
.scroll { position: relative; overflow-x: auto; margin: 1.25rem 0; border: 1px solid var(--line);
  border-radius: .5rem; }
.scroll:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
caption, .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
th, td { padding: .34rem .7rem; text-align: right; white-space: nowrap; background: var(--paper);
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr:hover > * { background: var(--band); }
thead th { background: var(--band); font-weight: 600; vertical-align: bottom; }
thead th small { display: block; font-weight: 400; }
thead th[scope=colgroup] { text-align: center; }
thead .names { text-align: left; }
.first { border-left: 1px solid var(--line); }
tbody th { text-align: left; font-weight: 600; white-space: normal; }
tbody th + th { font-weight: 400; }
small { color: var(--soft); font-size: .82em; }
td.best { background: var(--best); }
td.tied { text-decoration: underline; text-underline-offset: .2em; }
td.state { color: var(--soft); font-style: italic; }
td.failed { color: var(--bad); }
abbr { text-decoration: none; cursor: help; }
@media (max-width: 46rem) {
  main { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.35rem; }
  table { font-size: .8rem; }
  th, td { padding: .32rem .4rem; }
  tbody th:first-child, thead .names:first-child { position: sticky; left: 0; z-index: 1;
    width: 5rem; min-width: 5rem; overflow-wrap: anywhere; }
  tbody th + th, thead .names + .names { position: sticky; left: 5rem; z-index: 1;
    width: 5.6rem; min-width: 5.6rem; border-right: 1px solid var(--line);
    overflow-wrap: anywhere; }
}
@media print { .scroll { overflow: visible; border: 0; } main { max-width: none; } }
""".strip()

_REASONS = {word: state for state, word in STATE.items()}


def render(page: Page) -> str:
    """Return the page as a complete HTML document."""
    body = [f"<p>{escape(text)}</p>" for text in page.description]
    body.append(_items(page.reading, "reading"))
    body += [_grid(page, grid) for grid in page.grids]
    body += [_notes(notes) for notes in page.notes]
    return _PAGE.format(title=escape(page.title), style=_STYLE, body="\n".join(body))


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
    rows = "\n".join(_row(grid, row) for row in grid.rows)
    return (
        f'{heading}<div class="scroll" role="region" aria-label="{title}" tabindex="0">\n<table>\n'
        f"<caption>{title}</caption>\n<thead>\n{_head(grid)}\n</thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
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
