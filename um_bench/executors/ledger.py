"""Which job is next where several run at once, and what came of each, in the order of the jobs."""

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from um_bench.errors import WorkerError
from um_bench.executors.work import Work
from um_bench.executors.worker import Order
from um_bench.progress import Progress
from um_bench.records import Record
from um_bench.suite import Cell, Job


def in_turn(jobs: Sequence[Job], work: Work) -> deque[Job]:
    """Return the jobs so that the first ones need different things, as classifiers of seeds."""
    seen: Counter[Hashable] = Counter()
    turn: dict[Job, int] = {}
    for job in jobs:
        need = work.needs(job)
        turn[job] = seen[need] if need is not None else 0
        seen[need] += 1
    return deque(sorted(jobs, key=turn.__getitem__))


@dataclass
class _Outcome:
    """What is known of a job."""

    records: deque[Record] = field(default_factory=deque)
    """Not yielded yet."""
    seen: set[Cell] = field(default_factory=set)
    ended: bool = False


class Ledger:
    """What is to do, what is made, and what came of every job.

    Args:
        jobs: of the sweep, each once.
        work: the way to run them.
    """

    def __init__(self, jobs: Sequence[Job], work: Work) -> None:
        self._jobs, self._work = deque(jobs), work
        self._todo = deque(Order(job, wait=False) for job in in_turn(jobs, work))
        self._outcomes = {job: _Outcome() for job in jobs}
        self._made: set[Hashable] = {None}
        """Of what jobs need."""
        self._makers: dict[Hashable, Job] = {}
        self._total = sum(map(work.amount, jobs))
        self._done = 0.0

    @property
    def open(self) -> bool:
        """Return whether a job has not ended, or a record was not yielded."""
        return bool(self._jobs)

    # --- What is next ---

    def put_first(self, job: Job) -> None:
        """Let a job that has not begun be the next one."""
        order = next(order for order in self._todo if order.job == job)
        self._todo.remove(order)
        self._todo.appendleft(order)

    def take(self) -> Order | None:
        """Return the first job whose needs are there, or are nobody's work yet; it begins now."""
        for order in self._todo:
            need = self._work.needs(order.job)
            if need in self._made or need not in self._makers:
                self._todo.remove(order)
                self._makers.setdefault(need, order.job)
                return order
        return None

    def again(self, order: Order) -> None:
        """Let a job be the next one whose process is dead."""
        # Nobody makes any more what it was making.
        self._makers = {need: by for need, by in self._makers.items() if by != order.job}
        self._todo.appendleft(order)

    def busy(self, job: Job) -> None:
        """Let a job be the last one, at which another process is at work."""
        self.makes(job)
        self._todo.append(Order(job, wait=True))

    # --- What came of a job ---

    def keep(self, record: Record) -> None:
        """Take in a record; a job's second try begins with those of the first."""
        outcome = self._outcomes[record.job]
        if record.cell not in outcome.seen:
            outcome.seen.add(record.cell)
            outcome.records.append(record)
        if record.weights:
            self.makes(record.job)

    def heard(self, progress: Progress, running: float, worker: int) -> None:
        """Report how far all jobs are, of which one has said how far it is.

        Args:
            progress: of a job.
            running: work that is done of all jobs that are running.
            worker: who is at the job, from 1 on.
        """
        done = min(self._done + running, self._total)
        self._work.report(progress._replace(done=done, total=self._total, worker=worker))

    def makes(self, job: Job) -> None:
        """Take down that what a job needs is there."""
        self._made.add(self._work.needs(job))

    def end(self, job: Job) -> None:
        """Take down that a job's last record is in."""
        self.makes(job)
        self._outcomes[job].ended = True
        self._done += self._work.amount(job)

    def give_up(self, job: Job, error: WorkerError) -> None:
        """End a job that cannot be run to its end: its other cells fail."""
        for record in self._work.give_up(job, error, self._outcomes[job].seen):
            self.keep(record)
        self.end(job)

    def due(self) -> Iterator[Record]:
        """Yield what no earlier job keeps back."""
        while self._jobs:
            outcome = self._outcomes[self._jobs[0]]
            while outcome.records:
                yield outcome.records.popleft()
            if not outcome.ended:
                return
            self._jobs.popleft()
