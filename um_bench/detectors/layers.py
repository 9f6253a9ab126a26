"""Detectors that read inner layers, on what is kept of these during the one pass over the images.

pytorch-ood's classes run the network themselves, once each. Here the pass hands over each batch's
inner layers, a *digest* keeps what the method needs of them, and the class works on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pytorch_ood import detector as pod
from torch import Tensor, nn

from um_bench.errors import UnsupportedError
from um_bench.outputs import Digest
from um_bench.suite import Settings

if TYPE_CHECKING:
    from um_bench.backbones import Classifier, Inner


def stage_count(model: Classifier) -> int:
    """Return the number of inner layers that a classifier shows.

    Raises:
        UnsupportedError: if it shows none.
    """
    return model.num_maps


def layer_means(model: Classifier, settings: Settings) -> Digest:
    """Return a digest of one tensor for each stage: the mean over positions, (N, C)."""
    return lambda inner: tuple(layer.flatten(2).mean(dim=2) for layer in inner.maps)


def multi_mahalanobis(model: Classifier, settings: Settings) -> Any:
    """Return pytorch-ood's MultiMahalanobis, to be fed with `layer_means`."""
    # it only counts the layers that it is given
    return pod.MultiMahalanobis([nn.Identity()] * stage_count(model))


def without_rank_one(model: Classifier, settings: Settings) -> Digest:
    """Return a digest of one tensor: logits (N, K) of the last map without its rank-1 part."""
    remover = pod.RankFeat(None, model.head_of_map, detector=lambda logits: logits)

    def digest(inner: Inner) -> tuple[Tensor, ...]:
        if inner.final.shape[2] * inner.final.shape[3] == 1:
            raise UnsupportedError(
                "the last feature map has one position only, so that nothing is left of it "
                "without its rank-1 part; larger images are needed"
            )
        return (remover.predict_feature_maps(inner.final.contiguous()),)

    return digest


class RankFeatOfLogits(pod.RankFeat):  # type: ignore[misc]  # pytorch-ood has no types
    """RankFeat's score from the logits that `without_rank_one` keeps."""

    def __init__(self) -> None:
        super().__init__(None, None)

    def predict_structured(self, digest: Sequence[Tensor]) -> Tensor:
        """Return outlier scores (N,)."""
        scores: Tensor = self.detector(digest[0])
        return scores


def gram_vectors(model: Classifier, settings: Settings) -> Digest:
    """Return a digest of the logits, then each stage's Gram vectors of all poles, (N, P, C)."""
    poles = range(1, (settings["poles"] or stage_count(model)) + 1)

    def digest(inner: Inner) -> tuple[Tensor, ...]:
        vectors = [
            torch.stack([pod.Gram._gram_vector(layer, pole) for pole in poles], dim=1)
            for layer in inner.maps
        ]
        return (inner.logits, *vectors)

    return digest


class GramOfVectors(pod.Gram):  # type: ignore[misc]  # pytorch-ood has no types
    """Gram's bounds and deviations, from the vectors that `gram_vectors` keeps.

    Args:
        layers: stages.
        num_classes: logits.
        poles: the highest power; 1 to this one are used.
    """

    def __init__(self, layers: int, num_classes: int, poles: int) -> None:
        powers = list(range(1, poles + 1))
        super().__init__(nn.Identity(), [nn.Identity()] * layers, num_classes, powers)

    def fit_structured(self, digest: Sequence[Tensor], labels: Tensor) -> GramOfVectors:
        """Learn the bounds from vectors of ID images with labels (N,)."""
        self._digest = digest
        self.to("cpu").fit([(torch.arange(len(labels)), labels)])
        del self._digest
        return self

    def predict_structured(self, digest: Sequence[Tensor]) -> Tensor:
        """Return outlier scores (N,)."""
        scores: Tensor = self._score(digest[0], list(digest[1:]))
        return scores

    def _create_feature_list(self, data: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, *vectors = (part[data] for part in self._digest)
        return logits, vectors

    @staticmethod
    def _gram_vector(feature: Tensor, p: int) -> Tensor:
        return feature[:, p - 1]


def gram(model: Classifier, settings: Settings) -> Any:
    """Return pytorch-ood's Gram, to be fed with `gram_vectors`."""
    return GramOfVectors(stage_count(model), model.num_classes, settings["poles"])
