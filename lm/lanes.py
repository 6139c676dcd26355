"""Replies that are being spoken, several to a state, token by token: fast.py without gradient.

    prompts --one pass over all--> keys and values of each state's prompt       `Lanes(...)`
    a token of each lane --step--> logits of the next one

A state's prompt is kept once, for all lanes that answer it, and never copied.
Try it:  python -m experiments.bench --speed        sampling against plain transformers
Exercise: let `keep` drop nothing, and time a group of which one reply is long."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lm.fast import Stack, look
from lm.said import Prompts

# S states, G lanes (replies to one state, side by side), P tokens of a prompt, R tokens of a reply
# at most, t tokens said so far, D width of a hidden state, V vocabulary,
# H query heads, K key heads (each serves g = H / K query heads), d width of a head


def best_kept(device: str, weights: torch.dtype) -> torch.dtype:
    """How lanes keep keys and values: on a CPU in fp32, whose products need no compilation."""
    if device == "cpu":
        return torch.float32
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weights


class Lanes:
    """Replies that are being spoken, G to each of S states; row s G + j is lane j of state s."""

    def __init__(self, model, prompts: Sequence[list[int]], lanes: int, room: int,
                 kept: torch.dtype | None = None, shared: int = 0):
        """
        room    tokens of the longest reply
        kept    how keys and values are kept; default: as is best on the model's device
        shared  tokens that all prompts begin with and that are to be read only once; each prompt
                has at least two more
        """
        self.stack = Stack(model)
        self.device = self.stack.body.norm.weight.device
        self.kept = kept or best_kept(self.device.type, self.stack.body.dtype)
        self.G = lanes
        self.said = 0
        self.read = Prompts(self.stack, prompts, room, self.kept, shared)
        self.prefix = self.read.layers                   # a layer: [S, K, P, d], twice
        self.bias = self.read.bias                       # [S, 1, 1, P]
        self.length = self.read.length                                               # [S]
        shape = (len(prompts), self.stack.K, lanes, room, self.stack.d)
        self.keys = [self._empty(shape) for _ in self.prefix]      # a layer: [S, K, G, R, d]
        self.values = [self._empty(shape) for _ in self.prefix]

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.kept, device=self.device)

    def step(self, token: Tensor) -> Tensor:
        """What was said last in each lane, [S G] -> the logits of what comes next, [S G, V]."""
        turn = self.read.turn(self.length[:, None] + self.said)                      # [S, 1, 1, d]
        x = self.stack(token.view(-1, self.G), turn, self._attend)                   # [S, G, D]
        self.said += 1
        return self.stack.head(self.stack.normed(x.flatten(0, 1)))

    def _attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [S, G, H, d], k and v [S, G, K, d] -> [S, G, H d]."""
        t = self.said + 1
        self.keys[number][:, :, :, self.said] = k.transpose(1, 2)
        self.values[number][:, :, :, self.said] = v.transpose(1, 2)
        keys = self.keys[number][:, :, :, :t]                              # [S, K, G, t, d]
        values = self.values[number][:, :, :, :t]
        S, K, G, _, d = keys.shape
        q = q.view(S, G, K, -1, 1, d).transpose(1, 2).to(keys.dtype)       # [S, K, G, g, 1, d]
        with torch.autocast(self.device.type, enabled=False):
            seen = look(q, self.prefix[number], (keys, values), self.bias)
        return seen.transpose(1, 2).reshape(S, G, -1)

    def keep(self, live: Sequence[int]) -> list[int]:
        """Drops lanes; returns the rows that are left, in their new order.

        live  rows that must stay: every state keeps as many lanes as the fullest needs, and a
              state without any goes.  Nothing is dropped that would leave more than half.
        """
        wanted: dict[int, list[int]] = {}
        for row in live:
            wanted.setdefault(row // self.G, []).append(row % self.G)
        most = max(map(len, wanted.values()))
        now = len(self.length) * self.G
        if 4 * most * len(wanted) >= 3 * now:
            return list(range(now))
        rows = []
        for state, lanes in wanted.items():
            spare = [lane for lane in range(self.G) if lane not in lanes]
            rows += [state * self.G + lane for lane in (lanes + spare)[:most]]
        states = torch.tensor(list(wanted), device=self.device)                      # [S']
        at = torch.tensor(rows, device=self.device).view(-1, most) % self.G          # [S', G']
        # A layer after the other, so that old and new lie side by side for one at a time.
        for number, (k, v) in enumerate(self.prefix):
            if len(wanted) < len(self.length):
                self.prefix[number] = k[states], v[states]
            self.keys[number] = _picked(self.keys[number], states, at)
            self.values[number] = _picked(self.values[number], states, at)
        self.bias = self.bias[states]
        self.length = self.length[states]
        self.G = most
        return rows


def _picked(x: Tensor, states: Tensor, lanes: Tensor) -> Tensor:
    """[S, K, G, R, d] -> [S', K, G', R, d], of each state its lanes [S', G']."""
    return x.transpose(1, 2)[states[:, None], lanes].transpose(1, 2).contiguous()
