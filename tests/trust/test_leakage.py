"""Point 6: an adapter or a tuner that reads test data stops; what it may read, it reads."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_runner import suite
from torch.nn import functional

from um_bench import registry, run_suite
from um_bench.adapters import Adapter, Finetune, Plan
from um_bench.data import leakage, load_set
from um_bench.detectors.table import MSP
from um_bench.errors import LeakageError

SIZE = suite().preprocessing


@pytest.fixture
def data(tmp_path):
    """Folders of images: two classes to train on, OOD images to test on, others to train with."""
    chance = np.random.default_rng(0)
    for name, count in (("train/a", 8), ("train/b", 8), ("test/a", 4), ("test/b", 4)):
        _write(tmp_path / "data" / name, count, chance, dark=name.endswith("a"))
    _write(tmp_path / "data" / "ood", 6, chance, dark=False)
    _write(tmp_path / "data" / "outliers", 6, chance, dark=False)
    return tmp_path / "data"


def _write(folder, count, chance, *, dark):
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = chance.integers(0, 120 if dark else 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def swept(data, tmp_path, track_every=None, **changes):
    chosen = suite(
        id={"name": "two", "train": "folder/train", "test": "folder/test"},
        ood={"far": {"mine": "folder/ood"}},
        detectors=["msp", "energy"],
        **changes,
    )
    options = {"results": tmp_path / "results", "data_dir": data, "device": "cpu"}
    return list(run_suite(chosen, **options, track_every=track_every))


def registered(monkeypatch, kind, name, made):
    """Have a name stand for an adapter or a detector of the test's own."""
    known = dict(registry.plugins(kind))
    known[name] = next(iter(known.values()))._replace(name=name)
    plugins, load = registry.plugins, registry.load
    monkeypatch.setattr(registry, "plugins", lambda k: known if k == kind else plugins(k))
    monkeypatch.setattr(
        registry, "load", lambda k, n: made if (k, n) == (kind, name) else load(k, n)
    )


def reading(what):
    """An adapter that does something before it trains."""

    @dataclass(frozen=True, kw_only=True)
    class Reading(Adapter):
        def prepare(self, model, train):
            what()
            return Finetune().prepare(model, train)

    return Reading


def swallowing(what):
    def quiet():
        try:
            what()
        except Exception:
            return

    return quiet


def a_file(data):
    Image.open(data / "ood" / "3.png").load()


def by_another_path(data):
    link = data / "train" / "link.png"
    link.symlink_to(data / "ood" / "3.png")
    try:
        (data / "train" / ".." / "train" / "link.png").read_bytes()
    finally:
        link.unlink()


def the_set(data):
    load_set("folder/ood", data_dir=data, preprocessing=SIZE, ood=True)


def the_id_test_set(data):
    (data / "test" / "b" / "1.png").read_bytes()


@pytest.mark.parametrize("wrap", [lambda f: f, swallowing], ids=["openly", "swallowed"])
@pytest.mark.parametrize("leak", [a_file, by_another_path, the_set, the_id_test_set])
def test_an_adapter_that_reads_test_data_stops_its_job(data, tmp_path, monkeypatch, leak, wrap):
    registered(monkeypatch, "adapter", "curious", reading(wrap(lambda: leak(data))))
    records = swept(data, tmp_path, adapters=["none", "curious"])
    states = {(r.adapter, r.state) for r in records}
    assert states == {("none", "done"), ("curious", "failed")}
    (reason,) = {r.reason for r in records if r.adapter == "curious"}
    name = "two (ID test)" if leak is the_id_test_set else "mine"
    assert f"the training of Reading read test data: {name}." in reason
    # Nothing of it is kept: the same command does not find a model that has seen the test.
    again = swept(data, tmp_path, adapters=["none", "curious"])
    assert {(r.adapter, r.state) for r in again} == states


class AtTheEnd(Finetune):
    """Does something whenever its plan is finished, which tracking does in the middle."""

    what = staticmethod(lambda: None)

    def prepare(self, model, train):
        def finish(given):
            self.what()
            return given

        return dataclasses.replace(super().prepare(model, train), finish=finish)


def in_a_loss(what):
    """An adapter that does something at each step: between any two scorings."""

    @dataclass(frozen=True, kw_only=True)
    class Learning(Adapter):
        def prepare(self, model, train):
            def loss(logits, labels):
                what()
                return functional.cross_entropy(logits, labels)

            return Plan(model=model, id_loss=loss)

    return Learning


def at_the_end(what):
    return dataclass(frozen=True, kw_only=True)(
        type("AtTheEnd", (AtTheEnd,), {"what": staticmethod(what)})
    )


@pytest.mark.parametrize("wrap", [lambda f: f, swallowing], ids=["openly", "swallowed"])
@pytest.mark.parametrize("made", [reading, in_a_loss, at_the_end])
@pytest.mark.parametrize("leak", [a_file, the_set])
def test_the_harness_reads_test_data_and_the_adapter_still_may_not(
    data, tmp_path, monkeypatch, leak, made, wrap
):
    registered(monkeypatch, "adapter", "curious", made(wrap(lambda: leak(data))))
    records = swept(data, tmp_path, adapters=["none", "curious"], track_every=1)
    assert {(r.adapter, r.state) for r in records} == {("none", "done"), ("curious", "failed")}
    assert "read test data: mine." in records[-1].reason
    names = {path.name for path in (tmp_path / "results" / "tiny" / "trajectories").iterdir()}
    assert names == {"two--resnet20_cifar--seed0--base.json"}


def test_what_the_harness_reads_is_not_said_to_be_read_by_training(data, tmp_path):
    options = {"adapters": ["oe"], "auxiliary": "folder/outliers"}
    records = swept(data, tmp_path, track_every=1, **options)
    assert len(list((tmp_path / "results" / "tiny" / "trajectories").iterdir())) == 2
    assert records[0].opened == {
        "base": ["folder/train"],
        "adapt": ["folder/outliers", "folder/train"],
    }


def test_a_pause_ends_whatever_happens_in_it(data):
    tested = leakage.Files({str((data / "ood" / "3.png").resolve()): "mine"})

    def break_off():
        with leakage.paused():
            a_file(data)
            raise RuntimeError

    with leakage.refusing("tuning", tested) as stage:
        with pytest.raises(RuntimeError):
            break_off()
        assert not stage.opened
        with pytest.raises(LeakageError):
            a_file(data)
        stage.leaks.clear()


def test_an_adapter_may_read_what_it_is_given(data, tmp_path, monkeypatch):
    def look():
        (data / "train" / "a" / "0.png").read_bytes()
        load_set("folder/outliers", data_dir=data, preprocessing=SIZE, ood=True)

    registered(monkeypatch, "adapter", "honest", reading(look))
    records = swept(data, tmp_path, adapters=["honest"], auxiliary="folder/outliers")
    assert {r.state for r in records} == {"done"}


def test_a_detector_that_is_fitted_on_test_data_fails(data, tmp_path, monkeypatch):
    def build(*arguments):
        a_file(data)
        return MSP.build(*arguments)

    registered(monkeypatch, "detector", "tuned", dataclasses.replace(MSP, build=build))
    chosen = suite(
        id={"name": "two", "train": "folder/train", "test": "folder/test"},
        ood={"far": {"mine": "folder/ood"}},
        detectors=["msp", "tuned"],
        adapters=["none"],
    )
    options = {"results": tmp_path / "results", "data_dir": data, "device": "cpu"}
    records = list(run_suite(chosen, **options))
    assert {(r.detector, r.state) for r in records} == {("msp", "done"), ("tuned", "failed")}
    assert "fitting tuned read test data: mine." in records[-1].reason


def test_files_that_both_have_are_nobodys_secret(tmp_path):
    """digits/train and digits/test are read from one file, which is not a leak; the name is."""
    from um_bench.sweep import open_sets

    sets = open_sets(suite(), tmp_path, auxiliary=False)
    assert sets.files.tested == {
        "digits/test": "digits (ID test)",
        "digits/heldout": "held-out",
        "uniform-noise/100-grey": "noise",
    }
    with (
        pytest.raises(LeakageError, match="tuning read test data: held-out"),
        leakage.refusing("tuning", sets.files),
    ):
        load_set("Digits/Heldout", data_dir=tmp_path, preprocessing=SIZE, ood=True)
    with leakage.refusing("tuning", sets.files):
        load_set("digits/train", data_dir=tmp_path, preprocessing=SIZE)


def test_records_say_what_each_stage_read(data, tmp_path, monkeypatch):
    (data / "notes.txt").write_text("x", encoding="utf-8")
    made = reading((data / "notes.txt").read_bytes)
    registered(monkeypatch, "adapter", "reading", made)
    found = {}
    for again in (False, True):  # the second time, models come from their files
        records = swept(
            data, tmp_path, adapters=["none", "reading", "oe"], auxiliary="folder/outliers"
        )
        found[again] = {(r.adapter, r.detector): r.opened for r in records}
    assert {r.state for r in records} == {"done"}
    base = {"base": ["folder/train"]}
    assert found[True] == found[False]
    assert found[True]["none", "msp"] == base
    assert found[True]["reading", "msp"] == {**base, "adapt": ["folder/train", "notes.txt"]}
    assert found[True]["oe", "energy"] == {**base, "adapt": ["folder/outliers", "folder/train"]}


def test_records_say_what_a_detector_was_fitted_and_chosen_on(tmp_path):
    chosen = suite(
        adapters=["none"],
        detectors=["msp", "knn@k=5", "knn@k=search"],
        id={
            "name": "digits",
            "train": "digits/train",
            "test": "digits/test",
            "validation": "digits/validation",
        },
        validation_ood="photos/validation",
    )
    records = run_suite(chosen, results=tmp_path, device="cpu")
    assert {r.detector_label: r.opened.get("fit") for r in records} == {
        "msp": None,
        "knn@k=5": ["digits/train"],
        "knn@k=search": ["digits/train", "digits/validation", "photos/validation"],
    }


def test_a_test_set_that_is_at_hand_as_an_object_is_refused_too(tmp_path):
    from um_bench.data import Loader
    from um_bench.sweep import open_sets

    sets = open_sets(suite(), tmp_path, auxiliary=False)
    with leakage.refusing("tuning", sets.files):
        Loader(sets.train, batch_size=8)
    with (
        pytest.raises(LeakageError, match=r"tuning read test data: digits \(ID test\)"),
        leakage.refusing("tuning", sets.files),
    ):
        Loader(sets.test, batch_size=8)


def test_what_is_opened_is_recorded(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for path in (inside, outside):
        path.write_text("x", encoding="utf-8")
    with leakage.recorded() as opened:
        inside.read_text(encoding="utf-8")
    outside.read_text(encoding="utf-8")
    assert str(inside.resolve()) in opened
    assert str(outside.resolve()) not in opened


def test_outside_of_a_stage_everything_may_be_read():
    leakage.asked_for("folder/ood")
    Path(__file__).read_bytes()
