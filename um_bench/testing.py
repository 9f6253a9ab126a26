"""The contract that plugins are held to, as checks that their authors call in their own tests."""

import copy
import dataclasses
import functools
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from um_bench.adapters import Adapter, Finetune, Plan, Succession
from um_bench.backbones import Classifier, create, weights_hash
from um_bench.data import ImageSet, Loader, fingerprint
from um_bench.detectors import Binding, DetectorSpec, Scorer, bind, fit
from um_bench.elsewhere import apart
from um_bench.errors import PluginError
from um_bench.outputs import Digest, Outputs, collect
from um_bench.snapshots import hooks_of
from um_bench.suite import Choice, Preprocessing, Recipe
from um_bench.training import Adapted, Moment, adapt

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


def example_outliers(count: int = 80, seed: int = 0) -> ImageSet:
    """Return small images of noise, to be used as auxiliary outliers beside `example_set`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.full((count,), -1)
    return ImageSet(f"example-outliers/{seed}", pixels, labels, fingerprint(pixels, labels))


def example_classifier(seed: int = 0) -> Classifier:
    """Return an untrained classifier for `example_set`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create("resnet20_cifar", num_classes=CLASSES, preprocessing=PREPROCESSING)


def check_adapter(adapter: Adapter) -> None:
    """Run an adapter on a small example and check what every adapter promises.

    An adapter that needs auxiliary outliers is given some. It is trained on a GPU too where there
    is one; elsewhere its losses are tried with `um_bench.elsewhere`, which finds less.

    Raises:
        PluginError: naming the promise that is broken.
    """
    name = type(adapter).__name__
    _promise(
        _is_frozen(adapter),
        f"{name} is a frozen dataclass, so that its hyperparameters go into every record",
    )
    model, train = example_classifier(), example_set()
    outliers = example_outliers() if adapter.needs_outliers else None
    before, random_state = weights_hash(model), torch.get_rng_state()
    if adapter.sets_id_loss:
        _promise(_has_id_loss(adapter), f"{name} sets an id_loss, as its sets_id_loss says")
    first = adapt(adapter, model, train, RECIPE, seed=0, auxiliary=outliers)
    _promise(weights_hash(model) == before, f"{name} changes its own copy of the model only")
    _promise(
        torch.equal(torch.get_rng_state(), random_state), f"{name} leaves the random state alone"
    )
    _check_plain(name, first)
    again = adapt(adapter, model, train, RECIPE, seed=0, auxiliary=outliers)
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
    _check_tracked(adapter, model, train, outliers, first)
    if outliers is not None:
        adapt(_watched(adapter), model, train, RECIPE, seed=0, auxiliary=outliers)
    _check_adapter_elsewhere(adapter, model, train, outliers)


def _check_tracked(
    adapter: Adapter, model: Classifier, train: ImageSet, outliers: ImageSet | None, first: Adapted
) -> None:
    """Train once more, and copy the model after each epoch: the end is the same, twice."""
    name = type(adapter).__name__
    copies: list[str] = []

    def look(moment: Moment) -> None:
        copies.append(weights_hash(moment.plain()))

    ended = adapt(adapter, model, train, RECIPE, seed=0, auxiliary=outliers, on_epoch=look)
    _promise(
        weights_hash(ended.model) == weights_hash(first.model),
        f"{name} is trained to the same weights where its plan's finish is tried on copies",
    )
    _promise(
        copies[-1] == weights_hash(first.model),
        f"{name}'s finish makes the same of a copy of the model as of the model",
    )


def _check_adapter_elsewhere(
    adapter: Adapter, model: Classifier, train: ImageSet, outliers: ImageSet | None
) -> None:
    adapt(_apart(adapter), model, train, RECIPE, seed=0, auxiliary=outliers)
    if not torch.cuda.is_available():
        return
    name = type(adapter).__name__
    try:
        adapted = adapt(adapter, model, train, RECIPE, seed=0, device="cuda", auxiliary=outliers)
    except RuntimeError as error:
        raise PluginError(f"contract broken: {name} trains on a GPU too ({error})") from error
    here = {value.device.type for value in adapted.model.state_dict().values()}
    _promise(here == {"cuda"}, f"{name} leaves the classifier on its device")


def _apart(adapter: Adapter) -> Adapter:
    if not isinstance(adapter, Succession):
        return (_ApartWithOutliers if adapter.needs_outliers else _Apart)(adapter=adapter)
    return Succession(stages=tuple((label, _apart(stage)) for label, stage in adapter.stages))


@dataclass(frozen=True, kw_only=True)
class _Apart(Adapter):
    """An adapter whose losses are computed while another device is the default."""

    adapter: Adapter

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        plan, name = self.adapter.prepare(model, train), type(self.adapter).__name__
        given = {"id_loss": plan.id_loss, "outlier_loss": plan.outlier_loss}
        losses = {k: apart(f"{name}'s {k}", loss) for k, loss in given.items() if loss is not None}
        return dataclasses.replace(plan, **losses)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class _ApartWithOutliers(_Apart):
    needs_outliers: ClassVar[bool] = True


def _has_id_loss(adapter: Adapter) -> bool:
    with torch.random.fork_rng(devices=[]):
        model = example_classifier().requires_grad_(True)
        return adapter.prepare(model, Loader(example_set(), batch_size=16)).id_loss is not None


def _watched(adapter: Adapter) -> Adapter:
    if not isinstance(adapter, Succession):
        return _Watched(adapter=adapter) if adapter.needs_outliers else adapter
    return Succession(stages=tuple((label, _watched(stage)) for label, stage in adapter.stages))


@dataclass(frozen=True, kw_only=True)
class _Watched(Adapter):
    """An adapter on auxiliary outliers, and the checks that they count, but not as ID images."""

    needs_outliers: ClassVar[bool] = True

    adapter: Adapter

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        plan, name = self.adapter.prepare(model, train), type(self.adapter).__name__
        losses = [plan.id_loss or F.cross_entropy, plan.outlier_loss or _nothing]
        heard: list[bool] = []

        def id_loss(logits: Tensor, labels: Tensor) -> Tensor:
            _promise(
                bool((labels >= 0).all()),
                f"{name} keeps auxiliary outliers (labels < 0) out of the ID loss",
            )
            return losses[0](logits, labels)

        def outlier_loss(logits: Tensor, labels: Tensor) -> Tensor:
            # Not by comparing weights: BatchNorm's statistics follow outliers that are ignored.
            if logits.requires_grad:
                hook = partial(_hear, heard, labels < 0)
                logits.register_hook(hook)  # type: ignore[no-untyped-call]
            return losses[1](logits, labels)

        def finish(model: nn.Module) -> nn.Module:
            _promise(any(heard), f"{name} asks for auxiliary outliers, so it learns from them")
            return plan.finish(model)

        return dataclasses.replace(plan, id_loss=id_loss, outlier_loss=outlier_loss, finish=finish)


def _hear(heard: list[bool], rows: Tensor, gradient: Tensor) -> None:
    heard.append(bool(gradient[rows].any()))


def _nothing(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.new_zeros(())


def _check_plain(name: str, adapted: Adapted) -> None:
    model = adapted.model
    _promise(isinstance(model, Classifier), f"{name}'s finish returns the classifier it was given")
    _promise(not any(m.training for m in model.modules()), f"{name} returns it in eval mode")
    _promise(not hooks_of(model), f"{name} leaves no hook on the model")
    _promise(
        sorted(model.state_dict()) == sorted(example_classifier().state_dict())
        and _parts(model) == _parts(example_classifier()),
        f"{name} leaves nothing on the model that was not there",
    )


def _parts(model: nn.Module) -> list[str]:
    """Return the names of modules and of buffers, those that are not saved included."""
    return [name for name, _ in (*model.named_modules(), *model.named_buffers())]


def check_detector(spec: DetectorSpec, **settings: object) -> None:
    """Fit and score a detector on a small example and check what every detector promises.

    It scores on a GPU too where there is one; elsewhere it is tried with `um_bench.elsewhere`,
    which finds less, and nothing of one that reads images: it may keep its state on the CPU.

    Raises:
        PluginError: naming the promise that is broken.
        UmBenchError: as `fit` and `Scorer.score` raise it, where the detector itself breaks.
    """
    binding = bind(Choice("detector", dict(settings)), spec)
    example = _detector_example(binding)
    model, outputs, test = example.model, example.outputs, example.test
    before = weights_hash(model)
    kept = [outputs.logits.clone(), outputs.features.clone()]
    scores = [example.fitted().score(outputs, test) for _ in range(2)]
    _promise(weights_hash(model) == before, "a detector leaves the classifier as it is")
    _promise(
        torch.equal(outputs.logits, kept[0]) and torch.equal(outputs.features, kept[1]),
        "a detector leaves the outputs as they are",
    )
    _promise(torch.equal(*scores), "a detector gives the same scores for the same data")
    _promise(_separates(scores[0]), "a detector's scores are not all the same")
    half = Loader(_first_half(example_set(seed=1)), batch_size=16)
    apart_from_rest = example.fitted().score(collect(model, half, example.digests), half)
    _promise(
        torch.allclose(apart_from_rest, scores[0][: len(apart_from_rest)], rtol=1e-4, atol=1e-5),
        "a detector's score for an image does not depend on the other images of the test set",
    )
    _check_detector_cleans_up(example)
    _check_detector_elsewhere(example)


@dataclass(frozen=True)
class _DetectorExample:
    """A detector with what it is fitted on and what it scores."""

    binding: Binding
    model: Classifier
    train: Loader
    test: Loader
    fit_outputs: Outputs
    outputs: Outputs
    digests: dict[str, Digest]

    def fitted(self) -> Scorer:
        return fit(self.binding, self.model, self.fit_outputs, self.train)


def _detector_example(binding: Binding, device: str = "cpu") -> _DetectorExample:
    model = adapt_example()
    model.to(device)
    train, test = (Loader(example_set(seed=seed), batch_size=16, device=device) for seed in (0, 1))
    digest = binding.spec.digest
    digests = {binding.label: digest(model, binding.settings)} if digest else {}
    fit_outputs, outputs = (collect(model, loader, digests) for loader in (train, test))
    return _DetectorExample(binding, model, train, test, fit_outputs, outputs, digests)


def _check_detector_cleans_up(example: _DetectorExample) -> None:
    """Check that nothing of a detector stays on the classifier, and that its mode is put back."""
    model, left = example.model, []
    set_mode = model.train

    def watched(mode: bool = True) -> nn.Module:
        # The guard around a detector mends the mode at its end, by the last call of all.
        left.append(any(module.training for module in model.modules()))
        return set_mode(mode)

    object.__setattr__(model, "train", watched)
    try:
        scorer = example.fitted()
        after_fit = left[-1]
        scorer.score(example.outputs, example.test)
    finally:
        object.__delattr__(model, "train")
    _promise(not (after_fit or left[-1]), "a detector leaves the classifier in eval mode")
    _promise(not hooks_of(model), "a detector leaves no hook on the classifier")
    _promise(
        _parts(model) == _parts(example_classifier()), "a detector leaves nothing on the classifier"
    )


def _check_detector_elsewhere(example: _DetectorExample) -> None:
    if example.binding.spec.reads != "images":
        scorer = example.fitted()
        scorer = dataclasses.replace(scorer, fitted=_PredictsApart(scorer.fitted))
        scorer.score(example.outputs, example.test)
    if torch.cuda.is_available():
        there = _detector_example(example.binding, "cuda")
        there.fitted().score(there.outputs, there.test)


class _PredictsApart:
    """A fitted detector that predicts while another device is the default."""

    def __init__(self, fitted: Any) -> None:
        self._fitted = fitted

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._fitted, name)
        return apart("a detector", value) if name.startswith("predict") else value


def adapt_example() -> Classifier:
    """Return a classifier that has learned `example_set`."""
    return copy.deepcopy(_adapted_example())


@functools.cache
def _adapted_example() -> Classifier:
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
