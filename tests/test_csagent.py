"""csagent.py: Eqs. 9a-9d by hand, the update against a plain one, the space of 9c, checkpoints."""
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import csagent
from csagent import (
    AgentConfig,
    CustomerServiceAgent,
    cs_loss,
    demo_agent,
    negative_entropy,
    numbered,
    policy_loss,
    skill_distance,
)
from data import Request
from lm import reader
from lm.config import LMConfig, WarmConfig
from lm.models import load_model
from start.supervised import supervised
from tests.agents import REQUESTS, REWARDS, flattened, gradients, scored, seeded, sharp_agent

INF = float("inf")
T = torch.tensor
LOGP = T([[-1.0, -2.0], [-3.0, -INF]])
MASK = T([[1.0, 1.0], [1.0, 0.0]])


# ------------------------------------------------------------------------------ Eqs. 9a-9d by hand
def test_policy_loss_by_hand():
    # rewards 1, -2: -(1*(-1-2) + -2*(-3)) = -3; over 3 tokens -1; over 2 replies -1.5
    reward = T([1.0, -2.0])
    assert policy_loss(LOGP, reward, MASK).item() == pytest.approx(-1.0)
    assert policy_loss(LOGP, reward, MASK, average="sum").item() == pytest.approx(-1.5)


def test_policy_loss_centres_within_groups():
    # one group: mean -.5, advantages 1.5, -1.5: -(1.5*-3 + -1.5*-3) = 0
    reward = T([1.0, -2.0])
    one = policy_loss(LOGP, reward, MASK, group=T([7, 7]))
    assert one.item() == pytest.approx(0.0)
    # alone in its group: no advantage
    assert policy_loss(LOGP, reward, MASK, group=T([0, 1])).item() == 0.0
    # advantages .5, -.5: -(.5*-1 + -.5*-4)/2 = -.75
    logp = T([[-1.0], [-4.0]])
    two = policy_loss(logp, T([1.0, 0.0]), torch.ones(2, 1), group=T([0, 0]))
    assert two.item() == pytest.approx(-0.75)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_policy_loss_raises_what_is_rewarded(sign):
    # d/dlogp = -A/N at drawn tokens, 0 at others
    logp = torch.zeros(2, 2, requires_grad=True)
    policy_loss(logp, T([sign, 0.0]), MASK).backward()
    assert torch.allclose(logp.grad, T([[-sign, -sign], [0.0, 0.0]]) / 3)


@pytest.mark.parametrize("bad", [
    {"average": "mean"},
    {"mask": torch.zeros(2, 2)},
    {"mask": torch.ones(2, 3)},
    {"reward": torch.ones(3)},
    {"group": T([1])},
])
def test_policy_loss_refuses(bad):
    with pytest.raises(ValueError):
        policy_loss(**({"logp": LOGP, "reward": torch.ones(2), "mask": MASK} | bad))


def test_skill_distance_by_hand():
    # cos of (1,1) and (1,0) = .7071
    replies = T([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    skills = T([[1.0, 0.0], [-2.0, 0.0], [1.0, 0.0]])
    d = skill_distance(replies, skills)
    assert d.tolist() == pytest.approx([1 - math.sqrt(0.5), 2.0, 1.0])
    with pytest.raises(ValueError):
        skill_distance(torch.ones(2, 3), torch.ones(2, 4))


def test_negative_entropy_by_hand():
    # p = (.25, .75): .25 ln .25 + .75 ln .75 = -.5623
    logits = T([[[0.25, 0.75], [9.0, 9.0]]]).log()
    first = T([[1, 0]])
    assert negative_entropy(logits, first).item() == pytest.approx(-0.5623, abs=1e-4)
    literal = negative_entropy(logits, first, literal=True)
    assert literal.item() == pytest.approx(0.5623, abs=1e-4)
    both = negative_entropy(logits, T([[1, 1]]))
    assert both.item() == pytest.approx((-0.5623 - 0.6931) / 2, abs=1e-4)


def test_negative_entropy_of_banned_tokens_has_finite_value_and_gradient():
    free = torch.tensor([[[0.0, 0.5, 1.0]]], requires_grad=True)
    banned = T([False, False, True])
    value = negative_entropy(free.masked_fill(banned, -INF), torch.ones(1, 1))
    value.backward()
    # by hand: two tokens; d/dx = p (log p - value)
    p = 1 / (1 + math.exp(0.5))
    assert value.item() == pytest.approx(p * math.log(p) + (1 - p) * math.log(1 - p))
    slope = [p * (math.log(p) - value.item()), (1 - p) * (math.log(1 - p) - value.item()), 0.0]
    assert free.grad[0, 0].tolist() == pytest.approx(slope)
    with pytest.raises(ValueError):
        negative_entropy(free, torch.zeros(1, 1))


def test_cs_loss_by_hand():
    # 2*1 + .5*4 + .1*-3
    assert cs_loss(1.0, 4.0, -3.0, 2.0, 0.5, 0.1) == pytest.approx(3.7)


# ------------------------------------------------------------------------------ the update
@pytest.fixture(scope="module")
def sampled():
    agent = sharp_agent()
    return agent, agent.generate(REQUESTS, 3, generator=seeded(3))


def updated(agent, replies, rewards=REWARDS, requests=REQUESTS):
    return agent.update(agent.prepare(requests), replies, rewards)


def test_sampled_log_probability_is_the_updates(sampled):
    # gate: 1e-5 in fp32, with bans active
    agent, replies = sampled
    logits, logp, mask = scored(agent, REQUESTS, replies)
    flat = flattened(replies)
    for row, m, r in zip(logp, mask, flat):
        assert row[m].tolist() == pytest.approx(r.logp, abs=1e-5)
    bans = 0
    for r in flat:
        bans += sum(len(ids) for _, ids in r.bans)
    assert bans > 20
    assert (logits == -INF).any()


def plain_reply(agent, request, reply, temperature):
    """log p of all words at a reply's positions, and what was banned there, without a cache."""
    drawn = reply.ids[:sum(reply.mask)]
    prompt = agent.prompt(request)
    out = agent.model(torch.tensor([prompt + drawn]))
    logits = out.logits[0, len(prompt) - 1:-1] / temperature
    static = torch.from_numpy(agent.prepare([request])[0].rules.static)
    banned = torch.zeros_like(logits, dtype=torch.bool)
    for t, (kind, ids) in enumerate(reply.bans):
        banned[t, static] = True
        if kind == "allow":
            banned[t] = True
        banned[t, torch.from_numpy(ids)] = kind == "ban"
    return logits.masked_fill(banned, -INF).log_softmax(-1), banned, drawn


def plain_shaped(agent, drawn) -> list[float | None]:
    """R^A less its share of 9c."""
    said = []
    for x in drawn:
        said.append([i for i in x.reply.ids if i not in agent.ends])
    asked = agent.embedding.sequences([REQUESTS[x.state].skills for x in drawn])
    d = skill_distance(agent.embedding.replies(said), asked)
    share = agent.cfg.lambda_s / agent.cfg.lambda_p
    shaped = []
    for x, distance in zip(drawn, d):
        value = None
        if x.reward is not None:
            value = x.reward - share * float(distance)
        shaped.append(value)
    return shaped


def plain_loss(agent, replies, temperature=0.7):
    """9a from the definitions: one row per reply, whole sequence, no cache, terms written out."""
    total_p = total_d = 0.0
    n = n_p = 0
    flat = numbered(replies, REWARDS)
    shaped = plain_shaped(agent, flat)
    for x, value in zip(flat, shaped):
        logp, banned, drawn = plain_reply(agent, REQUESTS[x.state], x.reply, temperature)
        p = logp.exp()
        total_d = total_d + (p * logp.masked_fill(banned, 0)).sum()
        n += len(drawn)
        if value is not None:
            pairs = zip(flat, shaped)
            peers = [v for other, v in pairs if other.state == x.state and v is not None]
            advantage = value - sum(peers) / len(peers)
            total_p = total_p - advantage * logp[range(len(drawn)), drawn].sum()
            n_p += len(drawn)
    return agent.cfg.lambda_p * total_p / n_p + agent.cfg.lambda_d * total_d / n


def test_shared_prefix_gradient_equals_plain(sampled):
    # gate: 1e-5 relative
    _, replies = sampled
    agent = sharp_agent(lambda_d=0.3)
    ours = gradients(agent, lambda: updated(agent, replies))
    agent.optimizer.zero_grad()
    plain_loss(agent, replies).backward()
    plain = torch.cat([p.grad.flatten() for p in agent.params])
    assert (ours - plain).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize("average", ["batch", "sum"])
def test_micro_batches_change_nothing(sampled, average):
    _, replies = sampled
    found = []
    for size in (1, 8):
        agent = sharp_agent(micro_batch=size, cs_average=average, lambda_d=0.3)
        found.append(gradients(agent, lambda agent=agent: updated(agent, replies)))
    one, whole = found
    assert (one - whole).norm() < 1e-5 * whole.norm()


def test_distance_is_a_reward_and_counted_once(sampled):
    # lambda_s changes the gradient exactly as a reward of -(lambda_s/lambda_p) d would
    _, replies = sampled
    shaped = sharp_agent(lambda_s=0.6, lambda_p=2.0, lambda_d=0.0)
    plain = sharp_agent(lambda_s=0.0, lambda_p=2.0, lambda_d=0.0)
    rewards = [[1.0, 0.0, 0.5]] * 3
    d = shaped._distances(shaped.prepare(REQUESTS), numbered(replies, rewards)).view(3, 3)
    paid = (T(rewards) - 0.3 * d).tolist()
    a = gradients(shaped, lambda: updated(shaped, replies, rewards))
    b = gradients(plain, lambda: updated(plain, replies, paid))
    assert (a - b).norm() < 1e-5 * b.norm()
    assert a.norm() > 0


def test_update_steps_logs_and_raises_the_rewarded_reply(sampled):
    _, replies = sampled
    agent = sharp_agent(agent_lr=1e-3, lambda_d=0.0, lambda_s=0.0)
    rewards = [[1.0, 0.0, 0.0]] * 3

    def gain() -> float:
        _, logp, mask = scored(agent, REQUESTS, replies)
        states = T([0, 0, 0, 1, 1, 1, 2, 2, 2])
        return -float(policy_loss(logp, T(rewards).flatten(), mask, states))

    before = gain()
    row = updated(agent, replies, rewards)
    assert set(row) == {
        "loss", "L_p", "L_s", "L_d", "entropy", "grad_norm", "distance", "tokens",
    }
    assert all(map(math.isfinite, row.values()))
    assert gain() > before


def test_update_of_none_rewards_leaves_9b(sampled):
    _, replies = sampled
    agent = sharp_agent(lambda_d=0.0)
    nobody = [[None] * 3] * 3
    assert gradients(agent, lambda: updated(agent, replies, nobody)).norm() == 0


def test_update_refuses_nan_before_the_step(sampled):
    _, replies = sampled
    agent = sharp_agent()
    before = [p.clone() for p in agent.params]
    with pytest.raises(FloatingPointError, match="L_p"):
        updated(agent, replies, [[math.nan, 1.0, 0.0]] * 3)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.params))
    with pytest.raises(ValueError, match="freeze_embedding"):
        agent.embedding = None
        updated(agent, replies)


def test_a_turn_is_tokenised_and_compiled_once(monkeypatch):
    """From the prompt to the update; so is that of a single agent, which reads its constraints."""
    agent = sharp_agent()
    single = Request("And?", (), {}, (("Hi", "Hello."),), "delivery")
    requests = [*REQUESTS, single]
    calls = {"prompts": 0, "constraints": 0}
    chat = agent.tokenizer.apply_chat_template
    compiled = reader.compile_constraints

    def count_prompt(*args, **kwargs):
        calls["prompts"] += 1
        return chat(*args, **kwargs)

    def count_constraints(*args):
        calls["constraints"] += 1
        return compiled(*args)

    monkeypatch.setattr(agent.tokenizer, "apply_chat_template", count_prompt)
    monkeypatch.setattr(reader, "compile_constraints", count_constraints)
    prepared = agent.prepare(requests)
    replies = agent.speak(prepared, 3, generator=seeded(0))
    agent.update(prepared, replies, [[0.0, 1.0, 0.5]] * len(requests))
    agent.log_probs(prepared, [group[0] for group in replies])
    assert calls == {"prompts": len(requests), "constraints": len(requests)}


def test_what_is_prepared_speaks_as_what_is_not():
    agent = sharp_agent()
    prepared = agent.prepare(REQUESTS)
    once = flattened(agent.speak(prepared, 2, generator=seeded(1)))
    again = flattened(agent.generate(REQUESTS, 2, generator=seeded(1)))
    for one, other in zip(once, again):
        assert one.ids == other.ids
    assert [p.request for p in prepared] == REQUESTS
    assert prepared[1].constraints == agent.constraints(REQUESTS[1])


# ------------------------------------------------------------------------------ 9c, files, flags
def test_skill_embedding_puts_a_reply_near_its_own_skill():
    agent = demo_agent()
    texts = ("I understand that it is annoying, we are sorry.", "The lamp costs {price_1}.")
    emb = agent.embedding.replies([agent.encode(text) for text in texts])
    own = agent.embedding.sequences([("soothe",), ("price",)])
    other = agent.embedding.sequences([("price",), ("soothe",)])
    assert (skill_distance(emb, own) < skill_distance(emb, other)).all()
    nothing = agent.embedding.sequences([()])
    assert skill_distance(emb[:1], nothing).tolist() == [1.0]


def test_an_agent_saves_and_resumes_bit_for_bit(tmp_path):
    agent = demo_agent(max_new_tokens=12)
    request = REQUESTS[2:]
    pairs = [(request[0], text) for text in csagent.TALK[:3]]
    supervised(agent, pairs * 8, 25, WarmConfig(sft_batch=8, sft_lr=3e-3))
    agent.freeze_embedding(csagent.TALK)
    replies = agent.generate(request, 3, generator=seeded(0))
    updated(agent, replies, [[1.0, 0.0, 0.5]], request)
    agent.save(tmp_path)
    save_file(agent.optimizer_state(), tmp_path / "state.safetensors")
    model, tokenizer = load_model(str(tmp_path))
    assert tokenizer.encode("We {eta} 很") == agent.encode("We {eta} 很")
    again = CustomerServiceAgent(
        model, tokenizer, csagent.DEMO, ("guarantee",), agent.cfg, agent.lm
    )
    again.freeze_embedding(csagent.TALK)
    again.load_optimizer_state(load_file(tmp_path / "state.safetensors"))
    rows = [updated(a, replies, [[0.0, 1.0, 0.5]], request) for a in (agent, again)]
    assert rows[0] == rows[1]
    assert all(torch.equal(a, b) for a, b in zip(agent.params, again.params))


@pytest.mark.parametrize("kind, bad", [
    (LMConfig, {"constraints": "firm"}),
    (LMConfig, {"temperature": 0.0}),
    (AgentConfig, {"lambda_p": 0.0}),
    (AgentConfig, {"group": 0}),
    (AgentConfig, {"agent_lr": math.nan}),
    (AgentConfig, {"cs_average": "m"}),
    (WarmConfig, {"sft_lr": 0.0}),
    (WarmConfig, {"sft_batch": 0}),
])
def test_config_refuses_and_names_the_flag(kind, bad):
    with pytest.raises(ValueError, match="--" + next(iter(bad))):
        kind(**bad)


def test_a_group_of_one_needs_no_baseline():
    with pytest.raises(ValueError, match="--group 1 leaves nothing"):
        AgentConfig(group=1)
    assert AgentConfig(group=1, cs_baseline="none").group == 1
