"""Imitation of the teacher by the Expert: GOPO's labels, taken as answers and not as a reward.

Offline (`imitate_offline`) it learns from logged turns; on-policy (`Imitation`) from the turns that
the Expert itself reaches.  The latter is DAgger (Ross et al. 2011) without its mixture of teacher
and learner.  The loss is -log pi_E(T|s), the stop included (expert.ExpertLearner.imitate).  The
paper has no such baseline; it is ours."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from data import Episode
from expert import ExpertState
from gopo import Gopo
from rewards import esndcg
from start.pairs import labelled_states

Labelled = list[tuple[ExpertState, tuple[str, ...]]]     # (s^E_t, T)


class Imitation(Gopo):
    """GOPO with cross-entropy on the teacher's sequences in the place of the Expert's Eq. 7.

    R^E is made of the same labels; here the Expert is given them outright."""

    def learn_skills(self, played: list[Episode]) -> dict[str, float | None]:
        labelled = []
        for episode in played:
            # An empty sequence is a label as well: stop at once.
            labelled += [step for step in episode.steps if step.teacher is not None]
        states = [step.state for step in labelled]
        teachers = [step.teacher for step in labelled]
        return {"loss_expert": self.learner.imitate(states, teachers)}


def imitate_offline(gopo: Gopo, seed: int, epochs: int = 15, batch: int = 64) -> Gopo:
    """Cross-entropy on the training split; keeps the epoch with the highest ESNDCG on dev."""
    train = labelled_states(gopo.dataset.train)
    dev = labelled_states(gopo.dataset.dev) or train
    generator = torch.Generator().manual_seed(seed)
    best = -1.0
    kept = None
    for _ in tqdm(range(epochs), desc="imitation, offline", leave=False):
        _epoch(gopo, train, torch.randperm(len(train), generator=generator).split(batch))
        score = _mean_esndcg(gopo, dev)
        if score > best:
            best = score
            kept = {name: value.clone() for name, value in gopo.expert.state_dict().items()}
    gopo.expert.load_state_dict(kept)
    return gopo


def _epoch(gopo: Gopo, train: Labelled, batches: Sequence[torch.Tensor]) -> None:
    for rows in batches:
        drawn = [train[i] for i in rows]
        states = [state for state, _ in drawn]
        teachers = [teacher for _, teacher in drawn]
        gopo.learner.imitate(states, teachers)


@torch.no_grad()
def _mean_esndcg(gopo: Gopo, dev: Labelled) -> float:
    """Of the most probable sequences."""
    chosen = gopo.expert.act([state for state, _ in dev], greedy=True).skills
    scores = [esndcg(skills, teacher) for skills, (_, teacher) in zip(chosen, dev)]
    return float(np.mean(scores))
