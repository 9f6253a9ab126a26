"""`um-bench submit` and `verify`: what is packed passes, and no planted fault does.

Whoever edits a submission can make every check sum anew, so the plants here do: what gives them
away is what cannot be made to fit.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import stat
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from click.testing import CliRunner
from test_metrics import CASES, reference

from um_bench import watch
from um_bench.cli import main
from um_bench.errors import UsageError
from um_bench.metrics import ood_metrics
from um_bench.records import check_of, job_file, read_folder, slug, to_json, write_file
from um_bench.scores import save_scores
from um_bench.submission import Packed, as_text, metrics_of, pack, ranking_of, verify
from um_bench.suite import OodSet

ADAPTERS, DETECTORS = ("none", "um"), ("msp", "knn")
OOD = (OodSet("tin", "near", "tin/val"), OodSet("svhn", "far", "svhn/test"))
IMAGES = {"id": 60, "tin": 40, "svhn": 50}
SUITE = {
    "name": "synthetic",
    "ood": [ood._asdict() for ood in OOD],
    "seeds": [0, 1],
    "adapters": ADAPTERS,
    "detectors": DETECTORS,
    "tracks": dict.fromkeys(ADAPTERS, ""),
}


def sha(*names):
    return hashlib.sha256("/".join(map(str, names)).encode()).hexdigest()


def scores_of(adapter, detector, ood, seed):
    """What a run would have: the ID scores are those of the model and detector, for every set."""
    model = np.random.default_rng([seed, ADAPTERS.index(adapter), DETECTORS.index(detector)])
    known = model.normal(0, 1, IMAGES["id"])
    return {
        "id": known.astype(np.float32),
        "ood": model.normal(1 + len(ood.name) / 9, 1, IMAGES[ood.name]).astype(np.float32),
    }


def cell(folder, adapter, detector, ood, seed):
    scores = scores_of(adapter, detector, ood, seed)
    sides = [torch.from_numpy(scores[side]) for side in ("id", "ood")]
    accuracy = {"base_id_accuracy": 57 / 60, "id_accuracy": (57 if adapter == "none" else 55) / 60}
    job = slug("cifar10", "resnet18_cifar", f"seed{seed}", adapter)
    path = f"scores/{job}/{slug(detector, ood.name)}.npz"
    base = sha("base", seed)
    return synthetic.record(
        adapter,
        detector,
        ood,
        seed,
        key=sha(adapter, detector, ood.name, seed),
        job_key=sha(adapter, seed),
        metrics={**ood_metrics(*sides), **accuracy},
        counts={"id": IMAGES["id"], "ood": IMAGES[ood.name], "train": 100},
        fingerprints={"id": sha("id"), "ood": sha(ood.name), "train": sha("train")},
        weights={"base": base, "adapted": base if adapter == "none" else sha(adapter, seed)},
        scores=path,
        scores_check=save_scores(folder / path, scores),
        ranking=watch.ranking_of(*sides),
    )


def make(folder):
    """A suite's results folder, as a run leaves it."""
    for seed in SUITE["seeds"]:
        for adapter in ADAPTERS:
            cells = [
                cell(folder, adapter, detector, ood, seed) for detector in DETECTORS for ood in OOD
            ]
            write_file(job_file(folder, cells[0].job), cells)
    (folder / "suite.json").write_text(json.dumps(SUITE))
    return folder


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    return make(tmp_path_factory.mktemp("results") / "synthetic")


@pytest.fixture
def folder(original, tmp_path):
    """A copy that may be damaged."""
    for path in original.rglob("*"):
        if path.is_file():
            copy = tmp_path / "synthetic" / path.relative_to(original)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path / "synthetic"


@pytest.fixture(scope="session")
def archive(original, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "submission.zip"
    assert isinstance(pack(original, out), Packed)
    return out


def problems(path, **options):
    (report,) = verify(path, **options)
    return {finding.check: finding for finding in report.problems}


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# --- computed again


@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_of_scikit_learn_and_of_the_run(case):
    found = metrics_of(*(side.numpy() for side in CASES[case]))
    assert found == pytest.approx(reference(*CASES[case]), rel=0, abs=1e-12)
    assert found == pytest.approx(ood_metrics(*CASES[case]), rel=0, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_ranking_is_the_runs(case):
    assert ranking_of(*(side.numpy() for side in CASES[case])) == watch.ranking_of(*CASES[case])


# --- what is right


def test_what_a_run_leaves_is_packed_and_passes(archive):
    (report,) = verify(archive)
    assert not report.problems, as_text(report)
    assert report.recomputed == report.ranked == sum(report.states.values()) == 16
    assert report.largest < 1e-12
    assert report.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert "No problem found." in as_text(report)


def test_packed_twice_it_is_the_same_bytes(folder, archive, tmp_path):
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    pack(folder, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_packed_anew_by_hand_it_passes_too(archive, tmp_path):
    out = tmp_path / "by-hand.zip"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in ("records/", "scores/"):
            new.mkdir(name)
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))
    assert not problems(out)


def test_a_folder_without_scores_is_checked_as_far_as_it_goes(folder):
    records = {path.name: path for path in (folder / "records").iterdir()}
    assert len(records) == 4
    for path in sorted((folder / "scores").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (report,) = verify(folder)
    assert not report.problems
    assert report.recomputed == 0
    assert "No scores here: the metrics of 16 cells are not checked." in report.facts
    refused = pack(folder, folder.parent / "x.zip")
    assert {finding.check for finding in refused.problems} == {"scores"}


def test_a_folder_of_suites_gives_a_report_on_each(folder, tmp_path):
    make(tmp_path / "other")
    assert [report.path.name for report in verify(tmp_path)] == ["other", "synthetic"]


# --- what is refused when it is packed


def rewrite(folder, change):
    """Replace records by what `change` makes of them, with every check made anew."""
    files = {}
    for record in read_folder(folder):
        files.setdefault(job_file(folder, record.job), []).extend(change(record))
    for path, records in files.items():
        write_file(path, records)
    return folder


def only(place, *others):
    """A change of one cell."""

    def change(record):
        at = (record.adapter_label, record.detector_label, record.ood_set, record.seed) == place
        return [one(record) for one in others] if at else [record]

    return change


PLACE = ("um", "knn", "svhn", 1)


def edited(**changes):
    return lambda record: dataclasses.replace(record, **changes)


def with_metric(name, value):
    return lambda record: dataclasses.replace(record, metrics={**record.metrics, name: value})


def kept(record):
    return record


INCOMPLETE = {
    "left out": (only(PLACE), "1 cell: not run"),
    "failed": (only(PLACE, lambda r: synthetic.blank(r, "failed", "why")), "1 cell: failed: why"),
    "stale": (only(PLACE, edited(state="stale", reason="old")), "1 cell: stale: old"),
    "without data": (
        only(PLACE, lambda r: synthetic.blank(r, "missing-data", "get it")),
        "1 cell: missing-data: get it",
    ),
}


@pytest.mark.parametrize("plant", INCOMPLETE)
def test_what_is_not_finished_is_refused_or_said_to_be_partial(folder, tmp_path, plant):
    change, reason = INCOMPLETE[plant]
    rewrite(folder, change)
    out = tmp_path / "x.zip"
    refused = pack(folder, out)
    assert [(one.check, one.text) for one in refused.problems] == [("complete", reason)]
    assert not out.exists()
    packed = pack(folder, out, partial=True)
    assert packed.partial == (reason,)
    with zipfile.ZipFile(out) as made:
        manifest = json.loads(made.read("manifest.json"))
        names = made.namelist()
    assert (manifest["partial"], manifest["missing"]) == (True, [reason])
    assert len(names) == len(manifest["files"]) + 1 == 2 + 4 + 15, "nobody's scores are left out"
    (report,) = verify(out)
    assert not report.problems
    assert report.partial


def test_a_manifest_cannot_deny_that_it_is_partial(folder, tmp_path):
    rewrite(folder, only(PLACE))
    out = tmp_path / "x.zip"
    pack(folder, out, partial=True)
    lie(out, lambda files: files, partial=False)
    assert problems(out).keys() == {"complete"}


def test_what_is_unsupported_is_finished(folder, tmp_path):
    rewrite(folder, only(PLACE, lambda r: synthetic.blank(r, "unsupported", "no")))
    assert isinstance(pack(folder, tmp_path / "x.zip"), Packed)


def damage(folder, change):
    path = job_file(folder, next(r for r in read_folder(folder) if r.adapter == "um").job)
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (lambda f: damage(f, lambda b: b.replace(b'"auroc": 0.', b'"auroc": 0.0', 1)), "records"),
        (lambda f: damage(f, lambda b: b[:-40]), "records"),
        (lambda f: rewrite(f, only(PLACE, edited(schema=0))), "records"),
        (lambda f: rewrite(f, only(PLACE, edited(schema=99))), "records"),
        (lambda f: rewrite(f, only(PLACE, with_metric("auroc", 0.999))), "metrics"),
        (lambda f: next((f / "scores").rglob("*.npz")).unlink(), "scores"),
        (lambda f: (f / "suite.json").unlink(), "suite"),
        (lambda f: (f / "suite.json").write_text("{}"), "suite"),
        (lambda f: (f / "suite.json").write_text("[" * 100_000), "suite"),
        (lambda f: (f / "records" / "notes.txt").write_text("x"), "files"),
    ],
    ids=[
        *("edited", "cut", "older", "newer", "wrong", "no scores"),
        *("no suite", "no words", "brackets", "stray"),
    ],
)
def test_what_is_damaged_is_never_packed(folder, tmp_path, plant, check, partial):
    plant(folder)
    refused = pack(folder, tmp_path / "x.zip", partial=partial)
    assert not isinstance(refused, Packed)
    assert check in {finding.check for finding in refused.problems}
    assert not (tmp_path / "x.zip").exists()


def test_what_a_run_leaves_beside_its_files_is_no_fault_and_not_packed(folder, tmp_path):
    left = ("records/a.jsonl.damaged", "records/.lock", "records/a.lock", "README.md", "index.html")
    for name in left:
        (folder / name).write_text("x")
    unused = folder / "scores" / "old" / "msp--tin.npz"
    unused.parent.mkdir()
    unused.write_bytes(b"of a cell that is no more")
    packed = pack(folder, tmp_path / "x.zip")
    assert isinstance(packed, Packed)
    assert packed.files == 2 + 4 + 16


def test_links_in_a_folder_are_not_followed(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder / "records" / "a.jsonl").symlink_to(secret)
    (folder / "scores" / "b").symlink_to(tmp_path)
    found = verify(folder)[0]
    assert {f.place for f in found.problems} == {"records/a.jsonl", "scores/b"}
    assert "secret" not in as_text(found).replace(str(tmp_path), "")


@pytest.mark.parametrize("name", ["x.tar", "x", "x.zip.gz"])
def test_another_kind_of_archive_is_not_written(folder, tmp_path, name):
    with pytest.raises(UsageError, match=r"give FILE\.zip"):
        pack(folder, tmp_path / name)


# --- what strangers send


def lie(path, change, **manifest):
    """Pack an archive again after a change of its files, with a manifest that fits."""
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    table = {**json.loads(files.pop("manifest.json")), **manifest}
    files = change(files)
    table["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("manifest.json", json.dumps(table))
        for name, content in files.items():
            new.writestr(name, content)
    return path


@pytest.fixture
def copy(archive, tmp_path):
    path = tmp_path / "copy.zip"
    path.write_bytes(archive.read_bytes())
    return path


def forged(folder, tmp_path, change):
    """An archive of edited records in which everything that can be made to fit does."""
    with zipfile.ZipFile(tmp_path / "forged.zip", "w") as new:
        new.writestr("manifest.json", json.dumps({"format": 1, "files": {}}))
        rewrite(folder, change)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                new.writestr(path.relative_to(folder).as_posix(), path.read_bytes())
    return lie(tmp_path / "forged.zip", lambda files: files)


def cells_of(record, **changes):
    return [dataclasses.replace(record, **changes)]


FORGED = {
    "a better AUROC": (only(PLACE, with_metric("auroc", 0.9999)), {"metrics"}),
    "by a millionth": (
        only(PLACE, lambda r: with_metric("aupr_in", r.metrics["aupr_in"] + 1e-6)(r)),
        {"metrics"},
    ),
    "the two FPR95 swapped": (
        only(
            PLACE,
            lambda r: with_metric("fpr95_ood", r.metrics["fpr95_id"])(
                with_metric("fpr95_id", r.metrics["fpr95_ood"])(r)
            ),
        ),
        {"metrics"},
    ),
    "the order of another": (only(PLACE, edited(ranking="0" * 16 + "." + "1" * 16)), {"ranking"}),
    "no metric": (
        only(PLACE, lambda r: edited(metrics={k: r.metrics[k] for k in ("auroc",)})(r)),
        {"plausible"},
    ),
    "above one": (only(PLACE, with_metric("id_accuracy", 1.2)), {"plausible"}),
    "no whole number of images": (only(PLACE, with_metric("id_accuracy", 0.951)), {"plausible"}),
    "two accuracies of one model": (
        only(PLACE, with_metric("id_accuracy", 56 / 60)),
        {"plausible"},
    ),
    "unchanged weights, another accuracy": (
        lambda r: [with_metric("id_accuracy", 50 / 60)(r) if r.adapter == "none" else r],
        {"plausible"},
    ),
    "time that runs back": (only(PLACE, edited(seconds={"adapt": -1.0})), {"plausible"}),
    "a key that is none": (only(PLACE, edited(key="x")), {"plausible"}),
    "the key of another": (
        only(PLACE, edited(key=sha("um", "knn", "tin", 1))),
        {"plausible"},
    ),
    "two records of a cell": (only(PLACE, kept, edited(notes={"x": 1.0})), {"records", "scores"}),
    "the scores of another": (
        only(PLACE, lambda r: edited(scores=r.scores.replace("svhn", "tin"))(r)),
        {"scores"},
    ),
    "no scores": (only(PLACE, edited(scores="")), {"scores"}),
    "another seed": (only(PLACE, edited(seed=7)), {"suite", "complete"}),
    "another group": (only(PLACE, edited(group="near")), {"suite"}),
    "another track": (only(PLACE, edited(auxiliary="svhn/train")), {"suite"}),
    "another suite": (only(PLACE, edited(suite="cifar10")), {"suite"}),
    "other images in one cell": (
        only(PLACE, lambda r: edited(fingerprints={**r.fingerprints, "ood": sha("x")})(r)),
        {"images"},
    ),
    "other ID images in one cell": (
        only(PLACE, lambda r: edited(fingerprints={**r.fingerprints, "id": sha("x")})(r)),
        {"images"},
    ),
    "another count": (
        only(PLACE, lambda r: edited(counts={**r.counts, "ood": 49})(r)),
        {"images", "scores"},
    ),
    "a cell that has no record": (only(PLACE), {"complete", "scores"}),
}


@pytest.mark.parametrize("plant", FORGED)
def test_no_forged_record_passes(folder, tmp_path, plant):
    change, expected = FORGED[plant]
    found = problems(forged(folder, tmp_path, change))
    assert expected <= found.keys()
    assert found.keys() <= expected | {"scores", "plausible"}, found


def test_the_forger_is_as_good_as_he_can_be(folder, tmp_path):
    assert not problems(forged(folder, tmp_path, lambda record: [record]))


def test_an_edited_metric_is_named_with_its_cell_and_both_values(folder, tmp_path):
    found = problems(forged(folder, tmp_path, only(PLACE, with_metric("auroc", 0.9999))))
    assert found["metrics"].place == "um, knn, svhn, seed 1"
    assert found["metrics"].text.startswith("auroc 0.999900, from the scores 0.")


def rebuilt(folder, name, scores):
    """A change of one cell that gives it other scores, whose check is made anew."""
    check = save_scores(folder / name, scores)
    return lambda record: [
        dataclasses.replace(record, scores_check=check) if record.scores == name else record
    ]


def name_of(folder, place=PLACE):
    return next(
        r.scores
        for r in read_folder(folder)
        if (r.adapter_label, r.detector_label, r.ood_set, r.seed) == place
    )


def test_swapped_files_of_scores_are_found(folder, tmp_path):
    one, other = name_of(folder), name_of(folder, ("um", "msp", "svhn", 1))
    mine, theirs = ((folder / name).read_bytes() for name in (one, other))
    (folder / one).write_bytes(theirs)
    (folder / other).write_bytes(mine)

    def change(record):
        checks = {one: check_of(theirs), other: check_of(mine)}
        return [
            dataclasses.replace(record, scores_check=checks.get(record.scores, record.scores_check))
        ]

    (report,) = verify(forged(folder, tmp_path, change))
    assert {f.check for f in report.problems} == {"metrics", "ranking"}
    assert {f.place for f in report.problems} == {"um, knn, svhn, seed 1", "um, msp, svhn, seed 1"}


def test_swapped_with_their_numbers_they_are_a_remark(folder, tmp_path):
    """Nothing in one cell tells; the detector's ID scores on another set do."""
    records = {
        (r.adapter_label, r.detector_label, r.ood_set, r.seed): r for r in read_folder(folder)
    }
    one, other = records[PLACE], records["um", "msp", "svhn", 1]
    names = ("metrics", "scores", "scores_check", "ranking")

    def change(record):
        if record not in (one, other):
            return [record]
        source = other if record == one else one
        return cells_of(record, **{name: getattr(source, name) for name in names})

    (report,) = verify(forged(folder, tmp_path, change))
    assert not report.problems
    told = [f for f in report.findings if f.check == "scores"]
    assert [f.place for f in told] == ["um, knn, svhn, seed 1", "um, msp, tin, seed 1"]
    assert all("its ID scores are not those of" in f.text for f in told)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(folder, tmp_path, value):
    scores = scores_of("um", "knn", OOD[1], 1)
    scores["ood"][3] = value
    found = problems(forged(folder, tmp_path, rebuilt(folder, name_of(folder), scores)))
    assert found.keys() == {"scores"}
    assert "1 of 50 ood scores are not finite" in found["scores"].text


@pytest.mark.parametrize(
    "scores",
    [
        {"id": np.zeros(60)},
        {"id": np.zeros(60), "ood": np.zeros(50), "more": np.zeros(1)},
        {"id": np.zeros(60), "ood": np.zeros(49)},
        {"id": np.zeros(60), "ood": np.zeros((50, 1))},
        {"id": np.zeros(60), "ood": np.zeros(0)},
    ],
    ids=["one side", "three", "too few", "a table", "none"],
)
def test_scores_of_another_shape(folder, tmp_path, scores):
    found = problems(forged(folder, tmp_path, rebuilt(folder, name_of(folder), scores)))
    assert found.keys() == {"scores"}


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def bomb(witness):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for side in ("id", "ood"):
            made.writestr(f"{side}.npy", bytes(50_000_000))
    return stream.getvalue()


def huge_shape(witness):
    stream, header = io.BytesIO(), io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(stream, "w") as made:
        for side in ("id", "ood"):
            made.writestr(f"{side}.npy", header.getvalue())
    return stream.getvalue()


def objects(witness):
    stream = io.BytesIO()
    evil = np.array([Malicious(witness)] * 60, dtype=object)
    np.savez(stream, id=evil, ood=evil)
    return stream.getvalue()


HOSTILE = {
    "pickle": lambda witness: pickle.dumps(Malicious(witness)),
    "objects": objects,
    "bomb": bomb,
    "huge shape": huge_shape,
    "nothing": lambda witness: b"",
    "cut": lambda witness: huge_shape(witness)[:-30],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_scores_run_no_code_and_take_no_memory(folder, tmp_path, kind):
    content = HOSTILE[kind](tmp_path / "executed")
    name = name_of(folder)
    (folder / name).write_bytes(content)
    path = forged(
        folder,
        tmp_path,
        lambda r: [
            dataclasses.replace(r, scores_check=check_of(content)) if r.scores == name else r
        ],
    )
    tracemalloc.start()
    found = problems(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.keys() == {"scores"}
    assert not (tmp_path / "executed").exists()
    assert peak < 20_000_000


NAMES = (
    *("../escaped.jsonl", "/etc/escaped.jsonl", "records/../../escaped.jsonl", "..\\escaped.jsonl"),
    *("C:\\escaped.jsonl", "records/a/b.jsonl", "scores/a.npz", "scores/../a/b.npz", "leader.py"),
    *("records/.hidden.jsonl", "records/a b.jsonl", "records/\x1b[2J.jsonl", "records//a.jsonl"),
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_have_no_place_are_not_read(copy, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    lie(copy, lambda files: {**files, name: b"x"})
    (report,) = verify(copy)
    assert {f.check for f in report.problems} == {"files"}
    assert "\x1b" not in as_text(report)
    assert sorted(tmp_path.rglob("*")) == before


def append(path, info, content, **options):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, content, **options)


def test_links_in_an_archive_are_refused(copy):
    info = zipfile.ZipInfo("records/link.jsonl")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    append(copy, info, "/etc/passwd")
    assert "is a link or a device" in problems(copy)["files"].text


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(copy):
    append(copy, "suite.json", json.dumps({**SUITE, "seeds": [0]}))
    assert "is there twice" in problems(copy)["files"].text


def test_a_name_with_a_zero_byte_is_not_what_comes_before_it(copy):
    content = copy.read_bytes()
    assert content.count(b"suite.json") == 3
    copy.write_bytes(content.replace(b"suite.json", b"suite\0json"))
    assert {"files", "suite"} <= problems(copy).keys()


def test_a_bomb_is_refused_before_it_is_read(copy):
    append(copy, "records/bomb.jsonl", bytes(100_000_000), compress_type=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    (report,) = verify(copy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "times its own size" in report.problems[0].text
    assert peak < 20_000_000


def test_too_many_files_are_refused(copy, monkeypatch):
    monkeypatch.setattr("um_bench.submission.archive.MOST_FILES", 10)
    assert "a submission may have 10" in problems(copy)["files"].text


@pytest.mark.parametrize("at", [0.01, 0.3, 0.6, 0.99])
def test_no_flipped_byte_passes(copy, at):
    content = bytearray(copy.read_bytes())
    content[int(at * len(content))] ^= 1
    copy.write_bytes(content)
    try:
        (report,) = verify(copy)
    except UsageError:
        return
    assert report.problems or is_slack(copy)


def is_slack(path):
    """Whether the flipped byte is in none of the files: the date in a header, say."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"{}", b"[" * 100_000, b'{"format": 1, "files": {"a": 3}}', b"\xff", b'{"format"'],
)
def test_a_manifest_that_is_none(copy, manifest):
    with zipfile.ZipFile(copy) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(copy, "w") as new:
        for name, content in {**files, "manifest.json": manifest}.items():
            new.writestr(name, content)
    assert problems(copy)["files"].place


def test_a_manifest_that_does_not_fit(archive, tmp_path):
    with zipfile.ZipFile(archive) as old:
        files = {name: old.read(name) for name in old.namelist()}
    table = json.loads(files["manifest.json"])
    table["files"]["scores/x/y.npz"] = {"bytes": 1, "sha256": ""}
    table["files"]["suite.json"]["sha256"] = "0" * 64
    files["manifest.json"] = json.dumps(table).encode()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    (report,) = verify(tmp_path / "x.zip")
    assert {(f.check, f.place) for f in report.problems} == {
        ("files", "scores/x/y.npz"),
        ("files", "suite.json"),
    }


def line_with(text, old, new):
    """A record's line in which something was replaced, its check made anew."""
    body = text.partition(", ")[2].replace(old, new)
    assert new in body
    return f'{{"check": "{check_of(body.encode())}", {body}'


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"0.9"', "true", "[0.9]"])
def test_metrics_that_are_no_numbers(folder, tmp_path, value):
    path = job_file(folder, next(iter(read_folder(folder))).job)
    lines = path.read_text().splitlines()
    record = next(read_folder(folder).__iter__())
    old = f'"auroc": {record.metrics["auroc"]!r}'
    content = "\n".join([line_with(lines[0], old, f'"auroc": {value}'), *lines[1:]]) + "\n"
    sent = forged(folder, tmp_path, lambda r: [r])
    name = path.relative_to(folder).as_posix()
    found = problems(lie(sent, lambda files: {**files, name: content.encode()}))
    assert found["records"].place == f"{name}, line 1"


# --- beside what is known


def test_a_set_of_other_images_than_the_reference_has(folder, archive, tmp_path):
    (report,) = verify(archive, folder.parent)
    assert not report.problems
    assert "16 of them the same record" in report.facts[0]
    rewrite(
        folder,
        lambda r: [edited(fingerprints={**r.fingerprints, "id": sha("another test set")})(r)],
    )
    found = problems(archive, against=folder.parent)
    assert found.keys() == {"reference"}
    assert found["reference"].place == "id: cifar10"
    assert problems(archive, against=folder) == found


def test_other_numbers_of_the_same_cell_are_a_remark(folder, archive):
    rewrite(folder, only(PLACE, with_metric("auroc", 0.5)))
    (report,) = verify(archive, folder)
    assert not report.problems
    (remark,) = (f for f in report.findings if f.check == "reference")
    assert "1 cells have other numbers" in remark.text


def test_a_reference_without_the_suite_is_said(archive, folder, tmp_path):
    folder.rename(tmp_path / "other")
    (report,) = verify(archive, tmp_path)
    assert "has no records of this suite" in report.facts[0]
    with pytest.raises(UsageError, match="no folder of results"):
        verify(archive, tmp_path / "other" / "records")


def test_what_is_not_as_the_shipped_suite_has_it_is_remarked(folder):
    table = {**SUITE, "name": "digits-far-ood"}
    (folder / "suite.json").write_text(json.dumps(table))
    rewrite(folder, lambda r: cells_of(r, suite="digits-far-ood"))
    (report,) = verify(folder)
    told = " ".join(f.text for f in report.findings if f.check == "shipped")
    for part in ("OOD set svhn", "photos is left out", "seeds 0, 1;", "recipe.epochs is 100;"):
        assert part in told
    assert not report.problems


def test_rows_that_a_later_run_was_not_asked_for_are_remarked(folder):
    table = {**SUITE, "adapters": ADAPTERS[:1], "detectors": DETECTORS[:1]}
    (folder / "suite.json").write_text(json.dumps(table))
    (report,) = verify(folder)
    told = " ".join(f.text for f in report.findings if f.check == "suite")
    assert f"adapter {ADAPTERS[1]}, beside those that suite.json names" in told
    assert f"detector {DETECTORS[1]}, beside those that suite.json names" in told
    assert not report.problems


# --- the commands


def test_submit_then_verify(folder, tmp_path):
    out = tmp_path / "made" / "x.zip"
    done = call("submit", "--results", tmp_path, "--suite", "synthetic", "--out", out)
    assert done.exit_code == 0, done.output
    assert hashlib.sha256(out.read_bytes()).hexdigest() in done.output
    assert "of which scores" in done.output
    done = call("verify", out, "--against", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Metrics of 16 cells computed again" in done.output
    (table,) = json.loads(call("verify", out, "--format", "json").output)
    assert (table["recomputed"], table["problems"], table["exit_status"]) == (16, [], 0)


def test_exit_codes(folder, tmp_path):
    rewrite(folder, only(PLACE, with_metric("auroc", 0.5)))
    done = call("verify", folder)
    assert done.exit_code == 1
    assert "metrics (" in done.output
    done = call(
        "submit", "--results", tmp_path, "--suite", "synthetic", "--out", tmp_path / "x.zip"
    )
    assert done.exit_code == 1
    assert "not packed" in done.output
    assert call("verify", tmp_path / "nowhere").exit_code == 2
    (tmp_path / "no.zip").write_bytes(zlib.compress(b"x"))
    assert call("verify", tmp_path / "no.zip").exit_code == 2
    (tmp_path / "empty").mkdir()
    assert call("verify", tmp_path / "empty").exit_code == 2
    assert call("submit", "--results", tmp_path / "empty", "--out", "x.zip").exit_code == 2


def test_words_of_strangers_cannot_act_on_a_terminal(folder):
    evil = "\x1b[2J\rOK"
    rewrite(folder, only(PLACE, lambda r: synthetic.blank(r, "failed", evil)))
    rewrite(folder, lambda r: cells_of(r, suite=evil))
    text = as_text(verify(folder)[0])
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\\x1b[2J" in text


def test_a_line_is_what_was_written(folder):
    record = next(iter(read_folder(folder)))
    assert line_with(to_json(record), "auroc", "auroc") == to_json(record)
