"""MultiWOZ by its standard measures: Inform, Success, BLEU, Combined, and how rich the language is.

The rules are those of "Shades of BLEU, Flavours of Success" (Nekvinda and Dusek 2021), written
anew: no line is of their evaluator, and how that one answers was learned by asking it.  Per
system turn and active domain:
  offer    the reply names a venue ([name], or [trainid] of a train): the venues that fit the
           *state* are offered from now on, unless what was offered before is a part of them
  given    phone, address, postcode and train id, once their slot is in the reply; the reference
           only if that domain is booked by then
Inform: in every domain of the goal the last offer is not empty, and all of it fits the *goal*.
Success: Inform, and everything that the goal asks for was given.
Combined = BLEU + (Inform + Success) / 2; all in percent.

A state may be predicted, or be the annotators' own: then the figures are of *policy level* and may
not stand beside end-to-end ones.  Inform and Success are no reward: a reply that names every slot
at every turn beats people.  BLEU is against our own references with slots and compares only figures
of this project; the canonical references of MultiWOZ 2.2 are not here.
This file knows no agent; it takes plain dicts.

Try it:  python -m corpora.woz_score                       people, a constant, and stuffing
         python -m corpora.woz_score --predictions FILE    {"sng0073": [{"response": ...}, ...]}
Exercise: let a reference count before the booking.  Which of the printed rows gains?"""
from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora.multiwoz import files_in, unzip
from corpora.multiwoz_database import Database
from corpora.multiwoz_turns import SPANS, tidy
from corpora.woz_venues import (
    COLUMNS,
    IN_MARKS,
    Rows,
    State,
    Venues,
    plain_slot,
    plain_slots,
    wanted_of,
)
from data import DataError
from tse import bleu

# domains with venues, and the slot whose mention offers one
OFFERED_BY = {"restaurant": "name", "hotel": "name", "attraction": "name", "train": "trainid"}
# what a goal may ask for
ASKED = ("phone", "address", "postcode", "reference", "trainid")
CONSTANT = "is there anything else i can help you with ?"
STUFFED = "[name] [trainid] [phone] [address] [postcode] [reference] ."

Turn = Mapping[str, Any]                         # "response"; "state" and "active_domains" if known


@dataclass(frozen=True)
class Goal:
    """What one customer wants of one domain."""
    fits: Mapping[str, str]                      # slot -> value that a venue must have
    asks: frozenset[str] = frozenset()           # of ASKED


# --- one dialogue -------------------------------------------------------------------------------

@dataclass
class Progress:
    """What a dialogue has offered and given so far."""
    offered: dict[str, Rows] = field(default_factory=dict)
    given: dict[str, set[str]] = field(default_factory=dict)

    def turn(
        self, reply: str, active: Sequence[str], state: State, booked: Sequence[str], venues: Venues
    ) -> None:
        """One reply; `booked` are the domains that are booked by then."""
        said = plain_slots(reply)
        for domain in active:
            if OFFERED_BY.get(domain) in said:
                self._offer(domain, venues.search(domain, wanted_of(domain, state)))
            told = said.intersection(ASKED)
            if domain not in booked:
                told = told - {"reference"}
            self.given.setdefault(domain, set()).update(told)

    def _offer(self, domain: str, rows: Rows) -> None:
        before = self.offered.get(domain)
        if not before or not before <= rows:
            self.offered[domain] = rows

    def informs(self, domain: str, goal: Goal, venues: Venues) -> bool:
        """Whether the last offer is what the goal wants."""
        if domain not in OFFERED_BY or "name" in goal.fits:
            return True
        offered = self.offered.get(domain)
        if domain == "train" and not offered and "trainid" not in goal.asks:
            return True
        return bool(offered) and offered <= venues.search(domain, goal.fits)

    def gives(self, domain: str, goal: Goal) -> bool:
        return goal.asks <= self.given.get(domain, set())


class Talk:
    """What the turns of a dialogue are about, from the states alone: one domain at a time.

    It is a domain whose state gained or changed a value with this turn: of several that of the turn
    before, or else the first.  The others wait: in a turn without a change the first of them comes
    up, and if none waits, that of the turn before goes on.
    """

    def __init__(self):
        self.before: State = {}
        self.domain = ""                         # "" before the first
        self.waiting: list[str] = []

    def about(self, state: State) -> str:
        """The domain of the next turn; `state` is that before the reply."""
        changed = [name for name in state if _gained(state[name], self.before.get(name, {}))]
        self.before = state
        if changed:
            if self.domain not in changed:
                self.domain = changed[0]
            self.waiting = [name for name in changed if name != self.domain]
        elif self.waiting:
            self.domain = self.waiting.pop(0)
        return self.domain


def _gained(now: Mapping[str, str], before: Mapping[str, str]) -> bool:
    return any(before.get(slot) != value for slot, value in now.items())


def judge_dialogue(
    turns: Sequence[Turn],
    goal: Mapping[str, Goal],
    states: Sequence[State],
    booked: Sequence[Sequence[str]],
    venues: Venues,
) -> tuple[bool, bool]:
    """(Inform, Success) of one dialogue.

    turns   predictions, one for each system turn
    goal    domain -> what is wanted of it
    states  the annotators' state before each reply, for turns without a state of their own
    booked  the domains booked by each turn
    """
    progress = Progress()
    talk = Talk()
    for turn, gold, done in zip(turns, states, booked):
        state = turn.get("state", gold)
        active = turn.get("active_domains", [talk.about(state)])
        progress.turn(turn["response"], active, state, done, venues)
    informed = all(progress.informs(domain, goal[domain], venues) for domain in goal)
    given = all(progress.gives(domain, goal[domain]) for domain in goal)
    return informed, informed and given


# --- how rich the language is -------------------------------------------------------------------

# slots that different corpora tell apart differently
ONE_NAME = {
    "leave": "time", "arrive": "time", "duration": "time", "departure": "place",
    "destination": "place", "choice": "count", "people": "count", "stay": "count",
    "stars": "count", "pricerange": "price", "postcode": "post", "car": "type",
}


def words(reply: str) -> list[str]:
    """Words in small letters without marks; a slot is the word of its name.

    >>> words("[hotel_name] is n't far, it 's [value_price] -ly priced.")
    ['name', 'isnt', 'far', 'its', 'price', 'priced']
    """
    text = IN_MARKS.sub(_slot_word, reply).lower()
    text = re.sub(r"\s-(?:s|ly|y)\b", "", text)
    return re.sub(r"[^\w\s]", "", tidy(text)).split()


def _slot_word(found: re.Match) -> str:
    name = plain_slot(found[1])
    return ONE_NAME.get(name, name)


def richness(replies: Sequence[str]) -> dict[str, float]:
    """cbe, words, trigrams and length of all replies.

    cbe       conditional bigram entropy, -sum p(w1, w2) log2 (c(w1, w2) / c(w1)), bits.  As in the
              public evaluator p divides by the number of words, not by that of bigrams
    words     different words; trigrams: different ones, none across replies
    length    mean words of a reply

    >>> richness(["a b c", "a b d"]) == {"cbe": 1 / 3, "words": 4, "trigrams": 2, "length": 3.0}
    True
    """
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    triples = set()
    for reply in replies:
        said = words(reply)
        singles.update(said)
        pairs.update(zip(said, said[1:]))
        triples.update(zip(said, said[1:], said[2:]))
    total = sum(singles.values())
    bits = 0.0
    for (first, _), count in pairs.items():
        bits -= count / total * math.log2(count / singles[first])
    return {
        "cbe": bits,
        "words": len(singles),
        "trigrams": len(triples),
        "length": total / max(1, len(replies)),
    }


# --- all dialogues ------------------------------------------------------------------------------

def score(
    predictions: Mapping[str, Sequence[Turn]],
    goals: Mapping[str, Mapping[str, Goal]],
    states: Mapping[str, Sequence[State]],
    booked: Mapping[str, Sequence[Sequence[str]]],
    database: Database,
    references: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float | None]:
    """The measures over all predicted dialogues, in percent.

    predictions  dialogue id in small letters -> a dict for each system turn: "response" with slots
                 as [name] or {name}; "state" and "active_domains" if they are predicted
    goals, states, booked, references   by dialogue id; see `gold`
    returns      inform, success, bleu, combined, cbe, words, trigrams, length; without references
                 bleu and combined are None
    raises       DataError for an unknown dialogue, a wrong number of turns, or none at all
    """
    refuse_unfit(predictions, goals, booked)
    venues = Venues(database)
    verdicts = []
    said: list[str] = []
    wanted: list[str] = []
    for id, turns in predictions.items():
        verdicts.append(judge_dialogue(turns, goals[id], states[id], booked[id], venues))
        said += [tidy(turn["response"]) for turn in turns]
        wanted += references[id] if references else []
    inform = 100 * sum(informed for informed, _ in verdicts) / len(verdicts)
    success = 100 * sum(succeeded for _, succeeded in verdicts) / len(verdicts)
    found = bleu(said, wanted) if references else None
    blue = None if found is None else 100 * found
    combined = None if blue is None else blue + (inform + success) / 2
    measured = {"inform": inform, "success": success, "bleu": blue, "combined": combined}
    return measured | richness(said)


def refuse_unfit(
    predictions: Mapping[str, Sequence[Turn]],
    goals: Mapping[str, Any],
    booked: Mapping[str, Sequence[Any]],
) -> None:
    """DataError unless every predicted dialogue is known and has all its turns."""
    if not predictions:
        raise DataError("predictions: no dialogue in them")
    for id, turns in predictions.items():
        if id not in goals:
            raise DataError(
                f"predictions: unknown dialogue {id!r}; ids are of the test split, as sng0073")
        if len(turns) != len(booked[id]):
            raise DataError(
                f"predictions: {id} has {len(turns)} turns, the corpus {len(booked[id])}")
        for number, turn in enumerate(turns, 1):
            if not isinstance(turn, Mapping) or not isinstance(turn.get("response"), str):
                raise DataError(f"predictions: {id}, turn {number}: no text under \"response\"")


# --- what the corpus says -----------------------------------------------------------------------

@dataclass
class Gold:
    """By dialogue id in small letters: goals, states, booked domains and human replies."""
    goals: dict[str, dict[str, Goal]] = field(default_factory=dict)
    states: dict[str, list[State]] = field(default_factory=dict)
    booked: dict[str, list[list[str]]] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)


def gold(raws: Mapping[str, Any]) -> Gold:
    """Everything that `score` compares with, from a split of MultiWOZ 2.1."""
    found = Gold()
    for name, raw in raws.items():
        id = name.lower().removesuffix(".json")
        replies = raw["log"][1::2]
        found.goals[id] = goals_of(raw["goal"])
        found.states[id] = [_state(entry["metadata"]) for entry in replies]
        found.booked[id] = [_booked(entry["metadata"]) for entry in replies]
        found.references[id] = [reference(entry) for entry in replies]
    return found


def goals_of(raw: Mapping[str, Any]) -> dict[str, Goal]:
    """The goal by domain.  A booking asks for its reference."""
    goals = {}
    for domain, wish in raw.items():
        if domain in ("topic", "message") or not wish:
            continue
        asks = {plain_slot(name) for name in wish.get("reqt", ())}.intersection(ASKED)
        if wish.get("book"):
            asks.add("reference")
        fits = {}
        for name, value in wish.get("info", {}).items():
            if plain_slot(name) in COLUMNS.get(domain, ()):
                fits[plain_slot(name)] = value
        goals[domain] = Goal(fits, frozenset(asks))
    return goals


def _state(metadata: Mapping[str, Any]) -> State:
    """The annotators' state: what is mentioned of each domain, bookings as well."""
    state = {}
    for domain, known in metadata.items():
        mentioned = {}
        for slot, value in (known["semi"] | known["book"]).items():
            if isinstance(value, str) and value not in ("", "not mentioned", "none"):
                mentioned[plain_slot(slot)] = value
        if mentioned:
            state[domain] = mentioned
    return state


def _booked(metadata: Mapping[str, Any]) -> list[str]:
    return [domain for domain, known in metadata.items()
            if domain != "taxi" and known["book"].get("booked")]


def reference(entry: Mapping[str, Any]) -> str:
    """A human reply in which every annotated span is a slot, whether or not the database has it."""
    said: list[str] = entry["text"].split()
    end = -1
    for _, kind, _, first, last in sorted(entry.get("span_info", ()), key=_start):
        # two acts often annotate one span
        if kind not in SPANS or first <= end:
            continue
        said[first:last + 1] = [f"[{plain_slot(SPANS[kind][0])}]"] + [""] * (last - first)
        end = last
    return tidy(" ".join(word for word in said if word))


def _start(span: Sequence) -> int:
    return span[3]


# --- the command --------------------------------------------------------------------------------

def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Inform, Success, BLEU and richness on MultiWOZ's test split.",
        allow_abbrev=False)
    parser.add_argument(
        "--data_dir", type=Path, default=Path(os.environ.get("GOPO_DATA", "data")),
        help="folder that holds multiwoz/")
    parser.add_argument(
        "--predictions", type=Path, help="a JSON file of predictions; without it, three rows that "
        "need no model")
    return parser.parse_args()


def read_predictions(path: Path) -> dict[str, list[dict]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--predictions {path}: cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"--predictions {path}: an object is wanted, dialogue id -> turns")
    return found


def trivial(known: Gold) -> dict[str, dict[str, list[dict]]]:
    """The rows that need no model."""
    rows = {}
    for name, text in (("human", None), ("constant", CONSTANT), ("stuffing", STUFFED)):
        rows[name] = {}
        for id, replies in known.references.items():
            rows[name][id] = [{"response": text or reply} for reply in replies]
    return rows


def main() -> None:
    args = arguments()
    folder = files_in(args.data_dir)
    known = gold(unzip(folder / "test.json.zip"))
    rows = trivial(known)
    if args.predictions:
        rows = {args.predictions.name: read_predictions(args.predictions)}
    else:
        print("policy level: the annotators' states")
    database = Database(folder / "db")
    for name, predictions in rows.items():
        # people against themselves are no BLEU
        references = None if name == "human" else known.references
        found = score(
            predictions, known.goals, known.states, known.booked, database, references)
        print(f"{name:20s}", "  ".join(f"{key} {_shown(found[key])}" for key in found))


def _shown(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
