"""CMPO where a language model decides and speaks: Eq. 9 over the tokens of a turn.

A turn is a decision d_t (chat or voucher) and then words (lm/deciding.py).  Both are tokens that
the model drew, so log pi(a_t|s_t) is the sum of their log-probabilities, and the loss knows no
decision apart from two terms:
  - the anchor, KL(uniform || pi(d_t)), where both decisions were possible
  - the pull to the warm start is exact at each token, and so at the decision too
What the guard inserted, the prompt and the customer's words are in no term.

The frozen warm start of Eq. 9 is a copy of the weights that learn, in memory and never on disk: a
run, resumed or not, begins from its stage warm_start.  Of QLoRA that is the adapter alone.
Exercise: take `interactcs.low_variance_kl` of the drawn tokens instead of `exact_kl`, set --kl .5,
and watch V fall to 0 all the same."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from data import DataError
from surrogate import clipped_gain
from systems.cmpo_config import CMPOConfig
from systems.decision import exact_kl, uniform_anchor
from systems.interactcs import turn_weights
from systems.shown import Shown
from systems.talks import SpokenTurns

# b turns of a part, L tokens of a turn, V vocabulary


def refuse_soft_controls(constraints: str, control_copies: int) -> None:
    if constraints == "soft" and control_copies:
        raise DataError(
            "--constraints soft cannot keep a control copy from issuing a voucher: add "
            "--control_copies 0")


class Words:
    """How the language model learns by Eq. 9.

    agent  a CustomerServiceAgent that `decide_by` was called on
    """

    def __init__(self, agent: Any, options: CMPOConfig):
        self.agent = agent
        self.options = options
        self.frozen: list[Tensor] | None = None

    def freeze(self) -> None:
        """Keeps the weights as they are now as the reference of Eq. 9, unless some are kept."""
        if self.frozen is None:
            self.frozen = [p.detach().clone() for p in self.agent.params]

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The model is the frozen warm start in here."""
        now = [p.data for p in self.agent.params]
        try:
            for p, kept in zip(self.agent.params, self.frozen):
                p.data = kept
            yield
        finally:
            for p, kept in zip(self.agent.params, now):
                p.data = kept

    # --- learning -------------------------------------------------------------------------------

    def learn(self, turns: SpokenTurns, dialogues: float, decisions: float, anchor: float) -> Shown:
        """AdamW on Eq. 9; what it reports is of the last epoch.

        dialogues  n, of all processes
        decisions  turns of all processes in which both decisions were possible
        anchor     weight of KL(uniform || pi(d_t))
        """
        parts = self._parts(turns)
        old = self._old(turns, parts)
        device = self.agent.device
        weight = A = torch.zeros(0, device=device)
        if parts:
            weight = turn_weights(torch.tensor(turns.dialogue, device=device), dialogues)
            A = torch.tensor(turns.advantage, device=device)
        for _ in range(self.options.cmpo_epochs):
            shown = Shown(decisions, "grad_norm")
            self.agent.optimizer.zero_grad(set_to_none=True)
            for number, rows in enumerate(parts):
                earned = (weight[rows], A[rows], old[number])
                self._loss(turns, rows, *earned, anchor, shown).backward()
            row = self.agent.step(self.agent.optimizer, {"Eq. 9 of CMPO": shown.sums["loss"]})
            shown.norm = row["grad_norm"]
        return shown

    def _parts(self, turns: SpokenTurns) -> list[list[int]]:
        """Numbers of turns that are read together: of similar length, so that little is padding.

        As many as GOPO's update reads at once.
        """
        def length(i: int) -> int:
            return len(turns.prepared[i].ids) + len(turns.replies[i].logp)

        spoken = [i for i, reply in enumerate(turns.replies) if reply.logp]
        order = sorted(spoken, key=length)
        size = self.agent.cfg.micro_batch * self.agent.cfg.group
        return [order[first:first + size] for first in range(0, len(order), size)]

    @torch.no_grad()
    def _old(self, turns: SpokenTurns, parts: Sequence[list[int]]) -> list[Tensor | None]:
        """log p of each drawn token before the first epoch; None where the ratio stays 1.

        Computed in the passes of the update: the sampler's own differ in bf16 or by a kernel, and
        the ratio has to begin at exactly 1.
        """
        if self.options.cmpo_epochs == 1:
            return [None] * len(parts)
        return [self._read(turns, rows)[1] for rows in parts]

    def _read(self, turns: SpokenTurns, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """log p of every token [b, L, V], of the drawn ones [b, L] (0 in padding); mask [b, L]."""
        # imported here: transformers takes seconds, and --help asks this file for nothing
        from lm.decoder import Drawn
        drawn = [Drawn(i, turns.replies[row]) for i, row in enumerate(rows)]
        prepared = [turns.prepared[row] for row in rows]
        logits, ids, mask = self.agent.masked_logits(prepared, drawn)
        log_p = logits.log_softmax(-1)
        made = log_p.gather(-1, ids[..., None])[..., 0]
        return log_p, torch.where(mask, made, 0.0), mask

    def _loss(
        self,
        turns: SpokenTurns,
        rows: list[int],
        weight: Tensor,
        advantage: Tensor,
        old: Tensor | None,
        anchor: float,
        shown: Shown,
    ) -> Tensor:
        """These turns' share of -J + anchor KL(uniform || pi(d)).

        weight  [b] 1 / (n T_i); advantage [b] A_t; old [b, L], or None: the ratio is 1
        """
        log_p, logp, mask = self._read(turns, rows)
        with torch.no_grad(), self.as_reference():
            reference = self._read(turns, rows)[0]
        kl = exact_kl(log_p, reference, mask)                                          # [b]
        log_ratio = logp - (logp.detach() if old is None else old)                     # [b, L]
        gained = self._gained(log_ratio, mask, advantage, shown, weight)
        loss = -(weight * (gained - self.options.kl * kl)).sum()
        shown.add(loss=loss, kl=(weight * kl).sum())
        return loss + anchor * self._anchor(turns, rows, log_p, weight, shown)

    def _gained(
        self, log_ratio: Tensor, mask: Tensor, advantage: Tensor, shown: Shown, weight: Tensor
    ) -> Tensor:
        """[b] min(r A, clip(r) A) of each turn; with --ratio token, the sum over its tokens."""
        clip = self.options.cmpo_clip
        if self.options.ratio == "turn":
            log_ratio = log_ratio.sum(-1, keepdim=True)                                # [b, 1]
            mask = torch.ones_like(log_ratio, dtype=torch.bool)
        outside = ((log_ratio.detach().exp() - 1).abs() > clip).any(-1)
        shown.add(clipped=(weight * outside).sum())
        A = advantage[:, None].expand_as(log_ratio)
        return (clipped_gain(log_ratio, A, clip) * mask).sum(-1)

    def _anchor(
        self, turns: SpokenTurns, rows: list[int], log_p: Tensor, weight: Tensor, shown: Shown
    ) -> Tensor:
        """KL(uniform || pi(d_t)), weighted, of the turns in which both decisions were possible."""
        at, tokens = self.agent.decider.branch
        start = self.agent.decider.paths["chat"][:at]
        both = []
        for row in rows:
            asked = len(turns.prepared[row].request.decisions) > 1
            # under soft constraints a reply may begin in any way
            both.append(asked and turns.replies[row].ids[:at] == start
                        and len(turns.replies[row].logp) > at)
        chosen = torch.tensor(both, device=log_p.device)
        if not chosen.any():
            return log_p.new_zeros(())
        log_chat, log_voucher = log_p[chosen][:, at, tokens].log_softmax(-1).unbind(-1)
        shown.decide(log_voucher, log_chat)
        return (weight[chosen] * uniform_anchor(log_voucher, log_chat)).sum()
