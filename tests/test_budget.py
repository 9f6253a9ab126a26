"""A sweep with a time limit: what it begins, in which order, and that it goes on."""

import pytest
from click.testing import CliRunner

from um_bench import budget, cli
from um_bench.budget import Budget, cheapest_first, seconds_of
from um_bench.errors import UsageError
from um_bench.executors import local
from um_bench.records import read_folder
from um_bench.suite import Job

ADAPTERS = ("um>oe", "oe+um", "um", "none", "finetune")
JOBS = [Job("digits", "net", seed, adapter) for seed in (2, 0) for adapter in ADAPTERS]


class Clock:
    """Time that passes when a job runs."""

    now = 50.0

    def __call__(self):
        return self.now

    def run(self, job, *, wait):
        self.now += 10.0
        yield job


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("2h", 7200), (" 5m ", 300)]
)
def test_times_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "0m", "-5m", "5d", "30m1h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="is no time"):
        seconds_of(text)


def test_jobs_come_seed_by_seed_the_controls_first_and_then_by_their_parts():
    order = [(job.seed, job.adapter) for job in cheapest_first(JOBS)]
    by_cost = ("none", "finetune", "um", "oe+um", "um>oe")
    assert order == [(seed, adapter) for seed in (2, 0) for adapter in by_cost]


@pytest.mark.parametrize(("seconds", "begun"), [(1, 1), (10, 1), (11, 2), (60, 6), (1000, 10)])
def test_no_job_is_begun_after_the_time_is_up(seconds, begun):
    clock = Clock()
    limit = Budget(seconds, clock)
    assert list(limit.over(local)(JOBS, clock.run)) == cheapest_first(JOBS)[:begun]
    assert limit.left == cheapest_first(JOBS)[begun:]


def test_a_run_with_a_budget_goes_on_with_the_same_command(tmp_path, monkeypatch):
    arguments = (
        *("run", "--suite", "digits-far-ood", "--results", str(tmp_path), "--limit", "40"),
        *("--detectors", "msp", "--adapters", "finetune,none", "--set", "recipe.epochs=1"),
        *("--set", "base.epochs=1", "--seeds", "0", "--budget", "1s"),
    )
    clock = iter(range(0, 1000, 10))  # ten seconds pass between any two looks at it
    monkeypatch.setattr(budget.Budget.__init__, "__defaults__", (lambda: next(clock),))
    first = CliRunner().invoke(cli.main, arguments)
    assert first.exit_code == cli.OK, first.output
    assert "1s are used up; run it again for the 1 jobs left." in first.output
    known = list(read_folder(tmp_path / "digits-far-ood@limit=40"))
    assert {r.adapter for r in known} == {"none"}
    monkeypatch.undo()
    again = CliRunner().invoke(cli.main, [*arguments[:-1], "30m"])
    assert again.exit_code == cli.OK
    assert "used up" not in again.output
    after = {r.cell: r for r in read_folder(tmp_path / "digits-far-ood@limit=40")}
    assert {cell.job.adapter for cell in after} == {"none", "finetune"}
    assert [after[r.cell] for r in known] == known


def test_a_budget_that_is_no_time_is_told_before_anything_runs(tmp_path):
    arguments = ("run", "--suite", "digits-far-ood", "--results", str(tmp_path), "--budget", "30")
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == cli.BAD_INPUT
    assert not list(tmp_path.iterdir())
