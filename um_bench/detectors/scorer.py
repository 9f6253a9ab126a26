"""A detector fitted for one classifier, and the outlier scores that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_ood.api
import torch
from torch import Tensor

from um_bench.detectors.guard import device_of, guarded, reported
from um_bench.detectors.spec import Binding, DetectorError, DetectorSpec
from um_bench.errors import PluginError, UnsupportedError, UsageError
from um_bench.outputs import Outputs
from um_bench.suite import Settings

if TYPE_CHECKING:
    from um_bench.backbones import Classifier
    from um_bench.data import Loader

_ROWS = 4096
_SCRATCH = 2**26
"""Floats: 256 MiB."""


@dataclass(frozen=True, eq=False)
class Scorer:
    """A detector that is fitted for one classifier."""

    binding: Binding
    """Its settings have every value that is used, those that follow from the classifier too."""
    model: Classifier
    fitted: Any

    @property
    def label(self) -> str:
        """As shown."""
        return self.binding.label

    @property
    def settings(self) -> Settings:
        """Every hyperparameter with the value that is used."""
        return self.binding.settings

    @property
    def notes(self) -> dict[str, float]:
        """What the detector chose for itself while it was fitted, for the record."""
        return dict(getattr(self.fitted, "chosen", {}))

    def score(self, outputs: Outputs, loader: Loader) -> Tensor:
        """Return the outlier scores of one set: (N,) float32 on the CPU, higher = more OOD.

        Args:
            outputs: what the classifier makes of the set.
            loader: the set's images in the same order; touched only if the detector reads images.

        Raises:
            DetectorError: if the detector breaks, changes the classifier, or does not give one
                finite score per image.
            UnsupportedError: if it reads inner layers, and the classifier has none to read.
        """
        spec = self.binding.spec
        with guarded(self.model, self.label), reported(f"{self.label} broke while scoring"):
            parts = self._images(loader) if spec.reads == "images" else self._rows(outputs)
            # here, not in the generators: one that an error leaves unfinished would not leave it
            with torch.set_grad_enabled(spec.reads == "images" or spec.gradients):
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
            yield self.fitted.predict(images.to(device_of(self.model)))

    def _rows(self, outputs: Outputs) -> Iterator[Tensor]:
        spec, device = self.binding.spec, device_of(self.model)
        predict = getattr(self.fitted, "predict" if spec.gradients else f"predict_{_suffix(spec)}")
        size = max(1, min(_ROWS, _SCRATCH // spec.scratch(self.model)))
        rows = rows_of(spec.reads, self.label, outputs)
        for blocks in zip(*(torch.split(part, size) for part in rows), strict=True):
            # copies, because a detector may work in place and outputs are shared
            given = [block.to(device, copy=True) for block in blocks]
            yield predict(given if spec.reads == "layers" else given[0])


def fit(
    binding: Binding,
    model: Classifier,
    fit_outputs: Outputs | None = None,
    fit_loader: Loader | None = None,
    held_out: Loader | None = None,
) -> Scorer:
    """Return the detector, fitted for a classifier.

    It is fitted on the CPU, wherever the classifier is, so that its state does not depend on the
    device; rows are scored on the classifier's device. Those that are fitted on images run the
    classifier where it is.

    Args:
        binding: what `prepare` returned.
        model: the classifier, in eval mode.
        fit_outputs: its outputs on the ID set that `binding.spec.fits_on` names; never test data.
            May be left out where that is `nothing`.
        fit_loader: that set's images; needed by detectors only that are fitted on images.
        held_out: ID images that are in no other set, for one that tunes itself; without them it
            holds some of its own back.

    Raises:
        UnsupportedError: if the detector cannot work with this classifier or fit set, and why.
        UsageError: if a value is still to be searched, or the fit set was not given.
        DetectorError: if it breaks, changes the classifier, or the fit set holds OOD labels.
        PluginError: if the spec does not build what it says.
    """
    if binding.spec.unsupported:
        raise UnsupportedError(f"{binding.label} {binding.spec.unsupported}")
    if binding.searched:
        raise UsageError(f"{binding.label}: choose its settings with um_bench.detectors.search")
    label, spec = binding.label, binding.spec
    with guarded(model, label):
        with reported(f"{label} cannot be built"):
            binding = _complete(binding, model)
            fitted = spec.build(model, binding.settings)
        _check_built(label, spec, fitted)
        if spec.reads == "images":
            fitted.to(device_of(model))
        if spec.fits_on != "nothing":
            loaders = (fit_loader, held_out) if spec.tunes and held_out else (fit_loader,)
            _fit_on(label, spec, fitted, model, fit_outputs, loaders)
        if spec.reads != "images":
            with reported(f"{label} cannot be moved to {device_of(model)}"):
                fitted.to(device_of(model))
    return Scorer(binding, model, fitted)


def rows_of(reads: str, label: str, outputs: Outputs) -> tuple[Tensor, ...]:
    """Return what a detector reads of a set, each tensor with a row for each image.

    Raises:
        UnsupportedError: if it reads inner layers, and the classifier has none to read.
    """
    if reads == "logits":
        return (outputs.logits,)
    if reads == "layers":
        return outputs.digest(label)
    features = outputs.features
    return (features[:, :, None, None] if reads == "feature_maps" else features,)


def _complete(binding: Binding, model: Classifier) -> Binding:
    derived = binding.spec.derived.items()
    values = {name: value(model) for name, value in derived if binding.settings[name] is None}
    return binding.chosen(values)


def _fit_on(
    label: str,
    spec: DetectorSpec,
    fitted: Any,
    model: Classifier,
    outputs: Outputs | None,
    loaders: tuple[Loader | None, ...],
) -> None:
    reads = spec.fit_reads or spec.reads
    if outputs is None or (reads == "images" and loaders[0] is None):
        raise UsageError(f"{label} is fitted on the {spec.fits_on} set, which was not given")
    _check_fit_set(label, spec, outputs.labels, model.num_classes)
    doing = f"{label} cannot be fitted on {len(outputs)} images"
    with reported(doing, {ValueError: UnsupportedError}):
        if reads == "images":
            fitted.fit(*loaders)
            return
        # copies, because a detector may work in place or keep them, and outputs are shared
        rows = [part.clone() for part in rows_of(reads, label, outputs)]
        fit_rows = getattr(fitted, f"fit_{_suffix(spec, fitting=True)}")
        fit_rows(rows if reads == "layers" else rows[0], outputs.labels.clone())


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


def _suffix(spec: DetectorSpec, *, fitting: bool = False) -> str:
    reads = (spec.fit_reads or spec.reads) if fitting else spec.reads
    return "structured" if reads == "layers" else reads


def _check_built(label: str, spec: DetectorSpec, built: Any) -> None:
    alone = spec.reads == "images" or spec.gradients
    needed = "predict" if alone else f"predict_{_suffix(spec)}"
    if not isinstance(built, pytorch_ood.api.Detector) or not hasattr(built, needed):
        raise PluginError(
            f"{label}: build returned a {type(built).__name__}; a pytorch-ood detector with "
            f"{needed}() is needed, because the spec says that it reads {spec.reads}"
        )
    if built.requires_fit and spec.fits_on == "nothing":
        raise PluginError(
            f"{label}: {type(built).__name__} has to be fitted, the spec says fits_on='nothing'"
        )
