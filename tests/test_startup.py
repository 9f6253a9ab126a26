"""Light commands start at once: measured against the interpreter with click, in CPU seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEADERBOARDS = Path(__file__).parents[1] / "leaderboards"
LIGHT = ("--help", "list adapters", "list suites", "run --help")
SHOWING = f"leaderboard --results {LEADERBOARDS}"


def cpu_seconds(code: str) -> float:
    """Return the least CPU time of three processes that run some code."""
    times = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    return min(times)


def command(arguments: str, then: str = "") -> str:
    return (
        "import sys\nfrom um_bench.cli import main\n"
        f"sys.argv = ['um-bench', *{arguments.split()!r}]\n"
        f"try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n{then}"
    )


@pytest.fixture(scope="module")
def bare():
    return cpu_seconds("import click")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="measures children by wait4")
@pytest.mark.parametrize(
    ("arguments", "times"), [("--help", 5), ("list adapters", 5), (SHOWING, 11)]
)
def test_light_commands_take_few_times_as_long_as_the_bare_interpreter(bare, arguments, times):
    """Of 2,160 records for the table. Measured: 2.4, 2.6 and 7.3 times; before, 4.5, 5.0, 11.6."""
    assert cpu_seconds(command(arguments)) < times * bare


@pytest.mark.parametrize("arguments", [*LIGHT, SHOWING])
def test_light_commands_do_not_import_numpy(arguments):
    then = "assert 'numpy' not in sys.modules, 'numpy is imported'\n"
    subprocess.run(
        [sys.executable, "-c", command(arguments, then)], check=True, stdout=subprocess.DEVNULL
    )
