"""Image sets of known address and checksum: what is here, what is not, and getting it."""

from um_bench.downloads.getting import get
from um_bench.downloads.inventory import State, checked, in_suites, state_of
from um_bench.downloads.known import Archive, archives_of, licence_of

__all__ = [
    "Archive",
    "State",
    "archives_of",
    "checked",
    "get",
    "in_suites",
    "licence_of",
    "state_of",
]
