"""The Expert's warm start: cross-entropy on the teacher's skills in the training logs.

The natural counterpart of the language model's warm start, from the same logged dialogues, which
Memento and SFT read as well.  GAP-9: the paper says nothing of where its Expert begins."""
from __future__ import annotations

import numpy as np
import torch

from data import Dataset
from expert import Expert
from expert_learner import ExpertLearner, Labelled, labelled_states
from infra.progress import bar
from perception import HideNgrams, reading
from rewards import esndcg

BATCH = 64                                       # turns in an Adam step [ours]
LR = 2e-3                                        # [ours]


def warm_expert(expert: Expert, dataset: Dataset, seed: int) -> float | None:
    """Learns in place; keeps the epoch with the highest mean ESNDCG on dev, and returns it.

    Every process learns the same from the whole batch.  None, and nothing learned, without labels.
    """
    train = labelled_states(dataset.train)
    if not train:
        return None
    dev = labelled_states(dataset.dev) or train
    generator = torch.Generator().manual_seed(seed)
    learner = ExpertLearner(expert, LR)
    best, kept = -1.0, None
    with reading(expert, HideNgrams(expert.cfg.hide_ngrams, seed)):
        epochs = expert.cfg.expert_warm
        with bar("warm start of the Expert", epochs, unit="epoch", leave=False) as steps:
            for _ in range(epochs):
                for rows in torch.randperm(len(train), generator=generator).split(BATCH):
                    learner.imitate([train[i] for i in rows])
                score = mean_esndcg(expert, dev)
                steps.set_postfix(dev_ESNDCG=f"{score:.3f}", refresh=False)
                steps.update()
                if score > best:
                    best = score
                    kept = {name: value.clone() for name, value in expert.state_dict().items()}
    if kept:
        expert.load_state_dict(kept)
    return best


def mean_esndcg(expert: Expert, labelled: Labelled, at_once: int = 512) -> float:
    """Of the most probable sequences; nothing is hidden."""
    scores = []
    with reading(expert):
        for first in range(0, len(labelled), at_once):
            part = labelled[first:first + at_once]
            chosen = expert.act([state for state, _ in part], greedy=True)
            scores += [esndcg(skills, T) for skills, (_, T) in zip(chosen, part)]
    return float(np.mean(scores))
