"""Whether shop and customers understand each other in a book of your own: all sentences are tried.

The shop's sentences must be heard as what they are, by both ears.  From the customers' sentences
the back office must take what they say, and nothing else: a shop whose feature is called "nice"
would take every "nice to hear" for a wish.

`name` is a shop whose book is in use (catalogue.OWN); `at(field)` says where a field stands."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Any

from data import DataError
from shop import second_ear
from shop.catalogue import (
    Focus,
    book,
    expand,
    open_orders,
    products,
    search,
    skill_pool,
    update_focus,
)
from shop.ear import hear
from shop.own_world import At, kinds_of_words

FEWEST = 3                                       # sentences of a kind: one for each split
EARS = {"first": hear, "second": second_ear.hear}


# --- what the shop says ---------------------------------------------------------------------------

def refuse_unheard(name: str, at: At) -> None:
    """DataError about the first sentence of the shop that its customers hear as something else."""
    for number, skill in enumerate(skill_pool(name).values()):
        for i, example in enumerate(skill.examples):
            here = f"{at('skills')}[{number}].examples[{i}]"
            for slot, value in _values(name, skill.needs):
                said = example.replace(f"{{{slot}}}", value)
                if "{" in said or "}" in said:
                    raise DataError(f"{here}: {example!r:.60}; write no braces but {skill.needs}")
                _refuse_misheard(said, {f"{slot}_1": value}, {skill.id}, here)
    for field in ("evasion", "silence"):
        _refuse_misheard(book(name)[field], {}, set(), at(field))


def _values(name: str, needs: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(slot, value) of all that a fact skill may have to state; ("", "") for any other skill."""
    stock = book(name)
    if not needs:
        yield "slot", ""
    for slot in needs:
        if slot in ("stock", "eta", "window", "status"):
            for value in stock[slot]:
                yield slot, value
            continue
        for row in _rows(name):
            if f"{slot}_1" in row:
                yield slot, row[f"{slot}_1"]


def _rows(name: str) -> list[dict[str, str]]:
    """B_t about goods and about orders of each category."""
    rows = []
    for category in book(name)["categories"]:
        for talk in ("product", "order"):
            rows.append(search(Focus(talk, category), "train", name))
    return rows


def _refuse_misheard(said: str, context: Mapping[str, str], wanted: set[str], at: str) -> None:
    for which, ear in EARS.items():
        got = {act.kind for act in ear(said, dict(context))}
        if got != wanted:
            heard = ", ".join(sorted(got)) or "nothing"
            meant = ", ".join(wanted) or "nothing"
            raise DataError(
                f"{at}: in {said!r:.80} the {which} ear hears {heard}, and is to hear {meant}; "
                "say it in other words")


# --- what customers say ---------------------------------------------------------------------------

def refuse_unknown_talk(name: str, at: At) -> None:
    """DataError about the first sentence of the customers that the back office misunderstands."""
    for kind, named in kinds_of_words(book(name)).items():
        here = at(f"customer.{kind}")
        sentences = _sentences(name, kind, named, here)
        if len(sentences) < FEWEST:
            raise DataError(
                f"{here}: {len(sentences)} different sentence(s); at least {FEWEST} are needed, "
                "one each to train, to tune and to test; add lines, or choices as in [Hi|Hello]")
        for number, sentence in enumerate(sentences):
            _refuse_misread(name, kind, sentence, _world(name, number), here)


def _sentences(name: str, kind: str, named: frozenset[str], at: str) -> list[str]:
    """All sentences of a kind, each once."""
    found: dict[str, None] = {}
    for line in book(name)["customer"][kind]:
        for sentence in expand(line):
            if any(mark in sentence for mark in "[]|"):
                raise DataError(f"{at}: {line!r:.60}; close each choice, as in [Hi|Hello]")
            if not _fields(sentence) <= named:
                raise DataError(
                    f"{at}: {line!r:.60} has braces that are not known here; write no other than "
                    f"{sorted(named)}")
            found[sentence] = None
    return list(found)


def _fields(sentence: str) -> set[str]:
    """Names in braces; {"{"} for braces that name nothing."""
    try:
        return {str(field) for _, field, *_ in Formatter().parse(sentence) if field is not None}
    except ValueError:
        return {"{"}


def _world(name: str, number: int) -> dict[str, Any]:
    """What a sentence may be about: another category for each number."""
    stock = book(name)
    category = list(stock["categories"])[number % len(stock["categories"])]
    shelf = stock["categories"][category]
    return {
        "category": category,
        "feature": shelf["features"][number % 3],
        "size": shelf.get("sizes", [""] * 3)[number % 3],
        "budget": round(shelf["price"] * (1.3, 2.0)[number % 2]),
        "order": open_orders("train", category)[number % 3],
        "product": products("train", category, name)[number % 9].name,
    }


def _refuse_misread(name: str, kind: str, sentence: str, world: dict[str, Any], at: str) -> None:
    said = sentence.format(**world)
    for before, after in _meant(name, kind, sentence, world):
        found = update_focus(before, said, "train", name)
        if vars(found) != vars(after):
            raise DataError(
                f"{at}: from {said!r:.80} the back office takes {known(found)}, and it means "
                f"{known(after)}; say it in other words")


def known(focus: Focus) -> str:
    """What the back office has understood, in words."""
    fields = [f"{name} {value}" for name, value in vars(focus).items() if value is not None]
    return ", ".join(fields) or "nothing"


def _meant(
    name: str, kind: str, sentence: str, world: dict[str, Any]
) -> Iterator[tuple[Focus, Focus]]:
    """(what was understood before a sentence, what must be understood after it)."""
    category = world["category"]
    group, _, about = kind.partition(".")
    if group == "need":
        talk = book(name)["needs"][about]["talk"]
        yield Focus(), Focus(talk, category)
    elif group == "detail":
        talk = "order" if about == "order" else "product"
        yield Focus(talk, category), Focus(talk, category, **{about: world[about]})
    else:
        order = Focus("order", category, order=world["order"])
        product = Focus("product", category, product=world["product"])
        for focus, other in ((order, "{product}"), (product, "{order}")):
            if other not in sentence:
                yield focus, focus
