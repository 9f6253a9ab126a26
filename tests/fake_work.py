"""Work for executors that computes nothing: a job does what its adapter's name says."""

import functools
import logging
import os
import signal
import time
import warnings
from pathlib import Path

from um_bench.errors import BusyError, StorageError
from um_bench.executors import Memory
from um_bench.progress import Progress
from um_bench.records import Provenance, Record
from um_bench.stopwatch import Stopwatch
from um_bench.suite import Job

DETECTORS = ("msp", "energy", "knn")


class FakeWork:
    """Every job has three records. What is done is noted in a file, a line each."""

    def __init__(self, log: Path, device="cpu", threads=1, peak=0):
        self.log, self.device, self.threads, self.peak = log, device, threads, peak
        self.folder = log.parent
        self.report = lambda progress: None
        self.stopwatch = Stopwatch()
        self.done = 0.0
        log.touch()

    def elsewhere(self, threads):
        return functools.partial(type(self), self.log, self.device, threads, self.peak)

    def memory(self):
        return Memory(self.peak, 10 * 2**30)

    def amount(self, job):
        return 2.0

    def needs(self, job):
        return job.seed

    def __call__(self, job, *, wait):
        if job.adapter == "busy" and not wait:
            self.note("busy", job)
            raise BusyError("another process")
        tries = self.notes("begin").count([str(job.seed), job.adapter])
        self.note("begin", job)
        base = job._replace(adapter="base")
        self.report(Progress("training the base classifier", base, self.done + 0.5, 9.0))
        for record in records_of(job):
            yield record
            self.stopwatch.computed += 1
            with self.stopwatch.during("score"):
                if record.detector == "energy":
                    act(job.adapter, tries)
        self.done += 2.0
        self.note("end", job)
        self.report(Progress("done", job, self.done, 9.0))

    def give_up(self, job, error, seen):
        yield from (r for r in records_of(job, str(error)) if r.cell not in seen)

    def note(self, what, job):
        with self.log.open("a") as log:
            log.write(f"{what} {os.getpid()} {self.threads} {job.seed} {job.adapter}\n")

    def notes(self, what):
        """Return seed and adapter of each note of a kind."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [line[3:] for line in lines if line[0] == what]


def records_of(job, reason=""):
    """Return a job's records; not `synthetic`'s, whose imports take longer than a test here."""
    made = Provenance(created="", device="", platform="", versions={})
    names = {"suite": "s", "id_set": job.id_set, "backbone": job.backbone, "seed": job.seed}
    names |= {"adapter": job.adapter, "adapter_label": job.adapter, "ood_set": "o", "group": "far"}
    return [
        Record(
            **names,
            **{"detector": name, "detector_label": name, "key": "k", "job_key": "j"},
            state="failed" if reason else "done",
            reason=reason,
            weights={"base": "b"},
            provenance=made,
        )
        for name in DETECTORS
    ]


def act(name, tries):
    """Do what the name of a job says."""
    if name == "dies" or (name == "dies-once" and not tries):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "warns":
        logging.getLogger("um_bench").warning("%s from a worker", "words")
        logging.getLogger("um_bench").info("nobody wants to know")
        warnings.warn("as in the driver: an error in tests", UserWarning, stacklevel=1)
    if name == "sleeps":
        time.sleep(600)
    if name == "full-disk":
        raise StorageError("no space left")


def jobs_of(*adapters, seeds=(0, 1)):
    return [Job("id", "net", seed, name) for seed in seeds for name in adapters]


class Unopened(FakeWork):
    """It cannot be opened anywhere else."""

    def elsewhere(self, threads):
        return functools.partial(exit, 3)


class SeesGpus(FakeWork):
    """It notes which GPUs a job may use."""

    def note(self, what, job):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        with self.log.open("a") as log:
            log.write(f"{what} {os.getpid()} {visible}\n")


def wait_until(true, seconds=60.0):
    """Return once it is true; fail if it is not by then."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
