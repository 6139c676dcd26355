"""lm/fast.py against the model's own forward pass: llama, qwen2 and qwen3, with random weights."""
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from data import Request
from experiments import bench
from lm import passes
from lm.constraints import violations
from lm.decoder import draw
from lm.fast import supports
from lm.lanes import Lanes
from tests.agents import REQUESTS, flattened, seeded, sharp_agent

V = 96
SIZES = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 32.0,
    "original_max_position_embeddings": 16,
}
# Name -> config: grouped queries, tied and untied heads, biases, wide heads, scaled RoPE.
MODELS = {
    "llama": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama, biases": LlamaConfig(
        **SIZES | {"num_key_value_heads": 4}, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True,
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2, yarn": Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=YARN),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "qwen3, biases": Qwen3Config(**SIZES, head_dim=8, attention_bias=True),
}
CLASSES = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}
PROMPTS = [[5, 6, 7], [9] * 17 + [3, 4], [8], list(range(10, 43))]


def made(name: str):
    """The model with random weights that are large enough for an error to show."""
    torch.manual_seed(0)
    model = CLASSES[name.split(",")[0]](MODELS[name]).eval()
    for parameter in model.parameters():
        spread = 0.2 if parameter.ndim > 1 else 0.3
        parameter.data.add_(torch.randn(parameter.shape) * spread)
    return model


def with_lora(model):
    config = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
    return model


@torch.no_grad()
def spoken(model, replies: list[list[int]], lanes: int) -> list[torch.Tensor]:
    """log p of all words at each token of each reply, [L, V]; `lanes` replies to each prompt."""
    room = max(map(len, replies))
    fast = Lanes(model, PROMPTS, lanes, room)
    last = [prompt[-1] for prompt in PROMPTS]
    token = torch.tensor(last).repeat_interleave(lanes)
    steps = []
    for t in range(room):
        steps.append(fast.step(token).log_softmax(-1))
        token = torch.tensor([reply[t] if t < len(reply) else 0 for reply in replies])
    every = torch.stack(steps, 1)                                        # [B, R, V]
    return [row[:len(reply)] for row, reply in zip(every, replies)]


@torch.no_grad()
def plain(model, replies: list[list[int]], lanes: int) -> list[torch.Tensor]:
    """The same by the model itself, one reply at a time, without a cache."""
    found = []
    for i, reply in enumerate(replies):
        prompt = PROMPTS[i // lanes]
        out = model(torch.tensor([prompt + reply])).logits[0]
        found.append(out[len(prompt) - 1:-1].log_softmax(-1))
    return found


def some_replies(lanes: int) -> list[list[int]]:
    rng = random.Random(1)
    replies = []
    for _ in range(lanes * len(PROMPTS)):
        replies.append([rng.randrange(V) for _ in range(rng.randint(1, 9))])
    return replies


# ------------------------------------------------------------------------------ the pass
@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_the_models(name):
    # gate: 1e-5 in fp32
    model = made(name)
    assert supports(model)
    replies = some_replies(3)
    ours = torch.cat(spoken(model, replies, 3))
    theirs = torch.cat(plain(model, replies, 3))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert theirs.exp().max() > 0.1


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_adapters_are_called(name):
    model = with_lora(made(name))
    assert supports(model)
    replies = some_replies(2)
    adapted = plain(model, replies, 2)
    for ours, theirs in zip(spoken(model, replies, 2), adapted):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    with model.disable_adapter():
        base = spoken(model, replies, 2)
    assert not torch.allclose(base[0], adapted[0], atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_greedy_is_generates(name):
    model = made(name)
    fast = Lanes(model, PROMPTS, 2, 12)
    last = [prompt[-1] for prompt in PROMPTS]
    token = torch.tensor(last).repeat_interleave(2)
    said = []
    for _ in range(12):
        token = fast.step(token).argmax(-1)
        said.append(token)
    ours = torch.stack(said, 1).tolist()
    for state, prompt in enumerate(PROMPTS):
        theirs = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
            max_new_tokens=12, eos_token_id=None, pad_token_id=0,
        )[0, len(prompt):].tolist()
        assert ours[2 * state:2 * state + 2] == [theirs, theirs]


@torch.no_grad()
def test_lanes_that_are_dropped_change_nothing():
    model = made("qwen3")
    whole = Lanes(model, PROMPTS, 4, 6)
    fewer = Lanes(model, PROMPTS, 4, 6)
    token = torch.arange(16)
    for lanes in (whole, fewer):
        lanes.step(token)
        lanes.step(token + 16)
    # the fullest state needs three lanes, and so all four would: three quarters
    assert fewer.keep([1, 3, 7, 8, 9, 10, 13]) == list(range(16))
    # three states, two lanes each
    kept = fewer.keep([1, 3, 7, 13])
    assert kept == [1, 3, 7, 4, 13, 12]
    token = token + 32
    ours = fewer.step(token[kept])
    assert torch.allclose(ours, whole.step(token)[kept], atol=1e-5)
    # two states of one lane
    assert fewer.keep([2, 5]) == [2, 5]
    token = token + 16
    ours = fewer.step(token[[7, 12]])
    assert torch.allclose(ours, whole.step(token)[[7, 12]], atol=1e-5)


@torch.no_grad()
def test_draws_from_the_pass_follow_the_models_softmax():
    model = made("qwen2")
    n = 20_000
    fast = Lanes(model, PROMPTS[1:2], n, 1)
    logits = fast.step(torch.full((n,), PROMPTS[1][-1]))
    ids, _ = draw(logits, torch.rand(n, generator=seeded(0)))
    p = model(torch.tensor(PROMPTS[1:2])).logits[0, -1].double().softmax(-1)
    seen = torch.bincount(ids, minlength=V)
    often = p * n > 5
    observed = [*seen[often].tolist(), seen[~often].sum().item()]
    expected = [*(p[often] * n).tolist(), (p[~often].sum() * n).item()]
    assert chisquare(observed, expected).pvalue > 1e-3


@torch.no_grad()
def test_keys_and_values_in_16_bits_as_on_a_gpu():
    model = made("qwen3")
    token = torch.tensor([prompt[-1] for prompt in PROMPTS])
    whole = Lanes(model, PROMPTS, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        half = Lanes(model, PROMPTS, 1, 2, torch.bfloat16)
        near = half.step(token)
    assert half.keys[0].dtype == half.prefix[0][0].dtype == torch.bfloat16
    p, q = whole.step(token).softmax(-1), near.float().softmax(-1)
    assert (p - q).abs().max() < 0.1


# ------------------------------------------------------------------------------ what is refused
def test_what_it_does_not_know_is_refused():
    assert not supports(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)))
    window = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert not supports(Qwen2ForCausalLM(window))
    dynamic = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    assert not supports(LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=dynamic)))
    assert not supports(Qwen3ForCausalLM(Qwen3Config(**SIZES, hidden_act="gelu")))

    class Changed(Qwen3ForCausalLM):
        """Might compute anything."""

    assert not supports(Changed(MODELS["qwen3"]))


# ------------------------------------------------------------------------------ the agent
def both_ways(agent, monkeypatch, requests, group, temperature):
    """Replies by this pass and by the model's own, with the same generators."""
    spoken_by = []
    for ours in (True, False):
        monkeypatch.setattr(passes, "supports", lambda _, ours=ours: ours)
        chance = [seeded(i) for i in range(len(requests))]
        groups = agent.generate(requests, group, temperature, generator=chance)
        spoken_by.append(flattened(groups))
    return spoken_by


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_and_bans_are_those_of_the_models_own_pass(temperature, monkeypatch):
    agent = sharp_agent(max_new_tokens=30)
    requests = [*REQUESTS, Request("And?", (), {}, (("Hi", "Hello."),), "delivery")]
    fast, slow = both_ways(agent, monkeypatch, requests, 10, temperature)
    for a, b in zip(fast, slow, strict=True):
        assert a.ids == b.ids
        assert a.logp == pytest.approx(b.logp, abs=1e-5)
        for (kind, ids), (other_kind, other_ids) in zip(a.bans, b.bans, strict=True):
            assert kind == other_kind
            assert ids.tolist() == other_ids.tolist()


def test_a_model_built_here_speaks_with_one_thread(monkeypatch):
    agent = sharp_agent(max_new_tokens=2)
    before = torch.get_num_threads()
    asked = []
    real = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), real(n)))
    agent.generate(REQUESTS[:1], 2, generator=seeded(0))
    assert asked == [1, before]
    assert torch.get_num_threads() == before


def test_it_learns_with_all_threads(monkeypatch):
    agent = sharp_agent(max_new_tokens=2)
    prepared = agent.prepare(REQUESTS[:1])
    replies = agent.speak(prepared, 2, generator=seeded(0))
    seen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    agent.update(prepared, replies, [[0.0, 1.0]])
    assert seen == []


@pytest.mark.parametrize("precision, states", [("fp32", 60), ("bf16", 12)])
def test_random_rules_are_kept(precision, states):
    agent = sharp_agent(precision=precision, temperature=1.0)
    assert supports(agent.model)
    rng = random.Random(3)
    requests = [bench.random_request(agent, rng, i) for i in range(states)]
    replies = agent.generate(requests, 5, generator=seeded(0))
    broken = 0
    for request, group in zip(requests, replies):
        constraints = agent.constraints(request)
        broken += sum(bool(violations(reply.text, constraints)) for reply in group)
    assert broken == 0
