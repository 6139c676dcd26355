"""Bounds on TSE and return: what trivial policies reach in a simulated shop, before any training.

A shop is worth training in only if a planner does far better than chance, than keyword stuffing,
and than any fixed script.  `verdicts` checks these conditions.  They were fixed before
any training.  TSE is Eq. 11.  The return is Eq. 1 over the joint reward of Eq. 10, scored by the
rule judge.  All replies are worded by the phrase book: no model is loaded here.

Try it:  python -m shop.mgshop --bounds --episodes 200 --seed 0"""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

from tqdm import tqdm

from data import MAX_SKILLS, Observation
from judge import Judged, RuleJudge
from rewards import cs_reward, dialogue_return, joint_reward, skill_reward
from shop.catalogue import skill_pool, template
from shop.customer import Shop, teacher_dialogue
from tse import interval, tse

GAMMA = 0.95                                     # discount of Eq. 1
EMOTION_DIALOGUES = 100                          # dialogues from which shuffled emotions are drawn
SCRIPT_LENGTH = 8                                # turns of the fixed script
SCRIPT_CHOICES = 12                              # the teacher's most frequent skill lists
METRICS = (
    "tse", "return",
    "I_1", "I_2", "I_3",
    "N_1", "N_2", "N_3",
    "turns", "success", "vouchers", "left",
)

Chooser = Callable[[Shop, Observation, random.Random], list[str]]
Choice = tuple[list[str], str]                   # skills, reply
Policy = Callable[[Shop, Observation, random.Random], Choice]
Table = dict[str, dict[str, dict]]               # policy -> metric -> mean, low, high, n


# --- trivial policies -----------------------------------------------------------------------------

def spoken(choose: Chooser) -> Policy:
    """A policy over skills, worded by the phrase book."""
    def policy(shop: Shop, seen: Observation, rng: random.Random) -> Choice:
        skills = choose(shop, seen, rng)
        return skills, template(skills, seen.context, rng, shop.name)
    return policy


def teachers_skills(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
    return shop.teacher()


def random_skills(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
    return rng.sample(list(skill_pool(shop.name)), rng.randint(1, MAX_SKILLS))


def an_apology(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
    return ["apologise"]


def all_skills(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
    return list(skill_pool(shop.name))


def likely_skills(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
    """Keyword stuffing by someone who knows the kind of talk.

    Every reply has a name, a fact, a step, a voucher and an apology.
    """
    if shop.focus.talk == "product":
        return ["apologise", "recommend", "state_price", "guide_checkout", "offer_voucher"]
    return ["apologise", "confirm_order", "state_delivery", "guide_return", "offer_voucher"]


def no_skills(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
    return []


def by_script(script: list[list[str]]) -> Chooser:
    """Skills by the number of the turn alone; the last entry serves all later turns."""
    def choose(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
        return script[min(shop.turn, len(script) - 1)]
    return choose


def by_wrong_emotion(emotions: list[str]) -> Chooser:
    """The teacher, who takes the emotion of some other customer for this one's."""
    def choose(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
        return shop.teacher(rng.choice(emotions))
    return choose


def policies(script: list[list[str]], emotions: list[str]) -> dict[str, Policy]:
    """The rows of the bounds table."""
    return {
        "teacher": spoken(teachers_skills),
        "random skills": spoken(random_skills),
        "always apologise": spoken(an_apology),
        "all skills at once": spoken(all_skills),
        "five likely skills": spoken(likely_skills),
        "stall": spoken(no_skills),
        "best fixed script": spoken(by_script(script)),
        "shuffled emotions": spoken(by_wrong_emotion(emotions)),
    }


# --- one dialogue, one table ----------------------------------------------------------------------

def play(shop: Shop, policy: Policy, judge: RuleJudge) -> dict[str, float | None]:
    """One dialogue: its METRICS.  The return has the absorbing end of Eq. 1."""
    pool = skill_pool(shop.name)
    rewards: list[float] = []
    replies: list[str] = []
    seen = shop.reset()
    while not (seen.terminated or seen.truncated):
        skills, reply = policy(shop, seen, shop.rng("policy", shop.turn))
        chosen = skills[:MAX_SKILLS]
        asked = tuple(pool[s] for s in chosen)
        judged = Judged(seen.user, seen.context, asked, reply, tuple(replies))
        R_E = skill_reward(chosen, seen.labels.teacher)
        R_A = cs_reward(judge.score([judged])[0])
        rewards.append(joint_reward(R_E, R_A, len(rewards) + 1, shop.horizon))
        replies.append(reply)
        seen = shop.step(reply)
    outcome = seen.outcome
    done = outcome.completed
    numbers: dict[str, float | None] = {
        "tse": tse(done),
        "return": dialogue_return(rewards, shop.horizon, GAMMA, outcome.success),
    }
    numbers |= {f"I_{i}": float(n is not None) for i, n in enumerate(done, 1)}
    numbers |= {f"N_{i}": n for i, n in enumerate(done, 1)}
    return numbers | {
        "turns": len(rewards),
        "success": float(outcome.success),
        "vouchers": outcome.vouchers,
        "left": float(shop.left),
    }


def best_script(seed: int, customers: int = 60, name: str = "mgshop") -> list[list[str]]:
    """The best fixed script by turn number, searched on train customers.

    Coordinate ascent: one turn after the other gets the best of the teacher's most frequent lists.
    """
    counted: Counter[tuple[str, ...]] = Counter()
    for n in range(customers):
        counted.update(turn.skills for turn in teacher_dialogue("train", n, seed, name).turns)
    likely = [list(skills) for skills, _ in counted.most_common(SCRIPT_CHOICES)]
    judge = RuleJudge(skill_pool(name))

    def value(script: list[list[str]]) -> float:
        policy = spoken(by_script(script))
        shops = [Shop(seed, "train", n, name=name) for n in range(customers)]
        return sum(play(shop, policy, judge)["tse"] for shop in shops)

    return search_script(likely, value)


def search_script(
    likely: list[list[str]], value: Callable[[list[list[str]]], float]
) -> list[list[str]]:
    """Coordinate ascent over the turns; the later turns begin with the first of `likely`."""
    script = [likely[0]] * SCRIPT_LENGTH
    for turn in tqdm(range(SCRIPT_LENGTH), desc="searching the best fixed script", leave=False):
        tried = [[*script[:turn], skills, *script[turn + 1:]] for skills in likely]
        script = max(tried, key=value)
    return script


def bounds(episodes: int, seed: int, name: str = "mgshop") -> Table:
    """Mean and 95 % interval of each metric for each trivial policy, on the same test customers."""
    emotions: list[str] = []
    for n in range(EMOTION_DIALOGUES):
        dialogue = teacher_dialogue("train", n, seed, name)
        emotions += [turn.emotion for turn in dialogue.turns]
    judge = RuleJudge(skill_pool(name))
    rows = policies(best_script(seed, name=name), emotions)
    table = {}
    for row, policy in tqdm(rows.items(), desc="bounds", leave=False):
        shops = [Shop(seed, "test", n, name=name) for n in range(episodes)]
        played = [play(shop, policy, judge) for shop in shops]
        table[row] = {}
        for metric in METRICS:
            table[row][metric] = interval([numbers[metric] for numbers in played], seed)
    return table


def verdicts(table: Table) -> dict[str, bool]:
    """Does the shop need a planner?  Conditions fixed before any training."""
    t = {name: row["tse"]["mean"] for name, row in table.items()}
    r = {name: row["return"]["mean"] for name, row in table.items()}
    gap = t["teacher"] - t["random skills"]
    low = table["teacher"]["tse"]["low"]
    high = table["random skills"]["tse"]["high"]
    # one customer has no interval
    disjoint = low is not None and high is not None and low > high

    def within(name: str, share: float) -> bool:
        return t[name] <= t["random skills"] + share * gap

    return {
        "teacher - random >= .3 TSE, intervals disjoint": gap >= 0.3 and disjoint,
        "teacher > random > stall in TSE": t["teacher"] > t["random skills"] > t["stall"],
        "teacher > random > stall in return": r["teacher"] > r["random skills"] > r["stall"],
        "all skills at once <= random + 25 % of the gap": within("all skills at once", 0.25),
        "five likely skills <= random + 25 % of the gap": within("five likely skills", 0.25),
        "best fixed script <= random + 60 %": within("best fixed script", 0.6),
        "shuffled emotions <= random + 60 %": within("shuffled emotions", 0.6),
    }


def print_bounds(table: Table) -> None:
    head = "".join(f"{metric:>9s}" for metric in METRICS)
    print(f"{'policy':20s}{head}   TSE 95 %")
    for name, row in table.items():
        cells = "".join(_cell(row[metric]["mean"]) for metric in METRICS)
        print(f"{name:20s}{cells}   {ends(row['tse'])}")
    print_verdicts(verdicts(table))


def print_verdicts(found: Mapping[str, bool]) -> None:
    """A line for each condition: whether it holds."""
    for condition, holds in found.items():
        verdict = "holds " if holds else "FAILS "
        print(f"{verdict} {condition}")


def ends(cell: Mapping[str, float | None]) -> str:
    """The ends of an interval, as text."""
    if cell["low"] is None:
        return "—"
    return f"[{cell['low']:.3f}, {cell['high']:.3f}]"


def _cell(mean: float | None) -> str:
    return f"{'—':>9s}" if mean is None else f"{mean:9.2f}"
