"""The public side of a simulated shop: catalogue, order book, B_t, and the phrase book that turns skills into a reply.

A shop is its book (SHOPS: catalogue, skills with their wording, needs and words of its customers); `name` says which, everywhere.

B_t (`business_context`) is a function of what the customer has said and of the public catalogue alone: nothing of the hidden
agenda can reach the agents through it.  It lists up to three candidates, of which at least one is wrong for this customer;
`fit_i` = "no" marks those that contradict what was said.  Names, phrasings and customers differ between train, dev and test.

Try it:  python catalogue.py        B_t growing with the transcript, and the reply of the phrase book"""
from __future__ import annotations

import itertools
import json
import random
import re
import zlib
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Sequence

from data import DataError, Skill, best_candidate, fill

SHOPS = {"mgshop": "mgshop.json", "tmallbrand-a": "tmallbrand_a.json", "tmallbrand-b": "tmallbrand_b.json"}
DEFAULTS = {"paper": "Mgshop", "currency": "euros", "evasion": "I have nothing on that.", "silence": "One moment, please.",
            "order_talk": r"order(?:ed)?|bought|parcel|refund\w*|return\w*|broken|damaged|swap|exchange"}      # where a book is silent


@cache
def book(name: str = "mgshop") -> dict:
    """Catalogue and phrases of a shop."""
    if name not in SHOPS:
        raise DataError(f"shop {name!r} is unknown; use one of {', '.join(SHOPS)}")
    return DEFAULTS | json.loads(Path(__file__).with_name("books").joinpath(SHOPS[name]).read_text(encoding="utf-8"))


@cache
def skill_pool(name: str = "mgshop") -> dict[str, Skill]:
    tuples = ("examples", "must_say", "must_not_say", "needs")
    return {s["id"]: Skill(**{k: tuple(v) if k in tuples else v for k, v in s.items()}) for s in book(name)["skills"]}


def code(*parts: object) -> int:
    """A stable number for a thing of the catalogue (Python's own hash changes from run to run)."""
    return zlib.crc32("/".join(map(str, parts)).encode())


@cache
def phrasings(split: str, kind: str, name: str = "mgshop") -> tuple[tuple[str, ...], ...]:
    """What customers of a split say for a kind of utterance: the variants of each line, no sentence in two splits.

    7 of 10 sentences are train, 1 dev, 2 test, by a hash of the sentence.  So a test sentence is new as a whole; its words mostly
    are not, except for lines without alternatives, which are unseen altogether where they fall to test.
    """
    shares = {"train": range(7), "dev": (7,), "test": (8, 9)}[split]
    lines = [tuple(v for v in expand(line) if code(v) % 10 in shares) for line in book(name)["customer"][kind]]
    return tuple(line for line in lines if line)


def expand(line: str) -> list[str]:
    """All combinations of a line's alternatives.

    >>> expand("[When|By when] is it here?")
    ['When is it here?', 'By when is it here?']
    """
    pieces = [p[1:-1].split("|") if p.startswith("[") else [p] for p in re.split(r"(\[[^\]]*\])", line)]
    return ["".join(choice) for choice in itertools.product(*pieces)]


# --- the public catalogue and B_t -------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Product:
    name: str
    category: str
    feature: str
    price: int                                                   # in the shop's currency
    sizes: tuple[str, ...] = ()                                  # it comes in; () in a shop without sizes


@dataclass(frozen=True)
class Focus:
    """What the customer has said about the matter at hand: all that B_t may depend on."""
    talk: str | None = None                                      # "product" or "order"
    category: str | None = None
    feature: str | None = None
    budget: int | None = None
    order: str | None = None
    product: str | None = None                                   # named by the customer ("the Larch kettle, then")
    size: str | None = field(default=None, repr=False)           # not in the repr, which orders the candidates (`_candidates`)


@cache
def _finds(name: str) -> dict[str, re.Pattern]:
    """What the back office looks for in a customer's words."""
    stock, either = book(name), lambda words: re.compile(r"\b(" + "|".join(words) + r")\b", re.I)
    words, shelves = "|".join(stock["categories"]), stock["categories"].values()
    return {"category": re.compile(rf"\b({words})s?\b", re.I), "budget": re.compile(rf"\b(\d{{1,3}}) {stock['currency']}"),
            "order talk": re.compile(rf"\bmy (?:\w+ )?(?:{words})|\b(?:{stock['order_talk']})\b", re.I),
            "feature": either(f for c in shelves for f in c["features"]),
            "size": either(dict.fromkeys(s for c in shelves for s in c.get("sizes", ["(?!)"])))}     # (?!) matches nothing


@cache
def products(split: str, category: str, name: str = "mgshop") -> tuple[Product, ...]:
    """Nine products: three features, each in three price tiers.  Where there are sizes, a product lacks one of the three: of each feature
    and size there are two tiers."""
    shelf, names = book(name)["categories"][category], book(name)["names"][split]
    made = []
    for i in range(9):
        title = f"{names[(5 * i + code(category)) % 9]} {category}"
        price = round(shelf["price"] * (1, 1.6, 2.4)[i % 3]) + code(title, "price") % 5
        sizes = tuple(s for n, s in enumerate(shelf.get("sizes", ())) if n != (i + i // 3) % 3)
        made.append(Product(title, category, shelf["features"][i // 3], price, sizes))
    return tuple(made)


@cache
def open_orders(split: str, category: str) -> tuple[str, ...]:
    """The numbers of the three open orders for such an item."""
    return tuple(str(1000 + (code(split, category) + 2311 * i) % 9000) for i in range(3))


@cache
def _category_of_order(split: str, name: str) -> dict[str, str]:
    return {number: c for c in book(name)["categories"] for number in open_orders(split, c)}


def update_focus(focus: Focus, utterance: str, split: str, name: str = "mgshop") -> Focus:
    """Folds one customer utterance into what the shop's back office searches for."""
    find, category_of = _finds(name), _category_of_order(split, name)
    named = [c.lower() for c in find["category"].findall(utterance)]
    numbers = [n for n in re.findall(r"\b\d{4}\b", utterance) if n in category_of]
    item = next((p.name for p in (products(split, named[0], name) if named else ()) if p.name.lower() in utterance.lower()), None)
    if item:
        return replace(focus, talk="product", category=named[0], product=item)
    if named:
        focus = Focus(talk="order" if find["order talk"].search(utterance) else "product", category=named[0])
    elif numbers and focus.talk != "order":
        focus = Focus(talk="order", category=category_of[numbers[0]])
    if focus.talk == "order":
        return replace(focus, order=numbers[-1]) if numbers else focus
    features, sizes, budgets = (find[what].findall(utterance) for what in ("feature", "size", "budget"))
    if features or sizes or budgets:                             # a new wish takes back a product agreed on before
        focus = replace(focus, feature=features[-1].lower() if features else focus.feature, size=sizes[-1].lower() if sizes else focus.size,
                        budget=int(budgets[-1]) if budgets else focus.budget, product=None)
    return focus


def _fits(p: Product, focus: Focus) -> bool:
    if focus.product:
        return p.name == focus.product
    return focus.feature in (None, p.feature) and (focus.budget is None or p.price <= focus.budget) and (focus.size is None or focus.size in p.sizes)


def _candidates(focus: Focus, split: str, name: str) -> list[Product]:
    """Up to three products as a shop search returns them: fitting ones of different kinds first, then near misses."""
    shelf = sorted(products(split, focus.category, name), key=lambda p: code(focus, p.name))
    kind = (lambda p: p.price) if focus.feature else (lambda p: p.feature)
    first = {kind(p): p for p in shelf if _fits(p, focus)}       # one of each kind
    return (list(first.values()) + [p for p in shelf if not _fits(p, focus)])[:3]


@lru_cache(4096)
def search(focus: Focus, split: str, name: str = "mgshop") -> dict[str, str]:
    """What the back office finds for a focus; shared between dialogues, so copy before changing it."""
    if focus.category is None:
        return {}
    rows, stock, pick = [], book(name), lambda what, key: _pick(what, key, name)
    if focus.talk == "product":
        for p in sorted(_candidates(focus, split, name), key=lambda p: code(p.name, "place")):
            rows.append({"product": p.name, "price": f"{p.price} {stock['currency']}", "stock": pick("stock", p.name)}
                        | ({"size": " and ".join(p.sizes)} if p.sizes else {})
                        | {"eta": pick("eta", p.name), "fit": "yes" if _fits(p, focus) else "no"})
    else:
        for number in sorted(open_orders(split, focus.category), key=lambda n: code(n, "place")):
            refund = stock["categories"][focus.category]["price"] + code(number, "refund") % 40
            rows.append({"order": number, "eta": pick("eta", number), "refund": f"{refund} {stock['currency']}", "window": pick("window", number)}
                        | ({"status": pick("status", number), "part": f"{8 + code(number, 'part') % 20} {stock['currency']}"} if "status" in stock else {})
                        | {"fit": "yes" if focus.order in (None, number) else "no"})
    return {f"{slot}_{i}": value for i, row in enumerate(rows, 1) for slot, value in row.items()}


def _pick(what: str, key: str, name: str) -> str:
    return book(name)[what][code(key, what) % len(book(name)[what])]


def business_context(utterances: Sequence[str], split: str = "test", name: str = "mgshop") -> dict[str, str]:
    """B_t: candidates of the public catalogue for what the customer has said so far; `fit_i` = "no" where it contradicts it."""
    focus = Focus()
    for utterance in utterances:
        focus = update_focus(focus, utterance, split, name)
    return dict(search(focus, split, name))


# --- the phrase book ----------------------------------------------------------------------------------------------------------

def template(skills: Sequence[str], context: dict[str, str], rng: random.Random, name: str = "mgshop") -> str:
    """The skills as text, by the shop's phrase book, in their order, with slots: the reply of `--replies template`.

    Facts are those of the first candidate that fits (`best_candidate`).  A skill whose slot B_t lacks becomes an evasion.
    """
    said, number = [], best_candidate(context)
    for skill in (skill_pool(name)[s] for s in skills):
        if any(f"{need}_{number}" not in context for need in skill.needs):
            said += [book(name)["evasion"], *skill.must_say]
            continue
        phrase = rng.choice(skill.examples)
        for need in skill.needs:
            phrase = phrase.replace(f"{{{need}}}", f"{{{need}_{number}}}")
        said += [phrase, *skill.must_say]
    return " ".join(said) or book(name)["silence"]


if __name__ == "__main__":
    talk = ["I am looking for a kettle.", "It should be quiet.", "I can spend up to 48 euros."]
    for n in range(1, 4):
        seen = business_context(talk[:n])
        print(f"customer: {talk[n - 1]}\n  B_t = {seen}")
    wording = template(["recommend", "state_price"], seen, random.Random(0))
    print(f"skills recommend, state_price -> {wording}\n  shown as: {fill(wording, seen)}")
