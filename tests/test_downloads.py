"""Downloads against a server on this machine: mirrors that are dead, that lie, and that break off; and the cache."""

import gzip
import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fbp.data import Dataset, downloads, load, write_idx
from fbp.errors import FbpError

pytest.importorskip("pooch", reason="pooch of the extra 'data' is not installed")


class Server(http.server.ThreadingHTTPServer):
    """A mirror at /NAME/ serves the files of `content`, as `behaviour[NAME]` says."""

    content: dict[str, bytes]
    behaviour: dict[str, str]
    requests: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        _, mirror, file = self.path.split("/")
        body = self.server.content[file]
        behaviour = self.server.behaviour[mirror]
        if behaviour == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour == "breaks off":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif behaviour == "alters":
            self.wfile.write(body[:-1] + bytes([body[-1] ^ 1]))
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A small data set behind mirrors a, b and c; FBP_CACHE is empty."""
    (tmp_path / "made").mkdir()
    content = {}
    for name, m in (("train", 12), ("t10k", 6)):
        write_idx(tmp_path / "made" / f"{name}-images-idx3-ubyte.gz", np.full((m, 2, 2), 9, np.uint8))
        write_idx(tmp_path / "made" / f"{name}-labels-idx1-ubyte.gz", np.arange(m, dtype=np.uint8) % 3)
    content = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    with Server(("127.0.0.1", 0), Handler) as server:
        server.content, server.requests = content, []
        server.behaviour = dict.fromkeys("abc", "serves")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        mirrors = tuple(f"http://127.0.0.1:{server.server_port}/{mirror}/" for mirror in "abc")
        md5 = tuple(hashlib.md5(content[file]).hexdigest() for file in downloads.FILES)
        monkeypatch.setitem(downloads.REMOTES, "mnist", downloads.Remote(mirrors, md5, ("x", "y", "z")))
        monkeypatch.setenv("FBP_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()
        thread.join()


def check(data: Dataset) -> None:
    assert (data.name, data.source, data.train_X.shape, data.test_X.shape) == ("mnist", "mnist", (12, 4), (6, 4))
    assert (data.classes, data.class_names, data.shape) == (3, ("x", "y", "z"), (2, 2))


def test_the_first_mirror_is_asked_once_for_each_file(server: Server, tmp_path: Path) -> None:
    check(load("mnist"))
    assert server.requests == [f"/a/{file}" for file in downloads.FILES]
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == sorted(downloads.FILES)


@pytest.mark.parametrize("behaviour", ["missing", "breaks off", "alters"])
def test_the_next_mirror_helps(server: Server, behaviour: str) -> None:
    server.behaviour["a"] = behaviour
    check(load("mnist"))
    assert {path[:3] for path in server.requests} == {"/a/", "/b/"}


def test_a_dead_server_is_passed_by(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = downloads.REMOTES["mnist"]
    # Nothing listens at port 1.
    dead = remote._replace(mirrors=("http://127.0.0.1:1/a/", remote.mirrors[1]))
    monkeypatch.setitem(downloads.REMOTES, "mnist", dead)
    check(load("mnist"))


def test_the_second_call_needs_no_network(server: Server) -> None:
    first = load("mnist")
    server.behaviour.update(dict.fromkeys("abc", "missing"))
    server.requests.clear()
    check(load("mnist"))
    assert load("mnist").sha256 == first.sha256
    assert not server.requests


def test_a_damaged_file_of_the_cache_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    load("mnist")
    server.requests.clear()
    path = tmp_path / "cache" / "mnist" / downloads.FILES[1]
    path.write_bytes(gzip.compress(b"another"))
    check(load("mnist"))
    assert server.requests == [f"/a/{downloads.FILES[1]}"]


def test_a_failure_lists_what_was_tried_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.behaviour.update(a="missing", b="breaks off", c="alters")
    with pytest.raises(FbpError) as error:
        load("mnist")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"the download of mnist must give {downloads.FILES[0]} with the MD5 ")
    for mirror, reason in (("a", "404"), ("b", "IncompleteRead"), ("c", "its content is another")):
        assert any(f"/{mirror}/ (" in part and reason in part for part in message.split("; ")), message
    assert message.endswith("check the connection, or give a folder of its four IDX files")
    assert not list((tmp_path / "cache").rglob("*ubyte*"))
    server.behaviour.update(dict.fromkeys("abc", "serves"))
    check(load("mnist"))


def test_without_pooch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FbpError, match=r"must have pooch, got none; pip install 'fbp\[data\]', or give a folder"):
        load("kmnist")


@pytest.mark.parametrize("name", downloads.REMOTES)
def test_every_data_set_has_mirrors_and_hashes(name: str) -> None:
    remote = downloads.REMOTES[name]
    assert len(remote.mirrors) >= 2
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in remote.mirrors)
    assert len({*remote.md5}) == 4
    assert all(len(md5) == 32 and int(md5, 16) for md5 in remote.md5)
