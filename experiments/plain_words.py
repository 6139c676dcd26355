"""What stands first on the page: the tables in sentences, and the dialogue that it opens with.

Everything is read off results.json and dialogues.jsonl."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from experiments.cells import figure, known, side_of_zero, with_brackets

SERVED = (
    "The first one shown is of {}, with a customer who was served and with whom there is most to "
    "see. It stands for nothing; walk on with next.")
LEFT = (
    "The first one shown is of {}, which served none of these customers to the end: the one with "
    "whom there is most to see. Walk on with next.")
SIDES = {1: "above it", -1: "below it", 0: "not decided"}
Row = Mapping[str, Any]


# --- tables in sentences --------------------------------------------------------------------------

def findings_of(tables: Sequence[Mapping[str, Any]], lead: str) -> list[dict[str, str]]:
    """One finding a table in which the row `lead` has a number in the first column."""
    found = []
    for number, table in enumerate(tables):
        said = [in_a_sentence(table, lead, served=not number), of_orders(table)]
        if said[0]:
            found.append({"question": table["title"], "answer": " ".join(filter(None, said))})
    return found


def in_a_sentence(table: Mapping[str, Any], lead: str, served: bool = False) -> str:
    """What `lead` has in a table's first column, and which rows are above and below it.

    A row is above or below where the intervals of the difference exclude 0.

    served  also says how many customers are
    """
    first = table["columns"][0]
    key, name, digits = first["key"], first["name"], first.get("digits", 3)
    own = next((row for row in table["rows"] if row.get("key") == lead), None)
    if own is None or known(own, key) is None:
        return ""
    sides: dict[int, list[str]] = {side: [] for side in SIDES}
    for row in table["rows"]:
        difference = known(row, key, "difference")
        if difference:
            sides[side_of_zero(difference)].append(row["name"])
    text = f"{own['name']}: {name} {with_brackets(known(own, key), digits)}."
    if served:
        text += share_of_served(own)
    for side, word in SIDES.items():
        if sides[side]:
            text += f" {word.capitalize()}: {'; '.join(sides[side])}."
    return text


def share_of_served(row: Row) -> str:
    cell = known(row, "success")
    if cell is None:
        return ""
    return f" It serves {figure(100 * cell['mean'], 0)} of 100 customers to the end."


def of_orders(table: Mapping[str, Any]) -> str:
    """How many pairs of the paper's order come out alike, by the first column."""
    key, name = table["columns"][0]["key"], table["columns"][0]["name"]
    orders = [order for order in table.get("orders") or [] if order["metric"] == key]
    decided = [order for order in orders if order.get("ours") is not None]
    if not orders:
        return ""
    pairs = "pair" if len(orders) == 1 else "pairs"
    agree = sum(order["ours"] == order["paper"] for order in decided)
    return (
        f"Of {len(orders)} {pairs} that the paper orders by {name}, {agree} come out alike, "
        f"{len(decided) - agree} the other way round, {len(orders) - len(decided)} undecided.")


# --- the dialogue to begin with -------------------------------------------------------------------

def opening(dialogues: Sequence[Mapping[str, Any]], lead: str) -> dict[str, str]:
    """method, seed, customer of a dialogue worth reading; {} if there is none.

    It is one of `lead`'s, or of whoever is first, and the first of those that score highest.
    """
    own = [d for d in dialogues if d["method"] == lead]
    own = own or list(dialogues)
    if not own:
        return {}
    by_customer: dict[tuple, list[Mapping[str, Any]]] = {}
    for dialogue in dialogues:
        by_customer.setdefault((dialogue["seed"], dialogue["customer"]), []).append(dialogue)
    best = max(own, key=lambda d: worth(d, by_customer[d["seed"], d["customer"]]))
    return {"method": best["method"], "seed": str(best["seed"]), "customer": best["customer"]}


def opens(dialogues: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> str:
    """Which dialogue is the first, and why."""
    for dialogue in dialogues:
        place = {"seed": str(dialogue["seed"])}
        place |= {key: dialogue[key] for key in ("method", "customer")}
        if place == found:
            return (SERVED if dialogue["success"] else LEFT).format(dialogue["method"])
    return ""


def worth(dialogue: Mapping[str, Any], met: Sequence[Mapping[str, Any]]) -> tuple:
    """How much there is to see in a dialogue; tuples compare from the left.

    It was brought to its end, with a voucher where there are any; the customer was upset and came
    round; and others who met the same customer ended otherwise.
    """
    turns = dialogue["turns"]
    voucher = any(turn.get("decision") == "voucher" for turn in turns)
    moods = [dialogue.get("mood"), *[turn.get("mood") for turn in turns]]
    moods = [mood for mood in moods if mood is not None]
    rise = moods[-1] - min(moods) if moods else 0.0
    otherwise = sum(other["success"] != dialogue["success"] for other in met)
    return bool(dialogue["success"]), voucher, otherwise, round(rise, 2)


def any_difference(tables: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row is compared with another: then the page says what the difference is."""
    rows = chain.from_iterable(table["rows"] for table in tables)
    return any(row.get("difference") for row in rows)


def any_decision(dialogues: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these agents decide on a voucher: then the page says what that is."""
    turns = chain.from_iterable(dialogue["turns"] for dialogue in dialogues)
    return any("decision" in turn for turn in turns)
