"""Tests of corpora/download.py against a web server on 127.0.0.1; nothing leaves the machine."""
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from corpora.download import fetch
from data import DataError

BODY = b"forty-two bytes of a file that is public.\n"
SHA = hashlib.sha256(BODY).hexdigest()
# what the server sends; its headers always promise all of BODY
SENT = {"ok": BODY, "wrong": BODY.upper(), "short": BODY[:9], "gone": BODY}


@pytest.fixture
def server(monkeypatch):
    """A web server whose `.answers` are sent one after the other.

    "ok", "wrong" bytes, "short" (breaks off) or "gone" (404)
    """
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            kind = web.answers.pop(0)
            status = 404 if kind == "gone" else 200
            self.send_response(status)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(SENT[kind])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    web = HTTPServer(("127.0.0.1", 0), Handler)
    web.answers = []
    web.url = f"http://127.0.0.1:{web.server_port}/file"
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


def test_fetch_once(server, tmp_path):
    server.answers = ["ok"]
    path = tmp_path / "new" / "file"
    assert fetch(server.url, SHA, path, "a file").read_bytes() == BODY
    # the server has no second answer
    fetch(server.url, SHA, path, "a file")
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_fetch_replaces_a_broken_download(server, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BODY[:5])
    server.answers = ["ok"]
    assert fetch(server.url, SHA, path, "a file").read_bytes() == BODY


@pytest.mark.parametrize(("answer", "sha256"), [
    ("wrong", SHA), ("short", SHA), ("short", None), ("gone", SHA), ("gone", None),
])
def test_fetch_refuses_and_leaves_nothing(server, tmp_path, answer, sha256):
    server.answers = [answer]
    path = tmp_path / "file"
    with pytest.raises(DataError) as error:
        fetch(server.url, sha256, path, "a file")
    said = str(error.value)
    for part in (server.url, str(path), "GOPO_DATA"):
        assert part in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fetch_keeps_the_old_file(server, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    server.answers = ["wrong"]
    with pytest.raises(DataError, match="sha256"):
        fetch(server.url, SHA, path, "a file")
    assert path.read_bytes() == b"old"


def test_fetch_without_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match="get it by hand"):
        fetch("http://127.0.0.1:9/file", SHA, tmp_path / "file", "a file")
