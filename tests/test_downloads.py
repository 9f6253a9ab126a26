"""Getting image sets over HTTP, from a server of the test's own, with all that goes wrong."""

import errno
import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pytorch_ood.dataset.img import LSUNCrop
from torchvision.datasets import CIFAR10, MNIST, SVHN

from um_bench import cli
from um_bench.downloads import (
    Archive,
    archives_of,
    checked,
    get,
    in_suites,
    known,
    state_of,
    transfer,
)
from um_bench.downloads.transfer import PART, download
from um_bench.errors import (
    BusyError,
    DamagedError,
    MissingDataError,
    StorageError,
    UsageError,
)

CONTENT = np.random.default_rng(0).integers(0, 256, 3 << 20, dtype=np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()
QUICK = {"pause": 0.0}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        asked = self.headers.get("Range")
        site.asked.append(asked)
        if site.answers:
            code = site.answers.pop(0)
            if code:
                return self.send_error(code)
        content = site.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(asked[6:-1]) if asked and site.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            told = f"bytes {start + site.shift}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", told)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if site.cuts:
            body = body[: site.cuts.pop(0)]
        for at in range(0, len(body), site.chunk):
            self.wfile.write(body[at : at + site.chunk])
            self.wfile.flush()
            time.sleep(site.wait)
        site.sent.append(len(body))
        return self.close_connection

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    """A server of files, and what it is to do wrong."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.handle_error = lambda *_: None  # of clients that go away
    server.site = SimpleNamespace(
        **{"files": {"/file": CONTENT}, "asked": [], "sent": [], "answers": [], "cuts": []},
        **{"ranges": True, "shift": 0, "chunk": 1 << 20, "wait": 0.0},
        url=f"http://127.0.0.1:{server.server_port}",
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.site
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(site, folder: Path, **options) -> Path:
    addresses = options.pop("addresses", (f"{site.url}/file",))
    return download(addresses, folder / "file", options.pop("md5", MD5), **QUICK, **options)


# --- one file


def test_a_file_arrives_whole_and_is_not_yet_named_so(site, tmp_path):
    told = []
    part = fetch(site, tmp_path / "new", on_bytes=lambda *seen: told.append(seen))
    assert part.read_bytes() == CONTENT
    assert [path.name for path in part.parent.iterdir()] == [f"file{PART}"]
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_a_connection_that_ends_is_taken_up_where_it_ended(site, tmp_path):
    site.cuts = [1_000_000, 500_000]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert sum(site.sent) == len(CONTENT)


def test_what_was_interrupted_goes_on_with_the_next_call(site, tmp_path):
    def interrupted(here, size):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(site, tmp_path, on_bytes=interrupted)
    begun = (tmp_path / f"file{PART}").stat().st_size
    assert 0 < begun < len(CONTENT)
    assert not (tmp_path / "file").exists()
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == [None, f"bytes={begun}-"]


def test_a_server_without_ranges_sends_all_of_it_again(site, tmp_path):
    site.ranges, site.cuts = False, [1_000_000]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.sent == [1_000_000, len(CONTENT)]


def test_another_part_than_was_asked_for_is_not_taken(site, tmp_path):
    (tmp_path / f"file{PART}").write_bytes(CONTENT[:1000])
    site.shift = 5
    with pytest.raises(MissingDataError, match="another part"):
        fetch(site, tmp_path, tries=2)
    assert (tmp_path / f"file{PART}").read_bytes() == CONTENT[:1000]


def test_a_wrong_beginning_is_thrown_away_and_all_of_it_got_once_more(site, tmp_path):
    (tmp_path / f"file{PART}").write_bytes(b"x" * 1000)
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("more", [0, 7])
def test_a_beginning_that_is_all_of_it_or_more(site, tmp_path, more):
    (tmp_path / f"file{PART}").write_bytes(CONTENT + b"x" * more)
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_nothing_is_kept(site, tmp_path):
    site.files["/file"] = CONTENT[:-1] + b"?"
    with pytest.raises(DamagedError, match="another checksum"):
        fetch(site, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again_and_a_missing_file_elsewhere(site, tmp_path):
    site.answers = [503, 429]
    nowhere = f"{site.url}/nowhere"
    part = fetch(site, tmp_path, addresses=(f"{site.url}/file",))
    assert part.read_bytes() == CONTENT
    part.unlink()
    assert fetch(site, tmp_path, addresses=(nowhere, f"{site.url}/file")).exists()


def test_what_cannot_be_had_says_where_it_was_looked_for_and_what_is_kept(site, tmp_path):
    site.cuts = [1000, *[0] * 9]
    with pytest.raises(MissingDataError) as error:
        fetch(site, tmp_path, addresses=(f"{site.url}/file", f"{site.url}/nowhere"), tries=3)
    assert re.search(
        r"/file: the connection ended after 1,000 of .*/nowhere: 404", str(error.value)
    )
    assert "1,000 bytes of it are here" in str(error.value)
    assert len(site.asked) == 5


def test_without_a_server_it_says_so(site, tmp_path):
    with pytest.raises(MissingDataError, match="refused"):
        fetch(site, tmp_path, addresses=("http://127.0.0.1:1/file",), tries=1)


def test_a_disk_that_fills_up_keeps_what_has_come(site, tmp_path):
    def full(here, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"disk is full\. What has come is kept"):
        fetch(site, tmp_path, on_bytes=full)
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked[-1].startswith("bytes=")


def test_a_disk_without_room_is_told_before(site, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"3,145,728 bytes are to come, .* room for 1,000"):
        fetch(site, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(site, tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "a"))):
        fetch(site, tmp_path / "a" / "b")


# --- a set


def tarred(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def archive_of(site, name: str, content: bytes) -> Archive:
    site.files[f"/{name}"] = content
    md5 = hashlib.md5(content).hexdigest()
    return Archive((f"{site.url}/{name}",), PurePosixPath("sub", name), md5)


@pytest.mark.parametrize("pack", [("a.tar.gz", tarred), ("a.zip", zipped)], ids=["tar", "zip"])
def test_an_archive_is_unpacked_beside_itself(site, tmp_path, pack):
    name, packed = pack
    kept = tmp_path / "sub" / "images" / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    (kept.parent / "1.txt").write_text("old")
    files = {"images/1.txt": b"one", "images/deep/2.txt": b"two"}
    get([archive_of(site, name, packed(files))], tmp_path, **QUICK)
    found = {str(p.relative_to(tmp_path / "sub")) for p in (tmp_path / "sub").rglob("*.*")}
    assert {n for n in found if not n.startswith(".locks")} == {*files, "images/mine.txt", name}
    assert (kept.parent / "1.txt").read_text() == "one"


def test_a_packed_file_is_unpacked_under_its_name(site, tmp_path):
    get([archive_of(site, "labels.gz", gzip.compress(b"labels"))], tmp_path, **QUICK)
    assert (tmp_path / "sub" / "labels").read_bytes() == b"labels"


def test_an_unpacking_that_ends_half_way_does_not_count(site, tmp_path, monkeypatch):
    archive = archive_of(site, "a.tar.gz", tarred({"images/1.txt": b"one"}))
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(tarfile.TarFile, "extractall", lambda *_, **__: (_ for _ in ()).throw(full))
        with pytest.raises(StorageError, match="The download is kept"):
            get([archive], tmp_path, **QUICK)
    assert not (tmp_path / archive.path).exists()
    get([archive], tmp_path, **QUICK)
    assert (tmp_path / archive.path).exists()
    assert sum(site.sent) == len(site.files["/a.tar.gz"])  # not downloaded again


def test_an_archive_that_leaves_its_folder_is_refused(site, tmp_path):
    archive = archive_of(site, "a.tar.gz", tarred({"../../out.txt": b"out"}))
    with pytest.raises(DamagedError, match="cannot be unpacked"):
        get([archive], tmp_path / "data", **QUICK)
    assert not (tmp_path / "out.txt").exists()


def test_one_process_downloads_a_file_at_a_time(site, tmp_path):
    archive = archive_of(site, "a.zip", zipped({"1.txt": b"one"}))
    code = (
        "import sys; from pathlib import Path; from um_bench.locks import held\n"
        f"with held(Path({json.dumps(str(tmp_path / archive.path))}), wait=True):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(BusyError):
            get([archive], tmp_path, **QUICK)
        other.stdin.close()
    get([archive], tmp_path, **QUICK)


# --- what is known


def test_addresses_and_checksums_are_those_of_the_libraries():
    (cifar,) = archives_of("cifar10/test")
    assert (cifar.addresses, cifar.md5) == ((CIFAR10.url,), CIFAR10.tgz_md5)
    assert (str(cifar.path), cifar.packing) == (CIFAR10.filename, "tar")
    mnist = archives_of("mnist")
    assert [a.md5 for a in mnist] == [md5 for _, md5 in MNIST.resources]
    assert mnist[0].path.parts[:2] == ("MNIST", "raw")
    assert len(mnist[0].addresses) == len(MNIST.mirrors)
    (svhn,) = archives_of("svhn/test")
    assert (svhn.addresses[0], str(svhn.path), svhn.md5) == tuple(SVHN.split_list["test"])
    assert len(archives_of("svhn")) == 3


FETCHABLE = (
    *("cifar10", "cifar100", "mnist", "fashionmnist", "svhn", "textures", "lsun-crop"),
    *("lsun-resize", "tinyimagenet", "tinyimagenet-crop", "tinyimagenet-resize"),
    *("cifar10-c", "cifar100-c", "ninco", "imagenet-r", "tinyimages300k"),
)


@pytest.mark.parametrize("name", FETCHABLE)
def test_what_has_a_checksum_can_be_had(name):
    for archive in archives_of(name):
        assert re.fullmatch("[0-9a-f]{32}", archive.md5)
        assert all(address.startswith("http") for address in archive.addresses)
        assert not archive.path.is_absolute()
    assert archives_of(name)


@pytest.mark.parametrize("name", ["openood-cifar10/test", "mos/sun", "places365", "digits/test"])
def test_what_has_none_cannot(name):
    assert archives_of(name) == ()


def test_unknown_names_are_errors(tmp_path):
    for call in (archives_of, lambda name: state_of(name, tmp_path)):
        with pytest.raises(UsageError, match="Did you mean cifar10"):
            call("cifar11")
        with pytest.raises(UsageError, match=r"part of cifar10 .*test, train"):
            call("cifar10/tests")


def test_every_set_of_the_shipped_suites_is_told(tmp_path):
    users = in_suites()
    assert users["cifar10/train"] == ("cifar10-um",)
    assert set(known.COUNTS) - users.keys() <= {
        *("cifar10/test", "mnist/train", "tinyimages300k", "imagenet64/val"),
    }


# --- what is here


def lsun(site, monkeypatch, count: int = 3) -> Archive:
    """Let the set lsun-crop be some images on the test's server."""
    files = {}
    for index in range(count):
        out = io.BytesIO()
        Image.new("RGB", (36, 36), (index, 0, 0)).save(out, "PNG")
        files[f"{LSUNCrop.base_folder}/{index}.png".replace("//", "/")] = out.getvalue()
    content = tarred(files)
    site.files["/lsun.tar.gz"] = content
    monkeypatch.setattr(LSUNCrop, "url", f"{site.url}/lsun.tar.gz")
    monkeypatch.setattr(LSUNCrop, "tgz_md5", hashlib.md5(content).hexdigest())
    monkeypatch.setitem(known.COUNTS, "lsun-crop", 3)
    (archive,) = archives_of("lsun-crop")
    return archive


def test_a_set_is_missing_then_incomplete_then_here(site, tmp_path, monkeypatch):
    archive = lsun(site, monkeypatch)
    assert state_of("lsun-crop", tmp_path)[1:4] == ("missing", None, 3)
    (tmp_path / f"{archive.path}{PART}").write_bytes(b"begun")
    state = state_of("lsun-crop", tmp_path)
    assert (state.word, state.found) == ("incomplete", 0)
    assert state.reasons[0].startswith("5 bytes of LSUN.tar.gz are here")
    get([archive], tmp_path, **QUICK)
    assert state_of("lsun-crop", tmp_path)[1:] == ("here", 3, 3, ())
    assert checked("lsun-crop", tmp_path).word == "here"


def test_a_set_with_too_few_images_is_incomplete(site, tmp_path, monkeypatch):
    get([lsun(site, monkeypatch, count=2)], tmp_path, **QUICK)
    state = state_of("lsun-crop", tmp_path)
    assert (state.word, state.reasons) == ("incomplete", ("2 images are here, and it has 3",))


def test_an_image_that_is_cut_off_is_found(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for index in range(6):
        Image.fromarray(np.full((32, 32, 3), 40 * index, np.uint8)).save(folder / f"{index}.png")
    assert checked("folder/mine", tmp_path)[1:] == ("here", 6, None, ())
    for path in sorted(folder.iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:60])
    state = checked("folder/mine", tmp_path)
    assert state.word == "damaged"
    assert "0.png cannot be decoded" in state.reasons[0]
    assert state.reasons[3] == "and 2 more"


def test_an_archive_and_a_member_with_another_checksum_are_found(tmp_path):
    (tmp_path / CIFAR10.filename).write_bytes(b"not it")
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    (folder / "test_batch").write_bytes(b"nor this")
    state = checked("cifar10/test", tmp_path)
    assert state.word == "damaged"
    text = "\n".join(state.reasons)
    assert f"{CIFAR10.filename} has another checksum" in text
    assert "test_batch has another checksum" in text
    assert "data_batch_1 is not there" in text


# --- the command


def um_bench(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_get_downloads_and_says_when_it_is_there(site, tmp_path, monkeypatch):
    lsun(site, monkeypatch)
    result = um_bench("data", "get", "lsun-crop", "--data-dir", tmp_path)
    assert (result.exit_code, result.output.strip()) == (cli.OK, "lsun-crop: 3 images")
    again = um_bench("data", "get", "lsun-crop", "--data-dir", tmp_path)
    assert again.output.strip() == f"lsun-crop: is in {tmp_path}"
    assert len(site.sent) == 1
    assert um_bench("data", "verify", "lsun-crop", "--data-dir", tmp_path).exit_code == cli.OK


def test_get_says_how_to_get_what_it_cannot(tmp_path):
    result = um_bench("data", "get", "mos/sun", "--data-dir", tmp_path)
    assert result.exit_code == cli.FAILED_CELLS
    assert re.search(r"mos/sun: no address with a checksum is known. .*curl -L", result.output)


def test_get_refuses_a_typo_before_it_downloads(site, tmp_path, monkeypatch):
    lsun(site, monkeypatch)
    result = um_bench("data", "get", "lsun-crop", "cifar11", "--data-dir", tmp_path)
    assert result.exit_code == cli.BAD_INPUT
    assert site.asked == []


def test_a_damaged_download_is_one_line_and_exit_code_1(site, tmp_path, monkeypatch):
    lsun(site, monkeypatch)
    site.files["/lsun.tar.gz"] += b"more"
    result = um_bench("data", "get", "lsun-crop", "--data-dir", tmp_path)
    assert result.exit_code == cli.FAILED_CELLS
    assert "lsun-crop: LSUN.tar.gz: what http://127.0.0.1" in result.output


def test_verify_without_names_looks_at_what_is_here(site, tmp_path, monkeypatch):
    archive = lsun(site, monkeypatch)
    get([archive], tmp_path, **QUICK)
    image = next(tmp_path.rglob("*.png"))
    good = um_bench("data", "verify", "--data-dir", tmp_path)
    assert (good.exit_code, "lsun-crop: here 3" in good.output) == (cli.OK, True)
    assert "cifar10/test" not in good.output
    image.unlink()
    bad = um_bench("data", "verify", "--data-dir", tmp_path)
    assert (bad.exit_code, "lsun-crop: incomplete 2 of 3" in bad.output) == (cli.FAILED_CELLS, True)


def test_verify_of_a_set_that_is_missing_is_no_success(tmp_path):
    result = um_bench("data", "verify", "cifar10/test", "--data-dir", tmp_path)
    assert result.exit_code == cli.FAILED_CELLS
    assert "cifar10/test: missing ? of 10,000" in result.output


def test_list_tells_sets_that_are_here_and_that_are_not(tmp_path):
    result = um_bench("data", "list", "--data-dir", tmp_path)
    assert result.exit_code == cli.OK
    rows = {line.split()[0]: line for line in result.output.splitlines() if line}
    assert re.search(r"missing +\? of 10,000 +data get, www.cs.toronto.edu", rows["cifar10/test"])
    assert re.search(r"missing +by hand +cifar10-far-ood", rows["openood-cifar10/auxiliary"])
    assert re.search(r"here +725 +digits-far-ood", rows["digits/train"])


@pytest.mark.slow
def test_control_c_in_a_real_process_keeps_what_has_come(site, tmp_path):
    site.files["/file"], site.chunk, site.wait = CONTENT, 1 << 16, 0.02
    code = (
        "from pytorch_ood.dataset.img import TinyImages300k as Set\n"
        "from um_bench.cli import main\n"
        f"Set.url, Set.md5 = {site.url + '/file'!r}, {MD5!r}\n"
        f"main(['data', 'get', 'tinyimages300k', '--data-dir', {str(tmp_path)!r}])\n"
    )
    part = tmp_path / f"300K_random_images.npy{PART}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(6000):
        if part.exists() and part.stat().st_size > 100_000:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED, said
    assert "Traceback" not in said
    assert "what is finished is kept" in said
    begun = part.stat().st_size
    assert 100_000 < begun < len(CONTENT)
    site.wait = 0.0
    assert download((f"{site.url}/file",), part.with_suffix(""), MD5).read_bytes() == CONTENT
    assert site.asked[-1] == f"bytes={begun}-"
