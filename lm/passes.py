"""The forward passes of a causal LM over prompts and the replies to them, differentiable.

Replies to one state share its prompt, and what all prompts of a batch begin with is read once.
Models of a known kind speak by lanes.py; those built here are read by said.py as well.
Logits exist only where the agent speaks: the prompt has none.  With gradient checkpointing a state
and its replies are packed in one row, for checkpointing does not go with a cache. Knows tokens
alone: no request, no rule, no reward.
Try it:  python -m experiments.bench --speed        sampling and update against plain transformers
Exercise: set SHARED to 10 ** 6 and time an update of a single agent, whose prompts begin alike."""
from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, Qwen3ForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from lm.config import BUILT, LMConfig
from lm.fast import supports
from lm.lanes import Lanes
from lm.said import said_states

# B replies, G replies a state, L tokens of a reply, S states, P tokens of a prompt,
# T tokens of a packed row, V vocabulary, D width of a hidden state

# Tokens that all prompts begin with, from which on they are read only once.
SHARED = 16
# What a model's `forward` calls its cache: transformers renamed it, and will drop the old name.
_NEW_NAME = "cache" in inspect.signature(Qwen3ForCausalLM.forward).parameters
CACHE = "cache" if _NEW_NAME else "past_key_values"


class ReplyStates(NamedTuple):
    """What a forward pass says of replies, at the positions that their tokens were drawn from."""
    logits: Tensor          # [B, L, V]
    hidden: Tensor          # [B, L, D] the last one, behind the final norm: a value head reads it
    ids: Tensor             # [B, L] the replies' tokens
    mask: Tensor            # [B, L] True where there is one


def shared_start(prompts: Sequence[list[int]]) -> int:
    """How many tokens all of them begin with: as many as the first and the last in order.

    >>> shared_start([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    2
    """
    first = min(prompts)
    last = max(prompts)
    for i, (x, y) in enumerate(zip(first, last)):
        if x != y:
            return i
    return min(len(first), len(last))


def padded(rows: Sequence[list[int]]) -> Tensor:
    """[N, longest] the rows, with zeros on their right.

    >>> padded([[1, 2], [3]]).tolist()
    [[1, 2], [3, 0]]
    """
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.long)


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """The cache of these rows, of which many may be the same.

    Not by `[rows]`, as transformers does: the gradient of that is added up by several threads at
    once, in the order in which they come, and two runs of one command would differ in a last bit.
    """
    for layer in cache.layers:
        if layer.get_seq_length() > 0:
            layer.keys = layer.keys.index_select(0, rows)
            layer.values = layer.values.index_select(0, rows)


class Passes:
    """A model on a device, in a precision."""

    def __init__(self, model, lm: LMConfig, device: str | torch.device, precision: str):
        quantised = getattr(model, "is_quantized", False)
        self.model = (model if quantised else model.to(device)).eval()
        self.lm = lm
        self.device = torch.device(device)
        self.precision = precision
        if lm.gradient_checkpointing:
            # The kind that is not reentrant.
            model.activation_checkpointing_enable()

    @contextlib.contextmanager
    def autocast(self, learning: bool = False) -> Iterator[None]:
        """The run's precision; in bf16 on a CPU, learning takes torch's plain attention.

        The fused kernel is slow backwards there: a supervised step takes 1.1 times as long with
        prompts of 230 tokens, 1.5 times with 54.  Plain attention sums in fp32 unless it is allowed
        not to, which costs 1.7 times at 230.  With checkpointing the second forward would choose
        another kernel.
        """
        with contextlib.ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
                on_cpu = self.device.type == "cpu"
                if learning and on_cpu and not self.lm.gradient_checkpointing:
                    # Of every device, whatever the function's name says.
                    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    @contextlib.contextmanager
    def few_threads(self) -> Iterator[None]:
        """One thread for sampling from a model that is built here, on a CPU.

        A token's products are so small that a second thread costs more than it brings: with two,
        sampling took 1.0 to 1.7 times as long on idle machines; on a busy one far more."""
        threads = torch.get_num_threads()
        if self.device.type == "cpu" and self.lm.model in BUILT:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def read(self, cache: DynamicCache, **inputs):
        """One forward pass that looks into the cache and adds to it."""
        return self.model(**inputs, **{CACHE: cache}, use_cache=True)

    # ---------------------------------------------------------------------- prompts
    def prefill(self, prompts: Sequence[list[int]], owner: Tensor, room: int):
        """Reads all but the last token of each prompt once, for all rows that answer it.

        owner    [B] state of each row
        room     tokens that will follow
        returns  the cache of B rows (differentiable), attend [B, P + room] (True: may be looked
                 at), and the position of the prompt's last token [B]

        Prompts are padded on the right: causality alone keeps the padding out here, and `attend`
        keeps it out afterwards.
        """
        length = torch.tensor([len(p) - 1 for p in prompts])
        width = int(length.max())
        cache = DynamicCache(config=self.model.config)
        shared = self._read_shared(prompts, int(length.min()) - 1, cache)
        rest = padded([p[shared:-1] for p in prompts])
        self.read(cache, input_ids=rest.to(self.device), logits_to_keep=1)
        select_rows(cache, owner.to(self.device))
        last = length[owner]
        in_prompt = torch.arange(width) < last[:, None]
        behind = torch.ones(len(owner), room, dtype=torch.bool)
        attend = torch.cat([in_prompt, behind], 1)
        return cache, attend.to(self.device), last.to(self.device)

    def _read_shared(self, prompts: Sequence[list[int]], most: int, cache: DynamicCache) -> int:
        """Reads once what all prompts begin with, and says how many tokens that was."""
        shared = min(shared_start(prompts), most)
        if len(prompts) == 1 or shared < SHARED:
            return 0
        ids = torch.tensor([prompts[0][:shared]], device=self.device)
        self.read(cache, input_ids=ids, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
        return shared

    def lanes(self, prompts: Sequence[list[int]], group: int, room: int) -> Lanes | CachedLanes:
        """`group` replies to each prompt, to be spoken token by token, each of `room` at most."""
        if supports(self.model):
            return Lanes(self.model, prompts, group, room, shared=self._worth_sharing(prompts))
        return CachedLanes(self, prompts, group, room)

    def _worth_sharing(self, prompts: Sequence[list[int]]) -> int:
        """Tokens that lanes read once for all prompts; of a model built here, none.

        Its prompts share little, and how they are read may not change what old runs have drawn."""
        if self.lm.model in BUILT or len(prompts) == 1:
            return 0
        shared = min(shared_start(prompts), min(map(len, prompts)) - 2)
        return shared if shared >= SHARED else 0

    # ---------------------------------------------------------------------- replies
    def reply_logits(self, prompts: Sequence[list[int]], owner: Sequence[int],
                     ids: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """`reply_states` without the hidden states: logits [B, L, V], ids and mask [B, L]."""
        logits, _, ids, mask = self.reply_states(prompts, owner, ids)
        return logits, ids, mask

    def reply_states(self, prompts: Sequence[list[int]], owner: Sequence[int],
                     ids: Sequence[list[int]]) -> ReplyStates:
        """One forward pass over replies that are known.

        prompts  [S] token ids of each state
        owner    [B] which of them each reply answers
        ids      [B] token ids of each reply
        """
        if self.lm.gradient_checkpointing:
            return self.packed_states(prompts, owner, ids)
        reply, mask, fed = _reply_rows(prompts, owner, ids)
        if self._read_by_our_layers(prompts, ids):
            logits, hidden = said_states(self.model, prompts, owner, ids)
        else:
            logits, hidden = self._cached_states(prompts, owner, fed)
        return ReplyStates(
            logits.float(), hidden.float(), reply.to(self.device), mask.to(self.device)
        )

    def _read_by_our_layers(self, prompts: Sequence[list[int]], ids: Sequence[list[int]]) -> bool:
        """Whether said.py is to read these replies.

        Not for models that were loaded: lm/memory.py counts their own pass.  Nor where more than
        half of all tokens would be a start that the prompts share, which the other reads once."""
        if self.lm.model not in BUILT or not supports(self.model):
            return False
        again = shared_start(prompts) * (len(prompts) - 1)
        return 2 * again <= sum(map(len, prompts)) + sum(map(len, ids))

    def _cached_states(self, prompts: Sequence[list[int]], owner: Sequence[int],
                       fed: Tensor) -> tuple[Tensor, Tensor]:
        """What `said_states` does, by the model's own forward pass and cache: for every model."""
        L = fed.shape[1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lm.prompt_gradient):
            cache, attend, last = self.prefill(prompts, torch.tensor(owner), L)
        look = attend[:, None, None].repeat(1, 1, L, 1)                    # [B, 1, L, P + L]
        look[..., -L:] = torch.ones(L, L, dtype=torch.bool, device=self.device).tril()
        position = last[:, None] + torch.arange(L, device=self.device)
        return self._forward(
            input_ids=fed.to(self.device), attention_mask=look, position_ids=position,
            use_cache=True, **{CACHE: cache},
        )

    def packed_states(self, prompts: Sequence[list[int]], owner: Sequence[int],
                      ids: Sequence[list[int]]) -> ReplyStates:
        """The same as `reply_states` without a cache, for gradient checkpointing.

        One row a state: its prompt, then a block for each reply, which sees the prompt and itself.
        Without checkpointing it is slower, by 10 to 30 % on a CPU.
        """
        reply, mask, fed = _reply_rows(prompts, owner, ids)
        S, G, L = len(prompts), max(Counter(owner).values()), reply.shape[1]
        state = torch.tensor(owner)
        # [B] how many replies to the same state come before
        block = torch.tensor([list(owner[:i]).count(o) for i, o in enumerate(owner)])
        blocks = torch.zeros(S, G, L, dtype=torch.long)
        blocks[state, block] = fed
        before = padded([p[:-1] for p in prompts])                         # [S, P]
        rows = torch.cat([before, blocks.view(S, -1)], 1)                  # [S, T], T = P + G L
        length = torch.tensor([len(p) - 1 for p in prompts])
        look, position = _packed_view(length, G, L)
        with self._checkpointing():
            seen = self._forward(
                input_ids=rows.to(self.device), attention_mask=look[:, None].to(self.device),
                position_ids=position.to(self.device), use_cache=False, logits_to_keep=G * L,
            )
        logits, hidden = (x.view(S, G, L, -1)[state, block].float() for x in seen)
        return ReplyStates(logits, hidden, reply.to(self.device), mask.to(self.device))

    def _forward(self, **inputs) -> tuple[Tensor, Tensor]:
        """The model's logits, and what its output layer made them from, at the same positions."""
        read: list[Tensor] = []
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            return self.model(**inputs).logits, read[0]
        finally:
            hook.remove()

    @contextlib.contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """transformers checkpoints a layer in training mode only.

        Nothing else may be in that mode, for dropout would change log pi."""
        modules = self.model.modules()
        layers = [m for m in modules if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False


class CachedLanes:
    """What `Lanes` of lanes.py does, by the model's own forward pass and cache: for every model."""

    def __init__(self, passes: Passes, prompts: Sequence[list[int]], lanes: int, room: int):
        self.passes = passes
        owner = torch.arange(len(prompts)).repeat_interleave(lanes)
        self.cache, self.attend, self.position = passes.prefill(prompts, owner, room)
        # Tokens that may be looked at: those of a prompt, then those that were said.
        self.seen = self.attend.shape[1] - room

    def step(self, token: Tensor) -> Tensor:
        """What was said last in each lane, [B] -> the logits of what comes next, [B, V]."""
        self.seen += 1
        # A mask that is 4-D already: transformers would build one at each step.
        out = self.passes.read(
            self.cache, input_ids=token[:, None], position_ids=self.position[:, None],
            attention_mask=self.attend[:, None, None, :self.seen],
        )
        self.position = self.position + 1
        return out.logits[:, -1]

    def keep(self, live: Sequence[int]) -> list[int]:
        """Drops the lanes that are not live."""
        rows = torch.tensor(live, device=self.passes.device)
        self.cache.batch_select_indices(rows)
        self.attend = self.attend[rows]
        self.position = self.position[rows]
        return list(live)


def _reply_rows(prompts: Sequence[list[int]], owner: Sequence[int],
                ids: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """The replies' ids, their mask, and what is fed, three of [B, L].

    Fed are the prompt's last token, then the reply without its own last."""
    reply = padded(ids)
    length = torch.tensor([len(s) for s in ids])
    mask = torch.arange(reply.shape[1]) < length[:, None]
    opening = torch.tensor([[prompts[o][-1]] for o in owner])
    return reply, mask, torch.cat([opening, reply[:, :-1]], 1)


def _packed_view(length: Tensor, G: int, L: int) -> tuple[Tensor, Tensor]:
    """What each token of a packed row may look at [S, T, T], and its position [S, T].

    length  [S] of each prompt without its last token, which opens every block"""
    S, P = len(length), int(length.max())
    lower = [torch.ones(n, n).tril() for n in (P, *[L] * G)]
    look = torch.block_diag(*lower).bool().repeat(S, 1, 1)
    look[:, P:, :P] = (torch.arange(P) < length[:, None])[:, None]
    in_block = (length[:, None] + torch.arange(L)).repeat(1, G)
    return look, torch.cat([torch.arange(P).expand(S, P), in_block], 1)
