"""The customers of the simulated shop: what makes them honest, tested.

Every test names a way in which a simulated shop can cheat (a label reaches the customer, stuffing
pays, the order of acts does not matter, ...) and fails if ours begins to.  B_t is tested in
test_catalogue.py, the ears in test_ears.py, the bounds in test_bounds.py."""
import random

import pytest

from data import MAX_SKILLS, slots
from shop import mgshop, second_ear
from shop.agenda import ATTENTION, EMOTIONS, OPENER
from shop.catalogue import skill_pool, template
from shop.customer import HORIZON, Shop, teacher_dialogue
from shop.ear import Act
from shop.mgshop import INTENTS
from shop.reactions import EFFECTS, WORST, Event, Reaction
from tests.customers import (
    SPLITS,
    by_chance,
    by_teacher,
    customer,
    over,
    played,
    refund,
    say,
    says_all,
    wants_refund,
)
from tse import tse

POOL = list(skill_pool())


def another_order(shop: Shop) -> str:
    """An order of B_t that is not the customer's."""
    orders = [v for k, v in shop.context.items() if k.startswith("order_")]
    return next(order for order in orders if order != shop.need.order)


# --- order matters, stuffing fails ----------------------------------------------------------------

def test_an_angry_customer_must_be_heard_first():
    first = customer(refund, emotion="angry")
    say(first, "apologise", "confirm_order")
    assert first.emotion == "neutral"
    assert first.need.matched == first.need.order
    assert first.completed[0] == 1
    # the same words, the other way round
    second = customer(refund, emotion="angry")
    say(second, "confirm_order", "apologise")
    assert second.emotion == "angry"
    assert second.need.matched is None
    assert second.patience < first.patience


@pytest.mark.parametrize("emotion, opener", OPENER.items())
def test_each_upset_needs_its_own_words(emotion, opener):
    for said in OPENER.values():
        shop = customer(refund, emotion=emotion)
        say(shop, said, "confirm_order")
        assert (shop.need.matched is not None) == (said == opener)


# .75 [ours], and nothing else changes
def test_needless_apology_costs_patience():
    plain = customer(refund)
    say(plain, "confirm_order")
    sorry = customer(refund)
    say(sorry, "apologise", "confirm_order")
    assert plain.patience - sorry.patience == pytest.approx(0.75)
    assert plain.need.matched is not None
    assert plain.need.matched == sorry.need.matched


@pytest.mark.parametrize("early, cost", [("guide_return", 0.75), ("close", 0.5), ("upsell", 0.5)])
def test_what_comes_too_early_costs_patience(early, cost):
    plain = customer(refund)
    say(plain, "confirm_order")
    hasty = customer(refund)
    say(hasty, "confirm_order", early)
    assert plain.patience - hasty.patience == pytest.approx(cost)
    assert not hasty.need.guided


# guidance is accepted by a customer who has read the facts, not in the same breath
def test_everything_in_one_turn_fails():
    rushed = customer(refund, style="chatty")
    say(rushed, "confirm_order", "state_refund", "guide_return", "close")
    assert rushed.completed == [1, 1, None]
    patient = customer(refund, style="chatty")
    say(patient, "confirm_order", "state_refund")
    assert say(patient, "guide_return", "close").terminated
    assert patient.completed == [1, 1, 2]
    assert patient.success


@pytest.mark.parametrize("style", ATTENTION)
def test_a_customer_takes_in_so_much_and_no_more(style):
    """One more business act than the customer's attention span is refused.

    With more than twice as many, nothing at all is read.
    """
    extra = [
        " We exchange it.",
        " Here is the tracking link.",
        " Take this voucher.",
        " There is a label.",
        " Put it in your basket.",
        " It comes with a care set.",
        " Which order is it?",
        " What is your budget?",
    ]
    span = ATTENTION[style]

    def named(shop: Shop) -> str:
        return f"It is about order {shop.need.order}."

    shop = customer(refund, style=style)
    shop.step(named(shop) + "".join(extra[:span - 1]))
    assert shop.need.matched is not None
    # the order comes one act too late
    shop = customer(refund, style=style)
    before = shop.vouchers
    shop.step("".join(extra[:span]) + " " + named(shop))
    assert shop.need.matched is None
    # a wall of text is not read at all, not even its beginning
    shop = customer(refund, style=style)
    shop.step(named(shop) + "".join(extra[:2 * span]))
    assert shop.need.matched is None
    assert shop.vouchers == before == 0


# else the fact would be "not asked for", and the teacher silent
def test_a_customer_who_repeats_a_question_has_asked_it():
    def step_by_step(s: Shop) -> bool:
        return wants_refund(s) and s.persona.open and not s.persona.direct

    shop = customer(step_by_step)
    # the needless apology is refused, the order is the right one
    seen = say(shop, "apologise", "confirm_order")
    assert shop.need.matched
    assert seen.labels.teacher == ("state_refund",)
    patience = shop.patience
    say(shop, "state_refund")
    assert shop.need.told == {"refund"}
    assert shop.patience >= patience


def test_wrong_facts_are_noticed():
    shop = customer(refund)
    say(shop, "confirm_order")
    context = shop.context
    right = next(k[-1] for k, v in context.items() if v == shop.need.order)
    amount = context[f"refund_{right}"]
    wrong = next(i for i in "123" if context[f"refund_{i}"] != amount)
    before = shop.patience
    # a slot of B_t, so decoding allows it; the customer does not
    shop.step(f"You get {{refund_{wrong}}} back.")
    assert shop.need.told == set()
    # 1 for the error, 1 for no progress: WORST
    assert before - shop.patience == pytest.approx(1.5)
    assert shop.intent == "object"
    shop.emotion = "neutral"
    shop.step(f"You get {{refund_{right}}} back.")
    assert shop.need.told == {"refund"}
    assert shop.completed[1] == 3


def test_a_wrong_name_is_no_match():
    shop = customer(refund)
    shop.step(f"I found your order {another_order(shop)}.")
    assert shop.need.matched is None
    assert shop.intent == "object"
    # what could mean any of them names none
    any_of_them = Act("confirm_order", frozenset("123"))
    either = customer(refund, ear=lambda text, context: [any_of_them])
    either.step("One of the three.")
    assert either.need.matched is None


# "I recommend A. I recommend B. I recommend C." must not be matched by exhaustion
def test_listing_every_candidate_names_none():
    for number in range(40):
        shop = Shop(0, "test", number)
        seen = shop.reset()
        slot = shop.need.talk
        phrase = "I found your order" if slot == "order" else "I recommend the"
        words = [f"{phrase} {{{slot}_{i}}}." for i in (1, 2, 3)]
        if shop.emotion in OPENER:
            words.insert(0, template([OPENER[shop.emotion]], {}, random.Random(0)))
        shop.step(" ".join(words))
        assert seen.context
        assert shop.need.matched is None


# a mistake that upsets is not made good in the same breath
def test_words_after_the_harm_do_not_undo_it():
    openers = [skill_pool()[skill].examples[0] for skill in OPENER.values()]
    upset = 0
    for number in range(80):
        shop = Shop(0, "train", number)
        shop.reset()
        if shop.emotion in OPENER or shop.need.talk != "order":
            continue
        shop.step(f"I found your order {another_order(shop)}. " + " ".join(openers))
        upset += shop.emotion in OPENER
    assert upset >= 3


def test_voucher_moves_mood_and_is_counted():
    plain = customer(refund)
    say(plain, "confirm_order")
    bribed = customer(refund)
    seen = say(bribed, "confirm_order", "offer_voucher")
    assert bribed.mood - plain.mood == pytest.approx(0.2)
    assert seen.outcome.vouchers == 1
    assert plain.vouchers == 0


def test_an_incentive_customer_waits_for_the_voucher():
    def hesitant(s: Shop) -> bool:
        return s.persona.demand == "incentive" and wants_refund(s) and says_all(s)

    shop = customer(hesitant)
    say(shop, "confirm_order", "state_refund")
    shop.mood = 0.5
    assert "offer_voucher" in shop.teacher()
    assert say(shop, "guide_return").labels.intent == "hesitate"
    assert not shop.agenda[0].guided
    say(shop, "offer_voucher", "guide_return")
    assert shop.agenda[0].guided
    assert shop.vouchers == 1


def test_a_rigid_customer_accepts_one_way_out():
    shop = customer(refund)
    say(shop, "confirm_order", "state_refund")
    say(shop, "guide_exchange")
    assert not shop.need.guided
    assert shop.completed[2] is None
    say(shop, "guide_return")
    assert shop.need.guided


def test_length_repetition_and_standstill_cost_patience():
    # getting nowhere: 1.0
    a = customer(refund)
    a.step("Hm.")
    assert 5 - a.patience == pytest.approx(1.0)
    # and too long: 1.5
    b = customer(refund)
    b.step("hm " * 61)
    assert 5 - b.patience == pytest.approx(1.5)
    # and said before: 1.0 + 1.5
    c = customer(refund)
    c.step("Hm.")
    c.step("Hm.")
    assert 5 - c.patience == pytest.approx(2.5)


def test_one_reply_costs_at_most_worst():
    shop = customer(refund, emotion="angry")
    say(shop, *POOL)
    assert 5 - shop.patience == pytest.approx(WORST)


def test_patience_gone_means_gone():
    shop = customer(refund, patience=0.5)
    seen = shop.step("Hm.")
    assert seen.terminated
    assert shop.left
    assert not seen.outcome.success
    assert seen.labels.intent == "bye"


def test_every_reaction_and_event_has_an_effect():
    assert set(EFFECTS) == {*Reaction, *Event}


# --- tasks over several needs ---------------------------------------------------------------------

def test_a_later_need_reopens_the_tasks():
    later_needs = 0
    for number in range(60):
        shop = Shop(0, "test", number)
        current = 0
        finished = 0
        seen = shop.reset()
        while not over(seen):
            seen = shop.step(by_teacher(shop, seen))
            if shop.current > current:
                # N_i counts for every need announced so far
                assert seen.outcome.completed == (None, None, None)
                current = shop.current
                finished = shop.turn
                later_needs += 1
        assert all(n > finished for n in seen.outcome.completed if n is not None)
    assert later_needs > 20


def test_a_changed_wish_takes_the_match_back():
    def will_change(s: Shop) -> bool:
        return s.change_at == 0 and s.need.kind == "find" and says_all(s)

    shop = customer(will_change)
    wish = shop.need.feature
    say(shop, "recommend")
    assert shop.need.feature != wish
    assert shop.need.matched is None
    assert shop.completed[0] is None
    say(shop, "recommend")
    assert shop.need.matched is not None
    assert shop.completed[0] == 2


# --- the dialogue as a whole ----------------------------------------------------------------------

def by_silence(shop, seen):
    return ""


def by_stuffing(shop, seen):
    return template(POOL, seen.context, random.Random(0))


@pytest.mark.parametrize("policy", [by_teacher, by_chance, by_silence, by_stuffing])
def test_every_customer_comes_to_an_end(policy):
    for number in range(60):
        before, last = played(Shop(1, "dev", number), policy)
        completed = last.outcome.completed
        assert last.terminated != last.truncated
        assert 1 <= len(before) <= HORIZON
        assert all(n is None or 1 <= n <= len(before) for n in completed)
        assert 0 <= tse(completed) <= 1
        if last.outcome.success:
            assert last.terminated
            assert None not in completed


def test_the_horizon_truncates():
    shop = customer(refund, patience=1000.0)
    ends = [shop.step(f"Hm {i}.") for i in range(HORIZON)]
    assert [e.truncated for e in ends] == [False] * (HORIZON - 1) + [True]
    assert not any(e.terminated for e in ends)


def transcript(seed: int, number: int) -> list[tuple]:
    before, _ = played(Shop(seed, "test", number), by_chance)
    return [(s.user, s.context, s.labels, s.outcome) for s in before]


def test_the_same_key_the_same_customer():
    numbers = range(15)
    random.seed(1)
    first = [transcript(0, n) for n in numbers]
    # neither global randomness nor the order of play matters
    random.seed(2)
    again = [transcript(0, n) for n in reversed(numbers)]
    assert again == first[::-1]
    # another customer says something else
    assert len({t[0][0] for t in first}) > 10
    # so does another seed's
    assert sum(transcript(1, n)[0] != first[n][0] for n in numbers) > 10


# whatever was said at turn 1, chance at turn 2 is the same
def test_policies_stay_paired_after_the_first_turn():
    wordy = "Just a second, I shall look into it, it may take a while."
    for number in range(30):
        a = Shop(0, "test", number)
        b = Shop(0, "test", number)
        assert a.reset() == b.reset()
        assert a.step("Hm.").user == b.step(wordy).user


LONG_REPLIES = (
    "a" * 10_000,
    "sorry " * 1_700,
    "{" * 10_000,
    "{price_1}" * 1_100,
    "谢" * 10_000,
    "\n" * 10_000,
)


def test_a_reply_of_ten_thousand_characters():
    for text in LONG_REPLIES:
        shop = customer(refund)
        before = shop.patience
        assert isinstance(shop.step(text).user, str)
        assert shop.patience < before


# --- the teacher and the dataset ------------------------------------------------------------------

def test_the_teacher_plans_by_the_rules():
    won = 0
    for number in range(80):
        before, last = played(Shop(0, "train", number), by_teacher)
        won += last.outcome.success
        for t, seen in enumerate(before):
            plan = seen.labels.teacher
            assert 1 <= len(plan) <= MAX_SKILLS
            assert len(set(plan)) == len(plan)
            assert set(plan) <= set(POOL)
            assert "greet" not in plan or t == 0
            opener = OPENER.get(seen.labels.emotion)
            assert not opener or plan[0] == opener
    assert won >= 76


def test_dataset_of_teacher_dialogues(monkeypatch):
    monkeypatch.setattr(mgshop, "SIZES", {"train": 30, "dev": 8, "test": 8})
    dataset = mgshop.load()
    assert [len(getattr(dataset, split)) for split in SPLITS] == [30, 8, 8]
    assert dataset.horizon == HORIZON
    for dialogue in dataset.train:
        for turn in dialogue.turns:
            assert turn.intent in INTENTS
            assert turn.emotion in EMOTIONS
            assert set(turn.skills) <= set(dataset.skills)
            assert set(slots(turn.reply)) <= set(turn.context)
    # the same customers, other ears
    shop = dataset.play("test", 3, 0)
    other = dataset.cross_check("test", 3, 0)
    assert isinstance(shop, Shop)
    assert other.ear is second_ear.hear
    assert shop.reset() == other.reset()
    assert teacher_dialogue("train", 4) == teacher_dialogue("train", 4)
