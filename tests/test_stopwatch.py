"""Where the time goes: each second in one stage, and in one record."""

import dataclasses

import pytest
import synthetic

from um_bench import stopwatch
from um_bench.cli import clock
from um_bench.stopwatch import STAGES, Stopwatch, time_spent


@pytest.fixture
def time(monkeypatch):
    """A clock that is moved by hand."""

    class Time:
        now = 100.0

        def perf_counter(self):
            return self.now

    its = Time()
    monkeypatch.setattr(stopwatch, "time", its)
    monkeypatch.setattr(clock, "time", its)
    return its


def test_an_inner_stage_stops_the_outer_one(time):
    watch = Stopwatch()
    time.now += 50  # in no stage
    with watch.during("score"):
        time.now += 1
        with watch.during("fit"):
            time.now += 2
            with watch.during("pass"):
                time.now += 4
            time.now += 8
        time.now += 16
    time.now += 50
    assert {k: v for k, v in watch.seconds.items() if v} == {"score": 17, "fit": 10, "pass": 4}


def test_a_stage_that_fails_ends(time):
    watch = Stopwatch()

    @watch.during("fit")
    def broken():
        time.now += 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    time.now += 1
    assert watch.seconds["fit"] == 1


def test_laps_hold_each_second_once_and_no_resampling(time):
    watch = Stopwatch()
    laps = []
    for seconds in (1, 2, 4):
        for stage in ("fit", "statistics"):
            with watch.during(stage):
                time.now += seconds
        laps.append(watch.lap())
    assert laps == [{"fit": 1}, {"fit": 2}, {"fit": 4}]
    assert watch.lap() == {}


def test_records_add_up_by_stage():
    one, other, old = (synthetic.record(seed=seed) for seed in range(3))
    records = [
        dataclasses.replace(one, spent={"data": 1.0, "pass": 2.0}),
        dataclasses.replace(other, spent={"pass": 4.0}),
        old,  # made before there was such a field
    ]
    found = time_spent(records)
    assert found == {**dict.fromkeys(found, 0.0), "data": 1.0, "pass": 6.0}
    assert set(found) == set(STAGES) - {"statistics"}


def test_the_report_has_seconds_and_shares_of_the_whole_run(time):
    its = clock.Clock()
    for stage, seconds in (("adapt", 30), ("pass", 41), ("statistics", 4)):
        with its.stopwatch.during(stage):
            time.now += seconds
    time.now += 25
    its.stopwatch.computed = 8
    words = [" ".join(line.split()) for line in its.report(24).splitlines() if line]
    assert words[0] == "8 of 24 cells computed now, in 100.0 s"
    assert words[3:] == [
        "adapting 30.0 30 %",
        "pass over the images 41.0 41 %",
        "resampling 4.0 4 %",
        "other 25.0 25 %",
    ]


def test_the_report_says_that_the_times_of_workers_are_added_up(time):
    its = clock.Clock()
    time.now += 10
    its.stopwatch.workers = 2
    its.stopwatch.add({"adapt": 15.0}, computed=3)
    report = its.report(3)
    assert "in 10.0 s by 2 processes, whose times are added up" in report
    assert "75 %" in report
    assert "25 %" in report
