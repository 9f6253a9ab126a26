"""Several jobs at once: the same records in the same order, and no worker is lost or left over."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fake_work import FakeWork, Unopened, jobs_of, records_of, wait_until
from test_runner import comparable, suite

from um_bench import run_suite
from um_bench.cli.folders import table_of
from um_bench.errors import StorageError, WorkerError
from um_bench.executors import crew, local, processes
from um_bench.executors.ledger import in_turn
from um_bench.records import read_folder
from um_bench.stopwatch import Stopwatch, time_spent

pytestmark = pytest.mark.slow  # each test starts processes that import torch

MIB = 2**20


@pytest.fixture
def work(tmp_path):
    return FakeWork(tmp_path / "log")


@pytest.fixture(autouse=True)
def _nobody_is_left(monkeypatch):
    # Workers import what the driver was started with: pytest, which takes them 0.4 s.
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    yield
    assert multiprocessing.active_children() == []


# --- Order and progress


def test_records_are_the_same_and_in_the_same_order(work):
    jobs = jobs_of("none", "um", "umap")
    assert list(processes(2)(jobs, work)) == list(local(jobs, work))
    pids = {line.split()[1] for line in work.log.read_text().splitlines()}
    assert len(pids - {str(os.getpid())}) == 2


def test_bases_of_other_seeds_come_first(work):
    jobs = jobs_of("none", "um", "umap", seeds=(0, 1, 2))
    turn = [(job.seed, job.adapter) for job in in_turn(jobs, work)]
    assert turn[:4] == [(0, "none"), (1, "none"), (2, "none"), (0, "um")]
    work.needs = lambda job: None
    assert list(in_turn(jobs, work)) == jobs


def test_nobody_starts_what_needs_a_base_that_is_being_made(work):
    """One seed, and its first job never comes past its base: the other waits for that."""
    jobs = jobs_of("dies-once", "um", seeds=(0,))
    list(processes(2)(jobs, work))
    begun = [note[1] for note in work.notes("begin")]
    assert begun[0] == "dies-once"
    assert sorted(begun) == ["dies-once", "dies-once", "um"]


def test_progress_is_that_of_all_workers_and_reaches_its_end(work):
    seen = []
    work.report = seen.append
    list(processes(2)(jobs_of("none", "um"), work))
    assert {p.total for p in seen} == {8.0}
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == 8.0
    assert {p.worker for p in seen} == {1, 2}


def test_times_of_all_workers_are_added_up(work):
    list(processes(2)(jobs_of("none", "um"), work))
    assert work.stopwatch.computed == 12
    assert work.stopwatch.seconds["score"] > 0
    assert work.stopwatch.workers == 2


def test_what_another_process_is_at_comes_last_but_is_yielded_in_order(work):
    jobs = jobs_of("busy", "none", seeds=(0,))
    assert list(processes(1)(jobs, work)) == [r for job in jobs for r in records_of(job)]
    assert [note[1] for note in work.notes("end")] == ["none", "busy"]


# --- Workers that die, fail, or say something


def test_the_job_of_a_dead_worker_is_started_again(work, caplog):
    jobs = jobs_of("none", "dies-once", "um")
    assert list(processes(2)(jobs, work)) == [r for job in jobs for r in records_of(job)]
    assert len(caplog.messages) == 2
    assert "was ended by SIGKILL at seed 0: dies-once; the job is started again" in caplog.text


def test_a_job_that_kills_its_workers_fails_and_the_others_go_on(work, caplog):
    jobs = jobs_of("none", "dies", "um", seeds=(0,))
    records = list(processes(2)(jobs, work))
    assert [r.cell for r in records] == [r.cell for job in jobs for r in records_of(job)]
    assert [r.adapter for r in records if r.reason] == ["dies"]
    failed = next(r for r in records if r.reason)
    assert "its worker process was ended by SIGKILL, 2 times" in failed.reason
    assert "the second time; its other cells fail" in caplog.text


def test_an_error_that_ends_the_sweep_ends_it_here_and_all_workers(work):
    with pytest.raises(StorageError, match="no space left") as caught:
        list(processes(2)(jobs_of("full-disk", "sleeps", seeds=(0, 1)), work))
    assert "in act" in caught.value.__notes__[0]


def test_a_worker_that_cannot_begin_ends_the_sweep(tmp_path):
    with pytest.raises(WorkerError, match=r"worker process 1 ended with exit code 3 before"):
        list(processes(1)(jobs_of("none"), Unopened(tmp_path / "log")))


def test_who_stops_reading_ends_the_workers(work):
    records = processes(2)(jobs_of("none", "sleeps"), work)
    next(records)
    records.close()


def test_what_workers_say_is_said_here(work, caplog):
    caplog.set_level(logging.WARNING, "um_bench")
    with pytest.raises(UserWarning, match="as in the driver"):
        list(processes(1)(jobs_of("warns", seeds=(0,)), work))
    assert caplog.messages == ["words from a worker"]


# --- How many


@pytest.mark.parametrize(
    ("number", "threads", "workers", "each"),
    [(None, 1, 8, 1), (None, 8, 1, 8), (None, 3, 2, 3), (4, 8, 4, 2), (3, 1, 3, 1), (16, 8, 16, 1)],
)
def test_on_a_cpu_auto_never_changes_the_number_of_threads(number, threads, workers, each):
    assert crew.shared(number, 8, threads, on_gpu=False) == (workers, each)


def test_workers_compute_on_their_share_of_the_threads_and_it_is_said(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(crew, "_cores", lambda: 4)
    work = FakeWork(tmp_path / "log", threads=4)
    list(processes(2)(jobs_of("none"), work))
    assert {line.split()[2] for line in work.log.read_text().splitlines()} == {"2"}
    assert "2 at once, each on 2 of 4 threads: on a CPU, what is trained depends on that" in (
        caplog.text
    )


def test_what_fits_on_a_gpu():
    context = crew.CONTEXT
    assert crew.fitting(2**30, 80 * 2**30) == crew.MOST
    assert crew.fitting(30 * 2**30, 80 * 2**30) == 2
    assert crew.fitting(200 * 2**30, 80 * 2**30) == 1
    for peak in range(2**30, 40 * 2**30, 2**30):
        count = crew.fitting(peak, 80 * 2**30)
        assert count * peak + (count - 1) * context <= 80 * 2**30


def test_on_a_gpu_the_largest_job_is_first_and_shows_how_many_fit(tmp_path):
    """10 GiB free, 3 GiB a job: alone at first, then two at once."""
    work = FakeWork(tmp_path / "log", device="cuda", peak=3 * 1024 * MIB)
    work.amount = lambda job: 5.0 if (job.seed, job.adapter) == (1, "um") else 2.0
    list(processes(None)(jobs_of("none", "um"), work))
    lines = [line.split() for line in work.log.read_text().splitlines()]
    assert [(line[0], *line[3:]) for line in lines[:2]] == [
        ("begin", "1", "um"),
        ("end", "1", "um"),
    ]
    assert len({line[1] for line in lines}) == 2
    assert work.stopwatch.workers == 2


# --- The real thing


def test_two_at_once_make_the_same_table_as_one(tmp_path):
    two_seeds = suite(seeds=[0, 1]).replace(limit=160)
    alone, both = Stopwatch(), Stopwatch()
    seen = []
    one = list(run_suite(two_seeds, results=tmp_path / "1", device="cpu", stopwatch=alone))
    two = list(
        run_suite(
            two_seeds,
            results=tmp_path / "2",
            device="cpu",
            stopwatch=both,
            on_progress=seen.append,
            executor=processes(2),
        )
    )
    assert list(map(comparable, two)) == list(map(comparable, one))
    assert sorted(map(comparable, read_folder(tmp_path / "2" / two_seeds.folder))) == sorted(
        map(comparable, one)
    )
    for kind in ("table", "markdown"):  # the page shows times as well
        tables = [table_of(tmp_path / name, two_seeds.folder, kind) for name in ("1", "2")]
        assert tables[0] == tables[1]
    assert seen[-1].done == pytest.approx(seen[-1].total)
    assert both.computed == alone.computed == 16
    for records, watch in ((one, alone), (two, both)):
        # What is spent is in the records, each second once; but for the driver, which reads the
        # data too, and makes no record.
        spent = time_spent(records)
        counted = {stage: watch.seconds[stage] for stage in spent}
        assert 0 < spent.pop("data") <= counted.pop("data")
        assert spent == pytest.approx(counted, rel=0.01, abs=0.05)
        assert min(spent.values()) > 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes below /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_driver_ends_its_workers_end(tmp_path, number):
    log = tmp_path / "log"
    code = (
        "from pathlib import Path\n"
        "from fake_work import FakeWork, jobs_of\n"
        "from um_bench.executors import processes\n"
        f"list(processes(2)(jobs_of('sleeps'), FakeWork(Path({str(log)!r}))))\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: log.exists() and log.read_text().count("begin") == 2)
        assert len(_processes_of(driver.pid)) >= 3
        if number == signal.SIGINT:
            os.killpg(driver.pid, number)  # as a terminal does
        else:
            driver.send_signal(number)
        _, said = driver.communicate(timeout=30)
        wait_until(lambda: not _processes_of(driver.pid))
    finally:
        if _processes_of(driver.pid):
            os.killpg(driver.pid, signal.SIGKILL)
    assert said.count("Traceback") == (number == signal.SIGINT), "a worker told of the interrupt"


def _processes_of(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it ended meanwhile
        if int(its_session) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_its_table(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "at_once.py"
    options = "--device cpu --nets resnet20_cifar@8 --jobs 1,2 --seeds 1 --epochs 1 --repeats 1"
    done = subprocess.run(
        [sys.executable, str(script), *options.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if "resnet20" in line]
    assert [row[2] for row in rows] == ["1", "2"]
    assert rows[0][6] == "1.00x"
