"""How much memory a training run needs, before it begins, from the model's config alone.

    bytes = weights + adapter + optimiser + gradients + activations + KV cache + logits + other
                                                   one column a phase; the largest has to fit

No weights are read and none are made.  Parameters are counted on a model of the meta device, so
any architecture works.  Activations are counted as well: two and three layers run on fake tensors
(lm/activations.py), and bytes are linear in layers and in tokens, so four runs give the rest.
Models that lm/fast.py knows speak through it, and are counted so: a prompt's keys and values once,
each lane's own, and copies of the weights that are multiplied as one.
Bytes of logits are counted from the code; tests/test_memory.py holds all of it against what real
runs allocate. Stated, not measured: CONTEXT and FRAGMENTATION.  Attention is taken to be a fused
kernel.
Try it:  python -m lm.memory --model Qwen/Qwen3-8B               against what is free here
         python -m lm.memory --model Qwen/Qwen3-14B --card 16    against a card of 16 GiB"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from data import DataError, opt
from infra.flags import parse, parser_of, refuse_below, refuse_not_positive, refuse_other_words
from infra.terminal import forgive
from lm.activations import Activations, Speaking, count_activations, count_lanes
from lm.config import SMOLLM2, AgentConfig, LMConfig, WarmConfig
from lm.suited import reason, refuse_folder, refuse_unsuited

GIB = 2 ** 30
# CUDA's context and its libraries' workspaces [a common figure, not measured here].
CONTEXT = GIB // 2
# Lost between blocks of the allocator, of activations, KV cache and logits [assumed].
FRAGMENTATION = 0.10
# Bytes per logit [rows x tokens x V], all copies alive at once at the worst moment.
UPDATE = 30        # `update`: scaled, banned, 9d's log p, p, p log p, 9b's log p, masks, gradients
HELD = 4           # ... while the layers' gradients are computed: `logits`, still in scope
WARM = 12          # `supervised`: log-softmax and its gradient
DRAW = 16          # `speak`: one position a row; the model's, fp32, exp, bans
PARTS = (
    "weights", "adapter", "optimiser", "gradients", "activations", "KV cache", "logits", "other"
)

# Published dimensions, for use without a network.
SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3-14b": lambda: Qwen3Config(
        vocab_size=151936, hidden_size=5120, intermediate_size=17408, num_hidden_layers=40,
        num_attention_heads=40, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
    "qwen3-8b": lambda: Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
    "llama-3.1-8b": lambda: LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False),
    "qwen2.5-7b": lambda: Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False),
    SMOLLM2: lambda: LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True),
}


def load_config(name: str) -> PretrainedConfig:
    """The config of a folder, of SHAPES (a hub id's last part counts), or of the hub."""
    short = name.rsplit("/", 1)[-1].lower().removesuffix("-instruct")
    if short in SHAPES and not Path(name).exists():
        return SHAPES[short]()
    refuse_folder(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise DataError(
            f"--model {name}: {reason(str(error))}; "
            f"memory.py knows {', '.join(SHAPES)} without a network"
        ) from error
    refuse_unsuited(name, config)
    return config


# ------------------------------------------------------------------------------ what stays
@dataclass(frozen=True)
class Weights:
    stored: int            # bytes of parameters, quantisation constants and buffers
    learned: int           # parameters that the optimiser moves
    tensors: int           # ... in how many tensors
    largest: int           # elements of the largest matrix in 4 bits
    head: int              # elements of the head
    vocabulary: int
    layers: int
    repeat: int            # attention heads to one of keys and values


def nf4_bytes(elements: int) -> int:
    """A matrix in NF4 with double quantisation (Dettmers et al. 2023), as bitsandbytes stores it.

    4.127 bits a weight (4 bits + 8/64 + 32/(64 * 256)), and 1092 bytes of codes and offset.

    >>> nf4_bytes(4096 * 4096) / (4096 * 4096) * 8
    4.127473831176758
    """
    weights = -(-elements // 2)
    scales = -(-elements // 64)
    scales_of_scales = 4 * -(-scales // 256)
    offset_and_code_books = 4 + 4 * 16 + 4 * 256
    return weights + scales + scales_of_scales + offset_and_code_books


@lru_cache(maxsize=32)
def count_weights(kind: type, text: str, rank: int, quantised: bool, width: int) -> Weights:
    """Of the model with this config (its class and JSON); width: bytes of an unquantised weight."""
    name = kind.__name__
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(kind.from_dict(json.loads(text)))
    except ValueError as error:
        told = " ".join(str(error).split())[:120]
        raise DataError(
            f"--model: {name} is no causal language model that transformers knows ({told})"
        ) from error
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    if not linears:
        raise DataError(
            f"--model: {name} has no linear layers that 4 bits or LoRA would find; "
            "take e.g. Qwen/Qwen3-8B"
        )
    packed = [m.weight for m in linears] if quantised else []
    learned = [p.numel() for p in model.parameters()]
    if rank:
        learned = [rank * m.in_features for m in linears]
        learned += [rank * m.out_features for m in linears]
    shape = model.config.get_text_config()
    kv_heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    return Weights(
        stored=_stored(model, packed, width),
        learned=sum(learned),
        tensors=len(learned),
        largest=max((weight.numel() for weight in packed), default=0),
        head=head.weight.numel(),
        vocabulary=head.weight.shape[0],
        layers=shape.num_hidden_layers,
        repeat=shape.num_attention_heads // kv_heads,
    )


def _stored(model: nn.Module, packed: Sequence[torch.Tensor], width: int) -> int:
    in_4_bits = {id(weight) for weight in packed}
    total = sum(buffer.nbytes for buffer in model.buffers())
    for p in model.parameters():
        total += nf4_bytes(p.numel()) if id(p) in in_4_bits else p.numel() * width
    return total


# ------------------------------------------------------------------------------ the estimate
@dataclass(frozen=True)
class Setting:
    """All that an estimate depends on."""
    shape: PretrainedConfig
    lm: LMConfig
    agent: AgentConfig
    warm: WarmConfig
    dialogues: int = 16              # S, states sampled at once
    prompt_tokens: int = 512         # P, the longest prompt: template, skills, facts and history
    precision: str = "bf16"
    device: str = "cuda"

    def __post_init__(self):
        for name, least in (("dialogues", 1), ("prompt_tokens", 2)):
            value = getattr(self, name)
            if value < least:
                raise DataError(f"--{name} must be at least {least}, got {value}")
        # Frozen, and this is its constructor.
        object.__setattr__(self, "agent", self.agent.settled_for(self.lm.model))
        object.__setattr__(self, "warm", self.warm.settled_for(self.lm.model))

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16"

    @property
    def key(self) -> tuple[type, str]:
        """The model's config as a cache can look it up: its class and JSON."""
        return type(self.shape), self.shape.to_json_string(use_diff=False)

    @property
    def adapter(self) -> tuple[int, bool]:
        """Its rank, and whether it takes its input to fp32."""
        nf4 = self.lm.quantise == "nf4"
        return self.lm.lora_rank, not (nf4 and self.bf16 and self.device == "cuda")


class Moment(NamedTuple):
    """Bytes that come and go, at the worst moment of a phase."""
    activations: int
    cache: int
    logits: int


@dataclass(frozen=True)
class Estimate:
    phases: dict[str, dict[str, int]]            # phase -> part -> bytes

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


def counted(s: Setting) -> tuple[Weights, Activations]:
    """What the model's own code says, for this setting.  Raises DataError if it cannot be told."""
    nf4 = s.lm.quantise == "nf4"
    width = 2 if s.bf16 and s.lm.lora_rank else 4        # bytes of a weight that is not in 4 bits
    weights = count_weights(*s.key, s.lm.lora_rank, nf4, width)
    return weights, count_activations(*s.key, *s.adapter, s.bf16, s.lm.gradient_checkpointing)


def counted_lanes(s: Setting) -> Speaking | None:
    """The same of the lanes of lm/lanes.py; None if they do not speak for this model."""
    tokens = s.prompt_tokens, s.lm.max_new_tokens
    lanes = s.dialogues, s.agent.group, *tokens
    return count_lanes(*s.key, *s.adapter, s.bf16, s.device == "cuda", lanes)


def estimate(s: Setting) -> Estimate:
    """What training this model will need."""
    w, a = counted(s)
    adapts = s.lm.lora_rank > 0
    adapter = 4 * w.learned if adapts else 0
    stays = {
        "weights": w.stored, "adapter": adapter,
        "optimiser": 8 * w.learned + 4 * w.tensors, "gradients": 4 * w.learned,
    }
    # The largest matrix unpacked, or the head's gradient; then CUDA itself.
    once = w.largest * ((2 if s.bf16 and adapts else 4) + 4 / 64)
    once += 0 if adapts else w.head * (8 if s.bf16 else 4)
    once += CONTEXT if s.device == "cuda" else 0
    # idf of 9c; embeddings that learn are copied (GAP-5)
    copy_9c = 4 * w.vocabulary + (0 if adapts else 4 * w.head)
    phases = {}
    for phase, (moment, masks) in _phases(s, w, a).items():
        other = once + masks + FRAGMENTATION * sum(moment)
        other += 0 if phase == "warm start" else copy_9c
        phases[phase] = stays | {
            "activations": moment.activations, "KV cache": moment.cache,
            "logits": moment.logits, "other": round(other),
        }
    return Estimate(phases)


def _phases(s: Setting, w: Weights, a: Activations) -> dict[str, tuple[Moment, int]]:
    """Phase -> its worst moment, and bytes of its attention masks or static bans."""
    micro_batch, group = s.agent.micro_batch, s.agent.group
    found = {
        "sampling": _sample(s, w, a),
        "update": _learn(s, w, a, UPDATE, HELD, micro_batch, group),
    }
    if s.warm.warm_steps:
        part = s.warm.sft_batch
        if s.lm.gradient_checkpointing:
            part = min(part, micro_batch * group)
        found["warm start"] = _learn(s, w, a, WARM, 0, part, 1)
    return found


def _sample(s: Setting, w: Weights, a: Activations) -> tuple[Moment, int]:
    """`speak`: the worst of the prompts' forward, the last token's forward, and its draw."""
    logits = s.dialogues * s.agent.group * w.vocabulary
    spoken = counted_lanes(s)
    if spoken is None:
        prefill, step, drawn = _by_cache(s, w, a, logits)
    else:
        cache = spoken.cache
        prefill = Moment(spoken.prefill - cache, cache, 0)
        step = Moment(spoken.step - cache, cache, 0)
        drawn = Moment(spoken.held - cache, cache, DRAW * logits)
    return max(prefill, step, drawn, key=sum), s.dialogues * w.vocabulary


def _by_cache(s: Setting, w: Weights, a: Activations, logits: int) -> tuple[Moment, Moment, Moment]:
    """The three moments of a model that speaks by its own forward and cache."""
    rows = s.dialogues * s.agent.group
    prompts = s.dialogues * (s.prompt_tokens - 1)
    seen = rows * (s.prompt_tokens - 1 + s.lm.max_new_tokens)
    first = a.cache(w.layers, prompts)
    last = a.cache(w.layers, seen)
    # Then copied to the rows, a layer at a time.
    prefill = Moment(a.prefill(w.layers, prompts) - first, first, 0)
    step_bytes = a.decode(w.layers, seen) - last + round(rows * a.prefill.b)
    step = Moment(step_bytes, last, 2 * logits)
    drawn_bytes = round(a.decode.c + a.decode.a * w.layers)
    drawn = Moment(drawn_bytes, last, DRAW * logits)
    return prefill, step, drawn


def _learn(s: Setting, w: Weights, a: Activations, at_once: int, held: int,
           states: int, group: int) -> tuple[Moment, int]:
    """A micro-batch: the worst of the loss's backward and the last layer's.

    at_once, held  bytes per logit in the one and in the other

    With checkpointing a row is a state's prompt and then all its replies; without, prompts and
    replies are separate rows that share a cache.
    """
    P = s.prompt_tokens - 1
    L = s.lm.max_new_tokens
    T = P + group * L
    rows = states * group
    logits = rows * L * w.vocabulary
    cache = 0
    spared = 0
    # bool, and a bias in 16 bits for the layer at work
    masks = 3 * states * T ** 2
    if not s.lm.gradient_checkpointing:
        # Attention keeps keys and values of every row, repeated for every head.
        cache = rows * w.repeat * a.cache(w.layers, P + L)
        # The last layer's prompts reach the loss through keys and values alone.
        spared = round(a.kept.d * states * P / 2)
        masks = rows * L * (P + L) * (1 + 2 * w.layers)
    loss = Moment(a.kept(w.layers, states * T) - spared, cache, at_once * logits)
    layer = Moment(a.peak(w.layers, states * T) - spared, cache, held * logits)
    return max(loss, layer, key=sum), masks


def free_memory(device: str | torch.device) -> int | None:
    """Bytes free on the device; None if nothing tells."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


# ------------------------------------------------------------------------------ to read
def table(e: Estimate, free: int | None) -> str:
    """Parts x phases in GiB, and whether the largest fits."""
    phases = list(e.phases)
    rows = ["| GiB          |" + "".join(f" {phase:>10} |" for phase in phases)]
    rows.append("|:" + "-" * 13 + "|" + ("-" * 11 + ":|") * len(phases))
    for part in PARTS:
        cells = [f" {e.phases[phase][part] / GIB:>10.2f} |" for phase in phases]
        rows.append(f"| {part:<12} |" + "".join(cells))
    totals = [f" {total / GIB:>10.2f} |" for total in e.totals.values()]
    rows.append("| total        |" + "".join(totals))
    return "\n".join([*rows, "", verdict(e, free)])


def verdict(e: Estimate, free: int | None) -> str:
    need = f"needs {e.total / GIB:.2f} GiB"
    if free is None:
        return f"{need}; how much is free is unknown here"
    need += f" of {free / GIB:.2f} free"
    if e.total <= free:
        return f"{need}: fits"
    return f"{need}: does not fit by {(e.total - free) / GIB:.2f} GiB"


# Flag -> the config that holds it, and the least that is sensible.
LOWERED = {
    "micro_batch": ("agent", 1), "dialogues": (None, 1), "group": ("agent", 2),
    "user_tokens": ("lm", 8), "max_new_tokens": ("lm", 1), "sft_batch": ("warm", 1),
    "lora_rank": ("lm", 1),
}


def savings(s: Setting) -> str:
    """For each flag: what half of it would save at the peak, the other flags as they are."""
    whole = estimate(s).total
    lines = []
    for flag, (part, least) in LOWERED.items():
        holder = getattr(s, part) if part else s
        value = getattr(holder, flag)
        half = max(least, value // 2)
        if half < value:
            saved = (whole - estimate(_with(s, part, flag, half)).total) / GIB
            lines.append(f"  --{flag} {value} -> {half} saves {saved:.2f} GiB")
    if not s.lm.gradient_checkpointing:
        saved = (whole - estimate(_with(s, "lm", "gradient_checkpointing", True)).total) / GIB
        lines.append(f"  --gradient_checkpointing true saves {saved:.2f} GiB")
    return "\n".join(["one flag at a time:", *lines])


def _with(s: Setting, part: str | None, flag: str, value: int) -> Setting:
    if part is None:
        return replace(s, **{flag: value})
    changed = replace(s, **{part: replace(getattr(s, part), **{flag: value})})
    if flag == "user_tokens":
        shorter = s.prompt_tokens - s.lm.user_tokens + value
        changed = replace(changed, prompt_tokens=max(2, shorter))
    return changed


@dataclass(frozen=True)
class Machine:
    """What the other configs do not say."""
    dialogues: int = opt(16, "dialogues played at once")
    system_tokens: int = opt(
        256, "tokens of the prompt besides the customer's: chat template, skills, facts"
    )
    precision: str = opt("bf16", "bf16 or fp32")
    card: float | None = opt(
        None, "compare with a card of so many GiB; default: with what is free here"
    )

    def __post_init__(self):
        refuse_other_words(self, {"precision": ("bf16", "fp32")})
        refuse_below(self, {"dialogues": 1, "system_tokens": 0})
        refuse_not_positive(self, "card")


def main(argv: Sequence[str] | None = None) -> int:
    configs = [LMConfig, AgentConfig, WarmConfig, Machine]
    about = "How much memory training needs.  Flags of train.py that change it count here too."
    forgive()
    parser = parser_of(configs, about)
    parser.set_defaults(model="qwen3-8b")
    lm, agent, warm, machine = parse(parser, argv)
    try:
        device = "cuda" if machine.card or torch.cuda.is_available() else "cpu"
        prompt = machine.system_tokens + lm.user_tokens
        setting = Setting(
            load_config(lm.model), lm, agent, warm, machine.dialogues, prompt,
            machine.precision, device,
        )
        e = estimate(setting)
    except (DataError, ValueError) as error:
        print(f"memory.py: {error}", file=sys.stderr)
        return 2
    free = round(machine.card * GIB) if machine.card else free_memory(device)
    print(f"{lm.model}, computed for {device}, {machine.precision}, prompts of {prompt} tokens\n")
    print(table(e, free))
    print(savings(setting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
