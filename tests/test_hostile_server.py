"""Tests of the tests' own server, and of it as a script."""
import subprocess
import sys

import pytest

from tests.asking import say, text_of
from tests.hostile_server import WAYS, HostileServer, answerer, chosen, echo


def test_it_is_seeded():
    one = HostileServer(echo, failure_rate=0.3, seed=5)
    two = HostileServer(echo, failure_rate=0.3, seed=5)
    fates = [one.fate(n) for n in range(2000)]
    assert fates == [two.fate(n) for n in range(2000)]
    failed = sum(fate is not None for fate in fates)
    assert 0.26 < failed / 2000 < 0.34
    assert set(fates) == {*WAYS, None}
    one.close()
    two.close()


def test_its_answers_depend_on_the_request():
    judge = chosen({"marks": [1, 2, 3, 4, 5], "why": "simulated"}, {"other": [0]})
    marks = {judge({"messages": say(f"marks and why {i}")})["marks"] for i in range(100)}
    assert marks == {1, 2, 3, 4, 5}
    assert judge({"messages": say("other")}) == {"other": 0}


def test_answers_by_name(tmp_path):
    form = tmp_path / "form.json"
    form.write_text('{"marks": [3]}')
    assert answerer(str(form))({"messages": say("a")}) == {"marks": 3}
    assert answerer("fixed:hi")({}) == "hi"
    with pytest.raises(SystemExit, match="--answer"):
        answerer("judge")


def test_it_runs_as_a_script(make_client):
    command = [sys.executable, "-m", "tests.hostile_server", "--failure_rate", "0.3",
               "--answer", "echo", "--ways", "429", "half"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        client = make_client(process.stdout.readline().strip())
        words = [str(i) for i in range(20)]
        assert client.ask([say(w) for w in words], text_of) == words
    finally:
        process.kill()
        process.communicate()
