"""What differences between rows are worth: intervals over seeds and images, ranks with ties.

Three steps, of which only the first needs scores:

1. `sample_metrics`: a model's metrics on one set, and on resamples of its images. Each model by
   itself; equal images are resampled alike everywhere.
2. `mean_over_sets`: the same of a group of sets.
3. `paired_delta` for two rows, `rank` for a table.

Everything is deterministic: resamples depend on the images' fingerprints and a constant, and
results not on the order of rows. Values are fractions, differences of fractions, or ranks from 1.
"""

import importlib
from typing import TYPE_CHECKING, Any

from um_bench.statistics.terms import (
    ALPHA,
    LEVEL,
    METRICS,
    REPLICATES,
    Interval,
    Over,
    RankRange,
)

if TYPE_CHECKING:
    from um_bench.statistics.intervals import Delta as Delta
    from um_bench.statistics.intervals import half_widths as half_widths
    from um_bench.statistics.intervals import paired_delta as paired_delta
    from um_bench.statistics.ranks import Ranks as Ranks
    from um_bench.statistics.ranks import rank as rank
    from um_bench.statistics.resampling import ImageSet as ImageSet
    from um_bench.statistics.resampling import Sampled as Sampled
    from um_bench.statistics.resampling import mean_over_sets as mean_over_sets
    from um_bench.statistics.resampling import sample_metrics as sample_metrics

# numpy takes longer to import than a page to render: what needs it is imported on first use.
_HOMES = {
    "intervals": ("Delta", "half_widths", "paired_delta"),
    "ranks": ("Ranks", "rank"),
    "resampling": ("ImageSet", "Sampled", "mean_over_sets", "sample_metrics"),
}

__all__ = [
    "ALPHA",
    "LEVEL",
    "METRICS",
    "REPLICATES",
    "Delta",
    "ImageSet",
    "Interval",
    "Over",
    "RankRange",
    "Ranks",
    "Sampled",
    "half_widths",
    "mean_over_sets",
    "paired_delta",
    "rank",
    "sample_metrics",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"um_bench.statistics.{home}"), name)
    raise AttributeError(f"module 'um_bench.statistics' has no attribute {name!r}")
