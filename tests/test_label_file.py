"""Tests of what a labelling leaves when it is stopped, and how the same command goes on."""
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from hosted.label import main
from hosted.label_file import BATCH
from hosted.labellers import RuleLabeller
from tests.label_logs import PRICE, SORRY, desk, dialogue, logs, rows_of


@pytest.fixture
def server(tmp_path):
    with desk(tmp_path) as served:
        yield served


def ids_of(path):
    return [row["id"] for row in rows_of(path)]


def numbers(n):
    return [str(i) for i in range(n)]


def priced(n):
    """Dialogues of one turn, which the server labels with the price skill."""
    return [dialogue(str(i), {"reply": PRICE}) for i in range(n)]


def all_priced(path):
    return all(row["turns"][0]["skills"] == ["price"] for row in rows_of(path))


# ---------------------------------------------------------------- stopped

def test_the_budget_ends_it_and_the_same_command_goes_on(tmp_path, server, capsys):
    total = BATCH + 3
    path = logs(tmp_path, priced(total))
    out = tmp_path / "logs.labelled.jsonl"
    command = [str(path), *server.flags, "--max_requests", str(BATCH + 1)]
    assert main(command) == 3
    assert "--max_requests" in capsys.readouterr().err
    assert len(rows_of(out)) == BATCH
    assert main(command) == 0
    assert ids_of(out) == numbers(total)
    assert all_priced(out)
    # nothing was paid for twice
    times = Counter(prompt[1]["content"] for prompt in server.asked)
    assert len(times) == total
    assert set(times.values()) == {1}


def test_ctrl_c_keeps_what_is_whole(tmp_path, capsys, monkeypatch):
    path = logs(tmp_path, [dialogue(str(i), {"reply": SORRY}) for i in range(2 * BATCH)])
    calls = []
    labelled = RuleLabeller.label

    def interrupted(self, windows):
        calls.append(len(windows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return labelled(self, windows)

    monkeypatch.setattr(RuleLabeller, "label", interrupted)
    assert main([str(path)]) == 130
    assert "goes on from there" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "logs.labelled.jsonl")) == BATCH
    assert main([str(path)]) == 0
    assert calls[:3] == [BATCH] * 3
    assert not any(calls[3:])


def wait_for_a_batch(out, process):
    for _ in range(6000):
        written = out.exists() and out.stat().st_size
        if written or process.poll() is not None:
            return
        time.sleep(.01)


def test_kill_9_and_again(tmp_path, server):
    total = 3 * BATCH
    path = logs(tmp_path, priced(total))
    out = tmp_path / "logs.labelled.jsonl"
    server.delay = .02
    process = subprocess.Popen(
        [sys.executable, "-m", "hosted.label", str(path), *server.flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    wait_for_a_batch(out, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(rows_of(out)) < total
    server.delay = 0
    assert main([str(path), *server.flags]) == 0
    assert ids_of(out) == numbers(total)
    assert all_priced(out)


# ---------------------------------------------------------------- cut anywhere

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with logs of more than one batch, labelled without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    rows = []
    for i in range(BATCH + 5):
        reply = SORRY if i % 2 else PRICE
        rows.append(dialogue(f"ä{i}", {"reply": reply, "context": {"price": "30 euros"}}))
    assert main([str(logs(folder, rows))]) == 0
    return folder


# bytes, or a share of the file
@pytest.mark.parametrize("cut", [0, 1, 40, .2, .5, .77, -2, -1, 1.0])
def test_wherever_the_file_was_cut_the_end_is_the_same(cut, finished, tmp_path):
    for file in finished.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    out = tmp_path / "logs.labelled.jsonl"
    whole = out.read_bytes()
    end = int(cut * len(whole)) if isinstance(cut, float) else cut
    out.write_bytes(whole[:end])
    assert main([str(tmp_path / "logs.jsonl")]) == 0
    assert out.read_bytes() == whole


def test_a_larger_limit_goes_on(tmp_path):
    path = logs(tmp_path, [dialogue(str(i), {"reply": SORRY}) for i in range(6)])
    out = tmp_path / "logs.labelled.jsonl"
    for limit, rows in ((2, 2), (5, 5), (3, 5), (99, 6)):
        assert main([str(path), "--limit", str(limit)]) == 0
        assert ids_of(out) == numbers(rows)


# ---------------------------------------------------------------- nothing changes on the way

def test_numbers_keep_their_spelling_and_no_id_is_made_up(tmp_path):
    path = logs(tmp_path, [])
    turn = '{"user": "a", "context": {"price": 12.50}, "reply": "I am sorry."}'
    row = f'{{"turns": [{turn}], "x": 1e3}}'
    # twice: copies without ids
    path.write_text(f"{row}\n\n{row}\n", encoding="utf-8")
    assert main([str(path)]) == 0
    out = tmp_path / "logs.labelled.jsonl"
    for line in out.read_text(encoding="utf-8").splitlines():
        assert '"context": {"price": 12.50}' in line
        assert '"x": 1e3' in line
        assert '"id"' not in line
        assert '"skills": ["sorry"]' in line
    # the same command goes on, and finds nothing to do
    before = out.read_bytes()
    assert main([str(path)]) == 0
    assert out.read_bytes() == before


def test_half_of_a_character_is_refused_before_anything_is_written(tmp_path, capsys):
    path = logs(tmp_path, priced(2))
    text = path.read_text(encoding="utf-8")
    path.write_text(text + '{"channel": "\\ud83d", "turns": [{"user": "a"}]}\n', encoding="utf-8")
    assert main([str(path)]) == 2
    assert "line 3, field channel: holds half of a character" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["logs.jsonl", "logs.skills.json"]
