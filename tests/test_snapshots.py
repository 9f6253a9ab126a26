"""A plain copy of a model in training: whatever is done with it, training does not notice."""

import contextlib
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from um_bench import snapshots, training
from um_bench.adapters import Adapter, Plan, create
from um_bench.backbones import weights_hash
from um_bench.errors import PluginError
from um_bench.suite import Recipe, parse_adapter
from um_bench.testing import example_classifier, example_outliers, example_set
from um_bench.training import adapt

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05, augmentation="crop")


def ended(label, on_epoch):
    """The weights that an adapter comes to, watched so."""
    options = {"auxiliary": example_outliers(), "on_epoch": on_epoch, "seed": 3}
    adapter = create(parse_adapter(label))
    return weights_hash(
        adapt(adapter, example_classifier(), example_set(), RECIPE, **options).model
    )


def meddle(moment):
    """Do with the copy what must not be done with the model, and draw random numbers."""
    model = moment.plain()
    assert not any(part.training for part in model.modules())
    model.train().requires_grad_(True)
    F.cross_entropy(model(torch.rand(8, 3, 8, 8)), torch.arange(8) % 4).backward()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()


def look_away(_):
    return


# Masks that are ranked jointly; a loss with activations and parameters of its own that draws random
# numbers at every step; two trainings, outliers, a perturbed model. The others: `check_adapter`.
WATCHED = ["umap@constraint=0.4:scope=model", "loss:Confidence", "um@constraint=0.4>doe"]


@pytest.mark.parametrize("label", WATCHED)
def test_whatever_is_done_with_the_copy_the_weights_are_the_same(label):
    assert ended(label, meddle) == ended(label, look_away)


@pytest.mark.parametrize(
    ("label", "module", "name", "fault"),
    [
        ("finetune", training, "plain_copy", lambda plan: plan.model.eval()),
        ("loss:Confidence", training, "_own_randomness", lambda _: contextlib.nullcontext()),
        ("umap@constraint=0.4", snapshots, "_take_own_class", lambda _: None),
        ("finetune", snapshots, "_copied", lambda model: model),
    ],
)
def test_a_fault_in_the_copy_would_be_found(label, module, name, fault, monkeypatch):
    before = ended(label, look_away)
    monkeypatch.setattr(module, name, fault)
    try:
        after = ended(label, meddle)
    except Exception as error:  # whichever way it breaks
        after = str(error)
    assert after != before


def closing(finish):
    @dataclass(frozen=True, kw_only=True)
    class Closing(Adapter):
        def prepare(self, model, train):
            handle = model.register_forward_hook(lambda *_: None)
            return Plan(
                model=model,
                id_loss=F.cross_entropy,
                finish=lambda given: finish(model, given, handle),
            )

    return Closing()


def unhooked(model, given, handle):
    handle.remove()
    return given


@pytest.mark.parametrize(
    ("finish", "words"),
    [
        (unhooked, "reaches the model that is being trained"),
        (lambda model, given, handle: model, "reaches the model that is being trained"),
        (lambda model, given, handle: given, "leaves a hook on the copy"),
    ],
)
def test_a_finish_that_reaches_past_its_copy_is_refused(finish, words):
    arguments = (closing(finish), example_classifier(), example_set(), RECIPE)
    adapt(*arguments, seed=0)
    with pytest.raises(PluginError, match=words):
        adapt(*arguments, seed=0, on_epoch=meddle)
