"""Hard constraints: what the Expert's skills compile to, and whether a finished reply keeps it.

Sec. 3.2: a^E_t is "a hard execution constraint".

    skills of a turn --compile_constraints--> Constraints --Vocabulary.rules (lm/guard.py)--> Rules

Matching works on normalised text: no case, no spaces, nothing invisible, no accents.  `violations`
judges the final text by other means and shares no code with the guard that bans tokens: the
guarantee is counted with it.  The guarantee is about what the model writes; a value of B_t that a
slot brings in is the shop's own word. No model, no torch.
Try it:  python -m lm.constraints        constraints of a skill, and what a reply does wrong
         python -m lm.guard              follows one guard through a reply
Exercise: let `normalise` keep spaces, and find the reply that slips through
(tests/test_constraints.py finds one in a second)."""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from data import DataError, Prepared, Request, Skill, base, fill, sayable, slots
from text import NAME, WORD, has_stray_brace, is_matchable, normalise

# a brace that begins no slot
OPEN_BRACE = re.compile(rf"\{{(?!{NAME}\}})")
# Before an inserted phrase stands the first of these that completes nothing forbidden.
SEAMS = (" ", ". ", "; ", " - ", " | ", " * ", " ~ ", " • ", " — ", " / ")


# ------------------------------------------------------------------------------ compiled
@dataclass(frozen=True)
class Constraints:
    """What one turn demands of the text.

    Hashable: rows under the same constraints share their rules."""
    must_say: tuple[str, ...] = ()
    must_not_say: tuple[str, ...] = ()
    slots: frozenset[str] = frozenset()          # names that may stand in braces
    dropped: tuple[str, ...] = ()                # must_say that clashes with the turn's other rules


def compile_constraints(skills: Sequence[Skill], context: Mapping[str, str],
                        global_must_not: Sequence[str] = ()) -> Constraints:
    """The union of the skills' rules; where they clash, must_not_say wins.

    skills           those chosen for this turn
    context          B_t; each `sayable` key is a slot that may be said (a wrong candidate's as
                     well: that is for the customer to notice)
    global_must_not  the shop's SOP, whatever the skills
    raises           DataError on a forbidden phrase that is blank or holds half a slot

    >>> skill = Skill("a", must_say=("Terms apply.", "Due {eta}."), must_not_say=("terms",))
    >>> compile_constraints([skill], {"price_1": "3"}).dropped
    ('Terms apply.', 'Due {eta}.')
    """
    forbidden = list(global_must_not)
    wanted = []
    for skill in skills:
        forbidden += skill.must_not_say
        wanted += demanded(skill, context)
    forbidden = _distinct(forbidden)
    wanted = _distinct(wanted)
    bad = _as_matched(forbidden)
    names = _names(tuple(context), bad)
    said: tuple[str, ...] = ()
    if _is_separable(bad):
        said = tuple(p for p in wanted if _is_possible(p, context, names, bad))
    dropped = tuple(phrase for phrase in wanted if phrase not in said)
    return Constraints(said, forbidden, names, dropped)


def demanded(skill: Skill, context: Mapping[str, str]) -> tuple[str, ...]:
    """What a reply with this skill has to carry.

    >>> demanded(Skill("price", needs=("price",), otherwise=("I cannot find it.",)), {})
    ('I cannot find it.',)
    """
    if not skill.otherwise or any(base(name) in skill.needs for name in context):
        return skill.must_say
    return skill.otherwise


def prepare_plain(requests: Sequence[Request], skills: Mapping[str, Skill],
                  must_not_say: Sequence[str]) -> list[Prepared]:
    """Requests with what their skills compile to, for a speaker that is no model of ours."""
    prepared = []
    for request in requests:
        chosen = [skills[name] for name in request.skills]
        compiled = compile_constraints(chosen, request.context, must_not_say)
        prepared.append(Prepared(request, constraints=compiled))
    return prepared


def _distinct(phrases: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(phrases))


# The same few lists of forbidden phrases and of slots come back on every turn.
@lru_cache(4096)
def _as_matched(forbidden: tuple[str, ...]) -> tuple[str, ...]:
    """Forbidden phrases as matching sees them; refuses those that it could not match."""
    for phrase in forbidden:
        _refuse_unmatchable(phrase)
    return tuple(normalise(phrase) for phrase in forbidden)


@lru_cache(4096)
def _names(context: tuple[str, ...], bad: tuple[str, ...]) -> frozenset[str]:
    """The names of B_t that a reply may hold in braces."""
    return frozenset(name for name in context if _is_slot(name, bad))


def _refuse_unmatchable(phrase: str) -> None:
    if not is_matchable(phrase):
        raise DataError(
            f"must_not_say {phrase!r}: must hold a visible character, "
            "and braces only as one whole slot like '{price_1}'"
        )


def _is_clean(text: str, bad: Sequence[str]) -> bool:
    """Whether the text holds none of these normalised phrases."""
    read = normalise(text)
    return not any(phrase in read for phrase in bad)


def _is_slot(name: str, bad: Sequence[str]) -> bool:
    """Whether a reply may hold this name of B_t in braces."""
    if not sayable(name) or not WORD.fullmatch(name):
        return False
    return _is_clean(f"{{{name}}}", bad)


def _is_possible(phrase: str, context: Mapping[str, str], names: frozenset[str],
                 bad: Sequence[str]) -> bool:
    """Whether a required phrase, as it stands and filled, breaks none of the other rules."""
    if not names.issuperset(slots(phrase)) or has_stray_brace(phrase):
        return False
    return _is_clean(phrase, bad) and _is_clean(fill(phrase, context), bad)


@lru_cache(4096)
def _is_separable(bad: tuple[str, ...]) -> bool:
    """Whether inserted phrases can be kept apart: some seam stands in no forbidden phrase.

    For real phrases one always exists."""
    seams = [normalise(seam) for seam in SEAMS]
    return any(_is_clean_seam(seam, bad) for seam in seams if seam)


def _is_clean_seam(seam: str, bad: Sequence[str]) -> bool:
    return all(seam not in phrase for phrase in bad)


# ------------------------------------------------------------------------------ judged
def violations(text: str, constraints: Constraints) -> list[str]:
    """What is wrong with a finished reply, its slots not yet filled; [] if nothing is.

    >>> rules = Constraints(must_say=("Terms apply.",), must_not_say=("free shipping",))
    >>> violations("FREE ship ping to {city}", rules)
    ['said: free shipping', 'missing: Terms apply.', 'slot: city']
    """
    text = unicodedata.normalize("NFC", text)
    said = [phrase for phrase in constraints.must_not_say if _says(text, phrase)]
    missing = [phrase for phrase in constraints.must_say if not _says(text, phrase)]
    unknown = [name for name in slots(text) if name not in constraints.slots]
    found = [f"said: {phrase}" for phrase in said]
    found += [f"missing: {phrase}" for phrase in missing]
    found += [f"slot: {name}" for name in unknown]
    if OPEN_BRACE.search(text):
        found.append("broken slot")
    return found


def _says(text: str, phrase: str) -> bool:
    """Whether the letters of the phrase stand in the text, in any case and spacing."""
    return _in_any_spacing(phrase).search(text) is not None


@lru_cache(4096)
def _in_any_spacing(phrase: str) -> re.Pattern:
    characters = unicodedata.normalize("NFC", phrase)
    letters = [re.escape(c) for c in characters if not c.isspace()]
    return re.compile(r"\s*".join(letters), re.IGNORECASE)


# ------------------------------------------------------------------------------ to look at
def demo() -> None:
    skill = Skill("offer", must_say=("Terms apply.",), must_not_say=("free shipping",))
    constraints = compile_constraints([skill], {"price_1": "3 euros", "fit_1": "yes"})
    print(constraints)
    for reply in ("It costs {price_1}. Terms apply.", "FREE  shipping, {price_2}!"):
        print(f"{reply!r}: violations {violations(reply, constraints)}")


if __name__ == "__main__":
    demo()
