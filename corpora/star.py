"""STAR (Mosig et al. 2020) as replayed logs: people served by people who had a flow chart, an SOP, for each of 24 tasks (Sec. 4, GAP-9).

U_t  `user`     what the customer wrote since the last reply.
u_t  `intent`   the task that the wizard switched to on hearing it, as `bank_balance`; None wherever he switched to none, and in all
                dialogues with one task: nobody labelled intents, and this is the only reading of a customer that was recorded.
e_t  `emotion`  None.  One question after the dialogue asks whether the customer became annoyed; it is no label of a turn: `goal`.
T    `skills`   the action the wizard picked: one a turn, of 164 labels; None where he wrote freely (nobody said which action that was).
B_t  `context`  what the wizard had on his screen before he replied: the item of the knowledge base, and what he had asked it
                last (exact values as slots; `_known` names all).  To read, not to say: `_task`, and `_query`, present only if he asked in this
                very turn: "check", "book" or "query", then "success", "failure" or "nothing".  Asking is part of B_t, no skill.
reply           with slots of B_t for what the action's template fills in, and for names, times and messages anywhere.
Rules: the SOPs order actions, they prescribe no wording.  `must_say` is empty.  `must_not_say` (sop.py): a claim of success belongs
to its own action; actions before the query it depends on, and those on its other branches, may not make it.  `needs`: the slots of
the action's template, which B_t lacks until the knowledge base has returned them: that is the SOP's order as a hard constraint.
Tasks of Eq. 11 (ours, GAP-9): the table TASKS.
Splits: `dialogue`, about 80/10/10 by hash; `task`, zero-shot: test and dev are of domains that train never saw.
Parsed once, then a cache beside the archives, or in GOPO_CACHE (~/.cache/gopo) where that folder cannot be written.

Try it:    GOPO_DATA=data python star.py        a dialogue, the SOP of one task, how often each skill is used;  --download fetches the files
Exercise:  teach `reaction` of sop.py the words of a customer who gives his name, and see how much of the SOP graph's error was that."""
from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import re
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import data
from corpora import jsonl
from corpora.download import digest, fetch
from corpora.jsonl import examples, horizon
from corpora.sop import BRANCHES, RENAMED, prohibitions
from data import DataError, Dataset, Dialogue, Skill, Turn, base

COMMIT = "3058975092cdd09798e4a3a9e4ae135755824545"
URL = f"https://github.com/RasaHQ/STAR/archive/{COMMIT}.zip"
ZIP = f"STAR-{COMMIT}.zip"
ARCHIVES = {"star_dialogues.tar.xz": "47c6467636c07e87be4327e743845caeaa62f2acd08ff8ff9e928e07e59eeb5d",
            "star_tasks_apis.tar.xz": "6a07622732e43390e6d636778fcd139c9f0a33327597f04600fb9d33ead31c8e"}
TREES = {"dialogues": "aacca27fd98a95d6b8af067742287df771116876",    # git's own hash of the folder at COMMIT
         "tasks": "8a87e9804eaf0b842af4a7054bdad21caa034fc5"}        # the same of its .json files alone: the archives may lack the drawings
CACHE = "star-cache.json.gz"
SEED = 0                                         # of the split by task
UNLABELLED = (None, "custom")                    # a reply in the wizard's own words

# ---------------------------------------------------------------- tables

TASKS = (                                        # label -> task of Eq. 11; the first line that fits counts
    (None, r"hello|out_of_scope"),
    (3, r"anything_else|goodbye_\d|\w+_bye|trip_instructions_done"),
    (2, r"trivia_ask_question|trivia_inform_answer_\w+|trip_inform_\w*step\w*"),     # exceptions: "ask" in these names asks for no requirement
    (1, r"\w+_inform_(nothing_found|\w*unavailable\w*)|\w+_unavailable|party_(no_)?venue_(not_)?available"),    # nothing matches
    (3, r"\w+_(ask_confirm_booking|flight_available|inform_\w+_available)"),       # offers to book
    (3, r"\w+_ask_(search_more|more_questions|continue_searching)"),               # what next?
    (3, r"\w+_(confirm_\w+|confirmed|successful|succeeded|submitted)"),           # done
    (1, r"(\w+_)?ask_\w+|plane_request_optional|\w+_criteria"),
    (2, r"\w+_(inform|provide)_\w+|\w+_failed"),
)

# where a field of the knowledge base and a template's slot have different names: "domain.Field", or "Field" in all other domains
SLOT_OF = {"hotel.Location": "hotel_location", "hotel.Cost": "price_range", "restaurant.AverageRating": "rating", "restaurant.Food": "food_type",
           "apartment.NearbyPOIs": "pois", "apartment.Level": "floor", "apartment.FloorSquareMeters": "size", "apartment.NumRooms": "num_bedrooms",
           "plane.id": "flight_id", "plane.DurationHours": "duration", "ride.id": "booking_id", "bank.BankBalance": "balance",
           "weather.TemperatureCelsius": "temperature", "party.StartTimeHour": "time", "party.Name": "venue_name", "doctor.StartTimeHour": "time",
           "doctor_followup.Message": "instructions", "StartTimeHour": "start_time", "EndTimeHour": "end_time"}
STEPS = {"Detailed": "detailed_instruction", "": "simple_instruction"}
TEMPLATE_SLOT = {"clazz": "class"}               # a template's slot, where we name it otherwise
LITERAL = {"hotel_name", "restaurant_name", "apartment_name", "venue_name", "doctor_name", "guest_name", "host_name", "customer_name", "patient_name",
           "renter_name", "full_name", "user_name", "driver_name", "license_plate", "car_model", "service_provider", "airline", "bank_name", "city",
           "arrival_city", "departure_city", "arrival_location", "departure_location", "day", "date", "time", "start_time", "end_time", "arrival_time",
           "departure_time", "start_date", "end_date", "balance", "instructions", "simple_instruction", "detailed_instruction", "question",
           "account_number", "ride_status", "ride_wait", "booking_id", "flight_id"}             # safe to replace anywhere; "cheap" or "sunny" is not

FAILED = re.compile(r"unavailable|failed|unable|conflicting|is booked at|too small|cannot authenticate|not authorized", re.I)
EXACT = re.compile(r'\s*(?:api\.is_equal_to\()?\[?\s*(?:"([^"]*)"|(-?\d+(?:\.\d+)?|True|False))\s*\]?\)?\s*')           # no limit, no list of several


# ---------------------------------------------------------------- one dialogue

def slot_name(api: str, field: str) -> str:
    """The slot of a field of the knowledge base.

    >>> slot_name("bank_balance", "BankBalance"), slot_name("hotel_book", "Name"), slot_name("ride_book", "MinutesTillPickup")
    ('balance', 'hotel_name', 'minutes_till_pickup')
    """
    domain = api.split("_")[0]
    for key in (f"{api}.{field}", f"{domain}.{field}", field):
        if key in SLOT_OF:
            return SLOT_OF[key]
    return f"{domain}_name" if field == "Name" else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field).lower()


def facts(item: Mapping[str, Any]) -> dict[str, str]:
    """An item of the knowledge base as slots; steps of a way are numbered, and a flat's extras are worded as the templates need them."""
    api, found = item["APIName"], {}
    for key, value in item.items():
        if key == "APIName" or value in (None, ""):
            continue
        if steps := re.fullmatch(r"(Detailed)?\w+Instructions", key):
            found |= {f"{STEPS[steps[1] or '']}_{i}": step for i, step in enumerate(value, 1)}
        elif key == "HasBalcony":
            found["has_balcony"] = f"has a {item.get('BalconySide')} facing balcony" if value else "does not have a balcony"
        elif key == "HasElevator":
            found["has_elevator"] = "has an elevator" if value else "does not have an elevator"
        elif key == "NearbyPOIs":
            found["pois"] = " and ".join(f"a {p}" for p in value)
        else:
            found[slot_name(api, key)] = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return found


def asked(api: str, constraints: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], list[str]]:
    """A query as (exact values by slot, names of all that was given).

    >>> asked("hotel_book", [{"Name": 'api.is_equal_to("Hyatt")'}, {"AverageRating": "api.is_at_least(4)"}, {"RequestType": '"Check"'}])
    ({'hotel_name': 'Hyatt'}, ['average_rating', 'hotel_name'])
    """
    values, known = {}, set()
    for name, value in ((n, v) for c in constraints for n, v in c.items()):
        if name == "RequestType" or value in (None, "null"):
            continue
        known.add(slot_name(api, name))
        exact = EXACT.fullmatch(str(value))
        if exact and (word := (exact[1] or exact[2] or "").strip()):
            values[slot_name(api, name)] = word
    return values, sorted(known)


class Screen:
    """What the wizard has before him: fed with events in order, it knows nothing of later ones."""

    def __init__(self, task: str | None):
        self.task = self.before = task           # before: at the last reply
        self.item: Mapping[str, Any] | None = None
        self.values: dict[str, str] = {}
        self.known: list[str] = []
        self.kind, self.query = "query", ""

    def see(self, event: Mapping[str, Any]) -> None:
        """One event that is no utterance.  A draft (`request_suggestions`) shows the item in view; its text belongs to the reply."""
        action = event["Action"]
        if action == "select_task":
            self.task = event["Task"]
        elif action == "query":
            self.values, self.known = asked(event["APIName"], event["Constraints"])
            kinds = [v.strip('"').lower() for c in event["Constraints"] for n, v in c.items() if n == "RequestType"]
            self.kind = kinds[-1] if kinds and kinds[-1] in ("check", "book") else "query"
        elif action == "return_item":
            self.item = event.get("Item")
            self.query = f"{self.kind} {outcome(self.item)}"
        elif action == "request_suggestions":
            self.item = event.get("PrimaryItem")

    def context(self) -> dict[str, str]:
        """B_t."""
        notes = {"_task": self.task, "_query": self.query, "_known": " ".join(self.known)}
        return {k: v for k, v in notes.items() if v} | self.values | facts(self.item or {"APIName": ""})

    def intent(self) -> str | None:
        """u_t.  Selecting the same task again, or another and back, only clears a form."""
        return self.task if self.task != self.before else None

    def replied(self) -> None:
        self.before, self.query = self.task, ""


def outcome(item: Mapping[str, Any] | None) -> str:
    """success, failure, or nothing: no item came back."""
    if item is None:
        return "nothing"
    return "failure" if any(FAILED.search(v) for k, v in item.items() if isinstance(v, str) and ("Message" in k or "Status" in k)) else "success"


def with_slots(text: str, B: Mapping[str, str], needs: Sequence[str] = ()) -> str:
    """A reply with slots of B_t for whole words.  `needs`, the slots of the action's template: these count in any length, the short ones once each.

    >>> with_slots("It will be Sunny in Chicago, with 6 degrees.", {"city": "Chicago", "temperature": "6", "weather": "Sunny"}, ("weather", "temperature"))
    'It will be {weather} in {city}, with {temperature} degrees.'
    """
    there = [(k, base(k)) for k, v in B.items() if v.lower() in text.lower()]
    slots_of: dict[str, list[str]] = {}          # value -> its slots, those of the template first
    for slot, kind in sorted(there, key=lambda pair: needs.index(pair[1]) if pair[1] in needs else len(needs)):
        if kind in needs or (kind in LITERAL and len(B[slot]) > 2):
            slots_of.setdefault(B[slot].lower(), []).append(slot)

    def name(match: re.Match) -> str:
        names = slots_of[match[0].lower()]
        if not names:
            return match[0]
        return "{" + (names.pop(0) if len(names) > 1 or len(match[0]) < 3 else names[0]) + "}"
    # data.delexicalise does this for any script, at 1 ms a value: 40 s for this English corpus
    values = "|".join(map(re.escape, sorted(slots_of, key=len, reverse=True)))
    return re.sub(rf"(?<!\w)(?:{values})(?!\w)", name, text, flags=re.IGNORECASE) if values else text


def dialogue(raw: Mapping[str, Any], needs: Mapping[str, Sequence[str]]) -> Dialogue:
    """One file of the corpus.  A turn is what the customer wrote and the reply; B_t is taken just before the reply's first message.

    A customer's last words without a reply are no turn.  Several messages in a row (there are none in the corpus) are one reply."""
    scenario = raw["Scenario"]
    offered = sorted({c["Task"] for c in scenario["WizardCapabilities"]})
    screen, turns = Screen(offered[0] if len(offered) == 1 else None), []
    heard: list[str] = []
    replies: list[Mapping[str, Any]] = []
    B, intent = {}, None

    def close() -> None:
        labels = [r.get("ActionLabel") for r in replies]
        skills = None if any(x in UNLABELLED for x in labels) else tuple(dict.fromkeys(labels))[:data.MAX_SKILLS]
        reply = " ".join(with_slots(" ".join(r["Text"].split()), B, needs.get(r.get("ActionLabel"), ())) for r in replies)
        turns.append(Turn(" ".join(heard), intent, None, B, skills, reply))
        heard.clear(), replies.clear()

    for event in raw["Events"]:
        who, action = event["Agent"], event["Action"]
        if who == "User" and action == "utter":
            if replies:
                close()
            heard.append(" ".join(event["Text"].split()))
        elif who == "Wizard" and action in ("utter", "pick_suggestion"):
            if not replies:
                B, intent = screen.context(), screen.intent()
                screen.replied()
            replies.append(event)
        else:
            screen.see(event)
    if replies:
        close()
    return Dialogue(str(raw["DialogueID"]), tuple(turns), goal(raw, offered), "star")


def goal(raw: Mapping[str, Any], offered: Sequence[str]) -> dict[str, Any]:
    """What is known of the dialogue as a whole: the scenario, which tasks it came to, and what both sides answered afterwards."""
    answers = {q["Question"]: q["Answer"] for side in ("UserQuestionnaire", "WizardQuestionnaire") for q in raw[side]}
    chosen = {e["Task"] for e in raw["Events"] if e["Action"] == "select_task"} | {e["APIName"] for e in raw["Events"] if e["Action"] == "query"}
    return {"tasks": sorted(chosen | set(offered[:1] if len(offered) == 1 else ())), "offered": list(offered), "happy": raw["Scenario"]["Happy"],
            "user_task": raw["Scenario"]["UserTask"], "annoyed": next((a for q, a in answers.items() if "aggressive or annoyed" in q), None),
            "answers": answers}


# ---------------------------------------------------------------- the dataset

@dataclass
class Star(Dataset):
    """A Dataset that brings its SOPs: task -> {node: next node}."""
    sops: dict[str, dict[str, str]] = field(default_factory=dict)


def load(data_dir: Path, split: str = "dialogue") -> Star:
    """The 5,818 complete dialogues that hold any talk, from `data_dir`/star; fetches them if they are not there.

    split   "dialogue": about 80/10/10 by a hash of the id; "task": zero-shot, see `by_domain`"""
    if split not in ("dialogue", "task"):
        raise DataError(f"split {split!r}: STAR is split by dialogue or by task")
    dialogues, tasks = corpus(Path(data_dir) / "star")
    note = ("STAR: real people, logs replayed. No labels of emotion; an intent only where the wizard changed the task; one action a turn, none where"
            " the wizard wrote freely.")
    if split == "dialogue":
        train, dev, test = jsonl.split(dialogues)
    else:
        (train, dev, test), said = by_domain(dialogues)
        note += said
    used = sorted({s for d in dialogues for t in d.turns for s in t.skills or ()})
    intents = tuple(sorted({t.intent for d in train for t in d.turns if t.intent}))
    skills = pool(used, tasks, train)
    return Star("star", skills, intents, (), train, dev, test, horizon=horizon(train), note=note, sops={t: v["graph"] for t, v in tasks.items()})


def pool(labels: Sequence[str], tasks: Mapping[str, Mapping], train: Sequence[Dialogue]) -> dict[str, Skill]:
    """P_skill: every label in use; the templates lead its examples, so a skill that train never saw has some too."""
    banned = prohibitions({t: v["graph"] for t, v in tasks.items()})
    found = {}
    for label in labels:
        texts = templates(label, tasks)
        words = label.replace("_", " ") + (f': "{texts[0]}"' if texts else "")
        shown = tuple(dict.fromkeys([*texts, *examples(label, train)]))[:8]
        found[label] = Skill(label, words, shown, must_not_say=banned.get(label, ()), needs=needs(texts), task=task_of(label))
    return found


def templates(label: str, tasks: Mapping[str, Mapping]) -> tuple[str, ...]:
    """The wordings of a label, task by task, with our slots: `{balance:d}` is `{balance}`."""
    texts = [" ".join(t["replies"][label].split()) for t in tasks.values() if label in t["replies"]]
    return tuple(dict.fromkeys(re.sub(r"\{(\w+):\w\}", lambda m: "{" + TEMPLATE_SLOT.get(m[1], m[1]) + "}", t) for t in texts))


def needs(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for t in texts for s in data.slots(t)))


def task_of(label: str) -> int | None:
    """Task of Eq. 11.

    >>> task_of("bank_ask_pin"), task_of("bank_inform_balance"), task_of("party_booking_successful"), task_of("hello")
    (1, 2, 3, None)
    """
    for task, pattern in TASKS:
        if re.fullmatch(pattern, label):
            return task
    raise DataError(f"star.py: no line of TASKS fits the action {label!r}; add one")


def by_domain(dialogues: Sequence[Dialogue]) -> tuple[tuple[list[Dialogue], ...], str]:
    """(train, dev, test) and what to say of it.  Tasks of one domain share actions, so whole domains move: in the order of a seeded hash
    the first two are test, the next two dev.  A dialogue whose tasks lie on several sides belongs to none."""
    domains = sorted({t.split("_")[0] for d in dialogues for t in d.goal["tasks"]}, key=lambda d: hashlib.sha256(f"{SEED} {d}".encode()).hexdigest())
    side = {d: 2 if i < 2 else 1 if i < 4 else 0 for i, d in enumerate(domains)}
    parts: tuple[list[Dialogue], ...] = ([], [], [])
    for d in dialogues:
        names = {*d.goal["tasks"], *(s for t in d.turns for s in t.skills or ())}        # a wizard may act for a task that he did not select
        sides = {side[prefix] for prefix in (n.split("_")[0] for n in names) if prefix in side}
        if len(sides) == 1:
            parts[sides.pop()].append(d)
    left = len(dialogues) - sum(map(len, parts))
    return parts, f" Split by task: test is {domains[0]} and {domains[1]}, dev {domains[2]} and {domains[3]}; {left} dialogues that mix sides are left out."


# ---------------------------------------------------------------- files

def corpus(folder: Path) -> tuple[list[Dialogue], dict[str, dict]]:
    """(dialogues, task -> {graph, replies}), from the cache if it was made from these very files by this very code."""
    paths = sources(folder)
    key = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in [*paths, Path(__file__), Path(data.__file__)])).hexdigest()
    places = [folder / CACHE, Path(os.environ.get("GOPO_CACHE") or Path.home() / ".cache" / "gopo") / CACHE]
    for place in places:
        if kept := read_cache(place, key):
            return kept
    files = dict(contents(paths))
    if ZIP in (p.name for p in paths):
        verify(files, paths[0])
    tasks = read_tasks(files)
    wanted = {label: needs(templates(label, tasks)) for t in tasks.values() for label in t["replies"]}
    raws = [_json(content, path) for path, content in files.items() if path.startswith("dialogues/")]
    raws.sort(key=lambda raw: raw["DialogueID"])
    dialogues = [d for raw in raws if raw["CompletionLevel"] == "Complete" and (d := dialogue(raw, wanted)).turns]
    for place in places:
        if write_cache(place, key, dialogues, tasks):
            break
    return dialogues, tasks


def sources(folder: Path) -> list[Path]:
    """The two archives, or else GitHub's zip; downloads that if none is there."""
    if all((folder / name).exists() for name in ARCHIVES):
        for name, sha256 in ARCHIVES.items():
            if digest(folder / name) != sha256:
                raise DataError(f"{folder / name}: damaged, its sha256 is not {sha256[:12]}..; remove it and run python star.py --download")
        return [folder / name for name in ARCHIVES]
    return [folder / ZIP] if (folder / ZIP).exists() else download(folder)


def download(folder: Path) -> list[Path]:
    """GitHub's zip of the pinned commit.  GitHub promises no checksum of a zip, so what counts is its content: `verify`."""
    path, there = folder / ZIP, (folder / ZIP).exists()
    fetch(URL, None, path, "STAR")
    try:
        verify(dict(contents([path])), path)
    except DataError:
        if not there:                            # what somebody put there by hand is not ours to remove
            path.unlink()
        raise
    return [path]


def contents(paths: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of dialogues/*.json and tasks/*/*.json in the archives."""
    for path in paths:
        try:
            for name, content in _unpack(path):
                if re.fullmatch(r"dialogues/\d+\.json|tasks/\w+/\w+\.json", name):
                    yield name, content
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove it and run python star.py --download") from None


def _unpack(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.partition("/")[2], archive.read(name)     # without the folder STAR-<commit>
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, archive.extractfile(member).read()


def verify(files: Mapping[str, bytes], path: Path) -> None:
    """Refuses any content but that of COMMIT, whatever archive it came in."""
    for folder, wanted in TREES.items():
        found = git_tree({name.partition("/")[2]: content for name, content in files.items() if name.startswith(folder + "/")})
        if found != wanted:
            raise DataError(f"{path}: its {folder}/ is not that of commit {COMMIT[:12]} (git tree {found[:12]}.., expected {wanted[:12]}..);"
                            " remove it and run python star.py --download")


def git_tree(files: Mapping[str, bytes]) -> str:
    """git's hash of a folder: sha1 over sorted (mode, name, sha1 of each file or folder in it)."""
    inside: dict[str, dict[str, bytes]] = {}
    entries = []
    for name, content in files.items():
        folder, slash, rest = name.partition("/")
        if slash:
            inside.setdefault(folder, {})[rest] = content
        else:
            entries.append((name, "100644", _git_object("blob", content)))
    entries += [(folder + "/", "40000", git_tree(within)) for folder, within in inside.items()]      # git sorts a folder as if it ended in /
    return _git_object("tree", b"".join(f"{mode} {name.rstrip('/')}\0".encode() + bytes.fromhex(sha1) for name, mode, sha1 in sorted(entries)))


def _git_object(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def read_tasks(files: Mapping[str, bytes]) -> dict[str, dict]:
    """task -> {graph, replies}: what the wizards' tool said (responses.json), and of labels that only the drawing names, its wording."""
    found = {}
    for path in sorted(p for p in files if p.endswith("/responses.json")):
        task = path.split("/")[1]
        drawing = _json(files[f"tasks/{task}/{task}.json"], path)
        said = {k: v for k, v in drawing["replies"].items() if k not in BRANCHES and not k.startswith("query")}
        graph = {RENAMED.get(a, a): RENAMED.get(b, b) for a, b in drawing["graph"].items()}
        found[task] = {"graph": graph, "replies": {RENAMED.get(k, k): v for k, v in (said | _json(files[path], path)).items()}}
    return found


def _json(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); remove the archive and run python star.py --download") from None


def read_cache(path: Path, key: str) -> tuple[list[Dialogue], dict[str, dict]] | None:
    """None if there is no cache, or it is damaged, or it was made from other files or by other code."""
    try:
        kept = json.loads(gzip.decompress(path.read_bytes()))
        if kept["key"] != key:
            return None
        dialogues = [Dialogue(id, tuple(Turn(u, i, None, B, None if s is None else tuple(s), r) for u, i, B, s, r in turns), goal, "star")
                     for id, turns, goal in kept["dialogues"]]
        return dialogues, kept["tasks"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        return None


def write_cache(path: Path, key: str, dialogues: Sequence[Dialogue], tasks: Mapping[str, Any]) -> bool:
    """Whole or not at all; False where the folder cannot be written."""
    rows = [(d.id, [(t.user, t.intent, t.context, t.skills, t.reply) for t in d.turns], d.goal) for d in dialogues]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.stat().st_mode & 0o222:                   # marked read-only: root could write there, and should not
            return False
        part.write_bytes(gzip.compress(json.dumps({"key": key, "dialogues": rows, "tasks": tasks}).encode(), 3))
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="One STAR dialogue as GOPO sees it, the SOP of a task, how often each skill is used.", allow_abbrev=False)
    parser.add_argument("--data_dir", type=Path, default=Path(os.environ.get("GOPO_DATA", "data")), help="folder that holds star/")
    parser.add_argument("--split", default="dialogue", choices=("dialogue", "task"), help="by dialogue, or by task (zero-shot)")
    parser.add_argument("--number", type=int, default=0, help="which training dialogue to print")
    parser.add_argument("--task", default="bank_balance", help="whose SOP to print (default bank_balance)")
    parser.add_argument("--download", action="store_true", help="fetch GitHub's zip first")
    args = parser.parse_args()
    if args.download:
        download(args.data_dir / "star")
    star = load(args.data_dir, args.split)
    if not 0 <= args.number < len(star.train):
        raise DataError(f"--number {args.number}: there are training dialogues 0 to {len(star.train) - 1}")
    print(f"{star.note}\n{len(star.train)} train, {len(star.dev)} dev, {len(star.test)} test dialogues; {len(star.skills)} skills; horizon {star.horizon}\n")
    for t, turn in enumerate(star.train[args.number].turns, 1):
        print(f"{t}  U_t   {turn.user}\n   u_t   {turn.intent}\n   B_t   {turn.context}\n   T     {turn.skills}\n   reply {turn.reply}\n")
    if args.task not in star.sops:
        raise DataError(f"--task {args.task}: STAR has {', '.join(star.sops)}")
    print(f"SOP of {args.task}")
    for node, after in star.sops[args.task].items():
        print(f"  {node:32} -> {after}")
    count = Counter(s for d in star.train for t in d.turns for s in t.skills or ())
    print(f"\n{'skill':46} used  task  needs")
    for skill, n in count.most_common():
        print(f"{skill:46} {n:4}  {star.skills[skill].task or '-'}     {' '.join(star.skills[skill].needs)}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        print(f"star.py: {error}", file=sys.stderr)
        sys.exit(2)
