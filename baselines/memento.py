"""Memento (arXiv 2508.16153) as a baseline for dialogue: only the choice among past cases learns.

The Customer Service LM stays as the warm start left it.  A case bank stands in the Expert's place
(case_bank.py).  Every turn retrieves cases like s^E_t and reuses the skill sequence of one; after
the dialogue each of its turns is written back with its outcome.  What learns, if anything does, is
Q(s, c), the probability that reusing case c succeeds:

    L(Q) = -r log Q(s, c) - (1 - r) log(1 - Q(s, c))

That is Eq. 15 of Memento; all equation numbers in this file are Memento's.  The tables of GOPO list
a Memento row and do not say how it was made.  Ours are (GAP-10), besides those of case_bank.py:
  - Every turn is written, with the outcome of its dialogue; Memento writes the last step only.
    On logs the outcome is whether the turn's ESNDCG is at least .5.
  - Credit: Q learns from the one case that was reused, and not from all K with one label.  In
    training that case is drawn from the best 2K (Eq. 7).
B batch, N turns, C candidates, K skills, D width of a key.
Try it:  python -m baselines.memento        two customers, the cases nearest to each, and their vote
Exercise: set --memento_read cosine, train again, and compare `success` in metrics.jsonl."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.case_bank import CaseBank, MementoConfig
from data import DataError, Dataset, Episode
from expert import ExpertConfig, ExpertLearner, ExpertState, Perception
from gopo import Gopo
from infra.processes import world_size
from infra.runs import adam_state, load_adam_state, load_into
from policies import Choose, Draws, Skills

# The dialogue number of a played customer begins here: it is never that of a logged dialogue.
LIVE = 2 ** 31


# --- equations ----------------------------------------------------------------------------------

def q_loss(logit: Tensor, r: Tensor) -> Tensor:
    """-r log Q - (1 - r) log(1 - Q), Eq. 15, the mean over turns, nats; Q = sigmoid(logit).

    logit  [N] of Q(s, c), where c is the case reused
    r      [N] 1 if the dialogue then succeeded, else 0
    """
    return F.binary_cross_entropy_with_logits(logit, r)


def auc(q: Tensor, r: Tensor) -> float | None:
    """P(Q of a success > Q of a failure), ties a half; None if there are not both."""
    above = q[r > 0.5][:, None] - q[r <= 0.5]
    if not above.numel():
        return None
    return ((above > 0).float() + 0.5 * (above == 0)).mean().item()


# --- learning -----------------------------------------------------------------------------------

class QLearner(ExpertLearner):
    """Adam steps of Eq. 15 on Q alone; perception and keys stay as they are."""

    def __init__(self, bank: CaseBank):
        self.expert = bank
        self.parameters = list(bank.q.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, bank.options.memento_q_lr)

    def update(
        self, states: Sequence[ExpertState], cases: Sequence[int], outcomes: Sequence[float]
    ) -> dict[str, float | None]:
        """Each turn once; loss and AUC are of Q as it was before, and so of turns new to it."""
        if not states:
            return {"loss_q": None, "q_auc": None}
        bank = self.expert
        inputs = self._inputs(states, cases)                                     # [N, 3 D + K + 1]
        with torch.no_grad():
            before = bank.q(inputs).squeeze(-1)                                  # [N]
        r = torch.tensor(outcomes, dtype=torch.float32, device=bank.device)      # [N]
        row = {"loss_q": q_loss(before, r).item(), "q_auc": auc(before, r)}
        # A batch takes every so-many-th turn: that mixes dialogues without a draw.
        batches = -(-len(r) // bank.options.memento_batch)
        for first in range(batches):
            logit = bank.q(inputs[first::batches]).squeeze(-1)
            self.step(q_loss(logit, r[first::batches]), "Eq. 15 of Memento's Q")
        bank.learned += len(r)
        return row

    @torch.no_grad()
    def _inputs(self, states: Sequence[ExpertState], cases: Sequence[int]) -> Tensor:
        bank = self.expert
        case = torch.tensor(cases, device=bank.device)[:, None]                  # [N, 1]
        return bank.value_input(bank.encode(states), case).squeeze(1)


class Lived(NamedTuple):
    """A played turn with its outcome: a case to be written."""
    state: ExpertState
    skills: Skills
    outcome: int
    dialogue: int
    reused: int                                  # the case whose skills were said; -1: none


class Memento(Gopo):
    """The loop of Gopo with a bank for an Expert; the language model speaks and never learns."""
    Options = MementoConfig
    policy = CaseBank

    @classmethod
    def new_policy(cls, dataset: Dataset, cfg: ExpertConfig, options: MementoConfig) -> CaseBank:
        perception = Perception(dataset.intents, dataset.emotions)
        return cls.policy(list(dataset.skills), perception, cfg, options)

    @classmethod
    def prepare_policy(cls, policy: CaseBank, dataset: Dataset) -> None:
        policy.fill(dataset)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.cfg.no_expert:
            raise DataError(
                "--no_expert leaves Memento nothing to do: its cases stand in the Expert's place")
        if world_size() > 1:
            raise DataError(
                f"Memento writes one case bank: launch one process, not {world_size()}")
        self.learner = QLearner(self.expert)
        if self.agent:
            # Nothing learns from a second reply to a state: more customers instead.
            self.size = self.size * self.agent.cfg.group
            self.group = 1
        # (dialogue, turn) -> the case reused, from a draw to `learn`
        self.used: dict[tuple[int, int], int] = {}

    def ids(self, played: Sequence[Episode]) -> list[int]:
        """The dialogue number of cases.

        On logs it is that of the logged dialogue itself, for a live customer none that a log has.
        """
        live = self.dataset.environment is not None
        return [e.number + LIVE * live for e in played]

    def chooser(self, draws: Draws | None = None, greedy: bool = False) -> Choose:
        """As `by_policy`; what is drawn is remembered for `learn`.

        Without dialogues (a single answer) no case is barred.
        """
        self.used = {}

        def choose(states: list[ExpertState], playing: list[Episode]) -> list[Skills]:
            generators = None
            if draws:
                generators = [draws(e.number, len(e.steps)) for e in playing]
            dialogues = self.ids(playing) or None
            chosen = self.expert.act(states, generators, greedy=greedy, dialogues=dialogues)
            if not greedy:
                for episode, case in zip(playing, chosen.cases):
                    self.used[episode.number, len(episode.steps)] = case
            return chosen.skills

        return choose

    def outcomes(self, episode: Episode) -> list[int | None]:
        """r of every turn: in a live shop the customer's success.

        On logs no reply can change the outcome.  There r says whether ESNDCG of the turn is at
        least .5; it is None if nobody labelled the turn.
        """
        if self.dataset.environment:
            return [int(episode.seen.outcome.success)] * len(episode.steps)
        return [None if s.teacher is None else int(s.esndcg >= 0.5) for s in episode.steps]

    def learn(self, played: list[Episode]) -> dict[str, float | None]:
        """Q learns from the cases reused (Eq. 15), then every turn becomes a case (Eq. 12)."""
        turns = self._lived(played)
        reused = [turn for turn in turns if turn.reused >= 0]
        logged = int(self.expert.logged)
        own = sum(turn.reused >= logged for turn in reused)
        row = self._learn_q(reused)
        self._retain(turns)
        self.used = {}
        held = self.expert.outcome[:len(self.expert)].float()
        row["cases"] = len(held)
        row["cases_succeeded"] = held.mean().item() if len(held) else None
        # the share of turns that followed a played case, not a logged one
        row["reused_played"] = own / len(reused) if reused else None
        return row

    def _lived(self, played: list[Episode]) -> list[Lived]:
        """Every turn whose outcome is known."""
        turns = []
        for episode, number in zip(played, self.ids(played)):
            outcomes = self.outcomes(episode)
            for t, (step, r) in enumerate(zip(episode.steps, outcomes)):
                if r is not None:
                    case = self.used.get((episode.number, t), -1)
                    turns.append(Lived(step.state, step.skills, r, number, case))
        return turns

    def _learn_q(self, reused: list[Lived]) -> dict[str, float | None]:
        states = [turn.state for turn in reused]
        cases = [turn.reused for turn in reused]
        return self.learner.update(states, cases, [turn.outcome for turn in reused])

    def _retain(self, turns: list[Lived]) -> None:
        states = [turn.state for turn in turns]
        skills = [turn.skills for turn in turns]
        outcomes = [turn.outcome for turn in turns]
        dialogues = [turn.dialogue for turn in turns]
        self.expert.write(states, skills, outcomes, dialogues)

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


# --- to look at ---------------------------------------------------------------------------------

# (customer's words, skills, outcome)
SAID = (
    ("Where is my refund?", ("refund",), 0),
    ("Where is my refund? I am furious", ("apologise", "refund"), 1),
    ("My refund is late and I am furious", ("apologise", "refund"), 1),
    ("Is the lamp in stock?", ("greet", "stock"), 1),
    ("Is the sofa in stock?", ("stock",), 0),
)


def show_case(number: int, cosine: float) -> None:
    words, skills, succeeded = SAID[number]
    says = "succeeded, +" if succeeded else "failed,    -"
    print(f"  cosine {cosine:.3f}  {words:37s} {', '.join(skills):18s} {says}{cosine:.3f}")


def demo() -> None:
    torch.manual_seed(0)
    perception = Perception(["refund", "stock"], ["neutral", "angry"])
    options = MementoConfig(memento_read="cosine", memento_k=3, memento_bank=8)
    pool = ["greet", "apologise", "refund", "stock"]
    bank = CaseBank(pool, perception, ExpertConfig(), options)
    for number, (words, skills, succeeded) in enumerate(SAID):
        bank.write([ExpertState(words)], [skills], [succeeded], [number])
    for words in ("I am furious, where is my refund?", "Is the chair in stock?"):
        print(f"customer: {words}")
        weights, cases, _ = bank.read([ExpertState(words)], options.memento_k)
        for weight, case in zip(weights[0].tolist(), cases[0].tolist()):
            show_case(case, weight)
        choice = bank.act([ExpertState(words)], greedy=True)
        print(f"  reused: {', '.join(choice.skills[0])}, "
              f"for which the cases speak with {choice.score[0]:+.3f}")


if __name__ == "__main__":
    demo()
