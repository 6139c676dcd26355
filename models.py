"""The language models: the tiny default built on the spot, or any causal LM of the hub or a folder; and which precision to use.

`tiny` is Qwen3's architecture at 1.4 M parameters with a byte-level BPE of the training split, so that the code that trains it is the
code that trains Qwen3-8B.  It has read nothing; warmup.py says what it reads before GOPO.
Try it:  python models.py        builds one, prints its size and its prompt format, and which precision this machine prefers"""
from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from data import DataError

CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


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
    torch.manual_seed(seed)
    config = Qwen3Config(vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers, head_dim=32,
                         num_attention_heads=width // 32, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
                         pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    return Qwen3ForCausalLM(config), tokenizer


def load_model(name: str, texts: Iterable[str] = (), slot_names: Iterable[str] = (), seed: int = 0):
    """(model, tokenizer).  "tiny" is built; anything else is loaded from the hub or a folder (full precision; QLoRA comes with the large models)."""
    if name == "tiny":
        return build_tiny(texts, slot_names, seed)
    try:
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, attn_implementation="sdpa"), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"--model {name}: not 'tiny', nor a folder or a reachable hub id of a causal LM ({cause})") from error


def pick_precision(device: str | torch.device = "cpu") -> str:
    """"bf16" if a matrix product is clearly faster in it on this machine, else "fp32"."""
    def seconds(dtype) -> float:
        a, times = torch.randn(512, 512, device=device).to(dtype), []
        for _ in range(8):
            start = time.perf_counter()
            float((a @ a @ a @ a)[0, 0])                                             # reading a number waits for a GPU
            times.append(time.perf_counter() - start)
        return min(times)
    return "bf16" if seconds(torch.bfloat16) < 0.67 * seconds(torch.float32) else "fp32"


if __name__ == "__main__":
    demo, words = build_tiny(["Where is my lamp?", "It arrives {eta}."] * 50, ["eta"], seed=0)
    print(f"{sum(p.numel() for p in demo.parameters()) / 1e6:.2f} M parameters, vocabulary {len(words)}, precision {pick_precision()}")
    print(words.apply_chat_template([{"role": "user", "content": "Where is my lamp?"}], add_generation_prompt=True, tokenize=False))
