"""The scripts in benchmarks/ at tiny size: they run, and count what they say they count."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # runs benchmarks, at tiny sizes

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.filterwarnings("ignore")  # pytorch-ood's, about noise
def test_a_sweep_forwards_each_image_once_and_the_peer_more(script, tmp_path):
    sweep = script("sweep")
    written = sweep.main(
        ["--size=0.004", "--side=8", "--rounds=1", "--device=cpu", f"--out={tmp_path}"]
    )
    text = written.read_text()
    assert written.parent == tmp_path
    assert written.name.startswith("sweep-resnet20_cifar-size0.004-")
    table = {
        row[0]: row[1:]
        for line in text.splitlines()
        if line.startswith("| ") and len(row := [cell.strip() for cell in line.split("|")[1:-1]])
    }
    sets = sweep.make_sets(0.004, 8)
    least = sum(map(len, sets.all))
    assert int(table["um-bench"][2]) == int(table["one plain pass"][2]) == least
    assert f"forwarded: {least}." in text
    # its loop forwards the ID set again for each OOD set, once for logits and once for features
    theirs = int(table["pytorch-ood's benchmark"][2])
    assert theirs >= 2 * (6 * len(sets.test) + sum(map(len, sets.ood)))
    assert f"torch {torch.__version__.partition('+')[0]}" in text


@pytest.mark.filterwarnings("ignore")
def test_the_peer_gives_the_same_numbers(script):
    sweep = script("sweep")
    model, sets = sweep.make_model("resnet20_cifar", 8, "cpu", sweep.make_sets(0.004, 8))
    detectors = sweep.their_detectors(model, sets, "cpu")
    with torch.no_grad():
        theirs = sweep.Theirs(sets).evaluate(detectors, loader_kwargs={"batch_size": 512})
    passes = sweep.Passes(model, "cpu")
    names = iter(theirs)
    for data in sets.ood:
        for name in sweep.DETECTORS:
            known = sweep.score_id(passes, sweep.prepare(name), sweep.FitSets(sets.fit), sets.test)
            mine = sweep.score_ood(passes, known, data).metrics
            found = next(names)
            assert found["Dataset"] == data.name
            if name != "openmax":  # theirs depends on what else is in the batch
                assert mine["auroc"] == pytest.approx(found["AUROC"], abs=2e-3), name


def test_decoding_is_timed_with_and_without_what_is_kept(script, tmp_path):
    decoding = script("decoding")
    text = decoding.main(["--images=60", "--rounds=1", f"--out={tmp_path}"]).read_text()
    assert "| decoded | 60 |" in text
    assert "| read back | 60 |" in text


@pytest.mark.slow
def test_scoring_takes_less_than_4_gb():
    # 50,000 x 512 to fit on, and 150,000 x 512 held, of which each detector scores two blocks:
    # what it holds does not grow with their number. In a new process, whose peak is its own.
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "memory.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout.split()[-2]) < 4.0, done.stdout
