"""One pass over one set: the logits, features and labels that nearly every score comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from um_bench.errors import UmBenchError, UnsupportedError

if TYPE_CHECKING:
    from um_bench.backbones import Classifier, Inner
    from um_bench.data import Loader

Digest = Callable[["Inner"], tuple[Tensor, ...]]
"""One batch's inner layers -> what is kept of them: tensors with a row for each image."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a classifier makes of one set, image by image, in the loader's order."""

    logits: Tensor
    """(N, K) float32 on the CPU."""
    features: Tensor
    """Pooled penultimate features (N, D) float32 on the CPU."""
    labels: Tensor
    """(N,) int64 on the CPU; < 0 = OOD."""
    digests: Mapping[str, tuple[Tensor, ...] | UmBenchError] = field(default_factory=dict)
    """Name -> what was kept of the inner layers, float32 on the CPU, or why nothing could be."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    def digest(self, name: str) -> tuple[Tensor, ...]:
        """Return what was kept of the inner layers under a name.

        Raises:
            UnsupportedError: if this classifier has no such layers.
            UmBenchError: if keeping them failed, or was not asked for.
        """
        if name not in self.digests:
            raise UmBenchError(f"no inner layers were kept for {name}; collect() takes digests")
        kept = self.digests[name]
        if isinstance(kept, UmBenchError):
            raise kept
        return kept


def collect(
    model: Classifier, loader: Loader, digests: Mapping[str, Digest] | None = None
) -> Outputs:
    """Return the outputs for every image of a loader, from one forward pass per image.

    Nothing about the model is changed.

    Args:
        model: in eval mode.
        loader: of at least one image.
        digests: name -> what to keep of the inner layers; one that fails is left out, with its
            error in its place, and touches nothing else.

    Raises:
        UmBenchError: if a part of the model is in training mode, the loader is empty, the model
            returns another number of rows than it was given images, or a logit is not finite.
    """
    require_eval(model)
    reader = _Reader(model, dict(digests or {}))
    with torch.no_grad():
        batches = list(_one_behind(reader, loader))
    if not batches:
        raise UmBenchError("the loader has no images; give a set of at least one")
    logits, features, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    # a feature that is not finite makes its logits not finite, so that this finds both
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise UmBenchError(
            f"the logits of {broken} of {len(labels)} images are not finite: the weights are "
            "unusable. Where they were just trained, training diverged; try a lower lr."
        )
    return Outputs(logits, features, labels, reader.kept())


def require_eval(model: nn.Module) -> None:
    """Refuse a model that would use batch statistics or dropout.

    Raises:
        UmBenchError: if a module of it is in training mode; the first ones are named.
    """
    training = [name or "the model itself" for name, part in model.named_modules() if part.training]
    if training:
        more = f" and {len(training) - 3} more" if len(training) > 3 else ""
        raise UmBenchError(
            f"in training mode: {', '.join(training[:3])}{more}. Outputs would depend on the "
            "batch; call model.eval() first."
        )


def _one_behind(reader: _Reader, loader: Loader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield each batch's logits, features and labels on the CPU, float32 and int64.

    A GPU is given the next batch before the last one's numbers are waited for.
    """
    before: tuple[Tensor, Tensor, Tensor] | None = None
    for images, labels in loader:
        now = (*reader.read(images), labels)
        if before is not None:
            yield _on_cpu(*before)
        before = now
    if before is not None:
        yield _on_cpu(*before)


def _on_cpu(logits: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return logits.float().cpu(), features.float().cpu(), labels.long().cpu()


class _Reader:
    """Forwards batches, each image once, and keeps what digests make of the inner layers."""

    def __init__(self, model: Classifier, digests: dict[str, Digest]) -> None:
        self.model = model
        self.digests = digests
        self.parts: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in digests}
        self.absent: dict[str, UmBenchError] = {}

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and features (N, D) of a batch, where the model is."""
        inner = self._inner(images) if self.digests else None
        if inner is None:
            features = self.model.features(images)
            logits = self.model.head(features)
        else:
            features, logits = inner.features, inner.logits
        for what, rows in (("features", features), ("logits", logits)):
            # a net that was made for another image size can multiply rows without a word
            if rows.ndim != 2 or rows.shape[0] != images.shape[0]:
                raise UmBenchError(
                    f"{tuple(images.shape)} images gave {what} of shape {tuple(rows.shape)}; one "
                    "row per image is needed. Check that the suite's image size is the backbone's."
                )
        if inner is not None:
            self._digest(inner)
        return logits, features

    def kept(self) -> dict[str, tuple[Tensor, ...] | UmBenchError]:
        """Return each digest of all batches, or why there is none."""
        whole = {
            name: tuple(torch.cat(part) for part in zip(*self.parts[name], strict=True))
            for name in self.digests
        }
        return {**whole, **self.absent}

    def _inner(self, images: Tensor) -> Inner | None:
        try:
            return self.model.inner(images)
        except UnsupportedError as error:
            self.absent.update(dict.fromkeys(self.digests, error))
            self.digests = {}
            return None

    def _digest(self, inner: Inner) -> None:
        for name, digest in list(self.digests.items()):
            try:
                kept = tuple(part.float().cpu() for part in digest(inner))
                _require_rows(name, kept, len(inner.logits))
            except UmBenchError as error:
                self._leave_out(name, error)
            except Exception as error:
                reason = f"{name} broke while reading inner layers: {type(error).__name__}: {error}"
                self._leave_out(name, UmBenchError(reason), error)
            else:
                self.parts[name].append(kept)

    def _leave_out(self, name: str, error: UmBenchError, cause: Exception | None = None) -> None:
        error.__cause__ = cause
        self.absent[name] = error
        del self.digests[name]


def _require_rows(name: str, kept: tuple[Tensor, ...], count: int) -> None:
    for part in kept:
        if part.shape[:1] != (count,):
            raise UmBenchError(
                f"{name} kept {tuple(part.shape)} of {count} images; a row for each is needed"
            )
