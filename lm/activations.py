"""Bytes of a model's activations and of its cache, counted on fake tensors: nothing is computed.

Two and three layers of the model run on fake tensors while a dispatch mode adds up what lives.
Bytes are linear in layers and in tokens, so four runs give them all (`Bilinear`).  Attention is
taken to be a fused kernel.  The lanes of lm/lanes.py run as they are, with all their prompts
(`count_lanes`).  Used by lm/memory.py; tests/test_memory.py compares it with the allocator's own
log."""
from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException as Depends
from torch._subclasses.fake_tensor import DynamicOutputShapeException as Dynamic
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from data import DataError
from lm.fast import supports
from lm.lanes import Lanes
from lm.passes import CACHE

# T tokens of the one row that is run
TOKENS = 128


# ------------------------------------------------------------------------------ what is known then
@dataclass(frozen=True)
class Bilinear:
    """c + a layers + (b + d layers) tokens, through four points."""
    c: float
    a: float
    b: float
    d: float

    @classmethod
    def through(cls, at: Callable[[int, int], int], t: int) -> Bilinear:
        """at(layers, tokens), for layers 2 and 3, tokens t and 2 t.

        The first layer alone reads the embeddings: one layer would be no guide."""
        two = (at(2, 2 * t) - at(2, t)) / t                       # bytes per token
        three = (at(3, 2 * t) - at(3, t)) / t
        c2 = at(2, t) - two * t
        c3 = at(3, t) - three * t
        return cls(3 * c2 - 2 * c3, c3 - c2, 3 * two - 2 * three, three - two)

    def __call__(self, layers: int, tokens: float) -> int:
        return round(self.c + self.a * layers + (self.b + self.d * layers) * tokens)


@dataclass(frozen=True)
class Activations:
    """Bytes as functions of layers and tokens."""
    kept: Bilinear            # from forward to backward
    peak: Bilinear            # ... and at the worst moment of the layers' backward
    prefill: Bilinear         # no gradient: a forward over a prompt, its cache included
    decode: Bilinear          # one more token: the whole cache, and one layer's copies of it
    cache: Bilinear           # the cache alone


@dataclass(frozen=True)
class Speaking:
    """Bytes while the lanes of lm/lanes.py speak."""
    prefill: int              # the most while prompts are read
    step: int                 # the most during the last token's pass, its logits included
    held: int                 # from token to token: the cache, and weights multiplied as one
    cache: int                # keys and values of the prompts and of all lanes


@lru_cache(maxsize=32)
def count_activations(kind: type, text: str, rank: int, cast: bool, bf16: bool,
                      checkpointing: bool) -> Activations:
    """Of the model with this config (its class and JSON).

    rank  of its adapter, 0 without
    cast  whether the adapter takes its input to fp32
    """
    config = kind.from_dict(json.loads(text))
    points = {}
    try:
        for layers in (2, 3):
            for tokens in (TOKENS, 2 * TOKENS):
                model = _model(_cut(config, layers), rank, cast, bf16)
                points[layers, tokens] = _count(model, tokens, bf16, checkpointing)
    except (Depends, Dynamic, UnsupportedFakeTensorException, KeyError, AttributeError) as error:
        raise DataError(
            f"--model: what {kind.__name__} computes depends on its input (a mixture of experts?), "
            "or its layers are of a kind that is not followed here: "
            "its memory cannot be told beforehand"
        ) from error
    columns = []
    for i in range(5):
        def at(layers: int, tokens: int, i: int = i) -> int:
            return points[layers, tokens][i]
        columns.append(Bilinear.through(at, TOKENS))
    return Activations(*columns)


@lru_cache(maxsize=64)
def count_lanes(kind: type, text: str, rank: int, cast: bool, bf16: bool, cuda: bool,
                lanes: tuple[int, int, int, int]) -> Speaking | None:
    """Of the model with this config, as in `count_activations`; None: lm/fast.py knows it not.

    cuda   whether it will speak on a GPU, which keeps keys and values in the run's precision
    lanes  (states, lanes to a state, tokens of a prompt, tokens of a reply)
    """
    config = kind.from_dict(json.loads(text))
    kept = torch.bfloat16 if cuda and bf16 else torch.float32
    points = []
    for layers in (2, 3):
        make = _model(_cut(config, layers), rank, cast, bf16)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = make()
            if not supports(model):
                return None
            points.append(_speaking(model, lanes, kept, bf16))
    more = config.num_hidden_layers - 2
    return Speaking(*[two + more * (three - two) for two, three in zip(*points)])


# ------------------------------------------------------------------------------ the count
class _Live(TorchDispatchMode):
    """Bytes of the tensors born in here that are still alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.size: dict[int, int] = {}
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in _storages((args, kwargs)):
            # Older than this mode: not its business.
            self._enter(storage, 0)
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            self._enter(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _enter(self, storage, size: int) -> None:
        key = storage._cdata
        if key not in self.size:
            self.size[key] = size
            self.now += size
            weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self.now -= self.size.pop(key)


def _storages(tree: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _count(model, T: int, bf16: bool, checkpointing: bool) -> tuple[int, ...]:
    """(kept, peak, prefill, decode, cache) of one row of T tokens, in bytes."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = model()
        for p in fake.parameters():
            # Gradients exist already: their bytes are counted elsewhere.
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        return *_learning(fake, T, bf16, checkpointing), *_sampling(fake.base_model, T, bf16)


def _learning(model, T: int, bf16: bool, checkpointing: bool) -> tuple[int, int]:
    if checkpointing:
        model.activation_checkpointing_enable()
    body = model.base_model
    for layer in body.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = checkpointing
    embed = body.get_input_embeddings()
    embedded = embed(torch.zeros(1, T, dtype=torch.long)).detach().requires_grad_()
    mask = torch.ones(1, 1, T, T, dtype=torch.bool) if checkpointing else None
    position = torch.arange(T)[None]
    with _Live() as live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = body(
            inputs_embeds=embedded, attention_mask=mask, position_ids=position, use_cache=False
        ).last_hidden_state                                       # [1, T, D]
        kept = live.now
        out.backward(torch.empty_like(out))
    for layer in body.modules():
        layer.training = False
    return kept, live.peak


@torch.no_grad()
def _sampling(body, T: int, bf16: bool) -> tuple[int, int, int]:
    cache = DynamicCache(config=body.config)
    ids = torch.zeros(1, T, dtype=torch.long)
    position = torch.arange(T + 1)[None]
    mask = torch.ones(1, 1, 1, T + 1, dtype=torch.bool)
    looks = {CACHE: cache, "use_cache": True}
    with _Live() as live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        body(input_ids=ids, position_ids=position[:, :T], **looks)
        prefill = live.peak
        live.peak = 0
        kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        body(input_ids=ids[:, :1], attention_mask=mask, position_ids=position[:, T:], **looks)
    return prefill, live.peak, kept


@torch.no_grad()
def _speaking(model, lanes: tuple[int, int, int, int], kept: torch.dtype,
              bf16: bool) -> tuple[int, ...]:
    """The fields of `Speaking`, with all the tokens there can be."""
    S, G, P, R = lanes
    with _Live() as live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        spoken = Lanes(model, [[0] * P] * S, G, R, kept)
        prefill = live.peak
        live.peak = 0
        spoken.said = R - 1
        spoken.step(torch.zeros(S * G, dtype=torch.long))
        # What the step has brought and leaves: weights in the run's precision.
        held = live.now
    both = [*spoken.keys, *spoken.values]
    for pair in spoken.prefix:
        both += pair
    return prefill, live.peak, held, sum(x.nbytes for x in both)


# ------------------------------------------------------------------------------ the model
def _cut(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    ALL_ATTENTION_FUNCTIONS.register("counted", _attention)
    config = copy.deepcopy(config)
    config._attn_implementation = "counted"
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = (text.layer_types * layers)[:layers]
    return config


def _model(config: PretrainedConfig, rank: int, cast: bool, bf16: bool) -> Callable[[], Any]:
    """How to make the model, to be called where tensors are fake."""
    def make():
        dtype = torch.bfloat16 if rank and bf16 else torch.float32
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        if rank:
            model.requires_grad_(False)
            _adapt(model, rank, cast)
        return model
    return make


def _adapt(model, rank: int, cast: bool) -> None:
    head = model.get_output_embeddings()
    body = model.base_model
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            body.set_submodule(name, _Lora(module, rank, cast))


class _Lora(nn.Module):
    """The arithmetic of peft's LoRA layer around a frozen matrix.

    cast  it takes its input to fp32, which it does not on 4 bits in CUDA's autocast
    """

    def __init__(self, base: nn.Linear, rank: int, cast: bool):
        super().__init__()
        self.base = base
        self.cast = cast
        self.a = nn.Parameter(torch.empty(rank, base.in_features, dtype=torch.float32))
        self.b = nn.Parameter(torch.empty(base.out_features, rank, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x).clone()
        read = x.float() if self.cast else x
        return y + (F.linear(F.linear(read, self.a), self.b) * 2.0).to(y.dtype)


class _Fused(torch.autograd.Function):
    """What a fused attention kernel makes and keeps, not what it computes.

    [B, H, T, D] in and out, and a log-sum-exp a query."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        log_sum_exp = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, log_sum_exp)
        return out

    @staticmethod
    def backward(ctx, _):
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _attention(module, q, k, v, mask, **_):
    times = 1
    if mask is not None and q.shape[2] > 1:
        # Then transformers repeats keys and values for every head.
        times = q.shape[1] // k.shape[1]
    out = _Fused.apply(q, repeat_kv(k, times), repeat_kv(v, times))
    return out.transpose(1, 2).contiguous(), None
