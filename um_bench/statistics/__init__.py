"""What differences between rows are worth: intervals over seeds and images, ranks with ties.

Three steps, of which only the first needs scores:

1. `sample_metrics`: a model's metrics on one set, and on resamples of its images. Each model by
   itself; equal images are resampled alike everywhere.
2. `mean_over_sets`: the same of a group of sets.
3. `paired_delta` for two rows, `rank` for a table.

Everything is deterministic: resamples depend on the images' fingerprints and a constant, and
results not on the order of rows. Values are fractions, differences of fractions, or ranks from 1.
"""

from um_bench.statistics.intervals import LEVEL, Delta, Interval, half_widths, paired_delta
from um_bench.statistics.ranks import ALPHA, RankRange, Ranks, rank
from um_bench.statistics.resampling import (
    METRICS,
    REPLICATES,
    ImageSet,
    Sampled,
    mean_over_sets,
    sample_metrics,
)
from um_bench.statistics.variation import Over

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
