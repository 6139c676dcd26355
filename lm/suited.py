"""Whether a language model can be trained here: what is refused, in one line that names --model.

Everything here is known before any weight is read: from a folder's files, the config, the tokenizer
and its chat template.  start/check.py asks for all of it before a run begins; `load_model` and the
decoder ask again for what they need, for runs that are resumed, evaluated or merged.
Exercise: save a model without its end token, and see what each of train, eval and merge says."""
from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from data import DataError

# Tokens; a window of attention below it may be shorter than a prompt.
SHORT = 2048
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
EOS = "tokenizer.eos_token = '<|im_end|>'"


# ------------------------------------------------------------------------------ what went wrong
@contextmanager
def named(name: str) -> Iterator[None]:
    """What the libraries that read a model complain about, as one line that names --model."""
    try:
        yield
    except (DataError, torch.OutOfMemoryError, MemoryError):
        raise
    # Broad for a reason: tokenizers raises nothing narrower, and a damaged file may be anything.
    except Exception as error:
        raise DataError(f"--model {name}: {reason(str(error))}") from error


def reason(error: str) -> str:
    """What transformers says in many lines, in one, with what to do."""
    first = " ".join(error.split("\n\n")[0].split())[:200]
    if "trust_remote_code" in error or "custom code" in error:
        return (
            "brings its own code, which is never run here; take a model that transformers knows, "
            "such as Qwen/Qwen2.5-7B-Instruct for Qwen-7B-Chat"
        )
    if "gated" in error or "401" in error:
        return f"the hub asks for a login: accept its licence there and set HF_TOKEN ({first})"
    if "connect" in error.lower() or "offline" in error.lower():
        return (
            "not in the local cache, and the hub cannot be reached: "
            f"check the network or give a folder ({first})"
        )
    said = f"not 'tiny' or 'nano', nor a folder or a reachable hub id of a causal LM ({first})"
    if "does not appear to have a file named config.json" in error:
        said += "; an adapter has to be merged into its base first"
    return said


# ------------------------------------------------------------------------------ files
def refuse_folder(name: str) -> None:
    """Refuses a folder that is no model: an adapter, a run, a file, nothing, half a download."""
    folder = Path(name)
    try:
        folder.exists()
    except OSError as error:                     # a name too long for any folder
        raise DataError(f"--model {name[:60]}: {error.strerror}; give a folder, or a model of the "
                        "hub") from None
    if (folder / "adapter_config.json").exists():
        raise DataError(
            f"--model {name}: is an adapter: merge it first, "
            f"python -m lm.models merge {shlex.quote(name)} merged, and give --model merged"
        )
    if (folder / "csagent").is_dir():
        raise DataError(
            f"--model {name}: is a run directory of train.py; the model is in it: "
            f"--model {folder / 'csagent'}"
        )
    if folder.is_file():
        raise DataError(f"--model {name}: is a file; give the folder that holds a model")
    if name.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        raise DataError(
            f"--model {name}: no such folder; a relative path counts from where you are: "
            f"{Path.cwd()}"
        )
    if (folder / "config.json").is_file():
        refuse_damaged_weights(folder)


def refuse_damaged_weights(folder: Path) -> None:
    """Refuses a model's folder that lacks weights, or whose weights are cut short."""
    files = []
    for pattern in WEIGHTS:
        files += sorted(folder.glob(pattern))
    if not files:
        raise DataError(
            f"--model {folder}: holds no weights ({' or '.join(WEIGHTS)}); copy or download them"
        )
    for index in folder.glob("*.index.json"):
        for name in _shards(index):
            if not (folder / name).is_file():
                raise DataError(f"--model {folder}: {name} is missing; copy or download it again")
    for file in files:
        if file.suffix == ".safetensors":
            _refuse_damaged(folder, file)


def _shards(index: Path) -> list[str]:
    """The files that an index names."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({str(name) for name in names})
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DataError(f"--model {index.parent}: {index.name} is damaged; copy it again") from None


def _refuse_damaged(folder: Path, file: Path) -> None:
    try:
        with safe_open(file, "pt"):
            pass
    except SafetensorError as error:
        raise DataError(
            f"--model {folder}: {file.name} is damaged ({error}); copy or download it again"
        ) from None


# ------------------------------------------------------------------------------ the config
def refuse_unsuited(name: str, config) -> None:
    """Replies to a state share its prompt here, which only attention that sees all of it allows."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if others:
        raise DataError(
            f"--model {name}: has {', '.join(others)} layers; "
            "replies can share a prompt in attention alone: take e.g. Qwen/Qwen3-8B"
        )
    window = getattr(text, "sliding_window", None)
    slides = not kinds or "sliding_attention" in kinds
    if window and window < SHORT and slides:
        raise DataError(
            f"--model {name}: its attention sees {window} tokens, "
            f"fewer than a prompt may have ({SHORT}); take e.g. Qwen/Qwen3-8B"
        )


def window_of(config) -> int | None:
    """How many tokens the model was made to read, learned or rotary; None: it names no bound.

    A rotary window that the config stretches (YaRN, linear) counts as stretched.
    """
    text = config.get_text_config()
    window = getattr(text, "max_position_embeddings", None)
    if type(window) is not int or window < 1:
        return None
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    factor = rope.get("factor") if isinstance(rope, dict) else None
    if isinstance(factor, (int, float)) and factor > 1:
        return int(window * factor)
    return window


def refuse_longer(name: str, prompt: int, reply: int, window: int | None, what: str) -> None:
    """Refuses a prompt that, with its reply, is longer than the model's window.

    prompt, reply  tokens
    what           whose prompt it is
    """
    if window is None or prompt + reply <= window:
        return
    raise DataError(
        f"--model {name}: reads {window} tokens, but {what} has {prompt} and its reply may have "
        f"{reply} more; lower --user_tokens or --max_new_tokens, shorten the facts in context, or "
        "take a model with a longer window"
    )


# ------------------------------------------------------------------------------ the tokenizer
def refuse_small_table(name: str, tokenizer, rows: int) -> None:
    """Refuses a model whose embedding table has fewer rows than its tokenizer has tokens.

    Added tokens may lie beyond it: some models keep a padding token there that nothing uses.
    """
    added = set(tokenizer.added_tokens_decoder)
    beyond = [i for i in tokenizer.get_vocab().values() if i >= rows and i not in added]
    if beyond:
        raise too_few_rows(name, max(beyond), rows)


def too_few_rows(name: str, token: int, rows: int) -> DataError:
    return DataError(
        f"--model {name}: its tokenizer has a token {token}, but its embedding table only {rows} "
        "rows; take the tokenizer that belongs to the model, or call "
        f"model.resize_token_embeddings({token + 1}) and save it again"
    )


def end_tokens(name: str, tokenizer, generation: Any, width: int) -> list[int]:
    """Ids that end a reply, the one to be learned first.

    generation  the model's GenerationConfig: some models name their end tokens only there
    width       of the logits: what lies beyond is never drawn
    raises      DataError if there is none: no reply would end
    """
    several = getattr(generation, "eos_token_id", None)
    if not isinstance(several, Sequence):
        several = [several]
    known = dict.fromkeys([tokenizer.eos_token_id, *several])
    ends = [i for i in known if type(i) is int and 0 <= i < width]
    if not ends:
        raise DataError(
            f"--model {name}: has no end token, so no reply would end: set it "
            f"({EOS}, or eos_token_id in its generation_config.json) and save the model again, or "
            "take its instruct version"
        )
    return ends
