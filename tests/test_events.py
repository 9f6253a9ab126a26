"""Event files for TensorBoard, read back by the description of their format."""

import struct
import sys

import pytest
from test_tracking import UMAP, swept, tracked

from um_bench.errors import UmBenchError, UsageError
from um_bench.trajectories import METRICS


def events_in(folder):
    """The scalars of an event file: its records taken apart by the format's description.

    A record is its length in 8 bytes, 4 bytes of check, the data, 4 bytes of check.
    """
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_event_files_hold_the_loss_and_what_is_tracked(tmp_path):
    pytest.importorskip("tensorboardX")
    ood = {"near": {"held-out": "digits/heldout"}, "far": {"grey noise": "uniform-noise/40-grey"}}
    swept(tmp_path / "r", adapters=[UMAP], tensorboard=tmp_path / "t", track_every=2, ood=ood)
    runs = tmp_path / "t" / "tiny@limit=40"
    assert {path.name for path in runs.iterdir()} == {
        "digits--resnet20_cifar--seed0--base",
        "digits--resnet20_cifar--seed0--umap@constraint=0.4",
    }
    found = events_in(runs / "digits--resnet20_cifar--seed0--base")
    base = tracked(tmp_path / "r")["base"]
    assert found["train/loss"] == pytest.approx(dict(enumerate(base.losses, start=1)))
    assert found["train/lr"] == pytest.approx({1: 0.1, 2: 0.1, 3: 0.1})
    assert found["id/accuracy"] == pytest.approx({p.epoch: p.id_accuracy for p in base.points})
    values = dict(zip(base.epochs, base.values("energy", "held-out", "auroc"), strict=True))
    assert found["auroc/energy/held-out"] == pytest.approx(values)
    assert "fpr95_id/msp/grey_noise" in found, "no space is left in a name"
    assert len(found) == 3 + 2 * 2 * len(METRICS)


def test_event_files_without_trajectories_hold_the_loss(tmp_path):
    pytest.importorskip("tensorboardX")
    records = swept(
        tmp_path,
        adapters=["none"],
        tensorboard=tmp_path / "t",
        track_every=None,
        detectors=["knn@k=5"],
    )
    assert {r.state for r in records} == {"done"}
    found = events_in(tmp_path / "t" / "tiny@limit=40" / "digits--resnet20_cifar--seed0--base")
    assert found.keys() == {"train/loss", "train/lr"}
    assert not tracked(tmp_path)


def test_without_the_extra_it_says_so_and_nothing_else_needs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # importing it fails
    with pytest.raises(UsageError, match=r'pip install "um-bench\[tensorboard\]"'):
        swept(tmp_path, tensorboard=tmp_path / "t")
    assert not list(tmp_path.iterdir())
    assert {r.state for r in swept(tmp_path, adapters=["none"])} == {"done"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "t").write_text("a file")
    with pytest.raises(UmBenchError, match="event files cannot be written"):
        swept(tmp_path / "r", adapters=["none"], tensorboard=tmp_path / "t")
