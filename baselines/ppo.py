"""PPO (Schulman et al. 2017), the reinforcement-learning baseline of Table 1.

One agent without an Expert learns token by token.  From Schulman et al. are the clipped surrogate
(their Eq. 7) and, from their 2016 paper, GAE (ppo_equations.py):

    r_i = pi(a_i|s_i) / pi_old(a_i|s_i)
    L_clip = -mean_i min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i)
    A_i = delta_i + d_i lambda_i A_{i+1}        delta_i = rho_i + d_i V_{i+1} - V_i
    L_V = mean_i (V_i - A_i^old - V_i^old)^2
    loss = L_clip + value_weight L_V + lambda_d L_d                 (L_d: Eq. 9d, the agent's own)

Tokens i run through the whole dialogue; the customer's words are the environment.  rho_i is 0
except at the last drawn token of a reply, which earns R^A_t (Eq. 8).  In a live shop the dialogue's
last token also earns its TSE (Eq. 11).  Within a reply d_i and lambda_i are 1; at its last token
they are --gamma and --ppo_lambda.
The agent reads what any agent without an Expert reads: H_t, u_t, e_t, B_t and the shop's global
rules.  It draws one reply a state and plays --group times as many dialogues as GOPO, so both
sample as many replies a step.

The paper names PPO and says nothing more (GAP-9), so all of the following is ours:
  - V_i is linear in the hidden state that token i was drawn from, plus a bias.  Before the epochs
    of each rollout the bias is set so that V is right on average over its tokens.  The weights
    learn by Adam what differs from token to token.  Without the bias they were pushed towards the
    mean, and V explained less than nothing (explained_variance -.17 to -.56, step 15, five seeds).
  - Advantages are whitened over the batch; values are not clipped.
  - log pi_old is computed anew before the first epoch, in the same forward passes as V.  The
    sampler's own (Reply.logp) differs in bf16 or with another kernel, and the ratio has to begin
    at exactly 1.
  - No KL term to the warm start.  RLHF has one because a learned reward model is right only near
    it; here rules or a judge score the text itself, and GOPO has no such term.
  - Eq. 9c is left out: there are no skills to be near.
  - A truncated dialogue to which no TSE was paid goes on with V at its last token's state, as if
    the next turn were like this one.
  - A reply that the judge could not score earns the mean of the batch's scored replies.  A
    dialogue's return needs a number for each turn, and 0 would read as a bad reply.
Try it:  python -m baselines.ppo        rewards, GAE and the clipped surrogate, to follow by hand
Exercise: set --ppo_lambda 0 and 1; which of explained_variance, success and turns moves, and why?
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from baselines.ppo_equations import clipped_surrogate, token_gae, token_rewards, value_loss
from csagent import negative_entropy
from data import DataError, Episode, Prepared, Reply, Step, opt
from gopo import Gopo
from infra.processes import all_mean, all_sum, sum_gradients
from infra.runs import adam_state, load_adam_state, load_into
from lm.decoder import Drawn, token_logp
from play import GopoConfig
from policies import Speaker
from rewards import end_bonus

# B replies, L tokens of a reply, T tokens of a dialogue, V vocabulary


# --- config, and one reply of a batch -----------------------------------------------------------

@dataclass(frozen=True)
class PPOConfig:
    """How PPO learns; every number is ours (GAP-9).

    The step size of the LM is --agent_lr, the discount between turns --gamma.
    """
    ppo_clip: float = opt(
        0.2, "PPO: eps, how far the ratio may go before the gradient stops, in (0, 1)")
    ppo_epochs: int = opt(
        2, "PPO: optimiser steps on each rollout, each on all of its tokens")
    ppo_lambda: float = opt(
        0.7, "PPO: lambda of GAE from turn to turn, in [0, 1], as the Expert's --gae_lambda; "
        "within a reply it is 1, or credit would fade there")
    ppo_value_lr: float = opt(
        0.2, "PPO: about how far the value head's weights may move V in a step (its bias is set, "
        "not learned): their Adam step size times the LM's width, over which V sums")
    ppo_value_weight: float = opt(
        0.0, "PPO: weight of the value loss in what the LM learns, in [0, 1]; 0: only the head "
        "learns values (at 0.5, before V had a bias, returns of 5 met V = 0 and drove the tiny "
        "LM's R^A from .71 to .48 in five steps, on one seed)")
    ppo_tse: float = opt(
        1.0, "PPO: this times the dialogue's TSE stands at its last token, live shop only")
    ppo_end_bonus: bool = opt(
        False, "PPO: if all tasks are done at the end, its last token also earns the value of "
        "the turns left to the horizon at 1 each, as GOPO's Expert does (GAP-4)")

    def __post_init__(self):
        if not 0 < self.ppo_clip < 1:
            raise ValueError(f"--ppo_clip must lie in (0, 1), got {self.ppo_clip}")
        if not self.ppo_epochs >= 1:
            raise ValueError(f"--ppo_epochs must be at least 1, got {self.ppo_epochs}")
        for name in ("ppo_lambda", "ppo_value_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 < self.ppo_value_lr < math.inf:
            raise ValueError(f"--ppo_value_lr must be positive, got {self.ppo_value_lr}")
        if not 0 <= self.ppo_tse < math.inf:
            raise ValueError(f"--ppo_tse must be >= 0, got {self.ppo_tse}")


@dataclass
class Spoken:
    """One reply of the batch: what it was drawn from, and what the update needs.

    The tensors are [n] each: one number for each of the n tokens that the agent drew.
    """
    prepared: Prepared
    reply: Reply
    old_logp: Tensor | None = None
    value: Tensor | None = None
    advantage: Tensor | None = None
    target: Tensor | None = None

    @property
    def length(self) -> int:
        """n, the tokens that the agent drew; those that were inserted are no action."""
        return sum(self.reply.mask)


class Look(NamedTuple):
    """What the model says now of a micro-batch."""
    logits: Tensor                               # [B, L, V] temperature-scaled, bans at -inf
    logp: Tensor                                 # [B, L] log pi of each drawn token, nats
    value: Tensor                                # [B, L] V of the state it was drawn in
    mask: Tensor                                 # [B, L] True at drawn tokens


# --- learning -----------------------------------------------------------------------------------

class PPO(Gopo):
    """`Gopo` without an Expert and with Eqs. 9a-9d replaced.

    Dialogues, judge and customers are the same.
    """
    Options = PPOConfig
    single = True

    def __init__(
        self,
        dataset,
        expert,
        agent,
        judge,
        cfg: GopoConfig,
        speaker: Speaker | None = None,
        options: PPOConfig | None = None,
    ):
        if not cfg.no_expert:
            raise DataError("PPO is one agent without an Expert: it needs --no_expert")
        if cfg.outcome_weight:
            raise DataError("--outcome_weight is for the Expert's reward: with PPO set --ppo_tse")
        super().__init__(dataset, expert, agent, judge, cfg, speaker, options or PPOConfig())
        if agent:
            self.size = self.size * agent.cfg.group      # as many replies a step as GOPO draws
            self.group = 1
            self._add_value_head()

    def _add_value_head(self) -> None:
        """V = 0 at first, in every process."""
        width = self.agent.model.get_output_embeddings().weight.shape[1]
        self.head = nn.Linear(width, 1).to(self.agent.device)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.head.bias.requires_grad_(False)             # set in `_estimate`, not learned
        lr = self.options.ppo_value_lr / width
        self.value_adam = torch.optim.Adam([self.head.weight], lr)

    # --- rewards --------------------------------------------------------------------------------

    def turn_reward(self, step: Step, turn: int) -> float:
        """R^A_t of the reply that the customer heard."""
        return step.R_A[0] or 0.0

    def rewards(self, episode: Episode, unscored: float = 0.0) -> list[float]:
        """R^A_t of each turn, the last with what the end of the dialogue is worth.

        unscored  what a turn earns whose reply the judge could not score
        """
        earned = [unscored if s.R_A[0] is None else s.R_A[0] for s in episode.steps]
        if not self.dataset.environment:
            return earned
        end = episode.seen
        earned[-1] += self.options.ppo_tse * self.tse(episode)
        if end.terminated and self.options.ppo_end_bonus:
            earned[-1] += end_bonus(
                len(earned), self.dataset.horizon, self.gamma, end.outcome.success)
        return earned

    # --- one update -----------------------------------------------------------------------------

    def learn(self, played: list[Episode]) -> dict[str, float]:
        """One PPO update: `ppo_epochs` optimiser steps, each on all tokens of all processes.

        returns  of the last epoch, before its step: loss_policy, loss_value, entropy, loss and
                 grad_norm; clipped, the share of ratios outside 1 -+ eps; kl, the mean of
                 log pi_old - log pi.  Also explained_variance, of V before the update, and tokens
        raises   FloatingPointError, before the step, naming what is not finite
        """
        turns = []
        batch = []
        for episode in played:
            spoken = [Spoken(s.prepared, s.replies[0]) for s in episode.steps]
            turns.append(spoken)
            batch += spoken
        chunks = self._micro_batches(batch)
        self._look_back(chunks)
        explained, tokens = self._estimate(played, turns)
        for _ in range(self.options.ppo_epochs):
            row = self._epoch(chunks, tokens)
        return row | {"explained_variance": explained, "tokens": int(tokens)}

    def _micro_batches(self, batch: list[Spoken]) -> list[list[Spoken]]:
        """Prompts and replies of similar length together, so that little is padding."""

        def length(x: Spoken) -> int:
            return len(x.prepared.ids) + x.length

        order = sorted(batch, key=length)
        size = self.agent.cfg.micro_batch
        return [order[i:i + size] for i in range(0, len(order), size)]

    def _look(self, part: list[Spoken]) -> Look:
        """One forward pass over a micro-batch.

        V's gradient reaches the LM times `ppo_value_weight`, and the head in full: Adam would
        undo a factor there.
        """
        drawn = [Drawn(i, x.reply) for i, x in enumerate(part)]
        prepared = [x.prepared for x in part]
        logits, hidden, ids, mask = self.agent.masked_states(prepared, drawn)
        # the same values, a weighted gradient
        hidden = torch.lerp(hidden.detach(), hidden, self.options.ppo_value_weight)
        return Look(logits, token_logp(logits, ids), self.head(hidden)[..., 0], mask)

    @torch.no_grad()
    def _look_back(self, chunks: list[list[Spoken]]) -> None:
        """Fills in log pi_old and V_old of every drawn token."""
        for part in chunks:
            look = self._look(part)
            for x, logp, value, mask in zip(part, look.logp, look.value, look.mask):
                x.old_logp = logp[mask]
                x.value = value[mask]

    def _estimate(self, played: list[Episode], turns: list[list[Spoken]]) -> tuple[float, float]:
        """Fills in advantage and target of every token, whitens the first, and sets V's bias.

        returns  the explained variance of V, and the number of tokens of all processes
        """
        unscored = self._mean_reward(played)
        batch = []
        for episode, spoken in zip(played, turns):
            self._add_advantages(episode, spoken, unscored)
            batch += spoken
        centre, variance, tokens = _moments(torch.cat([x.advantage for x in batch]))
        _, around, _ = _moments(torch.cat([x.target for x in batch]))
        if not math.isfinite(centre):
            raise FloatingPointError(
                f"the mean advantage is {centre}; no step was taken. "
                "Look at the rewards of this batch")
        # V is right on average from here on: Adam learns what differs.
        self.head.bias += centre
        for x in batch:
            x.advantage = (x.advantage - centre) / (variance ** 0.5 + 1e-6)
        return 1 - variance / max(around, 1e-8), tokens

    def _mean_reward(self, played: list[Episode]) -> float:
        """Mean R^A of the scored replies of all processes; 0 if none was scored."""
        scored = []
        for episode in played:
            rewards = [step.R_A[0] for step in episode.steps]
            scored += [r for r in rewards if r is not None]
        return all_mean(scored) or 0.0

    def _add_advantages(self, episode: Episode, spoken: list[Spoken], unscored: float) -> None:
        """GAE over the tokens of one dialogue, cut into its replies again."""
        lengths = [x.length for x in spoken]
        earned = self.rewards(episode, unscored=unscored)
        rewards, discounts, decays = token_rewards(
            earned, lengths, self.gamma, self.options.ppo_lambda)
        values = torch.cat([x.value for x in spoken]).tolist()
        values.append(self._value_after(episode, values[-1]))
        found = token_gae(rewards, values, discounts, decays)
        advantages = torch.tensor(found, device=self.agent.device)
        for x, advantage in zip(spoken, advantages.split(lengths)):
            x.advantage = advantage
            x.target = advantage + x.value

    def _value_after(self, episode: Episode, value: float) -> float:
        """V after the last token: 0 if nothing can follow, or if TSE has settled the dialogue."""
        settled = self.options.ppo_tse and self.dataset.environment
        return 0.0 if episode.seen.terminated or settled else value

    def _epoch(self, chunks: list[list[Spoken]], tokens: float) -> dict[str, float]:
        """One step of the LM and one of the value head's weights, on the whole batch.

        The gradient is summed over micro-batches and processes.
        """
        agent = self.agent
        agent.optimizer.zero_grad(set_to_none=True)
        self.value_adam.zero_grad(set_to_none=True)
        sums = torch.zeros(5, dtype=torch.float64)
        for part in chunks:
            sums += self._backward(part, tokens)
        L_p, L_v, L_d, clipped, kl = all_sum(*sums.tolist())
        sum_gradients([self.head.weight])
        loss = L_p + self.options.ppo_value_weight * L_v + agent.cfg.lambda_d * L_d
        row = agent.step(agent.optimizer, {
            "loss_policy": L_p,
            "loss_value": L_v,
            "entropy": -L_d,
            "clipped": clipped,
            "kl": kl,
            "loss": loss,
        })
        self.value_adam.step()
        return row

    def _backward(self, part: list[Spoken], tokens: float) -> Tensor:
        """The gradient of a micro-batch; returns its share of L_p, L_v, L_d, clipped and kl, [5].

        tokens  of the whole batch; it makes the sum over micro-batches the whole batch's mean
        """
        clip = self.options.ppo_clip
        logits, logp, value, mask = self._look(part)
        old = pad_sequence([x.old_logp for x in part], batch_first=True)             # [B, L]
        advantage = pad_sequence([x.advantage for x in part], batch_first=True)      # [B, L]
        target = pad_sequence([x.target for x in part], batch_first=True)            # [B, L]
        share = mask.sum() / tokens
        L_p = share * clipped_surrogate(logp, old, advantage, mask, clip)
        L_v = share * value_loss(value, target, mask)                # weighted in `_look`
        L_d = share * negative_entropy(logits, mask)
        (L_p + L_v + self.agent.cfg.lambda_d * L_d).backward()
        log_ratio = (logp.detach() - old)[mask]                                      # [N] log r
        clipped = ((log_ratio.exp() - 1).abs() > clip).sum() / tokens
        kl = -log_ratio.sum() / tokens
        return torch.stack([L_p, L_v, L_d, clipped, kl]).detach().cpu()

    # --- checkpoints ----------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Those of GOPO, and the value head with its Adam."""
        found = super().parts()
        if self.agent:
            found["value_head"] = self.head.state_dict()
            found["value_adam"] = adam_state(self.value_adam)
        return found

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        super().restore(parts)
        if self.agent:
            load_into(self.head, parts["value_head"], "the checkpoint's value head")
            load_adam_state(self.value_adam, parts["value_adam"])


def _moments(x: Tensor) -> tuple[float, float, float]:
    """Mean, variance and number of the values of all processes."""
    number, summed = all_sum(len(x), float(x.double().sum()))
    mean = summed / number
    (squares,) = all_sum(float((x.double() - mean).square().sum()))
    return mean, squares / number, number


# --- to look at ---------------------------------------------------------------------------------

def show_gae() -> None:
    rewards, discounts, decays = token_rewards([0.6, 0.8 + 1.0], [2, 2], 0.9, 0.5)
    values = [0.5, 0.5, 1.0, 1.0, 0.0]
    print("two replies of two tokens, R^A .6 and .8, TSE 1 at the end, gamma .9")
    print(f"  rho = {rewards}")
    print(f"  d   = {discounts}")
    print(f"  V   = {values}  (terminated)")
    advantages = token_gae(rewards, values, discounts, decays)
    print(f"GAE, lambda .5 between turns: {[round(a, 4) for a in advantages]}")
    print("  by hand: A_4 = 1.8 - 1 = .8;  A_3 = 1 - 1 + A_4 = .8;  "
          "A_2 = .6 + .9 - .5 + .9 * .5 A_3 = 1.36;  A_1 = 0 + .5 - .5 + A_2 = 1.36")


def show_clipping(ratio: float, advantage: float) -> None:
    """One token: what min(r A, clip(r) A) is, and its gradient in log pi."""
    one = torch.ones(1, 1)
    logp = (ratio * one).log().requires_grad_()
    loss = clipped_surrogate(logp, 0 * one, advantage * one, one, 0.2)
    loss.backward()
    gradient = -logp.grad.item() or 0.0
    note = "" if gradient else "  (clipped: nothing more to gain)"
    print(f"  r = {ratio}, A = {advantage:+.0f}: {-loss.item():+.1f}, "
          f"gradient {gradient:+.1f}{note}")


def demo() -> None:
    show_gae()
    print("clipped surrogate, eps .2: min(r A, clip(r) A)")
    show_clipping(1.0, 1.0)
    show_clipping(1.5, 1.0)
    show_clipping(0.5, 1.0)
    show_clipping(1.5, -1.0)
    show_clipping(0.5, -1.0)


if __name__ == "__main__":
    demo()
