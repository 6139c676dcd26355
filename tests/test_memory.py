"""lm/memory.py against what runs allocate: bitsandbytes' tensors, peft's adapter, the cache, Adam.

The oracle of the peaks is the CPU allocator's own log (torch.profiler), which knows nothing of
dispatch modes or fake tensors."""
from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._C._profiler import _EventType
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import csagent
from csagent import CustomerServiceAgent
from data import DataError, Request
from lm import activations, memory, passes
from lm.activations import Bilinear, count_activations, count_lanes
from lm.config import AgentConfig, LMConfig, WarmConfig, configs_of
from lm.lanes import Lanes
from lm.memory import (
    GIB,
    SHAPES,
    Estimate,
    Setting,
    count_weights,
    estimate,
    free_memory,
    load_config,
    nf4_bytes,
    savings,
    table,
)
from lm.models import build_tiny, keep_gradients, load_model, with_adapter
from start.supervised import backward, settled
from tests.agents import flattened, seeded

REQUEST = Request(
    "Where is my lamp, and what did it cost? " * 2, ("soothe", "price"),
    {"eta": "Friday", "price_1": "30 euros"},
)
_, TOKENIZER = build_tiny(csagent.TALK * 20, csagent.SLOTS, 0, width=64, layers=1)
FAMILY = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def config_of(family: str, hidden: int, layers: int, wide: int, vocabulary: int = 1024):
    kind, _ = FAMILY[family]
    return kind(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=wide,
        num_hidden_layers=layers, head_dim=32, num_attention_heads=hidden // 32,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )


class Rig:
    """An agent as training makes it, saved in 32 bits and loaded as asked, and its configs."""

    def __init__(self, folder, family: str, sizes: tuple, precision: str = "fp32", **flags):
        torch.manual_seed(0)
        self.shape = config_of(family, *sizes)
        FAMILY[family][1](self.shape).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        self.lm, self.cfg, self.warm = configs_of({"agent": {"model": str(folder)} | flags})
        model, tokenizer = load_model(
            str(folder), quantise=self.lm.quantise, precision=precision,
            frozen=self.lm.lora_rank > 0,
        )
        # bitsandbytes would repack weights at the first reply, and lose their gradient.
        keep_gradients(model)
        if self.lm.lora_rank:
            model = with_adapter(model, self.lm.lora_rank)
        self.agent = CustomerServiceAgent(
            model, tokenizer, csagent.DEMO, (), self.cfg, self.lm, precision=precision
        )
        self.agent.freeze_embedding(csagent.TALK)

    def predicted(self, dialogues: int) -> Estimate:
        prompt = len(self.agent.prompt(REQUEST))
        return estimate(Setting(
            self.shape, self.lm, self.cfg, self.warm, dialogues, prompt,
            self.agent.precision, "cpu",
        ))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    def make(family: str, sizes: tuple, **flags) -> Rig:
        return Rig(tmp_path_factory.mktemp("model"), family, sizes, **flags)
    return make


NF4 = {"quantise": "nf4", "lora_rank": 8}
WHOLE = {"quantise": "none", "lora_rank": 0}


def moving(e: Estimate, phase: str) -> int:
    return sum(e.phases[phase][part] for part in ("activations", "KV cache", "logits", "other"))


def stored(model) -> int:
    """Bytes of everything a model holds, by looking, each storage once.

    Parameters, buffers and bitsandbytes' constants."""
    tensors = [*model.parameters(), *model.buffers()]
    for p in model.parameters():
        q = getattr(p, "quant_state", None)
        if q:
            tensors += [q.absmax, q.code, q.offset, q.state2.absmax, q.state2.code]
    storages = [x.untyped_storage() for x in tensors]
    return sum({x.data_ptr(): x.nbytes() for x in storages}.values())


def allocated(run) -> int:
    """The peak of what the CPU allocator gave out during run(), above what was there before."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        run()
    events = []
    todo = list(profile.profiler.kineto_results.experimental_event_tree())
    while todo:
        event = todo.pop()
        todo += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    return int(np.cumsum([size for _, size in sorted(events)]).max())


def full_replies(agent, prepared, group, length=None):
    """Replies that use up max_new_tokens (or are of this length): the case an estimate is for."""
    L = length or agent.lm.max_new_tokens
    replies = agent.speak(prepared, group, generator=seeded(0))
    nothing = ("ban", np.zeros(0, dtype=int))
    for r in flattened(replies):
        r.ids = (r.ids * L)[:L]
        r.mask = [True] * L
        r.logp = [0.0] * L
        r.bans = [nothing] * L
    return replies


# ------------------------------------------------------------------------------ what stays, exactly
@pytest.mark.parametrize("family, precision", [("qwen3", "bf16"), ("llama", "fp32")])
def test_weights_adapter_optimiser_gradients_are_exact(build, family, precision):
    rig = build(family, (128, 2, 320), precision=precision, **NF4)
    agent = rig.agent
    e = rig.predicted(1).parts
    learned = [p for p in agent.model.parameters() if p.requires_grad]
    assert e["adapter"] == sum(p.nbytes for p in learned)
    assert {p.dtype for p in learned} == {torch.float32}
    assert e["weights"] == stored(agent.model) - e["adapter"]
    prepared = agent.prepare([REQUEST])
    agent.update(prepared, full_replies(agent, prepared, 2), [[0.0, 1.0]])
    assert e["gradients"] == sum(p.grad.nbytes for p in learned)
    adam = 0
    for state in agent.optimizer.state.values():
        adam += sum(x.nbytes for x in state.values())
    assert e["optimiser"] == adam
    assert e["adapter"] // 4 == agent.model.get_nb_trainable_parameters()[0]


def test_weights_of_a_whole_model_are_exact(build):
    rig = build("llama", (128, 2, 320), gradient_checkpointing=False, **WHOLE)
    e = rig.predicted(1).parts
    assert e["weights"] == stored(rig.agent.model)
    assert e["adapter"] == 0
    assert e["gradients"] == sum(p.nbytes for p in rig.agent.model.parameters())


# The numbers of their model cards, in billions.
PUBLISHED = {
    "qwen3-8b": 8.19, "qwen3-14b": 14.77, "qwen2.5-7b": 7.62, "llama-3.1-8b": 8.03,
    "smollm2": 0.135,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    c = SHAPES[name]()
    weights = count_weights(type(c), c.to_json_string(use_diff=False), 0, False, 4)
    assert weights.learned / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_nf4_bytes_by_hand():
    # 128 x 128: 8192 bytes of codes, 256 scales of a byte, their one fp32 scale,
    # offset 4, code books 64 + 1024
    assert nf4_bytes(128 * 128) == 8192 + 256 + 4 + 4 + 64 + 1024


@given(st.integers(1, 10 ** 9))
def test_nf4_takes_four_bits_and_a_little(n):
    assert n / 2 <= nf4_bytes(n) <= n * 4.13 / 8 + 1200


@pytest.mark.parametrize("family", FAMILY)
def test_cache_is_exact(family):
    config = config_of(family, 128, 4, 320)
    model = FAMILY[family][1](config).eval()
    cache = DynamicCache(config=config)
    looks = {passes.CACHE: cache, "use_cache": True}
    with torch.no_grad():
        model(torch.zeros(3, 11, dtype=torch.long), **looks)
        cache.batch_select_indices(torch.tensor([0, 0, 1, 1, 2, 2]))
        for _ in range(5):
            model(torch.zeros(6, 1, dtype=torch.long), **looks)
    text = config.to_json_string(use_diff=False)
    a = count_activations(type(config), text, 0, True, False, False)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 6 * a.cache(4, 16) == kept


@pytest.mark.parametrize("family", FAMILY)
def test_cache_of_lanes_is_exact(family):
    """A prompt of 40 tokens is kept once, in rows of 48; each of 3 lanes has room for 7."""
    config = config_of(family, 128, 4, 320)
    lanes = Lanes(FAMILY[family][1](config).eval(), [[0] * 40] * 2, 3, 7)
    kept = [*lanes.keys, *lanes.values]
    for pair in lanes.prefix:
        kept += pair
    text = config.to_json_string(use_diff=False)
    told = count_lanes(type(config), text, 0, True, False, False, (2, 3, 40, 7))
    assert told.cache == sum(x.nbytes for x in kept)
    # 4 layers, keys and values, 2 states, 2 heads of 32, fp32
    assert told.cache == 4 * 2 * 2 * (48 + 3 * 7) * 2 * 32 * 4
    # queries, keys and values as one matrix, the two of the MLP as another
    assert told.held >= told.cache + 4 * 128 * (128 + 2 * 64 + 2 * 320) * 4
    # on a GPU in bf16: half
    half = count_lanes(type(config), text, 0, True, True, True, (2, 3, 40, 7))
    assert half.cache == told.cache // 2


def test_a_model_that_lanes_do_not_know_is_counted_by_its_own_cache():
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    shape = MistralConfig(vocab_size=512, **sizes, **heads)
    text = shape.to_json_string(use_diff=False)
    assert count_lanes(type(shape), text, 0, True, False, False, (2, 4, 9, 8)) is None
    model = {"model": "x", "quantise": "none", "lora_rank": 0}
    lm, agent, warm = configs_of({"agent": model | {"group": 4, "max_new_tokens": 8}})
    e = estimate(Setting(shape, lm, agent, warm, 2, 9, "fp32", "cpu"))
    # while tokens are drawn: 2 states, 4 copies of 8 tokens and 8 more, 2 layers, keys and values
    cache = 2 * 4 * (8 + 8) * 2 * 2 * 2 * 16 * 4
    assert e.phases["sampling"]["KV cache"] == cache


# ------------------------------------------------------------------------------ what comes and goes
SMALL, LARGE = (128, 3, 320), (192, 5, 512)
PACKED = NF4 | {"precision": "bf16", "gradient_checkpointing": True}
RUNS = [
    ("qwen3", SMALL, PACKED),
    ("llama", LARGE, PACKED),
    ("llama", SMALL, NF4 | {"gradient_checkpointing": False}),
    ("qwen3", SMALL, WHOLE | {"gradient_checkpointing": False}),
]


@pytest.mark.parametrize("family, sizes, how", RUNS)
def test_peaks_are_never_below_and_hardly_above(build, monkeypatch, family, sizes, how):
    """Two sizes, two families: `update`, supervised training and `speak`, and their prediction."""
    # a GPU's attention is fused; in bf16 the CPU's is not
    monkeypatch.setattr(passes, "sdpa_kernel", lambda *_: contextlib.nullcontext())
    # as if the prompts began differently: the worst case
    monkeypatch.setattr(passes, "SHARED", 10 ** 6)
    group = 4
    rig = build(
        family, sizes, group=group, micro_batch=1, max_new_tokens=12, sft_batch=8, **how
    )
    agent = rig.agent
    prepared = agent.prepare([REQUEST] * 2)
    replies = full_replies(agent, prepared, group)
    rewards = [[0.0, 1.0, 0.0, 1.0]] * 2
    # Adam's state is counted as optimiser
    agent.update(prepared, replies, rewards)
    data = [(agent.prompt(REQUEST), replies[0][0].ids)] * 8
    warm = settled(agent, rig.warm)
    runs = {
        "update": lambda: agent.update(prepared, replies, rewards),
        "warm start": lambda: backward(agent, data, warm),
        "sampling": lambda: agent.speak(prepared, group, generator=seeded(0)),
    }
    with_loss = rig.predicted(2)
    monkeypatch.setattr(memory, "FRAGMENTATION", 0.0)
    bare = rig.predicted(2)
    for phase, run in runs.items():
        # so that gradients are allocated while the log runs
        agent.optimizer.zero_grad()
        fresh = 0 if phase == "sampling" else bare.parts["gradients"]
        measured = allocated(run)
        told = moving(bare, phase) + fresh
        print(f"{family} {sizes} {how} {phase}: {told / measured:.3f} of what was allocated")
        assert moving(with_loss, phase) + fresh >= measured, phase
        assert 0.98 * measured <= told <= 1.3 * measured, phase


def test_bytes_of_a_logit(build):
    """With a large vocabulary and next to no model, more tokens cost UPDATE bytes a logit."""
    V = 8192
    rewards = [[0.0, 1.0, 0.0, 1.0]]
    used = []
    for L in (24, 48):
        rig = build(
            "qwen3", (64, 1, 64, V), gradient_checkpointing=True, micro_batch=1, group=4,
            max_new_tokens=48, **WHOLE,
        )
        agent = rig.agent
        prepared = agent.prepare([REQUEST])
        replies = full_replies(agent, prepared, 4, L)

        def run(agent=agent, prepared=prepared, replies=replies) -> None:
            agent.update(prepared, replies, rewards)

        run()
        agent.optimizer.zero_grad()
        used.append(allocated(run))
    assert (used[1] - used[0]) / (24 * 4 * V) == pytest.approx(memory.UPDATE, abs=1.0)


@settings(max_examples=30)
@given(*[st.integers(0, 1000)] * 4)
def test_four_points_give_the_plane(c, a, b, d):
    def plane(n, t):
        return c + a * n + (b + d * n) * t
    assert Bilinear.through(plane, 16)(40, 777) == plane(40, 777)


def test_checkpointing_keeps_one_border_a_layer():
    c = SHAPES["qwen3-8b"]()
    a = count_activations(type(c), c.to_json_string(use_diff=False), 16, False, True, True)
    # [T, D] in bf16, for each layer
    assert a.kept.d == a.peak.d == 4096 * 2
    # a layer's keys while they grow; never repeated for the heads
    assert a.decode.b == 8 * 128 * 2
    # keys and values, 8 heads of 128, bf16
    assert a.cache.d == 2 * 8 * 128 * 2


# ------------------------------------------------------------------------------ words
def setting(**flags) -> Setting:
    """QLoRA of Qwen3-8B; `flags` are fields of the configs or of Setting."""
    own = {name: flags.pop(name) for name in ("dialogues", "prompt_tokens") if name in flags}
    lm, agent, warm = configs_of({"agent": {"model": "qwen3-8b"} | flags})
    return Setting(SHAPES["qwen3-8b"](), lm, agent, warm, **own)


@pytest.mark.parametrize("flag, more", [
    ("micro_batch", 8),
    ("group", 8),
    ("max_new_tokens", 200),
    ("dialogues", 32),
    ("prompt_tokens", 2000),
    ("gradient_checkpointing", False),
])
def test_more_of_a_flag_is_never_less_memory(flag, more):
    few = estimate(setting())
    many = estimate(setting(**{flag: more}))
    assert many.total >= few.total
    assert any(many.totals[phase] > few.totals[phase] for phase in few.totals)


def test_table_adds_up_and_says_whether_it_fits():
    e = estimate(setting())
    columns = []
    for line in table(e, 9 * GIB).splitlines()[2:11]:
        columns.append([float(cell) for cell in line.split("|")[2:-1]])
    *parts, totals = columns
    for phase, total in enumerate(totals):
        assert sum(row[phase] for row in parts) == pytest.approx(total, abs=0.05)
    assert "does not fit by 0." in table(e, 9 * GIB)
    assert "free: fits" in table(e, 24 * GIB)
    assert "unknown" in table(e, None)


def test_savings_say_what_half_of_each_flag_is_worth():
    s = setting(micro_batch=8, gradient_checkpointing=False)
    half = replace(s, agent=replace(s.agent, micro_batch=4))
    saved = (estimate(s).total - estimate(half).total) / GIB
    lines = savings(s).splitlines()
    assert f"  --micro_batch 8 -> 4 saves {saved:.2f} GiB" in lines
    for flag in ("dialogues 16 -> 8", "group 4 -> 2", "user_tokens 256 -> 128",
                 "max_new_tokens 48 -> 24", "sft_batch 16 -> 8", "lora_rank 16 -> 8"):
        assert any(line.startswith(f"  --{flag} saves ") for line in lines), flag
    assert lines[-1].startswith("  --gradient_checkpointing true saves ")


def test_free_memory():
    free = free_memory("cpu")
    assert free is None or GIB // 64 < free < 2 ** 50
    assert free_memory("meta") is None


# ------------------------------------------------------------------------------ bad input
def test_refusals(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="reachable hub id of a causal LM.*qwen3-8b"):
        load_config(str(tmp_path))
    with pytest.raises(ValueError, match="--micro_batch must be at least 1"):
        setting(micro_batch=0)
    with pytest.raises(ValueError, match="an adapter must learn"):
        setting(lora_rank=0)
    with pytest.raises(DataError, match="--dialogues must be at least 1"):
        setting(dialogues=0)


def test_a_model_whose_shapes_depend_on_its_input_is_refused(monkeypatch):
    def count(*_):
        raise activations.Dynamic("nonzero")
    monkeypatch.setattr(activations, "_count", count)
    shape = config_of("qwen3", 64, 2, 64)
    with pytest.raises(DataError, match="depends on its input"):
        estimate(Setting(shape, LMConfig(model="x"), AgentConfig(), WarmConfig()))


@pytest.mark.parametrize("argv, code, words", [
    (["--model", "Qwen/Qwen3-8B", "--card", "24"], 0, "free: fits"),
    (["--card", "8"], 0, "--lora_rank 16 -> 8 saves"),
    (["--model", "/nowhere"], 2, "--model /nowhere: no such folder"),
])
def test_command_line(capsys, argv, code, words):
    assert memory.main(argv) == code
    out = capsys.readouterr()
    assert words in out.out + out.err
    assert "Traceback" not in out.err


@pytest.mark.parametrize("argv, words", [
    (["--quantise", "int3"], "--quantise must be one of nf4, none"),
    (["--group", "0"], "--group must be at least 1"),
])
def test_a_wrong_flag_is_refused_by_name(capsys, argv, words):
    with pytest.raises(SystemExit) as stopped:
        memory.main(argv)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
