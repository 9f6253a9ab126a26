"""The training losses of pytorch-ood as adapters: `loss:LogitNorm`, `loss:CAC`, and their kin."""

from um_bench_losses.adapters import (
    CAC,
    GMCHAD,
    II,
    MCHAD,
    VOS,
    Center,
    Confidence,
    Entropic,
    LogitNorm,
    Objectosphere,
    VOSReg,
)
from um_bench_losses.table import LOSSES, catalogue

__all__ = [
    "CAC",
    "GMCHAD",
    "II",
    "LOSSES",
    "MCHAD",
    "VOS",
    "Center",
    "Confidence",
    "Entropic",
    "LogitNorm",
    "Objectosphere",
    "VOSReg",
    "catalogue",
]
