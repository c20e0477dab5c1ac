import hashlib
import http.server
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torchvision.datasets import CIFAR10

from helpers import data
from helpers.data import load_data
from helpers.download import DataError, fetch


class Server(http.server.ThreadingHTTPServer):
    """Serves one file as `behave` says, and remembers what was asked."""

    def __init__(self, content: bytes, behave):
        self.content, self.behave, self.asked = content, behave, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{data.ARCHIVE}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        self.server.behave(self, wanted)

    def log_message(self, *_):
        pass

    def answer(self, content: bytes, start: int = 0, partial: bool = False, length: int | None = None):
        if partial and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(length or len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])


def first_byte(wanted: str | None) -> int:
    return int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0


def whole(handler, wanted):
    handler.answer(handler.server.content, first_byte(wanted), bool(wanted))


def breaks_off(handler, wanted):
    """Half of what is left, each time."""
    start, content = first_byte(wanted), handler.server.content
    enough = start + (len(content) - start + 1) // 2 if len(handler.server.asked) < 3 else len(content)
    handler.answer(content[:enough], start, bool(wanted), length=len(content) - start)


def without_ranges(handler, wanted):
    handler.answer(handler.server.content)


def wrong_bytes(handler, wanted):
    handler.answer(b"not it" * 100)


def slow(handler, wanted):
    threading.Event().wait(60)
    whole(handler, wanted)


def missing(handler, wanted):
    handler.send_error(404)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def begin(content: bytes, behave) -> Server:
        servers.append(Server(content, behave))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


CONTENT = bytes(range(256)) * 1000
CONTENT_MD5 = hashlib.md5(CONTENT).hexdigest()


def test_a_download_that_breaks_off_goes_on_where_it_stopped(serve, tmp_path):
    server = serve(CONTENT, breaks_off)
    assert fetch((server.url,), tmp_path / "a", CONTENT_MD5).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=128000-", "bytes=192000-"]


def test_a_part_left_by_an_earlier_process_is_used(serve, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    server = serve(CONTENT, whole)
    assert fetch((server.url,), tmp_path / "a", CONTENT_MD5).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]
    assert not (tmp_path / "a.part").exists()


def test_a_server_without_ranges_is_read_from_the_start(serve, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    assert fetch((serve(CONTENT, without_ranges).url,), tmp_path / "a", CONTENT_MD5).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_whole_or_overlong_part_is_judged_by_its_sum(serve, tmp_path, length):
    (tmp_path / "a.part").write_bytes((CONTENT + b"extra")[:length])
    urls = serve(CONTENT, whole).url, serve(CONTENT, whole).url
    assert fetch(urls, tmp_path / "a", CONTENT_MD5).read_bytes() == CONTENT


@pytest.mark.parametrize(("behave", "timeout"), [(wrong_bytes, 30), (slow, 4), (missing, 30)])
def test_the_next_mirror_is_tried(serve, tmp_path, behave, timeout):
    urls = serve(CONTENT, behave).url, serve(CONTENT, whole).url
    assert fetch(urls, tmp_path / "a", CONTENT_MD5, tries=1, timeout=timeout).read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_not_blamed_on_the_network(serve, tmp_path):
    (tmp_path / "a.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetch((serve(CONTENT, whole).url,), tmp_path / "a", CONTENT_MD5)


def test_wrong_bytes_everywhere_leave_nothing_behind(serve, tmp_path):
    with pytest.raises(DataError, match="wrong content"):
        fetch((serve(CONTENT, wrong_bytes).url,), tmp_path / "a", CONTENT_MD5)
    assert not list(tmp_path.iterdir())


def test_cifar10_is_downloaded_once_checked_and_read(serve, small_cifar, tmp_path, monkeypatch):
    server = serve(small_cifar.read_bytes(), whole)
    monkeypatch.setattr(data, "MIRRORS", (server.url,))
    for _ in range(2):
        loaded = load_data("cifar10", tmp_path / "data")
    assert len(server.asked) == 1
    assert loaded.train.images.shape == (50, 3, 32, 32) and loaded.test.labels.tolist() == list(range(10))
    stored = CIFAR10(tmp_path / "data").data[7]
    assert torch.equal(loaded.train.images[7], torch.from_numpy(stored).permute(2, 0, 1))
    assert len(loaded.md5) == 6


def test_whoever_waits_for_a_download_takes_what_it_brought(small_cifar, monkeypatch, tmp_path):
    root, fetched = tmp_path / "data", []
    root.mkdir()
    monkeypatch.setattr(data, "fetch", lambda *asked: fetched.append(asked) or small_cifar)
    with FileLock(root / f"{data.ARCHIVE}.lock"):
        waiting = threading.Thread(target=load_data, args=("cifar10", root))
        waiting.start()
        waiting.join(0.5)  # while the lock is held it cannot end
        data.unpack(small_cifar, root)
    waiting.join()
    assert not fetched
