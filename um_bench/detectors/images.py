"""Detectors that run the classifier themselves: what pytorch-ood's classes need for that here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pytorch_ood import detector as pod
from torch import Tensor, nn

from um_bench.detectors.corrected import MahalanobisODIN
from um_bench.errors import UnsupportedError
from um_bench.suite import Settings

if TYPE_CHECKING:
    from um_bench.backbones import Classifier


def odin(model: Classifier, settings: Settings) -> Any:
    """Return ODIN with its step in pixel space."""
    # no norm_std: the classifier takes pixels in [0, 1] and normalises inside
    return pod.ODIN(model, norm_std=None, **settings)


def mahalanobis_odin(model: Classifier, settings: Settings) -> Any:
    """Return Mahalanobis on one layer after a step in pixel space."""
    return MahalanobisODIN(lambda images: model.features(images), **settings)


class Dropout(pod.MCD):  # type: ignore[misc]  # pytorch-ood has no types
    """pytorch-ood's MCD; a classifier without dropout is told apart from one that is certain."""

    def predict(self, x: Tensor) -> Tensor:
        """Return outlier scores (N,).

        Raises:
            UnsupportedError: if nothing in the classifier draws random numbers.
        """
        scores: Tensor = super().predict(x)
        if self.mode == "var" and not scores.any():
            raise UnsupportedError(
                "the classifier has no dropout: its outputs do not vary. Backbones that have one "
                "take an option for it, such as --set backbone.drop_rate=0.3"
            )
        return scores


class _Differentiable(nn.Module):
    """A classifier whose inner layers have gradients though its weights may need none."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.detach().requires_grad_())
        return logits


class Coverage(pod.NACUE):  # type: ignore[misc]  # pytorch-ood has no types
    """pytorch-ood's NAC-UE on a classifier's stages; no hook is left if it fails."""

    def __init__(self, model: Classifier, **settings: Any) -> None:
        def mean_over_positions(layer: Tensor) -> Tensor:
            return model.stage_map(layer).flatten(2).mean(dim=2)

        layers = list(model.stages)
        super().__init__(
            _Differentiable(model), layers, feature_reduce=mean_over_positions, **settings
        )

    def fit(self, data_loader: Any) -> Self:
        """Count activations of ID images."""
        try:
            return super().fit(data_loader)  # type: ignore[no-any-return]
        finally:
            self._remove_hooks()

    def predict(self, x: Tensor) -> Tensor:
        """Return outlier scores (N,)."""
        try:
            scores: Tensor = super().predict(x)
        finally:
            self._remove_hooks()
        return scores


def nac(model: Classifier, settings: Settings) -> Any:
    """Return neuron activation coverage over all stages.

    Raises:
        UnsupportedError: if the classifier shows no inner layers.
    """
    return Coverage(model, **settings)
