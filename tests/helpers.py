"""What many tests share: a small pool of skills, what a judge is shown, a small Expert."""
from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import settings

from data import Judged, Labels, Observation, Prepared, Reply, Request, Skill, Step
from expert import Expert, ExpertConfig, ExpertState
from perception import Perception

property_test = settings(max_examples=200, deadline=None)


def counted(monkeypatch, owner, name: str) -> list:
    """A list that grows with each call of `owner.name`."""
    calls = []
    real = getattr(owner, name)

    def count(*args, **kwargs):
        calls.append(name)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, count)
    return calls


# --- skills, and what a judge is shown ----------------------------------------------------------

SORRY = Skill("sorry", examples=("I am very sorry for the trouble.",))
PAY = Skill("pay", examples=("You get {refund} back.",), needs=("refund",), task=2)
GUIDE = Skill(
    "guide",
    examples=("Please print the return label.",),
    must_say=("Keep the receipt.",),
    must_not_say=("we guarantee",),
    task=3,
)
POOL = {skill.id: skill for skill in (SORRY, PAY, GUIDE)}
# B_t of two candidates, of which the second fits.
B_T = {"refund_1": "39 euros", "fit_1": "no", "refund_2": "20 euros", "fit_2": "yes"}


def judged(reply: str, *skills: Skill, context=B_T, **more) -> Judged:
    return Judged("Where is my money?", context, skills, reply, **more)


# --- an Expert ----------------------------------------------------------------------------------

IDS = ["a", "b", "c", "d", "e", "f", "g"]
FOUR = ["w", "x", "y", "z"]
STATE = ExpertState("Where is my money?", (("Hi", "Hello."),), ("x",))


def expert_of(pool, seed=0, **flags) -> Expert:
    """An untrained Expert of this pool of skills, small."""
    torch.manual_seed(seed)
    perception = Perception(["refund", "other"], ["angry", "neutral"], 8)
    cfg = ExpertConfig(**({"width": 24, "history": 1} | flags))
    return Expert(pool, perception, cfg, words=8)


# --- logs ---------------------------------------------------------------------------------------

def replay_step(skills, teacher, reply, context=B_T, reference="ref") -> Step:
    """A logged turn, played: the skills chosen, the teacher's, and what was replied."""
    seen = Observation("u", context, labels=Labels(teacher=tuple(teacher), reference=reference))
    return Step(
        seen, ExpertState("u"), (None, None), tuple(skills),
        Prepared(Request("u", tuple(skills), context)), [Reply(reply)],
        Judged("u", context, (), reply, reference=reference), [None])


def replayed(*steps: Step):
    return SimpleNamespace(steps=list(steps))
