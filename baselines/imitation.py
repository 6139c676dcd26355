"""Imitation of the teacher by the Expert: GOPO's labels, taken as answers and not as a reward.

Offline it is the Expert's warm start and nothing more (start/warm_expert.py).  On-policy
(`Imitation`) it learns from the turns that the Expert itself reaches, slips included.  The latter
is DAgger (Ross et al. 2011) without its mixture of teacher and learner and without its growing set
of data: a rollout is learned from once it was played, and then dropped.  The loss is
-log pi_E(T|s), the stop included; rollouts, epochs, minibatches and step sizes are GOPO's.  The
paper has no such baseline; it is ours."""
from __future__ import annotations

from baselines.config import ImitationConfig
from data import Episode
from gopo import Gopo
from infra.processes import all_sum


class Imitation(Gopo):
    """GOPO with cross-entropy on the teacher's sequences in the place of the Expert's Eq. 7.

    R^E is made of the same labels; here the Expert is given them outright."""
    Options = ImitationConfig

    def learn_skills(self, played: list[Episode], seed: int) -> dict[str, float | None]:
        labelled, keys = [], []
        for episode in self.learned_from(played):
            for turn, step in enumerate(episode.steps):
                # An empty sequence is a label as well: stop at once.
                if step.teacher is not None:
                    labelled.append((step.state, step.teacher))
                    keys.append((episode.number, turn))
        turns = all_sum(len(labelled))[0]
        self.learner.schedule()
        losses = []
        for epoch in range(self.expert.cfg.expert_epochs):
            for rows in self.learner.minibatches(keys, turns, [seed, epoch]):
                losses.append(self.learner.imitate([labelled[i] for i in rows]))
        self.expert.rollouts += 1
        known = [loss for loss in losses if loss is not None]
        return {"loss_expert": sum(known) / len(known) if known else None}

    def learned_from(self, played: list[Episode]) -> list[Episode]:
        """All dialogues, or those that ended well."""
        if not self.options.imitate_successes:
            return played
        return [episode for episode in played if episode.seen.outcome.success]
