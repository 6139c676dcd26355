"""Whether the parts of a book fit together: all that its customers wait for must be there.

Pure functions of a book (own.py reads it); `at(field)` says where a field stands."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from data import DataError
from shop.agenda import EMOTIONS, OPENER
from shop.catalogue import SHARES, open_orders
from shop.ear import FACT_OF, PATTERNS
from shop.reactions import Reaction

Book = Mapping[str, Any]
At = Callable[[str], str]

# what a customer can hear: the skills that a shop may have
HEARD = (*[kind for kind in PATTERNS if kind != "promise"], *FACT_OF.values())
STEPS = tuple(kind for kind in HEARD if kind.startswith("guide_"))
# what the teacher may do whatever a customer needs
ALWAYS = ("greet", *OPENER.values(), "offer_voucher", "close")
# kind of talk -> skills that it takes, whatever is asked
OF_TALK = {"product": ("ask_need", "recommend"), "order": ("ask_order", "confirm_order")}
# what B_t tells
SLOTS = {"product": ("price", "stock", "eta"), "order": ("eta", "window", "refund")}
# words that every customer may need
ANSWERS = tuple(
    reaction.value for reaction in Reaction if reaction.value not in ("", "good", "details"))
TALK = (
    *ANSWERS, *[f"mark.{emotion}" for emotion in EMOTIONS if emotion != "neutral"], "feedback",
    "nothing", "accept.info", "accept.step", "next", "change", "done", "leave", "chat",
)


def refuse_unplayable(stock: Book, at: At) -> None:
    """Goods, skills, needs and words."""
    _refuse_equal_orders(stock, at)
    _refuse_nested_names(stock, at)
    _check_skills(stock, at)
    for name, need in stock["needs"].items():
        _check_need(name, need, stock, at)
    _check_words(stock, at)


def _refuse_equal_orders(stock: Book, at: At) -> None:
    """Numbers of orders are made from the names of the goods, and seldom twice the same."""
    for split in SHARES:
        for one, other in combinations(stock["categories"], 2):
            if set(open_orders(split, one)) & set(open_orders(split, other)):
                raise DataError(
                    f"{at('categories')}: an order of {one!r} and one of {other!r} have the same "
                    "number; call one of them otherwise")


def _refuse_nested_names(stock: Book, at: At) -> None:
    for one, other in combinations(stock["categories"], 2):
        if f" {one} " in f" {other} " or f" {other} " in f" {one} ":
            raise DataError(
                f"{at('categories')}: {one!r} and {other!r} hold one another, and a customer's "
                "words would mean both; call one of them otherwise")


# --- skills and needs -----------------------------------------------------------------------------

def _check_skills(stock: Book, at: At) -> None:
    seen = set()
    slot_of = {skill: slot for slot, skill in FACT_OF.items()}
    for number, spec in enumerate(stock["skills"]):
        here = f"{at('skills')}[{number}]"
        if spec["id"] not in HEARD or spec["id"] in seen:
            raise DataError(
                f"{here}.id: {spec['id']!r:.40} stands there already, or is nothing that a "
                f"customer could hear; ids are {', '.join(HEARD)}")
        seen.add(spec["id"])
        states = [slot_of[spec["id"]]] if spec["id"] in slot_of else []
        if spec.get("needs", []) != states:
            raise DataError(f"{here}.needs: write {states} for {spec['id']}")
        if not spec.get("examples"):
            raise DataError(f"{here}.examples: missing; write how the shop says it")


def told_in(stock: Book, talk: str) -> tuple[str, ...]:
    """What B_t tells of each candidate, whatever its category."""
    slots = SLOTS[talk]
    if talk == "order" and "status" in stock:
        slots += ("status", "part")
    sized = all("sizes" in shelf for shelf in stock["categories"].values())
    return slots + ("size",) if talk == "product" and sized else slots


def _check_need(name: str, need: Mapping[str, Any], stock: Book, at: At) -> None:
    here = at(f"needs.{name}")
    told = told_in(stock, need["talk"])
    asked = set().union(*need["asks"])
    strange = sorted(asked - set(told))
    if strange:
        raise DataError(
            f"{here}, asks: {strange[0]!r:.40}; of {need['talk']}s the shop can tell "
            f"{', '.join(told)}")
    ends = [step for step in need["steps"] if step not in STEPS]
    if ends:
        raise DataError(f"{here}, steps: {ends[0]!r:.40}; steps are {', '.join(STEPS)}")
    pool = {spec["id"] for spec in stock["skills"]}
    facts = [FACT_OF[slot] for slot in sorted(asked)]
    for skill in (*ALWAYS, *OF_TALK[need["talk"]], *facts, *need["steps"]):
        if skill not in pool:
            raise DataError(
                f"{at('skills')}: {skill!r} is missing; customers with the need {name!r} wait "
                "for it")


# --- the customers' words -------------------------------------------------------------------------

def kinds_of_words(stock: Book) -> dict[str, frozenset[str]]:
    """Kind of utterance -> what its sentences may name in braces; all that customers may say."""
    kinds = dict.fromkeys(TALK, frozenset[str]())
    for name, need in stock["needs"].items():
        kinds[f"need.{name}"] = frozenset(("category",))
        kinds |= dict.fromkeys(_of_need(need, stock), frozenset[str]())
    for kind in kinds:
        about = kind.partition(".")[2]
        if kind.startswith("detail."):
            kinds[kind] = frozenset((about,))
        elif kind in ("accept.product", "accept.order"):
            kinds[kind] = frozenset((about,))
    return kinds


def _of_need(need: Mapping[str, Any], stock: Book) -> list[str]:
    kinds = [f"accept.{need['talk']}"]
    if need["talk"] == "order":
        kinds += ["detail.order", *[f"want.{step}" for step in need["steps"]]]
    else:
        kinds += ["detail.feature", "detail.budget"]
        if any("sizes" in shelf for shelf in stock["categories"].values()):
            kinds.append("detail.size")
    for slots in need["asks"]:
        kinds += [f"ask.{slot}" for slot in slots]
    return kinds


def _check_words(stock: Book, at: At) -> None:
    for kind in kinds_of_words(stock):
        if kind not in stock["customer"]:
            raise DataError(f"{at('customer')}: {kind!r} is missing; customers may say it")
