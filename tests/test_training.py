"""The training loop and what goes into it: plans, composition, recipe, the mean loss."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from um_bench.adapters import Adapter, Composition, Finetune, NoAdapter, Plan, create
from um_bench.data import ImageSet, Loader, fingerprint
from um_bench.errors import PluginError, UmBenchError, UsageError
from um_bench.suite import Choice, Recipe, parse_adapter
from um_bench.training import adapt, learning_rate, mean_loss, train
from um_bench_um import UM

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.1, augmentation="none", nesterov=True)


def images(count: int = 20) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    return ImageSet("planted", pixels, labels, fingerprint(pixels, labels))


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    ).eval()


def test_the_loop_is_sgd_written_out():
    trained = adapt(Finetune(), net(), images(), RECIPE, seed=5).model
    model = net().train()
    loader = Loader(images(), batch_size=8, shuffle=True, seed=5)
    momentum = {p: torch.zeros_like(p) for p in model.parameters()}
    for epoch in range(3):
        lr = 0.5 * 0.1 * (1 + math.cos(math.pi * epoch / 3))
        for batch, labels in loader.epoch(epoch):
            model.zero_grad()
            F.cross_entropy(model(batch), labels).backward()
            with torch.no_grad():
                for p, velocity in momentum.items():
                    gradient = p.grad + 1e-4 * p
                    velocity.mul_(0.9).add_(gradient)
                    p -= lr * (gradient + 0.9 * velocity)
    for ours, plain in zip(trained.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_cosine_goes_from_the_rate_to_nearly_nothing_and_constant_stays():
    rates = [learning_rate(Recipe(epochs=100, lr=0.1), epoch) for epoch in range(100)]
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert rates[99] == pytest.approx(2.5e-5, rel=0.02)  # METHOD: the authors' last epoch
    assert learning_rate(Recipe(epochs=9, lr=0.3, schedule="constant"), 8) == 0.3


def test_the_mean_loss_counts_every_image_the_same_and_changes_nothing():
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    uneven = Loader(images(), batch_size=7)
    with torch.no_grad():
        plain = F.cross_entropy(net()(images().images / 255), images().labels)
    assert mean_loss(model, uneven) == pytest.approx(plain.item(), rel=1e-5)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_adapter_works_on_a_copy_even_of_a_frozen_base():
    base = net().requires_grad_(False)
    before = copy.deepcopy(base.state_dict())
    adapted = adapt(Finetune(), base, images(), RECIPE, seed=0)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    assert not torch.equal(adapted.model[4].weight, base[4].weight)
    assert len(adapted.losses) == 3
    assert not adapted.model.training
    assert not any(p.requires_grad for p in adapted.model.parameters())


def test_none_trains_nothing():
    adapted = adapt(NoAdapter(), net(), images(), RECIPE, seed=0)
    assert adapted.losses == ()
    for ours, plain in zip(
        adapted.model.state_dict().values(), net().state_dict().values(), strict=True
    ):
        assert torch.equal(ours, plain)


def test_the_seed_decides_the_weights_and_the_random_state_stays():
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, again, other = (adapt(Finetune(), net(), images(), RECIPE, seed=s) for s in (1, 1, 2))
    weights = [a.model[4].weight for a in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.manual_seed(9)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_not_finite_ends_the_training():
    plan = Plan(model=net(), id_loss=lambda logits, labels: logits.sum() * float("nan"))
    with pytest.raises(
        UmBenchError, match=r"diverged: the loss is nan in epoch 1.*lower recipe.lr"
    ):
        train(plan, Loader(images(), batch_size=8), RECIPE)


@dataclass(frozen=True, kw_only=True)
class Outliers(Adapter):
    """Sets the outlier term only, as OE will."""

    weight: float = 0.5

    def prepare(self, model, train):
        def loss(logits, labels):
            return self.weight * logits[labels < 0].sum()

        return Plan(model=model, outlier_loss=loss, notes={"seen": 1.0}, finish=_mark("oe"))


@dataclass(frozen=True, kw_only=True)
class Wrapping(Adapter):
    def prepare(self, model, train):
        return Plan(model=nn.Sequential(model), finish=_mark("wrap"))


ORDER: list[str] = []


def _mark(name):
    def finish(model):
        ORDER.append(name)
        return model[0] if name == "wrap" else model

    return finish


def test_composed_adapters_join_their_terms_left_to_right_and_finish_right_to_left():
    both = Composition(parts=(("wrap", Wrapping()), ("oe", Outliers()), ("um", UM(constraint=0.3))))
    model = net()
    plan = both.prepare(model, Loader(images(), batch_size=8))
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, -1, -1])
    assert plan.outlier_loss(logits, labels) == pytest.approx(0.5 * logits[2:].sum().item())
    plain = F.cross_entropy(logits[:2], labels[:2])
    assert plan.id_loss(logits[:2], labels[:2]) == pytest.approx(abs(plain.item() - 0.3) + 0.3)
    assert plan.notes == {"oe.seen": 1.0, "um.constraint": 0.3}
    ORDER.clear()
    assert plan.finish(plan.model) is model
    assert ORDER == ["oe", "wrap"]


def test_two_adapters_for_one_term_are_named():
    parts = (("finetune", Finetune()), ("um", UM(constraint=0.3)))
    with pytest.raises(UsageError, match="finetune and um cannot be composed: each sets id_loss"):
        Composition(parts=parts).prepare(net(), Loader(images(), batch_size=8))


def test_adapters_are_made_from_what_a_suite_names():
    assert create(parse_adapter("um@constraint=0.15")) == UM(constraint=0.15)
    assert create(parse_adapter("none+um@constraint=0.15")) == Composition(
        parts=(("none", NoAdapter()), ("um", UM(constraint=0.15)))
    )
    for text, message in (
        ("umm", "Did you mean um"),
        ("um@constrain=1", "no key named 'constrain'. Did you mean constraint"),
        ("um@constraint=abc", "constraint must be float or int, got 'abc'"),
        ("um@constraint=0", "positive number of nats"),
        ("um+um", "names an adapter twice"),
    ):
        with pytest.raises(UsageError, match=message):
            create(parse_adapter(text))


def test_what_is_registered_but_is_no_adapter_is_named(monkeypatch):
    from um_bench import adapters

    monkeypatch.setattr(adapters.registry, "load", lambda kind, name: dict)
    with pytest.raises(
        PluginError, match=r"adapter 'um': um_bench_um:UM of um-bench is not a frozen"
    ):
        create((Choice("um", {}),))
