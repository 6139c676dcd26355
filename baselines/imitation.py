"""Imitation of the teacher: the Expert learns T itself, and not how much its own skills resemble T.

    loss = -mean log pi_E(T | s^E_t)                                           in place of Eq. 7

`Imitation` learns on-policy, in the states that the Expert itself reaches: this is DAgger (Ross et
al. 2011) without its mixture of teacher and learner.  `imitate_offline` learns in the logged
states.  Both methods are ours; the paper has no such row.  They use the labels that R^E is made
of (Eqs. 2-6), and so show what a reward adds to the same labels.
The Customer Service Agent learns as in GOPO (Eqs. 9a-9d)."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from data import Episode
from gopo import Gopo
from rewards import esndcg
from start.pairs import labelled_states


class Imitation(Gopo):
    """`Gopo` with the Expert's Eq. 7 replaced by cross-entropy on the teacher's sequences."""

    def learn_skills(self, played: list[Episode]) -> dict[str, float | None]:
        """One step; an empty sequence of the teacher is a label too: it says to stop at once."""
        states = []
        teachers = []
        for episode in played:
            for step in episode.steps:
                if step.teacher is not None:
                    states.append(step.state)
                    teachers.append(step.teacher)
        return {"loss_expert": self.learner.imitate(states, teachers)}


def imitate_offline(gopo: Gopo, seed: int, epochs: int = 15, batch: int = 64) -> Gopo:
    """Cross-entropy on the training split; keeps the epoch with the highest ESNDCG on dev."""
    states, teachers = columns(labelled_states(gopo.dataset.train))
    dev_states, dev_teachers = columns(labelled_states(gopo.dataset.dev))
    if not dev_states:
        dev_states, dev_teachers = states, teachers
    generator = torch.Generator().manual_seed(seed)
    best = -1.0
    kept = None
    for _ in tqdm(range(epochs), desc="imitation, offline", leave=False):
        for rows in torch.randperm(len(states), generator=generator).split(batch):
            drawn = [states[i] for i in rows]
            gopo.learner.imitate(drawn, [teachers[i] for i in rows])
        with torch.no_grad():
            chosen = gopo.expert.act(dev_states, greedy=True).skills
        score = float(np.mean([esndcg(p, t) for p, t in zip(chosen, dev_teachers)]))
        if score > best:
            best = score
            kept = {name: value.clone() for name, value in gopo.expert.state_dict().items()}
    gopo.expert.load_state_dict(kept)
    return gopo


def columns(pairs: Sequence[tuple]) -> tuple[list, list]:
    """The states and the teacher's sequences of (state, sequence) pairs."""
    states = [state for state, _ in pairs]
    teachers = [teacher for _, teacher in pairs]
    return states, teachers
