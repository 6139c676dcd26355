"""Two processes make the update that one makes with the whole batch.

The workers are started by accelerate, as a user would start them."""
from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

import data
import train
from csagent import CustomerServiceAgent
from data import Episode
from expert import Expert, ExpertConfig
from expert_learner import ExpertLearner
from gopo import Gopo, GopoConfig
from hosted.judge import judge_for
from infra import processes
from infra.runs import load_tensors, read_rows, save_tensors
from lm.config import AgentConfig, LMConfig, WarmConfig
from lm.models import build_tiny
from measure import summary
from perception import HideSentences, Perception, reading
from policies import by_policy, keyed, with_slips
from start.pairs import slot_names, vocabulary_texts, warm_pairs
from start.supervised import supervised
from tests.conftest import small_shops
from tests.launching import LAUNCH, launch, run

# Eq. 7 in one Adam step, whose gradient is compared; and in many, with a process that is at times
# dealt no turn.
LEARNING = (
    {"expert_epochs": 1, "expert_minibatch": 1000},
    {"expert_epochs": 2, "expert_minibatch": 4},
)


def both_agents(**flags) -> Gopo:
    shop = data.load("mgshop")
    torch.manual_seed(0)
    perception = Perception(shop.intents, shop.emotions)
    expert = Expert(list(shop.skills), perception, ExpertConfig(width=32, **flags))
    texts = vocabulary_texts(shop)[:2000]
    model, tokenizer = build_tiny(texts, slot_names(shop), 0, width=64, layers=2)
    cfg = AgentConfig(group=2)
    lm = LMConfig(max_new_tokens=12)
    agent = CustomerServiceAgent(model, tokenizer, shop.skills, shop.must_not_say, cfg, lm)
    agent.freeze_embedding([reply for _, reply in warm_pairs(shop.train)[:200]])
    return Gopo(shop, expert, agent, judge_for(shop), GopoConfig(dialogues=5))


def gradients_of(parameters, name: str) -> dict[str, torch.Tensor]:
    found = {}
    for i, p in enumerate(parameters):
        # imitation gives the critic none
        found[f"{name}.{i}"] = torch.zeros_like(p) if p.grad is None else p.grad.clone()
    return found


def played_by_all(gopo: Gopo) -> list[Episode]:
    """Five dialogues with slips, the same in every process."""
    others = [teacher for _, teacher in gopo.logged]
    choose = with_slips(by_policy(gopo.expert, keyed(1)), others, 0.3, keyed(3))
    played = gopo.play(gopo.episodes("train", range(5), 0), choose, group=2, draws=keyed(2))
    # unscored: Eq. 9b leaves it out, in the one process that has it
    first = played[0].steps[0]
    first.scores[0] = None
    gopo.score(first, 1)
    return played


def update_of(gopo: Gopo) -> dict[str, float | None]:
    """Learns from this process's shard of the dialogues; sentences are hidden."""
    with reading(gopo.expert, HideSentences(0.3, seed=4)):
        played = played_by_all(gopo)
        assert any(episode.slips for episode in played)
        mine = processes.shard(played)
        return summary(gopo, mine) | gopo.learn(mine, seed=5)


def one_update(path: str) -> None:
    """Writes the summed gradients and what was reported."""
    processes.join("cpu")
    torch.set_num_threads(1)
    gopo, in_many_steps = (both_agents(**flags) for flags in LEARNING)
    # the warm start: every process has the whole batch
    pupil = ExpertLearner(copy.deepcopy(gopo.expert))
    imitated = pupil.imitate(gopo.logged[:7])
    kept = gradients_of(pupil.parameters, "imitated")
    row = update_of(gopo)
    pairs = warm_pairs(gopo.dataset.train)[:7]
    kept |= gradients_of(gopo.learner.parameters, "expert")
    kept |= gradients_of(gopo.agent.params, "agent")
    for name, weight in gopo.agent.model.named_parameters():
        kept[f"weight.{name}"] = weight.detach().clone()
    loss = supervised(gopo.agent, pairs, 1, WarmConfig(sft_batch=7))["loss"]
    kept |= gradients_of(gopo.agent.params, "supervised")
    row |= {"supervised": loss, "imitated": imitated}
    rows = [row, update_of(in_many_steps)]
    if processes.is_main():
        save_tensors(kept, Path(path) / "all.safetensors")
        (Path(path) / "rows.json").write_text(json.dumps(rows))
    processes.leave()


def assert_close(row: dict, expected: dict, within: float = 1e-5) -> None:
    """Every number of `expected` nearly, and None where there is none."""
    for name, value in expected.items():
        wanted = None if value is None else pytest.approx(value, abs=within)
        assert row[name] == wanted, name


def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path):
    tensors = []
    rows = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        launch("tests/test_processes.py", str(folder), processes=count)
        tensors.append(load_tensors(folder / "all.safetensors"))
        rows.append(json.loads((folder / "rows.json").read_text()))
    one, two = tensors
    assert one.keys() == two.keys()
    assert sum(float(v.norm()) > 0 for v in one.values()) > 20
    for name, value in one.items():
        # a weight after its step: Adam makes something of the last bit of a tiny gradient
        close = 1e-5 if name.startswith("weight.") else 1e-6
        assert float((two[name] - value).abs().max()) < close, name
    (in_one, in_many), (of_two, of_two_in_many) = rows
    assert_close(of_two, in_one)
    # a few steps of Adam, which makes a step of any gradient
    assert_close(of_two_in_many, in_many, 1e-4)
    assert abs(in_many["loss_expert"] - in_one["loss_expert"]) > 1e-3


def test_training_under_two_processes_writes_one_run_and_resumes(tmp_path):
    flags = ["--dataset", "mgshop", "--replies", "template", "--dialogues", "4",
             "--eval_episodes", "3", "--save_every", "1", "--device", "cpu", "--expert_decay", "3",
             "--expert_minibatch", "10", "--precision", "fp32"]
    # no warm start, whose many Adam steps make something of the last bit
    flags += ["--expert_warm", "0"]
    folder = str(tmp_path / "two")
    script = "tests/small_train.py"
    launch(script, *flags, "--steps", "2", "--output_dir", folder)
    said = launch(script, "--resume", folder, "--steps", "3")
    with small_shops():
        assert train.main([*flags, "--steps", "3", "--output_dir", str(tmp_path / "one")]) == 0
    one, two = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [r["step"] for r in two] == [1, 2, 3]
    assert said.count("written to") == 1
    assert not (tmp_path / "two-2").exists()
    # one step: later ones meet Adam, which makes a step of any gradient
    assert_close(two[0], one[0], 1e-4)


def test_a_refusal_is_said_once_and_stops_all(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    folder = str(tmp_path / "full")
    flags = ["--replies", "template", "--device", "cpu", "--output_dir", folder]
    done = run([*LAUNCH, "train.py", *flags])
    assert done.returncode
    assert done.stderr.count("exists and is not empty") == 1


DIGEST = """
import hashlib
from judge import Judged
from start import pairs as warmup
from tests import test_processes
with test_processes.small_shops():
    gopo = test_processes.both_agents()
pairs = warmup.mixed_pairs(gopo.dataset, 100, 0)
prompts = []
played = []
for r, text in pairs:
    prompts.append(gopo.agent.prompt(r))
    skills = tuple(gopo.dataset.skills[k] for k in r.skills)
    played.append(Judged(r.user, r.context, skills, text))
for value in prompts, pairs, gopo.judge.score(played):
    print(hashlib.sha256(repr(value).encode()).hexdigest())
"""


def test_what_an_agent_reads_and_earns_is_the_same_in_every_process():
    # sets change their order with the hash seed of a process
    said = []
    for seed in "12":
        done = run([sys.executable, "-c", DIGEST], PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0].split()) == 3


def test_a_single_process_shares_nothing():
    assert not processes.is_parallel()
    assert processes.shard([1, 2]) == [1, 2]
    assert processes.all_sum(1.5, 2) == [1.5, 2]
    assert processes.all_mean([]) is None
    assert processes.broadcast("x") == "x"
    assert processes.main_says(True)
    assert not processes.any_process(False)


def test_more_processes_than_dialogues_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(data.DataError, match="--dialogues 4 is fewer than the 8 processes"):
        Gopo(data.load("mgshop"), None, None, None, GopoConfig(dialogues=4))


if __name__ == "__main__":
    with small_shops():
        one_update(sys.argv[1])
