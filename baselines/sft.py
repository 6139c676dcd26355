"""Supervised fine-tuning: the single agent that goes on imitating the logged replies."""
from __future__ import annotations

import numpy as np

from data import Episode
from gopo import Gopo
from lm.config import WarmConfig, configs_of
from start.pairs import warm_pairs
from start.supervised import imitate


class SFT(Gopo):
    """A single agent, by cross-entropy on the logged replies (Table 1).  Its warm start is supervised already; a step goes on with as many
    logged dialogues as GOPO samples replies to one, so that all methods learn from equally many reply tokens."""
    single = True
    plays = False

    @classmethod
    def options_of(cls, config: dict) -> WarmConfig:
        """It has no flags of its own: those of the warm start go on."""
        return configs_of(config)[2]

    def step(self, number: int, seed: int, stage: int = 0) -> tuple[list[Episode], dict[str, float | None]]:
        logs, rng = self.dataset.train, np.random.default_rng([seed, stage, number])
        drawn = rng.choice(len(logs), min(len(logs), self.size * self.agent.cfg.group), replace=False)
        pairs = warm_pairs([logs[i] for i in drawn], self.history_turns)
        return [], imitate(self.agent, pairs, self.options)
