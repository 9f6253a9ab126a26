"""The detector table: each equals pytorch-ood's own way, from outputs that were collected once."""

import copy
import math
from importlib.metadata import EntryPoint

import pytest
import torch
from pytorch_ood import detector as pod
from pytorch_ood.api import FeaturesDetector, GradientDetector, LogitsDetector
from torch import Tensor, nn

from um_bench import registry
from um_bench.detectors import DetectorError, DetectorSpec, bind, fit, prepare
from um_bench.errors import PluginError, UmBenchError, UnsupportedError, UsageError
from um_bench.outputs import Outputs, collect
from um_bench.suite import Choice, parse_choice

CLASSES, FEATURES = 5, 24


class Net(nn.Module):
    """A classifier of the shape that detectors see, which counts the images it is given."""

    num_classes = CLASSES
    feature_dim = FEATURES

    def __init__(self, bias: bool = True):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, FEATURES, 3, stride=2), nn.BatchNorm2d(FEATURES), nn.ReLU(), nn.Dropout()
        )
        self.fc = nn.Linear(FEATURES, CLASSES, bias=bias)
        self.seen = 0

    def features(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.body(images).mean(dim=(2, 3))

    def head(self, features: Tensor) -> Tensor:
        return self.head_layer(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    @property
    def head_layer(self) -> nn.Linear:
        return self.fc


Batches = list[tuple[Tensor, Tensor]]


def batches(count: int, seed: int, *, ood: bool = False) -> Batches:
    """Return noisy images, coloured by their class; OOD ones in colours of no class."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(
        CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(99 if ood else 9)
    )
    labels = torch.arange(count) % CLASSES
    images = (colours[labels] + 0.3 * torch.randn(count, 3, 10, 10, generator=generator)).clamp(
        0, 1
    )
    labels = torch.full_like(labels, -1) if ood else labels
    return list(zip(images.split(32), labels.split(32), strict=True))


def trained(**options: bool) -> Net:
    torch.manual_seed(0)
    net = Net(**options)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for images, labels in batches(200, 1) * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


TRAIN, TEST, OOD = batches(200, 1), batches(70, 2), batches(90, 3, ood=True)
MODEL = trained()


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


def weight_and_bias(model: Net) -> tuple[Tensor, Tensor]:
    return model.fc.weight, model.fc.bias


def maps(model: Net):
    return lambda images: model.features(images)[:, :, None, None]


def flat_head(model: Net):
    return lambda z: model.fc(z.flatten(1))


OWN = {
    "msp": lambda m: pod.MaxSoftmax(m),
    "maxlogit": lambda m: pod.MaxLogit(m),
    "energy": lambda m: pod.EnergyBased(m),
    "entropy": lambda m: pod.Entropy(m),
    "gen": lambda m: pod.GEN(m, gamma=0.1),
    "klmatching": lambda m: pod.KLMatching(m),
    "odin": lambda m: pod.ODIN(m, eps=0.0014, temperature=1000),
    "mahalanobis": lambda m: pod.Mahalanobis(m.features),
    "rmd": lambda m: pod.RMD(m.features),
    "knn": lambda m: pod.KNN(m.features, k=50),
    "vim": lambda m: pod.ViM(m.features, FEATURES // 2, *weight_and_bias(m)),
    "react": lambda m: pod.ReAct(maps(m), flat_head(m), percentile=0.9),
    "ash-s": lambda m: pod.ASH(maps(m), flat_head(m), variant="ash-s", percentile=0.9),
    "ash-p": lambda m: pod.ASH(maps(m), flat_head(m), variant="ash-p", percentile=0.9),
    "ash-b": lambda m: pod.ASH(maps(m), flat_head(m), variant="ash-b", percentile=0.9),
    "dice": lambda m: pod.DICE(m.features, *weight_and_bias(m), p=0.9),
    "she": lambda m: pod.SHE(m.features, m.fc),
}
"""Name -> pytorch-ood's class as its own users build it, with callables of the model."""

FITTED = {"klmatching", "mahalanobis", "rmd", "knn", "vim", "react", "dice", "she"}


def own_scores(name: str, model: Net, loader: Batches) -> Tensor:
    detector = OWN[name](model)
    detector.fit(TRAIN)
    return torch.cat([detector.predict(images).detach() for images, _ in loader]).float()


def test_every_registered_detector_is_tested():
    ours = {n for n, p in registry.plugins("detector").items() if p.distribution == "um-bench"}
    assert ours == set(OWN)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("loader", [TEST, OOD], ids=["ID", "OOD"])
def test_scores_equal_pytorch_oods_own(name, loader, model, train):
    scores = fit(prepare(name), model, train).score(collect(model, loader), loader)
    expected = own_scores(name, model, loader)
    assert scores.dtype == torch.float32
    assert scores.std() > 0
    # Not to the bit: pytorch-ood multiplies batches of 32 rows where we multiply one block, and
    # sums in another order. ODIN sees the same batches of images in both ways.
    tolerance = 0 if name == "odin" else 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(scores, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", OWN)
def test_scores_are_the_same_each_time(name, model, train, test):
    first = fit(prepare(name), model, train).score(test, TEST)
    torch.manual_seed(1)
    again = fit(prepare(name), model, train)
    assert torch.equal(again.score(test, TEST), first)
    assert torch.equal(again.score(test, TEST), first)


@pytest.mark.parametrize("name", OWN)
def test_model_outputs_and_random_state_are_left_alone(name, model, train, test):
    states = [
        lambda: [*model.state_dict().values()],
        lambda: [*vars(train).values(), *vars(test).values(), torch.get_rng_state()],
    ]
    before = [copy.deepcopy(state()) for state in states]
    fit(prepare(name), model, train).score(test, TEST)
    for old, state in zip(before, states, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, state(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(part.training for part in model.modules())


def test_each_image_is_forwarded_once_for_all_detectors_without_gradients(model):
    sets = [TRAIN, TEST, OOD]
    outputs = [collect(model, loader) for loader in sets]
    for name in set(OWN) - {"odin"}:
        scorer = fit(prepare(name), model, outputs[0])
        for loader, out in zip(sets, outputs, strict=True):
            scorer.score(out, loader)
    assert model.seen == 200 + 70 + 90


def test_odin_forwards_each_image_twice(model, test):
    fit(prepare("odin"), model).score(test, TEST)
    assert model.seen == 2 * 70


def test_blocks_do_not_change_scores(model, train, test, monkeypatch):
    whole = {name: fit(prepare(name), model, train).score(test, TEST) for name in OWN}
    monkeypatch.setattr("um_bench.detectors._ROWS", 7)
    for name, scores in whole.items():
        blocks = fit(prepare(name), model, train).score(test, TEST)
        torch.testing.assert_close(blocks, scores, rtol=1e-5, atol=1e-5, msg=name)


def test_dice_gets_fewer_rows_where_its_tensor_would_be_large(model, train, test, monkeypatch):
    sizes = []
    predict = pod.DICE.predict_features
    monkeypatch.setattr("um_bench.detectors._SCRATCH", 30 * CLASSES * FEATURES)
    monkeypatch.setattr(
        pod.DICE, "predict_features", lambda self, z: sizes.append(len(z)) or predict(self, z)
    )
    fit(prepare("dice"), model, train).score(test, TEST)
    assert sizes == [30, 30, 10]


@pytest.mark.parametrize("name", ["vim", "dice"])
def test_a_head_without_bias_has_zeros(name):
    model = trained(bias=False)
    outputs = collect(model, TRAIN)
    scores = fit(prepare(name), model, outputs).score(outputs, TRAIN)
    with torch.no_grad():
        model.fc.bias = nn.Parameter(torch.zeros(CLASSES))
    assert torch.equal(scores, fit(prepare(name), model, outputs).score(outputs, TRAIN))


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
        ("msp@x=1", "msp@x=1: no setting named 'x'. Known: t."),
        ("maxlogit@t=1", "maxlogit@t=1: no setting named 't'. Known: none."),
        ("knn@k=0", "knn@k=0: k must be a whole number of at least 1, got 0"),
        ("knn@k=2.5", "knn@k=2.5: k must be a whole number of at least 1, got 2.5"),
        ("knn@k=true", "knn@k=true: k must be a whole number of at least 1, got True"),
        ("knn@k=many", "knn@k=many: k must be a whole number of at least 1, got 'many'"),
        ("knn@normalize=1", "knn@normalize=1: normalize must be bool, as its default True, got 1"),
        ("energy@t=0", "energy@t=0: t must be a number above 0, got 0"),
        ("energy@t=nan", "energy@t=nan: t must be a number above 0, got nan"),
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


@pytest.mark.parametrize("name", sorted(FITTED))
def test_a_fit_set_is_needed_where_a_detector_is_fitted(name, model):
    with pytest.raises(UsageError, match=f"{name} is fitted on the (train|validation) set"):
        fit(prepare(name), model)


@pytest.mark.parametrize("name", sorted(FITTED))
def test_ood_images_to_fit_on_are_refused(name, model, train):
    labels = train.labels.clone()
    labels[:3] = -1
    with pytest.raises(DetectorError, match=f"{name}: 3 of 200 images to fit on are OOD"):
        fit(prepare(name), model, Outputs(train.logits, train.features, labels))


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

    before = copy.deepcopy([*vars(train).values(), *vars(test).values()])
    binding = third_party(InPlace(), reads="features", fits_on="train")
    fit(binding, model, train).score(test, TEST)
    after = [*vars(train).values(), *vars(test).values()]
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
