"""MORE's rewards by rule, by hand; what cannot be checked is None, and silence earns nothing."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Facts, Judged
from systems.more_rewards import (
    NAMES,
    RuleRewards,
    bleu_of,
    consistency,
    coverage,
    fidelity,
    naturalness,
    novelty,
    numbers,
    repetition,
    rouge_l,
    scaffold_format,
    scaffold_reward,
)

FACTS = Facts(
    ("40.00",), frozenset({"50000", "7.30", "06-12", "07", "20000", "10", "40.00"}),
    (("interest", "cost"), ("limit",)))


def said(reply, previous=(), reference=None):
    return Judged("What would 20000 cost for 10 days?", {}, (), reply, previous, reference)


# --- numbers ------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, found", [
    ("40 or 40.00", ("40", "40")),
    ("20,000 at 7.30 percent", ("20000", "7.3")),
    ("until 06-12, ending in 07.", ("06-12", "07")),
    ("0.50 on 1,000,000.", ("0.5", "1000000")),
    ("1,2 and 3", ("1", "2", "3")),
    ("room2, B12, 3rd", ()),
    ("no number", ()),
])
def test_numbers(text, found):
    assert numbers(text) == found


# --- each reward by hand ------------------------------------------------------------------------

@pytest.mark.parametrize("reply, mark", [
    ("You pay 40.00 in all.", 1),
    ("you pay 40.00 in all", .75),               # no shape
    ("Dear customer, your inquiry has been received.", .75),
    ("Yes.", .5),                                # too short, and to nobody
    ("Please be informed that the interest is 40.00.", .5),
    ("", 0),
    ("...", 0),
])
def test_naturalness(reply, mark):
    assert naturalness(said(reply)) == mark


def test_consistency_is_the_share_of_needed_values_said():
    two = FACTS._replace(needed=("40.00", "06-12"))
    assert consistency(said("It is 40, until 06-12."), two) == 1
    assert consistency(said("It is 40.00."), two) == .5
    assert consistency(said("It is 40.01."), two) == 0
    assert consistency(said("Hello!"), FACTS._replace(needed=())) == 1


def test_fidelity_is_the_share_of_numbers_that_are_true():
    assert fidelity(said("On 20,000 it is 40.00, at 7.3 percent."), FACTS) == 1
    assert fidelity(said("It is 40.00, at 8 percent."), FACTS) == .5
    assert fidelity(said("It costs little."), FACTS) == 1


def test_coverage_is_the_share_of_topics_spoken_of():
    assert coverage(said("The Interest is low, the limits high."), FACTS) == 1
    assert coverage(said("It costs 40.00."), FACTS) == .5
    assert coverage(said("Unlimited, disinterested."), FACTS) == 0
    assert coverage(said("Hello."), FACTS._replace(topics=())) == 1


def test_novelty_looks_back_on_five_replies():
    # pairs: (the rate) (rate is) (is low); two of them were said
    assert novelty(said("The rate is low.", ("The rate is high.",))) == pytest.approx(1 / 3)
    filler = tuple(f"nothing {word}" for word in "abcde")
    assert novelty(said("The rate is low.", ("The rate is high.", *filler))) == 1
    assert novelty(said("Yes.", ("No.", "Yes."))) == 0


def test_repetition_looks_at_the_last_reply_alone():
    # 2 common pairs of 4
    assert repetition(said("The rate is low.", ("x y", "The rate is high."))) == .5
    assert repetition(said("The rate is low.", ("The rate is low.", "x y"))) == 1
    assert repetition(said("The rate is low.")) == 1


def test_the_same_reply_again_is_neither_new_nor_apart():
    item = said("You pay 40.00.", ("You pay 40.00.",))
    assert (novelty(item), repetition(item)) == (0, 0)


def test_rouge_and_bleu_by_hand():
    # common subsequence "the rate is high", 4 of 5 and 5 words
    assert rouge_l("the rate is high today", "the yearly rate is high") == pytest.approx(.8)
    assert rouge_l("same words here now", "same words here now") == 1
    assert bleu_of("same words here now", "same words here now") == pytest.approx(1)
    assert bleu_of("nothing of that", "same words here now") < .2


def test_stuffing_wins_consistency_and_pays_only_in_fidelity():
    """Why the simulated caller has to be the check: two of eight numbers are false."""
    item = said("It is 7.30, 06-12, 07, 50000, 41.00, 42.00, 20000 and 40.00.")
    assert consistency(item, FACTS) == 1
    assert fidelity(item, FACTS) == 6 / 8


# --- all of them --------------------------------------------------------------------------------

@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=30), max_size=3), st.text(max_size=30))
def test_every_mark_lies_in_0_to_1_whatever_is_said(reply, previous, reference):
    marks = RuleRewards(NAMES).rate([said(reply, tuple(previous), reference or None)], [FACTS])[0]
    for mark in marks:
        assert mark is None or 0 <= mark <= 1


def test_silence_earns_nothing():
    for reply in ("", " ", "?!"):
        assert RuleRewards(NAMES).rate([said(reply, ("a b",), "c")], [FACTS]) == [(0,) * len(NAMES)]


def test_what_cannot_be_checked_is_none():
    marks = RuleRewards(NAMES).rate([said("You pay 40.00.")], [Facts()])[0]
    unknown = [name for name, mark in zip(NAMES, marks) if mark is None]
    assert unknown == ["RSN", "FID", "COV", "RGE", "BLEU"]


def test_names_pick_and_order_the_marks():
    item = said("You pay 38.00.")
    assert RuleRewards(("FID", "NAT")).rate([item], [FACTS]) == [(0, 1)]


@pytest.mark.parametrize("names", [(), ("NAT", "NAT"), ("NAT", "NICE")])
def test_other_names_are_refused(names):
    with pytest.raises(ValueError, match="--more_rewards"):
        RuleRewards(names)


# --- the scaffold -------------------------------------------------------------------------------

@pytest.mark.parametrize("text, answer, kind, mark", [
    ("the interest is 5.42.", "5.42", "amount", 1),
    ("the interest is 5.41.", "5.42", "amount", 1),          # within .01
    ("the interest is 5.40.", "5.42", "amount", 0),
    ("5.42 or 5.43", "5.42", "amount", 0),                   # two candidates
    ("5.42, that is 5.42.", "5.42", "amount", 1),
    ("on 20000 for 10 days it is 5.42.", "5.42", "amount", 1),
    ("06-12", "5.42", "amount", 0),
    ("it ends on 06-12.", "06-12", "digits", 1),
    ("it ends on 6-12.", "06-12", "digits", 0),
    ("it ends in 7.", "07", "digits", 0),
    ("yes, that is within your limit.", "yes", "yes", 1),
    ("that is over your limit.", "yes", "yes", 0),
    ("that is over your limit.", "no", "yes", 1),
    ("yes and no.", "no", "yes", 0),                         # both
    ("perhaps.", "no", "yes", 0),
])
def test_scaffold_reward(text, answer, kind, mark):
    assert scaffold_reward(text, answer, kind, given=("20000", "10")) == mark


def test_scaffold_format():
    assert scaffold_format("the interest is 5.40.", "amount") == 1
    assert scaffold_format("the interest is 5.40", "amount") == 0
    assert scaffold_format("5.42 or 5.43.", "amount") == 0
    assert scaffold_format("that is over your limit.", "yes") == 1
    assert scaffold_format("yes and no.", "yes") == 0


def test_another_kind_of_task_is_refused():
    with pytest.raises(ValueError, match="amount, digits or yes"):
        scaffold_reward("5", "5", "word")
