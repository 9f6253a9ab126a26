"""Point 9, security: files from strangers run no code, leave no folder, and stay text on a page.

Checkpoints alone: `tests/test_checkpoints.py`. Pages made of hostile names: `tests/test_render.py`.
Here is the rest, through the doors that a user has: a suite, a folder of results, one of data.
"""

import ast
import contextlib
import csv
import dataclasses
import io
import json
import pickle
import re
import tarfile
import zipfile
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from click.testing import CliRunner
from test_runner import TABLE, run

from um_bench.backbones import create
from um_bench.cli import main
from um_bench.data import load_set
from um_bench.downloads import getting
from um_bench.errors import UmBenchError, UsageError
from um_bench.leaderboard import make_board
from um_bench.records import (
    JobFile,
    check_of,
    from_json,
    job_file,
    read_file,
    read_folder,
    slug,
    suite_folder,
    to_json,
    write_file,
)
from um_bench.render import render
from um_bench.scores import load_scores, save_scores
from um_bench.store import load_weights, read_metadata, save_weights
from um_bench.suite import Job, Preprocessing
from um_bench.testing import example_classifier

ROOT = Path(__file__).parents[2]
OUR_CODE = sorted((*ROOT.glob("um_bench/**/*.py"), *ROOT.glob("plugins/**/*.py")))
DOWNLOADS = ROOT / "um_bench" / "downloads" / "getting.py"
"""Unpacks what has the checksum that its library knows; see the test of names that climb."""
SMALL = Preprocessing(size=32)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


@pytest.fixture
def witness(tmp_path):
    """A file that is there once code has run."""
    return tmp_path / "executed"


def test_the_plant_works(witness):
    pickle.loads(pickle.dumps(Malicious(witness)))
    assert witness.exists()


# --- no pickle is executed


def call(*arguments) -> object:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_malicious_checkpoint_ends_the_run_with_one_line(tmp_path, witness):
    torch.save({"state_dict": {}, "note": Malicious(witness)}, tmp_path / "evil.pt")
    done = call(
        *("run", "--suite", "digits-far-ood", "--checkpoint", tmp_path / "evil.pt"),
        *("--adapters", "none", "--detectors", "msp", "--limit", 10, "--device", "cpu"),
        *("--results", tmp_path / "results"),
    )
    assert done.exit_code == 2
    assert "needs pickle" in done.output
    assert not witness.exists()


@pytest.mark.parametrize("name", ["local-dir:{}", "hf-hub:{}", "{}"])
def test_a_folder_of_weights_is_no_backbone(tmp_path, witness, name):
    """timm would load `pytorch_model.bin` from it."""
    torch.save(Malicious(witness), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": {}}')
    with pytest.raises(UsageError, match="no backbone named"):
        create(
            name.format(tmp_path),
            num_classes=10,
            preprocessing=SMALL,
            options={"pretrained": True},
        )
    assert not witness.exists()


@pytest.mark.parametrize("how", ["objects", "pickle", "npy"])
def test_a_malicious_file_of_scores_is_not_unpickled(tmp_path, witness, how):
    path, objects = tmp_path / "scores.npz", np.array([Malicious(witness)], dtype=object)
    with path.open("wb") as stream:
        if how == "objects":
            np.savez(stream, id=objects, allow_pickle=True)
        elif how == "npy":
            np.save(stream, objects)
        else:
            pickle.dump(Malicious(witness), stream)
    with pytest.raises(UsageError, match=r"scores\.npz: no readable file of scores"):
        load_scores(path)
    assert not witness.exists()


def test_a_malicious_file_in_the_results_is_made_again(tmp_path, witness):
    """Scores and models that are not what was written are computed anew, never unpickled."""
    options = {"adapters": ["finetune"], "detectors": ["msp"], "limit": 40}
    first = run(tmp_path, **options)
    evil = pickle.dumps(Malicious(witness))
    files = [p for p in tmp_path.rglob("*") if p.suffix in (".npz", ".safetensors")]
    assert len(files) == 5
    for path in files:
        path.write_bytes(evil)
    second = run(tmp_path, **options)
    assert [r.metrics for r in second] == [r.metrics for r in first]
    assert not any(path.read_bytes() == evil for path in files)
    assert not witness.exists()


def plant_cifar(folder: Path, evil: bytes) -> str:
    (folder / "cifar-10-batches-py").mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        (folder / "cifar-10-batches-py" / name).write_bytes(evil)
    return "cifar10/test"


def plant_mnist(folder: Path, evil: bytes) -> str:
    """What torchvision's MNIST was kept in once, and is still read from."""
    (folder / "MNIST" / "processed").mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (folder / "MNIST" / "processed" / name).write_bytes(evil)
    return "mnist/test"


def plant_corrupted_cifar(folder: Path, evil: bytes) -> str:
    (folder / "CIFAR-10-C").mkdir()
    for name in ("fog.npy", "labels.npy"):
        (folder / "CIFAR-10-C" / name).write_bytes(evil)
    return "cifar10-c/fog"


def plant_npz(folder: Path, evil: bytes) -> str:
    (folder / "imagenet32").mkdir()
    with zipfile.ZipFile(folder / "imagenet32" / "val_data.npz", "w") as archive:
        for name in ("data.npy", "labels.npy"):
            archive.writestr(name, evil)
    return "imagenet32/val"


def plant_npy(folder: Path, evil: bytes) -> str:
    (folder / "300K_random_images.npy").write_bytes(evil)
    return "tinyimages300k"


def plant_png(folder: Path, evil: bytes) -> str:
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(evil)
    return "folder/images"


def array_of(evil: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([evil], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("form", [pickle.dumps, array_of], ids=["pickle", "array of objects"])
@pytest.mark.parametrize(
    "plant",
    [plant_cifar, plant_mnist, plant_corrupted_cifar, plant_npz, plant_npy, plant_png],
    ids=lambda plant: plant.__name__,
)
def test_a_malicious_data_set_runs_no_code(tmp_path, witness, monkeypatch, plant, form):
    # The corrupted set's checksum is asked for first, and would refuse the file by itself.
    base = import_module("pytorch_ood.dataset.img.base")
    monkeypatch.setattr(base, "check_integrity", lambda *_: True)
    data = tmp_path / "data"
    data.mkdir()
    reference = plant(data, form(Malicious(witness)))
    with pytest.raises(UmBenchError):
        load_set(reference, data_dir=data, preprocessing=SMALL, ood=True)
    assert not witness.exists()


# --- nothing is unpacked


EXTRACTORS = {"extract", "extractall", "unpack_archive", "extract_archive", "download_and_extract"}


def unpacks(source: str) -> list[int]:
    """The lines of a source that call something which writes what is in an archive."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = {getattr(node, field, None) for field in ("id", "attr", "name")}
        if names & EXTRACTORS or "tarfile" in names:
            found.append(node.lineno)
        if isinstance(node, ast.keyword) and node.arg == "download":
            value = getattr(node.value, "value", None)
            found += [node.value.lineno] if value is not False else []
    return found


@pytest.mark.parametrize("path", OUR_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_of_ours_unpacks_an_archive_but_the_one_that_downloads(path):
    if path != DOWNLOADS:
        assert not unpacks(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("packing", ["tar", "zip"])
@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt"])
def test_an_archive_that_is_downloaded_writes_into_its_folder_alone(packing, name, tmp_path):
    part, folder = tmp_path / "part", tmp_path / "data"
    folder.mkdir()
    if packing == "tar":
        with tarfile.open(part, "w") as archive:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"out"))
    else:
        with zipfile.ZipFile(part, "w") as archive:
            archive.writestr(name, b"out")
    with contextlib.suppress(tarfile.FilterError):
        getting._unpack(packing, part, folder)
    outside = {path for path in tmp_path.rglob("*") if path.is_file()} - {part}
    assert all(path.is_relative_to(folder) for path in outside)
    assert not Path("/out.txt").exists()


@pytest.mark.parametrize(
    "source",
    [
        "zipfile.ZipFile(path).extractall(folder)",
        "from shutil import unpack_archive",
        "import tarfile",
        "kind(root, download=True)",
        "kind(root, download=chosen)",
    ],
)
def test_unpacking_would_be_noticed(source):
    assert unpacks(source)


def test_a_member_of_an_archive_cannot_climb_out(tmp_path):
    """Archives are read in memory: whatever a member is called, nothing is written."""
    path = tmp_path / "in" / "scores.npz"
    path.parent.mkdir()
    stream = io.BytesIO()
    np.save(stream, np.zeros(3, np.float32))
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../climbed.npy", f"{tmp_path}/absolute.npy", "id.npy"):
            archive.writestr(name, stream.getvalue())
    scores = load_scores(path)
    assert np.array_equal(scores["id"], np.zeros(3))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "scores.npz"]


# --- names stay in their folder


NAMES = (
    *("../../escaped", "/absolute", "..", ".", "", "a/b", "..\\..\\escaped", "C:\\x", "~root"),
    *(
        "a\0b",
        "x" * 5000,
        "é" * 200,
        "\ud800",
        "-rf",
        "con",
        "NUL",
        "com1.txt",
        "a. ",
        "a\n",
        "%2e",
    ),
)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_name_is_one_file_name_on_every_system(name, tmp_path):
    for made in (slug(name), slug(name, name), slug("x", name)):
        assert re.fullmatch(r"[A-Za-z0-9._@=+-]{1,130}", made)
        assert made[0] not in "."
        assert made[-1] != "."
        assert made.partition(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt1")
        assert slug(made) == made, "a folder is found again by its own name"
    path = job_file(suite_folder(tmp_path, name), Job(name, name, 0, name))
    write_file(path, [])
    assert files_below(tmp_path) == [path]
    assert path.parents[2] == tmp_path


def test_a_hostile_suite_writes_into_its_results_alone(tmp_path):
    escaping = "../../../escaped"
    results = tmp_path / "a" / "b" / "results"
    changes = {
        "name": escaping,
        "id": {**TABLE["id"], "name": f"{escaping}/id"},
        "ood": {"far": {f"{escaping}/ood": "uniform-noise/20-grey"}},
        "detectors": ["msp"],
        "adapters": ["none", "um@constraint=0.4"],
        "limit": 20,
    }
    records = run(results, **changes)
    assert {r.state for r in records} == {"done"}
    written = files_below(tmp_path)
    assert written
    assert all(path.is_relative_to(results) for path in written)
    (folder,) = (p for p in results.iterdir() if p.name != "models")
    assert list(read_folder(folder)) == sorted(records, key=lambda r: r.adapter)
    assert all((folder / r.scores).is_file() for r in records)


@pytest.mark.parametrize("name", ["a--b", "x" * 125, "über"])
def test_a_suites_folder_is_found_whatever_its_name(tmp_path, name):
    """`um-bench leaderboard` takes the folders' names for the suites'."""
    run(tmp_path, name=name, adapters=["none"], detectors=["msp"], limit=20)
    done = call("leaderboard", "--results", tmp_path)
    assert done.exit_code == 0, done.output


# --- records that somebody else wrote


def line_of(**changes) -> str:
    """A line whose check is right: it tells of damage, and nobody of anything else."""
    table = dataclasses.asdict(synthetic.record())
    for name, value in changes.items():
        if value is None:
            del table[name]
        else:
            table[name] = value
    return checked(json.dumps(table, sort_keys=True))


def checked(text: str) -> str:
    body = text[1:]
    return f'{{"check": "{check_of(body.encode())}", {body}'


def test_the_line_is_a_record_without_changes():
    assert from_json(line_of()) == synthetic.record()


PATHS = (
    *(
        "../../x",
        "scores/../../x",
        "/etc/passwd",
        "scores//x",
        "~/x",
        "./x",
        ".",
        "..",
        "a/..",
        "a/",
    ),
    *("a\0b", "C:\\x", "..\\x", "\\\\host\\share", "file:///etc/passwd", "scores/a b", "a\n"),
)


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_a_record_cannot_point_out_of_its_folder(tmp_path, path):
    file = tmp_path / "job.jsonl"
    file.write_text(f"{line_of()}\n{line_of(scores=path)}\n")
    for read in (read_file, JobFile):
        with pytest.raises(UsageError, match=r"job\.jsonl, line 2: scores is .*no file below"):
            read(file)


def test_what_is_written_can_be_read(tmp_path):
    path = f"scores/{slug('../x', 'é')}/{slug('knn@k=5', '.. /y')}.npz"
    assert from_json(line_of(scores=path)).scores == path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": "0.9"}, "metrics must be dict, got '0.9'"),
        ({"metrics": {"auroc": "0.9"}}, "metrics must hold float or int only"),
        ({"metrics": {"auroc": True}}, "metrics must hold float or int only"),
        ({"metrics": {"auroc": [0.9]}}, "metrics must hold float or int only"),
        ({"metrics": {"auroc": float("nan")}}, "holds NaN, which is no number"),
        ({"metrics": {"auroc": 10**400}}, "not a record of um-bench"),
        ({"adapter": 3}, "adapter must be str, got 3"),
        ({"suite": ["x"]}, "suite must be str"),
        ({"seed": "0"}, "seed must be int, got '0'"),
        ({"seed": True}, "seed must be int, got True"),
        ({"seed": 0.5}, "seed must be int, got 0.5"),
        ({"counts": {"id": 1.5}}, "counts must hold int only"),
        ({"fingerprints": {"id": 7}}, "fingerprints must hold str only"),
        ({"hyperparameters": []}, "hyperparameters must be dict"),
        ({"reason": {"<b>": 1}}, "reason must be str"),
        ({"provenance": "here"}, "not a record of um-bench"),
        ({"provenance": {"created": 1}}, "not a record of um-bench"),
        ({"metrics": {f"m{i}": "x" * 99 for i in range(999)}}, r"got .{80}\.\.\.$"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"adapter": None}, "adapter"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_field_of_another_type_is_named_with_file_and_line(tmp_path, changes, message):
    file = tmp_path / "job.jsonl"
    file.write_text(f"{line_of()}\n{line_of(**changes)}\n")
    for read in (read_file, JobFile):
        with pytest.raises(UsageError, match=rf"job\.jsonl, line 2: .*{message}") as caught:
            read(file)
        assert type(caught.value) is UsageError, "damage would be mended without a word"
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ['{"metrics": {"auroc": 1e999}, ', '{"schema": 1, "seconds": '])
def test_what_the_parser_cannot_take_is_no_record(text):
    for inside in ("[" * 100_000, text):
        with pytest.raises(UsageError, match="not a record"):
            from_json(checked(f"{{{inside}"))


def test_a_number_that_is_too_large_is_not_finite():
    line = line_of(metrics={"auroc": 12345.5}).partition(", ")[2].replace("12345.5", "1e999")
    with pytest.raises(UsageError, match="metrics must hold finite numbers"):
        from_json(checked(f"{{{line}"))


def test_a_record_that_cannot_be_read_ends_the_leaderboard_with_one_line(tmp_path):
    file = tmp_path / "tiny" / "records" / "job.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(f"{line_of(metrics='high')}\n")
    done = call("leaderboard", "--results", tmp_path)
    assert done.exit_code == 2
    assert "job.jsonl, line 1: not a record of um-bench: metrics must be dict" in done.output


# --- other files of the results


@pytest.mark.parametrize(
    "metadata",
    [
        *([], "text", {"weights": 3}, {"weights": "w", "seconds": "1", "notes": {}, "losses": []}),
        {"weights": "w", "seconds": 1.0, "notes": [], "losses": []},
        {"weights": "w", "seconds": 1.0, "notes": {}},
    ],
    ids=str,
)
def test_a_model_with_other_metadata_is_no_model_of_ours(tmp_path, metadata):
    import safetensors.torch

    model = example_classifier()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path, {"um_bench": json.dumps(metadata)})
    assert read_metadata(path) is None
    assert load_weights(path, model) is None


def test_a_model_of_ours_is_read(tmp_path):
    metadata = {"seconds": 1, "notes": {}, "losses": [], "opened": []}
    save_weights(tmp_path / "m", example_classifier(), metadata)
    assert load_weights(tmp_path / "m", example_classifier(seed=1)) is not None


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", "b"]),
        np.zeros((2, 2), np.float32),
        np.zeros(3),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.float32(3),
    ],
    ids=str,
)
def test_scores_that_are_no_scores_are_named(tmp_path, values):
    np.savez(tmp_path / "scores.npz", id=values)
    with pytest.raises(UsageError, match=r"scores\.npz: no readable file of scores"):
        load_scores(tmp_path / "scores.npz")


def test_a_file_of_scores_holds_its_sets_alone(tmp_path):
    """numpy before 2.0 takes every keyword of savez_compressed for an array, allow_pickle too."""
    save_scores(tmp_path / "scores.npz", {"id": torch.ones(2), "ood": torch.ones(3)})
    assert zipfile.ZipFile(tmp_path / "scores.npz").namelist() == ["id.npy", "ood.npy"]
    assert set(load_scores(tmp_path / "scores.npz")) == {"id", "ood"}


def test_damaged_scores_are_named_wherever_the_damage_is(tmp_path):
    """zipfile, zlib and numpy raise eight kinds of errors here, which are not all OSErrors."""
    np.savez_compressed(tmp_path / "scores.npz", id=np.linspace(0, 1, 20, dtype=np.float32))
    content = (tmp_path / "scores.npz").read_bytes()
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        (tmp_path / "scores.npz").write_bytes(damaged)
        try:
            load_scores(tmp_path / "scores.npz")
        except UsageError:
            refused += 1
    assert refused > len(content) / 2


# --- pages


ATTACKS = {
    "script": "<script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "link": "[click](javascript:alert(1)) ![x](http://e.example/x.png) <http://e.example>",
    "latex": r"\immediate\write18{rm -rf /} \input{/etc/passwd} ^^5cinput{x} $x$ %",
    "terminal": "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2028line\r\nnext",
    "formula": "=HYPERLINK(0)",
    "table": "a | b & c \\\\ \\hline",
}


def attacked(text: str):
    """A board of which every text that a plugin, a suite or a record decides is an attack."""

    def change(record):
        failed = record.seed == 2
        return dataclasses.replace(
            record,
            **dict.fromkeys(("adapter", "adapter_label", "backbone", "id_set"), text),
            **dict.fromkeys(("detector", "detector_label"), f"{text} {record.detector}"),
            ood_set=f"{text} {record.ood_set}",
            auxiliary=text,
            notes={text: 1.0},
            state="failed" if failed else "done",
            reason=text if failed else "",
            traceback=text if failed else "",
            provenance=dataclasses.replace(
                record.provenance, device=text, platform=text, versions={text: text}
            ),
        )

    info = synthetic.info(
        name=text,
        title=text,
        description=text,
        adapters=(text,),
        shifted=((text, text),),
        tracks={text: text},
        ood=tuple(ood._replace(name=f"{text} {ood.name}") for ood in synthetic.OOD),
    )
    return make_board(synthetic.sweep(adapters=("um",), change=change), info)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("per_set", [False, True])
def test_an_attack_is_text_in_html(attack, per_set):
    harmless, page = Tags(), Tags()
    harmless.feed(render(attacked("plain@x"), "html", per_set=per_set))
    page.feed(render(attacked(ATTACKS[attack]), "html", per_set=per_set))
    assert page.seen <= harmless.seen
    assert page.attributes <= harmless.attributes


CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("format", ["table", "markdown", "latex", "html", "json"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_moves_no_terminal_and_makes_no_line(attack, format):
    text = render(attacked(ATTACKS[attack]), format)
    assert not CONTROL.search(text)
    if format in ("markdown", "latex"):
        plain = render(attacked("plain"), format)
        rows = [sum(line.startswith("| ") for line in page.splitlines()) for page in (text, plain)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_text_in_markdown(attack):
    text = render(attacked(ATTACKS[attack]), "markdown")
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)!?\[|<(?!!--)|(?<!\\)`", text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_text_in_latex(attack):
    ours = set(re.findall(r"\\([a-zA-Z]+)", code_of(render(attacked("plain"), "latex"))))
    ours |= {"textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater"}
    ours |= {"textbar"}
    code = code_of(render(attacked(ATTACKS[attack]), "latex"))
    assert set(re.findall(r"\\([a-zA-Z]+)", code)) <= ours
    assert "^^" not in code
    assert code.count(r"\end{tabular}") == code.count(r"\begin{tabular}")


def code_of(latex: str) -> str:
    return "\n".join(line for line in latex.splitlines() if not line.startswith("%"))


FORMULAS = ("=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1")


@pytest.mark.parametrize("formula", FORMULAS, ids=ascii)
def test_a_spreadsheet_computes_nothing_of_a_csv(formula):
    """OWASP, CSV Injection: what starts so is a formula in Excel, LibreOffice and Google Sheets."""
    rows = read_csv(render(attacked(formula), "csv"))
    for row in rows:
        for name, value in row.items():
            assert not value.startswith(("=", "+", "@", "\t", "\r")), name
            assert not value.startswith("-") or float(value) < 0, name
    assert {row["adapter"] for row in rows} == {f"'{formula}"}
    assert json.loads(render(attacked(formula), "json"))["cells"][0]["adapter"] == formula


def test_numbers_of_a_csv_are_as_they_were():
    """Negative ones too: an apostrophe would make a text of them."""
    records = synthetic.sweep(
        change=lambda r: dataclasses.replace(r, seed=r.seed - 1, seconds={"adapt": -0.5})
    )
    info = synthetic.info(seeds=(-1, 0, 1))
    rows = read_csv(render(make_board(records, info), "csv"))
    assert {row["adapt_seconds"] for row in rows} == {"-0.5"}
    assert {int(row["seed"]) for row in rows} == {-1, 0, 1}


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_written_record_is_what_was_given():
    """The hostile texts survive files; only pages change them."""
    for text in ATTACKS.values():
        record = dataclasses.replace(synthetic.record(), reason=text, traceback=text)
        assert from_json(to_json(record)) == record
        assert to_json(record).isascii()
