"""A worker process: it runs the jobs that it is sent, and tells what becomes of them."""

import logging.handlers
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from um_bench.errors import BusyError
from um_bench.executors.work import Memory, Work
from um_bench.progress import Progress
from um_bench.suite import Job

GRACE = 5.0
"""Seconds that a process which is told to end has for it."""


class Settings(NamedTuple):
    """What a worker takes over from the process that starts it."""

    log_levels: dict[str, int]
    """Logger -> level."""
    warnings: list[Any]
    """Filters of Python's warnings."""


def settings() -> Settings:
    """Return those of this process."""
    names = ("root", "um_bench")
    levels = {name: logging.getLogger(name).getEffectiveLevel() for name in names}
    return Settings(levels, list(warnings.filters))


class Order(NamedTuple):
    """What a worker is sent; None tells it to end."""

    job: Job
    wait: bool


class Ready(NamedTuple):
    """The sweep is open."""


class Busy(NamedTuple):
    """Another process is at work on the job."""


class Ended(NamedTuple):
    """The job's last record was sent."""

    seconds: dict[str, float]
    """Spent since the last job's end, by stage."""
    computed: int
    """Cells."""
    memory: Memory


class Broken(NamedTuple):
    """The sweep cannot go on."""

    error: Exception
    trace: str

    def with_trace(self) -> Exception:
        """Return the error, with a note of where it was raised."""
        self.error.add_note(self.trace)
        return self.error


def broken(error: Exception) -> Broken:
    """Return what is sent of an error that is being handled."""
    return Broken(_portable(error), traceback.format_exc())


def say(message: logging.LogRecord) -> None:
    """Log here what was logged elsewhere, where that level is wanted."""
    logger = logging.getLogger(message.name)
    if logger.isEnabledFor(message.levelno):
        logger.handle(message)


def take_over(settings: Settings) -> None:
    """Make the settings of the process that started this one its own."""
    warnings.filters[:] = settings.warnings  # type: ignore[index] # declared a sequence, but a list
    for name, level in settings.log_levels.items():
        logging.getLogger(name).setLevel(level)


def serve(channel: Connection, pickled: bytes, settings: Settings) -> None:
    """Run jobs until there are no more, or until the process that sends them is gone.

    Args:
        channel: brings an `Order`; sends `Ready`, then of each job its records, `Progress` and log
            messages, and `Busy` or `Ended` after the last. `Broken` ends it.
        pickled: what makes the `Work`, see there.
        settings: taken over here.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us, and ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    send = _sending(channel)
    try:
        take_over(settings)
        logging.getLogger().addHandler(ToDriver(send))
        opening: Callable[[], Work] = pickle.loads(pickled)
        bench = Bench(opening(), send)
        send(Ready())
        while (order := channel.recv()) is not None:
            bench.run(order)
    except (EOFError, BrokenPipeError):
        return  # nobody is there any more
    except Exception as error:
        send(broken(error))


def _end_with_parent() -> None:
    """End this process once its parent has ended, however: a killed one cannot say so."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)  # the main thread is busy in something that has no end


def _sending(channel: Connection) -> Callable[[object], None]:
    lock = threading.Lock()  # log messages may come from any thread

    def send(message: object) -> None:
        with lock:
            channel.send(message)

    return send


class ToDriver(logging.handlers.QueueHandler):
    """Sends log messages; written here, they would be among the lines of others."""

    def __init__(self, send: Callable[[object], None]) -> None:
        super().__init__(queue.SimpleQueue())
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one."""
        self._send(record)


class Bench:
    """Runs one job after another, and knows what was told of each.

    Args:
        work: the sweep.
        send: is given the records of each job, `Progress`, and `Busy` or `Ended` after the last.
    """

    def __init__(self, work: Work, send: Callable[[object], None]) -> None:
        self.work = work
        self.send = send
        self._told: dict[str, float] = {}
        self._computed = 0
        self._earlier = self._done = 0.0
        work.report = self._report

    def run(self, order: Order) -> None:
        """Send the records of a job, then what it took."""
        try:
            for record in self.work(order.job, wait=order.wait):
                self.send(record)
        except BusyError:
            self.send(Busy())
            return
        watch = self.work.stopwatch
        spent = {name: its - self._told.get(name, 0.0) for name, its in watch.seconds.items()}
        computed = watch.computed - self._computed
        self._told, self._computed = watch.seconds.copy(), watch.computed
        self._earlier = self._done
        self.send(Ended(spent, computed, self.work.memory()))

    def _report(self, progress: Progress) -> None:
        """Send how far the job is; in this process, progress is that of all its jobs together."""
        self._done = progress.done
        self.send(progress._replace(done=progress.done - self._earlier))


def _portable(error: Exception) -> Exception:
    """Return the error, or where it cannot be sent, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
