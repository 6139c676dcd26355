"""The language models: the tiny default built on the spot, or any causal LM of the hub or a folder; QLoRA; which precision to use.

`tiny` is Qwen3's architecture at 1.4 M parameters with a byte-level BPE of the training split, so that the code that trains it is the
code that trains Qwen3-8B; `nano` is the same at 0.5 M, for Table 4.  They have read nothing; warmup.py says what they read before GOPO.
A large model is loaded in NF4 with double quantisation (Dettmers et al. 2023) and stays frozen; a LoRA adapter on all its linear layers
learns: QLoRA (GAP-9: the paper does not say how it tunes its models).  Only the adapter is saved; `load_saved` puts it back on its
base, and stock PEFT does too.
Try it:  python models.py                               builds a tiny model, prints its size, its prompt format and this machine's precision
         python models.py merge runs/R/csagent merged   the adapter added to its base in 16 bits: one ordinary model, for any server"""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from data import DataError
from infra.files import read_json
from lm.config import BUILT

SHORT = 2048                                     # tokens; a window below it may be shorter than a prompt
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
# how `transformers serve` finds the answer in what the model wrote; without it the prompt comes along
ANSWER = {"defaults": {"role": "assistant"}, "start_anchor": "<|assistant|>", "fields": {"content": {"close": "<|end|>", "content": "text"}}}


def build_tiny(texts: Iterable[str], slot_names: Iterable[str], seed: int, width: int = 192, layers: int = 3, vocabulary: int = 1024):
    """(model, tokenizer): Qwen3's architecture at 1.4 M parameters, random; byte-level BPE of `texts`, each slot `{price_1}` one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                       show_progress=False))
    bpe.add_tokens([AddedToken(f"{{{name}}}", normalized=False) for name in sorted(set(slot_names))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>", chat_template=CHAT,
                                        additional_special_tokens=special[2:])
    tokenizer.response_template = ANSWER
    torch.manual_seed(seed)
    config = Qwen3Config(vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers, head_dim=32,
                         num_attention_heads=width // 32, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
                         pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    return Qwen3ForCausalLM(config), tokenizer


def load_model(name: str, texts: Iterable[str] = (), slot_names: Iterable[str] = (), seed: int = 0, quantise: str = "none", precision: str = "fp32",
               device: str = "cpu", frozen: bool = False):
    """(model, tokenizer).  "tiny" and "nano" are built; anything else is loaded from the hub or a folder.

    quantise   "nf4": every linear layer but the head in 4 bits, computing in the run's precision; "none": as it is
    frozen     an adapter will learn, the weights will not: then 16 bits hold them where the precision is bf16
    raises     DataError in one line: no such model, no network, code of its own, no chat template
    """
    if name in BUILT:
        return build_tiny(texts, slot_names, seed, *BUILT[name])
    dtype = torch.bfloat16 if precision == "bf16" and (frozen or quantise == "nf4") else torch.float32
    how = {"dtype": dtype, "attn_implementation": "sdpa", "device_map": device}       # a string: with several processes each has its own GPU
    if quantise == "nf4":
        how["quantization_config"] = nf4(dtype)
    try:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(name, **how), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"--model {name}: {reason(str(error))}") from error
    refuse_unsuited(name, model.config)
    if quantise == "nf4":
        keep_gradients(model)
    if tokenizer.chat_template is None:
        raise DataError(f"--model {name}: its tokenizer has no chat template; take the instruct or chat version of the model")
    return model, tokenizer


def refuse_unsuited(name: str, config) -> None:
    """Replies to a state share its prompt here, which only attention that sees all of it allows."""
    text = config.get_text_config()
    kinds, window = set(getattr(text, "layer_types", None) or ()), getattr(text, "sliding_window", None)
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise DataError(f"--model {name}: has {', '.join(sorted(other))} layers; replies can share a prompt in attention alone: take e.g. Qwen/Qwen3-8B")
    if window and window < SHORT and (not kinds or "sliding_attention" in kinds):
        raise DataError(f"--model {name}: its attention sees {window} tokens, fewer than a prompt may have ({SHORT}); take e.g. Qwen/Qwen3-8B")


def reason(error: str) -> str:
    """What transformers says in many lines, in one, with what to do."""
    first = " ".join(error.split("\n\n")[0].split())[:200]
    if "trust_remote_code" in error or "custom code" in error:
        return "brings its own code, which is never run here; take a model that transformers knows, such as Qwen/Qwen2.5-7B-Instruct for Qwen-7B-Chat"
    if "gated" in error or "401" in error:
        return f"the hub asks for a login: accept its licence there and set HF_TOKEN ({first})"
    if "connect" in error.lower() or "offline" in error.lower():
        return f"not in the local cache, and the hub cannot be reached: check the network or give a folder ({first})"
    return f"not 'tiny' or 'nano', nor a folder or a reachable hub id of a causal LM ({first})"


def nf4(compute: torch.dtype):
    """The 4-bit NormalFloat of QLoRA, its scales quantised once more."""
    from transformers import BitsAndBytesConfig
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute)


def keep_gradients(model) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks a layer once it has sampled, and its product then has no gradient: LoRA would learn
    from wrong ones without an error (0.50.2: off by 97 % in the median)."""
    from bitsandbytes.nn import Linear4bit
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def with_adapter(model, rank: int, seed: int = 0):
    """A LoRA adapter (Hu et al. 2022) of this rank on every linear layer but the head, alpha = 2 rank, no dropout.

    No dropout: Eq. 9b wants the log-probability that was sampled from.  The adapter starts as the identity, so this model speaks as its base."""
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))


def load_saved(folder: Path, quantise: str = "none", precision: str = "fp32", device: str = "cpu"):
    """(model, tokenizer) that an agent saved: a whole model, or an adapter and the name of its base."""
    if not (folder / "adapter_config.json").exists():
        return load_model(str(folder), device=device)
    from peft import PeftModel
    base, _ = load_model(read_json(folder / "adapter_config.json")["base_model_name_or_path"], (), (), 0, quantise, precision, device, frozen=True)
    return PeftModel.from_pretrained(base, folder, is_trainable=True), AutoTokenizer.from_pretrained(folder)


def merge(folder: Path, to: Path) -> None:
    """Base + adapter as one model of 16 bits.  The adapter was trained beside the base in 4 bits, so log-probabilities differ slightly from training."""
    if not (folder / "adapter_config.json").exists():
        raise DataError(f"{folder}: no adapter_config.json; give the folder of a run's adapter, as runs/R/csagent")
    if to.exists() and any(to.iterdir()):
        raise DataError(f"{to}: exists and is not empty; give another folder")
    model, tokenizer = load_saved(folder, precision="bf16")
    model.merge_and_unload().save_pretrained(to)
    tokenizer.save_pretrained(to)


def pick_precision(device: str | torch.device = "cpu") -> str:
    """"bf16" if a matrix product is clearly faster in it on this CPU, or if this GPU has it; else "fp32"."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"

    def seconds(dtype) -> float:
        a, times = torch.randn(512, 512).to(dtype), []
        for _ in range(8):
            start = time.perf_counter()
            float((a @ a @ a @ a)[0, 0])
            times.append(time.perf_counter() - start)
        return min(times)
    return "bf16" if seconds(torch.bfloat16) < 0.67 * seconds(torch.float32) else "fp32"


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds a tiny model to look at, or merges a trained adapter into its base.", allow_abbrev=False)
    parser.add_argument("command", nargs="?", choices=["merge"], help="merge ADAPTER TO")
    parser.add_argument("folders", nargs="*", type=Path, help="the adapter's folder, and the folder to write")
    args = parser.parse_args()
    if args.command == "merge":
        if len(args.folders) != 2:
            parser.error("merge takes two folders: the adapter's, and the one to write")
        try:
            merge(*args.folders)
        except DataError as error:
            print(f"models.py: {error}", file=sys.stderr)
            return 2
        print(f"written: {args.folders[1]}; serve it with any server, or train on with --model {args.folders[1]}")
        return 0
    model, tokenizer = build_tiny(["Where is my lamp?", "It arrives {eta}."] * 50, ["eta"], seed=0)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}, precision {pick_precision()}")
    print(tokenizer.apply_chat_template([{"role": "user", "content": "Where is my lamp?"}], add_generation_prompt=True, tokenize=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
