"""MultiWOZ 2.1 (ConvLab-2 form) as replayed logs: real people, seven domains of a city's tourist office (Sec. 4, GAP-9).

u_t `intent`   the domain act of the customer that names most values, as `train-inform`; a request beats an inform at a tie,
               any domain beats `general`; None where nobody annotated the turn.  At most 16 labels.
e_t            None: the files label no customer's emotion (EmoWOZ has those; only its labels of the *system* are here).
T   `skills`   the system's acts without their domain, distinct, at most five, in order of their first span in the text; acts
               without a span take the places of the table SKILLS, FIRST before the others and the rest after them, never the
               order of JSON keys, which is arbitrary.
               Booking-Inform is read as `offerbook`: 93 % of them are "shall I book it?".
B_t `context`  of one domain, that of the customer's last acts: what the customer has fixed (`known` names it), how many entities
               of the database match (`choice`) and the facts of one: the match named last by either side, or else the first.
               Slots have one name in all domains.  Nothing in B_t comes from this reply or a later one (test_multiwoz.py): `ref`,
               `car` and a taxi's `phone` are there as soon as the customer has given all that a booking needs, whether or not the
               human booked then, and their values are made up from the dialogue's id.
reply          with slots: an annotated value that *any* match has becomes the slot, for which match to offer is the shop's choice;
               a second value of one slot, and what no match has, stays in words.
Tasks of Eq. 11 (ours, GAP-9): 1 matching = request, select, recommend, nooffer; 2 information = inform, nobook; 3 guidance =
offerbook, offerbooked, book, reqmore.  Greetings serve none.
`conduct=True` (--conduct) puts EmoWOZ 2.0's label of the system's tone in front of T; EmoWOZ is CC BY-NC 4.0: not for commerce.

Try it:    GOPO_DATA=data python multiwoz.py        one dialogue and the skill frequencies;  --download fetches all files
Exercise:  add `request` to FIRST, retrain the Expert, and compare `esndcg` with the set F1."""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import zipfile
from collections import Counter
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from corpora.download import fetch
from corpora.jsonl import examples, horizon
from data import MAX_SKILLS, DataError, Dataset, Dialogue, Skill, Turn, delexicalise

CONVLAB2 = "https://raw.githubusercontent.com/thu-coai/ConvLab-2/b014b81fcb1ff74f54681917eee39c14c87af3e5/data/multiwoz/"
CONVLAB3 = "https://raw.githubusercontent.com/ConvLab/ConvLab-3/2a168fc9843e54a468ddec71e001b7559c36aff4/convlab/policy/vtrace_DPT/supervised_emo_conduct/"
FILES = {                                        # file -> sha256
    "val.json.zip": "25ddfd4d0b01304012b54e2d98caa038c91d95295c4b519cc721b9b616f506dc",
    "test.json.zip": "438deb6ff5402cef5ff29cc0d5a10db818c1e9142727c1d631e71b563c66a5b4",
    "trainListFile": "a3e53af2da24d728f69849bcf4aacd25e72dc12bfa4f38fd40b3a3d40890c594",
    "db/attraction_db.json": "ac2486936c373917fd9ed1aa46d0e63f7dc6fae4667c80e62b643ac6051e9848",
    "db/hospital_db.json": "6b1c867e54fa1ca92b58036945819168ec4ac981da28a09d9dec0ed9d6185937",
    "db/hotel_db.json": "972bbd65beada7c64f0b87322c694fd9173b46cf8e61ca3bbe951717ac1d1662",
    "db/police_db.json": "5282b151240e9e31682172c806722ee117da9e7a9fe701b00b77b98ae118bf6f",
    "db/restaurant_db.json": "7864b4e36027af0907d6afe9ed962fecd6c6966cd626b8ae9341708a04ea201a",
    "db/taxi_db.json": "4305d9410d8674313ea1e227c3f9bfa5f15ff0bb2a4976d9ab8d656aa558ee23",
    "db/train_db.json": "4818e735bae20690f6d0d06bb2ae8eec1981c0b680258a970dc01c9073f3fec9",
}
TRAIN = "train.json.zip"                         # no checksum of it was published: see `_train`
CONDUCT = {"emowoz_2.0.json": "4b41eed144573fcf25d283e7d9f56c5ad79d5ff44e5a2c686678c8765b953a97"}

SKILLS = (                                       # id, task of Eq. 11, slots stated, description
    ("greet", None, (), "say hello"),
    ("nobook", 2, (), "say that the booking failed, with the reason if it is known"),
    ("nooffer", 1, (), "say that nothing matches what the customer asked for"),
    ("inform", 2, (), "state facts: how many match, a name, address, phone, time or price"),
    ("recommend", 1, ("name",), "recommend one of the matches by name"),
    ("select", 1, (), "ask the customer to choose between matches or kinds of them"),
    ("book", 3, ("ref",), "confirm a booking of a table or a room and give its reference"),
    ("offerbooked", 3, ("ref",), "confirm train tickets and give their reference"),
    ("offerbook", 3, (), "offer to book, before the customer asks"),
    ("request", 1, (), "ask for a detail that is still needed, such as the area, day or number of people"),
    ("reqmore", 3, (), "ask whether the customer needs anything else"),
    ("welcome", None, (), "answer thanks"),
    ("bye", None, (), "say goodbye"),
)
TONES = (None, "compassionate", "apologetic", "enthusiastic", "appreciative")        # EmoWOZ 2.0's numbers 0-4; 0 = neutral
SPANLESS = {skill: i for i, (skill, *_) in enumerate(SKILLS)}        # the order of the table is the order of acts without a span
FIRST = ("greet", "nobook", "nooffer")           # without a span they come before those with one; the others come after

BELIEF = {"leaveAt": "after", "arriveBy": "before"}                  # a customer's limits, not the train's own times
FACTS = {"name": "name", "trainID": "trainid", "leaveAt": "leave", "arriveBy": "arrive", "duration": "duration", "price": "price",
         "entrance fee": "price", "type": "type", "food": "food", "area": "area", "pricerange": "pricerange", "stars": "stars",
         "address": "address", "phone": "phone", "postcode": "postcode", "parking": "parking", "internet": "internet",
         "departure": "departure", "destination": "destination", "day": "day", "department": "department"}     # column -> slot
SPANS = {"Name": ("name",), "Id": ("trainid",), "Leave": ("leave", "after"), "Arrive": ("arrive", "before"), "Time": ("duration", "time"),
         "Ticket": ("price", "total"), "Fee": ("price",), "Type": ("type",), "Food": ("food",), "Area": ("area",), "Price": ("pricerange",),
         "Stars": ("stars",), "Addr": ("address",), "Phone": ("phone",), "Post": ("postcode",), "Depart": ("departure",),
         "Dest": ("destination",), "Day": ("day",), "People": ("people",), "Stay": ("stay",), "Choice": ("choice",), "Ref": ("ref",),
         "Car": ("car",), "Department": ("department",)}             # annotation -> slots it may be, the likelier first
BOOKING = {"restaurant": ("people", "day", "time"), "hotel": ("people", "day", "stay"), "train": ("people",)}   # what a booking needs
MADE_UP = ("ref", "car")                                             # any value of theirs becomes the slot; so does a taxi's phone
UNSAID = ("not mentioned", "none")                                   # besides the empty string
LITERAL = ("name", "trainid", "leave", "arrive", "after", "before", "duration", "price", "total", "address", "phone", "postcode", "departure",
           "destination", "day", "time")                             # safe to replace without annotation; a word like "hotel" is not
SAME = {"centreoftown": "centre", "center": "centre", "citycentre": "centre", "centeroftown": "centre", "moderatelypriced": "moderate",
        "inexpensive": "cheap", "freeadmission": "free", "noentrancefee": "free", "one": "1", "two": "2", "three": "3", "four": "4",
        "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}


# ---------------------------------------------------------------- the database

@lru_cache(maxsize=1 << 16)
def norm(value: str) -> str:
    """A value without case, spaces, marks and a leading "the", one word for several.

    >>> norm("The Allenbell"), norm("centre of town"), norm("CB1 2DP")
    ('allenbell', 'centre', 'cb12dp')
    """
    plain = re.sub(r"[^a-z0-9]|^the ", "", value.lower())
    return SAME.get(plain, plain)


class Matches:
    """The entities of one domain that fit what the customer has fixed, as facts by slot."""

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
        """The match named last, or else the first."""
        for name in reversed(names):
            for facts in self.entities:
                if name == norm(facts.get("name", facts.get("trainid", ""))):
                    return facts
        return self.entities[0] if self.entities else {}


class Database:
    """`search(domain, fixed)` -> Matches; answers are kept, for thousands of turns ask the same."""

    def __init__(self, folder: Path):
        self.tables, self.answers = {}, {}
        self.index: dict[tuple[str, str, str], set[int]] = {}        # (domain, slot, normalised value) -> rows
        for domain in ("attraction", "hospital", "hotel", "police", "restaurant", "train"):
            rows = json.loads((folder / f"{domain}_db.json").read_text(encoding="utf-8"))
            self.tables[domain] = [{slot: str(row[k]) for k, slot in FACTS.items() if isinstance(row.get(k), (str, int)) and row[k] != "?"}
                                   for row in rows]
            for i, facts in enumerate(self.tables[domain]):
                for slot, value in facts.items():
                    self.index.setdefault((domain, slot, norm(value)), set()).add(i)
        self.taxi = json.loads((folder / "taxi_db.json").read_text(encoding="utf-8"))

    def search(self, domain: str, fixed: dict[str, str]) -> Matches:
        key = (domain, tuple(sorted(fixed.items())))
        if key not in self.answers:
            table = self.tables.get(domain, [])
            after, before = (fixed.get(k, "dontcare") for k in ("after", "before"))
            equal = {k: v for k, v in fixed.items() if v != "dontcare" and k not in ("after", "before")}
            ids = set(range(len(table))).intersection(*(self._rows(domain, slot, v) for slot, v in equal.items()))
            rows = [table[i] for i in sorted(ids) if (after == "dontcare" or table[i].get("leave", "") >= after)     # "05:10" < "17:00" as text
                    and (before == "dontcare" or table[i].get("arrive", "~") <= before)]
            if not rows and "name" in fixed:     # a name misspelt, or of something else: as if not said
                return self.search(domain, {k: v for k, v in fixed.items() if k != "name"})
            latest = after == "dontcare" != before                   # only "there by 17:00": the last train that makes it
            self.answers[key] = Matches(sorted(rows, key=lambda r: r.get("arrive" if latest else "leave", ""), reverse=latest))
        return self.answers[key]

    def _rows(self, domain: str, slot: str, value: str) -> set[int]:
        wanted = [norm(v) for v in value.split("|")]                 # "hotel|guesthouse"
        if slot == "name":
            return {i for i, r in enumerate(self.tables[domain]) if any(w in norm(r.get("name", "")) for w in wanted)}
        return set().union(*(self.index.get((domain, slot, w), set()) for w in wanted))


# ---------------------------------------------------------------- one turn

def teacher(acts: dict[str, list], spans: list[list]) -> tuple[str, ...] | None:
    """T of a system turn: acts without domain by first span, the spanless at fixed places; None if it is not annotated.

    >>> teacher({"general-reqmore": [], "Hotel-Request": [], "Hotel-Inform": []}, [["Hotel-Inform", "Choice", "3", 2, 2]])
    ('inform', 'request', 'reqmore')
    """
    if not acts:
        return None
    start: dict[str, int] = {}
    for act, _, _, begin, _ in spans:
        start[_skill(act)] = min(begin, start.get(_skill(act), begin))

    def place(skill: str) -> tuple[int, int, int]:
        return (1, start[skill], SPANLESS[skill]) if skill in start else (0 if skill in FIRST else 2, 0, SPANLESS[skill])
    return tuple(sorted({_skill(a) for a in acts}, key=place))[:MAX_SKILLS]


def _skill(act: str) -> str:
    return "offerbook" if act == "Booking-Inform" else act.split("-")[1].lower()


def intent(acts: dict[str, list]) -> str | None:
    """u_t of a customer's turn, `domain-act`.

    >>> intent({"general-thank": [["none", "none"]], "Train-Inform": [["Day", "friday"]], "Train-Request": [["Ticket", "?"]]})
    'train-request'
    """
    def weight(act: str) -> tuple:
        return not act.startswith("general"), len(acts[act]), act.endswith("Request"), act           # the name: a tie of two domains
    return max(acts, key=weight).lower() if acts else None


def focus(acts: dict[str, list], before: str | None) -> str | None:
    """The domain talked about: that of the customer's acts, a new one if several; else the one before."""
    named = sorted({a.split("-")[0].lower() for a in acts} - {"general"})
    return next((d for d in named if d != before), before)


def context(domain: str | None, belief: dict[str, Any], heard: str, names: list[str], database: Database, dialogue: str) -> tuple[dict, Matches]:
    """(B_t, the matches).  `heard`: all text up to the customer's turn, normalised; `names`: entities named so far, normalised."""
    if domain not in belief:
        return {}, Matches([])
    semi = {BELIEF.get(k, k): v.lower() for k, v in belief[domain]["semi"].items() if v and v not in UNSAID}
    if norm(semi.get("name", "")) not in heard:                      # the annotators knew names that nobody had said yet
        del semi["name"]
    fixed = {k: "dontcare" if re.fullmatch(r"do ?n.?t ?care", v) else v for k, v in semi.items()}
    said = {k: v for k, v in fixed.items() if v != "dontcare"}
    book = {k: belief[domain]["book"].get(k, "") for k in BOOKING.get(domain, ())}
    book = {k: v for k, v in book.items() if v and v not in UNSAID and (k != "people" or v.isdigit())}
    B = {"_domain": domain} | ({"_known": " ".join(sorted(fixed))} if fixed else {})
    code = hashlib.sha256(f"{dialogue} {domain}".encode()).hexdigest().upper()
    if domain == "taxi":
        if {"departure", "destination"} <= set(said) and {"after", "before"} & set(said):
            kinds, colours = database.taxi["taxi_types"], database.taxi["taxi_colors"]
            said |= {"car": f"{colours[int(code[0], 16) % len(colours)]} {kinds[int(code[1], 16) % len(kinds)]}",
                     "phone": f"07{int(code[:12], 16) % 10**9:09d}"}
        return B | said, Matches([])
    matches = database.search(domain, fixed)
    facts = matches.named(names) if fixed or domain in ("police", "hospital") else {}
    if domain == "train" and "people" in book and re.match(r"[\d.]+ pounds", facts.get("price", "")):
        book["total"] = f"{float(facts['price'].split()[0]) * int(book['people']):.2f} pounds"
    if facts and domain in BOOKING and set(BOOKING[domain]) <= set(book):
        book["ref"] = code[:8]
    return B | {"choice": str(len(matches.entities))} | said | facts | book, matches


def with_slots(text: str, spans: list[list], B: dict[str, str], matches: Matches) -> str:
    """A system reply with slots of B_t for values, and without the spaces of the corpus' tokenisation."""
    words, used, taken = text.split(), {}, set()                     # used: slot -> the value it stands for in this reply
    for _, kind, value, begin, end in sorted(spans, key=lambda s: s[3]):
        if begin > end or taken & set(range(begin, end + 1)):        # two acts often annotate one span
            continue
        for slot in SPANS.get(kind, ()):
            if slot not in B or not _has(slot, value, B, matches) or used.setdefault(slot, norm(value)) != norm(value):
                continue
            words[begin:end + 1] = ["{" + slot + "}" + ("s" if norm(value) == norm(B[slot]) + "s" else "")] + [""] * (end - begin)
            taken |= set(range(begin, end + 1))
            break
    rest = {k: B[k] for k in LITERAL if k in B and used.get(k, norm(B[k])) == norm(B[k])}
    return delexicalise(tidy(" ".join(w for w in words if w)), rest, ignore_case=True)


def _has(slot: str, value: str, B: dict[str, str], matches: Matches) -> bool:
    if slot in MADE_UP or (slot == "phone" and "car" in B):
        return True
    if slot in ("price", "total"):                                   # "60.59 GBP" is "60.60 pounds": the humans' tool rounded
        number = re.search(r"\d+(\.\d+)?", value)
        if number and re.match(r"[\d.]+ ", B[slot]):
            return abs(float(number[0]) - float(B[slot].split()[0])) < .05
    found = norm(value)
    some = matches.values.get(slot, set()) | {norm(B[slot])}
    return found in some or (found.endswith("s") and found[:-1] == norm(B[slot]))


def tidy(text: str) -> str:
    """Undoes the corpus' tokenisation.

    >>> tidy("I do n't have it , sorry . It 's 12:30 .")
    "I don't have it, sorry. It's 12:30."
    """
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" (n't|'(?:s|m|d|ll|re|ve))\b", r"\1", text)
    return re.sub(r" ([.,?!;:)])", r"\1", text).replace("( ", "(")


def dialogue(id: str, raw: dict[str, Any], database: Database, tones: dict[str, int] | None = None) -> Dialogue:
    """One dialogue of the corpus.  log[2t] is the customer's turn; log[2t + 1] the reply, with the belief state *before* it."""
    turns, domain, heard, names = [], None, "", []
    log = raw["log"]
    for i in range(0, len(log) - 1, 2):
        customer, system = ({"dialog_act": {}, "span_info": []} | entry for entry in log[i:i + 2])
        domain = focus(customer["dialog_act"], domain)
        heard += norm(customer["text"])
        names += _names(customer)
        B, matches = context(domain, system["metadata"], heard, names, database, id)
        skills = teacher(system["dialog_act"], system["span_info"])
        tone = TONES[tones.get(f"{id}.json-{i + 1}", 0)] if tones else None
        if tone and skills is not None:
            skills = (tone, *skills)[:MAX_SKILLS]
        turns.append(Turn(tidy(customer["text"]), intent(customer["dialog_act"]), None, B, skills,
                          with_slots(system["text"], system["span_info"], B, matches)))
        heard += norm(system["text"])
        names += _names(system)
    goal = {k: v for k, v in raw["goal"].items() if v and k not in ("topic", "message")}
    return Dialogue(id, tuple(turns), goal, "multiwoz 2.1")


def _names(entry: dict[str, Any]) -> list[str]:
    return [norm(value) for items in entry["dialog_act"].values() for kind, value in items if kind in ("Name", "Id") and value != "?"]


# ---------------------------------------------------------------- the dataset

def load(data_dir: Path, conduct: bool = False) -> Dataset:
    """MultiWOZ 2.1 from `data_dir`/multiwoz; fetches it if it is not there.

    Without train.json.zip: train and dev are the validation dialogues (the last 10 % are dev), and `note` says so.  That file
    is tried when the others are fetched, never again by itself: a machine without network does not wait for it."""
    folder = Path(data_dir) / "multiwoz"
    if not all((folder / f).exists() for f in FILES if f != "trainListFile"):        # that list only checks the training split
        download(folder)
    database = Database(folder / "db")
    tones = None
    if conduct:
        tones = json.loads(fetch(CONVLAB3 + "emowoz_2.0.json", CONDUCT["emowoz_2.0.json"], folder / "emowoz_2.0.json", "EmoWOZ 2.0").read_text())
    read = {name: [dialogue(id, raw, database, tones) for id, raw in _unzip(folder / f"{name}.json.zip").items()] for name in ("val", "test")}
    note = "MultiWOZ 2.1 has no labels of the customer's emotion: e_t is empty."
    if (folder / TRAIN).exists():
        train, dev = [dialogue(id, raw, database, tones) for id, raw in _train(folder).items()], read["val"]
    else:
        cut = len(read["val"]) * 9 // 10
        train, dev = read["val"][:cut], read["val"][cut:]
        note += (f" {TRAIN} is not in {folder}: trained on {cut} validation dialogues, not on the 8,434 of the training split;"
                 " with network, GOPO_DATA=<folder> python multiwoz.py --download fetches it.")
    if conduct:
        note += " Conduct labels: EmoWOZ 2.0, CC BY-NC 4.0, not for commercial use."
    pool = [Skill(s, f"the tone of the reply is {s}") for s in TONES if s and conduct]
    pool += [Skill(s, text, needs=needs, task=task) for s, task, needs, text in SKILLS]
    skills = {s.id: Skill(s.id, s.description, examples(s.id, train), needs=s.needs, task=s.task) for s in pool}
    intents = tuple(sorted({t.intent for d in train for t in d.turns if t.intent}))
    return Dataset("multiwoz", skills, intents, (), train, dev, read["test"], horizon=horizon(train), note=note)


def download(folder: Path) -> None:
    """Fetches every file; the training split too if it can be had."""
    for name, sha256 in FILES.items():
        fetch(CONVLAB2 + name, sha256, folder / name, f"MultiWOZ 2.1 {name}")
    there = (folder / TRAIN).exists()
    try:
        fetch(CONVLAB2 + TRAIN, None, folder / TRAIN, "MultiWOZ 2.1 training split")
        _train(folder)
    except DataError as error:
        if not there:                            # what somebody put there by hand is not ours to remove
            (folder / TRAIN).unlink(missing_ok=True)
        print(f"going on without the training split: {error}", file=sys.stderr)


def _train(folder: Path) -> dict[str, Any]:
    """The training dialogues.  Their file has no published checksum, so it counts only if it parses and its ids are exactly
    those of trainListFile, whose checksum is known."""
    raw = _unzip(folder / TRAIN)
    fetch(CONVLAB2 + "trainListFile", FILES["trainListFile"], folder / "trainListFile", "the list of training dialogues")
    listed = {i.removesuffix(".json") for i in (folder / "trainListFile").read_text().split()}
    if {i.removesuffix(".json") for i in raw} != listed:
        raise DataError(f"{folder / TRAIN}: holds {len(raw)} dialogues, which are not the {len(listed)} of trainListFile; remove the file")
    return raw


def _unzip(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(path.name.removesuffix(".zip")))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it and run python multiwoz.py --download") from None


def main() -> None:
    parser = argparse.ArgumentParser(description="One MultiWOZ dialogue as GOPO sees it, and how often each skill is used.", allow_abbrev=False)
    parser.add_argument("--data_dir", type=Path, default=Path(os.environ.get("GOPO_DATA", "data")), help="folder that holds multiwoz/")
    parser.add_argument("--number", type=int, default=0, help="which training dialogue to print")
    parser.add_argument("--conduct", action="store_true", help="put EmoWOZ's tone in front of T (CC BY-NC 4.0: non-commercial)")
    parser.add_argument("--download", action="store_true", help="fetch the files first, the training split too")
    args = parser.parse_args()
    if args.download:
        download(args.data_dir / "multiwoz")
    data = load(args.data_dir, args.conduct)
    print(f"{data.note}\n{len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test dialogues; horizon {data.horizon}\n")
    for t, turn in enumerate(data.train[args.number].turns, 1):
        print(f"{t}  U_t   {turn.user}\n   u_t   {turn.intent}\n   B_t   {turn.context}\n   T     {turn.skills}\n   reply {turn.reply}\n")
    count = Counter(s for d in data.train for t in d.turns for s in t.skills or ())
    print("skill          used  task")
    for skill, n in count.most_common():
        print(f"{skill:13} {n:5}  {data.skills[skill].task or '-'}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
