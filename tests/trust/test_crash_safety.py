"""Point 2: a sweep that is killed, damaged, or run twice at once loses nothing."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_runner import TABLE, comparable, run, suite

from um_bench import locks, run_suite
from um_bench.errors import BusyError, StorageError
from um_bench.executors import local
from um_bench.records import JobFile, read_folder, to_json

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults.py"


def figures(faults: int, seed: int) -> dict[str, str]:
    command = [sys.executable, str(FAULTS), "--faults", str(faults), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(":", 1) for line in done.stdout.splitlines() if ":" in line]
    return {name: value.strip() for name, value in lines}


def check(found: dict[str, str], faults: int) -> None:
    assert int(found["faults injected"].split(",")[0]) >= faults
    assert found["finished cells lost"] == "0"
    assert found["finished cells computed again"] == "0"
    assert found["table of the sweep as without any fault"] == "yes"


def test_faults_lose_nothing():
    check(figures(6, seed=1), 6)


@pytest.mark.slow
def test_fifty_faults_lose_nothing():
    check(figures(50, seed=0), 50)


# --- damage


@pytest.fixture
def finished(tmp_path):
    return tmp_path, run(tmp_path)


def made_anew(records, again):
    """The cells that took another time: no two computations take the same, to the nanosecond."""
    before = {r.cell: r.seconds for r in records}
    assert before.keys() == {r.cell for r in again}
    return {r.cell for r in again if r.seconds != before[r.cell]}


def job_files(results):
    return sorted((results / "tiny" / "records").glob("*.jsonl"))


def test_one_flipped_bit_costs_one_cell(finished):
    results, records = finished
    path = job_files(results)[0]
    content = bytearray(path.read_bytes())
    place = content.index(b'"auroc": 0.') + len(b'"auroc": 0.')
    content[place] ^= 1  # another digit: a number that anybody would believe
    path.write_bytes(content)
    again = run(results)
    assert len(made_anew(records, again)) == 1
    assert sorted(map(comparable, again)) == sorted(map(comparable, records))
    assert path.with_name(f"{path.name}.damaged").read_bytes() == bytes(content)


@pytest.mark.parametrize("change", [lambda b: b[:-9], lambda b: b[:60] + b"\0" + b[61:], None])
def test_damaged_scores_cost_their_cell(finished, change):
    results, records = finished
    path = results / "tiny" / records[0].scores
    whole = path.read_bytes()
    path.unlink() if change is None else path.write_bytes(change(whole))
    again = run(results)
    assert made_anew(records, again) == {records[0].cell}
    assert path.read_bytes() == whole


def test_a_damaged_file_is_readable_again_whatever_runs_next(finished):
    """The damaged cell is not among those of the next run: the file is mended all the same."""
    results, records = finished
    path = job_files(results)[0]
    lines = path.read_text().splitlines()
    lost = next(i for i, line in enumerate(lines) if '"detector": "knn"' in line)
    lines[lost] = lines[lost][:-30]
    path.write_text("\n".join(lines) + "\n")
    run(results, detectors=["msp"])
    assert len(list(read_folder(results / "tiny"))) == len(records) - 1


def test_every_byte_of_a_line_counts(tmp_path, finished):
    _, records = finished
    line = to_json(records[0])
    path = tmp_path / "one.jsonl"
    for place in range(0, len(line), 37):
        changed = line[:place] + chr(ord(line[place]) ^ 1) + line[place + 1 :]
        path.write_text(f"{changed}\n")
        file = JobFile(path)
        assert (file.damaged, file.records) == (1, {})


# --- two processes at once

CHILD = """
import json, os, sys
from um_bench import models, run_suite, runner
from um_bench.suite import parse_suite

def note(*what):
    with open(sys.argv[3], "a") as log:
        log.write(json.dumps([os.getpid(), *what]) + "\\n")

def watched(module, name, tell):
    original = getattr(module, name)
    def wrapper(*args, **kwargs):
        note(*tell(*args))
        return original(*args, **kwargs)
    setattr(module, name, wrapper)

watched(models, "save_weights", lambda path, *_: ("weights", str(path)))
watched(runner, "_score_detector",
        lambda sweep, origin, model, passes, cells: ("scores", *origin.job, cells[0].detector))
suite = parse_suite(json.loads(sys.argv[1]), "tiny")
print("ready", flush=True)
sys.stdin.readline()
for record in run_suite(suite, results=sys.argv[2], device="cpu"):
    note("record", str(record.cell), record.state)
"""


def test_two_processes_share_the_work(tmp_path):
    table = {**TABLE, "seeds": [0, 1]}
    results, log = tmp_path / "r", tmp_path / "log"
    command = [sys.executable, "-c", CHILD, json.dumps(table), str(results), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [child.wait(timeout=120) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    done = Counter(tuple(what) for _, kind, *what in notes if kind != "record")
    assert len(done) == 2 * 2 + 2 * 2 * 2, "two bases, two adapted, two detectors for four jobs"
    assert set(done.values()) == {1}, "something was computed twice"
    # Each saw all cells, and what lies there is what one process alone would have made.
    for pid in {pid for pid, *_ in notes}:
        seen = {(cell, state) for who, kind, cell, state in _records(notes) if who == pid}
        assert len(seen) == 16
        assert {state for _, state in seen} == {"done"}
    alone = run(tmp_path / "alone", seeds=[0, 1])
    kept = list(read_folder(results / "tiny"))
    assert sorted(map(comparable, kept)) == sorted(map(comparable, alone))


def _records(notes):
    return [note for note in notes if note[1] == "record"]


def test_a_busy_job_comes_last():
    calls = []

    def run_job(job, *, wait):
        calls.append((job, wait))
        if job == "a" and not wait:
            raise BusyError("another process")
        yield job

    assert list(local(["a", "b", "c"], run_job)) == ["b", "c", "a"]
    assert calls == [("a", False), ("b", False), ("c", False), ("a", True)]


def test_a_lock_is_let_go_of_and_the_same_process_may_have_it_twice(tmp_path):
    path = tmp_path / "some" / "file"
    with locks.held(path, wait=False), locks.held(path, wait=False):
        other = f"""
import sys
from pathlib import Path
from um_bench.errors import BusyError
from um_bench.locks import held
try:
    with held(Path({str(path)!r}), wait=False):
        sys.exit(0)
except BusyError as error:
    print(error)
    sys.exit(7)
"""
        busy = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert (busy.returncode, busy.stdout) == (7, "another process is at work on file\n")
    assert subprocess.run([sys.executable, "-c", other]).returncode == 0


def test_a_folder_that_cannot_be_locked_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot be written"),
        locks.held(tmp_path / "file" / "x", wait=False),
    ):
        pass


def test_a_run_left_half_way_is_in_nobodys_way(tmp_path):
    left = run_suite(suite(), results=tmp_path, device="cpu")
    first = next(left)
    assert {r.state for r in run(tmp_path)} == {"done"}
    assert first.state == "done"
    left.close()
