"""The hyperparameter search: the same choice as pytorch-ood's GridSearch, on declared images."""

import copy

import pytest
import torch
from pytorch_ood import detector as pod
from pytorch_ood.utils import GridSearch
from small_net import FEATURES, MODEL, OOD, TEST, TRAIN, Net, batches
from torch import Tensor

from um_bench.detectors import bind, fit, prepare, search
from um_bench.detectors.search import Scored
from um_bench.detectors.spec import DetectorSpec
from um_bench.errors import UnsupportedError, UsageError
from um_bench.outputs import Outputs, collect
from um_bench.suite import Choice

KNOWN = batches(60, 4)
UNKNOWN = batches(50, 5, ood=True)


@pytest.fixture
def model() -> Net:
    return copy.deepcopy(MODEL)


@pytest.fixture(scope="module")
def train() -> Outputs:
    return collect(MODEL, TRAIN)


def found(label: str, model: Net, train: Outputs, **other: object):
    binding = other.get("binding") or prepare(label)
    return search(
        binding,
        model,
        fit_outputs=train,
        fit_loader=TRAIN,
        known=Scored(collect(model, KNOWN), KNOWN),
        unknown=Scored(collect(model, UNKNOWN), UNKNOWN),
    )


def maps(model: Net):
    return lambda images: model.features(images)[:, :, None, None]


@pytest.mark.parametrize(
    ("label", "own", "space"),
    [
        ("knn@k=search", lambda m: pod.KNN(m.features), {"k": [50, 100, 200, 500, 1000]}),
        ("nci@alpha=search", lambda m: pod.NCI(m.features, m.fc), None),
        (
            "ash-s@percentile=search",
            lambda m: pod.ASH(maps(m), lambda z: m.fc(z.flatten(1)), variant="ash-s"),
            None,
        ),
        ("dice@p=search", lambda m: pod.DICE(m.features, m.fc.weight, m.fc.bias, p=0.9), None),
        ("gen@gamma=search", lambda m: pod.GEN(m), {"gamma": [0.01, 0.1, 0.5, 1, 2, 5, 10]}),
        ("odin@eps=search:temperature=search", lambda m: pod.ODIN(m), None),
    ],
)
def test_the_choice_is_that_of_pytorch_oods_grid_search(label, own, space, model, train):
    choice = found(label, model, train)
    fit_loader = [(images, labels) for images, labels in TRAIN]
    if space and "k" in space:  # it would fail on a k above the 200 images; ours leaves it out
        space = {"k": [k for k in space["k"] if k <= 200]}
    expected = GridSearch(own(copy.deepcopy(model)), fit_loader, KNOWN + UNKNOWN, space)
    best = expected.run()
    assert {name: choice.scorer.settings[name] for name in best} == best
    assert choice.notes["search_auroc"] == pytest.approx(expected.best_score_, abs=1e-6)
    assert choice.notes["search_tried"] - choice.notes["search_skipped"] == len(expected.results_)


def test_what_is_found_scores_like_the_detector_with_these_settings(model, train):
    choice = found("knn@k=search", model, train)
    k = choice.scorer.settings["k"]
    assert choice.scorer.label == "knn@k=search"
    test = collect(model, TEST)
    same = fit(prepare(f"knn@k={k}"), model, train).score(test, TEST)
    assert torch.equal(choice.scorer.score(test, TEST), same)


def test_values_that_a_classifier_cannot_do_are_counted_and_left_out(model, train):
    choice = found("vim@d=search", model, train)
    assert choice.scorer.settings["d"] == 16  # of 16 ... 512; the others exceed 24 features
    assert choice.notes["search_tried"] == 6
    assert choice.notes["search_skipped"] == 5
    model.fc = torch.nn.Linear(FEATURES, 5).eval()
    model.feature_dim = 8
    with pytest.raises(UnsupportedError, match=r"vim@d=search: no value can be used: .* d must"):
        found("vim@d=search", model, train)


def test_of_equally_good_values_the_first_is_taken(model, train):
    class Deaf(pod.MaxLogit):
        hyperparameter_space = {"volume": [3, 1, 2]}  # noqa: RUF012 - pytorch-ood's form

    spec = DetectorSpec(
        kind=Deaf, reads="logits", build=lambda m, s: Deaf(None), defaults={"volume": 9}
    )
    binding = bind(Choice("deaf", {"volume": "search"}), spec)
    assert found("", model, train, binding=binding).scorer.settings == {"volume": 3}


def test_every_value_sees_validation_images_alone(model, train, monkeypatch):
    seen: list[Tensor] = []
    predict = pod.KNN.predict_features
    monkeypatch.setattr(
        pod.KNN, "predict_features", lambda self, z: seen.append(z) or predict(self, z)
    )
    found("knn@k=search", model, train)
    declared = torch.cat([collect(model, loader).features for loader in (KNOWN, UNKNOWN)])
    assert torch.equal(torch.cat(seen[:2]), declared)
    assert len(seen) == 2 * 3


def test_sets_of_the_wrong_kind_are_refused(model, train):
    known = Scored(collect(model, KNOWN), KNOWN)
    for pair in ({"known": known, "unknown": known}, dict.fromkeys(("known", "unknown"), OOD)):
        if pair["known"] is OOD:
            pair = dict.fromkeys(pair, Scored(collect(model, OOD), OOD))
        with pytest.raises(UsageError, match="validation needs ID images and, apart, OOD images"):
            search(prepare("knn@k=search"), model, fit_outputs=train, fit_loader=None, **pair)


def test_a_value_to_be_searched_cannot_be_fitted(model, train):
    with pytest.raises(UsageError, match="choose its settings with"):
        fit(prepare("knn@k=search"), model, train)


def test_what_has_no_values_to_search_is_said(model):
    with pytest.raises(UsageError) as caught:
        prepare("knn@normalize=search")
    assert str(caught.value) == (
        "knn@normalize=search: there are no values of normalize to search; those that have some: k"
    )
    with pytest.raises(UsageError, match="those that have some: none"):
        prepare("energy@T=search")
