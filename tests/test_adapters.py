"""Adapters joined: "+" (one plan of several) and ">" (one training after another)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from um_bench.adapters import (
    Adapter,
    Composition,
    Exposure,
    Finetune,
    NoAdapter,
    Plan,
    Succession,
    create,
    draw,
    hyperparameters,
)
from um_bench.data import Loader
from um_bench.errors import UsageError
from um_bench.suite import Choice, Recipe, adapter_label, parse_adapter
from um_bench.testing import (
    check_adapter,
    example_classifier,
    example_outliers,
    example_set,
    weights_hash,
)
from um_bench.training import adapt
from um_bench_um import UM

RECIPE = Recipe(epochs=2, batch_size=32, lr=0.01, augmentation="none")


@dataclass(frozen=True, kw_only=True)
class Flat(Adapter):
    """Makes the logits of outliers small."""

    needs_outliers: ClassVar[bool] = True

    def prepare(self, model, train):
        def loss(logits, labels):
            return logits[labels < 0].square().mean()

        return Plan(model=model, outlier_loss=loss, exposure=Exposure())


@dataclass(frozen=True, kw_only=True)
class Exposing(Adapter):
    """Sets the exposure alone, for whatever loss stands beside it."""

    def prepare(self, model, train):
        return Plan(model=model, exposure=Exposure())


def trained(adapter, **options):
    options = {"seed": 0, "auxiliary": example_outliers(), **options}
    return adapt(adapter, example_classifier(), example_set(), RECIPE, **options)


# --- "+"


def test_a_composition_needs_outliers_where_a_part_does():
    assert not Composition(parts=(("none", NoAdapter()), ("um", UM()))).needs_outliers
    assert Composition(parts=(("flat", Flat()), ("um", UM()))).needs_outliers
    assert not Finetune().needs_outliers


def test_the_exposure_comes_from_the_one_part_that_sets_it():
    plan = Composition(parts=(("flat", Flat()), ("um", UM(constraint=0.3)))).prepare(
        example_classifier(), Loader(example_set(), batch_size=16)
    )
    assert type(plan.exposure) is Exposure
    clash = Composition(parts=(("flat", Flat()), ("mine", Exposing())))
    with pytest.raises(UsageError, match="flat and mine cannot be composed: each sets exposure"):
        clash.prepare(example_classifier(), None)


@pytest.mark.parametrize(
    ("label", "names", "slot"),
    [
        ("um+finetune", "um and finetune", "id_loss"),
        ("oe+energy", "oe and energy", "outlier_loss"),
        ("poem+um+doe", "poem and doe", "outlier_loss"),
    ],
)
def test_a_clash_names_both(label, names, slot):
    with pytest.raises(UsageError, match=f"{names} cannot be composed: each sets {slot}"):
        create(parse_adapter(label.replace("um", "um@constraint=0.3", 1)))


def test_a_clash_that_was_not_announced_is_found_when_its_turn_comes():
    @dataclass(frozen=True, kw_only=True)
    class Silent(Adapter):
        def prepare(self, model, train):
            return Plan(model=model, id_loss=torch.nn.functional.cross_entropy)

    both = Composition(parts=(("silent", Silent()), ("um", UM(constraint=0.3))))
    with pytest.raises(UsageError, match="silent and um cannot be composed: each sets id_loss"):
        trained(both)


@pytest.mark.parametrize(("count", "size"), [(5, 12), (12, 12), (30, 12), (4, 1)])
def test_a_draw_takes_every_number_before_one_comes_again(count, size):
    drawn = draw(count, size, torch.Generator().manual_seed(0))
    assert drawn.shape == (count,)
    times = torch.bincount(drawn, minlength=size)
    assert times.max() - times.min() <= 1
    assert times.max() == math.ceil(count / size)
    if count >= size > 1:
        assert drawn[:size].tolist() != list(range(size))


# --- ">"


def test_stages_are_what_a_label_says():
    assert parse_adapter("um>oe+umap@keep=0.9") == (
        (Choice("um", {}),),
        (Choice("oe", {}), Choice("umap", {"keep": 0.9})),
    )
    for label in ("um", "um>oe+umap@keep=0.9", "um>um"):
        assert adapter_label(parse_adapter(label)) == label
    assert create(parse_adapter("um@constraint=0.2")) == UM(constraint=0.2)
    assert create(parse_adapter("um@constraint=0.2 > none+finetune")) == Succession(
        stages=(
            ("um@constraint=0.2", UM(constraint=0.2)),
            (
                "none+finetune",
                Composition(parts=(("none", NoAdapter()), ("finetune", Finetune()))),
            ),
        )
    )
    for text in ("um>", ">oe", "um>>oe"):
        with pytest.raises(UsageError, match='one side of ">" is empty; name an adapter'):
            parse_adapter(text)


def test_each_stage_trains_what_the_last_one_left():
    first = UM(constraint=0.3)
    both = Succession(stages=(("um", first), ("flat", Flat())))
    alone = trained(first)
    done = []
    adapted = trained(both, on_epoch=done.append)
    assert [moment.epoch for moment in done] == [0, 1, 2, 3, 4]
    assert [moment.loss for moment in done] == [None, *adapted.losses]
    assert adapted.losses[:2] == alone.losses
    assert len(adapted.losses) == 4
    assert adapted.notes.keys() == {"1.um.constraint", "1.um.starting_loss"}
    assert adapted.notes["1.um.constraint"] == 0.3
    # The first stage is the adapter alone; the second has a seed of its own.
    assert trained(Succession(stages=(("um", first), ("none", NoAdapter())))).losses == alone.losses
    again = adapt(Flat(), alone.model, example_set(), RECIPE, seed=0, auxiliary=example_outliers())
    assert weights_hash(again.model) != weights_hash(adapted.model)
    assert weights_hash(trained(both).model) == weights_hash(adapted.model)


def test_two_equal_stages_draw_different_numbers():
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Noting(Adapter):
        def prepare(self, model, train):
            seen.append((train.seed, torch.rand(()).item()))
            return Plan(model=model)

    trained(Succession(stages=(("a", Noting()), ("a", Noting()), ("a", Noting()))))
    assert len(set(seen)) == len({number for _, number in seen}) == 3
    assert seen[0][0] == 0


def test_a_succession_needs_outliers_where_a_stage_does():
    both = Succession(stages=(("um", UM(constraint=0.3)), ("flat", Flat())))
    assert both.needs_outliers
    assert not Succession(stages=(("um", UM()), ("finetune", Finetune()))).needs_outliers
    with pytest.raises(UsageError, match="Succession trains on auxiliary outliers"):
        trained(both, auxiliary=None)


def test_a_succession_is_no_part_of_a_composition():
    inner = Succession(stages=(("um", UM()), ("flat", Flat())))
    with pytest.raises(UsageError, match="um>flat is trained stage by stage"):
        trained(Composition(parts=(("a", inner), ("finetune", Finetune()))))


def test_a_succession_keeps_the_promises_of_an_adapter():
    check_adapter(Succession(stages=(("um", UM(constraint=0.3)), ("flat", Flat()))))


def test_hyperparameters_are_given_by_stage():
    both = create(parse_adapter("finetune>oe+um@constraint=0.2"))
    assert hyperparameters(both) == {
        "1.finetune": {},
        "2.oe+um@constraint=0.2": {
            "oe": {"alpha": 0.5},
            "um": {
                "constraint": 0.2,
                "estimate_keep": 0.965,
                "estimate_masks": 5,
                "beta": 1.0,
            },
        },
    }
