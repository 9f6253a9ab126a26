"""Fitting and scoring: settings, what cannot work, and detectors of third parties that break."""

import copy
import math
from importlib.metadata import EntryPoint

import pytest
import torch
from pytorch_ood import detector as pod
from pytorch_ood.api import FeaturesDetector, GradientDetector, LogitsDetector
from small_net import CLASSES, FEATURES, MODEL, TEST, TRAIN, Net
from torch import Tensor, nn

from um_bench import registry
from um_bench.detectors import DetectorError, DetectorSpec, bind, fit, prepare
from um_bench.errors import PluginError, UmBenchError, UnsupportedError, UsageError
from um_bench.outputs import Outputs, collect
from um_bench.suite import Choice, parse_choice


@pytest.fixture
def model() -> Net:
    """Return a classifier of the test's own."""
    model = copy.deepcopy(MODEL)
    model.seen = 0
    return model


@pytest.fixture(scope="module")
def train() -> Outputs:
    return collect(MODEL, TRAIN)


@pytest.fixture(scope="module")
def test() -> Outputs:
    return collect(MODEL, TEST)


FITTED = ("klmatching", "mahalanobis", "knn", "react", "mahalanobis-odin", "gram", "nac")


# Settings


def test_settings_that_are_given_count(model, train, test):
    scorer = fit(prepare("knn@k=20"), model, train)
    own = pod.KNN(model.features, k=20).fit(TRAIN)
    assert scorer.label == "knn@k=20"
    assert scorer.settings == {"k": 20, "normalize": True}
    expected = torch.cat([own.predict(images) for images, _ in TEST]).float()
    torch.testing.assert_close(scorer.score(test, TEST), expected)


def test_complete_settings_are_known_before_and_after_fitting(model, train):
    binding = prepare(Choice("vim", {}))
    assert (binding.label, binding.settings) == ("vim", {"d": None})
    assert fit(binding, model, train).settings == {"d": FEATURES // 2}
    assert fit(prepare("vim@d=3"), model, train).settings == {"d": 3}
    assert prepare("odin").settings == {"temperature": 1000.0, "eps": 0.0014}
    percentile = prepare("react@percentile=0").settings["percentile"]
    assert type(percentile) is float  # 0 and 0.0 are one setting: their records must be equal


@pytest.mark.parametrize(("features", "d"), [(342, 171), (512, 256), (768, 512), (2048, 1000)])
def test_vims_dimension_follows_the_papers_code(features, d, model):
    model.feature_dim = features
    assert prepare("vim").spec.derived["d"](model) == d


@pytest.mark.parametrize(("classes", "largest"), [(5, None), (100, None), (1000, 100)])
def test_gen_reads_at_most_100_classes(classes, largest, model):
    model.num_classes = classes
    assert fit(prepare("gen"), model).settings == {"gamma": 0.1, "M": largest}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("knn@kk=3", "knn@kk=3: no setting named 'kk'. Did you mean k? Known: k, normalize."),
        ("msp@x=1", "msp@x=1: no setting named 'x'. Known: T."),
        ("maxlogit@t=1", "maxlogit@t=1: no setting named 't'. Known: none."),
        ("knn@k=0", "knn@k=0: k must be a whole number of at least 1, got 0"),
        ("knn@k=2.5", "knn@k=2.5: k must be a whole number of at least 1, got 2.5"),
        ("knn@k=true", "knn@k=true: k must be a whole number of at least 1, got True"),
        ("knn@k=many", "knn@k=many: k must be a whole number of at least 1, got 'many'"),
        ("knn@normalize=1", "knn@normalize=1: normalize must be bool, as its default True, got 1"),
        ("energy@t=0", "energy@t=0: T must be a number above 0, got 0"),
        ("energy@t=nan", "energy@t=nan: T must be a number above 0, got nan"),
        ("odin@eps=-1", "odin@eps=-1: eps must be a number of at least 0, got -1"),
        (
            "ash-s@percentile=90",
            "ash-s@percentile=90: percentile must be a fraction of at least 0 and below 1 "
            "(0.9 for 90 %), got 90",
        ),
    ],
)
def test_a_wrong_setting_is_a_usage_error_in_one_line(text, message):
    with pytest.raises(UsageError) as caught:
        prepare(text)
    assert str(caught.value) == message


def test_an_unknown_detector_is_a_usage_error_with_near_names():
    with pytest.raises(UsageError, match=r"no detector named 'knnn'\. Did you mean knn"):
        prepare("knnn")


# What cannot work


def test_knn_with_more_neighbours_than_images_is_unsupported(model, train):
    with pytest.raises(
        UnsupportedError, match=r"knn@k=201 .* 200 images: .*k=201 exceeds"
    ) as caught:
        fit(prepare("knn@k=201"), model, train)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("d", [FEATURES, 1000])
def test_vim_without_a_residual_is_unsupported(d, model, train):
    with pytest.raises(UnsupportedError, match=rf"vim@d={d} .* below the number of features, 24"):
        fit(prepare(f"vim@d={d}"), model, train)


@pytest.mark.parametrize("name", ["vim", "dice"])
def test_a_head_that_is_not_linear_is_unsupported(name, model, train, monkeypatch):
    monkeypatch.setattr(Net, "head_layer", None)
    with pytest.raises(UnsupportedError, match=f"{name} .* linear head; .* NoneType"):
        fit(prepare(name), model, train)


@pytest.mark.parametrize("name", ["mahalanobis", "rmd", "she"])
def test_a_fit_set_without_some_class_is_unsupported(name, model, train):
    some = train.labels != 2
    part = Outputs(train.logits[some], train.features[some], train.labels[some])
    with pytest.raises(UnsupportedError, match=f"{name} .* all 5 classes; .* none of class 2"):
        fit(prepare(name), model, part)


def test_she_without_a_correct_prediction_for_a_class_says_so(model, train):
    labels = torch.where(train.logits.argmax(dim=1) == 3, 4, train.labels)
    labels[(train.logits.argmax(dim=1) != 3).nonzero()[0]] = 3
    with pytest.raises(UnsupportedError, match=r"she .* No correct predictions for class 3"):
        fit(prepare("she"), model, Outputs(train.logits, train.features, labels))


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_set_is_needed_where_a_detector_is_fitted(name, model):
    with pytest.raises(UsageError, match=f"{name} is fitted on the (train|validation) set"):
        fit(prepare(name), model)


@pytest.mark.parametrize("name", FITTED)
def test_ood_images_to_fit_on_are_refused(name, model, train):
    labels = train.labels.clone()
    labels[:3] = -1
    with pytest.raises(DetectorError, match=f"{name}: 3 of 200 images to fit on are OOD"):
        fit(prepare(name), model, Outputs(train.logits, train.features, labels), TRAIN)


@pytest.mark.parametrize("name", ["energy", "odin", "knn"])
def test_a_model_in_training_mode_is_refused(name, model, train, test):
    scorer = fit(prepare(name), model, train)
    model.train()
    with pytest.raises(UmBenchError, match="in training mode"):
        scorer.score(test, TEST)
    with pytest.raises(UmBenchError, match="in training mode"):
        fit(prepare(name), model, train)


# Detectors of third parties, some of them broken


class Plain(LogitsDetector):
    """A third party's detector that reads logits."""

    def predict_logits(self, logits: Tensor) -> Tensor:
        return -logits.amax(dim=1)


def third_party(detector: object, **fields: object):
    spec = DetectorSpec(**{"reads": "logits", "build": lambda model, settings: detector, **fields})
    return bind(parse_choice("theirs"), spec)


def test_a_third_partys_detector_works(model, test):
    scores = fit(third_party(Plain()), model).score(test, TEST)
    assert torch.equal(scores, -test.logits.amax(dim=1))


def test_one_that_reads_images_and_is_fitted_works(model, train, test):
    spec = DetectorSpec(
        reads="images",
        build=lambda model, settings: pod.MahalanobisODIN(model.features, **settings),
        defaults={"eps": 0.002},
        fits_on="train",
    )
    binding = bind(parse_choice("theirs@eps=0.01"), spec)
    own = pod.MahalanobisODIN(copy.deepcopy(model).features, eps=0.01).fit(TRAIN)
    scores = fit(binding, model, train, TRAIN).score(test, TEST)
    expected = torch.cat([own.predict(images) for images, _ in TEST])
    torch.testing.assert_close(scores, expected)
    assert all(p.grad is None for p in model.parameters())  # its backward pass leaves some
    with pytest.raises(UsageError, match="fitted on the train set, which was not given"):
        fit(binding, model, train)


def test_one_that_draws_dropout_gives_the_same_scores_each_time(model, test):
    binding = third_party(pod.MCD(model, samples=3), reads="images")
    state = torch.get_rng_state()
    first = fit(binding, model).score(test, TEST)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(fit(binding, model).score(test, TEST), first)
    assert first.std() > 0
    assert not model.training


def test_one_that_needs_gradients_has_them_and_leaves_none(model, test):
    class InputGradient(GradientDetector):
        def predict(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            model(x).amax(dim=1).sum().backward()
            return x.grad.abs().sum(dim=(1, 2, 3))

    with torch.no_grad():
        scores = fit(third_party(InputGradient(), reads="images"), model).score(test, TEST)
    assert scores.std() > 0
    assert all(p.grad is None for p in model.parameters())


def test_one_that_reads_logits_keeps_no_graph(model, test):
    class Graph(Plain):
        def predict_logits(self, logits: Tensor) -> Tensor:
            assert not (logits.sum() * model.fc.bias).requires_grad
            return logits[:, 0]

    with torch.enable_grad():
        assert len(fit(third_party(Graph()), model).score(test, TEST)) == 70


def test_one_that_forgets_training_mode_and_frozen_weights_is_put_right(model, test):
    class Careless(GradientDetector):
        def predict(self, x: Tensor) -> Tensor:
            model.body[3].train()
            model.requires_grad_(False)
            return x.sum(dim=(1, 2, 3))

    fit(third_party(Careless(), reads="images"), model).score(test, TEST)
    assert not any(part.training for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_one_that_changes_batchnorm_statistics_is_named_and_undone(model, test):
    before = copy.deepcopy(model.state_dict())
    binding = third_party(pod.MCD(model, samples=2, batch_norm=False), reads="images")
    with pytest.raises(
        DetectorError, match=r"changed the .* weights or BatchNorm .* were restored"
    ):
        fit(binding, model).score(test, TEST)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_one_that_changes_weights_and_fails_is_undone(model):
    before = model.fc.weight.clone()

    def build(model: Net, settings: object) -> object:
        with torch.no_grad():
            model.fc.weight.data.mul_(2)
        raise RuntimeError("out of luck")

    with pytest.raises(DetectorError, match="theirs cannot be built: RuntimeError: out of luck"):
        fit(bind(Choice("theirs", {}), DetectorSpec(reads="logits", build=build)), model)
    assert torch.equal(model.fc.weight, before)


def test_one_that_adds_a_weight_is_named_as_beyond_repair(model):
    def build(model: Net, settings: object) -> object:
        model.fc = nn.Linear(FEATURES, CLASSES + 1)
        return Plain()

    with pytest.raises(DetectorError, match=r"theirs changed .* cannot be restored"):
        fit(bind(Choice("theirs", {}), DetectorSpec(reads="logits", build=build)), model)


def test_one_that_works_in_place_does_not_change_outputs(model, train, test):
    class InPlace(FeaturesDetector):
        requires_fit = True

        def fit_features(self, x: Tensor, y: Tensor) -> "InPlace":
            x.zero_()
            y.zero_()
            return self

        def predict_features(self, x: Tensor) -> Tensor:
            return x.clamp_(max=0.1).sum(dim=1)

        def predict(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    before = [part.clone() for part in (train.features, train.labels, test.features)]
    binding = third_party(InPlace(), reads="features", fits_on="train")
    fit(binding, model, train).score(test, TEST)
    after = [train.features, train.labels, test.features]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_named_with_a_count(value, model, test):
    class Broken(Plain):
        def predict_logits(self, logits: Tensor) -> Tensor:
            scores = logits[:, 0].clone()
            scores[:3] = value
            return scores

    with pytest.raises(DetectorError, match="theirs: 3 of 70 scores are not finite"):
        fit(third_party(Broken()), model).score(test, TEST)


def test_ash_on_an_image_without_activation_is_named_with_a_count(model, test):
    features = test.features.clone()
    features[:2] = 0
    outputs = Outputs(test.logits, features, test.labels)
    with pytest.raises(DetectorError, match="ash-s: 2 of 70 scores are not finite"):
        fit(prepare("ash-s"), model).score(outputs, TEST)


@pytest.mark.parametrize(
    ("score", "shape"),
    [
        (lambda logits: logits, r"\(70, 5\)"),
        (lambda logits: logits[:, :1], r"\(70, 1\)"),
        (lambda logits: logits[1:, 0], r"\(69,\)"),
    ],
)
def test_another_number_of_scores_than_images_is_named(score, shape, model, test):
    class Broken(Plain):
        predict_logits = staticmethod(score)

    broken = Broken()
    broken.predict_logits = score
    with pytest.raises(DetectorError, match=f"theirs gave scores of shape {shape} for 70 images"):
        fit(third_party(broken), model).score(test, TEST)


@pytest.mark.parametrize("name", ["energy", "odin"])
def test_a_failure_leaves_gradients_as_they_were(name, model, test, monkeypatch):
    scorer = fit(prepare(name), model)
    for method in ("predict", "predict_logits"):
        monkeypatch.setattr(scorer.fitted, method, lambda x: None, raising=False)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            with pytest.raises(DetectorError, match=f"{name} broke while scoring"):
                scorer.score(test, TEST)
            assert torch.is_grad_enabled() is enabled


def test_a_loader_of_another_length_is_named(model, test):
    with pytest.raises(DetectorError, match=r"shape \(64,\) for 70 images"):
        fit(prepare("odin"), model).score(test, TEST[:2])


def test_a_failure_while_scoring_is_one_line_with_its_cause(model, test):
    class Broken(Plain):
        def predict_logits(self, logits: Tensor) -> Tensor:
            raise RuntimeError("what went wrong\nand a page of details")

    with pytest.raises(DetectorError) as caught:
        fit(third_party(Broken()), model).score(test, TEST)
    assert str(caught.value) == "theirs broke while scoring: RuntimeError: what went wrong"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_bare_assertion_while_fitting_is_told_by_its_source_line(model, train):
    some = train.labels != 2
    part = Outputs(train.logits[some], train.features[some], train.labels[some])
    with pytest.raises(DetectorError) as caught:
        fit(third_party(pod.Mahalanobis(None), reads="features", fits_on="train"), model, part)
    assert str(caught.value) == (
        "theirs cannot be fitted on 160 images: AssertionError: "
        "assert len(classes) == classes.max().item() + 1"
    )
    assert isinstance(caught.value.__cause__, AssertionError)


@pytest.mark.parametrize("given", [object(), nn.Identity(), pod.KNN(None)])
def test_what_is_no_detector_of_its_kind_is_a_plugin_error(given, model):
    message = f"theirs: build returned a {type(given).__name__}; .* predict_logits"
    with pytest.raises(PluginError, match=message):
        fit(third_party(given), model)


def test_a_spec_that_forgets_to_fit_is_a_plugin_error(model):
    with pytest.raises(PluginError, match="theirs: KNN has to be fitted"):
        fit(third_party(pod.KNN(None), reads="features"), model)


def test_a_registered_object_that_is_no_spec_is_a_plugin_error(monkeypatch):
    entry = EntryPoint("theirs", "json:dumps", "um_bench.detectors")
    plugin = registry.Plugin("theirs", "json:dumps", "their-package", "1.0", entry)
    monkeypatch.setattr(registry, "plugins", lambda kind: {"theirs": plugin})
    with pytest.raises(PluginError) as caught:
        prepare("theirs")
    assert str(caught.value) == (
        "detector 'theirs' is a function, not a DetectorSpec: json:dumps of their-package 1.0"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reads": "pixels"}, "what a detector reads named 'pixels'"),
        ({"fits_on": "test"}, "set that a detector is fitted on named 'test'"),
        ({"defaults": {"k": 1}, "values": {"k": "counts"}}, "kind of value named 'counts'"),
        ({"values": {"k": "count"}}, "hyperparameter among the defaults named 'k'"),
        ({"derived": {"k": lambda model: 1}}, "hyperparameter among the defaults named 'k'"),
    ],
)
def test_a_spec_that_contradicts_itself_cannot_be_made(fields, message):
    with pytest.raises(UsageError, match=message):
        DetectorSpec(**{"reads": "logits", "build": lambda model, settings: Plain(), **fields})


def test_constant_scores_are_what_the_detector_says(model, test):
    class Constant(GradientDetector):
        def predict(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), dtype=torch.float64)

    scores = fit(third_party(Constant(), reads="images"), model).score(test, TEST)
    assert torch.equal(scores, torch.zeros(70))
