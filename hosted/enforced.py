"""Hard rules for hosted agents: the turn's constraints in the request, for the server to enforce.

A server that decodes under a grammar can keep the SOP of a turn (Sec. 3.2) as our own decoder does.
There are two ways to ask for it:

    grammar   vLLM's `structured_outputs`: every rule.  What must be said stands in the reply word
              for word and in order, nothing forbidden does, braces hold slots of B_t alone
    schema    `response_format` with a JSON schema, on other servers: what must be said, and the
              slots.  A schema cannot forbid a phrase: that is only asked for

Many servers take these fields and ignore them.  So the server is tried once (`enforced_by`), with a
form that no model would fill in by itself.  Whatever is promised, `violations` is counted.

The grammar is right-linear.  Its states are pairs: how many of the phrases that must be said have
been, and how much of a forbidden phrase the end of the text is (an automaton of Aho and Corasick
1975, in which case and blanks do not count).  No rule leads to the whole of a forbidden phrase.
Try it:  python -m hosted.enforced        both forms of a small turn; no network"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from infra.answers import Answer
from infra.client import ApiError, BudgetSpent, Client
from lm.constraints import Constraints
from text import normalise

BEGIN, END = '{"reply": "', '"}'
# No blank but " ", no letter that only ignoring case makes one of ASCII, nothing that JSON escapes.
NEVER = (
    "\"\\{}\x00-\x1f\x7f-\xa0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff"
    "\u017f\u212a\u0130\u0131")
SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}]")     # of a regular expression


# --- what is asked for ----------------------------------------------------------------------------

def fields_for(way: str | None, rules: Constraints) -> dict[str, Any]:
    """What a request carries so that the server enforces these rules.

    way  "grammar", "schema", or None: nothing
    """
    if way == "grammar":
        return {"structured_outputs": {"grammar": grammar(rules)}}
    if way == "schema":
        return response_format(schema(rules))
    return {}


def response_format(form: dict[str, Any]) -> dict[str, Any]:
    named = {"name": "reply", "strict": True, "schema": form}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def schema(rules: Constraints) -> dict[str, Any]:
    """{"reply": ..} that holds each phrase of `must_say`, in order, and braces around slots alone.

    >>> schema(Constraints(("Bye.",), (), frozenset(("eta_1",))))["properties"]["reply"]["pattern"]
    '^(?:[^{}]|\\\\{(?:eta_1)\\\\})*Bye\\\\.(?:[^{}]|\\\\{(?:eta_1)\\\\})*$'
    """
    free = "[^{}]"
    if rules.slots:
        free = rf"(?:[^{{}}]|\{{(?:{'|'.join(sorted(rules.slots))})\}})"
    pieces = [SPECIAL.sub(_escaped, phrase) for phrase in rules.must_say]
    pattern = f"{free}*".join(["^", *pieces, "$"])
    return {
        "type": "object",
        "properties": {"reply": {"type": "string", "pattern": pattern}},
        "required": ["reply"],
        "additionalProperties": False,
    }


def _escaped(match: re.Match) -> str:
    return f"\\{match[0]}"


# --- the grammar ----------------------------------------------------------------------------------

@lru_cache(1024)
def grammar(rules: Constraints) -> str:
    """The rules of a turn as a grammar in EBNF, one state a line; it begins with `root`."""
    bad = tuple(normalise(phrase) for phrase in rules.must_not_say)
    numbers = {state: k for k, state in enumerate(_states(bad))}
    lines = [f"root ::= {_quoted(BEGIN)} s0x0"]
    for said in range(len(rules.must_say) + 1):
        for state, k in numbers.items():
            choices = _letters(state, bad, numbers, said)
            choices += _slots(state, bad, numbers, said, rules)
            if said < len(rules.must_say):
                choices += _phrase(state, bad, numbers, said, rules.must_say[said])
            else:
                choices.append(_quoted(END))
            lines.append(f"s{said}x{k} ::= " + " | ".join(choices))
    return "\n".join(lines)


def _states(bad: tuple[str, ...]) -> list[str]:
    """Beginnings of forbidden phrases, the empty one first."""
    begun = {""}
    for phrase in bad:
        begun |= {phrase[:length] for length in range(len(phrase))}
    return sorted(begun, key=lambda state: (len(state), state))


def after(state: str, read: str, bad: tuple[str, ...]) -> str | None:
    """The state after more letters: the longest end of the text that begins a forbidden phrase.

    None: a forbidden phrase is complete.

    >>> after("ab", "a", ("abc", "bad")), after("ab", "c", ("abc", "bad"))
    ('ba', None)
    """
    for letter in read:
        state += letter
        if any(state.endswith(phrase) for phrase in bad):
            return None
        while state and not any(phrase.startswith(state) for phrase in bad):
            state = state[1:]
    return state


Numbers = Mapping[str, int]


def _letters(state: str, bad: tuple[str, ...], numbers: Numbers, said: int) -> list[str]:
    """Single characters: those that go on with a forbidden phrase, a blank, and all others."""
    known = sorted(set("".join(bad)))
    leading: dict[int, str] = {}
    special = " "
    for letter in known:
        target = after(state, letter, bad)
        if target == "":
            continue
        special += _cases(letter)
        if target is not None and _cases(letter):
            k = numbers[target]
            leading[k] = leading.get(k, "") + _cases(letter)
    choices = [f"[{_in_class(letters)}] s{said}x{k}" for k, letters in leading.items()]
    # a blank changes nothing: forbidden phrases are forbidden in any spacing
    choices.append(f'" " s{said}x{numbers[state]}')
    choices.append(f"[^{_in_class(NEVER, ranges=True)}{_in_class(special)}] s{said}x0")
    return choices


def _cases(letter: str) -> str:
    """A letter in both cases.  "ß" has no single capital."""
    both = {letter, letter.lower(), letter.upper()}
    return "".join(sorted(one for one in both if len(one) == 1 and one not in '"\\{}'))


def _slots(
    state: str, bad: tuple[str, ...], numbers: Numbers, said: int, rules: Constraints
) -> list[str]:
    choices = []
    for name in sorted(rules.slots):
        slot = f"{{{name}}}"
        target = after(state, normalise(slot), bad)
        if target is not None:
            choices.append(f"{_quoted(slot)} s{said}x{numbers[target]}")
    return choices


def _phrase(
    state: str, bad: tuple[str, ...], numbers: Numbers, said: int, phrase: str
) -> list[str]:
    """What has to be said next; never where its beginning would complete what is forbidden."""
    target = after(state, normalise(phrase), bad)
    if target is None:
        return []
    written = json.dumps(phrase, ensure_ascii=False)[1:-1]
    return [f"{_quoted(written)} s{said + 1}x{numbers[target]}"]


def _quoted(text: str) -> str:
    """A literal of the grammar."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _in_class(letters: str, ranges: bool = False) -> str:
    """Characters within brackets.  ranges: "-" stands between the ends of a range."""
    kept = "" if ranges else "-"
    found = []
    for letter in letters:
        if letter in f"]\\^[{kept}":
            found.append(f"\\{letter}")
        elif letter.isascii() and letter.isprintable():
            found.append(letter)
        else:
            found.append(f"\\u{ord(letter):04x}")
    return "".join(found)


# --- whether the server does it -------------------------------------------------------------------

# No model says this by itself.
PROOF = "Grey ink is 7 bells"
QUESTION = 'Say hello. Answer with one JSON object and nothing else: {"reply": "<your reply>"}'
PROBES: dict[str, dict[str, Any]] = {
    "grammar": {"structured_outputs": {"grammar": f"root ::= {_quoted(BEGIN + PROOF + END)}"}},
    "schema": response_format({
        "type": "object",
        "properties": {"reply": {"type": "string", "enum": [PROOF]}},
        "required": ["reply"],
        "additionalProperties": False,
    }),
}


def enforced_by(client: Client, say: Callable[[str], None] = print) -> str | None:
    """How the server of a client enforces rules: "grammar", "schema", or None; says so, once."""
    probe = Client(client.model, client.cfg)     # its failures are no failures of the run
    try:
        way = next((way for way in PROBES if _obeys(probe, way)), None)
    finally:
        probe.close()
    told = {
        "grammar": "enforces the rules of each turn (structured_outputs): hard constraints",
        "schema": "enforces what must be said and the slots (response_format); forbidden phrases "
                  "are only asked for",
        None: "ignores structured_outputs and response_format: the rules are only asked for in the "
              "prompt (soft constraints)",
    }
    say(f"{client.model} at {client.base} {told[way]}")
    return way


def _obeys(client: Client, way: str) -> bool:
    """Whether the answer has the form that was asked for; a refusal of the field is a no."""
    asked = [{"role": "user", "content": QUESTION}]
    try:
        said, = client.ask([asked], _text, max_tokens=64, attempts=1, more=[PROBES[way]])
    except BudgetSpent:
        raise
    except ApiError:
        # if the server does not answer at all, the run says so with its first request
        return False
    return said is not None and PROOF in said


def _text(answer: Answer) -> str:
    return answer.text


def main() -> None:
    rules = Constraints(("Terms apply.",), ("we promise",), frozenset(("price_1",)))
    print(grammar(rules))
    print(json.dumps(schema(rules), indent=1))


if __name__ == "__main__":
    main()
