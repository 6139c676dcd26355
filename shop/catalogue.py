"""The public side of a simulated shop: catalogue, order book, B_t, and the phrase book.

A shop is its book (SHOPS): catalogue, skills with their wording, needs and words of its customers.
Everywhere, `name` says which shop is meant.

B_t (`business_context`) depends on what the customer has said and on the public catalogue alone:
nothing of the hidden agenda can reach the agents through it.  It lists up to three candidates, of
which at least one is wrong for this customer.  `fit_i` = "no" marks those that contradict what was
said.  Names, phrasings and customers differ between train, dev and test.

The phrase book (`template`) turns skills into a reply.

Try it:  python -m shop.catalogue        B_t growing with the transcript, and a reply"""
from __future__ import annotations

import itertools
import json
import random
import re
import zlib
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from operator import add
from pathlib import Path
from typing import NamedTuple, Sequence

from data import DataError, Skill, best_candidate, fill

SHOPS = {
    "mgshop": "mgshop.json",
    "tmallbrand-a": "tmallbrand_a.json",
    "tmallbrand-b": "tmallbrand_b.json",
}
# the food-delivery store (fds.py) has a book too, and a catalogue and customers of its own
FILES = SHOPS | {"fds": "fds.json"}
# name -> book of a shop of your own, once own.py has checked it
OWN: dict[str, dict] = {}
# where a book is silent
DEFAULTS = {
    "paper": "Mgshop",
    "currency": "euros",
    "evasion": "I have nothing on that.",
    "silence": "One moment, please.",
    "order_talk": r"order(?:ed)?|bought|parcel|refund\w*|return\w*|broken|damaged|swap|exchange",
    "made_of": "",                               # sha256 of the file of a shop of your own
}
SENTENCE = re.compile(r"[^.!?]+[.!?]*")
BOOKS = Path(__file__).with_name("books")
# which of ten sentences of the customers are in a split
SHARES = {"train": range(7), "dev": (7,), "test": (8, 9)}
# the same, dealt out in turn: of three sentences each split has one
DEALT = (0, 7, 8, 1, 2, 3, 4, 9, 5, 6)


def book(name: str = "mgshop") -> dict:
    """Catalogue and phrases of a shop."""
    return OWN[name] if name in OWN else _built_in(name)


@cache
def _built_in(name: str) -> dict:
    if name not in FILES:
        raise DataError(f"shop {name!r} is unknown; use one of {', '.join(FILES)}")
    written = (BOOKS / FILES[name]).read_text(encoding="utf-8")
    return DEFAULTS | json.loads(written)


@cache
def skill_pool(name: str = "mgshop") -> dict[str, Skill]:
    """P_skill of a shop, in the order of its book."""
    stock = book(name)
    return {spec["id"]: _skill(spec, stock["evasion"]) for spec in stock["skills"]}


def _skill(spec: dict, evasion: str) -> Skill:
    fields = dict(spec)
    if "needs" in fields:
        fields["otherwise"] = (evasion,)
    for key in ("examples", "must_say", "must_not_say", "needs"):
        if key in fields:
            fields[key] = tuple(fields[key])
    return Skill(**fields)


def code(*parts: object) -> int:
    """A stable number for a thing of the catalogue (Python's own hash changes from run to run)."""
    return zlib.crc32("/".join(map(str, parts)).encode())


@cache
def phrasings(split: str, kind: str, name: str = "mgshop") -> tuple[tuple[str, ...], ...]:
    """What customers of a split say for a kind of utterance: the variants of each line.

    No sentence is in two splits: a hash of the sentence decides (SHARES).  So a test sentence is
    new as a whole.  Most of its words are not new, except in lines without alternatives: where such
    a line falls to test, it is unseen altogether.
    """
    lines = [expand(line) for line in book(name)["customer"][kind]]
    dealt = _dealt(lines) if name in OWN else {}
    kept = []
    for line in lines:
        variants = tuple(v for v in line if dealt.get(v, code(v) % 10) in SHARES[split])
        if variants:
            kept.append(variants)
    return tuple(kept)


def _dealt(lines: Sequence[Sequence[str]]) -> dict[str, int]:
    """Sentences of a kind, each with its place in SHARES.

    In a book of your own there may be few, and chance could leave a split without any.
    """
    sentences = set(itertools.chain(*lines))
    ranked = sorted(sentences, key=lambda sentence: (code(sentence), sentence))
    return {sentence: DEALT[rank % 10] for rank, sentence in enumerate(ranked)}


def expand(line: str) -> list[str]:
    """All combinations of a line's alternatives.

    >>> expand("[When|By when] is it here?")
    ['When is it here?', 'By when is it here?']
    """
    choices = []
    for piece in re.split(r"(\[[^\]]*\])", line):
        if piece.startswith("["):
            choices.append(piece[1:-1].split("|"))
        else:
            choices.append([piece])
    return ["".join(words) for words in itertools.product(*choices)]


# --- the public catalogue and B_t -----------------------------------------------------------------

@dataclass(frozen=True)
class Product:
    name: str
    category: str
    feature: str
    price: int                                   # in the shop's currency
    sizes: tuple[str, ...] = ()                  # it comes in; () in a shop without sizes


@dataclass(frozen=True)
class Focus:
    """What the customer has said about the matter at hand: all that B_t may depend on."""
    talk: str | None = None                      # "product" or "order"
    category: str | None = None
    feature: str | None = None
    budget: int | None = None
    order: str | None = None
    product: str | None = None                   # named by the customer ("the Larch kettle, then")
    # not in the repr, because the repr orders the candidates (`_candidates`)
    size: str | None = field(default=None, repr=False)


@cache
def _finds(name: str) -> dict[str, re.Pattern]:
    """What the back office looks for in a customer's words."""
    stock = book(name)
    items = "|".join(stock["categories"])
    features: list[str] = []
    sizes: list[str] = []
    for shelf in stock["categories"].values():
        features += shelf["features"]
        # (?!) matches nothing
        sizes += shelf.get("sizes", ["(?!)"])
    order_talk = rf"\bmy (?:\w+ )?(?:{items})|\b(?:{stock['order_talk']})\b"
    return {
        "category": re.compile(rf"\b({items})s?\b", re.I),
        "number": re.compile(r"\b\d{4}\b"),
        "budget": re.compile(rf"\b(\d{{1,3}}) {stock['currency']}"),
        "order talk": re.compile(order_talk, re.I),
        "feature": _any_of(features),
        "size": _any_of(list(dict.fromkeys(sizes))),
    }


def _any_of(words: list[str]) -> re.Pattern:
    return re.compile(r"\b(" + "|".join(words) + r")\b", re.I)


@cache
def products(split: str, category: str, name: str = "mgshop") -> tuple[Product, ...]:
    """Nine products: three features, each in three price tiers.

    Where there are sizes, a product lacks one of the three: two tiers have each feature and size.
    """
    shelf = book(name)["categories"][category]
    names = book(name)["names"][split]
    made = []
    for i in range(9):
        title = f"{names[(5 * i + code(category)) % 9]} {category}"
        price = round(shelf["price"] * (1, 1.6, 2.4)[i % 3]) + code(title, "price") % 5
        missing = (i + i // 3) % 3
        sizes = tuple(s for n, s in enumerate(shelf.get("sizes", ())) if n != missing)
        made.append(Product(title, category, shelf["features"][i // 3], price, sizes))
    return tuple(made)


@cache
def open_orders(split: str, category: str) -> tuple[str, ...]:
    """The numbers of the three open orders for such an item."""
    first = code(split, category)
    return tuple(str(1000 + (first + 2311 * i) % 9000) for i in range(3))


@cache
def _category_of_order(split: str, name: str) -> dict[str, str]:
    table = {}
    for category in book(name)["categories"]:
        table |= dict.fromkeys(open_orders(split, category), category)
    return table


class Said(NamedTuple):
    """What the back office finds in a customer's words, each in the order of the text."""
    categories: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()                # of four digits
    order_talk: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()


def update_focus(focus: Focus, utterance: str, split: str, name: str = "mgshop") -> Focus:
    """Folds one customer utterance into what the shop's back office searches for."""
    said = _said(utterance, name)
    if not any(said):
        return focus
    category_of = _category_of_order(split, name)
    numbers = [n for n in said.numbers if n in category_of]
    if said.categories:
        category = said.categories[0].lower()
        item = _item_named(products(split, category, name), utterance.lower())
        if item:
            return replace(focus, talk="product", category=category, product=item)
        talk = "order" if said.order_talk else "product"
        focus = Focus(talk=talk, category=category)
    elif numbers and focus.talk != "order":
        focus = Focus(talk="order", category=category_of[numbers[0]])
    if focus.talk == "order":
        return replace(focus, order=numbers[-1]) if numbers else focus
    return _update_wish(focus, said)


@lru_cache(16384)
def _said(utterance: str, name: str) -> Said:
    """What is found in each sentence, one after the other.

    Nothing that is looked for holds an end mark, so nothing reaches over the end of a sentence.
    """
    whole = Said()
    for sentence in SENTENCE.findall(utterance):
        said = _said_in(sentence.strip(), name)
        if any(said):
            whole = Said(*map(add, whole, said))
    return whole


# Customers compose what they say of few sentences.
@lru_cache(65536)
def _said_in(sentence: str, name: str) -> Said:
    looked_for = ("category", "number", "order talk", "feature", "size", "budget")
    find = _finds(name)
    return Said(*[tuple(find[what].findall(sentence)) for what in looked_for])


def _item_named(shelf: Sequence[Product], lowered: str) -> str | None:
    for product in shelf:
        if product.name.lower() in lowered:
            return product.name
    return None


def _update_wish(focus: Focus, said: Said) -> Focus:
    """Takes up the last feature, size and budget said.  A wish takes back a product agreed on."""
    wish: dict[str, str | int] = {}
    if said.features:
        wish["feature"] = said.features[-1].lower()
    if said.sizes:
        wish["size"] = said.sizes[-1].lower()
    if said.budgets:
        wish["budget"] = int(said.budgets[-1])
    return replace(focus, product=None, **wish) if wish else focus


def _fits(p: Product, focus: Focus) -> bool:
    if focus.product:
        return p.name == focus.product
    if focus.feature not in (None, p.feature):
        return False
    if focus.budget is not None and p.price > focus.budget:
        return False
    return focus.size is None or focus.size in p.sizes


def _candidates(focus: Focus, split: str, name: str) -> list[Product]:
    """Up to three products, as a search returns them.

    Fitting ones of different kinds come first, then near misses.
    """
    shelf = sorted(products(split, focus.category, name), key=lambda p: code(focus, p.name))
    first: dict[str | int, Product] = {}         # one of each kind
    misses = []
    for p in shelf:
        if _fits(p, focus):
            kind = p.price if focus.feature else p.feature
            first[kind] = p
        else:
            misses.append(p)
    return [*first.values(), *misses][:3]


@lru_cache(4096)
def search(focus: Focus, split: str, name: str = "mgshop") -> dict[str, str]:
    """What the back office finds for a focus.

    The result is shared between dialogues: copy it before you change it.
    """
    if focus.category is None:
        return {}
    if focus.talk == "product":
        found = sorted(_candidates(focus, split, name), key=lambda p: code(p.name, "place"))
        rows = [_product_row(p, focus, name) for p in found]
    else:
        numbers = sorted(open_orders(split, focus.category), key=lambda n: code(n, "place"))
        rows = [_order_row(number, focus, name) for number in numbers]
    context = {}
    for i, row in enumerate(rows, 1):
        context |= {f"{slot}_{i}": value for slot, value in row.items()}
    return context


def _product_row(p: Product, focus: Focus, name: str) -> dict[str, str]:
    row = {
        "product": p.name,
        "price": f"{p.price} {book(name)['currency']}",
        "stock": _pick("stock", p.name, name),
    }
    if p.sizes:
        row["size"] = " and ".join(p.sizes)
    row["eta"] = _pick("eta", p.name, name)
    row["fit"] = "yes" if _fits(p, focus) else "no"
    return row


def _order_row(number: str, focus: Focus, name: str) -> dict[str, str]:
    stock = book(name)
    currency = stock["currency"]
    refund = stock["categories"][focus.category]["price"] + code(number, "refund") % 40
    row = {
        "order": number,
        "eta": _pick("eta", number, name),
        "refund": f"{refund} {currency}",
        "window": _pick("window", number, name),
    }
    if "status" in stock:
        row["status"] = _pick("status", number, name)
        row["part"] = f"{8 + code(number, 'part') % 20} {currency}"
    row["fit"] = "yes" if focus.order in (None, number) else "no"
    return row


def _pick(what: str, key: str, name: str) -> str:
    choices = book(name)[what]
    return choices[code(key, what) % len(choices)]


def business_context(
    utterances: Sequence[str], split: str = "test", name: str = "mgshop"
) -> dict[str, str]:
    """B_t: candidates of the public catalogue for what the customer has said so far."""
    focus = Focus()
    for utterance in utterances:
        focus = update_focus(focus, utterance, split, name)
    return dict(search(focus, split, name))


# --- the phrase book ------------------------------------------------------------------------------

def template(
    skills: Sequence[str], context: dict[str, str], rng: random.Random, name: str = "mgshop"
) -> str:
    """The skills as text with slots, in their order: the reply of `--replies template`.

    Facts are those of the first candidate that fits (`best_candidate`).
    A skill whose slot B_t lacks becomes an evasion.
    """
    number = best_candidate(context)
    said: list[str] = []
    for skill in skills:
        wording = _wording(skill, number, name)
        if wording.slots <= context.keys():
            said.append(rng.choice(wording.phrases))
        else:
            said.append(book(name)["evasion"])
        said += wording.must_say
    return " ".join(said) or book(name)["silence"]


class Wording(NamedTuple):
    """How a skill speaks of one candidate."""
    slots: frozenset[str]                        # that B_t must have
    phrases: tuple[str, ...]                     # with these slots, one of them to be drawn
    must_say: tuple[str, ...]


@lru_cache(4096)
def _wording(skill: str, number: str, name: str) -> Wording:
    spec = skill_pool(name)[skill]
    slots = frozenset(f"{need}_{number}" for need in spec.needs)
    phrases = []
    for phrase in spec.examples:
        for need in spec.needs:
            phrase = phrase.replace(f"{{{need}}}", f"{{{need}_{number}}}")
        phrases.append(phrase)
    return Wording(slots, tuple(phrases), spec.must_say)


def demo() -> None:
    talk = ["I am looking for a kettle.", "It should be quiet.", "I can spend up to 48 euros."]
    for n, utterance in enumerate(talk, 1):
        seen = business_context(talk[:n])
        print(f"customer: {utterance}\n  B_t = {seen}")
    wording = template(["recommend", "state_price"], seen, random.Random(0))
    print(f"skills recommend, state_price -> {wording}\n  shown as: {fill(wording, seen)}")


if __name__ == "__main__":
    demo()
