"""Post-hoc detectors as a table: what each reads, how pytorch-ood's class is built, its defaults.

A detector that reads logits, features or inner layers never sees an image: it is fitted on and
scores `Outputs`, which one pass over the images gives for all of them.
"""

from um_bench.detectors.scorer import Scorer, fit
from um_bench.detectors.search import search
from um_bench.detectors.spec import Binding, DetectorError, DetectorSpec, bind, prepare

__all__ = [
    "Binding",
    "DetectorError",
    "DetectorSpec",
    "Scorer",
    "bind",
    "fit",
    "prepare",
    "search",
]
