"""MORE as it learns: states of the logs, tasks, pi_ref, gradients, steps, runs that go on."""
import json
import math
from dataclasses import replace

import pytest
import torch

import data
import train
from csagent import CustomerServiceAgent
from data import DataError
from expert import ExpertConfig
from gopo import Gopo
from infra.runs import Alarms, load_checkpoint
from judge import RuleJudge
from lm.config import AgentConfig, LMConfig
from lm.models import build_tiny, with_adapter
from play import GopoConfig
from shop import sale
from start import stages
from start.pairs import vocabulary_texts
from systems import more_train
from systems.more import group_advantage
from systems.more_config import MoreConfig
from systems.more_learner import Learner, Looks
from systems.more_norms import reward_gradients
from systems.more_tasks import LEAST, Tasks, accuracy, fixed_tasks, is_right, task_pairs
from systems.more_train import MORE, SCAFFOLD, Strengths, mixed_share
from tests.training import rows_of

SMALL = {"train": 30, "dev": 6, "test": 4}
FLAGS = {"more_contexts": 3, "more_tasks": 2, "more_scaffold_steps": 1, "more_watch": 2}


@pytest.fixture(scope="module", autouse=True)
def small_sale():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sale, "SIZES", SMALL)
        patch.setattr(stages, "DEV", 1)
        patch.setattr(more_train, "WATCHED", 4)
        yield


@pytest.fixture(scope="module")
def world():
    return data.load("sale")


def agent_of(world, **flags) -> CustomerServiceAgent:
    """Untrained, with one layer; the same weights at every call."""
    model, tokenizer = build_tiny(vocabulary_texts(world), (), 0, 64, 1, 400)
    cfg = AgentConfig(**({"group": 3, "agent_lr": 3e-3} | flags))
    return CustomerServiceAgent(
        model, tokenizer, world.skills, cfg=cfg, lm=LMConfig(max_new_tokens=10))


def made(world, agent=None, **flags) -> MORE:
    options = MoreConfig(**(FLAGS | flags))
    expert = MORE.new_policy(world, ExpertConfig(), options)
    agent = agent or agent_of(world)
    more = MORE(world, expert, agent, RuleJudge(world.skills), GopoConfig(no_expert=True),
                options=options)
    more.grpo.freeze()
    return more


def weights(agent) -> list[torch.Tensor]:
    return [p.detach().clone() for p in agent.params]


def equal(some, others) -> bool:
    return all(map(torch.equal, some, others))


# --- flags ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, message", [
    ({"more_weights": "ranks"}, "--more_weights must be one of rank, equal, std, candidate, or "),
    ({"more_weights": "fixed:1,2"}, "one number >= 0 for each of NAT, RSN"),
    ({"more_weights": "fixed:0,0,0,0,0,0"}, "not all 0"),
    ({"more_weights": "fixed:1,1,1,1,1,x"}, "one number >= 0"),
    ({"more_rewards": "NAT,FUN"}, "--more_rewards takes each of"),
    ({"more_clip": 1.0}, "--more_clip must be below 1"),
    ({"more_anchor": "frozen"}, "--more_anchor must be one of scaffold, printed, none"),
    ({"more_mac": 0.0, "more_pnr": 0.0}, "both 0"),
    ({"more_norms": "signal", "more_contexts": 1}, "--more_contexts 2 or more"),
    ({"more_merge": True, "more_interleave": 4}, "leave --more_interleave out"),
    ({"more_scaffold_warm": 1.0}, "--more_scaffold_warm must be below 1"),
])
def test_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        MoreConfig(**flags)


def test_what_follows_from_the_flags():
    assert MoreConfig(more_rewards="NAT,RSN", more_weights="fixed:1,.5").fixed == [1, 0.5]
    assert MoreConfig().warm_share == 0.5
    without = MoreConfig(more_scaffold_steps=0)
    assert (without.reasons, without.warm_share) == (False, 0)
    assert MoreConfig(more_scaffold_steps=0, more_scaffold_warm=0.3).warm_share == 0.3
    assert MoreConfig(more_scaffold_steps=0, more_merge=True).warm_share == 0.5
    assert MoreConfig(more_anchor="none").beta == 0


def test_what_a_dataset_lacks_is_refused(world):
    with pytest.raises(DataError, match="no reasoning tasks: add --more_scaffold_steps 0"):
        MORE.refuse_options(replace(world, tasks=None), MoreConfig(), True)
    options = MoreConfig(more_scaffold_steps=0)
    with pytest.raises(DataError, match="RSN,FID,COV: sale has no facts .* NAT,RUD,RGE,BLEU"):
        MORE.refuse_options(replace(world, tasks=None, facts=None), options, True)


def test_one_reply_a_state_and_several_processes_are_refused(world, monkeypatch):
    with pytest.raises(DataError, match="--group 1"):
        made(world, agent_of(world, group=1, cs_baseline="none"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="without torchrun"):
        MORE.refuse_unsuited(world, GopoConfig(), True)


# --- tasks ----------------------------------------------------------------------------------------

def test_what_the_warm_start_reads_are_right_sentences(world):
    pairs = MORE.more_pairs(world, range(30), MoreConfig(more_scaffold_warm=0.25), 0)
    assert len(pairs) == 10
    tasks = fixed_tasks(world, "dev", 40)
    assert accuracy(tasks, [task.sentence for task in tasks]) == 1
    assert {task.kind for task in tasks} == {"mac", "pnr"}
    assert fixed_tasks(world, "dev", 40) == tasks
    assert MORE.more_pairs(world, pairs, MoreConfig(more_scaffold_steps=0), 0) == []
    assert Gopo.more_pairs(world, pairs, None, 0) == []
    assert task_pairs(world, 3, 0) != task_pairs(world, 3, 1)


def test_tasks_that_no_longer_tell_apart_are_drawn_less_often(world):
    tasks = Tasks(world.tasks, MoreConfig())
    tasks.mixed = dict.fromkeys(("rate", "coupon", "expiry", "phone", "left", "within"), 1.0)
    tasks.mixed |= {"limit": 0.0, "interest": 0.6}
    drawn = [task.key for task in tasks.draw(800, 0)]
    # of eight keys, in the proportion 6 x 1 to .2 (LEAST) to .6: 23.5 and 70.6 of 800
    assert drawn.count("limit") == pytest.approx(800 * LEAST / 6.8, abs=15)
    assert drawn.count("interest") == pytest.approx(800 * 0.6 / 6.8, abs=25)
    assert tasks.draw(5, 0, 1) == tasks.draw(5, 0, 1)


def test_what_was_mixed_is_noted_and_kept(world):
    tasks = Tasks(world.tasks, MoreConfig())
    first, second = tasks.draw(2, 3)
    second = replace(second, key="other")
    tasks.learned([first, second], torch.tensor([[1.1, 0.1], [0.1, 0.1]]))
    assert tasks.mixed == pytest.approx({first.key: 1.0, "other": 0.9})
    other = Tasks(world.tasks, MoreConfig())
    other.load(tasks.state() | {"norms": torch.zeros(2)})
    assert other.mixed == tasks.mixed


def test_the_weights_of_both_kinds(world):
    # their mean is .4, so MAC counts 3/2 and PNR 1/2
    tasks = Tasks(world.tasks, MoreConfig(more_mac=0.6, more_pnr=0.2))
    mac, pnr = (replace(task, kind=kind) for task, kind in zip(tasks.draw(2, 0), ("mac", "pnr")))
    assert tasks.weights([mac, pnr]).tolist() == pytest.approx([1.5, 0.5])
    assert Tasks(world.tasks, MoreConfig()).weights([mac, pnr]).tolist() == [1, 1]


def test_a_sentence_earns_its_value_and_its_form(world):
    tasks = Tasks(world.tasks, MoreConfig())
    task = next(task for task in tasks.draw(50, 1) if task.key == "limit")

    def earned(text: str) -> float:
        return tasks._reward(task, text)

    assert earned(f"your limit is {task.answer}.") == pytest.approx(1.1)
    assert earned(f"your limit is {task.answer}") == pytest.approx(1)
    assert earned("your limit is 12345.") == pytest.approx(0.1)
    assert earned("hello") == 0
    assert is_right(task, task.sentence) == 1


# --- states ---------------------------------------------------------------------------------------

def test_a_context_is_what_a_single_agent_reads_and_a_judge_sees(world):
    more = made(world)
    dialogue = max(world.train, key=lambda dialogue: len(dialogue.turns))
    last = len(dialogue.turns) - 1
    context = more.context(dialogue, last)
    said = [(turn.user, turn.reply) for turn in dialogue.turns]
    assert last > 1
    assert context.request.history == tuple(said[max(0, last - 3):last])     # --history 3
    assert context.request.skills == ()
    assert context.request.intent == dialogue.turns[last].intent
    assert context.judged.history == tuple(said[:last])
    assert context.judged.previous == tuple(reply for _, reply in said[:last])
    assert context.judged.reference == said[last][1]
    assert tuple(skill.id for skill in context.judged.skills) == dialogue.turns[last].skills
    assert context.facts == world.facts(context.judged)


def test_states_belong_to_seed_and_step(world):
    more = made(world)
    first = [c.request for c in more.contexts(1, 0)]
    assert first == [c.request for c in more.contexts(1, 0)]
    assert first != [c.request for c in more.contexts(2, 0)]
    assert first != [c.request for c in more.contexts(1, 1)]


# --- pi_ref ---------------------------------------------------------------------------------------

def batch(more) -> tuple:
    contexts = more.contexts(1, 0)
    prepared, replies = more.speak([c.request for c in contexts], 1, 0, 0)
    return prepared, replies, more.rate(contexts, replies)


def test_the_reference_is_asked_and_the_policy_put_back(world):
    more = made(world)
    prepared, replies, _ = batch(more)
    looks = Looks(more.agent, prepared, replies)
    before = weights(more.agent)
    same = more.grpo.reference_logp(looks)
    assert equal(same, [look.logp for look in looks])
    with torch.no_grad():
        more.agent.params[0].mul_(1.5)
    changed = weights(more.agent)
    assert equal(same, more.grpo.reference_logp(looks))
    assert equal(changed, more.agent.params)
    with pytest.raises(KeyError), more.grpo.as_reference():
        assert equal(before, more.agent.params)
        raise KeyError
    assert equal(changed, more.agent.params)


def test_of_an_adapter_the_reference_is_the_adapter_alone(world):
    model, tokenizer = build_tiny(vocabulary_texts(world), (), 0, 64, 1, 400)
    lm = LMConfig(model="small", quantise="none", lora_rank=2, max_new_tokens=10)
    agent = CustomerServiceAgent(
        with_adapter(model, 2), tokenizer, world.skills, cfg=AgentConfig(group=3, agent_lr=0.1),
        lm=lm)
    base = [p.detach().clone() for p in agent.model.parameters() if not p.requires_grad]
    more = made(world, agent)
    held = [p.clone() for p in more.grpo.reference]
    # two matrices of 2 rows for each of seven linear layers
    assert len(held) == 14
    more.step(1, 0)
    _, row = more.step(2, 0)
    assert row["kl"] > 0
    assert equal(held, more.grpo.reference)
    assert equal(base, [p for p in agent.model.parameters() if not p.requires_grad])


def test_without_a_reference_it_says_so(world):
    learner = Learner(agent_of(world), MoreConfig())
    with pytest.raises(ValueError, match=r"call freeze\(\) once"), learner.as_reference():
        pass


def after(world, steps: int = 2, **flags) -> list[torch.Tensor]:
    more = made(world, more_weights="equal", **flags)
    for number in range(1, steps + 1):
        more.step(number, 0)
    return weights(more.agent)


def test_the_printed_anchor_leaves_the_weights_of_no_anchor_bit_for_bit(world):
    free = after(world, more_anchor="none")
    assert equal(after(world, more_anchor="printed", more_kl=10.0), free)
    assert not equal(after(world, more_anchor="scaffold", more_kl=10.0), free)
    # with a second step on the same replies the printed one acts
    twice = after(world, 1, more_anchor="none", more_inner=2)
    assert not equal(after(world, 1, more_anchor="printed", more_kl=10.0, more_inner=2), twice)


# --- gradients ------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags", [
    {"more_norms": "norm"}, {"more_norms": "signal"}, {"more_norm_params": "head"}])
def test_micro_batches_pull_as_the_whole(world, flags):
    grams = []
    for micro_batch, keep in ((8, True), (1, True), (1, False)):
        more = made(world, agent_of(world, micro_batch=micro_batch), **flags)
        prepared, replies, _ = batch(more)
        looks = Looks(more.agent, prepared, replies)
        looks.keep = keep
        rewards = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
        grams.append(more.grpo.pull(looks, rewards))
    assert grams[0].abs().max() > 1e-4
    for other in grams[1:]:
        assert torch.allclose(other, grams[0], rtol=1e-3, atol=1e-6)


def test_the_pull_is_that_of_more_norms(world):
    more = made(world, agent_of(world, micro_batch=8))
    prepared, replies, _ = batch(more)
    looks = Looks(more.agent, prepared, replies)
    look, = looks
    order = torch.tensor(look.rows).argsort()
    rewards = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    gram = reward_gradients(
        look.logp[order], look.mask[order], rewards, more.agent.params)
    assert torch.allclose(more.grpo.pull(looks, rewards), gram, rtol=1e-3, atol=1e-6)


def test_what_is_read_again_teaches_what_is_kept_does(world):
    found = []
    for keep in (True, False):
        more = made(world, agent_of(world, micro_batch=1))
        prepared, replies, _ = batch(more)
        looks = Looks(more.agent, prepared, replies)
        looks.keep = keep
        advantage = group_advantage(torch.rand(3, 3, generator=torch.Generator().manual_seed(1)))
        reference = more.grpo.reference_logp(looks)
        row = more.grpo.learn(looks, advantage, reference, 0.04)
        found.append((row, weights(more.agent)))
    assert found[0][0] == found[1][0]
    assert equal(found[0][1], found[1][1])


# --- steps ----------------------------------------------------------------------------------------

def test_what_earns_more_becomes_likelier_and_the_reference_stays(world):
    more = made(world, agent_of(world, agent_lr=1e-2), more_kl=0.0)
    prepared, replies, _ = batch(more)
    looks = Looks(more.agent, prepared, replies)
    before = more.agent.log_probs(prepared, [group[0] for group in replies])
    held = [p.clone() for p in more.grpo.reference]
    advantage = torch.tensor([[1.4, -0.7, -0.7]] * 3)
    row = more.grpo.learn(looks, advantage, None, 0.0)
    now = more.agent.log_probs(prepared, [group[0] for group in replies])
    assert sum(map(sum, now)) > sum(map(sum, before)) + 0.5
    assert row["clipped"] == 0
    assert equal(held, more.grpo.reference)


def test_a_step_tells_every_reward_and_learns(world):
    more = made(world)
    before = weights(more.agent)
    _, first = more.step(1, 0)
    _, second = more.step(2, 0)
    assert list(first) == list(second)
    assert not equal(before, more.agent.params)
    assert (first["kl"], first["clipped"], first["RA"]) == (0, 0, None)
    assert second["kl"] > 0
    for name in more.options.names:
        assert 0 <= first[f"mean_{name}"] <= 1
        assert 0 <= first[f"lambda_{name}"] <= 1
    assert 0 <= second["RA"] <= 1
    assert 0 <= second["RQ"] <= 1
    assert max(first[f"lambda_{name}"] for name in more.options.names) == 1
    assert all(value is None or math.isfinite(value) for value in second.values())


@pytest.mark.parametrize("kind", ["std", "equal", "candidate", "fixed:1,0,0,0,0,.5"])
def test_other_weights(world, kind):
    more = made(world, more_weights=kind)
    _, row = more.step(1, 0)
    told = [row[f"lambda_{name}"] for name in more.options.names]
    expected = {"equal": [1] * 6, "candidate": [None] * 6}
    expected["fixed:1,0,0,0,0,.5"] = [1, 0, 0, 0, 0, 0.5]
    if kind in expected:
        assert told == expected[kind]
    else:
        stds = [row[f"std_{name}"] for name in more.options.names]
        assert told[stds.index(max(stds))] == 1
        assert row["norm_FID"] == row["std_FID"]


def test_a_merged_step_learns_tasks_and_replies_in_one_sum(world):
    more = made(world, more_merge=True, more_merge_tasks=2)
    seen = []
    learn = more.grpo.learn

    def recorded(looks, advantage, *others):
        seen.append(advantage)
        return learn(looks, advantage, *others)

    more.grpo.learn = recorded
    _, row = more.step(1, 0)
    assert seen[0].shape == (5, 3)
    assert row["tokens"] > 0


def test_tasks_in_between(world):
    more = made(world, more_interleave=2)
    more.step(1, 0)
    assert more.tasks.mixed == {}
    more.step(2, 0)
    assert more.tasks.mixed


def test_unscored_replies_teach_nothing(world):
    more = made(world, more_weights="equal")
    more.marker = None
    more.rate = lambda contexts, replies: torch.full((6, 3, 3), math.nan)
    before = weights(more.agent)
    _, row = more.step(1, 0)
    assert row["unscored"] == 1
    assert row["reward"] is None
    assert row["mixed"] == 0
    assert equal(before, more.agent.params)


def test_running_means_pass_over_what_was_not_scored():
    strengths = Strengths(2, 0.9)
    assert strengths.add([1.0, math.nan])[0] == 1
    assert strengths.add([2.0, 3.0]) == pytest.approx([1.1, 3.0])
    assert strengths.add([math.nan, 3.0]) == pytest.approx([1.1, 3.0])


def test_the_share_of_groups_that_tell_replies_apart():
    rewards = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.51], [math.nan, 1.0]])
    assert mixed_share(rewards) == 0.5
    assert mixed_share(rewards, 0.02) == 0.25
    assert mixed_share(rewards, 0.02, above=False) == 0.75


def test_stuffing_raises_an_alarm(world):
    more = made(world)
    more.numbers = 1.0
    alarms = Alarms(more=more.signs)
    found = []
    for held in (1.2, 1.6, 1.6, 1.6, 1.6, 1.6):
        found += alarms({"numbers": held})
    assert len(found) == 1
    assert "half as many numbers" in found[0]


def test_the_tasks_of_a_stage_are_their_own(world):
    more = made(world)
    drawn = [task.request for task in more.tasks.draw(4, 0, SCAFFOLD, 1)]
    assert drawn != [task.request for task in more.tasks.draw(4, 0, 0, 1)]


# --- runs -----------------------------------------------------------------------------------------

RUN = [
    "--dataset", "sale", "--algo", "more", "--model", "nano", "--precision", "fp32",
    "--pretrain_steps", "1", "--warm_steps", "1", "--sft_batch", "4", "--group", "2",
    "--max_new_tokens", "8", "--more_contexts", "2", "--more_tasks", "2",
    "--more_scaffold_steps", "2", "--more_watch", "2", "--save_every", "1", "--eval_every", "9",
    "--eval_episodes", "0"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("more") / "whole"
    assert train.main([*RUN, "--steps", "3", "--output_dir", str(run)]) == 0
    return run


def test_a_run_leaves_its_scaffold_and_its_rows(whole):
    config = json.loads((whole / "config.json").read_text())
    assert config["agent"]["group"] == 2
    assert config["gopo"]["no_expert"]
    rows = [json.loads(line) for line in (whole / "scaffold.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[-1]["RA"] is not None
    assert (whole / "scaffold.safetensors").exists()
    parts = load_checkpoint(whole)[1]
    assert parts["more"]["norms"].shape == (6,)


def test_a_run_goes_on_bit_for_bit(whole, tmp_path):
    run = tmp_path / "halves"
    assert train.main([*RUN, "--steps", "1", "--output_dir", str(run)]) == 0
    assert train.main(["--resume", str(run), "--steps", "3"]) == 0
    assert rows_of(run) == rows_of(whole)
    one, two = (load_checkpoint(folder)[1] for folder in (whole, run))
    for part in ("agent", "agent_adam", "more"):
        assert one[part].keys() == two[part].keys()
        for name, tensor in one[part].items():
            assert torch.equal(tensor, two[part][name]), name


def test_a_base_that_read_other_things_gives_no_warm_start(whole, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [flag if flag != "2" else "0" for flag in ("--more_scaffold_steps", "2")]
    arguments = [*RUN, *flags, "--steps", "0", "--base", str(whole), "--output_dir", str(run)]
    assert train.main(arguments) == 0
    said = capsys.readouterr().out
    assert "read something else besides the logs: not taken from it: warm_start" in said
    assert not (run / "scaffold.jsonl").exists()

