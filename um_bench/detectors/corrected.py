"""pytorch-ood's classes where 0.4.0 has a fault that would reach the numbers."""

from typing import Self

import numpy as np
import torch
from pytorch_ood import detector as pod
from torch import Tensor


class OpenMax(pod.OpenMax):  # type: ignore[misc]  # pytorch-ood has no types
    """pytorch-ood's, whose scores do not depend on the other images of a batch.

    It computes distances to the centres of those classes alone that some image of the batch is
    classified as; to all others, the distance is 0.
    """

    def predict_logits(self, logits: Tensor) -> Tensor:
        """Return outlier scores (N,) of logits (N, K)."""
        one_of_each_class = torch.eye(logits.shape[1], device=logits.device)
        # far out in a tail a power overflows to infinity; the probability is then 1, as it should
        with np.errstate(over="ignore"):
            scores: Tensor = super().predict_logits(torch.cat([logits, one_of_each_class]))
        return scores[: len(logits)]


class MahalanobisODIN(pod.MahalanobisODIN):  # type: ignore[misc]  # pytorch-ood has no types
    """pytorch-ood's, whose class means move with it to another device."""

    def to(self, device: str | torch.device) -> Self:
        """Move the means too; pytorch-ood leaves them where they were computed."""
        self._base.to(device)
        moved: Self = super().to(device)
        return moved
