"""Tracking: it scores the model that training has made so far, and training does not notice."""

import dataclasses
import shutil
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch.nn.functional as F
from click.testing import CliRunner
from test_runner import comparable, suite

from um_bench import models, registry, run_suite, runner, together, tracking
from um_bench.adapters import Adapter, Plan
from um_bench.cli import main
from um_bench.detectors import prepare
from um_bench.errors import UsageError
from um_bench.training import adapt
from um_bench.trajectories import METRICS, read_trajectories, read_trajectory

BASE = {"epochs": 3, "batch_size": 16, "augmentation": "crop", "schedule": "constant"}
ADAPT = {"epochs": 2, "batch_size": 16, "lr": 0.02, "schedule": "constant"}


def swept(results, *, track_every=1, retry_failed=False, tensorboard=None, **changes):
    """Run a suite of forty images a set; every recipe has a constant learning rate."""
    table = {"limit": 40, "detectors": ["msp", "energy"], "base": BASE, "recipe": ADAPT}
    table |= {"ood": {"far": {"noise": "uniform-noise/40-grey"}}, "auxiliary": "photos/auxiliary"}
    chosen = suite(**{**table, **changes})
    return list(
        run_suite(
            chosen,
            results=results,
            device="cpu",
            track_every=track_every,
            retry_failed=retry_failed,
            tensorboard=tensorboard,
        )
    )


def folder_in(results):
    return results / "tiny@limit=40"


def tracked(results):
    """The trajectories by adapter."""
    return {one.adapter: one for one in read_trajectories(folder_in(results))}


def told(trajectory):
    """Everything in a trajectory but times and dates."""
    table = dataclasses.asdict(trajectory)
    del table["seconds"], table["provenance"]["created"]
    return table


def weights_in(results):
    return {
        path.name: {k: v.numpy().tobytes() for k, v in safetensors.torch.load_file(path).items()}
        for path in (results / "models").glob("*.safetensors")
    }


UMAP, UM_OE = "umap@constraint=0.4", "um@constraint=0.4>oe"
LABELS = ["none", UMAP, UM_OE]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """One sweep that was tracked, one that was not."""
    with_, without = (tmp_path_factory.mktemp(name) for name in ("with", "without"))
    records = swept(with_, adapters=LABELS), swept(without, adapters=LABELS, track_every=None)
    return (with_, records[0]), (without, records[1])


# --- training does not notice


def test_weights_and_records_are_the_same_to_the_last_byte(once):
    (with_, tracked_records), (without, records) = once
    assert {r.state for r in records} == {"done"}
    assert list(map(comparable, tracked_records)) == list(map(comparable, records))
    assert weights_in(with_) == weights_in(without)
    assert len(weights_in(with_)) == 3
    assert not (folder_in(without) / "trajectories").exists()


def test_the_time_of_training_is_without_that_of_tracking(tmp_path, monkeypatch):
    scored = tracking.Tracking.scored

    def slow(*arguments):
        clock.now += 1000
        return scored(*arguments)

    @dataclass
    class Clock:
        now: float = 0.0

        def perf_counter(self):
            self.now += 0.001
            return self.now

    clock = Clock()
    monkeypatch.setattr(tracking.Tracking, "scored", slow)
    monkeypatch.setattr(models, "time", clock)
    monkeypatch.setattr(tracking, "time", clock)
    records = swept(tmp_path, adapters=[UMAP])
    assert records[0].seconds["base"] < 1
    assert records[0].seconds["adapt"] < 1
    found = tracked(tmp_path)
    assert found["base"].seconds["train"] == records[0].seconds["base"]
    assert found["base"].seconds["track"] == pytest.approx(4000, abs=1)
    assert found[UMAP].seconds["track"] == pytest.approx(3000, abs=1)


# --- what is scored


def numbers_of(records, adapter):
    """What a record has, in the shape of a point."""
    mine = [r for r in records if r.adapter_label == adapter]
    metrics = {r.detector: {} for r in mine}
    for r in mine:
        metrics[r.detector][r.ood_set] = {name: r.metrics[name] for name in METRICS}
    return {"id_accuracy": mine[0].metrics["id_accuracy"], "metrics": metrics}


def numbers_at(trajectory, epoch):
    (point,) = (p for p in trajectory.points if p.epoch == epoch)
    return {"id_accuracy": point.id_accuracy, "metrics": point.metrics}


def test_each_point_is_what_a_shorter_training_comes_to(once, tmp_path):
    """With a constant rate, k epochs of three are k epochs: whole runs say what a point must be."""
    (results, records), _ = once
    found = tracked(results)
    shorter = swept(tmp_path, track_every=None, adapters=["none"], base={**BASE, "epochs": 2})
    assert numbers_at(found["base"], 2) == numbers_of(shorter, "none")
    shorter = swept(tmp_path, track_every=None, adapters=[UMAP], recipe={**ADAPT, "epochs": 1})
    assert numbers_at(found[UMAP], 1) == numbers_of(shorter, UMAP)
    assert numbers_at(found["base"], 3) == numbers_of(records, "none")
    for label in (UMAP, UM_OE):
        assert numbers_at(found[label], found[label].epochs[-1]) == numbers_of(records, label)
    # The base's end is where um starts, before its first step; umap's masks are on by then.
    assert numbers_at(found[UM_OE], 0) == numbers_at(found["base"], 3)
    assert numbers_at(found[UMAP], 0) != numbers_at(found["base"], 3)


def test_a_trajectory_says_what_it_belongs_to(once):
    (results, records), _ = once
    found = tracked(results)
    assert found.keys() == {"base", *LABELS[1:]}
    for label in (UMAP, UM_OE):
        record = next(r for r in records if r.adapter_label == label)
        assert found[label].model_key == record.job_key
        assert found[label].weights == record.weights["adapted"]
        assert found[label].losses == record.losses
        assert found["base"].weights == record.weights["base"]
        assert found[label].provenance == record.provenance
        assert found[label].fingerprints["id"] == record.fingerprints["id"]
    base = found["base"]
    assert base.rates == [0.1, 0.1, 0.1]
    assert base.counts == {"id": 40, "noise": 40}
    assert base.groups == {"noise": "far"}
    assert base.detectors == ["energy", "msp"]
    assert base.alarms == {}


def test_the_first_and_the_last_are_always_there_and_stages_count_on(once, tmp_path):
    swept(tmp_path, track_every=2, adapters=[UM_OE], recipe={**ADAPT, "epochs": 1})
    found = tracked(tmp_path)
    assert found["base"].epochs == [0, 2, 3]
    assert len(found["base"].losses) == 3
    assert found[UM_OE].epochs == [0, 2]
    (results, _), _ = once
    assert tracked(results)[UM_OE].epochs == [0, 1, 2, 3, 4]
    assert found["base"].points == [
        p for p in tracked(results)["base"].points if p.epoch in (0, 2, 3)
    ]


def labels(*names):
    return [binding.label for binding in tracking.trackable([prepare(name) for name in names])]


def test_a_few_cheap_detectors_score():
    assert labels("knn", "energy@T=10", "maxlogit", "msp") == ["energy@T=10", "msp"]
    assert labels("knn", "maxlogit", "gen", "klmatching", "odin") == ["maxlogit", "gen"]
    for others in (["knn", "odin"], ["gen@gamma=search"], []):
        with pytest.raises(UsageError, match="Add msp or energy"):
            labels(*others)


# --- what is kept


def test_what_is_trained_already_is_trained_again_for_its_trajectory(once, tmp_path, monkeypatch):
    (results, _), (without, records) = once
    shutil.copytree(without, tmp_path, dirs_exist_ok=True)
    kept = {path: path.read_bytes() for path in (tmp_path / "models").glob("*.safetensors")}
    assert swept(tmp_path, adapters=LABELS) == records, "the cells are not computed again"
    assert {path: path.read_bytes() for path in kept} == kept
    assert list(map(told, tracked(tmp_path).values())) == list(map(told, tracked(results).values()))
    for module, name in ((together, "adapt"), (runner, "Passes")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("made again"))
    assert swept(tmp_path, adapters=LABELS) == records


def test_what_has_changed_since_is_stale_until_it_is_tracked_again(tmp_path):
    label, changed = UMAP, {**ADAPT, "epochs": 1}
    swept(tmp_path, adapters=[label])
    swept(tmp_path, adapters=[label], recipe=changed, track_every=None)
    found = tracked(tmp_path)
    assert found[label].alarms == {"stale": "what it was made from has changed"}
    assert found["base"].alarms == {}
    swept(tmp_path, adapters=[label], track_every=None)
    assert tracked(tmp_path)[label].alarms == {}, "it is as it was"
    swept(tmp_path, adapters=[label], recipe=changed)
    assert tracked(tmp_path)[label].epochs == [0, 1]


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("0", "1", 1)])
def test_a_damaged_trajectory_is_made_anew(tmp_path, damage):
    swept(tmp_path, adapters=["none"])
    (path,) = (folder_in(tmp_path) / "trajectories").glob("*.json")
    before = told(read_trajectory(path))
    path.write_text(damage(path.read_text()))
    swept(tmp_path, adapters=["none"])
    assert told(read_trajectory(path)) == before


def test_other_epochs_or_sets_make_another_trajectory(tmp_path):
    swept(tmp_path, adapters=["none"])
    first = tracked(tmp_path)["base"]
    swept(tmp_path, adapters=["none"], track_every=3)
    assert tracked(tmp_path)["base"].epochs == [0, 3]
    swept(tmp_path, adapters=["none"], ood={"near": {"held-out": "digits/heldout"}})
    other = tracked(tmp_path)["base"]
    assert other.groups == {"held-out": "near"}
    assert other.key != first.key
    assert other.model_key == first.model_key


def test_weights_that_are_not_those_that_are_kept_are_told(tmp_path, monkeypatch, caplog):
    swept(tmp_path, adapters=["none"], track_every=None)
    monkeypatch.setattr(together, "adapt", lambda *a, **k: adapt(*a, **{**k, "seed": 77}))
    records = swept(tmp_path, adapters=["none"])
    found = tracked(tmp_path)["base"]
    assert "other-weights" in found.alarms
    assert "seed 0, base: trained again for its trajectory" in caplog.text
    assert found.weights != records[0].weights["base"]
    assert {r.state for r in records} == {"done"}


class Killed(BaseException):
    """As a signal ends a process: nothing contains it."""


@pytest.mark.parametrize(
    ("after", "adapters"), [(2, ["none"]), pytest.param(5, [UMAP], marks=pytest.mark.slow)]
)
def test_killed_in_the_middle_it_comes_to_the_same(once, tmp_path, monkeypatch, after, adapters):
    (results, _), _ = once
    scored, calls = tracking.Tracking.scored, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == after:
            raise Killed
        return scored(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracking, "scored", killed)
        with pytest.raises(Killed):
            swept(tmp_path, adapters=adapters)
    assert len(tracked(tmp_path)) == (after > 4)
    swept(tmp_path, adapters=adapters)
    for label, one in tracked(tmp_path).items():
        assert told(one) == told(tracked(results)[label])


def test_where_scoring_breaks_training_goes_on_and_the_points_end(once, tmp_path, monkeypatch):
    (_, expected), _ = once
    scored, calls = tracking.Tracking.scored, []

    def breaking(shared, model, epoch):
        calls.append(epoch)
        if epoch == 1:
            raise RuntimeError("no room on the device")
        return scored(shared, model, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracking, "scored", breaking)
        for _ in range(2):  # the second time, it is known
            records = swept(tmp_path, adapters=["none"])
            assert calls == [0, 1]
    found = tracked(tmp_path)["base"]
    assert found.epochs == [0]
    assert found.alarms == {"broken": "not scored after 1 epochs: no room on the device"}
    assert len(found.losses) == 3
    none = [r for r in expected if r.adapter == "none"]
    assert list(map(comparable, records)) == list(map(comparable, none))
    swept(tmp_path, adapters=["none"], retry_failed=True)
    assert tracked(tmp_path)["base"].epochs == [0, 1, 2, 3]


def test_a_model_that_cannot_be_copied_is_trained_all_the_same(tmp_path, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Stubborn(Adapter):
        def prepare(self, model, train):
            model.kept = (frame for frame in ())  # a generator: nothing copies one

            def finish(given):
                del given.kept
                return given

            return Plan(model=model, id_loss=F.cross_entropy, finish=finish)

    load, known = registry.load, registry.plugins
    named = {**known("adapter"), "stubborn": registry.find("adapter", "finetune")}
    monkeypatch.setattr(registry, "plugins", lambda k: named if k == "adapter" else known(k))
    monkeypatch.setattr(registry, "load", lambda k, n: Stubborn if n == "stubborn" else load(k, n))
    records = swept(tmp_path, adapters=["stubborn"])
    assert {r.state for r in records} == {"done"}
    found = tracked(tmp_path)["stubborn"]
    assert "cannot be copied in the middle of its training" in found.alarms["broken"]
    assert found.points == []


def test_the_command_line_says_where_trajectories_are_and_what_they_cost(tmp_path):
    options = ["run", "--suite", "digits-far-ood", "--results", str(tmp_path), "--seeds", "0"]
    options += ["--set", "base.epochs=1", "--limit", "40", "--detectors", "msp"]
    options += ["--adapters", "none", "--ood-sets", "photos", "--device", "cpu"]
    with_ = CliRunner().invoke(main, [*options, "--track-every", "1"])
    assert with_.exit_code == 0
    folder = tmp_path / "digits-far-ood@limit=40" / "trajectories"
    (line,) = (line for line in with_.output.splitlines() if line.startswith("Trajectories:"))
    assert line.startswith(f"Trajectories: 1 in {folder}. Training took ")
    pytest.importorskip("tensorboardX")
    again = CliRunner().invoke(main, [*options, "--tensorboard", str(tmp_path / "t")])
    assert "Trajectories:" not in again.output
    assert "Event files: none, as nothing was trained" in again.output
