"""What a sweep makes of detectors that read inner layers, of searches, and of the full spectrum."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_runner import TABLE, comparable, count_calls, load, run, suite

from um_bench import environment, registry, scoring
from um_bench.backbones import Classifier
from um_bench.data import load_set
from um_bench.errors import UsageError
from um_bench.metrics import ood_metrics
from um_bench.suite import Preprocessing
from um_bench.sweep import bind_detectors

NEED_GRADIENTS = {"odin", "mahalanobis-odin", "feature-ensemble", "nac"}
VALIDATION = {"validation_ood": "gaussian-noise/60-grey"}
ID = {**TABLE["id"], "validation": "digits/validation"}


def test_every_image_is_forwarded_once_for_all_detectors_without_gradients(tmp_path, monkeypatch):
    seen: list[int] = []
    for name in ("forward", "features", "inner"):
        original = getattr(Classifier, name)

        def counted(self, images, original=original):
            seen.append(len(images))
            return original(self, images)

        monkeypatch.setattr(Classifier, name, counted)
    originals = run(tmp_path / "base", adapters=["none"], detectors=["msp"])
    seen.clear()
    names = sorted(set(registry.plugins("detector")) - NEED_GRADIENTS - {"mcd", "broken"})
    ours = [n for n in names if registry.plugins("detector")[n].distribution == "um-bench"]
    assert len(ours) >= 30
    (tmp_path / "all").mkdir()
    (tmp_path / "base" / "models").rename(tmp_path / "all" / "models")
    records = run(tmp_path / "all", adapters=["none"], detectors=ours)
    assert {r.state for r in records} == {"done", "unsupported"}
    unsupported = {r.detector for r in records if r.state == "unsupported"}
    assert unsupported == {"mcm", "weighted-ebo"}
    counts = originals[0].counts
    ood = sum(r.counts["ood"] for r in records if r.detector == "msp")
    # 2 more: the trial of the backbone before it is used, once by features and once whole
    assert sum(seen) - 4 == counts["train"] + counts["id"] + ood


def test_a_detector_that_reads_layers_may_come_later(tmp_path, monkeypatch):
    first = run(tmp_path, adapters=["none"], detectors=["energy"])
    passes = count_calls(monkeypatch, scoring, "collect")
    records = run(tmp_path, adapters=["none"], detectors=["energy", "gram", "rankfeat"])
    assert [comparable(r) for r in records if r.detector == "energy"] == [
        comparable(r) for r in first
    ]
    assert {r.state for r in records} == {"done"}
    assert len(passes) == 4  # ID, two OOD sets, and the training set for gram alone
    read = [set(digests) for _, _, digests in passes]
    assert sorted(map(len, read)) == [1, 2, 2, 2]


def test_a_digest_that_breaks_fails_in_its_own_cells(tmp_path, monkeypatch):
    def broken(model, settings):
        return lambda inner: 1 / 0

    binding = bind_detectors(suite(detectors=["rankfeat"]))[1]["rankfeat"]
    spec = dataclasses.replace(binding.spec, digest=broken)
    original = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: spec if name == "rankfeat" else original(kind, name)
    )
    records = run(tmp_path, adapters=["none"], detectors=["energy", "rankfeat"])
    assert {(r.detector, r.state) for r in records} == {("energy", "done"), ("rankfeat", "failed")}
    assert "ZeroDivisionError" in records[-1].reason


# Searches


def test_a_search_chooses_on_the_declared_sets_and_the_record_says_what(tmp_path):
    records = run(
        tmp_path, adapters=["none"], detectors=["ash-s@search", "ash-s"], id=ID, **VALIDATION
    )
    found, plain = records[0], records[2]
    assert {r.state for r in records} == {"done"}
    assert found.detector_label == "ash-s@search"
    assert found.hyperparameters["detector"]["percentile"] in (
        0.65,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
        0.95,
    )
    chosen = found.hyperparameters["chosen"]
    assert (chosen["search_tried"], chosen["search_skipped"]) == (7, 0)
    assert 0 <= chosen["search_auroc"] <= 1
    assert "chosen" not in plain.hyperparameters
    assert set(found.fingerprints) - set(plain.fingerprints) == {"validation"}
    known = load_set(ID["validation"], data_dir=Path(), preprocessing=suite().preprocessing)
    unknown = load_set(
        VALIDATION["validation_ood"],
        data_dir=Path(),
        preprocessing=suite().preprocessing,
        ood=True,
    )
    assert found.fingerprints["validation"] == f"{known.fingerprint}+{unknown.fingerprint}"
    assert found.counts["validation"] == len(known) + len(unknown)


def test_another_validation_set_is_another_cell(tmp_path):
    options = {"adapters": ["none"], "detectors": ["ash-s@search"], "id": ID}
    first = run(tmp_path, **options, **VALIDATION)
    again = run(tmp_path, **options, validation_ood="gaussian-noise/61-grey")
    assert {r.key for r in first}.isdisjoint(r.key for r in again)
    plain = {**options, "detectors": ["ash-s"]}
    before = run(tmp_path, **plain, **VALIDATION)
    after = run(tmp_path, **plain, validation_ood="gaussian-noise/61-grey")
    assert before == after


@pytest.mark.parametrize("declared", [{}, {"id": ID}, VALIDATION])
def test_a_search_without_declared_sets_is_refused_before_anything_runs(tmp_path, declared):
    with pytest.raises(UsageError, match=r"knn@k=search: hyperparameters are searched on"):
        run(tmp_path, detectors=["knn@k=search"], **declared)


def test_a_validation_set_that_is_away_makes_these_cells_missing_alone(tmp_path):
    records = run(
        tmp_path,
        adapters=["none"],
        detectors=["msp", "knn@k=search"],
        id=ID,
        validation_ood="folder/nowhere",
    )
    states = {(r.detector, r.state) for r in records}
    assert states == {("msp", "done"), ("knn", "missing-data")}


# Names


def test_a_detector_is_named_as_it_is_shown_however_it_is_given():
    given = suite(detectors=["ash-s@percentile=0.65", "ash-s@0.9", "energy@t=10", "ash-s"])
    shown, bindings = bind_detectors(given)
    assert shown.detectors == ("ash-s@0.65", "ash-s@0.9", "energy@T=10", "ash-s")
    assert list(bindings) == list(shown.detectors)


def test_two_names_for_one_setting_are_refused():
    with pytest.raises(UsageError, match=r"detectors names ash-s@0\.65 twice"):
        bind_detectors(suite(detectors=["ash-s@percentile=0.65", "ash-s@0.65"]))


# The full spectrum


def test_full_spectrum_cells_count_shifted_images_as_id(tmp_path):
    shifted = {**TABLE["id"], "shifted": {"dim": "digits/shifted"}}
    records = run(tmp_path, adapters=["none"], detectors=["energy"], id=shifted)
    by_set = {r.ood_set: r for r in records}
    assert set(by_set) == {"held-out", "noise", "held-out-fs", "noise-fs"}
    for name in ("held-out", "noise"):
        plain, full = by_set[name], by_set[f"{name}-fs"]
        scores, wider = load(tmp_path, plain), load(tmp_path, full)
        assert np.array_equal(wider["id"][: len(scores["id"])], scores["id"])
        assert len(wider["id"]) == 2 * len(scores["id"])
        assert np.array_equal(wider["ood"], scores["ood"])
        assert full.metrics["auroc"] == ood_metrics(wider["id"], wider["ood"])["auroc"]
        assert full.metrics["id_accuracy"] == plain.metrics["id_accuracy"]
        assert (plain.group + "-fs", full.counts["shifted"]) == (full.group, 577)
        assert "shifted" not in plain.fingerprints


def test_an_image_in_two_groups_is_scored_once(tmp_path, monkeypatch):
    shifted = {**TABLE["id"], "shifted": {"dim": "digits/shifted"}}
    passes = count_calls(monkeypatch, scoring, "collect")
    scored = count_calls(monkeypatch, scoring.Scorer, "score")
    run(tmp_path, adapters=["none"], detectors=["energy"], id=shifted)
    assert len(passes) == len(scored) == 4  # ID, shifted, two OOD sets


def test_a_shifted_set_that_is_away_makes_full_spectrum_cells_missing_alone(tmp_path):
    shifted = {**TABLE["id"], "shifted": {"away": "folder/nowhere"}}
    records = run(tmp_path, adapters=["none"], detectors=["energy"], id=shifted)
    states = {r.ood_set: r.state for r in records}
    assert states == {
        "held-out": "done",
        "noise": "done",
        "held-out-fs": "missing-data",
        "noise-fs": "missing-data",
    }


def test_preprocessing_is_what_the_tests_think():
    assert suite().preprocessing == Preprocessing(size=8, resize="none")
    assert environment.TINY >= 8
