"""The metrics of tse.py other than TSE: replayed tasks, GRE, BLEU, skills, intervals."""
import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from tse import bleu, g_eval, gre, interval, pass_hat, replay_turns, skill_f1, wilson


def test_replay_turns_by_hand():
    assert replay_turns([{1}, {1, 2}, set()]) == (1, 2, None)
    assert replay_turns([]) == (None, None, None)


def test_gre_and_g_eval_leave_out_the_unscored():
    assert gre([(6, 9, 0), None, (3, 3, 3)]) == pytest.approx(4)    # (6 + 9 + 0) / 3 = 5, and 3
    assert gre([None]) is None
    assert g_eval([]) is None


# --- BLEU ---------------------------------------------------------------------------------------

def test_bleu_by_hand():
    # every n-gram matches, 6 words for 7: the brevity penalty exp(1 - 7/6) alone
    found = bleu(["the cat sat on the mat"], ["the cat sat on the mat ."])
    assert found == pytest.approx(math.exp(1 - 7 / 6))
    # five characters, the last wrong: (4/5 * 3/4 * 2/3 * 1/2)^(1/4); by words it would be one word
    assert bleu(["我要退货吗"], ["我要退货吧"]) == pytest.approx(0.2 ** 0.25)


def test_bleu_leaves_out_what_has_no_reference():
    assert bleu(["x"], [""]) is None
    assert bleu([], []) is None
    assert bleu(["a b c d", "junk"], ["a b c d", ""]) == pytest.approx(1.0)


words = st.sampled_from("the cat {price_1} sat on mat".split())
sentences = st.lists(words, min_size=1, max_size=9).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(sentences, min_size=1, max_size=4))
def test_bleu_equals_sacrebleu(replies):
    references = [r[::-1] if i % 2 else r for i, r in enumerate(replies)]
    oracle = BLEU(tokenize="13a").corpus_score(replies, [references])
    assert bleu(replies, references) == pytest.approx(oracle.score / 100)


# --- skills, and intervals ----------------------------------------------------------------------

def test_skill_f1_by_hand():
    # 2 * 1 / (2 + 3), order ignored
    assert skill_f1(["b", "a"], ["c", "b", "d"]) == pytest.approx(0.4)
    assert skill_f1([], []) == 1
    assert skill_f1(["a"], []) == 0
    assert skill_f1(["b", "a"], ["a", "b"]) == 1


def test_wilson_s_interval_by_hand():
    # 72 of 240: centre (.3 + 1.96^2 / 480) / (1 + 1.96^2 / 240) = .3032, half width .0575
    found = wilson([1] * 72 + [0] * 168)
    assert list(found.values()) == pytest.approx([0.3, 0.2456, 0.3607], abs=1e-4)
    # none in 80 is not never: 1.96^2 / (80 + 1.96^2) = .0458
    never = wilson([0.0] * 80 + [None])
    assert never == {"mean": 0, "low": 0, "high": pytest.approx(0.0458, abs=1e-4)}
    assert wilson([1.0] * 80)["high"] == 1
    assert wilson([1.0]) == {"mean": 1.0, "low": None, "high": None}
    assert wilson([])["mean"] is None


def test_pass_hat_by_hand():
    # 3 of 4 trials succeeded: of the six pairs, three hold no failure
    assert [pass_hat(3, 4, k) for k in (1, 2, 3, 4)] == [3 / 4, 3 / 6, 1 / 4, 0]
    for wrong in ((5, 4, 1), (-1, 4, 1), (2, 4, 0), (2, 4, 5)):
        with pytest.raises(ValueError, match="pass"):
            pass_hat(*wrong)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_hat_is_the_share_of_subsets_without_a_failure(trials, data):
    k = data.draw(st.integers(1, len(trials)))
    drawn = [all(some) for some in combinations(trials, k)]
    assert pass_hat(sum(trials), len(trials), k) == pytest.approx(sum(drawn) / len(drawn))


def test_interval_by_hand():
    assert interval([0.5] * 8) == {"mean": 0.5, "low": 0.5, "high": 0.5}
    # one dialogue tells nothing of the others
    assert interval([None, 1.0]) == {"mean": 1.0, "low": None, "high": None}
    nothing = {"mean": None, "low": None, "high": None}
    assert interval([None]) == interval([]) == nothing
    coin = interval([0.0, 1.0] * 200)            # 1.96 * sqrt(.25 / 400) = .049
    assert coin["low"] == pytest.approx(0.451, abs=0.012)
    assert coin["high"] == pytest.approx(0.549, abs=0.012)
    assert interval([0.0, 1.0, 1.0], seed=3) == interval([0.0, 1.0, 1.0], seed=3)
