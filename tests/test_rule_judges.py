"""The rule judge and the replay judge (judge.py): their scores by hand, and their ranges."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge import ReplayJudge, RuleJudge, _words, diversity, fitness, quality
from tests.helpers import GUIDE, PAY, POOL, SORRY, judged, property_test

# --- S_1..S_4 by hand ---------------------------------------------------------------------------

def test_fitness_by_hand():
    # F1 of the slots stated against those needed
    assert fitness(judged("You get {refund_2} back.", PAY)) == 1.0
    # the wrong candidate's
    assert fitness(judged("You get {refund_1} back.", PAY)) == 0.0
    # one right, one wrong: 2 / (1 + 1 + 1)
    both = judged("You get {refund_1} or {refund_2} back.", PAY)
    assert fitness(both) == pytest.approx(2 / 3)
    # needed, not said
    assert fitness(judged("You get money back.", PAY)) == 0.0
    # said, not needed
    assert fitness(judged("You get {refund_2} back.", SORRY)) == 0.0
    assert fitness(judged("Sorry.", SORRY)) == 1.0
    # B_t has no refund: nothing to state
    assert fitness(judged("Well.", PAY, context={})) == 1.0
    # candidates compare by number, and a fact "fit_2b" says nothing of any
    said = "You get {refund_2}."
    assert fitness(judged(said, PAY, context={"refund_2": "1", "fit_02": "no"})) == 0
    assert fitness(judged(said, PAY, context={"refund_2": "1", "fit_2b": "no"})) == 1


def test_words_keep_their_marks():
    assert _words("यह किताब {कीमत} है, 三十 ok") == ("यह", "किताब", "{कीमत}", "है", "三", "十", "ok")


def test_compliance_counts_order_and_needless_acts():
    judge = RuleJudge(POOL)

    def S_3(reply, *skills):
        return judge.compliance(judged(reply, *skills))

    sorry = "I am very sorry for the trouble."
    pay = "You get {refund_2} back."
    guide = "Please print the return label."
    assert S_3(f"{sorry} {pay}", SORRY, PAY) == 1.0
    # longest common subsequence 1 of 2
    assert S_3(f"{pay} {sorry}", SORRY, PAY) == 0.5
    # one act more than was asked for
    assert S_3(f"{sorry} {pay} {guide}", SORRY, PAY) == pytest.approx(2 / 3)
    # one missing
    assert S_3(sorry, SORRY, PAY) == 0.5
    # a disclaimer is no act
    assert S_3(f"{guide} Keep the receipt.", GUIDE) == 1.0
    # shouting
    assert S_3(f"{sorry}!!!", SORRY) == 0.5


def test_quality_and_diversity_by_hand():
    assert quality("You get your money back.") == 1.0
    assert quality("you get your money back.") == 0.75
    assert quality("") == 0.0
    assert quality("You get your money back") == 0.75
    assert diversity("one two three", ()) == 1.0
    # said before: only its own distinct pairs are left
    assert diversity("one two three", ("one two three",)) == 0.5
    # pairs ab ba ab ba: 2 distinct of 4
    assert diversity("a b a b a", ()) == pytest.approx(0.5 * 2 / 4 + 0.5)


# --- ranges, GRE, and what has no reference -----------------------------------------------------

EXAMPLES = [skill.examples[0] for skill in POOL.values()]
pieces = st.sampled_from([*EXAMPLES, "{refund_1}", "{refund_2}.", "!", "我很抱歉。"])
replies = st.text(max_size=60) | st.lists(pieces).map(" ".join)
some_skills = st.lists(st.sampled_from(list(POOL.values())), max_size=3, unique=True)
references = st.sampled_from([None, "You get {refund_2} back.", "我"])
said_before = st.lists(st.text(max_size=20), max_size=2)


@property_test
@given(replies, some_skills, references, said_before)
def test_every_score_lies_in_0_1(reply, skills, reference, previous):
    item = judged(reply, *skills, reference=reference, previous=tuple(previous))
    rules = RuleJudge(POOL)
    for judge in (rules, ReplayJudge()):
        scores, = judge.score([item])
        if scores is not None:
            assert len(scores) == 4
            assert all(-1e-9 <= s <= 1 + 1e-9 for s in scores)
    assert rules.score([item]) != [None]
    assert all(0 <= g <= 10 for g in rules.gre([item])[0])


def test_rule_judge_gre_by_hand():
    # two polite words = 10; facts right = 10; a next step = 10, a question alone = 5
    guided = judged("Please print the return label, thank you.", GUIDE)
    asked = judged("Well?", SORRY)
    assert RuleJudge(POOL).gre([guided, asked]) == [(10, 10, 10), (0, 10, 5)]


def test_replay_judge_needs_a_reference():
    judge = ReplayJudge()
    reference = "You get {refund_2} back."
    same = judged(reference, PAY, reference=reference)
    # None, never 0
    assert judge.score([judged("x", PAY), same]) == [None, (1.0, 1.0, 1.0, 1.0)]
    assert judge.gre([same]) == [None]
    # slot missing; forbidden said, disclaimer missing
    promise = judged("We guarantee it.", GUIDE, reference=reference)
    _, S_2, S_3, _ = judge.score([promise])[0]
    assert S_2 == 0
    assert S_3 == 0
