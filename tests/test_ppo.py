"""PPO: rewards, the value head, and the update against one written from the definitions.

Its equations are tested in test_ppo_equations.py."""
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines.ppo import PPO, PPOConfig
from data import DataError, Episode, Step
from gopo import Gopo
from infra import processes
from infra.runs import load_tensors, save_tensors
from measure import summary, training_row
from policies import by_nobody, keyed
from rewards import cs_reward
from tests.launching import launch
from tests.ppo_turns import Nobody, drawn_ids, learner, played_by, row_of, sharpen, steps_of
from tse import tse

INF = float("inf")


@pytest.fixture(scope="module")
def sampled():
    """What one policy said in six dialogues.

    Cut to lengths of 4 to 10 tokens, for a random model hardly ever ends by itself."""
    played = played_by(learner())
    for k, step in enumerate(steps_of(played)):
        r = step.replies[0]
        n = 4 + 2 * k % 7
        r.ids = r.ids[:n]
        r.mask = r.mask[:n]
        r.logp = r.logp[:n]
        r.bans = r.bans[:n]
    return played


# --- what is played and paid --------------------------------------------------------------------

def test_as_many_replies_a_step_as_gopo_draws():
    p = learner()
    played = played_by(p)
    steps = steps_of(played)
    assert p.size == len(played) == 6
    assert p.group == 1
    assert {len(s.replies) for s in steps} == {1}
    # H_t, no Expert
    assert all(s.skills == () for s in steps)
    assert all(s.prepared.request.skills == () for s in steps)
    assert played[0].steps[1].prepared.request.history
    row = summary(p, played)
    assert row["std_quality"] is None
    assert row["reward"] == pytest.approx(sum(s.R_A[0] for s in steps) / 12)
    # 3 dialogues, 2 replies to each state
    g = Gopo(p.dataset, p.expert, p.agent, p.judge, p.cfg)
    assert (g.group, g.size) == (2, 3)


def test_rewards_of_a_dialogue(sampled):
    # R^A of each turn; TSE of (1, 2, 2) or (1, 2, None) at the end
    p = learner(options=PPOConfig(ppo_tse=2.0, ppo_end_bonus=True), cfg={"tse_gamma": 0.8})
    first = next(e for e in sampled if e.seen.terminated)
    cut = next(e for e in sampled if e.seen.truncated)
    earned = [cs_reward(s.scores[0]) for s in first.steps]
    assert [s.R_t for s in first.steps] == earned
    # 10 turns are left to the horizon of 12
    bonus = sum(0.95 ** k for k in range(1, 11))
    end = 2 * tse((1, 2, 2), gamma=0.8) + bonus
    assert p.rewards(first) == pytest.approx([earned[0], earned[1] + end])
    end = 2 * tse((1, 2, None), gamma=0.8)
    assert p.rewards(cut)[-1] == pytest.approx(cs_reward(cut.steps[1].scores[0]) + end)
    assert learner().rewards(first)[-1] == pytest.approx(earned[1] + tse((1, 2, 2)))
    # replayed: the outcome ignores the replies
    logs = learner(live=False)
    assert logs.gamma == 0
    assert logs.rewards(first) == earned


def rescored(p: PPO, step: Step, scores) -> None:
    """The first step of a dialogue with other scores."""
    step.scores = scores
    p.score(step, 1)


def test_an_unscored_reply_earns_the_mean_of_the_scored(sampled):
    p = learner()
    first = sampled[0].steps[0]
    kept = first.scores
    asked = []

    def rewards(episode, unscored=0.0):
        asked.append(unscored)
        return PPO.rewards(p, episode, unscored)

    p.rewards = rewards
    try:
        rescored(p, first, [None])
        scored = [s.R_A[0] for s in steps_of(sampled)[1:]]
        p.learn(sampled)
        mean = sum(scored) / len(scored)
        assert asked == pytest.approx([mean] * len(sampled))
        assert PPO.rewards(p, sampled[0], 0.3)[0] == 0.3
    finally:
        rescored(p, first, kept)


def test_where_nobody_scored_tse_alone_is_learned():
    silent = learner(judge=Nobody())
    row = silent.learn(played_by(silent))
    assert all(math.isfinite(v) for v in row.values())


# --- hidden states ------------------------------------------------------------------------------

@pytest.mark.parametrize("packed", [False, True])
def test_hidden_states_are_those_behind_the_logits(packed, sampled):
    agent = learner(gradient_checkpointing=packed).agent
    head = agent.model.get_output_embeddings()
    steps = steps_of(sampled[:2])
    prompts = [agent.prompt(s.prepared.request) for s in steps]
    drawn = [drawn_ids(s) for s in steps]
    with torch.no_grad():
        logits, hidden, ids, mask = agent.reply_states(prompts, range(len(steps)), drawn)
        assert torch.allclose(head(hidden), logits, atol=1e-5)
        assert hidden.shape[:2] == ids.shape == mask.shape
        # oracle: transformers' own, one whole sequence at a time
        for h, m, prompt, reply in zip(hidden, mask, prompts, drawn):
            out = agent.model(torch.tensor([prompt + reply]), output_hidden_states=True)
            plain = out.hidden_states[-1][0, len(prompt) - 1:-1]
            assert torch.allclose(h[m], plain, atol=1e-4)
    # nothing is left behind
    assert not head._forward_pre_hooks


# --- the update ---------------------------------------------------------------------------------

@pytest.mark.parametrize("precision, packed", [("fp32", False), ("fp32", True), ("bf16", False)])
def test_the_ratio_begins_at_exactly_one(precision, packed):
    rows = []
    for epochs in (1, 2):
        options = PPOConfig(ppo_epochs=epochs)
        p = learner(precision=precision, gradient_checkpointing=packed, options=options)
        rows.append(p.learn(played_by(p)))
    assert rows[0]["kl"] == 0.0
    assert rows[0]["clipped"] == 0.0
    # -mean of whitened advantages
    assert abs(rows[0]["loss_policy"]) < 1e-5
    # the first step has climbed
    assert rows[1]["kl"] != 0.0
    assert rows[1]["loss_policy"] < rows[0]["loss_policy"]


def plain_reply(p: PPO, step: Step):
    """log pi and V of each token of a reply, and its summed entropy.

    One whole sequence, no cache, every ban written out."""
    agent = p.agent
    reply = step.replies[0]
    prompt = agent.prompt(step.prepared.request)
    drawn = drawn_ids(step)
    out = agent.model(torch.tensor([prompt + drawn]), output_hidden_states=True)
    logits = out.logits[0, len(prompt) - 1:-1] / agent.lm.temperature
    banned = torch.zeros_like(logits, dtype=torch.bool)
    rules = agent.prepare([step.prepared.request])[0].rules
    banned[:, torch.from_numpy(rules.static)] = True
    for t, (kind, ids) in enumerate(reply.bans):
        if kind == "allow":
            banned[t] = True
        banned[t, torch.from_numpy(ids)] = kind == "ban"
    logp = logits.masked_fill(banned, -INF).log_softmax(-1)
    entropy = -(logp.exp() * logp.masked_fill(banned, 0)).sum()
    values = out.hidden_states[-1][0, len(prompt) - 1:-1] @ p.head.weight[0]
    return list(logp[range(len(drawn)), drawn]), list(values), entropy


def plain_advantages(rewards, values, discounts, lambdas) -> list[float]:
    """GAE as a double sum over tokens."""
    n = len(rewards)
    delta = [rewards[i] + discounts[i] * values[i + 1] - values[i] for i in range(n)]
    found = []
    for i in range(n):
        total = 0
        for k in range(i, n):
            total += math.prod(lambdas[i:k]) * math.prod(discounts[i:k]) * delta[k]
        found.append(total)
    return found


def plain_dialogue(p: PPO, episode: Episode):
    """(log pi, V, A, target) of every token of a dialogue, and its summed entropy."""
    logps = []
    values = []
    rewards = []
    discounts = []
    lambdas = []
    entropy = 0.0
    for s in episode.steps:
        logp, value, h = plain_reply(p, s)
        entropy = entropy + h
        logps += logp
        values += value
        within = len(logp) - 1
        rewards += [0.0] * within + [cs_reward(s.scores[0])]
        discounts += [1.0] * within + [p.gamma]
        lambdas += [1.0] * within + [p.options.ppo_lambda]
    rewards[-1] += tse(episode.seen.outcome.completed)
    v = [x.item() for x in values]
    ended = episode.seen.terminated or p.options.ppo_tse
    after = 0.0 if ended else v[-1]
    v.append(after)
    adv = plain_advantages(rewards, v, discounts, lambdas)
    targets = [a + x for a, x in zip(adv, v)]
    return list(zip(logps, values, adv, targets)), entropy


def plain_loss(p: PPO, played: list[Episode]):
    """The loss from the definitions: one reply at a time, GAE as a double sum over tokens."""
    o = p.options
    seen = []
    entropy = 0.0
    for episode in played:
        tokens, h = plain_dialogue(p, episode)
        seen += tokens
        entropy = entropy + h
    n = len(seen)
    A = torch.tensor([a for _, _, a, _ in seen], dtype=torch.double)
    # V has moved by it: right on average before the first epoch
    bias = A.mean()
    A = (A - A.mean()) / (A.std(unbiased=False) + 1e-6)
    policy = 0.0
    value = 0.0
    for (logp, x, _, target), a in zip(seen, A):
        ratio = (logp - logp.detach()).exp()
        clipped = ratio.clamp(1 - o.ppo_clip, 1 + o.ppo_clip)
        policy = policy - torch.minimum(ratio * a, clipped * a)
        value = value + (x + bias - target) ** 2
    loss = policy / n + o.ppo_value_weight * value / n
    return loss - p.agent.cfg.lambda_d * entropy / n


def flat_gradient(p: PPO) -> torch.Tensor:
    return torch.cat([q.grad.flatten() for q in p.agent.params])


def gradient(p: PPO, played: list[Episode]) -> torch.Tensor:
    """What reaches the LM's optimiser, before clipping."""
    p.agent.step = lambda optimizer, terms: terms | {"gradient": flat_gradient(p)}
    return p.learn(played)["gradient"]


@pytest.mark.parametrize(
    "weight, micro_batch, packed", [(0.5, 2, False), (0.0, 1, True), (0.5, 16, True)])
def test_the_gradient_is_that_of_the_definitions(weight, micro_batch, packed, sampled):
    options = PPOConfig(ppo_value_weight=weight, ppo_epochs=1)
    p = learner(
        options=options, micro_batch=micro_batch, lambda_d=0.3, gradient_checkpointing=packed)
    sharpen(p)
    p.value_adam.step = lambda: None
    ours = gradient(p, sampled)
    head = p.head.weight.grad.clone()
    p.agent.optimizer.zero_grad()
    p.value_adam.zero_grad()
    plain_loss(p, sampled).backward()
    plain = flat_gradient(p)
    assert (ours - plain).norm() < 1e-4 * plain.norm()
    if weight:
        # the head's own is not weighted: Adam would undo it
        assert torch.allclose(head, p.head.weight.grad / weight, rtol=1e-3, atol=1e-5)
    else:
        # the head learns all the same
        assert float(head.norm()) > 0


COLUMNS = [
    *("loss_policy", "loss_value", "entropy", "clipped", "kl", "loss", "grad_norm"),
    *("explained_variance", "tokens"),
]


def test_the_update_raises_what_was_rewarded(sampled):
    options = PPOConfig(ppo_tse=0.0, ppo_lambda=1.0, ppo_value_weight=0.5)
    p = learner(options=options, cfg={"gamma": 0.0}, lambda_d=0.0)
    steps = steps_of(sampled)
    best = steps[0].replies[0]
    said = [s.replies[0] for s in steps]

    def rewards(episode, unscored=0.0):
        return [float(s.replies[0] is best) for s in episode.steps]

    p.rewards = rewards
    prepared = p.agent.prepare([s.prepared.request for s in steps])
    before = [sum(row) for row in p.agent.log_probs(prepared, said)]
    row = p.learn(sampled)
    after = [sum(row) for row in p.agent.log_probs(prepared, said)]
    assert after[0] > before[0] + 0.01
    assert sum(after[1:]) < sum(before[1:])
    assert list(row) == COLUMNS
    assert row["tokens"] == sum(sum(reply.mask) for reply in said)
    assert all(map(math.isfinite, row.values()))
    assert row["loss"] == pytest.approx(row["loss_policy"] + 0.5 * row["loss_value"])


def test_clipping_ends_what_one_rollout_can_change(sampled):
    # many epochs at a large step size: most ratios have left the range
    rows = []
    for clip in (0.9, 0.01):
        options = PPOConfig(ppo_clip=clip, ppo_epochs=6, ppo_value_weight=0.0)
        rows.append(learner(options=options, lambda_d=0.0).learn(sampled))
    loose, tight = rows
    assert 0 < loose["clipped"] < tight["clipped"] <= 1
    assert tight["loss_policy"] > loose["loss_policy"]


def always(*rewards: float):
    """Each dialogue's rewards, whatever was said."""
    return lambda episode, unscored=0.0: list(rewards)


def test_the_value_head_learns(sampled):
    # the second turn earns 1 and the first nothing: V can tell them apart; the LM stands still
    options = PPOConfig(ppo_value_lr=0.3, ppo_value_weight=0.0, ppo_lambda=1.0, ppo_epochs=10)
    p = learner(options=options, cfg={"gamma": 0.0}, agent_lr=1e-9, micro_batch=16)
    p.rewards = always(0.0, 1.0)
    rows = [p.learn(sampled) for _ in range(2)]
    # V = 0 explains nothing
    assert rows[0]["explained_variance"] == pytest.approx(0)
    assert rows[-1]["explained_variance"] > 0.5
    # the best constant has 1/4
    assert rows[-1]["loss_value"] < 0.15


def test_the_value_head_begins_right_on_average(sampled):
    # returns near 5, met by V = 0: one update takes their mean, without a weight that says it
    options = PPOConfig(ppo_value_lr=1e-9, ppo_lambda=1.0)
    p = learner(options=options, cfg={"gamma": 0.0}, agent_lr=1e-9)
    p.rewards = always(4.0, 6.0)
    rows = [p.learn(sampled) for _ in range(2)]
    first = sum(len(drawn_ids(e.steps[0])) for e in sampled)
    second = sum(len(drawn_ids(e.steps[1])) for e in sampled)
    mean = (4 * first + 6 * second) / (first + second)
    assert p.head.bias.item() == pytest.approx(mean, rel=1e-5)
    # the variance of two values
    variance = (mean - 4) * (6 - mean)
    for row in rows:
        assert row["loss_value"] == pytest.approx(variance, rel=1e-4)


def test_nan_is_refused_before_either_step(sampled):
    p = learner()
    p.rewards = always(0.5, math.nan)
    weights = [*p.agent.params, *p.head.parameters()]
    before = [q.detach().clone() for q in weights]
    with pytest.raises(FloatingPointError, match="mean advantage is nan"):
        p.learn(sampled)
    assert all(torch.equal(a, b) for a, b in zip(before, weights))


# --- runs ---------------------------------------------------------------------------------------

def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    # bit for bit, by way of the files of a checkpoint
    whole = learner()
    again = learner()
    whole.step(1, 0)
    for name, tensors in whole.parts().items():
        save_tensors(tensors, tmp_path / f"{name}.safetensors")
    row = row_of(whole, 2)
    found = {f.stem: load_tensors(f) for f in tmp_path.glob("*.safetensors")}
    assert {"value_head", "value_adam", "agent", "agent_adam"} <= found.keys()
    assert found["value_adam"]
    assert float(found["value_head"]["weight"].norm()) > 0
    again.restore(found)
    assert row_of(again, 2) == row
    theirs = again.parts()
    for name, tensors in whole.parts().items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, theirs[name][key]), name


def test_logs_are_learned_from():
    # replayed: gamma 0, no TSE
    p = learner(live=False)
    played, learned = p.step(1, 0)
    row = training_row(1, p, played, learned)
    assert row["tse"] is None
    assert math.isfinite(row["loss"])
    # each log once: its draws belong to its number, so a second time would say the same
    assert sorted(e.number for e in played) == [0, 1, 2]


def test_without_an_agent_there_is_no_value_head():
    # evaluation
    p = learner()
    dataset = replace(p.dataset, template=lambda *_: "Well.")
    bare = PPO(dataset, p.expert, None, p.judge, p.cfg)
    assert bare.group == 1
    assert not hasattr(bare, "head")
    assert bare.parts().keys() == {"expert", "expert_adam"}
    bare.restore(bare.parts())


# --- refusals -----------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [
    {"ppo_clip": 0},
    {"ppo_clip": 1.0},
    {"ppo_epochs": 0},
    {"ppo_lambda": 1.1},
    {"ppo_lambda": math.nan},
    {"ppo_value_lr": 0.0},
    {"ppo_value_lr": math.inf},
    {"ppo_value_weight": -0.1},
    {"ppo_value_weight": 2.0},
    {"ppo_tse": -1.0},
    {"ppo_tse": math.nan},
])
def test_options_are_refused_by_their_flag(bad):
    with pytest.raises(ValueError, match=f"--{next(iter(bad))} "):
        PPOConfig(**bad)


def test_what_ppo_has_not_is_refused():
    with pytest.raises(DataError, match="--no_expert"):
        learner(cfg={"no_expert": False})
    with pytest.raises(DataError, match="--ppo_tse"):
        learner(cfg={"outcome_weight": 1.0})
    assert PPO.single
    assert PPO.Options is PPOConfig
    assert not Gopo.single


# --- several processes --------------------------------------------------------------------------

def one_update(path: str) -> None:
    """The same dialogues everywhere; each process learns from its share, all from one gradient."""
    processes.join("cpu")
    torch.set_num_threads(1)
    p = learner(options=PPOConfig(ppo_epochs=1))
    sharpen(p)
    played = p.play(p.episodes("train", range(5), 0), by_nobody, draws=keyed(2))
    # its reward is the mean over both processes
    rescored(p, played[1].steps[0], [None])
    row = p.learn(processes.shard(played))
    gradients = {f"agent.{i}": q.grad for i, q in enumerate(p.agent.params)}
    gradients["head"] = p.head.weight.grad
    gradients["weight"] = p.head.weight.detach().clone()
    if processes.is_main():
        save_tensors(gradients, Path(path) / "all.safetensors")
        (Path(path) / "row.json").write_text(json.dumps(row))
    processes.leave()


def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path):
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        launch("tests/test_ppo.py", str(folder), processes=count)
    one, two = (load_tensors(tmp_path / n / "all.safetensors") for n in "12")
    rows = [json.loads((tmp_path / n / "row.json").read_text()) for n in "12"]
    assert one.keys() == two.keys()
    assert sum(float(v.norm()) > 0 for v in one.values()) > 10
    for name, value in one.items():
        difference = float((two[name] - value).norm())
        assert difference <= 1e-4 * float(value.norm()), name
    assert rows[1] == pytest.approx(rows[0], rel=1e-5, abs=1e-5)


if __name__ == "__main__":
    one_update(sys.argv[1])
