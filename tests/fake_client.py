"""A hosted model without a server, for the tests of hosted/judge.py and hosted/agents.py.

This file also holds the shop of these tests, and reads the data back out of a prompt.
"""
import json

from data import Skill
from infra.client import Answer

REFUND = Skill(
    "refund",
    "State what comes back.",
    examples=("You get {refund}.",),
    must_say=("Refunds take five working days.",),
    must_not_say=("guaranteed",),
    needs=("refund",),
)
POOL = {"sorry": Skill("sorry", "Say sorry."), "refund": REFUND}
FACTS = {"refund_1": "39 euros", "fit_1": "no", "refund_2": "20 euros", "fit_2": "yes"}
FORM = '{"quality": 2, "fitness": 4, "compliance": 1, "diversity": 3}'


class Fake:
    """infra.client.Client without a server.

    `answer(messages)` gives a text or an Answer; a refused one is asked for `attempts` times.
    """
    model = "fake"

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def ask(self, prompts, parse, *, max_tokens=256, temperature=0.0, logprobs=False, attempts=2,
            seed=None, names=()):
        how = {"temperature": temperature, "logprobs": logprobs, "seed": seed}
        return [self._one(prompt, parse, attempts, how) for prompt in prompts]

    def losses(self):
        return []

    def _one(self, prompt, parse, attempts, how):
        for _ in range(attempts):
            self.asked.append((prompt, how))
            answer = self.answer(prompt)
            if not isinstance(answer, Answer):
                answer = Answer(answer)
            try:
                return parse(answer)
            except ValueError:
                pass
        return None


def shown(prompt):
    """The data of a prompt, read back, and what stands around it."""
    before, after = prompt[1]["content"].split("\n</data>\n")
    assert before.startswith("<data>\n")
    return json.loads(before.removeprefix("<data>\n")), [prompt[0], before[:7], after]


def strings(value):
    """All strings in a JSON value."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    found = []
    for part in parts:
        found += strings(part)
    return found
