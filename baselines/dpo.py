"""DPO (Rafailov et al. 2023), a baseline of MORE's Table 1: a single agent learns from pairs.

    L_DPO = -E[log sigma(beta log pi(y_w)/pi_ref(y_w) - beta log pi(y_l)/pi_ref(y_l))]

That is their Eq. 7.  y_w is the preferred reply to a state and y_l the other one.  No reward model
and no value is learned: r = beta log pi/pi_ref is the reward that the policy stands for, up to a
constant.
MORE's paper names DPO and says nothing of its pairs (GPT-4o wrote negatives for another baseline).
Ours: the frozen warm start pi_ref draws --group replies to a logged state, MORE's rewards mark
them, and of their plain sum the best and the worst are the pair.  Where all are alike there is
none.  So DPO learns from what MORE learns from, and its replies never become its own: it is
offline, as its authors have it.
Try it:  python -m baselines.dpo        the loss of three pairs, to follow by hand
Exercise: draw the replies from the policy itself (leave `as_reference` out).  What happens to
`margin`, and why?"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.config import DPOConfig
from data import Dataset, Episode
from gopo import GopoConfig
from systems.more import LEAST_STD, mix
from systems.more_train import MORE

# B pairs, S states, M replies to each, n rewards


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """L_DPO of a batch of pairs: Rafailov et al. 2023, Eq. 7.

    chosen, rejected          [B] log pi(y_w), log pi(y_l): sums over a reply's drawn tokens, nats
    ref_chosen, ref_rejected  [B] the same of pi_ref; no gradient
    beta                      > 0: how dear it is to leave pi_ref
    returns                   scalar > 0, the mean over pairs; log 2 where pi = pi_ref
    raises                    ValueError on shapes that differ, or beta <= 0

    >>> one = torch.ones(1)
    >>> round(dpo_loss(-1 * one, -3 * one, -2 * one, -2 * one, 0.5).item(), 4)
    0.3133
    """
    return -F.logsigmoid(margins(chosen, rejected, ref_chosen, ref_rejected, beta)).mean()


def margins(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """r(y_w) - r(y_l) of each pair, r = beta log pi/pi_ref.  Arguments of `dpo_loss`; [B]."""
    shapes = {tuple(x.shape) for x in (chosen, rejected, ref_chosen, ref_rejected)}
    if len(shapes) > 1 or chosen.dim() != 1 or not len(chosen):
        raise ValueError(f"dpo_loss wants four times [B], at least one pair: got {shapes}")
    if not beta > 0:
        raise ValueError(f"--dpo_beta must be positive, got {beta}")
    for_chosen = chosen - ref_chosen.detach()
    for_rejected = rejected - ref_rejected.detach()
    return beta * (for_chosen - for_rejected)


class Pair(NamedTuple):
    """Two replies to a state, by their numbers."""
    state: int
    chosen: int
    rejected: int


def pairs_of(R: Tensor) -> list[Pair]:
    """The best and the worst reply of each state, where they differ.

    R  [S, M]; NaN = unscored, and in no pair
    """
    found = []
    for state, row in enumerate(R):
        best = int(torch.where(row.isnan(), -torch.inf, row).argmax())
        worst = int(torch.where(row.isnan(), torch.inf, row).argmin())
        if row[best] - row[worst] > LEAST_STD:
            found.append(Pair(state, best, worst))
    return found


class DPO(MORE):
    """MORE's states, replies and rewards, with Eq. 7 of DPO for Eqs. 1 and 2."""
    Options = DPOConfig
    rewards_flag = "dpo_rewards"
    has_tasks = False

    @classmethod
    def stages(cls, run: Path, options: DPOConfig) -> dict[str, int]:
        return {}                                # nothing is reasoned about

    @classmethod
    def refuse_options(cls, dataset: Dataset, options: DPOConfig, speaks: bool) -> None:
        super().refuse_options(dataset, options.of_more(), speaks)

    @classmethod
    def more_pairs(cls, dataset: Dataset, pairs: Sequence[Any], options: Any, seed: int) -> list:
        return []

    @classmethod
    def warm_key(cls, options: DPOConfig) -> None:
        return None

    def __init__(
        self, dataset, expert, agent, judge, cfg: GopoConfig, speaker=None, options=None
    ):
        self.dpo: DPOConfig = options or DPOConfig()
        super().__init__(dataset, expert, agent, judge, cfg, speaker, self.dpo.of_more())

    def step(
        self, number: int, seed: int, stage: int = 0
    ) -> tuple[list[Episode], dict[str, float | None]]:
        """Pairs of the frozen warm start's replies, and one optimiser step on them."""
        contexts = self.contexts(number, seed, stage)
        with self.grpo.as_reference():
            prepared, replies = self.speak(
                [context.request for context in contexts], number, seed, stage)
        rewards = self.rate(contexts, replies)                                       # [n, S, M]
        R = mix(rewards, [1.0] * len(rewards))                                       # [S, M]
        told = self._told(rewards, R, replies)
        pairs = pairs_of(R)
        two = [[replies[pair.state][pair.chosen], replies[pair.state][pair.rejected]]
               for pair in pairs]
        row = self._learn([prepared[pair.state] for pair in pairs], two)
        return [], told | row | self.watch(number)

    def _learn(self, prepared, two) -> dict[str, float | None]:
        """One step on L_DPO.

        two      of each state (chosen, rejected)
        returns  loss, margin (the mean r(y_w) - r(y_l)), preferred (the share of pairs with a
                 margin above 0), grad_norm, tokens, pairs; without a pair nothing is learned
        """
        if not two:
            return dict.fromkeys(("loss", "margin", "preferred", "grad_norm")) | {
                "tokens": 0, "pairs": 0}
        agent = self.agent
        looks, reference = self.read(prepared, two)
        agent.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, dtype=torch.float64)
        for look, ref in zip(looks, reference):
            # a micro-batch holds whole groups, here y_w before y_l
            # what pads a reply may be banned there: its log-probability is -inf, and no product
            now = look.logp.where(look.mask.bool(), 0.0).sum(1).view(-1, 2)          # [b, 2]
            then = ref.where(look.mask.bool(), 0.0).sum(1).view(-1, 2)
            four = (now[:, 0], now[:, 1], then[:, 0], then[:, 1])
            share = len(now) / len(two)
            loss = share * dpo_loss(*four, self.dpo.dpo_beta)
            loss.backward()
            gain = margins(*four, self.dpo.dpo_beta).detach()
            told = (loss.detach(), share * gain.mean(), share * (gain > 0).float().mean())
            sums += torch.stack(told).double().cpu()
        loss_value, margin, preferred = sums.tolist()
        terms = {"loss": loss_value, "margin": margin, "preferred": preferred}
        row = agent.step(agent.optimizer, terms)
        return row | {"tokens": looks.tokens, "pairs": len(two)}


def demo() -> None:
    print("log pi: chosen, rejected; of pi_ref: chosen, rejected; beta .5")
    for numbers in ((-2.0, -2.0, -2.0, -2.0), (-1.0, -3.0, -2.0, -2.0), (-3.0, -1.0, -2.0, -2.0)):
        four = [torch.tensor([number]) for number in numbers]
        margin = margins(*four, 0.5).item()
        loss = dpo_loss(*four, 0.5).item()
        print(f"  {numbers}: margin {margin:+.1f}, loss {loss:.4f}")


if __name__ == "__main__":
    demo()
