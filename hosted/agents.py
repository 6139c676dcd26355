"""Any hosted model as Customer Service Agent or as Expert (the paper's Tables 2, 3, 6, 7).

`HostedAgent` writes replies from s^A_t = (U_t, a^E_t, B_t).  The SOP that the skills compile to
stands in its prompt: these are *soft* constraints.  Where the server can enforce them while it
decodes (hosted/enforced.py), the request carries them as well.  In any case eval.py counts what a
reply breaks.  Values of B_t in its text become slots again, so that its replies compare with those
of the local agents.  A fact that it invents is no slot: only the customer and a judge can notice
it.

`HostedExpert` chooses skills from s^E_t = (H_t, u_t, e_t, a^E_{t-1}) and U_t; like the local Expert
it never sees B_t.  The local one reads the probabilities of all intents and emotions, a hosted one
the most probable of each.

An answer that never comes is an empty reply or an empty sequence, counted in `unanswered`.
Requests, retries and the cache are infra/client.py.
Try it:  python -m hosted.agents        both prompts, and what becomes of an answer; no network
Exercise: leave the SOP out of `HostedAgent.prompt` and compare the violations that eval.py counts.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from data import (
    MAX_SKILLS,
    SLOT,
    Dataset,
    Prepared,
    Reply,
    Request,
    Skill,
    best_candidate,
    delexicalise,
    load,
)
from expert import ExpertState
from hosted.enforced import fields_for
from hosted.judge import DATA_RULE, dumps, quoted, record, spoken
from infra.answers import Answer, parse_json
from infra.client import Client
from infra.places import next_turn
from lm.constraints import prepare_plain
from perception import Perception

# of an answer; a reply needs about 60 tokens, a model that thinks aloud more [ours]
MAX_TOKENS = 512
Messages = list[dict[str, str]]


# --- the Customer Service Agent ------------------------------------------------------------------

AGENT_TASK = (
    "You are the customer service agent of a shop. Write the agent's next reply to the customer."
)
FACTS_RULE = (
    "State no facts but those in the field facts of the data, by value or by name in braces, as in "
    "{price_1}. Several candidates are numbered; fit_N says whether candidate N fits what the "
    "customer said. fit_N and names that begin with _ are for you, never to be said. In history a "
    "name in braces stands for a fact told then."
)
AGENT_ANSWER = (
    "Reply in the customer's language, in at most 50 words. "
    'Answer with one JSON object and nothing else: {"reply": "<your reply>"}'
)
AGENT_END = "The data ends here. Write the reply: the JSON object alone."


class HostedAgent:
    """A `gopo.Speaker` that asks a server.  Nothing here learns."""

    def __init__(self, client: Client, dataset: Dataset, max_tokens: int = MAX_TOKENS,
                 enforced: str | None = None):
        """enforced: how the server enforces the rules of a turn (`enforced_by`); None: it does not
        """
        self.enforced = enforced
        self.client = client
        self.dataset = dataset
        self.max_tokens = max_tokens
        self.unanswered = 0

    def generate(self, requests: Sequence[Request], *how: Any) -> list[list[Reply]]:
        """`speak`, for requests that are not prepared yet."""
        return self.speak(self.prepare(requests), *how)

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        return prepare_plain(requests, self.dataset.skills, self.dataset.must_not_say)

    def speak(self, prepared: Sequence[Prepared], group: int = 1,
              temperature: float | None = None, generator: Any = None) -> list[list[Reply]]:
        """`group` replies to each request.

        temperature  None or 0: the most probable reply, asked for once and given `group` times
        generator    not used: a server draws by itself; sample j of a group is asked with seed j
        """
        requests = [p.request for p in prepared]
        if not temperature:
            texts = self._ask(prepared, 0.0, None)
            return [[self._reply(text, r)] * group for text, r in zip(texts, requests)]
        samples = [self._ask(prepared, temperature, seed) for seed in range(group)]
        replies = []
        for request, texts in zip(requests, zip(*samples)):
            replies.append([self._reply(text, request) for text in texts])
        return replies

    def read(self, answer: Answer) -> Any:
        """What an answer says; ValueError if it is no answer."""
        return read_reply(answer)

    def _ask(self, prepared: Sequence[Prepared], temperature: float,
             seed: int | None) -> list[Any]:
        """What was answered in each turn; None where no usable answer came."""
        prompts = [self.prompt(p) for p in prepared]
        names = [p.request.where for p in prepared]
        more = {}
        if self.enforced:
            more["more"] = [fields_for(self.enforced, p.constraints) for p in prepared]
        texts = self.client.ask(prompts, self.read, max_tokens=self.max_tokens,
                                temperature=temperature, seed=seed, names=names, **more)
        self.unanswered += texts.count(None)
        return texts

    def _reply(self, text: str | None, request: Request) -> Reply:
        if not text:
            return Reply("")
        return Reply(self._with_slots(text, request))

    def prompt(self, prepared: Prepared) -> Messages:
        """The SOP of this turn as instructions; H_t, U_t and B_t as data."""
        rule = DATA_RULE.format(task="answer")
        request = prepared.request
        lines = [AGENT_TASK, rule, *self._sop(prepared), FACTS_RULE, AGENT_ANSWER]
        data = spoken(request.history) | self._known(request)
        return messages(lines, data, AGENT_END)

    def _sop(self, prepared: Prepared) -> list[str]:
        """The hard constraints of Sec. 3.2 in words; all skills where an Expert chose none."""
        pool = self.dataset.skills
        request, rules = prepared.request, prepared.constraints
        chosen = [pool[name] for name in request.skills]
        if chosen:
            lines = ["Carry out these skills, in this order, and nothing else:"]
            skills = [with_examples(skill, request.context) for skill in chosen]
        else:
            lines = ["Carry out what fits of the shop's skills:"]
            skills = [with_rules(skill) for skill in pool.values()]
        lines += [f"{i}. {skill}" for i, skill in enumerate(skills, 1)]
        lines += [f"Say word for word: {dumps(phrase)}" for phrase in rules.must_say]
        lines += [f"Never say: {dumps(phrase)}" for phrase in rules.must_not_say]
        return lines

    def _known(self, request: Request) -> dict[str, Any]:
        known: dict[str, Any] = {"customer": request.user}
        if request.intent:
            known["intent"] = request.intent
        if request.emotion:
            known["emotion"] = request.emotion
        return known | {"facts": request.context}

    def _with_slots(self, text: str, request: Request) -> str:
        """Values of B_t become slots, but not inside what has to be said word for word."""
        fixed: list[str] = []
        for name in request.skills:
            fixed += self.dataset.skills[name].must_say
        if not fixed:
            return delexicalise(text, request.context, ignore_case=True)
        phrases = "|".join(map(re.escape, fixed))
        pieces = re.split(f"({phrases})", text, flags=re.IGNORECASE)
        for i in range(0, len(pieces), 2):  # the phrases themselves are at the odd places
            pieces[i] = delexicalise(pieces[i], request.context, ignore_case=True)
        return "".join(pieces)


def with_examples(skill: Skill, context: dict[str, str]) -> str:
    """A chosen skill, with two examples in this turn's slots; what it must say stands elsewhere."""
    line = f"{skill.id}: {skill.description}"
    if not skill.examples:
        return line
    examples = [_numbered(example, context) for example in skill.examples[:2]]
    return f"{line}  For example: {dumps(examples)}"


def _numbered(example: str, context: dict[str, str]) -> str:
    """"{price}" of an example as "{price_2}", the slot of this turn's best candidate."""
    candidate = "_" + best_candidate(context)

    def slot(match: re.Match) -> str:
        numbered = match[1] + candidate
        return f"{{{numbered}}}" if numbered in context else match[0]

    return SLOT.sub(slot, example)


def with_rules(skill: Skill) -> str:
    """A skill of the pool, with what it must and must not say."""
    line = f"{skill.id}: {skill.description}"
    for name, phrases in record(skill, {}).items():
        if name.startswith("must"):
            line += f"  {name}: {dumps(phrases)}"
    return line


def messages(instructions: Sequence[str], data: dict[str, Any], end: str) -> Messages:
    """A system message, and a user message that holds nothing but quoted data and its end."""
    return [
        {"role": "system", "content": "\n".join(instructions)},
        {"role": "user", "content": f"{quoted(data)}\n{end}"},
    ]


def read_reply(answer: Answer) -> str:
    """The text of {"reply": ".."} on one line; ValueError if it holds no word."""
    return parse_json(answer.text, {"reply": one_line})["reply"]


def one_line(value: Any) -> str:
    """A field of an answer that has to hold words."""
    if not isinstance(value, str) or not re.search(r"\w", value):
        raise ValueError(f"reply is {value!r:.40}, not a text with words")
    return " ".join(value.split())


# --- the Expert ----------------------------------------------------------------------------------

EXPERT_TASK = (
    "You plan for a customer service agent. Choose the skills with which the agent answers the "
    "customer's message now, in the order it should use them: as few as the message needs, "
    f"at most {MAX_SKILLS}, none twice. Someone else writes the reply and knows the facts."
)
EXPERT_RULE = (
    DATA_RULE.format(task="plan from")
    + " perceived_intent and perceived_emotion are a classifier's and may be wrong."
)
EXPERT_ANSWER = 'Answer with one JSON object and nothing else: {"skills": ["<id>", ...]}'
EXPERT_END = "The data ends here. Choose the skills: the JSON object alone."


class HostedExpert:
    """A `gopo.Choose` that asks a server: at most five different skills of the pool, in order."""

    def __init__(self, client: Client, dataset: Dataset, perception: Perception | None = None,
                 history: int | None = None):
        self.client = client
        self.dataset = dataset
        self.perception = perception
        self.history = dataset.history if history is None else history
        self.unanswered = 0

    def __call__(self, states: Sequence[ExpertState],
                 episodes: Sequence[Any] = ()) -> list[tuple[str, ...]]:
        perceived: list[tuple[str | None, str | None]] = [(None, None)] * len(states)
        if self.perception and states:
            perceived = self.perception.perceive([state.user for state in states])
        prompts = [self.prompt(state, *labels) for state, labels in zip(states, perceived)]
        chosen = self.client.ask(prompts, self.read, max_tokens=MAX_TOKENS, temperature=0.0,
                                 names=[next_turn(episode) for episode in episodes])
        self.unanswered += chosen.count(None)
        return [skills or () for skills in chosen]

    def prompt(self, state: ExpertState, intent: str | None = None,
               emotion: str | None = None) -> Messages:
        """The pool as instructions; s^E_t as data."""
        pool = [f"- {skill.id}: {skill.description}" for skill in self.dataset.skills.values()]
        lines = [EXPERT_TASK, EXPERT_RULE, "Skills:", *pool, EXPERT_ANSWER]
        first = max(0, len(state.history) - self.history)
        data = spoken(state.history[first:]) | {"customer": state.user}
        if intent:
            data["perceived_intent"] = intent
        if emotion:
            data["perceived_emotion"] = emotion
        data["skills_of_the_turn_before"] = list(state.previous)
        return messages(lines, data, EXPERT_END)

    def read(self, answer: Answer) -> tuple[str, ...]:
        """The sequence of {"skills": [..]}; ValueError if it is none."""
        return parse_json(answer.text, {"skills": self._sequence})["skills"]

    def _sequence(self, value: Any) -> tuple[str, ...]:
        return skill_sequence(value, self.dataset.skills)


def skill_sequence(value: Any, pool: Any) -> tuple[str, ...]:
    """A list of at most five different ids of the pool; ValueError otherwise.

    >>> skill_sequence(["greet"], {"greet"})
    ('greet',)
    """
    if not isinstance(value, list) or not all(isinstance(s, str) and s in pool for s in value):
        raise ValueError(f"skills {value!r:.80} is no list of ids of the pool")
    if len(value) > MAX_SKILLS or len(set(value)) < len(value):
        raise ValueError(f"skills {value!r:.80}: more than {MAX_SKILLS}, or one twice")
    return tuple(value)


def show(title: str, prompt: Messages) -> None:
    print(f"===== {title}")
    for message in prompt:
        print(f"--- {message['role']}\n{message['content']}")


def main() -> None:
    """Both prompts for the first turn of a dialogue, and two answers as they are read."""
    shop = load("mgshop")
    turn = shop.test[0].turns[0]
    request = Request(turn.user, turn.skills, turn.context)
    agent = HostedAgent(None, shop)
    planner = HostedExpert(None, shop)
    show("Customer Service Agent", agent.prompt(agent.prepare([request])[0]))
    show("Expert", planner.prompt(ExpertState(turn.user), turn.intent, turn.emotion))

    print("===== what becomes of an answer")
    answer = Answer('{"reply": "I am sorry about order 5880. You get 75 euros back."}')
    print(f"{answer.text}\n  -> {agent._with_slots(read_reply(answer), request)!r}")
    answer = Answer('{"skills": ["apologise", "confirm_order"]}')
    print(f"{answer.text}\n  -> {planner.read(answer)}")


if __name__ == "__main__":
    main()
