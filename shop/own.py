"""A shop of your own: its book is a JSON file, read and checked before anybody plays in it.

    python train.py --dataset my_shop.json --replies template
    python -m shop.mgshop --shop my_shop.json --bounds

The shop bears the name of its file.  With "like": "mgshop", what the book leaves out is as in that
built-in book.  Here every field is checked by itself.  own_words.py then tries all sentences: the
customers must hear the shop's, and the shop must find what the customers mean in theirs.
docs/shop.md says how to write a book, with an example."""
from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from corpora.json_rows import Number, kind, parse_row, read_lines, string, strings
from corpora.skill_file import skill_of
from data import DATASETS, DataError
from shop.catalogue import DEFAULTS, FILES, OWN, SHOPS, book
from shop.own_words import refuse_unheard, refuse_unknown_talk
from shop.own_world import STEPS, kinds_of_words, refuse_unplayable

# a name or a value that is looked for in sentences: "clip-on", "size 36"
WORDS = re.compile(r"[^\W_]+(?:[ '-][^\W_]+)*")
# of a kind of goods: below, no product is within the smaller budget; above, budgets have 4 digits
CHEAPEST, DEAREST = 14, 499
REQUIRED = ("categories", "names", "stock", "eta", "window", "must_not_say", "skills", "needs",
            "customer")


def named(shop: str) -> str:
    """The name by which the engine knows a shop; a book of your own is read, checked and kept.

    shop    one of SHOPS, or the path of a book that ends in .json
    raises  DataError with the file and the field of the first thing that is wrong
    """
    if not shop.endswith(".json"):
        return shop
    path = Path(shop)
    name = path.stem
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of your shop's book")
    if name in {*FILES, *DATASETS}:
        raise DataError(f"{path}: {name} is a dataset that is built in; give the file another name")
    made_of = hashlib.sha256(path.read_bytes()).hexdigest()
    if name in OWN and OWN[name]["made_of"] != made_of:
        raise DataError(
            f"{path}: another shop {name} is in use here already; give the file another name, or "
            "start Python again")
    if name not in OWN:
        OWN[name] = checked(path, made_of)
    return name


def checked(path: Path, made_of: str) -> dict[str, Any]:
    """The whole book of a file, in which the engine finds everything that it looks for."""
    lines = [line for _, line in read_lines(path)]
    written = parse_row("\n".join(lines) or "{}", str(path))
    stock = _filled(written, path) | {"made_of": made_of}
    at = partial(_place, path, written)
    refuse_unplayable(stock, at)
    # A name that no shop has: what the engine keeps of a book that is refused is never met again.
    trial = f"{path} {made_of}"
    OWN[trial] = stock
    try:
        refuse_unheard(trial, at)
        refuse_unknown_talk(trial, at)
    finally:
        del OWN[trial]
    return stock


def _filled(written: Any, path: Path) -> dict[str, Any]:
    """The fields of a book, each checked by itself; what it leaves out is as in "like"."""
    _known(written, {"about", "like", "paper", *READERS}, str(path))
    like = written.get("like")
    if like is not None and (type(like) is not str or like not in SHOPS):
        raise DataError(f"{path}, field like: {like!r:.40}; write one of {', '.join(SHOPS)}")
    begun = book(like) if like else DEFAULTS
    own = {}
    for field, read in READERS.items():
        if written.get(field) is not None:
            own[field] = read(written[field], f"{path}, field {field}")
    stock = begun | own
    missing = [field for field in REQUIRED if field not in stock]
    if missing:
        raise DataError(
            f"{path}, field {missing[0]}: missing; write it, or take it from a built-in shop with "
            '"like": "mgshop"')
    words = own.get("customer", {})
    _known_words(words, stock, f"{path}, field customer")
    if like:
        stock["customer"] = begun["customer"] | words
    return stock


def _place(path: Path, written: Mapping[str, Any], field: str) -> str:
    """Where a field stands, or from which book it comes."""
    group, _, kind_of = field.partition(".")
    own = written.get(group) is not None
    if group == "customer" and kind_of:
        own = own and kind_of in written["customer"]
    said = f"{path}, field {field}"
    return said if own else f"{said} (as in {written.get('like', 'every shop')})"


# --- fields ---------------------------------------------------------------------------------------

def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise DataError(f"{at}: {kind(value)} where an object with at least one field is needed")
    return value


def _known(value: Any, fields: Collection[str], at: str) -> dict[str, Any]:
    """An object without any other fields."""
    unknown = [name for name in _object(value, at) if name not in fields]
    if unknown:
        raise DataError(f"{at}: unknown field {unknown[0]!r:.40}; fields are "
                        f"{', '.join(sorted(fields))}")
    return value


def _sentence(value: Any, at: str) -> str:
    if not string(value, at).strip():
        raise DataError(f"{at}: blank; write a sentence")
    return value


def _name(value: Any, at: str) -> str:
    """Words in small letters, as they are looked for in sentences."""
    if not WORDS.fullmatch(string(value, at)) or value != value.lower():
        raise DataError(
            f"{at}: {value!r:.40}; write words in small letters, such as 'noise-cancelling'")
    return value


def _several(value: Any, at: str, exactly: int = 0) -> list[str]:
    """A list of different strings."""
    found = strings(value, at)
    wrong = len(found) != exactly if exactly else not found
    if wrong or len(set(found)) < len(found) or not all(text.strip() for text in found):
        many = exactly or "one or more"
        raise DataError(f"{at}: write {many} different strings")
    return list(found)


def _names(value: Any, at: str, exactly: int = 0) -> list[str]:
    return [_name(text, at) for text in _several(value, at, exactly)]


def _number(value: Any, at: str, least: float, most: float, whole: bool) -> float:
    said = str(value) if isinstance(value, Number) else kind(value)
    try:
        number = float(value) if isinstance(value, Number) else None
    except OverflowError:
        number = None
    if number is None or not least <= number <= most or (whole and number != int(number)):
        of = "a whole number" if whole else "a number"
        raise DataError(f"{at}: {said:.40}; write {of} from {least} to {most}")
    return int(number) if whole else number


def _categories(value: Any, at: str) -> dict[str, dict]:
    found = {}
    for category, shelf in _object(value, at).items():
        here = f"{at}.{category}"
        _name(category, here)
        _known(shelf, ("features", "price", "sizes"), here)
        found[category] = {
            "features": _names(shelf.get("features"), f"{here}.features", 3),
            "price": _number(shelf.get("price"), f"{here}.price", CHEAPEST, DEAREST, True),
        }
        if "sizes" in shelf:
            found[category]["sizes"] = _names(shelf["sizes"], f"{here}.sizes", 3)
    return found


def _titles(value: Any, at: str) -> dict[str, list[str]]:
    """What products are called: nine names for each split, 27 different ones."""
    splits = ("train", "dev", "test")
    _known(value, splits, at)
    found = {split: _several(value.get(split), f"{at}.{split}", 9) for split in splits}
    first: dict[str, str] = {}
    for split, titles in found.items():
        for title in titles:
            if not WORDS.fullmatch(title) or title in first:
                raise DataError(
                    f"{at}.{split}: {title!r:.40}; write words, a name of no other product")
            first[title] = split
    return found


def _skills(value: Any, at: str) -> list[dict]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{at}: {kind(value)} where a list of skills is needed")
    found = []
    for number, record in enumerate(value):
        here = f"{at}[{number}]"
        skill = skill_of(record, here)
        if skill.otherwise:
            raise DataError(f"{here}, field otherwise: a shop says its field evasion; remove it")
        spec = {"id": skill.id, "description": skill.description, "task": skill.task}
        for field in ("examples", "must_say", "must_not_say", "needs"):
            if getattr(skill, field):
                spec[field] = list(getattr(skill, field))
        found.append(spec)
    return found


def _needs(value: Any, at: str) -> dict[str, dict]:
    found = {}
    for name, need in _object(value, at).items():
        here = f"{at}.{name}"
        _known(need, ("talk", "intent", "asks", "steps", "upset"), here)
        asks = need.get("asks")
        if not isinstance(asks, list) or not asks:
            raise DataError(f'{here}.asks: {kind(asks)}; write lists of slots, [["price"]]')
        if need.get("talk") not in ("product", "order"):
            raise DataError(f'{here}.talk: write "product" or "order"')
        found[name] = {
            "talk": need["talk"],
            "intent": _sentence(need.get("intent"), f"{here}.intent"),
            "asks": [_several(slots, f"{here}.asks[{i}]") for i, slots in enumerate(asks)],
            "steps": _several(need.get("steps"), f"{here}.steps"),
            "upset": _number(need.get("upset"), f"{here}.upset", 0, 1, False),
        }
    return found


def _customer(value: Any, at: str) -> dict[str, list[str]]:
    return {name: _several(lines, f"{at}.{name}") for name, lines in _object(value, at).items()}


def _known_words(own: Collection[str], stock: Mapping[str, Any], at: str) -> None:
    """Refuses words that no customer would ever say: a kind of them may be misspelled."""
    wanted = {f"want.{step}" for step in STEPS}
    strange = [kind_of for kind_of in own if kind_of not in {*kinds_of_words(stock), *wanted}]
    if strange:
        raise DataError(f"{at}.{strange[0]:.40}: no customer of this shop says such a thing; "
                        f"what they say: {', '.join(kinds_of_words(stock))}")


def _pattern(value: Any, at: str) -> str:
    """A regular expression."""
    try:
        re.compile(_sentence(value, at))
    except re.error as error:
        raise DataError(f"{at}: no regular expression: {error}") from None
    return value


READERS: dict[str, Callable[[Any, str], Any]] = {
    "currency": _name,
    "evasion": _sentence,
    "silence": _sentence,
    "order_talk": _pattern,
    "categories": _categories,
    "names": _titles,
    "stock": _several,
    "eta": _several,
    "window": _several,
    "status": _several,
    "must_not_say": lambda value, at: list(strings(value, at)),
    "skills": _skills,
    "needs": _needs,
    "customer": _customer,
}
