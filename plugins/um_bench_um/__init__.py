"""UM, "Unleashing Mask" (Zhu et al., ICML 2023, arXiv:2306.03715): forget what is atypical."""

from um_bench_um.adapter import UM
from um_bench_um.constraint import Constraint, estimate_constraint
from um_bench_um.loss import UMLoss, um_loss

__all__ = ["UM", "Constraint", "UMLoss", "estimate_constraint", "um_loss"]
