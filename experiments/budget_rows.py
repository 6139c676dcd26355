"""The rows of the study of a budget: InteractCS-RL's table (arXiv 2602.22697), and ours beside it.

A row is a way to choose skills in the food-delivery store; the phrase book speaks.  `TABLE` holds
the paper's fourteen rows with their figures as printed, and says which of our rows stands beside
each, or why none does.  `ROWS` says how ours are made.  Adding a row is adding a line to ROWS."""
from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from data import Dataset, Episode, ExpertState
from gopo import Gopo
from policies import Choose, Skills, by_chance, keyed
from shop.fds_bounds import BUDGET, highest
from shop.fds_customer import Desk
from shop.fds_planner import plan

Flags = Mapping[str, Any]
NONE: Flags = MappingProxyType({})
# steps of GOPO and of imitation, 128 dialogues each; CMPO's have 64
OTHER_STEPS = 60
FIXED = "cmpo_fixed"


class Row(NamedTuple):
    """A row of ours.

    said    what it is, for the table
    algo    of gopo.ALGORITHMS; "": a planner, or chance, and nothing is learned
    flags   what differs from the defaults of train.py
    steps   of the algorithm; None: those of the study; 0: the warm start alone
    """
    said: str
    algo: str = "cmpo"
    flags: Flags = NONE
    steps: int | None = None


WEAK: dict[str, Any] = {"kl": 0.005, "kl_spares": "nothing"}
NO_AIDS = WEAK | {"control_copies": 0, "decision_anchor": 0.0}
# The order is that in which they are run: what the criteria need comes first.
ROWS = {
    "never": Row("planner: never a voucher", ""),
    "free": Row("planner: a voucher wherever it is worth anything", ""),
    "hidden": Row("planner: the 30 % to whom it is worth most", ""),
    "coin": Row("planner: 30 % by coin", ""),
    "random": Row("random skills", ""),
    "cmpo": Row("CMPO, cost-to-go, positional PID, three aids of ours"),
    "cmpo_lambda0": Row("no price (lambda = 0)", flags={"control": "off"}),
    # lambda0: see `flags_of`
    FIXED: Row("the price at which cmpo rested on hard customers", flags={"control": "fixed"}),
    "cmpo_printed_cost": Row("Eq. 5 as printed", flags={"cost": "printed"}),
    "cmpo_dual": Row("dual ascent with the release's gain", flags={"control": "dual"}),
    "cmpo_printed_pid": Row("Eq. 8 as printed", flags={"control": "printed"}),
    "cmpo_dialogue": Row("one number a dialogue (GRPO's form)", flags={"credit": "dialogue"}),
    "cmpo_no_genrm": Row("no process credit", flags={"genrm": "none"}),
    "cmpo_process_only": Row(
        "process credit alone", flags={"session_weight": 0.0, "control": "off"}),
    "gopo": Row("GOPO", "gopo", steps=OTHER_STEPS),
    "imitation": Row("imitation of the planner, on-policy", "imitation", steps=OTHER_STEPS),
    "sft": Row("the warm start: imitation of logs", "gopo", steps=0),
    "cmpo_clip": Row("lambda = clip(error)", flags={"control": "clip"}),
    "grpo": Row(
        "one number a dialogue, no process credit",
        flags={"credit": "dialogue", "genrm": "none"}),
    "cmpo_weak_pull": Row("the release's weak pull, which spares nothing", flags=WEAK),
    "cmpo_no_aids": Row("without our three aids", flags=NO_AIDS),
    "release": Row(
        "the release: one number a dialogue, dual ascent, no aids",
        flags=NO_AIDS | {"credit": "dialogue", "control": "dual"}),
}
PLANNERS = ("never", "free", "hidden", "coin")


# the row of a hosted model: this, and its name
HOSTED_ROW = "api_"


def hosted(name: str) -> bool:
    return name.startswith(HOSTED_ROW)


def row_name(model: str) -> str:
    """The row of a hosted model, as a file may be called.

    >>> row_name("org/model-7b")
    'api_org_model-7b'
    """
    return HOSTED_ROW + re.sub(r"[^\w.-]", "_", model)


def row_of(name: str) -> Row:
    if hosted(name):
        return Row("hosted model, prompted: it decides, then writes", "")
    return ROWS[name]


def names_of(found: Collection[str]) -> list[str]:
    """Rows in the order of the tables, hosted models last."""
    return [name for name in ROWS if name in found] + sorted(filter(hosted, found))


def trained(name: str) -> bool:
    return bool(row_of(name).algo)


def flags_of(name: str, price: float | None) -> dict[str, Any]:
    """The flags of a row.

    price  of `cmpo_fixed`: where the controller of row cmpo, seed 0, came to rest on hard customers
    """
    flags = dict(row_of(name).flags)
    if hosted(name):
        flags["api"] = name.removeprefix(HOSTED_ROW)
    if name == FIXED:
        flags["lambda0"] = price
    return flags


# --- who chooses, where nothing was learned -------------------------------------------------------

def by_planner(gives: Callable[[Desk], bool]) -> Choose:
    """The planner of the store, who knows the hidden type; `gives`: who gets a voucher."""
    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
        return [tuple(plan(e.env, gives(e.env))) for e in episodes]

    return choose


def planner(name: str, dataset: Dataset, customers: int, split: str = "test") -> Choose:
    """The planner of a row of PLANNERS, for these customers of evaluation seed 0."""
    chosen = [name == "free"] * customers
    if name == "free":
        return by_planner(lambda desk: desk.hidden.value > 0)
    if name == "coin":
        draws = random.Random("coin of the budget study")
        chosen = highest([draws.random() for _ in range(customers)], BUDGET)
    if name == "hidden":
        chosen = highest([_value(dataset, split, n) for n in range(customers)], BUDGET)
    return by_planner(lambda desk: chosen[desk.customer])


def _value(dataset: Dataset, split: str, number: int) -> float:
    """v, what a voucher is worth to a customer, in stars."""
    desk = dataset.environment(split, number, 0)
    desk.reset()
    return desk.hidden.value


def choosers(name: str, gopo: Gopo, customers: int) -> dict[str, Choose]:
    """How a row chooses: most probable skills, and drawn ones, of which a planner has none."""
    if name in PLANNERS:
        return {"greedy": planner(name, gopo.dataset, customers)}
    if hosted(name):
        return {"greedy": gopo.chooser(greedy=True)}
    if name == "random":
        return {"greedy": by_chance(list(gopo.dataset.skills), 0)}
    return {"greedy": gopo.chooser(greedy=True), "sampled": gopo.chooser(keyed(0))}


# --- the paper's table ----------------------------------------------------------------------------

class Printed(NamedTuple):
    """A row of the paper, hard customers unless `easy`; None: not printed.

    S satisfaction 1..5, FR share of valid dialogues in %, Comm 0..28, Logic 0..12, V in %
    """
    S: float | None = None
    FR: float | None = None
    comm: float | None = None
    logic: float | None = None
    V: float | None = None


class Line(NamedTuple):
    """A row of the paper and ours beside it; `without`: why there is none."""
    paper: str
    printed: Printed
    ours: str = ""
    without: str = ""
    easy: Printed = Printed()


HOSTED = "needs a hosted model of this name as agent: --api MODEL"
SIZE = "as 7B: without a language model there is one size"
TABLE = (
    Line("GPT-4.1", Printed(1.91, 83.8, 25.29, 10.59, 70.0), without=HOSTED),
    Line("DeepSeek-v3.2", Printed(1.96, 89.6, 26.67, 10.68, 76.7), without=HOSTED),
    Line("LongCat", Printed(2.18, 91.7, 25.12, 10.00, 93.3), without=HOSTED),
    Line("SFT 7B", Printed(2.00, 94.2, 24.15, 9.64, 41.7), "sft"),
    Line("SFT 14B", Printed(2.15, 99.6, 24.63, 10.11, 45.0), without=SIZE),
    Line("PPO", Printed(2.29, logic=9.84), without=(
        "needs a language model: PPO here is a single agent that writes")),
    Line("GRPO", Printed(2.67, logic=9.56), "grpo"),
    Line("CMPO 7B", Printed(2.74, 100.0, 26.12, 10.07, 30.8), "cmpo", easy=Printed(2.82, V=34.6)),
    Line("CMPO 14B", Printed(3.05, 100.0, 27.43, 11.34, 27.5), without=SIZE,
         easy=Printed(3.21, V=28.7)),
    Line("lambda = 0", Printed(2.60, V=38.8), "cmpo_lambda0"),
    Line("without PID", Printed(V=34.5), "cmpo_clip"),
    Line("fixed lambda", Printed(2.52, V=24.6), FIXED),
    Line("without outcome and cost", Printed(2.42, logic=10.21, V=41.2), "cmpo_process_only"),
    Line("without GenRM", Printed(logic=9.56), "cmpo_no_genrm"),
)


def plain(name: str) -> str:
    """A model's name without case and signs."""
    return "".join(filter(str.isalnum, name.casefold()))


def ours_beside(line: Line, found: Collection[str]) -> str:
    """Our row beside one of the paper's: its own, or the hosted model of the same name; or ""."""
    if line.ours:
        return line.ours
    for name in filter(hosted, found):
        # the owner of a model is a part of the row's name
        model = plain(name.removeprefix(HOSTED_ROW))
        if line.without == HOSTED and model.endswith(plain(line.paper)):
            return name
    return ""


PAIRED = {line.ours for line in TABLE}
BESIDE = tuple(name for name in ROWS if name not in PAIRED)
