"""Supervised fine-tuning (SFT), a baseline of Table 1: a single agent imitates the logged replies.

The loss is the cross-entropy of the warm start (start/supervised.py), with the optimiser and the
step size of the policy gradient.  The paper names SFT and says nothing more: all of this is ours
(GAP-9)."""
from __future__ import annotations

import numpy as np

from data import Episode
from gopo import Gopo
from lm.config import WarmConfig, configs_of
from start.pairs import warm_pairs


class SFT(Gopo):
    """A single agent that learns by cross-entropy on the logged replies.

    Its warm start is supervised already, and its steps go on with that.  A step reads as many
    logged dialogues as GOPO samples replies to one, so that all methods learn from equally many
    reply tokens."""
    single = True
    plays = False

    @classmethod
    def options_of(cls, config: dict) -> WarmConfig:
        """SFT has no flags of its own: those of the warm start go on."""
        return configs_of(config)[2]

    def step(
        self, number: int, seed: int, stage: int = 0
    ) -> tuple[list[Episode], dict[str, float | None]]:
        """Nothing is played; one step on logged dialogues that (seed, stage, number) choose."""
        logs = self.dataset.train
        rng = np.random.default_rng([seed, stage, number])
        count = min(len(logs), self.size * self.agent.cfg.group)
        drawn = rng.choice(len(logs), count, replace=False)
        pairs = warm_pairs([logs[i] for i in drawn], self.history_turns)
        # imported here: transformers takes seconds, and --help asks this file for its flags
        from start.supervised import imitate
        return [], imitate(self.agent, pairs, self.options)
