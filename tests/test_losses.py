"""The adapters `loss:NAME`: each term by its formula, against pytorch-ood, trained, composed."""

import dataclasses
import math
from collections import deque
from importlib.metadata import entry_points
from importlib.resources import files
from inspect import signature

import pytest
import pytorch_ood.loss as pood
import torch
import torch.nn.functional as F
from pytorch_ood.loss.mchad import CenterRegularizationLoss
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from um_bench import Suite
from um_bench.adapters import Batch, create, hyperparameters
from um_bench.backbones import Classifier, weights_hash
from um_bench.backbones import create as create_backbone
from um_bench.data import Loader
from um_bench.errors import UnsupportedError, UsageError
from um_bench.suite import (
    Preprocessing,
    Recipe,
    adapter_label,
    load_suite,
    parse_adapter,
    parse_choice,
)
from um_bench.testing import check_adapter, example_classifier, example_outliers, example_set
from um_bench.training import adapt
from um_bench_losses import LOSSES, catalogue
from um_bench_losses.beside import (
    Beside,
    Centers,
    ConfidenceBranch,
    EnergyRegression,
    Hyperspheres,
    VirtualOutliers,
    Watched,
    folded,
)
from um_bench_losses.table import OURS, Fit, arguments_of, defaults
from um_bench_losses.terms import (
    cac_term,
    entropic_term,
    hypersphere_term,
    ii_term,
    logit_norm_term,
    magnitude_term,
    sphere_margin_term,
)

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01, augmentation="none")
ADAPTERS = {
    f"loss:{adapter.__name__}": adapter
    for fit in LOSSES.values()
    if isinstance(fit, Fit)
    for adapter in fit.adapters
}
NAMES = list(ADAPTERS)
ON_OUTLIERS = [name for name, adapter in ADAPTERS.items() if adapter.needs_outliers]
ON_FEATURES = ["Center", "II", "Confidence", "MCHAD", "GMCHAD", "VOS", "Objectosphere"]

KNOWN = torch.tensor([2, 0, 3, 2, 1])
MIXED = torch.tensor([2, 0, 3, 2, 1, -1, -1, -1])
"""Five ID images and three outliers, in the order of a batch."""
CLASSES = 4


def numbers(rows: int, columns: int = CLASSES, *, scale: float = 2.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(rows, columns, generator=generator)).requires_grad_()


def one(text: str):
    return create(parse_adapter(text))


def plan_of(name: str, seed: int = 0):
    torch.manual_seed(seed)
    model = example_classifier().requires_grad_(True)
    return one(name).prepare(model, Loader(example_set(), batch_size=16))


def same(ours, theirs, *inputs):
    """Compare two scalars and their gradients with respect to the inputs."""
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, retain_graph=True),
        torch.autograd.grad(theirs, inputs, retain_graph=True),
        strict=True,
    ):
        assert mine.abs().max() > 0
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def square(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def log_softmax_of(row, c):
    return row[c] - torch.log(sum(torch.exp(v) for v in row))


# --- the table


def test_the_table_names_every_loss_of_pytorch_ood():
    """A class that is new in pytorch-ood fails here: decide on it in um_bench_losses/table.py."""
    there = {
        name
        for name, thing in vars(pood).items()
        if isinstance(thing, type) and issubclass(thing, nn.Module)
    }
    assert set(LOSSES) == there
    assert list(LOSSES) == sorted(LOSSES, key=str.lower) or list(LOSSES) == sorted(LOSSES)


def test_every_adapter_of_the_table_is_registered_under_its_name_and_no_other():
    registered = {
        entry.name: entry.load()
        for entry in entry_points(group="um_bench.adapters")
        if entry.name.startswith("loss:")
    }
    assert registered == ADAPTERS


@pytest.mark.parametrize("name", [name for name, fit in LOSSES.items() if isinstance(fit, Fit)])
def test_every_argument_of_a_loss_is_a_field_or_decided_by_us(name):
    fit = LOSSES[name]
    assert set(fit.arguments) == set(arguments_of(name))
    fields = {field for adapter in fit.adapters for field in defaults(adapter)}
    assert {field for field in fit.arguments.values() if field != OURS} <= fields


def test_the_method_card_shows_the_table():
    """Put what `catalogue()` returns between the card's headings where this fails."""
    card = files("um_bench_losses").joinpath("README.md").read_text(encoding="utf-8")
    assert catalogue() in card


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_documented_and_typed(name):
    adapter = ADAPTERS[name]
    assert adapter.__doc__
    assert {f.type for f in dataclasses.fields(adapter)} <= {float, int}
    assert hyperparameters(one(name)) == defaults(adapter)


# --- terms on logits


@pytest.mark.parametrize("t", [0.04, 1.0])
def test_logit_norm_is_the_formula_and_pytorch_oods(t):
    z = numbers(5)
    plain = 0.0
    for row, label in zip(z, KNOWN, strict=True):
        length = sum(v**2 for v in row) ** 0.5
        plain = plain - log_softmax_of(row / (t * length), label) / 5
    same(logit_norm_term(z, KNOWN, t=t), plain, z)
    same(logit_norm_term(z, KNOWN, t=t), pood.LogitNorm(t=t)(z, KNOWN), z)
    again = logit_norm_term(3 * z, KNOWN, t=t)
    torch.testing.assert_close(again, plain)


def anchors(magnitude: float) -> list[list[float]]:
    return [[magnitude * (i == c) for i in range(CLASSES)] for c in range(CLASSES)]


@pytest.mark.parametrize(("magnitude", "alpha"), [(10.0, 0.1), (3.0, 0.0)])
def test_cac_is_the_papers_formula(magnitude, alpha):
    z, plain = numbers(5), 0.0
    for row, label in zip(z, KNOWN, strict=True):
        d = [square(row, anchor) ** 0.5 for anchor in anchors(magnitude)]
        others = sum(torch.exp(d[label] - d[c]) for c in range(CLASSES) if c != label)
        plain = plain + (torch.log(1 + others) + alpha * d[label]) / 5
    same(cac_term(z, KNOWN, magnitude=magnitude, alpha=alpha), plain, z)


def test_pytorch_oods_cac_still_leaves_out_the_last_class():
    """Take pytorch-ood's CACLoss (of distances that are not squared) once this fails."""
    z = numbers(5)
    loss = pood.CACLoss(n_classes=CLASSES, magnitude=3.0, alpha=0.1)
    d = loss.distance(z)
    torch.testing.assert_close(d[0, 1], square(z[0], anchors(3.0)[1]), msg="squared distances")
    faulty = 0.0
    for row, label in zip(d, KNOWN, strict=True):
        counted = sum(torch.exp(row[label] - row[c]) for c in range(CLASSES - 1))
        faulty = faulty + (torch.log(1 + counted) + 0.1 * row[label]) / 5
    torch.testing.assert_close(loss(d, KNOWN), faulty)
    ours = cac_term(z, KNOWN, magnitude=3.0, alpha=0.1)
    assert (loss(d.sqrt(), KNOWN) - ours).abs() > 0.1
    moved = d.clone()
    moved[:, -1] = 0
    assert torch.equal(loss(moved[:1], KNOWN[:1]), loss(d[:1], KNOWN[:1]))


def test_the_nearest_anchor_is_the_largest_logit():
    z = numbers(50, scale=8.0)
    nearest = torch.cdist(z, torch.tensor(anchors(10.0))).argmin(dim=1)
    assert torch.equal(nearest, z.argmax(dim=1))


def test_cac_is_finite_where_a_point_is_at_its_anchor():
    z = torch.tensor(anchors(10.0)).requires_grad_()
    loss = cac_term(z, torch.arange(CLASSES), magnitude=10.0, alpha=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(3 * math.exp(-math.sqrt(200)), rel=0.1)
    assert z.grad.isfinite().all()


def test_entropic_is_the_formula_over_the_outliers_alone():
    z, plain = numbers(8), 0.0
    for row, label in zip(z, MIXED, strict=True):
        if label < 0:
            plain = plain - sum(log_softmax_of(row, c) for c in range(CLASSES)) / CLASSES / 3
    ours = entropic_term(z, MIXED)
    same(ours, plain, z)
    assert torch.autograd.grad(ours, z)[0][:5].abs().max() == 0
    theirs = pood.EntropicOpenSetLoss()
    torch.testing.assert_close(entropic_term(z, MIXED), theirs(z[5:], MIXED[5:]))
    whole = 5 / 8 * F.cross_entropy(z[:5], KNOWN) + 3 / 8 * entropic_term(z, MIXED)
    same(whole, theirs(z, MIXED), z)


def test_entropic_is_oes_term():
    z = numbers(8)
    oe = one("oe@alpha=1.0").prepare(nn.Identity(), Loader(example_set(), batch_size=8))
    torch.testing.assert_close(entropic_term(z, MIXED), oe.outlier_loss(z, MIXED))


@pytest.mark.parametrize("term", [entropic_term, lambda z, y: magnitude_term(z, y, xi=0.0)])
def test_a_batch_without_outliers_has_no_outlier_term(term):
    assert term(numbers(5), KNOWN).item() == 0


# --- terms on features


def test_objectosphere_is_the_formula_and_pytorch_oods_of_each_part():
    f, plain = numbers(8, 6), 0.0
    for row, label in zip(f, MIXED, strict=True):
        length = sum(v**2 for v in row) ** 0.5
        if label < 0:
            plain = plain + length**2 / 3
        else:
            plain = plain + torch.clamp(5.0 - length, min=0) ** 2 / 5
    same(magnitude_term(f, MIXED, xi=5.0), plain, f)
    z = numbers(8, seed=1)
    theirs = pood.ObjectosphereLoss(alpha=0.3, xi=5.0)
    parts = [theirs(z[5:], f[5:], MIXED[5:]), theirs(z[:5], f[:5], KNOWN)]
    plan = plan_of("loss:Objectosphere@alpha=0.3:xi=5.0")
    plan.model.features = f
    ours = plan.outlier_loss(z, MIXED) + F.cross_entropy(z[:5], KNOWN)
    same(ours, parts[0] + parts[1], z, f)


def test_pytorch_oods_objectosphere_score_does_not_see_the_features():
    """The card says so; change it where this fails."""
    assert list(signature(pood.ObjectosphereLoss.score).parameters) == ["logits"]


def plain_ii(features, labels, alpha):
    count, dim = features.shape
    columns = []
    for column in features.T:
        mean = sum(column) / count
        variance = sum((v - mean) ** 2 for v in column) / count
        columns.append((column - mean) / (variance + 1e-5) ** 0.5)
    z = torch.stack(columns, dim=1)
    means = {c: z[labels == c].mean(dim=0) for c in labels.tolist()}
    spread = sum(square(row, means[int(y)]) for row, y in zip(z, labels, strict=True)) / count
    apart = min(square(means[a], means[b]) for a in means for b in means if a != b)
    return z, (spread - alpha * apart) / dim


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_ii_is_the_formula_and_pytorch_oods_over_the_dimensions(alpha):
    f = numbers(5, 6)
    labels = torch.tensor([2, 0, 0, 2, 1])  # a class is absent
    z, plain = plain_ii(f, labels, alpha)
    same(ii_term(f, labels, classes=CLASSES, alpha=alpha), plain, f)
    theirs = pood.IILoss(n_classes=CLASSES, n_embedding=6, alpha=alpha)(z, labels) / 6
    same(ii_term(f, labels, classes=CLASSES, alpha=alpha), theirs, f)


def test_ii_of_a_batch_of_one_class_or_one_image_has_no_separation():
    for f, labels in ((numbers(3, 6), torch.ones(3).long()), (numbers(1, 6), KNOWN[:1])):
        loss = ii_term(f, labels, classes=CLASSES, alpha=1.0)
        loss.backward()
        assert 0 <= loss.item() <= 1
        assert f.grad.isfinite().all()


def test_ii_does_not_depend_on_the_scale_of_the_features():
    f = numbers(5, 6)
    same_loss = [ii_term(scale * f, KNOWN, classes=CLASSES, alpha=1.0) for scale in (1, 100)]
    torch.testing.assert_close(*same_loss, rtol=1e-4, atol=1e-4)


def test_pytorch_oods_ii_still_has_its_faults():
    """Think of taking pytorch-ood's IILoss once one of these fails."""
    loss = pood.IILoss(n_classes=CLASSES, n_embedding=6)
    assert loss(numbers(3, 6), torch.ones(3).long()) < -1e23, "one class: minus the diagonal"
    assert loss.centers.centers.requires_grad, "the graph of every batch is kept"
    late = pood.IILoss(n_classes=CLASSES, n_embedding=1)
    late(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]))
    late(torch.tensor([[8.0], [2.0]]), torch.tensor([3, 1]))
    assert late.centers.centers[3] == 4, "half of 8: a batch without the class counted as 0"


@pytest.mark.parametrize("radius", [0.0, 2.0])
def test_the_center_loss_and_the_centres_moves_are_the_papers(radius):
    f = numbers(5, 6)
    module = Centers(CLASSES, 6, rate=0.5, radius=radius)
    start = numbers(CLASSES, 6, seed=1).detach()
    module.centers.copy_(start)
    plain = 0.0
    for row, label in zip(f, KNOWN, strict=True):
        plain = plain + torch.clamp(square(row, start[label]) - radius**2, min=0) / 2 / 5
    same(module.pull(f, KNOWN), plain, f)
    for c in range(CLASSES):
        mine = f.detach()[c == KNOWN]
        step = sum((start[c] - row for row in mine), torch.zeros(6)) / (1 + len(mine))
        torch.testing.assert_close(module.centers[c], start[c] - 0.5 * step)
    theirs = pood.CenterLoss(n_classes=CLASSES, n_dim=6, radius=radius**2)
    theirs.centers.params.data = start
    torch.testing.assert_close(plain, theirs(theirs.distance(f), KNOWN) * CLASSES / 2)


def test_hyperspheres_are_the_papers_formula():
    d, plain = numbers(5).square(), 0.0
    d.retain_grad()
    for row, label in zip(d, KNOWN, strict=True):
        others = sum(torch.exp(row[label] - row[c]) for c in range(CLASSES) if c != label)
        near = torch.clamp(row[label] - 1.5**2, min=0)
        plain = plain + (0.5 * near + 2.0 * torch.log(1 + others)) / 5
    ours = hypersphere_term(d, KNOWN, radius=1.5, weight_center=0.5, weight_nll=2.0)
    same(ours, plain, d)


def test_the_outliers_of_hyperspheres_keep_radius_and_margin():
    d, plain = numbers(8).square(), 0.0
    for row, label in zip(d, MIXED, strict=True):
        if label < 0:
            plain = plain + sum(torch.clamp(2.0**2 - v, min=0) for v in row) / 3
    same(sphere_margin_term(d, MIXED, reach=2.0), plain, d)


def test_pytorch_oods_mchad_still_squares_squared_distances():
    """Think of taking pytorch-ood's MCHADLoss once one of these fails."""
    d = numbers(8).square().detach()
    regular = CenterRegularizationLoss(margin=2.0)
    sum_of_fourth = (2.0**2 - d[5:] ** 2).relu().sum()
    torch.testing.assert_close(regular(d, MIXED), sum_of_fourth)
    assert (regular(d, MIXED) / 3 - sphere_margin_term(d, MIXED, reach=2.0)).abs() > 0.1
    only_near = pood.MCHADLoss(CLASSES, CLASSES, radius=1.5, weight_nll=0, weight_oe=0)
    divided = (d[:5].gather(1, KNOWN[:, None]) - 1.5).relu().mean() / CLASSES
    torch.testing.assert_close(only_near(d[:5], KNOWN), divided)


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_hyperspheres_are_pytorch_oods_but_for_radius_and_classes(radius):
    z = numbers(5)
    theirs = pood.MCHADLoss(
        CLASSES, CLASSES, radius=radius**2, weight_center=0.5 * CLASSES, weight_nll=2.0
    )
    theirs.centers.params.data = numbers(CLASSES, seed=1).detach()
    d = theirs.distance(z)
    ours = hypersphere_term(d, KNOWN, radius=radius, weight_center=0.5, weight_nll=2.0)
    same(ours, theirs(d, KNOWN), z)


def test_the_centres_become_part_of_the_head():
    spheres = Hyperspheres(example_classifier(), numbers(CLASSES, seed=1).detach())
    with torch.no_grad():
        images = example_set().images / 255
        z = spheres.model(images)
        minus_d = spheres(images)
        literal = torch.stack([torch.stack([-square(p, m) for m in spheres.centers]) for p in z])
        torch.testing.assert_close(minus_d, literal)
        plain = folded(spheres)
        logits = plain(images)
    torch.testing.assert_close(logits, minus_d + z.square().sum(dim=1, keepdim=True))
    torch.testing.assert_close(logits.softmax(dim=1), minus_d.softmax(dim=1))
    assert torch.equal(logits.argmax(dim=1), minus_d.argmax(dim=1))
    assert isinstance(plain, Classifier)
    assert sorted(plain.state_dict()) == sorted(example_classifier().state_dict())


def test_the_centres_start_at_the_mean_logits_of_each_class_scaled():
    data, model = example_set(30), example_classifier()
    with torch.no_grad():
        z = model(data.images / 255)
        spheres = one("loss:MCHAD").prepare(model, Loader(data, batch_size=7)).model
        points = spheres.model(data.images / 255)
    scale = (points / z).mean()
    torch.testing.assert_close(points, scale * z)
    means = torch.stack([points[data.labels == c].mean(dim=0) for c in range(CLASSES)])
    torch.testing.assert_close(spheres.centers.detach(), means, rtol=1e-3, atol=1e-4)
    apart = (points - means[data.labels]).square().sum(dim=1)
    assert apart.mean().item() == pytest.approx(1, rel=1e-3)


# --- confidence


def test_confidence_is_the_formula_and_pytorch_oods_with_a_hint_for_all():
    z, f = numbers(5), numbers(5, 6, seed=1)
    branch = ConfidenceBranch(6, alpha=0.7, budget=0.3, hints=1.0)
    c = branch.branch(f).sigmoid()
    plain = 0.0
    for row, label, sure in zip(z, KNOWN, c[:, 0], strict=True):
        p = torch.exp(log_softmax_of(row, label))
        plain = plain - (torch.log(sure * p + 1 - sure) + 0.7 * torch.log(sure)) / 5
    weights = list(branch.branch.parameters())
    same(branch.term(z, f, KNOWN), plain, z, f, *weights)
    branch.weight.fill_(0.7)
    same(branch.term(z, f, KNOWN), pood.ConfidenceLoss(alpha=0.7)(z, c, KNOWN), z, f)


def test_some_images_get_no_hint_and_pay_the_price_all_the_same():
    z, f = numbers(2000, 2), numbers(2000, 1, seed=1)
    branch = ConfidenceBranch(1, alpha=0.0, budget=0.3, hints=0.25)
    labels = torch.zeros(2000, dtype=torch.int64)
    torch.manual_seed(0)
    gradient = torch.autograd.grad(branch.term(z, f, labels), f)[0]
    assert (gradient != 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    paid = ConfidenceBranch(1, alpha=1.0, budget=0.3, hints=0.25)
    assert (torch.autograd.grad(paid.term(z, f, labels), f)[0] != 0).all()


@pytest.mark.parametrize(("bias", "factor"), [(5.0, 1 / 1.01), (-5.0, 1 / 0.99)])
def test_the_weight_keeps_the_price_near_the_budget(bias, factor):
    branch = ConfidenceBranch(6, alpha=0.1, budget=0.3, hints=0.5)
    nn.init.zeros_(branch.branch.weight)
    nn.init.constant_(branch.branch.bias, bias)  # surer: a lower price
    for step in (1, 2):
        branch.term(numbers(5), numbers(5, 6), KNOWN)
        assert branch.weight.item() == pytest.approx(0.1 * factor**step)


# --- VOS


def as_pytorch_ood(ours: EnergyRegression) -> tuple[nn.Linear, nn.Linear]:
    phi, weights = nn.Linear(1, 2), nn.Linear(CLASSES, 1)
    with torch.no_grad():
        phi.weight.copy_(-ours.slopes[:, None])  # their energy has the other sign
        phi.bias.copy_(ours.offsets)
        weights.weight.copy_(ours.class_weights[None])
    return phi, weights


def regression(module: EnergyRegression) -> EnergyRegression:
    with torch.no_grad():
        module.class_weights.copy_(torch.tensor([0.3, 0.9, -0.2, 0.5]))
        module.slopes.copy_(torch.tensor([0.4, -0.7]))
        module.offsets.copy_(torch.tensor([0.1, 0.6]))
    return module


def test_the_regression_is_the_formula_and_pytorch_oods():
    z, plain = numbers(8), 0.0
    module = regression(EnergyRegression(CLASSES, alpha=0.2))
    w, a, b = module.class_weights, module.slopes, module.offsets
    for row, label in zip(z, MIXED, strict=True):
        energy = torch.log(sum(w[c] * torch.exp(row[c]) for c in range(CLASSES) if w[c] > 0))
        told = [a[i] * energy + b[i] for i in range(2)]
        plain = plain - 0.2 * log_softmax_of(told, int(label >= 0)) / 8
    same(module.term(z, MIXED), plain, z, w, a, b)
    theirs = pood.VOSRegLoss(*as_pytorch_ood(module), alpha=0.2)
    same(module.term(z, MIXED) + F.cross_entropy(z[:5], KNOWN), theirs(z, MIXED), z)


def test_the_regression_is_finite_where_every_weight_is_negative():
    module = EnergyRegression(CLASSES, alpha=0.2)
    nn.init.constant_(module.class_weights, -1.0)
    z = numbers(8)
    module.term(z, MIXED).backward()
    assert z.grad.isfinite().all()
    assert module.class_weights.grad.isfinite().all()


def vos(kept: int, dim: int = 3, **settings) -> VirtualOutliers:
    settings = {"alpha": 0.2, "select": 1, "sample_from": 50, **settings}
    torch.manual_seed(0)
    module = VirtualOutliers(CLASSES, dim, kept=kept, **settings)
    regression(module)
    return module


def test_vos_is_pytorch_oods_with_the_same_outliers(monkeypatch):
    head, made = nn.Linear(3, CLASSES), numbers(4, 3, seed=7).detach()
    ours = vos(kept=2)
    theirs = pood.VirtualOutlierSynthesizingRegLoss(
        *as_pytorch_ood(ours), fc=head, alpha=0.2, sample_number=2
    )
    monkeypatch.setattr(ours, "synthesise", lambda: made)
    monkeypatch.setattr(theirs, "_sample_virtual_outliers", lambda: made)
    labels = torch.tensor([2, 0, 3, 2, 1])
    reached = 0
    for step in range(6):
        f = numbers(5, 3, seed=step)
        z = head(f)
        mine = F.cross_entropy(z, labels) + ours.virtual_term(head, z, f, labels)
        same(mine, theirs(z, f, labels), f)
        reached += int(ours.full())
    assert 0 < reached < 6
    for c in range(CLASSES):
        kept = sorted(ours.queue[c, :2].tolist())
        assert kept == sorted(theirs.data_dict[c].tolist())


def test_vos_keeps_the_latest_features_of_each_class():
    module = vos(kept=3)
    latest = [deque(maxlen=3) for _ in range(CLASSES)]
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        labels = torch.randint(0, CLASSES, (5,), generator=generator)
        if step % 5 == 4:
            labels = torch.tensor([1, 1, 1, 2, 0])
        f = numbers(5, 3, seed=step).detach()
        module._keep(f, labels)
        for row, label in zip(f, labels, strict=True):
            latest[label].append(row.tolist())
        assert bool(module.full()) == all(len(queue) == 3 for queue in latest)
    for c in range(CLASSES):
        assert sorted(module.queue[c, :3].tolist()) == sorted(latest[c])
    module._keep(numbers(5, 3).detach(), torch.ones(5).long())
    first = sorted(numbers(5, 3).detach()[:3].tolist())
    assert sorted(module.queue[1, :3].tolist()) == first, "of five, the first three"


def test_virtual_outliers_are_the_least_likely_draws_of_each_classs_gaussian():
    torch.manual_seed(0)
    module = vos(kept=40, select=2, sample_from=30)
    spread = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.3, 1.0]])
    kept = torch.randn(CLASSES, 40, 3) @ spread.T + 10 * torch.arange(CLASSES)[:, None, None]
    module.queue[:, :40] = kept
    centred = (kept - kept.mean(dim=1, keepdim=True)).flatten(0, 1)
    covariance = centred.T @ centred / len(centred) + 1e-4 * torch.eye(3)
    gaussian = torch.distributions.MultivariateNormal(kept.mean(dim=1)[1], covariance)
    ours, literal = [], []
    for _ in range(400):
        ours.append(module.synthesise().view(CLASSES, 2, 3)[1])
        draws = gaussian.rsample((30,))
        literal.append(draws[(-gaussian.log_prob(draws)).topk(2).indices])
    # Likelihood and place of both, in distribution: means over 400 batches.
    for made in (ours, literal):
        made[:] = [torch.cat(made)]
    log_p = [gaussian.log_prob(made[0]) for made in (ours, literal)]
    assert log_p[0].mean().item() == pytest.approx(log_p[1].mean().item(), abs=0.15)
    assert log_p[0].std().item() == pytest.approx(log_p[1].std().item(), rel=0.15)
    torch.testing.assert_close(ours[0].mean(dim=0), gaussian.mean, atol=0.5, rtol=0)
    torch.testing.assert_close(ours[0].T.cov(), literal[0].T.cov(), atol=0, rtol=0.5)


def test_vos_keeps_no_more_than_the_smallest_class_has():
    few = example_set(9)  # three images of class 0, two of the others
    model = example_classifier()
    plan = one("loss:VOS").prepare(model, Loader(few, batch_size=4))
    assert plan.model.loss.kept == 2
    assert (
        one("loss:VOS@sample_number=1").prepare(model, Loader(few, batch_size=4)).model.loss.kept
        == 1
    )
    with pytest.raises(UsageError, match=r"example/0 must have two images of each of 4 classes"):
        one("loss:VOS").prepare(model, Loader(example_set(7), batch_size=4))


# --- adapters


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name):
    check_adapter(one(name))


@pytest.fixture(scope="module")
def finetuned() -> str:
    adapted = adapt(one("finetune"), example_classifier(), example_set(), RECIPE, seed=0)
    return weights_hash(adapted.model)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_leaves_the_plain_classifier(name, finetuned):
    adapter, model = one(name), example_classifier()
    outliers = example_outliers() if adapter.needs_outliers else None
    adapted = adapt(adapter, model, example_set(), RECIPE, seed=0, auxiliary=outliers)
    assert adapted.losses[-1] < adapted.losses[0]
    assert type(adapted.model) is Classifier
    assert set(adapted.model.state_dict()) == set(model.state_dict())
    assert weights_hash(adapted.model) != weights_hash(model)
    assert weights_hash(adapted.model) != finetuned


EXPECTED = {
    "loss:LogitNorm@t=0.5": lambda z, f: logit_norm_term(z[:5], KNOWN, t=0.5),
    "loss:CAC@magnitude=3.0:alpha=0.3": lambda z, f: cac_term(
        z[:5], KNOWN, magnitude=3.0, alpha=0.3
    ),
    "loss:Center@weight=0.3:radius=2.0": lambda z, f: (
        F.cross_entropy(z[:5], KNOWN)
        + 0.3 / 2 * (f[:5].square().sum(dim=1) - 2.0**2).clamp(min=0).mean()
    ),
    "loss:II@weight=0.3:alpha=2.0": lambda z, f: (
        F.cross_entropy(z[:5], KNOWN) + 0.3 * ii_term(f[:5], KNOWN, classes=CLASSES, alpha=2.0)
    ),
    "loss:MCHAD@radius=1.5:weight_center=0.2:weight_nll=0.7": lambda z, f: hypersphere_term(
        -z[:5], KNOWN, radius=1.5, weight_center=0.2, weight_nll=0.7
    ),
    "loss:GMCHAD@radius=1.0:margin=2.0:weight_oe=0.3": lambda z, f: (
        hypersphere_term(-z[:5], KNOWN, radius=1.0, weight_center=0.1, weight_nll=1.5)
        + 0.3 * sphere_margin_term(-z, MIXED, reach=3.0)
    ),
    "loss:Entropic@alpha=0.3": lambda z, f: (
        F.cross_entropy(z[:5], KNOWN) + 0.3 * entropic_term(z, MIXED)
    ),
}


@pytest.mark.parametrize("text", EXPECTED)
def test_settings_reach_the_terms(text):
    z, f = -numbers(8).square(), numbers(8, 64, seed=1)
    plan = plan_of(text)
    plan.model.features = f
    loss = (plan.id_loss or F.cross_entropy)(z[:5], KNOWN)
    if plan.outlier_loss is not None:
        loss = loss + plan.outlier_loss(z, MIXED)
    torch.testing.assert_close(loss, EXPECTED[text](z, f))


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("loss:Center@rate=0.2:radius=2.0", {"rate": 0.2, "radius": 2.0}),
        (
            "loss:Confidence@alpha=0.2:budget=0.7:hints=0.1",
            {"weight": 0.2, "budget": 0.7, "hints": 0.1},
        ),
        (
            "loss:VOS@alpha=0.3:sample_number=5:select=2:sample_from=7",
            {"alpha": 0.3, "kept": 5, "select": 2, "sample_from": 7},
        ),
        ("loss:VOSReg@alpha=0.3", {"alpha": 0.3}),
    ],
)
def test_settings_reach_what_is_beside_the_classifier(text, held):
    beside = plan_of(text).model.loss
    assert {name: pytest.approx(float(getattr(beside, name))) for name in held} == held


def test_what_takes_outliers_says_so():
    assert ON_OUTLIERS == ["loss:Entropic", "loss:GMCHAD", "loss:Objectosphere", "loss:VOSReg"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("loss:Center", "loss.centers"),
        ("loss:MCHAD", "centers"),
        ("loss:GMCHAD", "centers"),
        ("loss:Confidence", "loss.branch.weight"),
        ("loss:VOS", "loss.slopes"),
        ("loss:VOSReg", "loss.class_weights"),
    ],
)
def test_what_a_loss_keeps_beside_the_classifier_is_trained_too(name, kept):
    plan = plan_of(name)
    before = plan.model.state_dict()[kept].clone()
    optimizer = torch.optim.SGD([p for p in plan.model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(6 if name == "loss:VOS" else 1):
        optimizer.zero_grad()
        sum(batch_of(plan).terms(plan.model)).backward()
        optimizer.step()
    assert (plan.model.state_dict()[kept] - before).abs().max() > 1e-5


def batch_of(plan, count: int = 16):
    known, unknown = example_set(), example_outliers()
    images, labels = known.images[:count], known.labels[:count]
    if plan.outlier_loss is not None:
        images = torch.cat([images, unknown.images[:count]])
        labels = torch.cat([labels, unknown.labels[:count]])
    return Batch(
        images=images / 255,
        labels=labels,
        count=count,
        id_loss=plan.id_loss or F.cross_entropy,
        outlier_loss=plan.outlier_loss or (lambda logits, labels: logits.new_zeros(())),
        epoch=0,
        epochs=1,
    )


@pytest.mark.parametrize("name", NAMES)
def test_outliers_do_not_reach_the_id_part(name):
    """The ID loss is the same whether or not outliers of another adapter follow in the batch."""
    known = plan_of(f"{name}" if name in ON_OUTLIERS else f"{name}+oe")
    batch = batch_of(known)
    assert (batch.labels[16:] < 0).all()
    known.model.eval()  # BatchNorm sees the whole batch in training
    torch.manual_seed(1)
    together = batch.terms(known.model).id_term
    alone = plan_of(name)
    alone.model.eval()
    logits = alone.model(batch.images[:16])
    torch.manual_seed(1)
    loss = alone.id_loss or F.cross_entropy
    torch.testing.assert_close(together, loss(logits, batch.labels[:16]))


@pytest.mark.parametrize("name", [f"loss:{name}" for name in ON_FEATURES])
def test_the_network_runs_once_for_a_batch(name):
    plan = plan_of(name)
    passes = []
    inner = plan.model.model.net
    inner.conv1.register_forward_hook(lambda *_: passes.append(1))
    sum(batch_of(plan).terms(plan.model)).backward()
    assert len(passes) == 1


@pytest.mark.parametrize("name", [f"loss:{n}" for n in ON_FEATURES if "MCHAD" not in n])
def test_the_logits_are_those_of_the_classifier_itself(name):
    plan, images = plan_of(name), example_set().images / 255
    assert torch.equal(plan.model.eval()(images), plan.model.model(images))


class NoWaiting(TorchDispatchMode):
    """Refuse what needs a tensor's values on the host, for which it waits on a GPU."""

    WAITS = ("local_scalar_dense", "nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.lstrip("_")
        # index, index_put and their kin: the second argument is a list of tensors.
        places = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        by_mask = any(place is not None and place.dtype == torch.bool for place in places)
        if by_mask or name.startswith(self.WAITS):
            raise RuntimeError(f"the host waits for {name}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_does_not_make_the_host_wait(name):
    plan = plan_of(name)
    batch = batch_of(plan)
    with NoWaiting():
        sum(batch.terms(plan.model)).backward()


@pytest.mark.parametrize(
    "waits",
    [
        lambda z, y: pood.LogitNorm()(z, y),
        lambda z, y: pood.EntropicOpenSetLoss()(z, y),
        lambda z, y: z[y < 0].sum(),
        lambda z, y: z.index_put((y < 0,), torch.zeros(())),
        lambda z, y: y.unique(),
    ],
)
def test_the_check_for_waiting_finds_what_waits(waits):
    with NoWaiting(), pytest.raises(RuntimeError, match="the host waits for"):
        waits(numbers(8), MIXED)


# --- names, settings, compositions


def test_a_name_with_a_colon_survives():
    choice = parse_choice("loss:LogitNorm@t=0.1")
    assert (choice.name, choice.settings) == ("loss:LogitNorm", {"t": 0.1})
    adapter = one("loss:Center@weight=0.01:rate=0.2")
    assert hyperparameters(adapter) == {"weight": 0.01, "rate": 0.2, "radius": 0.0}
    text = "loss:Entropic@alpha=0.2+um@constraint=0.15"
    assert adapter_label(parse_adapter(text)) == text
    assert set(hyperparameters(one(text))) == {"loss:Entropic", "um"}


def test_set_changes_a_loss_of_a_suite():
    suite: Suite = load_suite("digits-far-ood").replace(adapters=("none", "loss:LogitNorm"))
    changed = suite.with_setting("loss:LogitNorm.t=0.1")
    assert changed.adapters == ("none", "loss:LogitNorm@t=0.1")


def test_an_unknown_loss_gets_a_hint():
    with pytest.raises(UsageError, match=r"no adapter named 'loss:LogitNrm'.*loss:LogitNorm"):
        one("loss:LogitNrm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss:LogitNorm@t=0", r"t must be a finite number above 0, got 0"),
        ("loss:LogitNorm@t=-1.0", r"t must be"),
        ("loss:LogitNorm@t=nan", r"t must be"),
        ("loss:LogitNorm@tau=1.0", r"no key named 'tau'"),
        ("loss:CAC@magnitude=0", r"magnitude must be"),
        ("loss:CAC@alpha=-0.1", r"alpha must be a finite number, at least 0, got -0.1"),
        ("loss:Center@weight=-1", r"weight must be"),
        ("loss:Center@rate=1.5", r"rate must be above 0 and at most 1, got 1.5"),
        ("loss:Center@radius=-1", r"radius must be"),
        ("loss:II@weight=0", r"weight must be"),
        ("loss:II@alpha=-1", r"alpha must be"),
        ("loss:Confidence@hints=0", r"hints must be"),
        ("loss:Confidence@budget=-0.3", r"budget must be"),
        ("loss:Confidence@alpha=0", r"alpha must be"),
        ("loss:MCHAD@weight_nll=0", r"weight_nll must be"),
        ("loss:MCHAD@margin=2.0", r"no key named 'margin'"),
        ("loss:GMCHAD@margin=0", r"margin must be"),
        ("loss:GMCHAD@weight_center=-1", r"weight_center must be"),
        ("loss:VOS@sample_number=0", r"sample_number must be"),
        ("loss:VOS@sample_number=2.5", r"sample_number must be int, got 2.5"),
        ("loss:VOS@select=9:sample_from=8", r"select \(9\) outliers .* sample_from \(8\) draws"),
        ("loss:VOSReg@alpha=0", r"alpha must be"),
        ("loss:Entropic@alpha=-1", r"alpha must be"),
        ("loss:Objectosphere@xi=0", r"xi must be"),
        ("loss:Objectosphere@alpha=inf", r"alpha must be"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(text, message):
    with pytest.raises(UsageError, match=message) as refused:
        one(text)
    assert text.partition("@")[0] in str(refused.value)


@pytest.mark.parametrize(
    ("text", "parts", "slot"),
    [
        ("loss:LogitNorm+um", "loss:LogitNorm and um", "id_loss"),
        ("um+loss:Center", "um and loss:Center", "id_loss"),
        ("finetune+loss:MCHAD", "finetune and loss:MCHAD", "id_loss"),
        ("loss:CAC+loss:VOS", "loss:CAC and loss:VOS", "id_loss"),
        ("loss:Entropic+oe", "loss:Entropic and oe", "outlier_loss"),
    ],
)
def test_a_clash_names_both(text, parts, slot):
    with pytest.raises(UsageError, match=f"{parts} cannot be composed: each sets {slot}"):
        plan_of(text.replace("um", "um@constraint=0.1"))


@pytest.mark.parametrize(
    "text",
    [
        "oe+loss:MCHAD",
        "loss:VOS+doe@warmup=1",
        "loss:Objectosphere+um",
        "loss:VOSReg+umap",
        "umap+loss:Objectosphere",
        "loss:Entropic+loss:Confidence",
    ],
)
def test_what_sets_other_losses_can_be_joined(text):
    check_adapter(one(text))


def test_umap_freezes_the_classifier_and_not_the_regression():
    plan = plan_of("loss:VOSReg+umap@constraint=0.1")
    trained = {name for name, p in plan.model.named_parameters() if p.requires_grad}
    assert {"loss.slopes", "loss.offsets", "loss.class_weights"} <= trained
    assert "model.net.fc.bias" not in trained


class Small(nn.Module):
    """No `Classifier`."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, CLASSES)

    def forward(self, images):
        return self.fc(images.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_what_reads_features_needs_a_classifier(name):
    train = Loader(example_set(), batch_size=16)
    if name.removeprefix("loss:") not in ON_FEATURES:
        plan = one(name).prepare(Small(), train)
        assert torch.isfinite(sum(batch_of(plan).terms(plan.model)))
        return
    with pytest.raises(UsageError, match=r"needs a um_bench Classifier.*got Small") as refused:
        one(name).prepare(Small(), train)
    assert name.replace("GMC", "MC") in str(refused.value)


def test_two_losses_that_keep_something_beside_the_classifier_are_refused():
    with pytest.raises(UsageError, match=r"loss:Center needs the classifier itself"):
        plan_of("loss:VOSReg+loss:Center")


def test_a_head_that_is_not_one_layer_is_unsupported():
    model = create_backbone(
        "levit_128s", num_classes=CLASSES, preprocessing=Preprocessing(size=224)
    )
    train = Loader(example_set(), batch_size=16)
    with pytest.raises(UnsupportedError, match=r"loss:Center trains the head.*LevitDistilled"):
        one("loss:Center").prepare(model, train)
    assert one("loss:VOSReg").prepare(model, train).model.model is model


def test_what_is_beside_the_classifier_goes_where_it_is():
    plan = plan_of("loss:Center")
    assert isinstance(plan.model, Watched)
    assert isinstance(plan.model, Beside)
    moved = plan.model.to("meta")
    assert {t.device.type for t in moved.state_dict().values()} == {"meta"}
    remade = Watched(moved.model, Centers(CLASSES, 3, rate=0.5, radius=0.0).to("meta"))
    assert remade.loss.centers.device.type == "meta"
