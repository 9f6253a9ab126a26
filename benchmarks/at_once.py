"""Measure how many small jobs an hour are done when N run at once, in processes on one device.

Prints Markdown, or writes it to `benchmarks/results/` with --write. Each job is a
seed or an adapter of a sweep on digits, resized: training, one pass, two detectors. What is
measured is `um-bench run --jobs N` as it is, with the start of its processes.

    python benchmarks/at_once.py --write      # on a GPU: ResNet-20 and DenseNet-100, 1 to 8 at once
    python benchmarks/at_once.py --device cpu --epochs 4 --write
    python benchmarks/at_once.py --device cpu --epochs 1 --jobs 2 --nets resnet20_cifar@8  # a look

Processes have a GPU in turns. Where NVIDIA's MPS runs (`nvidia-cuda-mps-control -d`), kernels of
several run side by side; measure with and without it.

On a CPU, N at once share the cores: above 16 pixels, each computes on fewer threads. CPU seconds
tell how much work that was, also where other programs keep the cores busy.
"""

import argparse
import os
import platform
import resource
import statistics
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from hardware import RESULTS, device_name, page_of

from um_bench import run_suite
from um_bench.executors import processes
from um_bench.suite import Suite, parse_suite
from um_bench.sweep import choose_device

_ON_GPU = "resnet20_cifar@32,densenet100_bc_cifar@32"
_ON_CPU = "resnet20_cifar@8,resnet20_cifar@32"


class Setting(NamedTuple):
    """What is run."""

    net: str
    size: int
    at_once: int


class Taken(NamedTuple):
    """What a run of all jobs took."""

    wall: float
    cpu: float
    """CPU seconds of the worker processes, all threads together."""
    threads: int
    """Of each worker."""


def suite_of(net: str, size: int, seeds: int, epochs: int) -> Suite:
    """Return a sweep of two jobs a seed."""
    recipe = {"epochs": epochs, "batch_size": 128, "lr": 0.02, "augmentation": "none"}
    return parse_suite(
        {
            "name": "at-once",
            "backbone": net,
            "seeds": list(range(seeds)),
            "adapters": ["finetune", "um@constraint=0.3"],
            "detectors": ["msp", "knn@k=5"],
            "id": {"name": "digits", "train": "digits/train", "test": "digits/test"},
            "preprocessing": {"size": size, "resize": "none" if size == 8 else "squash"},
            "base": recipe,
            "recipe": recipe,
            "ood": {"far": {"held-out": "digits/heldout"}},
        },
        "at-once",
    )


def run(setting: Setting, seeds: int, epochs: int, device: str) -> Taken:
    """Return what a sweep takes from nothing."""
    suite = suite_of(setting.net, setting.size, seeds, epochs)
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        executor = processes(setting.at_once)
        records = list(run_suite(suite, results=folder, device=device, executor=executor))
        wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    states = {record.state for record in records}
    if states != {"done"}:
        raise SystemExit(f"{setting}: not all cells are done: {states}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(wall, cpu, records[0].provenance.threads)


def measured(
    settings: Sequence[Setting], repeats: int, seeds: int, epochs: int, device: str
) -> dict[Setting, list[Taken]]:
    """Return several runs of each setting, interleaved: what else the machine does hits all."""
    found: dict[Setting, list[Taken]] = {setting: [] for setting in settings}
    for _ in range(repeats):
        for setting in settings:
            found[setting].append(run(setting, seeds, epochs, device))
    return found


def page(found: dict[Setting, list[Taken]], arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the report."""
    on_gpu = arguments.device.startswith("cuda")
    what = device_name(arguments.device) + ("" if on_gpu else f", {os.cpu_count()} cores")
    jobs = 2 * arguments.seeds
    yield f"# N jobs at once, {what}"
    yield ""
    text = (
        f"Made by `benchmarks/at_once.py`; {platform.machine()}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; n = {arguments.repeats} runs of {jobs} jobs each, "
        f"interleaved, medians; {arguments.epochs} epochs. Load of the machine at the end (1, 5, "
        f"15 minutes): {', '.join(f'{load:.1f}' for load in os.getloadavg())}."
    )
    yield from textwrap.wrap(text, 100)
    yield ""
    yield "| network | pixels | at once | threads each | wall s | jobs / h | gain | CPU s / job |"
    yield "|---|---|---|---|---|---|---|---|"
    alone: dict[tuple[str, int], float] = {}
    for setting, runs in found.items():
        wall = statistics.median(one.wall for one in runs)
        cpu = statistics.median(one.cpu for one in runs)
        first = alone.setdefault((setting.net, setting.size), wall)
        yield (
            f"| {setting.net} | {setting.size} | {setting.at_once} | {runs[0].threads} "
            f"| {wall:.1f} | {3600 * jobs / wall:.0f} | {first / wall:.2f}x | {cpu / jobs:.1f} |"
        )


def main() -> None:
    """Measure, and print or write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--nets", help="NET@PIXELS, ...")
    parser.add_argument("--jobs", help="at once: 1, ...")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.device = choose_device(arguments.device)
    on_gpu = arguments.device.startswith("cuda")
    nets = arguments.nets or (_ON_GPU if on_gpu else _ON_CPU)
    counts = arguments.jobs or ("1,2,4,8" if on_gpu else "1,2")
    settings = [
        Setting(net.partition("@")[0], int(net.partition("@")[2]), int(count))
        for net in nets.split(",")
        for count in counts.split(",")
    ]
    found = measured(
        settings, arguments.repeats, arguments.seeds, arguments.epochs, arguments.device
    )
    text = "\n".join(page(found, arguments))
    if arguments.write:
        path = page_of(RESULTS, "at-once", device_name(arguments.device), f"n{arguments.repeats}")
        path.write_text(f"{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
