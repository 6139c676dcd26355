"""What is computed once and kept: nobody can change it, and nobody gets another one's answer."""
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import Judged, Skill
from judge import RuleJudge
from lm import constraints
from lm.constraints import compile_constraints
from perception import BUCKETS, features
from rewards import cs_reward, prefix_esndcg
from shop import catalogue
from shop.agenda import Person
from shop.catalogue import SHOPS, Focus, Said, open_orders, update_focus
from shop.customer import Shop, teacher_dialogue
from shop.ear import hear
from text import WORD

FOX = {"product_1": "Fox kettle", "price_1": "39 euros"}
OWL = {"product_2": "Owl kettle", "price_2": "39 euros"}


def candidates(text: str, context: dict[str, str]) -> list[list[str]]:
    return [sorted(act.candidates) for act in hear(text, context)]


def test_a_sentence_means_what_stands_in_this_B_t():
    assert candidates("It costs 39 euros.", FOX) == [["1"]]
    assert candidates("It costs 39 euros.", OWL) == [["2"]]
    assert candidates("It costs 39 euros.", FOX | OWL) == [["1", "2"]]
    assert candidates("It costs 39 euros.", {}) == []


def test_what_was_heard_may_be_changed_by_the_hearer():
    heard = hear("Sorry! It costs 39 euros.", FOX)
    heard.clear()
    assert [act.kind for act in hear("Sorry! It costs 39 euros.", FOX)] == [
        "apologise", "state_price"]


def test_a_customers_B_t_is_its_own():
    one, other = Shop(0, "test", 3), Shop(0, "test", 3)
    shown = one.reset().context
    kept = dict(shown)
    shown.clear()
    assert other.reset().context == kept != {}


def test_an_order_number_belongs_to_its_split_and_shop():
    number = open_orders("train", "kettle")[0]
    said = f"My number is {number}."
    assert update_focus(Focus(), said, "train") == Focus("order", "kettle", order=number)
    assert update_focus(Focus(), said, "test") == Focus()
    assert update_focus(Focus(), said, "train", "tmallbrand-b") == Focus()


@pytest.mark.parametrize("name", SHOPS)
def test_sentence_by_sentence_nothing_is_missed(name):
    """The back office finds the same as in the whole text: nothing reaches over an end mark."""
    find = catalogue._finds(name)
    looked_for = ("category", "number", "order talk", "feature", "size", "budget")
    utterances = []
    for number in range(60):
        utterances += [turn.user for turn in teacher_dialogue("test", number, name=name).turns]
    for text in utterances:
        whole = Said(*[tuple(find[what].findall(text)) for what in looked_for])
        assert catalogue._said(text, name) == whole
    assert len(utterances) > 200


def test_gains_may_be_changed_by_who_asked():
    prefix_esndcg(["soothe"], ["soothe"]).clear()
    assert prefix_esndcg(["soothe"], ["soothe"]) == [0.0, 1.0]
    assert prefix_esndcg(["soothe"], ["refund"]) == [0.0, 0.0]


def test_two_judges_read_a_reply_by_their_own_pools():
    def judged(own: str) -> tuple[list, float]:
        skill = Skill(own, examples=("I am very sorry for the trouble.",))
        judge = RuleJudge({own: skill})
        reply = "I am very sorry for the trouble."
        acts = judge.acts(reply)
        acts.append("changed")
        item = Judged("Where is it?", {}, (Skill("apologise"),), reply)
        return judge.acts(reply), judge.compliance(item)

    assert judged("apologise") == (["apologise"], 1.0)
    assert judged("regret") == (["regret"], 0.0)


def test_the_same_slots_with_other_values_are_other_rules():
    skill = Skill("a", must_say=("It comes {eta_1}.",), must_not_say=("never",))
    assert compile_constraints([skill], {"eta_1": "soon"}).must_say == skill.must_say
    assert compile_constraints([skill], {"eta_1": "never"}).dropped == skill.must_say
    assert compile_constraints([skill], {"eta_1": "soon"}, ("soon",)).dropped == skill.must_say


# --- kept = computed again ----------------------------------------------------------------------

# what customers say, and what nobody says
SAID = st.lists(st.sampled_from([
    "I need a kettle.", "It should be quiet!", "Up to 48 euros", "my order 4711", "", "2 euros?",
    "Kettles, kettle!", "It is broken."]), max_size=5).map(" ".join)


@settings(max_examples=50)
@given(SAID | st.text(max_size=40))
def test_what_an_utterance_says_is_found_again(text):
    for name in SHOPS:
        assert catalogue._said(text, name) == catalogue._said.__wrapped__(text, name)
        assert catalogue._said(text, name) == catalogue._said.__wrapped__(text, name)


def test_nothing_said_leaves_the_focus_as_it_is():
    for focus in (Focus(), Focus("order", "kettle"), Focus("product", "kettle", product="Fox")):
        assert update_focus(focus, "Hello. And now?", "train") is focus


@settings(max_examples=50)
@given(st.text(max_size=40))
@example("Aa bb aa bb. aa")
def test_ngrams_fall_on_the_same_rows_again(text):
    lowered = text.lower()
    words = WORD.findall(lowered)
    ngrams = [*words, *map(" ".join, zip(words, words[1:]))]
    ngrams += [lowered[i:i + 3] for i in range(len(lowered) - 2)]
    rows = [catalogue.code(ngram) % BUCKETS for ngram in ngrams]
    for _ in range(2):
        assert np.array_equal(features(text), rows)
        features.cache_clear()                   # the n-grams stay known


@settings(max_examples=50)
@given(st.integers(), st.sampled_from(["train", "test"]), st.integers(), st.sampled_from(
    ["mgshop", "tmallbrand-a"]), st.lists(st.integers() | st.text(max_size=5), max_size=3))
def test_a_customers_chance_is_that_of_the_whole_key(seed, split, customer, name, key):
    place = {"mgshop": split}.get(name, f"{name} {split}")
    whole = random.Random(catalogue.code(seed, place, customer, *key))
    assert Person(seed, split, customer, name).rng(*key).getstate() == whole.getstate()


@pytest.mark.parametrize("phrase", ["free shipping", "a.b", "(never) ever"])
def test_a_phrase_is_found_again_in_any_spacing(phrase):
    spread = "  ".join(phrase.upper())
    for _ in range(2):
        assert constraints._says(f"so {spread}!", phrase)
        assert not constraints._says("free a-b never", phrase)


def test_bad_weights_are_refused_each_time():
    for _ in range(2):
        with pytest.raises(ValueError, match="weights must be >= 0"):
            cs_reward((1.0, 1.0), (0.5, -0.5))
    # 0.75 of the weight on the first score, whatever the weights' sum
    assert cs_reward((1.0, 0.0), [3, 1]) == cs_reward((1.0, 0.0), (0.75, 0.25)) == 0.75
