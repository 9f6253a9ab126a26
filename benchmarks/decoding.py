"""Measure how long a set takes to load: decoded, and read back from what is kept.

    python benchmarks/decoding.py                                          # 50,000 PNG of noise
    python benchmarks/decoding.py --data-dir DIR --set openood-cifar10/train

The two take turns. Loading starts when the libraries are imported, and ends with images and
fingerprint in memory.
"""

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
from hardware import RESULTS, device_name, page_of
from PIL import Image

from um_bench.data import load_set, sources
from um_bench.data.kept import CACHE
from um_bench.suite import Preprocessing

assert sources  # imported now, or the first load would be timed with it


def make_images(folder: Path, count: int) -> None:
    """Write 32x32 PNG files of noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05}.png")


def timed(reference: str, data_dir: Path) -> tuple[float, int]:
    """Return the seconds that a set takes to load, and its images."""
    start = time.perf_counter()
    data = load_set(
        reference, data_dir=data_dir, preprocessing=Preprocessing(size=32), ood=True, stream=False
    )
    return time.perf_counter() - start, len(data)


def measure(reference: str, data_dir: Path, rounds: int) -> tuple[dict[str, float], int]:
    """Return medians of both ways, and the number of images."""
    seconds: dict[str, list[float]] = {"decoded": [], "read back": []}
    count = 0
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {CACHE: cache}):
        for _ in range(rounds):
            shutil.rmtree(cache)
            for times in seconds.values():
                taken, count = timed(reference, data_dir)
                times.append(taken)
    return {name: statistics.median(times) for name, times in seconds.items()}, count


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure, and write a result that is named for the hardware."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--set", default="folder/images")
    parser.add_argument("--images", type=int, default=50_000, help="without --data-dir")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if given.data_dir is None:
            make_images(Path(folder) / "images", given.images)
            time.sleep(3)  # what was just written is not kept: it may change once more unseen
        found, count = measure(given.set, given.data_dir or Path(folder), given.rounds)
    lines = [
        f"# Loading {given.set}",
        "",
        f"{device_name()}, {os.cpu_count()} CPUs; um-bench {version('um-bench')}, Pillow "
        f"{version('pillow')}, Python {platform.python_version()}; medians of n = {given.rounds}.",
        "",
        "| | images | seconds |",
        "| --- | --- | --- |",
        *(f"| {name} | {count} | {taken:.3f} |" for name, taken in found.items()),
    ]
    path = page_of(given.out, "decoding", given.set, device_name(), f"n{given.rounds}")
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())
    return path


if __name__ == "__main__":
    main()
