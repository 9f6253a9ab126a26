"""Where jobs run: what options stand for, and what a job has of a node. Nothing is started."""

import re
import sys

import pytest
from click.testing import CliRunner

from um_bench import cli, executors
from um_bench.cli.placing import Place
from um_bench.errors import UsageError
from um_bench.executors.nodes import RETRIES, Share, share_of

RAY = Place("ray", None, None, None)
HERE = Place("local", None, None, None)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """What executors were made of, in the place of these."""
    monkeypatch.setattr(executors, "local", "local")
    monkeypatch.setattr(executors, "processes", lambda number: ("processes", number))
    monkeypatch.setattr(executors, "cluster", lambda *given: ("cluster", *given))


def node(cpus, gpus=0.0, alive=True):
    has = {"memory": 1e9, **({"CPU": cpus} if cpus else {}), **({"GPU": gpus} if gpus else {})}
    return {"Alive": alive, "Resources": has}


# --- Options


@pytest.mark.parametrize(
    ("place", "device", "executor"),
    [
        (HERE, "auto", "local"),
        (HERE._replace(jobs=1), "auto", "local"),
        (HERE._replace(jobs=3), "cuda:1", ("processes", 3)),
        (HERE._replace(jobs="auto"), "auto", ("processes", None)),
        (RAY, "auto", ("cluster", None, None, None)),
        (RAY._replace(jobs="auto"), "cuda", ("cluster", None, None, None)),
        (RAY._replace(jobs=7, address="a:1"), "auto", ("cluster", "a:1", 7, None)),
        (RAY._replace(gpus_per_job=0.25), "auto", ("cluster", None, None, 0.25)),
        (RAY, "cpu", ("cluster", None, None, 0)),
    ],
)
def test_options_stand_for_an_executor(place, device, executor):
    assert place.executor_for(device, None) == executor


@pytest.mark.parametrize(
    ("place", "device", "budget", "says"),
    [
        (RAY, "auto", "30m", "leave out --jobs and --executor"),
        (HERE._replace(jobs="auto"), "auto", "30m", "leave out --jobs and --executor"),
        (HERE._replace(gpus_per_job=0.5), "auto", None, "are for --executor ray"),
        (HERE._replace(address="10.0.0.1:6379"), "auto", None, "are for --executor ray"),
        (RAY, "cuda:1", None, "--device cuda:1: Ray chooses"),
        (RAY._replace(gpus_per_job=0.5), "cpu", None, "--gpus-per-job 0.5 with --device cpu"),
    ],
)
def test_options_that_do_not_go_together_are_refused(place, device, budget, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        place.executor_for(device, budget)


def test_without_ray_the_extra_is_named_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.undo()  # the real executor
    monkeypatch.setitem(sys.modules, "ray", None)
    given = ["--suite", "digits-far-ood", "--results", str(tmp_path / "results")]
    result = CliRunner().invoke(cli.main, ["run", "--executor", "ray", *given])
    assert result.exit_code == cli.BAD_INPUT
    assert 'pip install "um-bench[ray]"' in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "results").exists()


# --- What a job has of a node


@pytest.mark.parametrize(
    ("nodes", "threads", "gpus", "share"),
    [
        ([node(8)], 4, None, Share(4, 0)),
        ([node(0), node(2), node(4)], 8, None, Share(4, 0)),
        ([node(8), node(8, 4)], 4, None, Share(1, 1)),
        ([node(8), node(8, 4)], 4, 0, Share(4, 0)),
        ([node(8), node(8, 4)], 4, 0.25, Share(1, 0.25)),
        ([node(8), node(8, 4, alive=False)], 4, None, Share(4, 0)),
    ],
)
def test_what_a_job_has_of_a_node(nodes, threads, gpus, share):
    assert share_of(nodes, threads, gpus) == share


def test_fewer_threads_than_here_are_said(caplog):
    share_of([node(2)], 4, 0)
    assert "each job on 2 of 4 threads" in caplog.text


@pytest.mark.parametrize("nodes", [[], [node(8)], [node(0, 2)], [node(8, 1, alive=False)]])
def test_what_no_node_has_is_refused_and_not_waited_for(nodes):
    with pytest.raises(UsageError, match=r"needs a CPU and 0\.5 of a GPU, and no node has them"):
        share_of(nodes, 1, 0.5)


def test_shares_and_retries_are_what_ray_is_told():
    assert Share(2, 0.25).options() == {"num_cpus": 2, "num_gpus": 0.25, "max_retries": RETRIES}
