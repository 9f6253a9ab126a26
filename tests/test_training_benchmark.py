"""The benchmark of the training loop, at a tiny size: what is counted, and the page it writes."""

import copy
import importlib
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from um_bench.training import adapt

pytestmark = pytest.mark.slow  # runs benchmarks, at tiny sizes

ROOT = Path(__file__).parents[1]
TINY = (
    *("--images", "24", "--size", "8", "--batch-size", "12", "--rounds", "2", "--workers", "0"),
    *("--epochs", "1", "--seeds", "2", "--peak-size", "32", "--device", "cpu"),
)


@pytest.fixture
def roofline(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("roofline")


@pytest.fixture
def benchmark_script(roofline):
    return importlib.import_module("training")


def test_flops_and_bytes_are_those_worked_out_by_hand(roofline):
    layer, images = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.rand(2, 3, 4, 4)
    forward = 2 * 2 * 8 * 4 * 4 * 3 * 9
    assert roofline.count(lambda: layer(images)).flops == forward
    # The images need no gradient, so that going back costs as much as going forward.
    assert roofline.count(lambda: layer(images).sum().backward()).flops == 2 * forward
    a, b = torch.rand(5, 7), torch.rand(5, 7)
    assert roofline.count(lambda: a + b).traffic == 3 * 5 * 7 * 4
    assert roofline.count(lambda: a.view(35)[3:].t()).traffic == 0


def test_shares_are_fractions_of_the_peak(roofline):
    work, peak = roofline.Work(flops=6.0, traffic=8.0), roofline.Peak(flops=4.0, bandwidth=2.0)
    assert roofline.share(work, 2.0, peak) == (0.75, 2.0)
    found = roofline.peak("cpu", torch.float32, size=64)
    assert found.flops > 1e8
    assert found.bandwidth > 1e8


def test_the_plain_loop_trains_what_ours_does(benchmark_script):
    task = next(benchmark_script.tasks(None, epochs=6))
    setting = benchmark_script.Setting("resnet20_cifar", "cpu", 0)
    start = benchmark_script.classifier("resnet20_cifar", 0, 8)
    before = copy.deepcopy(start.state_dict())
    loops = benchmark_script.trainings(setting, ["float32"])
    reached = {
        name: benchmark_script.accuracy(
            train(start, task.train, task.recipe, seed=0), task.test, setting
        )
        for name, train in loops.items()
        if "masks" not in name
    }
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())
    assert len(reached) == 2
    assert min(reached.values()) > 0.5, reached


def test_one_command_writes_the_page(benchmark_script, tmp_path, capsys):
    benchmark_script.main([*TINY, "--precision", "float32", "bfloat16", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out.strip() == str(path)
    assert path.name.startswith("training-resnet20_cifar-")
    assert f"torch-{torch.__version__.split('+')[0]}" in path.name
    assert path.name.endswith("-n2.md")
    text = path.read_text()
    assert f"torch {torch.__version__}" in text
    assert "n = 2 rounds" in text
    assert str(tmp_path) not in text
    for name in ("plain loop", "um-bench, float32", "um-bench, masks, bfloat16"):
        rate, ratio = re.search(rf"^\| {name} \| (\d+) \| ([\d.]+) \|", text, re.M).groups()
        assert int(rate) > 0
        assert float(ratio) > 0
    assert re.search(r"masks, float32: an epoch takes [\d.]+ times", text)
    assert re.search(r"^\| um-bench, bfloat16 \| \d+% \| \d+% \|", text, re.M)
    assert re.search(r"^\| digits.*\| um-bench, float32 \| [\d.]+ ± [\d.]+ \|", text, re.M)


def test_the_masked_loop_is_umap_without_its_loss(benchmark_script):
    task = next(benchmark_script.tasks(None, epochs=1))
    start = benchmark_script.classifier("resnet20_cifar", 0, 8)
    model = adapt(benchmark_script.Masked(), start, task.train, task.recipe, seed=0).model
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    dropped = int((1 - 0.8) * convolution.weight.numel())
    assert int((convolution.weight == 0).sum()) == dropped
