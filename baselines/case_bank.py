"""Memento's memory (arXiv 2508.16153): a bank of cases, which are read, reused and written.

A case c = (state, skills, outcome) is a turn that was once answered.  Reading finds cases like
s^E_t: the nearest by cosine (Eq. 13), or of those the most useful by a learned Q (Eq. 16).  Reusing
takes the skill sequence of one of them.  Writing adds a case (Eq. 12).  Equation numbers are
Memento's.  GAP-10 names what is ours here: the vote among the cases, their encoding, what the bank
begins with, and which case goes when it is full.  Nothing here learns; baselines/memento.py does.
B batch, N cases, C candidates, k cases read, K skills, D width of a key.
Try it:  python -m baselines.case_bank        two customers, the cases nearest to each, their vote
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.config import MementoConfig
from data import MAX_SKILLS, Dataset
from expert import ExpertConfig, ExpertState
from expert_learner import labelled_states
from perception import Perception

# Keys are multiples of 1/2048: their products sum without rounding in float32, in any order.
GRID = 2048
# A played customer's dialogue number begins here: it is never that of a logged dialogue.
LIVE = 2 ** 31
# States that are encoded at once.
CHUNK = 2048


# Cases that Q ranks, the nearest by cosine: more, and Q picks cases that fit the state less [ours].
NEAR = 16
WIDTH = 64                                       # hidden, of Q, a perceptron [Memento: 512]


# --- equations ----------------------------------------------------------------------------------

def nearest(
    query: Tensor, keys: Tensor, barred: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """TopK_i cosine(enc(s), enc(s_i)), Eq. 13; of equal ones the newest.

    query    [B, D], keys [N, D]; both L2-normalised, oldest case first
    barred   [B, N] True: not for this state
    returns  cosine, case, allowed, each [B, min(k, N)], best first; where fewer cases are left
             than k, `allowed` is False
    """
    cosine = query @ keys.T                                                          # [B, N]
    # Below the grid of the cosines, 2^-22.
    age = torch.arange(len(keys), device=keys.device, dtype=torch.float64) * 2 ** -43
    order = torch.add(age, cosine).masked_fill_(barred, float("-inf"))
    found = order.topk(min(k, len(keys)), -1).indices
    return cosine.gather(1, found), found, ~barred.gather(1, found)


def mu(score: Tensor, alpha: float) -> Tensor:
    """mu(c|s, M) = softmax_c(score / alpha), Eq. 7; a score of -inf has probability 0."""
    return (score / alpha).softmax(-1)


def vote(sequences: Tensor, weight: Tensor, outcome: Tensor) -> Tensor:
    """What speaks for the sequence of each retrieved case i, GAP-10.

    It is sum_j [sequence_j = sequence_i] weight_j (2 r_j - 1): failures count against a sequence.

    sequences  [B, k, 5] skill numbers, -1 pads
    weight     [B, k] cosine or Q, 0 where no case is
    outcome    [B, k] r in {0, 1}; 1 for Q, which has read r and is itself the chance that the case
               helps
    returns    [B, k]; -inf where an earlier case already stands for the same sequence
    """
    same = (sequences[:, :, None] == sequences[:, None]).all(-1)                     # [B, k, k]
    signed = weight * (2 * outcome - 1)
    score = (same * signed[:, None]).sum(-1)
    repeated = same.tril(-1).any(-1)
    return score.masked_fill(repeated, float("-inf"))


# --- the bank -----------------------------------------------------------------------------------

class Reuse(NamedTuple):
    """What `act` chose; as a Choice of the Expert it has `.skills`."""
    skills: list[tuple[str, ...]]
    # The case whose sequence it is, the one with the greatest weight; -1: no case, no skills.
    cases: list[int]
    # Its vote.
    score: list[float]


class CaseBank(nn.Module):
    """M, with Read, Reuse and Write, in the place of an Expert.

    Cases lie oldest first, logged before played, in tensors of a fixed size."""

    def __init__(
        self,
        pool: Sequence[str],
        perception: Perception,
        cfg: ExpertConfig,
        options: MementoConfig,
    ):
        super().__init__()
        self.pool = tuple(pool)
        self.perception = perception
        self.cfg = cfg.settled()
        self.options = options
        self.index = {s: i for i, s in enumerate(self.pool)}
        size = options.memento_bank
        width = perception.width * (1 + self.cfg.history) + perception.size + len(self.pool)
        # float16 is exact for multiples of 1/2048 up to 1.
        self.register_buffer("keys", torch.zeros(size, width, dtype=torch.float16))
        self.register_buffer(
            "sequences", torch.full((size, MAX_SKILLS), -1, dtype=torch.int16))
        self.register_buffer("outcome", torch.zeros(size, dtype=torch.int8))
        self.register_buffer("dialogue", torch.zeros(size, dtype=torch.int64))
        # Cases held; those of them that are never dropped; turns that Q has learned from.
        for name in ("count", "logged", "learned"):
            self.register_buffer(name, torch.zeros(1, dtype=torch.int64))
        hidden = WIDTH
        self.q = nn.Sequential(
            nn.Linear(3 * width + len(self.pool) + 1, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def __len__(self) -> int:
        return int(self.count)

    # --- the state as a key ---------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, states: Sequence[ExpertState]) -> Tensor:
        """enc(s), [B, D], of length 1 up to the grid.

        Its blocks are U_t; (u_t, e_t); the customer's last k messages, each worth half the next;
        a^E_{t-1}.  Each block has length 1 before it is weighted; a message or skills that are not
        there are zero.  Nothing here learns."""
        perceived = self.perception.probabilities(states)
        blocks = [self._meaning([s.user for s in states]), F.normalize(perceived, dim=-1)]
        for age in range(1, self.cfg.history + 1):
            blocks.append(self._earlier(states, age))
        blocks.append(self._previous(states))
        key = F.normalize(torch.cat(blocks, -1), dim=-1)
        return (key * GRID).round() / GRID

    def _meaning(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.perception.meaning(texts), dim=-1)

    def _earlier(self, states: Sequence[ExpertState], age: int) -> Tensor:
        """The customer's message of `age` turns before."""
        there = torch.tensor([len(s.history) >= age for s in states], device=self.device)
        texts = []
        for s, known in zip(states, there.tolist()):
            text = s.history[-age][0] if known else ""
            texts.append(text)
        return 0.5 ** age * there[:, None] * self._meaning(texts)

    def _previous(self, states: Sequence[ExpertState]) -> Tensor:
        """a^E_{t-1}, as a set."""
        previous = torch.zeros(len(states), len(self.pool))
        for row, s in enumerate(states):
            previous[row, [self.index[p] for p in s.previous]] = 1.0
        return F.normalize(previous, dim=-1).to(self.device)

    # --- Write ----------------------------------------------------------------------------------

    @torch.no_grad()
    def write(
        self,
        states: Sequence[ExpertState],
        sequences: Sequence[Sequence[str]],
        outcomes: Sequence[float],
        dialogues: Sequence[int],
    ) -> None:
        """M <- M u {(s, a, r)}, Eq. 12; beyond the bank's size the oldest played case goes."""
        first = int(self.logged)
        room = len(self.keys) - first
        states = list(states)[-room:]
        if not states:
            return
        new = {
            "keys": self._keys(states),
            "sequences": torch.tensor([self._numbers(a) for a in list(sequences)[-room:]]),
            "outcome": torch.tensor(list(outcomes)[-room:]),
            "dialogue": torch.tensor(list(dialogues)[-room:]),
        }
        end = len(self)
        # Played cases that stay.
        kept = min(end - first, room - len(states))
        begin = first + kept
        for name, value in new.items():
            buffer = getattr(self, name)
            buffer[first:begin] = buffer[end - kept:end].clone()
            buffer[begin:begin + len(states)] = value.to(buffer)
        self.count.fill_(begin + len(states))

    def _keys(self, states: Sequence[ExpertState]) -> Tensor:
        """enc(s) in parts: all at once could take gigabytes."""
        parts = [self.encode(states[i:i + CHUNK]) for i in range(0, len(states), CHUNK)]
        return torch.cat(parts)

    def _numbers(self, skills: Sequence[str]) -> list[int]:
        """A skill sequence as a row of `sequences`."""
        return [self.index[name] for name in skills] + [-1] * (MAX_SKILLS - len(skills))

    def fill(self, dataset: Dataset) -> None:
        """Begins the bank anew: the labelled turns of the training split, outcome 1.

        If they are more than half of the bank, evenly spaced ones."""
        cases = []
        for number, dialogue in enumerate(dataset.train):
            for state, teacher in labelled_states([dialogue]):
                cases.append((state, teacher, number))
        most = len(self.keys) // 2
        if len(cases) > most:
            cases = [cases[i * len(cases) // most] for i in range(most)]
        self.count.zero_()
        self.logged.zero_()
        states = [state for state, _, _ in cases]
        teachers = [teacher for _, teacher, _ in cases]
        numbers = [number for _, _, number in cases]
        self.write(states, teachers, [1] * len(cases), numbers)
        self.logged.fill_(len(cases))

    # --- Read -----------------------------------------------------------------------------------

    @property
    def reads_q(self) -> bool:
        return self.options.memento_read == "q" and int(self.learned) >= self.options.memento_warm

    @torch.no_grad()
    def read(
        self, states: Sequence[ExpertState], k: int, dialogues: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The cases for each state, best first.

        By cosine (Eq. 13), or of the nearest those of greatest Q (Eq. 16).

        dialogues  ids: a dialogue never retrieves itself
        returns    weight, case, allowed, each [B, up to k]
        """
        n = len(self)
        query = self.encode(states)
        barred = torch.zeros(len(states), n, dtype=torch.bool, device=self.device)
        if dialogues is not None:
            ids = torch.tensor(dialogues, device=self.device)
            barred = ids[:, None] == self.dialogue[:n]
        near = max(NEAR, 2 * self.options.memento_k)
        weight, case, allowed = nearest(query, self.keys[:n].float(), barred, near)
        if n and self.reads_q:
            weight, case, allowed = self._ranked_by_q(query, case, allowed)
        return weight[:, :k], case[:, :k], allowed[:, :k]

    def _ranked_by_q(
        self, query: Tensor, case: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same cases by descending Q; of equal ones the nearest first."""
        q = self.q(self.value_input(query, case)).squeeze(-1).sigmoid()
        # Rounded: equal cases stay equal in any batch.
        q = (q * 1024).round() / 1024
        best = q.masked_fill(~allowed, -1.0).sort(dim=-1, descending=True, stable=True).indices
        return q.gather(1, best), case.gather(1, best), allowed.gather(1, best)

    def value_input(self, query: Tensor, cases: Tensor) -> Tensor:
        """What Q reads of (s, c).

        enc(s), enc(c), their product, the skills of c as a set, the outcome of c.

        query    [B, D], cases [B, C]
        returns  [B, C, 3 D + K + 1]
        """
        # Coordinates of a unit vector are tiny next to inputs of 0 and 1.
        scale = query.shape[-1] ** 0.5
        s = scale * query[:, None].expand(-1, cases.shape[1], -1)
        c = scale * self.keys[cases].float()
        # Column 0 takes the padding.
        skills = torch.zeros(*cases.shape, len(self.pool) + 1, device=self.device)
        skills = skills.scatter_(-1, self.sequences[cases].long() + 1, 1.0)[..., 1:]
        outcome = self.outcome[cases].float()[..., None]
        return torch.cat([s, c, s * c, skills, outcome], -1)

    # --- Reuse ----------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        states: Sequence[ExpertState],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        given: None = None,
        greedy: bool = False,
        stops: bool = True,
        dialogues: Sequence[int] | None = None,
    ) -> Reuse:
        """A remembered skill sequence for each state; none while no case may be used.

        generator  as the Expert's: one for all states, or one for each, which then alone decides
                   the draw
        greedy     the sequence that most of the K cases speak for; else one of those of the best
                   2K, drawn by Eq. 7
        dialogues  ids: cases of the same dialogue are never retrieved
        raises     ValueError for `given` or stops=False: there is no probability to score, and no
                   stop to forbid
        """
        if given is not None or not stops:
            raise ValueError(
                "a case bank has no log-probabilities to score and no stop: "
                "act takes neither given nor stops=False")
        k = self.options.memento_k
        candidates = k if greedy else 2 * k
        weight, case, allowed = self.read(states, candidates, dialogues)
        found = allowed.any(-1).tolist()
        if not any(found):
            return Reuse([()] * len(states), [-1] * len(states), [0.0] * len(states))
        score = self._votes(weight, case, allowed)
        # A row without a case: any draw, not used.
        score[[not f for f in found]] = 0.0
        pick = score.argmax(-1) if greedy else self._draw(score, generator)          # [B]
        used = case.gather(1, pick[:, None]).squeeze(1).tolist()
        votes = score.gather(1, pick[:, None]).squeeze(1).tolist()
        skills = [self._skills(c) if f else () for c, f in zip(used, found)]
        cases = [c if f else -1 for c, f in zip(used, found)]
        return Reuse(skills, cases, votes)

    def _votes(self, weight: Tensor, case: Tensor, allowed: Tensor) -> Tensor:
        """[B, k] `vote`, -inf where no case is."""
        outcome = torch.ones_like(weight) if self.reads_q else self.outcome[case].float()
        score = vote(self.sequences[case].long(), weight * allowed, outcome)
        return score.masked_fill(~allowed, float("-inf"))

    def _draw(
        self, score: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None
    ) -> Tensor:
        """[B] by Eq. 7: the first case whose cumulative probability exceeds the uniform."""
        sums = mu(score.double(), self.options.memento_alpha).cumsum(-1)
        uniform = self._uniforms(len(score), generator)
        return (sums <= uniform[:, None] * sums[:, -1:]).sum(-1)

    def _uniforms(
        self, batch: int, generator: torch.Generator | Sequence[torch.Generator] | None
    ) -> Tensor:
        if isinstance(generator, Sequence):
            drawn = torch.cat([torch.rand(1, generator=g) for g in generator])
        else:
            drawn = torch.rand(batch, generator=generator)
        return drawn.double().to(self.device)

    def _skills(self, case: int) -> tuple[str, ...]:
        return tuple(self.pool[i] for i in self.sequences[case].tolist() if i >= 0)

    def state_values(self, states: Sequence[ExpertState]) -> list[float]:
        """V(s): the share of successes among the K cases read, by weight; 0 without a case."""
        weight, case, allowed = self.read(states, self.options.memento_k)
        weight = weight.clamp(min=0) * allowed
        succeeded = (weight * self.outcome[case]).sum(-1)
        return (succeeded / weight.sum(-1).clamp(min=1e-8)).tolist()


# --- two customers ------------------------------------------------------------------------------

SAID = (
    ("Where is my refund?", ("refund",), 0),
    ("Where is my refund? I am furious", ("apologise", "refund"), 1),
    ("My refund is late and I am furious", ("apologise", "refund"), 1),
    ("Is the lamp in stock?", ("greet", "stock"), 1),
    ("Is the sofa in stock?", ("stock",), 0),
)


def demo() -> None:
    torch.manual_seed(0)
    perception = Perception(["refund", "stock"], ["neutral", "angry"])
    options = MementoConfig(memento_read="cosine", memento_k=3, memento_bank=8)
    pool = ["greet", "apologise", "refund", "stock"]
    bank = CaseBank(pool, perception, ExpertConfig(), options)
    words, sequences, outcomes = zip(*SAID)
    bank.write([ExpertState(user) for user in words], sequences, outcomes, range(len(SAID)))
    for user in ("I am furious, where is my refund?", "Is the chair in stock?"):
        print(f"customer: {user}")
        _show(bank, ExpertState(user))


def _show(bank: CaseBank, state: ExpertState) -> None:
    weight, case, _ = bank.read([state], bank.options.memento_k)
    for w, c in zip(weight[0].tolist(), case[0].tolist()):
        user, skills, outcome = SAID[c]
        end = "succeeded, +" if outcome else "failed,    -"
        print(f"  cosine {w:.3f}  {user:37s} {', '.join(skills):18s} {end}{w:.3f}")
    choice = bank.act([state], greedy=True)
    print(f"  reused: {', '.join(choice.skills[0])}, "
          f"for which the cases speak with {choice.score[0]:+.3f}")


if __name__ == "__main__":
    demo()
