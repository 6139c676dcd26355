"""Tests of infra/cache.py through the client: what makes a key, kill -9, foreign files."""
import base64
import re
import signal
import sqlite3

import pytest

from data import DataError
from infra.client import ApiConfig, Client
from tests.asking import HERE, KEY, said, say, start, stored, text_of
from tests.hostile_server import HostileServer, echo

pytestmark = pytest.mark.usefixtures("quick")


def test_every_part_of_a_request_makes_its_key(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with HostileServer(echo) as server:
        def ask(text="a", model="test-model", base="/v1", **how):
            address = server.url.removesuffix("/v1") + base
            client = Client(model, ApiConfig(address, api_cache=str(cache)))
            client.ask([say(text)], text_of, **how)
            client.close()

        variants = [
            {},
            {"text": "b"},
            {"model": "other"},
            {"base": "/v2"},
            {"max_tokens": 5},
            {"temperature": 1.0},
            {"seed": 0},
            {"seed": 1},
            {"logprobs": True},
        ]
        for how in [*variants, *variants]:
            ask(**how)
        assert len(server.log) == len(variants) == len(stored(cache))


def test_the_key_is_nowhere_on_disk(make_client, tmp_path):
    with HostileServer(echo) as server:
        make_client(server).ask([say("words of a customer")], text_of)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"words of a customer" in kept
    assert KEY.encode() not in kept
    assert base64.b64encode(KEY.encode()) not in kept


WRITER = """
import sys
sys.path.insert(0, {here!r})
from infra.client import ApiConfig, Client
from tests.asking import say, text_of
client = Client("m", ApiConfig({url!r}, api_cache={cache!r}, api_concurrency=2))
first, last, step = int(sys.argv[1]), int(sys.argv[2]), 10
for i in range(first, last, step):
    words = [f"prompt {{j}}" for j in range(i, i + step)]
    got = client.ask([say(w) for w in words], text_of)
    assert got == words, got
    print(i + step, flush=True)
client.close()
"""


def assert_ends_well(process):
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


def test_several_processes_and_kill_9(tmp_path):
    """Three processes write to one new file at once, and one of them is killed on the way.

    It is started again.  No answer that was reported is lost, and nothing is sent twice.
    """
    cache = str(tmp_path / "cache.sqlite")
    with HostileServer(echo) as server:
        script = WRITER.format(here=str(HERE), url=server.url, cache=cache)
        # these two share 50..99
        whole = [start(script, 0, 100), start(script, 50, 150)]
        killed = start(script, 200, 100000)
        for _ in range(5):
            done = int(killed.stdout.readline())
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        for process in whole:
            assert_ends_well(process)
        with sqlite3.connect(cache) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = {said(request): answer["text"] for request, answer in stored(cache)}
        assert all(prompt == text for prompt, text in kept.items())
        assert {f"prompt {i}" for i in [*range(150), *range(200, done)]} <= set(kept)
        before = len(server.log)
        assert_ends_well(start(script, 200, done))
        assert len(server.log) == before


def assert_named(make_client, path):
    """The client refuses the file, says which, and leaves it as it was."""
    before = path.read_bytes() if path.is_file() else None
    name = re.escape(str(path))
    with pytest.raises(DataError, match=rf"--api_cache {name}: .*(delete it|name another file)"):
        make_client("http://127.0.0.1:1/v1", api_cache=str(path))
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("content", [
    b"my shopping list, which is longer than a header of sqlite: " * 40,
    b"SQLite format 3\0" + b"\xff" * 5000,
])
def test_a_damaged_cache_is_named(content, make_client, tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(content)
    assert_named(make_client, path)


def test_a_database_of_another_program_is_named(make_client, tmp_path):
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (id INTEGER)")
    assert_named(make_client, path)


def test_a_folder_and_a_file_in_no_folder_are_named(make_client, tmp_path):
    (tmp_path / "cache.sqlite").mkdir()
    assert_named(make_client, tmp_path / "cache.sqlite")
    assert_named(make_client, tmp_path / "nowhere" / "cache.sqlite")


def test_a_cache_damaged_on_the_way_is_named(make_client, tmp_path):
    with HostileServer(echo) as server:
        client = make_client(server)
        client.ask([say("a")], text_of)
        with sqlite3.connect(tmp_path / "cache.sqlite") as db:
            db.execute("UPDATE answers SET answer = '{\"text\": '")
        with pytest.raises(DataError, match="damaged.*delete it"):
            client.ask([say("a")], text_of)
