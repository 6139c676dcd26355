"""One MultiWOZ dialogue as GOPO reads it: u_t, T, B_t and the reply with slots (Sec. 3.2, GAP-9).

u_t `intent`   the domain act of the customer that names most values, as `train-inform`; a request
               wins a tie against an inform, any domain wins against `general`; None where nobody
               annotated the turn
T   `skills`   the system's acts without their domain, distinct, at most five, in the order of
               their first span in the text.  Acts without a span have fixed places: those of FIRST
               come before the others, the rest after them, each in the order of SKILLS.  The order
               of JSON keys plays no part: it is arbitrary.
               Booking-Inform is read as `offerbook`: 93 % of them are "shall I book it?".
B_t `context`  of one domain, that of the customer's last acts: what the customer has fixed
               (`_known` names it), how many entities of the database match (`choice`) and the
               facts of one of them: the match that either side named last, or else the first.
               Slots have one name in all domains.  Nothing in B_t comes from this reply or a later
               one (tests/test_multiwoz.py): `ref`, `car` and a taxi's `phone` are there as soon as
               the customer has given all that a booking needs, whether or not the human booked
               then.  Their values are made up from the dialogue's id.
reply          with slots: an annotated value that *any* match has becomes the slot, because which
               match to offer is the shop's choice.  A second value of one slot, and what no match
               has, stays in words: the slots are `known`.  With `every` each annotated value
               becomes a slot, so that who imitates people can say all that they said; B_t then
               holds every slot that any reply may carry, "?" where nobody knows the value.
Exercise:  add `request` to FIRST, retrain the Expert, and compare `esndcg` with the set F1."""
from __future__ import annotations

import hashlib
import re
from typing import Any

from corpora.multiwoz_database import ANY, UNKNOWN, Database, Matches, norm
from data import MAX_SKILLS, Dialogue, Turn, delexicalise

# id, task of Eq. 11, slots stated, description.
# The order of the table is the order of acts without a span.
SKILLS = (
    ("greet", None, (), "say hello"),
    ("nobook", 2, (), "say that the booking failed, with the reason if it is known"),
    ("nooffer", 1, (), "say that nothing matches what the customer asked for"),
    ("inform", 2, (), "state facts: how many match, a name, address, phone, time or price"),
    ("recommend", 1, ("name",), "recommend one of the matches by name"),
    ("select", 1, (), "ask the customer to choose between matches or kinds of them"),
    ("book", 3, ("ref",), "confirm a booking of a table or a room and give its reference"),
    ("offerbooked", 3, ("ref",), "confirm train tickets and give their reference"),
    ("offerbook", 3, (), "offer to book, before the customer asks"),
    ("request", 1, (),
     "ask for a detail that is still needed, such as the area, day or number of people"),
    ("reqmore", 3, (), "ask whether the customer needs anything else"),
    ("welcome", None, (), "answer thanks"),
    ("bye", None, (), "say goodbye"),
)
PLACE = {skill: i for i, (skill, *_) in enumerate(SKILLS)}
# Without a span, these come before the acts with one, and all others after them.
FIRST = ("greet", "nobook", "nooffer")
# EmoWOZ 2.0's numbers 0-4; 0 = neutral
TONES = (None, "compassionate", "apologetic", "enthusiastic", "appreciative")

# slots of the belief state that have another name here
BELIEF = {"leaveAt": "after", "arriveBy": "before"}
# annotation -> slots it may be, the likelier first
SPANS = {
    "Name": ("name",),
    "Id": ("trainid",),
    "Leave": ("leave", "after"),
    "Arrive": ("arrive", "before"),
    "Time": ("duration", "time"),
    "Ticket": ("price", "total"),
    "Fee": ("price",),
    "Type": ("type",),
    "Food": ("food",),
    "Area": ("area",),
    "Price": ("pricerange",),
    "Stars": ("stars",),
    "Addr": ("address",),
    "Phone": ("phone",),
    "Post": ("postcode",),
    "Depart": ("departure",),
    "Dest": ("destination",),
    "Day": ("day",),
    "People": ("people",),
    "Stay": ("stay",),
    "Choice": ("choice",),
    "Ref": ("ref",),
    "Car": ("car",),
    "Department": ("department",),
}
# What a reply may carry with --woz_slots every, whatever B_t knows: the same at every turn, so that
# it tells nothing of the reply.
OFFERED = tuple(dict.fromkeys(names[0] for names in SPANS.values()))
WORDINGS = ("known", "every")                    # which annotated values become slots of a reply
# what a booking needs
BOOKING = {
    "restaurant": ("people", "day", "time"),
    "hotel": ("people", "day", "stay"),
    "train": ("people",),
}
# Any value of these becomes the slot; so does a taxi's phone.
MADE_UP = ("ref", "car")
# besides the empty string
UNSAID = ("not mentioned", "none")
# Safe to replace without an annotation; a word like "hotel" is not.
LITERAL = (
    "name", "trainid", "leave", "arrive", "after", "before", "duration", "price", "total",
    "address", "phone", "postcode", "departure", "destination", "day", "time",
)
UNANNOTATED: dict[str, Any] = {"dialog_act": {}, "span_info": []}


# ---------------------------------------------------------------- T and u_t

def teacher(acts: dict[str, list], spans: list[list]) -> tuple[str, ...] | None:
    """T of a system turn; None if it is not annotated.

    acts   by name, domain-act, with their values
    spans  [act, kind, value, first word, last word]

    >>> acts = {"general-reqmore": [], "Hotel-Request": [], "Hotel-Inform": []}
    >>> teacher(acts, [["Hotel-Inform", "Choice", "3", 2, 2]])
    ('inform', 'request', 'reqmore')
    """
    if not acts:
        return None
    start: dict[str, int] = {}
    for act, _, _, begin, _ in spans:
        skill = _skill(act)
        start[skill] = min(begin, start.get(skill, begin))

    def place(skill: str) -> tuple[int, int, int]:
        if skill in start:
            return 1, start[skill], PLACE[skill]
        group = 0 if skill in FIRST else 2
        return group, 0, PLACE[skill]

    skills = {_skill(act) for act in acts}
    return tuple(sorted(skills, key=place))[:MAX_SKILLS]


def _skill(act: str) -> str:
    if act == "Booking-Inform":
        return "offerbook"
    return act.split("-")[1].lower()


def intent(acts: dict[str, list]) -> str | None:
    """u_t of a customer's turn, `domain-act`; None if nobody annotated it.

    >>> acts = {"general-thank": [["none", "none"]], "Train-Inform": [["Day", "friday"]]}
    >>> intent(acts | {"Train-Request": [["Ticket", "?"]]})
    'train-request'
    """
    def weight(act: str) -> tuple:
        # the name comes last: it decides between two domains
        return not act.startswith("general"), len(acts[act]), act.endswith("Request"), act

    return max(acts, key=weight).lower() if acts else None


# ---------------------------------------------------------------- B_t

def focus(acts: dict[str, list], before: str | None) -> str | None:
    """The domain talked about: that of the customer's acts, a new one if there are several.

    Without acts it is `before`, the domain of the turn before.
    """
    named = {act.split("-")[0].lower() for act in acts}
    for domain in sorted(named - {"general"}):
        if domain != before:
            return domain
    return before


def context(
    domain: str | None,
    belief: dict[str, Any],
    heard: str,
    names: list[str],
    database: Database,
    dialogue: str,
) -> tuple[dict[str, str], Matches]:
    """(B_t, the entities that match).

    belief    the annotators' belief state before the reply, by domain
    heard     all text up to this turn of the customer, normalised
    names     the entities named until now, normalised
    dialogue  the id, from which references are made up
    """
    if domain not in belief:
        return {}, Matches([])
    fixed = _fixed(belief[domain]["semi"], heard)
    said = {slot: value for slot, value in fixed.items() if value != ANY}
    booking = _booking(domain, belief[domain]["book"])
    code = hashlib.sha256(f"{dialogue} {domain}".encode()).hexdigest().upper()
    B = {"_domain": domain}
    if fixed:
        B["_known"] = " ".join(sorted(fixed))
    if domain == "taxi":
        return B | said | _taxi(said, code, database), Matches([])
    matches = database.search(domain, fixed)
    facts = {}
    if fixed or domain in ("police", "hospital"):
        facts = matches.named(names)
    booking |= _total(domain, booking, facts)
    if facts and domain in BOOKING and set(BOOKING[domain]) <= set(booking):
        booking["ref"] = code[:8]
    choice = {"choice": str(len(matches.entities))}
    return B | choice | said | facts | booking, matches


def _fixed(semi: dict[str, str], heard: str) -> dict[str, str]:
    """What the customer has fixed, slot -> value, ANY where anything will do."""
    fixed = {}
    for name, value in semi.items():
        if not value or value in UNSAID:
            continue
        value = value.lower()
        # The annotators knew names that nobody had said yet.
        if name == "name" and norm(value) not in heard:
            continue
        anything = re.fullmatch(r"do ?n.?t ?care", value)
        fixed[BELIEF.get(name, name)] = ANY if anything else value
    return fixed


def _booking(domain: str, book: dict[str, Any]) -> dict[str, str]:
    """What the customer has said of a booking."""
    known = {}
    for slot in BOOKING.get(domain, ()):
        value = book.get(slot, "")
        if not value or value in UNSAID:
            continue
        if slot == "people" and not value.isdigit():
            continue
        known[slot] = value
    return known


def _taxi(said: dict[str, str], code: str, database: Database) -> dict[str, str]:
    """The car and the phone of a taxi, once the customer has given way and time."""
    way_known = {"departure", "destination"} <= set(said)
    time_known = bool({"after", "before"} & set(said))
    if not (way_known and time_known):
        return {}
    kinds = database.taxi["taxi_types"]
    colours = database.taxi["taxi_colors"]
    colour = colours[int(code[0], 16) % len(colours)]
    kind = kinds[int(code[1], 16) % len(kinds)]
    return {"car": f"{colour} {kind}", "phone": f"07{int(code[:12], 16) % 10**9:09d}"}


def _total(domain: str, booking: dict[str, str], facts: dict[str, str]) -> dict[str, str]:
    """The price of all train tickets."""
    price = facts.get("price", "")
    if domain != "train" or "people" not in booking or not re.match(r"[\d.]+ pounds", price):
        return {}
    total = float(price.split()[0]) * int(booking["people"])
    return {"total": f"{total:.2f} pounds"}


# ---------------------------------------------------------------- the reply

def with_slots(
    text: str, spans: list[list], B: dict[str, str], matches: Matches, every: bool = False
) -> str:
    """A system reply with slots of B_t for values, and without the corpus' tokenisation.

    every  a value that B_t cannot give becomes a slot as well; B_t then holds OFFERED
    """
    words = text.split()
    # slot -> the value, normalised, that it stands for in this reply
    used: dict[str, str] = {}
    taken: set[int] = set()
    for _, kind, value, begin, end in sorted(spans, key=lambda span: span[3]):
        places = set(range(begin, end + 1))
        # two acts often annotate one span
        if not places or taken & places:
            continue
        slot = _slot(kind, value, B, matches, used)
        if slot is None and every:
            slot = _likeliest(kind, B)
        if slot is None:
            continue
        used.setdefault(slot, norm(value))
        plural = "s" if norm(value) == norm(B[slot]) + "s" else ""
        # the list keeps its length, so that later spans keep their places
        words[begin:end + 1] = ["{" + slot + "}" + plural] + [""] * (end - begin)
        taken |= places
    rest = {}
    for slot in LITERAL:
        if slot in B and used.get(slot, norm(B[slot])) == norm(B[slot]):
            rest[slot] = B[slot]
    plain = tidy(" ".join(word for word in words if word))
    return delexicalise(plain, rest, ignore_case=True)


def _slot(
    kind: str, value: str, B: dict[str, str], matches: Matches, used: dict[str, str]
) -> str | None:
    """The slot that an annotated value becomes; None if it stays in words."""
    for slot in SPANS.get(kind, ()):
        if slot not in B or not _has(slot, value, B, matches):
            continue
        if used.get(slot, norm(value)) == norm(value):
            return slot
    return None


def _likeliest(kind: str, B: dict[str, str]) -> str | None:
    """The slot of an annotated value that no match has; None if values of its kind are no slots."""
    names = SPANS.get(kind, (None,))
    known = [name for name in names if B.get(name, UNKNOWN) != UNKNOWN]
    return (known or names)[0]


def with_offered(B: dict[str, str]) -> dict[str, str]:
    """B_t with every slot that a reply may carry, and UNKNOWN for what nobody knows."""
    return B | {slot: UNKNOWN for slot in OFFERED if slot not in B}


def _has(slot: str, value: str, B: dict[str, str], matches: Matches) -> bool:
    """Whether any match, or B_t, has this value."""
    if slot in MADE_UP or (slot == "phone" and "car" in B):
        return True
    if slot in ("price", "total"):
        number = re.search(r"\d+(\.\d+)?", value)
        if number and re.match(r"[\d.]+ ", B[slot]):
            # "60.59 GBP" is "60.60 pounds": the humans' tool rounded
            return abs(float(number[0]) - float(B[slot].split()[0])) < .05
    found = norm(value)
    if found in matches.values.get(slot, set()) or found == norm(B[slot]):
        return True
    # a plural
    return found.endswith("s") and found[:-1] == norm(B[slot])


def tidy(text: str) -> str:
    """Undoes the corpus' tokenisation.

    >>> tidy("I do n't have it , sorry . It 's 12:30 .")
    "I don't have it, sorry. It's 12:30."
    """
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" (n't|'(?:s|m|d|ll|re|ve))\b", r"\1", text)
    text = re.sub(r" ([.,?!;:)])", r"\1", text)
    return text.replace("( ", "(")


# ---------------------------------------------------------------- the dialogue

def dialogue(
    id: str, raw: dict[str, Any], database: Database, tones: dict[str, int] | None = None,
    every: bool = False,
) -> Dialogue:
    """One dialogue of the corpus.

    raw    log[2t] is the customer's turn; log[2t + 1] is the reply, with the belief state *before*
           the reply
    tones  EmoWOZ's number of the tone, by "<id>.json-<place in the log>"
    every  every annotated value becomes a slot, as with --woz_slots every
    """
    turns = []
    domain = None
    heard = ""
    names: list[str] = []
    log = raw["log"]
    for i in range(0, len(log) - 1, 2):
        customer = UNANNOTATED | log[i]
        system = UNANNOTATED | log[i + 1]
        domain = focus(customer["dialog_act"], domain)
        heard += norm(customer["text"])
        names += _names(customer)
        B, matches = context(domain, system["metadata"], heard, names, database, id)
        skills = teacher(system["dialog_act"], system["span_info"])
        if tones:
            skills = _with_tone(skills, tones.get(f"{id}.json-{i + 1}", 0))
        if every:
            B = with_offered(B)
        reply = with_slots(system["text"], system["span_info"], B, matches, every)
        u = intent(customer["dialog_act"])
        turns.append(Turn(tidy(customer["text"]), u, None, B, skills, reply))
        heard += norm(system["text"])
        names += _names(system)
    return Dialogue(id, tuple(turns), _goal(raw["goal"]), "multiwoz 2.1")


def _with_tone(skills: tuple[str, ...] | None, number: int) -> tuple[str, ...] | None:
    """T with the tone in front, unless it is neutral or nobody labelled the turn."""
    tone = TONES[number]
    if tone is None or skills is None:
        return skills
    return (tone, *skills)[:MAX_SKILLS]


def _goal(raw: dict[str, Any]) -> dict[str, Any]:
    goal = {}
    for name, value in raw.items():
        if value and name not in ("topic", "message"):
            goal[name] = value
    return goal


def _names(entry: dict[str, Any]) -> list[str]:
    """The entities that a turn names, normalised."""
    names = []
    for items in entry["dialog_act"].values():
        for kind, value in items:
            if kind in ("Name", "Id") and value != "?":
                names.append(norm(value))
    return names
