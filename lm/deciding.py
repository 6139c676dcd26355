"""A decision before the words: d_t of InteractCS-RL (arXiv 2602.22697), and words that agree.

    <chat> or <voucher> --one token, or the few that spell it--> words, under the rules of d_t

The paper's agent writes its words first and its decision last, so that they can disagree.  Here
the decision comes first, and decoding keeps the words to it, whatever the weights:
  chat     no token may make the customer hear that a voucher was issued
  voucher  a reply that the customer does not hear issuing one gets a sentence more
What a customer hears is the shop's business (`Dataset.offers`).  A ban stands before the draw, so
that log pi is that of the masked policy, and the decision is a token like all others.
A tag in the words is forbidden, and who may decide what is asked of each request: at most one
voucher a dialogue.  Under `--constraints soft` nothing of this file is in force.
Exercise: let `_heard` look at the words without the token, and find the promise that slips
through (tests/test_deciding.py)."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data import DECISION, DECISIONS, DataError, Request, Skill, fill
from lm.constraints import SEAMS, compile_constraints
from lm.guard import Ban, Guard, Rules, Vocabulary
from text import with_decision

Offers = Callable[[str, dict[str, str]], set[str]]
TAGS = tuple(f"<{decision}>" for decision in DECISIONS)
SLOT_OR_START = re.compile(r"\{[^}]*\}?")
ENDED = (".", "!", "?")


class Decider:
    """Compiles the rules of requests that ask for a decision.

    offers  Dataset.offers: the acts of offering and issuing a voucher that a customer hears
    most    tokens of a reply
    raises  DataError where no example of the skill is heard, or a reply has no room for one
    """

    def __init__(self, vocab: Vocabulary, encode: Callable[[str], list[int]],
                 skills: Mapping[str, Skill], must_not_say: Sequence[str], offers: Offers,
                 most: int):
        self.vocab = vocab
        self.skill = skills[DECISION]
        self.must_not_say = (*must_not_say, *TAGS)
        self.offers = offers
        self.paths = {name: encode(tag) for name, tag in zip(DECISIONS, TAGS)}
        heard = [text for text in self.skill.examples if DECISION in offers(text, {})]
        if not heard:
            raise DataError(
                f"skill {DECISION}: no example of it is heard as issuing a voucher; a language "
                "model would decide on one, and nobody would know")
        self.sentence = heard[0]
        phrases = (self.sentence, *self.skill.must_say)
        needed = max(map(len, self.paths.values())) + 1
        for phrase in phrases:
            needed += self.room(phrase)
        if needed > most:
            raise DataError(
                f"--max_new_tokens {most} leaves no room for a decision and what it has to say: "
                f"use at least {needed}")

    def room(self, phrase: str) -> int:
        """Tokens kept free for a phrase and its seam."""
        return len(self.vocab.spell(phrase.encode())) + 5

    @property
    def branch(self) -> tuple[int, list[int]]:
        """Where the tags part: the position, and the token of each of DECISIONS there."""
        first, second = (self.paths[name] for name in DECISIONS)
        at = 0
        while first[at] == second[at]:
            at += 1
        return at, [first[at], second[at]]

    def rules(self, request: Request) -> DecidingRules:
        of_decision = {}
        for name in request.decisions:
            skills = [self.skill] if name == "voucher" else []
            constraints = compile_constraints(skills, request.context, self.must_not_say)
            of_decision[name] = self.vocab.rules(constraints)
        return DecidingRules(self, request, of_decision)


class DecidingRules:
    """What all replies to one request share; in the place of `Rules`."""

    def __init__(self, decider: Decider, request: Request, of_decision: Mapping[str, Rules]):
        self.decider = decider
        self.request = request
        self.of_decision = of_decision
        # What is banned whatever the text so far: the rules of a decision add their own.
        self.static = decider.vocab.control
        self.reserve = max(map(self.reserved, of_decision))

    def reserved(self, decision: str) -> int:
        """Tokens that may still be needed once this is decided."""
        room = self.of_decision[decision].reserve
        if decision == "voucher":
            room += self.decider.room(self.decider.sentence)
        return room

    def guard(self) -> DecidingGuard:
        return DecidingGuard(self)


class DecidingGuard:
    """Knows the reply so far and what may not come next; in the place of `Guard`.

    rules  of the request
    """

    def __init__(self, rules: DecidingRules):
        self.rules = rules
        self.decider = rules.decider
        self.taken: list[int] = []               # tokens of the tag
        self.decision: str | None = None
        self.words: Guard | None = None          # from the decision on

    @property
    def vocab(self) -> Vocabulary:
        return self.decider.vocab

    @property
    def text(self) -> str:
        if self.words is None:
            return ""
        return with_decision(self.decision, self.words.text.strip())

    def banned(self) -> Ban:
        """The tags alone, until one is written; then what the words' guard bans."""
        if self.words is None:
            return "allow", self._tags()
        kind, ids = self.words.banned()
        if kind == "allow":
            return kind, ids
        return kind, np.concatenate([self.words.rules.static, ids])

    def _tags(self) -> np.ndarray:
        at = len(self.taken)
        paths = [self.decider.paths[name] for name in self.rules.of_decision]
        return np.array(sorted({path[at] for path in paths if path[:at] == self.taken}))

    def completes(self, token: int) -> bool:
        """Would this token complete what this reply may not say?  Asked after the draw."""
        if self.words is None or token in self.decider.vocab.ends:
            return False
        return self.words.completes(token) or self._heard(token)

    def _heard(self, token: int) -> bool:
        """Whether the customer would hear an act that this reply may not hold."""
        barred = set(self.rules.request.unheard)
        if self.decision == "chat":
            barred.add(DECISION)
        if not barred:
            return False
        spelled = b"".join([*self.words.written, self.decider.vocab.pieces[token]])
        text = spelled.decode("utf-8", "replace")
        # As a customer reads it, with single blanks.  A value may be heard as a word, or not at
        # all; it is looked at as soon as its slot opens, behind which little else may follow.
        for value in ("it", " "):
            words = " ".join(SLOT_OR_START.sub(value, text).split())
            if not barred.isdisjoint(self.decider.offers(words, {})):
                return True
        return False

    def push(self, token: int) -> None:
        if self.words is not None:
            self.words.push(token)
            return
        self.taken.append(token)
        for name, rules in self.rules.of_decision.items():
            if self.decider.paths[name] == self.taken:
                self.decision = name
                self.words = Guard(rules)

    def reserve(self) -> int:
        """Tokens that `finish` may still need."""
        if self.words is None:
            return self.rules.reserve
        room = self.words.reserve()
        if self.decision == "voucher" and not self._is_issued(self.words.text):
            room += self.decider.room(self.decider.sentence)
        return room

    def finish(self) -> list[int]:
        """Ids to insert before the reply ends: the sentence that issues, then as in `Guard`."""
        if self.words is None:
            return []
        added = self.words.close_slot()
        if self.decision == "voucher" and not self._is_issued(self.words.text):
            added += self.words.insert(self._issuing())
        return added + self.words.finish()

    def _is_issued(self, text: str) -> bool:
        """Whether the customer hears that the voucher is issued."""
        context = self.rules.request.context
        words = " ".join(fill(text, context).split())
        return DECISION in self.decider.offers(words, context)

    def _issuing(self) -> str:
        """The sentence behind a seam from which on it is heard, and which completes nothing barred.
        """
        said = self.words.text
        seams = [". ", *SEAMS]
        if not said.strip() or said.rstrip().endswith(ENDED):
            seams = [" ", *seams]
        for seam in seams:
            sentence = seam + self.decider.sentence
            if self.words.may_insert(sentence) and self._is_issued(said + sentence):
                return sentence
        raise AssertionError(f"no seam before {self.decider.sentence!r}")

