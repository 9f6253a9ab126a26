"""The pages in leaderboards/ are what their records say."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from um_bench.cli import main

ROOT = Path(__file__).parent.parent / "leaderboards"
PAGES = [
    (folder.name, kind, page)
    for folder in sorted(ROOT.iterdir())
    for kind, page in (("markdown", "README.md"), ("html", "index.html"))
]


@pytest.mark.parametrize(("suite", "kind", "page"), PAGES, ids=lambda value: str(value))
def test_pages_are_rendered_from_records(suite, kind, page):
    options = ["--results", str(ROOT), "--suite", suite, "--format", kind]
    out = str(ROOT / suite / page)
    result = CliRunner().invoke(main, ["leaderboard", *options, "--out", out, "--check"])
    assert result.exit_code == 0, result.output


def test_a_page_that_was_edited_is_found(tmp_path):
    suite, kind, page = PAGES[0]
    edited = tmp_path / page
    edited.write_text((ROOT / suite / page).read_text().replace("99", "98", 1))
    options = ["--results", str(ROOT), "--suite", suite, "--format", kind]
    result = CliRunner().invoke(main, ["leaderboard", *options, "--out", str(edited), "--check"])
    assert result.exit_code == 1
    assert "is not what the records say" in result.output
