"""Two folders of results, of all suites or of one: which suites are compared with which."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from um_bench.difference.compare import Difference, compare
from um_bench.errors import UsageError
from um_bench.leaderboard import read_info, read_results
from um_bench.records import all_kept, slug


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `um-bench diff` found."""

    a: Path
    b: Path
    suites: dict[str, Difference]
    """Of each suite that both have, by the name of its folder."""
    only_a: tuple[str, ...]
    """Suites that only one of the two has."""
    only_b: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 if nothing moved, else 1."""
        same = all(difference.is_empty for difference in self.suites.values())
        return 0 if same and not (self.only_a or self.only_b) else 1


def compare_folders(a: Path, b: Path, suite: str | None = None) -> Report:
    """Return what differs between two folders of results.

    Args:
        a: the folder of all results, or of one suite's.
        b: the same. Two folders of one suite each are compared whatever they are called.
        suite: of all suites, this one only; its name.

    Raises:
        UsageError: if a folder holds no results, has not that suite, or a file cannot be used.
    """
    found_a, found_b = _suites(a), _suites(b)
    if len(found_a) == len(found_b) == 1 and _is_one(a) and _is_one(b):
        found_b = dict(zip(found_a, found_b.values(), strict=True))
    if suite is not None:
        found_a, found_b = _chosen(a, found_a, suite), _chosen(b, found_b, suite)
    shared = [name for name in found_a if name in found_b]
    if not shared:
        raise UsageError(
            f"{a} and {b} have no suite in common: the first has {', '.join(found_a)}, the second "
            f"{', '.join(found_b)}"
        )
    return Report(
        a=a,
        b=b,
        suites={name: _compared(found_a[name], found_b[name]) for name in shared},
        only_a=tuple(name for name in found_a if name not in found_b),
        only_b=tuple(name for name in found_b if name not in found_a),
    )


def _compared(a: Path, b: Path) -> Difference:
    with all_kept():
        return compare(read_results(a)[0], read_results(b)[0])


def _is_one(folder: Path) -> bool:
    return (folder / "records").is_dir()


def _suites(folder: Path) -> dict[str, Path]:
    """Return the folder of each suite by its name."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give a folder of results")
    if _is_one(folder):
        info = read_info(folder / "suite.json")
        return {slug(info.name) if info else folder.resolve().name: folder}
    parents = sorted({path.parent.parent for path in folder.glob("*/records/*.jsonl")})
    if not parents:
        raise UsageError(
            f"{folder} holds no results: neither records/, nor SUITE/records/. Give the folder "
            "that --results named, or that of one suite in it."
        )
    return {parent.name: parent for parent in parents}


def _chosen(folder: Path, found: Mapping[str, Path], suite: str) -> dict[str, Path]:
    name = slug(suite)
    if name not in found:
        raise UsageError(f"{folder} has no results of {suite!r}; it has {', '.join(found)}")
    return {name: found[name]}
