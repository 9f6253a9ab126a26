"""Sphinx: pages are Markdown as it reads without it; what the site has otherwise is done here."""

import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

from markdown_it import MarkdownIt
from pygments.lexers import BashLexer
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

ROOT = Path(__file__).parents[1]

project = "um-bench"
author = "the um-bench authors"
version = release = version_of("um-bench")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"um-bench {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "friendly"

myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the headings of a generated part begin at the third level

autodoc_member_order = "bysource"
autodoc_default_options = {"undoc-members": True, "exclude-members": "__init__, __new__"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True

CARDS = {
    f"methods/{name}": ROOT / "plugins" / package / "README.md"
    for name, package in {
        "um": "um_bench_um",
        "umap": "um_bench_umap",
        "outliers": "um_bench_outliers",
        "losses": "um_bench_losses",
    }.items()
}
"""Page -> the method card that it shows: the cards lie with their adapters."""
PAGES = {card: f"/{page}.md" for page, card in CARDS.items()}
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
HEAD = """<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>um-bench</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 15px/1.5 system-ui, sans-serif; }
  body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
  table { border-collapse: collapse; display: block; overflow-x: auto; white-space: nowrap; }
  td, th { border-bottom: 1px solid #8884; padding: 0.2rem 0.6rem; }
  img { max-width: 100%; }
</style>
"""
SECTIONS = Config(napoleon_custom_sections=[("Source", "notes_style")])


def lead(app: Sphinx, page: str, source: list[str]) -> None:
    """Put a method card in its page's place, and lead links to where things are on the site."""
    path = CARDS.get(page, Path(app.srcdir) / f"{page}.md")
    up = "../" * page.count("/")

    def leading(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        file = (path.parent / target).resolve()
        if file in PAGES:
            return f"[{words}]({PAGES[file]}{anchor})"
        if "://" in target or file.is_relative_to(app.srcdir):
            return match[0]
        return f'<a href="{up}{copied(file, Path(app.outdir)).as_posix()}">{words}</a>'

    source[0] = LINK.sub(leading, path.read_text(encoding="utf-8"))


def copied(file: Path, site: Path) -> Path:
    """Return where a file that is no page lies on the site: as it is, or as HTML if Markdown."""
    there = file.relative_to(ROOT)
    (site / there).parent.mkdir(parents=True, exist_ok=True)
    if file.suffix != ".md":
        shutil.copy(file, site / there)
        return there
    there = there.with_name(f"{file.stem}.html")
    body = MarkdownIt("commonmark").enable("table").render(file.read_text(encoding="utf-8"))
    (site / there).write_text(f"{HEAD}{body}", encoding="utf-8")
    return there


def read_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Turn a docstring into reStructuredText: names are in single backticks, sections are Google's.

    What stands below a field is taken as it is; napoleon would read a type before its first colon.
    """
    text = "``".join(
        part if index % 2 else part.replace("|", r"\|").replace("*", r"\*")
        for index, part in enumerate(CODE.sub(r"``\1``", "\n".join(lines)).split("``"))
    )
    lines[:] = text.split("\n")
    if what != "attribute":
        lines[:] = GoogleDocstring(lines, SECTIONS, app, what, name, thing, options).lines()


def setup(app: Sphinx) -> None:
    """Register what is done here."""
    app.add_lexer("console", BashLexer)  # its own takes what has no prompt for output
    app.connect("source-read", lead)
    app.connect("autodoc-process-docstring", read_docstring)
