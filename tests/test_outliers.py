"""Training with auxiliary outliers: the terms, the posterior, the perturbation, the adapters."""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_ood.loss import EnergyRegularizedLoss, OutlierExposureLoss
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.linear_model import Ridge
from torch import nn

from um_bench.adapters import (
    Batch,
    Exposure,
    Finetune,
    Plan,
    create,
    hyperparameters,
)
from um_bench.data import Loader
from um_bench.errors import PluginError, UnsupportedError, UsageError
from um_bench.suite import Recipe, parse_adapter
from um_bench.testing import check_adapter, example_classifier, example_outliers, example_set
from um_bench.training import adapt
from um_bench_outliers import DOE, OE, POEM, Energy, energy_term, oe_term
from um_bench_outliers.doe import (
    Perturbing,
    clipped,
    perturbed,
    surrogate,
    surrogate_direction,
)
from um_bench_outliers.poem import Mining
from um_bench_outliers.posterior import posterior, weighted_sums

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01, augmentation="none")
LABELS = torch.tensor([2, 0, -1, 1, -1, -1, 0])
"""Four ID images, three outliers: the means over each, and over all, differ."""


class Small(nn.Module):
    """A classifier of 8x8 images with eight features, fast enough for many epochs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()
        )
        self.fc = nn.Linear(8, 4)

    def features(self, images):
        return self.body(images).mean(dim=(2, 3))

    def forward(self, images):
        return self.fc(self.features(images))


def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Small().eval()


def logits(scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def gradient(loss_of, at: torch.Tensor) -> torch.Tensor:
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(loss_of(leaf), leaf)[0]


# --- terms


def plain_oe(z: torch.Tensor, alpha: float) -> torch.Tensor:
    rows = [z[i] for i in range(7) if LABELS[i] < 0]
    each = [torch.log(sum(torch.exp(v) for v in row)) - sum(row) / 3 for row in rows]
    return alpha * sum(each) / 3


def plain_energy(z: torch.Tensor, alpha: float, m_in: float, m_out: float) -> torch.Tensor:
    total = 0.0
    for row, label in zip(z, LABELS, strict=True):
        energy = -torch.log(sum(torch.exp(v) for v in row))
        if label < 0:
            total = total + max(torch.zeros(()), m_out - energy) ** 2 / 3
        else:
            total = total + max(torch.zeros(()), energy - m_in) ** 2 / 4
    return alpha * total


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_oe_term_and_its_gradient_are_the_formula_over_outliers_alone(alpha):
    z = logits(2.0)
    torch.testing.assert_close(oe_term(z, LABELS, alpha=alpha), plain_oe(z, alpha))
    ours = gradient(lambda z: oe_term(z, LABELS, alpha=alpha), z)
    torch.testing.assert_close(ours, gradient(lambda z: plain_oe(z, alpha), z))
    assert ours[LABELS >= 0].abs().max() == 0
    flat = torch.full((7, 3), 4.0)
    assert oe_term(flat, LABELS, alpha=alpha).item() == pytest.approx(alpha * math.log(3))
    assert oe_term(z, LABELS, alpha=alpha) > alpha * math.log(3)


@pytest.mark.parametrize("margins", [(-25.0, -7.0), (-3.0, -1.0), (-2.0, 5.0)])
def test_the_energy_term_and_its_gradient_are_the_formula_over_each_kind(margins):
    m_in, m_out = margins
    for z in (logits(2.0), logits(12.0)):

        def ours(z):
            return energy_term(z, LABELS, alpha=0.1, margin_in=m_in, margin_out=m_out)

        def plain(z):
            return plain_energy(z, 0.1, m_in, m_out)

        torch.testing.assert_close(ours(z), plain(z))
        torch.testing.assert_close(gradient(ours, z), gradient(plain, z))
    # Low energy of outliers and high energy of ID images cost; the other way round is free.
    sure, unsure = torch.tensor([[30.0, 0, 0]]), torch.zeros(1, 3)
    wrong = energy_term(torch.cat([unsure, sure]), torch.tensor([0, -1]))
    right = energy_term(torch.cat([sure, unsure]), torch.tensor([0, -1]))
    assert wrong == pytest.approx(0.1 * ((25 - math.log(3)) ** 2 + 23**2), rel=1e-4)
    assert right == 0


def test_the_energy_term_is_pytorch_oods_loss_without_its_cross_entropy():
    z = logits(12.0)

    def theirs(z):
        return EnergyRegularizedLoss(alpha=0.1, margin_in=-25.0, margin_out=-7.0)(z, LABELS)

    def ours(z):
        known = LABELS >= 0
        return F.cross_entropy(z[known], LABELS[known]) + energy_term(z, LABELS)

    torch.testing.assert_close(ours(z), theirs(z))
    torch.testing.assert_close(gradient(ours, z), gradient(theirs, z))


def test_pytorch_oods_oe_loss_of_a_whole_batch_divides_by_all_rows():
    # Why `oe_term` hands it the outliers alone.
    z, known = logits(), LABELS >= 0
    whole = OutlierExposureLoss(alpha=0.5)(z, LABELS)
    ce = F.cross_entropy(z[known], LABELS[known])
    assert whole == pytest.approx((4 * ce + 3 * oe_term(z, LABELS)).item() / 7)
    assert abs(whole - (ce + oe_term(z, LABELS))) > 0.3


TERMS = {
    "oe": lambda z: plain_oe(z, 0.5),
    "energy": lambda z: plain_energy(z, 0.1, -25, -7),
    "poem": lambda z: plain_energy(z, 0.1, -25, -7),
    "doe": lambda z: plain_oe(z, 1.0),
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("side", [-1, 1], ids=["below", "above"])
def test_um_acts_on_the_id_term_alone(name, side):
    order = (LABELS < 0).long().argsort(stable=True)  # a batch has its ID images first
    z, count = logits(3.0), 4
    ce = F.cross_entropy(z[order][:count], LABELS[order][:count]).item()
    constraint = ce * (1 - 0.5 * side)
    model = example_classifier()
    adapter = create(parse_adapter(f"{name}+um@constraint={constraint}"))
    plan = adapter.prepare(model, Loader(example_set(), batch_size=16))

    def ours(z):
        batch = Batch(
            images=z[order],
            labels=LABELS[order],
            count=count,
            id_loss=plan.id_loss,
            outlier_loss=plan.outlier_loss,
            epoch=0,
            epochs=2,
        )
        terms = batch.terms(nn.Identity())
        return terms.id_term + terms.outlier_term

    def plain(z):
        known = LABELS >= 0
        return side * F.cross_entropy(z[known], LABELS[known]) + TERMS[name](z)

    torch.testing.assert_close(gradient(ours, z), gradient(plain, z))
    flood = abs(ce - constraint) + constraint
    assert ours(z).item() == pytest.approx(flood + TERMS[name](z).item(), rel=1e-5)
    assert plan.notes.keys() == {"um.constraint", "um.starting_loss"}
    assert plan.notes["um.constraint"] == constraint


# --- adapters


@pytest.mark.parametrize("um", ["", "+um@constraint=0.3"], ids=["alone", "with-um"])
@pytest.mark.parametrize("name", TERMS)
def test_they_keep_the_promises_of_an_adapter(name, um):
    check_adapter(create(parse_adapter(name + um)))


@dataclass(frozen=True, kw_only=True)
class Deaf(OE):
    """Asks for outliers and does not listen to them."""

    def prepare(self, model, train):
        return Plan(model=model, outlier_loss=lambda logits, labels: 0 * logits.sum())


class AllAtOnce(Exposure):
    def backward(self, model, batch):
        loss = batch.id_loss(model(batch.images), batch.labels)
        loss.backward()
        return loss.detach()


@dataclass(frozen=True, kw_only=True)
class Leaking(OE):
    """Trains on outliers as if they were ID images."""

    def prepare(self, model, train):
        def loss(logits, labels):
            return F.cross_entropy(logits, labels % 4)

        return Plan(model=model, id_loss=loss, outlier_loss=oe_term, exposure=AllAtOnce())


@dataclass(frozen=True, kw_only=True)
class Idle(Finetune):
    """Asks for outliers and has no loss for them."""

    needs_outliers: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("adapter", "rule"),
    [
        (Idle(), "Idle asks for auxiliary outliers, so it learns from them"),
        (Deaf(), "Deaf asks for auxiliary outliers, so it learns from them"),
        (Leaking(), r"Leaking keeps auxiliary outliers \(labels < 0\) out of the ID loss"),
    ],
)
def test_each_rule_about_outliers_bites(adapter, rule):
    with pytest.raises(PluginError, match=rule):
        check_adapter(adapter)


def test_defaults_are_the_sourced_ones_and_settings_are_taken():
    assert hyperparameters(OE()) == {"alpha": 0.5}
    assert hyperparameters(Energy()) == {"alpha": 0.1, "margin_in": -25.0, "margin_out": -7.0}
    poem = hyperparameters(POEM())
    assert (poem["conf"], poem["sigma"], poem["sigma_n"], poem["buffer"]) == (3.9, 20.0, 0.5, 4)
    assert poem["pool"] * 50_000 == 200 * 2_000
    doe = hyperparameters(DOE())
    assert (doe["alpha"], doe["warmup"], doe["clip"]) == (1.0, 5, 1.0)
    assert doe["gammas"] == (1e-1, 1e-2, 1e-3, 1e-4)
    adapter = create(parse_adapter("doe@gammas=[0.5, 0.1]:ascend=true"))
    assert adapter == DOE(gammas=(0.5, 0.1), ascend=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oe@alpha=0", "alpha is the weight of the outlier term"),
        ("energy@alpha=-1", "alpha is the weight of the outlier term"),
        ("energy@margin_in=-5", r"margin_in \(-5\) must be below margin_out"),
        ("poem@sigma_n=0", "sigma_n must be a positive number"),
        ("poem@buffer=0", "buffer must be at least 1"),
        ("doe@warmup=-1", "warmup must be at least 0"),
        ("doe@gammas=[]", "gammas must be one positive number or more"),
        ("doe@smoothing=1.0", r"smoothing must be in \[0, 1\)"),
        ("doe@clip=0.0", "clip must be a positive norm"),
        ("poem@alpha=inf", "alpha is the weight"),
    ],
)
def test_settings_that_make_no_sense_are_named(text, message):
    with pytest.raises(UsageError, match=message):
        create(parse_adapter(text))


@pytest.mark.parametrize("label", ["oe+umap@constraint=0.3", "doe+umap@constraint=0.3:scope=model"])
def test_umap_composes_in_the_same_way(label):
    base = example_classifier()
    adapted = train(label)
    for before, after in zip(base.modules(), adapted.model.modules(), strict=True):
        if isinstance(after, nn.Conv2d):
            kept = after.weight != 0
            assert torch.equal(after.weight[kept], before.weight[kept])
            assert int((~kept).sum()) > 0


def train(label, recipe=RECIPE, **options):
    options = {"seed": 0, "auxiliary": example_outliers(), **options}
    adapter = create(parse_adapter(label))
    return adapt(adapter, example_classifier(), example_set(), recipe, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TERMS)
def test_a_gpu_learns_as_a_cpu_does(name):
    here, there = (train(name, device=device).losses for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=0.05)


def entropy(model) -> float:
    with torch.no_grad():
        probability = model(example_outliers(seed=5).images / 255).softmax(dim=1)
    return torch.special.entr(probability).sum(dim=1).mean().item()


def test_outliers_are_unlearned_where_finetuning_does_not():
    recipe = Recipe(epochs=4, batch_size=32, lr=0.05, augmentation="none")
    tuned, exposed, perturbed = (entropy(train(a, recipe).model) for a in ("finetune", "oe", "doe"))
    assert min(exposed, perturbed) > tuned + 0.2


# --- posterior


def regression(count: int = 40, width: int = 6):
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(count, width, dtype=torch.float64, generator=generator)
    targets = torch.where(features.sum(dim=1) > width / 2, 3.9, -3.9)
    return features, targets.double()


def test_the_posterior_is_the_closed_form():
    z, y = regression()
    sigma, sigma_n = 20.0, 0.5
    found = posterior(z.T @ z, z.T @ y, prior=sigma, noise=sigma_n)
    covariance = np.linalg.inv(z.T.numpy() @ z.numpy() / sigma_n + np.eye(6) / sigma)
    mean = covariance @ z.T.numpy() @ y.numpy() / sigma_n
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    ridge = Ridge(alpha=sigma_n / sigma, fit_intercept=False).fit(z, y)
    np.testing.assert_allclose(found.mean, ridge.coef_, rtol=1e-8)


def test_the_posterior_predicts_as_a_gaussian_process_does():
    z, y = regression()
    kernel = 20.0 * DotProduct(sigma_0=0, sigma_0_bounds="fixed")
    process = GaussianProcessRegressor(kernel, alpha=0.5, optimizer=None).fit(z, y)
    new = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mean, deviation = process.predict(new, return_std=True)
    found = posterior(z.T @ z, z.T @ y, prior=20.0, noise=0.5)
    np.testing.assert_allclose(new @ found.mean, mean, rtol=1e-6)
    ours = (new @ found.covariance * new).sum(dim=1).sqrt()
    np.testing.assert_allclose(ours, deviation, rtol=1e-6)


def test_draws_have_the_posteriors_mean_and_covariance():
    z, y = regression()
    found = posterior(z.T @ z, z.T @ y, prior=20.0, noise=0.5)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([found.draw(generator) for _ in range(4000)])
    scale = found.covariance.diagonal().sqrt()
    assert ((draws.mean(dim=0) - found.mean) / scale).abs().max() < 4 / math.sqrt(4000)
    correlation = draws.T.cov() / torch.outer(scale, scale)
    expected = found.covariance / torch.outer(scale, scale)
    torch.testing.assert_close(correlation, expected, atol=0.07, rtol=0)


def test_no_data_leave_the_prior_and_weights_count_rows_several_times():
    nothing = posterior(torch.zeros(3, 3), torch.zeros(3), prior=20.0, noise=0.5)
    torch.testing.assert_close(nothing.covariance, 20.0 * torch.eye(3).double())
    assert torch.equal(nothing.mean, torch.zeros(3).double())
    z, _ = regression(10)
    times = torch.tensor([1, 0, 3, 2, 1, 1, 4, 0, 1, 2])
    repeated = z.repeat_interleave(times, dim=0)
    sums = weighted_sums(z.split(4), times)
    torch.testing.assert_close(sums.gram, repeated.T @ repeated)
    torch.testing.assert_close(sums.total, repeated.sum(dim=0))


# --- poem


def mining(monkeypatch, recipe=RECIPE, outliers=None, **settings):
    """Train with POEM; return what it chose, and its posteriors, epoch by epoch."""
    seen: dict[str, list] = {"chosen": [], "posterior": [], "features": [], "buffer": []}
    choose, fit = Mining.choose, Mining.posterior

    def watched_choose(self, model, train, outliers, generator):
        pictures = (outliers.images / 255, train.data.images / 255)
        seen["features"].append([model.features(images).double() for images in pictures])
        seen["buffer"].append([chosen.clone() for chosen in self.seen])
        seen["chosen"].append(choose(self, model, train, outliers, generator))
        return seen["chosen"][-1]

    def watched_fit(self, *arguments):
        seen["posterior"].append(fit(self, *arguments))
        return seen["posterior"][-1]

    monkeypatch.setattr(Mining, "choose", watched_choose)
    monkeypatch.setattr(Mining, "posterior", watched_fit)
    outliers = example_outliers() if outliers is None else outliers
    adapter = POEM(**settings)
    adapt(adapter, small(), example_set(), recipe, seed=0, auxiliary=outliers)
    return seen


LONG = Recipe(epochs=7, batch_size=32, lr=0.01, augmentation="none")


def test_the_buffer_holds_the_last_epochs_whole(monkeypatch):
    # The port's fault: from the fifth epoch on it overwrote one batch's slots again and again, so
    # that nearly all of what it remembered was of the first four epochs.
    seen = mining(monkeypatch, LONG, outliers=example_outliers(600))
    for epoch, buffer in enumerate(seen["buffer"]):
        expected = seen["chosen"][max(0, epoch - 4) : epoch]
        assert len(buffer) == len(expected) == min(4, epoch)
        for ours, theirs in zip(buffer, expected, strict=True):
            assert torch.equal(ours, theirs)
    assert len({tuple(chosen.tolist()) for chosen in seen["chosen"]}) == 7


def test_each_epochs_posterior_is_the_regression_on_what_is_remembered(monkeypatch):
    seen = mining(monkeypatch, LONG, buffer=2)
    first = seen["posterior"][0]
    torch.testing.assert_close(first.covariance, 20.0 * torch.eye(8).double())
    for epoch in range(1, 7):
        remembered = seen["chosen"][max(0, epoch - 2) : epoch]
        unknown, known = seen["features"][epoch]
        z = torch.cat([*[known for _ in remembered], *[unknown[c] for c in remembered]]).numpy()
        y = np.repeat([-3.9, 3.9], [64 * len(remembered)] * 2)
        covariance = np.linalg.inv(z.T @ z / 0.5 + np.eye(8) / 20)
        found = seen["posterior"][epoch]
        np.testing.assert_allclose(found.covariance, covariance, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.mean, covariance @ z.T @ y / 0.5, rtol=1e-3, atol=1e-4)


def test_what_is_mined_lies_nearest_the_drawn_boundary(monkeypatch):
    drawn = []
    kind = type(posterior(torch.eye(2), torch.ones(2), prior=1.0, noise=1.0))
    draw = kind.draw

    def watched(self, generator):
        drawn.append(draw(self, generator))
        return drawn[-1]

    monkeypatch.setattr(kind, "draw", watched)
    seen = mining(monkeypatch, LONG, outliers=example_outliers(80))
    for boundary, chosen, (unknown, _) in zip(drawn, seen["chosen"], seen["features"], strict=True):
        distance = (unknown @ boundary).abs()
        mined = chosen.unique()
        assert len(mined) == 80 // 8  # all 80 are candidates: fewer than 8 for each ID image
        others = torch.ones(80, dtype=torch.bool)
        others[mined] = False
        assert distance[mined].max() <= distance[others].min() + 1e-5
        times = torch.bincount(chosen)[mined]
        assert len(chosen) == 64
        assert times.max() - times.min() <= 1


def test_a_large_set_gives_some_candidates_a_small_one_all(monkeypatch):
    large = mining(monkeypatch, RECIPE, outliers=example_outliers(600))["chosen"]
    assert [len(chosen.unique()) for chosen in large] == [64, 64]
    monkeypatch.undo()
    tiny = mining(monkeypatch, RECIPE, outliers=example_outliers(3))["chosen"]
    assert [len(chosen.unique()) for chosen in tiny] == [1, 1]


def test_poem_needs_features():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(UnsupportedError, match="Sequential has no method `features`"):
        adapt(POEM(), plain, example_set(), RECIPE, seed=0, auxiliary=example_outliers())


# --- doe


def batch(epoch: int = 8, outlier_loss=oe_term) -> Batch:
    return Batch(
        images=torch.cat([example_set(12).images, example_outliers(12).images]) / 255,
        labels=torch.cat([example_set(12).labels, example_outliers(12).labels]),
        count=12,
        id_loss=F.cross_entropy,
        outlier_loss=outlier_loss,
        epoch=epoch,
        epochs=10,
    )


def state(model) -> dict:
    return copy.deepcopy(model.state_dict())


def same_bits(first: dict, second: dict) -> bool:
    return all(
        torch.equal(first[k].reshape(-1).view(torch.uint8), v.reshape(-1).view(torch.uint8))
        for k, v in second.items()
    )


def test_the_surrogate_is_the_squared_slope_of_the_oe_term_in_the_logits_scale():
    z = logits(2.0)

    def plain(z):
        scale = torch.ones(1, requires_grad=True)
        term = oe_term(z * scale, LABELS, alpha=1.0)
        return torch.autograd.grad(term, scale, create_graph=True)[0].square().sum()

    torch.testing.assert_close(surrogate(z, LABELS), plain(z))
    torch.testing.assert_close(
        gradient(lambda z: surrogate(z, LABELS), z), gradient(plain, z), rtol=1e-4, atol=1e-6
    )
    assert surrogate(torch.full((7, 3), 2.0), LABELS) < 1e-12


def test_the_direction_is_the_surrogates_gradient_at_each_weights_own_norm():
    model = small().train()
    found = surrogate_direction(model, batch())
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    assert found.keys() == weights.keys()
    other = copy.deepcopy(small()).train()
    surrogate(other(batch().images), batch().labels).backward()
    for name, weight in other.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name].norm(), weight.detach().norm())
            torch.testing.assert_close(
                found[name] / found[name].norm(), weight.grad / weight.grad.norm()
            )


def test_perturbed_weights_come_back_bit_for_bit_whatever_happens():
    model = small().train()
    direction = surrogate_direction(model, batch())
    before = state(model)
    with perturbed(model, direction, 0.1):
        for name, weight in model.named_parameters():
            moved = before[name] + 0.1 * direction[name] if name in direction else before[name]
            torch.testing.assert_close(weight.detach(), moved)
    assert same_bits(before, {n: p.detach() for n, p in model.named_parameters()})
    # The fault that this is for: going back by subtraction does not arrive.
    name = next(iter(direction))
    back = before[name] + 0.1 * direction[name] - 0.1 * direction[name]
    assert not torch.equal(back, before[name])
    with pytest.raises(ZeroDivisionError), perturbed(model, direction, 0.1):
        raise ZeroDivisionError
    assert same_bits(before, {n: p.detach() for n, p in model.named_parameters()})


@pytest.mark.parametrize("call", [1, 2])
def test_a_failing_loss_leaves_weights_as_they_were(call):
    calls = []

    def failing(logits, labels):
        calls.append(1)
        if len(calls) == call:
            raise ZeroDivisionError
        return oe_term(logits, labels)

    model = small().train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError):
        Perturbing(DOE()).backward(model, batch(outlier_loss=failing))
    assert same_bits(before, {n: p.detach() for n, p in model.named_parameters()})
    if call == 1:  # at perturbed weights: the buffers, too
        assert same_bits(state(small()), state(model))


@pytest.mark.parametrize(("ascend", "clip"), [(False, 1e9), (True, 1e9), (False, 0.03)])
def test_gradients_are_of_oe_at_perturbed_weights_and_of_the_id_term_at_the_weights(ascend, clip):
    settings = DOE(gammas=(0.1,), clip=clip, ascend=ascend)
    model = small().train()
    before = state(model)
    loss = Perturbing(settings).backward(model, batch())
    moved, still = (copy.deepcopy(small()).train() for _ in range(2))
    sign = 1 if ascend else -1
    direction = surrogate_direction(copy.deepcopy(moved), batch())
    with torch.no_grad():
        for name, weight in moved.named_parameters():
            if name in direction:
                weight += sign * 0.1 * direction[name]
    outlier_term = oe_term(moved(batch().images), batch().labels)
    outlier_term.backward()
    id_term = F.cross_entropy(still(batch().images)[:12], batch().labels[:12])
    id_term.backward()
    norms = [nn.utils.clip_grad_norm_(net.parameters(), clip) for net in (moved, still)]
    assert clip > 1 or norms[0] < clip < norms[1]  # each by itself: together, both would shrink
    assert loss.item() == pytest.approx((outlier_term + id_term).item(), rel=1e-5)
    for weight, a, b in zip(
        model.parameters(), moved.parameters(), still.parameters(), strict=True
    ):
        torch.testing.assert_close(weight.grad, a.grad + b.grad, rtol=1e-3, atol=1e-5)
    assert same_bits(before, {n: p.detach() for n, p in model.named_parameters()})
    # BatchNorm has seen one pass, at the weights.
    assert same_bits(state(still), state(model))


@pytest.mark.parametrize("ascend", [False, True])
def test_the_direction_leads_down_the_surrogate_or_up(ascend):
    model = small().train()
    exposure = Perturbing(DOE(ascend=ascend))
    exposure.backward(model, batch())
    values = []
    for size in (0.0, 1e-3):
        with perturbed(model, exposure.direction, size), torch.no_grad():
            values.append(surrogate(model(batch().images), batch().labels).item())
    assert (values[1] > values[0]) is ascend


def test_every_pass_takes_both_parts_and_the_statistics_count_one_of_three():
    model = small().train()
    sizes = []
    model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    exposure = Perturbing(DOE())
    for epoch, passes in ((0, 1), (4, 1), (5, 3), (9, 3)):
        sizes.clear()
        steps = [m.num_batches_tracked.item() for m in model.modules() if hasattr(m, "momentum")]
        exposure.backward(model, batch(epoch))
        assert sizes == [24] * passes
        after = [m.num_batches_tracked.item() for m in model.modules() if hasattr(m, "momentum")]
        assert after == [step + 1 for step in steps]


@pytest.mark.parametrize(
    ("warmup", "epochs", "plain"),
    [(5, 10, 5), (5, 20, 5), (5, 8, 4), (5, 3, 1), (5, 1, 0), (0, 9, 0)],
)
def test_the_warmup_is_at_most_half_of_the_epochs(warmup, epochs, plain):
    model = small().train()
    exposure = Perturbing(DOE(warmup=warmup))
    for epoch in range(min(epochs, 6)):
        own = Batch(**{**vars(batch()), "epoch": epoch, "epochs": epochs})
        exposure.backward(model, own)
        assert bool(exposure.direction) is (epoch >= plain)


def test_in_the_warmup_it_is_oe_with_clipped_gradients():
    model, other = small().train(), small().train()
    loss = Perturbing(DOE(clip=0.1)).backward(model, batch(0))
    logits = other(batch().images)
    plain = F.cross_entropy(logits[:12], batch().labels[:12]) + oe_term(logits, batch().labels)
    plain.backward()
    assert nn.utils.clip_grad_norm_(other.parameters(), 0.1) > 0.2
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_small_gradients_are_not_clipped():
    gradients = [torch.tensor([0.3, 0.0]), torch.tensor([[0.4]])]
    assert all(map(torch.equal, clipped(gradients, 1.0), gradients))
    halved = clipped(gradients, 0.25)
    assert torch.stack([g.norm() for g in halved]).norm() == pytest.approx(0.25, rel=1e-4)


def test_the_direction_is_a_running_mean_and_gamma_is_drawn_anew(monkeypatch):
    model = small().train()
    exposure = Perturbing(DOE(smoothing=0.6))
    exposure.backward(model, batch())
    first = {name: value.clone() for name, value in exposure.direction.items()}
    with torch.no_grad():
        model.fc.weight.add_(0.5)
    second = surrogate_direction(copy.deepcopy(model), batch())
    exposure.backward(model, batch())
    for name, value in exposure.direction.items():
        torch.testing.assert_close(value, 0.6 * first[name] - 0.4 * second[name])
    sizes = []
    monkeypatch.setattr(
        "um_bench_outliers.doe.perturbed",
        lambda model, direction, size: (sizes.append(size), perturbed(model, direction, size))[1],
    )
    torch.manual_seed(0)
    for _ in range(20):
        exposure.backward(model, batch())
    assert set(sizes) == {1e-1, 1e-2, 1e-3, 1e-4}
