"""A simulated customer to watch: the same customer every time, and no memory on the server.

A request names the customer and holds the replies given so far; the talk is played again up to
there, which takes milliseconds.  What comes with the next message, the teacher's skills and the
mood, is for people to see: the pair is never told."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data import Dataset
from serving.wire import Refused
from tse import tse

MOST_CUSTOMERS = 10_000


def look(value: Mapping[str, Any], dataset: Dataset, tse_gamma: float) -> dict[str, Any]:
    """What customer `value["customer"]` says after the replies `value["replies"]`.

    tse_gamma  decay of Eq. 11
    raises     Refused
    """
    if dataset.environment is None:
        raise Refused(404, f"{dataset.name} has no simulated customers; its logs are replayed")
    number, replies = _asked(value)
    customer = dataset.environment("test", number, 0)
    seen = customer.reset()
    for turn, reply in enumerate(replies):
        if seen.terminated or seen.truncated:
            raise Refused(400, f"replies: the dialogue was over after {turn} of {len(replies)}")
        seen = customer.step(reply)
    outcome = seen.outcome
    over = seen.terminated or seen.truncated
    return {
        "customer": number,
        "message": seen.user,
        "over": over,
        "success": outcome.success,
        "teacher": None if over else list(seen.labels.teacher or ()),
        "truth": {"intent": seen.labels.intent, "emotion": seen.labels.emotion},
        "mood": outcome.mood,
        "completed": list(outcome.completed),
        "tse": tse(outcome.completed, gamma=tse_gamma),
    }


def _asked(value: Mapping[str, Any]) -> tuple[int, list[str]]:
    number, replies = value.get("customer"), value.get("replies", [])
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MOST_CUSTOMERS:
        raise Refused(400, f"customer: must be a number from 0 to {MOST_CUSTOMERS - 1}")
    if not isinstance(replies, list) or not all(isinstance(reply, str) for reply in replies):
        raise Refused(400, "replies: must be a list of strings, what the agent said so far")
    return number, replies
