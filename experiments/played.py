"""A played dialogue as a line of dialogues.jsonl, which the page shows.

This file is the only one of this folder that looks into a turn (gopo.Step)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data import fill
from expert import ExpertState
from policies import Choose
from data import Episode, Step
from gopo import Gopo
from lm.constraints import compile_constraints, violations
from measure import completed, speaks
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
    done = completed(episode, gopo.dataset, speaks(gopo))
    earned = gopo.rewards(episode, ending=False)
    after = moods_after(episode, moods)
    turns = [turn_row(gopo, *parts) for parts in zip(episode.steps, earned, after)]
    return {
        "method": method,
        "seed": seed,
        "customer": str(episode.number),
        "success": bool(end.outcome.success),
        "outcome": outcome_of(gopo, episode),
        "N": list(done),
        "tse": tse(done, gamma=gopo.cfg.tse_gamma),
        "mood": moods[0] if moods else None,
        "last": end.user,
        "turns": turns,
    }


def two_labels(pair: tuple[str | None, str | None]) -> dict[str, str | None] | None:
    """Intent and emotion by name; None if neither is known."""
    intent, emotion = pair
    return {"intent": intent, "emotion": emotion} if intent or emotion else None


def turn_row(gopo: Gopo, step: Step, reward: float, mood: float | None) -> dict[str, Any]:
    """A turn of dialogues.jsonl.

    reward  R_t
    mood    after the turn
    """
    context = step.request.context
    template = step.replies[0].text
    skills = [gopo.dataset.skills[skill] for skill in step.skills]
    rules = compile_constraints(skills, context, gopo.dataset.must_not_say)
    rewards = {
        "R_E": step.r_expert(gopo.expert.cfg.skill_cost),
        "S": step.scores[0],
        "R_A": step.r_cs()[0],
        "R_t": reward,
    }
    return {
        "user": step.state.user,
        "perceived": two_labels(step.perceived),
        "truth": two_labels(step.truth),
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
