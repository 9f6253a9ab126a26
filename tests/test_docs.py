"""Documentation: its commands and Python blocks run, and what code knows is made from the code."""

import dataclasses
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import torch
from click.testing import CliRunner

from um_bench import cli, registry, suite

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BLOCK = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SAID = re.compile(r"<!-- (file|not run|needs): (.*?) -->")
LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)|!\[[^]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block, and what the comments above it say: `file`, `not run`, `needs`."""

    kind: str
    text: str
    said: dict[str, str]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(kind, text, dict(SAID.findall(above))) for above, kind, text in found]


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command in a block for a shell, without its comment."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


def parse(arguments: list[str]) -> None:
    """Parse a command as click does, so that its options and their values are ones that exist."""
    command, context = cli.main, click.Context(cli.main, info_name="um-bench")
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(context, arguments)
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=name)
    command.make_context(command.name, list(arguments), parent=context)


@pytest.fixture(scope="module")
def tables():
    """The generator, docs/tables.py."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield importlib.import_module("tables")
    sys.path.remove(str(ROOT / "docs"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_code_knows_is_generated(page, tables):
    fresh = tables.written(page)
    assert page.read_text(encoding="utf-8") == fresh, "write it again: python docs/tables.py"


def test_every_table_of_the_generator_is_on_a_page(tables):
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {name.split()[0] for _, name, _ in tables.REGION.findall(text)} == set(tables.TABLES)


def test_every_adapter_with_settings_has_them_on_a_card(tables):
    cards = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = {name for _, what, _ in tables.REGION.findall(cards) for name in what.split()[1:]}
    assert {name for name, kind in tables.classes().items() if dataclasses.fields(kind)} <= shown


COMMANDS = [
    (name_of(page), words)
    for page in PAGES
    for block in blocks(page)
    if block.kind == "console"
    for words in commands(block)
]


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda it: it if isinstance(it, str) else " ".join(it)
)
def test_command_is_one_that_there_is(page, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in words:
        if word.endswith((".yaml", ".zip")):
            Path(word).touch()  # some commands ask for files that exist
    if words[0] == "um-bench":
        parse(words[1:])
    elif words[0] == "torchrun":
        parse(words[words.index("um_bench") + 1 :])
    elif words[:2] == ["pip", "install"]:
        check_installable(page, words[2:])
    elif words[0] in ("python", "pytest"):
        assert f"<!-- file: {words[1]}" in (ROOT / page).read_text(encoding="utf-8")
    else:
        assert words == ["eval", "$(um-bench completion bash)"] or words[0] == "tox"


def check_installable(page: str, arguments: list[str]) -> None:
    """Check that pip is given this project, with extras that it has, or what the page makes."""
    for argument in arguments:
        where, _, extras = argument.rstrip("]").partition("[")
        assert where in (".", "tox") or f"<!-- file: {where[2:]}/pyproject.toml -->" in (
            ROOT / page
        ).read_text(encoding="utf-8")
        assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"])


SLURM = sorted((ROOT / "benchmarks" / "slurm").glob("*.sbatch"))


@pytest.mark.parametrize("script", SLURM, ids=name_of)
def test_the_command_of_a_slurm_script_is_one_that_there_is(script):
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("exec "))
    words = shlex.split(line, comments=True)
    parse(words[words.index("run") :])
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_tried(page):
    assert {block.kind for block in blocks(page)} <= {"console", "python", "toml", "yaml"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_lead_somewhere(page):
    for pair in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = (pair[0] or pair[1]).partition("#")
        if re.match(r"https?:|mailto:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {path}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


# The rest runs what is on the pages.

SHORTER = {
    r"seeds = \[0, 1, 2\]": "seeds = [0]",
    r"epochs = \d+": "epochs = 1",
    r"detectors = \[\n[^]]*\]": 'detectors = ["msp", "energy", "knn@k=20", "react"]',
}


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    """The suites that ship, those of digits with fewer seeds, epochs and detectors."""
    folder = tmp_path_factory.mktemp("suites")
    found = suite.shipped()
    for name in ("digits-far-ood", "digits-near-ood"):
        text = found[name].read_text(encoding="utf-8")
        for pattern, less in SHORTER.items():
            text, times = re.subn(pattern, less, text)
            assert times, f"{name}: {pattern}"
        found[name] = folder / f"{name}.toml"
        found[name].write_text(text, encoding="utf-8")
    return found


@pytest.fixture
def at_work(tmp_path, monkeypatch, shorter):
    """An empty folder to work in, as a user does; what is installed there is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite, "shipped", lambda: shorter)
    for variable in ("UM_BENCH_DATA", "UM_BENCH_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    modules = set(sys.modules)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    registry.plugins.cache_clear()


def write(block: Block, folder: Path) -> None:
    path = folder / block.said["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def install(source: Path) -> None:
    """Install a distribution that a page has made, offline, and let it be found."""
    target = source.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    if str(target) not in sys.path:
        sys.path.insert(0, str(target))
    importlib.invalidate_caches()
    registry.plugins.cache_clear()


def run(words: list[str], folder: Path) -> None:
    if words[0] == "um-bench":
        result = CliRunner().invoke(cli.main, words[1:])
        assert result.exit_code == cli.OK, f"{' '.join(words)}\n{result.output}"
    elif words[0] in ("python", "pytest"):
        command = [sys.executable, *words[1:]] if words[0] == "python" else OWN_PYTEST + words[1:]
        environment = os.environ | {"PYTHONPATH": str(folder / "installed")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    elif words[0] == "pip" and words[2].startswith("./"):
        install(folder / words[2])


OWN_PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
NAMES = {
    "model": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)),
    "loader": [(torch.ones(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))],
}
"""What a Python block may use without making it: a user has a model and a loader."""
RUN = [page for page in PAGES if {"console", "python"} & {block.kind for block in blocks(page)}]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_page_runs_from_top_to_bottom(page, at_work):
    scope = dict(NAMES)
    for block in blocks(page):
        if "not run" in block.said:
            continue
        if "file" in block.said:
            write(block, at_work)
        elif block.kind == "console":
            for words in commands(block):
                run(words, at_work)
        elif block.kind == "python":
            if importlib.util.find_spec(block.said.get("needs", "um_bench")) is None:
                pytest.skip(f"needs {block.said['needs']}, which is in the extra docs")
            exec(compile(block.text, name_of(page), "exec"), scope)


@pytest.mark.slow
def test_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("sphinx", reason="needs Sphinx, which is in the extra docs")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    command += [str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [*tmp_path.rglob("*.html")]
    assert len(pages) > len(PAGES) - 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*=\"(?:https?:)?//[^>]*>", text)
    for sheet in tmp_path.rglob("*.css"):
        assert not re.findall(r"url\(.?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8"))
