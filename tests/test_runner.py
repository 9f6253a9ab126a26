"""The sweep: every cell ends in a record, what is true is kept, what is finished is not lost."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from um_bench import detectors, models, run_suite, runner, scoring, together, training
from um_bench.backbones import weights_hash
from um_bench.errors import StorageError, UnsupportedError, UsageError
from um_bench.metrics import ood_metrics
from um_bench.records import read_folder
from um_bench.scores import load_scores
from um_bench.suite import Suite, parse_suite
from um_bench.trajectories import read_trajectory

TABLE = {
    "name": "tiny",
    "backbone": "resnet20_cifar",
    "seeds": [0],
    "adapters": ["none", "um@constraint=0.4"],
    "detectors": ["msp", "knn@k=5"],
    "id": {"name": "digits", "train": "digits/train", "test": "digits/test"},
    "preprocessing": {"size": 8, "resize": "none"},
    "base": {"epochs": 2, "batch_size": 64, "augmentation": "none"},
    "recipe": {"epochs": 1, "batch_size": 64, "lr": 0.02, "augmentation": "none"},
    "ood": {"near": {"held-out": "digits/heldout"}, "far": {"noise": "uniform-noise/100-grey"}},
}


def suite(**changes) -> Suite:
    return parse_suite({**TABLE, **changes}, "tiny.toml")


def run(results: Path, **changes):
    options = {k: changes.pop(k) for k in ("retry_failed", "on_progress") if k in changes}
    return list(run_suite(suite(**changes), results=results, device="cpu", **options))


def comparable(record) -> str:
    """Everything in a record but times and dates."""
    table = dataclasses.asdict(record)
    del table["seconds"], table["spent"], table["provenance"]["created"]
    return json.dumps(table, sort_keys=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    results = tmp_path_factory.mktemp("finished")
    return results, run(results)


def count_calls(monkeypatch, module, name) -> list:
    calls = []
    original = getattr(module, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_every_cell_has_a_record_with_numbers(finished):
    results, records = finished
    assert [r.state for r in records] == ["done"] * 8
    assert [r.cell for r in records] == [c for job in suite().jobs() for c in suite().cells(job)]
    assert sorted(map(comparable, read_folder(results / "tiny"))) == sorted(
        map(comparable, records)
    )
    for record in records:
        assert set(record.metrics) == {
            "auroc", "aupr_in", "aupr_out", "fpr95_ood", "fpr95_id", "id_accuracy",
            "base_id_accuracy",
        }  # fmt: skip
        assert record.counts == {
            "id": 577,
            "ood": len(load(results, record)["ood"]),
            "train": 725,
            "fit": 725,
        }
    none, um = records[0], records[-1]
    assert none.metrics["id_accuracy"] == none.metrics["base_id_accuracy"]
    assert um.metrics["base_id_accuracy"] == none.metrics["id_accuracy"]
    assert none.weights["base"] == none.weights["adapted"] == um.weights["base"]
    assert um.weights["adapted"] != um.weights["base"]
    assert um.notes.keys() == {"constraint", "starting_loss"}
    assert um.notes["constraint"] == 0.4
    assert (um.adapter, um.adapter_label) == ("um", "um@constraint=0.4")
    assert um.hyperparameters["adapter"]["estimate_keep"] == 0.965
    assert um.hyperparameters["detector"] == {**um.hyperparameters["detector"], "k": 5}


def load(results: Path, record) -> dict:
    """Scores by set, as tensors."""
    scores = load_scores(results / "tiny" / record.scores)
    return {name: torch.from_numpy(values) for name, values in scores.items()}


def test_the_metrics_are_those_of_the_scores_that_are_kept(finished):
    results, records = finished
    for record in records:
        scores = load(results, record)
        again = ood_metrics(scores["id"], scores["ood"])
        assert {k: record.metrics[k] for k in again} == again


def test_the_same_command_again_computes_nothing(finished, monkeypatch):
    results, records = finished
    for module, name in ((together, "adapt"), (scoring, "collect"), (scoring, "fit")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("computed again"))
    assert run(results) == records


def test_a_new_detector_needs_no_training_and_leaves_the_others(finished, monkeypatch):
    results, records = finished
    monkeypatch.setattr(together, "adapt", lambda *_, **__: pytest.fail("trained again"))
    more = run(results, detectors=["msp", "knn@k=5", "energy"])
    assert len(more) == 12
    assert [r for r in more if r.detector != "energy"] == [
        r for r in records if r.detector != "energy"
    ]


def test_each_image_is_forwarded_once_a_model(tmp_path, monkeypatch):
    passes = count_calls(monkeypatch, scoring, "collect")
    names = [
        "msp",
        "energy",
        "klmatching",
        "knn@k=5",
        "mahalanobis",
        "vim",
        "react",
        "ash-s",
        "dice",
    ]
    records = run(tmp_path, adapters=["none"], detectors=names)
    assert {r.state for r in records} == {"done"}
    forwarded = [len(loader.data) for _, loader, _ in passes]
    assert sorted(forwarded) == sorted([725, 577, 354, 100])


def test_two_runs_give_the_same_records(finished, tmp_path):
    assert list(map(comparable, run(tmp_path))) == list(map(comparable, finished[1]))


def test_a_changed_weight_computes_exactly_its_cells_again(tmp_path):
    first = run(tmp_path, seeds=[0, 1])
    base = next((tmp_path / "models").glob("base-*.safetensors"))
    metadata_of = models.load_weights
    changed = set()

    def load_changed(path, model):
        metadata = metadata_of(path, model)
        if metadata is not None and path.name == base.name:
            with torch.no_grad():
                model.head_layer.weight[0, 0] += 1
            metadata = {**metadata, "weights": weights_hash(model)}
            changed.add(path.name)
        return metadata

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_weights", load_changed)
        second = run(tmp_path, seeds=[0, 1])
    assert changed == {base.name}
    moved = {r.seed for r, s in zip(first, second, strict=True) if r.key != s.key}
    same = [(r, s) for r, s in zip(first, second, strict=True) if r.seed not in moved]
    assert len(moved) == 1
    assert all(r == s for r, s in same)
    assert all(
        r.weights["base"] != s.weights["base"]
        for r, s in zip(first, second, strict=True)
        if r.seed in moved
    )


def test_what_was_made_from_another_recipe_is_stale_until_it_is_run_again(tmp_path):
    run(tmp_path, adapters=["finetune"])
    recipe = {**TABLE["recipe"], "lr": 0.01}
    run(tmp_path, adapters=["finetune"], recipe=recipe, detectors=["msp"])
    states = {(r.detector, r.state) for r in read_folder(tmp_path / "tiny")}
    assert states == {("msp", "done"), ("knn", "stale")}
    run(tmp_path, adapters=["finetune"], recipe=recipe)
    assert {r.state for r in read_folder(tmp_path / "tiny")} == {"done"}


def test_a_damaged_model_file_is_made_again_to_the_same_weights(tmp_path):
    first = run(tmp_path, adapters=["finetune"])
    for path in (tmp_path / "models").glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-5] ^= 0xFF
        path.write_bytes(content)
    for scores in (tmp_path / "tiny" / "scores").rglob("*.npz"):
        scores.unlink()
    second = run(tmp_path, adapters=["finetune"])
    assert list(map(comparable, second)) == list(map(comparable, first))


# --- failures


def breaking(error):
    def broken(*_, **__):
        raise error

    return broken


def test_a_failing_detector_fails_its_cells_and_the_sweep_goes_on(tmp_path, monkeypatch):
    spec = detectors.DetectorSpec(reads="logits", build=breaking(RuntimeError("broken on purpose")))
    monkeypatch.setattr("um_bench.detectors.table.MSP", spec)
    records = run(tmp_path, adapters=["none"])
    states = {(r.detector, r.state) for r in records}
    assert states == {("msp", "failed"), ("knn", "done")}
    failed = records[0]
    assert "broken on purpose" in failed.reason
    assert "RuntimeError" in failed.traceback
    assert not failed.metrics


def test_failed_cells_are_kept_until_they_are_to_be_tried_again(tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "score_id", breaking(RuntimeError("once")))
        assert {r.state for r in run(tmp_path)} == {"failed"}
    assert {r.state for r in run(tmp_path)} == {"failed"}
    assert {r.state for r in run(tmp_path, retry_failed=True)} == {"done"}


def test_a_failing_adapter_fails_its_job_only(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "adapt", _breaks_for(together.adapt, "UM"))
    states = {(r.adapter, r.state, r.reason) for r in run(tmp_path)}
    assert states == {("none", "done", ""), ("um", "failed", "RuntimeError: this adapter only")}


def _breaks_for(original, name):
    def adapt(adapter, *args, **kwargs):
        if type(adapter).__name__ == name:
            raise RuntimeError("this adapter only")
        return original(adapter, *args, **kwargs)

    return adapt


def test_what_cannot_work_is_unsupported_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "score_id", breaking(UnsupportedError("it needs text")))
    records = run(tmp_path, adapters=["none"])
    assert {(r.state, r.reason, r.traceback) for r in records} == {
        ("unsupported", "it needs text", "")
    }


def test_missing_data_is_named_and_is_no_failure(tmp_path):
    ood = {"far": {"noise": "uniform-noise/50-grey", "svhn": "svhn/test"}}
    records = run(tmp_path, adapters=["none"], ood=ood)
    states = {(r.ood_set, r.state) for r in records}
    assert states == {("noise", "done"), ("svhn", "missing-data")}
    reason = next(r.reason for r in records if r.state == "missing-data")
    assert "SVHN" in reason
    assert "download=True" in reason


def test_numbers_are_not_lost_while_their_data_is_away(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    names = {"name": "digits", "train": "cifar10/train", "test": "cifar10/test"}
    away = run(tmp_path, id=names)
    assert away == finished[1]
    more = run(tmp_path, id=names, detectors=["msp", "entropy"])
    assert {(r.detector, r.state) for r in more} == {("msp", "done"), ("entropy", "missing-data")}
    assert run(tmp_path) == finished[1]


def test_every_seed_needs_its_checkpoint_before_anything_runs(tmp_path):
    (tmp_path / "w0.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no checkpoint at .*w1.pt; every seed of 0, 1 needs one"):
        run(tmp_path, seeds=[0, 1], checkpoint=str(tmp_path / "w{seed}.pt"))
    with pytest.raises(UsageError, match=r"no checkpoint at w\{sed\}.pt"):
        run(tmp_path, checkpoint="w{sed}.pt")


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_threads_are_put_back_after_tiny_images(finished):
    records = run_suite(suite(), results=finished[0], device="cpu")
    next(records)
    assert torch.get_num_threads() == 1
    list(records)
    assert torch.get_num_threads() == 2


def test_without_id_data_every_cell_is_missing_data_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "adapt", lambda *_, **__: pytest.fail("trained without data"))
    names = {"name": "cifar10", "train": "cifar10/train", "test": "cifar10/test"}
    records = run(tmp_path, id=names, preprocessing={"size": 32})
    assert {r.state for r in records} == {"missing-data"}
    assert len(records) == 8


def test_a_diverging_training_fails_with_a_hint(tmp_path):
    recipe = {**TABLE["recipe"], "lr": 1e12, "epochs": 3}
    records = run(tmp_path, adapters=["none", "finetune"], recipe=recipe)
    assert {(r.adapter, r.state) for r in records} == {("none", "done"), ("finetune", "failed")}
    assert "lower recipe.lr" in records[-1].reason or "not finite" in records[-1].reason


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, monkeypatch):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original, left = os.fsync, [6]

        def fsync(handle):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            original(handle)

        patch.setattr(os, "fsync", fsync)
        records = run_suite(suite(), results=tmp_path, device="cpu")
        with pytest.raises(StorageError, match="No space left on device"):
            seen.extend(records)
    kept = list(read_folder(tmp_path / "tiny"))
    assert [comparable(r) for r in seen] == [comparable(r) for r in kept]
    assert {r.state for r in run(tmp_path)} == {"done"}


def test_errors_of_the_user_come_before_anything_runs(tmp_path):
    for changes, message in (
        ({"adapters": ["umm"]}, "Did you mean um"),
        ({"adapters": ["um@constrain=1"]}, "Did you mean constraint"),
        ({"adapters": ["um@constraint=abc"]}, "must be float or int, got 'abc'"),
        ({"detectors": ["knn@neighbours=1"]}, "no setting named 'neighbours'"),
    ):
        with pytest.raises(UsageError, match=message):
            run(tmp_path / "none", **changes)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet20_cifr"}, "resnet20_cifar"),
        ({"checkpoint": "absent.safetensors"}, "absent.safetensors"),
    ],
)
def test_a_base_classifier_that_cannot_be_made_ends_the_run(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path, **changes)


def test_two_adapters_for_one_loss_are_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="finetune and um cannot be composed: each sets id_loss"):
        run(tmp_path, adapters=["none", "finetune+um@constraint=0.4"])
    assert not list(tmp_path.rglob("*.*"))


def test_progress_reaches_its_end_whatever_was_skipped(finished, tmp_path):
    for results in (tmp_path, finished[0]):
        seen = []
        run(results, on_progress=seen.append)
        done = [p.done for p in seen]
        assert done == sorted(done)
        assert done[-1] == pytest.approx(seen[-1].total)


# --- being killed

CHILD = """
import json, sys
from um_bench import run_suite
from um_bench.suite import parse_suite
suite = parse_suite(json.loads(sys.argv[1]), "tiny")
for record in run_suite(suite, results=sys.argv[2], device="cpu"):
    print(record.ood_set, flush=True)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(finished, tmp_path):
    """SIGKILL at random moments, then the same command: as if it had never been killed."""
    random.seed(0)
    command = [sys.executable, "-c", CHILD, json.dumps(TABLE), str(tmp_path)]
    survivors: set[str] = set()
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as child:
            _wait_for_first_file(child, tmp_path)
            time.sleep(random.uniform(0, 1.5))
            child.send_signal(signal.SIGKILL)
        kept = set(map(comparable, read_folder(tmp_path / "tiny")))
        assert survivors <= kept
        survivors = kept
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=tmp_path)
    assert sorted(map(comparable, read_folder(tmp_path / "tiny"))) == sorted(
        map(comparable, finished[1])
    )


def _wait_for_first_file(child, results: Path) -> None:
    while child.poll() is None and not (results / "tiny" / "suite.json").exists():
        time.sleep(0.05)


def test_a_training_that_is_killed_goes_on_in_the_next_run(tmp_path, monkeypatch):
    """Tracked as well: the trajectory is that of one training."""
    longer = {"recipe": {**TABLE["recipe"], "epochs": 5}}

    def sweep(folder, on_progress=lambda _: None):
        options = {"results": tmp_path / folder, "device": "cpu", "track_every": 1}
        return list(run_suite(suite(**longer), on_progress=on_progress, **options))

    def killed(progress):
        seen.append(progress.stage)
        if seen.count("training um@constraint=0.4") == 4:
            raise KeyboardInterrupt

    monkeypatch.setenv("UM_BENCH_KEEP_TRAINING", "0")
    whole, seen = sweep("whole"), []
    with pytest.raises(KeyboardInterrupt):
        sweep("killed", killed)
    assert list((tmp_path / "killed" / "models").glob("*.training"))
    steps = count_calls(monkeypatch, training, "_train_epoch")
    resumed = sweep("killed")
    assert len(steps) == 2
    assert sorted(map(comparable, resumed)) == sorted(map(comparable, whole))
    assert not list((tmp_path / "killed" / "models").glob("*.training"))
    files = [tmp_path / name / "tiny" / "trajectories" for name in ("whole", "killed")]
    points = [[read_trajectory(f).points for f in sorted(folder.glob("*"))] for folder in files]
    assert points[0] == points[1]
    assert [len(its) for its in points[0]] == [3, 6]
