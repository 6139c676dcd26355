"""The customers of the food-delivery store: stars by hand, the order of things, and honesty."""
import random
from dataclasses import replace

import pytest

import data
from data import DataError, best_candidate, fill, slots
from shop import fds, fds_second_ear
from shop.agenda import EMOTIONS, OPENER
from shop.catalogue import book, phrasings, skill_pool, template
from shop.fds_catalogue import LEVELS, business_context, excuses, orders, profiles, report
from shop.fds_customer import HORIZON, INTENTS, Desk
from shop.fds_person import DIFFICULTIES, MIX, VALUES
from shop.fds_planner import VOUCHER, plan
from shop.stars import End, mark, of_delivery, of_shop
from tests.customers import by_chance, over, played
from text import split_decision

SPLITS = ("train", "dev", "test")
POOL = list(skill_pool("fds"))


def say(desk: Desk, *skills: str):
    return desk.step(template(skills, desk.context, random.Random(0), "fds"))


def customer(demand="rigid", evidence="report", value=1.0, **traits) -> Desk:
    """The first train customer with this demand and evidence, calm, patient and with a known v."""
    for number in range(2000):
        desk = Desk(0, "train", number)
        desk.reset()
        hidden = desk.hidden
        if (hidden.demand, hidden.evidence) != (demand, evidence):
            continue
        desk.hidden = hidden._replace(value=value, leniency=0.0, **traits)
        desk.persona = replace(desk.persona, style="plain")
        desk.emotion = "neutral"
        desk.patience = 20.0
        desk.upset_by_decline = False
        return desk
    raise AssertionError("no such customer in 2000")


def until_clear(desk: Desk) -> None:
    """The planner, until the cause is clear and the wish is known."""
    while not (desk.case.clear and desk.case.wished):
        say(desk, *plan(desk, False))


def by_planner(desk: Desk, seen) -> str:
    skills = plan(desk, desk.hidden.value > 0)
    return template(skills, seen.context, desk.rng("wording", desk.turn), "fds")


# --- stars by hand --------------------------------------------------------------------------------

@pytest.mark.parametrize("end, stars", [
    # 1.6 + .4 calm + .7 explained + .25 passed on
    (End(3, explained=True, passed=True), 2.95),
    # 1.2 + .4 + .7 + .25 + v .6 for a voucher; the turns beyond the sixth cost .2
    (End(2, explained=True, passed=True, voucher=0.6, turns=8), 2.95),
    # feedback: 2.4 + .4 + .7 + 1.2
    (End(5, explained=True, passed=True, feedback=True), 4.7),
    # upset, a refund never declined, two needless acts: 2.0 + .7 - .4 - .3
    (End(4, calm=False, explained=True, open_refund=True, needless=2), 2.0),
    # the broken promise: 1.6 + .4 + .7 - 1
    (End(3, explained=True, broken=True), 1.7),
    # who leaves: 2.4 + .4 + .7 - .5 = 3.0, but at most 1.9
    (End(5, explained=True, left=True), 1.9),
    # 0.9 - .15 - .5
    (End(1, calm=False, needless=1, left=True), 0.25),
])
def test_stars_by_hand(end, stars):
    assert of_delivery(end) == pytest.approx(stars)


# 1 + 4 (.5 + .3 * .6 + .2 * .5) = 4.12; half guided, left: 1 + 4 (.25 + .15) - 1 = 1.6
def test_the_other_shops_by_hand():
    assert of_shop(1.0, 0.6, 2.0, left=False) == 4
    assert of_shop(0.5, 0.5, -1.0, left=True) == 2
    assert [mark(stars) for stars in (-3.0, 2.49, 2.5, 7.0)] == [1, 2, 3, 5]


# level 3, v = 1, evidence in the record: 1.6 + .4 + .7 + .25 + 1 = 3.95 with the planner
def test_a_dialogue_of_the_planner_by_hand():
    desk = customer(value=1.0, profile=profiles("train")[12])
    assert desk.hidden.level == 3
    until_clear(desk)
    say(desk, "decline_refund", "pass_on", "propose_voucher")
    desk.emotion = "neutral"
    end = say(desk, VOUCHER, "close")
    assert end.terminated and end.outcome.success
    late = max(0, desk.turn - 6) * 0.1
    assert desk.stars() == pytest.approx(3.95 - late)
    assert end.outcome.satisfaction == 4
    assert end.outcome.completed[0] < end.outcome.completed[1] < end.outcome.completed[2]


# --- the voucher ----------------------------------------------------------------------------------

# agreed to: v; unasked: .6 v; before the cause is clear: .2 v
@pytest.mark.parametrize("before, share", [((), 0.6), (("propose_voucher",), 1.0)])
def test_a_voucher_is_worth_more_when_it_was_agreed_to(before, share):
    desk = customer(value=2.0)
    until_clear(desk)
    if before:
        say(desk, *before)
    say(desk, VOUCHER)
    assert desk.voucher_worth == pytest.approx(2.0 * share)
    hasty = customer(value=2.0)
    say(hasty, VOUCHER)
    assert hasty.voucher_worth == pytest.approx(0.4)


def test_a_second_voucher_is_banned_and_a_format_error():
    desk = customer()
    until_clear(desk)
    assert desk.banned == ()
    seen = say(desk, VOUCHER)
    assert seen.banned == (VOUCHER,)
    assert seen.outcome.valid
    worth, stars = desk.voucher_worth, desk.stars()
    seen = say(desk, VOUCHER)
    assert not seen.outcome.valid
    assert (desk.vouchers, desk.voucher_worth) == (1, worth)
    assert desk.stars() < stars
    assert seen.outcome.cost == 1.0


# money is spent whether or not an upset customer reads on
def test_a_voucher_that_was_not_read_is_paid_for_all_the_same():
    desk = customer()
    desk.emotion = "angry"
    seen = say(desk, VOUCHER)
    assert desk.emotion == "angry" and desk.news == []
    assert (seen.outcome.vouchers, seen.outcome.cost, seen.banned) == (1, 1.0, (VOUCHER,))


def test_a_promise_that_is_not_kept_costs_a_star():
    kept, broken = customer(value=1.0), customer(value=1.0)
    for desk in (kept, broken):
        until_clear(desk)
        say(desk, "decline_refund", "propose_voucher")
        desk.emotion = "neutral"
    say(kept, VOUCHER, "close")
    end = say(broken, "close")
    assert end.terminated and not end.outcome.success
    # v and the promise
    assert kept.stars() - broken.stars() == pytest.approx(2.0)


def test_a_goodbye_before_the_voucher_in_one_reply_still_keeps_the_promise():
    desk = customer("preference")
    until_clear(desk)
    say(desk, "decline_refund", "propose_voucher")
    end = say(desk, "close", VOUCHER)
    assert end.terminated and end.outcome.success


def test_who_gains_nothing_refuses_the_voucher():
    desk = customer("feedback", value=-0.1)
    until_clear(desk)
    assert say(desk, "propose_voucher").labels.intent == "refuse"
    assert not desk.case.agreed


# --- decisions in tags ----------------------------------------------------------------------------

@pytest.mark.parametrize("text, decision, words, valid", [
    ("Hello there.", None, "Hello there.", True),
    ("<voucher> It is yours.", "voucher", "It is yours.", True),
    ("<chat> <voucher> Hm.", "chat", "Hm.", False),
    ("Well, <chat> hello.", None, "Well, hello.", False),
    ("", None, "", True),
])
def test_split_decision(text, decision, words, valid):
    assert split_decision(text) == (decision, words, valid)


def test_words_without_the_decision_are_a_lie_and_a_decision_without_words_is_none():
    desk = customer()
    until_clear(desk)
    seen = desk.step("<chat> I have added a voucher to your account.")
    assert (desk.vouchers, desk.lied, seen.outcome.valid) == (0, True, True)
    desk = customer()
    until_clear(desk)
    desk.step("<voucher> One moment, please.")
    assert desk.vouchers == 0
    desk.step("<voucher> I have added a voucher to your account.")
    assert (desk.vouchers, desk.lied) == (1, False)


# --- what comes when ------------------------------------------------------------------------------

@pytest.mark.parametrize("emotion, opener", OPENER.items())
def test_each_upset_needs_its_own_words(emotion, opener):
    for said in OPENER.values():
        desk = customer()
        desk.emotion = emotion
        say(desk, said)
        assert (desk.emotion == "neutral") == (said == opener)


@pytest.mark.parametrize("early", ["state_report", "ask_photo", "explain_cause", "pass_on",
                                   "propose_voucher", "close"])
def test_what_comes_too_early_is_needless(early):
    desk = customer()
    say(desk, early)
    assert desk.needless == 1
    assert not desk.case.clear


def test_a_photo_is_asked_for_only_where_the_record_shows_nothing():
    shown = customer(evidence="report")
    while not shown.case.told:
        say(shown, *plan(shown, False))
    assert shown.case.settled
    say(shown, "ask_photo")
    assert shown.needless == 1
    plain = customer(evidence="none")
    while not plain.case.told:
        say(plain, *plan(plain, False))
    assert not plain.case.settled
    say(plain, "ask_photo")
    assert plain.news == ["photo.none"] and plain.case.clear
    # nothing went wrong: there is no cause to explain
    say(plain, "explain_cause")
    assert not plain.case.explained and plain.needless == 1


def test_a_refund_is_declined_only_to_those_who_wish_for_one():
    desk = customer("incentive")
    until_clear(desk)
    assert say(desk, "decline_refund").labels.intent == "object"
    assert not desk.case.declined and desk.needless == 1


def test_an_unfair_voucher_is_counted():
    desk = customer(evidence="none")
    until_clear(desk)
    say(desk, VOUCHER)
    assert desk.unfair


# --- splits and B_t -------------------------------------------------------------------------------

def test_profiles_of_a_level_are_split_six_one_two():
    seen = []
    for split, count in zip(SPLITS, (6, 1, 2)):
        for level in LEVELS:
            assert [p.level for p in profiles(split)].count(level) == count
        seen += profiles(split)
    assert len(set(seen)) == 45


def test_every_kind_of_line_has_twenty_phrasings_and_no_sentence_is_in_two_splits():
    for kind, lines in book("fds")["customer"].items():
        assert len(lines) >= 20, kind
        met: set[str] = set()
        for split in SPLITS:
            here: set[str] = set()
            here.update(*phrasings(split, kind, "fds"))
            assert here, (kind, split)
            assert not here & met, kind
            met |= here


def test_a_record_of_each_dish_excuses_and_another_does_not():
    for split in SPLITS:
        for dish in book("fds")["dishes"][split]:
            found = {excuses(report(split, number)) for number in orders(split, dish)}
            assert found == {True, False}


class Permuted(Desk):
    """The same customer with another hidden type, drawn after everything visible was."""

    def draw(self):
        super().draw()
        self.hidden = self.hidden._replace(value=9.0, evidence="none", leniency=0.4)
        numbers = orders(self.split, self.need.category)
        if self.need.hidden and not self.persona.open:
            self.need.order = next(n for n in numbers if n != self.need.order)


def test_b_t_shows_nothing_of_the_hidden_type():
    changed = 0
    for number in range(60):
        one, other = Desk(0, "test", number), Permuted(0, "test", number)
        a, b = one.reset(), other.reset()
        assert a.context == b.context == business_context([a.user], "test")
        changed += one.need.order != other.need.order
        assert "no" in [v for k, v in a.context.items() if k.startswith("fit")] or one.need.hidden
    assert changed > 10


def test_b_t_follows_from_the_words_alone():
    for number in range(30):
        seen, _ = played(Desk(0, "test", number), by_planner)
        said = [s.user for s in seen]
        for n, s in enumerate(seen, 1):
            assert s.context == business_context(said[:n], "test")


# --- the dialogue as a whole ----------------------------------------------------------------------

def by_silence(desk, seen):
    return ""


@pytest.mark.parametrize("policy", [by_planner, by_chance, by_silence])
def test_every_customer_comes_to_an_end_and_gives_a_mark(policy):
    for number in range(40):
        before, last = played(Desk(1, "dev", number), policy)
        assert last.terminated != last.truncated
        assert len(before) <= HORIZON
        assert all(seen.outcome.satisfaction is None for seen in before)
        assert last.outcome.satisfaction in range(1, 6)
        assert last.outcome.cost == last.outcome.vouchers <= 1
        if last.outcome.success:
            assert None not in last.outcome.completed


def test_two_copies_of_a_customer_differ_only_through_the_agent():
    for number in range(20):
        assert played(Desk(0, "train", number), by_planner)[0] == played(
            Desk(0, "train", number), by_planner)[0]
        generous, stingy = Desk(0, "train", number), Desk(0, "train", number, generosity=0.0)
        assert generous.reset().user == stingy.reset().user


def test_the_planner_is_content_with_nobody_left_and_easy_customers_give_more():
    mean = {}
    for difficulty in DIFFICULTIES:
        ends = []
        for number in range(120):
            desk = Desk(0, "dev", number, difficulty=difficulty)
            _, last = played(desk, by_planner)
            assert last.outcome.success and not desk.left
            ends.append(last.outcome.satisfaction)
        mean[difficulty] = sum(ends) / len(ends)
    assert mean["easy"] > mean["hard"] + 0.1


def test_levels_and_values_are_drawn_as_said():
    desks = [Desk(0, "train", number) for number in range(1500)]
    for desk in desks:
        desk.reset()
    for level, share in zip(LEVELS, MIX["hard"]):
        drawn = [desk.hidden.level for desk in desks].count(level) / len(desks)
        # three standard errors of a share of .3 of 1500
        assert drawn == pytest.approx(share, abs=0.036)
    for desk in desks:
        low, high = VALUES[desk.hidden.demand]
        assert min(0.0, low) <= desk.hidden.value <= 1.2 * high


# --- as a dataset ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds, "SIZES", {"train": 200, "dev": 8, "test": 8})
        yield data.load("fds", difficulty="easy")


def test_the_dataset(small):
    assert (small.name, small.horizon) == ("fds", HORIZON)
    assert list(small.skills) == POOL
    issued = 0
    for dialogue in small.train:
        said = []
        for turn in dialogue.turns:
            assert turn.intent in INTENTS
            assert turn.emotion in EMOTIONS
            assert set(slots(turn.reply)) <= set(turn.context)
            said += turn.skills
        assert said.count(VOUCHER) <= 1
        issued += VOUCHER in said
    # the teacher's generosity: V is about .45, as after the paper's SFT
    assert issued / len(small.train) == pytest.approx(0.45, abs=0.1)


def test_the_same_customers_with_another_ear_and_mix(small):
    desk, other = small.play("test", 3, 0), small.cross_check("test", 3, 0)
    assert desk.difficulty == other.difficulty == "easy"
    assert other.ear is fds_second_ear.hear
    assert desk.reset() == other.reset()


def test_difficulty_is_refused_where_there_is_none():
    with pytest.raises(DataError, match="--difficulty is one of hard, easy, got 'mean'"):
        data.load("fds", difficulty="mean")
    with pytest.raises(DataError, match="--difficulty chooses the customers of fds"):
        data.load("mgshop", difficulty="hard")


def test_the_phrase_book_fills_from_the_right_order():
    desk = customer()
    while not desk.case.matched:
        say(desk, *plan(desk, False))
    number = best_candidate(desk.context)
    assert desk.context[f"order_{number}"] == desk.need.order
    said = fill(template(["state_report"], desk.context, random.Random(0), "fds"), desk.context)
    assert report("train", desk.need.order) in said


# --- the command line -----------------------------------------------------------------------------

def test_one_dialogue_to_read(capsys):
    assert fds.main(["--difficulty", "easy", "--customer", "5"]) == 0
    out = capsys.readouterr().out
    assert "level" in out and "a voucher is worth" in out and "of 5 stars" in out


@pytest.mark.parametrize("wrong", [["--difficulty", "mean"], ["--episodes", "1"], ["--bound"],
                                   ["--customer", "-1"]])
def test_wrong_flags_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        fds.main(wrong)
    assert stop.value.code == 2


def test_over_is_what_the_environment_says():
    desk = customer()
    until_clear(desk)
    say(desk, "decline_refund", "pass_on")
    desk.emotion = "neutral"
    assert over(say(desk, "close"))
