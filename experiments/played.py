"""A played dialogue as a line of dialogues.jsonl, which the page shows.

This file is the only one of this folder that looks into a turn (data.Step)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data import DECISION, Episode, ExpertState, Step, fill
from gopo import Gopo
from lm.constraints import violations
from measure import completed
from policies import Choose
from show import decisions
from tse import tse

# customer -> mood before every turn
Moods = dict[int, list[float | None]]


def watched(choose: Choose, moods: Moods) -> Choose:
    """The same policy; it notes each customer's mood before every turn, which a rollout forgets."""
    def choosing(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
        for episode in episodes:
            moods.setdefault(episode.number, []).append(episode.seen.outcome.mood)
        return choose(states, episodes)

    return choosing


def outcome_of(gopo: Gopo, episode: Episode) -> str:
    """How a dialogue ended, in words."""
    end = episode.seen
    if gopo.dataset.environment is None:
        return "end of the log"
    if end.outcome.success:
        return "all tasks done"
    return "left" if end.terminated else "cut"


def moods_after(episode: Episode, moods: Sequence[float | None]) -> list[float | None]:
    """The mood after each turn, from the moods before the turns; None where none was noted."""
    turns = len(episode.steps)
    if not moods:
        return [None] * turns
    return [*moods[1:turns], episode.seen.outcome.mood]


def dialogue_row(
    gopo: Gopo, episode: Episode, method: str, seed: int, moods: Sequence[float | None] = ()
) -> dict[str, Any]:
    """A played dialogue as a line of dialogues.jsonl.

    moods  those that `watched` noted of this customer
    """
    end = episode.seen
    done = completed(gopo, episode)
    after = moods_after(episode, moods)
    turns = [turn_row(step, mood) for step, mood in zip(episode.steps, after)]
    if DECISION in gopo.dataset.skills:
        for turn, decision in zip(turns, decisions(episode)):
            turn["decision"] = decision
    return {
        "method": method,
        "seed": seed,
        "customer": str(episode.number),
        "success": bool(end.outcome.success),
        "outcome": outcome_of(gopo, episode),
        "N": list(done),
        "tse": tse(done, gamma=gopo.cfg.tse_gamma),
        "mood": moods[0] if moods else None,
        "satisfaction": end.outcome.satisfaction,
        "last": end.user,
        "turns": turns,
    }


def two_labels(pair: tuple[str | None, str | None]) -> dict[str, str | None] | None:
    """Intent and emotion by name; None if neither is known."""
    intent, emotion = pair
    return {"intent": intent, "emotion": emotion} if intent or emotion else None


def turn_row(step: Step, mood: float | None) -> dict[str, Any]:
    """A turn of dialogues.jsonl.

    mood  after the turn
    """
    labels = step.seen.labels
    context = step.seen.context
    template = step.reply
    rules = step.prepared.constraints
    rewards = {
        "R_E": step.R_E,
        "S": step.scores[0],
        "R_A": step.R_A[0],
        "R_t": step.R_t,
    }
    return {
        "user": step.state.user,
        "perceived": two_labels(step.perceived),
        "truth": two_labels((labels.intent, labels.emotion)),
        "context": context,
        "skills": step.skills,
        "teacher": step.teacher,
        "must_say": rules.must_say,
        "must_not_say": rules.must_not_say,
        "dropped": rules.dropped,
        "reply": fill(template, context),
        "template": template,
        "violations": violations(template, rules),
        "mood": mood,
        "rewards": rewards,
    }
