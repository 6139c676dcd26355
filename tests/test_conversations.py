"""People who talk to the shop (experiments/conversations.py): what the acts of an answer must be.

The Expert is warm-started on the whole training split, a phrase book speaks.  Only the
conversations that faults were mended from are here; the others are reported in docs/results.md."""
import pytest
import torch

from data import load
from experiments.conversations import PARTS, Line, conversations, faults, hold
from expert import Expert, ExpertConfig
from gopo import Gopo
from hosted.judge import judge_for
from lm.constraints import compile_constraints, violations
from perception import Perception
from play import GopoConfig
from start.warm_expert import warm_expert

TALKS = conversations(PARTS[0])
# The last line asks how to send an item back, and is answered with the period of return.
KNOWN = {"broken on arrival, wants his money back": 1}


@pytest.fixture(scope="module")
def gopo():
    torch.manual_seed(0)
    shop = load("mgshop")
    cfg = ExpertConfig()
    expert = Expert(list(shop.skills), Perception(shop.intents, shop.emotions), cfg)
    expert.perception.fit(shop, hidden=cfg.hide_ngrams)
    warm_expert(expert, shop, 0)
    return Gopo(shop, expert, None, judge_for(shop), GopoConfig())


@pytest.fixture(scope="module")
def held(gopo):
    """Conversation -> its turns."""
    return dict(zip([talk.name for talk in TALKS], hold(gopo, TALKS)))


def test_there_are_ten_conversations():
    talks = conversations()
    assert len(talks) == 10
    assert len(TALKS) == len(conversations(PARTS[1])) == 5
    assert {talk.part for talk in talks} == set(PARTS)


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.name)
def test_a_person_is_understood(talk, held):
    steps = held[talk.name]
    assert len(steps) == len(talk.lines)
    found = []
    for line, step in zip(talk.lines, steps):
        found += faults(line, step.skills)
    assert len(found) == KNOWN.get(talk.name, 0), found


def test_an_order_that_the_shop_does_not_know_is_not_confirmed(gopo, held):
    first = held["a stranger's order number"][0]
    assert first.seen.context == {}
    skills = [gopo.dataset.skills["confirm_order"]]
    demanded = compile_constraints(skills, first.seen.context)
    assert demanded.must_say == ("I have nothing on that.",)
    assert violations("I found your order.", demanded)
    assert not violations(first.reply, first.prepared.constraints)


def test_what_is_missing_and_what_is_out_of_place_is_named():
    line = Line("Hello?", [["greet"], ["ask_need", "ask_order"]], ["close"])
    assert faults(line, ("greet", "ask_order")) == []
    assert faults(line, ("close",)) == [
        "misses greet", "misses ask_need or ask_order", "close is out of place"]
