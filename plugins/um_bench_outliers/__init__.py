"""Training with auxiliary outliers: OE, energy-regularised fine-tuning, POEM and DOE."""

from um_bench_outliers.doe import DOE
from um_bench_outliers.energy import Energy
from um_bench_outliers.oe import OE
from um_bench_outliers.poem import POEM
from um_bench_outliers.terms import energy_term, oe_term

__all__ = ["DOE", "OE", "POEM", "Energy", "energy_term", "oe_term"]
