"""The Expert Agent (Sec. 3.1-3.3): it chooses an ordered sequence of at most 5 skills.

State     s^E_t = (H_t, u_t, e_t, a^E_{t-1}): the last k turns as text, the perceived intent and
          emotion, the skills of the turn before.  How it reads texts is in perception.py.
Policy    one skill after another, none twice, until a stop; so a sequence has an exact
          log pi(a|s) = sum_i log p(a_i | a_<i, s) + log p(stop | a, s).
Learning  advantage actor-critic, Eq. 7, with GAE over the joint reward R_t (GAP-4).  A rollout is
          used for several Adam steps, for which Eq. 7 is importance-weighted and clipped
          (`clipped_loss`): the gradient of the first step is Eq. 7's own (GAP-6).

Not here: how Eq. 7 is minimised (expert_learner.py), rewards (rewards.py), replies (csagent.py).
Shapes: B turns, K skills, S positions of a sequence (5), D width, I inputs, N picks made.
Try it:  python expert.py        an untrained policy on one state, then GAE and Eq. 7 by hand
Exercise: let the policy repeat a skill (drop the mask in `_next`), retrain with --skill_cost 0,
watch `length` and `esndcg`.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import ExpertConfig
from data import MAX_SKILLS, ExpertState
from infra.devices import exact
from perception import Perception, Reader
from surrogate import clipped_gain

Skills = tuple[str, ...]
Generators = torch.Generator | Sequence[torch.Generator] | None


# --- equations -----------------------------------------------------------------------------------

def expert_loss(logp: Tensor, advantage: Tensor, entropy: Tensor, alpha: float) -> Tensor:
    """L(theta_E) = -E[A-hat log pi_E(a|s)] - alpha H(pi_E(.|s)), Eq. 7; the mean over B turns.

    logp       [B, S] nats, of each pick; log pi is their sum over S, the stop included
    advantage  [B, S] A-hat of each pick (GAP-8); no gradient flows through it
    entropy    [B, S] nats, >= 0, of the distribution of each pick; their sum estimates H.
               Unbiased in value; its gradient leaves out a score-function term (GAP-8)
    returns    scalar
    """
    if logp.dim() != 2 or not logp.shape == advantage.shape == entropy.shape:
        got = f"{tuple(logp.shape)}, {tuple(advantage.shape)}, {tuple(entropy.shape)}"
        raise ValueError(f"logp, advantage and entropy must be [B, S] each, got {got}")
    A_log_pi = (advantage.detach() * logp).sum(-1)  # [B]
    H = entropy.sum(-1)  # [B]
    return -A_log_pi.mean() - alpha * H.mean()


def clipped_loss(logp: Tensor, old: Tensor, advantage: Tensor, entropy: Tensor, alpha: float,
                 clip: float) -> Tensor:
    """Eq. 7 for a rollout used again, importance-weighted and clipped (Schulman et al. 2017):

        -E[sum_i min(rho_i A_i, clamp(rho_i, 1 - clip, 1 + clip) A_i)] - alpha H,
        rho_i = p(a_i | a_<i, s) / p_old(a_i | a_<i, s)

    Where the policy is still the one that played, rho = 1 and the gradient is that of
    `expert_loss`.  A pick whose probability has moved by more than `clip` in the direction that
    its advantage asks for is left alone (GAP-6).

    logp, old  [B, S] nats, of each pick now and in play; no gradient flows through `old`
    the rest   as in `expert_loss`
    """
    log_ratio = (logp - old.detach()).clamp(-10, 10)
    gained = clipped_gain(log_ratio, advantage, clip).sum(-1)  # [B]
    return -gained.mean() - alpha * entropy.sum(-1).mean()


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float,
        slips: Sequence[bool] = ()) -> list[float]:
    """Generalised Advantage Estimation (Schulman et al. 2016): A-hat_t of Eq. 7 for one dialogue.

    delta_t = R_t + gamma V_{t+1} - V_t          A_t = delta_t + gamma lam A_{t+1}

    rewards  R_1..R_T (Eq. 10)
    values   V_1..V_{T+1}; V_{T+1} is 0 if the dialogue ended by itself, else V of its last state
    slips    turns whose skills were not the policy's own: A_t = 0, and what followed such a turn
             is no merit of the turns before it, which are told V_t in its place
    raises   ValueError if values is not one longer than rewards
    """
    T = len(rewards)
    if len(values) != T + 1:
        raise ValueError(f"gae needs {T + 1} values for {T} rewards, got {len(values)}")
    slipped = list(slips) or [False] * T
    advantages = [0.0] * T
    later = 0.0
    for t in reversed(range(T)):
        if slipped[t]:
            later = 0.0
            continue
        later = rewards[t] + gamma * values[t + 1] - values[t] + gamma * lam * later
        advantages[t] = later
    return advantages


def pick_advantages(turn_return: Tensor, gains: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """A-hat of Eq. 7 for each pick of a turn: A_{t,i} = G_t - sum_{j<i} g_j - V(s_t, a_<i).

    What the turn returned, less what earlier picks had earned, less what was expected then.  It
    is unbiased; one number per turn would blame every pick for all others (GAP-8).

    turn_return  [B] G_t = A_t + V(s_t), A_t from `gae`
    gains        [B, S] g_i: what each pick added to R_t (`rewards.skill_gains` times its weight)
    values       [B, S] V(s_t, a_<i), the critic before each pick
    mask         [B, S] which picks were made; elsewhere the advantage is 0
    """
    earlier = gains.cumsum(-1) - gains
    return (turn_return[:, None] - earlier - values) * mask


def conditional_entropy(log_p: Tensor) -> Tensor:
    """-sum_a p log p over the last axis, nats; p log p := 0 where p = 0."""
    return -(log_p.exp() * log_p.clamp(min=-1e9)).sum(-1)


def draw(log_p: Tensor, uniform: Tensor) -> Tensor:
    """[B, K + 1], [B] -> [B]: the first entry whose cumulative probability exceeds `uniform`."""
    cumulative = exact(log_p.detach()).exp().cumsum(-1)
    found = (cumulative <= exact(uniform)[:, None] * cumulative[:, -1:]).sum(-1)
    return found.to(log_p.device)


# --- policy and critic ---------------------------------------------------------------------------

class Picks(NamedTuple):
    """Skill sequences, pick by pick.  The stop is a pick; a fifth skill ends without one."""
    number: Tensor  # [B, S] skill numbers; K is the stop, and pads
    mask: Tensor  # [B, S] True where a pick was made
    before: Tensor  # [B, S, K] 1 for the skills picked earlier
    barred: Tensor  # [B, S, K] above 0 for these and for the skills banned in the state
    last: Tensor  # [B, S] the skill picked last; K before the first


class Critic(nn.Module):
    """V(s, a_<i): the return to expect, on a network of its own.

    It reads what the policy's readers read, and does not change them.  In training it may be told
    the teacher's sequence T: a baseline may know anything but the action (asymmetric
    actor-critic), and the policy is never told.
    """

    def __init__(self, inputs: int, skills: int, width: int):
        super().__init__()
        self.state = nn.Sequential(
            nn.Linear(inputs + 2 * skills, width), nn.ReLU(), nn.Linear(width, width))
        self.picked = nn.Linear(skills, width, bias=False)
        self.out = nn.Linear(width, 1)
        # returns are standardised by the mean and spread of the first rollout's
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, inputs: Tensor, before: Tensor, teachers: Tensor) -> Tensor:
        """[B, I], [B, S, K], [B, 2 K] -> [B, S]."""
        state = self.state(torch.cat([inputs.detach(), teachers], -1))  # [B, D]
        hidden = F.relu(state[:, None] + self.picked(before))
        return self.out(hidden).squeeze(-1) * self.spread + self.mean


class Expert(nn.Module):
    """pi_E and its critic."""

    def __init__(self, pool: Sequence[str], perception: Perception, cfg: ExpertConfig,
                 words: int = 48):
        super().__init__()
        cfg = cfg.settled()                      # nothing that is settled already changes
        K, k, D = len(pool), cfg.history, cfg.width
        self.pool = tuple(pool)
        self.cfg = cfg
        self.perception = perception
        self.index = {skill: i for i, skill in enumerate(self.pool)}
        self.stop = K  # the pick after the K skills
        self.positions = min(MAX_SKILLS, K)  # S
        self.user_reader = Reader(words, cfg.sentences, cfg.encoder)
        self.reply_reader = Reader(words, cfg.sentences, cfg.encoder)
        texts = words * (k + 1) + words * k + perception.width * (k + 1)
        inputs = texts + perception.size + K
        self.trunk = nn.Sequential(nn.Linear(inputs, D), nn.ReLU(), nn.Linear(D, D))
        self.picked = nn.Linear(K, D, bias=False)  # the skills picked so far, as a set
        self.last = nn.Embedding(K + 1, D)  # the skill picked last; row K: none
        self.actor = nn.Linear(D, K + 1)  # K skills and the stop
        self.critic = Critic(inputs, K, D)
        # learned from until now: the step size falls with it, and goes on falling after a resume
        self.register_buffer("rollouts", torch.zeros((), dtype=torch.int64))

    @property
    def device(self) -> torch.device:
        return self.actor.weight.device

    # --- reading --------------------------------------------------------------------------------

    def read(self, states: Sequence[ExpertState]) -> Tensor:
        """s^E_t -> [B, I], what the policy and the critic are given."""
        B = len(states)
        users, replies = self._texts(states)
        parts = [
            self.user_reader(users).view(B, -1),  # U_t-k .. U_t
            self.perception.meaning(users).view(B, -1),  # the same messages; not trained here
            self.perception.probabilities(states),  # u_t, e_t
        ]
        if replies:
            parts.append(self.reply_reader(replies).view(B, -1))
        previous = self._sets([state.previous for state in states])  # a^E_{t-1}
        return torch.cat([*parts, previous], -1)

    def _texts(self, states: Sequence[ExpertState]) -> tuple[list[str], list[str]]:
        """The last k + 1 messages and k replies of each state; a turn not played is empty."""
        k = self.cfg.history
        users, replies = [], []
        for state in states:
            turns = state.history[-k:] if k else ()
            unplayed = [""] * (k - len(turns))
            users += unplayed + [user for user, _ in turns]
            users.append(state.user)
            replies += unplayed + [reply for _, reply in turns]
        return users, replies

    def _sets(self, sequences: Sequence[Sequence[str]]) -> Tensor:
        """[B, K] 1 for the skills of each sequence."""
        K = self.stop
        places = []                              # of the ones, counted row by row
        for row, skills in enumerate(sequences):
            places += [row * K + self.index[skill] for skill in skills]
        sets = np.zeros(len(sequences) * K, np.float32)
        sets[places] = 1.0
        return torch.from_numpy(sets).view(-1, K).to(self.device)

    def teachers(self, sequences: Sequence[Skills | None]) -> Tensor:
        """[B, 2 K] for the critic: T as a set, and its first skill; 0 where nobody knows T."""
        known = [() if T is None or self.cfg.blind_critic else T for T in sequences]
        return torch.cat([self._sets(known), self._sets([T[:1] for T in known])], -1)

    def picks(self, sequences: Sequence[Skills], states: Sequence[ExpertState] = ()) -> Picks:
        """Sequences of skills as picks; without their states nothing is banned."""
        S = self.positions
        rows = []
        for skills in sequences:
            rows.append([self.index[s] for s in skills] + [self.stop] * (S - len(skills)))
        number = torch.tensor(rows, dtype=torch.long, device=self.device).view(-1, S)
        lengths = torch.tensor([len(skills) for skills in sequences], device=self.device)
        mask = torch.arange(S, device=self.device) <= lengths[:, None]
        made = F.one_hot(number, self.stop + 1)[..., :self.stop].float()  # [B, S, K]
        start = torch.full_like(number[:, :1], self.stop)
        last = torch.cat([start, number[:, :-1]], 1)
        before = made.cumsum(1) - made
        barred = before
        if states:
            barred = before + self._banned(states)[:, None]
        return Picks(number, mask, before, barred, last)

    def _banned(self, states: Sequence[ExpertState]) -> Tensor:
        """[B, K] 1 for the skills that may not be chosen in a state."""
        return self._sets([state.banned for state in states])

    # --- choosing -------------------------------------------------------------------------------

    def _next(self, state: Tensor, before: Tensor, barred: Tensor, last: Tensor) -> Tensor:
        """log p(next | so far), [..., K + 1]: no skill twice (GAP-2), -inf for those barred.

        state  [..., D] of the trunk; before, barred [..., K]; last [...]
        """
        hidden = torch.tanh(state + self.picked(before) + self.last(last))
        barred = F.pad(barred, (0, 1)) > 0  # never the stop
        return self.actor(hidden).masked_fill(barred, float("-inf")).log_softmax(-1)

    @torch.no_grad()
    def act(self, states: Sequence[ExpertState], generator: Generators = None,
            greedy: bool = False, stops: bool = True) -> list[Skills]:
        """A sequence for each state.

        generator  one for all states, or one for each, so that no sequence depends on another
        greedy     the most probable pick each time
        stops      False: never stops before the fifth skill (a baseline of Table MultiWOZ)
        """
        if not states:
            return []
        B = len(states)
        state = self.trunk(self.read(states))  # [B, D]
        uniforms = None if greedy else self._uniforms(B, generator)  # [B, S]
        before = torch.zeros(B, self.stop, device=self.device)
        banned = self._banned(states)  # [B, K]
        last = torch.full((B,), self.stop, device=self.device)
        alive = torch.ones(B, dtype=torch.bool, device=self.device)
        columns = []
        for i in range(self.positions):
            log_p = self._next(state, before, before + banned, last)  # [B, K + 1]
            if not stops:
                log_p[:, self.stop] = float("-inf")
            pick = log_p.argmax(-1) if greedy else draw(log_p, uniforms[:, i])
            pick = torch.where(alive, pick, self.stop)
            columns.append(pick)
            alive = alive & (pick != self.stop)
            if not alive.any():
                break
            before = before + F.one_hot(pick, self.stop + 1)[:, :self.stop]
            last = torch.where(alive, pick, last)
        return [self._names(row) for row in torch.stack(columns, 1).tolist()]

    def _names(self, picks: list[int]) -> Skills:
        return tuple(self.pool[i] for i in picks if i != self.stop)

    def _uniforms(self, batch: int, generator: Generators) -> Tensor:
        """[B, S] numbers from [0, 1); each row from its own generator where there are several."""
        if isinstance(generator, Sequence):
            uniforms = torch.stack([torch.rand(MAX_SKILLS, generator=g) for g in generator])
        else:
            uniforms = torch.rand(batch, MAX_SKILLS, generator=generator)
        return uniforms.view(batch, MAX_SKILLS).to(self.device)

    # --- scoring --------------------------------------------------------------------------------

    def distributions(self, inputs: Tensor, picks: Picks) -> Tensor:
        """[B, S, K + 1] log p of every skill and the stop at each pick, nats; -inf where barred.

        All positions are computed at once, for what comes before a pick is given.
        """
        state = self.trunk(inputs)[:, None]  # [B, 1, D]
        return self._next(state, picks.before, picks.barred, picks.last)

    def log_probs(self, inputs: Tensor, picks: Picks) -> tuple[Tensor, Tensor]:
        """(log p, entropy) of each pick, nats, [B, S] each; 0 where no pick was made.

        log pi(a|s) is the sum of the first over S.
        """
        log_p = self.distributions(inputs, picks)  # [B, S, K + 1]
        made = log_p.gather(-1, picks.number[..., None]).squeeze(-1)
        logp = torch.where(picks.mask, made, 0.0)
        entropy = torch.where(picks.mask, conditional_entropy(log_p), 0.0)
        return logp, entropy

    @torch.no_grad()
    def as_played(self, states: Sequence[ExpertState], skills: Sequence[Skills],
                  teachers: Sequence[Skills | None]) -> tuple[Tensor, Tensor]:
        """(log p, V) of each pick, [B, S] each, by the policy and the critic as they are."""
        if not states:
            nothing = torch.zeros(0, self.positions, device=self.device)
            return nothing, nothing
        inputs, picks = self.read(states), self.picks(skills, states)
        values = self.critic(inputs, picks.before, self.teachers(teachers))
        return self.log_probs(inputs, picks)[0], values

    @torch.no_grad()
    def state_values(self, states: Sequence[ExpertState],
                     teachers: Sequence[Skills | None] | None = None) -> list[float]:
        """V(s), before any pick."""
        told = self.teachers(teachers or [None] * len(states))
        before = torch.zeros(len(states), 1, self.stop, device=self.device)
        return self.critic(self.read(states), before, told)[:, 0].tolist()


def main() -> None:
    """An untrained policy on one state; GAE and Eq. 7 with numbers to check by hand."""
    torch.manual_seed(0)
    pool = ["greet", "apologise", "state_refund", "close"]
    expert = Expert(pool, Perception(["refund"], ["neutral", "angry"]), ExpertConfig())
    state = ExpertState("Where is my money?", (("Hi", "Hello and welcome."),), ("greet",))
    states = [state] * 4
    drawn = expert.act(states, torch.Generator().manual_seed(0))
    logps, entropies = expert.log_probs(expert.read(states), expert.picks(drawn))
    print(f"message {state.user!r}, history {state.history}, skills before {state.previous}")
    print(f"untrained: V(s) = {expert.state_values([state])[0]:.3f}; four draws, no skill twice: "
          "log pi  sum H")
    for skills, logp, entropy in zip(drawn, logps, entropies):
        listed = ", ".join(skills) or "(stop at once)"
        print(f"  {listed:50s}  {logp.sum():.3f}  {entropy.sum():.3f}")
    print("GAE of rewards (1, 0), values (.5, .5, 0), gamma .9, lambda .5")
    print("  A_2 = delta_2 = 0 + 0 - .5 = -.5;  A_1 = 1 + .45 - .5 + .45 * -.5 = .725")
    print(f"  gae(...) = {gae([1.0, 0.0], [0.5, 0.5, 0.0], 0.9, 0.5)}")
    print("Eq. 7 of two turns: log pi = -1, -3; A-hat = 1, -2; H = .4, .6; alpha = .1")
    print("  -(1 * -1 + -2 * -3) / 2 - .1 * (.4 + .6) / 2 = -2.5 - .05 = -2.55")
    columns = torch.tensor([[-1.0, 1.0, 0.4], [-3.0, -2.0, 0.6]]).split(1, dim=-1)  # [B, 1] each
    print(f"  expert_loss(...) = {expert_loss(*columns, alpha=0.1):.2f}")
    print("the same picks, each half as probable in play: rho = 2, clipped at 1.2 where A > 0")
    print("  -(1.2 * 1 + 2 * -2) / 2 - .05 = 1.35")
    logp, advantage, entropy = columns
    halved = logp - np.log(2)
    loss = clipped_loss(logp, halved, advantage, entropy, alpha=0.1, clip=0.2)
    print(f"  clipped_loss(...) = {loss:.2f}")


if __name__ == "__main__":
    main()
