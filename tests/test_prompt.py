"""lm/prompt.py and how a real model reads and ends: what it is told, what is read once, where
disclaimers stand.  "Real" is a tiny model here, under a name that is none of those built here."""
import pytest
import torch

from csagent import DEMO, SLOTS, TALK, CustomerServiceAgent, demo_agent
from data import Dialogue, Request, Skill, Turn
from lm.config import LMConfig
from lm.constraints import Constraints
from lm.guard import Guard, Rules, Vocabulary, ends_a_sentence
from lm.models import build_tiny
from lm.passes import shared_start
from lm.prompt import Prompter, shown_exchanges
from start.supervised import backward, encoded, settled
from tests.agents import seeded

T = torch.tensor
SORRY = Skill("sorry", "Say sorry.", ("I am sorry.",))
PRICE = Skill("price", "State the price.", ("It costs {price}.",), ("Tax included.",),
              needs=("price",), otherwise=("I have nothing on that.",))
POOL = {"sorry": SORRY, "price": PRICE}
CONTEXT = {
    "price_1": "30 euros", "eta_1": "Friday", "fit_1": "no",
    "price_2": "20 euros", "eta_2": "Monday", "fit_2": "yes", "_domain": "shop",
}
TURNS = (
    Turn("Hi", reply="Hello."),
    Turn("And?", context=CONTEXT, skills=("sorry",), reply="Well, {eta_2}."),
    Turn("How much?", context=CONTEXT, skills=("sorry", "price"),
         reply="I am sorry. It costs {price_2}. Tax included."),
    Turn("Again?", context=CONTEXT, skills=("sorry", "price"), reply="It costs {price_2}."),
)
LOGS = (Dialogue("d", TURNS),)


def prompter(soft=False):
    return Prompter(POOL, ("we promise",), str, soft)


def real_agent(skills=DEMO, scale=2.0, **flags) -> CustomerServiceAgent:
    """Weights so large that an error of the computation would show."""
    given = {"model": "x", "quantise": "none", "lora_rank": 0, "max_new_tokens": 24} | flags
    model, tokenizer = build_tiny(TALK * 20, SLOTS, 0, width=64, layers=2)
    for p in model.parameters():
        if p.ndim > 1:
            p.data.mul_(scale)
    return CustomerServiceAgent(model, tokenizer, skills, ("guarantee",), lm=LMConfig(**given))


# --- what a real model is told ------------------------------------------------------------------

def test_a_prompt_by_hand():
    request = Request("What does it cost?", ("sorry", "price"), CONTEXT)
    told = prompter().messages(request, Constraints(), shown_exchanges(LOGS))
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert told[0]["content"].endswith("as in {price_1}.\nNever say: we promise")
    # eta is no fact of these skills, and candidate 1 does not fit
    assert told[-1]["content"] == (
        "Customer: What does it cost?\n"
        "Facts: price_2 = 20 euros, _domain = shop\n"
        "Say: I am sorry. It costs {price_2}. Tax included."
    )
    assert told[1]["content"].startswith("Customer: How much?\n")
    assert told[2]["content"] == "I am sorry. It costs {price_2}. Tax included."


def test_what_cannot_be_stated_has_another_example():
    request = Request("What does it cost?", ("price",), {})
    told = prompter().messages(request, Constraints(), ())
    assert told[-1]["content"].endswith(
        "Facts: none\nSay: I have nothing on that.")


def test_a_single_agent_is_told_all_that_fits_and_no_skills():
    history = (("Hi", "Hello."),)
    request = Request("And?", (), CONTEXT, history, "buy", None)
    told = prompter().messages(request, Constraints(), shown_exchanges(LOGS))
    assert [m["content"] for m in told[-3:-1]] == ["Hi", "Hello."]
    assert told[-1]["content"] == (
        "Customer: And?\nIntent: buy, emotion: unknown\n"
        "Facts: price_2 = 20 euros, eta_2 = Monday, _domain = shop"
    )
    assert all("\nSay: " not in m["content"] for m in told)


def test_bans_of_a_turn_are_asked_for_where_nothing_enforces_them():
    request = Request("Hm", ("sorry",), {})
    constraints = Constraints(must_not_say=("we promise", "calm down"))
    soft = prompter(soft=True).messages(request, constraints, ())[-1]["content"]
    assert soft.endswith("\nNever say: calm down")
    assert "Never" not in prompter().messages(request, constraints, ())[-1]["content"]


def test_exchanges_that_show_most():
    # the second: no other skills and a slot are left, so the first turn with a reply
    shown = shown_exchanges(LOGS)
    assert [asked.user for asked, _ in shown] == ["How much?", "Hi"]
    assert shown_exchanges([]) == ()
    assert shown_exchanges([Dialogue("d", (Turn("Hi"),))]) == ()


def test_an_agent_keeps_what_it_was_shown(tmp_path):
    agent = real_agent(POOL).showing(LOGS)
    agent.save(tmp_path)
    other = (Dialogue("e", (Turn("Other", reply="Words."),)),)
    again = real_agent(POOL).showing(other, tmp_path)
    assert again.shown == agent.shown
    assert real_agent(POOL).showing(other, tmp_path / "none").shown[0][0].user == "Other"
    tiny = demo_agent().showing(LOGS)
    assert tiny.shown == ()


def test_a_model_built_here_reads_what_it_always_read():
    agent = demo_agent().showing(LOGS)
    dual = Request("How much?", ("soothe", "price"), {"eta": "Friday", "price_1": "3"})
    single = Request("And?", (), {"price_1": "3", "fit_1": "no"}, (("Hi", "Yes."),), "buy")
    said = [agent.tokenizer.decode(agent.prompt(request)) for request in (dual, single)]
    assert said[0] == ("<|system|>soothe price\neta: Friday\n{price_1}<|end|>"
                       "<|user|>How much?<|end|><|assistant|>")
    assert said[1] == ("<|system|>\nnever say: guarantee\nintent: buy, emotion: unknown\nnone fits"
                       "<|end|><|user|>Hi<|end|><|assistant|>Yes.<|end|><|user|>And?<|end|>"
                       "<|assistant|>")


# --- what is the same for all is read once ------------------------------------------------------

REQUESTS = [
    Request("Where is my lamp?", ("soothe",), {"eta": "Friday"}),
    Request("Where is my lamp, and what did it cost?", ("price",), {"price_1": "3"}),
    Request("Hello?", (), {}),
]


def test_prompts_begin_alike_and_greedy_replies_are_those_of_transformers():
    agent = real_agent(constraints="soft")
    prompts = [agent.prompt(request) for request in REQUESTS]
    shared = agent._worth_sharing(prompts[:2])
    assert shared == shared_start(prompts[:2]) > 40
    assert agent._worth_sharing(prompts[:1]) == 0
    # the same prompt twice: something is left to read for each
    assert agent._worth_sharing([prompts[0]] * 2) == len(prompts[0]) - 2
    control = agent.vocab.control.tolist()
    for batch in ([0, 1], [0, 1, 2], [0, 0]):
        ours = agent.generate([REQUESTS[i] for i in batch], 2, temperature=0)
        for i, group in zip(batch, ours):
            seen = torch.ones(1, len(prompts[i]), dtype=torch.long)
            out = agent.model.generate(
                T([prompts[i]]), attention_mask=seen, do_sample=False, max_new_tokens=24,
                suppress_tokens=control,
            )
            theirs = out[0, len(prompts[i]):].tolist()
            assert [r.ids for r in group] == [theirs, theirs]


def test_prompts_without_a_gradient():
    pairs = list(zip(REQUESTS, TALK))
    found = {}
    for flag in (True, False):
        agent = real_agent(prompt_gradient=flag, scale=1.0)
        loss = backward(agent, encoded(agent, pairs), settled(agent, None))
        found[flag] = loss, torch.cat([p.grad.flatten() for p in agent.params])
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-6)
    whole, replies = found[True][1], found[False][1]
    assert not torch.allclose(whole, replies, atol=1e-4)
    # most of it is there: it points where the whole points
    assert torch.cosine_similarity(whole, replies, dim=0) > 0.7


# --- disclaimers --------------------------------------------------------------------------------

def guard_after(text, whole_sentences, must_say=("Terms apply.",)):
    pieces = [bytes([byte]) for byte in range(256)]
    vocab = Vocabulary(pieces + [b""], ends=[256])
    vocab.whole_sentences = whole_sentences
    guard = Guard(Rules(Constraints(must_say=must_say), vocab))
    for byte in text.encode():
        guard.push(byte)
    guard.finish()
    return guard.text


def test_a_disclaimer_begins_a_sentence():
    assert guard_after("we will sort", True) == "we will sort. Terms apply."
    assert guard_after("It is done! ", True) == "It is done!  Terms apply."
    assert guard_after("", True) == "Terms apply."
    # as always for a model built here
    assert guard_after("we will sort", False) == "we will sort Terms apply."


def test_no_reply_of_a_real_model_is_cut_by_its_disclaimer():
    must = {"say": Skill("say", must_say=("Terms apply.",))}
    agent = real_agent(must, max_new_tokens=40)
    request = Request("Hi", ("say",), {})
    replies = agent.generate([request], 40, generator=seeded(0))[0]
    for reply in replies:
        before = reply.text.removesuffix("Terms apply.").strip()
        assert before != reply.text.strip() and (not before or ends_a_sentence(before))
        assert len(reply.ids) <= 40
