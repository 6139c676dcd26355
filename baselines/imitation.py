"""Imitation of the teacher: offline on logged turns, on-policy on the turns that the Expert itself reaches."""
from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from data import Episode
from gopo import Gopo
from rewards import esndcg
from start.pairs import labelled_states


class Imitation(Gopo):
    """GOPO with the Expert's Eq. 7 replaced by cross-entropy on the teacher's sequences, in the states that the Expert itself reaches (DAgger,
    Ross et al. 2011, without the mixture): the same labels as R^E is made of, told outright instead of as a reward."""

    def learn_skills(self, played: list[Episode]) -> dict[str, float | None]:
        labelled = [s for e in played for s in e.steps if s.teacher is not None]         # an empty sequence is a label, too: stop at once
        return {"loss_expert": self.learner.imitate([s.state for s in labelled], [s.teacher for s in labelled])}


def imitate_offline(gopo: Gopo, seed: int, epochs: int = 15, batch: int = 64) -> Gopo:
    """Cross-entropy on the training split; keeps the epoch with the highest ESNDCG on dev."""
    states, dev = labelled_states(gopo.dataset.train), labelled_states(gopo.dataset.dev)
    dev = dev or states
    generator, best, kept = torch.Generator().manual_seed(seed), -1.0, None
    for _ in tqdm(range(epochs), desc="imitation, offline", leave=False):
        for rows in torch.randperm(len(states), generator=generator).split(batch):
            gopo.learner.imitate([states[i][0] for i in rows], [states[i][1] for i in rows])
        with torch.no_grad():
            chosen = gopo.expert.act([s for s, _ in dev], greedy=True).skills
        score = float(np.mean([esndcg(p, t) for p, (_, t) in zip(chosen, dev)]))
        if score > best:
            best, kept = score, {k: v.clone() for k, v in gopo.expert.state_dict().items()}
    gopo.expert.load_state_dict(kept)
    return gopo
