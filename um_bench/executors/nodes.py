"""Several jobs at once on a Ray cluster, each a task; Ray starts the lost ones again.

Every node reads and writes the same folders: a job's records, scores and model are where the local
executor has them, its lock keeps another task from it, and whoever runs the sweep next goes on.
"""

import contextlib
import functools
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from um_bench.errors import UsageError, WorkerError
from um_bench.executors import worker
from um_bench.executors.ledger import Ledger
from um_bench.executors.work import Executor, Work
from um_bench.progress import Progress
from um_bench.records import Record
from um_bench.suite import Job

RETRIES = 3
"""How often Ray starts a job again whose process or node is lost."""
_PAUSE = 0.5
"""Seconds between two looks at what tasks say, and between two reports of one task."""

log = logging.getLogger("um_bench")


def cluster(
    address: str | None = None, number: int | None = None, gpus: float | None = None
) -> Executor:
    """Return an executor that runs each job as a task of a Ray cluster.

    Records come in the order of the jobs. An interrupt cancels the tasks, and they end with this
    process, however it ends.

    Args:
        address: of the cluster, as Ray takes it. None is what `RAY_ADDRESS` names, else one that
            runs on this machine, else one that is started here and ends with the sweep.
        number: of jobs at a time. None is as many as the cluster has room for.
        gpus: share of a GPU for each job, 0 to 1. None is a whole one where the cluster has any,
            else 0. Nothing holds a job to its share of the memory. Where it is above 0, every job
            has a process of its own.

    Raises:
        UsageError: if Ray is not installed. When the executor starts, if the cluster is not there,
            or no node has what a job needs; while it runs, if a node sees other folders than this
            machine.
    """
    ray = _ray()

    def run(jobs: Iterable[Job], work: Work) -> Iterator[Record]:
        with _connected(ray, address), _Sight.of(work) as sight:
            share = share_of(ray.nodes(), work.threads, gpus)
            yield from _Tasks(ray, tuple(jobs), work, sight, share, number).records()

    return run


class Share(NamedTuple):
    """What of a node each job has."""

    cpus: int
    """Threads that it computes on."""
    gpus: float

    def options(self) -> dict[str, Any]:
        """Return how Ray calls it."""
        # Given with the function, and not with each call: Ray then lets a process that has had a
        # GPU run nothing else, as torch stays on the GPU that it saw first.
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES}


def share_of(nodes: Sequence[dict[str, Any]], threads: int, gpus: float | None) -> Share:
    """Return what each job has of a node.

    Args:
        nodes: as `ray.nodes` returns them.
        threads: that a job is computed on here.
        gpus: as was asked for.

    Raises:
        UsageError: if no node has it.
    """
    each = [node["Resources"] for node in nodes if node["Alive"]]
    if gpus is None:
        gpus = float(any(its.get("GPU", 0) >= 1 for its in each))
    fit = [int(its.get("CPU", 0)) for its in each if its.get("GPU", 0) >= gpus]
    most = max(fit, default=0)
    if not most:
        have = sorted(f"{its.get('CPU', 0):g} CPUs, {its.get('GPU', 0):g} GPUs" for its in each)
        known = "; ".join(have) or "no nodes"
        raise UsageError(
            f"a job needs a CPU and {gpus:g} of a GPU, and no node has them: {known}. "
            "Give another --gpus-per-job, or add a node."
        )
    if gpus:
        return Share(1, gpus)
    if most < threads:
        log.warning(
            "each job on %d of %d threads, as no node has more CPUs: on a CPU, what is trained "
            "depends on that; records say on how many they were computed",
            *(most, threads),
        )
    return Share(min(threads, most), gpus)


def _ray() -> Any:
    """Return Ray, which is imported only where it is used.

    Raises:
        UsageError: if it is not installed.
    """
    # Read when Ray is imported and when it starts a cluster: nothing is sent to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "running on a cluster needs Ray, which is not installed here: pip install "
            f'"um-bench[ray]" ({error})'
        ) from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Be part of a cluster within the block; whoever is part of one already, stays so."""
    if ray.is_initialized():
        yield
        return
    asked = address or os.environ.get("RAY_ADDRESS")
    try:
        _reach(asked)
        ray.init(
            address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster at {asked or 'this machine'}: {str(error).partition('. ')[0]}. `ray "
            "start --head` starts one; --address auto is what runs on this machine, local is new."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Refuse a cluster that is not there: Ray would try for minutes, and then end this process.

    Raises:
        OSError: if nothing answers at HOST:PORT.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Sight(NamedTuple):
    """By what a node can tell whether it sees the folders that this machine sees."""

    here: str
    """Current folder: what is relative is so to it."""
    token: Path
    """A file in the folder of results."""

    @classmethod
    @contextlib.contextmanager
    def of(cls, work: Work) -> Iterator["_Sight"]:
        """Write the token, until the end of the `with` block."""
        token = work.folder / f".seen-{uuid.uuid4().hex}"
        token.touch()
        try:
            yield cls(str(Path.cwd()), token)
        finally:
            token.unlink(missing_ok=True)

    def require(self) -> None:
        """Go to the folder that the sweep was started in, and look for the token.

        Raises:
            UsageError: if it is not there.
        """
        with contextlib.suppress(OSError):  # who gives whole paths does not need it
            os.chdir(self.here)
        if not self.token.exists():
            raise UsageError(
                f"node {os.uname().nodename} does not see the results in {self.token.parent}: give "
                "--results a folder that all nodes share"
            )


# --- In a task


class _Task(NamedTuple):
    """What a task is told besides its order."""

    opening: bytes
    """Makes the `Work`, see there; pickled."""
    settings: worker.Settings
    sight: _Sight
    amount: float
    """The job's work, as it is where the sweep was started."""


def _run(task: _Task, order: worker.Order, mailbox: Any) -> list[object]:
    """Return what a worker process would send of a job, but for what goes to the mailbox."""
    said: list[object] = []
    post = _Post(order.job, mailbox)

    def send(message: object) -> None:
        (post.progress if isinstance(message, Progress) else said.append)(message)

    to_driver = worker.ToDriver(post.words)
    logging.getLogger().addHandler(to_driver)
    try:
        worker.take_over(task.settings)
        task.sight.require()
        bench = _bench(task.opening)
        _require_same(bench.work.amount(order.job), task.amount)
        bench.send = send
        bench.run(order)
    except Exception as error:
        said.append(worker.broken(error))
    finally:
        logging.getLogger().removeHandler(to_driver)
    post.deliver()
    return said


@functools.lru_cache(maxsize=1)
def _bench(opening: bytes) -> worker.Bench:
    """Return the sweep, opened once by each process that runs jobs of it."""
    from ray import cloudpickle

    make: Callable[[], Work] = cloudpickle.loads(opening)
    return worker.Bench(make(), lambda _: None)


def _require_same(here: float, there: float) -> None:
    """Refuse to compute on other data than the sweep was started with.

    Raises:
        UsageError: if a job is not the same work here as there.
    """
    if here != there:
        raise UsageError(
            f"node {os.uname().nodename} has other data, or less, than where the sweep was started "
            f"(a job is {here:.0f} forwarded images, not {there:.0f}): give --data-dir a folder "
            "that all nodes share, or the same copy on each"
        )


class _Post:
    """Sends what is to be seen while a job runs; of its progress not more than anybody looks at."""

    def __init__(self, job: Job, mailbox: Any) -> None:
        self._job, self._mailbox = job, mailbox
        self._on_its_way: list[Any] = []
        self._last = 0.0
        self._past_base = False

    def words(self, message: object) -> None:
        """Send a log message."""
        self._on_its_way.append(self._mailbox.post.remote(self._job, message))

    def progress(self, progress: Any) -> None:
        """Send how far the job is, unless that was sent just now."""
        past_base = progress.job == self._job  # what others wait for
        now = time.monotonic()
        if now - self._last >= _PAUSE or past_base != self._past_base:
            self._last, self._past_base = now, past_base
            self._mailbox.post.remote(self._job, progress)

    def deliver(self) -> None:
        """Wait until all words are there: the job's end is told on another way."""
        if self._on_its_way:
            _ray().wait(self._on_its_way, num_returns=len(self._on_its_way), timeout=worker.GRACE)


class _Mailbox:
    """Keeps what tasks say while they run until somebody asks for it; an actor."""

    def __init__(self) -> None:
        self._letters: list[tuple[Job, object]] = []

    def post(self, job: Job, message: object) -> None:
        """Take a message of a job."""
        self._letters.append((job, message))

    def empty(self) -> list[tuple[Job, object]]:
        """Return all messages since the last time."""
        letters, self._letters = self._letters, []
        return letters


# --- In the driver


class _Tasks:
    """The tasks of one sweep, and what came of them."""

    def __init__(
        self,
        ray: Any,
        jobs: Sequence[Job],
        work: Work,
        sight: _Sight,
        share: Share,
        number: int | None,
    ) -> None:
        self._ray, self._work = ray, work
        self._ledger = Ledger(jobs, work)
        self._most = number or len(jobs)
        self._running: dict[Any, worker.Order] = {}
        self._at: dict[Job, int] = {}
        """Number of each job that is known to have begun, from 1 on."""
        self._done: dict[Job, float] = {}
        """How far each of these is."""
        self._submit = ray.remote(**share.options())(_run).remote
        opening = ray.cloudpickle.dumps(work.elsewhere(share.cpus))
        self._task = functools.partial(_Task, opening, worker.settings(), sight)
        here = ray.get_runtime_context().get_node_id()
        pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        boxes = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=pinned)(_Mailbox)
        self._mailbox = boxes.remote()

    def records(self) -> Iterator[Record]:
        """Yield all records in the order of the jobs, each as soon as it can be."""
        try:
            while self._ledger.open:
                self._hand_out()
                for order, outcome in self._ended():
                    self._settle(order, outcome)
                yield from self._ledger.due()
            self._listen()
        finally:
            self._cancel()

    def _hand_out(self) -> None:
        """Submit jobs, as many as there may be at a time."""
        while len(self._running) < self._most:
            order = self._ledger.take()
            if order is None:
                return
            task = self._task(self._work.amount(order.job))
            self._running[self._submit(task, order, self._mailbox)] = order

    def _ended(self) -> Iterator[tuple[worker.Order, Any]]:
        """Yield the tasks that have ended; wait for one, but not for long."""
        ray = self._ray
        if not ray.wait(list(self._running), timeout=_PAUSE)[0]:
            self._listen()
            return
        self._listen()
        every = list(self._running)
        for reference in ray.wait(every, num_returns=len(every), timeout=0)[0]:
            yield self._running.pop(reference), reference

    def _listen(self) -> None:
        """Take in what tasks have said since the last time."""
        try:
            letters = self._ray.get(self._mailbox.empty.remote())
        except self._ray.exceptions.RayActorError:
            return  # Ray starts it anew; how far jobs were is lost, and nothing else
        running = {order.job for order in self._running.values()}
        for job, message in letters:
            if isinstance(message, logging.LogRecord):
                worker.say(message)
            elif job in running and isinstance(message, Progress):
                if message.job == job:  # that of a base classifier has a name of its own
                    self._ledger.makes(job)
                self._done[job] = message.done
                self._ledger.heard(message, sum(self._done.values()), self._number(job))

    def _number(self, job: Job) -> int:
        """Return a running job's number: the first that no other one has."""
        if job not in self._at:
            taken = set(self._at.values())
            self._at[job] = next(n for n in range(1, len(taken) + 2) if n not in taken)
            watch = self._work.stopwatch
            watch.workers = max(watch.workers, len(self._at))
        return self._at[job]

    def _settle(self, order: worker.Order, reference: Any) -> None:
        """Take in what came of a task."""
        job, errors = order.job, self._ray.exceptions
        self._at.pop(job, None)
        self._done.pop(job, None)
        try:
            said = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise WorkerError(
                f"a node cannot run jobs: {type(error.cause).__name__}: {error.cause}. um-bench "
                "has to be installed on every node, in the same version."
            ) from error
        except errors.RayError as error:
            self._give_up(job, error)
            return
        for message in said:
            if isinstance(message, Record):
                self._ledger.keep(message)
            elif isinstance(message, worker.Busy):
                self._ledger.busy(job)
            elif isinstance(message, worker.Broken):
                raise message.with_trace()
            elif isinstance(message, worker.Ended):
                self._work.stopwatch.add(message.seconds, message.computed)
                self._ledger.end(job)

    def _give_up(self, job: Job, error: Exception) -> None:
        """Let a job fail whose process was lost each time."""
        why = str(error).partition("\n")[0].rstrip(".")
        log.warning("seed %d, %s: lost %d times; it fails", job.seed, job.adapter, RETRIES + 1)
        self._ledger.give_up(
            job,
            WorkerError(
                f"its process or node was lost, {RETRIES + 1} times: {why}. Where memory is short, "
                "fewer at once (--jobs) may help; the next run tries again."
            ),
        )

    def _cancel(self) -> None:
        """End the tasks that are still there: ask them first."""
        ray, left = self._ray, list(self._running)
        for force in (False, True):
            for reference in left:
                ray.cancel(reference, force=force)
            if left:
                left = ray.wait(left, num_returns=len(left), timeout=worker.GRACE)[1]
        ray.kill(self._mailbox)
