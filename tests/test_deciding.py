"""A decision before the words: whatever is drawn, the words agree with it."""
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csagent import CustomerServiceAgent
from data import DECISION, DECISIONS, DataError, Request
from lm.config import AgentConfig, LMConfig
from lm.deciding import TAGS, Decider
from lm.guard import Vocabulary
from lm.models import build_tiny
from shop.catalogue import skill_pool
from shop.fds_customer import Desk
from shop.fds_ear import hear_offers
from tests.agents import scored, seeded
from text import split_decision

PROPOSAL = "propose_voucher"
SKILLS = skill_pool("fds")
CONTEXT = {"order_1": "4010", "report_1": "nothing unusual"}
# of these, sentences that issue, offer, deny and suppose a voucher can be made
WORDS = [
    "I", " have", " added", " a", " voucher", " coupon", " would", " help", " is", " in", " your",
    " account", " not", " if", " offer", " here", " has", " been", " sent", ".", "?", ",", " ",
    "{order_1}", "{report_1}", "\"", "voucher", "<end>"]
BYTES = [bytes([byte]) for byte in range(32, 127)]


def encode(text: str) -> list[int]:
    """A tag in its letters: a tokenizer that does not know it."""
    return [len(WORDS) + BYTES.index(letter.encode()) for letter in text]


VOCAB = Vocabulary([word.encode() for word in WORDS] + BYTES, ends=[WORDS.index("<end>")])
DECIDER = Decider(VOCAB, encode, SKILLS, ("guaranteed",), hear_offers, 60)
BOTH = Request("Hello?", (), CONTEXT, decisions=DECISIONS)


def written(request: Request, choices: list[int]) -> str:
    """A reply of tokens that may come next, one for each choice; words come before letters."""
    guard = DECIDER.rules(request).guard()
    for choice in choices:
        kind, ids = guard.banned()
        barred = {*guard.rules.static.tolist(), *ids.tolist()}
        allowed = [i for i in range(len(VOCAB.pieces)) if i not in barred]
        if kind == "allow":
            allowed = ids.tolist()
        words = [i for i in allowed if i < len(WORDS)] or allowed
        token = words[choice % len(words)]
        while guard.completes(token):
            # drawn again, as the decoder does
            words.remove(token)
            token = words[choice % len(words)]
        if token in VOCAB.ends:
            break
        guard.push(token)
    guard.finish()
    return guard.text


# --- by construction ------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=9, max_size=30))
def test_words_agree_with_the_decision_whatever_is_drawn(choices):
    decision, words, valid = split_decision(written(BOTH, choices))
    assert valid
    heard = hear_offers(words, CONTEXT)
    assert (DECISION in heard) == (decision == "voucher")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=9, max_size=30))
def test_a_control_copy_neither_issues_nor_offers(choices):
    request = replace(BOTH, decisions=("chat",), unheard=(DECISION, PROPOSAL))
    decision, words, _ = split_decision(written(request, choices))
    assert decision == "chat"
    assert hear_offers(words, CONTEXT) == set()


def words_of(decision: str, *words: str) -> str:
    """The reply that says these, as far as it may."""
    guard = DECIDER.rules(BOTH).guard()
    for letter in encode(f"<{decision}>"):
        assert letter in guard.banned()[1]
        guard.push(letter)
    for word in words:
        token = WORDS.index(word)
        if not guard.completes(token):
            guard.push(token)
    guard.finish()
    return split_decision(guard.text)[1]


def test_a_chat_may_offer_and_may_not_issue():
    offer = ("I", " would", " offer", " a", " voucher", ".")
    assert words_of("chat", *offer) == "I would offer a voucher."
    # at "voucher" it is heard, and left out
    assert words_of("chat", "I", " have", " added", " a", " voucher", ".") == "I have added a."


def test_a_voucher_is_said_once():
    issuing = ("I", " have", " added", " a", " voucher", ".")
    duty = SKILLS[DECISION].must_say[0]
    assert words_of("voucher", *issuing) == f"I have added a voucher. {duty}"
    supposed = words_of("voucher", "I", " help", " if", " a", " voucher", " is", " in")
    assert supposed == f"I help if a voucher is in. {SKILLS[DECISION].examples[0]} {duty}"


def test_no_tag_stands_in_the_words():
    guard = DECIDER.rules(BOTH).guard()
    for token in encode("<chat>Yes, <chat"):
        guard.push(token)
    kind, ids = guard.banned()
    assert kind == "ban"
    assert encode(">")[0] in ids


def test_where_the_tags_part():
    # "<chat>" and "<voucher>" in letters: both begin with "<"
    assert DECIDER.branch == (1, encode("cv"))


def test_a_customer_is_paid_what_was_decided():
    for decision in DECISIONS:
        desk = Desk(0, "train", 1)
        desk.reset()
        seen = desk.step(f"<{decision}> {words_of(decision, 'I', ' would', ' help', '.')}")
        assert seen.outcome.vouchers == (decision == "voucher")
        assert seen.outcome.valid


# --- what is refused ------------------------------------------------------------------------------

def test_a_reply_without_room_for_its_sentence_is_refused():
    with pytest.raises(DataError, match="--max_new_tokens 20 leaves no room .* use at least"):
        Decider(VOCAB, encode, SKILLS, (), hear_offers, 20)


def test_a_skill_that_nobody_hears_is_refused():
    with pytest.raises(DataError, match="no example of it is heard as issuing"):
        Decider(VOCAB, encode, SKILLS, (), lambda text, context: set(), 60)


# --- a language model -----------------------------------------------------------------------------

def agent_of(tags=TAGS, **flags) -> CustomerServiceAgent:
    """A small untrained model, whose weights are so large that it is sure of itself."""
    texts = []
    for skill in SKILLS.values():
        texts += skill.examples
    model, tokenizer = build_tiny(texts * 5, CONTEXT, 0, 64, 1, 400, tags)
    for p in model.parameters():
        if p.ndim > 1:
            p.data.mul_(3.0)
    lm = LMConfig(max_new_tokens=48, **flags)
    agent = CustomerServiceAgent(model, tokenizer, SKILLS, (), AgentConfig(), lm)
    agent.decide_by(hear_offers)
    return agent


@pytest.mark.parametrize("tags", [TAGS, ()], ids=["one token", "spelled"])
def test_a_model_keeps_its_word_and_log_pi_is_that_of_the_draw(tags):
    agent = agent_of(tags)
    request = replace(BOTH, user="Is it <voucher> or <|end|>?")
    replies, = agent.generate([request], 40, generator=seeded(1))
    assert {reply.decision for reply in replies} == set(DECISIONS)
    for reply in replies:
        heard = hear_offers(reply.text, CONTEXT)
        assert (DECISION in heard) == (reply.decision == "voucher")
        assert split_decision(reply.tagged) == (reply.decision, reply.text, True)
    _, logp, mask = scored(agent, [request], [replies])
    for i, reply in enumerate(replies):
        assert torch.allclose(logp[i][mask[i]], torch.tensor(reply.logp), atol=1e-4)
    if tags:
        # a customer cannot write the token of a tag
        assert set(agent.prompt(request)).isdisjoint(agent.encode("<voucher><chat>"))


def test_under_soft_constraints_the_form_is_only_measured():
    agent = agent_of(constraints="soft")
    request = BOTH
    replies, = agent.generate([request], 60, generator=seeded(2))
    valid = [split_decision(reply.tagged)[2] and reply.decision for reply in replies]
    assert not all(valid)
    # a tag can be drawn: nothing forbids what is only asked for
    prepared = agent.prepare([request])[0]
    tag, = agent.encode("<voucher>")
    assert tag not in prepared.rules.static


def test_a_request_without_decisions_is_answered_as_before():
    agent = agent_of()
    plain = replace(BOTH, decisions=())
    one, = agent.generate([plain], 3, generator=seeded(3))
    agent.decider = None
    two, = agent.generate([plain], 3, generator=seeded(3))
    assert one == two
    assert one[0].tagged is None
