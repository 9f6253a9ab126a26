"""The multi-layer Mahalanobis detector: each part against scikit-learn or the formula written out,
and the whole against the promise that it tunes on held-out ID images only.
"""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_ood import detector as pod
from pytorch_ood.api import RequiresFittingException
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from um_bench.data import ImageSet, Loader, fingerprint
from um_bench.detectors import DetectorSpec
from um_bench.detectors.feature_ensemble import (
    FeatureEnsemble,
    Gaussian,
    adversarial,
    cross_validated,
    directions,
    gaussian,
    layer_scores,
    layers,
    regression,
    tune,
)
from um_bench.errors import UmBenchError
from um_bench.testing import check_detector

CLASSES = 4


class Inner(NamedTuple):
    maps: tuple[Tensor, ...]
    final: Tensor
    features: Tensor
    logits: Tensor


class Net(nn.Module):
    """Two stages and features of their own; it keeps what it was shown."""

    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 10, 2), nn.BatchNorm2d(10), nn.ReLU())
        self.neck = nn.Sequential(nn.Linear(10, 8), nn.Tanh())
        self.fc = nn.Linear(8, CLASSES)
        self.classified: list[Tensor] = []
        self.looked_into: list[Tensor] = []

    def _run(self, images: Tensor) -> Inner:
        maps = (first := self.first(images), last := self.second(first))
        features = self.neck(last.mean(dim=(2, 3)))
        del first
        return Inner(maps, last, features, self.fc(features))

    def inner(self, images: Tensor) -> Inner:
        self.looked_into.append(images.detach())
        return self._run(images)

    def forward(self, images: Tensor) -> Tensor:
        self.classified.append(images.detach())
        return self._run(images).logits


class Features(Net):
    """A network that shows nothing but its features, large beside pytorch-ood's ridge of 1e-6."""

    def _run(self, images: Tensor) -> Inner:
        whole = super()._run(images)
        return whole._replace(maps=(), features=100 * whole.features)


class Pooled(Net):
    """A network whose features are the mean of its last stage, as a ResNet's."""

    def _run(self, images: Tensor) -> Inner:
        whole = super()._run(images)
        return whole._replace(features=whole.final.mean(dim=(2, 3)))


class Constant(Net):
    """A network with a stage that is the same for all images, but for rounding."""

    def _run(self, images: Tensor) -> Inner:
        whole = super()._run(images)
        return whole._replace(maps=(whole.maps[0] * 1e-9 + 3.7, *whole.maps[1:]))


def pictures(count: int, seed: int, *, ood: bool = False) -> tuple[Tensor, Tensor]:
    """Return noisy images with a stripe where their class has it; OOD ones have a checkerboard."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 90, (count, 3, 8, 8), generator=generator)
    if ood:
        images[:, :, ::2, ::2] += 150
        labels = torch.full_like(labels, -1)
    for label in range(CLASSES):
        images[labels == label, :, 2 * label : 2 * label + 2] += 120
    return images / 255, labels


class Counted:
    """Batches of a set, as a loader gives them, which counts how often it is gone through."""

    def __init__(self, images: Tensor, labels: Tensor, size: int = 16):
        self.images, self.labels, self.size, self.passes = images, labels, size, 0

    def __iter__(self):
        self.passes += 1
        return zip(self.images.split(self.size), self.labels.split(self.size), strict=True)


def trained(kind: type[Net] = Net) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = kind()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for images, labels in list(Counted(*pictures(160, 1))) * 5:
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
    net.zero_grad()
    net.classified.clear()
    return net.eval()


MODELS = {kind: trained(kind) for kind in (Net, Features, Pooled, Constant)}
TRAIN, HELD, TEST, OOD = (
    pictures(200, 1),
    pictures(60, 2),
    pictures(60, 3),
    pictures(60, 4, ood=True),
)


def net(kind: type[Net] = Net) -> Net:
    return copy.deepcopy(MODELS[kind])


def detector(model: Net, validation: "Counted | None" = None, **settings) -> FeatureEnsemble:
    few = {"magnitudes": (0.0, 0.002), **settings}
    return FeatureEnsemble(model, **few).fit(Counted(*TRAIN), validation)


@pytest.fixture(scope="module")
def fitted() -> FeatureEnsemble:
    return FeatureEnsemble(net()).fit(Counted(*TRAIN))


def rows(count: int = 300, dim: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return correlated features, a class apart from the others, with labels."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, dim, generator=generator) @ torch.randn(
        dim, dim, generator=generator
    )
    labels = torch.arange(count) % CLASSES
    return mixed + 3 * labels[:, None], labels


def centred(features: Tensor, labels: Tensor) -> np.ndarray:
    means = torch.stack([features[labels == c].double().mean(dim=0) for c in range(CLASSES)])
    return (features.double() - means[labels]).numpy()


# The Gaussians.


def test_means_and_precision_are_scikit_learns():
    features, labels = rows()
    found = gaussian(features, labels, CLASSES)
    for label in range(CLASSES):
        expected = features[labels == label].double().mean(dim=0)
        torch.testing.assert_close(found.means[label], expected)
    reference = EmpiricalCovariance().fit(centred(features, labels)).precision_
    np.testing.assert_allclose(found.precision.numpy(), reference, rtol=1e-8)


def test_directions_without_variance_are_left_out_as_by_a_pseudo_inverse():
    features, labels = rows()
    features[:, 3] = 0
    features[:, 5] = 2 * features[:, 4]
    found = gaussian(features, labels, CLASSES)
    assert found.whitening.shape == (12, 10)
    inside = centred(features, labels)
    expected = np.linalg.pinv(inside.T @ inside / len(inside), rcond=1e-9, hermitian=True)
    np.testing.assert_allclose(found.precision.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_small_variances_are_kept_as_in_the_references():
    features, labels = rows(dim=20)
    features = features * torch.logspace(0, -3, 20) + 0.1
    reference = EmpiricalCovariance().fit(centred(features, labels).astype(np.float32)).precision_
    found = gaussian(features, labels, CLASSES)
    assert found.whitening.shape == (20, 20)
    np.testing.assert_allclose(found.precision.numpy(), reference, rtol=1e-3)


def test_rounding_is_no_direction():
    # the sum over a LayerNorm's outputs is 0 but for rounding, far from what float64 can tell
    features, labels = rows(dim=20)
    normed = F.layer_norm(features, (20,))
    variance = normed.sum(dim=1).double().var()
    assert 1e-16 < variance < 1e-11
    assert gaussian(normed, labels, CLASSES).whitening.shape == (20, 19)


def test_more_features_than_images_have_a_finite_distance():
    features, labels = rows(count=10, dim=40)
    found = gaussian(features, labels, CLASSES)
    assert found.whitening.shape[1] <= 10 - CLASSES
    assert found.confidence(rows(dim=40, seed=1)[0]).isfinite().all()


def test_features_far_from_zero_keep_their_digits():
    features, labels = rows()
    near, far = (gaussian(x, labels, CLASSES) for x in (features.double(), features.double() + 3e4))
    torch.testing.assert_close(near.precision, far.precision, rtol=1e-6, atol=1e-9)
    assert far.whitening.shape[1] == 12


def test_confidence_is_the_formula():
    features, labels = rows()
    found = gaussian(features, labels, CLASSES)
    others = rows(count=7, seed=1)[0].double()
    expected = [
        max(
            -float((one - mean) @ found.precision @ (one - mean))
            for mean in (features[labels == c].double().mean(dim=0) for c in range(CLASSES))
        )
        for one in others
    ]
    np.testing.assert_allclose(found.confidence(others).numpy(), expected, rtol=1e-8)


def test_rankings_are_those_of_pytorch_oods_mahalanobis():
    features, labels = rows()
    others = rows(count=50, seed=1)[0]
    ours = -gaussian(features, labels, CLASSES).confidence(others)
    theirs = pod.Mahalanobis(None).fit_features(features.double(), labels).predict_features(others)
    assert torch.equal(ours.argsort(), theirs.argsort())


def test_a_detector_of_one_layer_without_perturbation_is_pytorch_oods():
    model = net(Features)
    ours = FeatureEnsemble(model, magnitudes=(0.0,)).fit(Counted(*TRAIN), Counted(*HELD))
    seen = model.inner(TRAIN[0]).features.detach()
    theirs = pod.Mahalanobis(lambda x: model.inner(x).features).fit_features(seen, TRAIN[1])
    images = torch.cat([TEST[0], OOD[0]])
    distances = (ours.predict(images) - ours.tuned.bias) / -ours.tuned.weights[0]
    # theirs is half of it, with a covariance that is not divided by the number of images
    expected = 2 * len(TRAIN[0]) * theirs.predict(images)
    assert ours.tuned.weights[0] < 0
    np.testing.assert_allclose(distances.numpy(), expected.detach().numpy(), rtol=1e-2)


# The layers' scores.


def literal(model: Net, found: list[Gaussian], image: Tensor, layer: int, magnitude: float):
    """One image, one layer: Lee et al., algorithm 1, as it stands there."""

    def score(moved: Tensor) -> Tensor:
        out = model._run(moved[None])
        stages = [stage[0].mean(dim=(1, 2)) for stage in out.maps] + [out.features[0]]
        apart = stages[layer].double() - found[layer].means
        return torch.stack([-(a @ found[layer].precision @ a) for a in apart]).max()

    moving = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(moving), moving)
    with torch.no_grad():
        return gradient, float(score(image + magnitude * gradient.sign()))


@pytest.mark.parametrize("magnitude", [0.0, 0.002, 0.05])
def test_layer_scores_are_the_algorithm(fitted, magnitude):
    images = torch.cat([TEST[0][:4], OOD[0][:4]])
    found = layer_scores(fitted.model, fitted.gaussians, images, (magnitude,))
    assert found.shape == (8, 1, 3)
    expected = torch.tensor(
        [
            [[literal(fitted.model, fitted.gaussians, one, i, magnitude)[1] for i in range(3)]]
            for one in images
        ]
    )
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-4)


def test_directions_are_the_gradients_of_each_layers_own_score(fitted):
    images = TEST[0][:5]
    for layer, signs in enumerate(directions(fitted.model, fitted.gaussians, images)):
        for image, sign in zip(images, signs, strict=True):
            gradient, _ = literal(fitted.model, fitted.gaussians, image, layer, 0)
            clear = gradient.abs() > 1e-4 * gradient.abs().max()
            assert clear.float().mean() > 0.3
            assert torch.equal(sign[clear], gradient[clear].sign())


def test_a_small_step_makes_every_layer_more_confident(fitted):
    still, moved = layer_scores(fitted.model, fitted.gaussians, OOD[0], (0.0, 1e-4)).unbind(dim=1)
    assert (moved > still).all()


def test_several_magnitudes_at_once_are_the_same_as_one_by_one(fitted):
    together = layer_scores(fitted.model, fitted.gaussians, TEST[0], (0.0, 0.01, 0.002))
    for column, magnitude in enumerate((0.0, 0.01, 0.002)):
        alone = layer_scores(fitted.model, fitted.gaussians, TEST[0], (magnitude,))
        assert torch.equal(together[:, column], alone[:, 0])


def test_moved_images_are_not_clipped(fitted):
    model = fitted.model
    model.looked_into.clear()
    layer_scores(model, fitted.gaussians, torch.ones(3, 3, 8, 8), (0.1,))
    assert max(float(images.max()) for images in model.looked_into) == pytest.approx(1.1)


def test_without_perturbation_no_gradient_is_computed(fitted, monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)
    model = fitted.model
    model.looked_into.clear()
    layer_scores(model, fitted.gaussians, TEST[0], (0.0,))
    assert len(model.looked_into) == 1


# What the layers' scores are weighted by.


def test_adversarial_images_are_one_step_against_their_labels():
    model = net()
    images, labels = TEST
    moved = adversarial(model, images, labels, 0.05)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert float((moved - images).abs().max()) == pytest.approx(0.05, abs=1e-6)
    with torch.no_grad():
        before, after = (
            F.cross_entropy(model(x), labels, reduction="none") for x in (images, moved)
        )
    assert (after >= before).all()
    assert after.mean() > 1.5 * before.mean()
    other = adversarial(model, images, (labels + 1) % CLASSES, 0.05)
    assert (other != moved).flatten(1).any(dim=1).all()


def scores_like(count: int, layers: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, layers, generator=generator, dtype=torch.float64)
    return (noise - shift) * torch.logspace(0, 4, layers, dtype=torch.float64) - 50


def test_weights_are_a_logistic_regression_on_standardised_scores():
    clean, moved = scores_like(80, 3, 1), scores_like(80, 3, 2, shift=1.0)
    weights, bias = regression(clean, moved)
    both = torch.cat([clean, moved]).numpy()
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    reference.fit(both, [0] * 80 + [1] * 80)
    np.testing.assert_allclose(
        (torch.from_numpy(both) @ weights + bias).numpy(),
        reference.decision_function(both),
        rtol=1e-6,
    )
    assert (weights < 0).all()


def test_a_layer_that_is_always_the_same_has_no_weight():
    clean, moved = scores_like(80, 3, 1), scores_like(80, 3, 2, shift=1.0)
    clean[:, 1] = moved[:, 1] = 0.0
    weights, _ = regression(clean, moved)
    assert weights[1] == 0
    assert weights.isfinite().all()


def test_validation_is_on_rows_that_were_not_trained_on():
    clean, moved = scores_like(40, 60, 1), scores_like(40, 60, 2)
    weights, bias = regression(clean, moved)
    logits = torch.cat([clean, moved]) @ weights + bias
    assert roc_auc_score([0] * 40 + [1] * 40, logits) > 0.95  # noise, learned by heart
    assert 0.3 < cross_validated(clean, moved, torch.arange(40) % 5) < 0.7


def test_an_image_and_its_adversarial_version_are_in_the_same_fold():
    clean = scores_like(40, 40, 1)
    # each pair is alike, so that half of a pair would give the other half away
    moved = clean + 1e-3 * scores_like(40, 40, 2)
    assert 0.3 < cross_validated(clean, moved, torch.arange(40) % 5) < 0.7


def test_the_magnitude_that_tells_them_apart_best_is_chosen():
    clean = torch.stack([scores_like(60, 2, 1)] * 3, dim=1)
    moved = torch.stack([scores_like(60, 2, 2, shift=s) for s in (0.2, 2.0, 0.5)], dim=1)
    found = tune(clean, moved, (0.01, 0.005, 0.0), seed=0)
    assert found.magnitude == 0.005
    weights, bias = regression(clean[:, 1], moved[:, 1])
    assert torch.equal(found.weights, weights)
    assert found.bias == bias
    assert found.auroc > 0.9


def test_of_equally_good_magnitudes_the_smallest_is_chosen():
    clean = torch.stack([scores_like(60, 2, 1)] * 3, dim=1)
    moved = torch.stack([scores_like(60, 2, 2, shift=1.0)] * 3, dim=1)
    assert tune(clean, moved, (0.01, 0.0005, 0.002), seed=0).magnitude == 0.0005


# What it is fitted on.


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def shown(batches: list[Tensor]) -> set[bytes]:
    return {key for images in batches for key in keys(images)}


def mask_of(images: Tensor, some: set[bytes]) -> Tensor:
    return torch.tensor([key in some for key in keys(images)])


def same_gaussians(found: list[Gaussian], model: Net, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        seen = layers(model.inner(images))
    for one, features in zip(found, seen, strict=True):
        expected = gaussian(features, labels, CLASSES)
        torch.testing.assert_close(one.means, expected.means, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.precision, expected.precision, rtol=1e-3, atol=1e-3)


def test_held_out_images_are_tuned_on_and_no_others():
    model = net()
    found = detector(model)
    # adversarial images are made of the held-out ones, and of no others
    held = mask_of(TRAIN[0], shown(model.classified))
    assert torch.bincount(TRAIN[1][held]).tolist() == [10] * CLASSES
    same_gaussians(found.gaussians, model, TRAIN[0][~held], TRAIN[1][~held])
    assert (found.tuning_images, found.fit_images) == (40, 160)


def test_validation_images_are_used_in_place_of_training_images():
    model = net()
    found = detector(model, Counted(*HELD))
    assert shown(model.classified) == set(keys(HELD[0]))
    same_gaussians(found.gaussians, model, *TRAIN)
    assert (found.tuning_images, found.fit_images) == (60, 200)


def test_no_more_are_held_out_than_are_used():
    model = net()
    found = detector(model, held_out=0.5, tune_on=14)
    assert (found.tuning_images, found.fit_images) == (14, 186)
    counts = torch.bincount(TRAIN[1][mask_of(TRAIN[0], shown(model.classified))])
    assert sorted(counts.tolist()) == [3, 3, 4, 4]
    capped = detector(net(), Counted(*HELD), tune_on=14)
    assert (capped.tuning_images, capped.fit_images) == (14, 200)


def test_only_what_was_given_is_looked_at():
    model, train, held = net(), Counted(*TRAIN), Counted(*HELD)
    before = [part.clone() for part in (*TRAIN, *HELD)]
    FeatureEnsemble(model, magnitudes=(0.0,)).fit(train, held)
    # labels, then images
    assert (train.passes, held.passes) == (2, 2)
    attacked = adversarial(net(), *HELD, 0.05)
    known = set(keys(torch.cat([TRAIN[0], HELD[0], attacked])))
    assert shown(model.looked_into) <= known
    assert all(map(torch.equal, before, (*TRAIN, *HELD)))


@pytest.mark.parametrize(("magnitudes", "each"), [((0.0,), 1), ((0.01,), 4), ((0.0, 0.01), 5)])
def test_each_image_is_forwarded_as_often_as_the_method_needs(magnitudes, each):
    model = net()
    found = FeatureEnsemble(model, magnitudes=magnitudes).fit(Counted(*TRAIN))
    assert sum(map(len, model.classified)) == 40
    assert sum(map(len, model.looked_into)) == 160 + 2 * each * 40
    model.looked_into.clear()
    found.predict(TEST[0])
    # once for the gradients of all layers, once for each layer
    assert sum(map(len, model.looked_into)) == len(TEST[0]) * (4 if found.tuned.magnitude else 1)


def image_set(images: Tensor, labels: Tensor) -> ImageSet:
    pixels = (images * 255).round().to(torch.uint8)
    return ImageSet("pictures", pixels, labels, fingerprint(pixels, labels))


def test_a_loaders_labels_are_read_without_its_images(monkeypatch):
    passes = []
    epoch = Loader.epoch
    monkeypatch.setattr(Loader, "epoch", lambda self, i: passes.append(i) or epoch(self, i))
    found = FeatureEnsemble(net(), magnitudes=(0.0,))
    found.fit(Loader(image_set(*TRAIN), batch_size=16))
    assert passes == [0]
    assert found.chosen == detector(net(), magnitudes=(0.0,)).chosen


def test_the_order_of_classes_does_not_change_who_is_held_out():
    model = net()
    order = TRAIN[1].argsort(stable=True)
    detector(model)
    held = shown(model.classified)
    model.classified.clear()
    ordered = Counted(TRAIN[0][order], TRAIN[1][order], size=23)
    FeatureEnsemble(model, magnitudes=(0.0,)).fit(ordered)
    assert shown(model.classified) == held


def test_another_seed_holds_out_other_images():
    held = []
    for seed in (0, 1):
        model = net()
        detector(model, seed=seed)
        held.append(shown(model.classified))
    assert held[0] != held[1]


def labelled(change) -> Counted:
    labels = TRAIN[1].clone()
    change(labels)
    return Counted(TRAIN[0], labels)


OOD_LABELS = labelled(lambda labels: labels[:3].fill_(-1))


@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        (OOD_LABELS, None, "3 of 200 images are OOD; only ID data may be used"),
        (Counted(*TRAIN), OOD_LABELS, "3 of 200 images are OOD; only ID data may be used"),
        (Counted(*OOD), None, "60 of 60 images are OOD"),
        (labelled(lambda y: y[:1].fill_(7)), None, "a label is 7, .* classes 0 to 3"),
        (Counted(TRAIN[0][:7], TRAIN[1][:7]), None, "fewer of class 3$"),
        (Counted(TRAIN[0][:40], TRAIN[1][:40]), None, "8 of 40 images can be held out"),
        (Counted(*TRAIN), Counted(HELD[0][:9], HELD[1][:9]), "9 of 9 images can be held out"),
        (Counted(TRAIN[0][:0], TRAIN[1][:0]), None, "no images to fit on"),
        (iter(list(Counted(*TRAIN))), None, "gave 200 images at first and 0 now"),
    ],
)
def test_what_it_cannot_be_fitted_on_is_refused(train, validation, says):
    with pytest.raises(ValueError, match=says):
        FeatureEnsemble(net()).fit(train, validation)


def test_a_classifier_that_always_says_the_same_is_refused():
    model = net()
    nn.init.zeros_(model.fc.weight)
    with pytest.raises(ValueError, match="loss has no gradient"):
        detector(model)


def test_a_class_without_images_is_named():
    there = TRAIN[1] != 2
    with pytest.raises(ValueError, match=r"2 images of each of the 4 classes .* of class 2$"):
        FeatureEnsemble(net()).fit(Counted(TRAIN[0][there], TRAIN[1][there]))


def test_every_class_keeps_two_images_for_its_gaussian():
    found = FeatureEnsemble(net(), held_out=0.9).fit(Counted(TRAIN[0][:24], TRAIN[1][:24]))
    assert (found.tuning_images, found.fit_images) == (16, 8)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"magnitudes": ()}, "magnitudes"),
        ({"magnitudes": (0.1, -0.1)}, "magnitudes"),
        ({"fgsm": 0}, "fgsm must be above 0"),
        ({"held_out": 0.0}, "held_out must be a fraction"),
        ({"held_out": 1.0}, "held_out must be a fraction"),
        ({"tune_on": 9}, "at least 10 images"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        FeatureEnsemble(net(), **settings)


# The whole.


def test_it_tells_planted_ood_images_apart(fitted):
    scores = torch.cat([fitted.predict(TEST[0]), fitted.predict(OOD[0])])
    assert scores.shape == (120,)
    assert scores.dtype == torch.float32
    assert roc_auc_score([0] * 60 + [1] * 60, scores) > 0.95


def test_scores_are_the_weighted_layers(fitted):
    chosen = fitted.chosen
    parts = layer_scores(fitted.model, fitted.gaussians, TEST[0], (chosen["magnitude"],))[:, 0]
    expected = chosen["bias"] + sum(chosen[f"weight_{i}"] * parts[:, i] for i in range(3))
    torch.testing.assert_close(fitted.predict(TEST[0]).double(), expected, rtol=1e-5, atol=1e-5)


def test_what_was_chosen_can_be_recorded(fitted):
    assert list(fitted.chosen) == [
        *("magnitude", "tuning_auroc", "fit_images", "tuning_images"),
        *("bias", "weight_0", "weight_1", "weight_2"),
    ]
    assert all(type(value) is float for value in fitted.chosen.values())
    assert fitted.chosen["magnitude"] in fitted.magnitudes
    assert 0.5 < fitted.chosen["tuning_auroc"] <= 1


def test_far_images_have_scores_of_their_own(fitted):
    # a probability would be 1.0 for both
    near, far = fitted.predict(torch.stack([OOD[0][0], 50 * OOD[0][0]]))
    assert near != far


def test_the_same_data_give_the_same_scores(fitted):
    again = FeatureEnsemble(net()).fit(Counted(*TRAIN))
    assert again.chosen == fitted.chosen
    assert torch.equal(again.predict(TEST[0]), fitted.predict(TEST[0]))


@pytest.mark.parametrize("size", [1, 7, 59])
@pytest.mark.parametrize("magnitude", [0.0, 0.01])
def test_scores_do_not_depend_on_the_batch(size, magnitude):
    found = detector(net(), magnitudes=(magnitude,))
    for images in (TEST[0], OOD[0]):
        parts = torch.cat([found.predict(part) for part in images.split(size)])
        torch.testing.assert_close(parts, found.predict(images), rtol=1e-4, atol=1e-5)


def test_the_size_of_the_fit_batches_hardly_matters():
    small, large = (
        FeatureEnsemble(net(), magnitudes=(0.002,)).fit(Counted(*TRAIN, size=size))
        for size in (7, 200)
    )
    torch.testing.assert_close(small.predict(TEST[0]), large.predict(TEST[0]), rtol=1e-3, atol=1e-3)


def test_no_image_is_forwarded_alone(fitted):
    # where CPU kernels round otherwise, which these small maps do not show
    fitted.model.looked_into.clear()
    assert fitted.predict(TEST[0][:1]).shape == (1,)
    assert {len(images) for images in fitted.model.looked_into} == {2}


@pytest.mark.parametrize("frozen", [False, True])
def test_the_classifier_stays_as_it_was(frozen):
    model = net().requires_grad_(not frozen)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        detector(model).predict(TEST[0])
        assert not torch.is_grad_enabled()
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad is not frozen
        grad = parameter.grad
        assert (grad == 1).all() if name == "fc.weight" else grad is None


def test_scores_carry_no_gradient(fitted):
    images = TEST[0].clone().requires_grad_()
    assert not fitted.predict(images).requires_grad
    assert images.grad is None


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(UmBenchError, match="training mode"):
        FeatureEnsemble(net().train()).fit(Counted(*TRAIN))


def test_it_has_to_be_fitted_first():
    unfitted = FeatureEnsemble(net())
    assert unfitted.requires_fit
    with pytest.raises(RequiresFittingException):
        unfitted.predict(TEST[0])
    with pytest.raises(RequiresFittingException):
        _ = unfitted.chosen


def test_it_can_be_fitted_again():
    twice = detector(net()).fit(Counted(*HELD))
    once = FeatureEnsemble(net(), magnitudes=(0.0, 0.002)).fit(Counted(*HELD))
    assert twice.chosen == once.chosen
    assert torch.equal(twice.predict(TEST[0]), once.predict(TEST[0]))


def test_a_constant_layer_does_not_break_it():
    found = detector(net(Constant))
    assert found.gaussians[0].whitening.shape == (6, 0)
    assert found.chosen["weight_0"] == 0
    scores = torch.cat([found.predict(TEST[0]), found.predict(OOD[0])])
    assert scores.isfinite().all()
    assert roc_auc_score([0] * 60 + [1] * 60, scores) > 0.9


def test_features_that_are_the_last_stages_mean_count_once():
    model = net(Pooled)
    assert len(layers(model.inner(TEST[0]))) == 3
    assert len(detector(model).gaussians) == 2


def test_moving_it_keeps_the_scores(fitted):
    before = fitted.predict(TEST[0])
    assert fitted.to("cpu") is fitted
    assert torch.equal(fitted.predict(TEST[0]), before)
    assert fitted.chosen["magnitude"] in fitted.magnitudes


def test_it_keeps_what_every_detector_promises():
    few = (0.0, 0.002)
    spec = DetectorSpec(
        reads="images",
        build=lambda model, settings: FeatureEnsemble(model, magnitudes=few, **settings),
        defaults={"fgsm": 0.05, "held_out": 0.2, "tune_on": 1000},
        fits_on="train",
        every_class=True,
    )
    check_detector(spec)
