"""The rules that keep the project small: layers, names, lengths, imports that cost seconds."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
CORE = sorted((ROOT / "um_bench").rglob("*.py"))
FRONT_DOOR = [ROOT / "um_bench" / f"{name}.py" for name in ("__init__", "__main__")]
"""They forward to every layer."""

LAYERS = {
    name: layer
    for layer, names in enumerate(
        (
            "errors registry starting_points suite records papers stopwatch",
            "alarms authors_config comparability curves difference forecast leaderboard pages "
            "plots published render replicates report scores statistics submission trajectories",
            "adapters backbones data detectors distributed environment locks metrics outputs",
            "downloads elsewhere events identity interim models scoring snapshots "
            "stepping store together tracking training watch",
            "budget doctor executors outcomes progress runner sweep testing",
            "cli",
        )
    )
    for name in names.split()
}
"""First name below um_bench -> layer. An import goes to the same layer or further down."""
PLUGINS_MAY_IMPORT = 3
PLUGINS_ARE = 5
"""Only what is at the top may name a plugin; all else finds it by entry point."""

HEAVY = ("matplotlib", "torch", "torchvision", "timm", "pytorch_ood", "sklearn", "scipy")
LONGEST = 60
"""Lines of a function, docstring included."""


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything imported, in functions too, but for types only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        else:
            yield from imports(node)


def target(name: str) -> str | None:
    """Return the module of um_bench, or the plugin, that an imported name stands for."""
    top, _, rest = name.partition(".")
    if top.startswith("um_bench_"):
        return top
    if top != "um_bench" or not rest:
        return None
    first = rest.partition(".")[0]
    homes = importlib.import_module("um_bench")._HOMES
    return target(homes[first]) if first in homes else first


def upward(source: str, layer: int, plugins_are: int = PLUGINS_ARE) -> list[str]:
    """Return the imports in a source that point above a layer, each with its line."""
    wrong = []
    for line, name in imports(ast.parse(source)):
        module = target(name)
        if module is None:
            continue
        other = plugins_are if module.startswith("um_bench_") else LAYERS[module]
        if other > layer:
            wrong.append(f"line {line}: imports {name} (layer {other}) from layer {layer}")
    return wrong


def first_name(path: Path) -> str:
    return path.relative_to(ROOT / "um_bench").parts[0].removesuffix(".py")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_module_has_a_layer():
    names = {first_name(path) for path in CORE if path not in FRONT_DOOR}
    unplaced = names - set(LAYERS)
    assert not unplaced, f"place {unplaced} in LAYERS here and in CONTRIBUTING.md"


@pytest.mark.parametrize(
    "path", [p for p in CORE if p not in FRONT_DOOR], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_down(path):
    wrong = upward(path.read_text(encoding="utf-8"), LAYERS[first_name(path)])
    assert not wrong, f"{path.relative_to(ROOT)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_import_what_any_plugin_may(path):
    # A plugin may be made of several modules, and of another plugin.
    wrong = upward(path.read_text(encoding="utf-8"), PLUGINS_MAY_IMPORT, plugins_are=0)
    assert not wrong, f"{path.relative_to(ROOT)}: {'; '.join(wrong)}"


@pytest.mark.parametrize(
    "planted",
    [
        "from um_bench.runner import run_suite",
        "from um_bench import runner",
        "from um_bench import run_suite",
        "import um_bench.cli",
        "import um_bench_um",
        "def lazy():\n    from um_bench import cli",
        "try:\n    import um_bench.runner\nexcept ImportError:\n    pass",
    ],
)
def test_an_upward_import_is_found(planted):
    assert len(upward(planted, layer=2)) == 1


@pytest.mark.parametrize(
    "allowed",
    [
        "import torch",
        "from um_bench.errors import UsageError",
        "from um_bench.data.loader import Loader",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from um_bench import runner",
    ],
)
def test_other_imports_are_not(allowed):
    assert upward(allowed, layer=2) == []


def test_modules_do_not_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in [p for p in CORE if p not in FRONT_DOOR]:
        found = (target(name) for _, name in imports(ast.parse(path.read_text(encoding="utf-8"))))
        graph.setdefault(first_name(path), set()).update(name for name in found if name)
    without_itself = {name: others - {name} for name, others in graph.items()}
    try:
        TopologicalSorter(without_itself).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def test_no_module_is_named_for_nothing():
    vague = {"utils", "helpers", "base", "manager", "common", "misc"}
    found = [str(p.relative_to(ROOT)) for p in [*CORE, *PLUGINS] if p.stem in vague]
    assert not found, f"name {found} for what is in it"


def test_functions_are_short():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} ({length} lines)"
        for path in [*CORE, *PLUGINS]
        for node in functions(path)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST
    ]
    assert not long, f"over {LONGEST} lines: {', '.join(long)}"


def undocumented(body: list[ast.stmt], where: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{where}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{where}.{node.name}")


def test_what_is_public_is_documented():
    missing = [
        name
        for path in [*CORE, *PLUGINS]
        for name in undocumented(ast.parse(path.read_text(encoding="utf-8")).body, path.stem)
    ]
    assert not missing, f"no docstring: {', '.join(missing)}"


def heavy_after(code: str, elsewhere: Path) -> list[str]:
    """Return which of the slow libraries are imported after running some code in a new process.

    It runs elsewhere than in the checkout, which would be imported in place of what is installed.
    """
    report = f"import sys; print('\\n', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=elsewhere,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_a_heavy_import_is_found(tmp_path):
    assert "sklearn" in heavy_after("import sklearn.metrics", tmp_path)


@pytest.mark.parametrize("module", [n for n, layer in LAYERS.items() if layer in (0, 1, 5)])
def test_light_modules_do_not_import_torch(module, tmp_path):
    assert heavy_after(f"import um_bench.{module}", tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "list adapters",
        "list detectors",
        "list backbones",
        "list datasets",
        "list suites",
        "run --help",
        "leaderboard --help",
        "plot roc --help",
        "submit --help",
        f"verify {ROOT}/leaderboards --against {ROOT}/leaderboards",
        f"diff {ROOT}/leaderboards {ROOT}/leaderboards",
    ],
)
def test_light_commands_do_not_import_torch(arguments, tmp_path):
    code = (
        "import sys\n"
        "from um_bench.cli import main\n"
        f"sys.argv = ['um-bench', *{arguments.split()!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    assert heavy_after(code, tmp_path) == []
