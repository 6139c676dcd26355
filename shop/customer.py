"""The mind of a simulated customer: hears a reply as text, feels, and answers.

A customer *hears only the text of the reply* (`hear` of ear.py).  A customer is upset or not,
discloses details or waits to be asked, takes in a few things per reply, and leaves when patience
runs out.  Planning is worthwhile because success depends on which skill comes at which turn.
agenda.py says who the customer is, and reactions.py what each reaction costs.
Agents see the utterances and B_t, which depends on what was said and on the public catalogue alone.

Tasks of Eq. 11, kept in `completed` as N_1..N_3:
  1  requirement matched: the right product or order was named
  2  information delivered: every fact asked for was given, and was right
  3  guidance accepted
A task is done when it is done for every need announced so far.  N_i is the turn at which it was
last completed.

This file trains nothing and rewards nothing."""
from __future__ import annotations

import random
from dataclasses import replace

from data import MAX_SKILLS, Dialogue, Labels, Observation, Outcome, Turn, fill
from shop.agenda import ATTENTION, OPENER, Person
from shop.catalogue import Focus, search, skill_pool, template, update_focus
from shop.ear import FACT_OF, Act, Ear, ear_in, hear
from shop.reactions import EFFECTS, LONG, WORST, WRONG_NAME, Event, Reaction
from shop.stars import of_shop

HORIZON = 12                                     # turns; the T of Eqs. 1 and 10
CONTENT = 0.75                                   # mood from which nobody waits for an incentive
# slot -> intent of asking for it
ASKED = {
    "price": "ask_price",
    "stock": "ask_stock",
    "eta": "ask_delivery",
    "window": "ask_returns",
    "refund": "ask_refund",
    "size": "ask_size",
    "status": "ask_status",
    "part": "ask_partial",
}
SLOT_OF = {skill: slot for slot, skill in FACT_OF.items()}
# kind of talk -> skill that asks for the details
ASK_DETAILS = {"product": "ask_need", "order": "ask_order"}
# everything else is business and takes attention
COURTESY = {"greet", "close", *OPENER.values()}


class Shop(Person):
    """One simulated customer: `reset()`, then `step(reply)` until terminated or truncated."""
    horizon = HORIZON
    banned: tuple[str, ...] = ()                 # skills that may not be chosen now

    def __init__(
        self, seed: int = 0, split: str = "train", customer: int = 0, ear: Ear = hear,
        name: str = "mgshop",
    ):
        super().__init__(seed, split, customer, name)
        self.ear = ear_in(name, ear)
        # an act that is no skill of this shop means nothing to its customers
        self.acts = {*skill_pool(name), "promise"}

    def reset(self) -> Observation:
        """Draws the person and the agenda; returns the first message."""
        self.draw()
        self.mood = 0.6
        self.turn = 0
        self.vouchers = 0
        self.promises = 0
        self.completed: list[int | None] = [None, None, None]
        self.left = False
        self.feedback_given = False
        self.compensated = False
        self.agreed = False                      # the last reply settled the match
        self.heard: list[Act] = []
        self.replies: set[str] = set()
        self.focus = Focus()
        return self._say(self._announce(self.rng("turn", 0)), self.need_spec["intent"])

    def _say(self, parts: list[str], intent: str) -> Observation:
        if self.emotion != "neutral" and not self.left:
            mark = self._phrase(self.rng("mark", self.turn), f"mark.{self.emotion}")
            parts = [mark, *parts]
        utterance = " ".join(parts)
        self._look_up(utterance)
        self.intent = intent
        over = self.ended
        truncated = not over and self.turn >= self.horizon
        return Observation(
            utterance,
            self.context,
            terminated=over,
            truncated=truncated,
            labels=self._labels(over),
            outcome=self._outcome(over or truncated),
            banned=self.banned,
        )

    def _look_up(self, utterance: str) -> None:
        """B_t for what has been said until now."""
        self.focus = update_focus(self.focus, utterance, self.split, self.name)
        self.context = dict(search(self.focus, self.split, self.name))

    def _outcome(self, ended: bool) -> Outcome:
        mark = self.satisfaction() if ended else None
        mood = round(self.mood, 2)
        return Outcome(self.success, tuple(self.completed), mood, self.vouchers, None, mark)

    def satisfaction(self) -> int:
        """The mark, 1..5, that the customer would give now."""
        guided = [need.guided for need in self.agenda]
        return of_shop(sum(guided) / len(guided), self.mood, self.patience, self.left)

    def _labels(self, over: bool) -> Labels:
        if over:
            return Labels(self.intent, self.emotion, (), "")
        skills = self.teacher()
        reference = template(skills, self.context, self.rng("reference", self.turn), self.name)
        return Labels(self.intent, self.emotion, tuple(skills), reference)

    @property
    def success(self) -> bool:
        return all(n.guided for n in self.agenda)

    @property
    def ended(self) -> bool:
        return self.left or self.success

    # -- hearing

    def step(self, reply: str) -> Observation:
        """The customer reads the reply and answers.  Slots still open are filled from B_t first."""
        self.turn += 1
        text = fill(reply, self.context)
        self.heard = [act for act in self.ear(text, self.context) if act.kind in self.acts]
        rng = self.rng("turn", self.turn)
        need = self.need
        patience = self.patience
        matched = need.matched
        # as before this reply: the facts must have been read before the guidance
        ready = matched is not None and need.informed()
        reaction, progress = self._listen(ready, rng)
        self._wear(text, progress)
        self.patience = max(self.patience, patience - WORST)
        self.agreed = need.matched is not None and matched is None
        self._note_tasks()
        if self.patience <= 0 and not self.success:
            self.left = True
            return self._say([self._phrase(rng, "leave")], "bye")
        return self._answer(reaction, rng)

    def _feel(self, what: Reaction | Event) -> None:
        effect = EFFECTS[what]
        self.patience += effect.patience
        self.mood = min(1.0, max(0.0, self.mood + effect.mood))

    def _wear(self, text: str, progress: bool) -> None:
        """What a reply costs whatever it says: length, repetition, getting nowhere."""
        kinds = [act.kind for act in self.heard]
        repeats = len(kinds) - len(set(kinds))
        for _ in range(repeats):
            self._feel(Event.REPEATED_ACT)
        if len(text.split()) > LONG:
            self._feel(Event.TOO_LONG)
        if text in self.replies:
            self._feel(Event.REPEATED_REPLY)
        result = Event.PROGRESS if progress else Event.STANDSTILL
        self._feel(result)
        self.replies.add(text)
        self.promises += kinds.count("promise")

    def _listen(self, ready: bool, rng: random.Random) -> tuple[Reaction, bool]:
        """Goes through the acts heard, in order.

        returns  the reaction to speak about, and whether anything was achieved

        The reaction is the first of the reply, unless the customer stops reading: then it is the
        reason for stopping.
        """
        reaction = Reaction.NONE
        progress = False
        business = 0
        span = ATTENTION[self.persona.style]
        if sum(act.kind not in COURTESY for act in self.heard) > 2 * span:
            # a wall of text is not read at all
            self._feel(Reaction.REFUSE_OVERLOAD)
            return Reaction.REFUSE_OVERLOAD, False
        for act in self.heard:
            if act.kind in COURTESY:
                result = self._courtesy(act.kind, business, ready)
            else:
                business += 1
                refusal = self._stops_reading(business > span)
                if refusal:
                    return refusal, progress
                result = self._business(act, ready, rng)
            progress = progress or result is Reaction.GOOD
            if reaction is Reaction.NONE and result is not Reaction.GOOD:
                reaction = result
        return reaction, progress

    def _stops_reading(self, too_much: bool) -> Reaction:
        """Why the customer reads no further; NONE: reads on."""
        reason = Reaction.NONE
        if self.emotion in OPENER:
            reason = Reaction.REFUSE_UNHEARD
        elif too_much:
            reason = Reaction.REFUSE_OVERLOAD
        self._feel(reason)
        return reason

    def _courtesy(self, kind: str, business: int, ready: bool) -> Reaction:
        upset = self.emotion in OPENER
        if kind == "greet":
            if self.turn > 1 or upset:
                self._feel(Event.GREETED_LATE)
            return Reaction.NONE
        if kind == "close":
            if not ready:
                self._feel(Event.CLOSED_EARLY)
            return Reaction.NONE
        if OPENER.get(self.emotion) == kind and business == 0:
            self.emotion = "neutral"
            self._feel(Event.COMFORTED)
            return Reaction.GOOD
        if upset:
            self._feel(Event.WRONG_COMFORT)
            return Reaction.NONE
        return self._react(Reaction.REFUSE_NEEDLESS)

    def _react(self, reaction: Reaction) -> Reaction:
        self._feel(reaction)
        return reaction

    def _business(self, act: Act, ready: bool, rng: random.Random) -> Reaction:
        kind = act.kind
        if kind in ASK_DETAILS.values():
            return self._asked(kind)
        if kind in ("recommend", "confirm_order"):
            return self._named(act, rng)
        if kind in SLOT_OF:
            return self._fact(SLOT_OF[kind], act)
        if kind.startswith("guide_"):
            return self._guided(kind, ready)
        if kind == "offer_voucher":
            return self._voucher(ready)
        # an upsell or a forbidden promise while the matter is open
        self._feel(Event.DISTRACTED)
        if kind == "promise" or self.need.informed():
            return Reaction.NONE
        return Reaction.REFUSE_EARLY

    def _asked(self, kind: str) -> Reaction:
        need = self.need
        if kind == ASK_DETAILS[need.talk] and need.hidden and not need.matched:
            return Reaction.DETAILS
        return self._react(Reaction.TOLD)

    def _named(self, act: Act, rng: random.Random) -> Reaction:
        """A product or an order is named: does it match what this customer has in mind?"""
        need = self.need
        slot = SLOT_OF[act.kind]
        if slot != need.talk:
            return self._wrong(Reaction.WRONG_FACT, rng)
        names = self._names(slot, [act])
        if need.matched in names:
            # named again: fine if it is the one agreed on
            return Reaction.NONE
        if need.matched:
            return self._wrong(Reaction.WRONG_FACT, rng)
        right = [name for name in names if need.right(name, self.split)]
        # who lists several until one fits has named none
        listed = self._names(slot, [other for other in self.heard if other.kind == act.kind])
        if len(set(listed)) == 1 and right:
            need.matched = right[0]
            return Reaction.GOOD
        return self._wrong(Reaction(f"wrong.{slot}"), rng)

    def _names(self, slot: str, acts: list[Act]) -> list[str]:
        """What stands in B_t for the candidates that these acts may mean."""
        names = []
        for act in acts:
            names += [self.context.get(f"{slot}_{number}", "") for number in act.candidates]
        return names

    def _fact(self, slot: str, act: Act) -> Reaction:
        need = self.need
        if need.matched is None:
            # a fact about nothing agreed on
            return self._react(Reaction.REFUSE_EARLY)
        if slot not in need.asks or not need.asked:
            self._feel(Event.UNASKED_FACT)
            return Reaction.NONE
        if need.matched not in self._names(need.talk, [act]):
            return self._wrong(Reaction.WRONG_FACT, self.rng("fact", self.turn))
        if slot in need.told:
            return Reaction.NONE
        need.told.add(slot)
        return Reaction.GOOD

    def _guided(self, kind: str, ready: bool) -> Reaction:
        if not ready:
            return self._react(Reaction.REFUSE_EARLY)
        if self._hesitates():
            return self._react(Reaction.HESITATE)
        if kind not in self.need.steps:
            return self._react(Reaction.REFUSE_STEP)
        self.need.guided = True
        return Reaction.GOOD

    def _voucher(self, ready: bool) -> Reaction:
        self.vouchers += 1
        self._feel(Event.VOUCHER)
        waited_for = self._hesitates() and ready
        self.compensated = True
        return Reaction.GOOD if waited_for else Reaction.NONE

    def _hesitates(self) -> bool:
        """Whether this customer wants an incentive before accepting guidance."""
        if self.persona.demand != "incentive" or self.compensated:
            return False
        return self.current == 0 and self.mood < CONTENT

    def _wrong(self, reaction: Reaction, rng: random.Random) -> Reaction:
        self._feel(reaction)
        if rng.random() < 0.5:
            # a mistake upsets: it must be put right with the right words
            self.emotion = self.persona.temper
        return reaction

    def _note_tasks(self) -> None:
        """Eq. 11's flags: done for every need announced so far (the current one and all before)."""
        need = self.need
        matched = need.matched is not None
        state = (matched, matched and need.informed(), need.guided)
        for i, done in enumerate(state):
            if not done:
                self.completed[i] = None
            elif self.completed[i] is None:
                self.completed[i] = self.turn

    # -- answering

    def _answer(self, reaction: Reaction, rng: random.Random) -> Observation:
        if self.need.guided:
            return self._next_need(rng)
        if reaction is Reaction.DETAILS:
            return self._say(self._new_details(rng), "give_details")
        if reaction is Reaction.NONE:
            return self._go_on(rng)
        return self._object(reaction, rng)

    def _next_need(self, rng: random.Random) -> Observation:
        accepted = self._phrase(rng, "accept.step")
        if self.success:
            self.emotion = "happy"
            return self._say([accepted, self._phrase(rng, "done")], "bye")
        self.current += 1
        # a later need reopens the tasks
        self.completed = [None, None, None]
        self.emotion = "neutral"
        if rng.random() < 0.6:
            self.emotion = self._first_emotion(rng)
        said = [accepted, self._phrase(rng, "next"), *self._announce(rng)]
        return self._say(said, self.need_spec["intent"])

    def _object(self, reaction: Reaction, rng: random.Random) -> Observation:
        """Says what was wrong, and what the customer really waits for."""
        said = [self._phrase(rng, reaction)]
        if reaction is Reaction.HESITATE:
            return self._say(said, "hesitate")
        if reaction in WRONG_NAME and self.need.hidden:
            said += self._new_details(rng)
        elif reaction in WRONG_NAME or reaction is Reaction.TOLD:
            said += self._all_details(rng)
        elif reaction is Reaction.REFUSE_STEP:
            said.append(self._wanted_step(rng))
        else:
            said += self._open_point(rng)
        return self._say(said, "object")

    def _wanted_step(self, rng: random.Random) -> str:
        kind = f"want.{self.need.steps[0]}"
        if kind not in self.book["customer"]:
            kind = "accept.info"
        return self._phrase(rng, kind)

    def _open_point(self, rng: random.Random) -> list[str]:
        """Repeats what the customer is waiting for."""
        need = self.need
        if need.matched is None:
            said = [self._phrase(rng, f"need.{need.kind}")]
            if not need.hidden:
                said += self._all_details(rng)
            return said
        if not need.informed():
            return self._questions(rng)
        return [self._phrase(rng, "accept.info")]

    def _go_on(self, rng: random.Random) -> Observation:
        need = self.need
        if need.matched is None:
            return self._say([self._phrase(rng, "nothing")], "object")
        if self.current == self.change_at and need.talk == "product":
            return self._change_mind(rng)
        said = []
        if self.agreed:
            said.append(self._phrase(rng, f"accept.{need.talk}"))
        if not need.informed():
            return self._say(said + self._questions(rng), ASKED[need.unanswered[0]])
        said.append(self._phrase(rng, "accept.info"))
        if self._hesitates():
            return self._say([self._phrase(rng, "hesitate")], "hesitate")
        if self.persona.demand == "feedback" and not self.feedback_given:
            self.feedback_given = True
            self.emotion = "disappointed"
            said.append(self._phrase(rng, "feedback"))
        return self._say(said, "proceed")

    def _change_mind(self, rng: random.Random) -> Observation:
        """The wish changes mid-way: the match, and what was said about it, no longer count."""
        need = self.need
        self.change_at = -1
        others = []
        for feature in self.book["categories"][need.category]["features"]:
            changed = replace(need, feature=feature)
            if feature != need.feature and changed.possible(self.split):
                others.append(feature)
        need.feature = rng.choice(others)
        need.matched = None
        need.told = set()
        self._note_tasks()
        said = [self._phrase(rng, "change"), *self._all_details(rng)]
        return self._say(said, "give_details")

    # -- the teacher

    def teacher(self, emotion: str | None = None) -> list[str]:
        """The reference sequence T: a planner that may look at the hidden agenda.

        Used offline and in training, never to act in evaluation.

        emotion  what the teacher believes the customer feels (default: the truth)
        """
        need = self.need
        plan = self._opening(emotion or self.emotion)
        room = min(ATTENTION[self.persona.style], MAX_SKILLS - len(plan))
        if need.matched is None:
            if need.hidden and self._fitting() > 1:
                return [*plan, ASK_DETAILS[need.talk]]
            plan.append(FACT_OF[need.talk])
            room -= 1
        facts = []
        if need.asked:
            facts = [FACT_OF[slot] for slot in need.unanswered]
        if need.matched is None or facts:
            return plan + facts[:room]
        if not need.informed():
            return plan
        if self._hesitates():
            plan.append("offer_voucher")
        return [*plan, need.steps[0], "close"]

    def _opening(self, emotion: str) -> list[str]:
        if emotion in OPENER:
            return [OPENER[emotion]]
        return ["greet"] if self.turn == 0 else []

    def _fitting(self) -> int:
        """How many candidates of B_t contradict nothing said so far."""
        flags = [value for slot, value in self.context.items() if slot.startswith("fit_")]
        return flags.count("yes")


def teacher_dialogue(
    split: str, number: int, seed: int = 10_000, name: str = "mgshop"
) -> Dialogue:
    """One dialogue of the teacher, worded by the phrase book.

    Its labels serve perception and imitation, its replies the language model's warm start.
    """
    return taught(Shop(seed, split, number, name=name))


def taught(shop: Shop) -> Dialogue:
    """The dialogue of the teacher with one customer."""
    seen = shop.reset()
    turns = []
    while not (seen.terminated or seen.truncated):
        labels = seen.labels
        reply = template(labels.teacher, seen.context, shop.rng("wording", shop.turn), shop.name)
        said = (seen.user, labels.intent, labels.emotion, seen.context, labels.teacher, reply)
        turns.append(Turn(*said))
        seen = shop.step(reply)
    number = f"{shop.name}-{shop.split}-{shop.customer}"
    return Dialogue(number, tuple(turns), source="simulated")
