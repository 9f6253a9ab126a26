"""What a user gets: the installed distribution, not the checkout."""

import importlib
import os
import tomllib
from importlib.metadata import distribution, entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest

import um_bench
from um_bench.registry import GROUPS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir())
OURS = [
    entry
    for group in (*GROUPS.values(), "console_scripts")
    for entry in entry_points(group=group)
    if entry.dist is not None and entry.dist.name == "um-bench"
]

needs_wheel = pytest.mark.skipif(
    "TOX_ENV_NAME" not in os.environ, reason="outside tox an editable install is as good"
)


@needs_wheel
def test_the_tests_run_against_the_installed_wheel():
    assert not Path(um_bench.__file__).is_relative_to(ROOT / "um_bench")


def test_version_is_the_checkouts():
    assert version("um-bench") == PROJECT["version"]


def test_entry_points_are_the_checkouts():
    declared = {
        (group, *item) for group, t in PROJECT["entry-points"].items() for item in t.items()
    }
    declared |= {("console_scripts", *item) for item in PROJECT["scripts"].items()}
    assert {(e.group, e.name, e.value) for e in OURS} == declared


@pytest.mark.parametrize("entry", OURS, ids=lambda e: f"{e.group}:{e.name}")
def test_entry_point_loads(entry):
    assert entry.load() is not None


@pytest.mark.parametrize("name", um_bench.__all__)
def test_public_name_is_there(name):
    assert getattr(um_bench, name) is not None


def test_every_suite_is_installed():
    checkout = {path.name for path in (ROOT / "um_bench" / "suites").glob("*.toml")}
    installed = {item.name for item in files("um_bench").joinpath("suites").iterdir()}
    assert checkout
    assert checkout <= installed


@pytest.mark.parametrize("folder", ["app", "vendor"])
def test_what_a_page_is_made_of_is_installed(folder):
    checkout = {path.name for path in (ROOT / "um_bench/render/page" / folder).iterdir()}
    installed = {item.name for item in files("um_bench.render.page").joinpath(folder).iterdir()}
    assert checkout
    assert checkout <= installed


def test_every_subpackage_is_installed():
    for path in (ROOT / "um_bench").rglob("__init__.py"):
        name = ".".join(path.parent.relative_to(ROOT).parts)
        assert importlib.util.find_spec(name), f"{name} is not installed"


@pytest.mark.parametrize("package", ["um_bench", *PLUGINS])
def test_package_is_typed(package):
    assert files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("package", PLUGINS)
def test_plugin_has_its_method_card(package):
    card = files(package).joinpath("README.md")
    assert card.is_file()
    assert "arXiv" in card.read_text(encoding="utf-8")


@needs_wheel
def test_licence_is_installed():
    metadata = distribution("um-bench").metadata
    assert metadata["License-Expression"] == PROJECT["license"]
    assert any(path.name == "LICENSE" for path in distribution("um-bench").files or [])
