"""PPO (Schulman et al. 2017), the reinforcement-learning baseline of Table 1: one agent, no Expert, learned token by token.

    r_i = pi(a_i|s_i) / pi_old(a_i|s_i)        L_clip = -mean_i min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i)
    A_i = delta_i + d_i lambda_i A_{i+1}       delta_i = rho_i + d_i V_{i+1} - V_i         L_V = mean_i (V_i - A_i^old - V_i^old)^2
    loss = L_clip + value_weight L_V + lambda_d L_d (Eq. 9d, the agent's own)

Tokens i run through the whole dialogue: the customer's words are the environment.  rho_i is 0 but at the last drawn token of a reply, where
R^A_t (Eq. 8) stands, and TSE (Eq. 11) beside it at the dialogue's last, in a live shop.  Within a reply d_i and lambda_i are 1; after its last
token they are --gamma and --ppo_lambda.
V_i is linear in the hidden state that token i was drawn from, plus a bias.  The bias is not learned: before the epochs of each rollout it is set
so that V is right on average over its tokens; the weights learn by Adam what differs from token to token.  Without the bias they were pushed
towards the mean, and V explained less than nothing (explained_variance -.17 to -.56 at step 15, five seeds).
The agent reads what any agent without an Expert reads: H_t, u_t, e_t, B_t and the shop's global rules; with one reply a state it plays `group`
times GOPO's dialogues a step, so both sample as many replies.

The paper names PPO and says nothing more (GAP-9), so all below is ours.  Advantages are whitened over the batch; values are not clipped.
log pi_old is computed anew before the first epoch, in the same forward passes as V: the sampler's own (Reply.logp) differs in bf16 or with another
kernel, and the ratio has to begin at exactly 1.  No KL term to the warm start: RLHF has one because a learned reward model is right only near it;
here rules or a judge score the text itself, and GOPO, which this is compared with, has none.  9c is left out: there are no skills to be near.
A truncated dialogue to which no TSE was paid goes on with V at its last token's state, as if the next turn were like this one.  An unscored
reply (the judge gave None) earns the mean of the batch's scored ones: a dialogue's return needs a number for each turn, and 0 would read as a bad reply.
Try it:  python ppo.py        rewards, GAE and the clipped surrogate of a dialogue of two turns, to follow by hand
Exercise: set --ppo_lambda 0 and 1; which of explained_variance, success and turns moves, and why?"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from csagent import negative_entropy
from data import DataError, Episode, Prepared, Reply, Step, opt
from gopo import Gopo, GopoConfig
from infra.processes import all_mean, all_sum, sum_gradients
from infra.runs import adam_state, load_adam_state, load_into
from lm.decoder import Drawn, token_logp
from policies import Speaker
from rewards import end_bonus

# B replies, L tokens of a reply, T tokens of a dialogue, V vocabulary


# --- equations -----------------------------------------------------------------------------------------------------------------

def clipped_surrogate(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> Tensor:
    """L_clip = -mean min(r A, clip(r, 1 - eps, 1 + eps) A), r = exp(logp - old_logp): Schulman et al. 2017, Eq. 7, minimised.

    logp       [B, L] nats, now; values where mask is 0 are ignored
    old_logp   [B, L] nats, of the policy that sampled; no gradient
    advantage  [B, L] no gradient
    mask       [B, L] 1 where the agent drew the token
    clip       eps > 0.  A token that has gone further than eps the way its advantage points has gradient 0
    returns    scalar, mean over the mask; raises ValueError on shapes that differ or an empty mask

    >>> clipped_surrogate(torch.tensor([[1.5]]).log(), torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.2).item()
    -1.2000000476837158
    """
    mask = _checked("clipped_surrogate", mask, logp, old_logp, advantage)
    ratio, adv = (logp[mask] - old_logp[mask].detach()).exp(), advantage[mask].detach()                # [N]
    return -torch.minimum(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv).mean()


def value_loss(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_V = mean (V - target)^2 over the mask.

    value    [B, L] V of the state each token was drawn in
    target   [B, L] A + V of the policy that sampled (the lambda-return); no gradient
    returns  scalar >= 0; raises ValueError on shapes that differ or an empty mask

    >>> value_loss(torch.tensor([[1., 9.]]), torch.tensor([[3., 0.]]), torch.tensor([[1, 0]])).item()
    4.0
    """
    mask = _checked("value_loss", mask, value, target)
    return (value[mask] - target[mask].detach()).square().mean()


def token_gae(rewards: Sequence[float], values: Sequence[float], discounts: Sequence[float], decays: Sequence[float]) -> list[float]:
    """`expert.gae` with a discount d_i and a lambda_i for each step: delta_i = r_i + d_i V_{i+1} - V_i;  A_i = delta_i + d_i lambda_i A_{i+1}.

    rewards    [T], `token_rewards`
    values     [T + 1]; the last is 0 if the dialogue terminated
    discounts  [T], each in [0, 1]
    decays     [T], lambda_i in [0, 1]
    raises     ValueError if the lengths do not fit

    >>> token_gae([0., 1.], [.5, .5, 0.], [1., .9], [.5, 1.])
    [0.25, 0.5]
    """
    if not len(values) - 1 == len(rewards) == len(discounts) == len(decays):
        raise ValueError(f"token_gae needs T rewards, T + 1 values, T discounts and T lambdas: got {[len(x) for x in (rewards, values, discounts, decays)]}")
    advantages, later = [0.0] * len(rewards), 0.0
    for i in reversed(range(len(rewards))):
        later = rewards[i] + discounts[i] * (values[i + 1] + decays[i] * later) - values[i]
        advantages[i] = later
    return advantages


def token_rewards(rewards: Sequence[float], lengths: Sequence[int], gamma: float, lam: float) -> tuple[list[float], list[float], list[float]]:
    """Rewards, discounts and lambdas of the tokens of a dialogue: a turn's reward stands at its last token, and time passes only there.

    rewards  one a turn
    lengths  drawn tokens of each turn's reply, >= 1
    returns  rho, d and lambda, each as long as all turns together; raises ValueError for a turn without a token

    >>> token_rewards([1., .5], [2, 1], .9, .7)
    ([0.0, 1.0, 0.5], [1.0, 0.9, 0.9], [1.0, 0.7, 0.7])
    """
    if len(rewards) != len(lengths) or min(lengths, default=0) < 1:
        raise ValueError(f"token_rewards needs a reward and at least one token for each turn: got {len(rewards)} rewards, lengths {list(lengths)}")
    at_ends = lambda value: [x for n in lengths for x in [1.0] * (n - 1) + [value]]
    return [x for r, n in zip(rewards, lengths) for x in [0.0] * (n - 1) + [r]], at_ends(gamma), at_ends(lam)


def _checked(name: str, mask: Tensor, *others: Tensor) -> Tensor:
    if any(x.shape != mask.shape for x in others) or not mask.any():
        raise ValueError(f"{name} wants equal shapes and a mask that is not empty, got {[tuple(x.shape) for x in (*others, mask)]}")
    return mask.bool()


# --- learning --------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class PPOConfig:
    """How PPO learns; every number is ours (GAP-9).  The step size of the LM is --agent_lr, the discount between turns --gamma."""
    ppo_clip: float = opt(0.2, "PPO: eps, how far the ratio may go before the gradient stops, in (0, 1)")
    ppo_epochs: int = opt(2, "PPO: optimiser steps on each rollout, each on all of its tokens")
    ppo_lambda: float = opt(0.7, "PPO: lambda of GAE from turn to turn, in [0, 1], as the Expert's --gae_lambda; 1 within a reply, or credit would fade in it")
    ppo_value_lr: float = opt(0.2, "PPO: about how far the value head's weights may move V in a step (its bias is set, not learned): their Adam step size "
                                    "times the LM's width, over which V sums")
    ppo_value_weight: float = opt(0.0, "PPO: weight of the value loss in what the LM learns, in [0, 1]; 0: only the head learns values (at 0.5, before V had "
                                       "a bias, returns of 5 met by V = 0 drove the tiny LM's R^A from .71 to .48 in five steps, on one seed)")
    ppo_tse: float = opt(1.0, "PPO: this times the dialogue's TSE stands at its last token, live shop only")
    ppo_end_bonus: bool = opt(False, "PPO: also pay an end with all tasks done 1 for each turn left to the horizon, as GOPO's Expert is paid (GAP-4)")

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
    """One reply of the batch: what it was drawn from and, for each of its n drawn tokens, what the update needs ([n] each)."""
    prepared: Prepared
    reply: Reply
    old_logp: Tensor | None = None
    value: Tensor | None = None
    advantage: Tensor | None = None
    target: Tensor | None = None

    @property
    def drawn(self) -> list[int]:
        return self.reply.ids[:sum(self.reply.mask)]


class PPO(Gopo):
    """`Gopo` with the Expert left out and Eqs. 9a-9d replaced: the same dialogues, judge and customers."""
    Options = PPOConfig
    single = True

    def __init__(self, dataset, expert, agent, judge, cfg: GopoConfig, speaker: Speaker | None = None, options: PPOConfig | None = None):
        if not cfg.no_expert:
            raise DataError("PPO is one agent without an Expert: it needs --no_expert")
        if cfg.outcome_weight:
            raise DataError("--outcome_weight is for the Expert's reward: with PPO set --ppo_tse")
        super().__init__(dataset, expert, agent, judge, cfg, speaker, options or PPOConfig())
        if agent:
            self.size, self.group = self.size * agent.cfg.group, 1               # as many replies a step as GOPO draws
            width = agent.model.get_output_embeddings().weight.shape[1]
            self.head = nn.Linear(width, 1).to(agent.device)
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)                                        # V = 0 at first, in every process
            self.head.bias.requires_grad_(False)                                 # set in `_estimate`, not learned
            self.value_adam = torch.optim.Adam([self.head.weight], self.options.ppo_value_lr / width)

    def turn_reward(self, step: Step, turn: int) -> float:
        """R^A_t of the reply that the customer heard."""
        return step.R_A[0] or 0.0

    def rewards(self, episode: Episode, unscored: float = 0.0) -> list[float]:
        """R^A_t of each turn, `unscored` where the judge gave none; the last with what the end is worth."""
        earned = [unscored if s.R_A[0] is None else s.R_A[0] for s in episode.steps]
        end = episode.seen
        if self.dataset.environment:
            earned[-1] += self.options.ppo_tse * self.tse(episode)
            if end.terminated and self.options.ppo_end_bonus:
                earned[-1] += end_bonus(len(earned), self.dataset.horizon, self.gamma, end.outcome.success)
        return earned

    def learn(self, played: list[Episode]) -> dict[str, float]:
        """One PPO update: `ppo_epochs` optimiser steps, each on all tokens of all processes.

        returns  loss_policy, loss_value, entropy, loss, grad_norm; clipped, the share of ratios outside 1 -+ eps; kl, mean of log pi_old - log pi:
                 all of the last epoch, before its step.  explained_variance of V before the update; tokens
        raises   FloatingPointError, before the step, naming what is not finite
        """
        turns = [[Spoken(s.prepared, s.replies[0]) for s in e.steps] for e in played]
        chunks = self._micro_batches([x for row in turns for x in row])
        with torch.no_grad():
            for part in chunks:
                _, logp, value, mask = self._look(part)
                for x, p, v, m in zip(part, logp, value, mask):
                    x.old_logp, x.value = p[m], v[m]
        explained, tokens = self._estimate(played, turns)
        for _ in range(self.options.ppo_epochs):
            row = self._epoch(chunks, tokens)
        return row | {"explained_variance": explained, "tokens": int(tokens)}

    def _micro_batches(self, batch: list[Spoken]) -> list[list[Spoken]]:
        """Replies whose prompt and reply together are of similar length, so that little is padding."""
        order, size = sorted(batch, key=lambda x: len(x.prepared.ids) + len(x.drawn)), self.agent.cfg.micro_batch
        return [order[i:i + size] for i in range(0, len(order), size)]

    def _look(self, part: list[Spoken]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """logits [B, L, V], log pi [B, L] and V [B, L] of each drawn token and of the state it was drawn in, mask [B, L].

        V's gradient reaches the LM times `ppo_value_weight`, and the head in full: Adam would undo a factor there."""
        drawn = [Drawn(i, x.reply) for i, x in enumerate(part)]
        logits, hidden, ids, mask = self.agent.masked_states([x.prepared for x in part], drawn)
        hidden = torch.lerp(hidden.detach(), hidden, self.options.ppo_value_weight)                    # the same values, a weighted gradient
        return logits, token_logp(logits, ids), self.head(hidden)[..., 0], mask

    def _estimate(self, played: list[Episode], turns: list[list[Spoken]]) -> tuple[float, float]:
        """Advantages and value targets of every token; the explained variance of V, and the number of tokens of all processes."""
        unscored = all_mean([r for e in played for s in e.steps if (r := s.R_A[0]) is not None]) or 0.0
        for episode, row in zip(played, turns):
            lengths = [len(x.drawn) for x in row]
            rewards, *times = token_rewards(self.rewards(episode, unscored=unscored), lengths, self.gamma, self.options.ppo_lambda)
            values = [v for x in row for v in x.value.tolist()]
            ended = episode.seen.terminated or (self.options.ppo_tse and self.dataset.environment)             # TSE, if paid, was the last word
            raw = token_gae(rewards, [*values, 0.0 if ended else values[-1]], *times)
            for x, advantage in zip(row, torch.tensor(raw, device=self.agent.device).split(lengths)):
                x.advantage, x.target = advantage, advantage + x.value
        batch = [x for row in turns for x in row]
        centre, variance, tokens = _moments(torch.cat([x.advantage for x in batch]))
        around = _moments(torch.cat([x.target for x in batch]))[1]
        if not math.isfinite(centre):
            raise FloatingPointError(f"the mean advantage is {centre}; no step was taken. Look at the rewards of this batch")
        self.head.bias += centre                                                 # V is right on average from here on: Adam learns what differs
        for x in batch:
            x.advantage = (x.advantage - centre) / (variance ** 0.5 + 1e-6)
        return 1 - variance / max(around, 1e-8), tokens

    def _epoch(self, chunks: list[list[Spoken]], tokens: float) -> dict[str, float]:
        """One step of the LM and one of the value head's weights on the whole batch, its gradient summed over micro-batches and processes."""
        agent, o, sums = self.agent, self.options, torch.zeros(5, dtype=torch.float64)
        agent.optimizer.zero_grad(set_to_none=True)
        self.value_adam.zero_grad(set_to_none=True)
        for part in chunks:
            logits, logp, value, mask = self._look(part)
            old, advantage, target = (pad_sequence(rows, batch_first=True) for rows in zip(*[(x.old_logp, x.advantage, x.target) for x in part]))
            share = mask.sum() / tokens                                          # makes the sum over micro-batches the whole batch's mean
            L_p, L_v = share * clipped_surrogate(logp, old, advantage, mask, o.ppo_clip), share * value_loss(value, target, mask)
            L_d = share * negative_entropy(logits, mask)
            (L_p + L_v + agent.cfg.lambda_d * L_d).backward()                    # L_v is weighted in `_look`
            change = (logp.detach() - old)[mask]                                 # [N] log r
            sums += torch.stack([L_p, L_v, L_d, ((change.exp() - 1).abs() > o.ppo_clip).sum() / tokens, -change.sum() / tokens]).detach().cpu()
        L_p, L_v, L_d, clipped, kl = all_sum(*sums.tolist())
        sum_gradients([self.head.weight])
        row = agent.step(agent.optimizer, {"loss_policy": L_p, "loss_value": L_v, "entropy": -L_d, "clipped": clipped, "kl": kl,
                                           "loss": L_p + o.ppo_value_weight * L_v + agent.cfg.lambda_d * L_d})
        self.value_adam.step()
        return row

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return super().parts() | ({"value_head": self.head.state_dict(), "value_adam": adam_state(self.value_adam)} if self.agent else {})

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        super().restore(parts)
        if self.agent:
            load_into(self.head, parts["value_head"], "the checkpoint's value head")
            load_adam_state(self.value_adam, parts["value_adam"])


def _moments(x: Tensor) -> tuple[float, float, float]:
    """Mean, variance and number of the values of all processes."""
    number, summed = all_sum(len(x), float(x.double().sum()))
    return summed / number, all_sum(float((x.double() - summed / number).square().sum()))[0] / number, number


if __name__ == "__main__":
    rewards, discounts, decays = token_rewards([0.6, 0.8 + 1.0], [2, 2], 0.9, 0.5)
    values = [0.5, 0.5, 1.0, 1.0, 0.0]
    print(f"two replies of two tokens, R^A .6 and .8, TSE 1 at the end, gamma .9\n  rho = {rewards}\n  d   = {discounts}\n  V   = {values}  (terminated)")
    print(f"GAE, lambda .5 between turns: {[round(a, 4) for a in token_gae(rewards, values, discounts, decays)]}"
          "\n  by hand: A_4 = 1.8 - 1 = .8;  A_3 = 1 - 1 + A_4 = .8;  A_2 = .6 + .9 - .5 + .9 * .5 A_3 = 1.36;  A_1 = 0 + .5 - .5 + A_2 = 1.36")
    print("clipped surrogate, eps .2: min(r A, clip(r) A)")
    for ratio, advantage in ((1.0, 1.0), (1.5, 1.0), (0.5, 1.0), (1.5, -1.0), (0.5, -1.0)):
        logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
        loss = clipped_surrogate(logp, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), 0.2)
        loss.backward()
        gradient = -logp.grad.item() or 0.0
        print(f"  r = {ratio}, A = {advantage:+.0f}: {-loss.item():+.1f}, gradient {gradient:+.1f}" + "  (clipped: nothing more to gain)" * (not gradient))
