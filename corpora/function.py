"""A dataset from a function of your own: `--dataset package.module:function`.

The function is called without arguments and returns a data.Dataset.  Its module is looked for where
Python looks, and in the current folder.  What it returns is checked as logs are, and a wrong return
is named by its place.  A run keeps the name alone: evaluating it imports the module again."""
from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from data import MAX_SKILLS, DataError, Dataset, Dialogue, Skill, Turn


def load_function(name: str) -> Dataset:
    """What `package.module:function` returns.

    raises  DataError: it cannot be imported, or returns no dataset that can be trained on
    """
    at = f"--dataset {name}"
    dataset = _function(name, at)()
    fault = next(_faults(dataset), None)
    if fault:
        raise DataError(f"{at} returned {fault}")
    kept = (dataset.skills, dataset.intents, dataset.emotions, dataset.horizon,
            dataset.train, dataset.dev, dataset.test)
    dataset.made_of = hashlib.sha256(repr(kept).encode("utf-8", "backslashreplace")).hexdigest()
    return dataset


def _function(name: str, at: str) -> Callable[[], Any]:
    module, _, wanted = name.partition(":")
    if module.split(".")[0] in sys.stdlib_module_names:
        # a run directory may come from others, and no call of Python's own makes a dataset
        raise DataError(f"{at}: {module} is a part of Python; name a module of your own")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), wanted, None)
    except (ImportError, SyntaxError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{at}: cannot import {module}: {said}") from None
    if not callable(function):
        raise DataError(f"{at}: {module} has no function {wanted}")
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise DataError(f"{at}: it is called without arguments: {error}") from None
    return function


# --- what it returned -----------------------------------------------------------------------------

def _faults(dataset: Any) -> Iterator[str]:
    """What is wrong with a dataset, in the order of its fields."""
    if not isinstance(dataset, Dataset):
        yield f"{_kind(dataset)}; return a data.Dataset"
        return
    if not isinstance(dataset.name, str) or not dataset.name:
        yield f"name: {_kind(dataset.name)}; write a text"
    for id, skill in dataset.skills.items():
        if not isinstance(skill, Skill) or skill.id != id:
            yield f"skills[{id!r:.40}]: {_kind(skill)}; write a data.Skill with this id"
            return
    for split in ("train", "dev", "test"):
        dialogues = getattr(dataset, split)
        if not isinstance(dialogues, list) or not dialogues:
            yield f"{split}: {_kind(dialogues)}; write a list with at least one data.Dialogue"
            return
        for number, dialogue in enumerate(dialogues):
            yield from _of_dialogue(dialogue, dataset, f"{split}[{number}]")


def _of_dialogue(dialogue: Any, dataset: Dataset, at: str) -> Iterator[str]:
    if not isinstance(dialogue, Dialogue) or not dialogue.turns:
        yield f"{at}: {_kind(dialogue)}; write a data.Dialogue with at least one turn"
        return
    for number, turn in enumerate(dialogue.turns):
        fault = _of_turn(turn, dataset)
        if fault:
            yield f"{at}.turns[{number}]{fault}"


def _of_turn(turn: Any, dataset: Dataset) -> str:
    """What is wrong with a turn; "": nothing."""
    if not isinstance(turn, Turn) or not isinstance(turn.user, str):
        return f": {_kind(turn)}; write a data.Turn whose user is a text"
    for label, known in (("intent", dataset.intents), ("emotion", dataset.emotions)):
        if getattr(turn, label) not in (None, *known):
            return f".{label}: {getattr(turn, label)!r:.40} is none of the dataset's {label}s"
    strange = [skill for skill in turn.skills or () if skill not in dataset.skills]
    if strange:
        return f".skills: {strange[0]!r:.40} is none of the dataset's skills"
    if len(turn.skills or ()) > MAX_SKILLS or len(set(turn.skills or ())) < len(turn.skills or ()):
        return f".skills: more than {MAX_SKILLS}, or one twice"
    texts = [None]
    if isinstance(turn.context, dict):
        texts = [*turn.context, *turn.context.values()]
    if not all(isinstance(text, str) for text in texts):
        return ".context: write a dict of texts, slot -> value"
    return ""


def _kind(value: Any) -> str:
    """What something is, in words."""
    if value == [] or value == () or value == "":
        return f"an empty {type(value).__name__}"
    return "None" if value is None else f"a {type(value).__name__}"
