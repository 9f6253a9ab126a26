"""The table: each detector equals pytorch-ood's own way, from outputs that were collected once."""

import copy
import inspect

import pytest
import torch
from pytorch_ood import detector as pod
from pytorch_ood.api import Detector
from small_net import CLASSES, FEATURES, MODEL, OOD, TEST, TRAIN, Batches, Net, trained
from torch import Tensor, nn

from um_bench import registry
from um_bench.detectors import DetectorSpec, fit, prepare
from um_bench.detectors.catalogue import catalogue
from um_bench.errors import UnsupportedError
from um_bench.outputs import Outputs, collect


def maps(model: Net):
    return lambda images: model.features(images)[:, :, None, None]


def flat_head(model: Net):
    return lambda z: model.fc(z.flatten(1))


def last_map(model: Net):
    return lambda images: model.inner(images).final


OWN = {
    "msp": lambda m: pod.MaxSoftmax(m),
    "maxlogit": lambda m: pod.MaxLogit(m),
    "energy": lambda m: pod.EnergyBased(m),
    "entropy": lambda m: pod.Entropy(m),
    "gen": lambda m: pod.GEN(m, gamma=0.1),
    "temperature-scaling": lambda m: pod.TemperatureScaling(m),
    "klmatching": lambda m: pod.KLMatching(m),
    "openmax": lambda m: pod.OpenMax(m),
    "mahalanobis": lambda m: pod.Mahalanobis(m.features),
    "rmd": lambda m: pod.RMD(m.features),
    "gmm": lambda m: pod.GMM(m.features),
    "knn": lambda m: pod.KNN(m.features, k=50),
    "nnguide": lambda m: pod.NNGuide(m.features, m.fc),
    "vim": lambda m: pod.ViM(m.features, FEATURES // 2, m.fc.weight, m.fc.bias),
    "fdbd": lambda m: pod.fDBD(m.features, m.fc),
    "nci": lambda m: pod.NCI(m.features, m.fc),
    "pnml": lambda m: pod.PNML(m.features, m.fc),
    "lts": lambda m: pod.LTS(m.features, m.fc),
    "dice": lambda m: pod.DICE(m.features, m.fc.weight, m.fc.bias, p=0.9),
    "she": lambda m: pod.SHE(m.features, m.fc),
    "gradnorm": lambda m: pod.GradNorm(m, param_filter=lambda name: name == "fc.weight"),
    "graduncertainty": lambda m: pod.GradUncertainty(m, lambda name: name.startswith("fc.")),
    "react": lambda m: pod.ReAct(maps(m), flat_head(m), percentile=0.9),
    "ash-s": lambda m: pod.ASH(maps(m), flat_head(m), variant="ash-s", percentile=0.9),
    "ash-p": lambda m: pod.ASH(maps(m), flat_head(m), variant="ash-p", percentile=0.9),
    "ash-b": lambda m: pod.ASH(maps(m), flat_head(m), variant="ash-b", percentile=0.9),
    "scale": lambda m: pod.SCALE(maps(m), flat_head(m)),
    "vra": lambda m: pod.VRA(maps(m), flat_head(m)),
    "multi-mahalanobis": lambda m: pod.MultiMahalanobis(list(m.stages)),
    "gram": lambda m: pod.Gram(m.head_of_map, list(m.stages), CLASSES),
    "rankfeat": lambda m: pod.RankFeat(last_map(m), m.head_of_map),
    "odin": lambda m: pod.ODIN(m, eps=0.0014, temperature=1000),
    "mahalanobis-odin": lambda m: pod.MahalanobisODIN(m.features, eps=0.002),
    "nac": lambda m: pod.NACUE(m, list(m.stages)),
    "mcd": lambda m: pod.MCD(m),
}
"""Name -> pytorch-ood's class as its own users build it, with callables of the model."""

UNSUPPORTED = {"mcm": "embeddings of the class names", "weighted-ebo": "training with VOS"}
OURS = {"feature-ensemble"}
"""Tested in files of their own: pytorch-ood has nothing to compare them with."""

READ_IMAGES = {"odin", "mahalanobis-odin", "nac", "mcd"}
FITTED = {name for name in OWN if prepare(name).spec.fits_on != "nothing"}


@pytest.fixture
def model() -> Net:
    """Return a classifier of the test's own."""
    model = copy.deepcopy(MODEL)
    model.seen = 0
    return model


def collected(model: Net, loader: Batches) -> Outputs:
    """Return the outputs that every detector of the table needs."""
    names = [name for name in OWN if prepare(name).spec.reads == "layers"]
    digests = {name: prepare(name).spec.digest(model, prepare(name).settings) for name in names}
    return collect(model, loader, digests)


@pytest.fixture(scope="module")
def train() -> Outputs:
    return collected(MODEL, TRAIN)


@pytest.fixture(scope="module")
def test() -> Outputs:
    return collected(MODEL, TEST)


def own_scores(name: str, model: Net, loader: Batches) -> Tensor:
    with torch.random.fork_rng():
        detector = OWN[name](model)
        torch.manual_seed(0)
        if not isinstance(detector, pod.NACUE):
            detector.to("cpu")
        detector.fit(TRAIN)
        torch.manual_seed(0)
        return torch.cat([detector.predict(images).detach() for images, _ in loader]).float()


def test_every_registered_detector_is_tested():
    ours = {n for n, p in registry.plugins("detector").items() if p.distribution == "um-bench"}
    assert ours == {*OWN, *UNSUPPORTED, *OURS}


def test_the_table_has_every_class_of_pytorch_ood():
    classes = {
        member
        for member in (getattr(pod, name) for name in pod.__all__)
        if inspect.isclass(member) and issubclass(member, Detector)
    }
    assert len(classes) >= 34
    assert classes <= {prepare(name).spec.kind for name in [*OWN, *UNSUPPORTED]}


@pytest.mark.parametrize("name", [*OWN, *UNSUPPORTED, *OURS])
def test_every_detector_names_its_paper_where_it_has_one(name):
    paper = prepare(name).spec.paper
    if name in ("entropy", "gmm"):  # pytorch-ood names none for these baselines
        assert paper is None or paper.url.startswith("http")
    else:
        assert paper.title
        assert 2000 < paper.year <= 2030
        assert paper.url.startswith("http")


@pytest.mark.parametrize(("name", "reason"), UNSUPPORTED.items())
def test_what_cannot_apply_says_why(name, reason, model, train):
    with pytest.raises(UnsupportedError, match=reason):
        fit(prepare(name), model, train, TRAIN)


BATCHED = {"openmax"}
"""In pytorch-ood, scores depend on the other images of the batch."""


@pytest.mark.parametrize("name", [name for name in OWN if name not in BATCHED])
@pytest.mark.parametrize("loader", [TEST, OOD], ids=["ID", "OOD"])
def test_scores_equal_pytorch_oods_own(name, loader, model, train):
    scores = fit(prepare(name), model, train, TRAIN).score(collected(model, loader), loader)
    expected = own_scores(name, model, loader)
    assert scores.dtype == torch.float32
    assert scores.std() > 0
    # Not to the bit: pytorch-ood multiplies batches of 32 rows where we multiply one block, and
    # sums in another order. Those that read images see the same batches in both ways.
    tolerance = 0 if name in ("odin", "nac") else 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(scores, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("loader", [TEST, OOD], ids=["ID", "OOD"])
def test_openmax_scores_as_in_a_batch_with_images_of_every_class(loader, model, train):
    outputs = collect(model, loader)
    scores = fit(prepare("openmax"), model, train).score(outputs, loader)
    own = pod.OpenMax(model).to("cpu").fit(TRAIN)
    assert set(train.logits.argmax(dim=1).tolist()) == set(range(CLASSES))
    expected = own.predict_logits(torch.cat([outputs.logits, train.logits]))[: len(outputs)]
    torch.testing.assert_close(scores, expected.float())
    alone = torch.cat([own.predict_logits(row[None]) for row in outputs.logits])
    assert not torch.allclose(alone, expected), "pytorch-ood mended this: use its class"


@pytest.mark.parametrize("name", OWN)
def test_scores_are_the_same_each_time(name, model, train, test):
    first = fit(prepare(name), model, train, TRAIN).score(test, TEST)
    torch.manual_seed(1)
    again = fit(prepare(name), model, train, TRAIN)
    assert torch.equal(again.score(test, TEST), first)
    assert torch.equal(again.score(test, TEST), first)


@pytest.mark.parametrize("name", OWN)
def test_model_outputs_and_random_state_are_left_alone(name, model, train, test):
    def tensors(outputs: Outputs) -> list[Tensor]:
        kept = [part for digest in outputs.digests.values() for part in digest]
        return [outputs.logits, outputs.features, outputs.labels, *kept]

    def state() -> list[Tensor]:
        return [
            *model.state_dict().values(),
            *tensors(train),
            *tensors(test),
            torch.get_rng_state(),
        ]

    before = copy.deepcopy(state())
    fit(prepare(name), model, train, TRAIN).score(test, TEST)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(part.training for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize("name", OWN)
def test_a_classifier_without_gradients_gives_the_same_scores(name, model, train, test):
    scores = fit(prepare(name), model, train, TRAIN).score(test, TEST)
    model.requires_grad_(False)
    frozen = fit(prepare(name), model, train, TRAIN).score(test, TEST)
    torch.testing.assert_close(frozen, scores)


def test_each_image_is_forwarded_once_for_all_detectors_without_gradients(model):
    sets = [TRAIN, TEST, OOD]
    outputs = [collected(model, loader) for loader in sets]
    for name in set(OWN) - READ_IMAGES:
        scorer = fit(prepare(name), model, outputs[0])
        for loader, out in zip(sets, outputs, strict=True):
            scorer.score(out, loader)
    assert model.seen == 200 + 70 + 90


def test_odin_forwards_each_image_twice(model, test):
    fit(prepare("odin"), model).score(test, TEST)
    assert model.seen == 2 * 70


def test_blocks_do_not_change_scores(model, train, test, monkeypatch):
    names = set(OWN) - READ_IMAGES
    whole = {name: fit(prepare(name), model, train).score(test, TEST) for name in names}
    monkeypatch.setattr("um_bench.detectors.scorer._ROWS", 7)
    for name, scores in whole.items():
        blocks = fit(prepare(name), model, train).score(test, TEST)
        torch.testing.assert_close(blocks, scores, rtol=1e-5, atol=1e-5, msg=name)


def test_dice_gets_fewer_rows_where_its_tensor_would_be_large(model, train, test, monkeypatch):
    sizes = []
    predict = pod.DICE.predict_features
    monkeypatch.setattr("um_bench.detectors.scorer._SCRATCH", 30 * CLASSES * FEATURES)
    monkeypatch.setattr(
        pod.DICE, "predict_features", lambda self, z: sizes.append(len(z)) or predict(self, z)
    )
    fit(prepare("dice"), model, train).score(test, TEST)
    assert sizes == [30, 30, 10]


@pytest.mark.parametrize("name", ["vim", "dice", "fdbd", "nci", "gradnorm", "graduncertainty"])
def test_a_head_without_bias_has_zeros(name):
    model = trained(bias=False)
    outputs = collect(model, TRAIN)
    scores = fit(prepare(name), model, outputs).score(outputs, TRAIN)
    with torch.no_grad():
        model.fc.bias = nn.Parameter(torch.zeros(CLASSES))
    assert torch.equal(scores, fit(prepare(name), model, outputs).score(outputs, TRAIN))


# Inner layers


def test_a_classifier_that_shows_no_layers_is_unsupported_for_these_alone(model, monkeypatch):
    def inner(self: Net, images: Tensor) -> None:
        raise UnsupportedError("this net shows no inner layers")

    monkeypatch.setattr(Net, "features", lambda self, x: self.body(self.stem(x)).mean(dim=(2, 3)))
    monkeypatch.setattr(Net, "inner", inner)
    outputs = collected(model, TEST)
    assert fit(prepare("energy"), model).score(outputs, TEST).std() > 0
    with pytest.raises(UnsupportedError, match="this net shows no inner layers"):
        fit(prepare("rankfeat"), model).score(outputs, TEST)
    with pytest.raises(UnsupportedError, match="this net shows no inner layers"):
        fit(prepare("gram"), model, outputs)


def test_rankfeat_needs_more_than_one_position(model):
    final = torch.rand(4, FEATURES, 1, 1)
    digest = prepare("rankfeat").spec.digest(model, {})
    with pytest.raises(UnsupportedError, match="one position only"):
        digest(model.inner(TEST[0][0])._replace(final=final))


def test_gram_with_fewer_poles_is_another_setting(model, train, test):
    binding = prepare("gram@poles=1")
    digests = {binding.label: binding.spec.digest(model, binding.settings)}
    sets = [collect(model, loader, digests) for loader in (TRAIN, TEST)]
    scores = fit(binding, model, sets[0]).score(sets[1], TEST)
    own = pod.Gram(model.head_of_map, list(model.stages), CLASSES, num_poles_list=[1]).to("cpu")
    torch.manual_seed(0)
    own.fit(TRAIN)
    expected = torch.cat([own.predict(images) for images, _ in TEST])
    torch.testing.assert_close(scores, expected)
    assert not torch.allclose(scores, fit(prepare("gram"), model, train).score(test, TEST))


def test_mcd_says_that_there_is_no_dropout(model, test):
    model.body[3] = nn.Identity().eval()
    with pytest.raises(UnsupportedError, match=r"no dropout.*--set backbone\.drop_rate"):
        fit(prepare("mcd"), model).score(test, TEST)


def test_a_hook_of_nac_does_not_outlive_a_failure(model, train, test, monkeypatch):
    scorer = fit(prepare("nac"), model, train, TRAIN)
    monkeypatch.setattr("pytorch_ood.detector.nac._bin_indices_geometric", None)
    with pytest.raises(Exception, match="nac broke while scoring"):
        scorer.score(test, TEST)
    assert not any(part._forward_hooks for part in model.modules())


def test_adding_a_detector_is_a_row_of_under_ten_lines():
    row = DetectorSpec(
        kind=pod.KNN,
        reads="features",
        build=lambda model, settings: pod.KNN(None, **settings),
        defaults={"k": 50},
        values={"k": "count"},
        fits_on="train",
    )
    assert row.candidates("k") == (50, 100, 200, 500, 1000)
    source = inspect.getsource(inspect.getmodule(prepare("knn").spec.build))
    rows = [part.split("\n)\n")[0] for part in source.split(" = DetectorSpec(\n")[1:]]
    plain = [part for part in rows if "#" not in part]
    assert max(len(part.splitlines()) for part in plain) < 11


def test_the_catalogue_has_every_detector():
    assert len(catalogue().splitlines()) == 2 + len([*OWN, *UNSUPPORTED, *OURS])
