"""The simulated customer of `sale`: picks up, asks, objects, and accepts, declines, or leaves.

A customer hears only the text of a reply, by sale_ear.py, and holds the company's letter with the
true numbers.  Hidden are the need, the trust, the patience, one objection and what will be asked.

    answered    the asked value is heard and right; of an objection, the act that answers it
    false       a number that is not true, or an amount over the limit that is offered: it lowers
                the trust by FALSE, which ends half of the calls at once
    handoff     two replies in a row that answer nothing: a person is asked for
    patience    lost by a repeated sentence, by more than LONG words, by a stock phrase of machines,
                by each invitation after the second, and by a list of more than MOST numbers, of
                which nothing is heard
    accept      everything answered, an invitation after the last answer, a need, and no offer over
                the limit
One call has at most HORIZON turns.  All numbers are ours; the world is simulated.
The customer's last question is announced ("One last thing."), so an agent can know when to invite.

This file trains nothing and rewards nothing."""
from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data import Labels, Observation, Outcome
from shop.catalogue import code
from shop.sale_ear import Claim, Heard, hear
from shop.sale_profile import Profile, agent_words, caller_words, draw_cell, draw_profile

HORIZON = 8
FALSE = 0.5                                      # trust lost by a reply with a false number
LONG = 40                                        # words
MOST = 3                                         # numbers that are listened to
INVITATIONS = 2                                  # that cost nothing
QUESTIONS = ("limit", "rate", "interest", "expiry", "number", "want")
OBJECTIONS = ("no_need", "busy", "too_dear")
MOVES = ("open", *QUESTIONS, *OBJECTIONS, "pause", "bye")
# move -> the act that answers it
ANSWER = {
    "open": "introduce",
    "limit": "state_limit",
    "rate": "state_rate",
    "interest": "state_interest",
    "expiry": "state_expiry",
    "number": "state_phone",
    "want": "confirm_amount",
    "no_need": "no_obligation",
    "busy": "be_brief",
    "too_dear": "point_coupon",
}
# move -> the kind of number that it asks for
ASKED = {
    "limit": "limit", "rate": "rate", "interest": "interest", "expiry": "expiry", "number": "phone"}
# patience lost
COSTS = {
    "repeated": 1.0, "long": 1.0, "robotic": 0.75, "invitation": 1.0, "list": 1.0,
    "unanswered": 0.75,
}
SENTENCE = re.compile(r"(?:[^.!?]|(?<=\d)\.(?=\d))+[.!?]*")

Ear = Callable[[str], Heard]


@dataclass(frozen=True)
class Ask:
    """One thing that the customer will bring up."""
    move: str
    amount: str | None = None                    # of interest and want
    days: str | None = None                      # of interest


def true_value(profile: Profile, claim: Claim, ask: Ask) -> bool:
    """Whether a claim is true of this customer.

    Interest is meant for what the claim names, or else for what was asked.
    """
    if claim.kind == "offer":
        return float(claim.value) <= float(profile.limit)
    if claim.kind == "interest":
        amount = claim.amount or ask.amount
        days = claim.days or ask.days
        if amount is None or days is None or not (_whole(amount) and _whole(days)):
            return False
        return abs(float(claim.value) - float(profile.interest(amount, days))) < 0.011
    if claim.kind in ("expiry", "phone"):
        return claim.value == getattr(profile, claim.kind)
    known = {"limit": profile.limit, "rate": profile.apr, "coupon": profile.coupon,
             "left": profile.left}
    return float(claim.value) == float(known[claim.kind])


def _whole(number: str) -> bool:
    return number.isdigit() and int(number) > 0


class Caller:
    """One customer: `reset()`, then `step(reply)` until the call is over.

    rates  "clean" or "paper", see sale_profile
    """

    def __init__(
        self, seed: int = 0, split: str = "train", number: int = 0, ear: Ear = hear,
        rates: str = "clean",
    ):
        self.seed = seed
        self.split = split
        self.number = number
        self.ear = ear
        self.rates = rates

    def rng(self, *key: object) -> random.Random:
        """Randomness of (seed, customer, key) alone: two policies meet the same customer."""
        return random.Random(code("sale", self.seed, self.split, self.number, *key))

    # -- who calls

    def reset(self) -> Observation:
        """Draws the person; returns the first words."""
        rng = self.rng("person")
        self.profile = draw_profile(rng, self.split, self.rates)
        self.need = rng.choices(("none", "some", "strong"), (15, 55, 30))[0]
        self.trust = rng.random()
        self.patience = rng.uniform(1.5, 4.0)
        self.agenda = self._agenda(rng)
        self.place = 0                           # in the agenda
        self.turn = 0
        self.unanswered = 0                      # replies in a row
        self.invited = 0                         # invitations heard
        self.wrong = 0                           # false numbers heard
        self.over_offered = False
        self.answered_all = False
        self.paused = False
        self.ending = ""                         # accepted, declined, hung up, handoff, too long
        self.completed: list[int | None] = [None, None, None]
        self.replies: list[str] = []
        self.sentences: set[str] = set()
        self.heard = Heard((), {})
        self.move = "open"
        return self._say([self._phrase("open")])

    def _agenda(self, rng: random.Random) -> list[Ask]:
        questions = {"none": (0, 1), "some": (1, 2, 2, 3), "strong": (1, 2)}[self.need]
        moves = rng.sample(QUESTIONS, rng.choice(questions))
        objection = self._objection(rng)
        if objection == "busy":
            moves = ["busy", *moves]
        elif objection:
            moves.append(objection)
        return [Ask("open"), *[self._ask(move, rng) for move in moves]]

    def _objection(self, rng: random.Random) -> str:
        if self.need == "none":
            return "no_need"
        if self.need == "some" and rng.random() < 0.6:
            return rng.choice(OBJECTIONS)
        return ""

    def _ask(self, move: str, rng: random.Random) -> Ask:
        if move == "interest":
            return Ask(move, *draw_cell(rng, self.split, self.profile))
        if move == "want":
            return Ask(move, str(rng.randrange(10_000, 100_000, 10_000)))
        return Ask(move)

    @property
    def ask(self) -> Ask:
        return self.agenda[self.place]

    @property
    def last(self) -> bool:
        """Whether nothing comes after what is asked now."""
        return self.place == len(self.agenda) - 1

    # -- speaking

    def _phrase(self, kind: str) -> str:
        words = self.rng("words", self.turn, kind).choice(caller_words(self.split, kind))
        return words.format(amount=self.ask.amount, days=self.ask.days)

    def _say(self, parts: Sequence[str]) -> Observation:
        over = self.ending not in ("", "too long")
        labels = Labels("bye", None, (), "")
        if not over:
            acts = self.teacher()
            reference = self.worded(acts, self.rng("reference", self.turn))
            labels = Labels(self.move, None, acts, reference)
        accepted = self.ending == "accepted"
        return Observation(
            " ".join(parts),
            self.profile.context(),
            terminated=over,
            truncated=self.ending == "too long",
            labels=labels,
            outcome=Outcome(accepted, tuple(self.completed)),
        )

    def _asking(self) -> list[str]:
        """The thing at hand; the last question is announced."""
        self.move = self.ask.move
        said = [self._phrase(self.move)]
        if self.last and self.move in QUESTIONS:
            said = [self._phrase("last"), *said]
        return said

    # -- what a good agent does and says

    def teacher(self) -> tuple[str, ...]:
        """The acts that are needed now; the invitation comes with the last answer."""
        if self.move == "pause":
            return ("invite",)
        answer = ANSWER[self.ask.move]
        return (answer, "invite") if self.last else (answer,)

    def worded(
        self, acts: Sequence[str], rng: random.Random, profile: Profile | None = None
    ) -> str:
        """Acts in words of the book, none said before if possible; numbers of `profile`."""
        profile = profile or self.profile
        said = []
        for act in acts:
            filled = [self.filled(words, profile) for words in self.wordings(act)]
            fresh = [words for words in filled if words not in self.sentences]
            said.append(rng.choice(fresh or filled))
        return " ".join(said)

    def wordings(self, act: str) -> list[str]:
        """The book's sentences for an act; whether an amount is within the limit is known here."""
        words = agent_words(act)
        if act != "confirm_amount":
            return words
        within = self.ask.amount is None or int(self.ask.amount) <= int(self.profile.limit)
        half = len(words) // 2
        return words[:half] if within else words[half:]

    def filled(self, words: str, profile: Profile) -> str:
        amount, days = self.ask.amount or "10000", self.ask.days or "10"
        due = profile.interest(amount, days)
        return words.format(
            **vars(profile), left=profile.left, amount=amount, days=days, interest=due)

    # -- hearing

    @property
    def reached(self) -> bool:
        """Whether the customer stayed after the first reply."""
        return self.turn > 1 or (self.turn == 1 and self.ending in ("", "accepted"))

    def step(self, reply: str) -> Observation:
        """The customer hears the reply and goes on.  Slots mean nothing here: numbers are said."""
        self.turn += 1
        heard = self.ear(reply)
        self._wear(reply, heard)
        if len(heard.claims) > MOST:
            heard = Heard((), {})
        self.heard = heard
        answer = -1
        if not self.answered_all:
            answer = self._answered(heard)
        invitation = heard.acts.get("invite", -1)
        self.invited += invitation >= 0
        false = self._count_false(heard)
        if false:
            self.trust -= FALSE
        if self.trust < 0:
            return self._end("hung up", "false")
        if self.patience <= 0:
            return self._end("hung up")
        return self._go_on(answer, invitation, false)

    def _wear(self, reply: str, heard: Heard) -> None:
        """What a reply costs whatever it answers."""
        sentences = {found.strip() for found in SENTENCE.findall(reply)}
        happened = {
            "repeated": bool(sentences & self.sentences),
            "long": len(reply.split()) > LONG,
            "robotic": "robotic" in heard.acts,
            "invitation": "invite" in heard.acts and self.invited >= INVITATIONS,
            "list": len(heard.claims) > MOST,
        }
        for what, so in happened.items():
            if so:
                self.patience -= COSTS[what]
        self.sentences |= sentences
        self.replies.append(reply)

    def _count_false(self, heard: Heard) -> int:
        false = [c for c in heard.claims if not true_value(self.profile, c, self.ask)]
        self.wrong += len(false)
        self.over_offered = self.over_offered or any(c.kind == "offer" for c in false)
        return len(false)

    def _answered(self, heard: Heard) -> int:
        """The place in the reply at which the thing at hand is answered; -1: it is not."""
        move = self.ask.move
        if move in ASKED:
            return self._told(heard)
        if move == "want":
            return self._confirmed(heard)
        return heard.acts.get(ANSWER[move], -1)

    def _told(self, heard: Heard) -> int:
        """The place of the asked value, if every number of its kind is right."""
        ask = self.ask
        same = [claim for claim in heard.claims if claim.kind == ASKED[ask.move]]
        for claim in same:
            other = claim.amount not in (None, ask.amount) or claim.days not in (None, ask.days)
            if other or not true_value(self.profile, claim, ask):
                return -1
        return same[-1].at if same else -1

    def _confirmed(self, heard: Heard) -> int:
        """The place of yes or no to an amount; both together are no answer."""
        within = int(self.ask.amount) <= int(self.profile.limit)
        right, other = ("yes", "no") if within else ("no", "yes")
        return -1 if other in heard.acts else heard.acts.get(right, -1)

    # -- going on

    def _go_on(self, answer: int, invitation: int, false: int) -> Observation:
        if not self.answered_all and answer < 0:
            return self._not_answered(false)
        self.unanswered = 0
        if self.completed[0] is None:
            self.completed[0] = self.turn
        if not self.answered_all and not self.last:
            self.place += 1
            return self._next(self._asking)
        self.answered_all = True
        if self.completed[1] is None:
            self.completed[1] = self.turn
        if invitation > answer:
            return self._decide()
        if self.paused or self.patience < 2:
            return self._end("declined")
        self.paused = True
        self.move = "pause"
        return self._next(lambda: [self._phrase("pause")])

    def _not_answered(self, false: int) -> Observation:
        self.unanswered += 1
        self.patience -= COSTS["unanswered"]
        if self.unanswered == 2:
            return self._end("handoff")
        if self.patience <= 0:
            return self._end("hung up")
        kind = "false" if false else "again"
        return self._next(lambda: [self._phrase(kind), *self._asking()])

    def _next(self, words: Callable[[], list[str]]) -> Observation:
        if self.turn >= HORIZON:
            self.ending = "too long"
        return self._say(words())

    def _decide(self) -> Observation:
        if self.need == "none" or self.over_offered:
            return self._end("declined")
        self.completed[2] = self.turn
        return self._end("accepted")

    def _end(self, ending: str, reason: str = "") -> Observation:
        self.ending = ending
        words = {"accepted": "accept", "declined": "decline", "hung up": "hang up"}
        said = [self._phrase(words.get(ending, ending))]
        if reason:
            said = [self._phrase(reason), *said]
        self.move = "bye"
        return self._say(said)
