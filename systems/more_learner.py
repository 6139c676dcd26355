"""GRPO on a language model, near a frozen copy of it: MORE's Eqs. 1 and 2, and its gradients g_j.

    read     one forward pass over a batch's replies, with its graph       `Looks`
    pull     how strongly each reward pulls at the weights                 `Learner.pull`
    learn    optimiser steps on Eq. 2                                      `Learner.learn`

pi_ref is a copy of what is trained: of all weights, or of a LoRA adapter alone, whose base is
shared.  To ask it, its values stand in the model's place for one forward pass, before the batch's
own pass has begun.  An adapter of its own name would cost the same memory, and gradients could flow
into it.
old_logp is taken from the update's own first pass, so that every ratio begins at exactly 1.
Small models keep the graph of the whole batch between `pull` and `learn`; others read again, one
micro-batch at a time.  That changes memory, not the result.
Knows replies and numbers: no task, no reward by name.
Exercise: let `learn` take `old` from Reply.logp, train with --precision bf16, and watch `clipped`.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from csagent import CustomerServiceAgent, negative_entropy, numbered
from data import Prepared, Reply
from lm.config import BUILT
from lm.decoder import Drawn, token_logp
from systems.more import grpo_loss, kl_to_reference
from systems.more_config import MoreConfig
from systems.more_norms import backward_rows, head_rows, inner_products, reward_weights

# S states, M replies to each, B = S M replies in that order, b of a micro-batch, L tokens of a
# reply, V vocabulary, D width, n rewards

Replies = Sequence[Sequence[Reply]]              # S x M


class Look(NamedTuple):
    """What the model says of a micro-batch now."""
    rows: list[int]                              # which of the B replies
    logits: Tensor                               # [b, L, V]
    hidden: Tensor                               # [b, L, D]
    ids: Tensor                                  # [b, L]
    mask: Tensor                                 # [b, L]
    logp: Tensor                                 # [b, L] of the drawn tokens, nats


class Looks:
    """The micro-batches of a batch of replies."""

    def __init__(self, agent: CustomerServiceAgent, prepared: Sequence[Prepared], replies: Replies):
        self.agent = agent
        self.prepared = list(prepared)
        unmarked = [[None] * len(group) for group in replies]
        self.drawn = numbered(replies, unmarked)
        self.parts = agent._micro_batches(self.prepared, self.drawn)
        self.tokens = sum(len(x.ids) for x in self.drawn)
        self.keep = agent.lm.model in BUILT
        self.kept: list[Look] | None = None

    def __iter__(self) -> Iterator[Look]:
        """Each micro-batch with its graph; of a small model, that of an earlier pass."""
        if not self.keep:
            return map(self.look, self.parts)
        if self.kept is None:
            self.kept = [self.look(rows) for rows in self.parts]
        return iter(self.kept)

    def look(self, rows: list[int]) -> Look:
        batch: list[Drawn] = [self.drawn[i] for i in rows]
        logits, hidden, ids, mask = self.agent.masked_states(self.prepared, batch)
        return Look(rows, logits, hidden, ids, mask, token_logp(logits, ids))

    def forget(self) -> None:
        """The weights have changed, or the graph is spent."""
        self.kept = None


class Learner:
    """How an agent learns by Eq. 2.

    average  of Eq. 2, see MoreConfig
    """

    def __init__(self, agent: CustomerServiceAgent, cfg: MoreConfig):
        self.agent = agent
        self.cfg = cfg
        self.reference: list[Tensor] | None = None

    # --- pi_ref ---------------------------------------------------------------------------------

    def freeze(self) -> None:
        """The model as it is now becomes pi_ref."""
        self.reference = [p.detach().clone() for p in self.agent.params]

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The agent is pi_ref meanwhile.  No graph of its own may be waiting for a backward pass.
        """
        if self.reference is None:
            raise ValueError("there is no reference yet: call freeze() once")
        now = [p.detach().clone() for p in self.agent.params]
        self._put(self.reference)
        try:
            yield
        finally:
            self._put(now)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for p, value in zip(self.agent.params, values, strict=True):
            p.copy_(value)

    @torch.no_grad()
    def reference_logp(self, looks: Looks) -> list[Tensor]:
        """log pi_ref of every micro-batch's drawn tokens, [b, L] each."""
        with self.as_reference():
            return [looks.look(rows).logp for rows in looks.parts]

    # --- g_j ------------------------------------------------------------------------------------

    def pull(self, looks: Looks, rewards: Tensor) -> Tensor:
        """<ghat_j, ghat_k> over the batch: [parts, n, parts, n], see more_norms.py.

        rewards  [n, S, M]; NaN = unscored
        """
        parts = 2 if self.cfg.more_norms == "signal" else 1
        weights = reward_weights(rewards, parts)                                     # [parts n, B]
        total = 0
        for look in looks:
            mine = weights[:, look.rows].to(look.logp.device)
            if self.cfg.more_norm_params == "head":
                rows = head_rows(mine, look.logits, look.hidden, look.ids, look.mask)
            else:
                rows = backward_rows(mine, look.logp, look.mask, self.agent.params)
            total = total + rows
        return inner_products(total, parts).cpu()

    # --- Eq. 2 ----------------------------------------------------------------------------------

    def learn(
        self, looks: Looks, advantage: Tensor, reference: list[Tensor] | None, beta: float
    ) -> dict[str, float]:
        """`more_inner` optimiser steps on Eq. 2.

        advantage  [S, M] A of each reply
        reference  of `reference_logp`, taken before `looks` was read; None: no anchor
        returns    of the last of them, before its step: loss, kl (k3 to pi_ref), clipped (the share
                   of ratios outside 1 -+ eps), entropy, grad_norm; tokens, the number of drawn ones
        raises     FloatingPointError, before the step, naming what is not finite
        """
        flat = advantage.flatten().to(self.agent.device)                             # [B]
        old: list[Tensor] = []
        for _ in range(self.cfg.more_inner):
            self.agent.optimizer.zero_grad(set_to_none=True)
            sums = torch.zeros(4, dtype=torch.float64)
            for place, look in enumerate(looks):
                if len(old) == place:
                    old.append(look.logp.detach())
                ref = reference[place] if reference else None
                sums += self._learn_from(look, old[place], ref, flat[look.rows], looks, beta)
            looks.forget()
            loss, kl, clipped, entropy = sums.tolist()
            row = self.agent.step(
                self.agent.optimizer,
                {"loss": loss, "kl": kl, "clipped": clipped, "entropy": entropy})
        return row | {"tokens": looks.tokens}

    def _learn_from(
        self, look: Look, old: Tensor, ref: Tensor | None, advantage: Tensor, looks: Looks,
        beta: float,
    ) -> Tensor:
        """Adds the gradient of a micro-batch; [4] its share of loss, kl, clipped and entropy."""
        cfg = self.cfg
        tokens = look.mask.sum() / looks.tokens
        # Makes the sum over micro-batches the whole batch's mean.
        share = tokens
        if cfg.more_average == "reply":
            share = len(look.rows) / len(looks.drawn)
        loss = share * grpo_loss(
            look.logp, old, ref, advantage, look.mask, cfg.more_clip, beta, cfg.more_average)
        loss.backward()
        with torch.no_grad():
            kl = loss.new_zeros(())
            if ref is not None:
                kl = tokens * kl_to_reference(look.logp, ref, look.mask)
            ratio = (look.logp - old)[look.mask].exp()
            outside = ((ratio - 1).abs() > cfg.more_clip).sum() / looks.tokens
            entropy = -tokens * negative_entropy(look.logits, look.mask)
        return torch.stack([loss.detach(), kl, outside, entropy]).double().cpu()
