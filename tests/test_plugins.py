"""Plugins of other people: found by name with their origin, and a broken one breaks only itself."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tiny_suite import SUITE

from um_bench.records import Record, read_file

HERE = Path(__file__).parent
COMMAND = Path(sysconfig.get_path("scripts")) / "um-bench"


def install(source: str, folder: Path) -> Path:
    """Install a distribution from its source into a folder, offline, as pip does."""
    copy = folder / "source"  # a build leaves files in its source
    shutil.copytree(HERE / source, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    target = folder / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return target


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return install("plugin_example", tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return install("plugin_broken", tmp_path_factory.mktemp("broken"))


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a command in a new process, in an empty folder, with distributions beside um-bench."""

    def run(command, *installed):
        monkeypatch.setenv("PYTHONPATH", ":".join(map(str, installed)))
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )

    return run


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


def line_with(name, text):
    lines = [line for line in text.splitlines() if name in line.split()]
    assert len(lines) == 1, f"{name!r} is in {len(lines)} lines of:\n{text}"
    return lines[0]


def test_the_measure_of_the_door_is_40_lines():
    files = [p for p in (HERE / "plugin_example").iterdir() if p.suffix in (".py", ".toml")]
    assert sum(len(p.read_text(encoding="utf-8").splitlines()) for p in files) <= 40


def test_an_installed_plugin_is_listed_with_its_origin(call, example):
    done = call([COMMAND, "list", "adapters"], example)
    assert done.returncode == 0, done.stderr
    line = line_with("logitnorm", done.stdout)
    assert "um-bench-logitnorm" in line
    assert "0.3.1" in line
    assert "um-bench-logitnorm" not in line_with("finetune", done.stdout)


def test_the_example_keeps_the_promises_of_an_adapter(call, example):
    code = (
        "from um_bench.testing import check_adapter\n"
        "from um_bench_logitnorm import LogitNorm\n"
        "check_adapter(LogitNorm())"
    )
    done = call([sys.executable, "-c", code], example)
    assert done.returncode == 0, done.stderr


def test_it_is_unknown_where_it_is_not_installed(call):
    done = call([COMMAND, "list", "adapters"])
    assert done.returncode == 0, done.stderr
    assert "logitnorm" not in done.stdout


def test_a_broken_plugin_is_still_listed(call, broken):
    done = call([COMMAND, "list", "adapters"], broken)
    assert done.returncode == 0, done.stderr
    assert "um-bench-broken" in line_with("broken", done.stdout)


def test_loading_a_broken_plugin_names_it_and_its_error(call, broken):
    code = "from um_bench import registry; registry.load('adapter', 'broken')"
    done = call([sys.executable, "-c", code], broken)
    assert "PluginError" in done.stderr
    for part in ("'broken'", "um-bench-broken 6.6.6", "ImportError", "a library that is not here"):
        assert part in done.stderr


def test_a_sweep_runs_with_an_installed_plugin(call, suite, example, tmp_path):
    command = [COMMAND, "run", "--suite", suite, "--adapters", "none,logitnorm"]
    done = call([*command, "--results", tmp_path / "results"], example)
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(tmp_path / "results")
    assert {(r.adapter, r.detector, r.state) for r in records} == {
        (adapter, detector, "done")
        for adapter in ("none", "logitnorm")
        for detector in ("msp", "energy")
    }
    adapted = [r for r in records if r.adapter == "logitnorm"]
    assert {r.provenance.versions["um-bench-logitnorm"] for r in adapted} == {"0.3.1"}
    assert "0.04" in str(adapted[0].hyperparameters)


def test_a_broken_plugin_breaks_only_itself(call, suite, broken, tmp_path):
    command = [COMMAND, "run", "--suite", suite, "--adapters", "broken,none"]
    done = call([*command, "--results", tmp_path / "results"], broken)
    assert done.returncode == 1, done.stdout + done.stderr
    records = read_records(tmp_path / "results")
    ends = {(r.adapter, r.state) for r in records}
    assert ends == {("broken", "failed"), ("none", "done")}
    (reason,) = {r.reason for r in records if r.adapter == "broken"}
    assert "um-bench-broken 6.6.6" in reason
    assert "a library that is not here" in reason


def read_records(results: Path) -> list[Record]:
    """Return every record below a results folder, whatever its suite's folder is called."""
    return [r for path in sorted(results.rglob("records/*.jsonl")) for r in read_file(path)]
