"""What the code knows, as Markdown between two comments of a page; run it to write the pages anew.

    <!-- generated: suites -->
    ...
    <!-- /generated -->

`python docs/tables.py` writes; with `--check` it only names the pages that it would change.
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import authors_flags  # beside this file
import click

from um_bench import cli, registry
from um_bench.adapters import Adapter
from um_bench.detectors.catalogue import catalogue
from um_bench.suite import load_suite, shipped

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
)
CARDS = [path.parent.name for path in PAGES if path.name == "README.md"][1:]
"""Packages of adapters with a method card."""
REGION = re.compile(r"(<!-- generated: ([^>]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
SOURCES = (*(ROOT / "um_bench").rglob("*.py"), *(ROOT / "plugins").rglob("*.py"))


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in lines
    )


def code(value: object) -> str:
    """Return a value as code."""
    return f"`{value}`"


def listed(values: Iterable[object]) -> str:
    """Return values as code, with commas."""
    return ", ".join(map(code, values))


def one_line(text: str) -> str:
    """Return a docstring or a help text as one line, double backticks and spaces taken away."""
    return " ".join(text.split())


def detectors() -> str:
    """Return every detector."""
    return catalogue()


def suites() -> str:
    """Return the suites that ship, with a link to the file of each."""
    rows = []
    for name, path in shipped().items():
        suite = load_suite(path)
        groups = {"near": [], "far": []}
        for ood in suite.ood:
            if not ood.full_spectrum:
                groups[ood.group].append(ood.name)
        rows.append(
            (
                f"[{code(name)}]({{up}}um_bench/suites/{path.name})",
                suite.title,
                ", ".join(groups["near"]),
                ", ".join(groups["far"]),
                code(suite.backbone),
                code(f"fpr95_{suite.fpr95}"),
                str(len(suite.seeds)),
            )
        )
    head = ("suite", "what it is", "near-OOD", "far-OOD", "backbone", "shows", "seeds")
    return as_table(head, rows)


def classes() -> dict[str, type[Adapter]]:
    """Return the adapters with a class of their own: name -> class; not those made of losses."""
    names = [name for name in registry.plugins("adapter") if not name.startswith("loss:")]
    found = {name: registry.load("adapter", name) for name in names}
    ours = {name: kind for name, kind in found.items() if kind.__module__.startswith("um_bench")}
    order = ("none", "finetune", "um", "umap", "oe", "energy", "poem", "doe")
    return dict(sorted(ours.items(), key=lambda item: order.index(item[0])))


def adapters() -> str:
    """Return every adapter that comes with um-bench, with a link to its method card."""
    rows = []
    for name, kind in classes().items():
        package = kind.__module__.split(".")[0]
        page = f"plugins/{package}/README.md" if package in CARDS else "docs/methods/controls.md"
        paper = f"[{kind.paper.venue} {kind.paper.year}]({kind.paper.url})" if kind.paper else ""
        what = one_line((kind.__doc__ or "").split("\n\n")[0])
        rows.append(
            (f"[{code(name)}]({{up}}{page})", what, "yes" if kind.needs_outliers else "", paper)
        )
    losses = [name for name in registry.plugins("adapter") if name.startswith("loss:")]
    rows.append(
        ("[`loss:NAME`](losses.md)", f"Losses of pytorch-ood: {listed(losses)}.", "some", "")
    )
    return as_table(("adapter", "what it does", "outliers", "paper"), rows)


def hyperparameters(*names: str) -> str:
    """Return the fields of adapters: name, default, and what the code says of them.

    A field that an adapter has from the one before it in `names`, unchanged, is not shown again.
    """
    seen: dict[str, Any] = {}
    rows = []
    for name in names:
        kind = classes()[name]
        says = field_docs(kind)
        for field in dataclasses.fields(kind):
            inherited = seen.get(field.name, dataclasses.MISSING) == field.default
            if not inherited or len(names) == 1:
                rows.append((code(name), code(field.name), default_of(field), says[field.name]))
            seen[field.name] = field.default
    if len(names) == 1:
        return as_table(("name", "default", ""), [row[1:] for row in rows])
    return as_table(("adapter", "name", "default", ""), rows)


def default_of(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as it is written in a suite."""
    if field.default is None:
        return "estimated"
    return code(json.dumps(field.default))


def field_docs(kind: type) -> dict[str, str]:
    """Return what stands below each field of a class and of those it derives from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
            found |= dict(documented(body, ast.AnnAssign))
    return found


def documented(body: Sequence[ast.stmt], kind: type) -> Iterator[tuple[str, str]]:
    """Yield each assigned name that has a text below it, with that text."""
    for statement, below in itertools.pairwise(body):
        text = getattr(getattr(below, "value", None), "value", None)
        if isinstance(statement, kind) and isinstance(text, str):
            target = getattr(statement, "target", None) or statement.targets[0]
            yield ast.unparse(target), one_line(text)


def commands(
    group: click.Group = cli.main, path: str = "um-bench"
) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMON = ("log_level", "debug")
"""Options that every command has: shown once."""


def options() -> str:
    """Return every command with its options."""
    parts = []
    for name, command in commands():
        usage = " ".join([name, *command.collect_usage_pieces(click.Context(command))])
        parts += [f"### `{name}`", one_line(command.help or ""), f"`{usage}`"]
        rows = [
            row_of(p)
            for p in command.params
            if isinstance(p, click.Option) and p.name not in COMMON
        ]
        parts += [as_table(("option", "default", ""), rows)] if rows else []
    return "\n\n".join(parts)


def common_options() -> str:
    """Return the options that every command has."""
    params = {p.name: p for p in cli.main.commands["run"].params}
    return as_table(("option", "default", ""), [row_of(params[name]) for name in COMMON])


_SHORT = {"integer range": "N", "integer": "N", "float": "X", "float range": "X", "text": "NAME"}


def row_of(option: click.Option) -> tuple[str, str, str]:
    """Return an option's row."""
    kind, default = option.type, option.default
    words = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else option.metavar
    takes = "" if option.is_flag else f" {words or _SHORT.get(kind.name, kind.name.upper())}"
    has_default = isinstance(default, str | int | float | Path) and not option.is_flag
    shown = code(default) if has_default and default != "" else ""
    if isinstance(option.show_default, str):
        shown = option.show_default
    return code(f"{option.opts[0]}{takes}"), shown, one_line(option.help or "")


def environment() -> str:
    """Return every environment variable that is read."""
    rows = {}
    for _, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and option.envvar:
                says = f"{option.help} As {code(option.opts[0])}; otherwise {code(option.default)}."
                rows[str(option.envvar)] = says
    for path in SOURCES:
        for _, value, says in constants(path):
            rows[value] = says
    return as_table(("variable", ""), [(code(name), rows[name]) for name in sorted(rows)])


def constants(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and text of each constant that names an environment variable."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    says = dict(documented(body, ast.Assign))
    for statement in body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            name, value = ast.unparse(statement.targets[0]), statement.value.value
            if isinstance(value, str) and value.startswith("UM_BENCH_"):
                words = says[name].removeprefix("Environment variable: ")
                yield name, value, words[0].upper() + words[1:]


def leaderboards() -> str:
    """Return what lies in leaderboards/, with a link to each page."""
    rows = []
    for path in sorted((ROOT / "leaderboards").glob("*/suite.json")):
        suite = json.loads(path.read_text(encoding="utf-8"))
        folder = f"{{up}}leaderboards/{path.parent.name}"
        pages = {"table": "README.md", "page": "index.html", "report": "report.md"}
        links = [f"[{w}]({folder}/{f})" for w, f in pages.items() if (path.parent / f).exists()]
        rows.append(
            (suite["title"], ", ".join(links), listed(suite["adapters"]), str(len(suite["seeds"])))
        )
    return as_table(("suite", "pages", "adapters", "seeds"), rows)


def file(path: str) -> str:
    """Return a file of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    kind = {".py": "python"}.get(Path(path).suffix, Path(path).suffix[1:])
    return f"```{kind}\n{text}```"


def flags_in_short() -> str:
    """Return what the flags of the paper's code become, those that become the same together."""
    found: dict[str, list[str]] = {}
    for name, _, became in authors_flags.taken():
        same = became == f"`recipe.{name.strip('`')}`"
        found.setdefault("`recipe`, by the same name" if same else became, []).append(name)
    head = ("in their YAML, or after `--`", "here")
    return as_table(head, ((", ".join(names), became) for became, names in found.items()))


def flags() -> str:
    """Return what the flags of the paper's code become in a suite."""
    head = ("in their YAML, or after `--`", "there by default", "here")
    return as_table(head, authors_flags.taken())


def other_flags() -> str:
    """Return the flags of the paper's code that become nothing here, and why."""
    return as_table(("in their YAML, or after `--`", "here"), authors_flags.left())


TABLES: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        *(detectors, suites, adapters, hyperparameters, options, common_options),
        *(environment, leaderboards, flags, flags_in_short, other_flags, file),
    )
}


def written(path: Path) -> str:
    """Return a page with every generated part made anew."""
    up = "../" * len(path.parent.relative_to(ROOT).parts)

    def part(match: re.Match[str]) -> str:
        name, *arguments = match[2].split()
        return f"{match[1]}{TABLES[name](*arguments).replace('{up}', up)}\n{match[3]}"

    return REGION.sub(part, path.read_text(encoding="utf-8"))


def main() -> int:
    """Write, or check, every page."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the pages.")
    parser.add_argument("--check", action="store_true", help="only name what would change")
    check = parser.parse_args().check
    stale = [path for path in PAGES if written(path) != path.read_text(encoding="utf-8")]
    for path in stale:
        print(path.relative_to(ROOT))
        if not check:
            path.write_text(written(path), encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
