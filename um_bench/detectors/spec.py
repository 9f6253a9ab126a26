"""A detector's row: what it reads, how pytorch-ood's class is built, its settings; and choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from um_bench import registry
from um_bench.errors import PluginError, UmBenchError, UsageError, unknown_name
from um_bench.outputs import Digest
from um_bench.papers import Paper, paper_of
from um_bench.suite import Choice, Settings, parse_choice

if TYPE_CHECKING:
    from um_bench.backbones import Classifier

SEARCH = "search"
"""The value of a hyperparameter that is chosen on the suite's validation sets."""

_READS = ("logits", "features", "feature_maps", "layers", "images")
_FITS_ON = ("nothing", "train", "validation")


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
    """How a detector is built from a classifier, and what it reads: one row of the table."""

    kind: type | None = None
    """pytorch-ood's class: its paper, and the values that a search tries, are taken from it."""
    reads: str
    """`logits`; `features`: pooled, (N, D); `feature_maps`: the same as (N, D, 1, 1); `layers`:
    what `digest` keeps of the inner layers; `images`: it runs the model itself, with gradients."""
    build: Callable[[Classifier, Settings], Any]
    """Classifier (eval mode, on its device), all settings -> pytorch_ood.api.Detector, on the CPU
    unless it reads images. What it takes of the classifier it copies or only reads."""
    digest: Callable[[Classifier, Settings], Digest] | None = None
    """Where it reads `layers`: what is kept of them, batch by batch, during the one pass."""
    fits_on: str = "nothing"
    """`nothing`, `train`, or `validation`: held-out ID data, or else the training set."""
    fit_reads: str = ""
    """What it is fitted on, where that is not what it reads."""
    tunes: bool = False
    """Whether its `fit` takes a second loader, of held-out ID images, to tune itself on."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Every hyperparameter: what is not here cannot be set. All go into every record."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Hyperparameter -> `count`, `positive`, `non-negative`, `fraction`: what it may be. Others
    must have their default's type."""
    derived: Mapping[str, Callable[[Classifier], Any]] = field(default_factory=dict)
    """Hyperparameter -> its value for a classifier, where it is None."""
    short: str = ""
    """The hyperparameter that is shown and given without its name, as in `ash-s@0.9`."""
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Hyperparameter -> the values that a search tries, where they are not the class's own."""
    every_class: bool = False
    """Whether it has to be fitted on images of every class."""
    gradients: bool = False
    """Whether it differentiates with respect to what it reads, by its `predict`."""
    scratch: Callable[[Classifier], int] = lambda model: 1
    """Floats that it allocates to score one row: where they are many, fewer rows go at once."""
    cost: float = 4
    """Where it reads images: how much it computes for each, in forward passes. For the progress
    bar alone."""
    since: str = "0.1"
    """The first version of um-bench that has it."""
    unsupported: str = ""
    """Why it can be used with no classifier that a suite can name; its cells say so."""

    def __post_init__(self) -> None:
        _known("what a detector reads", self.reads, _READS)
        _known("what a detector is fitted on", self.fit_reads or self.reads, _READS)
        _known("set that a detector is fitted on", self.fits_on, _FITS_ON)
        for kind in self.values.values():
            _known("kind of value", kind, _VALUES)
        named = (*self.values, *self.derived, *self.space, *([self.short] if self.short else []))
        for name in named:
            _known("hyperparameter among the defaults", name, self.defaults)
        if (self.reads == "layers") != (self.digest is not None):
            raise UsageError("a detector has a digest if, and only if, it reads layers")

    @property
    def paper(self) -> Paper | None:
        """What to cite: what pytorch-ood's class says."""
        return paper_of(self.kind)

    def candidates(self, name: str) -> tuple[Any, ...]:
        """Return the values of a hyperparameter that a search tries; none where it has no grid."""
        own = getattr(self.kind, "hyperparameter_space", None) or {}
        return tuple(self.space.get(name, own.get(name, ())))


@dataclass(frozen=True)
class Binding:
    """A chosen detector with all its settings, not yet fitted for a classifier."""

    choice: Choice
    spec: DetectorSpec
    settings: Settings
    """Defaults filled in; None where the value follows from the classifier, `search` where it is
    chosen on the validation sets."""

    @property
    def label(self) -> str:
        """As shown: `knn`, or with the settings that were given: `knn@k=20`, `ash-s@0.9`."""
        return self.choice.label

    @property
    def searched(self) -> dict[str, tuple[Any, ...]]:
        """The hyperparameters to choose, with the values to try."""
        return {
            name: self.spec.candidates(name)
            for name, value in self.settings.items()
            if value == SEARCH
        }

    def chosen(self, settings: Settings) -> Binding:
        """Return this detector with some settings replaced."""
        return Binding(self.choice, self.spec, {**self.settings, **settings})


def prepare(choice: str | Choice) -> Binding:
    """Return the detector that a name with settings stands for, as in `knn@k=20` or `ash-s@0.9`.

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

    Names of settings are found whatever their case (`energy@T=10`); the label has the spec's.

    Raises:
        UsageError: if a setting is unknown or its value is wrong; what is known is named.
    """
    given: dict[str, Any] = {}
    for name, value in choice.settings.items():
        known = _setting(choice.label, name, spec)
        if known in given:
            raise UsageError(f"{choice.label}: {known} is given twice")
        _check_value(choice.label, known, value, spec)
        given[known] = value
    settings = {
        name: float(value) if isinstance(spec.defaults[name], float) and value != SEARCH else value
        for name, value in {**spec.defaults, **given}.items()
    }
    shown = {"": given[spec.short]} if list(given) == [spec.short] else given
    return Binding(Choice(choice.name, shown), spec, settings)


def _setting(label: str, name: str, spec: DetectorSpec) -> str:
    """Return the hyperparameter that a given name means; "" is the one that needs no name."""
    if not name:
        only = next(iter(spec.defaults)) if len(spec.defaults) == 1 else ""
        if spec.short or only:
            return spec.short or only
        raise UsageError(f"{label}: say which setting is meant, as in NAME@KEY=VALUE")
    by_case = {known.lower(): known for known in spec.defaults}
    if name.lower() not in by_case:
        raise UsageError(f"{label}: {unknown_name('setting', name, spec.defaults)}")
    return by_case[name.lower()]


def _check_value(label: str, name: str, value: Any, spec: DetectorSpec) -> None:
    if value == SEARCH:
        if not spec.candidates(name):
            can = ", ".join(known for known in spec.defaults if spec.candidates(known)) or "none"
            raise UsageError(
                f"{label}: there are no values of {name} to search; those that have some: {can}"
            )
        return
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
