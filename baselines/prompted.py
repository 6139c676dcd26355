"""An Expert that nobody trained: the language model is asked which skills a turn needs.

It fills the row of Table 5 for an untrained dual agent.  The paper says nothing of how its models
were asked: both the prompt and the reading of the answer are ours (GAP-9)."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from data import MAX_SKILLS, Dataset, Episode
from expert import ExpertState
from hosted.agents import HostedExpert
from lm.config import BUILT
from perception import Perception
from policies import Choose

Messages = list[dict[str, str]]
Ask = Callable[[ExpertState, str | None, str | None], Messages]


def by_prompt(agent, dataset: Dataset, perception: Perception) -> Choose:
    """The language model is asked for the skills, as a hosted one would be.

    It is not asked to write them, which a tiny model cannot.  Its probability of each skill's name
    as the first of the list is compared with that of an empty list: the skills that are more
    probable, per token, are taken, at most five, the most probable first."""
    names = list(dataset.skills)
    ask = _asker(agent, dataset, perception)
    opening = agent.encode('{"skills": [')
    answers = [f'"{name}"' for name in names]
    answers.append("]")

    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
        perceived = perception.perceive([state.user for state in states])
        prompts = []
        for state, (intent, emotion) in zip(states, perceived):
            prompts.append(agent.ask(ask(state, intent, emotion)) + opening)
        scores = agent.likelihood(prompts, answers)
        return [_better_than_none(names, row) for row in scores]

    return choose


def _asker(agent, dataset: Dataset, perception: Perception) -> Ask:
    """What asks the model: a hosted model's prompt, or a short one for the tiny LM."""
    if agent.lm.model not in BUILT:
        return HostedExpert(None, dataset, perception).prompt
    skills = f"skills: {' '.join(dataset.skills)}"

    def ask(state: ExpertState, intent: str | None, emotion: str | None) -> Messages:
        # The tiny LM reads few tokens.
        known = {
            "customer": state.user,
            "intent": intent,
            "emotion": emotion,
            "before": " ".join(state.previous),
        }
        return [{"role": "system", "content": skills}, {"role": "user", "content": str(known)}]

    return ask


def _better_than_none(names: Sequence[str], scores: Sequence[float]) -> tuple[str, ...]:
    """The best five names whose score is above that of the empty list, which stands last."""
    nothing = scores[-1]
    ranked = sorted(zip(names, scores), key=lambda pair: -pair[1])
    return tuple(name for name, score in ranked[:MAX_SKILLS] if score > nothing)
