"""Named sets of images: found by name, decoded once, resized, fingerprinted, fed in batches."""

from um_bench.data.loader import Loader
from um_bench.data.sets import ImageSet, Pairs, Source, fingerprint, load_set, resized

__all__ = ["ImageSet", "Loader", "Pairs", "Source", "fingerprint", "load_set", "resized"]
