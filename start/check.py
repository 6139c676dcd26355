"""What a loaded language model must be able to do with this data, asked before a run begins.

The prompts of all dialogues are looked at, with as many skills as an Expert may choose: the longest
must fit the model's window, and the chat template must say all of them.  No weights are read."""
from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from data import MAX_SKILLS, Dataset, Dialogue, Request, Skill
from expert_learner import logged_history
from infra.places import place_of
from lm.config import BUILT, configs_of
from lm.reader import Reader
from lm.suited import (
    end_tokens,
    named,
    refuse_folder,
    refuse_longer,
    refuse_small_table,
    refuse_unsuited,
    too_few_rows,
    window_of,
)

LOOKED_AT = 64                                   # prompts that are tokenised: those of most letters


def check_model(dataset: Dataset, config: dict[str, Any]) -> None:
    """DataError if the model of this config could not be trained on these dialogues."""
    lm = configs_of(config)[0]
    name = lm.model
    if name in BUILT:
        return
    refuse_folder(name)
    with named(name):
        shape = AutoConfig.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name)
        generation = _generation(name, shape)
    refuse_unsuited(name, shape)
    rows = shape.get_text_config().vocab_size
    refuse_small_table(name, tokenizer, rows)
    ends = end_tokens(name, tokenizer, generation, rows)
    reader = Reader(tokenizer, dataset.skills, dataset.must_not_say, lm, rows, ends)
    reader.showing(dataset.train)
    history_turns = config["expert"]["history"] if config["gopo"]["no_expert"] else None
    window = window_of(shape)
    for where, request, reply in longest(dataset, history_turns):
        ids = reader.prompt(request)
        if max(ids) >= rows:
            raise too_few_rows(name, max(ids), rows)
        room = max(lm.max_new_tokens, len(reader.encode(reply)) + 1)
        refuse_longer(name, len(ids), room, window, f"the prompt of {where}")


def _generation(name: str, shape: Any) -> GenerationConfig:
    """generation_config.json, or what follows from the config where there is none."""
    try:
        return GenerationConfig.from_pretrained(name)
    except OSError:
        return GenerationConfig.from_model_config(shape)


def longest(dataset: Dataset, history_turns: int | None) -> list[tuple[str, Request, str]]:
    """(file, dialogue and turn; request; reply) of the turns with the most letters."""
    skills = () if history_turns is not None else _wordiest(dataset.skills)
    turns: Iterator[tuple[str, Request, str]] = _turns(dataset, history_turns)
    most = heapq.nlargest(LOOKED_AT, turns, key=_letters)
    return [(where, replace(request, skills=skills), reply) for where, request, reply in most]


def _turns(dataset: Dataset, history_turns: int | None) -> Iterator[tuple[str, Request, str]]:
    for dialogue in (*dataset.train, *dataset.dev, *dataset.test):
        for i in range(len(dialogue.turns)):
            yield _turn(dialogue, i, history_turns)


def _turn(dialogue: Dialogue, i: int, history_turns: int | None) -> tuple[str, Request, str]:
    turn = dialogue.turns[i]
    request = Request(turn.user, (), turn.context)
    if history_turns is not None:
        said = logged_history(dialogue, max(0, i - history_turns), i)
        request = Request(turn.user, (), turn.context, said, turn.intent, turn.emotion)
    return f"{place_of(dialogue)}, turn {i + 1}", request, turn.reply or ""


def _letters(entry: tuple[str, Request, str]) -> int:
    _, request, reply = entry
    return len(request.user) + len(str(request.context)) + len(str(request.history)) + len(reply)


def _wordiest(skills: dict[str, Skill]) -> tuple[str, ...]:
    """As many skills as can be chosen at once, those with the most to say."""

    def letters(name: str) -> int:
        skill = skills[name]
        return len(skill.description) + len(str(skill.must_say)) + len(str(skill.must_not_say))

    return tuple(sorted(skills, key=letters, reverse=True)[:MAX_SKILLS])
