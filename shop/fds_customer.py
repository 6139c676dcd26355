"""The mind of a customer of the food-delivery store: hears a reply, answers, gives a mark.

After InteractCS-RL: the food was delivered, something was wrong with it, and money cannot be paid
back.  Whether to issue a voucher is the one costly decision of a dialogue: skill `issue_voucher`,
once.  As in the other shops (customer.py) a customer hears only the text of a reply, is upset or
not, takes in a few acts a reply, and leaves when patience runs out.  fds_person.py says who the
customer is; stars.py how the mark is made.

What comes when: opener of an upset customer -> order matched -> delivery record read out -> a photo
asked for, where the record shows nothing -> cause explained -> refund declined, complaint passed
on, voucher proposed -> voucher issued -> closed.  What comes too early, or was not needed, costs
patience and stars.  Which of it is needed differs from customer to customer.

Tasks of Eq. 11: 1 order matched, 2 evidence settled and cause explained, 3 settlement accepted.

Exercise: let a customer accept any opener (OPENER of agenda.py), run `python -m shop.fds --bounds`:
how far does the fixed script rise?"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from data import Observation, Outcome
from shop import fds_catalogue
from shop.agenda import Need, Persona
from shop.catalogue import phrasings
from shop.customer import Shop
from shop.ear import Act, Ear
from shop.fds_catalogue import NAME, Focus, excuses, orders, report, search
from shop.fds_ear import hear
from shop.fds_person import UPSET, draw_hidden, upset
from shop.fds_planner import VOUCHER, Case, plan
from shop.reactions import WRONG_NAME, Event, Reaction
from shop.stars import End, mark, of_delivery
from text import split_decision

HORIZON = 15                                     # turns [paper: T_max 15]
# share of v that a voucher brings: agreed to before; unasked; before the cause was clear
AGREED, UNASKED, HUSHED = 1.0, 0.6, 0.2
DECLINE_UPSETS = 0.5                             # of the chance to be upset at first
# what a customer did not need, each -.15 stars
NEEDLESS = {
    Reaction.TOLD, Reaction.REFUSE_EARLY, Reaction.REFUSE_NEEDLESS, Reaction.REFUSE_STEP,
    Event.DISTRACTED, Event.CLOSED_EARLY, Event.REPEATED_ACT, Event.WRONG_COMFORT}
# what is new after a reply -> the intent of saying so
INTENT = {
    "details": "give_details",
    "matched": "proceed",
    "report.found": "report_found",
    "report.nothing": "report_nothing",
    "photo.given": "give_photo",
    "photo.none": "no_photo",
    "cause": "proceed",
    "declined": "proceed",
    "passed": "proceed",
    "agree.voucher": "agree",
    "refuse.voucher": "refuse",
    "issued": "proceed",
    "lie": "object",
}
WISHES = {
    "rigid": "wish_refund",
    "preference": "wish_rather_refund",
    "incentive": "wish_offer",
    "feedback": "wish_feedback",
}
INTENTS = ("complain", *dict.fromkeys(INTENT.values()), *WISHES.values(), "bye")
# what is new after a reply -> kind of phrase, where it has another name
PHRASES = {
    "matched": "accept.order",
    "cause": "accept.cause",
    "declined": "take.decline",
    "passed": "accept.passed",
    "issued": "thanks.voucher",
}


class Desk(Shop):
    """One customer of the store: `reset()`, then `step(reply)` until terminated or truncated.

    generosity  share of the customers to whom the teacher gives a voucher, if it is worth anything
    """
    horizon = HORIZON

    def __init__(
        self, seed: int = 0, split: str = "train", customer: int = 0, ear: Ear = hear,
        difficulty: str = "hard", generosity: float = 1.0,
    ):
        super().__init__(seed, split, customer, ear, NAME)
        self.difficulty = difficulty
        self.generosity = generosity
        self.handlers: dict[str, Callable[[Act, random.Random], Reaction]] = {
            "ask_details": self._asked_details,
            "confirm_order": self._order_named,
            "state_report": self._report_stated,
            "ask_photo": self._photo_asked,
            "explain_cause": self._cause_explained,
            "ask_wish": self._wish_asked,
            "decline_refund": self._refund_declined,
            "pass_on": self._passed_on,
            "propose_voucher": self._voucher_proposed,
            VOUCHER: self._voucher_issued,
        }

    def draw(self) -> None:
        rng = self.rng("persona")
        self.hidden = draw_hidden(rng, self.split, self.difficulty)
        traits = self.hidden.profile
        self.persona = Persona(
            traits.style, self.hidden.frank, traits.direct, traits.temper, self.hidden.demand)
        self.agenda = [self._complaint(rng)]
        self.current = 0
        self.patience = self.hidden.patience
        self.emotion = self.hidden.emotion
        self.generous = rng.random() < self.generosity
        self.case = Case()
        self.before = Case()                     # as it was before this reply
        self.news: list[str] = []                # of this reply
        self.farewell = False                    # this reply closes the talk
        self.voucher_worth = 0.0
        self.upset_by_decline = False
        self.needless = 0
        self.lied = False
        self.valid = True                        # no format error
        self.tag: str | None = None

    def _complaint(self, rng: random.Random) -> Need:
        kind = rng.choice(list(self.book["needs"]))
        dish = rng.choice(self.book["dishes"][self.split])
        shown = self.hidden.evidence == "report"
        possible = [n for n in orders(self.split, dish) if excuses(report(self.split, n)) == shown]
        number = rng.choice(possible)
        return Need(kind, "order", dish, [], [], NAME, order=number, hidden=["order"])

    def reset(self) -> Observation:
        self.focus_of_food = Focus()
        return super().reset()

    # -- speaking

    def _phrase(self, rng: random.Random, kind: str) -> str:
        words = rng.choice(rng.choice(phrasings(self.split, kind, NAME)))
        need = self.need
        merchant = fds_catalogue.merchant(self.split, need.order)
        return words.format(dish=need.category, order=need.order, merchant=merchant)

    def _look_up(self, utterance: str) -> None:
        said = fds_catalogue.update_focus(self.focus_of_food, utterance, self.split)
        self.focus_of_food = said
        self.context = dict(search(said, self.split))

    def _announce(self, rng: random.Random) -> list[str]:
        said = [self._phrase(rng, f"need.{self.need.kind}")]
        said.append(self._phrase(rng, f"manner.{self.hidden.manner}"))
        if self.persona.style == "chatty":
            said.append(self._phrase(rng, "chat"))
        if self.persona.open:
            said += self._new_details(rng)
        if self.hidden.early_wish:
            said += self._wish(rng)
        return said

    def _wish(self, rng: random.Random) -> list[str]:
        self.case.wished = True
        wish = self._phrase(rng, f"wish.{self.hidden.demand}")
        return [wish, self._phrase(rng, f"grade.{self.hidden.grade}")]

    def _say(self, parts: list[str], intent: str) -> Observation:
        if self.case.wished and not self.before.wished and intent != "bye":
            intent = WISHES[self.hidden.demand]
        return super()._say(parts, intent)

    @property
    def ended(self) -> bool:
        return self.left or self.case.closed

    @property
    def banned(self) -> tuple[str, ...]:
        return (VOUCHER,) if self.case.issued else ()

    # -- the mark

    def _outcome(self, ended: bool) -> Outcome:
        return replace(
            super()._outcome(ended), cost=float(self.vouchers), valid=self.valid)

    def stars(self) -> float:
        """What the customer would give now, not yet rounded."""
        case, hidden = self.case, self.hidden
        return of_delivery(End(
            hidden.level,
            calm=self.emotion in ("neutral", "happy"),
            explained=case.explained,
            passed=case.passed,
            feedback=hidden.demand == "feedback",
            voucher=self.voucher_worth,
            open_refund=hidden.wants_refund and not case.declined,
            broken=(case.agreed or self.lied) and not case.issued,
            turns=self.turn,
            needless=self.needless,
            left=self.left,
        ))

    def satisfaction(self) -> int:
        return mark(self.stars() + self.hidden.leniency)

    @property
    def unfair(self) -> bool:
        """A voucher was issued although nothing had gone wrong."""
        return self.case.issued and self.hidden.evidence == "none"

    # -- hearing

    def step(self, reply: str) -> Observation:
        self.before = replace(self.case)
        self.news = []
        self.farewell = False
        self.tag, words, valid = split_decision(reply)
        self.valid = self.valid and valid
        return super().step(words)

    def _feel(self, what: Reaction | Event) -> None:
        super()._feel(what)
        self.needless += what in NEEDLESS

    def _listen(self, ready: bool, rng: random.Random) -> tuple[Reaction, bool]:
        claimed = any(act.kind == VOUCHER for act in self.heard)
        if claimed and self.tag != "chat":
            self._pay()
        return super()._listen(ready, rng)

    def _pay(self) -> None:
        """The voucher is issued, and costs money, whether or not the customer reads that far."""
        if self.case.issued:
            self.valid = False
            return
        self.case.issued = True
        self.vouchers += 1
        self.voucher_worth = self.hidden.value * self._share()

    def _courtesy(self, kind: str, business: int, ready: bool) -> Reaction:
        if kind == "close":
            return self._shown_the_door()
        return super()._courtesy(kind, business, ready)

    def _business(self, act: Act, ready: bool, rng: random.Random) -> Reaction:
        if act.kind in self.handlers:
            return self.handlers[act.kind](act, rng)
        # a promise that nobody can keep
        return self._distracted()

    def _new(self, what: str) -> Reaction:
        self.news.append(what)
        return Reaction.GOOD

    def _distracted(self) -> Reaction:
        """Something that this customer had no use for, said or done again, or made up."""
        self._feel(Event.DISTRACTED)
        return Reaction.NONE

    def _asked_details(self, act: Act, rng: random.Random) -> Reaction:
        if self.need.hidden and not self.need.matched:
            return self._new("details")
        return self._react(Reaction.TOLD)

    def _order_named(self, act: Act, rng: random.Random) -> Reaction:
        result = self._named(act, rng)
        if result is Reaction.GOOD:
            self.need.hidden = []
            self.case.matched = True
            self.news.append("matched")
        return result

    def _report_stated(self, act: Act, rng: random.Random) -> Reaction:
        case = self.case
        if not self.before.matched:
            # the record of an order that is not agreed on yet
            return self._react(Reaction.REFUSE_EARLY)
        if self.need.matched not in self._names("order", [act]):
            return self._wrong(Reaction.WRONG_FACT, rng)
        if case.told:
            return self._distracted()
        case.told = True
        if self.hidden.evidence == "report":
            case.settled = True
            return self._new("report.found")
        if self.hidden.evidence == "photo" and self.persona.direct:
            # this one sends the photo unasked
            case.settled = True
            self.news += ["report.nothing", "photo.given"]
            return Reaction.GOOD
        return self._new("report.nothing")

    def _photo_asked(self, act: Act, rng: random.Random) -> Reaction:
        case = self.case
        if not self.before.told:
            # "can you not see that in your system?"
            return self._react(Reaction.REFUSE_EARLY)
        if case.settled:
            return self._react(Reaction.TOLD)
        case.settled = True
        if self.hidden.evidence == "photo":
            return self._new("photo.given")
        case.clear = True
        return self._new("photo.none")

    def _cause_explained(self, act: Act, rng: random.Random) -> Reaction:
        case = self.case
        if not self.before.settled:
            return self._react(Reaction.REFUSE_EARLY)
        if case.explained or self.hidden.evidence == "none":
            return self._distracted()
        case.explained = True
        case.clear = True
        return self._new("cause")

    def _wish_asked(self, act: Act, rng: random.Random) -> Reaction:
        if self.case.wished or "wish" in self.news:
            return self._react(Reaction.TOLD)
        return self._new("wish")

    def _refund_declined(self, act: Act, rng: random.Random) -> Reaction:
        case = self.case
        if not (self.hidden.wants_refund and self.before.wished):
            # "I never asked for a refund"
            return self._react(Reaction.REFUSE_STEP)
        if not self.before.clear:
            return self._react(Reaction.REFUSE_EARLY)
        if case.declined:
            return self._distracted()
        case.declined = True
        self.upset_by_decline = rng.random() < DECLINE_UPSETS * UPSET[self.hidden.level - 1]
        return self._new("declined")

    def _passed_on(self, act: Act, rng: random.Random) -> Reaction:
        if not self.before.settled:
            return self._react(Reaction.REFUSE_EARLY)
        if self.case.passed:
            return self._distracted()
        self.case.passed = True
        return self._new("passed")

    def _voucher_proposed(self, act: Act, rng: random.Random) -> Reaction:
        case = self.case
        if not self.before.clear:
            return self._react(Reaction.REFUSE_EARLY)
        if case.proposed or case.issued:
            return self._distracted()
        case.proposed = True
        case.agreed = self.hidden.value > 0
        if case.agreed:
            return self._new("agree.voucher")
        self.news.append("refuse.voucher")
        return Reaction.NONE

    def _voucher_issued(self, act: Act, rng: random.Random) -> Reaction:
        if self.tag == "chat":
            # the words claim what the decision did not do
            self.lied = True
            self.news.append("lie")
            return self._wrong(Reaction.NONE, rng)
        if self.before.issued:
            return self._distracted()
        self._feel(Event.VOUCHER)
        self.news.append("issued")
        return Reaction.GOOD if self.before.clear else Reaction.NONE

    def _share(self) -> float:
        """The share of v that the voucher brings now."""
        if not self.before.clear:
            return HUSHED
        return AGREED if self.before.agreed else UNASKED

    def _shown_the_door(self) -> Reaction:
        case = self.case
        if case.agreed and not self.before.agreed and not case.issued:
            # has just said yes to a voucher, and waits for it
            return Reaction.NONE
        if not self.before.clear or not case.wished:
            self._feel(Event.CLOSED_EARLY)
            return Reaction.NONE
        self.farewell = True
        return Reaction.GOOD

    def _close(self) -> None:
        self.case.closed = True
        self.need.guided = not self._open()

    def _open(self) -> bool:
        """Whether something is left that the customer was owed: a clear word, or a voucher."""
        case = self.case
        if self.hidden.wants_refund and not case.declined:
            return True
        if self.hidden.demand == "feedback" and not case.passed:
            return True
        return case.agreed and not case.issued

    def _note_tasks(self) -> None:
        if self.farewell:
            # now that the whole reply was heard: the voucher may have come after the goodbye
            self._close()
        need = self.need
        for i, done in enumerate((need.matched is not None, self.case.clear, need.guided)):
            if not done:
                self.completed[i] = None
            elif self.completed[i] is None:
                self.completed[i] = self.turn

    # -- answering

    def _answer(self, reaction: Reaction, rng: random.Random) -> Observation:
        if self.case.closed:
            return self._end(rng)
        if self.upset_by_decline:
            self.upset_by_decline = False
            self.emotion = upset(rng, self.hidden.profile)
        said: list[str] = []
        for what in self.news:
            said += self._told(what, rng)
        if reaction not in (Reaction.NONE, Reaction.GOOD):
            said += [self._phrase(rng, reaction), *self._waits_for(reaction, rng)]
            return self._say(said, "object")
        if not self.news:
            if self.case.clear and self.case.wished and not self._open():
                # nothing is left to say
                self._close()
                self._note_tasks()
                return self._end(rng)
            said += [self._phrase(rng, "nothing"), *self._waits_for(reaction, rng)]
            return self._say(said, "object")
        return self._say(said + self._unasked(rng), self._intent())

    def _intent(self) -> str:
        """Of what was new, the last; a wish counts by itself (`_say`)."""
        told = [what for what in self.news if what in INTENT]
        return INTENT[told[-1]] if told else "proceed"

    def _told(self, what: str, rng: random.Random) -> list[str]:
        if what == "details":
            return self._new_details(rng)
        if what == "wish":
            return self._wish(rng)
        return [self._phrase(rng, PHRASES.get(what, what))]

    def _unasked(self, rng: random.Random) -> list[str]:
        """What a customer adds: the wish, once the cause is clear; a voucher that is owed."""
        if self.case.clear and not self.case.wished:
            return self._wish(rng)
        if self.before.agreed and not self.case.issued:
            return [self._phrase(rng, "remind.voucher")]
        return []

    def _waits_for(self, reaction: Reaction, rng: random.Random) -> list[str]:
        """The open point of a customer who objects."""
        case = self.case
        if self.need.matched is None:
            if reaction in WRONG_NAME or not self.need.hidden:
                return self._all_details(rng)
            return [self._phrase(rng, f"need.{self.need.kind}")]
        if not case.clear:
            return [self._phrase(rng, "ask.cause")]
        if not case.wished or (self.hidden.wants_refund and not case.declined):
            return self._wish(rng)
        return self._unasked(rng)

    def _end(self, rng: random.Random) -> Observation:
        if self.need.guided:
            self.emotion = "happy"
            return self._say([self._phrase(rng, "done")], "bye")
        return self._say([self._phrase(rng, "done.without")], "bye")

    # -- the teacher

    def teacher(self, emotion: str | None = None) -> list[str]:
        """The reference sequence T: blind to cost, it gives a voucher that is worth anything.

        emotion  what the teacher believes the customer feels (default: the truth)
        """
        return plan(self, self.generous and self.hidden.value > 0, emotion)
