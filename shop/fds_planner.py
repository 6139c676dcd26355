"""The planner of the food-delivery store: it knows the hidden type, and does what is due.

It is the teacher of the store, and with another rule for the voucher each reference line of the
bounds: never, whenever it is worth anything, the 30 % to whom it is worth most, ...

Exercise: let it explain the cause before a photo was asked for, and run `python -m shop.fds`."""
from __future__ import annotations

from typing import TYPE_CHECKING

from data import MAX_SKILLS
from shop.agenda import ATTENTION, OPENER

if TYPE_CHECKING:
    from shop.fds_customer import Desk

VOUCHER = "issue_voucher"


def plan(desk: Desk, give: bool, emotion: str | None = None) -> list[str]:
    """The skills of the next reply.

    give     whether this customer is to get a voucher
    emotion  what the planner believes the customer feels (default: the truth)
    """
    felt = emotion or desk.emotion
    said = [OPENER[felt]] if felt in OPENER else []
    step = _before_it_is_clear(desk)
    if step:
        return [*said, step]
    todo = settlement(desk, give)
    room = min(ATTENTION[desk.persona.style], MAX_SKILLS - len(said))
    said += todo[:room]
    if todo[room:] or "propose_voucher" in said:
        # more is to come, or the customer has to answer first
        return said
    return [*said, "close"]


def _before_it_is_clear(desk: Desk) -> str | None:
    """The next step towards the cause; None once it is clear."""
    case = desk.case
    if not case.matched:
        ambiguous = desk.need.hidden and _fitting(desk) > 1
        return "ask_details" if ambiguous else "confirm_order"
    if not case.told:
        return "state_report"
    if not case.settled:
        return "ask_photo"
    return None if case.clear else "explain_cause"


def _fitting(desk: Desk) -> int:
    """How many candidates of B_t contradict nothing said so far."""
    flags = [value for slot, value in desk.context.items() if slot.startswith("fit_")]
    return flags.count("yes")


def settlement(desk: Desk, give: bool) -> list[str]:
    """What is left to do once the cause is clear."""
    case = desk.case
    todo = []
    if case.agreed and not case.issued:
        todo.append(VOUCHER)
    if desk.hidden.wants_refund and not case.declined:
        todo.append("decline_refund")
    if not case.passed:
        todo.append("pass_on")
    if give and not case.proposed and not case.issued:
        todo.append("propose_voucher")
    return todo
