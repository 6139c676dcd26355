"""What is computed once and kept: nobody can change it, and nobody gets another one's answer."""
import pytest

from data import Judged, Skill
from judge import RuleJudge
from lm.constraints import compile_constraints
from rewards import prefix_esndcg
from shop import catalogue
from shop.catalogue import SHOPS, Focus, Said, open_orders, update_focus
from shop.customer import Shop, teacher_dialogue
from shop.ear import hear

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
