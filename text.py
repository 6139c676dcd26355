"""Text with slots: where a value of B_t stands in a reply, and what matching sees of a text.

A slot is a name in braces, `{price_1}`.  Its name is made of letters with their combining marks
(the vowel signs of Hindi, the tones of Thai), digits and _.  `{price_2}` belongs to candidate 2,
and `fit_2` says whether that candidate fits.

A value becomes a slot only as a whole: "500" is no part of "1,500", nor "cafe" of "café".
Pure functions of strings, which know nothing of turns or datasets; data.py hands them on.
Try it:  python text.py        what becomes a slot, and what does not"""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache


def nfc(text: str) -> str:
    """The text with each letter and its marks as one character, where there is one.

    >>> len("e\\u0301"), len(nfc("e\\u0301"))
    (2, 1)
    """
    return unicodedata.normalize("NFC", text)


def clean(name: str) -> str:
    """A name in NFC, without blanks and zero-width characters at its ends."""
    return re.sub(r"^[\s\u200b\u200e\u200f\u2060\ufeff]+|[\s\u200b\u200e\u200f\u2060\ufeff]+$", "",
                  nfc(name))


def flat(text: str) -> str:
    """The words of a text in lower case, with one blank between two."""
    return " ".join(nfc(text).casefold().split())


# --- slots --------------------------------------------------------------------------------------

def _marks() -> str:
    """The combining marks of all scripts, as the inside of a character class.

    Not those of symbols, nor those that choose an emoji's style.
    """
    spans: list[list[int]] = []
    for code in range(0x300, 0x1f000):
        symbols = 0x20d0 <= code < 0x2100 or 0xfe00 <= code < 0xfe10
        if symbols or unicodedata.category(chr(code))[0] != "M":
            continue
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)


MARKS = _marks()
# A word, and what may stand between braces.
NAME = rf"\w[\w{MARKS}]*"
MARK = re.compile(f"[{MARKS}]")
WORD = re.compile(NAME)
SLOT = re.compile(rf"\{{({NAME})\}}")
FIT = re.compile(r"fit_\d+")


def fill(reply: str, context: Mapping[str, str]) -> str:
    """Puts the values of B_t into the slots of a reply.

    A slot that B_t lacks stays as it is (the validator counts it).

    >>> fill("It costs {price_1}.", {"price_1": "30 euros"})
    'It costs 30 euros.'
    """
    return SLOT.sub(lambda m: context.get(m.group(1), m.group(0)), reply)


def slots(text: str) -> list[str]:
    """Names of the slots in a text, in order, repeats kept."""
    return SLOT.findall(text)


def has_stray_brace(text: str) -> bool:
    """Whether a brace stands there that belongs to no slot.

    >>> has_stray_brace("{price_1}"), has_stray_brace("{{Order Number}}")
    (False, True)
    """
    return re.search(r"[{}]", SLOT.sub("", text)) is not None


def sayable(slot: str) -> bool:
    """Whether a reply may carry this slot: `fit_<number>` and `_names` are for reading only.

    >>> sayable("fit_2"), sayable("fit_type")
    (False, True)
    """
    return not slot.startswith("_") and FIT.fullmatch(slot) is None


@lru_cache(4096)
def base(slot: str) -> str:
    """`price_2` -> `price`: a slot without the number of its candidate."""
    return re.sub(r"_\d+$", "", slot)


@lru_cache(4096)
def candidate(slot: str) -> int | None:
    """`price_2` -> 2: the number of a slot's candidate, if it has one."""
    number = re.search(r"_(\d+)$", slot)
    return int(number[1]) if number else None


def fit_of(slot: str, context: Mapping[str, str]) -> str | None:
    """What B_t says of a slot's candidate; None if it says nothing.  `fit_02` is of candidate 2.

    >>> fit_of("price_2", {"fit_1": "yes", "fit_2": "no"})
    'no'
    """
    number = candidate(slot)
    if number is None:
        return None
    for name, value in context.items():
        if name.startswith("fit_") and FIT.fullmatch(name) and candidate(name) == number:
            return value
    return None


def best_candidate(context: Mapping[str, str]) -> str:
    """Number of the first candidate that contradicts nothing said before; "1" if B_t marks none.

    >>> best_candidate({"fit_1": "no", "fit_10": "yes", "fit_2": "yes"})
    '2'
    """
    fits = [k for k, v in context.items() if v == "yes" and FIT.fullmatch(k)]
    return min(fits, key=candidate).removeprefix("fit_") if fits else "1"


# --- values of B_t in a reply -------------------------------------------------------------------

def delexicalise(reply: str, context: Mapping[str, str], ignore_case: bool = False) -> str:
    """The inverse of `fill`: values of B_t that stand in a reply as a whole become slots.

    The longest values go first.  Values shorter than 3 characters stay (a "2" often means
    something else), and so does everything inside a slot.  Chinese and Japanese have no spaces,
    so there a value counts wherever it stands.  The reply is brought to NFC.

    >>> context = {"price_1": "12.50", "product_1": "red mug", "points": "500"}
    >>> delexicalise("The red mug costs 12.50, the set 1,500.", context)
    'The {product_1} costs {price_1}, the set 1,500.'
    """
    reply = nfc(reply)
    alike = _lower if ignore_case else str
    slot_of = _values_in(alike(reply), context, alike)
    if not slot_of:
        return reply
    pieces = []
    end = 0
    for start, _, stop, slot in sorted(_places(reply, alike(reply), slot_of)):
        # what begins earlier has it, and of two at one place the longer
        if start < end:
            continue
        pieces += [reply[end:start], slot]
        end = stop
    return "".join(pieces) + reply[end:]


def _lower(text: str) -> str:
    """Lower case, character by character, so that places stay (a Turkish capital i would grow)."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(c.lower()[:1] for c in text)


def _values_in(
    text: str, context: Mapping[str, str], alike: Callable[[str], str]
) -> dict[str, str]:
    """Value -> slot for every value of B_t that stands in a text, the longest first.

    Of two candidates with the same value, such as a price, the one that fits has it.
    """
    found = []
    for slot, fact in context.items():
        value = alike(nfc(fact))
        if len(value) >= 3 and value in text and sayable(slot) and _means_something(value):
            found.append((value, slot))
    if len(found) > 1:
        best = int(best_candidate(context))
        found.sort(key=lambda pair: (-len(pair[0]), candidate(pair[1]) != best))
    slot_of: dict[str, str] = {}
    for value, slot in found:
        slot_of.setdefault(value, slot)
    return slot_of


def _means_something(value: str) -> bool:
    """Whether it is more than blanks and punctuation, which stand everywhere."""
    return any(unicodedata.category(c)[0] not in "PZC" for c in value)


def _places(
    reply: str, text: str, slot_of: Mapping[str, str]
) -> Iterator[tuple[int, int, int, str]]:
    """(start, rank, end, what shall stand there); slots that stand there already stay."""
    for slot in SLOT.finditer(reply):
        yield slot.start(), 0, slot.end(), slot[0]
    phones = []
    if "+" in reply or "0" in reply:
        phones = [phone.span() for phone in PHONE.finditer(reply)]
    for rank, (value, slot) in enumerate(slot_of.items(), 1):
        start = text.find(value)
        while start >= 0:
            end = start + len(value)
            if is_whole(reply, start, end) and not _cuts(start, end, phones):
                yield start, rank, end, f"{{{slot}}}"
            start = text.find(value, start + 1)


# --- whole words and numbers --------------------------------------------------------------------

CJK = re.compile(r"[\u3040-\u9fff]")
NUMERALS = frozenset("〇零一二三四五六七八九十百千万萬亿億两兩兆")
# between two digits they make one number, a date, a time or a range: 1,500  12.5.2024  12:30  3-4
SEPARATORS = frozenset(".,:/'’-–−٫٬．：／")
DASHES = frozenset("-–−")
SIGNS = frozenset("-−")
BLANKS = frozenset(" \u00a0\u2007\u2009\u202f")
# They make one word, or one emoji, of what stands around them.
JOINERS = frozenset("\u00ad\u200c\u200d\u2060")
PHONE = re.compile(r"(?:\+\d+|(?<![\w.,:])0\d{2,})(?:[ \u00a0/()-]{1,2}\d+)+")


def is_whole(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is no part of a longer word, number or emoji.

    >>> is_whole("1,500 points", 2, 5), is_whole("500 points", 0, 3)
    (False, True)
    """
    return not _is_inside(text, start) and not _is_inside(text, end)


def _cuts(start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether it takes a part of one of the spans, and not the whole."""
    for first, last in spans:
        covers = start <= first and last <= end
        if start < last and first < end and not covers:
            return True
    return False


def _is_inside(text: str, at: int) -> bool:
    """Whether what stands before and after this place belongs together."""
    if at in (0, len(text)):
        return False
    before, after = text[at - 1], text[at]
    if _is_in_character(text, at):
        return True
    if _is_letter(before) and _is_letter(after):
        if CJK.match(before) or CJK.match(after):
            # no spaces between words, but a number goes on
            return _is_numeral(before) and _is_numeral(after)
        return True
    return _is_in_number(text, at)


def _is_letter(char: str) -> bool:
    """A letter, a digit, _ or a mark of a letter."""
    return char.isalnum() or char == "_" or MARK.match(char) is not None


def _is_numeral(char: str) -> bool:
    return char.isdecimal() or char in NUMERALS


def _is_in_number(text: str, at: int) -> bool:
    """Whether a number goes on here: at its separator, after its sign, between its groups."""
    before, after = text[at - 1], text[at]
    if before in SEPARATORS and after.isdecimal():
        return _is_signed(text, at) or _is_separated(text, at - 1)
    if before.isdecimal() and after in SEPARATORS:
        return _is_separated(text, at)
    if before.isdecimal() and after in BLANKS:
        return _is_grouped(text, at)
    return before in BLANKS and after.isdecimal() and _is_grouped(text, at - 1)


def _is_signed(text: str, at: int) -> bool:
    """Whether a minus sign stands before a number: "-500", but not "A-500" or "phone -01223".

    >>> _is_signed("is -500", 4), _is_signed("A-500", 2), _is_signed("-01223", 1)
    (True, False, False)
    """
    if text[at - 1] not in SIGNS or re.match(r"0\d", text[at:at + 2]):
        return False
    return at < 2 or not _is_letter(text[at - 2])


def _is_separated(text: str, mark: int) -> bool:
    """Whether a mark stands within a number or a date; a dash between two times does not.

    >>> _is_separated("1,500", 1), _is_separated("12, 500", 2), _is_separated("9:30-10:15", 4)
    (True, False, False)
    """
    if not (text[max(0, mark - 1):mark].isdecimal() and text[mark + 1:mark + 2].isdecimal()):
        return False
    left = re.search(r"[\d:]*$", text[max(0, mark - 8):mark])[0]
    right = re.match(r"[\d:]*", text[mark + 1:mark + 9])[0]
    return not (text[mark] in DASHES and ":" in left and ":" in right)


def _is_grouped(text: str, blank: int) -> bool:
    """Whether a blank stands between thousands: one to three digits, and exactly three.

    >>> _is_grouped("12 500", 2), _is_grouped("5302 10", 4)
    (True, False)
    """
    left = re.search(r"\d*$", text[max(0, blank - 4):blank])[0]
    right = re.match(r"\d*", text[blank + 1:blank + 5])[0]
    return 1 <= len(left) <= 3 and len(right) == 3


def _is_in_character(text: str, at: int) -> bool:
    """Whether this place is between a sign and its marks, or the parts of an emoji."""
    before, after = text[at - 1], text[at]
    if after.isascii() and before not in JOINERS:
        return False
    if after in JOINERS:
        return not text[at + 1:at + 2].isspace() and at + 1 < len(text)
    if before in JOINERS:
        return at > 1 and not text[at - 2].isspace()
    # marks, skin tones, and the letters of a flag
    return (
        unicodedata.category(after)[0] == "M"
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or "\U000e0020" <= after <= "\U000e007f"
    )


# --- what matching of must_say and must_not_say sees --------------------------------------------

@cache
def _fold(char: str) -> str:
    parts = unicodedata.normalize("NFKD", char.casefold()).casefold().replace("ı", "i")
    return "".join(c for c in parts if not _is_invisible(c))


def _is_invisible(char: str) -> bool:
    """A space, an accent, a control character or a variation selector."""
    if char.isspace() or unicodedata.combining(char):
        return True
    return unicodedata.category(char) in ("Cc", "Cf") or "\ufe00" <= char <= "\ufe0f"


@lru_cache(100_000)
def normalise(text: str) -> str:
    """What matching sees: no case, no spaces, no accents, nothing invisible.

    Compatibility forms are unfolded.  normalise(a + b) == normalise(a) + normalise(b): that is
    what allows matching across tokens without decoding again.

    >>> normalise("Free SHIP\\u200bping, Ｆｒée")
    'freeshipping,free'
    """
    return "".join(map(_fold, text))


def is_matchable(phrase: str) -> bool:
    """Whether must_not_say can forbid it: something visible, and braces only as one whole slot.

    >>> is_matchable("{price_1}"), is_matchable("only {price} euros"), is_matchable(" ")
    (True, False, False)
    """
    if re.search(r"[{}]", phrase) and not SLOT.fullmatch(phrase):
        return False
    return normalise(phrase) != ""


def forbidding(phrase: str, forbidden: Sequence[str]) -> str | None:
    """The first must_not_say that a phrase holds, as matching sees it.

    >>> forbidding("Terms apply.", ["refund", "TERMS"])
    'TERMS'
    """
    seen = normalise(phrase)
    for other in forbidden:
        if normalise(other) in seen:
            return other
    return None


# --- a decision before the words -----------------------------------------------------------------

# What an agent that decides may begin its reply with: d_t of InteractCS-RL, issue a voucher or not.
DECISIONS = ("chat", "voucher")
TAG = re.compile(r"<(voucher|chat)>")


def with_decision(decision: str, words: str) -> str:
    """A reply that says its decision first.

    >>> with_decision("voucher", "Here it is.")
    '<voucher> Here it is.'
    """
    return f"<{decision}> {words}"


def split_decision(text: str) -> tuple[str | None, str, bool]:
    """(decision, words, valid) of a reply that may begin with its decision d_t.

    "<voucher> ..." or "<chat> ..." comes from an agent that says its decision; None: the words
    decide.  A tag in the middle, or a second one, is a format error.  Tags are never shown.

    >>> split_decision("<voucher> Here it is.")
    ('voucher', 'Here it is.', True)
    >>> split_decision("Here it is. <voucher>")
    (None, 'Here it is.', False)
    """
    found = TAG.findall(text)
    if not found:
        return None, text, True
    first = TAG.match(text.lstrip())
    words = " ".join(TAG.sub(" ", text).split())
    return first.group(1) if first else None, words, len(found) == 1 and first is not None


# --- to look at ---------------------------------------------------------------------------------

def demo() -> None:
    context = {"points": "500", "price": "12.50", "item": "कित", "city": "Köln"}
    print(context)
    for reply in ("It costs $1,500, and you have 500 points.", "Am 12.5.2024: 12.50 Euro",
                  "यह किताब है", "Lieferung nach Ko\u0308ln"):
        print(f"{nfc(reply):45s} {delexicalise(reply, context)}")


if __name__ == "__main__":
    demo()
