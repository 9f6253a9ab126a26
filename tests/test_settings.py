"""Options and environment variables: what they set, and that a page names every one."""

import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from um_bench import cli, interim
from um_bench.data import streaming
from um_bench.records import read_folder

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
SOURCES = [*(ROOT / "um_bench").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
# What a shell sets when it asks for completions begins with another underscore.
VARIABLE = re.compile(r"(?<!_)UM_BENCH_[A-Z_]+")


def table() -> dict[str, str]:
    """Return the page's rows on environment variables: name -> what it says."""
    return dict(re.findall(r"^\| `(UM_BENCH_\w+)` \| ([^|]*) \|", PAGE, re.MULTILINE))


def options() -> list[click.Option]:
    """Return every option of every command."""
    found, groups = [], [cli.main]
    for group in groups:
        for command in group.commands.values():
            groups += [command] if isinstance(command, click.Group) else []
            found += [param for param in command.params if isinstance(param, click.Option)]
    return found


def test_page_has_every_variable_of_the_sources_and_no_other():
    used = {name for path in SOURCES for name in VARIABLE.findall(path.read_text("utf-8"))}
    assert set(table()) == used


def test_page_has_the_defaults():
    by_variable = {option.envvar: option for option in options() if option.envvar}
    assert len(by_variable) == 3
    defaults = {name: f"`{option.default}`" for name, option in by_variable.items()}
    defaults |= {interim.SECONDS: f"{interim.keep_every():g}", streaming.WORKERS: "16"}
    assert streaming.MOST_WORKERS == 16
    for name, default in defaults.items():
        assert re.search(rf"therwise .*{re.escape(default)}\.$", table()[name])


def test_every_option_says_what_it_is():
    silent = {option.opts[0] for option in options() if not option.help}
    assert silent <= {"--format", "--against"}  # their choices say it


@pytest.mark.parametrize(
    ("given", "variable", "level"),
    [
        ([], None, logging.WARNING),
        ([], "error", logging.ERROR),
        (["--log-level", "info"], "error", logging.INFO),
        (["--log-level", "error", "--debug"], None, logging.INFO),
    ],
)
def test_messages_are_shown_from_a_level_on(given, variable, level, monkeypatch):
    if variable:
        monkeypatch.setenv("UM_BENCH_LOG_LEVEL", variable)
    result = CliRunner().invoke(cli.main, ["completion", "bash", *given])
    assert result.exit_code == cli.OK
    assert logging.getLogger("um_bench").level == level


def test_a_level_that_there_is_not_is_refused():
    result = CliRunner().invoke(cli.main, ["completion", "bash", "--log-level", "loud"])
    assert result.exit_code == cli.BAD_INPUT
    assert "warning" in result.output


@pytest.mark.slow
def test_control_c_in_a_real_process_keeps_what_is_finished(tmp_path):
    """SIGINT while `um` trains for many epochs: `none` is on the disk by then."""
    arguments = (
        *("run", "--suite", "digits-far-ood", "--results", str(tmp_path), "--limit", "64"),
        *("--seeds", "0", "--adapters", "none,um@constraint=0.3", "--detectors", "msp"),
        *("--set", "base.epochs=1", "--set", "recipe.epochs=100000", "--log-level", "info"),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "um_bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "digits-far-ood@limit=64"
    end = time.monotonic() + 240
    while not list(folder.glob("records/*.jsonl")) and time.monotonic() < end:
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.5)  # it trains now
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == cli.INTERRUPTED, said
    assert "Traceback" not in said
    assert "interrupted; what is finished is kept" in said
    assert "um_bench: seed 0, none: 4 cells to fill or find" in said
    found = list(read_folder(folder))
    assert [(r.adapter, r.state) for r in found] == [("none", "done")] * 4
