"""Kill a sweep, damage its files, start it again: what was finished, and is it still there?

    python benchmarks/faults.py [--faults 50] [--seed 0]

Each round runs the same small sweep on digits in a child process, kills it (SIGKILL) at a random
moment, or lets its disk be full, and damages one of its files every other time: cut short, or one
bit flipped. Then the next round goes on with what is left. In the end the sweep is run once without
a fault, and its table must be that of a sweep without any, byte for byte. Printed: the faults, and
of all cells that were finished and not damaged, how many were lost or computed again.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from um_bench import run_suite
from um_bench.errors import StorageError
from um_bench.leaderboard import make_board
from um_bench.records import JobFile, Record, suite_folder
from um_bench.render import render
from um_bench.scores import is_whole
from um_bench.suite import Cell, Suite, parse_suite

SUITE = parse_suite(
    {
        "name": "faults",
        "backbone": "resnet20_cifar",
        "seeds": [0, 1],
        "adapters": ["none", "um@constraint=0.4", "oe"],
        "auxiliary": "photos/auxiliary",
        "detectors": ["msp", "energy", "knn@k=5"],
        "id": {"name": "digits", "train": "digits/train", "test": "digits/test"},
        "preprocessing": {"size": 8, "resize": "none"},
        "base": {"epochs": 1, "batch_size": 64, "augmentation": "none"},
        "recipe": {"epochs": 1, "batch_size": 64, "lr": 0.02, "augmentation": "none"},
        "ood": {"near": {"held-out": "digits/heldout"}, "far": {"noise": "uniform-noise/100-grey"}},
        "limit": 160,
    },
    "faults",
)


class Tally(NamedTuple):
    """What happened to a sweep."""

    faults: Counter[str]
    lost: int
    """Cells that were finished, whose files nobody damaged, and that are gone."""
    again: int
    """Such cells that were computed a second time."""
    rounds: int
    same_table: bool


def finished(results: Path, suite: Suite) -> dict[Cell, Record]:
    """Return the cells that are done and whole, damaged ones left out, without a change to them."""
    folder = suite_folder(results, suite.folder)
    found: dict[Cell, Record] = {}
    for path in sorted((folder / "records").glob("*.jsonl")):
        with tempfile.TemporaryDirectory() as copy:
            twin = Path(copy) / path.name
            twin.write_bytes(path.read_bytes())
            found |= JobFile(twin).records
    return {
        cell: record
        for cell, record in found.items()
        if record.state == "done" and is_whole(folder / record.scores, record.scores_check)
    }


def in_child(results: Path, suite: Suite, *, seconds: float | None, room: int | None) -> str:
    """Run the sweep in a child process; return how it ended: `finished`, `killed`, `full disk`.

    Args:
        results: folder.
        suite: what to run.
        seconds: when to kill it; None = never.
        room: the largest file in bytes that it can write, in place of a full disk; None = any.
    """
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = _run(results, suite, room)
        os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return {0: "finished", 3: "full disk"}.get(os.WEXITSTATUS(status), "broken")


def _run(results: Path, suite: Suite, room: int | None) -> int:
    torch.set_num_threads(1)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        for _ in run_suite(suite, results=results, device="cpu"):
            pass
    except StorageError:
        return 3
    return 0


def damage(results: Path, chance: random.Random) -> str:
    """Cut a file of the sweep short, or flip one of its bits; return what was done to what."""
    files = [p for p in sorted(results.rglob("*")) if p.is_file() and p.stat().st_size]
    files = [p for p in files if p.suffix in (".jsonl", ".npz", ".safetensors")]
    if not files:
        return ""
    kind = chance.choice(sorted({path.suffix for path in files}))
    path = chance.choice([path for path in files if path.suffix == kind])
    content = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        path.write_bytes(content[: chance.randrange(len(content))])
        return f"{kind} cut short"
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return f"{kind} with a flipped bit"


def table(results: Path, suite: Suite) -> str:
    """Return the leaderboard of the finished cells."""
    return render(make_board(finished(results, suite).values()), "markdown", per_set=True)


def torture(faults: int, seed: int, suite: Suite = SUITE) -> Tally:
    """Return what so many faults do to a sweep."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as hurt:
        start = time.perf_counter()
        if in_child(Path(whole), suite, seconds=None, room=None) != "finished":
            raise RuntimeError("the sweep does not even end without a fault")
        length = time.perf_counter() - start
        happened: Counter[str] = Counter()
        lost = again = rounds = 0
        for before, after in _rounds(Path(hurt), suite, faults, length, chance, happened):
            rounds += 1
            lost += sum(cell not in after for cell in before)
            # Times of computing are part of a record: one that was made anew is another.
            again += sum(cell in after and after[cell] != record for cell, record in before.items())
        same = table(Path(whole), suite) == table(Path(hurt), suite)
    return Tally(happened, lost, again, rounds, same)


Cells = dict[Cell, Record]


def _rounds(
    results: Path,
    suite: Suite,
    faults: int,
    length: float,
    chance: random.Random,
    happened: Counter[str],
) -> Iterator[tuple[Cells, Cells]]:
    """Yield the finished cells before and after each run."""
    while sum(happened.values()) < faults:
        before = finished(results, suite)
        if len(before) == sum(len(list(suite.cells(job))) for job in suite.jobs()):
            _start_over(results, chance)
            before = finished(results, suite)
        if chance.random() < 0.15:
            room = chance.choice([1, 2000, 20_000, 200_000])
            end = in_child(results, suite, seconds=None, room=room)
        else:
            end = in_child(results, suite, seconds=chance.uniform(0, length), room=None)
        if end != "finished":
            happened[end] += 1
        yield before, finished(results, suite)
        if chance.random() < 0.5:
            done = damage(results, chance)
            happened.update([done] if done else [])
    before = finished(results, suite)
    if in_child(results, suite, seconds=None, room=None) != "finished":
        raise RuntimeError("the sweep does not end after the last fault")
    yield before, finished(results, suite)


def _start_over(results: Path, chance: random.Random) -> None:
    """Remove a part of what is finished, so that there is something to interrupt."""
    for path in sorted(results.rglob("*")):
        if path.suffix in (".jsonl", ".safetensors") and chance.random() < 0.7:
            path.unlink()


def main() -> int:
    """Print the figures; return 1 if a cell was lost or the table is another one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    tally = torture(options.faults, options.seed)
    for name, count in sorted(tally.faults.items()):
        print(f"{count:5d}  {name}")
    print(f"faults injected: {sum(tally.faults.values())}, in {tally.rounds} runs")
    print(f"finished cells lost: {tally.lost}")
    print(f"finished cells computed again: {tally.again}")
    print(f"table of the sweep as without any fault: {'yes' if tally.same_table else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return int(bool(tally.lost or tally.again or not tally.same_table or tally.faults["broken"]))


if __name__ == "__main__":
    sys.exit(main())
