"""mgshop and its sisters, simulated shops: customers with a hidden agenda talk to whatever writes the replies.

The paper's Mgshop and TmallBrand data is not public (GAP-9), so these shops are ours and every number on them is a simulated one.
A shop is its book (catalogue.py); the customers' minds below are the same in all of them (tmallbrand.py: two more shops).  What
makes them worth planning for: which skill, in which order, at which turn decides.  A customer *hears only the text of the reply*
(`hear`), is upset or not, discloses or not, takes in a few things per reply, and leaves when patience runs out.
Agents see the utterances and B_t (`business_context`), which is a function of what was said and of the public catalogue alone.

Tasks of Eq. 11: 1 requirement matched (the right product or order was named), 2 information delivered (every fact asked for,
right), 3 guidance accepted.  A task is done when it is done for every need announced so far; N_i is the last completion.

Try it:  python mgshop.py                        one dialogue of the teacher, with mood, heard acts and tasks
         python mgshop.py --bounds --episodes 200 --seed 0    what trivial policies reach here (needs no training)
         python mgshop.py --shop tmallbrand-a         the same for another shop, with or without --bounds
Exercise: let an angry customer accept any opener (OPENER), run --bounds again: what happens to "shuffled emotions"?"""
from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Callable

from tqdm import tqdm

from data import MAX_SKILLS, Dataset, Dialogue, Labels, Observation, Outcome, Turn, fill
from judge import Judged, RuleJudge
from rewards import cs_reward, dialogue_return, joint_reward, skill_reward
from shop import second_ear
from shop.catalogue import SHOPS, Focus, book, business_context, code, open_orders, phrasings, products, search, skill_pool, template, update_focus
from shop.ear import FACT_OF, Act, hear
from tse import interval, tse

OPENER = {"angry": "apologise", "anxious": "reassure", "disappointed": "empathise"}     # what each upset customer must hear first
EMOTIONS = ("neutral", "happy", "angry", "anxious", "disappointed")
ASKED = {"price": "ask_price", "stock": "ask_stock", "eta": "ask_delivery", "window": "ask_returns", "refund": "ask_refund",
         "size": "ask_size", "status": "ask_status", "part": "ask_partial"}         # slot -> intent
SLOT_OF = {skill: slot for slot, skill in FACT_OF.items()}
COURTESY = {"greet", "close", *OPENER.values()}                  # everything else is business and takes attention
ATTENTION = {"terse": 2, "plain": 3, "chatty": 4}                # business acts a customer takes in per reply
LONG = 60                                                        # words; a longer reply annoys
WORST = 1.5                                                      # patience that one bad reply can cost, however bad
HORIZON = 12
SIZES = {"train": 1000, "dev": 60, "test": 200}                   # teacher dialogues made into a Dataset


def intents(name: str = "mgshop") -> tuple[str, ...]:
    """What a customer of the shop may want: the needs, the questions they bring, and the moves of any talk."""
    needs = book(name)["needs"].values()
    asked = {slot for need in needs for asks in need["asks"] for slot in asks}
    wants = dict.fromkeys(need["intent"] for need in needs if need["intent"] not in ASKED.values())
    return (*wants, *(intent for slot, intent in ASKED.items() if slot in asked), "give_details", "proceed", "object", "hesitate", "bye")


INTENTS = intents()


# --- the customer -----------------------------------------------------------------------------------------------------------

@dataclass
class Need:
    """One item of the hidden agenda."""
    kind: str
    talk: str
    category: str
    asks: list[str]                                              # slots asked for
    steps: list[str]                                             # guidance that would be accepted
    shop: str
    feature: str | None = None
    size: str | None = None                                      # None: no size, or a shop without
    budget: int | None = None
    order: str | None = None
    hidden: list[str] = field(default_factory=list)              # details not yet said
    asked: bool = False                                          # the questions have been put
    matched: str | None = None                                   # name of the product or order agreed on
    told: set[str] = field(default_factory=set)                  # slots answered rightly
    guided: bool = False

    def right(self, name: str, split: str) -> bool:
        if self.talk == "order":
            return name == self.order
        return any(p.name == name and p.feature == self.feature and p.price <= self.budget and (self.size is None or self.size in p.sizes)
                   for p in products(split, self.category, self.shop))

    def possible(self, split: str) -> bool:
        return any(self.right(p.name, split) for p in products(split, self.category, self.shop))

    @property
    def details(self) -> list[str]:
        """What the shop has to know, in the order it is said."""
        return ["order"] if self.talk == "order" else ["feature", "budget"] if self.size is None else ["feature", "size", "budget"]

    def informed(self) -> bool:
        return set(self.asks) <= self.told


@dataclass(frozen=True)
class Persona:
    """Four traits of InteractCS-RL, and the demand pattern."""
    style: str                                                   # terse, plain, chatty: how long they write, how much they take in
    open: bool                                                   # says all details at once, or waits to be asked
    direct: bool                                                 # asks with the first message, or step by step
    temper: str                                                  # the emotion this person falls into
    demand: str                                                  # rigid, preference, incentive, feedback


class Shop:
    """One simulated customer.  `reset()`, then `step(reply)` until `.terminated` or `.truncated`."""

    def __init__(self, seed: int = 0, split: str = "train", customer: int = 0, ear: Callable[[str, dict], list[Act]] = hear,
                 name: str = "mgshop"):
        self.seed, self.split, self.customer, self.ear, self.name = seed, split, customer, ear, name
        self.book, self.acts = book(name), {*skill_pool(name), "promise"}        # what is no skill of this shop says nothing to its customers

    def _rng(self, *key: object) -> random.Random:
        """Randomness belongs to (seed, customer, turn): two policies meet the same customer in the same mood for the same turn."""
        place = self.split if self.name == "mgshop" else f"{self.name} {self.split}"
        return random.Random(code(self.seed, place, self.customer, *key))

    def reset(self) -> Observation:
        rng = self._rng("persona")
        self.persona = Persona(rng.choice(list(ATTENTION)), rng.random() < 0.5, rng.random() < 0.5,
                               rng.choice(list(OPENER)), rng.choice(["rigid", "preference", "incentive", "feedback"]))
        self.agenda = [self._need(rng) for _ in range(rng.choice([1, 1, 2, 2, 3]))]
        self.change_at = rng.randrange(len(self.agenda)) if rng.random() < 0.25 else -1      # a wish that will change mid-way
        self.patience = 3.0 + 2.0 * rng.random()
        self.mood, self.turn, self.current, self.vouchers, self.promises = 0.6, 0, 0, 0, 0
        self.completed: list[int | None] = [None, None, None]
        self.left, self.feedback_given, self.compensated, self.heard = False, False, False, []
        self.focus, self.replies, self.agreed = Focus(), set(), False
        self.emotion = self._first_emotion(rng)
        return self._say(self._announce(self._rng("turn", 0)), self.need_spec["intent"])

    def _need(self, rng: random.Random) -> Need:
        kind = rng.choice(list(self.book["needs"]))
        spec, category = self.book["needs"][kind], rng.choice(list(self.book["categories"]))
        need = Need(kind, spec["talk"], category, list(rng.choice(spec["asks"])), list(spec["steps"]), self.name)
        if need.talk == "product":
            shelf = self.book["categories"][category]
            need.feature, need.budget = rng.choice(shelf["features"]), round(shelf["price"] * rng.choice([1.3, 2.0]))
            need.size = rng.choice(shelf["sizes"]) if "sizes" in shelf else None
            need.budget = need.budget if need.possible(self.split) else round(shelf["price"] * 2.0)      # the cheap one lacks this size
        else:
            need.order = rng.choice(open_orders(self.split, category))
            if self.persona.demand in ("rigid", "preference"):   # wants exactly one way out; a rigid one the usual, a choosy one any
                need.steps = [need.steps[0] if self.persona.demand == "rigid" else rng.choice(need.steps)]
        need.hidden = need.details
        return need

    @property
    def need(self) -> Need:
        return self.agenda[self.current]

    @property
    def need_spec(self) -> dict:
        return self.book["needs"][self.need.kind]

    def _first_emotion(self, rng: random.Random) -> str:
        if rng.random() < self.need_spec["upset"]:
            return self.persona.temper
        return "happy" if rng.random() < 0.3 else "neutral"

    # -- speaking

    def _phrase(self, rng: random.Random, kind: str) -> str:
        need = self.need
        text = rng.choice(rng.choice(phrasings(self.split, kind, self.name)))
        return text.format(category=need.category, feature=need.feature, size=need.size, budget=need.budget, order=need.order, product=need.matched)

    def _details(self, rng: random.Random) -> list[str]:
        said = [self._phrase(rng, f"detail.{d}") for d in self.need.hidden]
        self.need.hidden = []
        return said

    def _questions(self, rng: random.Random) -> list[str]:
        self.need.asked = True
        return [self._phrase(rng, f"ask.{slot}") for slot in self.need.asks if slot not in self.need.told]

    def _announce(self, rng: random.Random) -> list[str]:
        said = [self._phrase(rng, f"need.{self.need.kind}")]
        if self.persona.style == "chatty":
            said.append(self._phrase(rng, "chat"))
        if self.persona.open:
            said += self._details(rng)
        if self.persona.direct:
            said += self._questions(rng)
        if self.persona.demand == "preference" and self.persona.open and self.need.talk == "order":
            said.append(self._phrase(rng, f"want.{self.need.steps[0]}"))
        return said

    def _say(self, parts: list[str], intent: str) -> Observation:
        rng = self._rng("mark", self.turn)
        if self.emotion != "neutral" and not self.left:
            parts = [self._phrase(rng, f"mark.{self.emotion}"), *parts]
        utterance = " ".join(parts)
        self.focus = update_focus(self.focus, utterance, self.split, self.name)
        self.context = dict(search(self.focus, self.split, self.name))
        self.intent = intent
        over = self.left or self.success
        return Observation(utterance, self.context, terminated=over, truncated=not over and self.turn >= HORIZON,
                           labels=self._labels(), outcome=self._outcome())

    def _labels(self) -> Labels:
        if self.left or self.success:
            return Labels(self.intent, self.emotion, (), "")
        teacher = self.teacher()
        return Labels(self.intent, self.emotion, tuple(teacher), template(teacher, self.context, self._rng("reference", self.turn), self.name))

    def _outcome(self) -> Outcome:
        return Outcome(self.success, tuple(self.completed), round(self.mood, 2), self.vouchers)

    @property
    def success(self) -> bool:
        return all(n.guided for n in self.agenda)

    # -- hearing

    def step(self, reply: str) -> Observation:
        """The customer reads the reply (slots still open are filled from B_t first) and answers."""
        self.turn += 1
        text = fill(reply, self.context)
        self.heard = [act for act in self.ear(text, self.context) if act.kind in self.acts]
        rng = self._rng("turn", self.turn)
        need, before = self.need, self.patience
        ready, known = need.matched is not None and need.informed(), need.matched       # before this reply: facts must have been read first
        reaction, progress = self._listen(self.heard, ready, rng)
        self._wear(text, progress)
        self.patience = max(self.patience, before - WORST)
        self.agreed = need.matched is not None and known is None
        self._note_tasks()
        if self.patience <= 0 and not self.success:
            self.left = True
            return self._say([self._phrase(rng, "leave")], "bye")
        return self._answer(reaction, rng)

    def _wear(self, text: str, progress: bool) -> None:
        """What a reply costs whatever it says: length, repetition, getting nowhere."""
        words, kinds = len(text.split()), [a.kind for a in self.heard]
        self.patience -= 0.5 * (words > LONG) + 0.5 * (len(kinds) - len(set(kinds))) + 0.5 * (text in self.replies) + 1.0 * (not progress)
        self.replies.add(text)
        self.promises += kinds.count("promise")
        self.mood = min(1.0, max(0.0, self.mood + (0.05 if progress else -0.1)))

    def _listen(self, acts: list[Act], ready: bool, rng: random.Random) -> tuple[str, bool]:
        """Goes through the acts in order.  Returns the strongest reaction and whether anything was achieved."""
        reaction, progress, business = "", False, 0
        if sum(a.kind not in COURTESY for a in acts) > 2 * ATTENTION[self.persona.style]:
            self.patience -= 1.0                                 # a wall of text is not read at all
            return "refuse.overload", False
        for act in acts:
            if act.kind in COURTESY:
                outcome = self._courtesy(act.kind, business, ready)
            elif self.emotion in OPENER:                         # upset and not heard: deaf for business
                self._upset_more()
                return "refuse.unheard", progress
            else:
                business += 1
                if business > ATTENTION[self.persona.style]:
                    self.patience -= 1.0
                    return "refuse.overload", progress
                outcome = self._business(act, ready, rng)
            progress = progress or outcome == "good"
            if outcome not in ("", "good"):
                reaction = reaction or outcome
        return reaction, progress

    def _courtesy(self, kind: str, business: int, ready: bool) -> str:
        if kind == "greet":
            self.patience -= 0.25 * (self.turn > 1 or self.emotion in OPENER)
            return ""
        if kind == "close":
            self.patience -= 0.5 * (not ready)                   # showing the door before the matter is settled
            return ""
        if OPENER.get(self.emotion) == kind and business == 0:
            self.emotion, self.mood = "neutral", min(1.0, self.mood + 0.15)
            return "good"
        self.patience -= 0.75                                    # needless, or the wrong words for this emotion
        return "" if self.emotion in OPENER else "refuse.needless"

    def _upset_more(self) -> None:
        self.patience -= 1.0
        self.mood = max(0.0, self.mood - 0.2)

    def _business(self, act: Act, ready: bool, rng: random.Random) -> str:
        need, kind = self.need, act.kind
        if kind in ("ask_need", "ask_order"):
            return self._asked(kind)
        if kind in ("recommend", "confirm_order"):
            return self._named(act, rng)
        if kind in SLOT_OF:
            return self._fact(SLOT_OF[kind], act)
        if kind.startswith("guide_"):
            return self._guided(kind, ready)
        if kind == "offer_voucher":
            self.vouchers += 1
            self.mood = min(1.0, self.mood + 0.2)
            waiting = self._hesitates() and ready
            self.compensated = True
            return "good" if waiting else ""
        self.patience -= 0.5                                     # upsell or a forbidden promise while the matter is open
        return "" if kind == "promise" else ("refuse.early" if not need.informed() else "")

    def _asked(self, kind: str) -> str:
        if kind == ("ask_need" if self.need.talk == "product" else "ask_order") and self.need.hidden and not self.need.matched:
            return "details"
        self.patience -= 0.5
        return "told"

    def _named(self, act: Act, rng: random.Random) -> str:
        """A product or an order is named: does it match what this customer has in mind?"""
        need, slot = self.need, SLOT_OF[act.kind]
        if slot != need.talk:
            return self._wrong("wrong.fact", rng)
        names = [self.context.get(f"{slot}_{n}", "") for n in act.candidates]
        if need.matched:                                         # named again: fine if it is the one agreed on
            return "" if need.matched in names else self._wrong("wrong.fact", rng)
        right = [n for n in names if need.right(n, self.split)]
        listed = {self.context.get(f"{slot}_{n}") for a in self.heard if a.kind == act.kind for n in a.candidates}
        if len(listed) == 1 and right:                           # who lists several until one fits has named none
            need.matched = right[0]
            return "good"
        return self._wrong(f"wrong.{slot}", rng)

    def _fact(self, slot: str, act: Act) -> str:
        need = self.need
        if need.matched is None:
            return self._early()                                 # a fact about nothing agreed on
        if slot not in need.asks or not need.asked:
            self.patience -= 0.25                                # nobody asked
            return ""
        if any(self.context.get(f"{need.talk}_{n}") == need.matched for n in act.candidates):
            progress = slot not in need.told
            need.told.add(slot)
            return "good" if progress else ""
        return self._wrong("wrong.fact", self._rng("fact", self.turn))

    def _guided(self, kind: str, ready: bool) -> str:
        if not ready:
            return self._early()
        if self._hesitates():
            self.patience -= 0.5
            return "hesitate"
        if kind not in self.need.steps:
            self.patience -= 1.0
            return "refuse.step"
        self.need.guided = True
        return "good"

    def _hesitates(self) -> bool:
        return self.persona.demand == "incentive" and not self.compensated and self.current == 0 and self.mood < 0.75

    def _early(self) -> str:
        self.patience -= 0.75
        return "refuse.early"

    def _wrong(self, reaction: str, rng: random.Random) -> str:
        self.patience -= 1.0
        self.mood = max(0.0, self.mood - 0.15)
        if rng.random() < 0.5:
            self.emotion = self.persona.temper                   # a mistake upsets: it must be put right with the right words
        return reaction

    def _note_tasks(self) -> None:
        """Eq. 11's flags: done for every need announced so far (the current one and all before it)."""
        state = (self.need.matched is not None, self.need.matched is not None and self.need.informed(), self.need.guided)
        for i, done in enumerate(state):
            if not done:
                self.completed[i] = None
            elif self.completed[i] is None:
                self.completed[i] = self.turn

    # -- answering

    def _answer(self, reaction: str, rng: random.Random) -> Observation:
        need = self.need
        if need.guided:
            return self._next_need(rng)
        if reaction == "details":
            return self._say(self._details(rng), "give_details")
        if reaction:
            return self._object(reaction, rng)
        return self._go_on(rng)

    def _next_need(self, rng: random.Random) -> Observation:
        accepted = self._phrase(rng, "accept.step")
        if self.success:
            self.emotion = "happy"
            return self._say([accepted, self._phrase(rng, "done")], "bye")
        self.current += 1
        self.completed = [None, None, None]                      # a later need reopens the tasks
        self.emotion = self._first_emotion(rng) if rng.random() < 0.6 else "neutral"
        return self._say([accepted, self._phrase(rng, "next"), *self._announce(rng)], self.need_spec["intent"])

    def _object(self, reaction: str, rng: random.Random) -> Observation:
        """Says what was wrong, and what it is really about."""
        need, said = self.need, [self._phrase(rng, reaction)]
        if reaction in ("wrong.product", "wrong.order") and need.hidden:
            said += self._details(rng)
        elif reaction in ("wrong.product", "wrong.order", "told"):
            said += [self._phrase(rng, f"detail.{d}") for d in need.details]
        elif reaction == "refuse.step":
            said.append(self._phrase(rng, "want." + need.steps[0]) if f"want.{need.steps[0]}" in self.book["customer"] else self._phrase(rng, "accept.info"))
        elif reaction in ("refuse.early", "refuse.needless", "refuse.overload", "refuse.unheard", "wrong.fact"):
            said += self._open_point(rng)
        return self._say(said, "hesitate" if reaction == "hesitate" else "object")

    def _open_point(self, rng: random.Random) -> list[str]:
        """Repeats what the customer is waiting for."""
        need = self.need
        if need.matched is None:
            return [self._phrase(rng, f"need.{need.kind}"), *([] if need.hidden else [self._phrase(rng, f"detail.{d}") for d in need.details])]
        if not need.informed():
            return self._questions(rng)
        return [self._phrase(rng, "accept.info")]

    def _go_on(self, rng: random.Random) -> Observation:
        need = self.need
        if need.matched is None:
            return self._say([self._phrase(rng, "nothing")], "object")
        if self.current == self.change_at and need.talk == "product":
            return self._change_mind(rng)
        said = [self._phrase(rng, f"accept.{need.talk}")] if self.agreed else []
        if not need.informed():
            return self._say(said + self._questions(rng), ASKED[next(s for s in need.asks if s not in need.told)])
        said.append(self._phrase(rng, "accept.info"))
        if self._hesitates():
            return self._say([self._phrase(rng, "hesitate")], "hesitate")
        if self.persona.demand == "feedback" and not self.feedback_given:
            self.feedback_given, self.emotion = True, "disappointed"
            said.append(self._phrase(rng, "feedback"))
        return self._say(said, "proceed")

    def _change_mind(self, rng: random.Random) -> Observation:
        """The requirement changes mid-way: the match and what was told about it no longer count."""
        need, self.change_at = self.need, -1
        others = [f for f in self.book["categories"][need.category]["features"] if f != need.feature and replace(need, feature=f).possible(self.split)]
        need.feature, need.matched, need.told = rng.choice(others), None, set()
        self._note_tasks()
        return self._say([self._phrase(rng, "change"), *(self._phrase(rng, f"detail.{d}") for d in need.details)], "give_details")

    # -- the teacher

    def teacher(self, emotion: str | None = None) -> list[str]:
        """The reference sequence T: a planner that may look at the hidden agenda.  Used offline and in training, never to act in evaluation.

        emotion  what the teacher believes the customer feels (default: the truth)
        """
        need, emotion = self.need, emotion or self.emotion
        plan = ["greet"] if self.turn == 0 and emotion not in OPENER else []
        plan += [OPENER[emotion]] if emotion in OPENER else []
        room = min(ATTENTION[self.persona.style], MAX_SKILLS - len(plan))
        if need.matched is None:
            fitting = sum(v == "yes" for k, v in self.context.items() if k.startswith("fit_"))
            if need.hidden and fitting > 1:
                return plan + ["ask_need" if need.talk == "product" else "ask_order"]
            plan.append("recommend" if need.talk == "product" else "confirm_order")
            room -= 1
        open_facts = [FACT_OF[s] for s in need.asks if s not in need.told] if need.asked else []
        if need.matched is None or open_facts:
            return plan + open_facts[:room]
        if not need.informed():
            return plan
        plan += ["offer_voucher"] if self._hesitates() else []
        return plan + [need.steps[0], "close"]


# --- the shop as a dataset ------------------------------------------------------------------------------------------------------

def load(data_dir=None, name: str = "mgshop") -> Dataset:
    """A shop for training and evaluation: teacher dialogues (phrase-book replies) per split, and the live shop."""
    made = {split: [teacher_dialogue(split, n, name=name) for n in range(size)] for split, size in SIZES.items()}
    return Dataset(name, skill_pool(name), intents(name), EMOTIONS, **made, environment=lambda split, number, seed: Shop(seed, split, number, name=name),
                   cross_check=lambda split, number, seed: Shop(seed, split, number, second_ear.hear, name), context=partial(business_context, name=name),
                   horizon=HORIZON, must_not_say=tuple(book(name)["must_not_say"]), template=partial(template, name=name),
                   note=f"{name} is a simulated shop: the paper's {book(name)['paper']} data is not public, no figure here is comparable to the paper's.")


def teacher_dialogue(split: str, number: int, seed: int = 10_000, name: str = "mgshop") -> Dialogue:
    """One dialogue of the teacher with phrase-book replies: labels for perception, imitation, and the LM's warm start."""
    shop, turns = Shop(seed, split, number, name=name), []
    seen = shop.reset()
    while not (seen.terminated or seen.truncated):
        reply = template(seen.labels.teacher, seen.context, shop._rng("wording", shop.turn), name)
        turns.append(Turn(seen.user, seen.labels.intent, seen.labels.emotion, seen.context, tuple(seen.labels.teacher), reply))
        seen = shop.step(reply)
    return Dialogue(f"{name}-{split}-{number}", tuple(turns), source="simulated")


# --- bounds: what trivial policies reach, before anything is trained ------------------------------------------------------------------

Choice = tuple[list[str], str]                                   # skills, reply
Policy = Callable[[Shop, Observation, random.Random], Choice]


def spoken(choose: Callable[[Shop, Observation, random.Random], list[str]]) -> Policy:
    """A policy over skills, worded by the phrase book."""
    def policy(shop: Shop, seen: Observation, rng: random.Random) -> Choice:
        skills = choose(shop, seen, rng)
        return skills, template(skills, seen.context, rng, shop.name)
    return policy


def random_skills(shop: Shop, seen: Observation, rng: random.Random) -> list[str]:
    return rng.sample(list(skill_pool(shop.name)), rng.randint(1, MAX_SKILLS))


def policies(script: list[list[str]], emotions: list[str]) -> dict[str, Policy]:
    """The rows of the bounds table."""
    return {
        "teacher": spoken(lambda shop, seen, rng: shop.teacher()),
        "random skills": spoken(random_skills),
        "always apologise": spoken(lambda shop, seen, rng: ["apologise"]),
        "all skills at once": spoken(lambda shop, seen, rng: list(skill_pool(shop.name))),
        "five likely skills": spoken(lambda shop, seen, rng: _stuffed(shop)),
        "stall": spoken(lambda shop, seen, rng: []),
        "best fixed script": spoken(lambda shop, seen, rng: script[min(shop.turn, len(script) - 1)]),
        "shuffled emotions": spoken(lambda shop, seen, rng: shop.teacher(rng.choice(emotions))),
    }


def _stuffed(shop: Shop) -> list[str]:
    """Keyword stuffing by someone who knows the talk: name, fact, step, voucher and apology in every reply."""
    product = shop.focus.talk == "product"
    return ["apologise", "recommend" if product else "confirm_order", "state_price" if product else "state_delivery",
            "guide_checkout" if product else "guide_return", "offer_voucher"]


def play(shop: Shop, policy: Policy, judge: RuleJudge) -> dict[str, float]:
    """One dialogue; TSE (Eq. 11) and the return of Eq. 1 over the joint reward of Eq. 10 with its absorbing end."""
    seen, rewards, previous, exact = shop.reset(), [], [], []
    while not (seen.terminated or seen.truncated):
        teacher = seen.labels.teacher
        skills, reply = policy(shop, seen, shop._rng("policy", shop.turn))
        asked = tuple(skill_pool(shop.name)[s] for s in skills[:MAX_SKILLS])
        scores = judge.score([Judged(seen.user, seen.context, asked, reply, tuple(previous))])[0]
        rewards.append(joint_reward(skill_reward(skills[:MAX_SKILLS], teacher), cs_reward(scores), len(rewards) + 1, HORIZON))
        exact.append(float(tuple(skills) == teacher))
        previous.append(reply)
        seen = shop.step(reply)
    done = seen.outcome.completed
    return {"tse": tse(done), "return": dialogue_return(rewards, HORIZON, 0.95, seen.outcome.success),
            **{f"I_{i}": float(n is not None) for i, n in enumerate(done, 1)}, **{f"N_{i}": n for i, n in enumerate(done, 1)},
            "turns": len(rewards), "success": float(seen.outcome.success), "vouchers": seen.outcome.vouchers, "left": float(shop.left)}


def best_script(seed: int, customers: int = 60, length: int = 8, choices: int = 12, name: str = "mgshop") -> list[list[str]]:
    """The best fixed script by turn index, searched on train customers: coordinate ascent over the teacher's most frequent lists."""
    counted: dict[tuple[str, ...], int] = {}
    for n in range(customers):
        for turn in teacher_dialogue("train", n, seed, name).turns:
            counted[turn.skills] = counted.get(turn.skills, 0) + 1
    likely = [list(s) for s in sorted(counted, key=counted.get, reverse=True)[:choices]]
    judge, script = RuleJudge(skill_pool(name)), [likely[0]] * length
    def value(candidate: list[list[str]]) -> float:
        policy = spoken(lambda shop, seen, rng: candidate[min(shop.turn, length - 1)])
        return sum(play(Shop(seed, "train", n, name=name), policy, judge)["tse"] for n in range(customers))
    for turn in tqdm(range(length), desc="searching the best fixed script", leave=False):
        script = max(([*script[:turn], s, *script[turn + 1:]] for s in likely), key=value)
    return script


def bounds(episodes: int, seed: int, split: str = "test", ear=hear, name: str = "mgshop") -> dict[str, dict[str, dict]]:
    """Mean and 95 % interval of each metric for each trivial policy, on the same customers."""
    emotions = [t.emotion for n in range(100) for t in teacher_dialogue("train", n, seed, name).turns]
    judge, table = RuleJudge(skill_pool(name)), {}
    for row, policy in tqdm(policies(best_script(seed, name=name), emotions).items(), desc="bounds", leave=False):
        rows = [play(Shop(seed, split, n, ear, name), policy, judge) for n in range(episodes)]
        table[row] = {metric: interval([r[metric] for r in rows], seed) for metric in rows[0]}
    return table


def verdicts(table: dict[str, dict[str, dict]]) -> dict[str, bool]:
    """Does the shop need a planner?  Conditions fixed before any training."""
    t = {name: row["tse"]["mean"] for name, row in table.items()}
    r = {name: row["return"]["mean"] for name, row in table.items()}
    gap = t["teacher"] - t["random skills"]
    within = lambda name, share: t[name] <= t["random skills"] + share * gap
    return {
        "teacher - random >= .3 TSE, intervals disjoint": gap >= 0.3 and table["teacher"]["tse"]["low"] > table["random skills"]["tse"]["high"],
        "teacher > random > stall in TSE": t["teacher"] > t["random skills"] > t["stall"],
        "teacher > random > stall in return": r["teacher"] > r["random skills"] > r["stall"],
        "all skills at once <= random + 25 % of the gap": within("all skills at once", 0.25),
        "five likely skills <= random + 25 % of the gap": within("five likely skills", 0.25),
        "best fixed script <= random + 60 %": within("best fixed script", 0.6),
        "shuffled emotions <= random + 60 %": within("shuffled emotions", 0.6),
    }


def print_bounds(table: dict[str, dict[str, dict]]) -> None:
    metrics = ["tse", "return", "I_1", "I_2", "I_3", "N_1", "N_2", "N_3", "turns", "success", "vouchers", "left"]
    print(f"{'policy':20s}" + "".join(f"{m:>9s}" for m in metrics) + "   TSE 95 %")
    for name, row in table.items():
        cells = "".join("        —" if row[m]["mean"] is None else f"{row[m]['mean']:9.2f}" for m in metrics)
        print(f"{name:20s}{cells}   [{row['tse']['low']:.3f}, {row['tse']['high']:.3f}]")
    for condition, holds in verdicts(table).items():
        print(f"{'holds ' if holds else 'FAILS '} {condition}")


def demo(number: int = 3, name: str = "mgshop") -> None:
    """One dialogue of the teacher, as a person would read it."""
    shop = Shop(0, "test", number, name=name)
    seen = shop.reset()
    print(f"{name}, customer {number}: {shop.persona}\nhidden agenda: " + "; ".join(f"{n.kind} {n.category}" for n in shop.agenda))
    while not (seen.terminated or seen.truncated):
        print(f"\n[turn {shop.turn + 1}] mood {shop.mood:.2f}, patience {shop.patience:.2f}, feels {seen.labels.emotion}\n  customer: {seen.user}")
        reply = fill(template(seen.labels.teacher, seen.context, shop._rng("wording", shop.turn), name), seen.context)
        print(f"  teacher:  {', '.join(seen.labels.teacher)}\n  reply:    {reply}")
        seen = shop.step(reply)
        print(f"  heard:    {', '.join(a.kind + (' ' + '/'.join(sorted(a.candidates)) if a.candidates else '') for a in shop.heard)}"
              f"\n  tasks:    N = {seen.outcome.completed}")
    print(f"\n  customer: {seen.user}\n{'all tasks done' if seen.outcome.success else 'not everything done'}, TSE = {tse(seen.outcome.completed):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A simulated shop: a dialogue to read, or the bounds table.", allow_abbrev=False)
    parser.add_argument("--shop", choices=SHOPS, default="mgshop", help="which shop (default mgshop)")
    parser.add_argument("--bounds", action="store_true", help="what trivial policies reach, with phrase-book replies")
    parser.add_argument("--episodes", type=int, default=200, help="test customers for --bounds (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the customers (default 0)")
    parser.add_argument("--json", type=Path, help="also write the bounds table to this file")
    args = parser.parse_args()
    if args.episodes < 1:
        parser.error(f"--episodes must be at least 1, got {args.episodes}")
    if not args.bounds:
        return demo(name=args.shop)
    table = bounds(args.episodes, args.seed, name=args.shop)
    print_bounds(table)
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "episodes": args.episodes, "rows": table, "conditions": verdicts(table)}, indent=1))


if __name__ == "__main__":
    main()
