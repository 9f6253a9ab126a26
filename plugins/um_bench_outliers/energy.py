"""The adapter `energy`: fine-tuning with energy margins."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from um_bench.adapters import Adapter, Loader, Paper, Plan
from um_bench.errors import UsageError
from um_bench_outliers.terms import check_alpha, energy_term


@dataclass(frozen=True, kw_only=True)
class Energy(Adapter):
    """Push the energy of ID images below one margin and that of outliers above another."""

    needs_outliers: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Energy-based Out-of-distribution Detection",
        "NeurIPS",
        2020,
        "https://arxiv.org/abs/2010.03759",
    )

    alpha: float = 0.1
    """Weight of the outlier term."""
    margin_in: float = -25.0
    """Energy that ID images should stay below."""
    margin_out: float = -7.0
    """Energy that outliers should stay above."""

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if not self.margin_in < self.margin_out:
            raise UsageError(
                f"margin_in ({self.margin_in}) must be below margin_out ({self.margin_out}): ID "
                "images get the lower energy"
            )

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter, with `energy_term` beside the ID loss."""
        term = partial(
            energy_term, alpha=self.alpha, margin_in=self.margin_in, margin_out=self.margin_out
        )
        return Plan(model=model, outlier_loss=term)
