"""The published datasets, from a server on this machine that speaks as the Hub does."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from data import hub
from logger import read_metrics
from tests.data.samples import episodes, write_tar
from tools import UserError

ROOT = Path(hub.__file__).parents[1]
COMMIT = "a" * 40
PLACE = f"/datasets/{hub.REPOSITORY}/resolve/main/"


class Hub(ThreadingHTTPServer):
    """Files as the Hub serves them.

    `breaks` bodies end in the middle of what was promised; while it `spoils`, a byte is another.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.breaks, self.requests = files, 0, []
        self.holds, self.held, self.spoils = False, threading.Event(), False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self):
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        given = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, given))
        content = self.server.files.get(self.path.removeprefix(PLACE))
        if content is None:
            self.head(404, {"X-Error-Code": "EntryNotFound", "Content-Length": 0})
            return
        start, whole = int(re.fullmatch(r"bytes=(\d+)-", given)[1]) if given else 0, len(content)
        fields = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        fields |= {"Content-Length": whole - start}
        fields |= {"Content-Range": f"bytes {start}-{whole - 1}/{whole}"} if given else {}
        self.head(206 if given else 200, fields)
        if self.command == "GET":
            self.body(content, start)

    def head(self, code, fields):
        self.send_response(code)
        for name, value in ({"X-Repo-Commit": COMMIT} | fields).items():
            self.send_header(name, str(value))
        self.end_headers()

    def body(self, content, start):
        if self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(content[start : (start + len(content)) // 2])
            self.wfile.flush()
            if self.server.holds:
                self.server.held.wait(60)
            self.close_connection = True
            return
        if self.server.spoils:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.wfile.write(content[start:])

    def log_message(self, *args):
        """Says nothing: what was asked is in `requests`."""


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """The bytes of a .tar.xz of episodes in the published format."""
    path = tmp_path_factory.mktemp("hub") / "cheetah_run.tar.xz"
    return write_tar(path, episodes("cheetah_run", number=4, rows=12)).read_bytes()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """Whatever proxy the machine goes by, and whether it may go to the Hub."""
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server(archive):
    running = Hub({"cheetah_run.tar.xz": archive})
    yield running
    running.stop()


def downloads(server):
    return [given for method, _, given in server.requests if method == "GET"]


def test_a_download_of_another_content_is_refused_and_made_again(tmp_path, server, archive):
    server.spoils = True
    refused(server, tmp_path, "cheetah_run", "does not have the Hub's checksum")
    server.spoils = False
    assert hub.download("cheetah_run", tmp_path, server.address).read_bytes() == archive
    assert len(downloads(server)) == 2


def test_downloads_once_and_then_reads_the_cache_without_the_server(tmp_path, server, archive):
    path = hub.download("cheetah_run", tmp_path, server.address)
    assert path.read_bytes() == archive
    assert tmp_path in path.parents
    assert path.resolve().name == hashlib.sha256(archive).hexdigest()
    assert downloads(server) == [None]
    asked = len(server.requests)
    assert hub.download("cheetah_run", tmp_path, server.address) == path
    assert len(server.requests) == asked
    server.stop()
    assert hub.download("cheetah_run", tmp_path, server.address) == path


def test_goes_on_where_the_connection_broke(tmp_path, server):
    """The Hub's client keeps what came in whole pieces of 10 MiB."""
    content = os.urandom(24 << 20)
    server.files["cheetah_run.tar.xz"] = content
    server.breaks = 1
    path = hub.download("cheetah_run", tmp_path, server.address)
    assert path.read_bytes() == content
    assert downloads(server) == [None, f"bytes={10 << 20}-"]


DOWNLOAD = """
import sys
from pathlib import Path
from data import hub
hub.download("cheetah_run", Path(sys.argv[1]), sys.argv[2])
"""


def test_goes_on_where_a_killed_process_stopped(tmp_path, server):
    content = os.urandom(24 << 20)
    server.files["cheetah_run.tar.xz"] = content
    server.breaks, server.holds = 1, True
    command = [sys.executable, "-c", DOWNLOAD, str(tmp_path), server.address]
    with subprocess.Popen(command, cwd=ROOT) as process:
        deadline = time.monotonic() + 300
        while not any(p.stat().st_size >= 10 << 20 for p in tmp_path.rglob("*.incomplete")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    server.held.set()
    path = hub.download("cheetah_run", tmp_path, server.address)
    assert path.read_bytes() == content
    assert downloads(server) == [None, f"bytes={10 << 20}-"]


def refused(server, folder, name, *words):
    with pytest.raises(UserError) as refusal:
        hub.download(name, folder, server.address)
    for text in (*words, f"{server.address}{PLACE}{name}.tar.xz", "by hand", "give the path"):
        assert text in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_gives_up_in_the_end(tmp_path, server, monkeypatch):
    server.breaks = 99
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    refused(server, tmp_path, "cheetah_run", "goes on where it stopped")
    assert len(downloads(server)) == hub.ATTEMPTS


def test_file_that_the_hub_does_not_have(tmp_path, server):
    refused(server, tmp_path, "walker_walk", "hf:walker_walk: the Hub has no such file")


def test_no_network_and_nothing_in_the_cache(tmp_path, server):
    server.stop()
    refused(server, tmp_path, "cheetah_run", "not in the cache and the Hub cannot")


def test_cache_that_cannot_be_made_is_not_taken_for_the_network(tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        hub.download("cheetah_run", tmp_path / "file" / "hub", server.address)


def test_unknown_names_are_refused_with_the_nearest():
    assert hub.check_name("hf:finger_spin") == "finger_spin"
    with pytest.raises(UserError, match=r"hf:walker_wlak.*did you mean 'hf:walker_walk'"):
        hub.check_name("hf:walker_wlak")
    with pytest.raises(UserError, match="hf:cheetah_run, hf:finger_spin"):
        hub.check_name("hf:")


def start(argv, **environment):
    """The real command, in a process that reads the Hub's environment itself."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    command = [sys.executable, str(ROOT / "dreamer.py"), *argv]
    environment = kept | {"HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_command_downloads_unpacks_and_pretrains(tmp_path, tiny, server):
    """In the Hub's own cache, as no --cache_dir is given."""
    homes = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    argv = tiny.pretrain(tmp_path / "one", "hf:cheetah_run", pretrain_steps=100)
    done = start(argv, HF_ENDPOINT=server.address, **homes)
    assert done.returncode == 0, done.stderr
    rows = read_metrics(tiny.folder(argv) / "metrics.jsonl")
    [found] = [row for row in rows if row.get("event") == "dataset"]
    assert (found["episodes"], found["frames"], found["skipped"]) == (4, 48, 0)
    assert found["source"] == "hf:cheetah_run"
    folder = Path(found["folder"])
    assert folder.parent == tmp_path / "cache" / "diswm" / "datasets"
    assert sorted(p.name for p in folder.glob("*.npz")) == [f"{n}.npz" for n in range(4)]
    assert (tmp_path / "hf" / "hub").is_dir()


def test_command_without_network(tmp_path, tiny, monkeypatch, server):
    """Refused in one line, until the archive is in the cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "cache"
    argv = tiny.pretrain(tmp_path / "runs", "hf:cheetah_run", cache_dir=cache, pretrain_steps=50)
    result = tiny.run(argv)
    assert result.code == 2
    [line] = result.err.splitlines()
    assert line.startswith("dreamer.py: --pretrain_datasets_path hf:cheetah_run: HF_HUB_OFFLINE")
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.download("cheetah_run", cache / "hub", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tiny.finish(argv)
