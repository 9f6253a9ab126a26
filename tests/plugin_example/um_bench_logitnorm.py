"""LogitNorm (Wei et al., ICML 2022, arXiv:2205.09310): the length of the logits is trained away."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from um_bench.adapters import Adapter, Loader, Plan


@dataclass(frozen=True, kw_only=True)
class LogitNorm(Adapter):
    """Cross-entropy that sees only the direction of the logits, so confidence cannot grow."""

    temperature: float = 0.04

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter."""
        return Plan(model=model, id_loss=self.loss)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of unit logits (N, K), sharpened, against labels (N,)."""
        length = logits.norm(dim=1, keepdim=True) + 1e-7
        return F.cross_entropy(logits / length / self.temperature, labels)
