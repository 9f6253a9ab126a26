"""Light commands start at once: measured against the interpreter with click, in CPU seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEADERBOARDS = Path(__file__).parents[1] / "leaderboards"
LIGHT = ("--help", "list adapters", "list suites", "run --help")
SHOWING = f"leaderboard --results {LEADERBOARDS} --suite digits-far-ood"


def cpu_seconds(code: str, cache: Path) -> float:
    """Return the least CPU time of three processes that run some code, once it is compiled."""
    compiled = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    times = []
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=compiled
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    return min(times[1:])


def command(arguments: str, then: str = "") -> str:
    return (
        "import sys\nfrom um_bench.cli import main\n"
        f"sys.argv = ['um-bench', *{arguments.split()!r}]\n"
        f"try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n{then}"
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def bare(cache):
    return cpu_seconds("import click", cache)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="measures children by wait4")
@pytest.mark.parametrize(
    ("arguments", "times"), [("--help", 5), ("list adapters", 5.5), (SHOWING, 18)]
)
def test_light_commands_take_few_times_as_long_as_the_bare_interpreter(
    bare, cache, arguments, times
):
    """The table is of 2,160 records. Measured: 2.3, 3.2 and 11 times, which is 0.12 to 0.57 s."""
    assert cpu_seconds(command(arguments), cache) < times * bare


@pytest.mark.parametrize("arguments", [*LIGHT, SHOWING])
def test_light_commands_do_not_import_numpy(arguments):
    then = "assert 'numpy' not in sys.modules, 'numpy is imported'\n"
    subprocess.run(
        [sys.executable, "-c", command(arguments, then)], check=True, stdout=subprocess.DEVNULL
    )
