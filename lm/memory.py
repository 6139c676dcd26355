"""How much memory a training run needs, before it begins, from the model's config alone: no weights are read and none are made.

    bytes = weights + adapter + optimiser + gradients + activations + KV cache + logits + other        one column a phase; the largest must fit

Parameters are counted on a model of the meta device, so any architecture works.  Activations are counted as well, not guessed: two and
three layers of the model run on fake tensors while a dispatch mode adds up what lives; bytes are linear in layers and in tokens, so four
runs give the rest.  Bytes of logits are counted from decoder.py and csagent.py; test_memory.py holds all of it against what real runs allocate.
Stated, not measured: CONTEXT of CUDA and its libraries, FRAGMENTATION of the allocator.  Attention is taken to be a fused kernel.
Try it:  python memory.py --model Qwen/Qwen3-8B                    the table against what is free here, and which flags to lower
         python memory.py --model Qwen/Qwen3-14B --card 16         ... against a card of 16 GiB
         python memory.py --fits                                   what fits on 8, 12, 16 and 24 GiB"""
from __future__ import annotations

import copy
import json
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException as Depends
from torch._subclasses.fake_tensor import DynamicOutputShapeException as Dynamic
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, HfArgumentParser, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from data import DataError, opt
from lm.models import reason, refuse_unsuited

GIB = 2 ** 30
CONTEXT = GIB // 2                # CUDA's context and its libraries' workspaces [a common figure, not measured here]
FRAGMENTATION = 0.10              # of what comes and goes (activations, KV cache, logits): lost between blocks of the allocator [assumed]
# bytes per logit [rows x tokens x V], all copies alive at once at the worst moment; counted in decoder.py and csagent.py, measured in test_memory.py
UPDATE = 30                       # `update`: scaled, banned, 9d's log p, p and p log p, 9b's log p, their masks, and in `backward` their gradients
HELD = 4                          # ... and while the layers' gradients are computed: `logits`, still in scope
WARM = 12                         # `supervised`: log-softmax and its gradient
DRAW = 16                         # `_decode`: one position a row; the model's, fp32, exp, bans

SHAPES: dict[str, Callable[[], PretrainedConfig]] = {            # published dimensions, for use without a network
    "qwen3-14b": lambda: Qwen3Config(vocab_size=151936, hidden_size=5120, intermediate_size=17408, num_hidden_layers=40, num_attention_heads=40,
                                     num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
    "qwen3-8b": lambda: Qwen3Config(vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
                                    num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
    "llama-3.1-8b": lambda: LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                                        num_key_value_heads=8, tie_word_embeddings=False),
    "qwen2.5-7b": lambda: Qwen2Config(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                                      num_key_value_heads=4, tie_word_embeddings=False)}


def load_config(name: str) -> PretrainedConfig:
    """The config of a folder, of a model built in here (SHAPES; a hub id's last part counts), or of the hub."""
    built_in = SHAPES.get(name.rsplit("/", 1)[-1].lower().removesuffix("-instruct"))
    if built_in and not Path(name).exists():
        return built_in()
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise DataError(f"--model {name}: {reason(str(error))}; memory.py knows {', '.join(SHAPES)} without a network") from error
    refuse_unsuited(name, config)
    return config


# ---------------------------------------------------------------------------------------------------- what stays: weights, adapter
@dataclass(frozen=True)
class Weights:
    stored: int                                                                      # bytes of parameters, quantisation constants and buffers
    learned: int                                                                     # parameters that the optimiser moves
    tensors: int                                                                     # ... in how many tensors
    largest: int                                                                     # elements of the largest matrix in 4 bits
    head: int                                                                        # elements of the head
    vocabulary: int
    layers: int
    repeat: int                                                                      # attention heads to one of keys and values


def nf4_bytes(elements: int) -> int:
    """A matrix in NF4 with double quantisation (Dettmers et al. 2023), as bitsandbytes stores it: 4.127 bits a weight and a few constants.

    >>> nf4_bytes(4096 * 4096) / (4096 * 4096) * 8                  # 4 bits + 8/64 + 32/(64 * 256), and 1092 bytes of codes and offset
    4.127473831176758
    """
    blocks = -(-elements // 64)
    return -(-elements // 2) + blocks + 4 * -(-blocks // 256) + 4 + 4 * 16 + 4 * 256         # weights, scales, scales' scales, offset, two code books


@lru_cache(maxsize=32)
def _weights(kind: type, text: str, rank: int, quantised: bool, width: int) -> Weights:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(kind.from_dict(json.loads(text)))
    except ValueError as error:
        raise DataError(f"--model: {kind.__name__} is no causal language model that transformers knows ({' '.join(str(error).split())[:120]})") from error
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    if not linears:
        raise DataError(f"--model: {kind.__name__} has no linear layers that 4 bits or LoRA would find; take e.g. Qwen/Qwen3-8B")
    packed = {id(m.weight) for m in linears} if quantised else set()
    stored = sum(nf4_bytes(p.numel()) if id(p) in packed else p.numel() * width for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    learned = [n for m in linears for n in (rank * m.in_features, rank * m.out_features)] if rank else [p.numel() for p in model.parameters()]
    shape = model.config.get_text_config()
    heads = shape.num_attention_heads
    return Weights(stored, sum(learned), len(learned), max(m.weight.numel() for m in linears) if quantised else 0, head.weight.numel(),
                   head.weight.shape[0], shape.num_hidden_layers, heads // (getattr(shape, "num_key_value_heads", None) or heads))


# ---------------------------------------------------------------------------------------------------- what comes and goes: counted on fake tensors
class _Live(TorchDispatchMode):
    """Bytes of the tensors born in here that are still alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.size, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in _storages((args, kwargs)):
            self._enter(storage, 0)                                                  # older than this mode: not its business
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            self._enter(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _enter(self, storage, size: int) -> None:
        if storage._cdata not in self.size:
            self.size[storage._cdata], self.now = size, self.now + size
            weakref.finalize(storage, self._leave, storage._cdata)

    def _leave(self, key: int) -> None:
        self.now -= self.size.pop(key)


def _storages(tree) -> Iterator[Any]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


class _Fused(torch.autograd.Function):
    """What a fused attention kernel makes and keeps, not what it computes: [B, H, T, D] in and out, and a log-sum-exp a query."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, _):
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _attention(module, q, k, v, mask, **_):
    times = q.shape[1] // k.shape[1] if mask is not None and q.shape[2] > 1 else 1   # then transformers repeats keys and values for every head
    return _Fused.apply(q, repeat_kv(k, times), repeat_kv(v, times)).transpose(1, 2).contiguous(), None


class _Lora(nn.Module):
    """The arithmetic of peft's LoRA layer around a frozen matrix; `cast`: it takes its input to fp32, which it does not on 4 bits in CUDA's autocast."""

    def __init__(self, base: nn.Linear, rank: int, cast: bool):
        super().__init__()
        self.base, self.cast = base, cast
        self.a, self.b = (nn.Parameter(torch.empty(*shape, dtype=torch.float32)) for shape in ((rank, base.in_features), (base.out_features, rank)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x).clone()
        return y + (F.linear(F.linear(x.float() if self.cast else x, self.a), self.b) * 2.0).to(y.dtype)


@dataclass(frozen=True)
class Bilinear:
    """c + a layers + (b + d layers) tokens, through four points."""
    c: float
    a: float
    b: float
    d: float

    @classmethod
    def through(cls, at: Callable[[int, int], int], t: int) -> Bilinear:
        """at(layers, tokens), for layers 2 and 3 (the first alone reads the embeddings), tokens t and 2 t."""
        two, three = ((at(n, 2 * t) - at(n, t)) / t for n in (2, 3))                 # bytes per token
        c2, c3 = at(2, t) - two * t, at(3, t) - three * t
        return cls(3 * c2 - 2 * c3, c3 - c2, 3 * two - 2 * three, three - two)

    def __call__(self, layers: int, tokens: float) -> int:
        return round(self.c + self.a * layers + (self.b + self.d * layers) * tokens)


@dataclass(frozen=True)
class Activations:
    """Bytes as functions of layers and tokens."""
    kept: Bilinear                                                                   # from forward to backward
    peak: Bilinear                                                                   # ... and at the worst moment of the layers' backward
    prefill: Bilinear                                                                # no gradient: a forward over a prompt, its cache included
    decode: Bilinear                                                                 # one more token: the whole cache, and one layer's copies of it
    cache: Bilinear                                                                  # the cache alone


@lru_cache(maxsize=32)
def _activations(kind: type, text: str, rank: int, cast: bool, bf16: bool, checkpointing: bool) -> Activations:
    ALL_ATTENTION_FUNCTIONS.register("counted", _attention)
    config, points, t = kind.from_dict(json.loads(text)), {}, 128
    try:
        for layers in (2, 3):
            for tokens in (t, 2 * t):
                points[layers, tokens] = _count(_cut(config, layers), tokens, rank, cast, bf16, checkpointing)
    except (Depends, Dynamic, UnsupportedFakeTensorException, KeyError, AttributeError) as error:
        raise DataError(f"--model: what {kind.__name__} computes depends on its input (a mixture of experts?), or its layers are of a kind that "
                        "is not followed here: its memory cannot be told beforehand") from error
    return Activations(*(Bilinear.through(lambda n, m, i=i: points[n, m][i], t) for i in range(5)))


def _cut(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    config = copy.deepcopy(config)
    config._attn_implementation = "counted"
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = (text.layer_types * layers)[:layers]
    return config


def _count(config: PretrainedConfig, T: int, rank: int, cast: bool, bf16: bool, checkpointing: bool) -> tuple[int, ...]:
    """(kept, peak, prefill, decode, cache) of one row of T tokens, in bytes.  Nothing is computed."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if rank and bf16 else torch.float32).eval()
        body, head = model.base_model, model.get_output_embeddings()
        if rank:
            model.requires_grad_(False)
            for name, module in list(body.named_modules()):
                if isinstance(module, nn.Linear) and module is not head:
                    body.set_submodule(name, _Lora(module, rank, cast))
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None                # their bytes are counted as gradients
        return *_learning(model, body, T, bf16, checkpointing), *_sampling(body, T, bf16)


def _learning(model, body, T: int, bf16: bool, checkpointing: bool) -> tuple[int, int]:
    if checkpointing:
        model.activation_checkpointing_enable()
    for layer in (m for m in body.modules() if isinstance(m, GradientCheckpointingLayer)):
        layer.training = checkpointing
    embedded = body.get_input_embeddings()(torch.zeros(1, T, dtype=torch.long)).detach().requires_grad_()
    mask, position = torch.ones(1, 1, T, T, dtype=torch.bool) if checkpointing else None, torch.arange(T)[None]
    with _Live() as live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = body(inputs_embeds=embedded, attention_mask=mask, position_ids=position, use_cache=False).last_hidden_state      # [1, T, D]
        kept = live.now
        out.backward(torch.empty_like(out))
    for layer in body.modules():
        layer.training = False
    return kept, live.peak


@torch.no_grad()
def _sampling(body, T: int, bf16: bool) -> tuple[int, int, int]:
    cache, ids, position = DynamicCache(config=body.config), torch.zeros(1, T, dtype=torch.long), torch.arange(T + 1)[None]
    mask = torch.ones(1, 1, 1, T + 1, dtype=torch.bool)
    with _Live() as live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        body(input_ids=ids, position_ids=position[:, :T], past_key_values=cache, use_cache=True)
        prefill, live.peak = live.peak, 0
        kept = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
        body(input_ids=ids[:, :1], attention_mask=mask, position_ids=position[:, T:], past_key_values=cache, use_cache=True)
    return prefill, live.peak, kept


# ---------------------------------------------------------------------------------------------------- the estimate
LEAST = {"warm_steps": 0, "lora_rank": 0, "prompt_tokens": 2}
PARTS = ("weights", "adapter", "optimiser", "gradients", "activations", "KV cache", "logits", "other")


@dataclass(frozen=True)
class Setting:
    """Everything that an estimate depends on, under the names of the flags."""
    kind: type                                                                       # of the model's config
    text: str                                                                        # ... and its JSON, which can be a key
    dialogues: int                                                                   # S states sampled at once
    prompt_tokens: int                                                               # P, the longest prompt
    micro_batch: int
    group: int
    max_new_tokens: int                                                              # L
    user_tokens: int
    sft_batch: int
    warm_steps: int
    lora_rank: int
    quantised: bool
    checkpointing: bool
    precision: str
    device: str


@dataclass(frozen=True)
class Estimate:
    phases: dict[str, dict[str, int]]                                                # phase -> part -> bytes
    setting: Setting

    @property
    def totals(self) -> dict[str, int]:
        return {phase: sum(parts.values()) for phase, parts in self.phases.items()}

    @property
    def total(self) -> int:
        """The peak of the run, bytes: phases follow each other."""
        return max(self.totals.values())

    @property
    def parts(self) -> dict[str, int]:
        """Of the phase that needs most."""
        return self.phases[max(self.totals, key=self.totals.get)]


def estimate(config: PretrainedConfig, agent: Any, *, dialogues: int, prompt_tokens: int, quantised: bool, lora_rank: int, checkpointing: bool,
             precision: str = "bf16", device: str = "cuda") -> Estimate:
    """What training this model will need.

    agent          csagent.AgentConfig, or anything with micro_batch, group, max_new_tokens, user_tokens, sft_batch, warm_steps
    dialogues      states sampled at once
    prompt_tokens  the longest prompt, chat template, skills, facts and history included
    lora_rank      0: the whole model learns, in fp32
    raises         DataError if the config is not a causal LM's, or asks for what does not go together
    """
    fields = {name: int(getattr(agent, name)) for name in ("micro_batch", "group", "max_new_tokens", "user_tokens", "sft_batch", "warm_steps")}
    wanted = fields | {"dialogues": dialogues, "prompt_tokens": prompt_tokens, "lora_rank": lora_rank}
    for name, value in wanted.items():
        if value < LEAST.get(name, 1):
            raise DataError(f"--{name} must be at least {LEAST.get(name, 1)}, got {value}")
    if quantised and not lora_rank:
        raise DataError("4-bit weights do not learn: give --lora_rank 16, or --quantise none")
    return _estimate(Setting(type(config), config.to_json_string(use_diff=False), quantised=quantised, checkpointing=checkpointing, precision=precision,
                             device=device, **wanted))


def _estimate(s: Setting) -> Estimate:
    bf16, key = s.precision == "bf16", (s.kind, s.text)
    width = 2 if bf16 and s.lora_rank else 4                                         # bytes of a weight that is not in 4 bits
    w = _weights(*key, s.lora_rank, s.quantised, width)
    a = _activations(*key, s.lora_rank, not (s.quantised and bf16 and s.device == "cuda"), bf16, s.checkpointing)
    adapter = 4 * w.learned if s.lora_rank else 0
    stays = {"weights": w.stored, "adapter": adapter, "optimiser": 8 * w.learned + 4 * w.tensors, "gradients": 4 * w.learned}
    once = w.largest * (width + 4 / 64) + (0 if s.lora_rank else w.head * (8 if bf16 else 4)) + (CONTEXT if s.device == "cuda" else 0)
    comes = {"sampling": _sample(s, w, a), "update": _learn(s, w, a, UPDATE, HELD, s.micro_batch, s.group)}
    if s.warm_steps:
        part = min(s.sft_batch, s.micro_batch * s.group) if s.checkpointing else s.sft_batch
        comes["warm start"] = _learn(s, w, a, WARM, 0, part, 1)
    copy_9c = 4 * w.vocabulary + (0 if s.lora_rank else 4 * w.head)                  # idf; embeddings that learn are copied (GAP-5)
    phases = {}
    for phase, (activations, cache, logits, mask) in comes.items():
        lost = FRAGMENTATION * (activations + cache + logits)
        other = once + mask + lost + (0 if phase == "warm start" else copy_9c)
        phases[phase] = stays | {"activations": activations, "KV cache": cache, "logits": logits, "other": round(other)}
    return Estimate(phases, s)


def _sample(s: Setting, w: Weights, a: Activations) -> tuple[int, int, int, int]:
    """(activations, KV cache, logits, masks) at the worst moment of `generate`: the prompts' forward, the last token's forward, or its draw."""
    rows, prompts = s.dialogues * s.group, s.dialogues * (s.prompt_tokens - 1)
    seen = rows * (s.prompt_tokens - 1 + s.max_new_tokens)
    first, last = a.cache(w.layers, prompts), a.cache(w.layers, seen)
    prefill = (a.prefill(w.layers, prompts) - first, first, 0)                       # then copied to the rows, a layer at a time
    step = (a.decode(w.layers, seen) - last + round(rows * a.prefill.b), last, 2 * rows * w.vocabulary)
    draw = (round(a.decode.c + a.decode.a * w.layers), last, DRAW * rows * w.vocabulary)
    return *max(prefill, step, draw, key=sum), s.dialogues * w.vocabulary


def _learn(s: Setting, w: Weights, a: Activations, at_once: int, held: int, states: int, group: int) -> tuple[int, int, int, int]:
    """(activations, KV cache, logits, masks) at the worst moment of a micro batch: the loss's backward, or the last layer's.

    With checkpointing a row is a state's prompt and then all its replies; without, prompts and replies are separate rows that share a cache."""
    P, L = s.prompt_tokens - 1, s.max_new_tokens
    tokens, logits, rows = states * (P + group * L), states * group * L * w.vocabulary, states * group
    if s.checkpointing:
        cache, spared, mask = 0, 0, 3 * states * (P + group * L) ** 2                # bool, and a bias in 16 bits for the layer at work
    else:
        cache = rows * w.repeat * a.cache(w.layers, P + L)                           # attention keeps keys and values of every row, repeated for every head
        spared = round(a.kept.d * states * P / 2)                                    # the last layer's prompts reach the loss through keys and values alone
        mask = rows * L * (P + L) * (1 + 2 * w.layers)
    loss, layer = (a.kept(w.layers, tokens) - spared, cache, at_once * logits), (a.peak(w.layers, tokens) - spared, cache, held * logits)
    return *max(loss, layer, key=sum), mask


def free_memory(device: str | torch.device) -> int | None:
    """Bytes free on the device; None if nothing tells."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    found = [line.split()[1] for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


# ---------------------------------------------------------------------------------------------------- what to lower
# cheapest first: memory but not the result; time; the warm start; breadth of a step; then what the model reads, says and learns with
FLOORS = {"micro_batch": 1, "checkpointing": True, "sft_batch": 1, "dialogues": 4, "group": 2, "user_tokens": 64, "max_new_tokens": 24, "lora_rank": 8}


def lower(e: Estimate, free: int) -> list[tuple[str, Any, Any, Estimate]] | None:
    """The smallest change that fits, as (flag, from, to, estimate with this and the changes before it); None if no flag is enough."""
    setting, fits = e.setting, lambda s: _estimate(s).total <= free
    for flag in FLOORS:
        if fits(setting):
            break
        setting = next((s for s in _lowered(setting, flag, getattr(e.setting, flag)) if fits(s)), _lowest(setting, flag))
    if not fits(setting):
        return None
    for flag in reversed(FLOORS):                                                    # a flag lowered in vain goes back up, as far as it can, the dearest first
        setting = next((s for s in (_with(setting, flag, getattr(e.setting, flag)), *_lowered(setting, flag, getattr(e.setting, flag))) if fits(s)))
    steps, now = [], e.setting
    for flag in FLOORS:
        if getattr(setting, flag) != getattr(e.setting, flag):
            now = _with(now, flag, getattr(setting, flag))
            steps.append((flag, getattr(e.setting, flag), getattr(setting, flag), _estimate(now)))
    return steps


def _lowered(s: Setting, flag: str, start: Any) -> Iterator[Setting]:
    """The settings with less of a flag, from just below `start` to its floor."""
    if flag == "checkpointing":
        yield from () if start else (_with(s, flag, True),)
    elif flag == "lora_rank":                                                        # each rank has its activations counted anew: halves will do
        yield from (_with(s, flag, r) for r in (start // 2, start // 4) if r >= FLOORS[flag])
    else:
        step = {"user_tokens": 16, "max_new_tokens": 4}.get(flag, 1)
        yield from (_with(s, flag, value) for value in range(start - step, FLOORS[flag] - 1, -step))


def _lowest(s: Setting, flag: str) -> Setting:
    return ([s, *_lowered(s, flag, getattr(s, flag))])[-1]


def _with(s: Setting, flag: str, value: Any) -> Setting:
    prompt = max(2, s.prompt_tokens - (s.user_tokens - value)) if flag == "user_tokens" else s.prompt_tokens
    return replace(s, **{flag: value}, prompt_tokens=prompt)


# ---------------------------------------------------------------------------------------------------- to read
def table(e: Estimate, free: int | None) -> str:
    """Parts x phases in GiB, and whether it fits or which flags to lower."""
    phases = list(e.phases)
    rows = [f"| {'GiB':<12} |" + "".join(f" {p:>10} |" for p in phases), "|:" + "-" * 13 + "|" + ("-" * 11 + ":|") * len(phases)]
    for part in PARTS:
        rows.append(f"| {part:<12} |" + "".join(f" {e.phases[p][part] / GIB:>10.2f} |" for p in phases))
    rows.append(f"| {'total':<12} |" + "".join(f" {t / GIB:>10.2f} |" for t in e.totals.values()))
    return "\n".join([*rows, "", verdict(e, free)])


def verdict(e: Estimate, free: int | None) -> str:
    need = f"needs {e.total / GIB:.2f} GiB"
    if free is None:
        return f"{need}; how much is free is unknown here"
    if e.total <= free:
        return f"{need} of {free / GIB:.2f} free: fits"
    steps, before = lower(e, free), e.total
    lines = [f"{need} of {free / GIB:.2f} free: does not fit by {(e.total - free) / GIB:.2f} GiB"]
    if steps is None:
        return lines[0] + ": no flag lowers it enough, take a smaller --model"
    for flag, old, new, after in steps:
        name = "gradient_checkpointing" if flag == "checkpointing" else flag
        lines.append(f"  lower --{name} {old} -> {new} (saves {(before - after.total) / GIB:.2f} GiB)" if flag != "checkpointing" else
                     f"  set --{name} true (saves {(before - after.total) / GIB:.2f} GiB)")
        before = after.total
    return "\n".join([*lines, f"  then it needs {before / GIB:.2f} GiB: fits"])


def fits(models: Sequence[str], base: Callable[[PretrainedConfig], Estimate], cards: Sequence[int] = (8, 12, 16, 24)) -> str:
    """For each card and model the largest setting, at most the one asked for."""
    rows = ["| card GiB | model | micro_batch | group | prompt + reply tokens | dialogues | sft_batch | rank | needs GiB | how |",
            "|---:|:---|---:|---:|---:|---:|---:|---:|---:|:---|"]
    for card in cards:
        for model in models:
            e = base(load_config(model))
            steps = [] if e.total <= card * GIB else lower(e, card * GIB)
            if steps is None:
                rows.append(f"| {card} | {model} | — | — | — | — | — | — | more | computed |")
                continue
            best = steps[-1][3] if steps else e
            s = best.setting
            rows.append(f"| {card} | {model} | {s.micro_batch} | {s.group} | {s.prompt_tokens} + {s.max_new_tokens} | {s.dialogues} | {s.sft_batch} | "
                        f"{s.lora_rank} | {best.total / GIB:.2f} | computed |")
    return "\n".join(rows)


@dataclass(frozen=True)
class Flags:
    """What a training run would be started with."""
    model: str = opt("qwen3-8b", f"hub id, folder, or one of {', '.join(SHAPES)}")
    quantise: str = opt("nf4", "nf4: 4-bit weights; none: 16 bits under an adapter, 32 without")
    lora_rank: int = opt(16, "0: the whole model learns")
    gradient_checkpointing: bool | None = opt(None, "recompute activations in the backward pass; default: with nf4")
    micro_batch: int = opt(1, "states per forward pass of the update")
    group: int = opt(4, "replies per state")
    dialogues: int = opt(16, "dialogues played at once")
    user_tokens: int = opt(256, "tokens of a customer message")
    system_tokens: int = opt(256, "tokens of the prompt beside it: chat template, skills, facts")
    max_new_tokens: int = opt(48, "tokens of a reply")
    sft_batch: int = opt(16, "replies per supervised step")
    warm_steps: int = opt(250, "supervised steps; 0: no warm start")
    precision: str = opt("bf16", "bf16 or fp32")
    card: float | None = opt(None, "compare with a card of so many GiB; default: with what is free here")
    fits: bool = opt(False, "what fits on 8, 12, 16 and 24 GiB instead, at most the setting asked for")

    def __post_init__(self):
        for name, words in (("quantise", ("nf4", "none")), ("precision", ("bf16", "fp32"))):
            if getattr(self, name) not in words:
                raise ValueError(f"--{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}")

    def estimate(self, config: PretrainedConfig, device: str) -> Estimate:
        quantised = self.quantise == "nf4"
        checkpointing = quantised if self.gradient_checkpointing is None else self.gradient_checkpointing
        return estimate(config, self, dialogues=self.dialogues, prompt_tokens=self.system_tokens + self.user_tokens, quantised=quantised,
                        lora_rank=self.lora_rank, checkpointing=checkpointing, precision=self.precision, device=device)


def main(argv: Sequence[str] | None = None) -> int:
    parser = HfArgumentParser([Flags], allow_abbrev=False, description=__doc__.split("\n\n")[0])
    given = argv if argv is not None else sys.argv[1:]
    try:
        flags, = parser.parse_args_into_dataclasses(argv)
        if flags.fits:
            models = [flags.model] if any(x.startswith("--model") for x in given) else list(SHAPES)
            print(fits(models, lambda config: flags.estimate(config, "cuda")))
            return 0
        device = "cuda" if flags.card or torch.cuda.is_available() else "cpu"
        e = flags.estimate(load_config(flags.model), device)
    except (DataError, ValueError) as error:
        print(f"memory.py: {error}", file=sys.stderr)
        return 2
    print(f"{flags.model}, computed for {device}: {({k: v for k, v in asdict(e.setting).items() if k not in ('kind', 'text', 'device')})}\n")
    print(table(e, round(flags.card * GIB) if flags.card else free_memory(device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
