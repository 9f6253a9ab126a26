"""Decoded images that are kept: read back while the files stay, made anew where they do not."""

import logging
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from um_bench.data import fingerprint, fingerprints, kept, leakage, load_set, sets
from um_bench.errors import LeakageError, StorageError
from um_bench.suite import Preprocessing

SIZE = Preprocessing(size=8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what is kept. Files count as settled as soon as they are written."""
    monkeypatch.setenv(kept.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "SETTLED", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path):
    """A data folder with 20 images in two classes."""
    for index in range(20):
        write(tmp_path / "data" / "set" / "ab"[index % 2] / f"{index:02}.png", seed=index)
    return tmp_path / "data"


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    time.sleep(0.002)  # more than the clock of the file system's times ticks


@pytest.fixture
def decoded(monkeypatch):
    """How many sets were decoded."""
    count = []
    real = sets._images
    monkeypatch.setattr(sets, "_images", lambda decoder: count.append(1) or real(decoder))
    return count


def load(data, **changes):
    return load_set("folder/set", data_dir=data, **{"preprocessing": SIZE, "ood": True, **changes})


def files(cache):
    found = sorted(cache.glob("*")) if cache.is_dir() else []
    return [path for path in found if path.name != ".locks"]


def test_a_set_is_decoded_once_and_is_the_same_set(data, decoded, cache):
    first, second = load(data), load(data)
    assert len(decoded) == 1
    assert [path.suffix for path in files(cache)] == [".safetensors"]
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.fingerprint == second.fingerprint == fingerprint(first.images, first.labels)
    second.images[0] = 0  # stays in memory
    assert torch.equal(load(data).images, first.images)
    assert len(decoded) == 1


ANOTHER_PROCESS = """
import sys, time
from pathlib import Path
from um_bench.data import fingerprints, load_set, sets
from um_bench.suite import Preprocessing

real = sets._images
def slow(decoder):
    print("decoding", flush=True)
    sys.stdin.readline()
    return real(decoder)
sets._images = slow
fingerprints.SETTLED = 0.0
load_set("folder/set", data_dir=Path(sys.argv[1]), preprocessing=Preprocessing(size=8), ood=True)
"""


def test_what_another_process_is_decoding_is_waited_for(data, decoded, cache, caplog):
    code = [sys.executable, "-c", ANOTHER_PROCESS, str(data)]
    other = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "decoding\n"
        threading.Timer(0.2, other.stdin.write, ["go on\n"]).start()
        threading.Timer(0.3, other.stdin.flush).start()
        found = load(data)
    finally:
        other.communicate(timeout=60)
    assert decoded == []
    assert "waiting for another process" in caplog.text
    assert found.fingerprint == fingerprint(found.images, found.labels)
    assert len(files(cache)) == 1


def test_without_locks_each_decodes_for_itself(data, decoded, monkeypatch):
    def none(path, *, wait):
        raise StorageError("its file system has no locks")

    monkeypatch.setattr(kept, "held", none)
    load(data)
    assert len(decoded) == 1


@pytest.mark.parametrize(
    "changes", [{"preprocessing": Preprocessing(size=4)}, {"limit": 6}], ids=["size", "limit"]
)
def test_what_is_loaded_otherwise_is_another_set(data, decoded, changes):
    load(data)
    other = load(data, **changes)
    assert len(decoded) == 2
    assert other.fingerprint == fingerprint(other.images, other.labels)
    assert load(data, **changes).fingerprint == other.fingerprint
    assert len(decoded) == 2


def test_a_changed_image_is_noticed_though_its_size_and_time_are_put_back(data, decoded):
    before = load(data)
    path = data / "set" / "a" / "02.png"
    was, pixels = path.stat(), np.asarray(Image.open(path)).copy()
    content = path.read_bytes()
    for seed in range(1000):  # another image, coded in as many bytes
        pixels[0, 0] = np.random.default_rng(seed).integers(0, 256, 3)
        Image.fromarray(pixels).save(path)
        if path.stat().st_size == was.st_size and path.read_bytes() != content:
            break
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    after = load(data)
    assert len(decoded) == 2
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint == fingerprint(after.images, after.labels)


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_another_list_of_files_is_another_set(data, decoded, change):
    load(data)
    if change == "added":
        write(data / "set" / "a" / "99.png", seed=99)
    elif change == "removed":
        (data / "set" / "a" / "00.png").unlink()
    else:
        (data / "set" / "a" / "00.png").rename(data / "set" / "a" / "99.png")
    assert len(load(data)) == {"added": 21, "removed": 19, "renamed": 20}[change]
    assert len(decoded) == 2


def test_files_that_were_just_written_are_not_kept_yet(data, monkeypatch, cache):
    monkeypatch.setattr(fingerprints, "SETTLED", 60.0)
    load(data)
    assert files(cache) == []


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(data, monkeypatch, cache):
    real = sets._images

    def changing(decoder):
        images = real(decoder)
        write(data / "set" / "a" / "00.png", seed=7)
        return images

    monkeypatch.setattr(sets, "_images", changing)
    load(data)
    assert files(cache) == []


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def garbage(path):
    path.write_bytes(b"no such file")


@pytest.mark.parametrize("damage", [flipped, truncated, garbage])
def test_a_damaged_file_is_noticed_and_made_anew(data, decoded, cache, caplog, damage):
    images = load(data).images.clone()
    whole = files(cache)[0].read_bytes()
    damage(files(cache)[0])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load(data).images, images)
    assert "decoded anew" in caplog.text
    assert len(decoded) == 2
    assert files(cache)[0].read_bytes() == whole


def test_images_that_decode_otherwise_now_are_noticed(data, decoded, monkeypatch):
    load(data)
    real = fingerprints.sampled

    def otherwise(decoder, images):
        now, before = real(decoder, images)
        return now ^ 1, before

    monkeypatch.setattr(kept, "sampled", otherwise)
    load(data)
    assert len(decoded) == 2


def test_a_folder_that_cannot_be_written_is_a_warning_with_a_remedy(data, cache, caplog):
    cache.write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert len(load(data)) == 20
    assert "let UM_BENCH_CACHE name another folder, or be 0" in caplog.text


def test_a_full_disk_leaves_nothing_behind(data, cache, caplog, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.safetensors.torch, "save_file", full)
    with caplog.at_level(logging.WARNING):
        assert len(load(data)) == 20
    assert "No space left" in caplog.text
    assert files(cache) == []


def test_nothing_is_kept_where_that_is_switched_off(data, decoded, monkeypatch, cache):
    monkeypatch.setenv(kept.CACHE, "0")
    load(data)
    load(data)
    assert len(decoded) == 2
    assert files(cache) == []


def test_the_cache_is_the_users_own_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv(kept.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept._folder() == tmp_path / "um-bench" / "images"


def test_files_count_as_read_where_images_are_read_back(data, cache):
    with leakage.recorded() as first:
        load(data)
    with leakage.recorded() as second:
        load(data)
    images = {os.path.realpath(path) for path in (data / "set").rglob("*.png")}
    assert images <= first
    assert images | {os.path.realpath(files(cache)[0])} <= second


def test_a_test_set_that_is_read_back_is_refused_to_who_trains(data):
    load(data)
    path = os.path.realpath(data / "set" / "a" / "00.png")
    with (
        pytest.raises(LeakageError, match="adapting read test data: scenes"),
        leakage.refusing("adapting", leakage.Files(tested={path: "scenes"})),
    ):
        load(data)


def test_a_source_that_names_no_file_is_kept_by_what_it_opened(tmp_path, decoded, cache):
    torchvision = pytest.importorskip("torchvision.datasets")
    assert torchvision
    # A set of arrays, in files of its own: MNIST's four bytes of magic, sizes, then pixels.
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(4 * 28 * 28, dtype=np.uint64).astype(np.uint8)
    for part in ("train", "t10k"):
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, 4, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = b"".join(n.to_bytes(4, "big") for n in (0x801, 4))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(range(4)))
    where = {"data_dir": tmp_path / "data", "preprocessing": SIZE, "ood": True}
    first = load_set("fashionmnist/test", **where)
    second = load_set("fashionmnist/test", **where)
    assert (len(decoded), len(files(cache))) == (1, 1)
    assert first.fingerprint == second.fingerprint
    time.sleep(0.01)
    (raw / "t10k-images-idx3-ubyte").write_bytes(
        (raw / "t10k-images-idx3-ubyte").read_bytes()[:-1] + b"\x07"
    )
    assert load_set("fashionmnist/test", **where).fingerprint != first.fingerprint
