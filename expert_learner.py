"""How the Expert learns: Adam on Eq. 7 and the critic's loss (Sec. 3.3), or on a teacher's skills.

A rollout is dealt into minibatches, several times over (GAP-6).  Beside Eq. 7 stands the warm
start's loss on logged turns, the *anchor*: it keeps what the logs taught where no customer
complains any more (GAP-9; as in DAPG, Rajeswaran et al. 2018).

Of several processes each holds the turns of its own dialogues.  Every mean is over all of them,
and chance belongs to (seed, dialogue, turn): the step is that of one process with the whole batch.
Shapes: B turns, K skills, S positions of a sequence (5), N picks made."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data import Dialogue, ExpertState, Step
from expert import Expert, Picks, Skills, clipped_loss, expert_loss, pick_advantages
from infra.processes import all_sum, any_process, shard, sum_gradients
from perception import forget

CRITIC_WEIGHT = 0.5                              # of the critic's loss beside Eq. 7 [ours]
Labelled = Sequence[tuple[ExpertState, Skills]]  # (s^E_t, T)
# What an update reports.
SHOWN = (
    "explained_variance", "loss_expert", "loss_critic", "entropy_expert", "grad_norm_expert")


# --- logged turns --------------------------------------------------------------------------------

def labelled_states(dialogues: Sequence[Dialogue]) -> list[tuple[ExpertState, Skills]]:
    """(s^E_t, T) of every labelled turn, with a_{t-1} and H_t as logged."""
    found = []
    for dialogue in dialogues:
        previous: Skills = ()
        for i, turn in enumerate(dialogue.turns):
            if turn.skills is not None:
                said = logged_history(dialogue, 0, i)
                found.append((ExpertState(turn.user, said, previous), turn.skills))
            previous = turn.skills or ()
    return found


def logged_history(dialogue: Dialogue, first: int, end: int) -> tuple[tuple[str, str], ...]:
    """Turns `first` to `end` - 1 as (customer, agent)."""
    return tuple((turn.user, turn.reply or "") for turn in dialogue.turns[first:end])


# --- Eq. 7 ---------------------------------------------------------------------------------------

@dataclass
class ExpertBatch:
    """Turns of a rollout that the Expert learns from, flat.  Slips are left out."""
    states: list[ExpertState] = field(default_factory=list)
    skills: list[Skills] = field(default_factory=list)
    teachers: list[Skills | None] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)  # G_t = A_t + V(s_t), A_t from `gae`
    gains: list[list[float]] = field(default_factory=list)  # what each pick, and the stop, added
    # by which an epoch is dealt into minibatches: (dialogue, turn) decides, not the process
    keys: list[tuple[int, int]] = field(default_factory=list)

    def add(self, step: Step, G: float, gains: list[float], key: tuple[int, int]) -> None:
        """A played turn, what it returned, and its (dialogue, turn)."""
        self.states.append(step.state)
        self.skills.append(step.skills)
        self.teachers.append(step.teacher)
        self.returns.append(G)
        self.gains.append(gains)
        self.keys.append(key)

    def rows(self, numbers: Sequence[int]) -> ExpertBatch:
        """Some of the turns."""
        part = ExpertBatch()
        for column in fields(self):
            values = getattr(self, column.name)
            setattr(part, column.name, [values[i] for i in numbers])
        return part


class Aim(NamedTuple):
    """What Eq. 7 and the critic aim at in a minibatch, [B, S] each."""
    old: Tensor                                  # log p of each pick in play
    advantage: Tensor
    target: Tensor                               # of the critic
    alpha: float


class Anchor(NamedTuple):
    """Logged turns beside a minibatch: this process's, and how many there are in all."""
    turns: Labelled
    size: int


class ExpertLearner:
    """Adam on Eq. 7 and the critic's loss.

    lr  its step size; default --expert_lr
    """

    def __init__(self, expert: Expert, lr: float | None = None):
        self.expert = expert
        named = expert.named_parameters()
        self.parameters = [p for name, p in named if not name.startswith("perception.")]
        self.optimiser = torch.optim.Adam(self.parameters, lr or expert.cfg.expert_lr, fused=True)

    # --- Eq. 7 ----------------------------------------------------------------------------------

    def update(self, batch: ExpertBatch, logged: Labelled = (),
               seed: int = 0) -> dict[str, float | None]:
        """Some epochs of Eq. 7 on a rollout.

        logged  labelled turns of the training logs, from which the anchor draws
        """
        expert, cfg = self.expert, self.expert.cfg
        turns = all_sum(len(batch.states))[0]
        alpha = self.schedule()
        if not turns:                            # every one was a slip
            return dict.fromkeys(SHOWN)
        old, values = expert.as_played(batch.states, batch.skills, batch.teachers)
        mask = expert.picks(batch.skills).mask
        advantage, row = self._advantages(batch, values, mask)
        target = self._targets(batch)
        shown = Shown()
        draws = np.random.default_rng([seed, 1])
        for epoch in range(cfg.expert_epochs):
            for rows in self.minibatches(batch.keys, turns, [seed, epoch]):
                at = torch.tensor(rows, dtype=torch.long, device=expert.device)
                aim = Aim(old[at], advantage[at], target[at], alpha)
                anchor = self._anchor(logged, len(rows), draws)
                loss = self._loss(batch.rows(rows), aim, anchor, shown)
                shown.norm(self.step(loss, "Eq. 7 of the Expert"))
        expert.rollouts += 1
        return row | shown.means()

    def schedule(self) -> float:
        """Sets the step size of this rollout; returns its alpha."""
        cfg = self.expert.cfg
        done = 0.0                               # an unsettled config: nothing falls
        if cfg.expert_decay:
            done = min(1.0, int(self.expert.rollouts) / max(1, cfg.expert_decay - 1))
        for group in self.optimiser.param_groups:
            group["lr"] = cfg.expert_lr + (cfg.expert_lr_end - cfg.expert_lr) * done
        return cfg.alpha + (cfg.alpha_end - cfg.alpha) * done

    def _targets(self, batch: ExpertBatch) -> Tensor:
        """[B, S] what the critic should say before each pick: G_t - sum_{j<i} g_j."""
        gains = self._gains(batch)
        returns = torch.tensor(batch.returns, device=gains.device)
        return returns[:, None] - (gains.cumsum(-1) - gains)

    def _gains(self, batch: ExpertBatch) -> Tensor:
        S = self.expert.positions
        padded = [(g + [0.0] * S)[:S] for g in batch.gains]
        return torch.tensor(padded, device=self.expert.device).view(-1, S)

    def _advantages(self, batch: ExpertBatch, values: Tensor,
                    mask: Tensor) -> tuple[Tensor, dict[str, float]]:
        """[B, S] standardised over the whole rollout, never for each turn index; and a number."""
        returns = torch.tensor(batch.returns, device=values.device)
        raw = pick_advantages(returns, self._gains(batch), values, mask)
        picks = all_sum(int(mask.sum()))[0]
        mean, variance = _mean_and_variance(raw[mask], picks)
        advantage = (raw - mean) / (variance ** 0.5 + 1e-6) * mask
        middle, around = _mean_and_variance(self._targets(batch)[mask], picks)
        critic = self.expert.critic
        if not self.expert.rollouts:
            critic.mean.fill_(middle)
            critic.spread.fill_(around ** 0.5 + 1e-3)
        return advantage, {"explained_variance": 1 - variance / max(around, 1e-8)}

    def _loss(self, part: ExpertBatch, aim: Aim, anchor: Anchor, shown: Shown) -> Tensor:
        """The loss of one minibatch: this process's share of the mean over all processes."""
        states = [*part.states, *(state for state, _ in anchor.turns)]
        picks = self.expert.picks(part.skills, part.states)
        turns, made = all_sum(len(part.states), int(picks.mask.sum()))
        if not states:
            return self.nothing()
        # all in one go: the gradient of a table of words is dear, whatever is read
        inputs = self.expert.read(states)
        mine, logged = inputs.split([len(part.states), len(anchor.turns)])
        terms = []
        if part.states:
            terms.append(self._actor_critic(part, mine, picks, aim, (turns, made), shown))
        if anchor.turns:
            anchors = [state for state, _ in anchor.turns]
            teachers = self.expert.picks([T for _, T in anchor.turns], anchors)
            logp, _ = self.expert.log_probs(logged, teachers)
            terms.append(-self.expert.cfg.expert_anchor * logp.sum() / anchor.size)
        return sum(terms)

    def _actor_critic(self, part: ExpertBatch, inputs: Tensor, picks: Picks, aim: Aim,
                      counts: tuple[float, float], shown: Shown) -> Tensor:
        """Eq. 7 and the critic's loss."""
        expert, clip = self.expert, self.expert.cfg.expert_clip
        turns, made = counts
        logp, entropy = expert.log_probs(inputs, picks)
        if clip:
            policy = clipped_loss(logp, aim.old, aim.advantage, entropy, aim.alpha, clip)
        else:
            policy = expert_loss(logp, aim.advantage, entropy, aim.alpha)
        policy = policy * len(part.states) / turns
        values = expert.critic(inputs, picks.before, expert.teachers(part.teachers))
        missed = (values - aim.target)[picks.mask] / expert.critic.spread
        critic = missed.square().sum() / made
        shown.add(policy, critic, entropy.sum() / turns)
        return policy + CRITIC_WEIGHT * critic

    def _anchor(self, logged: Labelled, size: int, draws: np.random.Generator) -> Anchor:
        """As many logged turns as the minibatch has in all processes; this process's share."""
        size = int(all_sum(size)[0])
        if not self.expert.cfg.expert_anchor or not logged:
            return Anchor([], size)
        rows = draws.integers(0, len(logged), size).tolist()
        return Anchor([logged[i] for i in shard(rows)], size)

    def minibatches(self, keys: Sequence[tuple[int, int]], turns: float,
                    seed: Sequence[int]) -> Iterator[list[int]]:
        """Rows of this process, dealt at random into as many minibatches as all processes have.

        keys  (dialogue, turn) of each row, a dialogue's turns in order: where a row goes follows
              from them and from the seed
        """
        count = max(1, round(turns / self.expert.cfg.expert_minibatch))
        draws: dict[int, np.random.Generator] = {}
        dealt = []
        for dialogue, _ in keys:
            if dialogue not in draws:
                draws[dialogue] = np.random.default_rng([*seed, dialogue])
            dealt.append(int(draws[dialogue].integers(count)))
        for number in range(count):
            yield [row for row, place in enumerate(dealt) if place == number]

    # --- imitation ------------------------------------------------------------------------------

    def imitate(self, labelled: Labelled) -> float | None:
        """One step on the mean of -log pi_E(T|s) over the states of all processes; None if none."""
        count = int(all_sum(len(labelled))[0])
        if not count:
            return None
        loss = self._cross_entropy(labelled, count)
        self.step(loss, "cross-entropy of the Expert")
        return all_sum(loss.item())[0]

    def _cross_entropy(self, labelled: Labelled, count: int) -> Tensor:
        """This process's share of the mean of -log pi_E(T|s) over `count` states."""
        if not labelled:
            return self.nothing()
        states, teachers = zip(*labelled)
        picks = self.expert.picks(teachers, states)
        logp, _ = self.expert.log_probs(self.expert.read(states), picks)
        return -logp.sum() / count

    # --- Adam -----------------------------------------------------------------------------------

    def nothing(self) -> Tensor:
        """The loss of a process without a turn: 0, with gradients to sum."""
        return sum(p.sum() for p in self.parameters) * 0.0

    def step(self, loss: Tensor, term: str) -> float:
        """One Adam step with gradients clipped to norm 1; returns the norm before clipping."""
        if any_process(not torch.isfinite(loss)):
            raise FloatingPointError(f"{term} is {loss.item()}")
        self.optimiser.zero_grad()
        loss.backward()
        sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of {term} is {norm.item()}")
        self.optimiser.step()
        forget(self.expert)
        return norm.item()


class Shown:
    """What an update reports: means over its Adam steps, of all processes."""

    def __init__(self):
        self.terms: list[tuple[float, float, float]] = []
        self.norms: list[float] = []

    def add(self, *terms: Tensor) -> None:
        self.terms.append(tuple(float(term.detach()) for term in terms))

    def norm(self, norm: float) -> None:
        self.norms.append(norm)

    def means(self) -> dict[str, float]:
        steps = len(self.norms)
        sums = np.sum(self.terms, 0) if self.terms else np.zeros(3)
        policy, critic, entropy = all_sum(*sums.tolist())
        return {"loss_expert": policy / steps, "loss_critic": critic / steps,
                "entropy_expert": entropy / steps, "grad_norm_expert": sum(self.norms) / steps}


def _mean_and_variance(values: Tensor, count: float) -> tuple[float, float]:
    """Over the values of all processes, `count` in all."""
    mean = all_sum(float(values.sum()))[0] / count
    variance = all_sum(float((values - mean).square().sum()))[0] / count
    return mean, variance
