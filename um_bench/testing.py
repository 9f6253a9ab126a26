"""The contract that plugins are held to, as checks that their authors call in their own tests."""

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from um_bench.adapters import Adapter, Finetune
from um_bench.backbones import Classifier, create, weights_hash
from um_bench.data import ImageSet, Loader, fingerprint
from um_bench.detectors import DetectorSpec, bind, fit
from um_bench.errors import PluginError
from um_bench.outputs import collect
from um_bench.suite import Choice, Preprocessing, Recipe
from um_bench.training import Adapted, adapt

CLASSES = 4
PREPROCESSING = Preprocessing(size=8, resize="none")
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01, augmentation="none")


def example_set(count: int = 64, seed: int = 0) -> ImageSet:
    """Return small images of four classes that a classifier can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 128, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    for label in range(CLASSES):
        pixels[labels == label, :, label * 2 : label * 2 + 2] += 100
    return ImageSet(f"example/{seed}", pixels, labels, fingerprint(pixels, labels))


def example_classifier(seed: int = 0) -> Classifier:
    """Return an untrained classifier for `example_set`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create("resnet20_cifar", num_classes=CLASSES, preprocessing=PREPROCESSING)


def check_adapter(adapter: Adapter) -> None:
    """Run an adapter on a small example and check what every adapter promises.

    Raises:
        PluginError: naming the promise that is broken.
    """
    name = type(adapter).__name__
    _promise(
        _is_frozen(adapter),
        f"{name} is a frozen dataclass, so that its hyperparameters go into every record",
    )
    model, train = example_classifier(), example_set()
    before, random_state = weights_hash(model), torch.get_rng_state()
    first = adapt(adapter, model, train, RECIPE, seed=0)
    _promise(weights_hash(model) == before, f"{name} changes its own copy of the model only")
    _promise(
        torch.equal(torch.get_rng_state(), random_state), f"{name} leaves the random state alone"
    )
    _check_plain(name, first)
    again = adapt(adapter, model, train, RECIPE, seed=0)
    _promise(
        weights_hash(again.model) == weights_hash(first.model)
        and dict(again.notes) == dict(first.notes),
        f"{name} gives the same weights and notes for the same seed",
    )
    fresh = example_classifier(seed=1)
    fresh.load_state_dict(first.model.state_dict())
    images = train.images / 255
    _promise(
        torch.equal(fresh(images), first.model(images)),
        f"{name} returns a classifier that its state dict describes completely",
    )


def _check_plain(name: str, adapted: Adapted) -> None:
    model = adapted.model
    _promise(isinstance(model, Classifier), f"{name}'s finish returns the classifier it was given")
    _promise(not any(m.training for m in model.modules()), f"{name} returns it in eval mode")
    _promise(not any(map(_hooks, model.modules())), f"{name} leaves no hook on the model")
    _promise(
        sorted(model.state_dict()) == sorted(example_classifier().state_dict()),
        f"{name} leaves nothing on the model that was not there",
    )


def _hooks(module: nn.Module) -> int:
    return sum(
        len(hooks)
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    )


def check_detector(spec: DetectorSpec, **settings: object) -> None:
    """Fit and score a detector on a small example and check what every detector promises.

    Raises:
        PluginError: naming the promise that is broken.
        UmBenchError: as `fit` and `Scorer.score` raise it, where the detector itself breaks.
    """
    binding = bind(Choice("detector", dict(settings)), spec)
    model = adapt_example()
    train, test = Loader(example_set(), batch_size=16), Loader(example_set(seed=1), batch_size=16)
    fitted_on, outputs = collect(model, train), collect(model, test)
    before = weights_hash(model)
    kept = [outputs.logits.clone(), outputs.features.clone()]
    scores = [fit(binding, model, fitted_on, train).score(outputs, test) for _ in range(2)]
    _promise(weights_hash(model) == before, "a detector leaves the classifier as it is")
    _promise(
        torch.equal(outputs.logits, kept[0]) and torch.equal(outputs.features, kept[1]),
        "a detector leaves the outputs as they are",
    )
    _promise(torch.equal(*scores), "a detector gives the same scores for the same data")
    _promise(_separates(scores[0]), "a detector's scores are not all the same")
    half = Loader(_first_half(example_set(seed=1)), batch_size=16)
    apart = fit(binding, model, fitted_on, train).score(collect(model, half), half)
    _promise(
        torch.allclose(apart, scores[0][: len(apart)], rtol=1e-4, atol=1e-5),
        "a detector's score for an image does not depend on the other images of the test set",
    )


def adapt_example() -> Classifier:
    """Return a classifier that has learned `example_set`."""
    recipe = Recipe(epochs=4, batch_size=16, lr=0.05, augmentation="none")
    model = adapt(Finetune(), example_classifier(), example_set(), recipe, seed=0).model
    assert isinstance(model, Classifier)
    return model


def _first_half(data: ImageSet) -> ImageSet:
    images, labels = data.images[: len(data) // 2], data.labels[: len(data) // 2]
    return ImageSet(data.name, images, labels, fingerprint(images, labels))


def _separates(scores: Tensor) -> bool:
    return bool(scores.max() > scores.min())


def _is_frozen(adapter: Any) -> bool:
    try:
        copy.copy(adapter).probe = 0
    except dataclasses.FrozenInstanceError:
        return True
    return False


def _promise(kept: bool, text: str) -> None:
    if not kept:
        raise PluginError(f"contract broken: {text}")
