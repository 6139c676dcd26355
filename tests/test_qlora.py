"""QLoRA on tiny models of the real architectures: what a GPU runs with 8B, in NF4 on a CPU."""
from __future__ import annotations

import json
import math
import re

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import AutoPeftModelForCausalLM
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

import train
from csagent import DEMO, SLOTS, TALK, CustomerServiceAgent
from data import DataError, Request
from infra.files import read_json
from infra.runs import load_tensors, read_rows
from lm.config import LMConfig, WarmConfig, configs_of
from lm.decoder import token_logp
from lm.models import build_tiny, keep_gradients, load_model, load_saved, merge, with_adapter
from lm.models import main as models_main
from lm.suited import refuse_unsuited
from start.supervised import backward, settled, supervised
from tests.agents import seeded

REQUESTS = [
    Request(
        "Where is my lamp, and what did it cost?", ("soothe", "price"),
        {"eta": "Friday", "price_1": "30 euros"},
    ),
    Request("Hello?", (), {}),
    Request(
        "What does the lamp cost?", ("price",), {"price_1": "30 euros", "price_2": "20 euros"},
    ),
]
REWARDS = [[1.0, 0.0, None], [0.2, 0.9, 0.5], [0.0, 0.1, 0.3]]
ARCHITECTURES = ["qwen3", "llama"]


def every_pair() -> list[tuple[Request, str]]:
    pairs = []
    for request in REQUESTS:
        pairs += [(request, text) for text in TALK]
    return pairs


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Saved tiny models, one of each architecture.

    They know a few sentences, or their log-probabilities would be all alike."""
    folders = {}
    for name in ARCHITECTURES:
        model, tokenizer = build_tiny(TALK * 20, SLOTS, 0, width=64, layers=2)
        if name == "llama":
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=model.config.vocab_size, hidden_size=64, intermediate_size=160,
                num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                pad_token_id=0, bos_token_id=None, eos_token_id=[tokenizer.eos_token_id, 300],
            )
            model = LlamaForCausalLM(config)
        agent = CustomerServiceAgent(model, tokenizer, DEMO)
        supervised(agent, every_pair(), 40, WarmConfig(sft_lr=5e-3, sft_batch=12))
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def agent_on(folder, precision="fp32", **flags) -> CustomerServiceAgent:
    given = {
        "model": str(folder), "lora_rank": 4, "group": 3, "max_new_tokens": 24, "agent_lr": 1e-2,
    }
    lm, cfg, _ = configs_of({"agent": given | flags})
    model, tokenizer = load_model(
        str(folder), quantise=lm.quantise, precision=precision, frozen=True
    )
    model = with_adapter(model, lm.lora_rank)
    agent = CustomerServiceAgent(
        model, tokenizer, DEMO, ("guarantee",), cfg, lm, precision=precision
    )
    agent.freeze_embedding(TALK)
    return agent


def learn(agent, steps=1) -> dict[str, float]:
    row = {}
    for seed in range(steps):
        prepared = agent.prepare(REQUESTS)
        replies = agent.speak(prepared, 3, generator=seeded(seed))
        row = agent.update(prepared, replies, REWARDS)
    return row


def frozen(agent) -> dict[str, torch.Tensor]:
    kept = {}
    for name, p in agent.model.named_parameters():
        if not p.requires_grad:
            kept[name] = p.detach().clone()
    return kept


def shake(agent) -> None:
    """An adapter that says something: a new one is the identity."""
    with torch.no_grad():
        for p in agent.params:
            p.normal_(0, 0.05, generator=seeded(p.numel()))


def pass_back(agent, requests, texts) -> float:
    """The supervised loss of each text as the answer to each request; its gradient is added."""
    data = []
    for request in requests:
        prompt = agent.prompt(request)
        data += [(prompt, agent.encode(text)) for text in texts]
    return backward(agent, data, settled(agent, None))


def gradient(agent) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in agent.params])


# ------------------------------------------------------------------------------ learning
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nf4_with_lora_learns_in_the_adapter_alone(bases, name, precision):
    agent = agent_on(bases[name], precision)
    linear = [m for m in agent.model.modules() if type(m) is Linear4bit]
    # seven a layer, double quantisation
    assert len(linear) == 14
    assert all(m.weight.quant_type == "nf4" for m in linear)
    assert all(m.weight.quant_state.nested for m in linear)
    learning = [n for n, p in agent.model.named_parameters() if p.requires_grad]
    assert all("lora" in n for n in learning)
    assert len(agent.params) == 2 * 14
    before = frozen(agent)
    adapter = [p.detach().clone() for p in agent.params]
    row = learn(agent, 3)
    assert all(map(math.isfinite, row.values()))
    assert row["grad_norm"] > 0
    assert all(torch.equal(p, before[n]) for n, p in frozen(agent).items())
    assert all(not torch.equal(p, q) for p, q in zip(agent.params, adapter))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_the_same_after_sampling(bases, name):
    # bitsandbytes repacks a layer that has sampled, and then it has no gradient
    agent = agent_on(bases[name])
    shake(agent)
    grads = []
    for _ in range(2):
        agent.optimizer.zero_grad()
        pass_back(agent, REQUESTS[:1], TALK[:1])
        grads.append(gradient(agent))
        agent.generate(REQUESTS, 2, generator=seeded(0))
    assert float(grads[0].norm()) > 0
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def stock_nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_saved_adapter_gives_the_same_log_probabilities_in_stock_peft(bases, name, tmp_path):
    agent = agent_on(bases[name])
    learn(agent, 2)
    replies = [row[0] for row in agent.generate(REQUESTS, 1, temperature=0.0)]
    agent.save(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    stock = AutoPeftModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=stock_nf4()
    ).eval()
    # bitsandbytes' CPU kernel cannot do layers this small
    keep_gradients(stock)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    # no bans but control tokens
    lm = LMConfig(model="x", constraints="soft", lora_rank=4)
    soft = CustomerServiceAgent(agent.model, agent.tokenizer, DEMO, lm=lm)
    banned = torch.from_numpy(soft.vocab.control)
    for prepared, reply in zip(soft.prepare(REQUESTS), replies):
        prompt = prepared.ids
        drawn = reply.ids[:sum(reply.mask)]
        assert tokenizer.decode(prompt) == agent.tokenizer.decode(prompt)
        with torch.no_grad():
            out = stock(input_ids=torch.tensor([prompt + drawn]))
        logits = out.logits[0, len(prompt) - 1:-1].float()
        logits[:, banned] = -torch.inf
        wanted = token_logp(logits, torch.tensor(drawn)).tolist()
        assert soft.log_probs([prepared], [reply])[0] == pytest.approx(wanted, abs=2e-4)


def test_the_reference_is_the_base_without_its_adapter(bases):
    agent = agent_on(bases["qwen3"])
    prepared = agent.prepare(REQUESTS)
    replies = [row[0] for row in agent.speak(prepared, 1, generator=seeded(0))]
    first = agent.log_probs(prepared, replies)
    # a new adapter is the identity
    assert first == agent.log_probs(prepared, replies, reference=True)
    learn(agent, 2)
    assert agent.log_probs(prepared, replies, reference=True) == first
    assert agent.log_probs(prepared, replies) != first
    whole = CustomerServiceAgent(*build_tiny(TALK, SLOTS, 0, width=64, layers=1), DEMO)
    with pytest.raises(ValueError, match="--lora_rank 0"):
        whole.log_probs(prepared, replies, reference=True)


def test_sampled_log_probabilities_are_those_of_the_update(bases):
    agent = agent_on(bases["llama"])
    learn(agent)
    prepared = agent.prepare(REQUESTS)
    replies = [row[0] for row in agent.speak(prepared, 1, generator=seeded(1))]
    for reply, again in zip(replies, agent.log_probs(prepared, replies)):
        assert reply.logp == pytest.approx(again, abs=1e-4)
        assert len(again) == sum(reply.mask)


# ------------------------------------------------------------------------------ memory
tokens = st.lists(st.integers(3, 250), min_size=1, max_size=9)
some_prompts = st.lists(tokens.map(lambda p: [1, *p]), min_size=1, max_size=3)
some_replies = st.lists(st.lists(tokens, min_size=1, max_size=3), min_size=3, max_size=3)
shared_fixture = [HealthCheck.function_scoped_fixture]


@settings(max_examples=15, deadline=None, suppress_health_check=shared_fixture)
@given(prompts=some_prompts, replies=some_replies)
def test_packed_rows_give_the_logits_of_the_shared_cache(bases, prompts, replies):
    """A state and its replies in one row, against prefill and cache."""
    agent = agent_on(bases["qwen3"], gradient_checkpointing=False, quantise="none")
    owner = []
    flat = []
    # states come in any order
    for state in sorted(range(len(prompts)), key=lambda s: len(prompts[s])):
        owner += [state] * len(replies[state])
        flat += replies[state]
    with torch.no_grad():
        cached = agent.reply_states(prompts, owner, flat)
        packed = agent.packed_states(prompts, owner, flat)
    mask = cached.mask
    assert torch.equal(cached.ids, packed.ids)
    assert torch.equal(mask, packed.mask)
    assert torch.allclose(cached.logits[mask], packed.logits[mask], atol=2e-4)
    assert torch.allclose(cached.hidden[mask], packed.hidden[mask], atol=2e-4)


def test_checkpointing_and_parts_change_memory_and_not_the_gradient(bases):
    grads = []
    for checkpointing, micro_batch in ((False, 3), (True, 3), (True, 1)):
        agent = agent_on(
            bases["qwen3"], gradient_checkpointing=checkpointing, micro_batch=micro_batch
        )
        shake(agent)
        prepared = agent.prepare(REQUESTS)
        replies = agent.speak(prepared, 3, generator=seeded(0))
        agent.update(prepared, replies, REWARDS)
        found = gradient(agent)
        # what checkpointing switched on is off again
        assert not any(m.training for m in agent.model.modules())
        agent.optimizer.zero_grad()
        loss = pass_back(agent, REQUESTS, TALK)
        grads.append(torch.cat([found, torch.tensor([loss])]))
    plain, packed, parts = grads
    assert torch.allclose(plain, packed, rtol=1e-3, atol=1e-6)
    assert torch.allclose(plain, parts, rtol=1e-3, atol=1e-6)
    assert float(plain.norm()) > 0


def test_checkpointing_recomputes_layers(bases):
    agent = agent_on(bases["qwen3"])
    counts = []
    layer = agent.model.base_model.model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: counts.append(1))
    pass_back(agent, REQUESTS[:1], TALK[:1])
    # forward, and again in the backward pass
    assert len(counts) == 2


# ------------------------------------------------------------------------------ what a model brings
def test_any_of_several_end_tokens_ends_a_reply(bases):
    agent = agent_on(bases["llama"], constraints="soft")
    assert agent.ends == {agent.tokenizer.eos_token_id, 300}
    assert agent.tokenizer.pad_token_id not in agent.ends
    replies = agent.generate([Request("?")], 300, generator=seeded(0))[0]
    assert {r.ids[-1] for r in replies if len(r.ids) < 24} <= agent.ends
    for r in replies:
        assert not agent.ends.intersection(r.ids[:-1])


def test_merging_gives_one_ordinary_model(bases, tmp_path, capsys):
    agent = agent_on(bases["qwen3"], quantise="none")
    learn(agent, 3)
    adapter = tmp_path / "adapter"
    whole = tmp_path / "whole"
    agent.save(adapter)
    assert models_main(["merge", str(adapter), str(whole)]) == 0
    assert "written" in capsys.readouterr().out
    model, _ = load_model(str(whole))
    base, _ = load_model(str(bases["qwen3"]))
    assert not list(whole.glob("adapter*"))
    ids = torch.tensor([agent.prompt(REQUESTS[0])])
    with torch.no_grad():
        merged = model.float()(input_ids=ids).logits
        # 16 bits
        assert torch.allclose(merged, agent.model(input_ids=ids).logits, atol=0.15)
        assert not torch.allclose(merged, base(input_ids=ids).logits, atol=0.15)
    with pytest.raises(DataError, match="not empty"):
        merge(adapter, whole)
    with pytest.raises(DataError, match="no adapter_config"):
        merge(whole, tmp_path / "again")


def test_a_template_without_a_system_role_gets_the_skills_in_the_first_message(bases):
    model, tokenizer = load_model(str(bases["qwen3"]))
    refusal = (
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
    )
    tokenizer.chat_template = refusal + tokenizer.chat_template
    lm = LMConfig(model="x", quantise="none", lora_rank=0)
    agent = CustomerServiceAgent(model, tokenizer, DEMO, lm=lm)
    said = tokenizer.decode(
        agent.prompt(Request("And now?", ("price",), {}, (("Hi", "Hello."),)))
    )
    assert "<|system|>" not in said
    assert said.startswith("<|user|>")
    order = [said.index(text) for text in ("price", "Hi", "Hello.", "And now?")]
    assert order == sorted(order)
    assert len(set(order)) == 4


# ------------------------------------------------------------------------------ a whole run
def write_logs(path) -> None:
    turns = []
    for i in range(2):
        turns.append({
            "user": f"Where is lamp {i}?", "skills": ["soothe", "price"][i % 2:],
            "context": {"price": "30 euros"}, "reply": TALK[i % 3],
        })
    lines = [json.dumps({"id": f"d{i}", "turns": turns}) + "\n" for i in range(8)]
    path.write_text("".join(lines))


def flags_of(logs, model) -> list[str]:
    given = {
        "dataset": logs, "model": model, "device": "cpu", "precision": "fp32", "quantise": "nf4",
        "strategy_steps": 1, "strategy_dialogues": 2, "expert_warm": 1, "warm_steps": 1,
        "sft_batch": 2, "dialogues": 2, "group": 2,
        "max_new_tokens": 6, "eval_episodes": 0, "save_every": 10, "eval_every": 99,
    }
    flags = []
    for name, value in given.items():
        flags += [f"--{name}", str(value)]
    return flags


@pytest.mark.parametrize(("name", "steps"), [("qwen3", 20), ("llama", 4)])
def test_steps_of_gopo_in_nf4_write_an_adapter_and_resume(bases, tmp_path, capsys, name, steps):
    logs = tmp_path / "logs.jsonl"
    write_logs(logs)
    flags = flags_of(logs, bases[name])
    run = tmp_path / "whole"
    assert train.main([*flags, "--steps", str(steps), "--output_dir", str(run)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"weights .*\n.*adapter", printed)
    assert "KV cache" in printed
    rows = read_rows(run / "metrics.jsonl")
    assert len(rows) == steps
    for row in rows:
        assert all(math.isfinite(v) for v in row.values() if v is not None)
    assert rows[-1]["grad_norm"] > 0
    warm = load_tensors(run / "warm_start/adapter_model.safetensors")
    whole = load_tensors(run / "csagent/adapter_model.safetensors")
    assert all("lora" in key for key in whole)
    assert all(not torch.equal(warm[key], whole[key]) for key in whole)

    half = ["--steps", str(steps // 2), "--output_dir", str(tmp_path / "cut")]
    assert train.main([*flags, *half]) == 0
    assert train.main(["--resume", str(tmp_path / "cut"), "--steps", str(steps)]) == 0
    cut = load_tensors(tmp_path / "cut/csagent/adapter_model.safetensors")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in cut)

    adapter = read_json(run / "csagent/adapter_config.json")
    assert adapter["base_model_name_or_path"] == str(bases[name])
    assert read_json(run / "config.json")["lm"]["quantise"] == "nf4"
    model, _ = load_saved(run / "csagent", "nf4")
    assert model.peft_config["default"].r == 16


# ------------------------------------------------------------------------------ refusals
def refused(base, folder, mute: bool = False, **config) -> str:
    """What is said of a copy of the base with another config or without a chat template."""
    model, tokenizer = load_model(str(base))
    model.save_pretrained(folder)
    if mute:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    changed = read_json(folder / "config.json") | config
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(DataError) as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)
    assert f"--model {folder}" in str(error.value)
    return str(error.value)


def test_models_that_cannot_be_used_are_named_in_one_line(bases, tmp_path):
    base = bases["qwen3"]
    assert "no chat template" in refused(base, tmp_path / "0", mute=True)
    own_code = {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    }
    told = refused(
        base, tmp_path / "1", model_type="qwen", architectures=["QWenLMHeadModel"],
        auto_map=own_code,
    )
    assert "its own code, which is never run" in told
    told = refused(base, tmp_path / "2", model_type="no_such_architecture")
    assert "reachable hub id" in told
    with pytest.raises(DataError, match="--model"):
        load_model(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("config", "word"), [
    (MistralConfig(sliding_window=512), "sees 512 tokens"),
    (Gemma3TextConfig(sliding_window=1024), "sees 1024 tokens"),
    (Qwen3NextConfig(), "linear_attention layers"),
])
def test_models_whose_replies_cannot_share_a_prompt_are_refused(config, word):
    with pytest.raises(DataError, match=rf"--model x: .*{word}.*Qwen/Qwen3-8B"):
        refuse_unsuited("x", config)


@pytest.mark.parametrize("config", [
    MistralConfig(sliding_window=4096),
    MistralConfig(sliding_window=None),
    Qwen3Config(),
    LlamaConfig(),
    Qwen2Config(),
])
def test_models_that_attend_to_all_of_it_are_taken(config):
    refuse_unsuited("x", config)


def test_a_large_model_without_a_gpu_is_refused_before_anything_is_written(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert train.main(["--model", "qwen3-8b", "--output_dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "no GPU found" in error
    assert "--device cpu" in error
    assert not (tmp_path / "run").exists()
