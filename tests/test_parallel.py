"""Several processes: the same update as one with the whole batch.  The workers are started by accelerate, as a user would."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import data
from csagent import CustomerServiceAgent
from expert import Expert, ExpertConfig, Perception
from gopo import Gopo, GopoConfig, by_policy, judge_for, keyed, rollout
from infra import processes
from infra.runs import load_tensors, read_rows, save_tensors
from lm.config import AgentConfig, LMConfig, WarmConfig
from lm.models import build_tiny
from start.pairs import slot_names, vocabulary_texts, warm_pairs
from start.supervised import supervised

HERE = Path(__file__).parent.parent
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no", "--main_process_port", "0"]


def launch(*arguments: str, processes: int = 2) -> str:
    """Output of a script of this folder under so many processes."""
    start = LAUNCH if processes > 1 else [sys.executable]
    done = subprocess.run([*start, *arguments], cwd=HERE, env=os.environ | {"PYTHONPATH": str(HERE)}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def both_agents() -> Gopo:
    shop = data.load("mgshop")
    torch.manual_seed(0)
    expert = Expert(list(shop.skills), Perception(shop.intents, shop.emotions), ExpertConfig(width=32))
    model, tokenizer = build_tiny(vocabulary_texts(shop)[:2000], slot_names(shop), 0, width=64, layers=2)
    agent = CustomerServiceAgent(model, tokenizer, shop.skills, shop.must_not_say, AgentConfig(group=2), LMConfig(max_new_tokens=12))
    agent.freeze_embedding([reply for _, reply in warm_pairs(shop.train)[:200]])
    return Gopo(shop, expert, agent, judge_for(shop), GopoConfig(dialogues=5))


def one_update(path: str) -> None:
    """Plays the same five dialogues everywhere, learns from this process's share, and writes the gradients that all agreed on."""
    processes.join("cpu")
    torch.set_num_threads(1)
    gopo = both_agents()
    played = rollout(gopo.episodes("train", range(5), 0), by_policy(gopo.expert, keyed(1)), gopo.speaker, gopo.judge, gopo.expert.perception,
                     gopo.dataset.skills, 2, None, keyed(2))
    played[0].steps[0].scores[0] = None                                  # unscored: it leaves 9b in the one process that has it
    row = gopo.summary(processes.shard(played)) | gopo.learn(processes.shard(played))
    pairs = warm_pairs(gopo.dataset.train)[:7]
    gradients = {f"expert.{i}": p.grad for i, p in enumerate(gopo.learner.parameters)} | {f"agent.{i}": p.grad for i, p in enumerate(gopo.agent.params)}
    weights = {f"weight.{n}": p.detach().clone() for n, p in gopo.agent.model.named_parameters()}
    loss = supervised(gopo.agent, pairs, 1, WarmConfig(sft_batch=7))["loss"]
    gradients |= {f"supervised.{i}": p.grad for i, p in enumerate(gopo.agent.params)}
    if processes.is_main():
        save_tensors(gradients | weights, Path(path) / "all.safetensors")
        (Path(path) / "row.json").write_text(json.dumps(row | {"supervised": loss}))
    processes.leave()


def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path):
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        launch("tests/test_parallel.py", str(tmp_path / str(count)), processes=count)
    one, two = (load_tensors(tmp_path / n / "all.safetensors") for n in "12")
    rows = [json.loads((tmp_path / n / "row.json").read_text()) for n in "12"]
    assert one.keys() == two.keys() and sum(float(v.norm()) > 0 for v in one.values()) > 20
    for name, value in one.items():
        assert float((two[name] - value).abs().max()) < 1e-6, name
    for name, value in rows[0].items():
        assert rows[1][name] == (None if value is None else pytest.approx(value, abs=1e-5)), name


def test_training_under_two_processes_writes_one_run_and_resumes(tmp_path):
    flags = ["--dataset", "mgshop", "--replies", "template", "--dialogues", "4", "--eval_episodes", "3", "--save_every", "1", "--device", "cpu"]
    launch("train.py", *flags, "--steps", "2", "--output_dir", str(tmp_path / "two"))
    said = launch("train.py", "--resume", str(tmp_path / "two"), "--steps", "3")
    launch("train.py", *flags, "--steps", "3", "--output_dir", str(tmp_path / "one"), processes=1)
    one, two = (read_rows(tmp_path / n / "metrics.jsonl") for n in ("one", "two"))
    assert [r["step"] for r in two] == [1, 2, 3] and said.count("written to") == 1 and not (tmp_path / "two-2").exists()
    for name, value in one[0].items():                                  # one step: later ones meet Adam, which makes a step of any gradient
        assert two[0][name] == (None if value is None else pytest.approx(value, abs=1e-5)), name


def test_a_refusal_is_said_once_and_stops_all(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    done = subprocess.run([*LAUNCH, "train.py", "--replies", "template", "--device", "cpu", "--output_dir", str(tmp_path / "full")], cwd=HERE,
                          capture_output=True, text=True, timeout=280)
    assert done.returncode and done.stderr.count("exists and is not empty") == 1


def test_what_an_agent_reads_and_earns_is_the_same_in_every_process():      # sets change their order with the hash seed of a process
    said = []
    for seed in "12":
        done = subprocess.run([sys.executable, "-c", DIGEST], cwd=HERE, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    assert said[0] == said[1] and len(said[0].split()) == 3


DIGEST = """
import hashlib, data
from start import pairs as warmup
from tests import test_parallel
from judge import Judged
gopo = test_parallel.both_agents()
pairs = warmup.mixed_pairs(gopo.dataset, 100, 0)
played = [Judged(r.user, r.context, tuple(gopo.dataset.skills[k] for k in r.skills), text) for r, text in pairs]
for value in [gopo.agent.prompt(r) for r, _ in pairs], pairs, gopo.judge.score(played):
    print(hashlib.sha256(repr(value).encode()).hexdigest())
"""


def test_alone_nothing_is_shared_out():
    assert processes.shard([1, 2]) == [1, 2] and processes.all_sum(1.5, 2) == [1.5, 2] and processes.broadcast("x") == "x" and not processes.is_parallel()
    assert processes.all_mean([]) is None and processes.main_says(True) and not processes.any_process(False)


def test_more_processes_than_dialogues_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(data.DataError, match="--dialogues 4 is fewer than the 8 processes"):
        Gopo(data.load("mgshop"), None, None, None, GopoConfig(dialogues=4))


if __name__ == "__main__":
    one_update(sys.argv[1])
