"""Trajectories as they are kept: what is written is read back, and nothing else is."""

import dataclasses
import json

import pytest

from um_bench.errors import DamagedError, UsageError
from um_bench.records import Provenance, sealed
from um_bench.suite import Job
from um_bench.trajectories import (
    Point,
    Trajectory,
    read_trajectories,
    read_trajectory,
    trajectory_file,
    write_trajectory,
)

JOB = Job("digits", "resnet20_cifar", 0, "um@constraint=0.4")


def point(epoch: int, auroc: float) -> Point:
    metrics = {"auroc": auroc, "fpr95_ood": 0.5, "fpr95_id": 0.25}
    return Point(
        epoch=epoch,
        id_accuracy=0.9,
        metrics={"msp": {"noise": metrics}, "energy": {"noise": metrics}},
    )


def trajectory(**changes) -> Trajectory:
    made = Provenance(
        created="2026-11-28T00:00:00Z", device="cpu", platform="x", versions={"a": "1"}
    )
    standard = Trajectory(
        suite="tiny", key="k", model_key="m", weights="w", id_set=JOB.id_set,
        backbone=JOB.backbone, seed=JOB.seed, adapter=JOB.adapter, every=2,
        groups={"noise": "far"}, losses=[0.5, 0.4, 0.3], rates=[0.1, 0.07, 0.02],
        counts={"id": 9, "noise": 4}, fingerprints={"id": "f", "noise": "g"},
        seconds={"train": 1.0, "track": 0.5},
        points=[point(0, 0.5), point(2, 0.75), point(3, 0.625)], provenance=made,
    )  # fmt: skip
    return dataclasses.replace(standard, **changes)


def test_what_is_written_is_read_back(tmp_path):
    write_trajectory(tmp_path, trajectory())
    other = trajectory(adapter="base", seed=1, alarms={"broken": "why"})
    write_trajectory(tmp_path, other)
    assert read_trajectory(trajectory_file(tmp_path, JOB)) == trajectory()
    assert list(read_trajectories(tmp_path)) == [trajectory(), other]
    assert trajectory().job == JOB


def test_a_curve_has_a_value_for_each_epoch():
    one = trajectory()
    assert one.epochs == [0, 2, 3]
    assert one.detectors == ["msp", "energy"]
    assert one.values("energy", "noise", "auroc") == [0.5, 0.75, 0.625]


def test_one_changed_digit_is_noticed(tmp_path):
    write_trajectory(tmp_path, trajectory())
    path = trajectory_file(tmp_path, JOB)
    path.write_text(path.read_text().replace("0.625", "0.925"))
    with pytest.raises(DamagedError, match="not a trajectory as um-bench wrote it"):
        read_trajectory(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "schema 99 is newer"),
        ({"losses": ["0.5"]}, "losses must hold float or int only"),
        ({"weights": None}, "weights must be str"),
        ({"losses": [0.5]}, "point of epoch 2: there are 1 epochs"),
        ({"groups": {"noise": "far", "photos": "far"}}, "it has not the OOD sets of `groups`"),
        ({"points": [dataclasses.asdict(point(0, 1.5))]}, "auroc is no fraction"),
        ({"points": [dataclasses.asdict(point(0, True))]}, "auroc is no fraction"),
        ({"points": [{"epoch": 0}]}, "not a trajectory of um-bench"),
        ({"points": None}, "not a trajectory of um-bench"),
        ({"more": 1}, "not a trajectory of um-bench"),
    ],
)
def test_what_is_no_trajectory_is_refused(tmp_path, change, words):
    path = tmp_path / "one.json"
    path.write_text(sealed({**dataclasses.asdict(trajectory()), **change}))
    with pytest.raises(UsageError, match=words):
        read_trajectory(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00", json.dumps([1] * 9).encode()])
def test_any_other_file_is_refused(tmp_path, content):
    path = tmp_path / "one.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"one.json: not a trajectory"):
        read_trajectory(path)
