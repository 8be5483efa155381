"""Downloads of published checkpoints from a local server that can fail like a remote one."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clip_core.checkpoints import published
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.published import published_checkpoint

MODEL = bytes(range(256)) * 40
HALF = len(MODEL) // 2


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        server.may_answer.wait()
        if server.together:
            server.together.wait(20)
        first = int(asked[len("bytes=") : -1]) if asked and server.knows_ranges else 0
        body = server.body[first:]
        self.send_response_only(416 if not body else 206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        while server.drips and not server.stopped.wait(0.01):
            self.wfile.write(b"x")
        self.wfile.write(body[: server.closes_after])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.body, server.closes_after = [], MODEL, None
    server.knows_ranges, server.may_answer = True, threading.Event()
    server.together, server.drips, server.stopped = None, False, threading.Event()
    server.may_answer.set()
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/{{sha256}}/{{file}}"
    monkeypatch.setattr(published, "_ADDRESS", address)
    monkeypatch.setitem(published.SHA256, "RN50", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setenv("no_proxy", "*")
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "RN50.part"


def load(tmp_path):
    return published_checkpoint("RN50", str(tmp_path)).read_bytes()


def test_file_is_downloaded_once(server, tmp_path):
    assert load(tmp_path) == load(tmp_path) == MODEL
    assert server.asked == [None]
    assert [file.name for file in tmp_path.iterdir()] == ["RN50.pt"]


def test_interrupted_download_is_resumed(server, tmp_path, partial):
    partial.write_bytes(MODEL[:HALF])
    assert load(tmp_path) == MODEL
    assert server.asked == [f"bytes={HALF}-"]


def test_download_has_an_end_and_goes_on_next_time(server, tmp_path, partial, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(published, "_TOTAL_S", -1.0)
        with pytest.raises(CheckpointError, match="within .* min.*; run again to resume"):
            load(tmp_path)
    assert partial.read_bytes() == MODEL[: partial.stat().st_size] != b""
    assert load(tmp_path) == MODEL


def test_drip_does_not_hide_the_end(server, tmp_path, monkeypatch):
    """The server would go on for as long as anybody reads."""
    monkeypatch.setattr(published, "_TOTAL_S", -1.0)
    server.drips = True
    with pytest.raises(CheckpointError, match="^could not download RN50 .[0-9]{1,4} of"):
        load(tmp_path)


def test_models_are_downloaded_side_by_side(server, tmp_path, monkeypatch):
    """Neither is answered before both are asked for."""
    monkeypatch.setitem(published.SHA256, "RN101", published.SHA256["RN50"])
    server.together = threading.Barrier(2)
    published.download(["RN50", "RN101"], tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["RN101.pt", "RN50.pt"]


def test_server_without_ranges_sends_it_anew(server, tmp_path, partial):
    server.knows_ranges = False
    partial.write_bytes(b"?" * HALF)
    assert load(tmp_path) == MODEL


def test_whole_partial_file_of_a_killed_process_is_taken(server, tmp_path, partial):
    """The server has nothing behind its end, and says so with an error."""
    partial.write_bytes(MODEL)
    assert load(tmp_path) == MODEL
    assert server.asked == [f"bytes={len(MODEL)}-"]
    assert not partial.exists()


@pytest.mark.parametrize("size", [HALF, len(MODEL), len(MODEL) + 1])
def test_partial_file_of_something_else_is_replaced(server, tmp_path, partial, size):
    partial.write_bytes(b"?" * size)
    assert load(tmp_path) == MODEL
    assert server.asked == [f"bytes={size}-", None]


def test_connection_that_closes_early_leaves_a_file_to_resume(server, tmp_path, partial):
    server.closes_after = 1000
    for arrived in (1000, 2000):
        with pytest.raises(
            CheckpointError, match=f"after {arrived} of {len(MODEL)} bytes"
        ) as error:
            load(tmp_path)
        assert "\n" not in str(error.value) and "resume" in str(error.value)
        assert partial.read_bytes() == MODEL[:arrived]
    server.closes_after = None
    assert load(tmp_path) == MODEL
    assert server.asked == [None, "bytes=1000-", "bytes=2000-"]


def test_whole_file_with_other_bytes_is_thrown_away(server, tmp_path, partial):
    server.body = MODEL[::-1]
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        load(tmp_path)
    server.body = MODEL
    assert load(tmp_path) == MODEL
    assert server.asked == [None, None]


def all_at_once(server, tmp_path, monkeypatch, count=4):
    """Loads with several threads, and returns what each found or how it failed.

    The server answers once all have seen that the file is not there.
    """
    found, fetch, come = [], published._fetch, []
    server.may_answer.clear()

    def counted(*arguments):
        come.append(1)
        if len(come) == count:
            server.may_answer.set()
        return fetch(*arguments)

    monkeypatch.setattr(published, "_fetch", counted)

    def run():
        try:
            found.append(load(tmp_path))
        except CheckpointError as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_those_who_come_at_once_share_one_download(server, tmp_path, monkeypatch):
    assert all_at_once(server, tmp_path, monkeypatch) == [MODEL] * 4
    assert server.asked == [None]
    assert [file.name for file in tmp_path.iterdir()] == ["RN50.pt"]


def test_each_of_those_who_wait_for_wrong_bytes_says_so(server, tmp_path, monkeypatch):
    server.body = MODEL[::-1]
    found = all_at_once(server, tmp_path, monkeypatch, 2)
    assert ["expected SHA-256" in str(error) for error in found] == [True, True]


def test_cache_is_in_the_home_directory_or_where_the_variable_says(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv(published.CACHE_VARIABLE, raising=False)
    assert str(published.cache_directory()) == "/home/me/.cache/clip-beam"
    monkeypatch.setenv(published.CACHE_VARIABLE, "~/models")
    assert str(published.cache_directory()) == "/home/me/models"


def test_account_without_home_is_told_to_name_a_place(monkeypatch):
    monkeypatch.setenv(published.CACHE_VARIABLE, "~no-such-user/models")
    with pytest.raises(CheckpointError, match="`cache_dir` or \\$CLIP_BEAM_CACHE"):
        published.cache_directory()
