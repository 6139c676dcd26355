"""What MultiWOZ's measures make of slots and values: one name for a slot, and which venues fit.

woz_score.py counts by it.  The database is compared as the measures want it, which is kinder than
multiwoz_database.py where a value is misspelt, and stricter elsewhere ("center" is not "centre").

Try it:  python -m corpora.woz_venues        some spellings, and what becomes of them"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import lru_cache

from corpora.multiwoz_database import Database
from corpora.multiwoz_turns import tidy

# what decides whether a venue fits
COLUMNS = {
    "restaurant": ("name", "food", "area", "pricerange"),
    "hotel": ("name", "type", "area", "pricerange", "stars", "parking", "internet"),
    "attraction": ("name", "type", "area"),
    "train": ("departure", "destination", "day", "leave", "arrive"),
}
# other names of slots, without marks, in predictions and in states
ALIASES = {
    "id": "trainid",
    "ref": "reference",
    "post": "postcode",
    "addr": "address",
    "leaveat": "leave",
    "arriveby": "arrive",
}
ANYTHING = ("dontcare", "dont care", "don't care", "not mentioned")
# other words for a value
SAME = {
    "guest house": "guesthouse",
    "night club": "nightclub",
    "swimming pool": "swimmingpool",
    "multiple sports": "mutliple sports",       # as the database spells it
    "free": "yes",
    "noon": "12:00",
}
# compared by likeness: who writes "portugese", or half a name, means it
SPELT = ("name", "food", "departure", "destination")
ALIKE = 0.895

State = Mapping[str, Mapping[str, str]]          # domain -> slot -> value
Rows = frozenset[int]                            # of a table of the database


# --- slots and values ---------------------------------------------------------------------------

@lru_cache(4096)
def plain_slot(name: str) -> str:
    """One name for a slot: without domain, marks and `value_`.

    >>> [plain_slot(name) for name in ("value_id", "hotel_price range", "train_leaveAt", "ref")]
    ['trainid', 'pricerange', 'leave', 'reference']
    """
    bare = re.sub(r"[^a-z]", "", name.lower().rpartition("_")[2])
    return ALIASES.get(bare, bare)


IN_MARKS = re.compile(r"[\[{]([^\]}]*)[\]}]")


@lru_cache(65536)
def plain_slots(text: str) -> frozenset[str]:
    """The slots of a reply, `[value_phone]` or `{phone}`."""
    return frozenset(plain_slot(name) for name in IN_MARKS.findall(text))


@lru_cache(65536)
def plain_value(value: str) -> str:
    """A value in small letters, without the corpus' tokenisation, one word for several."""
    plain = tidy(value.lower())
    return SAME.get(plain, plain)


def clock(value: str) -> str | None:
    """A time of day as hh:mm; None if there is none in the value.

    >>> clock("17 : 15"), clock("0905"), clock("after 9:05"), clock("by")
    ('17:15', '09:05', '09:05', None)
    """
    found = re.search(r"(?<!\d)(\d{1,2})\s*:\s*(\d{2})(?!\d)|(?<!\d)(\d{2})(\d{2})(?!\d)", value)
    if found is None:
        return None
    hour, minute = found[1] or found[3], found[2] or found[4]
    return f"{int(hour):02d}:{minute}"


@lru_cache(1 << 17)
def alike(one: str, other: str) -> bool:
    """Whether two texts are much like each other, or the shorter like a stretch of the longer.

    >>> alike("portugese", "portuguese"), alike("ask", "ask restaurant"), alike("thai", "indian")
    (True, True, False)
    """
    short, long = sorted((one, other), key=len)
    if short in long:
        return bool(short)
    if SequenceMatcher(None, short, long, autojunk=False).ratio() >= ALIKE:
        return True
    for block in SequenceMatcher(None, short, long, autojunk=False).get_matching_blocks():
        start = max(0, block.b - block.a)
        stretch = long[start:start + len(short)]
        if SequenceMatcher(None, short, stretch, autojunk=False).ratio() >= ALIKE:
            return True
    return False


# --- venues -------------------------------------------------------------------------------------

class Venues:
    """Which rows of the database fit; answers are kept."""

    def __init__(self, database: Database):
        self.tables = database.tables
        self.kept: dict[tuple, Rows] = {}

    def search(self, domain: str, wanted: Mapping[str, str]) -> Rows:
        """Rows of the domain that have every value of `wanted`.

        Leaving is no earlier and arriving no later than wanted.  A fact that the database does not
        know fits anything.
        """
        key = (domain, tuple(sorted(wanted.items())))
        if key not in self.kept:
            table = self.tables[domain]
            fitting: Iterable[int] = range(len(table))
            for slot, value in wanted.items():
                fitting = [row for row in fitting if _fits(slot, table[row].get(slot), value)]
            self.kept[key] = frozenset(fitting)
        return self.kept[key]


def _fits(slot: str, has: str | None, value: str) -> bool:
    wanted = plain_value(value)
    if has is None or wanted in ANYTHING:
        return True
    if slot == "leave":
        return has >= (clock(wanted) or "00:00")
    if slot == "arrive":
        return has <= (clock(wanted) or "00:00")
    has = plain_value(has)
    return has == wanted or (slot in SPELT and alike(has, wanted))


def wanted_of(domain: str, state: State) -> dict[str, str]:
    """What the state says of the domain, in our names of slots."""
    wanted = {}
    for name, value in state.get(domain, {}).items():
        slot = plain_slot(name)
        if slot in COLUMNS[domain]:
            wanted[slot] = str(value)
    return wanted


def demo() -> None:
    for name in ("value_id", "hotel_price range", "train_leaveAt", "ref"):
        print(f"slot   {name:20s} {plain_slot(name)}")
    for value in ("17 : 15", "after 9:05", "by"):
        print(f"time   {value:20s} {clock(value)}")
    for one, other in (("ask", "ask restaurant"), ("portugese", "portuguese"), ("thai", "indian")):
        print(f"name   {one:20s} {other}: {alike(one, other)}")


if __name__ == "__main__":
    demo()
