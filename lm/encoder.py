"""Sentence vectors from a frozen Hugging Face encoder, for `--encoder FOLDER`.

The Expert reads hashed n-grams by default and needs nothing pretrained.  An encoder that was
trained on other text knows words that the logs do not hold: it is worth most where the customers
speak otherwise than in training, as in another store.  It is never trained here; each sentence is
encoded once in a process.
"""
from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data import DataError

AT_ONCE = 64                                     # sentences in a pass
TOKENS = 96                                      # of a sentence that are read
GRID = 1024


class SentenceEncoder:
    """Sentences -> the mean of the encoder's last hidden states, scaled to unit variance."""

    def __init__(self, folder: str, model: Any, tokenizer: Any):
        self.folder = folder
        self.model = model
        self.tokenizer = tokenizer
        self.size = int(model.config.hidden_size)
        self.known: dict[str, Tensor] = {"": torch.zeros(self.size)}

    def __call__(self, sentences: list[str]) -> Tensor:
        """n sentences -> [n, size]; an empty one is 0."""
        new = sorted(set(sentences) - set(self.known), key=lambda s: (len(s), s))
        for first in range(0, len(new), AT_ONCE):
            part = new[first:first + AT_ONCE]
            self.known |= zip(part, self._encode(part))
        return torch.stack([self.known[s] for s in sentences])

    @torch.no_grad()
    def _encode(self, part: list[str]) -> Tensor:
        batch = self.tokenizer(
            part, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        hidden = self.model(**batch).last_hidden_state                               # [n, L, size]
        there = batch["attention_mask"][..., None].float()
        mean = (hidden.float() * there).sum(1) / there.sum(1)
        scaled = F.normalize(mean, dim=-1) * self.size ** 0.5
        # on a grid: a vector is the same whatever was encoded beside it
        return (scaled * GRID).round() / GRID


@cache
def encoder_of(folder: str) -> SentenceEncoder:
    """The encoder of a folder, loaded once.  DataError names the flag if there is none."""
    if not (Path(folder) / "config.json").is_file():
        raise DataError(
            f"--encoder {folder}: no config.json there; give the folder of a Hugging Face encoder, "
            "such as all-MiniLM-L6-v2")
    # imported here: a default run needs none of it
    from transformers import AutoModel, AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"--encoder {folder}: transformers cannot load it: {first}") from error
    if model.config.is_encoder_decoder:
        raise DataError(f"--encoder {folder}: a model with a decoder; give a sentence encoder")
    return SentenceEncoder(folder, model.requires_grad_(False), tokenizer)
