"""One pass over one set: the logits, features and labels that nearly every score comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from um_bench.errors import UmBenchError

if TYPE_CHECKING:
    from um_bench.backbones import Classifier
    from um_bench.data import Loader


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a classifier makes of one set, image by image, in the loader's order."""

    logits: Tensor
    """(N, K) float32 on the CPU."""
    features: Tensor
    """Pooled penultimate features (N, D) float32 on the CPU."""
    labels: Tensor
    """(N,) int64 on the CPU; < 0 = OOD."""

    def __len__(self) -> int:
        return self.labels.shape[0]


def collect(model: Classifier, loader: Loader) -> Outputs:
    """Return the outputs for every image of a loader, from one forward pass per image.

    Nothing about the model is changed.

    Raises:
        UmBenchError: if a part of the model is in training mode, the loader is empty, the model
            returns another number of rows than it was given images, or a logit is not finite.
    """
    require_eval(model)
    with torch.no_grad():
        batches = [_forward(model, images, labels) for images, labels in loader]
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
    return Outputs(logits, features, labels)


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


def _forward(model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features = model.features(images)
    logits = model.head(features)
    for what, rows in (("features", features), ("logits", logits)):
        # a net that was made for another image size can multiply rows without a word
        if rows.ndim != 2 or rows.shape[0] != images.shape[0]:
            raise UmBenchError(
                f"{tuple(images.shape)} images gave {what} of shape {tuple(rows.shape)}; one row "
                "per image is needed. Check that the suite's image size is the backbone's."
            )
    return logits.float().cpu(), features.float().cpu(), labels.long().cpu()
