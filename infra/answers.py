"""What a chat server says: reading a completion, its log-probabilities, and JSON in its text.

Pure functions of bytes and text.  Whatever a server or a model writes, the only error that they
raise is a ValueError, whose message says what is wrong with the answer."""
from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HALF_CHARACTERS = re.compile("[\ud800-\udfff]")
# a <think> block at the start; some chat templates put its opening into the prompt
THOUGHTS = re.compile(r"\A(?:\s*<think>)?(?:(?!<think>).)*?</think>", re.DOTALL)
FENCE = re.compile(r"```(?:json|JSON)?\s*\n(.*)\n\s*```", re.DOTALL)
ROUNDING = 0.01  # nats by which a log-probability may exceed 0


@dataclass(frozen=True)
class Answer:
    """An answer that can be used.

    logprobs  for each token (token, {the token or an alternative: log p}); None = the server gave
              none
    """
    text: str
    logprobs: tuple[tuple[str, dict[str, float]], ...] | None = None


# --- completions --------------------------------------------------------------------------------

def read_completion(content: bytes) -> dict[str, Any]:
    """The first choice of a chat completion, as plain JSON that a cache can keep.

    returns  {"text": ..., "logprobs": [[token, {token: log p}], ...] or None, "wrong": ...}, where
             "wrong" says why nobody can use the answer: refused, cut off, empty; None = usable
    raises   ValueError if the body is no completion

    Only the content is read, and not the fields in which some servers put the model's reasoning.
    """
    try:
        choice = json.loads(content)["choices"][0]
        message = choice["message"]
        text = message.get("content")
        refusal = message.get("refusal")
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        finish = choice.get("finish_reason")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise ValueError("no chat completion") from None
    if isinstance(text, list):
        text = _joined(text)
    if not isinstance(text, (str, type(None))):
        raise ValueError("a content that is no text")
    text = text or ""
    return {
        # half characters cannot be written to a file
        "text": HALF_CHARACTERS.sub("\ufffd", text),
        "logprobs": _read_logprobs(choice.get("logprobs")),
        "wrong": _unusable(text, refusal, finish, thoughts),
    }


def _joined(parts: list[Any]) -> str:
    """The text of a content in parts: [{"type": "text", "text": ...}, ...]."""
    texts = []
    for part in parts:
        if isinstance(part, dict) and part.get("type") in ("text", None):
            texts.append(part.get("text"))
    return "".join(text for text in texts if isinstance(text, str))


def _unusable(text: str, refusal: Any, finish: Any, thoughts: Any) -> str | None:
    if refusal or finish == "content_filter":
        return "it was refused"
    if finish == "length":
        return "it was cut off for its length"
    if text.strip():
        return None
    return "it is empty, the model only thought" if thoughts else "it is empty"


def _read_logprobs(value: Any) -> list[list[Any]] | None:
    """[[token, {token: log p}], ...]: each token drawn, with its alternatives.

    None if the server gave none, or gave them in another form.
    """
    pairs = []
    try:
        for row in value["content"]:
            table: dict[str, float] = {}
            for entry in [row, *(row.get("top_logprobs") or ())]:
                table.setdefault(entry["token"], float(entry["logprob"]))
            pairs.append([row["token"], table])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return pairs if pairs and all(_is_distribution(table) for _, table in pairs) else None


def _is_distribution(table: dict[Any, float]) -> bool:
    """Whether texts are mapped to logarithms of probabilities; NaN is none."""
    return all(isinstance(token, str) and logp <= ROUNDING for token, logp in table.items())


def answer_of(completion: Mapping[str, Any]) -> Answer:
    """The Answer of what `read_completion` returned."""
    rows = completion["logprobs"]
    if rows is None:
        return Answer(completion["text"])
    return Answer(completion["text"], tuple((token, table) for token, table in rows))


# --- JSON in a text -----------------------------------------------------------------------------

def parse_json(text: str, fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Reads an answer that is one JSON object with exactly these fields, and nothing else.

    fields   {field: a function of its value, which raises ValueError or TypeError for a bad one}
    returns  {field: fields[field](value)}
    raises   ValueError, whose message says what is wrong

    A <think> block before the object and one code fence around it are taken off.  A field that
    stands there twice, NaN and infinity are refused.

    >>> parse_json('```json\\n{"quality": 4}\\n```', {"quality": float})
    {'quality': 4.0}
    """
    text = without_thoughts(text)
    fence = FENCE.fullmatch(text)
    if fence:
        text = fence[1]
    value = _loads(text)
    if not isinstance(value, dict):
        raise ValueError("JSON, but no object")
    for name in fields:
        if name not in value:
            raise ValueError(f"field {name!r} is missing")
    for name in value:
        if name not in fields:
            raise ValueError(f"field {name[:40]!r} was not asked for")
    return {name: _convert(name, value[name], convert) for name, convert in fields.items()}


def without_thoughts(text: str) -> str:
    """The answer without a <think>...</think> block at its start."""
    return THOUGHTS.sub("", text, count=1).strip()


def _loads(text: str) -> Any:
    """json.loads, with stricter rules and other words."""
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_finite,
                          parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not one JSON object and nothing else ({error})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _convert(name: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"field {name!r}: {error}") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these fields; JSON itself would keep the last of two with one name."""
    counts = Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        (twice, _), = counts.most_common(1)
        raise ValueError(f"field {twice[:40]!r} stands there twice")
    return dict(pairs)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:40]} is no number")
    return float(text)
