"""A run directory (infra/runs.py): nothing half written, nothing silently lost."""
import copy
import itertools
import os

import pytest
import torch

import eval as evaluation
import train
from infra.files import write_atomic
from infra.runs import (
    Alarms,
    Log,
    adam_state,
    load_adam_state,
    load_checkpoint,
    read_rows,
    save_checkpoint,
)


def killed(*_):
    raise KeyboardInterrupt


# --- files and logs -----------------------------------------------------------------------------

def test_write_atomic_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "replace", killed)   # before the rename
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"


def test_log_is_cut_back_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(path)
    for step in (1, 2, 3):
        log.write({"step": step, "reward": 0.1 * step})
    with open(path, "a") as file:
        file.write('{"step": 4, "rew')           # kill -9 in the middle of a line
    assert [r["step"] for r in read_rows(path)] == [1, 2, 3]
    resumed = Log(path, keep_until=2)
    resumed.write({"step": 3, "reward": 9.0})
    rows = [(r["step"], r["reward"]) for r in read_rows(path)]
    assert rows == [(1, 0.1), (2, 0.2), (3, 9.0)]
    with pytest.raises(ValueError, match="columns changed"):
        resumed.write({"step": 4, "loss": 1.0})
    assert read_rows(tmp_path / "none.jsonl") == []


def test_a_row_holds_any_character_and_may_be_cut_in_one(tmp_path):
    path = tmp_path / "dialogues.jsonl"
    Log(path).write({"step": 1, "user": "a\u2028b \x85 \u00fc"})
    whole = path.read_bytes()
    path.write_bytes(whole + '{"step": 2, "user": "ü'.encode()[:-1])
    assert read_rows(path) == [{"step": 1, "user": "a\u2028b \x85 \u00fc"}]


# --- checkpoints --------------------------------------------------------------------------------

def checkpoint_of(x: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "expert": {"w": torch.full((3,), float(x))},
        "expert_adam": {"0.step": torch.tensor(float(x))},
    }


def test_checkpoint_round_trip_keeps_two(tmp_path):
    assert load_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, checkpoint_of(step))
    step, parts = load_checkpoint(tmp_path)
    assert step == 3
    assert parts["expert"]["w"].tolist() == [3.0] * 3
    assert parts["expert_adam"]["0.step"].item() == 3
    kept = sorted(p.name for p in (tmp_path / "checkpoint").iterdir())
    assert kept == ["step-000002", "step-000003"]


def write_junk(folder):
    (folder / "expert.safetensors").write_bytes(b"junk")


def lose_tensors(folder):
    (folder / "expert.safetensors").unlink()


def cut_state(folder):
    (folder / "state.json").write_text('{"step": 2')


def lose_state(folder):
    (folder / "state.json").unlink()


def change_a_number(folder):
    path = folder / "expert.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")


@pytest.mark.parametrize("harm", [
    write_junk, lose_tensors, cut_state, lose_state, change_a_number])
def test_a_damaged_checkpoint_falls_back(tmp_path, capsys, harm):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, checkpoint_of(step))
    harm(tmp_path / "checkpoint" / "step-000002")
    assert load_checkpoint(tmp_path)[0] == 1
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch, moment):
    # two tensors files, state.json, the folder: four renames
    save_checkpoint(tmp_path, 1, checkpoint_of(1))
    real = os.replace
    count = itertools.count()

    def replace(*names):
        if next(count) == moment:
            raise KeyboardInterrupt
        real(*names)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, checkpoint_of(2))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)[0] == 1
    # and the next attempt is not in the way of its own remains
    save_checkpoint(tmp_path, 2, checkpoint_of(2))
    assert load_checkpoint(tmp_path)[0] == 2


def descend(module, optimiser, n):
    for _ in range(n):
        optimiser.zero_grad()
        (module.weight.pow(2).sum() + module.bias.sum()).backward()
        optimiser.step()


def test_adam_goes_on_where_it_stopped():
    torch.manual_seed(0)
    straight = torch.nn.Linear(3, 2)
    broken = copy.deepcopy(straight)
    descend(straight, torch.optim.Adam(straight.parameters(), 0.1), 4)
    first = torch.optim.Adam(broken.parameters(), 0.1)
    descend(broken, first, 2)
    second = torch.optim.Adam(broken.parameters(), 0.1)
    load_adam_state(second, adam_state(first))
    descend(broken, second, 2)
    assert torch.equal(straight.weight, broken.weight)
    assert torch.equal(straight.bias, broken.bias)


# --- alarms ------------------------------------------------------------------------------------

def test_alarms_after_patience():
    alarms = Alarms(patience=3)
    rows = [{"std_quality": 0.0, "std_fitness": 0.2, "entropy_expert": 1.0}] * 4
    # once, not every step
    assert [len(alarms(r)) for r in rows] == [0, 0, 1, 0]


def test_alarms_at_a_policy_without_entropy():
    found = []
    for entropy in (0.01, 1.0, None):
        found.append(len(Alarms(1)({"std_quality": None, "entropy_expert": entropy})))
    assert found == [1, 0, 0]
    # in a row, not in total
    broken = Alarms(patience=2)
    assert [len(broken({"entropy_expert": e})) for e in (0.01, 1.0, 0.01)] == [0, 0, 0]


@pytest.mark.parametrize(("command", "flag"), [
    (train, "--resume"), (train, "--base"), (evaluation, "--run")])
def test_a_folder_that_is_no_run_is_refused_by_its_flag(command, flag, tmp_path, capsys):
    assert command.main([flag, str(tmp_path)]) == 2
    assert f": {flag} {tmp_path}" in capsys.readouterr().err
