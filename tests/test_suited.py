"""Models that cannot be trained as they are: one line that names --model and the cure, before a run
begins; or it works.  Each model here is tiny, saved on the spot."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import train
from csagent import DEMO, CustomerServiceAgent
from data import DataError, Request
from infra.files import read_json
from lm.config import LMConfig
from lm.memory import load_config
from lm.models import CHAT, build_tiny, load_model, load_saved, with_adapter
from lm.models import main as models_main
from lm.suited import end_tokens, refuse_folder, refuse_longer, window_of
from tests.asking import HERE

LOADED = LMConfig(model="x", quantise="none", lora_rank=0)
TEXTS = ["Where is my lamp?", "It costs 30 euros.", "We are sorry, it arrives on Friday."] * 20
SHORT_RUN = (
    "--device cpu --precision fp32 --quantise none --lora_rank 2 --group 2 --strategy_steps 1 "
    "--strategy_dialogues 2 --expert_warm 1 --warm_steps 1 --sft_batch 2 --dialogues 2 --steps 1 "
    "--max_new_tokens 6 --eval_episodes 0 --eval_every 9"
).split()


def tokenizer_of(template=CHAT, end=True):
    tokenizer = build_tiny(TEXTS, [], 0, width=64, layers=1)[1]
    if not end:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer,
                                       chat_template=template)
    tokenizer.chat_template = template
    return tokenizer


def llama(rows, **config):
    torch.manual_seed(0)
    shape = {
        "vocab_size": rows, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "eos_token_id": None, "bos_token_id": None, "pad_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**(shape | config)))


def saved(folder: Path, tokenizer=None, rows=0, model=None, **config) -> Path:
    """A folder with a model; `rows` fewer or more embeddings than tokens."""
    tokenizer = tokenizer or tokenizer_of()
    if model is None:
        config = {"eos_token_id": tokenizer.eos_token_id} | config
        model = llama(len(tokenizer) + rows, **config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def logs(tmp_path):
    turns = []
    for i in range(2):
        turns.append({
            "user": f"Where is lamp {i}?", "skills": ["soothe", "price"][i % 2:],
            "context": {"price": "30 euros"}, "reply": "It costs 30 euros.",
        })
    path = tmp_path / "logs.jsonl"
    write(path, turns)
    return path


def write(path, turns):
    lines = [json.dumps({"id": f"d{i}", "turns": turns}) + "\n" for i in range(8)]
    path.write_text("".join(lines))


def trained(logs, model, run, *more) -> int:
    flags = ["--dataset", str(logs), "--model", str(model), "--output_dir", str(run)]
    return train.main([*flags, *SHORT_RUN, *more])


def refused(logs, model, capsys, *more) -> str:
    """The one line with which train.py refuses, before it has begun a run."""
    run = logs.parent / "run"
    assert trained(logs, model, run, *more) == 2
    assert not run.exists()
    line, = [x for x in capsys.readouterr().err.splitlines() if x.startswith("train.py: ")]
    assert f"--model {model}: " in line
    return line


# --- end tokens ---------------------------------------------------------------------------------

def test_a_model_without_an_end_token(logs, tmp_path, capsys):
    model = saved(tmp_path / "m", tokenizer_of(end=False))
    said = refused(logs, model, capsys)
    assert "has no end token, so no reply would end: set it (tokenizer.eos_token = " in said


def test_an_end_token_only_in_the_generation_config_works(logs, tmp_path):
    model = saved(tmp_path / "m", tokenizer_of(end=False), eos_token_id=1)
    config = read_json(model / "config.json") | {"eos_token_id": None}
    (model / "config.json").write_text(json.dumps(config))
    assert trained(logs, model, tmp_path / "run") == 0
    assert (tmp_path / "run/csagent").is_dir()


def test_end_tokens_by_hand():
    class Knows:
        def __init__(self, end):
            self.eos_token_id = end

    assert end_tokens("m", Knows(3), Knows([3, 7]), 10) == [3, 7]
    assert end_tokens("m", Knows(None), Knows([5, 4]), 10) == [5, 4]
    assert end_tokens("m", Knows(None), Knows(5), 10) == [5]
    # what lies beyond the logits is never drawn
    assert end_tokens("m", Knows(12), Knows([4, 11]), 10) == [4]
    for nothing in (None, [], 99, [None]):
        with pytest.raises(DataError, match="--model m: has no end token"):
            end_tokens("m", Knows(None), Knows(nothing), 10)


# --- windows ------------------------------------------------------------------------------------

def gpt2(tokenizer, window):
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=window, n_embd=32, n_layer=1,
                        n_head=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize("kind", ["learned", "rotary"])
def test_a_window_that_a_prompt_does_not_fit(kind, logs, tmp_path, capsys):
    tokenizer = tokenizer_of()
    model = gpt2(tokenizer, 96) if kind == "learned" else None
    folder = saved(tmp_path / "m", tokenizer, model=model, max_position_embeddings=96)
    said = refused(logs, folder, capsys)
    assert "reads 96 tokens, but the prompt of" in said
    assert f"{logs}, line" in said
    assert "turn" in said
    assert "lower --user_tokens or --max_new_tokens, shorten the facts in context" in said


def test_a_long_message_is_shortened_to_fit(logs, tmp_path, capsys):
    """The flags that the refusal names are a cure."""
    write(logs, [{"user": "lamp " * 2000, "skills": ["price"], "reply": "It costs 30 euros."}])
    model = saved(tmp_path / "m", max_position_embeddings=700)
    assert "lower --user_tokens" in refused(logs, model, capsys, "--user_tokens", "600")
    assert trained(logs, model, tmp_path / "run", "--user_tokens", "32") == 0


def test_windows_by_hand():
    shape = LlamaConfig(max_position_embeddings=64)
    assert window_of(shape) == 64
    assert window_of(GPT2Config(n_positions=128)) == 128
    stretched = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                 "original_max_position_embeddings": 64}
    assert window_of(LlamaConfig(max_position_embeddings=64, rope_parameters=stretched)) == 256
    refuse_longer("m", 60, 4, 64, "p")
    refuse_longer("m", 10 ** 6, 4, None, "p")
    with pytest.raises(DataError, match="--model m: reads 64 tokens, but p has 60 and its reply"):
        refuse_longer("m", 60, 5, 64, "p")


# --- embeddings, templates ----------------------------------------------------------------------

def test_fewer_embeddings_than_tokens(logs, tmp_path, capsys):
    tokenizer = tokenizer_of()
    said = refused(logs, saved(tmp_path / "m", tokenizer, rows=-40), capsys)
    rows = len(tokenizer) - 40
    assert f"a token {len(tokenizer) - 1}, but its embedding table only {rows} rows" in said
    assert f"model.resize_token_embeddings({len(tokenizer)})" in said
    with pytest.raises(DataError, match="resize_token_embeddings"):
        load_model(str(tmp_path / "m"))


def test_an_added_token_that_nothing_uses_may_lie_beyond(tmp_path):
    tokenizer = tokenizer_of()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model = llama(rows, eos_token_id=tokenizer.eos_token_id)
    load_model(str(saved(tmp_path / "m", tokenizer, model=model)))


@pytest.mark.parametrize(("template", "why"), [
    ("{{ messages[0].content | nosuchfilter }}", "TemplateAssertionError"),
    ("{% for m in messages %}{{ m.content }", "TemplateSyntaxError"),
    ("{{ raise_exception('never') }}", "never"),
    ("{{ messages[0].content + 1 }}", "TypeError"),
    ("{{ messages[7].content.text }}", "UndefinedError"),
    ("<|user|><|end|>", "leaves out what the customer wrote"),
])
def test_broken_templates(template, why):
    tokenizer = tokenizer_of(template)
    with pytest.raises(DataError) as error:
        CustomerServiceAgent(llama(len(tokenizer)), tokenizer, DEMO, lm=LOADED)
    said = str(error.value)
    assert said.startswith("--model x: its chat template")
    assert why in said
    assert "correct chat_template in its tokenizer_config.json" in said
    assert "\n" not in said


def test_a_broken_template_is_refused_before_a_run(logs, tmp_path, capsys):
    broken = tokenizer_of("{{ messages[0].content | nosuchfilter }}")
    assert "nosuchfilter" in refused(logs, saved(tmp_path / "m", broken), capsys)


def test_a_template_that_leaves_out_the_instructions_gets_them_in_the_message(tmp_path):
    deaf = CHAT.replace("{% for m in messages %}",
                        "{% for m in messages if m.role != 'system' %}")
    tokenizer = tokenizer_of(deaf)
    agent = CustomerServiceAgent(llama(len(tokenizer), eos_token_id=1), tokenizer, DEMO, lm=LOADED)
    said = tokenizer.decode(agent.prompt(Request("Where is it?", ("price",), {})))
    assert "You are a customer service agent." in said
    assert DEMO["price"].examples[0] in said


# --- folders that are no models -----------------------------------------------------------------

@pytest.fixture
def adapter(tmp_path):
    base = saved(tmp_path / "base")
    with_adapter(load_model(str(base))[0], 2).save_pretrained(tmp_path / "an adapter")
    load_model(str(base))[1].save_pretrained(tmp_path / "an adapter")
    return tmp_path / "an adapter"


def test_an_adapter_given_as_a_model(adapter, logs, capsys):
    said = refused(logs, adapter, capsys)
    assert "is an adapter: merge it first, python -m lm.models merge" in said
    assert f"merge '{adapter}' merged, and give --model merged" in said
    for read in (load_model, load_config):
        with pytest.raises(DataError, match="is an adapter: merge it first"):
            read(str(adapter))


def test_a_base_that_is_not_found_from_here(adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    settings = adapter / "adapter_config.json"
    named = read_json(settings) | {"base_model_name_or_path": "some/base"}
    settings.write_text(json.dumps(named))
    assert models_main(["merge", str(adapter), str(tmp_path / "merged")]) == 2
    said, = capsys.readouterr().err.splitlines()
    assert "its base --model some/base is not found from here" in said
    assert "relative to where training began: go there, or write the whole path into" in said
    assert str(settings) in said
    # from where it was trained it is found
    (tmp_path / "some").mkdir()
    (tmp_path / "base").rename(tmp_path / "some/base")
    monkeypatch.chdir(tmp_path)
    load_saved(adapter)


def test_other_folders(tmp_path):
    (tmp_path / "run/csagent").mkdir(parents=True)
    (tmp_path / "model.gguf").write_text("x")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text("{}")
    for name, said in {
        "run": "is a run directory of train.py; the model is in it: --model .*csagent",
        "model.gguf": "is a file; give the folder",
        "nothing": "no such folder; a relative path counts from where you are",
        "bare": "holds no weights",
    }.items():
        with pytest.raises(DataError, match=f"--model .*{name}: {said}"):
            refuse_folder(str(tmp_path / name))
    for name in ("org/model", "tiny", "gpt2"):
        refuse_folder(name)


def test_a_damaged_model(tmp_path):
    cut = saved(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    half = saved(tmp_path / "half")
    index = {"weight_map": {"a": "model-00002-of-00002.safetensors"}}
    (half / "model.safetensors.index.json").write_text(json.dumps(index))
    mute = saved(tmp_path / "mute")
    (mute / "tokenizer.json").write_text('{"model": 5}')
    for folder, said in {
        cut: "model.safetensors is damaged .* copy or download it again",
        half: "model-00002-of-00002.safetensors is missing",
        mute: "",
    }.items():
        with pytest.raises(DataError, match=f"--model {folder}: {said}") as error:
            load_model(str(folder))
        assert "\n" not in str(error.value)


# --- a run that is read from elsewhere, or whose data changed ------------------------------------

def test_a_relative_model_is_found_from_anywhere(logs, tmp_path):
    saved(tmp_path / "models/m")
    command = [sys.executable, str(HERE / "train.py"), "--dataset", "logs.jsonl", "--model",
               "models/m", "--output_dir", "run", *SHORT_RUN]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"TQDM_DISABLE": "1"})
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run/config.json")["lm"]["model"] == str(tmp_path / "models/m")
    load_saved(tmp_path / "run/csagent")


@pytest.mark.parametrize(("old", "new", "said"), [
    ("soothe", "calm", "its skills 'calm' are unknown to"),
    ('"user"', '"intent": "ask", "user"', "its intents 'ask' are unknown to"),
])
def test_data_that_changed_since_is_named(old, new, said, logs, tmp_path, capsys):
    flags = ["--replies", "template", "--steps", "1", "--eval_episodes", "0", "--precision",
             "fp32"]
    run = tmp_path / "run"
    assert train.main(["--dataset", str(logs), "--output_dir", str(run), *flags]) == 0
    logs.write_text(logs.read_text().replace(old, new))
    capsys.readouterr()
    assert train.main(["--resume", str(run), "--steps", "2"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert f"the data changed: {said} {run}" in line
    assert "put the data back as they were, or train again" in line
    assert "commit" not in line


def test_a_name_too_long_for_a_folder():
    with pytest.raises(DataError, match=r"^--model x{60}: File name too long; give a folder"):
        refuse_folder("x" * 5000)
