"""What all other files share: skills, turns, dialogues, datasets, the environment of a dialogue.

The symbols of the paper (Sec. 3.2) and the fields that carry them: U_t `user`, u_t `intent`,
e_t `emotion`, B_t `context`, T (the teacher's sequence) `skills`, the human reply `reply`.
Nothing here learns, and nothing here knows the content of a dataset: `load("mgshop")` imports
shop/mgshop.py by its name in `DATASETS`, and `load("logs.jsonl")` reads your own logs; your own
shops and functions are named in the same way.

A slot is a name in braces, `{price_1}`.  Replies are written with slots, which are filled from B_t
when the customer is shown the reply.  B_t may hold several candidates (`product_1`, `product_2`,
...); `fit_2 = "no"` says that candidate 2 contradicts what the customer has said before.
Everything that chooses or judges a candidate follows this one convention.  `fit_<number>`, and
names that begin with an underscore, are for agents to read and never for a reply to say
(`sayable`).  What is done with slots and their values stands in text.py."""
from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

# Found here by all others.
from text import DECISIONS, SLOT, base, best_candidate, delexicalise, fill, fit_of, sayable, slots

# Sec. 3.3: predicted and teacher sequences are capped at 5.
MAX_SKILLS = 5
# The skill that costs money; it is d_t of InteractCS-RL, in shops that have it.
DECISION = "issue_voucher"
# name -> module:function, (data_dir) -> Dataset
DATASETS = {
    "mgshop": "shop.mgshop:load",
    "tmallbrand-a": "shop.mgshop:load_tmallbrand_a",
    "tmallbrand-b": "shop.mgshop:load_tmallbrand_b",
    "fds": "shop.fds:load",
    "sale": "shop.sale:load",
    "multiwoz": "corpora.multiwoz:load",
    "star": "corpora.star:load",
}


def opt(default: Any, help: str) -> Any:
    """A field of a config dataclass: one field = one flag = one help line."""
    return field(default=default, metadata={"help": help})


class DataError(ValueError):
    """Bad input: the message names the file, the line and the field, and says what to do."""


@dataclass(frozen=True)
class Skill:
    """One entry of the skill pool P_skill (GAP-9: the paper does not publish its own)."""
    id: str
    description: str = ""
    examples: tuple[str, ...] = ()               # how a good reply words it, with slots
    must_say: tuple[str, ...] = ()               # disclaimers that the reply has to carry
    must_not_say: tuple[str, ...] = ()           # promises that the reply may not make
    needs: tuple[str, ...] = ()                  # slots of B_t it states, unnumbered: "price"
    otherwise: tuple[str, ...] = ()              # must be said instead where B_t has none of these
    task: int | None = None                      # of Eq. 11: 1 matching, 2 information, 3 guidance


@dataclass(frozen=True)
class Turn:
    """One exchange.  Any field but `user` may be None or empty in real logs."""
    user: str
    intent: str | None = None
    emotion: str | None = None
    context: dict[str, str] = field(default_factory=dict)
    # None: nobody labelled this turn; (): labelled, and no skill was used
    skills: tuple[str, ...] | None = None
    reply: str | None = None


@dataclass(frozen=True)
class Dialogue:
    id: str
    turns: tuple[Turn, ...]
    goal: dict[str, Any] | None = None
    source: str = ""


@dataclass(frozen=True)
class Labels:
    """What is known about a message.  It teaches and scores the agents, who never see it."""
    intent: str | None = None                    # u_t
    emotion: str | None = None                   # e_t
    # T; None: nobody labelled this turn; (): labelled, and no skill is needed
    teacher: tuple[str, ...] | None = None
    reference: str | None = None                 # the reply that a person, or the teacher, gave


@dataclass(frozen=True)
class Outcome:
    """How a dialogue stands; after its last turn, how it ended."""
    success: bool = False                        # everything the customer wanted was done
    # N_1..N_3 of Eq. 11
    completed: tuple[int | None, int | None, int | None] = (None, None, None)
    mood: float | None = None                    # in [0, 1], of a simulated customer
    vouchers: int | None = None                  # issued so far
    cost: float | None = None                    # money spent so far
    satisfaction: int | None = None              # the customer's mark, 1..5; None until the end
    valid: bool = True                           # no format error: no voucher was issued twice


@dataclass
class Observation:
    """What an environment shows before turn t.

    Agents see `user`, `context` and `history`; the rest is for training and for scores.
    """
    user: str
    context: dict[str, str]
    # The dialogue ended by itself: everything was done, or the customer left.
    terminated: bool = False
    # The horizon cut it: the value of the last state still counts.
    truncated: bool = False
    # On logs, what was said before according to the log; None: what was really said.
    history: tuple[tuple[str, str], ...] | None = None
    labels: Labels = Labels()                    # of this message
    outcome: Outcome = Outcome()                 # of the dialogue so far
    # skills that may not be chosen this turn: what may be done once, and was
    banned: tuple[str, ...] = ()


class ExpertState(NamedTuple):
    """s^E_t before perception."""
    user: str                                    # U_t, from which u_t and e_t are perceived
    history: tuple[tuple[str, str], ...] = ()    # H_t: (customer, agent) texts, oldest first
    previous: tuple[str, ...] = ()               # a^E_{t-1}
    true_perception: tuple[str | None, str | None] = (None, None)    # u_t, e_t; None: perceived
    banned: tuple[str, ...] = ()                 # skills that may not be chosen now


@dataclass
class Request:
    """s^A_t = (U_t, a^E_t, B_t).

    A single agent, without an Expert, reads H_t, u_t and e_t instead of skills.
    """
    user: str
    skills: tuple[str, ...] = ()
    context: dict[str, str] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()
    intent: str | None = None
    emotion: str | None = None
    where: str = field(default="", compare=False)    # file, dialogue and turn, for messages
    # d_t: what may be decided before the words, of DECISIONS; (): nothing is
    decisions: tuple[str, ...] = ()
    # acts that the customer may not hear, besides what the decision rules out
    unheard: tuple[str, ...] = ()


@dataclass
class Prepared:
    """A request made ready by the agent that answers it: once a turn, and kept for the update."""
    request: Request
    ids: list[int] | None = None                 # the prompt; None where no model of ours reads it
    # lm.constraints.Rules: the constraints, compiled for decoding
    rules: Any = None
    # lm.constraints.Constraints: what the skills compile to
    constraints: Any = None


@dataclass
class Reply:
    """a^A_t.  `text` has slots; the other fields are a language model's, empty for a phrase book.

    `ids` stand in the order in which they arose: the drawn tokens, with the end token as the last,
    then what the guard inserted (mask False).  So the end token keeps the log-probability with
    which it was drawn.  `text` stands in reading order: the insertions come before the end.
    """
    text: str
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    # of the drawn tokens, after masking and temperature
    logp: list[float] = field(default_factory=list)
    # for each drawn token, what could not be drawn, apart from the static bans
    bans: list[Any] = field(default_factory=list)
    # must_say that clashed with another constraint
    dropped: tuple[str, ...] = ()
    # d_t, of DECISIONS; None where none was asked for, or none was said
    decision: str | None = None
    # the reply with its decision, which only environments read; None where none was asked for
    tagged: str | None = None


@dataclass(frozen=True)
class Judged:
    """What a judge sees of one reply."""
    user: str
    context: dict[str, str]
    skills: tuple[Skill, ...]                    # what the reply was asked to do, in order
    reply: str                                   # with slots
    previous: tuple[str, ...] = ()               # the agent's earlier replies in this dialogue
    reference: str | None = None                 # the human reply, in logs
    history: tuple[tuple[str, str], ...] = ()    # H_t: (customer, agent) of the turns before
    where: str = field(default="", compare=False)    # file, dialogue and turn, for messages


class Facts(NamedTuple):
    """What a dataset can check about a reply; None: cannot be checked.

    Numbers stand as they are to be said, "40.00"; 40 is the same number.
    """
    # values that answer the customer, in any order
    needed: tuple[str, ...] | None = None
    # numbers that may be said: the profile's, the customer's own, and what follows by rule
    allowed: frozenset[str] | None = None
    # what the customer asked for, each as alternative words
    topics: tuple[tuple[str, ...], ...] | None = None


Scores = tuple[float, float, float, float]       # S_1..S_4, each in [0, 1]
Form = tuple[float, float, float]                # what a judge answers to a form of three questions


@dataclass
class Step:
    """One played turn, which grows on its way: perceive -> choose -> speak -> judge -> score.

    A logged turn is a Turn.
    """
    seen: Observation                            # U_t and B_t, and what is known about them
    state: ExpertState                           # s^E_t
    perceived: tuple[str | None, str | None]     # u_t, e_t as the agents see them
    skills: tuple[str, ...]                      # a^E_t
    prepared: Prepared                           # s^A_t
    replies: list[Reply]                         # the group; the customer hears replies[0]
    judged: Judged                               # what the judge saw of replies[0]
    scores: list[Scores | None]                  # S_1..S_4 of each reply; None: could not be scored
    esndcg: float | None = None                  # Eq. 5; None where nobody labelled the turn
    # what each pick, and the stop, added to R^E_t
    gains: list[float] = field(default_factory=list)
    R_E: float | None = None                     # Eq. 6; None where nobody labelled the turn
    # Eq. 8, of each reply; None: could not be scored
    R_A: list[float | None] = field(default_factory=list)
    R_t: float = 0.0                             # Eq. 10
    gre: Form | None = None                      # filled in by a judge at evaluation
    g_eval: Form | None = None

    @property
    def reply(self) -> str:
        """What the customer hears, with slots."""
        return self.replies[0].text

    @property
    def sent(self) -> str:
        """What the environment is given: what the customer hears, and the decision if there is one.
        """
        tagged = self.replies[0].tagged
        return self.reply if tagged is None else tagged

    @property
    def teacher(self) -> tuple[str, ...] | None:
        return self.seen.labels.teacher

    @property
    def R_A_mean(self) -> float | None:
        """The Expert's R^A_t: the mean of the group; None if no reply was scored."""
        scored = [r for r in self.R_A if r is not None]
        if len(scored) == 1:
            # a phrase book gives one reply a turn, and numpy is slow on one number
            return scored[0]
        return float(np.mean(scored)) if scored else None


@dataclass
class Episode:
    """One dialogue while it is played."""
    number: int                                  # of the customer or of the log; -1: of neither
    env: Environment
    seen: Observation
    steps: list[Step] = field(default_factory=list)
    # a^E_{t-1} before the first step, if it is known
    previous: tuple[str, ...] = ()
    # turns, from 0, whose skills were not the policy's own (policies.with_slips)
    slips: set[int] = field(default_factory=set)
    # skills that may not be chosen in any turn of this dialogue, whatever its customer allows
    withheld: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        return self.seen.terminated or self.seen.truncated

    @property
    def banned(self) -> tuple[str, ...]:
        """Skills that may not be chosen in the next turn."""
        return self.seen.banned + self.withheld

    @property
    def replies(self) -> list[str]:
        """What the agent has said until now, with slots."""
        return [step.reply for step in self.steps]

    def state(self) -> ExpertState:
        """s^E_t before the next turn.  Logs dictate H_t; a_{t-1} is always the policy's own."""
        said = self.seen.history
        if said is None:
            said = tuple((step.state.user, step.reply) for step in self.steps)
        previous = self.steps[-1].skills if self.steps else self.previous
        return ExpertState(self.seen.user, said, previous, banned=self.banned)


class Environment(Protocol):
    """One dialogue: `reset()`, then `step(reply)` until it is terminated or truncated."""
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
    # (split, customer, seed) -> a simulated dialogue; None: the logs are replayed
    environment: Callable[..., Environment] | None = None
    # the same customers with a second, separately written ear
    cross_check: Callable[..., Environment] | None = None
    # B_t from what a customer has said, for a live talk
    context: Callable[[list[str]], dict[str, str]] | None = None
    # T of Eq. 1 and Eq. 10: a constant of the dataset
    horizon: int = 12
    history: int = 3                             # turns back that an Expert should see
    # the shop's global SOP: never said, whatever the skills
    must_not_say: tuple[str, ...] = ()
    # (skills, context, rng) -> a reply from the phrase book, if the dataset has one
    template: Callable[..., str] | None = None
    # printed at the start: what this data is and is not
    note: str = ""
    # what can be checked about a reply, if anything can (MORE)
    facts: Callable[[Judged], Facts] | None = None
    # (words with slots, B_t) -> the acts of offering and issuing a voucher that a customer hears
    offers: Callable[[str, dict[str, str]], set[str]] | None = None
    # (split, rng) -> one reasoning task about a profile, if the dataset has profiles (MORE)
    tasks: Callable[..., Any] | None = None
    # a hash of what a dataset of your own is made of: what was trained on another is refused
    made_of: str = ""

    def play(self, split: str, number: int, seed: int = 0) -> Environment:
        """Dialogue `number` of a split: a simulated customer, or a logged dialogue replayed."""
        if self.environment is not None:
            return self.environment(split, number, seed)
        dialogues = getattr(self, split)
        return Replay(dialogues[number % len(dialogues)])


class Replay:
    """A logged dialogue as an environment.

    The next turn of the customer is the logged one, whatever was replied (GAP-4).
    """

    def __init__(self, dialogue: Dialogue):
        self.dialogue = dialogue
        self.turn = 0

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
        labels = Labels(turn.intent, turn.emotion, turn.skills, turn.reply)
        return Observation(turn.user, turn.context, history=logged, labels=labels)


class Message:
    """A customer's message as an environment of one turn, for `respond`: nobody here answers it."""

    def __init__(self, seen: Observation):
        self.seen = seen

    def reset(self) -> Observation:
        return self.seen

    def step(self, reply: str) -> Observation:
        return Observation("", {}, terminated=True)


def answered(environments: Sequence[Environment], replies: Sequence[str]) -> list[Observation]:
    """What each environment answers; customers that can be asked at once (`together`) are."""
    together = getattr(environments[0], "together", None)
    if together:
        return together(environments, replies)
    return [env.step(reply) for env, reply in zip(environments, replies)]


def begin(start: Callable, split: str, numbers: Sequence[int], seed: int) -> list[Episode]:
    """Dialogues before their first turn; `start(split, number, seed)` makes an environment."""
    episodes = []
    for number in numbers:
        env = start(split, number, seed)
        episodes.append(Episode(number, env, env.reset()))
    return episodes


# --- datasets by name -----------------------------------------------------------------------------

def is_logs(dataset: str) -> bool:
    return dataset.endswith(".jsonl")


def is_shop(dataset: str) -> bool:
    """Whether a dataset is named by the book of a shop of one's own."""
    return dataset.endswith(".json")


def is_function(dataset: str) -> bool:
    """Whether a dataset is named by the function that makes it.

    >>> is_function("my.shops:make"), is_function("mgshop"), is_function("C:/logs.jsonl")
    (True, False, False)
    """
    return re.fullmatch(r"\w+(?:\.\w+)*:\w+", dataset) is not None


# whether a name is of such a kind, and module and function that load it
OWN_KINDS = (
    (is_logs, "corpora.jsonl", "load_logs"),
    (is_shop, "shop.mgshop", "load_file"),
    (is_function, "corpora.function", "load_function"),
)


def load(
    name: str,
    data_dir: str | Path = "data",
    conduct: bool = False,
    split: str | None = None,
    difficulty: str | None = None,
    warm_generosity: float | None = None,
    sale_rates: str | None = None,
    woz_slots: str | None = None,
) -> Dataset:
    """A dataset by name, a key of `DATASETS`, or of your own, one of `OWN_KINDS`.

    conduct, woz_slots  multiwoz: with EmoWOZ's labels (non-commercial); "known" or "every" slot
    split    star: "dialogue", or "task" with tasks in test that training never saw
    difficulty  fds: "hard" or "easy", the mix of customers
    warm_generosity  fds: share of the customers to whom the teacher of the logs gives a voucher
    sale_rates  sale: "clean" or "paper", the yearly rates of its profiles
    """
    options = _options(
        name, conduct=conduct or None, split=split, difficulty=difficulty,
        generosity=warm_generosity, rates=sale_rates, slots=woz_slots)
    for is_such, module, function in OWN_KINDS:
        if is_such(name):
            return getattr(importlib.import_module(module), function)(name)
    if name not in DATASETS:
        raise DataError(
            f"--dataset {name}: unknown; use one of {', '.join(DATASETS)}, the path of your own "
            "logs (.jsonl) or of your own shop (.json), or a function, package.module:function")
    module, function = DATASETS[name].split(":")
    make = getattr(importlib.import_module(module), function)
    return make(Path(data_dir), **options)


# option -> the dataset that has it, and what is said to any other
OPTIONS = {
    "conduct": ("multiwoz", "--conduct adds EmoWOZ's labels to multiwoz; {} has none"),
    "split": ("star", "--split chooses how star is split; {} has one split"),
    "difficulty": ("fds", "--difficulty chooses the customers of fds; {} has one mix"),
    "generosity": (
        "fds", "--warm_generosity is of the planner who wrote the logs of fds; {} has none"),
    "rates": ("sale", "--sale_rates chooses the rates of sale; {} has none"),
    "slots": ("multiwoz", "--woz_slots chooses the slots of multiwoz; {} has none"),
}


def _options(name: str, **given: Any) -> dict[str, Any]:
    """The options that were given; DataError if the dataset does not have one of them."""
    chosen = {option: value for option, value in given.items() if value is not None}
    for option in chosen:
        owner, refusal = OPTIONS[option]
        if name != owner:
            raise DataError(refusal.format(name))
    return chosen


def load_used(config: dict[str, Any], data_dir: str | Path | None = None) -> Dataset:
    """The dataset that a run was made with: `config` is "run" of its config.json."""
    names = ("conduct", "split", "difficulty", "warm_generosity", "sale_rates", "woz_slots")
    given = {name: config.get(name) for name in names}
    return load(config["dataset"], data_dir or config["data_dir"], **given)
