"""Point 8, the conformance kit and `um-bench doctor`: for each rule a plugin that breaks it.

The rules that `tests/test_testing.py` and `tests/test_outliers.py` plant faults for are not planted
again here: frozen, its own copy, seeds, parametrizations, state dict, outliers.
"""

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
import torch
import torch.nn.functional as F
from pytorch_ood.api import LogitsDetector
from torch import nn

from um_bench import doctor as doctors
from um_bench import registry
from um_bench.adapters import Adapter, Plan
from um_bench.detectors import DetectorSpec
from um_bench.doctor import Finding, doctor, exit_code, report
from um_bench.errors import PluginError, UmBenchError, UsageError
from um_bench.registry import Plugin
from um_bench.testing import check_adapter, check_detector


@dataclass(frozen=True, kw_only=True)
class Honest(Adapter):
    def prepare(self, model, train):
        return Plan(model=model, id_loss=self.loss, finish=self.finish)

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)

    def finish(self, model):
        return model


class Forever(nn.BatchNorm2d):
    """A layer that cannot be taken out of training mode."""

    def train(self, mode=True):
        return super().train(True)


@dataclass(frozen=True, kw_only=True)
class StaysInTraining(Honest):
    def finish(self, model):
        model.net.bn1.__class__ = Forever
        return model


@dataclass(frozen=True, kw_only=True)
class LeavesABackwardHook(Honest):
    def finish(self, model):
        model.net.linear.register_full_backward_pre_hook(lambda *_: None)
        return model


@dataclass(frozen=True, kw_only=True)
class LeavesAHookOnTheState(Honest):
    def finish(self, model):
        model.net.register_state_dict_pre_hook(lambda *_: None)
        return model


@dataclass(frozen=True, kw_only=True)
class LeavesABufferThatIsNotSaved(Honest):
    def finish(self, model):
        model.net.register_buffer("prior", torch.ones(4), persistent=False)
        return model


@dataclass(frozen=True, kw_only=True)
class LeavesAModule(Honest):
    def finish(self, model):
        model.net.beside = nn.Identity()
        return model


@dataclass(frozen=True, kw_only=True)
class KnowsOneDevice(Honest):
    def loss(self, logits, labels):
        weights = torch.linspace(0.5, 1, logits.shape[1])
        return F.cross_entropy(logits * weights, labels)


@pytest.mark.parametrize(
    ("adapter", "rule"),
    [
        (StaysInTraining(), "returns it in eval mode"),
        (LeavesABackwardHook(), "leaves no hook"),
        (LeavesAHookOnTheState(), "leaves no hook"),
        (LeavesABufferThatIsNotSaved(), "leaves nothing on the model"),
        (LeavesAModule(), "leaves nothing on the model"),
        (KnowsOneDevice(), "KnowsOneDevice's id_loss makes tensors where its inputs are"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_rule_for_adapters_bites(adapter, rule):
    with pytest.raises(PluginError, match=rule):
        check_adapter(adapter)


@dataclass(frozen=True, kw_only=True)
class MovesWhatItMakes(Honest):
    """Nothing here goes wrong on a GPU."""

    def loss(self, logits, labels):
        weights = torch.linspace(0.5, 1, logits.shape[1]).to(logits.device)
        again = torch.tensor([1.0, 2.0]).tolist()[0] * torch.tensor(2.0)
        return F.cross_entropy(logits * weights * logits.new_ones(1), labels) * again


def test_what_works_on_any_device_is_not_accused():
    check_adapter(MovesWhatItMakes())
    check_detector(spec(lambda z: -(z * torch.arange(4).to(z.device)).sum(dim=1) * torch.tensor(2)))


class Scores(LogitsDetector):
    """A pytorch-ood detector that scores with any function of the logits."""

    def __init__(self, score):
        self.score = score

    def predict_logits(self, logits):
        return self.score(logits)


def spec(score, prepare=lambda model: None) -> DetectorSpec:
    def build(model, settings):
        prepare(model)
        return Scores(score)

    return DetectorSpec(reads="logits", build=build)


def top(logits):
    return -logits.max(dim=1).values


def later(action):
    """A detector that does something to the classifier when it scores."""
    kept = []

    def score(logits):
        action(kept[-1])
        return top(logits)

    return spec(score, kept.append)


DETECTORS = {
    "training, when built": (spec(top, lambda m: m.train()), "classifier in eval mode"),
    "training of a layer": (later(lambda m: m.net.bn1.train()), "classifier in eval mode"),
    "a hook": (later(lambda m: m.register_forward_hook(lambda *_: None)), "leaves no hook"),
    "a module": (
        later(lambda m: m.net.add_module("beside", nn.Identity().eval())),
        "leaves nothing on the classifier",
    ),
    "a tensor on one device": (
        spec(lambda z: (z * torch.arange(4)).sum(dim=1)),
        "a detector makes tensors where its inputs are",
    ),
    "scores on one device": (
        spec(lambda z: torch.tensor(top(z).tolist())),
        "a detector makes tensors where its inputs are",
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_each_rule_for_detectors_bites(name):
    planted, rule = DETECTORS[name]
    with pytest.raises(UmBenchError, match=rule):
        check_detector(planted)


def test_the_honest_ones_pass():
    check_adapter(Honest())
    check_detector(spec(top))


def on_the_cpu_by_name(logits):
    return top(logits) + torch.zeros(len(logits), device="cpu")


@pytest.mark.gpu
def test_a_gpu_finds_what_the_stand_in_cannot():
    with pytest.raises(UmBenchError, match=r"device|GPU"):
        check_detector(spec(on_the_cpu_by_name))


# --- um-bench doctor


@dataclass(frozen=True, kw_only=True)
class NeedsASetting(Honest):
    strength: float


@dataclass(frozen=True, kw_only=True)
class Explodes(Honest):
    def prepare(self, model, train):
        raise ZeroDivisionError("division by zero\nand more")


class NoAdapter:
    pass


GOOD = spec(top)
NOT_FINITE = spec(lambda z: z[:, 0] / 0 * 0)
UNSUPPORTED = DetectorSpec(reads="logits", build=lambda *_: None, unsupported="needs \x1b[2J text")
FAMILY = str

PLANTED = {
    ("adapter", "honest", "Honest"): ("ok", ""),
    ("adapter", "one-device", "KnowsOneDevice"): ("broken", "makes tensors where its inputs are"),
    ("adapter", "strict", "NeedsASetting"): ("cannot be checked", "strength"),
    ("adapter", "explodes", "Explodes"): ("broken", "ZeroDivisionError: division by zero"),
    ("adapter", "no-adapter", "NoAdapter"): ("broken", "not a frozen dataclass"),
    ("adapter", "gone", "Nowhere"): ("broken", "has no attribute 'Nowhere'"),
    ("detector", "good", "GOOD"): ("ok", ""),
    ("detector", "nan", "NOT_FINITE"): ("broken", "scores are not finite"),
    ("detector", "textual", "UNSUPPORTED"): ("cannot be checked", "needs"),
    ("detector", "a-class", "NoAdapter"): ("broken", "not a um_bench.detectors.DetectorSpec"),
    ("dataset", "family", "FAMILY"): ("ok", ""),
    ("dataset", "lost", "ABSENT"): ("broken", "has no attribute 'ABSENT'"),
}


@pytest.fixture
def _planted(monkeypatch):
    """A distribution of plugins, most of them broken, beside what is installed."""
    installed = registry.plugins

    def plugins(kind):
        mine = {}
        for asked, name, value in PLANTED:
            if asked == kind:
                entry = EntryPoint(name, f"{__name__}:{value}", registry.GROUPS[kind])
                mine[name] = Plugin(name, entry.value, "um-planted", "1.2", entry)
        return {**installed(kind), **mine}

    monkeypatch.setattr(registry, "plugins", plugins)


@pytest.mark.usefixtures("_planted")
def test_doctor_says_of_each_plugin_how_it_is_and_why():
    findings = doctor("um-planted")
    told = {(f.kind, f.name): f for f in findings if f.kind in registry.GROUPS}
    assert set(told) == {(kind, name) for kind, name, _ in PLANTED}
    for (kind, name, _), (state, reason) in PLANTED.items():
        finding = told[kind, name]
        assert finding.state == state, finding
        assert reason in finding.reason
        assert "\n" not in finding.reason
        assert finding.distribution == "um-planted 1.2"
    assert exit_code(findings) == 1
    versions = {f.name: f.state for f in findings if f.kind == "version"}
    assert versions["torch"] == versions["um-bench"] == "ok"
    assert versions["um-planted"] == "cannot be checked"
    assert [f.state for f in findings if f.kind == "device"] == ["ok"]


@pytest.mark.usefixtures("_planted")
def test_doctors_report_names_what_is_not_ok_and_counts_the_rest():
    text = report(doctor("um-planted"))
    lines = text.splitlines()
    assert lines[0].startswith("versions: python ")
    assert "adapters: 1 ok, 4 broken, 1 cannot be checked" in lines
    assert "detectors: 1 ok, 2 broken, 1 cannot be checked" in lines
    assert "datasets: 1 ok, 1 broken" in lines
    assert any("explodes (um-planted 1.2): broken: ZeroDivisionError" in line for line in lines)
    assert "honest" not in text
    assert "\x1b" not in text


def test_doctor_looks_at_every_plugin_that_is_installed(monkeypatch):
    looked = []
    for name in ("check_adapter", "check_detector"):
        monkeypatch.setattr(doctors, name, looked.append)
    findings = doctor()
    plugins = {(k, n) for k in registry.GROUPS for n in registry.plugins(k)}
    assert {(f.kind, f.name) for f in findings} >= plugins
    assert len(looked) == len(registry.plugins("adapter")) + len(registry.plugins("detector"))
    assert exit_code(findings) == 0
    assert exit_code([*findings, Finding(kind="device", name="x", state="broken")]) == 1


def test_doctor_knows_the_distributions():
    with pytest.raises(UsageError, match=r"named 'um-bensh'; plugins come from .*um-bench"):
        doctor("um-bensh")
