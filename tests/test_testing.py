"""The conformance kit: ours conform, and for each rule there is a plugin that it catches."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from pytorch_ood.api import LogitsDetector
from torch import nn

from um_bench import registry
from um_bench.adapters import Adapter, Finetune, NoAdapter, Plan
from um_bench.detectors import DetectorSpec
from um_bench.errors import PluginError, UmBenchError, UnsupportedError
from um_bench.testing import check_adapter, check_detector
from um_bench_um import UM
from um_bench_umap import UMAP


@pytest.mark.parametrize(
    "adapter",
    [NoAdapter(), Finetune(), UM(), UM(constraint=0.3), UMAP(), UMAP(scope="model")],
    ids=repr,
)
def test_our_adapters_conform(adapter):
    check_adapter(adapter)


UNSUPPORTED = {"mcm", "weighted-ebo", "mcd"}
"""The example has no text, no VOS weights, and no dropout."""


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_cannot_apply_to_the_example_says_so(name):
    with pytest.raises(UnsupportedError):
        check_detector(registry.load("detector", name))


@pytest.mark.parametrize("name", sorted(set(registry.plugins("detector")) - UNSUPPORTED))
def test_our_detectors_conform(name):
    check_detector(registry.load("detector", name), **({"k": 5} if name == "knn" else {}))


@dataclass(frozen=True, kw_only=True)
class Honest(Adapter):
    def prepare(self, model, train):
        return Plan(model=model, id_loss=F.cross_entropy, finish=self.finish)

    def finish(self, model):
        return model


@dataclass
class Mutable(Adapter):
    def prepare(self, model, train):
        return Plan(model=model)


@dataclass(frozen=True, kw_only=True)
class Unwrapped(Honest):
    def finish(self, model):
        return model.net


@dataclass(frozen=True, kw_only=True)
class Hooked(Honest):
    def finish(self, model):
        model.register_forward_hook(lambda *_: None)
        return model


@dataclass(frozen=True, kw_only=True)
class Extended(Honest):
    def finish(self, model):
        model.register_buffer("extra", torch.ones(1))
        return model


@dataclass(frozen=True, kw_only=True)
class Parametrized(Honest):
    def finish(self, model):
        nn.utils.parametrizations.weight_norm(model.net.linear)
        return model


CALLS = []


@dataclass(frozen=True, kw_only=True)
class Stateful(Honest):
    def prepare(self, model, train):
        CALLS.append(1)
        with torch.no_grad():
            model.net.linear.bias.add_(len(CALLS))
        return super().prepare(model, train)


@dataclass(frozen=True, kw_only=True)
class Boasting(Adapter):
    sets_id_loss = True

    def prepare(self, model, train):
        return Plan(model=model)


@dataclass(frozen=True, kw_only=True)
class Hidden(Honest):
    def finish(self, model):
        head = model.net.linear
        head.forward = lambda x: F.linear(x, head.weight, head.bias) + 0.1  # in no state dict
        return model


@dataclass(frozen=True, kw_only=True)
class Possessive(Honest):
    def prepare(self, model, train):
        return Plan(model=model, id_loss=F.cross_entropy, finish=lambda _: model)


@dataclass(frozen=True, kw_only=True)
class Remembering(Honest):
    def prepare(self, model, train):
        start = model.net.linear.bias.detach().clone()

        def finish(given):
            with torch.no_grad():
                given.net.linear.bias.add_(0 if given is model else 1 + start)
            return given

        return Plan(model=model, id_loss=F.cross_entropy, finish=finish)


@dataclass(frozen=True, kw_only=True)
class Counting(Honest):
    def prepare(self, model, train):
        steps = []

        def loss(logits, labels):
            return F.cross_entropy(logits, labels) * (1 if steps else 2)

        def finish(given):
            steps.append(1)
            return given

        return Plan(model=model, id_loss=loss, finish=finish)


@pytest.mark.parametrize(
    ("adapter", "rule"),
    [
        (Mutable(), "is a frozen dataclass"),
        (Unwrapped(), "returns the classifier it was given"),
        (Hooked(), "leaves no hook"),
        (Extended(), "leaves nothing on the model"),
        (Parametrized(), "leaves a parametrization on net.linear"),
        (Stateful(), "same weights and notes for the same seed"),
        (Boasting(), "sets an id_loss, as its sets_id_loss says"),
        (Hidden(), "its state dict describes completely"),
        (Possessive(), "reaches the model that is being trained"),
        (Remembering(), "makes the same of a copy of the model as of the model"),
        (Counting(), "the same weights where its plan's finish is tried on copies"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_rule_for_adapters_bites(adapter, rule):
    with pytest.raises(PluginError, match=rule):
        check_adapter(adapter)


class Scores(LogitsDetector):
    """A pytorch-ood detector that scores with any function of the logits."""

    def __init__(self, score):
        self.score = score

    def predict_logits(self, logits):
        return self.score(logits)


def spec(score) -> DetectorSpec:
    return DetectorSpec(reads="logits", build=lambda model, settings: Scores(score))


def counting(logits, calls=[]):  # noqa: B006
    calls.append(1)
    return logits.sum(dim=1) + len(calls)


@pytest.mark.parametrize(
    ("score", "rule"),
    [
        (lambda z: torch.zeros(len(z)), "scores are not all the same"),
        (counting, "same scores for the same data"),
        (lambda z: z[:, 0] - z[:, 0].mean(), "does not depend on the other images"),
        (lambda z: z[:, 0] * float("nan"), "scores are not finite"),
        (lambda z: z, "one score per image"),
    ],
)
def test_each_rule_for_detectors_bites(score, rule):
    with pytest.raises(UmBenchError, match=rule):
        check_detector(spec(score))


def test_a_detector_that_changes_the_classifier_is_caught():
    def build(model, settings):
        def score(logits):
            with torch.no_grad():
                model.head_layer.bias.add_(1)
            return logits[:, 0]

        return Scores(score)

    with pytest.raises(UmBenchError, match="chang"):
        check_detector(DetectorSpec(reads="logits", build=build))
