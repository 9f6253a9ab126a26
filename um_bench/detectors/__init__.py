"""Post-hoc detectors as a table: what each reads, how pytorch-ood's class is built, its defaults.

A detector that reads logits or features never sees an image: it is fitted on and scores `Outputs`.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytorch_ood.api
import torch
from pytorch_ood import detector as pod
from torch import Tensor, nn

from um_bench import registry
from um_bench.errors import PluginError, UmBenchError, UnsupportedError, UsageError, unknown_name
from um_bench.outputs import Outputs, require_eval
from um_bench.suite import Choice, Settings, parse_choice

if TYPE_CHECKING:
    from um_bench.backbones import Classifier
    from um_bench.data import Loader

_READS = ("logits", "features", "feature_maps", "images")
_ROWS = 4096
_SCRATCH = 2**26
"""Floats: 256 MiB."""


class DetectorError(UmBenchError):
    """A detector that broke or gave scores that mean nothing. Its cells are `failed`."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "count": ("a whole number of at least 1", lambda v: type(v) is int and v >= 1),
    "positive": ("a number above 0", lambda v: _is_number(v) and v > 0),
    "non-negative": ("a number of at least 0", lambda v: _is_number(v) and v >= 0),
    "fraction": (
        "a fraction of at least 0 and below 1 (0.9 for 90 %)",
        lambda v: _is_number(v) and 0 <= v < 1,
    ),
}


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """How a pytorch-ood detector is built from a classifier, and what it reads."""

    reads: str
    """`logits`; `features`: pooled, (N, D); `feature_maps`: the same as (N, D, 1, 1); `images`: it
    runs the model itself, with gradients enabled."""
    build: Callable[[Classifier, Settings], Any]
    """Classifier (eval mode, on its device), all settings -> pytorch_ood.api.Detector, on the CPU
    unless it reads images. What it takes of the classifier it copies or only reads."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Every hyperparameter: what is not here cannot be set. All go into every record."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Hyperparameter -> `count`, `positive`, `non-negative`, `fraction`: what it may be. Others
    must have their default's type."""
    derived: Mapping[str, Callable[[Classifier], Any]] = field(default_factory=dict)
    """Hyperparameter -> its value for a classifier, where it is None."""
    fits_on: str = "nothing"
    """`nothing`, `train`, or `validation`: held-out ID data, or else the training set."""
    every_class: bool = False
    """Whether it has to be fitted on images of every class."""
    scratch: Callable[[Classifier], int] = lambda model: 1
    """Floats that it allocates to score one row: where they are many, fewer rows go at once."""

    def __post_init__(self) -> None:
        _known("what a detector reads", self.reads, _READS)
        _known("set that a detector is fitted on", self.fits_on, ("nothing", "train", "validation"))
        for kind in self.values.values():
            _known("kind of value", kind, _VALUES)
        for name in (*self.values, *self.derived):
            _known("hyperparameter among the defaults", name, self.defaults)


@dataclass(frozen=True)
class Binding:
    """A chosen detector with all its settings, not yet fitted for a classifier."""

    choice: Choice
    spec: DetectorSpec
    settings: Settings
    """Defaults filled in; None where the value follows from the classifier."""

    @property
    def label(self) -> str:
        """As shown: `knn`, or with the settings that were given: `knn@k=20`."""
        return self.choice.label


@dataclass(frozen=True, eq=False)
class Scorer:
    """A detector that is fitted for one classifier."""

    label: str
    spec: DetectorSpec
    settings: Settings
    """Every value that is used, those that follow from the classifier included."""
    model: Classifier
    fitted: Any

    def score(self, outputs: Outputs, loader: Loader) -> Tensor:
        """Return the outlier scores of one set: (N,) float32 on the CPU, higher = more OOD.

        Args:
            outputs: what the classifier makes of the set.
            loader: the set's images in the same order; touched only if the detector reads images.

        Raises:
            DetectorError: if the detector breaks, changes the classifier, or does not give one
                finite score per image.
        """
        reads_images = self.spec.reads == "images"
        with _guarded(self.model, self.label), _reported(f"{self.label} broke while scoring"):
            parts = self._images(loader) if reads_images else self._rows(outputs)
            # here, not in the generators: one that an error leaves unfinished would not leave it
            with torch.set_grad_enabled(reads_images):
                scores = torch.cat([part.detach().cpu() for part in parts]).float()
        if scores.shape != (len(outputs),):
            raise DetectorError(
                f"{self.label} gave scores of shape {tuple(scores.shape)} for {len(outputs)} "
                "images; one score per image is needed"
            )
        broken = int((~scores.isfinite()).sum())
        if broken:
            raise DetectorError(
                f"{self.label}: {broken} of {len(scores)} scores are not finite (NaN or infinite)"
            )
        return scores

    def _images(self, loader: Loader) -> Iterator[Tensor]:
        for images, _ in loader:
            yield self.fitted.predict(images.to(_device(self.model)))

    def _rows(self, outputs: Outputs) -> Iterator[Tensor]:
        predict = getattr(self.fitted, _method("predict", self.spec))
        size = max(1, min(_ROWS, _SCRATCH // self.spec.scratch(self.model)))
        for block in torch.split(_rows(self.spec, outputs), size):
            # a copy, because a detector may work in place and outputs are shared
            yield predict(block.to(_device(self.model), copy=True))


def prepare(choice: str | Choice) -> Binding:
    """Return the detector that a name with settings stands for, as in `knn@k=20`.

    Raises:
        UsageError: if nobody registered the name, or a setting or its value is wrong.
        PluginError: if what is registered cannot be loaded or is no DetectorSpec.
    """
    if isinstance(choice, str):
        choice = parse_choice(choice)
    spec = registry.load("detector", choice.name)
    if not isinstance(spec, DetectorSpec):
        plugin = registry.find("detector", choice.name)
        raise PluginError(
            f"detector {choice.name!r} is a {type(spec).__name__}, not a DetectorSpec: "
            f"{plugin.value} of {plugin.distribution} {plugin.version}"
        )
    return bind(choice, spec)


def bind(choice: Choice, spec: DetectorSpec) -> Binding:
    """Return a spec with the settings that were given and defaults for all others.

    Raises:
        UsageError: if a setting is unknown or its value is wrong; what is known is named.
    """
    for name, value in choice.settings.items():
        if name not in spec.defaults:
            raise UsageError(f"{choice.label}: {unknown_name('setting', name, spec.defaults)}")
        _check_value(choice.label, name, value, spec)
    settings = {
        name: float(value) if isinstance(spec.defaults[name], float) else value
        for name, value in {**spec.defaults, **choice.settings}.items()
    }
    return Binding(choice, spec, settings)


def fit(
    binding: Binding,
    model: Classifier,
    fit_outputs: Outputs | None = None,
    fit_loader: Loader | None = None,
) -> Scorer:
    """Return the detector, fitted for a classifier.

    It is fitted on the CPU, wherever the classifier is, so that its state does not depend on the
    device; rows are scored on the classifier's device.

    Args:
        binding: what `prepare` returned.
        model: the classifier, in eval mode.
        fit_outputs: its outputs on the ID set that `binding.spec.fits_on` names; never test data.
            May be left out where that is `nothing`.
        fit_loader: that set's images; needed by detectors only that read images and are fitted.

    Raises:
        UnsupportedError: if the detector cannot work with this classifier or fit set, and why.
        DetectorError: if it breaks, changes the classifier, or the fit set holds OOD labels.
        PluginError: if the spec does not build what it says.
    """
    label, spec = binding.label, binding.spec
    with _guarded(model, label):
        with _reported(f"{label} cannot be built"):
            settings = _complete(binding, model)
            fitted = spec.build(model, settings)
        _check_built(label, spec, fitted)
        if spec.fits_on != "nothing":
            _fit_on(label, spec, fitted, model, fit_outputs, fit_loader)
        if spec.reads != "images":
            with _reported(f"{label} cannot be moved to {_device(model)}"):
                fitted.to(_device(model))
    return Scorer(label, spec, settings, model, fitted)


def _complete(binding: Binding, model: Classifier) -> Settings:
    settings = dict(binding.settings)
    for name, value_for in binding.spec.derived.items():
        if settings[name] is None:
            settings[name] = value_for(model)
    return settings


def _fit_on(
    label: str,
    spec: DetectorSpec,
    fitted: Any,
    model: Classifier,
    outputs: Outputs | None,
    loader: Loader | None,
) -> None:
    if outputs is None or (spec.reads == "images" and loader is None):
        raise UsageError(f"{label} is fitted on the {spec.fits_on} set, which was not given")
    _check_fit_set(label, spec, outputs.labels, model.num_classes)
    doing = f"{label} cannot be fitted on {len(outputs)} images"
    with _reported(doing, {ValueError: UnsupportedError}):
        if spec.reads == "images":
            fitted.fit(loader)
        else:
            # copies, because a detector may work in place or keep them, and outputs are shared
            fit_rows = getattr(fitted, _method("fit", spec))
            fit_rows(_rows(spec, outputs).clone(), outputs.labels.clone())


def _check_fit_set(label: str, spec: DetectorSpec, labels: Tensor, classes: int) -> None:
    ood = int((labels < 0).sum())
    if ood:
        raise DetectorError(
            f"{label}: {ood} of {len(labels)} images to fit on are OOD; only ID data may be used"
        )
    missing = sorted(set(range(classes)) - set(torch.unique(labels).tolist()))
    if spec.every_class and missing:
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise UnsupportedError(
            f"{label} has to be fitted on images of all {classes} classes; the {len(labels)} "
            f"images given have none of class {named}"
        )


def _method(verb: str, spec: DetectorSpec) -> str:
    return verb if spec.reads == "images" else f"{verb}_{spec.reads}"


def _rows(spec: DetectorSpec, outputs: Outputs) -> Tensor:
    if spec.reads == "logits":
        return outputs.logits
    return outputs.features[:, :, None, None] if spec.reads == "feature_maps" else outputs.features


def _check_built(label: str, spec: DetectorSpec, built: Any) -> None:
    needed = _method("predict", spec)
    if not isinstance(built, pytorch_ood.api.Detector) or not hasattr(built, needed):
        raise PluginError(
            f"{label}: build returned a {type(built).__name__}; a pytorch-ood detector with "
            f"{needed}() is needed, because the spec says that it reads {spec.reads}"
        )
    if built.requires_fit and spec.fits_on == "nothing":
        raise PluginError(
            f"{label}: {type(built).__name__} has to be fitted, the spec says fits_on='nothing'"
        )


def _check_value(label: str, name: str, value: Any, spec: DetectorSpec) -> None:
    default = spec.defaults[name]
    if name in spec.values:
        wanted, fits = _VALUES[spec.values[name]]
    else:
        wanted = f"{type(default).__name__}, as its default {default!r}"
        fits = partial(_same_type, default)
    if not fits(value):
        raise UsageError(f"{label}: {name} must be {wanted}, got {value!r}")


def _same_type(default: Any, value: Any) -> bool:
    return _is_number(value) if isinstance(default, float) else type(value) is type(default)


def _known(kind: str, given: str, known: Collection[str]) -> None:
    if given not in known:
        raise unknown_name(kind, given, known)


@contextmanager
def _reported(
    doing: str, kinds: Mapping[type[Exception], type[UmBenchError]] | None = None
) -> Iterator[None]:
    """Turn whatever a detector raises into one line that names it; the original is chained."""
    try:
        yield
    except UmBenchError as error:
        raise type(error)(f"{doing}: {error}") from error
    except Exception as error:
        kind = (kinds or {}).get(type(error), DetectorError)
        raise kind(f"{doing}: {type(error).__name__}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if not text:  # a bare assert: its source line says what it wants
        text = traceback.extract_tb(error.__traceback__)[-1].line or "no message"
    return text.splitlines()[0]


@contextmanager
def _guarded(model: Classifier, label: str) -> Iterator[None]:
    """Give the classifier and torch's random state back as they were; changed weights are an error.

    Random numbers are drawn from a fixed seed, so that scores do not depend on what ran before.

    Raises:
        UmBenchError: if the classifier is in training mode.
        DetectorError: if a weight or buffer was changed.
    """
    require_eval(model)
    device = _device(model)
    tensors, before = _tensors(model), _state(model)
    gradients = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    changed = True
    try:
        with _seeded(device):
            yield
    finally:
        model.eval().to(device)
        for parameter, gradient, required in gradients:
            parameter.grad = gradient
            parameter.requires_grad_(required)
        changed = not torch.equal(before, _state(model))
        if changed:
            _restore(tensors, before)
    if changed:
        whole = torch.equal(before, _state(model))
        outcome = "were restored" if whole else "cannot be restored: no later score can be trusted"
        raise DetectorError(
            f"{label} changed the classifier's weights or BatchNorm statistics; they {outcome}"
        )


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpu):
        torch.default_generator.manual_seed(0)
        for one in gpu:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(0)
        yield


def _tensors(model: nn.Module) -> list[Tensor]:
    # not the state dict: buffers that are not saved, such as the normalisation, count too
    return [value.detach() for value in (*model.parameters(), *model.buffers())]


def _state(model: nn.Module) -> Tensor:
    """Return a copy of all weights and buffers as bytes: one comparison, and NaN equals itself."""
    return torch.cat([value.reshape(-1).view(torch.uint8) for value in _tensors(model)])


def _restore(tensors: list[Tensor], state: Tensor) -> None:
    for value, part in zip(tensors, torch.split(state, [t.nbytes for t in tensors]), strict=True):
        # a fresh copy is aligned for the wider type
        value.copy_(part.clone().view(value.dtype).reshape(value.shape))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _head(model: Classifier) -> Callable[[Tensor], Tensor]:
    """Return the classifier's head: features (N, D) or (N, D, 1, 1) on any device -> logits (N, K).

    A plain function: from a module or a bound method, pytorch-ood would infer a device and move
    the whole classifier there.
    """
    return lambda features: model.head(features.flatten(1).to(_device(model))).to(features.device)


def _weights(model: Classifier) -> tuple[Tensor, Tensor]:
    """Return copies of the linear head's weight (K, D) and bias (K,), zeros where it has none.

    Raises:
        UnsupportedError: if the head is not linear.
    """
    layer = model.head_layer
    if not isinstance(layer, nn.Linear):
        raise UnsupportedError(
            f"needs the weights of a linear head; this classifier's is {type(layer).__name__}"
        )
    weight = layer.weight.detach().cpu().clone()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu()
    return weight, bias.clone()


def _alone(kind: Callable[..., Any]) -> Callable[[Classifier, Settings], Any]:
    """Return a build for a class that needs nothing of the classifier."""
    return lambda model, settings: kind(None, **settings)


def _vim_dimension(model: Classifier) -> int:
    """Return the principal subspace's dimension.

    Source: Wang et al., CVPR 2022, arXiv:2203.10807; haoqiwang/vim benchmark.py:230-235 (dabf9e5).
    """
    if model.feature_dim >= 2048:
        return 1000
    return 512 if model.feature_dim >= 768 else model.feature_dim // 2


def _vim(model: Classifier, settings: Settings) -> Any:
    # pytorch-ood replaces a d that is too large by D // 2, and the record would be wrong; at
    # d = D the residual is empty and every score NaN
    if not 1 <= settings["d"] < model.feature_dim:
        raise UnsupportedError(
            f"ViM's d must be from 1 to below the number of features, {model.feature_dim}; "
            f"got {settings['d']}"
        )
    weight, bias = _weights(model)
    return pod.ViM(None, w=weight, b=bias, **settings)


def _dice(model: Classifier, settings: Settings) -> Any:
    return pod.DICE(None, *_weights(model), **settings)


def _odin(model: Classifier, settings: Settings) -> Any:
    # no norm_std: the classifier takes pixels in [0, 1] and normalises inside
    return pod.ODIN(model, norm_std=None, **settings)


def _ash(variant: str) -> DetectorSpec:
    def build(model: Classifier, settings: Settings) -> Any:
        return pod.ASH(None, _head(model), variant=variant, **settings)

    # OpenOOD v1.5's percentile; pytorch-ood's own default is 0.65
    return DetectorSpec(
        reads="feature_maps",
        build=build,
        defaults={"percentile": 0.9},
        values={"percentile": "fraction"},
    )


MSP = DetectorSpec(
    reads="logits", build=_alone(pod.MaxSoftmax), defaults={"t": 1.0}, values={"t": "positive"}
)
MAXLOGIT = DetectorSpec(reads="logits", build=_alone(pod.MaxLogit))
ENERGY = DetectorSpec(
    reads="logits", build=_alone(pod.EnergyBased), defaults={"t": 1.0}, values={"t": "positive"}
)
ENTROPY = DetectorSpec(reads="logits", build=_alone(pod.Entropy))
GEN = DetectorSpec(
    reads="logits",
    build=_alone(pod.GEN),
    defaults={"gamma": 0.1, "M": None},
    values={"gamma": "positive", "M": "count"},
    # the paper's 100 for ImageNet; None = all. Not min(100, classes): another order of summation
    # moved AUROC by 2e-4, as the scores of confident images differ by float32 rounding only
    derived={"M": lambda model: 100 if model.num_classes > 100 else None},
)
KLMATCHING = DetectorSpec(reads="logits", build=_alone(pod.KLMatching), fits_on="validation")
ODIN = DetectorSpec(
    reads="images",
    build=_odin,
    defaults={"temperature": 1000.0, "eps": 0.0014},
    values={"temperature": "positive", "eps": "non-negative"},
)
MAHALANOBIS = DetectorSpec(
    reads="features", build=_alone(pod.Mahalanobis), fits_on="train", every_class=True
)
RMD = DetectorSpec(reads="features", build=_alone(pod.RMD), fits_on="train", every_class=True)
KNN = DetectorSpec(
    reads="features",
    build=_alone(pod.KNN),
    defaults={"k": 50, "normalize": True},
    values={"k": "count"},
    fits_on="train",
)
VIM = DetectorSpec(
    reads="features",
    build=_vim,
    defaults={"d": None},
    values={"d": "count"},
    derived={"d": _vim_dimension},
    fits_on="train",
)
REACT = DetectorSpec(
    reads="feature_maps",
    build=lambda model, settings: pod.ReAct(None, _head(model), **settings),
    defaults={"percentile": 0.9},
    values={"percentile": "fraction"},
    fits_on="train",
)
ASH_S, ASH_P, ASH_B = _ash("ash-s"), _ash("ash-p"), _ash("ash-b")
DICE = DetectorSpec(
    reads="features",
    build=_dice,
    defaults={"p": 0.9},
    values={"p": "fraction"},
    fits_on="train",
    scratch=lambda model: model.num_classes * model.feature_dim,
)
SHE = DetectorSpec(
    reads="features",
    build=lambda model, settings: pod.SHE(None, _head(model)),
    fits_on="train",
    every_class=True,
)
