"""Records: JSON lines that are replaced as a whole, names that cannot leave their folder."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from um_bench.errors import StorageError, UsageError
from um_bench.records import (
    SCHEMA,
    JobFile,
    Provenance,
    Record,
    content_key,
    from_json,
    job_file,
    read_file,
    read_folder,
    sealed,
    slug,
    to_json,
    write_atomically,
    write_file,
)
from um_bench.suite import Job


def record(**changes) -> Record:
    fields = {
        "suite": "tiny",
        "key": "k",
        "job_key": "j",
        "state": "done",
        "id_set": "digits",
        "backbone": "resnet20_cifar",
        "seed": 0,
        "adapter": "um",
        "adapter_label": "um@constraint=0.15",
        "detector": "msp",
        "detector_label": "msp",
        "ood_set": "photos",
        "group": "far",
        "metrics": {"auroc": 0.1 + 0.2},
        "provenance": Provenance(
            created="now", device="cpu", platform="p", versions={"torch": "2"}
        ),
    }
    return Record(**{**fields, **changes})


def test_a_record_is_the_same_after_a_line_of_json():
    assert from_json(to_json(record())) == record()
    assert "\n" not in to_json(record(reason="two\nlines"))


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"auroc": 0, "aupr_in": 1e-320, "fpr95_id": 2 / 3}},
        {"seconds": {"score": 10**25}, "losses": [1, 0.5]},
        {"reason": "a lone \ud800 half, a \x00, a \u2028 and an \N{GREEK SMALL LETTER ALPHA}"},
        {"hyperparameters": {"adapter": {"c": None, "deep": [[[{}]]], "\ud83d": -0.0}}},
    ],
)
def test_unusual_values_come_back_as_what_they_were(changes):
    """Compared as JSON, which tells 0 from 0.0."""
    line = to_json(record(**changes))
    assert json.loads(line).items() >= changes.items()
    assert to_json(from_json(line)) == line


def test_a_field_that_an_older_version_did_not_write_has_its_default():
    table = dataclasses.asdict(record())
    for name in ("ranking", "spent", "opened", "losses"):
        del table[name]
    assert from_json(sealed(table)) == record()


def test_equal_tables_of_records_are_kept_once_and_numbers_are_each_cells_own():
    one, other = (
        from_json(to_json(record(key=key, hyperparameters={"detector": {"k": 5}})))
        for key in ("a", "b")
    )
    assert one.hyperparameters is other.hyperparameters
    assert one.provenance is other.provenance
    assert one.metrics is not other.metrics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1.0}, "seed must be int, got 1.0"),
        ({"seed": True}, "seed must be int, got True"),
        ({"group": None}, "group must be str, got None"),
        ({"metrics": {"auroc": 10**400}}, "too large"),
        ({"metrics": {"auroc": "1"}}, "metrics must hold float or int only"),
        ({"losses": [True]}, "losses must hold float or int only"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"schema": 99}, "newer than this um-bench"),
    ],
)
def test_what_is_no_record_says_why(changes, message):
    with pytest.raises(UsageError, match=message):
        from_json(sealed(dataclasses.asdict(record()) | changes))


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(record(metrics={"auroc": float("nan")}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not a record"),
        ("[]", "not a record"),
        ("{}", "not a record"),
        (to_json(record())[:-20], "not a record"),
        (to_json(record(schema=SCHEMA + 1)), "newer than this um-bench"),
        (to_json(record(state="fine")), "unknown state 'fine'"),
    ],
)
def test_a_damaged_line_names_file_and_line(tmp_path, line, message):
    path = tmp_path / "job.jsonl"
    path.write_text(f"{to_json(record())}\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=f"job.jsonl, line 2: .*{message}"):
        read_file(path)


def test_a_job_file_replaces_cells_and_keeps_the_rest(tmp_path):
    path = tmp_path / "records" / "job.jsonl"
    JobFile(path).put([record(), record(detector_label="knn")])
    file = JobFile(path)
    file.put([record(state="failed", metrics={})])
    assert [(r.detector_label, r.state) for r in read_file(path)] == [
        ("msp", "failed"),
        ("knn", "done"),
    ]
    assert list(read_folder(tmp_path)) == read_file(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "job.jsonl"
    write_file(path, [record()])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StorageError, match=r"job.jsonl: cannot be written \(No space left on device"
    ):
        write_file(path, [])
    assert read_file(path) == [record()]
    assert os.listdir(tmp_path) == ["job.jsonl"]  # noqa: PTH208


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken"):
        write_atomically(tmp_path / "taken" / "file", b"")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "/root", "..", "", "a\0b", "x" * 300])
def test_a_name_cannot_leave_its_folder(tmp_path, name):
    path = job_file(tmp_path, Job(name, name, 0, name))
    assert path.parent == tmp_path / "records"
    assert len(path.name) < 200
    assert Path(slug(name)).name == slug(name)
    assert slug(name) not in ("", ".", "..")


def test_different_names_have_different_files():
    names = ["a/b", "a_b", "a b", "a--b", "A/B", "um@constraint=0.15", "um@constraint=0.1"]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("a", "b--c") != slug("a--b", "c")


def test_a_key_is_the_content_and_nothing_else():
    assert content_key({"b": 1, "a": [2]}) == content_key({"a": [2], "b": 1})
    assert content_key(1) != content_key("1")
    assert content_key("ab", "c") != content_key("a", "bc")
    assert content_key({"lr": 0.1}) == content_key(json.loads(json.dumps({"lr": 0.1})))


def test_a_record_knows_its_cell():
    cell = record().cell
    assert cell.job == Job("digits", "resnet20_cifar", 0, "um@constraint=0.15")
    assert (cell.detector, cell.ood_set) == ("msp", "photos")
    assert dataclasses.replace(record(), ood_set="noise").cell != cell
