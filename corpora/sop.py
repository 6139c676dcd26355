"""STAR's flow charts (SOPs): what the chart of a task allows next, what it forbids to say yet, and the chart itself as a policy.

A chart is a dict node -> next node.  Its nodes are actions (skills) and BRANCHES: queries, their outcomes, a customer's yes or no.
Charts order actions, they prescribe no wording; `prohibitions` reads from the order which claims of success come too early.
`by_sop` is the row "SOP graph" of baselines.py.  CLAIMS, FAREWELLS and RENAMED are ours, chosen with logs of all domains in view.
Try it:  python sop.py        walks a small chart"""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from data import Dataset

RENAMED = {"plane_ask_departure_city": "ask_departure_location"}     # SOP -> the label that the wizards' tool gave the same question
CLAIMS = {                                       # skill -> what it alone may claim
    "apartment_inform_viewing_available": "still a viewing available", "apartment_inform_booking_successful": "the viewing is scheduled",
    "bank_inform_balance": "your current balance is", "bank_inform_fraud_report_submitted": "successfully submitted",
    "doctor_inform_booking_available": "is available at", "doctor_inform_booking_successful": "is booked for you",
    "hotel_ask_confirm_booking": "ticks all of your boxes", "hotel_reservation_succeeded": "successfully completed this hotel booking",
    "hotel_inform_service_request_successful": "submitted successfully", "meeting_inform_confirmed": "has been successfully scheduled",
    "party_ask_confirm_booking": "would be happy to accommodate", "party_booking_successful": "has been successfully booked",
    "plane_flight_available": "the flight is available", "plane_reservation_succeeded": "your flight is now reserved",
    "restaurant_ask_confirm_booking": "is happy to accommodate", "restaurant_inform_booking_successful": "is confirmed",
    "ride_confirm_booking": "have booked you a ride", "ride_inform_changes_successful": "all changes done",
}

OUTCOMES = {"query": ("query_success", "query_failure"), "query_check": ("available", "unavailable"), "query_book": ("query_success", "query_failure")}
EVENTS = {"query success": ("query", "query_success"), "query failure": ("query_failure", "query"), "check success": ("available", "query_success"),
          "check failure": ("unavailable", "query_failure"), "book success": ("query_book", "query_success"), "book failure": ("query_failure",)}
BRANCHES = {"yes", "no", "available", "unavailable", "query", "query_check", "query_book", "query_success", "query_failure", "info_missing", "info_missing2",
            "correct", "incorrect", "noanswer", "done"}              # nodes of the graphs that are no reply


def follows(graph: Mapping[str, str], node: str) -> list[str]:
    """The nodes after a node.  The files give a node one arrow; those from a query to its outcomes, and from a question to its answers, go without saying."""
    if node in graph:
        return [graph[node]]
    after = OUTCOMES.get(node, () if node == "anything_else" else ("yes", "no"))
    return [n for n in after if n in graph] or ([n for n in OUTCOMES["query"] if n in graph] if node in OUTCOMES else [])


def sop_next(graph: Mapping[str, str], last: str | None = None, event: str = "") -> tuple[str, ...]:
    """The actions that a task's SOP allows after the action `last`; None = the dialogue begins.

    event    what has happened since, if anything: a query with its outcome ("book success"), or a branch of the graph ("yes", "info_missing")
    returns  the replies reached without passing another; () where the graph ends or does not know `last`

    >>> sop_next({"hello": "ask_pin", "ask_pin": "query", "query_success": "balance", "query_failure": "sorry"}, "ask_pin")
    ('balance', 'sorry')
    """
    begin = [n for n in EVENTS.get(event, (event,)) if n in graph][:1] if event else []
    nodes = [graph[n] for n in begin] if begin else ["hello"] if last is None else follows(graph, last)
    allowed: dict[str, None] = {}
    for node in nodes:                           # grows while we walk it; BRANCHES lead only forward
        if node not in BRANCHES:
            allowed[node] = None
        else:
            nodes += [n for n in follows(graph, node) if n not in nodes]
    return tuple(allowed)


def prohibitions(sops: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """must_not_say of each skill: the claims of actions that its SOP puts behind a later query, or on another outcome of the same one."""
    found: dict[str, dict[str, None]] = {}
    for task, graph in sops.items():
        own = [n for n in dict.fromkeys([*graph, *graph.values()]) if n.startswith(task.split("_")[0] + "_")]     # ask_name serves every task
        for claim in (n for n in own if n in CLAIMS):
            sources = [o for o, n in graph.items() if n == claim]
            others = {graph[n] for o in sources for pair in ({"available", "unavailable"}, {"query_success", "query_failure"}) if o in pair
                      for n in pair - {o} if n in graph}
            for skill in own:
                if skill != claim and (skill in others or claim in reachable(graph, skill)):
                    found.setdefault(skill, {})[CLAIMS[claim]] = None
    return {skill: tuple(phrases) for skill, phrases in found.items()}


def reachable(graph: Mapping[str, str], node: str) -> set[str]:
    seen, ahead = set(), follows(graph, node)
    while ahead:
        if (n := ahead.pop()) not in seen:
            seen.add(n)
            ahead += follows(graph, n)
    return seen


YES = re.compile(r"\b(yes|yeah|yep|yup|sure|ok|okay|please|correct|right|go ahead|of course|sounds good|perfect|great|proceed|continue)\b", re.I)
NO = re.compile(r"\b(no|nope|nah|not|don'?t)\b", re.I)
BYE = re.compile(r"\b(bye|goodbye|that'?s (all|it)|that is all|nothing else|have a (good|nice|great))\b", re.I)
THANKS = re.compile(r"\b(thanks|thank you)\b", re.I)
FORGOT = re.compile(r"\b(forg[oe]t|forgotten|lost|no idea|(don'?t|do not|can'?t|cannot|can not|not) (know|remember|recall|have|sure)|unsure)\b", re.I)
FAREWELLS = {"ride": "ride_bye", "spaceship": "spaceship_bye", "trivia": "trivia_bye", "apartment": "goodbye_2", "plane": "goodbye_2"}   # others: goodbye_1
GREETING = re.compile(r"\W*(hi|hello|hey|good (morning|afternoon|evening|day))\b(\W+\w+){0,2}\W*", re.I)


def by_sop(dataset: Dataset) -> Callable[[list, list], list[tuple[str, ...]]]:
    """The SOP as a policy (`gopo.Choose`): one action a turn, by walking the active task's graph.

    It reads U_t, `_task` and `_query` of B_t, and the *logged* labels of the turns before, so it stands where the human stood (the Expert
    has its own a_{t-1} instead, and no B_t).  Of what customers say it knows a greeting, yes, no, "I forgot", a quiz answer, goodbye, by
    a few words each; no details, so it asks for what was told in advance.  No weight is learned, but we chose those words, FAREWELLS and
    RENAMED with logs of all domains in view: on the split by task this row is no zero-shot result.  Where the graph ends: `anything_else`,
    or farewell after a no."""
    def choose(states: list, episodes: list) -> list[tuple[str, ...]]:
        return [(sop_action(dataset, s.user, e.seen.context, [label for step in e.steps for label in step.teacher or ()]),)
                for s, e in zip(states, episodes)]
    return choose


def sop_action(dataset: Dataset, user: str, B: Mapping[str, str], done: Sequence[str]) -> str:
    """The action of one turn; `done`: the labels of the turns before."""
    task = B.get("_task", "")
    graph, query = dataset.sops.get(task, {}), B.get("_query", "")
    if query.endswith("nothing") and (label := f"{task.split('_')[0]}_inform_nothing_found") in dataset.skills:
        return label
    last = next((x for x in reversed(done) if x in {*graph, *graph.values()} - {"hello"}), None)
    if last is None and not query and (GREETING.fullmatch(user) or not graph):
        return "anything_else" if done else "hello"
    farewell = FAREWELLS.get(task.split("_")[0], "goodbye_1")
    if done and not query and BYE.search(user):
        return farewell
    options = sop_next(graph, last or "hello", query or reaction(graph, user, B, last, done))
    while options and not query and options[0] in done and graph.get(options[0], "query") not in BRANCHES:
        options = (graph[options[0]],)           # asked before: on to the next
    pick = options[0] if options else "anything_else"
    if pick in dataset.skills and pick != "anything_else":
        return farewell if pick == "goodbye_1" else pick
    ended = graph.get(last, "") != "anything_else" and (NO.search(user) or THANKS.search(user))
    return farewell if ended else "anything_else"


def reaction(graph: Mapping[str, str], user: str, B: Mapping[str, str], last: str | None, done: Sequence[str]) -> str:
    """The branch of the graph that the customer's words open, "" if none."""
    if last == "trivia_ask_question":
        right = B.get("answer", "~").lower() in user.lower()
        return "correct" if right else "noanswer" if FORGOT.search(user) else "incorrect"
    if "info_missing" in graph and (last or "").startswith("bank_ask_") and FORGOT.search(user):
        return "info_missing2" if "bank_ask_dob" in done else "info_missing"
    if last is None or last in graph:            # the graph goes on, whatever was answered
        return ""
    return "no" if NO.search(user) else "yes" if YES.search(user) else ""

if __name__ == "__main__":
    chart = {"hello": "ask_pin", "ask_pin": "query", "query_success": "tell_balance", "query_failure": "say_sorry", "tell_balance": "anything_else"}
    for last, event in ((None, ""), ("hello", ""), ("ask_pin", ""), ("ask_pin", "query success"), ("ask_pin", "query failure"), ("tell_balance", "")):
        print(f"after {last or 'nothing':13s} {event:14s} the chart allows {', '.join(sop_next(chart, last, event)) or 'nothing'}")
