"""The data every other file speaks: skills, turns, dialogues, datasets, and the environment a dialogue is played in.

Symbols of the paper (Sec. 3.2) and the field that carries each: U_t `user`, u_t `intent`, e_t `emotion`, B_t `context`,
T (the teacher's sequence) `skills`, the human reply `reply`.  Nothing here learns, and nothing here knows a dataset by its
content: `load("mgshop")` imports mgshop.py by name, `load("logs.jsonl")` reads your own logs.

A slot is a name in braces, `{price_1}`.  Replies are written with slots and filled from B_t when shown to a customer.
Several candidates may stand in B_t (`product_1`, `product_2`, ...); `fit_2 = "no"` says that candidate 2 contradicts what
the customer has said so far.  Everything that chooses or judges a candidate goes by that one convention.  `fit_i`, and names that
begin with an underscore, are for the agents to read and never for a reply to say (`sayable`)."""
from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

MAX_SKILLS = 5                                   # Sec. 3.3: predicted and teacher sequences are capped at 5
DATASETS = {"mgshop": "shop.mgshop:load", "tmallbrand-a": "shop.tmallbrand:load_a", "tmallbrand-b": "shop.tmallbrand:load_b",
            "multiwoz": "corpora.multiwoz:load", "star": "corpora.star:load"}    # name -> module:function, (data_dir) -> Dataset
SLOT = re.compile(r"\{(\w+)\}")
SPACED = re.compile(r"[^\W\u3040-\u9fff]")      # a letter of a script that puts spaces between words
CJK = re.compile(r"[\u3040-\u9fff]")


def opt(default: Any, help: str) -> Any:
    """A field of a config dataclass: one field = one flag = one help line."""
    return field(default=default, metadata={"help": help})


class DataError(ValueError):
    """Bad input of a user: the message names the file, the line and the field, and says what to do."""


@dataclass(frozen=True)
class Skill:
    """One entry of the skill pool P_skill (GAP-9: the paper does not publish its own)."""
    id: str
    description: str = ""
    examples: tuple[str, ...] = ()               # how a good reply words it, with slots
    must_say: tuple[str, ...] = ()               # disclaimers that the reply has to carry
    must_not_say: tuple[str, ...] = ()           # promises that the reply may not make
    needs: tuple[str, ...] = ()                  # slots of B_t it states, without the candidate's number: "price"
    task: int | None = None                      # which task of Eq. 11 it serves: 1 matching, 2 information, 3 guidance


@dataclass(frozen=True)
class Turn:
    """One exchange.  Any field but `user` may be None or empty in real logs."""
    user: str
    intent: str | None = None
    emotion: str | None = None
    context: dict[str, str] = field(default_factory=dict)
    skills: tuple[str, ...] | None = None        # None: nobody labelled this turn; (): labelled, and no skill was used
    reply: str | None = None


@dataclass(frozen=True)
class Dialogue:
    id: str
    turns: tuple[Turn, ...]
    goal: dict[str, Any] | None = None
    source: str = ""


@dataclass(frozen=True)
class Labels:
    """What is known about the customer's message.  Agents learn from it and are scored by it; they never see it."""
    intent: str | None = None                    # u_t
    emotion: str | None = None                   # e_t
    teacher: tuple[str, ...] | None = None       # T; None: nobody labelled this turn, (): labelled, and no skill is needed
    reference: str | None = None                 # the reply that a person, or the teacher, gave


@dataclass(frozen=True)
class Outcome:
    """How a dialogue stands; after its last turn, how it ended."""
    success: bool = False                        # everything the customer wanted was done
    completed: tuple[int | None, int | None, int | None] = (None, None, None)        # N_1..N_3 of Eq. 11
    mood: float | None = None                    # in [0, 1], of a simulated customer
    vouchers: int | None = None                  # issued so far
    cost: float | None = None                    # money spent so far
    satisfaction: float | None = None            # the customer's own mark


@dataclass
class Observation:
    """What an environment shows before turn t.  Agents see `user` and `context`; the rest is for training and scores."""
    user: str
    context: dict[str, str]
    terminated: bool = False                     # the dialogue ended by itself: everything done, or the customer left
    truncated: bool = False                      # the horizon cut it: the value of the last state still counts
    history: tuple[tuple[str, str], ...] | None = None       # logs dictate what was said before; None = what was really said
    labels: Labels = Labels()                    # of this message
    outcome: Outcome = Outcome()                 # of the dialogue so far


@dataclass
class Request:
    """s^A_t = (U_t, a^E_t, B_t).  An agent without an Expert (an ablation) is told H_t, u_t and e_t instead of skills."""
    user: str
    skills: tuple[str, ...] = ()
    context: dict[str, str] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()
    intent: str | None = None
    emotion: str | None = None


@dataclass
class Reply:
    """a^A_t.  `text` has slots; the other fields are a language model's and empty for a phrase book.

    `ids` stand in the order they came about: drawn tokens, the end token last, then what the guard inserted (mask False), so the
    end token keeps the log-probability it was drawn with; `text` reads as it should, insertions before the end."""
    text: str
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)          # of the drawn tokens, under masking and temperature
    bans: list[Any] = field(default_factory=list)            # per drawn token, what could not be drawn beyond the state's static bans
    dropped: tuple[str, ...] = ()                            # must_say that clashed


@dataclass(frozen=True)
class Judged:
    """What a judge sees of one reply."""
    user: str
    context: dict[str, str]
    skills: tuple[Skill, ...]                    # what the reply was asked to do, in order
    reply: str                                   # with slots
    previous: tuple[str, ...] = ()               # the agent's earlier replies in this dialogue
    reference: str | None = None                 # the reply that a person gave, in logs
    history: tuple[tuple[str, str], ...] = ()    # H_t: (customer, agent) of the turns before


Scores = tuple[float, float, float, float]       # S_1..S_4 of Eq. 8, each in [0, 1]


class Environment(Protocol):
    """One dialogue: `reset()`, then `step(reply)` until the observation is terminated or truncated."""
    def reset(self) -> Observation: ...
    def step(self, reply: str) -> Observation: ...


@dataclass
class Dataset:
    name: str
    skills: dict[str, Skill]                     # P_skill in a fixed order
    intents: tuple[str, ...]
    emotions: tuple[str, ...]
    train: list[Dialogue]
    dev: list[Dialogue]
    test: list[Dialogue]
    environment: Callable[..., Environment] | None = None    # (split, customer, seed) -> a simulated dialogue; None = replay the logs
    cross_check: Callable[..., Environment] | None = None    # the same customers with a second, separately written ear
    context: Callable[[list[str]], dict[str, str]] | None = None      # B_t from what a customer has said, for a live talk
    horizon: int = 12                            # T of Eq. 1 and Eq. 10: a constant of the dataset
    must_not_say: tuple[str, ...] = ()           # the shop's global SOP: never said, whatever the skills
    template: Callable[..., str] | None = None   # (skills, context, rng) -> reply by phrase book, if the dataset has one
    note: str = ""                               # said at start-up: what this data is and is not

    def play(self, split: str, number: int, seed: int = 0) -> Environment:
        """Dialogue `number` of a split: a simulated customer, or a logged dialogue replayed."""
        if self.environment is not None:
            return self.environment(split, number, seed)
        dialogues = getattr(self, split)
        return Replay(dialogues[number % len(dialogues)])


class Replay:
    """A logged dialogue as an environment: the next customer turn is the logged one, whatever was replied (GAP-4)."""

    def __init__(self, dialogue: Dialogue):
        self.dialogue, self.turn = dialogue, 0

    def reset(self) -> Observation:
        self.turn = 0
        return self._observe()

    def step(self, reply: str) -> Observation:
        self.turn += 1
        return self._observe()

    def _observe(self) -> Observation:
        if self.turn >= len(self.dialogue.turns):
            return Observation("", {}, terminated=True)
        turn = self.dialogue.turns[self.turn]
        logged = tuple((t.user, t.reply or "") for t in self.dialogue.turns[:self.turn])
        return Observation(turn.user, turn.context, history=logged,
                           labels=Labels(turn.intent, turn.emotion, turn.skills, turn.reply))


def fill(reply: str, context: dict[str, str]) -> str:
    """Puts the values of B_t into a reply's slots; a slot that B_t lacks stays as it is (the validator counts it).

    >>> fill("It costs {price_1}.", {"price_1": "30 euros"})
    'It costs 30 euros.'
    """
    return SLOT.sub(lambda m: context.get(m.group(1), m.group(0)), reply)


def slots(text: str) -> list[str]:
    """Names of the slots in a text, in order, repeats kept."""
    return SLOT.findall(text)


def sayable(slot: str) -> bool:
    """Whether a reply may carry this slot: `fit_i` and names that begin with an underscore are for reading only."""
    return not slot.startswith(("fit_", "_"))


def base(slot: str) -> str:
    """`price_2` -> `price`: a slot without the number of its candidate."""
    return re.sub(r"_\d+$", "", slot)


def best_candidate(context: dict[str, str]) -> str:
    """Number of the first candidate that contradicts nothing said so far; "1" if B_t marks none.

    >>> best_candidate({"fit_1": "no", "fit_2": "yes"})
    '2'
    """
    fits = sorted(k for k, v in context.items() if v == "yes" and k.startswith("fit_"))
    return fits[0][4:] if fits else "1"


def load(name: str, data_dir: str | Path = "data", conduct: bool = False, split: str | None = None) -> Dataset:
    """A dataset by name (`mgshop`, `tmallbrand-a`, `tmallbrand-b`, `multiwoz`, `star`) or by path (`logs.jsonl`).

    conduct  multiwoz: with EmoWOZ's labels (non-commercial)
    split    star: "dialogue" or "task", the latter with tasks in test that training never saw
    """
    if conduct and name != "multiwoz":
        raise DataError(f"--conduct adds EmoWOZ's labels to multiwoz; {name} has none")
    if split and name != "star":
        raise DataError(f"--split chooses how star is split; {name} has one split")
    if name in DATASETS:
        module, function = DATASETS[name].split(":")
        make = getattr(importlib.import_module(module), function)
        return make(Path(data_dir), **({"conduct": True} if conduct else {}), **({"split": split} if split else {}))
    if name.endswith(".jsonl"):
        return importlib.import_module("corpora.jsonl").load_jsonl(Path(name))
    raise DataError(f"--dataset {name}: unknown; use one of {', '.join(DATASETS)}, or the path of your own logs ending in .jsonl")


def load_used(config: dict[str, Any], data_dir: str | Path | None = None) -> Dataset:
    """The dataset that a run was made with: `config` is "run" of its config.json."""
    return load(config["dataset"], data_dir or config["data_dir"], config.get("conduct", False), config.get("split"))



def delexicalise(reply: str, context: dict[str, str], ignore_case: bool = False) -> str:
    """The inverse of `fill`: values of B_t that stand in a reply as whole words become slots, the longest first.

    Values shorter than 3 characters stay (a "2" is too often something else), and so does what stands in a slot already.
    Chinese and Japanese have no spaces, so there a value counts wherever it stands.

    >>> delexicalise("The red mug costs 12.50, shipping 2.", {"price_1": "12.50", "product_1": "red mug", "shipping_1": "2"})
    'The {product_1} costs {price_1}, shipping 2.'
    """
    flat = str.lower if ignore_case else str
    best = "_" + best_candidate(context)         # two candidates with one price: the slot of the one that fits
    pairs = [(v, k) for k, v in context.items() if len(v) >= 3 and flat(v) in flat(reply) and sayable(k)]
    pairs.sort(key=lambda p: (-len(p[0]), not p[1].endswith(best)))
    if not pairs:
        return reply
    slot_of = {flat(v): k for v, k in reversed(pairs)}               # reversed: the first of two equal values wins
    unspaced = CJK.search(reply) is not None                         # looked for first: such a pattern takes long to compile
    pattern = r"\{\w+\}|" + "|".join(_whole(v, unspaced) for v, _ in pairs)      # a slot matches first and is put back as it was
    return re.sub(pattern, lambda m: "{" + slot_of[flat(m[0])] + "}" if flat(m[0]) in slot_of else m[0], reply,
                  flags=re.IGNORECASE if ignore_case else 0)


def _whole(value: str, unspaced: bool) -> str:
    """Pattern of a value that is not part of a longer word; kana and Chinese characters bound no word."""
    before, after = (r"(?:(?<!\w)|(?<=(?-i:[\u3040-\u9fff])))", r"(?:(?!\w)|(?=(?-i:[\u3040-\u9fff])))") if unspaced else (r"(?<!\w)", r"(?!\w)")
    return (before if SPACED.match(value[0]) else "") + re.escape(value) + (after if SPACED.match(value[-1]) else "")
