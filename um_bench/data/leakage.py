"""Which files are opened, and by which stage: what is tested on is not read while a method trains.

Python reports every file that it opens to hooks (PEP 578). One is set here; it looks at nothing
outside of the `with` blocks below. Files that libraries open past Python are not seen, nor is what
a plugin finds by searching this process's memory: this guards against mistakes, not against malice.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import MappingProxyType
from typing import NamedTuple

from um_bench.errors import LeakageError


class Files(NamedTuple):
    """What belongs to which set. Keys are real paths, or references of sets in lower case."""

    tested: Mapping[str, str] = MappingProxyType({})
    """What must not be read -> the test set's name."""
    owners: Mapping[str, str] = MappingProxyType({})
    """Whatever was read to load the sets -> the reference of the set."""
    folder: str = ""
    """Of the data, as a real path."""


NO_FILES = Files()


@dataclass
class Stage:
    """What is opened from here to the end of a `with` block."""

    name: str
    files: Files = NO_FILES
    opened: set[str] = field(default_factory=set)
    """Real paths, and references of sets."""
    leaks: dict[str, None] = field(default_factory=dict)
    """Test sets that were asked for, in this order."""

    def note(self, what: str) -> None:
        """Take down a file or a reference.

        Raises:
            LeakageError: if it belongs to a test set.
        """
        self.opened.add(what)
        if what in self.files.tested:
            self.leaks[self.files.tested[what]] = None
            self.refuse()

    @property
    def sets(self) -> tuple[str, ...]:
        """What was read of the data: references of sets, and files that belong to none.

        What lies outside of the folder is left out: Python and libraries open files of their own,
        and which ones depends on what was opened before.
        """
        return tuple(sorted({name for what in self.opened if (name := self._named(what))}))

    def _named(self, what: str) -> str:
        if what in self.files.owners:
            return self.files.owners[what]
        path = PurePath(what)
        if not path.is_absolute():
            return what
        inside = self.files.folder and path.is_relative_to(self.files.folder)
        return path.relative_to(self.files.folder).as_posix() if inside else ""

    def refuse(self) -> None:
        """Raise what has been found, if something has.

        Raises:
            LeakageError: naming stage and test sets.
        """
        if self.leaks:
            raise LeakageError(
                f"{self.name} read test data: {', '.join(self.leaks)}. A method that has seen a "
                "test set cannot be tested on it; it may read the ID training set, its validation "
                "sets and the auxiliary outliers, which it is given."
            )


_CODE = (".py", ".pyc", ".so")
_SYSTEM = ("/proc/", "/sys/", "/dev/")

_stages: list[Stage] = []
"""Of this process, the innermost last. Not by thread: images are decoded in several."""


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
    """Collect the real paths of all files but code that are opened until the end of the block."""
    with _entered(Stage("reading")) as stage:
        yield stage.opened


@contextlib.contextmanager
def refusing(name: str, files: Files) -> Iterator[Stage]:
    """Refuse to open what is tested on; who swallows the error gets it at the end of the block.

    Args:
        name: of the stage, as errors call it: `adapting by um`.
        files: what must not be opened, and what else is known.

    Raises:
        LeakageError: if it is.
    """
    with _entered(Stage(name, files)) as stage:
        yield stage
    stage.refuse()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Take nothing down and refuse nothing until the end of the block.

    It is for what the harness itself reads while something trains. Nothing of a plugin's own may
    run in it but the forward pass of a classifier that it has finished.
    """
    stages = list(_stages)
    _stages.clear()
    try:
        yield
    finally:
        _stages[:] = stages


def asked_for(reference: str) -> None:
    """Take down that a set is loaded by its name, whichever files it has.

    Raises:
        LeakageError: if it is a test set and a stage is at work that must not see it.
    """
    for stage in _stages:
        stage.note(reference.lower())


def read(paths: Iterable[str]) -> None:
    """Take down real paths as opened, whose content was read from elsewhere.

    Raises:
        LeakageError: if one belongs to a test set and a stage is at work that must not see it.
    """
    for path in paths:
        for stage in _stages:
            stage.note(path)


@contextlib.contextmanager
def _entered(stage: Stage) -> Iterator[Stage]:
    _set_hook()
    _stages.append(stage)
    try:
        yield stage
    finally:
        _stages.remove(stage)


@functools.cache
def _set_hook() -> None:
    """Set the hook once a process: there is no way to take one back."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _stages or event != "open":
        return
    path = arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return
    real = os.path.realpath(os.fsdecode(path))
    if real.endswith(_CODE) or real.startswith(_SYSTEM):
        return  # opened where it is imported first, whoever that is
    for stage in _stages:
        stage.note(real)
