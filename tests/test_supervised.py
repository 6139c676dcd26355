"""start/supervised.py: what is learned, what is not, and that parts and caches change nothing."""
import math

import pytest
import torch

import csagent
from csagent import demo_agent
from data import Request
from lm import passes
from lm.config import WarmConfig
from start.supervised import backward, cross_entropy, dev_loss, encoded, settled, supervised
from tests.agents import REQUESTS, sharp_agent


def test_supervised_learns():
    agent = demo_agent(max_new_tokens=12)
    warm = WarmConfig(sft_batch=8, sft_lr=3e-3)
    pairs = [(REQUESTS[2], text) for text in csagent.TALK[:3]]
    before = dev_loss(agent, pairs, warm)
    out = supervised(agent, pairs * 8, 25, warm, seed=0, dev=pairs)
    assert out["dev_loss"] < before / 2
    assert math.isfinite(out["loss"])


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="does the dataset hold replies"):
        supervised(demo_agent(), [], 1)


def test_customers_words_are_never_in_the_loss(monkeypatch):
    # logits exist at reply positions alone, and only those have a gradient
    agent = sharp_agent()
    seen = []
    real = agent.model.lm_head.forward
    monkeypatch.setattr(agent.model.lm_head, "forward", lambda h: seen.append(real(h)) or seen[-1])
    replies = ["We are sorry.", "Terms apply, {eta}."]
    cross_entropy(agent, encoded(agent, list(zip(REQUESTS, replies)))).backward()
    lengths = [len(agent.encode(r)) + 1 for r in replies]
    # one list of the replies' tokens
    assert [len(logits) for logits in seen] == [sum(lengths)]


def single_agents_pairs() -> list[tuple[Request, str]]:
    """The system message of single agents is the same for all."""
    said = (("Hello", "Good morning."),)
    talks = (
        ("Where is my parcel?", (), "It arrives soon."),
        ("I am angry! Where is it?", said, "I am sorry."),
        ("And?", (), "On Monday."),
    )
    pairs = []
    for user, history, text in talks:
        pairs.append((Request(user, (), {}, history, "delivery", "neutral"), text))
    return pairs


def test_what_all_prompts_begin_with_is_read_once(monkeypatch):
    """Loss and gradient against reading every prompt whole."""
    monkeypatch.setattr(passes, "supports", lambda _: False)
    agent = sharp_agent()
    data = encoded(agent, single_agents_pairs())
    prompts = [prompt for prompt, _ in data]
    shared = passes.shared_start(prompts)
    assert shared > 3
    assert len({tuple(prompt[:shared]) for prompt in prompts}) == 1
    assert len({tuple(prompt[:shared + 1]) for prompt in prompts}) > 1
    read = []
    forward = agent.model.forward

    def counting(*args, **kwargs):
        read.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(agent.model, "forward", counting)
    found = []
    for least in (shared, shared + 1):
        monkeypatch.setattr(passes, "SHARED", least)
        agent.model.zero_grad()
        read.clear()
        value = backward(agent, data, settled(agent, None))
        gradient = torch.cat([p.grad.flatten() for p in agent.params])
        found.append((value, gradient, sum(read)))
    (once, grad, tokens), (whole, plain, all_tokens) = found
    assert once == pytest.approx(whole, abs=1e-6)
    assert (grad - plain).norm() < 1e-5 * plain.norm()
    assert all_tokens - tokens == shared * (len(data) - 1)
