"""Command lines: config dataclasses -> flags, and back from config.json.

A typo is an error, never ignored, and no prefix of a flag is accepted."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import inf
from typing import Any, TypeVar

from data import DataError

Config = TypeVar("Config")


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


def parser_of(configs: Sequence[type], description: str) -> Any:
    """A parser with one flag for each field of the config dataclasses."""
    from transformers import HfArgumentParser  # slow to import, and only commands need it
    return HfArgumentParser(list(configs), allow_abbrev=False, description=description)


def parse(parser: Any, argv: Sequence[str] | None) -> tuple:
    """The filled-in dataclasses; what one of them refuses is said as argparse says it."""
    try:
        return parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.error(str(error))


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
    return kind(**kept)
