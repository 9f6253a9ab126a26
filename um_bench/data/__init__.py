"""Named sets of images: found by name, decoded, resized, fingerprinted, fed in batches.

A set is kept in memory where it fits; otherwise its images are decoded anew in each pass.
"""

from um_bench.data.decoding import resized
from um_bench.data.fingerprints import fingerprint
from um_bench.data.loader import Loader
from um_bench.data.sets import ImageSet, Pairs, Source, StreamedSet, load_set

__all__ = [
    "ImageSet",
    "Loader",
    "Pairs",
    "Source",
    "StreamedSet",
    "fingerprint",
    "load_set",
    "resized",
]
