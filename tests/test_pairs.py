"""What both agents learn from before GOPO (start/pairs.py)."""
import numpy as np

from data import Dataset, Dialogue, Skill, Turn, slots
from expert import ExpertState
from expert_learner import labelled_states
from start.pairs import mixed_pairs, slot_names, unfound_pairs, warm_pairs
from tests.helpers import B_T, POOL

MORE = POOL | {name: Skill(name, examples=(f"I {name} you.",)) for name in ("greet", "thank")}
TURNS = (
    Turn("Hi.", "hello", "happy", {}, ("sorry",), "I am very sorry for the trouble."),
    Turn("My money?", None, None, B_T, ("pay",), "You get {refund_2} back."),
    Turn("And?", None, None, {}, None, None),
)


def toy_logs(template=None) -> Dataset:
    dialogues = [Dialogue("1", TURNS)]
    return Dataset("toy", MORE, ("hello",), ("happy",), dialogues, [], [], template=template)


def phrase_book(skills, context, rng):
    said = []
    for name in skills:
        if name != "pay":
            said.append(MORE[name].examples[0])
        elif context:
            said.append("You get {refund_2} back.")
    return " ".join(said) or "Well."


def says_all(request, text) -> bool:
    """Whether the reply words every skill but `pay`, whose example has a slot."""
    return all(MORE[s].examples[0] in text for s in request.skills if s != "pay")


def test_mixed_pairs_are_of_mixed_quality():
    logs = toy_logs(phrase_book)
    pairs = mixed_pairs(logs, 400, 1)
    assert len(pairs) == 400
    assert pairs == mixed_pairs(logs, 400, 1) != mixed_pairs(logs, 400, 2)
    # half follow their skills, the rest at best in part
    assert 0.6 < np.mean([says_all(request, text) for request, text in pairs]) < 0.85
    # a wrong candidate as often as the right one
    stated = [slots(text) for _, text in pairs]
    stated = [names for names in stated if names]
    assert 0.3 < np.mean([names == ["refund_1"] for names in stated]) < 0.7
    # but never a slot that B_t lacks
    assert all(set(slots(text)) <= set(request.context) for request, text in pairs)
    # a turn without a reply teaches nothing
    assert {request.user for request, _ in pairs} == {"Hi.", "My money?"}


def test_mixed_pairs_of_logs_and_of_a_single_agent():
    logs = toy_logs()
    own = {request.user: reply for request, reply in warm_pairs(logs.train)}
    pairs = mixed_pairs(logs, 400, 0)
    share = np.mean([own[request.user] == text for request, text in pairs])
    # half are their own, and half of the others by chance
    assert 0.65 < share < 0.85
    single = [request for request, _ in mixed_pairs(toy_logs(phrase_book), 20, 0, history_turns=3)]
    assert all(request.skills == () for request in single)
    assert any(request.history for request in single)
    assert mixed_pairs(Dataset("none", POOL, (), (), [], [], []), 5, 0) == []


def test_unfound_pairs_say_the_same_skills_without_facts():
    logs = toy_logs(phrase_book)
    pairs = warm_pairs(logs.train) * 50
    found = unfound_pairs(logs, pairs, 0)
    assert len(found) == 5                       # one in twenty of 100
    assert all(request.context == {} and request.skills for request, _ in found)
    assert {text for _, text in found} <= {"I am very sorry for the trouble.", "Well."}
    assert found == unfound_pairs(logs, pairs, 0)
    assert unfound_pairs(toy_logs(), pairs, 0) == []
    single = warm_pairs(logs.train, history_turns=3) * 50
    assert unfound_pairs(logs, single, 0) == []


def test_labelled_states_by_hand():
    said = (("Hi.", "I am very sorry for the trouble."),)
    assert labelled_states(toy_logs().train) == [
        (ExpertState("Hi."), ("sorry",)),
        (ExpertState("My money?", said, ("sorry",)), ("pay",)),
    ]


def test_slot_names_are_those_that_a_reply_may_carry():
    # fit_i is for reading only
    assert slot_names(toy_logs()) == ["refund_1", "refund_2"]
