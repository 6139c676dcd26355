"""MultiWOZ's database: which hotels, trains, restaurants ... match what a customer has fixed.

It knows no dialogue.  Values are compared in normal form (`norm`); facts have one name in all
domains, that of their slot."""
from __future__ import annotations

import json
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

DOMAINS = ("attraction", "hospital", "hotel", "police", "restaurant", "train")
# the value of a slot for which the customer takes anything
ANY = "dontcare"
UNKNOWN = "?"
# limits that a customer sets, not the train's own times
LIMITS = ("after", "before")

# column of the database -> slot
FACTS = {
    "name": "name",
    "trainID": "trainid",
    "leaveAt": "leave",
    "arriveBy": "arrive",
    "duration": "duration",
    "price": "price",
    "entrance fee": "price",
    "type": "type",
    "food": "food",
    "area": "area",
    "pricerange": "pricerange",
    "stars": "stars",
    "address": "address",
    "phone": "phone",
    "postcode": "postcode",
    "parking": "parking",
    "internet": "internet",
    "departure": "departure",
    "destination": "destination",
    "day": "day",
    "department": "department",
}
# several words for one value, in normal form
SAME = {
    "centreoftown": "centre",
    "center": "centre",
    "citycentre": "centre",
    "centeroftown": "centre",
    "moderatelypriced": "moderate",
    "inexpensive": "cheap",
    "freeadmission": "free",
    "noentrancefee": "free",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}


@lru_cache(maxsize=1 << 16)
def norm(value: str) -> str:
    """A value without case, spaces, marks and a leading "the", one word for several.

    >>> norm("The Allenbell"), norm("centre of town"), norm("CB1 2DP")
    ('allenbell', 'centre', 'cb12dp')
    """
    plain = re.sub(r"[^a-z0-9]|^the ", "", value.lower())
    return SAME.get(plain, plain)


class Matches:
    """The entities of one domain that match what the customer has fixed, as facts by slot."""

    def __init__(self, entities: list[dict[str, str]]):
        self.entities = entities

    @cached_property
    def values(self) -> dict[str, set[str]]:
        """slot -> normalised values that any of them has"""
        found: dict[str, set[str]] = {}
        for facts in self.entities:
            for slot, value in facts.items():
                found.setdefault(slot, set()).add(norm(value))
        return found

    def named(self, names: list[str]) -> dict[str, str]:
        """The match named last (`names` are normalised), or else the first."""
        for name in reversed(names):
            for facts in self.entities:
                if name == norm(facts.get("name", facts.get("trainid", ""))):
                    return facts
        return self.entities[0] if self.entities else {}


class Database:
    """`search(domain, fixed)` -> Matches.

    Answers are kept, because thousands of turns ask the same.
    """

    def __init__(self, folder: Path):
        self.tables: dict[str, list[dict[str, str]]] = {}
        self.answers: dict[tuple, Matches] = {}
        # (domain, slot, normalised value) -> rows
        self.index: dict[tuple[str, str, str], set[int]] = {}
        for domain in DOMAINS:
            rows = _read(folder / f"{domain}_db.json")
            self.tables[domain] = [_facts(row) for row in rows]
            self._add_to_index(domain)
        self.taxi = _read(folder / "taxi_db.json")

    def _add_to_index(self, domain: str) -> None:
        for i, facts in enumerate(self.tables[domain]):
            for slot, value in facts.items():
                self.index.setdefault((domain, slot, norm(value)), set()).add(i)

    def search(self, domain: str, fixed: dict[str, str]) -> Matches:
        """The entities that have all values of `fixed`, slot -> value; trains in order of time."""
        key = (domain, tuple(sorted(fixed.items())))
        if key not in self.answers:
            self.answers[key] = self._search(domain, fixed)
        return self.answers[key]

    def _search(self, domain: str, fixed: dict[str, str]) -> Matches:
        table = self.tables.get(domain, [])
        after = fixed.get("after", ANY)
        before = fixed.get("before", ANY)
        numbers = set(range(len(table)))
        for slot, value in fixed.items():
            if slot not in LIMITS and value != ANY:
                numbers &= self._rows(domain, slot, value)
        candidates = [table[i] for i in sorted(numbers)]
        rows = [row for row in candidates if _in_time(row, after, before)]
        if not rows and "name" in fixed:
            # a name misspelt, or of something else: as if it had not been said
            others = {slot: value for slot, value in fixed.items() if slot != "name"}
            return self.search(domain, others)
        # only "there by 17:00": the last train that makes it comes first
        latest_first = after == ANY and before != ANY
        time = "arrive" if latest_first else "leave"
        rows.sort(key=lambda row: row.get(time, ""), reverse=latest_first)
        return Matches(rows)

    def _rows(self, domain: str, slot: str, value: str) -> set[int]:
        """Rows that have a value, or one of several: "hotel|guesthouse"."""
        wanted = [norm(word) for word in value.split("|")]
        if slot == "name":
            return self._rows_named(domain, wanted)
        rows: set[int] = set()
        for word in wanted:
            rows |= self.index.get((domain, slot, word), set())
        return rows

    def _rows_named(self, domain: str, wanted: list[str]) -> set[int]:
        """Rows whose name contains one of the words."""
        rows = set()
        for i, facts in enumerate(self.tables[domain]):
            name = norm(facts.get("name", ""))
            if any(word in name for word in wanted):
                rows.add(i)
        return rows


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _facts(row: dict[str, Any]) -> dict[str, str]:
    """A row of the database as slot -> value."""
    facts = {}
    for column, slot in FACTS.items():
        value = row.get(column)
        if isinstance(value, (str, int)) and value != UNKNOWN:
            facts[slot] = str(value)
    return facts


def _in_time(facts: dict[str, str], after: str, before: str) -> bool:
    """Whether it leaves and arrives within the limits; times compare as text: "05:10" < "17:00"."""
    if after != ANY and facts.get("leave", "") < after:
        return False
    return before == ANY or facts.get("arrive", "~") <= before
