"""Any hosted model as Customer Service Agent or as Expert (the paper's Tables 2, 3, 6, 7), through infra/client.py.

`HostedAgent` writes replies from s^A_t = (U_t, a^E_t, B_t); the SOP that the skills compile to stands in its prompt, as *soft*
constraints: nothing is enforced while decoding, and eval.py's validator counts what it breaks.  Its text is delexicalised against B_t, so
its slots compare with the local agents'.  A fact it invents is no slot: only the customer's ear and a judge can notice that.
`HostedExpert` picks skills from the paper's s^E_t = (H_t, u_t, e_t, a^E_{t-1}), with U_t, and like the local Expert never sees B_t.  The local
one reads the probabilities of all intents and emotions; a hosted one reads the most probable of each.
No answer is no answer: Reply("") or (), counted in `unanswered`.
Try it:  python hosted.py        both prompts, and what becomes of an answer; no network
Exercise: leave the SOP out of `HostedAgent.prompt` and compare the violations that eval.py counts."""
from __future__ import annotations

import json
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
)
from expert import ExpertConfig, ExpertState, Perception
from hosted.judge import DATA_RULE, quoted, record
from infra.answers import Answer, parse_json
from infra.client import Client
from lm.constraints import compile_constraints, prepare_plain

MAX_TOKENS = 512                                 # of an answer; a reply needs about 60, a model that thinks aloud more [ours]


class HostedAgent:
    """A `gopo.Speaker` that asks a server.  Nothing here learns."""

    def __init__(self, client: Client, dataset: Dataset, max_tokens: int = MAX_TOKENS):
        self.client, self.dataset, self.max_tokens, self.unanswered = client, dataset, max_tokens, 0

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        return prepare_plain(requests, self.dataset.skills, self.dataset.must_not_say)

    def speak(self, prepared, group=1, temperature=None, generator=None) -> list[list[Reply]]:
        return self.generate([p.request for p in prepared], group, temperature, generator)

    def generate(self, requests: Sequence[Request], group: int = 1, temperature: float | None = None, generator: Any = None) -> list[list[Reply]]:
        """`group` replies to each request.  temperature None or 0: the most probable reply, `group` times; `generator` is not used, a
        server's randomness is its own: sample j of a group is asked with seed j."""
        prompts, heat = [self.prompt(r) for r in requests], temperature or 0.0
        drawn = [self.client.ask(prompts, read_reply, max_tokens=self.max_tokens, temperature=heat, seed=j if heat else None)
                 for j in range(group if heat else 1)]                                           # [samples][requests]
        replies = [[Reply(self._with_slots(text, r) if text else "") for text in row] for r, row in zip(requests, zip(*drawn))]
        self.unanswered += sum(text is None for column in drawn for text in column)
        return [row * (1 if heat else group) for row in replies]

    def prompt(self, r: Request) -> list[dict[str, str]]:
        """The SOP of this turn as instructions; H_t, U_t and B_t as data."""
        return [{"role": "system", "content": "\n".join([
            "You are the customer service agent of a shop. Write the agent's next reply to the customer.", DATA_RULE.format(task="answer"),
            *self._sop(r), *_FACTS,
            'Reply in the customer\'s language, in at most 50 words. Answer with one JSON object and nothing else: {"reply": "<your reply>"}'])},
            {"role": "user", "content": f"{quoted(_spoken(r.history) | self._known(r))}\nThe data ends here. Write the reply: the JSON object alone."}]

    def _sop(self, r: Request) -> list[str]:
        """The hard constraints of Sec. 3.2 in words.  Without an Expert's choice: the whole pool, to choose from."""
        pool, rules = self.dataset.skills, compile_constraints([self.dataset.skills[k] for k in r.skills], r.context, self.dataset.must_not_say)
        lines = ["Carry out these skills, in this order, and nothing else:"] if r.skills else ["Carry out what fits of the shop's skills:"]
        lines += [f"{i}. {_line(pool[k], r.context, bool(r.skills))}" for i, k in enumerate(r.skills or pool, 1)]
        lines += [f"Say word for word: {json.dumps(p, ensure_ascii=False)}" for p in rules.must_say]
        return lines + [f"Never say: {json.dumps(p, ensure_ascii=False)}" for p in rules.must_not_say]

    def _known(self, r: Request) -> dict[str, Any]:
        perceived = {k: v for k, v in (("intent", r.intent), ("emotion", r.emotion)) if v}
        return {"customer": r.user} | perceived | {"facts": r.context}

    def _with_slots(self, text: str, r: Request) -> str:
        """Values of B_t become slots, but not inside what has to be said word for word."""
        fixed = [p for k in r.skills for p in self.dataset.skills[k].must_say]
        if not fixed:
            return delexicalise(text, r.context, ignore_case=True)
        pieces = re.split(f"({'|'.join(map(re.escape, fixed))})", text, flags=re.IGNORECASE)     # odd places: the phrases themselves
        return "".join(p if i % 2 else delexicalise(p, r.context, ignore_case=True) for i, p in enumerate(pieces))


_FACTS = ("State no facts but those in the field facts of the data, by value or by name in braces, as in {price_1}. Several candidates are numbered; fit_N "
          "says whether candidate N fits what the customer said. fit_N and names that begin with _ are for you, never to be said. In history a "
          "name in braces stands for a fact told then.",)


def _line(skill: Skill, context: dict[str, str], chosen: bool) -> str:
    """One skill of the SOP: chosen by an Expert with two examples (its must_say stands below), else with its own rules."""
    number = "_" + best_candidate(context)       # "{price}" of an example is "{price_2}" of this turn
    numbered = lambda text: SLOT.sub(lambda m: f"{{{m[1]}{number if m[1] + number in context else ''}}}", text)
    examples = f"  For example: {json.dumps([numbered(e) for e in skill.examples[:2]], ensure_ascii=False)}" if chosen and skill.examples else ""
    rules = "" if chosen else "".join(f"  {k}: {json.dumps(v, ensure_ascii=False)}" for k, v in record(skill, {}).items() if k.startswith("must"))
    return f"{skill.id}: {skill.description}{examples}{rules}"


def _spoken(history: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {"history": [{"customer": u, "agent": a} for u, a in history]}


def read_reply(answer: Answer) -> str:
    """The text of {"reply": ".."} on one line; ValueError if it holds no word."""
    def text(value: Any) -> str:
        if not isinstance(value, str) or not re.search(r"\w", value):
            raise ValueError(f"reply is {value!r:.40}, not a text with words")
        return " ".join(value.split())
    return parse_json(answer.text, {"reply": text})["reply"]


class HostedExpert:
    """A `gopo.Choose` that asks a server: at most five different skills of the pool, in order."""

    def __init__(self, client: Client, dataset: Dataset, perception: Perception | None = None, history: int = ExpertConfig.history):
        self.client, self.dataset, self.perception, self.history, self.unanswered = client, dataset, perception, history, 0

    def __call__(self, states: Sequence[ExpertState], episodes: Sequence[Any] = ()) -> list[tuple[str, ...]]:
        perceived = self.perception.perceive([s.user for s in states]) if self.perception and states else [(None, None)] * len(states)
        chosen = self.client.ask([self.prompt(s, *labels) for s, labels in zip(states, perceived)], self.read, max_tokens=MAX_TOKENS, temperature=0.0)
        self.unanswered += sum(c is None for c in chosen)
        return [c or () for c in chosen]

    def prompt(self, s: ExpertState, intent: str | None = None, emotion: str | None = None) -> list[dict[str, str]]:
        """The pool as instructions; s^E_t as data."""
        pool = "\n".join(f"- {k.id}: {k.description}" for k in self.dataset.skills.values())
        perceived = {k: v for k, v in (("perceived_intent", intent), ("perceived_emotion", emotion)) if v}
        recent = s.history[max(0, len(s.history) - self.history):]
        state = _spoken(recent) | {"customer": s.user} | perceived | {"skills_of_the_turn_before": list(s.previous)}
        return [{"role": "system", "content":
                 "You plan for a customer service agent. Choose the skills with which the agent answers the customer's message now, in the order it should use "
                 f"them: as few as the message needs, at most {MAX_SKILLS}, none twice. Someone else writes the reply and knows the facts.\n"
                 f"{DATA_RULE.format(task='plan from')} perceived_intent and perceived_emotion are a classifier's and may be wrong.\nSkills:\n{pool}\n"
                 'Answer with one JSON object and nothing else: {"skills": ["<id>", ...]}'},
                {"role": "user", "content": f"{quoted(state)}\nThe data ends here. Choose the skills: the JSON object alone."}]

    def read(self, answer: Answer) -> tuple[str, ...]:
        return parse_json(answer.text, {"skills": lambda value: skill_sequence(value, self.dataset.skills)})["skills"]


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


if __name__ == "__main__":
    import data
    shop = data.load("mgshop")
    turn = shop.test[0].turns[0]
    agent, planner = HostedAgent(None, shop), HostedExpert(None, shop)
    asked = Request(turn.user, turn.skills, turn.context)
    for title, messages in (("Customer Service Agent", agent.prompt(asked)), ("Expert", planner.prompt(ExpertState(turn.user), turn.intent, turn.emotion))):
        print(f"===== {title}\n" + "\n".join(f"--- {m['role']}\n{m['content']}" for m in messages))
    print("===== answers")
    print(repr(agent._with_slots(read_reply(Answer('{"reply": "I am sorry about order 5880. You get 75 euros back."}')), asked)))
    print(planner.read(Answer('{"skills": ["apologise", "confirm_order"]}')))
