"""Jobs on a Ray cluster of two nodes: whatever dies, the records are the local executor's."""

import contextlib
import logging
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from fake_work import FakeWork, SeesGpus, jobs_of, records_of, wait_until
from test_runner import comparable, suite

from um_bench import run_suite
from um_bench.cli.folders import table_of
from um_bench.errors import StorageError, UsageError
from um_bench.executors import cluster, nodes
from um_bench.records import read_folder
from um_bench.stopwatch import Stopwatch

pytest.importorskip("ray", reason='needs Ray: pip install "um-bench[ray]"')

pytestmark = pytest.mark.slow  # starts a cluster, and processes that import torch

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes of one CPU each, of which this process is no part."""
    with pytest.MonkeyPatch.context() as patch:
        # What the nodes' processes inherit: they import the work of these tests by its name.
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray.cluster_utils import Cluster

            its = Cluster()
            for gpus in (0, 1):  # a number that Ray counts with: nobody looks for it
                its.add_node(num_cpus=1, num_gpus=gpus, object_store_memory=80 * 2**20)
        yield its
        its.shutdown()


@pytest.fixture(scope="module")
def connected(two_nodes):
    """This process as part of the cluster, so that processes of one test are those of the next."""
    import ray

    ray.init(two_nodes.address, log_to_driver=False, configure_logging=False)
    yield two_nodes
    ray.shutdown()


@pytest.fixture
def work(tmp_path, connected):
    return FakeWork(tmp_path / "log")


def begun(work):
    return [tuple(note) for note in work.notes("begin")]


# --- The records, and what is seen meanwhile


def test_records_are_the_same_and_in_the_same_order(work):
    seen = []
    work.report = seen.append
    jobs = jobs_of("busy", "none", "um")
    records = list(cluster(gpus=0)(jobs, work))
    assert records == [record for job in jobs for record in records_of(job)]
    assert len(work.notes("busy")) == 2  # and then they were waited for
    assert {p.total for p in seen} == {12.0}
    assert all(0 < p.done <= 12 for p in seen)
    assert {p.worker for p in seen} <= {1, 2}
    assert work.stopwatch.computed == len(records)
    assert work.stopwatch.seconds["score"] > 0
    assert not list(work.folder.glob(".seen-*"))


def test_a_number_of_jobs_is_the_most_at_a_time(work):
    list(cluster(number=1, gpus=0)(jobs_of("none", "um"), work))
    kinds = [line.split()[0] for line in work.log.read_text().splitlines()]
    assert kinds == ["begin", "end"] * 4


def test_a_job_has_its_share_of_a_gpu(connected, tmp_path):
    work = SeesGpus(tmp_path / "log")
    list(cluster(gpus=0.5)(jobs_of("none", "um"), work))
    lines = [line.split() for line in work.log.read_text().splitlines()]
    assert {line[-1] for line in lines} == {"0"}
    # torch stays on the GPU that it saw first, so that a process is for one job.
    assert len({line[1] for line in lines}) == 4


def test_what_jobs_say_is_said_here(work, caplog):
    caplog.set_level(logging.WARNING, "um_bench")
    with pytest.raises(UserWarning, match="as in the driver") as caught:
        list(cluster(gpus=0)(jobs_of("warns", seeds=(0,)), work))
    assert [r.getMessage() for r in caplog.records if r.name == "um_bench"] == [
        "words from a worker"
    ]
    assert "in act" in caught.value.__notes__[0]


# --- What is lost, or fails


def test_lost_jobs_are_started_again_and_fail_in_the_end(work, caplog):
    jobs = jobs_of("dies-once", "dies", "um", seeds=(0,))
    records = list(cluster(gpus=0)(jobs, work))
    assert [r.cell for r in records] == [r.cell for job in jobs for r in records_of(job)]
    assert begun(work).count(("0", "dies-once")) == 2
    assert begun(work).count(("0", "dies")) == nodes.RETRIES + 1
    assert {r.adapter for r in records if r.reason} == {"dies"}
    assert "its process or node was lost, 4 times: The worker died" in records[4].reason
    assert "seed 0, dies: lost 4 times; it fails" in caplog.text


def test_an_error_that_ends_the_sweep_here_ends_it_there(work):
    with pytest.raises(StorageError, match="no space left"):
        list(cluster(gpus=0)(jobs_of("full-disk", "sleeps", seeds=(0, 1)), work))
    all_ended(work)


def test_who_stops_reading_cancels_the_jobs(work):
    work.needs = lambda job: None  # so that they begin together
    records = cluster(gpus=0)(jobs_of("none", "sleeps", seeds=(0,)), work)
    next(records)
    wait_until(lambda: any(name == "sleeps" for _, name in begun(work)), seconds=90)
    records.close()
    all_ended(work)


def all_ended(work):
    """Both CPUs are there for others, and nobody sleeps on them."""
    list(cluster(gpus=0)(jobs_of("none", "um", seeds=(7, 8)), work))


def test_a_node_that_does_not_see_the_results_is_refused(work, monkeypatch, tmp_path):
    @contextlib.contextmanager
    def elsewhere(work):
        yield nodes._Sight("/nowhere", tmp_path / "absent" / ".seen")

    monkeypatch.setattr(nodes._Sight, "of", elsewhere)
    with pytest.raises(UsageError, match=r"does not see the results in .*absent: give --results"):
        list(cluster(gpus=0)(jobs_of("none"), work))
    assert begun(work) == []


def test_a_node_with_other_data_is_refused(connected, tmp_path):
    work = FakeWork(tmp_path / "log")
    work.amount = lambda job: 3.0
    with pytest.raises(UsageError, match=r"not 3\): give --data-dir a folder"):
        list(cluster(gpus=0)(jobs_of("none"), work))
    assert begun(work) == []


def test_more_than_any_node_has_is_refused(work):
    with pytest.raises(UsageError, match=r"them: 1 CPUs, 0 GPUs; 1 CPUs, 1 GPUs"):
        list(cluster(gpus=2)(jobs_of("none"), work))


def test_a_cluster_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UsageError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused"):
        list(cluster("127.0.0.1:1")(jobs_of("none"), FakeWork(tmp_path / "log")))


# --- Drivers that end


DRIVER = """
import sys
from pathlib import Path
from fake_work import FakeWork, SeesGpus, jobs_of
from um_bench.executors import cluster
list(cluster(sys.argv[1], gpus=0)(jobs_of("sleeps"), FakeWork(Path(sys.argv[2]))))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_the_driver_ends_its_jobs_end(two_nodes, tmp_path, number):
    log = tmp_path / "log"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, two_nodes.address, str(log)],
        cwd=TESTS,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: log.exists() and log.read_text().count("begin") == 2, seconds=90)
        driver.send_signal(number)
        _, said = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    pids = [int(line.split()[1]) for line in log.read_text().splitlines()]
    wait_until(lambda: not any(map(alive, pids)), seconds=90)


def alive(pid):
    try:
        return "_run" in Path(f"/proc/{pid}/comm").read_text()  # Ray names them for what they do
    except OSError:
        return False


# --- The real thing


SWEEP = suite(
    seeds=[0, 1],
    base={"epochs": 3, "batch_size": 64, "augmentation": "none"},
    recipe={"epochs": 15, "batch_size": 64, "lr": 0.02, "augmentation": "none"},
).replace(limit=300)

SWEEP_DRIVER = """
import sys
from test_ray import SWEEP
from um_bench import run_suite
from um_bench.executors import cluster
for record in run_suite(SWEEP, results=sys.argv[2], device="cpu", executor=cluster(sys.argv[1])):
    print(record.seed, record.adapter, flush=True)
"""


def test_driver_and_node_are_killed_and_the_table_is_that_of_the_local_executor(
    connected, tmp_path
):
    one = list(run_suite(SWEEP, results=tmp_path / "1", device="cpu"))
    command = [sys.executable, "-c", SWEEP_DRIVER, connected.address, str(tmp_path / "2")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=TESTS) as driver:
        assert driver.stdout.readline()  # a job has ended
        driver.kill()
    before = list(read_folder(tmp_path / "2" / SWEEP.folder))
    assert 4 <= len(before) < len(one)
    watch, at = Stopwatch(), {}

    def kill_a_node(progress):
        at[progress.worker] = progress.stage.startswith("training um")
        if sum(at.values()) == 2 and connected.worker_nodes:
            connected.remove_node(*connected.worker_nodes, allow_graceful=False)

    two = list(
        run_suite(
            SWEEP,
            results=tmp_path / "2",
            device="cpu",
            on_progress=kill_a_node,
            executor=cluster(gpus=0),
            stopwatch=watch,
        )
    )
    assert not connected.worker_nodes
    assert list(map(comparable, two)) == list(map(comparable, one))
    after = {record.cell: record for record in read_folder(tmp_path / "2" / SWEEP.folder)}
    assert all(after[record.cell] == record for record in before), "computed twice"
    assert watch.computed <= len(one) - len(before)
    for kind in ("table", "markdown"):  # others show times as well
        tables = [table_of(tmp_path / name, SWEEP.folder, kind) for name in ("1", "2")]
        assert tables[0] == tables[1]
    statistics = [tmp_path / name / SWEEP.folder / "statistics.json" for name in ("1", "2")]
    assert statistics[0].read_bytes() == statistics[1].read_bytes()


def test_the_benchmark_runs_and_writes_its_page(tmp_path):
    script = TESTS.parent / "benchmarks" / "ray_overhead.py"
    options = "--jobs 4 --workers 2 --sleep 0.5 --repeats 1 --real 0 --write --out"
    done = subprocess.run(
        [sys.executable, str(script), *options.split(), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("ray-4-jobs-*-n1.md")
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| 4 ")]
    assert rows[0][1] == "1.0"
    assert float(rows[0][2]) > 1.0
