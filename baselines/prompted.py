"""An Expert that nobody trained: a language model is asked for the skills (Table 5, dual agent).

A tiny model cannot write a list of skills.  It is therefore not asked to write one, but how
probable each skill's name is as the first of the list, per token:

    taken = { k : log p(name_k | s^E_t) > log p(empty list | s^E_t) }, at most five, best first

A model that was trained elsewhere reads the prompt of a hosted Expert (hosted/agents.py).  The
paper has the row and does not print its prompt (GAP-9): the prompts and the rule above are ours.
Nothing here learns."""
from __future__ import annotations

from collections.abc import Sequence

from csagent import CustomerServiceAgent
from data import MAX_SKILLS, Dataset, Episode
from expert import ExpertState, Perception
from hosted.agents import HostedExpert
from lm.models import BUILT
from policies import Choose, Skills


def by_prompt(agent: CustomerServiceAgent, dataset: Dataset, perception: Perception) -> Choose:
    """A chooser that asks the language model of `agent`, as a hosted one would be asked."""
    names = list(dataset.skills)
    hosted = HostedExpert(None, dataset, perception)
    opening = agent.encode('{"skills": [')
    answers = [f'"{name}"' for name in names] + ["]"]      # the last one closes an empty list

    def prompt(state: ExpertState, intent: str | None, emotion: str | None) -> list[int]:
        if agent.lm.model in BUILT:
            return agent.ask(short_prompt(names, state, intent, emotion)) + opening
        return agent.ask(hosted.prompt(state, intent, emotion)) + opening

    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
        perceived = perception.perceive([s.user for s in states])
        prompts = [prompt(state, *labels) for state, labels in zip(states, perceived)]
        return [above_nothing(names, row) for row in agent.likelihood(prompts, answers)]

    return choose


def short_prompt(
    names: Sequence[str], state: ExpertState, intent: str | None, emotion: str | None
) -> list[dict[str, str]]:
    """What a tiny model is asked: it reads few tokens, so no skill is described."""
    data = {
        "customer": state.user,
        "intent": intent,
        "emotion": emotion,
        "before": " ".join(state.previous),
    }
    return [
        {"role": "system", "content": f"skills: {' '.join(names)}"},
        {"role": "user", "content": str(data)},
    ]


def above_nothing(names: Sequence[str], scores: Sequence[float]) -> Skills:
    """The names whose score is above the last score, which is that of an empty list; best first.

    >>> above_nothing(["a", "b", "c"], [-2.0, -1.0, -5.0, -3.0])
    ('b', 'a')
    """
    ranked = sorted(zip(names, scores), key=_score, reverse=True)[:MAX_SKILLS]
    nothing = scores[-1]
    return tuple(name for name, score in ranked if score > nothing)


def _score(pair: tuple[str, float]) -> float:
    return pair[1]
