"""Streamed sets: the same as in memory, by any number of processes; nothing is left behind."""

import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from um_bench import registry
from um_bench.data import (
    ImageSet,
    Loader,
    StreamedSet,
    fingerprint,
    fingerprints,
    load_set,
    loader,
    sets,
    streaming,
)
from um_bench.data.decoding import Decoder
from um_bench.errors import MissingDataError, PluginError, UmBenchError, UsageError
from um_bench.suite import Preprocessing

SIZE = Preprocessing(size=16, resize_to=18)
CLASSES = ("ant", "bee", "cat")
COUNT = 40
FORK_WARNS = "ignore:.*multi-threaded, use of fork:DeprecationWarning"
"""From Python 3.12 on, beside torch's threads."""
forked = pytest.mark.skipif(sys.platform != "linux", reason="its sources are not pickled: fork")


def noise(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of JPEGs and PNGs of many sizes, in three classes."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(COUNT):
        kind = "jpg" if index % 3 else "png"
        path = folder / "zoo" / CLASSES[index % 7 % 3] / f"{index:02}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(20 + index % 5 * 4, 18 + index % 4 * 7, index).save(path)
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch, tmp_path):
    """Chunks of three images, so that a few images are many chunks; nothing is remembered."""
    monkeypatch.setattr(streaming, "_CHUNK_IMAGES", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(streaming.WORKERS, "0")
    monkeypatch.setattr(fingerprints, "SETTLED", 1e6)
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture(params=[0, 2])
def workers(request, monkeypatch):
    monkeypatch.setenv(streaming.WORKERS, str(request.param))
    return request.param


def both(folder, reference="folder/zoo", **options):
    """The same set by both ways."""
    options = {"data_dir": folder, "preprocessing": SIZE, **options}
    return [load_set(reference, stream=stream, **options) for stream in (False, True)]


def whole(loader, epoch=0):
    images, labels = zip(*loader.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


class Planted:
    """Pairs that can be indexed, and count in every process how often they were."""

    def __init__(self, count, size=8, labels=None):
        self.count, self.size, self.read = count, size, multiprocessing.Value("i", 0)
        if labels is not None:
            self.labels = labels

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError
        with self.read:
            self.read.value += 1
        label = self.labels[index] if hasattr(self, "labels") else index % 4
        return np.full((self.size, self.size), index % 251, dtype=np.uint8), label


@pytest.fixture
def plant(monkeypatch, tmp_path):
    """Load what a source returns that the test makes up."""

    def load(pairs, size=8, **options):
        monkeypatch.setattr(registry, "load", lambda kind, name: lambda *_: pairs)
        preprocessing = Preprocessing(size=size)
        return load_set("planted/set", data_dir=tmp_path, preprocessing=preprocessing, **options)

    return load


# --- the same set -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"ood": True}, {"limit": 7}, {"limit": 7, "ood": True}, {"limit": 1000}],
    ids=str,
)
def test_a_streamed_set_is_the_set_in_memory(pictures, workers, options):
    kept, streamed = both(pictures, **options)
    assert (type(kept), type(streamed)) == (ImageSet, StreamedSet)
    assert "images" not in vars(streamed)
    assert streamed.fingerprint == kept.fingerprint == fingerprint(kept.images, kept.labels)
    assert torch.equal(streamed.labels, kept.labels)
    assert torch.equal(streamed.images, kept.images)
    for fact in (len, lambda data: data.num_classes, lambda data: data.name):
        assert fact(streamed) == fact(kept)
    assert repr(streamed) == f"StreamedSet(name='folder/zoo', fingerprint='{kept.fingerprint}')"


def test_a_streamed_set_is_what_torchvision_makes_of_the_files(pictures, workers):
    _, streamed = both(pictures)
    paths = sorted((pictures / "zoo").glob("*/*"))
    steps = Compose([Resize(18), CenterCrop(16), PILToTensor()])
    expected = torch.stack([steps(Image.open(path).convert("RGB")) for path in paths])
    images, labels = whole(Loader(streamed, batch_size=9))
    assert torch.equal(images, expected / 255)
    assert labels.tolist() == [CLASSES.index(path.parent.name) for path in paths]


@pytest.mark.parametrize(
    ("shuffle", "augmentation", "batch_size"),
    [
        (False, "none", 7),
        (False, "crop-flip", 8),
        (True, "none", 99),
        (True, "crop", 5),
        (True, "crop-flip", 1),
    ],
)
def test_batches_are_the_same_bit_for_bit(pictures, workers, shuffle, augmentation, batch_size):
    kept, streamed = (
        Loader(data, batch_size=batch_size, shuffle=shuffle, augmentation=augmentation, seed=5)
        for data in both(pictures)
    )
    assert len(streamed) == len(kept)
    for epoch in (0, 3):
        for one, other in zip(kept.epoch(epoch), streamed.epoch(epoch), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
            assert (other[0].dtype, other[1].dtype) == (torch.float32, torch.int64)
    assert not torch.equal(whole(streamed, 0)[0], whole(streamed, 3)[0]) or not (
        shuffle or augmentation != "none"
    )


@pytest.mark.parametrize("workers", [0, 1, 2, 3], indirect=True)
def test_passes_over_one_set_may_overlap(pictures, workers):
    kept, streamed = (Loader(data, batch_size=8, shuffle=True) for data in both(pictures))
    passes = list(zip(streamed.epoch(0), streamed.epoch(1), strict=True))
    for epoch in (0, 1):
        expected = whole(kept, epoch)
        assert torch.equal(torch.cat([pair[epoch][0] for pair in passes]), expected[0])
        assert torch.equal(torch.cat([pair[epoch][1] for pair in passes]), expected[1])


def test_torchs_own_generator_is_neither_read_nor_moved(pictures, workers):
    _, streamed = both(pictures)
    state = torch.random.get_rng_state()
    first = whole(Loader(streamed, batch_size=8, shuffle=True, augmentation="crop"))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    again = whole(Loader(streamed, batch_size=8, shuffle=True, augmentation="crop"))
    assert torch.equal(first[0], again[0])


def test_a_batch_is_the_callers_own(pictures):
    _, streamed = both(pictures)
    loader = Loader(streamed, batch_size=8)
    expected = [t.clone() for t in whole(loader)]
    for images, labels in loader:
        images.zero_()
        labels.fill_(-5)
    assert torch.equal(whole(loader)[0], expected[0])
    assert torch.equal(streamed.labels, expected[1])


def test_labels_that_only_the_pairs_know_are_read(plant, workers):
    pairs = Planted(10)
    streamed, kept = plant(pairs, stream=True), plant(pairs, stream=False)
    assert streamed.labels.tolist() == [index % 4 for index in range(10)]
    assert (streamed.fingerprint, streamed.num_classes) == (kept.fingerprint, 4)
    assert plant(pairs, stream=True, limit=4).labels.tolist() == [0, 1, 2, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_a_gpu_gets_the_same_batches(pictures, workers, augmentation):
    kept, streamed = both(pictures)
    settings = {"batch_size": 7, "shuffle": True, "augmentation": augmentation}
    on_gpu = whole(Loader(streamed, device="cuda", **settings), 1)
    assert {t.device.type for t in on_gpu} == {"cuda"}
    expected = whole(Loader(kept, **settings), 1)
    assert torch.equal(on_gpu[0].cpu(), expected[0])
    assert torch.equal(on_gpu[1].cpu(), expected[1])
    chunk = next(streaming.chunks(streamed.decoder, [torch.arange(3)], pinned=True))
    assert chunk.images.is_pinned()


@pytest.mark.parametrize(("images", "stays"), [(500, False), (501, True)])
def test_images_that_would_crowd_a_gpu_stay_where_they_are(monkeypatch, images, stays):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    tensor = types.SimpleNamespace(nbytes=images, to=lambda device: f"on {device}")
    assert loader._placed(tensor, "cuda:1") == (tensor if stays else "on cuda:1")


def test_images_that_stay_give_the_same_batches(pictures, monkeypatch):
    kept, _ = both(pictures)
    expected = whole(Loader(kept, batch_size=7, shuffle=True))
    monkeypatch.setattr(loader, "_placed", lambda images, device: images)
    there = Loader(kept, batch_size=7, shuffle=True, device="meta")
    assert {(t.device.type, t.shape) for t in whole(there)} == {("meta", t.shape) for t in expected}


# --- some of the images -------------------------------------------------------------------------


def first_of_each(labels, count):
    """One image of each class in turn, in the order of the set, until there are enough."""
    members = {label: [i for i, other in enumerate(labels) if other == label] for label in labels}
    rounds = itertools.zip_longest(*members.values())
    chosen = []
    for turn in rounds:
        chosen += sorted(index for index in turn if index is not None)
    return sorted(chosen[:count])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 20, 29, 30, 31])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_takes_the_first_of_each_class(plant, count, seed, stream):
    labels = np.random.default_rng(seed).permutation([0] * 3 + [1] * 20 + [2] * 7).tolist()
    for pairs in (Planted(30, labels=labels), Planted(30, labels=np.array(labels))):
        found = plant(pairs, limit=count, stream=stream)
        expected = first_of_each(labels, count)
        assert found.labels.tolist() == [labels[index] for index in expected]
        assert found.images[:, 0, 0, 0].tolist() == expected
        assert found.num_classes == 3
        assert found.fingerprint == fingerprint(found.images, found.labels)


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_of_an_ood_set_takes_the_first(plant, stream):
    found = plant(Planted(30), limit=5, stream=stream, ood=True)
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert found.labels.tolist() == [-1] * 5
    assert found.num_classes == 0


@pytest.mark.parametrize("attribute", ["labels", "targets"])
def test_what_a_limit_leaves_out_is_not_decoded(plant, attribute):
    pairs = Planted(1000)
    setattr(pairs, attribute, [index % 4 for index in range(1000)])
    plant(pairs, limit=8)
    assert pairs.read.value == 8


@pytest.mark.parametrize(
    "told",
    [None, "abc", [0.0] * 6, [0] * 5, [[0]] * 6, [[0], [1, 2]], [2**70] * 6, ["0"] * 6],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_labels_that_are_none_are_read_from_the_pairs(plant, told, stream):
    pairs = Planted(6)
    pairs.targets = told
    assert plant(pairs, limit=5, stream=stream).labels.tolist() == [0, 1, 2, 3, 0]


def test_labels_that_a_set_transforms_are_read_from_the_pairs(plant):
    pairs = Planted(6)
    pairs.targets, pairs.target_transform = [9] * 6, lambda label: label
    assert plant(pairs, limit=5).labels.tolist() == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("options", [{"stream": True}, {"limit": 3}], ids=str)
def test_labels_that_are_not_those_of_the_pairs_are_found(plant, options):
    pairs = Planted(6)
    pairs.targets = [0, 1, 2, 2, 3, 0]
    with pytest.raises(PluginError, match=r"image [34] has label [03], but .* say [23]"):
        plant(pairs, **{"limit": 5, **options} if "stream" in options else {"limit": 5})


def test_the_whole_set_is_checked_before_some_are_taken(plant):
    with pytest.raises(UsageError, match="no image has label 1"):
        plant(Planted(6, labels=[0, 0, 0, 0, 0, 2]), limit=2)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_is_at_least_one(plant, limit):
    with pytest.raises(UsageError, match=f"limit must be at least 1 image, got {limit}"):
        plant(Planted(6), limit=limit)


# --- when it streams ----------------------------------------------------------------------------


class InOrder:
    """Pairs that cannot be indexed."""

    def __len__(self):
        return 6

    def __iter__(self):
        return iter([(np.zeros((8, 8), dtype=np.uint8), 0)] * 6)


FITS, DOES_NOT_FIT = 6 * 3 * 8 * 8 / 0.6 + 1, 6 * 3 * 8 * 8 / 0.6 - 1


@pytest.mark.parametrize(
    ("stream", "environment", "free", "kind"),
    [
        (None, "", FITS, ImageSet),
        (None, "", None, ImageSet),
        (None, "", DOES_NOT_FIT, StreamedSet),
        (None, "1", FITS, StreamedSet),
        (None, "0", FITS, ImageSet),
        (True, "0", FITS, StreamedSet),
        (False, "1", FITS, ImageSet),
    ],
)
def test_what_is_streamed(plant, monkeypatch, stream, environment, free, kind):
    monkeypatch.setenv(sets.STREAM, environment)
    monkeypatch.setattr(sets, "_free_memory", lambda: free)
    assert type(plant(Planted(6), stream=stream)) is kind


@pytest.mark.parametrize(("stream", "environment"), [(False, ""), (None, "0")])
def test_what_neither_fits_nor_is_streamed_is_refused(plant, monkeypatch, stream, environment):
    monkeypatch.setenv(sets.STREAM, environment)
    monkeypatch.setattr(sets, "_free_memory", lambda: DOES_NOT_FIT)
    for pairs in (Planted(6), InOrder()):
        with pytest.raises(UsageError, match=r"6 images of 8x8 pixels need .* is not streamed"):
            plant(pairs, stream=stream)


def test_a_set_that_is_made_in_order_is_never_streamed(plant):
    assert type(plant(InOrder(), stream=True)) is ImageSet


def test_a_few_images_of_many_are_kept_in_memory(plant, monkeypatch):
    monkeypatch.setattr(sets, "_free_memory", lambda: DOES_NOT_FIT)
    assert type(plant(Planted(1000, labels=[0] * 1000), limit=5)) is ImageSet


def test_all_images_of_a_streamed_set_are_read_only_where_they_fit(plant, monkeypatch):
    streamed = plant(Planted(6), stream=True)
    monkeypatch.setattr(sets, "_free_memory", lambda: DOES_NOT_FIT)
    with pytest.raises(UsageError, match="6 images of 8x8 pixels need"):
        _ = streamed.images
    assert len(whole(Loader(streamed, batch_size=4))[0]) == 6


@pytest.mark.parametrize(
    ("variable", "value"),
    [(sets.STREAM, "yes"), (streaming.WORKERS, "-1"), (streaming.WORKERS, "two")],
)
def test_a_wrong_environment_variable_is_named(plant, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"{variable} is '{value}'"):
        plant(Planted(6), stream=None if variable == sets.STREAM else True)


def test_one_process_decodes_for_each_cpu_that_may_be_used(monkeypatch):
    monkeypatch.setenv(streaming.WORKERS, "")
    for cpus, expected in ((1, 1), (5, 5), (200, streaming.MOST_WORKERS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cpus: set(range(n)), raising=False)
        assert streaming.workers() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert streaming.workers() == 1
    monkeypatch.setenv(streaming.WORKERS, "40")
    assert streaming.workers() == 40


# --- errors -------------------------------------------------------------------------------------


def message(folder, preprocessing=SIZE, **options):
    """Kind and text of the error with which a set is not loaded."""
    options = {"data_dir": folder, "preprocessing": preprocessing, **options}
    with pytest.raises(UmBenchError) as caught:
        load_set("folder/zoo", **options)
    return caught.type, str(caught.value)


def spoil(path, how):
    if how == "vanished":
        path.unlink()
        path.symlink_to("nowhere")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_text("no image")


@pytest.fixture
def spoiled(pictures, tmp_path):
    """The pictures, linked, so that some can be replaced."""
    for path in (pictures / "zoo").glob("*/*"):
        copy = tmp_path / path.relative_to(pictures)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("how", ["vanished", "truncated", "text"])
def test_errors_are_those_of_the_path_in_memory(spoiled, workers, how):
    files = sorted((spoiled / "zoo").glob("*/*"))
    for path in (files[17], files[30]):
        spoil(path, how)
    expected = message(spoiled, stream=False)
    assert expected[0] is (MissingDataError if how == "vanished" else UsageError)
    assert str(files[17]) in expected[1]
    assert message(spoiled, stream=True) == expected


def test_a_wrong_size_is_the_same_error(spoiled, workers):
    strict = Preprocessing(size=16, resize="none")
    expected = message(spoiled, strict, stream=False)
    assert "the suite wants 16x16" in expected[1]
    assert message(spoiled, strict, stream=True) == expected


def test_a_file_that_goes_bad_later_is_named_in_the_pass(spoiled, workers):
    _, streamed = both(spoiled)
    bad = sorted((spoiled / "zoo").glob("*/*"))[17]
    spoil(bad, "truncated")
    batches = iter(Loader(streamed, batch_size=8))
    next(batches)
    next(batches)
    with pytest.raises(UsageError, match="folder/zoo: image 17") as caught:
        next(batches)
    assert str(bad) in str(caught.value)
    # The error, with its traceback, is still there; the processes are not.
    assert multiprocessing.active_children() == []


@forked
def test_a_process_that_dies_is_an_error_that_says_what_to_do(plant, monkeypatch):
    monkeypatch.setenv(streaming.WORKERS, "2")

    class Deadly(Planted):
        def __getitem__(self, index):
            if index == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    for labels in (None, [0] * 40):
        with pytest.raises(UmBenchError, match=r"processes .* broke down .*UM_BENCH_WORKERS=1"):
            plant(Deadly(40, labels=labels), stream=True)
    assert multiprocessing.active_children() == []


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "dropped", "error outside", "interrupted", "error"])
def test_a_pass_that_is_cut_short_leaves_no_process(pictures, monkeypatch, how):
    monkeypatch.setenv(streaming.WORKERS, "2")
    _, streamed = both(pictures)
    batches = Loader(streamed, batch_size=4, augmentation="crop").epoch(0)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    if how == "closed":
        batches.close()
    elif how == "dropped":
        del batches
        gc.collect()
    else:
        error = KeyboardInterrupt if how == "interrupted" else RuntimeError("out of memory")
        where = (loader, "_cropped") if how == "error outside" else (torch, "empty")
        monkeypatch.setattr(*where, raising(error))
        with pytest.raises((KeyboardInterrupt, RuntimeError)) as caught:
            next(batches)
        # A traceback keeps what it went through.
        assert caught.traceback
    assert multiprocessing.active_children() == []


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_there_are_no_more_processes_than_chunks(pictures, monkeypatch):
    monkeypatch.setenv(streaming.WORKERS, "8")
    _, streamed = both(pictures)
    batches = streaming.chunks(streamed.decoder, [torch.arange(4)])
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()


@forked
def test_no_process_is_started_for_none(pictures, monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    _, streamed = both(pictures)
    assert len(whole(Loader(streamed, batch_size=8))[0]) == COUNT


@forked
def test_no_warning_of_a_fork_or_of_many_processes_gets_out(pictures, monkeypatch):
    monkeypatch.setenv(streaming.WORKERS, str((os.cpu_count() or 1) + 1))
    original, forks = os.fork, []

    def fork():
        warnings.warn(
            f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to "
            "deadlocks in the child.",
            DeprecationWarning,
            stacklevel=2,
        )
        forks.append(1)
        return original()

    monkeypatch.setattr(os, "fork", fork)
    load_set("folder/zoo", data_dir=pictures, preprocessing=SIZE, stream=True)
    assert len(forks) == (os.cpu_count() or 1) + 1


def references(folder):
    """References of all kinds of sources that can be indexed, with their files in a folder."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = np.zeros((3, 28, 28), dtype=np.uint8)
        images[1] += 7
        header = np.array([2051, 3, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.array([2049, 3], dtype=">i4").tobytes() + bytes([0, 1, 2])
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    (folder / "places365.zip").touch()
    (folder / "places365" / "bog").mkdir(parents=True)
    noise(20, 20, 0).save(folder / "places365" / "bog" / "a.png")
    return ["digits/test", "photos/test", "mnist/test", "places365", "folder/places365"]


def test_sources_can_be_given_to_a_process_that_was_not_forked(tmp_path):
    for reference in references(tmp_path):
        options = {"data_dir": tmp_path, "preprocessing": Preprocessing(size=28, resize="squash")}
        streamed = load_set(reference, stream=True, ood=True, **options)
        copy = pickle.loads(pickle.dumps(streamed.decoder))
        assert torch.equal(copy.batch([0])[0], streamed.images[:1]), reference


@pytest.mark.slow
def test_processes_may_be_spawned(pictures, monkeypatch):
    monkeypatch.setattr(streaming, "START_METHOD", "spawn")
    kept, streamed = both(pictures)
    monkeypatch.setenv(streaming.WORKERS, "1")
    loaded = whole(Loader(streamed, batch_size=8, shuffle=True))
    assert torch.equal(loaded[0], whole(Loader(kept, batch_size=8, shuffle=True))[0])


def test_a_source_that_cannot_be_given_to_a_process_is_named(plant, monkeypatch):
    pairs = Planted(6)
    del pairs.read
    pairs.transform = lambda image: image
    monkeypatch.setattr(streaming, "START_METHOD", "spawn")
    monkeypatch.setenv(streaming.WORKERS, "1")
    with pytest.raises(PluginError, match=r"planted/set cannot be given to .* UM_BENCH_WORKERS=0"):
        plant(pairs, stream=True)


# --- memory -------------------------------------------------------------------------------------


@forked
def test_only_so_many_images_are_decoded_ahead(plant, workers):
    pairs = Planted(900, labels=[0] * 900)
    streamed = plant(pairs, stream=True)
    pairs.read.value = 0
    batches = iter(Loader(streamed, batch_size=10))
    for done in range(1, 6):
        next(batches)
        time.sleep(0.1)
        # Two chunks of three for each process, beyond the chunk at hand.
        assert 10 * done <= pairs.read.value <= 10 * done + 2 + 2 * 3 * workers
    batches.close()


class Large:
    """3,000 images of 128x128: 141 MiB."""

    def __len__(self):
        return 3000

    def __getitem__(self, index):
        return np.full((128, 128, 3), index % 251, dtype=np.uint8), -1


def peak():
    """The most memory that this process has had so far, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measured():
    """By how many MiB the most memory grows in a pass over a streamed set, and one in memory."""
    registry.load = lambda kind, name: lambda *_: Large()
    options = {"data_dir": Path(), "preprocessing": Preprocessing(size=128), "ood": True}
    peaks = []
    for stream, limit in ((True, 100), (True, 3000), (False, 3000)):
        data = load_set("large", stream=stream, limit=limit, **options)
        assert sum(len(images) for images, _ in Loader(data, batch_size=32)) == limit
        peaks.append(peak())
    return peaks[1] - peaks[0], peaks[2] - peaks[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says")
def test_memory_does_not_grow_with_the_set():
    # A new process: a copy of this one would use memory that earlier tests freed, and not grow.
    code = "import json, test_streaming; print(json.dumps(test_streaming.measured()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    streamed, kept = json.loads(done.stdout)
    # The C library keeps some of what was freed.
    assert streamed < 50
    assert kept > 130


# --- fingerprints that are remembered -----------------------------------------------------------


@pytest.fixture
def remembering(monkeypatch):
    """Remember sets whose files were written just now, as all files of tests are."""
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)


@pytest.fixture
def decoded(monkeypatch, remembering):
    """How many images were decoded in this process, a number for each batch."""
    counts = []
    original = Decoder.batch

    def batch(self, positions):
        counts.append(len(positions))
        return original(self, positions)

    monkeypatch.setattr(Decoder, "batch", batch)
    return counts


def streamed(folder, **options):
    options = {"data_dir": folder, "preprocessing": SIZE, "stream": True, **options}
    return load_set("folder/zoo", **options)


def entries(folder):
    return sorted(folder.rglob("fingerprints/*"))


def test_a_fingerprint_is_remembered(spoiled, decoded):
    first = streamed(spoiled).fingerprint
    assert sum(decoded) == COUNT + fingerprints._SAMPLE
    decoded.clear()
    assert streamed(spoiled).fingerprint == first
    assert decoded == [fingerprints._SAMPLE]
    (entry,) = entries(spoiled)
    assert entry.parent == spoiled / ".um-bench" / "fingerprints"


def test_a_data_folder_that_moved_is_known_again(spoiled, decoded):
    first = streamed(spoiled).fingerprint
    decoded.clear()
    elsewhere = spoiled.parent / f"{spoiled.name}-moved"
    spoiled.rename(elsewhere)
    assert streamed(elsewhere).fingerprint == first
    # The folder has changed, its files have not.
    assert decoded == [fingerprints._SAMPLE]
    elsewhere.rename(spoiled)


def replace_content(path):
    """Another image, of the same size in bytes, with the old time."""
    before = path.stat()
    other = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    content = path.read_bytes()
    for quality in range(95, 20, -1):
        other.save(path, quality=quality)
        if path.stat().st_size <= len(content):
            break
    path.write_bytes(path.read_bytes().ljust(len(content), b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def swap(one, other):
    middle = one.with_name("middle")
    one.rename(middle)
    other.rename(one)
    middle.rename(other)


CHANGES = {
    "content": lambda files: replace_content(files[1]),
    "added": lambda files: noise(20, 20, 99).save(files[0].with_name("99.png")),
    "removed": lambda files: files[1].unlink(),
    "renamed": lambda files: files[1].rename(files[1].with_name("zz.jpg")),
    "swapped": lambda files: swap(files[1], files[2]),
    "another class": lambda files: files[1].rename(files[-1].with_name("00.jpg")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("remembering")
def test_whatever_changes_the_fingerprint_is_noticed(spoiled, change):
    first = streamed(spoiled).fingerprint
    CHANGES[change](sorted((spoiled / "zoo").glob("*/*.jpg")))
    expected = streamed(spoiled, stream=False).fingerprint
    assert streamed(spoiled).fingerprint == expected
    assert expected != first


@pytest.mark.parametrize(
    "options", [{"ood": True}, {"limit": 20}, {"preprocessing": Preprocessing(size=17)}], ids=str
)
@pytest.mark.usefixtures("remembering")
def test_another_use_of_the_files_is_another_set(spoiled, options):
    first = streamed(spoiled).fingerprint
    expected = streamed(spoiled, **{**options, "stream": False}).fingerprint
    assert streamed(spoiled, **options).fingerprint == expected
    assert expected != first
    assert len(entries(spoiled)) == 2


def test_files_that_are_not_taken_may_change(spoiled, decoded):
    first = streamed(spoiled, ood=True, limit=3).fingerprint
    sorted((spoiled / "zoo").glob("*/*"))[3].write_text("no image")
    decoded.clear()
    assert streamed(spoiled, ood=True, limit=3).fingerprint == first
    assert decoded == [3]


def tampered(entry):
    values = json.loads(entry.read_text())
    values[0] = "0" * 64
    return json.dumps(values)


@pytest.mark.parametrize(
    "content",
    [
        lambda entry: "",
        lambda entry: entry.read_text()[:50],
        lambda entry: entry.read_text()[:-1],
        tampered,
        lambda entry: "{}",
        lambda entry: "7",
        lambda entry: '["a"]',
        lambda entry: "\0" * 100,
        lambda entry: json.dumps([["a"], 0, 1, 2, 3]),
    ],
)
def test_a_torn_entry_is_not_believed(spoiled, decoded, content):
    expected = streamed(spoiled).fingerprint
    (entry,) = entries(spoiled)
    good = entry.read_text()
    entry.write_text(content(entry))
    decoded.clear()
    assert streamed(spoiled).fingerprint == expected
    assert sum(decoded) > COUNT
    assert entry.read_text() == good


@pytest.mark.usefixtures("remembering")
def test_an_entry_of_another_set_is_not_believed(spoiled):
    first, other = streamed(spoiled), streamed(spoiled, ood=True)
    one, two = entries(spoiled)
    swap(one, two)
    assert streamed(spoiled).fingerprint == first.fingerprint
    assert streamed(spoiled, ood=True).fingerprint == other.fingerprint


@pytest.mark.usefixtures("remembering")
def test_images_that_are_decoded_in_another_way_are_noticed(spoiled, monkeypatch):
    """A newer version of what decodes, say, that nothing else tells about."""
    first = streamed(spoiled).fingerprint
    original = Decoder._decode

    def decode(self, pair, pixels):
        decoded = original(self, pair, pixels)
        pixels ^= 1
        return decoded

    monkeypatch.setattr(Decoder, "_decode", decode)
    expected = streamed(spoiled, stream=False).fingerprint
    assert streamed(spoiled).fingerprint == expected != first


@pytest.mark.usefixtures("remembering")
def test_files_that_change_during_the_pass_are_not_remembered(spoiled, monkeypatch):
    victim = sorted((spoiled / "zoo").glob("*/*"))[5]
    original = fingerprints.chunks

    def chunks(*args):
        victim.touch()
        return original(*args)

    monkeypatch.setattr(fingerprints, "chunks", chunks)
    streamed(spoiled)
    assert entries(spoiled) == []


def test_files_that_were_just_written_are_not_remembered(spoiled, monkeypatch):
    monkeypatch.undo()
    assert fingerprints.SETTLED == 2.0
    streamed(spoiled)
    assert entries(spoiled) == []


@pytest.mark.parametrize("writable", ["cache", "nothing"])
def test_a_data_folder_that_cannot_be_written_does_no_harm(
    spoiled, tmp_path, monkeypatch, decoded, writable
):
    # Tests may run as root, who may write anywhere: a file is in the way of the folder.
    (spoiled / ".um-bench").touch()
    if writable == "nothing":
        (tmp_path / "cache").touch()
    expected = streamed(spoiled).fingerprint
    decoded.clear()
    assert streamed(spoiled).fingerprint == expected
    assert (decoded == [fingerprints._SAMPLE]) == (writable == "cache")
    assert len(entries(tmp_path / "cache")) == (writable == "cache")


@pytest.mark.usefixtures("remembering")
def test_without_a_home_nothing_is_remembered_elsewhere(spoiled, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", raising(RuntimeError))
    (spoiled / ".um-bench").touch()
    assert streamed(spoiled).fingerprint == streamed(spoiled).fingerprint


@pytest.mark.usefixtures("remembering")
def test_no_data_folder_is_made(pictures, tmp_path):
    nowhere = tmp_path / "nowhere"
    size = {"preprocessing": SIZE, "stream": True}
    load_set(f"folder/{pictures / 'zoo'}", data_dir=nowhere, **size)
    assert not nowhere.exists()
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.usefixtures("remembering")
def test_what_is_remembered_is_no_image(spoiled):
    first = load_set("folder/.", data_dir=spoiled, preprocessing=SIZE, stream=True, ood=True)
    again = load_set("folder/.", data_dir=spoiled, preprocessing=SIZE, stream=True, ood=True)
    assert entries(spoiled)
    assert (len(again), again.fingerprint) == (len(first), first.fingerprint)


@pytest.mark.parametrize("files", [["one archive.zip"], None, [None] * 6])
@pytest.mark.usefixtures("remembering")
def test_a_source_that_does_not_tell_a_file_for_each_image_is_not_remembered(
    plant, tmp_path, files
):
    pairs = Planted(6)
    pairs.files = files
    assert plant(pairs, stream=True).fingerprint == plant(pairs, stream=True).fingerprint
    assert entries(tmp_path) == []


@forked
@pytest.mark.filterwarnings(FORK_WARNS)
@pytest.mark.usefixtures("remembering")
def test_several_processes_may_remember_at_once(spoiled):
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        found = pool.map(_fingerprint, [spoiled] * 12)
        pool.close()
        pool.join()
    assert set(found) == {streamed(spoiled, stream=False).fingerprint}
    assert [path.suffix for path in entries(spoiled)] == [".json"]


def _fingerprint(folder):
    return streamed(folder).fingerprint


# --- real images --------------------------------------------------------------------------------


@pytest.mark.data
def test_kit_images_are_the_same_by_both_ways(kit, monkeypatch, workers):
    monkeypatch.setattr(streaming, "_CHUNK_IMAGES", 64)
    options = {"preprocessing": Preprocessing(size=32), "limit": 2000}
    one, other = both(kit, "openood-cifar10/test", **options)
    assert one.fingerprint == other.fingerprint
    digests = [
        hashlib.sha256(whole(Loader(data, batch_size=512, shuffle=True))[0].numpy()).hexdigest()
        for data in (one, other)
    ]
    assert digests[0] == digests[1]
