"""MORE's rewards by an LLM, as its paper has them: marks from 0 to 2, halved (its Sec. 5.3).

One form a reply asks for NAT, RSN, FID, COV and RUD, as far as they are rewards of the run; RGE,
BLEU and REP stay in code.  The request, its quoting and its answers are those of hosted/judge.py:
where a server gives log-probabilities a mark is the expected one.  The paper's prompts are not
printed; these criteria are ours.
A form that failed leaves its reply unscored as a whole, never 0: marks of rules alone would rank
it among replies that were marked otherwise.
Try it:  python -m systems.more_judge        the request for one reply; no network
Exercise: ask for one criterion a form.  How many requests is a step, and do marks differ?"""
from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from data import Facts, Judged
from hosted.judge import EMPTY, OWN_MARK, STEPS, Form, LLMJudge
from systems.more_rewards import DEFAULT, RULES, Marks, RuleRewards

HIGHEST = 2
CRITERIA = {
    "NAT": (
        "whether it sounds like a person on the phone. 0: a machine's stock phrases, or broken; 1: "
        "understandable but stiff; 2: natural, short, spoken to this customer."
    ),
    "RSN": (
        "whether it states what answers the customer, rightly derived from facts and history. 0: "
        "it does not, or the value is wrong; 1: in part; 2: every value asked for, all right. "
        "Nothing asked for and nothing stated is 2."
    ),
    "FID": (
        "whether everything it says is true by facts and by what the customer said. 0: a false "
        "number or claim; 1: something unclear; 2: all true."
    ),
    "COV": (
        "whether it deals with all that the customer asked for in this turn. 0: nothing; 1: in "
        "part; 2: everything."
    ),
    "RUD": (
        "whether its wording is new. 0: says again what earlier_replies say; 1: partly; 2: new "
        "throughout."
    ),
}


def form_of(names: Sequence[str]) -> Form:
    """The form for those of the names that an LLM marks."""
    return Form(
        purpose=f"Your marks are a training signal, so use the whole scale. {EMPTY}",
        low=0,
        high=HIGHEST,
        criteria={name: CRITERIA[name] for name in names if name in CRITERIA},
        steps=(*STEPS, "Compare every number with facts, and compute it where it follows by rule.",
               OWN_MARK),
    )


class LLMRewards:
    """`RuleRewards` with a hosted model for what rules see by form alone.

    judge  whose client is asked, and who words the request
    names  of more_rewards.NAMES, in the order of the marks
    """

    def __init__(self, judge: LLMJudge, names: Sequence[str] = DEFAULT):
        self.judge = judge
        self.names = tuple(names)
        self.form = form_of(names)
        in_code = [name for name in names if name not in CRITERIA]
        self.rules = RuleRewards(in_code) if in_code else None

    def rate(self, items: Sequence[Judged], facts: Sequence[Facts]) -> list[Marks]:
        """The marks of each reply in [0, 1]; all None where its form failed."""
        forms: list[tuple[float, ...] | None] = [()] * len(items)
        if self.form.criteria:
            forms = self._ask(items)
        by_rule: list[Marks] = [()] * len(items)
        if self.rules:
            by_rule = self.rules.rate(items, facts)
        return [self._together(*both) for both in zip(forms, by_rule)]

    def _ask(self, items: Sequence[Judged]) -> list[tuple[float, ...] | None]:
        prompts = [self.judge.prompt(self.form, item) for item in items]
        return self.judge.client.ask(
            prompts, self.form.read, max_tokens=self.judge.max_tokens, temperature=0.0,
            logprobs=True, names=[item.where for item in items])

    def _together(self, form: Sequence[float] | None, by_rule: Marks) -> Marks:
        """In the order of the names."""
        if form is None:
            return (None,) * len(self.names)
        found = {name: mark / HIGHEST for name, mark in zip(self.form.criteria, form)}
        if self.rules:
            found |= dict(zip(self.rules.names, by_rule))
        return tuple(found[name] for name in self.names)


def demo() -> None:
    """The request for a reply with a false number."""
    judge = LLMJudge(SimpleNamespace(model="offline"), {})
    item = Judged("What does 20000 cost for 10 days?", {"_apr": "7.30"}, (), "It is 38.50.")
    for message in judge.prompt(form_of(DEFAULT), item):
        print(f"--- {message['role']}\n{message['content']}")
    in_code = [name for name in RULES if name not in CRITERIA]
    print(f"--- by rule: {', '.join(in_code)}")


if __name__ == "__main__":
    demo()
