"""memory.py against what runs really allocate: bitsandbytes' tensors, peft's adapter, the cache, Adam, and torch's own record of every allocation.

The oracle of the peaks is the CPU allocator's log (torch.profiler), which knows nothing of dispatch modes or fake tensors."""
from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._C._profiler import _EventType
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import csagent
from csagent import AgentConfig, CustomerServiceAgent
from data import DataError, Request
from lm import decoder, memory
from lm.memory import GIB, SHAPES, Bilinear, estimate, fits, free_memory, load_config, lower, nf4_bytes, table
from lm.models import build_tiny, load_model, with_adapter

AGENT = SimpleNamespace(micro_batch=1, group=4, max_new_tokens=48, user_tokens=256, sft_batch=16, warm_steps=250)
QLORA = {"dialogues": 16, "prompt_tokens": 512, "quantised": True, "lora_rank": 16, "checkpointing": True}
REQUEST = Request("Where is my lamp, and what did it cost? " * 2, ("soothe", "price"), {"eta": "Friday", "price_1": "30 euros"})
_, TOKENIZER = build_tiny(csagent.TALK * 20, csagent.SLOTS, 0, width=64, layers=1)
FAMILY = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def config_of(family: str, hidden: int, layers: int, wide: int, vocabulary: int = 1024):
    return FAMILY[family][0](vocab_size=vocabulary, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers, head_dim=32, num_attention_heads=hidden // 32,
                             num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False, pad_token_id=0, eos_token_id=1, bos_token_id=None)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """agent(family, sizes, ...) as training makes it: saved in 32 bits, loaded as asked."""
    def make(family: str, sizes: tuple, nf4: bool = False, rank: int = 0, precision: str = "fp32", **config) -> CustomerServiceAgent:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        FAMILY[family][1](config_of(family, *sizes)).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        model, tokenizer = load_model(str(folder), quantise="nf4" if nf4 else "none", precision=precision, frozen=rank > 0)
        for module in model.modules():               # bitsandbytes would repack weights at the first reply on CPUs with AVX512-BF16, and lose their gradient
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        cfg = AgentConfig(model=str(folder), quantise="nf4" if nf4 else "none", lora_rank=rank, **config)
        agent = CustomerServiceAgent(with_adapter(model, rank) if rank else model, tokenizer, csagent.DEMO, (), cfg, precision=precision)
        agent.freeze_embedding(csagent.TALK)
        return agent
    return make


def predicted(agent: CustomerServiceAgent, dialogues: int, family: str, sizes: tuple) -> memory.Estimate:
    return estimate(config_of(family, *sizes), agent.cfg, dialogues=dialogues, prompt_tokens=len(agent.prompt(REQUEST)), quantised=agent.cfg.quantise == "nf4",
                    lora_rank=agent.cfg.lora_rank, checkpointing=agent.cfg.gradient_checkpointing, precision=agent.precision, device="cpu")


def moving(e: memory.Estimate, phase: str) -> int:
    return sum(e.phases[phase][part] for part in ("activations", "KV cache", "logits", "other"))


def stored(model) -> int:
    """Bytes of everything a model holds, by looking: parameters, buffers and bitsandbytes' constants, each storage once."""
    tensors = [*model.parameters(), *model.buffers()]
    for q in (getattr(p, "quant_state", None) for p in model.parameters()):
        tensors += [q.absmax, q.code, q.offset, q.state2.absmax, q.state2.code] if q else []
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def allocated(run) -> int:
    """The peak of what the CPU allocator gave out during run(), above what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events, todo = [], list(profile.profiler.kineto_results.experimental_event_tree())
    while todo:
        event = todo.pop()
        todo += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    return int(np.cumsum([size for _, size in sorted(events)]).max())


def full_replies(agent, requests, group):
    """Replies that use up max_new_tokens: the case an estimate is for."""
    replies, L = agent.generate(requests, group, generator=torch.Generator().manual_seed(0)), agent.cfg.max_new_tokens
    for r in (r for row in replies for r in row):
        r.ids, r.mask, r.logp, r.bans = (r.ids * L)[:L], [True] * L, [0.0] * L, [("ban", np.zeros(0, dtype=int))] * L
    return replies


# ---------------------------------------------------------------------------------------------------- what stays, exactly
@pytest.mark.parametrize("family, precision", [("qwen3", "bf16"), ("llama", "fp32")])
def test_weights_adapter_optimiser_gradients_are_exact(build, family, precision):
    sizes = (128, 2, 320)
    agent = build(family, sizes, nf4=True, rank=8, precision=precision)
    e = predicted(agent, 1, family, sizes).parts
    learned = [p for p in agent.model.parameters() if p.requires_grad]
    assert e["adapter"] == sum(p.nbytes for p in learned) and {p.dtype for p in learned} == {torch.float32}
    assert e["weights"] == stored(agent.model) - e["adapter"]
    agent.update([REQUEST], full_replies(agent, [REQUEST], 2), [[0.0, 1.0]])
    assert e["gradients"] == sum(p.grad.nbytes for p in learned)
    assert e["optimiser"] == sum(x.nbytes for state in agent.optimizer.state.values() for x in state.values())
    assert e["adapter"] // 4 == agent.model.get_nb_trainable_parameters()[0]


def test_weights_of_a_whole_model_are_exact(build):
    agent = build("llama", (128, 2, 320), gradient_checkpointing=False)
    e = predicted(agent, 1, "llama", (128, 2, 320)).parts
    assert e["weights"] == stored(agent.model) and e["adapter"] == 0 and e["gradients"] == sum(p.nbytes for p in agent.model.parameters())


def test_published_parameter_counts():      # Qwen3-8B 8.19e9, 14B 14.77e9, Qwen2.5-7B 7.62e9, Llama-3.1-8B 8.03e9: the numbers of their model cards
    for name, billions in {"qwen3-8b": 8.19, "qwen3-14b": 14.77, "qwen2.5-7b": 7.62, "llama-3.1-8b": 8.03}.items():
        c = SHAPES[name]()
        assert memory._weights(type(c), c.to_json_string(use_diff=False), 0, False, 4).learned / 1e9 == pytest.approx(billions, abs=0.006)


def test_nf4_bytes_by_hand():               # 128 x 128: 8192 bytes of codes, 256 scales of a byte, their one fp32 scale, offset 4, code books 64 + 1024
    assert nf4_bytes(128 * 128) == 8192 + 256 + 4 + 4 + 64 + 1024


@given(st.integers(1, 10 ** 9))
def test_nf4_takes_four_bits_and_a_little(n):
    assert n / 2 <= nf4_bytes(n) <= n * 4.13 / 8 + 1200


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_cache_is_exact(family):
    config = config_of(family, 128, 4, 320)
    model, cache = FAMILY[family][1](config).eval(), DynamicCache(config=config)
    with torch.no_grad():
        model(torch.zeros(3, 11, dtype=torch.long), past_key_values=cache, use_cache=True)
        cache.batch_select_indices(torch.tensor([0, 0, 1, 1, 2, 2]))
        for _ in range(5):
            model(torch.zeros(6, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    a = memory._activations(type(config), config.to_json_string(use_diff=False), 0, True, False, False)
    assert 6 * a.cache(4, 16) == sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))


# ---------------------------------------------------------------------------------------------------- what comes and goes, against the allocator's log
SMALL, LARGE = (128, 3, 320), (192, 5, 512)
RUNS = [("qwen3", SMALL, {"nf4": True, "rank": 8, "precision": "bf16", "gradient_checkpointing": True}),
        ("llama", LARGE, {"nf4": True, "rank": 8, "precision": "bf16", "gradient_checkpointing": True}),
        ("llama", SMALL, {"nf4": True, "rank": 8, "gradient_checkpointing": False}),
        ("qwen3", SMALL, {"rank": 0, "gradient_checkpointing": False})]


@pytest.mark.parametrize("family, sizes, how", RUNS)
def test_peaks_are_never_below_and_hardly_above(build, monkeypatch, family, sizes, how):
    """Two sizes, two families: `update`, `supervised` and `generate` of the real agent, and what was predicted for them."""
    monkeypatch.setattr(decoder, "sdpa_kernel", lambda *_: contextlib.nullcontext())             # a GPU's attention is fused; in bf16 the CPU's is not
    monkeypatch.setattr(decoder, "SHARED", 10 ** 6)                                              # as if the prompts began differently: the worst case
    agent, group = build(family, sizes, group=4, micro_batch=1, max_new_tokens=12, sft_batch=8, **how), 4
    replies, rewards = full_replies(agent, [REQUEST] * 2, group), [[0.0, 1.0, 0.0, 1.0]] * 2
    agent.update([REQUEST] * 2, replies, rewards)                                                # Adam's state is counted as optimiser
    runs = {"update": lambda: agent.update([REQUEST] * 2, replies, rewards), "warm start": lambda: agent._backward([(agent.prompt(REQUEST), replies[0][0].ids)] * 8),
            "sampling": lambda: agent.generate([REQUEST] * 2, group, generator=torch.Generator().manual_seed(0))}
    with_loss = predicted(agent, 2, family, sizes)
    monkeypatch.setattr(memory, "FRAGMENTATION", 0.0)
    bare = predicted(agent, 2, family, sizes)
    for phase, run in runs.items():
        agent.optimizer.zero_grad()                                                              # so that gradients are allocated while the log runs
        fresh = 0 if phase == "sampling" else bare.parts["gradients"]
        measured = allocated(run)
        print(f"{family} {sizes} {how} {phase}: {(moving(bare, phase) + fresh) / measured:.3f} of what was allocated")
        assert moving(with_loss, phase) + fresh >= measured, phase
        assert 0.98 * measured <= moving(bare, phase) + fresh <= 1.3 * measured, phase


def test_bytes_of_a_logit(build):
    """With a large vocabulary and next to no model, twice the tokens cost UPDATE bytes for each logit more."""
    V, used = 8192, []
    for L in (24, 48):
        agent = build("qwen3", (64, 1, 64, V), rank=0, gradient_checkpointing=True, micro_batch=1, group=4, max_new_tokens=48)
        replies = full_replies(agent, [REQUEST], 4)
        for r in replies[0]:
            r.ids, r.mask, r.logp, r.bans = r.ids[:L], r.mask[:L], r.logp[:L], r.bans[:L]
        agent.update([REQUEST], replies, [[0.0, 1.0, 0.0, 1.0]])
        agent.optimizer.zero_grad()
        used.append(allocated(lambda: agent.update([REQUEST], replies, [[0.0, 1.0, 0.0, 1.0]])))
    assert (used[1] - used[0]) / (24 * 4 * V) == pytest.approx(memory.UPDATE, abs=1.0)


@settings(max_examples=30)
@given(*[st.integers(0, 1000)] * 4)
def test_four_points_give_the_plane(c, a, b, d):
    def plane(n, t):
        return c + a * n + (b + d * n) * t
    assert Bilinear.through(plane, 16)(40, 777) == plane(40, 777)


def test_checkpointing_keeps_one_border_a_layer():
    e = SHAPES["qwen3-8b"]()
    a = memory._activations(type(e), e.to_json_string(use_diff=False), 16, False, True, True)
    assert a.kept.d == a.peak.d == 4096 * 2                                                      # [T, D] in bf16, for each layer
    assert a.decode.b == 8 * 128 * 2                                                             # a layer's keys while they grow; never repeated for the heads
    assert a.cache.d == 2 * 8 * 128 * 2                                                          # keys and values, 8 heads of 128, bf16


# ---------------------------------------------------------------------------------------------------- advice and words
def big(**change) -> memory.Estimate:
    return estimate(SHAPES["qwen3-8b"](), SimpleNamespace(**(vars(AGENT) | {k: v for k, v in change.items() if k in vars(AGENT)})),
                    **(QLORA | {k: v for k, v in change.items() if k in QLORA}))


@pytest.mark.parametrize("flag, more", [("micro_batch", 8), ("group", 8), ("max_new_tokens", 200), ("dialogues", 32), ("prompt_tokens", 2000), ("checkpointing", False)])
def test_more_of_a_flag_is_never_less_memory(flag, more):
    few, many = big(), big(**{flag: more})
    assert many.total >= few.total and any(many.totals[p] > few.totals[p] for p in few.totals)


def test_lower_is_the_smallest_change():
    e = big(micro_batch=8, group=4)
    free = int(11.5 * GIB)
    steps = lower(e, free)
    assert [s[0] for s in steps] == ["micro_batch", "dialogues"] and steps[-1][3].total <= free          # the batch costs no quality, so it goes first
    s = steps[-1][3].setting
    for flag in ("micro_batch", "dialogues"):                                                            # one more of either would not fit
        assert memory._estimate(replace(s, **{flag: getattr(s, flag) + 1})).total > free


def test_checkpointing_is_advised_before_shorter_replies():
    steps = lower(big(checkpointing=False, sft_batch=8, dialogues=4), 10 * GIB)
    assert ("checkpointing", False, True) in [s[:3] for s in steps] and not {"max_new_tokens", "lora_rank"} & {s[0] for s in steps}


def test_table_adds_up_and_says_what_to_do():
    e = big()
    lines = table(e, 12 * GIB).splitlines()
    columns = [[float(x) for x in line.split("|")[2:-1]] for line in lines[2:11]]
    for phase in range(3):
        assert sum(row[phase] for row in columns[:-1]) == pytest.approx(columns[-1][phase], abs=0.05)
    assert "does not fit by 0." in table(e, 12 * GIB) and "lower --dialogues 16 -> " in table(e, 12 * GIB) and table(e, 12 * GIB).endswith("fits")
    assert "free: fits" in table(e, 24 * GIB) and "unknown" in table(e, None) and "smaller --model" in table(e, 4 * GIB)


def test_fits_marks_what_is_computed():
    rows = fits(["qwen3-8b"], lambda _: big(), (4, 24)).splitlines()[2:]
    assert "—" in rows[0] and all(r.endswith("computed |") for r in rows) and f"{big().total / GIB:.2f}" in rows[1]


def test_free_memory():
    free = free_memory("cpu")
    assert free is None or GIB // 64 < free < 2 ** 50
    assert free_memory("meta") is None


# ---------------------------------------------------------------------------------------------------- bad input
def test_refusals(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="reachable hub id of a causal LM.*qwen3-8b"):
        load_config(str(tmp_path))
    with pytest.raises(DataError, match="--micro_batch must be at least 1"):
        big(micro_batch=0)
    with pytest.raises(DataError, match="4-bit weights do not learn"):
        big(lora_rank=0)


def test_a_model_whose_shapes_depend_on_its_input_is_refused(monkeypatch):
    def count(*_):
        raise memory.Dynamic("nonzero")
    monkeypatch.setattr(memory, "_count", count)
    with pytest.raises(DataError, match="depends on its input"):
        estimate(config_of("qwen3", 64, 2, 64), AGENT, **QLORA)


@pytest.mark.parametrize("argv, code, words", [
    (["--model", "Qwen/Qwen3-8B", "--card", "24"], 0, "free: fits"), (["--quantise", "int3"], 2, "--quantise must be one of nf4, none"),
    (["--group", "0"], 2, "--group must be at least 1"), (["--model", "/nowhere"], 2, "reachable hub id of a causal LM")])
def test_command_line(capsys, argv, code, words):
    assert memory.main(argv) == code
    out = capsys.readouterr()
    assert words in out.out + out.err and "Traceback" not in out.err
