"""Tests of what ends a run of infra/client.py early: the budget, a final error, Ctrl-C.

What was paid for is kept in each case."""
import signal
import threading
import time

import pytest

from infra.client import ApiError, BudgetSpent, Client
from tests.asking import HERE, said, say, start, stored, text_of
from tests.hostile_server import HostileServer, echo

pytestmark = pytest.mark.usefixtures("quick")


def test_budget(make_client):
    words = [str(i) for i in range(8)]
    prompts = [say(w) for w in words]
    with HostileServer(echo, script=["500", None, "garbage"]) as server:
        client = make_client(server, max_requests=5, api_concurrency=2)
        why = r"--max_requests 5 reached.*cache\.sqlite and is not sent again"
        with pytest.raises(BudgetSpent, match=why):
            client.ask(prompts, text_of)
        # failures count; what came is kept
        assert client.stats["sent"] == len(server.log) == 5
        assert len(stored(client.cfg.api_cache)) == 3
        second = make_client(server, max_requests=5)
        assert second.ask(prompts, text_of) == words
        assert second.stats["sent"] == 5
        assert second.stats["cached"] == 3


def test_one_budget_for_all_clients_of_a_config(make_client):
    with HostileServer(echo) as server:
        judge = make_client(server, max_requests=3)
        agent = Client("another-model", judge.cfg)
        assert judge.ask([say("a"), say("b")], text_of) == ["a", "b"]
        assert agent.ask([say("c")], text_of) == ["c"]
        with pytest.raises(BudgetSpent):
            agent.ask([say("d")], text_of)
        assert len(server.log) == 3
        # the cache costs nothing
        assert agent.ask([say("c")], text_of) == ["c"]
        agent.close()


def test_budget_waits_for_what_is_under_way(make_client):
    gate = threading.Event()

    def answer(request):
        if said(request) == "slow":
            assert gate.wait(20)
        return "ok"

    with HostileServer(answer) as server:
        client = make_client(server, max_requests=2, api_concurrency=2, api_timeout=30.0)
        # long after "c" found the budget spent
        threading.Timer(0.3, gate.set).start()
        with pytest.raises(BudgetSpent):
            client.ask([say(word) for word in ("slow", "b", "c", "d")], text_of)
        kept = [said(request) for request, _ in stored(client.cfg.api_cache)]
        assert sorted(kept) == ["b", "slow"]


def test_a_final_error_keeps_the_answer_under_way_and_sends_no_more(make_client):
    def answer(request):
        # the second request is the one that is refused, ...
        while len(server.log) < 2:
            time.sleep(0.01)
        # ... and this answer comes after that refusal
        time.sleep(0.3)
        return "ok"

    with HostileServer(answer, script=[None, (401, {}, b"no")]) as server:
        client = make_client(server, api_concurrency=2)
        with pytest.raises(ApiError, match="401"):
            client.ask([say(str(i)) for i in range(50)], text_of)
        assert len(server.log) == 2
        assert len(stored(client.cfg.api_cache)) == 1


INTERRUPTED = """
import signal, sys
# a shell that starts tests in the background lets its children ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {here!r})
from infra import client as module
from tests.asking import say, text_of
module.GRACE = {grace}
cfg = module.ApiConfig({url!r}, api_cache={cache!r}, api_concurrency=2, api_timeout=600)
client = module.Client("m", cfg)
client.ask([say(str(i)) for i in range(10)], text_of)
"""


@pytest.mark.parametrize("answered", [True, False])
def test_ctrl_c(answered, tmp_path):
    """Two of ten prompts are under way, and the other eight are never sent.

    If the answers to the two come, they are kept; if not, the process ends all the same.
    """
    gate = threading.Event()
    cache = str(tmp_path / "cache.sqlite")
    grace = 30 if answered else 0.2
    with HostileServer(lambda body: gate.wait(30) and "ok") as server:
        script = INTERRUPTED.format(here=str(HERE), url=server.url, cache=cache, grace=grace)
        process = start(script)
        while len(server.log) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        wait_for(process, "answers under way")
        if answered:
            gate.set()
        errors = process.communicate(timeout=20)[1]
        gate.set()
        assert "KeyboardInterrupt" in errors
        assert process.returncode != 0
        assert len(server.log) == 2
        kept = 2 if answered else 0
        assert len(stored(cache)) == kept


def wait_for(process, words: str) -> None:
    """Reads what the process says on stderr until these words come."""
    seen = ""
    while words not in seen:
        seen += process.stderr.readline()
        assert words in seen or process.poll() is None, seen
