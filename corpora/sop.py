"""STAR's flow charts (SOPs): what a chart allows next, what it forbids to say yet, and as a policy.

A chart is a dict node -> next node.  Its nodes are actions (skills) and BRANCHES: queries, their
outcomes, a customer's yes or no.  Charts order actions and prescribe no wording; `prohibitions`
reads from the order which claims of success come too early.  `by_sop` is the row "SOP graph" of
experiments/strategy.py.  CLAIMS, FAREWELLS and RENAMED are ours, chosen with logs of all domains
in view.
Try it:    python -m corpora.sop        walks a small chart
Exercise:  teach `reaction` the words of a customer who gives his name, and see how much of the
           SOP graph's error that was."""
from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from data import Dataset

# A chart's name of an action -> the label that the wizards' tool gave the same question.
RENAMED = {"plane_ask_departure_city": "ask_departure_location"}
# skill -> what it alone may claim
CLAIMS = {
    "apartment_inform_viewing_available": "still a viewing available",
    "apartment_inform_booking_successful": "the viewing is scheduled",
    "bank_inform_balance": "your current balance is",
    "bank_inform_fraud_report_submitted": "successfully submitted",
    "doctor_inform_booking_available": "is available at",
    "doctor_inform_booking_successful": "is booked for you",
    "hotel_ask_confirm_booking": "ticks all of your boxes",
    "hotel_reservation_succeeded": "successfully completed this hotel booking",
    "hotel_inform_service_request_successful": "submitted successfully",
    "meeting_inform_confirmed": "has been successfully scheduled",
    "party_ask_confirm_booking": "would be happy to accommodate",
    "party_booking_successful": "has been successfully booked",
    "plane_flight_available": "the flight is available",
    "plane_reservation_succeeded": "your flight is now reserved",
    "restaurant_ask_confirm_booking": "is happy to accommodate",
    "restaurant_inform_booking_successful": "is confirmed",
    "ride_confirm_booking": "have booked you a ride",
    "ride_inform_changes_successful": "all changes done",
}

# a query -> its outcomes
OUTCOMES = {
    "query": ("query_success", "query_failure"),
    "query_check": ("available", "unavailable"),
    "query_book": ("query_success", "query_failure"),
}
EXCLUSIVE = ({"available", "unavailable"}, {"query_success", "query_failure"})
# a query with its outcome -> the node where the chart goes on, the likelier first
EVENTS = {
    "query success": ("query", "query_success"),
    "query failure": ("query_failure", "query"),
    "check success": ("available", "query_success"),
    "check failure": ("unavailable", "query_failure"),
    "book success": ("query_book", "query_success"),
    "book failure": ("query_failure",),
}
# nodes of the charts that are no reply
BRANCHES = {
    "yes", "no", "available", "unavailable", "query", "query_check", "query_book",
    "query_success", "query_failure", "info_missing", "info_missing2", "correct", "incorrect",
    "noanswer", "done",
}


# ---------------------------------------------------------------- walking a chart

def follows(graph: Mapping[str, str], node: str) -> list[str]:
    """The nodes after a node.

    The files give a node one arrow.  The arrows from a query to its outcomes, and from a question
    to its answers, are not written there.
    """
    if node in graph:
        return [graph[node]]
    if node == "anything_else":
        return []
    found = [after for after in OUTCOMES.get(node, ("yes", "no")) if after in graph]
    if found or node not in OUTCOMES:
        return found
    return [after for after in OUTCOMES["query"] if after in graph]


def sop_next(graph: Mapping[str, str], last: str | None = None, event: str = "") -> tuple[str, ...]:
    """The actions that a task's SOP allows after the action `last`; None: the dialogue begins.

    event    what has happened since, if anything: a query with its outcome ("book success"), or a
             branch of the chart ("yes", "info_missing")
    returns  the replies reached without passing another; () where the chart ends or does not know
             `last`

    >>> chart = {"hello": "ask_pin", "ask_pin": "query"}
    >>> chart |= {"query_success": "balance", "query_failure": "sorry"}
    >>> sop_next(chart, "ask_pin")
    ('balance', 'sorry')
    """
    ahead = deque(_start(graph, last, event))
    met = set(ahead)
    allowed = []
    while ahead:
        node = ahead.popleft()
        if node not in BRANCHES:
            allowed.append(node)
            continue
        for after in follows(graph, node):
            if after not in met:
                met.add(after)
                ahead.append(after)
    return tuple(allowed)


def _start(graph: Mapping[str, str], last: str | None, event: str) -> list[str]:
    """Where the walk begins: behind the event if the chart knows it, or else behind `last`."""
    if event:
        for node in EVENTS.get(event, (event,)):
            if node in graph:
                return [graph[node]]
    if last is None:
        return ["hello"]
    return follows(graph, last)


def reachable(graph: Mapping[str, str], node: str) -> set[str]:
    """All nodes that may come after a node."""
    seen: set[str] = set()
    ahead = follows(graph, node)
    while ahead:
        after = ahead.pop()
        if after not in seen:
            seen.add(after)
            ahead += follows(graph, after)
    return seen


# ---------------------------------------------------------------- what may not be said yet

def prohibitions(sops: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """must_not_say of each skill: claims that come too early or belong to another outcome.

    These are the claims of the actions that the SOP puts behind a later query, or on another
    outcome of the same query.
    """
    # a dict of None is a set that keeps its order
    found: dict[str, dict[str, None]] = {}
    for task, graph in sops.items():
        own = own_actions(task, graph)
        for claim in own:
            if claim not in CLAIMS:
                continue
            others = _other_outcomes(graph, claim)
            for skill in own:
                if skill == claim:
                    continue
                if skill in others or claim in reachable(graph, skill):
                    found.setdefault(skill, {})[CLAIMS[claim]] = None
    return {skill: tuple(phrases) for skill, phrases in found.items()}


def own_actions(task: str, graph: Mapping[str, str]) -> list[str]:
    """The nodes of a chart that serve its domain alone; `ask_name` serves every task."""
    prefix = task.split("_")[0] + "_"
    nodes = dict.fromkeys([*graph, *graph.values()])
    return [node for node in nodes if node.startswith(prefix)]


def _other_outcomes(graph: Mapping[str, str], claim: str) -> set[str]:
    """What is said if the query that leads to a claim ends otherwise."""
    others = set()
    for outcome, reply in graph.items():
        if reply != claim:
            continue
        for pair in EXCLUSIVE:
            if outcome in pair:
                others |= {graph[other] for other in pair - {outcome} if other in graph}
    return others


# ---------------------------------------------------------------- the chart as a policy

YES = re.compile(
    r"\b(yes|yeah|yep|yup|sure|ok|okay|please|correct|right|go ahead|of course|sounds good"
    r"|perfect|great|proceed|continue)\b", re.IGNORECASE)
NO = re.compile(r"\b(no|nope|nah|not|don'?t)\b", re.IGNORECASE)
BYE = re.compile(
    r"\b(bye|goodbye|that'?s (all|it)|that is all|nothing else|have a (good|nice|great))\b",
    re.IGNORECASE)
THANKS = re.compile(r"\b(thanks|thank you)\b", re.IGNORECASE)
FORGOT = re.compile(
    r"\b(forg[oe]t|forgotten|lost|no idea|unsure"
    r"|(don'?t|do not|can'?t|cannot|can not|not) (know|remember|recall|have|sure))\b",
    re.IGNORECASE)
GREETING = re.compile(
    r"\W*(hi|hello|hey|good (morning|afternoon|evening|day))\b(\W+\w+){0,2}\W*", re.IGNORECASE)
# domain -> how it says goodbye; the others: goodbye_1
FAREWELLS = {
    "ride": "ride_bye",
    "spaceship": "spaceship_bye",
    "trivia": "trivia_bye",
    "apartment": "goodbye_2",
    "plane": "goodbye_2",
}


def by_sop(dataset: Dataset) -> Callable[[list, list], list[tuple[str, ...]]]:
    """The SOP as a policy (`policies.Choose`): one action a turn, by walking the task's chart.

    It reads U_t, `_task` and `_query` of B_t, and the *logged* labels of the turns before.  So it
    stands where the human stood; the Expert has its own a_{t-1} instead, and no B_t.  It knows a
    few words each for a greeting, yes, no, "I forgot", a quiz answer and goodbye.  It knows no
    details, and therefore asks for what the customer told in advance.  No weight is learned, but
    we chose those words, FAREWELLS and RENAMED with logs of all domains in view: on the split by
    task this row is no zero-shot result.  Where the chart ends it says `anything_else`, or
    farewell after a no.
    """
    def choose(states: list, episodes: list) -> list[tuple[str, ...]]:
        chosen = []
        for state, episode in zip(states, episodes):
            done: list[str] = []
            for step in episode.steps:
                done += step.teacher or ()
            action = sop_action(dataset, state.user, episode.seen.context, done)
            chosen.append((action,))
        return chosen

    return choose


def sop_action(dataset: Dataset, user: str, B: Mapping[str, str], done: Sequence[str]) -> str:
    """The action of one turn; `done`: the labels of the turns before."""
    task = B.get("_task", "")
    query = B.get("_query", "")
    graph = dataset.sops.get(task, {})
    domain = task.split("_")[0]
    farewell = FAREWELLS.get(domain, "goodbye_1")
    nothing_found = f"{domain}_inform_nothing_found"
    if query.endswith("nothing") and nothing_found in dataset.skills:
        return nothing_found
    last = _last_of_chart(graph, done)
    if last is None and not query and (GREETING.fullmatch(user) or not graph):
        return "anything_else" if done else "hello"
    if done and not query and BYE.search(user):
        return farewell
    event = query or reaction(graph, user, B, last, done)
    options = sop_next(graph, last or "hello", event)
    if not query:
        options = _not_asked(graph, options, done)
    action = options[0] if options else "anything_else"
    if action in dataset.skills and action != "anything_else":
        return farewell if action == "goodbye_1" else action
    return farewell if _refused(graph, user, last) else "anything_else"


def _last_of_chart(graph: Mapping[str, str], done: Sequence[str]) -> str | None:
    """The last action that stands on the chart, a greeting apart."""
    nodes = {*graph, *graph.values()} - {"hello"}
    for action in reversed(done):
        if action in nodes:
            return action
    return None


def _not_asked(
    graph: Mapping[str, str], options: tuple[str, ...], done: Sequence[str]
) -> tuple[str, ...]:
    """On to the next action while the first option was carried out before."""
    while options and options[0] in done:
        after = graph.get(options[0])
        if after is None or after in BRANCHES:
            break
        options = (after,)
    return options


def _refused(graph: Mapping[str, str], user: str, last: str | None) -> bool:
    """Whether the customer wants nothing else."""
    if last is not None and graph.get(last) == "anything_else":
        return False
    return bool(NO.search(user) or THANKS.search(user))


def reaction(
    graph: Mapping[str, str],
    user: str,
    B: Mapping[str, str],
    last: str | None,
    done: Sequence[str],
) -> str:
    """The branch of the chart that the customer's words open; "" if they open none."""
    if last == "trivia_ask_question":
        return _quiz(user, B)
    asked_bank = last is not None and last.startswith("bank_ask_")
    if "info_missing" in graph and asked_bank and FORGOT.search(user):
        return "info_missing2" if "bank_ask_dob" in done else "info_missing"
    # the chart goes on, whatever was answered
    if last is None or last in graph:
        return ""
    if NO.search(user):
        return "no"
    return "yes" if YES.search(user) else ""


def _quiz(user: str, B: Mapping[str, str]) -> str:
    # "~" stands in no text: without an answer nothing is right
    if B.get("answer", "~").lower() in user.lower():
        return "correct"
    return "noanswer" if FORGOT.search(user) else "incorrect"


if __name__ == "__main__":
    chart = {
        "hello": "ask_pin",
        "ask_pin": "query",
        "query_success": "tell_balance",
        "query_failure": "say_sorry",
        "tell_balance": "anything_else",
    }
    walks = (
        (None, ""),
        ("hello", ""),
        ("ask_pin", ""),
        ("ask_pin", "query success"),
        ("ask_pin", "query failure"),
        ("tell_balance", ""),
    )
    for last, event in walks:
        allowed = ", ".join(sop_next(chart, last, event)) or "nothing"
        print(f"after {last or 'nothing':13s} {event:14s} the chart allows {allowed}")
