"""Point 7, determinism: the same suite gives the same records to the last bit, on a CPU always.

It holds for any seed of Python's hashes, any order of adapters and detectors, and whatever ran
before. It holds for any number of threads where images are tiny (`environment.TINY`): these are
computed on one. Above that size torch adds in an order that depends on the number of threads:
weights that are trained with two differ in their last bits from those trained with one.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_runner import TABLE

from um_bench import environment, registry, run_suite
from um_bench.records import read_folder
from um_bench.suite import parse_suite

CHILD = """
import json, sys
import torch
from um_bench import run_suite
from um_bench.suite import parse_suite
for table in json.loads(sys.argv[1]):
    for record in run_suite(parse_suite(table, "child"), results=sys.argv[2], device="cpu"):
        pass
print(torch.get_num_threads())
"""
ADAPTERS = [
    *("none", "finetune", "um@constraint=0.4", "umap@constraint=0.4", "um@constraint=0.4>oe"),
    *("oe", "poem", "doe", "loss:VOS", "loss:Confidence"),
]
SMALL = {**TABLE, "limit": 40, "ood": {"far": {"noise": "uniform-noise/40-grey"}}}
MANY_ADAPTERS = {
    **SMALL,
    "name": "adapters",
    "adapters": ADAPTERS,
    "detectors": ["msp", "knn@k=5"],
    "auxiliary": "photos/auxiliary",
}
MANY_DETECTORS = {
    **SMALL,
    "name": "detectors",
    "adapters": ["none"],
    "detectors": list(registry.plugins("detector")),
}


def told(record) -> str:
    """A record's line, without times and dates."""
    table = dataclasses.asdict(record)
    del table["seconds"], table["spent"], table["provenance"]["created"]
    return json.dumps(table, sort_keys=True)


def told_of(folder: Path) -> list[str]:
    return sorted(map(told, read_folder(folder)))


def backwards(table: dict) -> dict:
    return {**table, "adapters": table["adapters"][::-1], "detectors": table["detectors"][::-1]}


def run_in_a_process(results: Path, tables: list[dict], *, hash_seed: int, threads: int) -> None:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(tables), str(results)]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(threads), "another number of threads than was asked for"


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Two results folders: everything that must not matter was different."""
    tables = [MANY_ADAPTERS, MANY_DETECTORS]
    results = [tmp_path_factory.mktemp("results") for _ in range(2)]
    run_in_a_process(results[0], tables, hash_seed=0, threads=1)
    run_in_a_process(results[1], list(map(backwards, tables))[::-1], hash_seed=1, threads=2)
    return results


@pytest.mark.parametrize("name", ["adapters@limit=40", "detectors@limit=40"])
def test_records_do_not_depend_on_hash_seed_order_process_or_threads(twice, name):
    one, other = (told_of(results / name) for results in twice)
    assert one == other
    states = [json.loads(line)["state"] for line in one]
    assert set(states) <= {"done", "unsupported"}
    assert states.count("done") >= 20


def test_weights_and_scores_do_not_either(twice):
    one, other = (
        {
            path.relative_to(results): content_of(path)
            for path in sorted(results.rglob("*"))
            if path.suffix in (".npz", ".safetensors")
        }
        for results in twice
    )
    assert one == other
    assert len({path.suffix for path in one}) == 2


def content_of(path: Path) -> object:
    """A file's bytes; of weights, without the metadata, which hold the time that training took."""
    if path.suffix == ".npz":
        return path.read_bytes()
    state = safetensors.torch.load_file(path)
    return {name: value.numpy().tobytes() for name, value in state.items()}


def test_records_say_that_they_are_deterministic(twice):
    records = [r for results in twice for name in results.glob("*@*") for r in read_folder(name)]
    assert {(r.provenance.device, r.provenance.deterministic) for r in records} == {("cpu", True)}


def run_larger(results: Path, threads: int, device: str = "cpu", **options) -> list:
    """A sweep of images that are not tiny."""
    # umap draws its masks, and loss:Confidence a number for each image of each step.
    adapters = ["none", "finetune", "umap@constraint=0.4", "loss:Confidence"]
    table = {**SMALL, "adapters": adapters, "detectors": ["msp", "mahalanobis"]}
    table["preprocessing"] = {"size": environment.TINY + 8, "resize": "squash"}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        records = run_suite(parse_suite(table, "x"), results=results, device=device, **options)
        return list(map(told, records))
    finally:
        torch.set_num_threads(before)


def test_records_say_on_how_many_threads_they_were_computed(twice, tmp_path):
    tiny = [r for results in twice for name in results.glob("*@*") for r in read_folder(name)]
    assert {r.provenance.threads for r in tiny} == {1}
    lines = map(json.loads, run_larger(tmp_path, threads=2))
    assert {line["provenance"]["threads"] for line in lines} == {2}


def test_larger_images_give_the_same_records_on_as_many_threads(tmp_path):
    assert run_larger(tmp_path / "a", threads=1) == run_larger(tmp_path / "b", threads=1)


def test_what_ran_before_changes_nothing(tmp_path):
    first = run_larger(tmp_path / "a", threads=1)
    torch.manual_seed(99)
    torch.rand(1000)
    assert run_larger(tmp_path / "b", threads=1) == first
    # The base classifier is there already, and the adapter is trained in a process of its own.
    for path in (tmp_path / "b" / "models").glob("*.safetensors"):
        if not path.name.startswith("base-"):
            path.unlink()
    for path in (tmp_path / "b").rglob("*.jsonl"):
        path.unlink()
    assert run_larger(tmp_path / "b", threads=1) == first


@pytest.fixture
def _as_before():
    """Put back what a run sets for the whole process."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.gpu
@pytest.mark.usefixtures("_as_before")
def test_a_deterministic_run_on_a_gpu_gives_the_same_records(tmp_path):
    options = {"threads": 1, "device": "cuda", "deterministic": True}
    first, second = (run_larger(tmp_path / name, **options) for name in ("a", "b"))
    assert first == second
    assert all(json.loads(line)["state"] == "done" for line in first)
    assert all(json.loads(line)["provenance"]["deterministic"] for line in first)


@pytest.mark.gpu
@pytest.mark.usefixtures("_as_before")
def test_a_run_on_a_gpu_that_is_not_held_to_it_says_so(tmp_path):
    lines = run_larger(tmp_path, threads=1, device="cuda")
    assert not any(json.loads(line)["provenance"]["deterministic"] for line in lines)
