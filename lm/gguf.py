"""GGUF files of the Llama and Qwen families, written anew as an ordinary model folder.

    file.gguf --read_gguf--> (model, tokenizer)        `converted` keeps the folder in the cache

A GGUF file is one model as llama.cpp keeps it: the config and the tokenizer as named fields, the
weights mostly in 4 to 8 bits.  What cannot be trained in that form is unpacked here, once.  The
package `gguf` reads the file and unpacks the weights; what they mean is said below.  Whatever is
not understood is refused, for a model that is read wrongly speaks no worse than a bad one.
Try it:  python -m lm.gguf file.gguf        converts it and prints the folder for --model
Exercise: leave out `_by_halves`, convert a Llama, and ask it for the capital of France."""
from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from data import DataError
from infra.files import whole_folder
from infra.terminal import forgive

KNOWN = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
# Names of GGUF -> of transformers, for the parts of a layer and for what is outside the layers.
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
FREQUENCIES = "rope_freqs.weight"
# How a text is cut into words before its bytes are merged: by the name that llama.cpp gives it.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{NUMBER}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _GPT4.replace("{NUMBER}", "{1,3}")
_QWEN2 = _GPT4.replace("{NUMBER}", "")
WORDS = {
    "default": (_GPT2,), "gpt-2": (_GPT2,), "smollm": (r"\p{N}", _GPT2), "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,), "llama-bpe": (_LLAMA3,), "qwen2": (_QWEN2,),
    "deepseek-r1-qwen": (_QWEN2,),
}
CONTROL, USER_DEFINED = 3, 4                     # kinds of tokens


def converted(file: Path, cache: Path | None = None) -> Path:
    """The folder with the model of this file, made at its first use.

    cache  default: GOPO_CACHE, or ~/.cache/gopo
    """
    if cache is None:
        cache = Path(os.environ.get("GOPO_CACHE") or Path.home() / ".cache" / "gopo")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    folder = cache / "models" / f"{file.stem}-{digest}"
    if not folder.exists():
        model, tokenizer = read_gguf(file)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as part:
            # What 4 to 8 bits hold loses less in this type than in bf16.
            model.half().save_pretrained(part)
            tokenizer.save_pretrained(part)
        print(f"{file.name}: converted once, into {folder}")
    return folder


def read_gguf(file: Path):
    """(model in fp32, tokenizer) of a GGUF file.

    raises  DataError in one line: no package `gguf`, no such file, another family, a part of it
            that this reader does not know
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise DataError(
            f"--model {file}: a GGUF file is read with the package gguf: pip install gguf"
        ) from None
    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    # Broad for a reason: a damaged file may end anywhere.
    except Exception as error:
        raise DataError(
            f"--model {file}: cannot be read as GGUF ({error}); download it again"
        ) from error
    kind = fields.get("general.architecture")
    if kind not in KNOWN:
        raise DataError(
            f"--model {file}: a GGUF file of {kind}; {', '.join(KNOWN)} are read: give the folder "
            "of its safetensors"
        )
    return _Gguf(file, kind, fields, reader.tensors).read()


class _Gguf:
    """A file of a known family, opened."""

    def __init__(self, file: Path, kind: str, fields: Mapping[str, Any], tensors: Sequence[Any]):
        self.file = file
        self.kind = kind
        self.fields = fields
        self.tensors = {tensor.name: tensor for tensor in tensors}

    def read(self):
        tokenizer = tokenizer_of(self.fields, self.refuse)
        kind, model_of = KNOWN[self.kind]
        config = kind(**self.config())
        with torch.device("meta"):
            model = model_of(config)
        weights = self.weights(config)
        wanted = set(model.state_dict())
        if config.tie_word_embeddings:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        if wanted != set(weights):
            different = sorted(wanted.symmetric_difference(weights))
            raise self.refuse(f"lacks or has beyond its family {different[0]}")
        # Buffers are none of the weights: the model is made anew around its own.
        model = model_of(config)
        model.load_state_dict(weights)
        model.generation_config.eos_token_id = self.ends()
        return model.eval(), tokenizer

    def refuse(self, what: str) -> DataError:
        return DataError(
            f"--model {self.file}: {what}, which this reader does not know; give the folder of "
            "the model's safetensors"
        )

    def of(self, name: str, default: Any = None) -> Any:
        """A field of the model's family; DataError if it has none and there is no default."""
        value = self.fields.get(f"{self.kind}.{name}", default)
        if value is None:
            raise self.refuse(f"has no {self.kind}.{name}")
        return value

    # ---------------------------------------------------------------------- the config
    def config(self) -> dict[str, Any]:
        heads = self.of("attention.head_count")
        width = self.of("embedding_length")
        head_dim = self.of("attention.key_length", self.of("rope.dimension_count", width // heads))
        if self.of("rope.scaling.type", "none") != "none":
            raise self.refuse(f"has stretched positions ({self.of('rope.scaling.type')})")
        ids = {}
        for name, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
            ids[f"{name}_token_id"] = self.fields.get(f"tokenizer.ggml.{field}_token_id")
        config = {
            "vocab_size": self.tensors["token_embd.weight"].data.shape[0],
            "hidden_size": width,
            "intermediate_size": self.of("feed_forward_length"),
            "num_hidden_layers": self.of("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.of("attention.head_count_kv", heads),
            "max_position_embeddings": self.of("context_length"),
            "rms_norm_eps": self.of("attention.layer_norm_rms_epsilon"),
            "rope_parameters": self.angles(head_dim),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            **ids,
        }
        if self.kind != "qwen2":                 # whose heads always share the width
            config["head_dim"] = head_dim
        return config

    def angles(self, head_dim: int) -> dict[str, Any]:
        """RoPE's parameters.

        Llama 3.1 and later turn slow angles even slower.  The file holds by how much; the numbers
        behind it are found again from that, and must explain it.
        """
        theta = float(self.of("rope.freq_base", 10_000.0))
        if FREQUENCIES not in self.tensors:
            return {"rope_type": "default", "rope_theta": theta}
        told = self.unpacked(FREQUENCIES).numpy()                                  # [head_dim / 2]
        factor = float(told.max())
        low, high, original = 1.0, 4.0, 8192
        turns = original * theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * np.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        if not np.allclose(1 / told, (1 - smooth) / factor + smooth, rtol=1e-3):
            raise self.refuse("has angles of another kind than Llama 3.1's")
        return {
            "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": original,
        }

    def ends(self) -> list[int]:
        """Ids that end a reply: of a text, and of a turn."""
        found = []
        for name in ("eos", "eot"):
            token = self.fields.get(f"tokenizer.ggml.{name}_token_id")
            if token is not None and token not in found:
                found.append(int(token))
        return found

    # ---------------------------------------------------------------------- the weights
    def weights(self, config) -> dict[str, Tensor]:
        """transformers' name -> weight, fp32."""
        found = {}
        for name in self.tensors:
            if name == FREQUENCIES:
                continue
            weight = self.unpacked(name)
            if self.kind == "llama" and ".attn_q." in name:
                weight = _by_halves(weight, config.num_attention_heads)
            elif self.kind == "llama" and ".attn_k." in name:
                weight = _by_halves(weight, config.num_key_value_heads)
            found[self.renamed(name)] = weight
        return found

    def unpacked(self, name: str) -> Tensor:
        from gguf import dequantize
        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise self.refuse(f"keeps {name} as {tensor.tensor_type.name}") from None
        return torch.from_numpy(np.array(values, dtype=np.float32))

    def renamed(self, name: str) -> str:
        """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
        start, _, kind = name.rpartition(".")
        if start in OUTSIDE:
            return f"{OUTSIDE[start]}.{kind}"
        block, _, rest = start.partition(".")
        number, _, part = rest.partition(".")
        if block != "blk" or part not in PARTS:
            raise self.refuse(f"has a tensor {name}")
        return f"model.layers.{number}.{PARTS[part]}.{kind}"


def _by_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a head from (pairs that turn together, side by side) to (first halves, second ones).

    llama.cpp turns neighbours, transformers a row with the one half a head later.
    """
    rows = weight.view(heads, -1, 2, *weight.shape[1:])                    # [H, d / 2, 2, ..]
    return rows.transpose(1, 2).reshape(weight.shape)


# ------------------------------------------------------------------------------ the tokenizer
def tokenizer_of(fields: Mapping[str, Any], refuse) -> PreTrainedTokenizerFast:
    """The tokenizer that the fields describe: byte-level BPE, or SentencePiece's."""
    tokens = fields.get("tokenizer.ggml.tokens")
    if not tokens:
        raise refuse("has no tokenizer")
    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        backend = _byte_level(tokens, fields, refuse)
    elif kind == "llama":
        backend = _sentence_piece(tokens, fields)
    else:
        raise refuse(f"has a tokenizer of kind {kind}")
    kinds = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    for token, number in zip(tokens, kinds):
        if number in (CONTROL, USER_DEFINED):
            special = number == CONTROL
            backend.add_tokens([AddedToken(token, normalized=False, special=special)])
    names = {}
    for name, field in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = fields.get(f"tokenizer.ggml.{field}_token_id")
        if token is not None:
            names[f"{name}_token"] = tokens[token]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False, **names,
    )


def _byte_level(tokens: Sequence[str], fields: Mapping[str, Any], refuse) -> Tokenizer:
    words = fields.get("tokenizer.ggml.pre", "default")
    if words not in WORDS:
        raise refuse(f"cuts texts into words as {words}")
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(BPE(vocabulary, merges))
    cuts = []
    for pattern in WORDS[words]:
        cuts.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, in_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(tokens: Sequence[str], fields: Mapping[str, Any]) -> Tokenizer:
    """SentencePiece's BPE: a space is written as a mark, what is in no token as its bytes."""
    scores = fields["tokenizer.ggml.scores"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    unknown = tokens[fields.get("tokenizer.ggml.unknown_token_id", 0)]
    merges = _implied_merges(vocabulary, scores)
    backend = Tokenizer(BPE(
        vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True,
    ))
    marks = [normalizers.Replace(" ", "▁")]
    strip = []
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        marks.insert(0, normalizers.Prepend("▁"))
        strip = [decoders.Strip(" ", 1, 0)]
    backend.normalizer = normalizers.Sequence(marks)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def _implied_merges(vocabulary: Mapping[str, int],
                    scores: Sequence[float]) -> list[tuple[str, str]]:
    """Pairs of tokens that make a third one, those with the highest score first."""
    found = []
    for token, number in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-scores[number], vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def main(argv: Sequence[str] | None = None) -> int:
    forgive()
    files = sys.argv[1:] if argv is None else argv
    if len(files) != 1:
        print("lm.gguf: give one file.gguf", file=sys.stderr)
        return 2
    try:
        print(converted(Path(files[0])))
    except (DataError, OSError) as error:
        print(f"lm.gguf: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
