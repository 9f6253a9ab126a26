"""The training loop and what goes into it: plans, composition, recipe, the mean loss."""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from um_bench.adapters import Adapter, Composition, Exposure, Finetune, NoAdapter, Plan, create
from um_bench.data import ImageSet, Loader, StreamedSet, fingerprint, load_set
from um_bench.errors import PluginError, UmBenchError, UsageError
from um_bench.suite import Choice, Preprocessing, Recipe, parse_adapter
from um_bench.training import adapt, learning_rate, mean_loss, some_of, train
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
    assert plan.notes.keys() == {"oe.seen", "um.constraint", "um.starting_loss"}
    assert (plan.notes["oe.seen"], plan.notes["um.constraint"]) == (1.0, 0.3)
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
        create(((Choice("um", {}),),))


# --- auxiliary outliers


def outliers(count: int = 30, seed: int = 1) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(100, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.full((count,), -1)
    return ImageSet("noise", pixels, labels, fingerprint(pixels, labels))


def flatten(logits, labels):
    """An outlier term in which ID images count too."""
    weights = torch.where(labels < 0, 0.5, 0.02)
    return (weights * logits.logsumexp(dim=1)).sum() / (labels < 0).sum()


class Watching(Exposure):
    """The default, which remembers what it was given and what it returned."""

    def __init__(self):
        self.chosen, self.batches, self.modes = [], [], []

    def choose(self, model, train, outliers, generator):
        self.modes.append((model.training, torch.is_grad_enabled()))
        self.chosen.append(super().choose(model, train, outliers, generator))
        return self.chosen[-1]

    def backward(self, model, batch):
        assert all(p.grad is None for p in model.parameters())
        self.modes.append((model.training, torch.is_grad_enabled()))
        self.batches.append(batch)
        return super().backward(model, batch)


@dataclass(frozen=True, kw_only=True)
class Exposed(Adapter):
    needs_outliers: ClassVar[bool] = True

    exposure: Exposure | None = None
    id_loss: object = None

    def prepare(self, model, train):
        return Plan(model=model, id_loss=self.id_loss, outlier_loss=flatten, exposure=self.exposure)


def test_training_on_outliers_is_sgd_on_one_pass_over_both_written_out():
    seen = Watching()
    adapted = adapt(Exposed(exposure=seen), net(), images(), RECIPE, seed=5, auxiliary=outliers())
    # In the order of memory in which the loop computes: the same sums, to the last bit.
    model = net().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    losses = []
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.5 * 0.1 * (1 + math.cos(math.pi * epoch / 3))
        others = (outliers().images[seen.chosen[epoch]] / 255).split(8)
        total = 0.0
        loader = Loader(images(), batch_size=8, shuffle=True, seed=5)
        for (known, labels), unknown in zip(loader.epoch(epoch), others, strict=True):
            optimizer.zero_grad()
            logits = model(torch.cat([known, unknown]))
            loss = F.cross_entropy(logits[: len(labels)], labels)
            loss = loss + flatten(logits, torch.cat([labels, torch.full_like(labels, -1)]))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        losses.append(total / 20)
    assert adapted.losses == pytest.approx(losses, rel=1e-5)
    for ours, plain in zip(
        adapted.model.state_dict().values(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, plain)


class Separate(Exposure):
    """The fault that OpenOOD shipped: ID images and outliers in passes of their own."""

    def backward(self, model, batch):
        parts = [model(batch.images[: batch.count]), model(batch.images[batch.count :])]
        logits = torch.cat(parts)
        loss = batch.id_loss(logits[: batch.count], batch.labels[: batch.count])
        loss = loss + batch.outlier_loss(logits, batch.labels)
        loss.backward()
        return loss.detach()


def test_batchnorm_sees_id_images_and_outliers_together():
    brief = Recipe(epochs=1, batch_size=20, lr=1e-9, augmentation="none")

    def statistics(exposure):
        adapter = Exposed(exposure=exposure)
        bn = adapt(adapter, net(), images(), brief, seed=0, auxiliary=outliers(20)).model[1]
        return bn.num_batches_tracked.item(), bn.running_mean, bn.running_var

    both = torch.cat([images().images, outliers(20).images]) / 255
    maps = net()[0](both).transpose(0, 1).flatten(1)
    steps, mean, variance = statistics(None)
    assert steps == 1
    torch.testing.assert_close(mean, 0.1 * maps.mean(dim=1))
    torch.testing.assert_close(variance, 0.9 + 0.1 * maps.var(dim=1))
    steps, mean, variance = statistics(Separate())
    assert steps == 2
    assert not torch.allclose(variance, 0.9 + 0.1 * maps.var(dim=1), rtol=1e-2)


def test_the_id_loss_sees_id_images_alone_and_is_cross_entropy_where_none_is_set():
    counts = []

    def watched(logits, labels):
        counts.append((len(logits), len(labels), labels.min().item()))
        return F.cross_entropy(logits, labels)

    given = adapt(
        Exposed(id_loss=watched), net(), images(), RECIPE, seed=0, auxiliary=outliers()
    ).model
    plain = adapt(Exposed(), net(), images(), RECIPE, seed=0, auxiliary=outliers()).model
    assert torch.equal(given[4].weight, plain[4].weight)
    assert counts == [(8, 8, 0), (8, 8, 0), (4, 4, 0)] * 3


def test_batches_hold_as_many_outliers_as_id_images_and_tell_the_epoch():
    seen = Watching()
    adapt(Exposed(exposure=seen), net(), images(), RECIPE, seed=0, auxiliary=outliers())
    assert [len(batch.images) for batch in seen.batches] == [16, 16, 8] * 3
    for batch in seen.batches:
        assert (batch.labels >= 0).tolist() == [True] * batch.count + [False] * batch.count
    assert [(b.epoch, b.epochs) for b in seen.batches[::3]] == [(0, 3), (1, 3), (2, 3)]
    assert seen.modes == [(False, False), *[(True, True)] * 3] * 3


@pytest.mark.parametrize("size", [1, 7, 20, 50])
def test_outliers_are_drawn_anew_each_epoch_and_evenly(size):
    def chosen(seed):
        seen = Watching()
        adapt(Exposed(exposure=seen), net(), images(), RECIPE, seed=seed, auxiliary=outliers(size))
        return torch.stack(seen.chosen)

    first, again, other = (chosen(seed) for seed in (3, 3, 4))
    assert first.shape == (3, 20)
    assert torch.equal(first, again)
    for epoch in first:
        for start in range(0, 20, size):  # no image comes again before all have come
            turn = epoch[start : start + size]
            assert len(turn.unique()) == len(turn)
    if size > 1:
        assert not torch.equal(first, other)
        assert not torch.equal(first[0], first[1])
    if size > 20:  # a fresh part each epoch
        assert first[0].unique().tolist() != first[1].unique().tolist()


def test_outliers_are_augmented_and_not_as_the_id_images_beside_them():
    seen = Watching()
    one = images(1)
    same = ImageSet("same", one.images.expand(20, -1, -1, -1), images().labels, "")
    twin = ImageSet("twin", one.images.expand(20, -1, -1, -1), torch.full((20,), -1), "")
    recipe = Recipe(epochs=2, batch_size=20, lr=1e-9, augmentation="crop-flip")
    adapt(Exposed(exposure=seen), net(), same, recipe, seed=0, auxiliary=twin)
    for batch in seen.batches:
        assert len(batch.images[20:].unique(dim=0)) > 10
        assert not torch.equal(batch.images[:20], batch.images[20:])
    assert not torch.equal(seen.batches[0].images[20:], seen.batches[1].images[20:])


def test_without_an_outlier_loss_nothing_changes_bit_for_bit():
    alone = adapt(Finetune(), net(), images(), RECIPE, seed=5)
    beside = adapt(Finetune(), net(), images(), RECIPE, seed=5, auxiliary=outliers())
    model = net().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = learning_rate(RECIPE, epoch)
        loader = Loader(images(), batch_size=8, shuffle=True, seed=5)
        for batch, labels in loader.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(batch), labels).backward()
            optimizer.step()
    assert alone.losses == beside.losses
    for name, value in model.state_dict().items():
        assert torch.equal(alone.model.state_dict()[name], value)
        assert torch.equal(beside.model.state_dict()[name], value)


def test_outliers_that_are_missing_or_are_none_are_refused_before_anything_is_done():
    with pytest.raises(UsageError, match="Exposed trains on auxiliary outliers, and none are"):
        adapt(Exposed(), net(), images(), RECIPE, seed=0)
    with pytest.raises(UsageError, match=r"planted: 20 of 20 .* have the label of an ID class"):
        adapt(Exposed(), net(), images(), RECIPE, seed=0, auxiliary=images())
    plan = Plan(model=net(), outlier_loss=flatten)
    with pytest.raises(UsageError, match="give a set of outliers as `auxiliary`"):
        train(plan, Loader(images(), batch_size=8), RECIPE)


@dataclass(frozen=True, kw_only=True)
class Aimless(Adapter):
    def prepare(self, model, train):
        return Plan(model=model, id_loss=F.cross_entropy, exposure=Exposure())


class Choosing(Exposure):
    def __init__(self, chosen):
        self.chosen = chosen

    def choose(self, model, train, outliers, generator):
        return self.chosen


def test_a_plan_that_breaks_the_contract_is_the_plugins_fault():
    with pytest.raises(PluginError, match=r"Outliers.needs_outliers is False.*set needs_outliers"):
        adapt(Outliers(), net(), images(), RECIPE, seed=0, auxiliary=outliers())
    with pytest.raises(PluginError, match="an exposure, but no outlier_loss"):
        adapt(Aimless(), net(), images(), RECIPE, seed=0, auxiliary=outliers())
    few, far, floats = torch.arange(5), torch.full((20,), 30), torch.rand(20)
    for chosen in (few, far, -torch.ones(20, dtype=torch.int64), floats):
        adapter = Exposed(exposure=Choosing(chosen))
        with pytest.raises(PluginError, match=r"Choosing.choose must return 20 positions in 0..29"):
            adapt(adapter, net(), images(), RECIPE, seed=0, auxiliary=outliers())


def test_streamed_outliers_give_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("UM_BENCH_WORKERS", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for index in range(9):
        path = tmp_path / "aux" / "any" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), 20 * index, dtype=np.uint8)).save(path)
    settings = {"data_dir": tmp_path, "preprocessing": Preprocessing(size=4), "ood": True}
    sets = [load_set("folder/aux", stream=stream, **settings) for stream in (False, True)]
    # Some of a streamed set stays streamed, some of that as well.
    parts = [some_of(some_of(data, torch.arange(8, 0, -1)), torch.arange(7)) for data in sets]
    assert [isinstance(part, StreamedSet) for part in parts] == [False, True]
    assert torch.equal(parts[0].images, sets[0].images[torch.arange(8, 1, -1)])
    models = [
        adapt(Exposed(), net(), images(), RECIPE, seed=0, auxiliary=part).model for part in parts
    ]
    assert torch.equal(models[0][4].weight, models[1][4].weight)
