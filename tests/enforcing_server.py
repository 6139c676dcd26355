"""A model on a server that decodes under a grammar or a JSON schema, for tests.

The model has its own wish of what to say.  Where a request carries a form and the server enforces
it, what does not fit is left out, and what the form demands is put in: as a sampler does that can
draw only what the grammar allows.  The grammars are read here anew, and share no code with those
who write them."""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\w+|\|')


class Choice:
    """One way on: a literal or one character of a class, then a rule; no rule: the end."""

    def __init__(self, tokens: list[str]):
        self.literal = ""
        self.class_of = None
        self.rule = None
        for token in tokens:
            if token.startswith('"'):
                self.literal = re.sub(r"\\(.)", r"\1", token[1:-1])
            elif token.startswith("["):
                self.class_of = re.compile(token)
            else:
                self.rule = token

    def length_at(self, text: str, at: int) -> int:
        """Letters of the text that this choice takes; 0: it does not fit."""
        if self.class_of:
            return int(self.class_of.match(text, at) is not None)
        return len(self.literal) if text.startswith(self.literal, at) else 0


def read_grammar(text: str) -> dict[str, list[Choice]]:
    rules = {}
    for line in text.splitlines():
        name, _, right = line.partition(" ::= ")
        tokens: list[list[str]] = [[]]
        for token in TOKEN.findall(right):
            if token == "|":
                tokens.append([])
            else:
                tokens[-1].append(token)
        rules[name] = [Choice(one) for one in tokens]
    return rules


def accepts(grammar: str, text: str) -> bool:
    """Whether the grammar makes exactly this text."""
    rules = read_grammar(grammar)
    waiting = [("root", 0)]
    seen = set(waiting)
    while waiting:
        rule, at = waiting.pop()
        for choice in rules[rule]:
            length = choice.length_at(text, at)
            if length and choice.rule is None and at + length == len(text):
                return True
            on = (choice.rule, at + length)
            if length and choice.rule and on not in seen:
                seen.add(on)
                waiting.append(on)
    return False


def under_grammar(grammar: str, wish: str) -> str:
    """What comes of a wish if only what the grammar allows can be drawn."""
    rules = read_grammar(grammar)
    first, = rules["root"]
    said, rule, at = first.literal, first.rule, 0
    while rule:
        fitting = [c for c in rules[rule] if at < len(wish) and c.length_at(wish, at)]
        fitting.sort(key=lambda choice: len(choice.literal), reverse=True)
        if fitting:
            taken = fitting[0]
            length = taken.length_at(wish, at)
            said += wish[at:at + length]
            at += length
        elif at < len(wish):
            at += 1                              # it cannot be said
            continue
        else:
            taken = the_rest(rules[rule])
            said += taken.literal
        rule = taken.rule
    return said


def the_rest(choices: list[Choice]) -> Choice:
    """Towards the end, when nothing more is wished: the end, or what must still be said."""
    def rank(choice: Choice) -> tuple[bool, bool, int]:
        return choice.rule is None, not choice.literal.startswith("{"), len(choice.literal)
    return max(choices, key=rank)


def under_schema(form: dict[str, Any], wish: str) -> str:
    """The wish if it fits the schema, else the least that does."""
    reply = form["properties"]["reply"]
    if "enum" in reply:
        wish = reply["enum"][0]
    elif not re.search(reply["pattern"], wish):
        free = re.compile(r"\(\?:\[\^\{\}\]\|.*?\)\\\}\)\*|\[\^\{\}\]\*")
        wish = re.sub(r"\\(.)", r"\1", free.sub(" ", reply["pattern"][1:-1]))
        assert re.search(reply["pattern"], wish)
    return json.dumps({"reply": wish})


def enforcing(wish: Callable[[dict], str], *ways: str) -> Callable[[dict], str]:
    """An answerer for a HostileServer whose model wishes to say `wish(request)`.

    ways  what the server enforces: "grammar", "schema"; other fields are ignored
    """
    def answer(body: dict[str, Any]) -> str:
        asked = body.get("structured_outputs", {})
        if "grammar" in ways and "grammar" in asked:
            return under_grammar(asked["grammar"], wish(body))
        form = body.get("response_format", {}).get("json_schema")
        if "schema" in ways and form:
            return under_schema(form["schema"], wish(body))
        return json.dumps({"reply": wish(body)})
    return answer
