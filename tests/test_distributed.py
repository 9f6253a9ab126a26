"""Several processes train what one would: losses, weights, running statistics, and records."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from distributed_training import (
    CASES,
    RECIPE,
    command,
    images,
    in_two,
    net,
    resume,
    trained,
)
from distributed_training import write_all as all_cases

from um_bench import cli, runner
from um_bench.data import Loader
from um_bench.distributed import Team
from um_bench.errors import MissingDataError
from um_bench.interim import Interim
from um_bench.records import read_folder
from um_bench.training import Moment

SUITE = """
name = "two"
backbone = "resnet20_cifar"
seeds = [0]
adapters = ["none", "um@constraint=0.4"]
detectors = ["msp"]

[id]
name = "digits"
train = "digits/train"
test = "digits/test"

[preprocessing]
size = 8
resize = "none"

[base]
epochs = 3
batch_size = 30
lr = 0.001

[recipe]
epochs = 1
batch_size = 30
lr = 0.001

[ood.far]
noise = "uniform-noise/100-grey"
"""
LIMIT = ("--limit", "64")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """What each of two processes has of every case."""
    folder = tmp_path_factory.mktemp("two")
    assert in_two(all_cases, folder) == (0, 0)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture
def run(tmp_path):
    """Runs the suite in two processes; returns their exit codes, and what each has printed."""
    (tmp_path / "suite.toml").write_text(SUITE)

    def start(*arguments, **planted):
        every = ("run", "--suite", f"{tmp_path / 'suite.toml'}", "--device", "cpu", *LIMIT)
        where = ("--results", str(tmp_path / "results"))
        codes = in_two(lambda: command(tmp_path, *every, *where, *arguments, **planted))
        return codes, [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]

    return start


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case, by_two):
    one = trained(case)
    for found in by_two:
        losses, weights, notes = found["cases"][case]
        assert losses == pytest.approx(one.losses, rel=1e-6)
        assert notes == pytest.approx(one.notes, rel=1e-9)
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_each_process_ends_with_the_same_bytes(case, by_two):
    first, second = (found["cases"][case][1] for found in by_two)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_constraint_for_each_process_would_be_another_objective():
    """What the cases of UM rest on: its parts of a batch are on both sides of the constraint."""
    model, between = net("plain").train(), 0
    for pixels, labels in Loader(images(), batch_size=RECIPE.batch_size, shuffle=True, seed=5):
        losses = [
            F.cross_entropy(model(pixels[part]), labels[part]).item()
            for part in (Team(rank, 2).share(len(labels)) for rank in (0, 1))
            if len(labels[part])
        ]
        between += min(losses) < 1.07 < max(losses)
    assert between >= 1


@pytest.mark.parametrize("label", ["poem", "doe", "loss:VOSReg"])
def test_what_needs_more_than_logits_is_refused(label, by_two):
    for found in by_two:
        assert found["refused"][label].startswith("DistributedError: ")
        assert "cannot be trained by several processes" in found["refused"][label]


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_shares_of_a_batch_are_the_batch(shuffle):
    teams = [Team(rank, 4) for rank in range(4)]
    options = {"batch_size": RECIPE.batch_size, "augmentation": "crop-flip", "shuffle": shuffle}
    loaders = [Loader(images(), team=team, **options) for team in teams]
    whole = list(loaders[0].epoch(1))
    for batch, shares in zip(whole, zip(*(x.shares(1) for x in loaders), strict=True), strict=True):
        assert torch.equal(batch[0], torch.cat([pixels for pixels, _ in shares]))
        assert all(torch.equal(batch[1], labels) for _, labels in shares)
    assert [len(part[0]) for part in zip(*[whole[-1]], strict=True)] == [1, 1]


def test_a_training_that_one_process_began_goes_on_by_two(tmp_path):
    def stop(moment: Moment) -> None:
        if moment.epoch == 2:
            raise KeyboardInterrupt

    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        trained("dropout um", interim=Interim(kept, every=0), on_epoch=stop)
    assert in_two(resume, kept, "dropout um") == (0, 0)
    whole = trained("dropout um").model.state_dict()
    for rank in (0, 1):
        weights = torch.load(f"{kept}.{rank}")
        for name, value in whole.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-9)


def test_the_command_makes_the_records_of_one_process(run, tmp_path):
    codes, printed = run()
    assert codes == (0, 0)
    assert "2 cells: 2 done" in printed[0]
    assert printed[1] == ""
    alone = tmp_path / "alone"
    suite = str(tmp_path / "suite.toml")
    CliRunner().invoke(cli.main, ["run", "--suite", suite, "--results", str(alone), *LIMIT])
    assert _names(tmp_path / "results") == _names(alone)
    pairs = zip(_records(tmp_path / "results"), _records(alone), strict=True)
    for together, one in pairs:
        assert together.metrics == pytest.approx(one.metrics, abs=0.02)
        assert together.losses == pytest.approx(one.losses, rel=1e-3)
        assert (together.provenance.processes, one.provenance.processes) == (2, 1)
    assert run()[0] == (0, 0)  # nothing is left to train


def _names(folder):
    """The files below a folder, but for the hashes in their names: of weights, which round."""
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("*.*"))


def _records(results):
    return list(read_folder(next(results.glob("two*"))))


@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_ends_all_with_an_error(dies, run, tmp_path):
    codes, printed = run(dies=dies)
    assert codes[dies] == 9
    assert codes[1 - dies] in (1, 2)
    if dies:
        assert "broke off in one of 2 processes" in printed[0]
    assert run()[0] == (0, 0)
    assert {record.state for record in _records(tmp_path / "results")} == {"done"}


def test_a_training_that_diverges_is_a_failed_cell_and_the_rest_goes_on(run, tmp_path):
    codes, printed = run("--set", "recipe.lr=1e30")
    assert codes == (1, 0)
    assert "training diverged" in printed[0]
    assert [r.state for r in _records(tmp_path / "results")] == ["done", "failed"]


def test_an_adapter_that_cannot_be_shared_ends_the_command_and_writes_no_cell(run, tmp_path):
    codes, printed = run("--adapters", "none,poem", "--auxiliary", "photos/auxiliary")
    assert codes == (2, 2)
    assert "POEM cannot be trained by several processes" in printed[0]
    assert [r.adapter for r in _records(tmp_path / "results")] == ["none"]


@pytest.mark.parametrize("given", ["--jobs 2", "--device cuda:0"])
def test_what_does_not_go_with_several_processes_is_refused(given, run):
    codes, printed = run(*given.split())
    assert codes == (2, 2)
    assert "leave" in printed[0]
    assert given.split()[0] in printed[0]


def test_a_process_without_the_data_ends_all_with_an_error(run, tmp_path, monkeypatch):
    """Planted: only the second one misses the training set, as on a machine without it."""
    opened = runner.open_sets

    def missing(*given, **more):
        sets = opened(*given, **more)
        return MissingDataError("no such folder") if os.environ["RANK"] == "1" else sets

    monkeypatch.setattr(runner, "open_sets", missing)
    codes, printed = run()
    assert 0 not in codes
    assert "no such folder" in printed[1]


def test_torchrun_starts_it(tmp_path):
    (tmp_path / "suite.toml").write_text(SUITE)
    arguments = ["run", "--suite", "suite.toml", "--device", "cpu", *LIMIT]
    launcher = Path(sys.executable).with_name("torchrun")
    done = subprocess.run(
        [launcher, "--standalone", "--nproc-per-node=2", "-m", "um_bench", *arguments],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 cells: 2 done") == 1
