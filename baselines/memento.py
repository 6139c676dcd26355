"""Memento (arXiv 2508.16153) as a baseline for dialogue: nothing is trained but the choice among remembered cases.

The Customer Service LM stays as the warm start left it.  In the Expert's place stands a case bank M of cases c = (state, skills, outcome):
every turn retrieves cases like s^E_t (Read, Eq. 13 or 16) and reuses the skill sequence of one (Reuse); after the dialogue each of its
turns is written back with what came of it (Write, Eq. 12).  What learns, if anything does, is Q(s, c), the probability that reusing c
succeeds (Eq. 15).  Equation numbers in this file are Memento's.  The tables of GOPO list a Memento row and say nothing of how it was made;
so, GAP-10, ours are:
  - the planner is no LLM that reads the cases: each remembered sequence has the sum of its cases' weights, failures counted against it (`vote`);
  - every turn is written, with the outcome of its dialogue (logs: ESNDCG of the turn >= .5); the paper writes the last step only;
  - credit: Q learns from the one case that was reused, not from all K with one label; in training that case is drawn from the best 2K (Eq. 7);
  - no sentence encoder: the frozen perception of the Expert.  A case of the same dialogue is never retrieved;
  - the bank begins with the labelled turns of the training split, outcome 1; when it is full the oldest played case goes, those never.
B batch, N cases, C candidates, K skills, D width of a key.
Try it:  python memento.py        two customers, the cases nearest to each, and their vote
Exercise: let a customer retrieve its own dialogue (drop `barred`) on your logs: training looks brilliant, the test split does not."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import MAX_SKILLS, DataError, Dataset, Episode, opt
from expert import ExpertConfig, ExpertLearner, ExpertState, Perception
from gopo import Gopo
from infra.processes import world_size
from infra.runs import adam_state, load_adam_state, load_into
from policies import Choose
from start.pairs import labelled_states

GRID = 2048                                      # keys are multiples of 1/2048: their products sum without rounding in float32, in any order
LIVE = 2 ** 31                                   # a played customer's dialogue number begins here: never that of a logged dialogue


@dataclass(frozen=True)
class MementoConfig:
    """How cases are kept and read; numbers are ours where the source is not named (GAP-10)."""
    memento_read: str = opt("q", "which cases are read: cosine (Memento Eq. 13), or q (Eq. 16; by cosine until Q has learned from --memento_warm turns)")
    memento_k: int = opt(4, "K, cases read a turn [Memento: 4 is best of 0 to 32]; in training one is drawn from the best 2K")
    memento_near: int = opt(16, "cases that Q ranks, the nearest by cosine, at least 2K; more, and Q picks cases that fit the state less")
    memento_bank: int = opt(20_000, "cases kept, logged ones at most half of them; when full the oldest played case is dropped")
    memento_alpha: float = opt(0.5, "temperature alpha of Memento Eq. 7, by which a case is drawn in training, > 0")
    memento_warm: int = opt(500, "turns that Q has learned from before it reads, >= 0")
    memento_width: int = opt(64, "hidden width of Q, a two-layer perceptron [Memento: 512]")
    memento_q_lr: float = opt(2e-4, "Adam step size of Q")
    memento_batch: int = opt(32, "turns in one Adam step of Q [Memento's code: 32]")

    def __post_init__(self):
        if self.memento_read not in ("cosine", "q"):
            raise ValueError(f"--memento_read is cosine or q, got {self.memento_read!r}")
        for name, least in (("k", 1), ("near", 2 * self.memento_k), ("bank", 2), ("warm", 0), ("width", 1), ("batch", 1)):
            if getattr(self, f"memento_{name}") < least:
                raise ValueError(f"--memento_{name} must be at least {least}, got {getattr(self, f'memento_{name}')}")
        if self.memento_bank > 1_000_000:                                          # beyond 2^20 `nearest` could not order cases by age
            raise ValueError(f"--memento_bank must be at most 1000000, got {self.memento_bank}")
        if not self.memento_alpha > 0 or not self.memento_q_lr > 0:
            raise ValueError(f"--memento_alpha and --memento_q_lr must be positive, got {self.memento_alpha}, {self.memento_q_lr}")


# --- equations -----------------------------------------------------------------------------------------------------------------

def nearest(query: Tensor, keys: Tensor, barred: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """TopK_i cosine(enc(s), enc(s_i)), Eq. 13; of equal ones the newest.

    query    [B, D], keys [N, D]; both L2-normalised, oldest case first
    barred   [B, N] True: not for this state
    returns  cosine, case, allowed, each [B, min(k, N)], best first; where fewer cases are left than k, `allowed` is False
    """
    cosine = query @ keys.T                                                        # [B, N]
    age = torch.arange(len(keys), device=keys.device, dtype=torch.float64) * 2 ** -43        # below the grid of the cosines, 2^-22
    found = torch.add(age, cosine).masked_fill_(barred, float("-inf")).topk(min(k, len(keys)), -1).indices
    return cosine.gather(1, found), found, ~barred.gather(1, found)


def q_loss(logit: Tensor, r: Tensor) -> Tensor:
    """-r log Q - (1 - r) log(1 - Q), Eq. 15, the mean over turns, nats; Q = sigmoid(logit).

    logit  [N] of Q(s, c), c the case reused;   r  [N] 1 if the dialogue then succeeded, else 0
    """
    return F.binary_cross_entropy_with_logits(logit, r)


def mu(score: Tensor, alpha: float) -> Tensor:
    """mu(c|s, M) = softmax_c(score / alpha), Eq. 7; a score of -inf has probability 0."""
    return (score / alpha).softmax(-1)


def vote(sequences: Tensor, weight: Tensor, outcome: Tensor) -> Tensor:
    """What speaks for the sequence of each retrieved case: sum_j [sequence_j = sequence_i] weight_j (2 r_j - 1), GAP-10.

    sequences  [B, k, 5] skill numbers, -1 pads;   weight  [B, k] cosine or Q, 0 where no case is
    outcome    [B, k] r in {0, 1}; 1 for Q, which has read r and is itself the chance that the case helps
    returns    [B, k]; -inf where an earlier case already stands for the same sequence
    """
    same = (sequences[:, :, None] == sequences[:, None]).all(-1)                   # [B, k, k]
    score = (same * (weight * (2 * outcome - 1))[:, None]).sum(-1)
    return score.masked_fill(same.tril(-1).any(-1), float("-inf"))


def auc(q: Tensor, r: Tensor) -> float | None:
    """P(Q of a success > Q of a failure), ties a half; None if there are not both."""
    above = q[r > 0.5][:, None] - q[r <= 0.5]
    return ((above > 0).float() + 0.5 * (above == 0)).mean().item() if above.numel() else None


# --- the bank ------------------------------------------------------------------------------------------------------------------

class Reuse(NamedTuple):
    """What `act` chose; as a Choice of the Expert it has `.skills`."""
    skills: list[tuple[str, ...]]
    cases: list[int]                             # the case whose sequence it is, the one with the greatest weight; -1: no case, no skills
    score: list[float]                           # its vote


class CaseBank(nn.Module):
    """M, Read and Reuse, in the place of an Expert.  Cases lie oldest first, logged before played, in tensors of a fixed size."""

    def __init__(self, pool: Sequence[str], perception: Perception, cfg: ExpertConfig, options: MementoConfig):
        super().__init__()
        self.pool, self.perception, self.cfg, self.options = tuple(pool), perception, cfg, options
        self.index = {s: i for i, s in enumerate(self.pool)}
        size, width = options.memento_bank, perception.width * (1 + cfg.history) + perception.size + len(self.pool)
        self.register_buffer("keys", torch.zeros(size, width, dtype=torch.float16))          # exact for multiples of 1/2048 up to 1
        self.register_buffer("sequences", torch.full((size, MAX_SKILLS), -1, dtype=torch.int16))
        self.register_buffer("outcome", torch.zeros(size, dtype=torch.int8))
        self.register_buffer("dialogue", torch.zeros(size, dtype=torch.int64))
        for name in ("count", "logged", "learned"):                                # cases held; those of them never dropped; turns Q has seen
            self.register_buffer(name, torch.zeros(1, dtype=torch.int64))
        self.q = nn.Sequential(nn.Linear(3 * width + len(self.pool) + 1, options.memento_width), nn.ReLU(), nn.Linear(options.memento_width, 1))

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def __len__(self) -> int:
        return int(self.count)

    @torch.no_grad()
    def encode(self, states: Sequence[ExpertState]) -> Tensor:
        """enc(s), [B, D], length 1 up to the grid: U_t, (u_t, e_t), the customer's last k messages each worth half the next, a^E_{t-1}.

        Each block has length 1 before it is weighted; a message or skills that are not there are zero.  Nothing here learns."""
        meaning = lambda texts: F.normalize(self.perception.meaning(texts), dim=-1)
        blocks = [meaning([s.user for s in states]), F.normalize(self.perception.probabilities(states), dim=-1)]
        for age in range(1, self.cfg.history + 1):
            there = torch.tensor([len(s.history) >= age for s in states], device=self.device)
            blocks.append(0.5 ** age * there[:, None] * meaning([s.history[-age][0] if len(s.history) >= age else "" for s in states]))
        previous = torch.zeros(len(states), len(self.pool))
        for row, s in enumerate(states):
            previous[row, [self.index[p] for p in s.previous]] = 1.0
        blocks.append(F.normalize(previous, dim=-1).to(self.device))
        return (F.normalize(torch.cat(blocks, -1), dim=-1) * GRID).round() / GRID

    @torch.no_grad()
    def write(self, states: Sequence[ExpertState], sequences: Sequence[Sequence[str]], outcomes: Sequence[float], dialogues: Sequence[int]) -> None:
        """M <- M u {(s, a, r)}, Eq. 12; beyond the bank's size the oldest played case goes."""
        room = len(self.keys) - int(self.logged)
        states, sequences, outcomes, dialogues = (list(x)[-room:] for x in (states, sequences, outcomes, dialogues))
        if not states:
            return
        rows = [[self.index[k] for k in a] + [-1] * (MAX_SKILLS - len(a)) for a in sequences]
        new = {"keys": torch.cat([self.encode(states[i:i + 2048]) for i in range(0, len(states), 2048)]), "sequences": torch.tensor(rows),
               "outcome": torch.tensor(outcomes), "dialogue": torch.tensor(dialogues)}
        end, first = len(self), int(self.logged)
        kept = min(end - first, room - len(states))                                # played cases that stay
        for name, value in new.items():
            buffer = getattr(self, name)
            buffer[first:first + kept] = buffer[end - kept:end].clone()
            buffer[first + kept:first + kept + len(states)] = value.to(buffer)
        self.count.fill_(first + kept + len(states))

    def fill(self, dataset: Dataset) -> None:
        """Begins the bank anew: the labelled turns of the training split, outcome 1; if they are more than half of it, evenly spaced ones."""
        cases = [(state, teacher, number) for number, d in enumerate(dataset.train) for state, teacher in labelled_states([d])]
        most = len(self.keys) // 2
        if len(cases) > most:
            cases = [cases[i * len(cases) // most] for i in range(most)]
        self.count.zero_(), self.logged.zero_()
        self.write([s for s, _, _ in cases], [a for _, a, _ in cases], [1] * len(cases), [n for _, _, n in cases])
        self.logged.fill_(len(cases))

    def value_input(self, query: Tensor, cases: Tensor) -> Tensor:
        """What Q reads of (s, c): enc(s), enc(c), their product, the skills of c as a set, the outcome of c.  [B, D], [B, C] -> [B, C, 3 D + K + 1]"""
        scale = query.shape[-1] ** 0.5                                             # coordinates of a unit vector are tiny beside 0/1 inputs
        s, c = scale * query[:, None].expand(-1, cases.shape[1], -1), scale * self.keys[cases].float()
        skills = torch.zeros(*cases.shape, len(self.pool) + 1, device=self.device).scatter_(-1, self.sequences[cases].long() + 1, 1.0)[..., 1:]
        return torch.cat([s, c, s * c, skills, self.outcome[cases].float()[..., None]], -1)

    @property
    def reads_q(self) -> bool:
        return self.options.memento_read == "q" and int(self.learned) >= self.options.memento_warm

    @torch.no_grad()
    def read(self, states: Sequence[ExpertState], k: int, dialogues: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(weight, case, allowed), each [B, up to k], best first: by cosine (Eq. 13), or of the `memento_near` those of greatest Q (Eq. 16)."""
        n, query = len(self), self.encode(states)
        barred = torch.zeros(len(states), n, dtype=torch.bool, device=self.device)
        if dialogues is not None:
            barred = torch.tensor(dialogues, device=self.device)[:, None] == self.dialogue[:n]       # a dialogue never retrieves itself
        weight, case, allowed = nearest(query, self.keys[:n].float(), barred, self.options.memento_near)
        if n and self.reads_q:
            q = (self.q(self.value_input(query, case)).squeeze(-1).sigmoid() * 1024).round() / 1024  # rounded: equal cases stay equal in any batch
            best = q.masked_fill(~allowed, -1.0).sort(dim=-1, descending=True, stable=True).indices      # of equal ones the nearest
            weight, case, allowed = (x.gather(1, best) for x in (q, case, allowed))
        return weight[:, :k], case[:, :k], allowed[:, :k]

    @torch.no_grad()
    def act(self, states: Sequence[ExpertState], generator: torch.Generator | Sequence[torch.Generator] | None = None, given: None = None,
            greedy: bool = False, stops: bool = True, dialogues: Sequence[int] | None = None) -> Reuse:
        """A remembered skill sequence for each state; none while no case may be used.

        generator  as the Expert's: one for all states, or one for each, which then alone decides the draw
        greedy     the sequence that most of the K cases speak for; else one of those of the best 2K, drawn by Eq. 7
        dialogues  ids: cases of the same dialogue are never retrieved
        raises     ValueError for `given` or stops=False: there is no probability to score, and no stop to forbid
        """
        if given is not None or not stops:
            raise ValueError("a case bank has no log-probabilities to score and no stop: act takes neither given nor stops=False")
        weight, case, allowed = self.read(states, self.options.memento_k * (1 if greedy else 2), dialogues)
        outcome = torch.ones_like(weight) if self.reads_q else self.outcome[case].float()
        score = vote(self.sequences[case].long(), weight * allowed, outcome).masked_fill(~allowed, float("-inf"))
        found = allowed.any(-1).tolist()
        if not any(found):
            return Reuse([()] * len(states), [-1] * len(states), [0.0] * len(states))
        score[[not f for f in found]] = 0.0                                        # a row without a case: any draw, not used
        if greedy:
            pick = score.argmax(-1)
        else:
            sums = mu(score.double(), self.options.memento_alpha).cumsum(-1)       # the first whose cumulative sum exceeds the uniform
            pick = (sums <= self._uniforms(len(states), generator)[:, None] * sums[:, -1:]).sum(-1)
        used = case.gather(1, pick[:, None]).squeeze(1)
        rows = [tuple(self.pool[i] for i in row if i >= 0) if f else () for row, f in zip(self.sequences[used].tolist(), found)]
        return Reuse(rows, [c if f else -1 for c, f in zip(used.tolist(), found)], score.gather(1, pick[:, None]).squeeze(1).tolist())

    def _uniforms(self, batch: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        one_each = isinstance(generator, Sequence)
        drawn = torch.cat([torch.rand(1, generator=g) for g in generator]) if one_each else torch.rand(batch, generator=generator)
        return drawn.double().to(self.device)

    def state_values(self, states: Sequence[ExpertState]) -> list[float]:
        """V(s): the share of successes among the K cases read, by weight; 0 without a case."""
        weight, case, allowed = self.read(states, self.options.memento_k)
        weight = weight.clamp(min=0) * allowed
        return ((weight * self.outcome[case]).sum(-1) / weight.sum(-1).clamp(min=1e-8)).tolist()


# --- learning ------------------------------------------------------------------------------------------------------------------

class QLearner(ExpertLearner):
    """Adam steps of Eq. 15 on Q alone; perception and keys stay as they are."""

    def __init__(self, bank: CaseBank):
        self.expert, self.parameters = bank, list(bank.q.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, bank.options.memento_q_lr)

    def update(self, states: Sequence[ExpertState], cases: Sequence[int], outcomes: Sequence[float]) -> dict[str, float | None]:
        """Each turn once; loss and AUC are of Q as it was before, so of turns it has not seen."""
        if not states:
            return {"loss_q": None, "q_auc": None}
        bank = self.expert
        with torch.no_grad():
            inputs = bank.value_input(bank.encode(states), torch.tensor(cases, device=bank.device)[:, None]).squeeze(1)      # [N, 3 D + K + 1]
            before = bank.q(inputs).squeeze(-1)
        r = torch.tensor(outcomes, dtype=torch.float32, device=bank.device)
        row = {"loss_q": q_loss(before, r).item(), "q_auc": auc(before, r)}
        batches = -(-len(r) // bank.options.memento_batch)
        for first in range(batches):                                               # every so-many-th turn: a batch mixes dialogues without a draw
            self.step(q_loss(bank.q(inputs[first::batches]).squeeze(-1), r[first::batches]), "Eq. 15 of Memento's Q")
        bank.learned += len(r)
        return row


class Memento(Gopo):
    """The loop of Gopo with a bank for an Expert; the language model speaks and never learns."""
    Options = MementoConfig
    policy = CaseBank

    @classmethod
    def new_policy(cls, dataset: Dataset, cfg: ExpertConfig, options: MementoConfig) -> CaseBank:
        return cls.policy(list(dataset.skills), Perception(dataset.intents, dataset.emotions), cfg, options)

    @classmethod
    def prepare_policy(cls, policy: CaseBank, dataset: Dataset) -> None:
        policy.fill(dataset)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.cfg.no_expert:
            raise DataError("--no_expert leaves Memento nothing to do: its cases stand in the Expert's place")
        if world_size() > 1:
            raise DataError(f"Memento writes one case bank: launch one process, not {world_size()}")
        self.learner = QLearner(self.expert)
        if self.agent:
            self.size, self.group = self.size * self.agent.cfg.group, 1            # nothing learns from a second reply to a state: more customers instead
        self.used: dict[tuple[int, int], int] = {}                                 # (dialogue, turn) -> the case reused, from a draw to `learn`

    def ids(self, played: Sequence[Episode]) -> list[int]:
        """The dialogue number of cases: on logs that of the logged dialogue itself, for a live customer none that a log has."""
        return [e.number + LIVE * (self.dataset.environment is not None) for e in played]

    def chooser(self, draws: Callable[[int, int], torch.Generator] | None = None, greedy: bool = False) -> Choose:
        """As `by_policy`; what is drawn is remembered for `learn`.  Without dialogues (a single answer) nothing is barred."""
        self.used = {}

        def choose(states: list[ExpertState], playing: list[Episode]) -> list[tuple[str, ...]]:
            generators = [draws(e.number, len(e.steps)) for e in playing] if draws else None
            chosen = self.expert.act(states, generators, greedy=greedy, dialogues=self.ids(playing) or None)
            if not greedy:
                self.used |= {(e.number, len(e.steps)): case for e, case in zip(playing, chosen.cases)}
            return chosen.skills
        return choose

    def outcomes(self, episode: Episode) -> list[int | None]:
        """r of every turn: the customer's success; on logs, which no reply can change, ESNDCG of the turn >= .5, None if nobody labelled it."""
        if self.dataset.environment:
            return [int(episode.seen.outcome.success)] * len(episode.steps)
        return [None if s.teacher is None else int(s.esndcg >= 0.5) for s in episode.steps]

    def learn(self, played: list[Episode]) -> dict[str, float | None]:
        """Evaluate and retain: Q learns from the cases reused (Eq. 15), then every turn becomes a case (Eq. 12)."""
        turns = [(s.state, s.skills, r, number, self.used.get((e.number, t), -1)) for e, number in zip(played, self.ids(played))
                 for t, (s, r) in enumerate(zip(e.steps, self.outcomes(e))) if r is not None]
        reused = [(state, case, r) for state, _, r, _, case in turns if case >= 0]
        own = sum(case >= int(self.expert.logged) for _, case, _ in reused)
        row = self.learner.update(*(list(column) for column in zip(*reused))) if reused else self.learner.update([], [], [])
        self.expert.write(*([turn[i] for turn in turns] for i in range(4)))
        self.used = {}
        held = self.expert.outcome[:len(self.expert)].float()
        return row | {"cases": len(held), "cases_succeeded": held.mean().item() if len(held) else None,
                      "reused_played": own / len(reused) if reused else None}      # the share of turns that followed a played case, not a logged one

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The bank with Q, and Q's Adam; the language model is what it was."""
        return {"expert": self.expert.state_dict(), "expert_adam": adam_state(self.learner.optimiser)}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        load_into(self.expert, parts["expert"], "the checkpoint's case bank")
        load_adam_state(self.learner.optimiser, parts["expert_adam"])


if __name__ == "__main__":
    torch.manual_seed(0)
    eyes = Perception(["refund", "stock"], ["neutral", "angry"])
    options = MementoConfig(memento_read="cosine", memento_k=3, memento_bank=8)
    bank = CaseBank(["greet", "apologise", "refund", "stock"], eyes, ExpertConfig(), options)
    said = [("Where is my refund?", ("refund",), 0), ("Where is my refund? I am furious", ("apologise", "refund"), 1),
            ("My refund is late and I am furious", ("apologise", "refund"), 1), ("Is the lamp in stock?", ("greet", "stock"), 1),
            ("Is the sofa in stock?", ("stock",), 0)]
    bank.write([ExpertState(u) for u, _, _ in said], [a for _, a, _ in said], [r for _, _, r in said], range(len(said)))
    for words in ("I am furious, where is my refund?", "Is the chair in stock?"):
        print(f"customer: {words}")
        weight, case, _ = bank.read([ExpertState(words)], options.memento_k)
        for w, c in zip(weight[0].tolist(), case[0].tolist()):
            print(f"  cosine {w:.3f}  {said[c][0]:37s} {', '.join(said[c][1]):18s} {'succeeded, +' if said[c][2] else 'failed,    -'}{w:.3f}")
        choice = bank.act([ExpertState(words)], greedy=True)
        print(f"  reused: {', '.join(choice.skills[0])}, for which the cases speak with {choice.score[0]:+.3f}")
