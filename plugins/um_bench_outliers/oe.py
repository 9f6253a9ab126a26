"""The adapter `oe`: outlier exposure."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from um_bench.adapters import Adapter, Loader, Paper, Plan
from um_bench_outliers.terms import check_alpha, oe_term


@dataclass(frozen=True, kw_only=True)
class OE(Adapter):
    """Pull the prediction for auxiliary outliers towards the uniform distribution."""

    needs_outliers: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Deep Anomaly Detection with Outlier Exposure",
        "ICLR",
        2019,
        "https://arxiv.org/abs/1812.04606",
    )

    alpha: float = 0.5
    """Weight of the outlier term."""

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, with `oe_term` beside the ID loss."""
        return Plan(model=model, outlier_loss=partial(oe_term, alpha=self.alpha))
