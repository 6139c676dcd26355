"""The language models: the tiny default built on the spot, others from the hub or a folder, QLoRA.

`tiny` is Qwen3's architecture at 1.4 M parameters with a byte-level BPE of the training split, so
that the code that trains it is the code that trains Qwen3-8B.  `nano` is the same at 0.5 M, for
Table 4.  Neither has read anything; start/pairs.py says what they read before GOPO. A large model
is loaded in NF4 with double quantisation (Dettmers et al. 2023) and stays frozen; a LoRA adapter
on all its linear layers learns.  That is QLoRA (GAP-9: the paper does not say how it tunes its
models).  Only the adapter is saved; `load_saved` puts it back on its base, and stock PEFT does
too.
Try it:  python -m lm.models            builds a tiny model, prints its size and format
         python -m lm.models merge runs/R/csagent merged
                                        the adapter added to its base in 16 bits"""
from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from data import DataError
from infra.files import read_json
from infra.terminal import forgive
from lm.config import BUILT
from lm.precision import pick_precision
from lm.suited import named, refuse_folder, refuse_small_table, refuse_unsuited

# On some CPUs it misses the package `kernels`, of which nothing here makes use (`keep_gradients`).
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# A run has one line of progress; a bar for each loaded file would break it.
disable_progress_bar()

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# How `transformers serve` finds the answer in what the model wrote, without the prompt.
ANSWER = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {"content": {"close": "<|end|>", "content": "text"}},
}


# ------------------------------------------------------------------------------ built here
def build_tiny(texts: Iterable[str], slot_names: Iterable[str], seed: int, width: int = 192,
               layers: int = 3, vocabulary: int = 1024, tags: Sequence[str] = ()):
    """(model, tokenizer): Qwen3's architecture at 1.4 M parameters, with random weights.

    texts       what the byte-level BPE is trained on
    slot_names  each slot `{price_1}` is one token
    tags        so is each of these, the decisions of an agent that takes one
    """
    tokenizer = _tokenizer(texts, slot_names, vocabulary, tags)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        head_dim=32,
        num_attention_heads=width // 32,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config), tokenizer


def _tokenizer(texts: Iterable[str], slot_names: Iterable[str], vocabulary: int,
               tags: Sequence[str] = ()):
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    names = sorted(set(slot_names))
    bpe.add_tokens([AddedToken(f"{{{name}}}", normalized=False) for name in names])
    bpe.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>", chat_template=CHAT,
        additional_special_tokens=SPECIAL[2:],
    )
    tokenizer.response_template = ANSWER
    return tokenizer


# ------------------------------------------------------------------------------ loaded
def load_model(name: str, texts: Iterable[str] = (), slot_names: Iterable[str] = (),
               seed: int = 0, quantise: str = "none", precision: str = "fp32",
               device: str = "cpu", frozen: bool = False, tags: Sequence[str] = ()):
    """(model, tokenizer).  "tiny" and "nano" are built; anything else is loaded.

    quantise  "nf4": every linear layer but the head in 4 bits, computing in the run's precision;
              "none": as it is
    frozen    an adapter will learn, the weights will not: then 16 bits hold them in bf16
    raises    DataError in one line: no such model, no network, code of its own, an adapter, no chat
              template, fewer embeddings than tokens
    """
    if name in BUILT:
        return build_tiny(texts, slot_names, seed, *BUILT[name], tags=tags)
    in_16_bits = precision == "bf16" and (frozen or quantise == "nf4")
    dtype = torch.bfloat16 if in_16_bits else torch.float32
    # `device_map` is a string: with several processes each has its own GPU.
    how = {"dtype": dtype, "attn_implementation": "sdpa", "device_map": device}
    if quantise == "nf4":
        how["quantization_config"] = nf4(dtype)
    refuse_folder(name)
    with named(name):
        model = AutoModelForCausalLM.from_pretrained(name, **how)
        tokenizer = AutoTokenizer.from_pretrained(name)
    refuse_unsuited(name, model.config)
    refuse_small_table(name, tokenizer, model.get_input_embeddings().weight.shape[0])
    if quantise == "nf4":
        keep_gradients(model)
    if tokenizer.chat_template is None:
        raise DataError(
            f"--model {name}: its tokenizer has no chat template; "
            "take the instruct or chat version of the model"
        )
    return model, tokenizer


# ------------------------------------------------------------------------------ QLoRA
def nf4(compute: torch.dtype):
    """The 4-bit NormalFloat of QLoRA, its scales quantised once more."""
    from transformers import BitsAndBytesConfig
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def keep_gradients(model) -> None:
    """Keeps bitsandbytes from repacking a layer that has sampled, on CPUs with AVX512-BF16.

    The product of a repacked layer has no gradient: LoRA would learn from wrong ones without an
    error (0.50.2: off by 97 % in the median)."""
    from bitsandbytes.nn import Linear4bit
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def with_adapter(model, rank: int, seed: int = 0):
    """A LoRA adapter (Hu et al. 2022) of this rank on every linear layer but the head.

    alpha = 2 rank.  No dropout: Eq. 9b wants the log-probability that was sampled from.  The
    adapter starts as the identity, so this model speaks as its base."""
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def load_saved(folder: Path, quantise: str = "none", precision: str = "fp32",
               device: str = "cpu"):
    """(model, tokenizer) that an agent saved: a whole model, or an adapter on its base."""
    if not (folder / "adapter_config.json").exists():
        return load_model(str(folder), device=device)
    from peft import PeftModel
    name = read_json(folder / "adapter_config.json")["base_model_name_or_path"]
    how = {"quantise": quantise, "precision": precision, "device": device}
    try:
        base, _ = load_model(name, frozen=True, **how)
    except DataError as error:
        if Path(name).exists():
            raise
        raise DataError(
            f"{folder}: its base --model {name} is not found from here; a relative path is "
            "relative to where training began: go there, or write the whole path into "
            f"{folder / 'adapter_config.json'} ({error})"
        ) from error
    with named(str(folder)):
        model = PeftModel.from_pretrained(base, folder, is_trainable=True)
        return model, AutoTokenizer.from_pretrained(folder)


def merge(folder: Path, to: Path) -> None:
    """Base + adapter as one model of 16 bits.

    The adapter was trained with its base in 4 bits, so log-probabilities differ slightly."""
    if not (folder / "adapter_config.json").exists():
        raise DataError(
            f"{folder}: no adapter_config.json; "
            "give the folder of a run's adapter, as runs/R/csagent"
        )
    if to.exists() and any(to.iterdir()):
        raise DataError(f"{to}: exists and is not empty; give another folder")
    model, tokenizer = load_saved(folder, precision="bf16")
    model.merge_and_unload().save_pretrained(to)
    tokenizer.save_pretrained(to)


# ------------------------------------------------------------------------------ to look at
def show_tiny() -> None:
    model, tokenizer = build_tiny(["Where is my lamp?", "It arrives {eta}."] * 50, ["eta"], seed=0)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{size:.2f} M parameters, vocabulary {len(tokenizer)}, precision {pick_precision()}"
    )
    messages = [{"role": "user", "content": "Where is my lamp?"}]
    print(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Builds a tiny model to look at, or merges a trained adapter into its base.",
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", choices=["merge"], help="merge ADAPTER TO")
    parser.add_argument(
        "folders", nargs="*", type=Path, help="the adapter's folder, and the folder to write"
    )
    forgive()
    args = parser.parse_args(argv)
    if args.command != "merge":
        show_tiny()
        return 0
    if len(args.folders) != 2:
        parser.error("merge takes two folders: the adapter's, and the one to write")
    adapter, whole = args.folders
    try:
        merge(adapter, whole)
    except DataError as error:
        print(f"models.py: {error}", file=sys.stderr)
        return 2
    go_on = shlex.join(["--model", str(whole)])
    print(f"written: {whole}; serve it with any server, or train on with {go_on}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
