"""An Expert that nobody trained: the language model is asked."""
from __future__ import annotations

from data import MAX_SKILLS, Dataset, Episode
from expert import ExpertState, Perception
from hosted.agents import HostedExpert
from lm.models import BUILT
from policies import Choose


def by_prompt(agent, dataset: Dataset, perception: Perception) -> Choose:
    """An Expert that nobody trained: the language model is asked for the skills, as a hosted one would be (Table 5, dual agent, untrained).

    It is not asked to write them, which a tiny model cannot, but how probable each skill's name is as the first of the list: those more
    probable, per token, than an empty list are taken, at most five, the most probable first."""
    names, large = list(dataset.skills), HostedExpert(None, dataset, perception)
    def ask(state: ExpertState, intent: str | None, emotion: str | None) -> list[dict[str, str]]:
        if agent.lm.model not in BUILT:
            return large.prompt(state, intent, emotion)
        told = {"customer": state.user, "intent": intent, "emotion": emotion, "before": " ".join(state.previous)}        # the tiny LM reads few tokens
        return [{"role": "system", "content": f"skills: {' '.join(names)}"}, {"role": "user", "content": str(told)}]
    opening, answers = agent.encode('{"skills": ['), [*(f'"{name}"' for name in names), "]"]

    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
        perceived = perception.perceive([s.user for s in states])
        scores = agent.likelihood([agent.ask(ask(s, *p)) + opening for s, p in zip(states, perceived)], answers)
        ranked = [sorted(zip(names, row), key=lambda pair: -pair[1]) for row in scores]
        return [tuple(name for name, score in pairs[:MAX_SKILLS] if score > row[-1]) for pairs, row in zip(ranked, scores)]
    return choose
