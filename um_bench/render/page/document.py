"""The document of a page: its parts put together, under a policy that lets nothing else run."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from um_bench.render.page.packing import Embedded

_LIBRARIES = ("tabulator.min.js", "d3.min.js", "plot.umd.min.js")
_MODULES = (
    *("dom", "data", "state", "marks", "theme", "filters", "grid", "table", "heatmap", "charts"),
    *("cost", "holes", "details", "main"),
)
"""Of the script, each after those that it imports from."""
_STYLES = ("vendor/tabulator.min.css", "app/page.css")
# Should an escape be forgotten, still nothing runs that is not ours, and nothing is loaded.
_POLICY = (
    "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="um-bench">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
<header class="top">
<h1>{title}</h1>
</header>
<details class="about" open>
<summary>About this suite, and how to read its numbers</summary>
<div>
{about}
</div>
</details>
<div id="app" hidden></div>
<div id="tables">
{grids}
</div>
<div class="below">
{below}
</div>
</main>
<script type="application/json" id="data" data-encoding="{encoding}">{data}</script>
{scripts}
</body>
</html>"""


def written(*, title: str, about: str, grids: str, below: str, data: Embedded) -> str:
    """Return the document; all parts but the data are HTML already."""
    scripts = [("", text) for text in _libraries()] + [(' type="module"', _app())]
    policy = _POLICY.format(hashes=" ".join(_hash(text) for _, text in scripts))
    return _PAGE.format(
        policy=policy,
        title=title,
        style=_style(),
        about=about,
        grids=grids,
        below=below,
        encoding=data.encoding,
        data=data.text,
        scripts="\n".join(f"<script{kind}>{text}</script>" for kind, text in scripts),
    )


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _libraries() -> tuple[str, ...]:
    return tuple(_without_map(_text(f"vendor/{name}")) for name in _LIBRARIES)


@cache
def _app() -> str:
    """Return the script's modules as one: what they import from each other is above."""
    return "\n".join(_joined(_text(f"app/{name}.js")) for name in _MODULES)


@cache
def _style() -> str:
    return "\n".join(_without_map(_text(name)) for name in _STYLES)


def _joined(module: str) -> str:
    """Return a module as a part of one script: what it does not export stays its own."""
    without = re.sub(r"^import [^;]*;\n", "", module, flags=re.MULTILINE)
    exports = re.findall(r"^export (?:async )?function (\w+)", without, re.MULTILINE)
    if not exports:
        return without
    names = ", ".join(exports)
    body = re.sub(r"^export ", "", without, flags=re.MULTILINE)
    return f"const {{ {names} }} = (() => {{\n{body}return {{ {names} }};\n}})();"


def _without_map(text: str) -> str:
    """Return a library without the address of a file that is not here."""
    return re.sub(r"\n?(//# sourceMappingURL=\S+|/\*# sourceMappingURL=\S+ \*/)\s*$", "", text)


def _text(name: str) -> str:
    return files("um_bench.render.page").joinpath(name).read_text(encoding="utf-8")
