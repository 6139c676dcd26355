"""One STAR dialogue as GOPO reads it: u_t, T, B_t and the reply with slots (Sec. 3.2, GAP-9).

U_t  `user`     what the customer wrote since the last reply
u_t  `intent`   the task to which the wizard, the person who answered, switched on hearing it, as
                `bank_balance`.  None where no switch was made, and so in all dialogues with one
                task: nobody labelled intents, and this is all that was recorded of how a customer
                was understood.
e_t  `emotion`  None.  One question after the dialogue asks whether the customer became annoyed; it
                is no label of a turn and stands in `goal`.
T    `skills`   the action that the wizard picked, one a turn, of 164 labels; None where the reply
                was written freely (nobody said which action that was)
B_t  `context`  what the wizard had on the screen before the reply: the item of the knowledge base,
                and what it had last been asked for (exact values as slots; `_known` names all).
                To read, not to say: `_task`, and `_query`, which is there only if the wizard asked
                in this very turn: "check", "book" or "query", then "success", "failure" or
                "nothing".  Asking is part of B_t and no skill.
reply           with slots of B_t for what the template of the action fills in, and for names,
                times and messages anywhere"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data import MAX_SKILLS, Dialogue, Turn, base

# An action label, or these: a reply in the wizard's own words.
UNLABELLED = (None, "custom")

# ---------------------------------------------------------------- names of slots

# Where a field of the knowledge base has another name than a template's slot:
# "domain.Field" or "task.Field", or "Field" in all other domains.
SLOT_OF = {
    "hotel.Location": "hotel_location",
    "hotel.Cost": "price_range",
    "restaurant.AverageRating": "rating",
    "restaurant.Food": "food_type",
    "apartment.NearbyPOIs": "pois",
    "apartment.Level": "floor",
    "apartment.FloorSquareMeters": "size",
    "apartment.NumRooms": "num_bedrooms",
    "plane.id": "flight_id",
    "plane.DurationHours": "duration",
    "ride.id": "booking_id",
    "bank.BankBalance": "balance",
    "weather.TemperatureCelsius": "temperature",
    "party.StartTimeHour": "time",
    "party.Name": "venue_name",
    "doctor.StartTimeHour": "time",
    "doctor_followup.Message": "instructions",
    "StartTimeHour": "start_time",
    "EndTimeHour": "end_time",
}
# "Detailed" in the name of a field, or not -> the slot of its steps
STEPS = {"Detailed": "detailed_instruction", "": "simple_instruction"}
# Safe to replace anywhere in a reply; "cheap" or "sunny" is not.
LITERAL = {
    "hotel_name", "restaurant_name", "apartment_name", "venue_name", "doctor_name", "guest_name",
    "host_name", "customer_name", "patient_name", "renter_name", "full_name", "user_name",
    "driver_name", "license_plate", "car_model", "service_provider", "airline", "bank_name",
    "city", "arrival_city", "departure_city", "arrival_location", "departure_location", "day",
    "date", "time", "start_time", "end_time", "arrival_time", "departure_time", "start_date",
    "end_date", "balance", "instructions", "simple_instruction", "detailed_instruction",
    "question", "account_number", "ride_status", "ride_wait", "booking_id", "flight_id",
}
FAILED = re.compile(
    r"unavailable|failed|unable|conflicting|is booked at|too small|cannot authenticate"
    r"|not authorized", re.IGNORECASE)
# one value: no limit, and no list of several
EXACT = re.compile(
    r'\s*(?:api\.is_equal_to\()?\[?\s*(?:"([^"]*)"|(-?\d+(?:\.\d+)?|True|False))\s*\]?\)?\s*')


def slot_name(api: str, field: str) -> str:
    """The slot of a field of the knowledge base; `api` is the task that asks.

    >>> slot_name("bank_balance", "BankBalance"), slot_name("hotel_book", "Name")
    ('balance', 'hotel_name')
    >>> slot_name("ride_book", "MinutesTillPickup")
    'minutes_till_pickup'
    """
    domain = api.split("_")[0]
    for key in (f"{api}.{field}", f"{domain}.{field}", field):
        if key in SLOT_OF:
            return SLOT_OF[key]
    if field == "Name":
        return f"{domain}_name"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field).lower()


# ---------------------------------------------------------------- the knowledge base

def facts(item: Mapping[str, Any]) -> dict[str, str]:
    """An item of the knowledge base as slots."""
    found = {}
    for key, value in item.items():
        if key == "APIName" or value in (None, ""):
            continue
        steps = re.fullmatch(r"(Detailed)?\w+Instructions", key)
        if steps:
            # the steps of a way are numbered
            name = STEPS[steps[1] or ""]
            found |= {f"{name}_{i}": step for i, step in enumerate(value, 1)}
        elif key == "NearbyPOIs":
            found["pois"] = " and ".join(f"a {place}" for place in value)
        else:
            found[slot_name(item["APIName"], key)] = _worded(key, value, item)
    return found


def _worded(key: str, value: Any, item: Mapping[str, Any]) -> str:
    """A value as the templates need it."""
    if key == "HasBalcony":
        if value:
            return f"has a {item.get('BalconySide')} facing balcony"
        return "does not have a balcony"
    if key == "HasElevator":
        return "has an elevator" if value else "does not have an elevator"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def asked(api: str, constraints: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], list[str]]:
    """A query as (exact values by slot, names of all that was given).

    >>> name = {"Name": 'api.is_equal_to("Hyatt")'}
    >>> rating = {"AverageRating": "api.is_at_least(4)"}
    >>> asked("hotel_book", [name, rating, {"RequestType": '"Check"'}])
    ({'hotel_name': 'Hyatt'}, ['average_rating', 'hotel_name'])
    """
    values = {}
    known = set()
    for name, value in _pairs(constraints):
        if name == "RequestType" or value in (None, "null"):
            continue
        slot = slot_name(api, name)
        known.add(slot)
        word = _exact(str(value))
        if word:
            values[slot] = word
    return values, sorted(known)


def _pairs(constraints: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for constraint in constraints:
        pairs += constraint.items()
    return pairs


def _exact(value: str) -> str:
    """The value that a constraint names; "" if it names none, or several."""
    match = EXACT.fullmatch(value)
    if match is None:
        return ""
    return (match[1] or match[2] or "").strip()


def outcome(item: Mapping[str, Any] | None) -> str:
    """How a query ended: success, failure, or nothing: no item came back."""
    if item is None:
        return "nothing"
    for key, value in item.items():
        says = "Message" in key or "Status" in key
        if says and isinstance(value, str) and FAILED.search(value):
            return "failure"
    return "success"


class Screen:
    """What the wizard sees: it takes events in order and knows nothing of later ones."""

    def __init__(self, task: str | None):
        self.task = task
        # the task at the last reply
        self.before = task
        self.item: Mapping[str, Any] | None = None
        self.values: dict[str, str] = {}
        self.known: list[str] = []
        self.kind = "query"
        self.query = ""

    def see(self, event: Mapping[str, Any]) -> None:
        """One event that is no utterance.

        A draft (`request_suggestions`) shows the item in view; its text belongs to the reply.
        """
        action = event["Action"]
        if action == "select_task":
            self.task = event["Task"]
        elif action == "query":
            self.values, self.known = asked(event["APIName"], event["Constraints"])
            self.kind = _kind(event["Constraints"])
        elif action == "return_item":
            self.item = event.get("Item")
            self.query = f"{self.kind} {outcome(self.item)}"
        elif action == "request_suggestions":
            self.item = event.get("PrimaryItem")

    def context(self) -> dict[str, str]:
        """B_t."""
        notes = {"_task": self.task, "_query": self.query, "_known": " ".join(self.known)}
        present = {name: text for name, text in notes.items() if text}
        return present | self.values | facts(self.item or {"APIName": ""})

    def intent(self) -> str | None:
        """u_t.  Selecting the same task again, or another and back, only clears a form."""
        return self.task if self.task != self.before else None

    def replied(self) -> None:
        self.before = self.task
        self.query = ""


def _kind(constraints: Sequence[Mapping[str, str]]) -> str:
    """What a query was for: check, book, or else query."""
    kind = "query"
    for name, value in _pairs(constraints):
        if name == "RequestType":
            kind = value.strip('"').lower()
    return kind if kind in ("check", "book") else "query"


# ---------------------------------------------------------------- the reply

def with_slots(text: str, B: Mapping[str, str], needs: Sequence[str] = ()) -> str:
    """A reply with slots of B_t for whole words.

    needs  the slots of the action's template: these count in any length, the short ones once each

    >>> B = {"city": "Chicago", "temperature": "6", "weather": "Sunny"}
    >>> with_slots("It will be Sunny in Chicago, with 6 degrees.", B, ("weather", "temperature"))
    'It will be {weather} in {city}, with {temperature} degrees.'
    """
    slots_of = _slots_of_values(text.lower(), B, needs)
    # data.delexicalise does this for any script, at 1 ms a value: 40 s for this English corpus
    longest_first = sorted(slots_of, key=len, reverse=True)
    values = "|".join(re.escape(value) for value in longest_first)
    if not values:
        return text

    def slot(match: re.Match) -> str:
        names = slots_of[match[0].lower()]
        if not names:
            return match[0]
        # Of several slots with one value each counts once, and so does a short value.
        if len(names) > 1 or len(match[0]) < 3:
            return "{" + names.pop(0) + "}"
        return "{" + names[0] + "}"

    return re.sub(rf"(?<!\w)(?:{values})(?!\w)", slot, text, flags=re.IGNORECASE)


def _slots_of_values(
    text: str, B: Mapping[str, str], needs: Sequence[str]
) -> dict[str, list[str]]:
    """Value in lower case -> its slots, those of the template first."""
    kinds = {slot: base(slot) for slot, value in B.items() if value.lower() in text}

    def place(slot: str) -> int:
        kind = kinds[slot]
        return needs.index(kind) if kind in needs else len(needs)

    found: dict[str, list[str]] = {}
    for slot in sorted(kinds, key=place):
        kind = kinds[slot]
        value = B[slot]
        if kind in needs or (kind in LITERAL and len(value) > 2):
            found.setdefault(value.lower(), []).append(slot)
    return found


# ---------------------------------------------------------------- the dialogue

class Exchanges:
    """Collects messages into turns: what the customer wrote, then the reply.

    B_t and u_t are taken just before the reply's first message.  Several messages in a row are one
    reply (the corpus has no such case).
    """

    def __init__(self, screen: Screen, needs: Mapping[str, Sequence[str]]):
        self.screen = screen
        self.needs = needs
        self.turns: list[Turn] = []
        self.heard: list[str] = []
        self.replies: list[Mapping[str, Any]] = []
        self.B: dict[str, str] = {}
        self.intent: str | None = None

    def hear(self, event: Mapping[str, Any]) -> None:
        self.close()
        self.heard.append(_one_line(event["Text"]))

    def answer(self, event: Mapping[str, Any]) -> None:
        if not self.replies:
            self.B = self.screen.context()
            self.intent = self.screen.intent()
            self.screen.replied()
        self.replies.append(event)

    def close(self) -> None:
        """Ends a turn; without a reply there is none to end."""
        if not self.replies:
            return
        texts = [self._text(event) for event in self.replies]
        user = " ".join(self.heard)
        self.turns.append(Turn(user, self.intent, None, self.B, self._skills(), " ".join(texts)))
        self.heard = []
        self.replies = []

    def _skills(self) -> tuple[str, ...] | None:
        labels = [event.get("ActionLabel") for event in self.replies]
        if any(label in UNLABELLED for label in labels):
            return None
        return tuple(dict.fromkeys(labels))[:MAX_SKILLS]

    def _text(self, event: Mapping[str, Any]) -> str:
        needs = self.needs.get(event.get("ActionLabel"), ())
        return with_slots(_one_line(event["Text"]), self.B, needs)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def dialogue(raw: Mapping[str, Any], needs: Mapping[str, Sequence[str]]) -> Dialogue:
    """One file of the corpus.  A customer's last words without a reply are no turn.

    needs  action -> the slots of its template
    """
    capabilities = raw["Scenario"]["WizardCapabilities"]
    offered = sorted({capability["Task"] for capability in capabilities})
    only_task = offered[0] if len(offered) == 1 else None
    screen = Screen(only_task)
    exchanges = Exchanges(screen, needs)
    for event in raw["Events"]:
        who = event["Agent"]
        action = event["Action"]
        if who == "User" and action == "utter":
            exchanges.hear(event)
        elif who == "Wizard" and action in ("utter", "pick_suggestion"):
            exchanges.answer(event)
        else:
            screen.see(event)
    exchanges.close()
    return Dialogue(str(raw["DialogueID"]), tuple(exchanges.turns), goal(raw, offered), "star")


def goal(raw: Mapping[str, Any], offered: Sequence[str]) -> dict[str, Any]:
    """What is known of the whole dialogue: scenario, tasks, and what both sides said afterwards.

    offered  the tasks that the wizard could choose from
    """
    answers = {}
    for side in ("UserQuestionnaire", "WizardQuestionnaire"):
        answers |= {entry["Question"]: entry["Answer"] for entry in raw[side]}
    annoyed = None
    for question, answer in answers.items():
        if "aggressive or annoyed" in question:
            annoyed = answer
            break
    return {
        "tasks": _tasks(raw["Events"], offered),
        "offered": list(offered),
        "happy": raw["Scenario"]["Happy"],
        "user_task": raw["Scenario"]["UserTask"],
        "annoyed": annoyed,
        "answers": answers,
    }


def _tasks(events: Sequence[Mapping[str, Any]], offered: Sequence[str]) -> list[str]:
    """The tasks that the dialogue was about."""
    tasks = set(offered) if len(offered) == 1 else set()
    for event in events:
        if event["Action"] == "select_task":
            tasks.add(event["Task"])
        elif event["Action"] == "query":
            tasks.add(event["APIName"])
    return sorted(tasks)
