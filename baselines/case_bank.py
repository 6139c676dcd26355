"""The case bank of Memento (arXiv 2508.16153): what is remembered, retrieved and reused.

A case c = (state, skills, outcome) is a turn that was played or logged.  Equation numbers in this
file are Memento's:
    Write  M <- M u {(s, a, r)}, Eq. 12                               `CaseBank.write`
    Read   the K cases nearest to s^E_t by cosine, Eq. 13, or those   `CaseBank.read`
           of greatest Q(s, c), Eq. 16
    Reuse  the skill sequence of one of them, drawn by Eq. 7          `CaseBank.act`
What is ours (GAP-10):
  - The planner is no LLM that reads the cases.  Each remembered sequence has the sum of its cases'
    weights, and failures count against it (`vote`).
  - There is no sentence encoder: the frozen perception of the Expert encodes a state.
  - A case of the same dialogue is never retrieved.
  - The bank begins with the labelled turns of the training split, outcome 1.  When it is full the
    oldest played case is dropped; logged cases stay.
How Q learns, and from which outcomes, is in memento.py.
B batch, N cases, C candidates, K skills, D width of a key.
Exercise: let a customer retrieve its own dialogue (drop `barred`) on your logs: training looks
brilliant, the test split does not."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import MAX_SKILLS, Dataset, opt
from expert import ExpertConfig, ExpertState, Perception
from start.pairs import labelled_states

Generators = torch.Generator | Sequence[torch.Generator] | None      # one for all, or one for each

# Keys are multiples of 1/2048: their products sum without rounding in float32, in any order.
GRID = 2048
ENCODED_AT_ONCE = 2048                           # states, when many are written
INF = float("inf")


@dataclass(frozen=True)
class MementoConfig:
    """How cases are kept and read; numbers are ours where the source is not named (GAP-10)."""
    memento_read: str = opt(
        "q", "which cases are read: cosine (Memento Eq. 13), or q (Eq. 16; by cosine until Q has "
        "learned from --memento_warm turns)")
    memento_k: int = opt(
        4, "K, cases read a turn [Memento: 4 is best of 0 to 32]; in training one is drawn from "
        "the best 2K")
    memento_near: int = opt(
        16, "cases that Q ranks, the nearest by cosine, at least 2K; with more of them, Q picks "
        "cases that fit the state less")
    memento_bank: int = opt(
        20_000, "cases kept, logged ones at most half of them; when full the oldest played case "
        "is dropped")
    memento_alpha: float = opt(
        0.5, "temperature alpha of Memento Eq. 7, by which a case is drawn in training, > 0")
    memento_warm: int = opt(500, "turns that Q has learned from before it reads, >= 0")
    memento_width: int = opt(64, "hidden width of Q, a two-layer perceptron [Memento: 512]")
    memento_q_lr: float = opt(2e-4, "Adam step size of Q")
    memento_batch: int = opt(32, "turns in one Adam step of Q [Memento's code: 32]")

    def __post_init__(self):
        if self.memento_read not in ("cosine", "q"):
            raise ValueError(f"--memento_read is cosine or q, got {self.memento_read!r}")
        least = {
            "memento_k": 1,
            "memento_near": 2 * self.memento_k,
            "memento_bank": 2,
            "memento_warm": 0,
            "memento_width": 1,
            "memento_batch": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"--{name} must be at least {bound}, got {getattr(self, name)}")
        # beyond 2^20 `nearest` could not order cases by age
        if self.memento_bank > 1_000_000:
            raise ValueError(f"--memento_bank must be at most 1000000, got {self.memento_bank}")
        if not self.memento_alpha > 0 or not self.memento_q_lr > 0:
            raise ValueError(
                "--memento_alpha and --memento_q_lr must be positive, "
                f"got {self.memento_alpha}, {self.memento_q_lr}")


# --- equations ----------------------------------------------------------------------------------

class Found(NamedTuple):
    """The cases retrieved for each state, best first; each [B, up to k]."""
    weight: Tensor                               # cosine, or Q
    case: Tensor                                 # its number in the bank
    allowed: Tensor                              # False where fewer cases were left than k


def nearest(query: Tensor, keys: Tensor, barred: Tensor, k: int) -> Found:
    """TopK_i cosine(enc(s), enc(s_i)), Eq. 13; of equal ones the newest.

    query    [B, D], keys [N, D]; both L2-normalised, oldest case first
    barred   [B, N] True: not for this state
    returns  cosine, case, allowed, each [B, min(k, N)], best first; where fewer cases are left
             than k, `allowed` is False
    """
    cosine = query @ keys.T                                                      # [B, N]
    # below the grid of the cosines, 2^-22
    age = torch.arange(len(keys), device=keys.device, dtype=torch.float64) * 2 ** -43
    ranked = torch.add(age, cosine).masked_fill_(barred, -INF)
    case = ranked.topk(min(k, len(keys)), -1).indices
    return Found(cosine.gather(1, case), case, ~barred.gather(1, case))


def mu(score: Tensor, alpha: float) -> Tensor:
    """mu(c|s, M) = softmax_c(score / alpha), Eq. 7; a score of -inf has probability 0."""
    return (score / alpha).softmax(-1)


def vote(sequences: Tensor, weight: Tensor, outcome: Tensor) -> Tensor:
    """What speaks for the sequence of each retrieved case (GAP-10).

    score_i = sum_j [sequence_j = sequence_i] weight_j (2 r_j - 1)

    sequences  [B, k, 5] skill numbers, -1 pads
    weight     [B, k] cosine or Q, 0 where no case is
    outcome    [B, k] r in {0, 1}; with Q it is 1: Q has read r, and is itself the chance that the
               case helps
    returns    [B, k]; -inf where an earlier case already stands for the same sequence
    """
    same = (sequences[:, :, None] == sequences[:, None]).all(-1)                 # [B, k, k]
    speaks = weight * (2 * outcome - 1)                                          # [B, k]
    score = (same * speaks[:, None]).sum(-1)
    return score.masked_fill(same.tril(-1).any(-1), -INF)


# --- the bank -----------------------------------------------------------------------------------

class Reuse(NamedTuple):
    """What `act` chose; like a Choice of the Expert it has `.skills`."""
    skills: list[tuple[str, ...]]
    cases: list[int]     # whose sequence it is, with the greatest weight; -1: no case, no skills
    score: list[float]                           # its vote


class CaseBank(nn.Module):
    """M, Read and Reuse, in the place of an Expert.

    Cases lie oldest first, logged before played, in tensors of a fixed size.
    """

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
        self.cfg = cfg
        self.options = options
        self.index = {skill: i for i, skill in enumerate(self.pool)}
        texts = 1 + cfg.history                                      # U_t and k messages of H_t
        width = perception.width * texts + perception.size + len(self.pool)
        self._add_buffers(options.memento_bank, width)
        inputs = 3 * width + len(self.pool) + 1
        self.q = nn.Sequential(
            nn.Linear(inputs, options.memento_width),
            nn.ReLU(),
            nn.Linear(options.memento_width, 1))

    def _add_buffers(self, size: int, width: int) -> None:
        """Room for `size` cases, and three counters."""
        # float16 is exact for multiples of 1/2048 up to 1
        self.register_buffer("keys", torch.zeros(size, width, dtype=torch.float16))
        none = torch.full((size, MAX_SKILLS), -1, dtype=torch.int16)
        self.register_buffer("sequences", none)
        self.register_buffer("outcome", torch.zeros(size, dtype=torch.int8))
        self.register_buffer("dialogue", torch.zeros(size, dtype=torch.int64))
        # cases held; those of them that are never dropped; turns that Q has learned from
        for name in ("count", "logged", "learned"):
            self.register_buffer(name, torch.zeros(1, dtype=torch.int64))

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def __len__(self) -> int:
        return int(self.count)

    @property
    def reads_q(self) -> bool:
        """Whether Q has learned enough to say which cases are read."""
        enough = int(self.learned) >= self.options.memento_warm
        return self.options.memento_read == "q" and enough

    # --- a state as a key -----------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, states: Sequence[ExpertState]) -> Tensor:
        """enc(s), [B, D], length 1 up to the grid; nothing here learns.

        The blocks are U_t, (u_t, e_t), the customer's last k messages, each worth half of the one
        after it, and a^E_{t-1}.  Each block has length 1 before it is weighted; a message or
        skills that are not there are zero.
        """
        blocks = [
            self._meaning([s.user for s in states]),
            F.normalize(self.perception.probabilities(states), dim=-1),
        ]
        blocks += [self._message(states, age) for age in range(1, self.cfg.history + 1)]
        blocks.append(self._previous(states))
        joined = F.normalize(torch.cat(blocks, -1), dim=-1)
        return (joined * GRID).round() / GRID

    def _meaning(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.perception.meaning(texts), dim=-1)

    def _message(self, states: Sequence[ExpertState], age: int) -> Tensor:
        """The customer's message `age` turns ago, at half the weight for each turn."""
        said = [len(s.history) >= age for s in states]
        texts = [s.history[-age][0] if there else "" for s, there in zip(states, said)]
        there = torch.tensor(said, device=self.device)
        return 0.5 ** age * there[:, None] * self._meaning(texts)

    def _previous(self, states: Sequence[ExpertState]) -> Tensor:
        """a^E_{t-1} as a set."""
        chosen = torch.zeros(len(states), len(self.pool))
        for row, state in enumerate(states):
            chosen[row, [self.index[skill] for skill in state.previous]] = 1.0
        return F.normalize(chosen, dim=-1).to(self.device)

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
        logged = int(self.logged)
        room = len(self.keys) - logged
        states = list(states)[-room:]
        if not states:
            return
        new = {
            "keys": self._keys(states),
            "sequences": self._numbers(list(sequences)[-room:]),
            "outcome": torch.tensor(list(outcomes)[-room:]),
            "dialogue": torch.tensor(list(dialogues)[-room:]),
        }
        end = len(self)
        stay = min(end - logged, room - len(states))                 # played cases that stay
        first = logged + stay
        for name, value in new.items():
            buffer = getattr(self, name)
            buffer[logged:first] = buffer[end - stay:end].clone()
            buffer[first:first + len(states)] = value.to(buffer)
        self.count.fill_(first + len(states))

    def _keys(self, states: Sequence[ExpertState]) -> Tensor:
        starts = range(0, len(states), ENCODED_AT_ONCE)
        return torch.cat([self.encode(states[i:i + ENCODED_AT_ONCE]) for i in starts])

    def _numbers(self, sequences: Sequence[Sequence[str]]) -> Tensor:
        """[B, 5] skill numbers, -1 pads."""
        rows = []
        for sequence in sequences:
            numbers = [self.index[skill] for skill in sequence]
            rows.append(numbers + [-1] * (MAX_SKILLS - len(numbers)))
        return torch.tensor(rows)

    def fill(self, dataset: Dataset) -> None:
        """Begins the bank anew with the labelled turns of the training split, outcome 1.

        If they are more than half of the bank, evenly spaced ones are taken.
        """
        cases = []
        for number, dialogue in enumerate(dataset.train):
            for state, teacher in labelled_states([dialogue]):
                cases.append((state, teacher, 1, number))
        most = len(self.keys) // 2
        if len(cases) > most:
            cases = [cases[i * len(cases) // most] for i in range(most)]
        self.count.zero_()
        self.logged.zero_()
        if cases:
            self.write(*zip(*cases))
        self.logged.fill_(len(cases))

    # --- Read -----------------------------------------------------------------------------------

    @torch.no_grad()
    def read(
        self, states: Sequence[ExpertState], k: int, dialogues: Sequence[int] | None = None
    ) -> Found:
        """The cases for each state, best first.

        They are the nearest by cosine (Eq. 13); if Q reads, those of greatest Q among the nearest
        `memento_near` (Eq. 16).
        """
        n = len(self)
        query = self.encode(states)
        barred = torch.zeros(len(states), n, dtype=torch.bool, device=self.device)
        if dialogues is not None:
            # a dialogue never retrieves itself
            asking = torch.tensor(dialogues, device=self.device)
            barred = asking[:, None] == self.dialogue[:n]
        found = nearest(query, self.keys[:n].float(), barred, self.options.memento_near)
        if n and self.reads_q:
            found = self._ranked_by_q(query, found)
        return Found(found.weight[:, :k], found.case[:, :k], found.allowed[:, :k])

    def _ranked_by_q(self, query: Tensor, found: Found) -> Found:
        """The same cases, those of greatest Q first; of equal ones the nearest."""
        q = self.q(self.value_input(query, found.case)).squeeze(-1).sigmoid()
        q = (q * 1024).round() / 1024            # rounded: equal cases stay equal in any batch
        known = q.masked_fill(~found.allowed, -1.0)
        best = known.sort(dim=-1, descending=True, stable=True).indices
        return Found(q.gather(1, best), found.case.gather(1, best), found.allowed.gather(1, best))

    def value_input(self, query: Tensor, cases: Tensor) -> Tensor:
        """What Q reads of (s, c): [B, D], [B, C] -> [B, C, 3 D + K + 1].

        These are enc(s), enc(c), their product, the skills of c as a set, and the outcome of c.
        """
        scale = query.shape[-1] ** 0.5           # a unit vector's coordinates are tiny next to 0/1
        s = scale * query[:, None].expand(-1, cases.shape[1], -1)
        c = scale * self.keys[cases].float()
        skills = torch.zeros(*cases.shape, len(self.pool) + 1, device=self.device)
        skills.scatter_(-1, self.sequences[cases].long() + 1, 1.0)   # column 0 takes the pads
        outcome = self.outcome[cases].float()
        return torch.cat([s, c, s * c, skills[..., 1:], outcome[..., None]], -1)

    def state_values(self, states: Sequence[ExpertState]) -> list[float]:
        """V(s): the share of successes among the K cases read, by weight; 0 without a case."""
        found = self.read(states, self.options.memento_k)
        weight = found.weight.clamp(min=0) * found.allowed
        succeeded = (weight * self.outcome[found.case]).sum(-1)
        return (succeeded / weight.sum(-1).clamp(min=1e-8)).tolist()

    # --- Reuse ----------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        states: Sequence[ExpertState],
        generator: Generators = None,
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
        if not greedy:
            k = 2 * k
        found = self.read(states, k, dialogues)
        any_case = found.allowed.any(-1)                                         # [B]
        if not any_case.any():
            return Reuse([()] * len(states), [-1] * len(states), [0.0] * len(states))
        score = self._votes(found)                                               # [B, k]
        score[~any_case] = 0.0                   # a row without a case: any draw, not used
        pick = score.argmax(-1) if greedy else self._draw(score, generator)      # [B]
        return self._reuse(found, score, pick, any_case.tolist())

    def _votes(self, found: Found) -> Tensor:
        """What speaks for each case's sequence; -inf where there is no case."""
        if self.reads_q:
            outcome = torch.ones_like(found.weight)
        else:
            outcome = self.outcome[found.case].float()
        sequences = self.sequences[found.case].long()
        score = vote(sequences, found.weight * found.allowed, outcome)
        return score.masked_fill(~found.allowed, -INF)

    def _draw(self, score: Tensor, generator: Generators) -> Tensor:
        """A case for each state by Eq. 7: the first whose cumulative sum exceeds the uniform."""
        sums = mu(score.double(), self.options.memento_alpha).cumsum(-1)
        chance = self._uniforms(len(score), generator)
        return (sums <= chance[:, None] * sums[:, -1:]).sum(-1)

    def _uniforms(self, batch: int, generator: Generators) -> Tensor:
        if isinstance(generator, Sequence):
            drawn = torch.cat([torch.rand(1, generator=g) for g in generator])
        else:
            drawn = torch.rand(batch, generator=generator)
        return drawn.double().to(self.device)

    def _reuse(self, found: Found, score: Tensor, pick: Tensor, any_case: list[bool]) -> Reuse:
        """The picked cases with their sequences; -1 and no skills where there is no case."""
        cases = found.case.gather(1, pick[:, None]).squeeze(1)
        skills = [self._names(row) for row in self.sequences[cases].tolist()]
        used = cases.tolist()
        for row, there in enumerate(any_case):
            if not there:
                skills[row] = ()
                used[row] = -1
        return Reuse(skills, used, score.gather(1, pick[:, None]).squeeze(1).tolist())

    def _names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.pool[i] for i in numbers if i >= 0)
