"""Replies that are being spoken, several to a state, token by token: fast.py without gradient.

    prompts --one pass over all--> keys and values of each state's prompt       `Lanes(...)`
    a token of each lane --step--> logits of the next one

A state's prompt is kept once, for all lanes that answer it, and never copied.
Try it:  python -m experiments.bench --speed        sampling against plain transformers
Exercise: let `keep` drop nothing, and time a group of which one reply is long."""
from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.fast import Stack, look

# S states, G lanes (replies to one state, side by side), P tokens of a prompt, R tokens of a reply
# at most, t tokens said so far, D width of a hidden state, V vocabulary,
# H query heads, K key heads (each serves g = H / K query heads), d width of a head

# Prompts are padded to a multiple: oneDNN compiles a product in bf16 anew for each new shape,
# which takes half a millisecond.
ROUND = 16


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
        lengths = [len(p) - 1 for p in prompts]
        length = torch.tensor(lengths)
        P = max(1, -(-max(lengths) // ROUND)) * ROUND
        self.cos, self.sin = self.stack.angles(P + room)                             # [P + R, d]
        self.prefix: list[tuple[Tensor, Tensor]] = []   # a layer: [S, K, P, d], twice
        self.shared: list[tuple[Tensor, Tensor]] = []   # a layer: [1, K, shared, d], twice
        self._read(prompts, P, shared)
        padding = torch.arange(P) >= length[:, None]
        # Added to what is looked at: -inf where there is no token.       [S, 1, 1, P]
        self.bias = torch.zeros(padding.shape).masked_fill(padding, -inf)[:, None, None]
        self.bias = self.bias.to(self.device)
        self.length = length.to(self.device)                                         # [S]
        shape = (len(prompts), self.stack.K, lanes, room, self.stack.d)
        self.keys = [self._empty(shape) for _ in self.prefix]      # a layer: [S, K, G, R, d]
        self.values = [self._empty(shape) for _ in self.prefix]

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.kept, device=self.device)

    def _read(self, prompts: Sequence[list[int]], P: int, shared: int) -> None:
        """Keys and values of all but the last token of each prompt, padded to P."""
        if shared:
            self._read_on([prompts[0][:shared]], 0, shared)
            self.shared, self.prefix = self.prefix, []
        self._read_on([p[shared:-1] for p in prompts], shared, P - shared)

    def _read_on(self, texts: Sequence[list[int]], first: int, L: int) -> None:
        """One pass over the N tokens of S texts, in a row: layers see no padding.

        first  position of the first token of each
        """
        ids: list[int] = []
        at: list[int] = []
        places: list[int] = []                   # of each token among S L places
        for number, text in enumerate(texts):
            ids += text
            at += range(first, first + len(text))
            places += range(number * L, number * L + len(text))
        self.places = torch.tensor(places, device=self.device)                       # [N]
        self.shape = len(texts), L
        position = torch.tensor(at, device=self.device)
        turn = self.cos[position, None], self.sin[position, None]                    # [N, 1, d]
        self.stack(torch.tensor(ids, device=self.device), turn, self._attend_within)

    def _attend_within(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """q [N, H, d], k and v [N, K, d] -> [N, H d]; the L tokens of a state follow the shared."""
        q, k, v = (self._in_rows(x) for x in (q, k, v))                    # [S, heads, L, d]
        if self.shared:
            k, v = map(_behind, self.shared[number], (k, v))
        self.prefix.append((k.to(self.kept).contiguous(), v.to(self.kept).contiguous()))
        if number == len(self.stack.layers) - 1:
            return None
        v = v.to(k.dtype)
        if self.shared:
            L, P = q.shape[2], k.shape[2]
            seen_by = torch.ones(L, P, dtype=torch.bool, device=self.device).tril(P - L)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_by, enable_gqa=True)
        else:
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return seen.transpose(1, 2).flatten(0, 1)[self.places].flatten(1)

    def _in_rows(self, x: Tensor) -> Tensor:
        """[N, heads, d] -> [S, heads, L, d], padded on the right, where causality keeps it out."""
        S, L = self.shape
        rows = x.new_zeros(S * L, *x.shape[1:]).index_copy(0, self.places, x)
        return rows.unflatten(0, (S, L)).transpose(1, 2)

    def step(self, token: Tensor) -> Tensor:
        """What was said last in each lane, [S G] -> the logits of what comes next, [S G, V]."""
        position = self.length + self.said
        turn = self.cos[position][:, None, None], self.sin[position][:, None, None]  # [S, 1, 1, d]
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


def _behind(shared: Tensor, own: Tensor) -> Tensor:
    """[1, K, C, d] and [S, K, L, d] -> [S, K, C + L, d]."""
    return torch.cat([shared.to(own.dtype).expand(len(own), -1, -1, -1), own], 2)


def _picked(x: Tensor, states: Tensor, lanes: Tensor) -> Tensor:
    """[S, K, G, R, d] -> [S', K, G', R, d], of each state its lanes [S', G']."""
    return x.transpose(1, 2)[states[:, None], lanes].transpose(1, 2).contiguous()
