"""The pages in leaderboards/ are what their records say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from um_bench.cli import main
from um_bench.pages import PAGES, REPORT, stale_pages

ROOT = Path(__file__).parent.parent / "leaderboards"
SUITES = [folder.name for folder in sorted(ROOT.iterdir())]


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_every_committed_page_is_rendered_from_its_records():
    result = call("leaderboard", "--results", ROOT, "--check")
    assert result.exit_code == 0, result.output
    assert all(suite in result.output for suite in SUITES)


def test_every_committed_record_passes_its_checks():
    result = call("verify", ROOT)
    assert result.exit_code == 0, result.output
    assert result.output.count("No problem found.") == len(SUITES)


def test_the_checks_of_records_do_not_import_torch():
    """`tox -e records` is to take seconds."""
    code = "import sys; from um_bench.cli import main; main(sys.argv[1:], standalone_mode=False)"
    for command in ("verify", "leaderboard --check --results"):
        report = f"try:\n    {code}\nfinally:\n    print('torch' in sys.modules)"
        arguments = [sys.executable, "-c", report, *command.split(), str(ROOT)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "False", done.stderr


def pages(folder):
    """A suite's folder with pages that say their format."""
    (folder / "suite").mkdir()
    for name, kind in PAGES.items():
        (folder / "suite" / name).write_bytes(kind.encode())
    return folder


def test_a_page_is_compared_with_what_is_rendered(tmp_path):
    assert not list(stale_pages(pages(tmp_path), "suite", str))
    found = list(stale_pages(tmp_path, "suite", str.upper))
    assert [page.path.name for page in found] == list(PAGES)
    assert {page.why for page in found} == {"is not what the records say"}


def test_a_page_may_be_missing_but_the_readme(tmp_path):
    folder = pages(tmp_path) / "suite"
    (folder / "index.html").unlink()
    assert not list(stale_pages(tmp_path, "suite", str))
    (folder / "README.md").unlink()
    (page,) = stale_pages(tmp_path, "suite", str)
    assert (page.path.name, page.why) == ("README.md", "is missing")


@pytest.fixture
def boards(tmp_path):
    """A folder like leaderboards/, with a few of its records and the pages that they render."""
    suite = tmp_path / "boards" / SUITES[0]
    for adapter in ("none", "um"):
        for path in sorted((ROOT / SUITES[0] / "records").glob(f"*--seed0--{adapter}.jsonl")):
            copy = suite / "records" / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    shutil.copy(ROOT / SUITES[0] / "suite.json", suite)
    for name, kind in PAGES.items():
        command = ["report"] if kind == REPORT else ["leaderboard", "--format", kind]
        options = ["--results", suite.parent, "--suite", suite.name, "--out", suite / name]
        assert call(*command, *options).exit_code == 0
    return suite.parent


def test_a_page_that_was_edited_is_found_and_the_command_mends_it(boards):
    assert call("leaderboard", "--results", boards, "--check").exit_code == 0
    for name in PAGES:
        page = boards / SUITES[0] / name
        page.write_bytes(page.read_bytes().replace(b".", b",", 1))
    result = call("leaderboard", "--results", boards, "--check")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[::2] == [
        f"{boards / SUITES[0] / name} is not what the records say. Write it again:"
        for name in PAGES
    ]
    for command in lines[1::2]:
        assert call(*command.split()[1:]).exit_code == 0
    assert call("leaderboard", "--results", boards, "--check").exit_code == 0


def test_a_page_elsewhere_is_compared_by_its_name(boards, tmp_path):
    out = tmp_path / "page.md"
    options = ["leaderboard", "--results", boards, "--suite", SUITES[0], "--format", "markdown"]
    assert call(*options, "--out", out, "--check").exit_code == 1
    assert call(*options, "--out", out).exit_code == 0
    assert call(*options, "--out", out, "--check").exit_code == 0
