"""A hosted model as agent of the food-delivery store: a decision first, then words.

The prompted models of InteractCS-RL's table serve alone: they read the talk and what the shop
knows, decide (chat, or the one voucher of a dialogue), and write.  Nothing is enforced while they
write, so FR is measured: a second voucher is a format error, and words that promise one beside
"chat" are a lie that the customer feels.  Where the decision is voucher and the customer would not
hear that from the words, the store adds its own sentence, as it does for our own language model
(lm/deciding.py).  An answer that never comes is an empty reply without a decision, and counted.
Try it:  python -m hosted.deciding        the request of a first turn, and two answers; no network
Exercise: ask for the words first.  How often do words and decision disagree?"""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from data import DECISION, DECISIONS, DataError, Dataset, Prepared, Reply, Request, load
from hosted.agents import (
    AGENT_END,
    AGENT_TASK,
    FACTS_RULE,
    HostedAgent,
    Messages,
    messages,
    one_line,
    show,
)
from hosted.judge import DATA_RULE, spoken
from infra.answers import Answer, parse_json
from infra.client import Client
from text import with_decision

RULES = (
    "Find out what happened before you settle anything. No money is ever paid back: decline a "
    "refund clearly where one is wished for. A voucher costs the shop money, and vouchers for more "
    "than 30 of 100 customers are too many: give one where it is worth most, once the cause is "
    "clear, after the customer agreed to it, and never where nothing went wrong."
)
MAY = (
    'Decide first. "voucher" issues the one voucher of this dialogue, and your words have to say '
    'so; "chat" issues nothing, and your words must not say that anything was issued. You may '
    "offer a voucher in a chat."
)
MAY_NOT = (
    'The voucher of this dialogue was issued already (_voucher in facts). Decide "chat"; a second '
    "voucher breaks the shop's rules."
)
ANSWER = (
    "Reply in the customer's language, in at most 50 words. Answer with one JSON object and "
    'nothing else: {"decision": "chat" or "voucher", "reply": "<your reply>"}'
)
Decided = tuple[str, str]                        # decision, words


class DecidingAgent(HostedAgent):
    """A hosted `gopo.Speaker` that decides before it speaks.

    raises  DataError where a dataset has no such decision
    """

    def __init__(self, client: Client, dataset: Dataset, **more: Any):
        if DECISION not in dataset.skills or dataset.offers is None:
            raise DataError(
                f"--api: {dataset.name} has no voucher to decide on; use eval.py --cs_agent there")
        super().__init__(client, dataset, **more)
        skill = dataset.skills[DECISION]
        heard = [text for text in skill.examples if DECISION in dataset.offers(text, {})]
        self.sentence = " ".join([heard[0], *skill.must_say])

    def read(self, answer: Answer) -> Decided:
        """(decision, words); ValueError unless the answer is the whole form."""
        found = parse_json(answer.text, {"decision": _decision, "reply": one_line})
        return found["decision"], found["reply"]

    def prompt(self, prepared: Prepared) -> Messages:
        request = prepared.request
        may = MAY if "voucher" in request.decisions else MAY_NOT
        rule = DATA_RULE.format(task="answer")
        lines = [AGENT_TASK, RULES, rule, *self._sop(prepared), FACTS_RULE, may, ANSWER]
        # perception of ours is not the model's business
        known = {"customer": request.user, "facts": request.context}
        return messages(lines, spoken(request.history) | known, AGENT_END)

    def _reply(self, found: Decided | None, request: Request) -> Reply:
        if not found:
            return Reply("")
        decision, words = found
        words = self._with_slots(words, request)
        if decision == "voucher" and DECISION not in self.dataset.offers(words, request.context):
            words = f"{words} {self.sentence}"
        return Reply(words, decision=decision, tagged=with_decision(decision, words))


def _decision(value: Any) -> str:
    if value not in DECISIONS:
        raise ValueError(f"decision is {value!r:.40}, not one of {', '.join(DECISIONS)}")
    return value


def main() -> None:
    shop = load("fds")
    turn = shop.test[0].turns[0]
    request = Request(turn.user, (), turn.context | {"_voucher": "none"}, decisions=DECISIONS)
    agent = DecidingAgent(SimpleNamespace(model="offline"), shop)
    show("agent of the food-delivery store", agent.prompt(agent.prepare([request])[0]))
    print("===== what becomes of an answer")
    for text in (
        '{"decision": "voucher", "reply": "There you are."}',
        '{"decision": "chat", "reply": "What went wrong?"}',
    ):
        print(f"{text}\n  -> {agent._reply(agent.read(Answer(text)), request).tagged!r}")


if __name__ == "__main__":
    main()
