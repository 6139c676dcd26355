"""Command lines: config dataclasses -> flags, and back from config.json.

A typo is an error, never ignored, and no prefix of a flag is accepted."""
from __future__ import annotations

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from math import inf
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from data import DataError

Config = TypeVar("Config")
# The words of --device and --report_to.
DEVICES = ("cpu", "cuda", "mps", "auto")
REPORTS = ("none", "tensorboard", "trackio")


def refuse_other_words(config: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    """ValueError that names the flag, unless each field holds one of its words."""
    for name, words in choices.items():
        value = getattr(config, name)
        if value not in words:
            raise ValueError(f"--{name} must be one of {', '.join(words)}, got {value!r}")


def refuse_not_positive(config: Any, *names: str) -> None:
    """ValueError that names the flag, unless each field is None or lies in (0, inf)."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < inf:
            raise ValueError(f"--{name} must be positive, got {value}")


def refuse_below(config: Any, least: Mapping[str, float]) -> None:
    """ValueError that names the flag, unless each field is None or at least this large."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise ValueError(f"--{name} must be at least {bound}, got {value}")


# The largest value of a number; of a step size, any flag that ends in _lr, it is 1.
LARGEST_COUNT = 10**9
LARGEST_FACTOR = 1e6
LARGEST = {
    "seed": 2**63 - 2,                           # torch counts in 64 bits, and a stage adds 1
    "dialogues": 100_000, "strategy_dialogues": 100_000, "episodes": 10**6, "eval_episodes": 10**6,
    "group": 1024, "micro_batch": 10**6, "sft_batch": 10**6, "expert_minibatch": 10**6,
    "expert_samples": 1024, "expert_epochs": 10_000, "ppo_epochs": 10_000, "expert_warm": 10**6,
    "width": 16_384, "history": 1000, "sentences": 1000, "lora_rank": 8192,
    "max_new_tokens": 32_768, "user_tokens": 10**6, "system_tokens": 10**7, "workers": 1024,
    "seeds": 10_000, "api_retries": 1000, "expert_lr_end": 1,
    "memento_k": 10_000, "card": 1e6,
}


def refuse_extreme(config: Any) -> None:
    """ValueError that names the flag of the first value with which no training makes sense.

    Numbers must be finite and not absurdly large, texts must not be empty.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, str):
            _refuse_text(field.name, value)
        elif isinstance(value, (int, float)):
            most = LARGEST_COUNT if isinstance(value, int) else LARGEST_FACTOR
            if field.name.endswith("_lr"):
                most = 1
            most = LARGEST.get(field.name, most)
            if not abs(value) < inf:
                raise ValueError(f"--{field.name} must be a finite number, got {value}")
            if value > most:
                raise ValueError(f"--{field.name} must be at most {most:,}, got {value}")


def _refuse_text(name: str, value: str) -> None:
    if not value.strip():
        raise ValueError(f"--{name} is empty: give a value, or leave the flag out")
    if not value.isprintable() and any(map(_broken, value)):
        raise ValueError(f"--{name} {value!r}: holds a control character or bytes that are no "
                         "UTF-8; use another name")


def _broken(letter: str) -> bool:
    """Whether a character can stand in no JSON file, or would break a line that is printed."""
    return (letter < " " and not letter.isspace()) or "\ud800" <= letter <= "\udfff"


class FlagParser(ArgumentParser):
    """One flag for each field of some config dataclasses.

    As transformers' HfArgumentParser, which takes longer to import than all of train.py."""

    def __init__(self, configs: Sequence[type], description: str):
        super().__init__(allow_abbrev=False, description=description,
                         formatter_class=ArgumentDefaultsHelpFormatter)
        self.configs = configs
        for config in configs:
            kinds = get_type_hints(config)
            for field in fields(config):
                self._add(field, kinds[field.name])

    def _add(self, field: Field, kind: Any) -> None:
        """A flag and what it takes: a number, a word, several of them, or for a bool nothing."""
        default = field.default
        if default is MISSING:
            default = field.default_factory()
        takes: dict[str, Any] = {"type": _of_one_kind(kind)}
        if takes["type"] is bool:
            takes = {"type": truth, "nargs": "?", "const": True}
        elif get_origin(kind) is list:
            takes = {"type": get_args(kind)[0], "nargs": "+"}
        names = dict.fromkeys([f"--{field.name}", f"--{field.name.replace('_', '-')}"])
        self.add_argument(*names, default=default, help=field.metadata.get("help"), **takes)


def _of_one_kind(kind: Any) -> Any:
    """`int` of `int | None`."""
    kinds = [part for part in get_args(kind) if part is not NoneType]
    return kinds[0] if len(kinds) == 1 and get_origin(kind) is not list else kind


def truth(word: str) -> bool:
    """What is written behind a flag that needs nothing: yes or no.

    >>> truth("yes"), truth("0")
    (True, False)
    """
    if word.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if word.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise ArgumentTypeError(f"expected yes or no, got {word!r}")


def parser_of(configs: Sequence[type], description: str) -> FlagParser:
    """A parser with one flag for each field of the config dataclasses."""
    return FlagParser(configs, description)


def parse(parser: FlagParser, argv: Sequence[str] | None) -> tuple:
    """The filled-in dataclasses; what one of them refuses is said as argparse says it.

    Arguments that were added to the parser, if any, come last, as argparse returns them."""
    found, rest = parser.parse_known_args(argv)
    configs = []
    try:
        for config in parser.configs:
            values = {field.name: vars(found).pop(field.name) for field in fields(config)}
            configs.append(config(**values))
        if rest:
            raise ValueError(_unknown(rest[0], configs))
        for config in configs:
            refuse_extreme(config)
    except (ValueError, OverflowError) as error:
        parser.error(str(error))
    return (*configs, found) if vars(found) else tuple(configs)


def _unknown(word: str, configs: Sequence[Any]) -> str:
    """What is said of a word that is no flag; names the flag that looks most like it."""
    names = []
    for config in configs:
        names += [f"--{field.name}" for field in fields(config)]
    near = get_close_matches(word.partition("=")[0], names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{word} is no flag of this command{hint}"


def given(config: type, argv: Sequence[str]) -> str | None:
    """The first flag of `config` on the command line, whatever its value; None if there is none.

    >>> from infra.client import ApiConfig
    >>> given(ApiConfig, ["--api_base=http://127.0.0.1:8000/v1"]), given(ApiConfig, ["--seed", "1"])
    ('--api_base', None)
    """
    names = {f"--{field.name}" for field in fields(config)}
    for word in argv:
        flag = word.partition("=")[0]
        if flag in names:
            return flag
    return None


def recorded(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A config as config.json keeps it, perhaps written by an older version.

    A setting that was removed is passed over if it had the value that still means the same
    (`kind.REMOVED`: name -> value).

    raises  DataError that names any other setting which this version does not have
    """
    known = {field.name for field in fields(kind)}
    removed = getattr(kind, "REMOVED", {})
    kept = {}
    for name, value in values.items():
        if name in known:
            kept[name] = value
        elif name not in removed or removed[name] != value:
            raise DataError(f"config.json: this version has no setting {name} = {value!r}")
    return sound(kind, kept)


def sound(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A config of values from a config.json, which somebody may have edited."""
    try:
        config = kind(**values)
        refuse_extreme(config)
    except (ValueError, TypeError) as error:
        raise DataError(f"config.json: {error}") from None
    return config
