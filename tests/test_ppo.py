"""PPO: the clipped surrogate, token-level GAE, where rewards stand, the value head, and the update against one written from the definitions."""
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import csagent
from baselines.ppo import PPO, PPOConfig, clipped_surrogate, token_gae, token_rewards, value_loss
from csagent import demo_agent
from data import DataError, Dataset, Dialogue, Labels, Observation, Outcome, Turn
from expert import Expert, ExpertConfig, Perception, gae
from gopo import Gopo
from infra import processes
from infra.runs import load_tensors, save_tensors
from measure import summary, training_row
from play import GopoConfig
from policies import by_nobody, keyed
from rewards import cs_reward
from tests.launching import launch
from tse import tse

T = torch.tensor
INF = float("inf")
property_test = settings(max_examples=100, deadline=None)


# ---------------------------------------------------------------- equations

def test_clipped_surrogate_by_hand():      # A = +1: min(1.5, 1.2), min(.5, .8); A = -1: min(-1.5, -1.2), min(-.5, -.8); A = 2, r = 1.1: 2.2; their mean, negated
    ratio, adv = T([[1.5, 0.5, 1.5], [0.5, 1.1, 1.0]]), T([[1.0, 1.0, -1.0], [-1.0, 2.0, 9.0]])
    mask = T([[1, 1, 1], [1, 1, 0]])
    assert clipped_surrogate(ratio.log(), torch.zeros(2, 3), adv, mask, 0.2).item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8 + 2.2) / 5)


def test_gradient_is_zero_where_clipped_and_minus_r_times_A_elsewhere():
    ratio, adv = T([[1.5, 0.5, 1.5, 0.5, 1.1]]), T([[1.0, 1.0, -1.0, -1.0, 2.0]])
    logp = ratio.log().requires_grad_()
    clipped_surrogate(logp, torch.zeros(1, 5), adv, torch.ones(1, 5), 0.2).backward()
    assert logp.grad[0].tolist() == pytest.approx([0.0, -0.5 / 5, 1.5 / 5, 0.0, -2.2 / 5])


@property_test
@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-3, 3)), min_size=1, max_size=6), st.floats(0.01, 0.9))
def test_a_ratio_of_one_gives_minus_the_mean_advantage(pairs, clip):
    logp, adv = (T([column], dtype=torch.double) for column in zip(*pairs))
    logp.requires_grad_()
    loss = clipped_surrogate(logp, logp.detach(), adv, torch.ones_like(adv), clip)
    loss.backward()
    assert loss.item() == pytest.approx(-float(adv.mean()), abs=1e-12) and torch.allclose(logp.grad, -adv / adv.numel())       # that of the plain policy gradient


def test_what_the_mask_hides_changes_nothing():      # -inf at a padded position, where token 0 is banned
    logp, value = T([[-1.0, -INF]], requires_grad=True), T([[1.0, math.nan]], requires_grad=True)
    loss = clipped_surrogate(logp, T([[-1.0, -INF]]), T([[3.0, math.nan]]), T([[1, 0]]), 0.2) + value_loss(value, T([[3.0, 0.0]]), T([[1, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(-3 + 4) and logp.grad.tolist() == [[-3.0, 0.0]] and value.grad.tolist() == [[-4.0, 0.0]]


def test_targets_have_no_gradient():
    old, adv, target = (torch.ones(1, 1, requires_grad=True) for _ in range(3))
    x = torch.ones(1, 1, requires_grad=True)
    (clipped_surrogate(x, old, adv, torch.ones(1, 1), 0.2) + value_loss(x, target, torch.ones(1, 1))).backward()
    assert old.grad is adv.grad is target.grad is None and x.grad is not None


def test_losses_refuse():
    for shapes in (((2, 3), (2, 3), (2, 3), (3, 2)), ((2, 3), (2,), (2, 3), (2, 3))):
        with pytest.raises(ValueError, match="clipped_surrogate wants"):
            clipped_surrogate(*(torch.ones(s) for s in shapes), 0.2)
    with pytest.raises(ValueError, match="value_loss wants"):
        value_loss(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2))


def test_rewards_stand_at_the_last_token_of_a_turn():
    found = token_rewards([0.6, 1.8, 0.2], [2, 1, 3], 0.9, 0.7)
    assert found == ([0.0, 0.6, 1.8, 0.0, 0.0, 0.2], [1.0, 0.9, 0.9, 1.0, 1.0, 0.9], [1.0, 0.7, 0.7, 1.0, 1.0, 0.7])
    for bad in (([1.0], [0]), ([1.0], [1, 2]), ([1.0], [])):
        with pytest.raises(ValueError, match="token_rewards needs"):
            token_rewards(*bad, 0.9, 0.7)


def test_gae_across_a_turn_boundary_by_hand():
    """gamma .9 and lambda .5 between the turns alone.  A_3 = 1.8 - 1 = .8;  A_2 = .6 + .9 * 1 - .5 + .9 * .5 * .8 = 1.36;  A_1 = 0 + .5 - .4 + 1.36 = 1.46"""
    rewards, *times = token_rewards([0.6, 1.8], [2, 1], 0.9, 0.5)
    assert token_gae(rewards, [0.4, 0.5, 1.0, 0.0], *times) == pytest.approx([1.46, 1.36, 0.8])
    assert token_gae(rewards, [0.4, 0.5, 1.0, 1.0], *times)[2] == pytest.approx(0.8 + 0.9)          # truncated: V of the last token's state goes on


numbers = st.floats(-1, 1)


@property_test
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), numbers, st.floats(0, 1), st.floats(0, 1))
def test_one_discount_for_all_is_the_experts_gae(pairs, last, gamma, lam):
    rewards, values = [p[0] for p in pairs], [*(p[1] for p in pairs), last]
    assert token_gae(rewards, values, [gamma] * len(rewards), [lam] * len(rewards)) == pytest.approx(gae(rewards, values, gamma, lam), abs=1e-12)


@property_test
@given(st.lists(st.tuples(numbers, numbers, st.floats(0, 1)), min_size=1, max_size=8), numbers)
def test_lambda_one_is_the_discounted_return_less_the_value(steps, last):      # oracle: the return as a sum over products of discounts
    rewards, values, discounts = zip(*steps)
    for i, a in enumerate(token_gae(rewards, [*values, last], discounts, [1.0] * len(rewards))):
        ret = sum(math.prod(discounts[i:k]) * rewards[k] for k in range(i, len(rewards))) + math.prod(discounts[i:]) * last
        assert a == pytest.approx(ret - values[i], abs=1e-9)


def test_gae_refuses():
    for bad in (([1.0], [0.5], [1.0], [1.0]), ([1.0], [0.5, 0.0], [], [1.0]), ([1.0], [0.5, 0.0], [1.0], [])):
        with pytest.raises(ValueError, match="token_gae needs"):
            token_gae(*bad)


# ---------------------------------------------------------------- a shop of two turns

class TwoTurns:
    """Odd customers are cut off by the horizon; the others leave, all done.  Second turns differ in length."""

    def __init__(self, number):
        self.number, self.told = number, 0

    def reset(self):
        return Observation("Where is my lamp?", {"eta": "Friday"}, labels=Labels(teacher=("soothe",)))

    def step(self, reply):
        self.told += 1
        if self.told == 1:
            return Observation("And the price? " * (1 + self.number % 3), {"price_1": "3"}, labels=Labels(teacher=("price",)))
        cut = bool(self.number % 2)
        return Observation("Bye.", {}, terminated=not cut, truncated=cut, outcome=Outcome(True, (1, 2, None if cut else 2)))


class Lengths:
    """Scores by the length of the reply; the words of nobody in particular."""

    def score(self, items):
        return [(len(i.reply) % 7 / 7, len(i.reply) % 3 / 3, 0.5, 0.25) for i in items]


class Nobody:
    """A judge that can score nothing."""

    def score(self, items):
        return [None] * len(items)


def learner(live=True, judge=None, options=None, cfg=None, **agent_config) -> PPO:
    """Random, but not uniform: weights so large that an error of the computation would show."""
    agent = demo_agent(**{"max_new_tokens": 10, "temperature": 0.7, "group": 2, "agent_lr": 1e-3} | agent_config)
    for p in agent.params:
        p.data.mul_(2.0 if p.ndim > 1 else 1.0)
    logs = [Dialogue(str(n), tuple(Turn(u, reply="We are sorry.") for u in ("Hi.", "My lamp?"))) for n in range(3)]
    dataset = Dataset("toy", csagent.DEMO, (), (), logs, [], [], environment=(lambda split, n, seed: TwoTurns(n)) if live else None, must_not_say=("guarantee",))
    torch.manual_seed(0)
    expert = Expert(list(csagent.DEMO), Perception((), ()), ExpertConfig(width=8), words=4)
    return PPO(dataset, expert, agent, judge or Lengths(), GopoConfig(**{"no_expert": True, "dialogues": 3} | (cfg or {})), options=options)


def play(p: PPO, step: int = 1) -> list:
    """The dialogues of a step; nothing is learned from them."""
    learn, p.learn = p.learn, lambda played: {}
    try:
        return p.step(step, 0)[0]
    finally:
        p.learn = learn


def row_of(p: PPO, number: int) -> dict:
    """A row of metrics.jsonl."""
    return training_row(number, p, *p.step(number, 0))


def sharpen(p: PPO) -> None:
    """A value head that says something, so that what reaches the LM through it would show."""
    with torch.no_grad():
        p.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def sampled():
    """What one policy said in six dialogues; cut to lengths of 4 to 10 tokens, for a random model hardly ever ends by itself."""
    played = play(learner())
    for k, r in enumerate(s.replies[0] for e in played for s in e.steps):
        n = 4 + 2 * k % 7
        r.ids, r.mask, r.logp, r.bans = r.ids[:n], r.mask[:n], r.logp[:n], r.bans[:n]
    return played


def test_as_many_replies_a_step_as_gopo_draws():
    p = learner()
    played = play(p)
    assert p.size == len(played) == 6 and p.group == 1 and {len(s.replies) for e in played for s in e.steps} == {1}
    assert all(s.skills == () and s.prepared.request.skills == () for e in played for s in e.steps) and played[0].steps[1].prepared.request.history       # H_t, no Expert
    row = summary(p, played)
    assert row["std_quality"] is None and row["reward"] == pytest.approx(sum(s.R_A[0] for e in played for s in e.steps) / 12)
    g = Gopo(p.dataset, p.expert, p.agent, p.judge, p.cfg)
    assert (g.group, g.size) == (2, 3)                                       # 3 dialogues, 2 replies to each state


def test_rewards_of_a_dialogue(sampled):      # R^A of each turn; TSE of (1, 2, 2) or (1, 2, None) at the end
    p = learner(options=PPOConfig(ppo_tse=2.0, ppo_end_bonus=True), cfg={"tse_gamma": 0.8})
    first = next(e for e in sampled if e.seen.terminated)
    cut = next(e for e in sampled if e.seen.truncated)
    earned = [cs_reward(s.scores[0]) for s in first.steps]
    assert [s.R_t for s in first.steps] == earned
    bonus = sum(0.95 ** k for k in range(1, 11))                             # 10 turns are left to the horizon of 12
    assert p.rewards(first) == pytest.approx([earned[0], earned[1] + 2 * tse((1, 2, 2), gamma=0.8) + bonus])
    assert p.rewards(cut)[-1] == pytest.approx(cs_reward(cut.steps[1].scores[0]) + 2 * tse((1, 2, None), gamma=0.8))
    assert learner().rewards(first)[-1] == pytest.approx(earned[1] + tse((1, 2, 2)))
    logs = learner(live=False)
    assert logs.gamma == 0 and logs.rewards(first) == earned                 # replayed: the outcome ignores the replies


def test_an_unscored_reply_earns_the_mean_of_the_scored(sampled):
    p, first = learner(), sampled[0].steps[0]
    kept = first.scores
    try:
        first.scores = [None]
        p.score(first, 1)
        scored = [s.R_A[0] for e in sampled for s in e.steps][1:]
        asked = []
        p.rewards = lambda e, unscored=0.0: asked.append(unscored) or PPO.rewards(p, e, unscored)
        p.learn(sampled)
        assert asked == pytest.approx([sum(scored) / len(scored)] * len(sampled)) and PPO.rewards(p, sampled[0], 0.3)[0] == 0.3
    finally:
        first.scores = kept
        p.score(first, 1)
    silent = learner(judge=Nobody())
    assert all(math.isfinite(v) for v in silent.learn(play(silent)).values())      # nobody scored: TSE alone is learned


# ---------------------------------------------------------------- hidden states

@pytest.mark.parametrize("packed", [False, True])
def test_hidden_states_are_those_behind_the_logits(packed, sampled):
    agent = learner(gradient_checkpointing=packed).agent
    steps = [s for e in sampled[:2] for s in e.steps]
    prompts, drawn = [agent.prompt(s.prepared.request) for s in steps], [s.replies[0].ids[:sum(s.replies[0].mask)] for s in steps]
    with torch.no_grad():
        logits, hidden, ids, mask = agent.reply_states(prompts, range(len(steps)), drawn)
        assert torch.allclose(agent.model.get_output_embeddings()(hidden), logits, atol=1e-5) and hidden.shape[:2] == ids.shape == mask.shape
        for h, m, prompt, reply in zip(hidden, mask, prompts, drawn):        # oracle: transformers' own, one whole sequence at a time
            plain = agent.model(torch.tensor([prompt + reply]), output_hidden_states=True).hidden_states[-1][0, len(prompt) - 1:-1]
            assert torch.allclose(h[m], plain, atol=1e-4)
        assert not agent.model.get_output_embeddings()._forward_pre_hooks    # nothing is left behind


# ---------------------------------------------------------------- the update

@pytest.mark.parametrize("precision, packed", [("fp32", False), ("fp32", True), ("bf16", False)])
def test_the_ratio_begins_at_exactly_one(precision, packed):
    rows = []
    for epochs in (1, 2):
        p = learner(precision=precision, gradient_checkpointing=packed, options=PPOConfig(ppo_epochs=epochs))
        rows.append(p.learn(play(p)))
    assert rows[0]["kl"] == 0.0 and rows[0]["clipped"] == 0.0 and abs(rows[0]["loss_policy"]) < 1e-5           # -mean of whitened advantages
    assert rows[1]["kl"] != 0.0 and rows[1]["loss_policy"] < rows[0]["loss_policy"]                            # the first step has climbed


def plain_loss(p: PPO, played):
    """The loss from the definitions: one reply at a time, whole sequences, no cache, GAE as a double sum over tokens."""
    agent, o, w = p.agent, p.options, p.options.ppo_value_weight
    seen, entropy, tokens = [], 0.0, 0
    for e in played:
        logps, values, rewards, discounts, lambdas = [], [], [], [], []
        for s in e.steps:
            r, prompt = s.replies[0], agent.prompt(s.prepared.request)
            drawn = r.ids[:sum(r.mask)]
            out = agent.model(torch.tensor([prompt + drawn]), output_hidden_states=True)
            logits = out.logits[0, len(prompt) - 1:-1] / agent.lm.temperature
            banned = torch.zeros_like(logits, dtype=torch.bool)
            banned[:, torch.from_numpy(agent.prepare([s.prepared.request])[0].rules.static)] = True
            for t, (kind, ids) in enumerate(r.bans):
                banned[t] = True if kind == "allow" else banned[t]
                banned[t, torch.from_numpy(ids)] = kind == "ban"
            logp = logits.masked_fill(banned, -INF).log_softmax(-1)
            entropy = entropy - (logp.exp() * logp.masked_fill(banned, 0)).sum()
            logps += list(logp[range(len(drawn)), drawn])
            values += list(out.hidden_states[-1][0, len(prompt) - 1:-1] @ p.head.weight[0])
            rewards += [0.0] * (len(drawn) - 1) + [cs_reward(s.scores[0])]
            discounts += [1.0] * (len(drawn) - 1) + [p.gamma]
            lambdas += [1.0] * (len(drawn) - 1) + [o.ppo_lambda]
        rewards[-1] += tse(e.seen.outcome.completed)
        v = [x.item() for x in values]
        v.append(0.0 if e.seen.terminated or o.ppo_tse else v[-1])
        n = len(rewards)
        delta = [rewards[i] + discounts[i] * v[i + 1] - v[i] for i in range(n)]
        adv = [sum(math.prod(lambdas[i:k]) * math.prod(discounts[i:k]) * delta[k] for k in range(i, n)) for i in range(n)]
        seen += zip(logps, values, adv, [a + x for a, x in zip(adv, v)])
        tokens += n
    A = torch.tensor([a for _, _, a, _ in seen], dtype=torch.double)
    bias = A.mean()                                                          # V has moved by it: right on average before the first epoch
    A = (A - A.mean()) / (A.std(unbiased=False) + 1e-6)
    ratio = [(lp - lp.detach()).exp() for lp, *_ in seen]
    policy = -sum(torch.minimum(r * a, r.clamp(1 - o.ppo_clip, 1 + o.ppo_clip) * a) for r, a in zip(ratio, A)) / tokens
    return policy + w * sum((x + bias - target) ** 2 for _, x, _, target in seen) / tokens - agent.cfg.lambda_d * entropy / tokens


def gradient(p: PPO, played) -> torch.Tensor:
    """What reaches the LM's optimiser, before clipping."""
    p.agent.step = lambda optimizer, terms: terms | {"gradient": torch.cat([q.grad.flatten() for q in p.agent.params])}
    return p.learn(played)["gradient"]


@pytest.mark.parametrize("weight, micro_batch, packed", [(0.5, 2, False), (0.0, 1, True), (0.5, 16, True)])
def test_the_gradient_is_that_of_the_definitions(weight, micro_batch, packed, sampled):
    p = learner(options=PPOConfig(ppo_value_weight=weight, ppo_epochs=1), micro_batch=micro_batch, lambda_d=0.3, gradient_checkpointing=packed)
    sharpen(p)
    p.value_adam.step = lambda: None
    ours = gradient(p, sampled)
    head = p.head.weight.grad.clone()
    p.agent.optimizer.zero_grad()
    p.value_adam.zero_grad()
    plain_loss(p, sampled).backward()
    plain = torch.cat([q.grad.flatten() for q in p.agent.params])
    assert (ours - plain).norm() < 1e-4 * plain.norm()
    if weight:                                                               # the head's own is not weighted: Adam would undo it
        assert torch.allclose(head, p.head.weight.grad / weight, rtol=1e-3, atol=1e-5)
    else:
        assert float(head.norm()) > 0                                        # the head learns all the same


def test_the_update_raises_what_was_rewarded(sampled):
    p, replies = learner(options=PPOConfig(ppo_tse=0.0, ppo_lambda=1.0, ppo_value_weight=0.5), cfg={"gamma": 0.0}, lambda_d=0.0), [(s.prepared.request, s.replies[0]) for e in sampled for s in e.steps]
    p.rewards = lambda e, unscored=0.0: [1.0 if s.replies[0] is replies[0][1] else 0.0 for s in e.steps]
    prepared, said = p.agent.prepare([request for request, _ in replies]), [reply for _, reply in replies]
    before = [sum(row) for row in p.agent.log_probs(prepared, said)]
    row = p.learn(sampled)
    after = [sum(row) for row in p.agent.log_probs(prepared, said)]
    assert after[0] > before[0] + 0.01 and sum(after[1:]) < sum(before[1:])
    assert list(row) == ["loss_policy", "loss_value", "entropy", "clipped", "kl", "loss", "grad_norm", "explained_variance", "tokens"]
    assert row["tokens"] == sum(sum(r.mask) for _, r in replies) and all(map(math.isfinite, row.values()))
    assert row["loss"] == pytest.approx(row["loss_policy"] + 0.5 * row["loss_value"])


def test_clipping_ends_what_one_rollout_can_change(sampled):      # many epochs at a large step size: most ratios have left the range
    loose, tight = (learner(options=PPOConfig(ppo_clip=clip, ppo_epochs=6, ppo_value_weight=0.0), lambda_d=0.0).learn(sampled) for clip in (0.9, 0.01))
    assert 0 < loose["clipped"] < tight["clipped"] <= 1 and tight["loss_policy"] > loose["loss_policy"]


def test_the_value_head_learns(sampled):      # the second turn earns 1 and the first nothing: V can tell them apart; the LM stands still
    p = learner(options=PPOConfig(ppo_value_lr=0.3, ppo_value_weight=0.0, ppo_lambda=1.0, ppo_epochs=10), cfg={"gamma": 0.0}, agent_lr=1e-9, micro_batch=16)
    p.rewards = lambda e, unscored=0.0: [0.0, 1.0]
    rows = [p.learn(sampled) for _ in range(2)]
    assert rows[0]["explained_variance"] == pytest.approx(0) and rows[-1]["explained_variance"] > 0.5        # V = 0 explains nothing
    assert rows[-1]["loss_value"] < 0.15                                     # the best constant has 1/4


def test_the_value_head_begins_right_on_average(sampled):      # returns near 5, met by V = 0: one update takes their mean, without a weight that says so
    p = learner(options=PPOConfig(ppo_value_lr=1e-9, ppo_lambda=1.0), cfg={"gamma": 0.0}, agent_lr=1e-9)
    p.rewards = lambda e, unscored=0.0: [4.0, 6.0]
    rows = [p.learn(sampled) for _ in range(2)]
    lengths = [[sum(s.replies[0].mask) for s in e.steps] for e in sampled]
    mean = sum(4 * first + 6 * second for first, second in lengths) / sum(map(sum, lengths))
    assert p.head.bias.item() == pytest.approx(mean, rel=1e-5)
    assert all(row["loss_value"] == pytest.approx((mean - 4) * (6 - mean), rel=1e-4) for row in rows)          # the variance of two values


def test_nan_is_refused_before_either_step(sampled):
    p = learner()
    p.rewards = lambda e, unscored=0.0: [0.5, math.nan]
    before = [q.detach().clone() for q in (*p.agent.params, *p.head.parameters())]
    with pytest.raises(FloatingPointError, match="mean advantage is nan"):
        p.learn(sampled)
    assert all(torch.equal(a, b) for a, b in zip(before, (*p.agent.params, *p.head.parameters())))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):      # bit for bit, by way of the files of a checkpoint
    whole, again = learner(), learner()
    whole.step(1, 0)
    for name, tensors in whole.parts().items():
        save_tensors(tensors, tmp_path / f"{name}.safetensors")
    row = row_of(whole, 2)
    found = {f.stem: load_tensors(f) for f in tmp_path.glob("*.safetensors")}
    assert {"value_head", "value_adam", "agent", "agent_adam"} <= found.keys() and found["value_adam"] and float(found["value_head"]["weight"].norm()) > 0
    again.restore(found)
    assert row_of(again, 2) == row
    for name, tensors in whole.parts().items():
        assert all(torch.equal(t, again.parts()[name][k]) for k, t in tensors.items()), name


def test_logs_are_learned_from(sampled):      # replayed: gamma 0, no TSE
    p = learner(live=False)
    played, learned = p.step(1, 0)
    row = training_row(1, p, played, learned)
    assert row["tse"] is None and math.isfinite(row["loss"]) and len(played) == 6


def test_without_an_agent_there_is_no_value_head():      # evaluation
    p = learner()
    alone = PPO(replace(p.dataset, template=lambda *_: "Well."), p.expert, None, p.judge, p.cfg)
    assert alone.group == 1 and not hasattr(alone, "head") and alone.parts().keys() == {"expert", "expert_adam"}
    alone.restore(alone.parts())


# ---------------------------------------------------------------- refusals

@pytest.mark.parametrize("bad", [{"ppo_clip": 0}, {"ppo_clip": 1.0}, {"ppo_epochs": 0}, {"ppo_lambda": 1.1}, {"ppo_value_lr": 0.0}, {"ppo_value_lr": math.inf},
                                 {"ppo_value_weight": -0.1}, {"ppo_value_weight": 2.0}, {"ppo_tse": -1.0}, {"ppo_lambda": math.nan}, {"ppo_tse": math.nan}])
def test_options_are_refused_by_their_flag(bad):
    with pytest.raises(ValueError, match=f"--{next(iter(bad))} "):
        PPOConfig(**bad)


def test_what_ppo_has_not_is_refused():
    with pytest.raises(DataError, match="--no_expert"):
        learner(cfg={"no_expert": False})
    with pytest.raises(DataError, match="--ppo_tse"):
        learner(cfg={"outcome_weight": 1.0})
    assert PPO.single and PPO.Options is PPOConfig and not Gopo.single


# ---------------------------------------------------------------- several processes

def one_update(path: str) -> None:
    """The same dialogues everywhere; each process learns from its share, all from the same gradient."""
    processes.join("cpu")
    torch.set_num_threads(1)
    p = learner(options=PPOConfig(ppo_epochs=1))
    sharpen(p)
    played = p.play(p.episodes("train", range(5), 0), by_nobody, draws=keyed(2))
    played[1].steps[0].scores = [None]                                       # its reward is the mean over both processes
    p.score(played[1].steps[0], 1)
    row = p.learn(processes.shard(played))
    gradients = {f"agent.{i}": q.grad for i, q in enumerate(p.agent.params)} | {"head": p.head.weight.grad}
    if processes.is_main():
        save_tensors(gradients | {"weight": p.head.weight.detach().clone()}, Path(path) / "all.safetensors")
        (Path(path) / "row.json").write_text(json.dumps(row))
    processes.leave()


def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path):
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        launch("tests/test_ppo.py", str(tmp_path / str(count)), processes=count)
    one, two = (load_tensors(tmp_path / n / "all.safetensors") for n in "12")
    rows = [json.loads((tmp_path / n / "row.json").read_text()) for n in "12"]
    assert one.keys() == two.keys() and sum(float(v.norm()) > 0 for v in one.values()) > 10
    for name, value in one.items():
        assert float((two[name] - value).norm()) <= 1e-4 * float(value.norm()), name
    assert rows[1] == pytest.approx(rows[0], rel=1e-5, abs=1e-5)


if __name__ == "__main__":
    one_update(sys.argv[1])
