"""QLoRA on tiny models of the real architectures: what runs on a GPU with 8B runs here, in NF4, on a CPU."""
from __future__ import annotations

import json
import math
import re

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config, Qwen3Config, Qwen3NextConfig

import train
from csagent import DEMO, SLOTS, TALK, AgentConfig, CustomerServiceAgent
from data import DataError, Request
from infra.runs import load_tensors, read_rows
from lm.models import build_tiny, keep_gradients, load_model, load_saved, merge, refuse_unsuited, with_adapter
from lm.models import main as models_main

REQUESTS = [Request("Where is my lamp, and what did it cost?", ("soothe", "price"), {"eta": "Friday", "price_1": "30 euros"}),
            Request("Hello?", (), {}), Request("What does the lamp cost?", ("price",), {"price_1": "30 euros", "price_2": "20 euros"})]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Saved tiny models, one of each architecture; they know a few sentences, or their log-probabilities would be all alike."""
    folders = {}
    for name in ("qwen3", "llama"):
        model, tokenizer = build_tiny(TALK * 20, SLOTS, 0, width=64, layers=2)
        if name == "llama":
            torch.manual_seed(0)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=model.config.vocab_size, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=2,
                                                 num_key_value_heads=1, pad_token_id=0, bos_token_id=None, eos_token_id=[tokenizer.eos_token_id, 300]))
        folders[name] = tmp_path_factory.mktemp(name)
        agent = CustomerServiceAgent(model, tokenizer, DEMO, (), AgentConfig())
        agent.supervised([(r, t) for r in REQUESTS for t in TALK], 40, lr=5e-3, batch=12)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def agent_on(folder, precision="fp32", **config) -> CustomerServiceAgent:
    cfg = AgentConfig(**{"model": str(folder), "lora_rank": 4, "group": 3, "max_new_tokens": 24, "agent_lr": 1e-2} | config)
    model, tokenizer = load_model(str(folder), quantise=cfg.quantise, precision=precision, frozen=True)
    agent = CustomerServiceAgent(with_adapter(model, cfg.lora_rank), tokenizer, DEMO, ("guarantee",), cfg, precision=precision)
    agent.freeze_embedding(TALK)
    return agent


def learn(agent, steps=1):
    row = {}
    for seed in range(steps):
        replies = agent.generate(REQUESTS, 3, generator=torch.Generator().manual_seed(seed))
        row = agent.update(REQUESTS, replies, [[1.0, 0.0, None], [0.2, 0.9, 0.5], [0.0, 0.1, 0.3]])
    return row, replies


def frozen(agent) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in agent.model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("name", ["qwen3", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nf4_with_lora_learns_in_the_adapter_alone(bases, name, precision):
    agent = agent_on(bases[name], precision)
    linear = [m for m in agent.model.modules() if type(m) is Linear4bit]
    assert len(linear) == 14 and all(m.weight.quant_type == "nf4" and m.weight.quant_state.nested for m in linear)      # seven a layer, double quantisation
    assert all("lora" in n for n, p in agent.model.named_parameters() if p.requires_grad) and len(agent.params) == 2 * 14
    before, adapter = frozen(agent), [p.detach().clone() for p in agent.params]
    row, _ = learn(agent, 3)
    assert all(map(torch.isfinite, map(torch.tensor, row.values()))) and row["grad_norm"] > 0
    assert all(torch.equal(p, before[n]) for n, p in frozen(agent).items()) and all(not torch.equal(p, q) for p, q in zip(agent.params, adapter))


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_gradients_are_the_same_after_sampling(bases, name):      # bitsandbytes repacks a layer that has sampled, and then has no gradient
    agent, grads = agent_on(bases[name]), []
    with torch.no_grad():
        for p in agent.params:
            p.normal_(0, 0.05, generator=torch.Generator().manual_seed(p.numel()))
    for _ in range(2):
        agent.optimizer.zero_grad()
        agent._backward([(agent.prompt(REQUESTS[0]), agent.encode(TALK[0]))])
        grads.append(torch.cat([p.grad.flatten() for p in agent.params]))
        agent.generate(REQUESTS, 2, generator=torch.Generator().manual_seed(0))
    assert float(grads[0].norm()) > 0 and torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_the_saved_adapter_gives_the_same_log_probabilities_in_stock_peft(bases, name, tmp_path):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer, BitsAndBytesConfig
    agent = agent_on(bases[name])
    learn(agent, 2)
    replies = [row[0] for row in agent.generate(REQUESTS, 1, temperature=0.0)]
    agent.save(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors")) and {p.name for p in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    stock = AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)).eval()
    keep_gradients(stock)                                                                # bitsandbytes' CPU kernel cannot do layers this small
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    soft = CustomerServiceAgent(agent.model, agent.tokenizer, DEMO, (), AgentConfig(model="x", constraints="soft", lora_rank=4))      # no bans but control tokens
    banned = torch.from_numpy(soft.vocab.control)
    for request, reply in zip(REQUESTS, replies):
        prompt, drawn = soft.prompt(request), reply.ids[:sum(reply.mask)]
        assert tokenizer.decode(prompt) == agent.tokenizer.decode(prompt)
        with torch.no_grad():
            logits = stock(input_ids=torch.tensor([prompt + drawn])).logits[0, len(prompt) - 1:-1].float()
        logits[:, banned] = -torch.inf
        wanted = logits.log_softmax(-1).gather(-1, torch.tensor(drawn)[:, None])[:, 0].tolist()
        assert soft.log_probs([request], [reply])[0] == pytest.approx(wanted, abs=2e-4)


def test_the_reference_is_the_base_without_its_adapter(bases):
    agent = agent_on(bases["qwen3"])
    replies = [row[0] for row in agent.generate(REQUESTS, 1, generator=torch.Generator().manual_seed(0))]
    first = agent.log_probs(REQUESTS, replies)
    assert first == agent.log_probs(REQUESTS, replies, reference=True)                   # a new adapter is the identity
    learn(agent, 2)
    assert agent.log_probs(REQUESTS, replies, reference=True) == first != agent.log_probs(REQUESTS, replies)
    with pytest.raises(ValueError, match="--lora_rank 0"):
        CustomerServiceAgent(*build_tiny(TALK, SLOTS, 0, width=64, layers=1), DEMO).log_probs(REQUESTS, replies, reference=True)


def test_sampled_log_probabilities_are_those_of_the_update(bases):
    agent = agent_on(bases["llama"])
    learn(agent)
    replies = [row[0] for row in agent.generate(REQUESTS, 1, generator=torch.Generator().manual_seed(1))]
    for reply, again in zip(replies, agent.log_probs(REQUESTS, replies)):
        assert reply.logp == pytest.approx(again, abs=1e-4) and len(again) == sum(reply.mask)


tokens = st.lists(st.integers(3, 250), min_size=1, max_size=9)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(tokens.map(lambda p: [1, *p]), min_size=1, max_size=3), replies=st.lists(st.lists(tokens, min_size=1, max_size=3), min_size=3, max_size=3))
def test_packed_rows_give_the_logits_of_the_shared_cache(bases, prompts, replies):
    """A state and its replies in one row, against prefill and cache: two ways, one answer."""
    agent = agent_on(bases["qwen3"], gradient_checkpointing=False, quantise="none")
    order = sorted(range(len(prompts)), key=lambda s: len(prompts[s]))                   # states come in any order
    owner = [s for s in order for _ in replies[s]]
    flat = [r for s in order for r in replies[s]]
    with torch.no_grad():
        (cached, read, ids, mask), (packed, read_2, ids_2, mask_2) = (way(prompts, owner, flat) for way in (agent._reply_states, agent._packed_states))
    assert torch.equal(ids, ids_2) and torch.equal(mask, mask_2) and torch.allclose(cached[mask], packed[mask], atol=2e-4)
    assert torch.allclose(read[mask], read_2[mask], atol=2e-4)


def test_checkpointing_and_parts_change_memory_and_not_the_gradient(bases):
    grads = []
    for checkpointing, micro_batch in ((False, 3), (True, 3), (True, 1)):
        agent = agent_on(bases["qwen3"], gradient_checkpointing=checkpointing, micro_batch=micro_batch)
        with torch.no_grad():
            for p in agent.params:
                p.normal_(0, 0.05, generator=torch.Generator().manual_seed(p.numel()))
        replies = agent.generate(REQUESTS, 3, generator=torch.Generator().manual_seed(0))
        agent.update(REQUESTS, replies, [[1.0, 0.0, None], [0.2, 0.9, 0.5], [0.0, 0.1, 0.3]])
        grads.append(torch.cat([p.grad.flatten() for p in agent.params]))
        assert not any(m.training for m in agent.model.modules())                        # what checkpointing switched on is off again
        agent.optimizer.zero_grad()
        grads[-1] = torch.cat([grads[-1], torch.tensor([agent._backward([(agent.prompt(r), agent.encode(t)) for r in REQUESTS for t in TALK])])])
    assert torch.allclose(grads[0], grads[1], rtol=1e-3, atol=1e-6) and torch.allclose(grads[0], grads[2], rtol=1e-3, atol=1e-6) and float(grads[0].norm()) > 0


def test_checkpointing_recomputes_layers(bases):
    agent, counts = agent_on(bases["qwen3"]), []
    layer = agent.model.base_model.model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: counts.append(1))
    agent._backward([(agent.prompt(REQUESTS[0]), agent.encode(TALK[0]))])
    assert len(counts) == 2                                                              # forward, and again in the backward pass


def test_any_of_several_end_tokens_ends_a_reply(bases):
    agent = agent_on(bases["llama"], constraints="soft")
    assert agent.ends == {agent.tokenizer.eos_token_id, 300} and agent.tokenizer.pad_token_id not in agent.ends
    replies = agent.generate([Request("?")], 300, generator=torch.Generator().manual_seed(0))[0]
    assert {r.ids[-1] for r in replies if len(r.ids) < 24} <= agent.ends
    assert not any(i in agent.ends for r in replies for i in r.ids[:-1])


def test_merging_gives_one_ordinary_model(bases, tmp_path, monkeypatch, capsys):
    agent = agent_on(bases["qwen3"], quantise="none")
    learn(agent, 3)
    agent.save(tmp_path / "adapter")
    monkeypatch.setattr("sys.argv", ["models.py", "merge", str(tmp_path / "adapter"), str(tmp_path / "whole")])
    assert models_main() == 0 and "written" in capsys.readouterr().out
    model, _ = load_model(str(tmp_path / "whole"))
    assert not list((tmp_path / "whole").glob("adapter*"))
    ids = torch.tensor([agent.prompt(REQUESTS[0])])
    with torch.no_grad():
        assert torch.allclose(model.float()(input_ids=ids).logits, agent.model(input_ids=ids).logits, atol=0.15)      # 16 bits
        assert not torch.allclose(model(input_ids=ids).logits, load_model(str(bases["qwen3"]))[0](input_ids=ids).logits, atol=0.15)
    with pytest.raises(DataError, match="not empty"):
        merge(tmp_path / "adapter", tmp_path / "whole")
    with pytest.raises(DataError, match="no adapter_config"):
        merge(tmp_path / "whole", tmp_path / "again")


def test_a_template_without_a_system_role_gets_the_skills_in_the_first_message(bases):
    model, tokenizer = load_model(str(bases["qwen3"]))
    tokenizer.chat_template = ("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + tokenizer.chat_template)
    agent = CustomerServiceAgent(model, tokenizer, DEMO, (), AgentConfig(model="x", quantise="none", lora_rank=0))
    said = tokenizer.decode(agent.prompt(Request("And now?", ("price",), {}, (("Hi", "Hello."),))))
    assert "<|system|>" not in said and said.startswith("<|user|>") and said.index("price") < said.index("Hi") < said.index("Hello.") < said.index("And now?")


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_twenty_steps_of_gopo_in_nf4_write_an_adapter_and_resume(bases, tmp_path, capsys, name):
    turns = [{"user": f"Where is lamp {i}?", "skills": ["soothe", "price"][i % 2:], "context": {"price": "30 euros"}, "reply": TALK[i % 3]} for i in range(2)]
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps({"id": f"d{i}", "turns": turns}) + "\n" for i in range(8)))
    flags = ["--dataset", str(tmp_path / "logs.jsonl"), "--model", str(bases[name]), "--device", "cpu", "--precision", "fp32", "--strategy_steps", "1", "--warm_steps", "1",
             "--sft_batch", "2", "--dialogues", "2", "--group", "2", "--max_new_tokens", "6", "--eval_episodes", "0", "--save_every", "10", "--eval_every", "99"]
    assert train.main([*flags, "--steps", "20", "--output_dir", str(tmp_path / "whole")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"weights .*\n.*adapter", printed) and "KV cache" in printed
    rows = read_rows(tmp_path / "whole/metrics.jsonl")
    assert len(rows) == 20 and all(math.isfinite(v) for r in rows for v in r.values() if v is not None) and rows[-1]["grad_norm"] > 0
    warm, whole = (load_tensors(tmp_path / f"whole/{stage}/adapter_model.safetensors") for stage in ("warm_start", "csagent"))
    assert all("lora" in k for k in whole) and all(not torch.equal(warm[k], whole[k]) for k in whole)
    assert train.main([*flags, "--steps", "10", "--output_dir", str(tmp_path / "cut")]) == 0
    assert train.main(["--resume", str(tmp_path / "cut"), "--steps", "20"]) == 0
    cut = load_tensors(tmp_path / "cut/csagent/adapter_model.safetensors")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[k], cut[k]) for k in cut)
    config = json.loads((tmp_path / "whole/csagent/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(bases[name]) and json.loads((tmp_path / "whole/config.json").read_text())["agent"]["quantise"] == "nf4"
    model, _ = load_saved(tmp_path / "whole/csagent", "nf4")
    assert model.peft_config["default"].r == 16


@pytest.mark.parametrize(("flags", "message"), [
    ({"quantise": "nf4"}, "--model tiny starts from nothing"), ({"lora_rank": 8}, "--model tiny starts from nothing"),
    ({"model": "x", "lora_rank": 0}, "an adapter must learn"), ({"model": "x", "lora_rank": -1}, "--lora_rank must be at least 0"),
    ({"quantise": "int8"}, "--quantise must be one of nf4, none"), ({"model": "x", "micro_batch": 0}, "--micro_batch must be at least 1"),
])
def test_impossible_settings_are_refused_by_flag(flags, message):
    with pytest.raises(ValueError, match=message):
        AgentConfig(**flags)


def test_defaults_follow_the_model():
    tiny, large = AgentConfig(), AgentConfig(model="Qwen/Qwen3-8B")
    assert (tiny.quantise, tiny.lora_rank, tiny.gradient_checkpointing, tiny.micro_batch) == ("none", 0, False, 4)
    assert (large.quantise, large.lora_rank, large.gradient_checkpointing, large.micro_batch) == ("nf4", 16, True, 1)
    assert AgentConfig(model="x", quantise="none").gradient_checkpointing is False and AgentConfig(sft_lr=1.0).sft_lr == 1.0


def test_models_that_cannot_be_used_are_named_in_one_line(bases, tmp_path):
    def refused(**config) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        model, tokenizer = load_model(str(bases["qwen3"]))
        model.save_pretrained(folder)
        tokenizer.chat_template = None if config.pop("mute", False) else tokenizer.chat_template
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
        with pytest.raises(DataError) as error:
            load_model(str(folder))
        assert "\n" not in str(error.value) and f"--model {folder}" in str(error.value)
        return str(error.value)
    assert "no chat template" in refused(mute=True)
    assert "its own code, which is never run" in refused(model_type="qwen", architectures=["QWenLMHeadModel"],
                                                         auto_map={"AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"})
    assert "reachable hub id" in refused(model_type="no_such_architecture")
    with pytest.raises(DataError, match="--model"):
        load_model(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("config", "word"), [
    (MistralConfig(sliding_window=512), "sees 512 tokens"), (Gemma3TextConfig(sliding_window=1024), "sees 1024 tokens"),
    (Qwen3NextConfig(), "linear_attention layers")])
def test_models_whose_replies_cannot_share_a_prompt_are_refused(config, word):
    with pytest.raises(DataError, match=rf"--model x: .*{word}.*Qwen/Qwen3-8B"):
        refuse_unsuited("x", config)


def test_models_that_attend_to_all_of_it_are_taken():
    for config in (MistralConfig(sliding_window=4096), MistralConfig(sliding_window=None), Qwen3Config(), LlamaConfig(), Qwen2Config()):
        refuse_unsuited("x", config)


def test_a_large_model_without_a_gpu_is_refused_before_anything_is_written(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert train.main(["--model", "qwen3-8b", "--output_dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "no GPU found" in error and "--device cpu" in error and not (tmp_path / "run").exists()
