"""train.py from its flags to its files, with the phrase book: what a run leaves, resumes, refuses.

With a language model: test_train_lm.py."""
import json
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

import eval as evaluation
import train
from expert import ExpertConfig
from gopo import Gopo
from infra.runs import load_checkpoint, read_rows, save_checkpoint, save_tensors
from tests.training import SHORT, refused, rows_of

pytestmark = pytest.mark.usefixtures("small_shop")


def short(run, base, steps: int, *more: str) -> list[str]:
    """Flags of a run without a table that starts from the untrained Expert of `base`."""
    return [
        *SHORT, "--eval_episodes", "0", "--base", str(base), "--steps", str(steps),
        "--output_dir", str(run), *more]


# --- what a run leaves --------------------------------------------------------------------------

def test_a_training_run_leaves_its_files(strategy_run):
    names = {p.name for p in strategy_run.iterdir()}
    assert names >= {
        "config.json", "dataset.json", "metrics.jsonl", "evals.jsonl", "timing.jsonl", "curves.png",
        "dialogues.jsonl", "expert.safetensors", "untrained.safetensors", "warm_expert.safetensors",
        "results.json", "checkpoint"}
    assert not any(name.endswith(".part") for name in names)
    assert (strategy_run / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_config_says_what_was_used(strategy_run):
    config = json.loads((strategy_run / "config.json").read_text())
    assert config["run"]["steps"] == 2
    assert config["gopo"]["dialogues"] == 4
    assert config["expert"]["expert_lr"] == ExpertConfig().settled().expert_lr
    assert {"torch", "transformers", "peft", "commit"} <= set(config["versions"])


def test_sample_dialogues_show_each_turn(strategy_run):
    lines = (strategy_run / "dialogues.jsonl").read_text().splitlines()
    turn = json.loads(lines[0])["turns"][0]
    assert {"user", "skills", "teacher", "reply", "R_E", "S", "R_A", "R_t"} <= set(turn)


def test_metrics_are_finite_and_complete(strategy_run):
    rows = read_rows(strategy_run / "metrics.jsonl")
    assert [r["step"] for r in rows] == [1, 2]
    assert list(rows[0]) == list(rows[1])
    assert not any("time" in key or "second" in key for key in rows[0])
    assert set(rows[0]) >= {
        "tse", "success", "reward", "r_expert", "r_cs", "esndcg", "f1", "exact", "length",
        "loss_expert", "entropy_expert", "S_fitness"}
    for row in rows:
        assert all(v is None or math.isfinite(v) for v in row.values())
        assert 0 <= row["tse"] <= 1
        assert 0 <= row["esndcg"] <= 1
        assert row["entropy_expert"] > 0
        parts = (row["r_expert"], row["r_cs"])
        assert min(parts) - 0.1 <= row["reward"] <= max(parts) + 0.1
    assert len(read_rows(strategy_run / "timing.jsonl")) == 2


def test_weights_moved_and_perception_did_not(strategy_run):
    before = load_file(strategy_run / "untrained.safetensors")
    after = load_file(strategy_run / "expert.safetensors")
    assert set(before) == set(after)
    assert all(torch.isfinite(v).all() for v in after.values())
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert {"actor.weight", "critic.out.weight", "picked.weight", "rollouts"} <= moved
    assert not any(k.startswith("perception.") for k in moved)


def test_results_have_every_row(strategy_run):
    results = json.loads((strategy_run / "results.json").read_text())
    assert set(results) == {"untrained", "gopo", "true_perception", "teacher", "random"}
    assert results["teacher"]["tse"]["mean"] > results["random"]["tse"]["mean"]
    assert results["teacher"]["exact"]["mean"] == 1.0
    assert set(results["gopo"]) >= {
        "tse", "I_1", "N_3", "turns", "gre", "bleu", "esndcg", "f1", "exact", "length",
        "violations", "tse_2nd_ear"}


# --- stopping and going on ----------------------------------------------------------------------

def test_resume_equals_a_run_in_one_go(strategy_run, tmp_path):
    # bit for bit on CPU
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main(short(whole, strategy_run, 4)) == 0
    assert train.main(short(halves, strategy_run, 2)) == 0
    with open(halves / "metrics.jsonl", "a") as file:
        # rows after the checkpoint, the last cut short
        file.write('{"step": 3, "tse": 0.123}\n{"step"')
    assert train.main(["--resume", str(halves), "--steps", "4"]) == 0
    assert rows_of(whole) == rows_of(halves)
    assert len(rows_of(whole).splitlines()) == 4
    a, b = (load_file(run / "expert.safetensors") for run in (whole, halves))
    assert all(torch.equal(a[k], b[k]) for k in a)
    # and steps do not know how many are to come
    assert rows_of(whole).startswith(rows_of(strategy_run))
    # a finished run stays as it is
    assert train.main(["--resume", str(halves)]) == 0
    assert rows_of(whole) == rows_of(halves)


def test_a_checkpoint_of_other_code_is_refused_by_name(strategy_run, tmp_path, capsys):
    # whole, but a layer has another name
    run = tmp_path / "run"
    assert train.main(short(run, strategy_run, 1)) == 0
    step, parts = load_checkpoint(run)
    lost = next(iter(parts["expert"]))

    def renamed(tensors):
        return {f"renamed.{k}" if k == lost else k: v for k, v in tensors.items()}

    save_checkpoint(run, step, parts | {"expert": renamed(parts["expert"])})
    said = refused(["--resume", str(run), "--steps", "2"], capsys)
    assert "the checkpoint's Expert: does not fit this code's Expert" in said
    assert lost in said
    assert "config.json names" in said
    assert len(rows_of(run).splitlines()) == 1   # nothing is lost
    path = run / "expert.safetensors"
    save_tensors(renamed(load_file(path)), path)
    assert evaluation.main(["--run", str(run), "--episodes", "2"]) == 2
    assert f"{run}/expert.safetensors: does not fit" in capsys.readouterr().err


def test_sigterm_saves_and_resumes(strategy_run, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    step = Gopo.step

    def interrupted(self, number, seed, stage=0):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, seed, stage)

    monkeypatch.setattr(Gopo, "step", interrupted)
    assert train.main(short(run, strategy_run, 2)) == 0
    assert len(rows_of(run).splitlines()) == 1
    assert (run / "checkpoint" / "step-000001").exists()
    assert f"--resume {run}" in capsys.readouterr().out
    monkeypatch.undo()
    assert train.main(["--resume", str(run)]) == 0
    assert rows_of(run) == rows_of(strategy_run)


def test_a_value_that_is_no_number_ends_training(strategy_run, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    rewards = Gopo.rewards

    def broken(self, episode):
        earned = rewards(self, episode)
        if (run / "checkpoint").exists():
            return [math.nan + r for r in earned]
        return earned

    monkeypatch.setattr(Gopo, "rewards", broken)
    assert train.main(short(run, strategy_run, 3, "--save_every", "1")) == 3
    assert "Eq. 7" in capsys.readouterr().err
    step, parts = load_checkpoint(run)
    assert step == 1
    assert len(rows_of(run).splitlines()) == 1
    assert all(torch.isfinite(v).all() for v in parts["expert"].values())
    monkeypatch.undo()
    assert train.main(["--resume", str(run), "--steps", "2"]) == 0
    assert rows_of(run) == rows_of(strategy_run)


# --- refusals -----------------------------------------------------------------------------------

@pytest.mark.parametrize("typo", [
    ["--stepz", "3"], ["--step", "3"], ["--gamma", "2"], ["--replies", "morse"], ["--steps", "-1"],
    ["--alpha", "-1"], ["--reward", "x"]])
def test_typos_are_refused(typo, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main(typo)
    assert stop.value.code == 2
    assert typo[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_train_refuses(strategy_run, tmp_path, capsys):
    unknown = ["--dataset", "nosuch", "--output_dir", str(tmp_path / "a")]
    assert "nosuch" in refused(unknown, capsys)
    taken = [*SHORT, "--output_dir", str(strategy_run)]
    assert "--overwrite" in refused(taken, capsys)
    assert (strategy_run / "expert.safetensors").exists()
    assert "config.json" in refused(["--resume", str(tmp_path / "nothing")], capsys)
    nobody = [*SHORT, "--no_expert", "true", "--output_dir", str(tmp_path / "new")]
    assert "nothing is left to train" in refused(nobody, capsys)
    other_seed = short(tmp_path / "b", strategy_run, 2, "--seed", "5")
    assert "--seed" in refused(other_seed, capsys)
