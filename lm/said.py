"""Replies that are known, read at once with gradient: what the update and supervised steps need.

    prompts --one pass--> keys and values of each state's prompt --> logits where the agent spoke

The pass is that of fast.py, and so are the models that it knows.  Products run over one list of
all tokens, so that no padding is multiplied; for attention the rows are laid side by side.  A
state's prompt is read once for all its replies.  Knows tokens alone: no rule, no reward.
Try it:  python -m experiments.bench --speed        an update against a plain padded one
Exercise: give `own` no mask, so that a token sees the next one, and watch the supervised loss."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.fast import Stack, look

# S states, G replies to a state at most, P tokens of the longest prompt, L of the longest reply,
# M tokens of all prompts, N of all replies, D width of a hidden state, V vocabulary,
# H query heads, K key heads, g = H / K, d width of a head


def in_a_list(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The numbers of all rows, one after the other.

    >>> in_a_list([[5, 6], [], [7]], torch.device("cpu")).tolist()
    [5, 6, 7]
    """
    return torch.tensor(list(chain.from_iterable(rows)), dtype=torch.long, device=device)


class Ragged:
    """Rows of different lengths: their tokens in one list, or side by side, T to a row."""

    def __init__(self, row: Sequence[int], length: Sequence[int], rows: int,
                 device: torch.device):
        """
        row, length  of what is in the list, in its order: its row, and its tokens
        rows         how many there are; those that nothing names are empty
        """
        self.rows = rows
        self.T = max(1, *length)
        at = [range(r * self.T, r * self.T + n) for r, n in zip(row, length)]
        self.at = in_a_list(at, device)
        self.number = self.at % self.T                       # of a token in its row
        self.row = self.at // self.T

    def spread(self, x: Tensor) -> Tensor:
        """[tokens, ..] -> [rows, T, ..], zeros where there is none."""
        every = x.new_zeros(self.rows * self.T, *x.shape[1:])
        return every.index_copy(0, self.at, x).unflatten(0, (self.rows, self.T))

    def listed(self, x: Tensor) -> Tensor:
        """[rows, T, ..] -> [tokens, ..]."""
        return x.flatten(0, 1).index_select(0, self.at)


class Prompts:
    """Keys and values of all but the last token of each prompt, differentiable."""

    def __init__(self, stack: Stack, prompts: Sequence[list[int]], room: int):
        """room: tokens of the longest reply."""
        device = stack.body.norm.weight.device
        lengths = [len(p) - 1 for p in prompts]
        self.stack = stack
        self.length = torch.tensor(lengths, device=device)                           # [S]
        self.ragged = Ragged(range(len(prompts)), lengths, len(prompts), device)
        self.cos, self.sin = stack.angles(self.ragged.T + room)                      # [P + L, d]
        there = torch.arange(self.ragged.T, device=device) < self.length[:, None]
        # Added to what is looked at: -inf where there is no token.           [S, 1, 1, P]
        self.bias = torch.zeros(there.shape, device=device).masked_fill(~there, -inf)
        self.bias = self.bias[:, None, None]
        # A layer: [S, K, P, d], twice.
        self.layers: list[tuple[Tensor, Tensor]] = []
        ids = in_a_list([p[:-1] for p in prompts], device)                           # [M]
        stack(ids, self.turn(self.ragged.number), self._attend)

    def turn(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """The angles of these positions [..], two of [.., 1, d]."""
        return self.cos[position][..., None, :], self.sin[position][..., None, :]

    def _attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """q [M, H, d], k and v [M, K, d] -> [M, H d]; in the last layer nothing reads on."""
        k, v = (self.ragged.spread(x).transpose(1, 2) for x in (k, v.to(k.dtype)))
        self.layers.append((k, v))
        if number == len(self.stack.layers) - 1:
            return None
        # Padding is on the right, where causality keeps it out.
        q = self.ragged.spread(q).transpose(1, 2)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.ragged.listed(seen.transpose(1, 2)).flatten(1)


class Said:
    """Rows of replies, G to each of S states; row s G + j is the j-th reply to state s."""

    def __init__(self, read: Prompts, owner: Sequence[int], lengths: Sequence[int]):
        """owner: the prompt that each reply answers."""
        self.read = read
        self.S = len(read.length)
        count = [0] * self.S
        place = []
        for state in owner:
            place.append(count[state])
            count[state] += 1
        self.G = max(count)
        rows = [state * self.G + j for state, j in zip(owner, place)]
        device = read.length.device
        self.ragged = Ragged(rows, lengths, self.S * self.G, device)
        L = self.ragged.T
        later = torch.ones(L, L, dtype=torch.bool, device=device).triu(1)
        self.later = torch.zeros(L, L, device=device).masked_fill(later, -inf)
        prompt = read.length[self.ragged.row // self.G]
        self.turn = read.turn(prompt + self.ragged.number)                           # [N, 1, d]

    def attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [N, H, d], k and v [N, K, d] -> [N, H d]."""
        K = k.shape[-2]
        q = self._by_state(q.unflatten(-2, (K, -1))).transpose(3, 4)       # [S, K, G, g, L, d]
        k, v = self._by_state(k), self._by_state(v.to(k.dtype))            # [S, K, G, L, d]
        seen = look(q, self.read.layers[number], (k, v), self.read.bias, self.later)
        rows = seen.permute(0, 2, 4, 1, 3, 5).flatten(0, 1)                # [S G, L, K, g, d]
        return self.ragged.listed(rows).flatten(1)

    def _by_state(self, x: Tensor) -> Tensor:
        """[N, K, ..] -> [S, K, G, L, ..]."""
        rows = self.ragged.spread(x).unflatten(0, (self.S, self.G))        # [S, G, L, K, ..]
        return rows.movedim(3, 1)


def said_states(model, prompts: Sequence[list[int]], owner: Sequence[int],
                replies: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Logits [B, L, V] and hidden states [B, L, D] that each token of B replies was drawn from.

    owner  the prompt that each reply answers
    """
    stack = Stack(model)
    lengths = list(map(len, replies))
    read = Prompts(stack, prompts, max(lengths))
    said = Said(read, owner, lengths)
    # A prompt's last token opens the reply; a reply's own last is never read.
    fed = []
    for state, reply in zip(owner, replies):
        fed.append([prompts[state][-1], *reply][:len(reply)])
    device = read.length.device
    hidden = stack.normed(stack(in_a_list(fed, device), said.turn, said.attend))     # [N, D]
    one_a_row = Ragged(range(len(replies)), lengths, len(replies), device)
    return one_a_row.spread(stack.head(hidden)), one_a_row.spread(hidden)
