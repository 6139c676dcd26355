"""Supervised fine-tuning (Table 1): the single agent goes on imitating the logged replies.

The loss is cross-entropy on the tokens of a logged reply, given H_t, u_t, e_t and B_t
(start/supervised.py).  GAP-9: the paper names the method and says nothing more, so the size of a
step is ours.  Where GOPO plays --dialogues and samples --group replies to each state, a step of SFT
reads --dialogues times --group logged dialogues: all methods learn from about equally many tokens.
There is no Expert, no judge and no reward here, and nothing is played."""
from __future__ import annotations

import numpy as np

from data import Dialogue, Episode
from gopo import Gopo
from lm.config import WarmConfig, configs_of
from start.pairs import warm_pairs
from start.supervised import imitate


class SFT(Gopo):
    """`Gopo` with its step replaced: the warm start, which is supervised already, goes on."""
    single = True
    plays = False

    @classmethod
    def options_of(cls, config: dict) -> WarmConfig:
        """SFT has no flags of its own: it uses those of the warm start."""
        _, _, warm = configs_of(config)
        return warm

    def step(
        self, number: int, seed: int, stage: int = 0
    ) -> tuple[list[Episode], dict[str, float | None]]:
        """One step of cross-entropy on logged replies; no dialogue is played."""
        rng = np.random.default_rng([seed, stage, number])
        pairs = warm_pairs(self._drawn(rng), self.history_turns)
        return [], imitate(self.agent, pairs, self.options)

    def _drawn(self, rng: np.random.Generator) -> list[Dialogue]:
        """The logged dialogues of a step, none of them twice."""
        logs = self.dataset.train
        size = min(len(logs), self.size * self.agent.cfg.group)
        return [logs[i] for i in rng.choice(len(logs), size, replace=False)]
