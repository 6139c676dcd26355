"""Memento (arXiv 2508.16153), a baseline: only the choice among remembered cases is learned.

The Customer Service LM stays as the warm start left it.  In the Expert's place stands a bank M of
cases c = (state, skills, outcome), baselines/case_bank.py.  Every turn retrieves cases like s^E_t
(Read, Eq. 13 or 16) and reuses the skill sequence of one (Reuse).  After the dialogue each of its
turns is written back with what came of it (Write, Eq. 12).  What learns is Q(s, c), the
probability that reusing c succeeds (Eq. 15); with --memento_read cosine nothing reads it.  Equation
numbers in this file are Memento's.

The tables of GOPO list a Memento row and say nothing of how it was made.  Therefore, GAP-10, these
are ours:
  - The planner is no LLM that reads the cases.  Each remembered sequence has the sum of its cases'
    weights, and failures count against it (`vote`).
  - Every turn is written, with the outcome of its dialogue; on logs the outcome is whether ESNDCG
    of the turn is at least .5.  The paper writes the last step only.
  - Q learns from the one case that was reused, not from all K with one label.  In training that
    case is drawn from the best 2K (Eq. 7).
  - There is no sentence encoder: the frozen perception of the Expert encodes.  A case of the same
    dialogue is never retrieved.
  - The bank begins with the labelled turns of the training split, outcome 1.  When it is full the
    oldest played case goes; logged cases stay.
N turns, D width of a key, K skills.
Try it:  python -m baselines.memento        two customers, the cases nearest to each, and their vote
Exercise: let a customer retrieve its own dialogue (drop `barred`) on your logs: training looks
brilliant, the test split does not."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.case_bank import LIVE, CaseBank, MementoConfig, demo
from data import DataError, Dataset, Episode, ExpertState
from expert import ExpertConfig
from expert_learner import ExpertLearner
from gopo import Gopo
from infra.processes import world_size
from infra.runs import adam_state, load_adam_state, load_into
from perception import Perception
from play import GopoConfig
from policies import Choose

BATCH = 32                                       # turns in one Adam step of Q [Memento's code: 32]


# --- Q ------------------------------------------------------------------------------------------

def q_loss(logit: Tensor, r: Tensor) -> Tensor:
    """-r log Q - (1 - r) log(1 - Q), Eq. 15, the mean over turns, nats; Q = sigmoid(logit).

    logit  [N] of Q(s, c), c the case reused
    r      [N] 1 if the dialogue then succeeded, else 0
    """
    return F.binary_cross_entropy_with_logits(logit, r)


def auc(q: Tensor, r: Tensor) -> float | None:
    """P(Q of a success > Q of a failure), ties a half; None if there are not both."""
    above = q[r > 0.5][:, None] - q[r <= 0.5]
    if not above.numel():
        return None
    return ((above > 0).float() + 0.5 * (above == 0)).mean().item()


class QLearner(ExpertLearner):
    """Adam steps of Eq. 15 on Q alone; perception and keys stay as they are."""

    def __init__(self, bank: CaseBank):
        self.expert = bank
        self.parameters = list(bank.q.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, bank.options.memento_q_lr)

    def update(
        self, states: Sequence[ExpertState], cases: Sequence[int], outcomes: Sequence[float]
    ) -> dict[str, float | None]:
        """Each turn once.  Loss and AUC are of Q as it was before, of turns it has not seen."""
        if not states:
            return {"loss_q": None, "q_auc": None}
        bank = self.expert
        with torch.no_grad():
            reused = torch.tensor(cases, device=bank.device)[:, None]                # [N, 1]
            inputs = bank.value_input(bank.encode(states), reused).squeeze(1)  # [N, 3 D + K + 1]
            before = bank.q(inputs).squeeze(-1)
        r = torch.tensor(outcomes, dtype=torch.float32, device=bank.device)
        row = {"loss_q": q_loss(before, r).item(), "q_auc": auc(before, r)}
        batches = -(-len(r) // BATCH)
        for first in range(batches):
            # Every so-many-th turn: a batch mixes dialogues without a draw.
            logit = bank.q(inputs[first::batches]).squeeze(-1)
            self.step(q_loss(logit, r[first::batches]), "Eq. 15 of Memento's Q")
        bank.learned += len(r)
        return row


# --- the loop -----------------------------------------------------------------------------------

class Case(NamedTuple):
    """A played turn as `learn` sees it."""
    state: ExpertState
    skills: tuple[str, ...]
    outcome: int
    dialogue: int
    # The case that it reused; -1: none.
    reused: int


def columns(cases: Sequence[Case]) -> list[list]:
    """The fields of a Case, each of them of all cases."""
    fields: list[list] = [[] for _ in Case._fields]
    for case in cases:
        for field, value in zip(fields, case):
            field.append(value)
    return fields


class Memento(Gopo):
    """The loop of Gopo with a bank for an Expert; the language model speaks and never learns."""
    warms = False                                # its cases are those of the logs from the start
    practises = False                            # a slip would become a case
    Options = MementoConfig
    policy = CaseBank

    @classmethod
    def new_policy(cls, dataset: Dataset, cfg: ExpertConfig, options: MementoConfig) -> CaseBank:
        perception = Perception(
            dataset.intents, dataset.emotions, most=cfg.sentences, encoder=cfg.encoder)
        return cls.policy(list(dataset.skills), perception, cfg, options)

    @classmethod
    def prepare_policy(cls, policy: CaseBank, dataset: Dataset) -> None:
        policy.fill(dataset)

    @classmethod
    def refuse_unsuited(cls, dataset: Dataset, cfg: GopoConfig, speaks: bool) -> None:
        super().refuse_unsuited(dataset, cfg, speaks)
        if cfg.no_expert:
            raise DataError(
                "--no_expert leaves Memento nothing to do: its cases stand in the Expert's place")
        if world_size() > 1:
            raise DataError(
                f"Memento writes one case bank: launch one process, not {world_size()}")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.learner = QLearner(self.expert)
        if self.agent:
            # Nothing learns from a second reply to a state: more customers instead.
            self.size = self.size * self.agent.cfg.group
            self.group = 1
        # (dialogue, turn) -> the case reused, from a draw to `learn`.
        self.used: dict[tuple[int, int], int] = {}

    def ids(self, played: Sequence[Episode]) -> list[int]:
        """The dialogue numbers of cases.

        On logs that of the logged dialogue itself; for a live customer one that no log has."""
        first = 0 if self.dataset.environment is None else LIVE
        return [first + episode.number for episode in played]

    def chooser(
        self,
        draws: Callable[[int, int], torch.Generator] | None = None,
        greedy: bool = False,
    ) -> Choose:
        """As `by_policy`; what is drawn is remembered for `learn`.

        Without dialogues (a single answer) no case is barred."""
        self.used = {}

        def choose(states: list[ExpertState], playing: list[Episode]) -> list[tuple[str, ...]]:
            turns = [(e.number, len(e.steps)) for e in playing]
            generators = None
            if draws:
                generators = [draws(*turn) for turn in turns]
            dialogues = self.ids(playing) or None
            chosen = self.expert.act(states, generators, greedy=greedy, dialogues=dialogues)
            if not greedy:
                self.used |= zip(turns, chosen.cases)
            return chosen.skills

        return choose

    # --- learning -------------------------------------------------------------------------------

    def outcomes(self, episode: Episode) -> list[int | None]:
        """r of every turn: the customer's success.

        With --memento_credit turn, and on logs, which no reply can change, it is whether ESNDCG of
        the turn is at least .5; None if nobody labelled it."""
        if self.dataset.environment and self.options.memento_credit == "dialogue":
            return [int(episode.seen.outcome.success)] * len(episode.steps)
        return [None if s.teacher is None else int(s.esndcg >= 0.5) for s in episode.steps]

    def learn(self, played: list[Episode], seed: int = 0) -> dict[str, float | None]:
        """Q learns from the cases reused (Eq. 15); then every turn becomes a case (Eq. 12).

        returns  loss_q, q_auc; cases, the bank's size; cases_succeeded, the share of them with
                 outcome 1; reused_played, the share of turns that followed a played case, not a
                 logged one
        """
        turns = self._cases(played)
        reused = [turn for turn in turns if turn.reused >= 0]
        # Before the bank moves.
        logged = int(self.expert.logged)
        own = sum(turn.reused >= logged for turn in reused)
        states, _, outcomes, _, cases = columns(reused)
        row = self.learner.update(states, cases, outcomes)
        self.expert.write(*columns(turns)[:4])
        self.used = {}
        held = self.expert.outcome[:len(self.expert)].float()
        return row | {
            "cases": len(held),
            "cases_succeeded": held.mean().item() if len(held) else None,
            "reused_played": own / len(reused) if reused else None,
        }

    def _cases(self, played: list[Episode]) -> list[Case]:
        """Every turn with an outcome."""
        cases = []
        for episode, number in zip(played, self.ids(played)):
            for t, (step, r) in enumerate(zip(episode.steps, self.outcomes(episode))):
                if r is not None:
                    reused = self.used.get((episode.number, t), -1)
                    cases.append(Case(step.state, step.skills, r, number, reused))
        return cases

    # --- checkpoints ----------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The bank with Q, and Q's Adam; the language model is what it was."""
        return {
            "expert": self.expert.state_dict(),
            "expert_adam": adam_state(self.learner.optimiser),
        }

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        load_into(self.expert, parts["expert"], "the checkpoint's case bank")
        load_adam_state(self.learner.optimiser, parts["expert_adam"])


if __name__ == "__main__":
    demo()
