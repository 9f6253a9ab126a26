"""Where the jobs of `um-bench run` run: the options that say so, and the executor they name."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from um_bench.errors import UsageError

if TYPE_CHECKING:
    from um_bench.executors import Executor

AUTO = "auto"


def _number_of_jobs(context: click.Context, option: click.Parameter, value: str | None) -> object:
    """Return the number, `auto`, or None where nothing is given."""
    if value in (None, AUTO):
        return value
    if not (value.isdecimal() and int(value) > 0):
        raise click.BadParameter(f"{value!r} is neither a number from 1 on nor auto.")
    return int(value)


_options = (
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where jobs run: on this machine, or on a Ray cluster; needs um-bench[ray].",
    ),
    click.option(
        "--jobs",
        metavar="N|auto",
        callback=_number_of_jobs,
        show_default="1; auto with --executor ray",
        help="Train and score N models at a time; auto: as many as there is room for.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="The Ray cluster; without it, what RAY_ADDRESS names, one that runs on this machine, "
        "or a new one.",
    ),
    click.option(
        "--gpus-per-job",
        metavar="F",
        type=click.FloatRange(0, 1),
        show_default="1 where there are GPUs",
        help="Share of a GPU that Ray gives each job, as in 0.25.",
    ),
)


class Place(NamedTuple):
    """What was given of it."""

    executor: str
    jobs: int | str | None
    address: str | None
    gpus_per_job: float | None

    @property
    def is_here(self) -> bool:
        """Whether jobs run one after another, in this process."""
        return self.executor == "local" and self.jobs in (None, 1)

    def executor_for(self, device: str, budget: str | None) -> "Executor":
        """Return the executor.

        Args:
            device: as was given.
            budget: as was given; it starts one job after another.

        Raises:
            UsageError: if what was given does not go together.
        """
        from um_bench.executors import cluster, local, processes

        if budget and not self.is_here:
            raise UsageError(
                "--budget starts one job after another on this machine; leave out --jobs and "
                "--executor"
            )
        number = self.jobs if isinstance(self.jobs, int) else None
        if self.executor == "ray":
            return cluster(self.address, number, self._gpus(device))
        if self.gpus_per_job is not None or self.address:
            raise UsageError("--address and --gpus-per-job are for --executor ray")
        return local if self.is_here else processes(number)

    def _gpus(self, device: str) -> float | None:
        if ":" in device:
            raise UsageError(
                f"--device {device}: Ray chooses which GPU a job has; give cuda, or leave it out"
            )
        if device == "cpu" and self.gpus_per_job:
            raise UsageError(
                f"--gpus-per-job {self.gpus_per_job:g} with --device cpu: nothing would use them"
            )
        return 0 if device == "cpu" else self.gpus_per_job


def with_place(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command is given a `Place`."""

    @functools.wraps(command)
    def placed(
        *args: Any,
        executor: str,
        jobs: int | str | None,
        address: str | None,
        gpus_per_job: float | None,
        **options: Any,
    ) -> Any:
        return command(*args, place=Place(executor, jobs, address, gpus_per_job), **options)

    wrapped: Callable[..., Any] = placed
    for option in reversed(_options):
        wrapped = option(wrapped)
    return wrapped
