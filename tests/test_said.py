"""lm/said.py against the model's own forward pass: log-probabilities, gradients, odd shapes."""
import pytest
import torch

from csagent import SLOTS, TALK
from lm import passes
from lm.config import LMConfig
from lm.fast import rms_norm
from lm.models import build_tiny
from lm.passes import Passes
from lm.said import Ragged, said_states
from tests.agents import REQUESTS, seeded, sharp_agent
from tests.test_fast import MODELS, PROMPTS, made, with_lora

# Uneven: three replies to the first prompt, none to the second, one of them empty.
OWNER = [0, 2, 0, 3, 3, 0]
REPLIES = [[4, 5, 6], [7], [8, 9], [], [20, 21, 22, 23, 24], [30]]


def plain(model, owner=OWNER, replies=REPLIES) -> list[torch.Tensor]:
    """log p of all words at each token of each reply, by the model itself, one at a time."""
    found = []
    for state, reply in zip(owner, replies):
        prompt = PROMPTS[state]
        out = model(torch.tensor([prompt + reply])).logits[0]
        found.append(out[len(prompt) - 1:-1].log_softmax(-1))
    return found


def ours(model, owner=OWNER, replies=REPLIES) -> list[torch.Tensor]:
    logits, _ = said_states(model, PROMPTS, owner, replies)
    return [row[:len(reply)].log_softmax(-1) for row, reply in zip(logits, replies)]


def gradient(model, logp: list[torch.Tensor]) -> torch.Tensor:
    """Of a sum in which every word of every token has a weight of its own."""
    model.zero_grad()
    every = torch.cat(logp)
    weight = torch.randn(every.shape, generator=seeded(0))
    (every * weight).sum().backward()
    learned = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(learned)


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_and_gradient_are_the_models(name):
    # gates: 1e-5 in fp32, the gradient within 1e-5 of its length
    model = made(name)
    theirs, fast = plain(model), ours(model)
    assert torch.allclose(torch.cat(fast), torch.cat(theirs), rtol=0, atol=1e-5)
    expected = gradient(model, theirs)
    assert (gradient(model, fast) - expected).norm() <= 1e-5 * expected.norm()


def test_adapters_learn():
    model = with_lora(made("qwen3"))
    expected = gradient(model, plain(model))
    assert (gradient(model, ours(model)) - expected).norm() <= 1e-5 * expected.norm()


def test_the_second_of_two_equal_passes_is_equal_to_the_last_bit():
    model = made("qwen3")
    once = gradient(model, ours(model))
    assert torch.equal(once, gradient(model, ours(model)))


def test_norm_and_its_gradient_by_hand():
    # rms of (3, 4) = sqrt(12.5) = 3.5355, u = (.8485, 1.1314), y = w u;
    # dL/dy = (1, 0): mean(h u) = .4243, dL/dx = (1 - .36, -.48) / 3.5355, dL/dw = (.8485, 0)
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    y = rms_norm(x, weight, 0.0)
    assert y[0].tolist() == pytest.approx([0.8485, 2.2627], abs=1e-4)
    y.backward(torch.tensor([[1.0, 0.0]]))
    assert x.grad[0].tolist() == pytest.approx([0.1810, -0.1358], abs=1e-4)
    assert weight.grad.tolist() == pytest.approx([0.8485, 0.0], abs=1e-4)


def test_ragged_by_hand():
    # two tokens in row 1, one in row 0, in this order; row 2 is empty
    ragged = Ragged([1, 0], [2, 1], 3, torch.device("cpu"))
    rows = ragged.spread(torch.tensor([[1.0], [2.0], [3.0]]))
    assert rows[..., 0].tolist() == [[3, 0], [1, 2], [0, 0]]
    assert ragged.listed(rows)[:, 0].tolist() == [1, 2, 3]
    assert ragged.number.tolist() == [0, 1, 0]


def test_a_prompt_of_one_token_is_no_prefix():
    model = made("llama")
    logits, _ = said_states(model, [[8]], [0], [[4, 5]])
    plainly = model(torch.tensor([[8, 4]])).logits
    assert torch.allclose(logits, plainly, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision, most", [("fp32", 1e-5), ("bf16", 0.1)])
def test_a_model_that_is_built_here_is_read_so(precision, most, monkeypatch):
    model, _ = build_tiny(TALK * 20, SLOTS, 0, width=64, layers=2)
    read = Passes(model, LMConfig(model="tiny"), "cpu", precision)
    found = []
    for known in (True, False):
        monkeypatch.setattr(passes, "supports", lambda _, known=known: known)
        with torch.no_grad(), read.autocast(learning=True):
            found.append(read.reply_states(PROMPTS, OWNER, REPLIES))
    (fast, hidden, ids, mask), slow = found
    assert torch.equal(ids, slow.ids)
    assert torch.equal(mask, slow.mask)
    p, q = fast[mask].log_softmax(-1), slow.logits[mask].log_softmax(-1)
    assert (p - q).abs().max() < most
    assert torch.allclose(hidden[mask], slow.hidden[mask], atol=most)


def test_prompts_that_are_mostly_the_same_are_read_by_the_models_own_pass(monkeypatch):
    model, _ = build_tiny(TALK * 20, SLOTS, 0, width=64, layers=2)
    read = Passes(model, LMConfig(model="tiny"), "cpu", "fp32")
    asked = []
    real = passes.said_states
    monkeypatch.setattr(passes, "said_states", lambda *x: asked.append(x) or real(*x))
    # 3 x 20 of 92 tokens would be read again, then 3 x 5 of 92
    for alike in (20, 5):
        prompts = [[7] * alike + [i] * (22 - alike) for i in range(10, 12)]
        read.reply_states(prompts * 2, [0, 1, 2, 3], [[3], [4], [5], [6]])
        assert len(asked) == (alike == 5)


def test_what_is_sampled_is_what_is_scored():
    agent = sharp_agent(max_new_tokens=20, temperature=0.7)
    prepared = agent.prepare(REQUESTS)
    replies = agent.speak(prepared, 3, generator=seeded(0))
    for j in range(3):
        of_each = [group[j] for group in replies]
        for reply, logp in zip(of_each, agent.log_probs(prepared, of_each)):
            assert logp == pytest.approx(reply.logp, abs=1e-5)
