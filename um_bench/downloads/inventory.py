"""Which sets are here, whole or not, and whether what is here is what it must be."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from um_bench import registry
from um_bench.data import Pairs
from um_bench.downloads.known import COUNTS, archives_of, checksums_of
from um_bench.downloads.transfer import PART, md5_of
from um_bench.errors import MissingDataError, PluginError, UnknownNameError, UsageError
from um_bench.suite import Preprocessing, Suite, load_suite, shipped

_ANY_SIZE = Preprocessing(size=32)
_SHOWN = 3


class State(NamedTuple):
    """What is known of one set in a data folder."""

    reference: str
    """As in a suite: `cifar10/test`."""
    word: str
    """`here`, `missing`, `incomplete` or `damaged`."""
    found: int | None
    """Images that are here; None where it cannot be told."""
    expected: int | None
    """Images that it has; None where nobody says."""
    reasons: tuple[str, ...] = ()
    """Why it is not `here`; how to get it."""


def in_suites() -> dict[str, tuple[str, ...]]:
    """Return every set that a shipped suite names, with the names of these suites."""
    users: dict[str, list[str]] = {}
    for name, path in shipped().items():
        for reference in _named(load_suite(path)):
            users.setdefault(reference, []).append(name)
    return {reference: tuple(users[reference]) for reference in sorted(users)}


def _named(suite: Suite) -> Iterator[str]:
    more = (suite.id.validation, suite.validation_ood, suite.auxiliary)
    sets = (suite.id.train, suite.id.test, *suite.id.shifted.values(), *more)
    yield from dict.fromkeys(filter(None, (*sets, *(ood.source for ood in suite.ood))))


def state_of(reference: str, data_dir: Path) -> State:
    """Return whether a set is here, as far as opening it tells; no image is decoded.

    Raises:
        UsageError: if there is no such family or part.
    """
    return _opened(reference, data_dir)[0]


def checked(reference: str, data_dir: Path) -> State:
    """Return the state of a set after every checksum that is known, and every image, was looked at.

    Raises:
        UsageError: if there is no such family or part.
    """
    state, pairs = _opened(reference, data_dir)
    problems = [*_wrong_files(reference, data_dir), *(() if pairs is None else _undecoded(pairs))]
    if not problems:
        return state
    return state._replace(word="damaged", reasons=(*problems, *state.reasons))


def _opened(reference: str, data_dir: Path) -> tuple[State, Pairs | None]:
    """Return a set's state, and its pairs where it can be opened."""
    family, _, part = reference.partition("/")
    registry.find("dataset", family)
    expected = COUNTS.get(reference)
    try:
        pairs: Pairs = registry.load("dataset", family)(part, data_dir, _ANY_SIZE)
        found = len(pairs)
    except MissingDataError as error:
        partly = error.found > 0 or bool(_begun(reference, data_dir))
        reasons = (*_begun(reference, data_dir), str(error))
        word, count = ("incomplete", error.found) if partly else ("missing", None)
        return State(reference, word, count, error.expected or expected, reasons), None
    except UnknownNameError:
        raise
    except (PluginError, UsageError) as error:
        return State(reference, "damaged", None, expected, (str(error),)), None
    if expected is not None and found != expected:
        reason = f"{found:,} images are here, and it has {expected:,}"
        return State(reference, "incomplete", found, expected, (reason,)), pairs
    return State(reference, "here", found, expected), pairs


def _begun(reference: str, data_dir: Path) -> list[str]:
    """Return the downloads of a set that have begun and not ended."""
    parts = [data_dir / f"{archive.path}{PART}" for archive in archives_of(reference)]
    return [
        f"{part.stat().st_size:,} bytes of {part.name.removesuffix(PART)} are here; um-bench data "
        "get goes on"
        for part in parts
        if part.is_file()
    ]


def _wrong_files(reference: str, data_dir: Path) -> Iterator[str]:
    """Yield the files of known checksum that are here and have another one.

    A member that is missing counts where others of the same folder are here.
    """
    for archive in archives_of(reference):
        path = data_dir / archive.path
        if path.is_file() and md5_of(path) != archive.md5:
            yield f"{path} has another checksum than it must have"
    for member in checksums_of(reference):
        path = data_dir / member.path
        if path.is_file() and md5_of(path) != member.md5:
            yield f"{path} has another checksum than it must have"
        elif not path.is_file() and path.parent.is_dir():
            yield f"{path} is not there"


def _undecoded(pairs: Pairs) -> Iterator[str]:
    """Yield the images that cannot be decoded; three by name, then how many more."""
    if not hasattr(pairs, "__getitem__"):
        return
    files, bad = getattr(pairs, "files", None), 0
    for index in range(len(pairs)):
        try:
            image = pairs[index][0]
            if isinstance(image, Image.Image):
                image.load()
        # Readers of damaged files raise anything.
        except Exception as error:
            bad += 1
            if bad <= _SHOWN:
                name = f"image {index}" if files is None else files[index]
                yield f"{name} cannot be decoded ({error})"
    if bad > _SHOWN:
        yield f"and {bad - _SHOWN} more"
