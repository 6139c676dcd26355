"""The planner of the food-delivery store: it knows the hidden type, and does what is due.

It is the teacher of the store, and with another rule for the voucher each reference line of the
bounds: never, whenever it is worth anything, the 30 % to whom it is worth most, ...

Exercise: let it explain the cause before a photo was asked for, and run `python -m shop.fds`."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from data import MAX_SKILLS
from shop.agenda import ATTENTION, OPENER, Need, Persona
from shop.fds_person import Hidden

VOUCHER = "issue_voucher"


@dataclass
class Case:
    """How far the matter has come."""
    matched: bool = False                        # the order was named
    told: bool = False                           # the delivery record was read out
    settled: bool = False                        # it is clear whether something went wrong
    explained: bool = False                      # the cause
    clear: bool = False                          # explained; or settled, where nothing went wrong
    wished: bool = False                         # the customer has said the wish
    declined: bool = False                       # the refund
    passed: bool = False                         # the complaint
    proposed: bool = False                       # a voucher
    agreed: bool = False                         # to it: a promise
    issued: bool = False
    closed: bool = False


class AtTheDesk(Protocol):
    """What the planner may look at: everything, of the customer of fds_customer.py."""
    emotion: str
    context: dict[str, str]
    persona: Persona
    hidden: Hidden
    case: Case

    @property
    def need(self) -> Need: ...


def plan(desk: AtTheDesk, give: bool, emotion: str | None = None) -> list[str]:
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


def _before_it_is_clear(desk: AtTheDesk) -> str | None:
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


def _fitting(desk: AtTheDesk) -> int:
    """How many candidates of B_t contradict nothing said so far."""
    flags = [value for slot, value in desk.context.items() if slot.startswith("fit_")]
    return flags.count("yes")


def settlement(desk: AtTheDesk, give: bool) -> list[str]:
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
