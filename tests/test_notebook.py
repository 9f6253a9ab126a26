"""The notebook runs from top to bottom, and is committed without what it prints."""

import json
from pathlib import Path

import pytest

from um_bench.records import read_folder

pytestmark = pytest.mark.slow  # runs a notebook

NOTEBOOK = Path(__file__).parents[1] / "benchmarks" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_holds_no_output():
    for cell in CELLS:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_its_cells_are_told_apart():
    names = [cell["id"] for cell in CELLS]
    assert len(set(names)) == len(names)


def test_it_installs_only_what_is_not_here(monkeypatch):
    asked = []
    scope: dict[str, object] = {}
    exec("import importlib.util, subprocess", scope)
    monkeypatch.setattr(scope["subprocess"], "run", lambda command, **_: asked.append(command))
    exec(CODE[0], scope)
    assert asked == []
    monkeypatch.setattr(scope["importlib"].util, "find_spec", lambda _: None)
    exec(CODE[0], scope)
    assert asked[0][1:] == ["-m", "pip", "install", "--quiet", "um-bench"]


def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    limited = 0
    for source in CODE:
        limited += source.count("LIMIT = None")
        exec(source.replace("LIMIT = None", "LIMIT = 64"), scope)
    assert limited == 1
    states = [record.state for record in scope["records"]]
    assert states == ["done"] * len(states)
    assert len(states) == 3 * 3 * 4
    assert len(list(read_folder(tmp_path / "results" / "digits-far-ood@limit=64"))) == len(states)
    assert "Digits" in scope["table"]
    # A margin of 4 is a loss of 0.018, below the constraint: |x - c| + c is 2c - x.
    assert scope["loss"].item() == pytest.approx(2 * 0.15 - 0.01815, abs=1e-4)
    assert scope["logits"].grad[0, 0] > 0  # it climbs
    assert "um knn" in capsys.readouterr().out
