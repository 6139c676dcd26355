"""PPO (Schulman et al. 2017), the reinforcement-learning baseline of Table 1.

One agent without an Expert learns token by token.  The ratio and the clipped surrogate are
from Schulman et al. 2017 (their Eq. 7); GAE, with A_i and delta_i, is from Schulman et al. 2016:

    r_i = pi(a_i|s_i) / pi_old(a_i|s_i)
    L_clip = -mean_i min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i)
    L_V = mean_i (V_i - A_i^old - V_i^old)^2
    delta_i = rho_i + d_i V_{i+1} - V_i
    A_i = delta_i + d_i lambda_i A_{i+1}
    loss = L_clip + value_weight L_V + lambda_d L_d        L_d is the agent's own, Eq. 9d of GOPO

Tokens i run through the whole dialogue: the customer's words are the environment.  rho_i is 0
except at the last drawn token of a reply, where R^A_t (Eq. 8) stands.  In a live shop TSE (Eq. 11)
is added at the last token of the dialogue.  Within a reply d_i and lambda_i are 1; after its last
token they are --gamma and --ppo_lambda.

V_i is linear in the hidden state that token i was drawn from, plus a bias.  The bias is not
learned: before the epochs of each rollout it is set so that V is right on average over its tokens.
The weights learn by Adam what differs from token to token.  Without the bias they were pushed
towards the mean, and V explained less than nothing (explained_variance -.17 to -.56 at step 15,
five seeds).

The agent reads what any agent without an Expert reads: H_t, u_t, e_t, B_t and the shop's global
rules.  It plays `group` times GOPO's dialogues a step, with one reply to a state, and therefore
both methods sample as many replies.

The paper names PPO and says nothing more (GAP-9).  All of this is ours:
  - Advantages are whitened over the batch.  Values are not clipped.
  - log pi_old is computed anew before the first epoch, in the same forward passes as V.  The
    sampler's own (Reply.logp) differs in bf16 or with another kernel, and the ratio has to begin at
    exactly 1.
  - There is no KL term to the warm start.  RLHF has one because a learned reward model is right
    only near it.  Here rules or a judge score the text itself, and GOPO has none either.
  - 9c is left out: there are no skills to be near.
  - A truncated dialogue to which no TSE was paid goes on with V at its last token's state, as if
    the next turn were like this one.
  - An unscored reply (the judge gave None) earns the mean of the batch's scored ones.  A dialogue's
    return needs a number for each turn, and 0 would read as a bad reply.
R^A_t stands in the steps already (play.py).
The equations are pure functions in baselines/ppo_equations.py.
Try it:  python -m baselines.ppo        rewards, GAE and the clipped surrogate of a dialogue of two
                                        turns, to follow by hand
Exercise: set --ppo_lambda 0 and 1.  Which of explained_variance, success and turns moves, and why?
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from baselines.config import PPOConfig
from baselines.ppo_equations import clipped_surrogate, demo, token_gae, token_rewards, value_loss
from data import DataError, Episode, Prepared, Reply, Step
from gopo import Gopo, GopoConfig
from infra.devices import exact
from infra.processes import all_mean, all_sum, sum_gradients
from infra.runs import adam_state, load_adam_state, load_into
from policies import Speaker
from rewards import end_bonus

# B replies, L tokens of a reply, V vocabulary


# --- learning -----------------------------------------------------------------------------------

@dataclass
class Spoken:
    """One reply of the batch: what it was drawn from, and what the update needs of it.

    The tensors are [n], a number for each drawn token."""
    prepared: Prepared
    reply: Reply
    old_logp: Tensor | None = None
    value: Tensor | None = None
    advantage: Tensor | None = None
    target: Tensor | None = None

    @property
    def drawn(self) -> list[int]:
        """The tokens that the agent drew, without those that were inserted."""
        return self.reply.ids[:sum(self.reply.mask)]


class PPO(Gopo):
    """`Gopo` without the Expert, and with PPO's loss for Eqs. 9a-9d.

    Dialogues, judge and customers are the same."""
    Options = PPOConfig
    single = True

    @classmethod
    def refuse_unsuited(cls, dataset, cfg: GopoConfig, speaks: bool) -> None:
        if not cfg.no_expert:
            raise DataError("PPO is one agent without an Expert: it needs --no_expert")
        if cfg.outcome_weight:
            raise DataError("--outcome_weight is for the Expert's reward: with PPO set --ppo_tse")
        super().refuse_unsuited(dataset, cfg, speaks)

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
        super().__init__(dataset, expert, agent, judge, cfg, speaker, options or PPOConfig())
        if agent:
            # As many replies a step as GOPO draws.
            self.size = self.size * agent.cfg.group
            self.group = 1
            self._new_head()

    def _new_head(self) -> None:
        """V = 0 at first, in every process."""
        width = self.agent.model.get_output_embeddings().weight.shape[1]
        self.head = nn.Linear(width, 1).to(self.agent.device)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        # Set in `_whiten`, not learned.
        self.head.bias.requires_grad_(False)
        self.value_adam = torch.optim.Adam([self.head.weight], self.options.ppo_value_lr / width)

    # --- rewards --------------------------------------------------------------------------------

    def turn_reward(self, step: Step, turn: int) -> float:
        """R^A_t of the reply that the customer heard."""
        return step.R_A[0] or 0.0

    def rewards(self, episode: Episode, unscored: float = 0.0) -> list[float]:
        """R^A_t of each turn; the last with what the end of the dialogue is worth.

        unscored  the reward of a reply that the judge could not score
        """
        heard = [step.R_A[0] for step in episode.steps]
        earned = [unscored if r is None else r for r in heard]
        if not self.dataset.environment:
            return earned
        end = episode.seen
        earned[-1] += self.options.ppo_tse * self.tse(episode)
        if end.terminated and self.options.ppo_end_bonus:
            earned[-1] += end_bonus(
                len(earned), self.dataset.horizon, self.gamma, end.outcome.success)
        return earned

    # --- the update -----------------------------------------------------------------------------

    def learn(self, played: list[Episode], seed: int = 0) -> dict[str, float]:
        """One PPO update: `ppo_epochs` optimiser steps, each on all tokens of all processes.

        returns  of the last epoch, before its step: loss_policy, loss_value, entropy, loss,
                 grad_norm; clipped, the share of ratios outside 1 -+ eps; kl, the mean of
                 log pi_old - log pi.  Of the batch: tokens, and explained_variance of V before the
                 update
        raises   FloatingPointError, before the step, naming what is not finite
        """
        turns = []
        for episode in played:
            turns.append([Spoken(step.prepared, step.replies[0]) for step in episode.steps])
        chunks = self._micro_batches(_flat(turns))
        self._remember(chunks)
        self._advantages(played, turns)
        explained, tokens = self._whiten(_flat(turns))
        for _ in range(self.options.ppo_epochs):
            row = self._epoch(chunks, tokens)
        return row | {"explained_variance": explained, "tokens": int(tokens)}

    def _micro_batches(self, batch: list[Spoken]) -> list[list[Spoken]]:
        """Replies whose prompt and reply together are of similar length: little is padding."""
        order = sorted(batch, key=lambda x: len(x.prepared.ids) + len(x.drawn))
        size = self.agent.cfg.micro_batch
        return [order[i:i + size] for i in range(0, len(order), size)]

    @torch.no_grad()
    def _remember(self, chunks: list[list[Spoken]]) -> None:
        """log pi_old and V_old of every drawn token."""
        for part in chunks:
            _, logp, value, mask = self._look(part)
            for i, x in enumerate(part):
                x.old_logp = logp[i][mask[i]]
                x.value = value[i][mask[i]]

    def _look(self, part: list[Spoken]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the model says of replies now.

        returns  logits [B, L, V], log pi [B, L] of each drawn token, V [B, L] of the state that it
                 was drawn in, mask [B, L]

        V's gradient reaches the LM times `ppo_value_weight`, and the head in full: Adam would undo
        a factor there."""
        # imported here: transformers takes seconds, and --help asks this file for its flags
        from lm.decoder import Drawn, token_logp
        drawn = [Drawn(i, x.reply) for i, x in enumerate(part)]
        prepared = [x.prepared for x in part]
        logits, hidden, ids, mask = self.agent.masked_states(prepared, drawn)
        # The same values, with a weighted gradient.
        hidden = torch.lerp(hidden.detach(), hidden, self.options.ppo_value_weight)
        value = self.head(hidden)[..., 0]
        return logits, token_logp(logits, ids), value, mask

    # --- advantages -----------------------------------------------------------------------------

    def _advantages(self, played: list[Episode], turns: list[list[Spoken]]) -> None:
        """Advantage and value target of every token, by GAE."""
        unscored = self._mean_scored(played)
        for episode, row in zip(played, turns):
            lengths = [len(x.drawn) for x in row]
            rewards, *times = token_rewards(
                self.rewards(episode, unscored=unscored), lengths, self.gamma,
                self.options.ppo_lambda)
            values = []
            for x in row:
                values += x.value.tolist()
            values.append(self._value_after(episode, values[-1]))
            found = torch.tensor(token_gae(rewards, values, *times), device=self.agent.device)
            for x, advantage in zip(row, found.split(lengths)):
                x.advantage = advantage
                x.target = advantage + x.value

    def _mean_scored(self, played: list[Episode]) -> float:
        """The mean R^A_t of the scored replies of all processes; 0 if there are none."""
        scored = []
        for episode in played:
            heard = [step.R_A[0] for step in episode.steps]
            scored += [r for r in heard if r is not None]
        return all_mean(scored) or 0.0

    def _value_after(self, episode: Episode, value: float) -> float:
        """V after the last token; 0 if nothing can follow: a TSE that is paid is the last word."""
        tse_paid = self.options.ppo_tse and self.dataset.environment
        return 0.0 if episode.seen.terminated or tse_paid else value

    def _whiten(self, batch: list[Spoken]) -> tuple[float, float]:
        """Sets the bias of V, and whitens the advantages over the tokens of all processes.

        returns  the explained variance of V before, and the number of tokens of all processes
        """
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

    # --- one epoch ------------------------------------------------------------------------------

    def _epoch(self, chunks: list[list[Spoken]], tokens: float) -> dict[str, float]:
        """One step of the LM, and one of the value head's weights, on the whole batch.

        The gradient is summed over micro-batches and processes."""
        agent = self.agent
        sums = torch.zeros(5, dtype=torch.float64)
        agent.optimizer.zero_grad(set_to_none=True)
        self.value_adam.zero_grad(set_to_none=True)
        for part in chunks:
            sums += self._learn_from(part, tokens)
        L_p, L_v, L_d, clipped, kl = all_sum(*sums.tolist())
        sum_gradients([self.head.weight])
        terms = {
            "loss_policy": L_p,
            "loss_value": L_v,
            "entropy": -L_d,
            "clipped": clipped,
            "kl": kl,
            "loss": L_p + self.options.ppo_value_weight * L_v + agent.cfg.lambda_d * L_d,
        }
        row = agent.step(agent.optimizer, terms)
        self.value_adam.step()
        return row

    def _learn_from(self, part: list[Spoken], tokens: float) -> Tensor:
        """Adds the gradient of a micro-batch.

        tokens   of the whole batch, of all processes
        returns  [5] its share of L_clip, L_V, L_d, the clipped ratios and the KL
        """
        from csagent import negative_entropy
        clip = self.options.ppo_clip
        logits, logp, value, mask = self._look(part)
        old = pad_sequence([x.old_logp for x in part], batch_first=True)             # [B, L]
        advantage = pad_sequence([x.advantage for x in part], batch_first=True)
        target = pad_sequence([x.target for x in part], batch_first=True)
        # Makes the sum over micro-batches the whole batch's mean.
        share = mask.sum() / tokens
        L_p = share * clipped_surrogate(logp, old, advantage, mask, clip)
        L_v = share * value_loss(value, target, mask)
        L_d = share * negative_entropy(logits, mask)
        # L_v is weighted in `_look`.
        (L_p + L_v + self.agent.cfg.lambda_d * L_d).backward()
        log_ratio = (logp.detach() - old)[mask]                                      # [N]
        outside = ((log_ratio.exp() - 1).abs() > clip).sum() / tokens
        kl = -log_ratio.sum() / tokens
        return torch.stack([L_p, L_v, L_d, outside, kl]).detach().cpu()

    # --- checkpoints ----------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, Tensor]]:
        parts = super().parts()
        if self.agent:
            parts["value_head"] = self.head.state_dict()
            parts["value_adam"] = adam_state(self.value_adam)
        return parts

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        super().restore(parts)
        if self.agent:
            load_into(self.head, parts["value_head"], "the checkpoint's value head")
            load_adam_state(self.value_adam, parts["value_adam"])


def _flat(turns: list[list[Spoken]]) -> list[Spoken]:
    batch = []
    for row in turns:
        batch += row
    return batch


def _moments(x: Tensor) -> tuple[float, float, float]:
    """Mean, variance and number of the values of all processes."""
    number, summed = all_sum(len(x), float(exact(x).sum()))
    mean = summed / number
    squares = all_sum(float((exact(x) - mean).square().sum()))[0]
    return mean, squares / number, number


if __name__ == "__main__":
    demo()
