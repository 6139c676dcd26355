"""The world `sale`: the interest rule, what the ear hears, how calls go, facts, tasks and logs."""
import json
import random
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from data import DataError, Judged, Turn
from shop import sale
from shop.sale_bounds import STUFFING, bounds, verdicts
from shop.sale_caller import ANSWER, QUESTIONS, Ask, Caller, true_value
from shop.sale_ear import Claim, hear
from shop.sale_logs import FLAWS, call, careless_agent, good_agent, logged_call, taught_call
from shop.sale_profile import (
    RATES,
    SPLITS,
    Profile,
    book,
    caller_words,
    draw_cell,
    draw_profile,
    interest,
    profile_of,
    skill_pool,
    split_of,
)
from start.flags import parse_flags
from start.resolve import with_rates
from systems.more_rewards import RuleRewards, scaffold_format, scaffold_reward

ADA = Profile("Ms", "Adams", "07", "50000", "7.30", "20", "06-03", "06-12")
SKILLS = skill_pool()


# --- the interest rule --------------------------------------------------------------------------

@pytest.mark.parametrize("principal, apr, days, due", [
    (10000, "19.8", 1, "5.42"), (10000, "19.8", 30, "162.74"), (30000, "19.8", 1, "16.27"),
    (10000, "7.2", 1, "1.97"), (10000, "7.2", 30, "59.18"), (50000, "7.2", 1, "9.86"),
    (10000, "6.5", 1, "1.78"),
    (36500, ".365", 1, "0.37"),                  # .365, half up
    (10000, "3.65", 1, "1.00"),                  # a clean rate: k a day
])
def test_interest_by_hand(principal, apr, days, due):
    assert interest(principal, apr, days) == due


@pytest.mark.parametrize("wrong", [(0, "7.2", 1), (100, "0", 1), (100, "7.2", -1)])
def test_interest_refuses_what_is_not_positive(wrong):
    with pytest.raises(ValueError, match="> 0"):
        interest(*wrong)


def test_a_clean_rate_costs_whole_money():
    for k, apr in enumerate(RATES["clean"], 1):
        assert interest(20000, apr, 10) == f"{20 * k}.00"


# --- profiles and splits ------------------------------------------------------------------------

def test_no_profile_and_no_cell_is_in_two_splits():
    profiles, cells = {}, {}
    for split in SPLITS:
        rng = random.Random(0)
        for _ in range(300):
            profile = draw_profile(rng, split)
            profiles.setdefault((profile.name, profile.limit, profile.apr), set()).add(split)
            amount, days = draw_cell(rng, split, profile)
            cells.setdefault((amount, profile.apr, days), set()).add(split)
            assert profile.interest(amount, days) not in (f"{amount}.00", f"{days}.00")
            assert 1 <= int(profile.left) <= 9
    assert all(len(found) == 1 for found in profiles.values())
    assert all(len(found) == 1 for found in cells.values())


def test_every_part_has_a_split():
    found = Counter(split_of("cell", str(n)) for n in range(1000))
    assert set(found) == set(SPLITS)
    assert found["train"] > found["dev"]


def test_every_split_has_words_of_its_own_for_everything():
    for kind in book()["caller"]:
        words = [set(caller_words(split, kind)) for split in SPLITS]
        assert all(words)
        assert len(words[0] | words[1] | words[2]) == sum(map(len, words))


def test_b_t_is_the_profile_and_holds_no_answer():
    context = ADA.context()
    assert profile_of(context) == ADA
    assert ADA.left == "9"
    assert ADA.interest("20000", "10") == "40.00"
    # nothing that can be said as a slot, and nothing computed
    assert not any(data.sayable(slot) for slot in context)
    assert not {"9", "40.00"} & set(context.values())


def test_another_context_is_refused():
    with pytest.raises(DataError, match="no profile of sale"):
        profile_of({"price_1": "20"})


# --- the ear ------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, claims", [
    ("Your limit is 50,000.", ["limit 50000"]),
    ("The rate is 7.30 percent, or 7.3%.", ["rate 7.30", "rate 7.3"]),
    ("You pay 40.00 on 20000 for 10 days.", ["interest 40.00"]),
    ("It ends on 06-12, so 9 days are left.", ["expiry 06-12", "left 9"]),
    ("We have the number ending in 07.", ["phone 07"]),
    ("Your coupon of 20 is yours.", ["coupon 20"]),
    ("You can borrow 90000.", ["offer 90000"]),
    ("No, 90000 is over your limit of 50000.", ["limit 50000"]),
    ("Is your limit 50000?", []),                # a question states nothing
    ("Your limit is not 50000.", []),
    ("50000, 20, 40.00.", []),                   # numbers without nouns
    ("{_limit}", []),                            # a slot is no number
])
def test_claims(text, claims):
    assert [f"{claim.kind} {claim.value}" for claim in hear(text).claims] == claims


def test_an_interest_claim_knows_what_it_is_for():
    claim, = hear("On 20000 for 10 days the interest is 40.00.").claims
    assert (claim.amount, claim.days) == ("20000", "10")


def test_every_sentence_of_the_book_is_heard_as_its_act():
    """The teacher's words reach the caller: each act's kind of claim, or the act itself."""
    kinds = {
        "introduce": "coupon", "point_coupon": "coupon", "state_limit": "limit",
        "state_rate": "rate", "state_interest": "interest", "state_expiry": "expiry",
        "state_phone": "phone", "confirm_amount": "limit"}
    caller = Caller(0, "test", 0)
    caller.reset()
    caller.profile = ADA
    caller.agenda = [Ask("interest", "20000", "10")]
    for act in SKILLS:
        for words in caller.wordings(act):
            heard = hear(caller.filled(words, ADA))
            false = [c for c in heard.claims if not true_value(ADA, c, caller.ask)]
            assert not false
            if act in kinds:
                assert kinds[act] in [claim.kind for claim in heard.claims], words
            if not act.startswith(("state", "confirm")):
                assert act in heard.acts, words


@pytest.mark.parametrize("claim, true", [
    (Claim("limit", "50000", 0), True), (Claim("limit", "20000", 0), False),
    (Claim("rate", "7.3", 0), True), (Claim("left", "8", 0), False),
    (Claim("phone", "7", 0), False), (Claim("expiry", "06-12", 0), True),
    (Claim("offer", "50000", 0), True), (Claim("offer", "50001", 0), False),
    (Claim("interest", "40.00", 0), True),       # as asked: 20000 for 10 days
    (Claim("interest", "40.01", 0), True),       # within a cent
    (Claim("interest", "40.02", 0), False),
    (Claim("interest", "60.00", 0, "30000"), True),
    (Claim("interest", "60.00", 0, "30000", "7"), False),
    (Claim("interest", "0.00", 0, "0"), False),
])
def test_what_is_true_of_a_profile(claim, true):
    assert true_value(ADA, claim, Ask("interest", "20000", "10")) is true


# --- a call -------------------------------------------------------------------------------------

def caller_who(asks, need="some", trust=.9, patience=3.0):
    """A caller of Ms Adams' profile with this agenda, after the opening."""
    caller = Caller(0, "test", 0)
    caller.reset()
    caller.profile = ADA
    caller.agenda = [Ask("open"), *asks]
    caller.need, caller.trust, caller.patience = need, trust, patience
    caller.step("Hello, this is Anna of Lotus Credit.")
    return caller


LIMIT = [Ask("limit")]
SUM = [Ask("interest", "20000", "10")]


def end_of(caller, *replies):
    for reply in replies:
        caller.step(reply)
    return caller.ending


def test_a_right_answer_and_an_invitation_after_it_are_accepted():
    assert end_of(caller_who(LIMIT), "Your limit is 50000. Shall I set it up?") == "accepted"


def test_an_invitation_before_the_answer_does_not_count():
    caller = caller_who(LIMIT)
    seen = caller.step("Shall I set it up? Your limit is 50000.")
    assert (caller.ending, seen.labels.intent) == ("", "pause")
    # one more chance
    assert seen.labels.teacher == ("invite",)
    assert end_of(caller, "May I set it up?") == "accepted"


def test_without_an_invitation_the_customer_declines():
    assert end_of(caller_who(LIMIT), "Your limit is 50000.", "Fine.") == "declined"


def test_a_wrong_number_is_no_answer_and_ends_the_call_of_half_the_customers():
    wrong = "Your limit is 20000. Shall I set it up?"
    trusting = caller_who(LIMIT, trust=.6)
    assert end_of(trusting, wrong) == ""
    assert (trusting.wrong, trusting.unanswered) == (1, 1)
    assert end_of(trusting, "Your limit is 50000. Shall I?", "May I?") == "accepted"
    assert end_of(caller_who(LIMIT, trust=.4), wrong) == "hung up"


def test_interest_for_something_else_is_no_answer_though_true():
    caller = caller_who(SUM)
    assert end_of(caller, "On 30000 for 10 days you pay 60.00. Shall I?") == ""
    assert (caller.wrong, caller.unanswered) == (0, 1)
    assert end_of(caller, "Your interest is 40.00. Shall I set it up?") == "accepted"


def test_two_replies_without_an_answer_ask_for_a_person():
    assert end_of(caller_who(LIMIT), "Good.", "Fine.") == "handoff"


def test_yes_and_no_together_are_no_answer():
    caller = caller_who([Ask("want", "90000")])
    assert end_of(caller, "Yes. No, that is over your limit of 50000. Shall I?") == ""
    assert caller.unanswered == 1


def test_an_amount_over_the_limit_may_not_be_offered():
    caller = caller_who([Ask("want", "90000")])
    replies = "You can borrow 90000.", "Sorry, 90000 exceeds your limit of 50000. Shall I?"
    assert end_of(caller, *replies) == "declined"
    assert caller.over_offered


def test_without_a_need_nobody_accepts():
    reply = "Your limit is 50000. Shall I set it up?"
    assert end_of(caller_who(LIMIT, need="none"), reply) == "declined"


@pytest.mark.parametrize("reply, cost", [
    ("Your limit is 50000.", 0),
    ("Hello, this is Anna of Lotus Credit. Your limit is 50000.", 1),        # said before
    ("Dear customer, your limit is 50000.", .75),
    ("Your limit is 50000." + " indeed" * 40 + ".", 1),
])
def test_what_costs_patience(reply, cost):
    caller = caller_who([*LIMIT, Ask("rate")])
    caller.step(reply)
    assert caller.patience == 3 - cost


def test_the_third_invitation_costs_patience():
    caller = caller_who([Ask("limit"), Ask("rate"), Ask("expiry")])
    for words in ("limit is 50000. Shall I?", "rate is 7.30 percent. May I?"):
        caller.step(f"Your {words}")
        assert caller.patience == 3
    caller.step("It ends on 06-12. Do you want it?")
    assert caller.patience == 2


def test_of_a_list_of_numbers_nothing_is_heard():
    caller = caller_who(LIMIT)
    caller.step("Your limit is 50000, the rate 7.30 percent, until 06-12, phone ending in 07.")
    assert (caller.unanswered, caller.wrong) == (1, 0)
    assert caller.patience == 3 - 1 - .75


def test_a_call_that_leads_nowhere_is_cut():
    caller = caller_who([Ask("limit")] * 9)
    for n in range(7):
        seen = caller.step(f"Your limit is 50000{' indeed' * n}.")
    assert seen.truncated
    assert not seen.terminated


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=80), min_size=8, max_size=8), st.integers(0, 50))
def test_every_reply_is_survived_and_every_call_ends(replies, number):
    caller = Caller(1, "train", number)
    seen = caller.reset()
    for reply in replies:
        if seen.terminated or seen.truncated:
            break
        seen = caller.step(reply)
    assert seen.terminated or seen.truncated
    assert not seen.outcome.success


@pytest.mark.parametrize("rates", ["clean", "paper"])
def test_the_good_agent_is_never_wrong_and_loses_only_those_without_need(rates):
    endings = Counter()
    for number in range(80):
        caller = Caller(0, "dev", number, rates=rates)
        call(caller, good_agent)
        assert caller.wrong == 0
        assert (caller.ending == "declined") is (caller.need == "none")
        endings[caller.ending] += 1
    assert set(endings) == {"accepted", "declined"}


def test_two_agents_meet_the_same_customer():
    first, second = Caller(0, "dev", 5), Caller(0, "dev", 5)
    assert first.reset() == second.reset()
    assert first.agenda == second.agenda
    other = Caller(0, "dev", 6)
    other.reset()
    assert (other.profile, other.agenda) != (first.profile, first.agenda)


# --- facts --------------------------------------------------------------------------------------

def facts(act, user, history=()):
    return sale.facts(Judged(user, ADA.context(), (SKILLS[act],), "", history=history))


def test_facts_of_an_interest_question():
    known = facts("state_interest", "What would 20000 cost me for 10 days?")
    assert known.needed == ("40.00",)
    assert {"40.00", "20000", "10", "50000", "9"} <= known.allowed
    # the interest of another amount is not allowed, and no number of another profile
    assert not {"60.00", "90000", "08"} & known.allowed


def test_what_the_customer_asked_before_may_still_be_said():
    before = (("What would 30000 cost me for 10 days?", "60.00."),)
    assert "60.00" in facts("state_limit", "And my limit?", before).allowed
    # what an agent said is no fact
    assert "99.00" not in facts("state_limit", "And my limit?", (("Hm?", "99.00."),)).allowed


def test_topics_of_an_amount_depend_on_the_limit():
    within = facts("confirm_amount", "Could I get 30000?").topics
    over = facts("confirm_amount", "Could I get 90000?").topics
    assert within != over
    assert "exceed" in over[0]


def test_the_good_agents_replies_have_every_fact():
    rewards = RuleRewards(("RSN", "FID", "COV"))
    for number in range(40):
        for turn in taught_call("test", number):
            skills = tuple(SKILLS[act] for act in turn.skills)
            item = Judged(turn.user, turn.context, skills, turn.reply)
            assert rewards.rate([item], [sale.facts(item)]) == [(1, 1, 1)], turn.reply


# --- tasks --------------------------------------------------------------------------------------

def test_tasks_are_answered_by_their_own_sentence_and_by_no_other_profile():
    rng = random.Random(0)
    keys = Counter()
    for _ in range(300):
        task = sale.tasks("train", rng)
        keys[task.key] += 1
        right = (task.answer, task.form, task.given)
        assert scaffold_reward(task.sentence, *right) == 1, task
        assert scaffold_format(task.sentence, task.form, task.given) == 1
        assert scaffold_reward("nothing.", *right) == 0
        assert task.request.user.split()[:2] == ["say:", task.key]
        assert profile_of(task.request.context)
    assert set(keys) == {*sale.MAC, *sale.PNR}
    assert min(keys.values()) > 15


# --- logs ---------------------------------------------------------------------------------------

def test_logs_hold_every_flaw_and_the_acts_that_were_needed():
    turns: list[Turn] = []
    for number in range(150):
        turns += logged_call("train", number)
    stock = tuple(book()["stock"])
    robotic = sum(turn.reply.startswith(stock) for turn in turns) / len(turns)
    assert robotic == pytest.approx(FLAWS["robotic"], abs=.06)
    due = [turn for turn in turns if "invite" in turn.skills]
    silent = sum("?" not in turn.reply for turn in due) / len(due)
    assert silent == pytest.approx(FLAWS["uninvited"], abs=.1)
    assert {turn.intent for turn in turns} >= {"open", "pause", *QUESTIONS}
    for turn in turns:
        assert turn.reply
        assert turn.intent == "pause" or ANSWER[turn.intent] in turn.skills


def test_wrong_numbers_are_as_frequent_as_the_flaw_says():
    def false_share(wrong):
        heard = replies = 0
        for number in range(100):
            caller = Caller(0, "train", number)
            flaws = FLAWS | {"wrong": wrong}
            turns = call(caller, lambda *seen: careless_agent(*seen, flaws))
            heard += caller.wrong
            replies += len(turns)
        return heard / replies

    assert false_share(0) == 0
    assert .15 < false_share(.3) < .45


def test_the_dataset(monkeypatch):
    monkeypatch.setattr(sale, "SIZES", {"train": 20, "dev": 5, "test": 5})
    dataset = data.load("sale")
    assert (len(dataset.train), len(dataset.dev), len(dataset.test)) == (20, 5, 5)
    assert "simulated" in dataset.note
    assert "private" in dataset.note
    seen = dataset.play("test", 0).reset()
    assert dataset.facts(Judged(seen.user, seen.context, (), "")).needed == ()
    assert dataset.tasks("dev", random.Random(0)).kind in ("mac", "pnr")


# --- bounds -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def table():
    return bounds(60, 0)


def test_bounds_hold(table):
    failed = [condition for condition, holds in verdicts(table).items() if not holds]
    assert failed == []
    assert table["teacher"]["false"]["mean"] == 0


# a world in which one of these does as well as the teacher does not turn on numbers
@pytest.mark.parametrize("row", [
    "logs", "another's reply", "right acts, random numbers", "right numbers, random acts",
    *STUFFING])
def test_verdicts_can_fail(table, row):
    assert not all(verdicts(table | {row: table["teacher"]}).values())


def test_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["sale.py"])
    sale.main()
    assert "false numbers heard" in capsys.readouterr().out
    file = tmp_path / "bounds.json"
    monkeypatch.setattr(
        sys, "argv", ["sale.py", "--bounds", "--episodes", "1", "--json", str(file)])
    sale.main()
    assert "—" in capsys.readouterr().out
    assert json.loads(file.read_text())["split"] == "dev"
    monkeypatch.setattr(sys, "argv", ["sale.py", "--bounds", "--episodes", "0"])
    with pytest.raises(SystemExit):
        sale.main()


# --- rates ----------------------------------------------------------------------------------------

def test_rates_of_the_papers_kind_reach_logs_customers_and_tasks(monkeypatch):
    monkeypatch.setattr(sale, "SIZES", {"train": 20, "dev": 1, "test": 1})
    dataset = data.load("sale", sale_rates="paper")
    seen = {dialogue.turns[0].context["_apr"] for dialogue in dataset.train}
    rng = random.Random(0)
    seen |= {dataset.tasks("train", rng).request.context["_apr"] for _ in range(20)}
    seen.add(dataset.play("dev", 0).reset().context["_apr"])
    assert seen <= set(RATES["paper"])
    assert not seen <= set(RATES["clean"])


def test_other_rates_and_other_datasets_are_refused():
    with pytest.raises(DataError, match="--sale_rates must be one of clean, paper, got 'low'"):
        data.load("sale", sale_rates="low")
    with pytest.raises(DataError, match="--sale_rates chooses the rates of sale; mgshop has none"):
        data.load("mgshop", sale_rates="paper")


@pytest.mark.parametrize("flags, rates", [
    ([], "clean"), (["--model", "org/large"], "paper"), (["--sale_rates", "paper"], "paper")])
def test_a_large_model_meets_the_papers_rates(flags, rates):
    configs = parse_flags(["--dataset", "sale", "--algo", "more", *flags], "")
    assert with_rates(configs).run.sale_rates == rates
    other = parse_flags(["--dataset", "mgshop"], "")
    assert with_rates(other).run.sale_rates is None
