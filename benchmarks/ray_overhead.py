"""What Ray adds to the jobs of a sweep: real ones on few cores, and many that only sleep.

    python benchmarks/ray_overhead.py --write
    python benchmarks/ray_overhead.py --jobs 8 --workers 2 --sleep 0.2 --real 0  # a look

Real jobs train on digits; what is measured is `um-bench run --executor ray` beside `--jobs N`, with
the start of the processes; that of the cluster, which others share, stands apart.

Jobs that sleep need no processor, so that two cores play many workers: each has its process,
which imports no torch. Beyond what the sleeping itself takes, all is Ray's and the driver's. The
processes are started before, by jobs that are not counted.
"""

import argparse
import functools
import math
import os
import platform
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hardware import RESULTS, device_name, page_of

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray

from um_bench.errors import WorkerError
from um_bench.executors import Memory, cluster, processes
from um_bench.progress import Progress, Report
from um_bench.records import Provenance, Record
from um_bench.stopwatch import Stopwatch
from um_bench.suite import Cell, Job

CELLS = 60
"""Records of a job that sleeps: 15 detectors on 4 OOD sets, as in digits' suite."""


class Sleep:
    """Work whose jobs sleep, say ten times how far they are, and return records."""

    device, threads = "cpu", 1

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self._seconds = folder, seconds
        self.report: Report = lambda _: None
        self.stopwatch = Stopwatch()
        self._done = 0.0

    def __call__(self, job: Job, *, wait: bool) -> Iterator[Record]:
        """Yield the records of a job once it has slept."""
        for _ in range(10):
            time.sleep(self._seconds / 10)
            self._done += 0.1
            self.report(Progress("sleeping", job, self._done, 1.0))
        yield from (record_of(job, number) for number in range(CELLS))

    def amount(self, job: Job) -> float:
        """Return the same for every job."""
        return 1.0

    def needs(self, job: Job) -> None:
        """Return that no job waits for another."""

    def elsewhere(self, threads: int) -> Callable[[], "Sleep"]:
        """Return what makes the same work in another process."""
        return functools.partial(Sleep, self.folder, self._seconds)

    def memory(self) -> Memory:
        """Return that no GPU is used."""
        return Memory(0, 0)

    def give_up(self, job: Job, error: WorkerError, seen: Collection[Cell]) -> Iterator[Record]:
        """Refuse to measure jobs that were lost."""
        raise error


def record_of(job: Job, number: int) -> Record:
    """Return a record of about the size of a real one."""
    made = Provenance(created="", device="", platform="", versions={})
    return Record(
        **{"suite": "sleep", "id_set": job.id_set, "backbone": job.backbone, "seed": job.seed},
        **{"adapter": job.adapter, "adapter_label": job.adapter, "ood_set": "o", "group": "far"},
        **{"detector": f"d{number}", "detector_label": f"d{number}", "key": "k" * 64},
        **{"job_key": "j" * 64, "state": "done", "weights": {"base": "b" * 64}},
        metrics=dict.fromkeys(("auroc", "aupr_in", "aupr_out", "fpr95_ood", "fpr95_id"), 0.5),
        provenance=made,
    )


class Slept(NamedTuple):
    """What a run of jobs that sleep took."""

    jobs: int
    workers: int
    seconds: float
    """That each job sleeps."""
    wall: float
    cpu: float
    """CPU seconds of the driver."""

    @property
    def ideal(self) -> float:
        """Return the seconds that the jobs sleep, so many at a time."""
        return math.ceil(self.jobs / self.workers) * self.seconds

    @property
    def overhead(self) -> float:
        """Return what it took longer, as a share."""
        return self.wall / self.ideal - 1


def slept(jobs: int, workers: int, seconds: float) -> Slept:
    """Return what so many jobs take that sleep so long."""
    sweep = [Job("id", "net", seed, "sleep") for seed in range(jobs)]
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        records = sum(1 for _ in cluster(gpus=0)(sweep, Sleep(Path(folder), seconds)))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    if records != jobs * CELLS:
        raise SystemExit(f"{records} records of {jobs * CELLS}")
    return Slept(jobs, workers, seconds, wall, cpu)


def start(cpus: int) -> float:
    """Start a cluster of one node on this machine; return how long that took, in seconds."""
    since = time.perf_counter()
    # log_to_driver: what Ray has to say would be on the terminal, among the lines of the page.
    ray.init("local", num_cpus=cpus, num_gpus=0, include_dashboard=False, log_to_driver=False)
    return time.perf_counter() - since


def sleeping(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the page about jobs that sleep."""
    started = start(arguments.workers)
    since = time.perf_counter()
    slept(2 * arguments.workers, arguments.workers, arguments.sleep)
    first = time.perf_counter() - since
    counts = sorted({max(1, arguments.jobs // 4), arguments.jobs})
    runs = [
        [slept(count, arguments.workers, arguments.sleep) for count in counts]
        for _ in range(arguments.repeats)
    ]
    ray.shutdown()
    yield f"## Jobs that sleep {arguments.sleep:g} s, on {arguments.workers} workers"
    yield ""
    yield from paragraph(
        f"The cluster started in {started:.0f} s. The first {2 * arguments.workers} jobs, which "
        f"start the workers' processes on {os.cpu_count()} cores, took {first:.0f} s and are not "
        f"counted. Overhead: wall clock / ideal - 1; ideal: rounds of {arguments.workers} jobs."
    )
    yield ""
    yield "| jobs | ideal s | wall s | overhead | from to | driver's CPU ms a job |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for each in zip(*runs, strict=True):
        over = [one.overhead for one in each]
        yield (
            f"| {each[0].jobs} | {each[0].ideal:.1f} "
            f"| {statistics.median(one.wall for one in each):.1f} "
            f"| {statistics.median(over):.1%} | {min(over):.1%} to {max(over):.1%} "
            f"| {1000 * statistics.median(one.cpu / one.jobs for one in each):.1f} |"
        )
    yield ""


def real(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the page about jobs that train on digits."""
    from at_once import suite_of

    from um_bench import run_suite

    suite = suite_of("resnet20_cifar", 8, arguments.seeds, arguments.epochs)
    walls: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.repeats):
        for number in range(1, arguments.real + 1):
            for name, executor in (("--jobs", processes), ("--executor ray", ray_at_once)):
                begun = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    ran = run_suite(suite, results=folder, device="cpu", executor=executor(number))
                    states = {record.state for record in ran}
                if states != {"done"}:
                    raise SystemExit(f"{name}, {number} at once: not all cells are done: {states}")
                walls.setdefault((name, number), []).append(time.perf_counter() - begun)
    yield "## Real jobs: ResNet-20 on digits, 8 pixels"
    yield ""
    yield from paragraph(
        f"{2 * arguments.seeds} jobs of {arguments.epochs} epochs, and {arguments.seeds} base "
        "classifiers; runs interleaved. Ray's begin with a cluster of their own. Ratio: to `--jobs`"
        " with as many at once, of the same round; median, and the range."
    )
    yield ""
    yield "| at once | executor | wall s | ratio | from to |"
    yield "|---:|---|---:|---:|---:|"
    for (name, number), its in sorted(walls.items(), key=lambda item: (item[0][1], item[0][0])):
        pairs = zip(its, walls["--jobs", number], strict=True)
        ratios = [mine / other for mine, other in pairs]
        yield (
            f"| {number} | `{name}` | {statistics.median(its):.1f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    yield ""


def ray_at_once(number: int) -> object:
    """Return an executor on a cluster of its own."""
    return cluster("local", number, 0)


def paragraph(text: str) -> list[str]:
    """Return a text in lines of the pages' width."""
    return textwrap.wrap(text, 100)


def page(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "# What Ray adds to the jobs of a sweep"
    yield ""
    yield from paragraph(
        f"Made by `benchmarks/ray_overhead.py`; {device_name()}, {os.cpu_count()} cores; Ray "
        f"{ray.__version__}, Python {platform.python_version()}; n = {arguments.repeats}, medians. "
        f"Load of the machine at the beginning (1, 5, 15 minutes): "
        f"{', '.join(f'{load:.1f}' for load in os.getloadavg())}; what else it does makes all of "
        "this slower, real jobs most of all."
    )
    yield ""
    if arguments.jobs:
        yield from sleeping(arguments)
    if arguments.real:
        yield from real(arguments)


def main(given: Sequence[str] | None = None) -> Path | None:
    """Measure, and print or write the report; return where it is written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000, help="that sleep; 0 = none")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sleep", type=float, default=2.0, help="seconds")
    parser.add_argument("--real", type=int, default=2, help="most real jobs at once; 0 = none")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of what is written")
    arguments = parser.parse_args(given)
    text = "\n".join(page(arguments)).rstrip()
    print(text)
    if not arguments.write:
        return None
    name = ("ray", f"{arguments.jobs}-jobs", device_name(), f"ray-{ray.__version__}")
    path = page_of(arguments.out, *name, f"n{arguments.repeats}")
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
