"""Supervised training of the language model: cross-entropy on replies, before GOPO and in SFT.

    pairs (Request, reply) --encoded--> token ids --> mean over the replies' tokens of -log pi

The end token is learned; the customer's words never are.  Batches hold replies of similar length,
and are computed in parts if memory is short: that changes memory, not the result. Plain functions
on a CustomerServiceAgent.  Its optimiser state is used by `imitate` alone. GAP-9: the paper starts
from chat models and says nothing of a warm start.
Exercise: drop the end token in `encoded`, train, and look at `reply_words` in metrics.jsonl."""
from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from csagent import CustomerServiceAgent
from data import Request
from infra.processes import all_sum, shard
from infra.progress import bar
from lm.config import WarmConfig

Pair = tuple[Request, str]
Encoded = tuple[list[int], list[int]]            # token ids of a prompt, and of the reply to it
# Tokens in one supervised pass: more is slower, and takes gigabytes.
TOKENS = 10_000
# At the dev loss, during supervised training.
LOOKS = 5


def supervised(agent: CustomerServiceAgent, pairs: Sequence[Pair], steps: int,
               warm: WarmConfig | None = None, *, seed: int = 0,
               dev: Sequence[Pair] | None = None, progress: str | None = None) -> dict[str, float]:
    """AdamW on the cross-entropy of replies, in batches of `warm.sft_batch`.

    dev       pairs held out: the weights kept are those with the lowest loss on them, looked at
              `LOOKS` times on the way
    progress  what the progress bar says; None = no bar
    returns   the last training loss, and the lowest dev loss
    """
    warm = settled(agent, warm)
    data = encoded(agent, pairs)
    rng = random.Random(seed)
    optimizer, schedule = _optimizer(agent, warm.sft_lr, steps)
    best = Best(agent.params)
    loss = math.nan
    queue: list[list[Encoded]] = []
    with bar(progress or "", steps, disable=progress is None, mininterval=1) as shown:
        for step in range(1, steps + 1):
            if not queue:
                queue = batches(data, warm.sft_batch, rng)
            optimizer.zero_grad(set_to_none=True)
            value = backward(agent, queue.pop(), warm)
            loss = agent.step(optimizer, {"loss": value})["loss"]
            schedule.step()
            shown.set_postfix(loss=f"{loss:.3f}", refresh=False)
            shown.update()
            looks = step % max(1, steps // LOOKS) == 0 or step == steps
            if dev and looks:
                best.look(dev_loss(agent, dev, warm))
    best.restore()
    return {"loss": loss} | ({"dev_loss": best.loss} if dev else {})


def imitate(agent: CustomerServiceAgent, pairs: Sequence[Pair],
            warm: WarmConfig | None = None) -> dict[str, float]:
    """One step of cross-entropy with the optimiser and the step size of the policy gradient."""
    warm = settled(agent, warm)
    data = encoded(agent, pairs)
    tokens = sum(len(reply) for _, reply in data)
    agent.optimizer.zero_grad(set_to_none=True)
    loss = 0
    for part in _parts(data, warm.sft_batch):
        loss += backward(agent, part, warm, tokens)
    return agent.step(agent.optimizer, {"loss": loss})


@torch.no_grad()
def dev_loss(agent: CustomerServiceAgent, pairs: Sequence[Pair],
             warm: WarmConfig | None = None) -> float:
    """Mean cross-entropy per reply token, nats."""
    warm = settled(agent, warm)
    data = sorted(encoded(agent, pairs), key=_length)
    total = 0
    for part in _parts(data, at_once(agent, data, warm)):
        total += float(cross_entropy(agent, part)) * sum(len(reply) for _, reply in part)
    return total / sum(len(reply) for _, reply in data)


def settled(agent: CustomerServiceAgent, warm: WarmConfig | None) -> WarmConfig:
    """The config with the defaults of the agent's model."""
    return (warm or WarmConfig()).settled_for(agent.lm.model)


class Best:
    """The weights with the lowest dev loss so far."""

    def __init__(self, params: Sequence[Tensor]):
        self.params = params
        self.loss = math.inf
        self.kept: list[Tensor] | None = None

    def look(self, loss: float) -> None:
        if loss < self.loss:
            self.loss = loss
            self.kept = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def restore(self) -> None:
        """Into the model; nothing if no dev loss was looked at."""
        if self.kept is None:
            return
        for p, value in zip(self.params, self.kept):
            p.copy_(value)


def _optimizer(agent: CustomerServiceAgent, lr: float, steps: int):
    """AdamW and its schedule: linear warm-up over 5 % of the steps, then a cosine to a tenth."""
    optimizer = torch.optim.AdamW(
        agent.params, lr=lr, weight_decay=0.01, betas=(0.9, 0.95), fused=True
    )
    warm_up = max(1, steps // 20)

    def factor(i: int) -> float:
        done = min(1, i / max(1, steps))
        return min((i + 1) / warm_up, 0.55 + 0.45 * math.cos(math.pi * done))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


# ------------------------------------------------------------------------------ batches
def encoded(agent: CustomerServiceAgent, pairs: Sequence[Pair]) -> list[Encoded]:
    if not pairs:
        raise ValueError(
            "supervised training needs (request, reply) pairs, got none: "
            "does the dataset hold replies?"
        )
    return [(agent.prompt(request), agent.encode(text) + [agent.end]) for request, text in pairs]


def _length(pair: Encoded) -> int:
    prompt, reply = pair
    return len(prompt) + len(reply)


def _parts(data: Sequence[Encoded], size: int) -> list[Sequence[Encoded]]:
    return [data[first:first + size] for first in range(0, len(data), size)]


def batches(data: Sequence[Encoded], size: int, rng: random.Random) -> list[Sequence[Encoded]]:
    """One epoch: batches of similar length, in random order."""
    order = sorted(data, key=lambda pair: _length(pair) // 8 + rng.random())
    parts = _parts(order, size)
    rng.shuffle(parts)
    return parts


def at_once(agent: CustomerServiceAgent, data: Sequence[Encoded], warm: WarmConfig) -> int:
    """How many of these replies go into one supervised pass.

    With gradient checkpointing, which one asks for when memory is short, as few as in the update;
    else as many as `TOKENS` allow."""
    fit = TOKENS // max(map(_length, data))
    if agent.lm.gradient_checkpointing:
        fit = agent.cfg.micro_batch * agent.cfg.group
    return max(1, min(warm.sft_batch, fit))


# ------------------------------------------------------------------------------ the loss
def backward(agent: CustomerServiceAgent, batch: Sequence[Encoded], warm: WarmConfig,
             tokens: int | None = None) -> float:
    """Cross-entropy of a batch, of all processes, and its gradient, of this process's share.

    tokens  of the whole, if the batch is a part of something larger
    """
    if tokens is None:
        tokens = sum(len(reply) for _, reply in batch)
    value = 0.0
    for part in _parts(shard(batch), at_once(agent, batch, warm)):
        share = sum(len(reply) for _, reply in part) / tokens
        loss = cross_entropy(agent, part) * share
        loss.backward()
        value += float(loss.detach())
    return all_sum(value)[0]


def cross_entropy(agent: CustomerServiceAgent, part: Sequence[Encoded]) -> Tensor:
    prompts, replies = zip(*part)
    with agent.autocast(learning=True):
        logits, ids, mask = agent.reply_logits(prompts, range(len(prompts)), replies)
    return F.cross_entropy(logits[mask], ids[mask])
