"""Errors whose message is enough: what was given, what is known, what to do."""

import difflib
from collections.abc import Iterable


class UmBenchError(Exception):
    """An error that its reader can act on; the command line shows the message, not a traceback."""


class UsageError(UmBenchError):
    """What the user gave cannot be used: a name, a file, a value. Ends the command, exit code 2."""


class UnknownNameError(UsageError):
    """There is nothing of that name; near ones are named."""


class DamagedError(UsageError):
    """What is stored is not what was written."""


class MissingDataError(UmBenchError):
    """A data set or weights are not here; the message says how to get them.

    The cells that need them are `missing-data`.

    Args:
        message: what is not here, and how to get it.
        found: how many of its images are here.
        expected: how many it has, where that is known.
    """

    def __init__(self, message: str, *, found: int = 0, expected: int | None = None) -> None:
        super().__init__(message)
        self.found = found
        self.expected = expected


class UnsupportedError(UmBenchError):
    """A combination that cannot work, and why. Its cells are `unsupported`."""


class PluginError(UmBenchError):
    """A plugin that cannot be loaded or breaks its contract; the message names its distribution."""


class StorageError(UmBenchError):
    """Results cannot be written; what was written before is safe. Ends the command, exit code 2."""


class BusyError(UmBenchError):
    """Another process is at work on the same thing."""


class WorkerError(UmBenchError):
    """A worker process ended in the midst of its work."""


class DivergedError(UmBenchError):
    """A training whose loss is no finite number any more."""


class DistributedError(UmBenchError):
    """Several processes cannot go on with a training, or may not begin it. Ends the command."""


class LeakageError(UmBenchError):
    """Something that trains or tunes has read what is tested on."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a name that nobody registered, with the nearest known names."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UnknownNameError(
        f"no {kind} named {given!r}.{hint} Known: {', '.join(names) or 'none'}."
    )
