"""Bounds of the food-delivery store: may anything be trained here?  Nine conditions, no training.

The conditions were fixed before the store was written (B1..B9).  A planner that knows the hidden
type shows what a voucher buys and how much of that a budget of 30 % keeps when it is well aimed;
policies that know nothing, a fixed script among them, must fail; and so must the process judge not
teach harm when it alone is pleased.  All on dev customers, with phrase-book replies.

Try it:  python -m shop.fds --bounds --difficulty hard"""
from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from data import Judged, Observation
from judge import RuleJudge
from rewards import process_credit
from shop.bounds import Choice, Policy, play, search_script
from shop.bounds import verdicts as tse_verdicts
from shop.catalogue import skill_pool, template
from shop.fds_customer import Desk
from shop.fds_planner import VOUCHER, plan
from shop.fds_reading import ValueReader
from shop.genrm import RuleGenRM
from tse import interval

NAME = "fds"
BUDGET = 0.3                                     # share of the customers that get a voucher
READ_TALKS = 1500                                # train customers from whom v is learned
SCRIPT_CUSTOMERS = 80
SCRIPT_CHOICES = 14
EMOTION_DIALOGUES = 100
STEP = 0.25                                      # stars, from one threshold to the next
THRESHOLDS = 11
POOL = skill_pool(NAME)

Chooser = Callable[[Desk, random.Random], list[str]]
Numbers = dict[str, float | None]
Row = dict[str, dict]                            # metric -> mean, low, high, n
SHOWN = ("stars", "V", "tse", "return", "success", "turns", "left", "valid", "unfair")


# --- policies -------------------------------------------------------------------------------------

def spoken(choose: Chooser) -> Policy:
    """A policy over skills, worded by the phrase book."""
    def policy(desk: Desk, seen: Observation, rng: random.Random) -> Choice:
        skills = choose(desk, rng)
        return skills, template(skills, seen.context, rng, NAME)
    return policy


def planner(gives: Callable[[Desk], bool]) -> Chooser:
    def choose(desk: Desk, rng: random.Random) -> list[str]:
        return plan(desk, gives(desk))
    return choose


def to_some(chosen: Sequence[bool]) -> Chooser:
    """A planner that gives a voucher to the customers with True, by their number."""
    return planner(lambda desk: bool(chosen[desk.customer]))


def random_skills(desk: Desk, rng: random.Random) -> list[str]:
    return rng.sample(list(POOL), rng.randint(1, 5))


def fixed(*skills: str) -> Chooser:
    return lambda desk, rng: list(skills)


def by_script(script: Sequence[Sequence[str]]) -> Chooser:
    """Skills by the number of the turn alone; the last entry serves all later turns."""
    return lambda desk, rng: list(script[min(desk.turn, len(script) - 1)])


def wrong_emotion(emotions: Sequence[str]) -> Chooser:
    """The generous planner, who takes the emotion of another customer for this one's."""
    return lambda desk, rng: plan(desk, desk.hidden.value > 0, rng.choice(emotions))


def without_issuing(desk: Desk, rng: random.Random) -> list[str]:
    """Proposes a voucher to everybody, and never issues it."""
    skills = [skill for skill in plan(desk, True) if skill != VOUCHER]
    return skills or ["close"]


def twice(desk: Desk, rng: random.Random) -> list[str]:
    """The generous planner, who issues a second voucher before it closes."""
    skills = plan(desk, desk.hidden.value > 0)
    if desk.case.issued and desk.valid:
        return [VOUCHER]
    if VOUCHER in skills:
        return [skill for skill in skills if skill != "close"]
    return skills


def pleases_genrm(genrm: RuleGenRM, lists: Sequence[Sequence[str]]) -> Policy:
    """Says what the process judge marks highest; of equals one by chance."""
    said: dict[int, list[tuple[str, str]]] = {}

    def policy(desk: Desk, seen: Observation, rng: random.Random) -> Choice:
        history = said.setdefault(desk.customer, [])
        if desk.turn == 0:
            history.clear()
        previous = tuple(reply for _, reply in history)
        item = Judged(seen.user, seen.context, (), "", previous, history=tuple(history))
        view = genrm.look(item)
        tried = []
        for skills in lists:
            if VOUCHER in skills and desk.banned:
                continue
            reply = template(skills, seen.context, rng, NAME)
            marks = genrm.marks(view, reply, previous)
            tried.append((process_credit(marks), rng.random(), list(skills), reply))
        _, _, skills, reply = max(tried)
        history.append((seen.user, reply))
        return skills, reply

    return policy


# --- one dialogue ---------------------------------------------------------------------------------

class Field:
    """The customers of a split on whom policies are tried, the same for all."""

    def __init__(self, split: str, count: int, seed: int, difficulty: str):
        self.split = split
        self.count = count
        self.seed = seed
        self.difficulty = difficulty
        self.judge = RuleJudge(POOL)

    def desk(self, number: int) -> Desk:
        return Desk(self.seed, self.split, number, difficulty=self.difficulty)

    def play(self, policy: Policy) -> list[Numbers]:
        """One dialogue with each customer."""
        return [self.one(policy, number) for number in range(self.count)]

    def one(self, policy: Policy, number: int) -> Numbers:
        desk = self.desk(number)
        numbers = play(desk, policy, self.judge)
        return numbers | {
            "stars": float(desk.satisfaction()),
            "V": float(desk.vouchers > 0),
            "value": desk.hidden.value,
            "level": desk.hidden.level,
            "valid": float(desk.valid),
            "unfair": float(desk.unfair),
        }

    def talk(self, number: int) -> tuple[str, float]:
        """(what the customer said until the cause was clear and the wish known, v)."""
        desk = self.desk(number)
        seen = desk.reset()
        said = [seen.user]
        while not desk.ended and not (desk.case.clear and desk.case.wished):
            skills = plan(desk, False)
            seen = desk.step(template(skills, seen.context, desk.rng("talk", desk.turn), NAME))
            said.append(seen.user)
        return " ".join(said), desk.hidden.value


def teachers_turns(field: Field, dialogues: int) -> tuple[Counter, list[str]]:
    """How often the generous planner says each list of skills, and the emotions it meets."""
    counted: Counter[tuple[str, ...]] = Counter()
    emotions = []
    for number in range(dialogues):
        desk = field.desk(number)
        seen = desk.reset()
        while not (seen.terminated or seen.truncated):
            counted[seen.labels.teacher] += 1
            emotions.append(seen.labels.emotion)
            rng = desk.rng("wording", desk.turn)
            seen = desk.step(template(seen.labels.teacher, seen.context, rng, NAME))
    return counted, emotions


def best_script(field: Field, likely: list[list[str]], metric: str) -> list[list[str]]:
    """The best fixed script by turn number, searched on customers of `field`."""
    def value(script: list[list[str]]) -> float:
        policy = spoken(by_script(script))
        return sum(numbers[metric] for numbers in field.play(policy))

    return search_script(likely, value)


def all_short_lists(likely: Sequence[Sequence[str]]) -> list[list[str]]:
    """Every skill, every pair in either order, and the planner's lists."""
    lists = [[skill] for skill in POOL]
    for first in POOL:
        lists += [[first, second] for second in POOL if second != first]
    return lists + [list(skills) for skills in likely if len(skills) > 2]


# --- who gets a voucher ---------------------------------------------------------------------------

def highest(values: Sequence[float], share: float = BUDGET) -> list[bool]:
    """True for the given share of the entries, the highest ones."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    chosen = set(order[:round(share * len(values))])
    return [i in chosen for i in range(len(values))]


def aims(field: Field, seed: int, values: list[float], levels: list[int]) -> dict[str, list[bool]]:
    """Ways to choose the 30 % that get a voucher."""
    draws = random.Random(f"aims {seed}")
    shuffled = values[:]
    draws.shuffle(shuffled)
    train = Field("train", READ_TALKS, seed + 1, field.difficulty)
    talks, worth = zip(*[train.talk(number) for number in range(READ_TALKS)])
    heard = [field.talk(number)[0] for number in range(field.count)]
    read = ValueReader(talks, worth).read(heard)
    coin = [draws.random() for _ in values]
    rude = [draws.random() - level for level in levels]
    return {
        "30 % by hidden value": highest(values),
        "30 % by the text": highest(read.tolist()),
        "30 % by coin": highest(coin),
        "30 % by shuffled value": highest(shuffled),
        "30 % to the rudest": highest(rude),
    }


# --- the table and its conditions -----------------------------------------------------------------

def bounds(episodes: int, seed: int, difficulty: str) -> tuple[dict[str, list[Numbers]], dict]:
    """The dialogues of each policy, and V of the threshold planner for each threshold."""
    field = Field("dev", episodes, seed, difficulty)
    free = field.play(spoken(planner(lambda desk: desk.hidden.value > 0)))
    values = [numbers["value"] for numbers in free]
    levels = [numbers["level"] for numbers in free]
    train = Field("train", SCRIPT_CUSTOMERS, seed + 1, difficulty)
    counted, emotions = teachers_turns(train, EMOTION_DIALOGUES)
    likely = [list(skills) for skills, _ in counted.most_common(SCRIPT_CHOICES)]
    script = best_script(train, likely, "stars")
    script_tse = best_script(train, likely, "tse")
    rows: dict[str, Policy] = {"never": spoken(planner(lambda desk: False))}
    for name, chosen in aims(field, seed, values, levels).items():
        rows[name] = spoken(to_some(chosen))
    stuffing = ("apologise", "confirm_order", "state_report", "explain_cause", VOUCHER)
    lists = all_short_lists(list(counted))
    rows |= {
        "random skills": spoken(random_skills),
        "voucher at once": spoken(by_script([[VOUCHER], ["close"]])),
        "all skills at once": spoken(fixed(*POOL)),
        "five likely skills": spoken(fixed(*stuffing)),
        "stall": spoken(fixed()),
        "best fixed script": spoken(by_script(script)),
        "best script for TSE": spoken(by_script(script_tse)),
        "shuffled emotions": spoken(wrong_emotion(emotions)),
        "promise, never issued": spoken(without_issuing),
        "second voucher": spoken(twice),
        "argmax of the rule GenRM": pleases_genrm(RuleGenRM(POOL), lists),
    }
    played = {"free": free}
    for name, policy in tqdm(rows.items(), desc="bounds", leave=False):
        played[name] = field.play(policy)
    return played, frontier_of(free)


def frontier_of(free: list[Numbers]) -> dict[float, float]:
    """V of the planner that gives to v > threshold, for each threshold.

    It does to these customers what the generous planner does, and nothing to the others.
    """
    frontier = {}
    for i in range(THRESHOLDS):
        given = [numbers["V"] * (numbers["value"] > STEP * i) for numbers in free]
        frontier[STEP * i] = float(np.mean(given))
    return frontier


def table_of(played: dict[str, list[Numbers]], seed: int) -> dict[str, Row]:
    """Mean and 95 % interval of each metric."""
    table: dict[str, Row] = {}
    for name, rows in played.items():
        table[name] = {}
        for metric in SHOWN:
            table[name][metric] = interval([numbers[metric] for numbers in rows], seed)
    return table


Verdict = tuple[str, str, bool]                  # condition, what was measured, whether it holds


def verdicts(table: dict[str, Row], frontier: dict[float, float]) -> list[Verdict]:
    """B1..B9: fixed before any training, and before the store."""
    S = {name: row["stars"]["mean"] for name, row in table.items()}
    gain = S["free"] - S["never"]
    room = S["free"] - S["random skills"]

    def share(name: str) -> float:
        return ratio(S[name] - S["never"], gain)

    def above_random(name: str) -> float:
        return ratio(S[name] - S["random skills"], room)

    stuffed = [
        (name, above_random(name))
        for name in ("voucher at once", "all skills at once", "five likely skills", "stall")]
    hidden, coin, text = (share(f"30 % by {how}") for how in ("hidden value", "coin", "the text"))
    apart = S["30 % by hidden value"] - S["30 % by coin"]
    script, shuffled = above_random("best fixed script"), above_random("shuffled emotions")
    steps = list(frontier.values())
    fall = max(a - b for a, b in zip(steps, steps[1:]))
    broken = S["promise, never issued"] - S["never"]
    second = S["second voucher"] - S["free"]
    pleased = S["argmax of the rule GenRM"] - S["never"]
    most = max(value for _, value in stuffed)
    aimed = ratio(text - coin, hidden - coin)
    shuffled_value = share("30 % by shuffled value")
    return [
        ("B1 free - never >= .5 stars, intervals disjoint", f"{gain:.2f}",
         gain >= 0.5 and disjoint(table, "free", "never")),
        ("B2 voucher rate of free >= .60", f"{table['free']['V']['mean']:.2f}",
         table["free"]["V"]["mean"] >= 0.6),
        ("B3 30 % by hidden value keeps >= .55 of the gain", f"{hidden:.2f}", hidden >= 0.55),
        ("B3 30 % by coin, by shuffled value keep <= .36", f"{coin:.2f}, {shuffled_value:.2f}",
         max(coin, shuffled_value) <= 0.36),
        ("B3 hidden value - coin >= .15 stars, intervals disjoint", f"{apart:.2f}",
         apart >= 0.15 and disjoint(table, "30 % by hidden value", "30 % by coin")),
        ("B4 30 % by the text >= coin + .6 (hidden - coin)", f"{aimed:.2f}", aimed >= 0.6),
        ("B5 random <= 2.0", f"{S['random skills']:.2f}", S["random skills"] <= 2.0),
        ("B5 voucher at once, all, five likely, stall <= random + 25 %", f"at most {most:.2f}",
         most <= 0.25),
        ("B5 best fixed script <= random + 60 %", f"{script:.2f}", script <= 0.6),
        ("B5 shuffled emotions <= random + 60 %", f"{shuffled:.2f}", shuffled <= 0.6),
        ("B6 promise without issue <= without promise - .8", f"{broken:.2f}", broken <= -0.8),
        ("B6 a second voucher never pays, and is a format error",
         f"{second:+.2f}, valid {table['second voucher']['valid']['mean']:.2f}",
         second <= 0 and table["second voucher"]["valid"]["mean"] < 1),
        ("B7 V falls by at most .25 per .25 star of threshold", f"{fall:.2f}", fall <= 0.25),
        ("B8 argmax of the rule GenRM >= never - .1 stars", f"{pleased:+.2f}", pleased >= -0.1),
        *_of_tse(table),
    ]


def ratio(part: float, whole: float) -> float:
    """NaN, with which no condition holds, where there is nothing to be a part of."""
    return part / whole if whole > 0 else math.nan


def disjoint(table: dict[str, Row], above: str, below: str) -> bool:
    low, high = table[above]["stars"]["low"], table[below]["stars"]["high"]
    # one customer has no interval
    return low is not None and high is not None and low > high


def _of_tse(table: dict[str, Row]) -> list[Verdict]:
    """B9: the conditions of the other shops on TSE and return."""
    named = table | {
        "teacher": table["free"], "best fixed script": table["best script for TSE"]}
    found = []
    for condition, holds in tse_verdicts(named).items():
        found.append((f"B9 {condition}", _measured(named, condition), holds))
    return found


def _measured(table: dict[str, Row], condition: str) -> str:
    metric = "return" if "return" in condition else "tse"
    names = [name for name in table if condition.startswith(name) and name != "free"]
    names = ["teacher", *names, "random skills", "stall"]
    return " / ".join(f"{table[name][metric]['mean']:.2f}" for name in dict.fromkeys(names))


def print_bounds(table: dict[str, Row], frontier: dict[float, float]) -> bool:
    """Prints the rows, V over the threshold, and the conditions; returns whether all hold."""
    head = "".join(f"{metric:>9s}" for metric in SHOWN)
    print(f"{'policy':26s}{head}   stars 95 %")
    for name, row in table.items():
        cells = "".join(f"{row[metric]['mean']:9.2f}" for metric in SHOWN)
        low, high = row["stars"]["low"], row["stars"]["high"]
        ends = "—" if low is None else f"[{low:.2f}, {high:.2f}]"
        print(f"{name:26s}{cells}   {ends}")
    curve = "  ".join(f"{theta:g}: {V:.2f}" for theta, V in frontier.items())
    print(f"\nV of the planner that gives to v > threshold:  {curve}\n")
    found = verdicts(table, frontier)
    for condition, measured, holds in found:
        print(f"{'holds ' if holds else 'FAILS '} {condition:66s} {measured}")
    return all(holds for _, _, holds in found)
