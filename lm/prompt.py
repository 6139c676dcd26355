"""The messages that a real language model is given: it has learned English, and nothing of a shop.

    system   what is always the same: the task, and what no reply may say
    shown    two exchanges of the training split, each put as the task is put below
    earlier  what was said before, to a single agent
    task     the customer's words, the facts, and what to do: each skill by an example

What is the same for all states comes first, so that a batch reads it once.  Only facts that a
reply may need are told: of candidates that nothing contradicts, and that the chosen skills state.
Models built here read fewer tokens (reader.py).  Knows no tokenizer: texts in, messages out.
Exercise: leave out the examples, and compare the reply to one request with and without them."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data import SLOT, Dialogue, Request, Skill, base, best_candidate, fit_of, sayable, slots
from infra.files import read_json, write_json
from lm.constraints import Constraints, demanded

Message = dict[str, str]
Exchange = tuple[Request, str]
Quote = Callable[[str], str]
SHOWN = 2                                        # exchanges
SHOWN_FILE = "shown.json"                        # of a saved agent
TASK = (
    "You are a customer service agent. Answer the customer in one short message that does what is "
    "asked, in that order. Write facts by their name in braces, as in {price_1}."
)
ALONE = (
    "You are a customer service agent. Answer the customer in one short message. "
    "Write facts by their name in braces, as in {price_1}."
)

DECIDE = (
    "Begin with your decision: <chat>, or <voucher> to issue the one voucher of a dialogue, which "
    "costs money. Only after <voucher> may you say that a voucher is issued, and then you must."
)


def shown_exchanges(dialogues: Iterable[Dialogue]) -> tuple[Exchange, ...]:
    """The first turns of training dialogues that show most: replies with a slot, in words of
    several skills, none of which was shown before."""
    found: list[Exchange] = []
    seen: set[str] = set()
    spare: list[Exchange] = []
    for dialogue in dialogues:
        for turn in dialogue.turns:
            if len(found) == SHOWN:
                return tuple(found)
            if not turn.reply:
                continue
            skills = turn.skills or ()
            exchange = Request(turn.user, skills, turn.context), turn.reply
            if slots(turn.reply) and len(skills) > 1 and not seen.intersection(skills):
                found.append(exchange)
                seen.update(skills)
            elif len(spare) < SHOWN:
                spare.append(exchange)
    return tuple((found + spare)[:SHOWN])


def read_shown(file: Path) -> tuple[Exchange, ...]:
    """The exchanges that `write_shown` kept."""
    found = []
    for kept in read_json(file):
        asked = Request(kept["user"], tuple(kept["skills"]), kept["context"])
        found.append((asked, kept["reply"]))
    return tuple(found)


def write_shown(file: Path, shown: Sequence[Exchange]) -> None:
    rows = []
    for asked, reply in shown:
        row = {"user": asked.user, "skills": asked.skills, "context": asked.context}
        rows.append(row | {"reply": reply})
    write_json(file, rows)


class Prompter:
    """Puts requests into messages, in the words of one shop."""

    def __init__(self, skills: Mapping[str, Skill], must_not_say: Sequence[str], quote: Quote,
                 soft: bool):
        """
        quote  makes foreign text harmless
        soft   nothing enforces the constraints, so the prompt asks for them
        """
        self.skills = skills
        self.must_not_say = must_not_say
        self.quote = quote
        self.soft = soft
        # False: a pool, as of logs, that does not say which skill states what.
        self.names_facts = any(map(facts_of, skills.values()))

    def messages(self, request: Request, constraints: Constraints,
                 shown: Sequence[Exchange]) -> list[Message]:
        """The messages of a request; the last one is the customer's."""
        found = [_message("system", self._system(request))]
        for asked, reply in shown:
            if not request.skills:
                asked = replace(asked, skills=())
            found.append(_message("user", self._task(asked, None)))
            found.append(_message("assistant", self.quote(reply)))
        for user, reply in request.history:
            found.append(_message("user", self.quote(user)))
            found.append(_message("assistant", self.quote(reply)))
        found.append(_message("user", self._task(request, constraints)))
        return found

    def _system(self, request: Request) -> str:
        lines = [TASK if request.skills else ALONE]
        if request.decisions:
            lines.append(DECIDE)
        if self.must_not_say:
            lines.append(f"Never say: {'; '.join(self.must_not_say)}")
        return "\n".join(lines)

    def _task(self, request: Request, constraints: Constraints | None) -> str:
        """The customer's words and what to do.

        constraints  of the request; None: of an exchange that is shown
        """
        context = request.context
        chosen = [self.skills[name] for name in request.skills]
        lines = [f"Customer: {self.quote(request.user)}"]
        if request.intent or request.emotion:
            intent = request.intent or "unknown"
            lines.append(f"Intent: {intent}, emotion: {request.emotion or 'unknown'}")
        facts = needed_facts(context, self._stated(chosen))
        told = [f"{name} = {self.quote(str(context[name]))}" for name in facts]
        lines.append(f"Facts: {', '.join(told) or 'none'}")
        if chosen:
            words = [_asked(skill, context) for skill in chosen]
            lines.append(f"Say: {' '.join(words)}")
        if constraints and self.soft:
            own = [p for p in constraints.must_not_say if p not in self.must_not_say]
            if own:
                lines.append(f"Never say: {'; '.join(own)}")
        return "\n".join(lines)

    def _stated(self, chosen: Sequence[Skill]) -> set[str] | None:
        """The facts that these skills state; None: it may be any."""
        if not chosen or not self.names_facts:
            return None
        return set().union(*map(facts_of, chosen))


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _asked(skill: Skill, context: Mapping[str, str]) -> str:
    """What a skill asks for: an example, or its description in brackets, and what it must say.

    >>> price = Skill("price", "", ("It costs {price}.",), ("Tax included.",))
    >>> _asked(price, {"price_1": "3", "fit_1": "no", "price_2": "4", "fit_2": "yes"})
    'It costs {price_2}. Tax included.'
    >>> _asked(Skill("greet", "Welcome the customer."), {})
    '(Welcome the customer.)'
    """
    must_say = demanded(skill, context)
    asked = f"({skill.description or skill.id})"
    if must_say != skill.must_say:
        return " ".join(must_say)                # in place of a fact that B_t lacks
    if skill.examples:
        asked = _of_candidate(skill.examples[0], context)
    return " ".join([asked, *must_say])


def _of_candidate(example: str, context: Mapping[str, str]) -> str:
    """An example's slots with the number of the candidate that fits, as far as B_t has them."""
    number = best_candidate(context)

    def numbered(match) -> str:
        name = f"{match[1]}_{number}"
        return f"{{{name}}}" if name in context else match[0]

    return SLOT.sub(numbered, example)


def facts_of(skill: Skill) -> set[str]:
    """The facts that a skill states, by its record: "price", without a candidate's number."""
    found = set(skill.needs)
    for example in skill.examples:
        found.update(map(base, slots(example)))
    return found


def needed_facts(context: Mapping[str, str], stated: Collection[str] | None) -> list[str]:
    """Names of B_t that a reply which states these facts may need, in the order of B_t.

    stated  None: it may be any.  Of candidates that something contradicts, nothing is needed; what
            no reply may say is for the agent to read, and stays

    >>> context = {"price_1": "3", "eta_1": "Friday", "fit_1": "yes", "price_2": "4", "fit_2": "no"}
    >>> needed_facts(context, {"price"})
    ['price_1']
    """
    found = []
    for name in context:
        if sayable(name):
            needed = stated is None or base(name) in stated
            needed = needed and fit_of(name, context) != "no"
        else:
            needed = name.startswith("_")
        if needed:
            found.append(name)
    return found
