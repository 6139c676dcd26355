"""Command lines: dataclasses -> flags.

A typo is an error and is never ignored; a flag must be written in full."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any


def parser_of(configs: Sequence[type], description: str) -> Any:
    """A parser with one flag for each field of the config dataclasses."""
    # Slow to import, and only commands need it.
    from transformers import HfArgumentParser
    return HfArgumentParser(list(configs), allow_abbrev=False, description=description)


def parse(parser: Any, argv: Sequence[str] | None) -> tuple:
    """The filled-in dataclasses; a value that one refuses becomes an error of the parser."""
    try:
        return parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.error(str(error))


def given(config: type, argv: Sequence[str]) -> str | None:
    """The first flag of `config` on the command line, whatever its value; None if there is none.

    >>> from infra.client import ApiConfig
    >>> given(ApiConfig, ["--api_base=http://127.0.0.1:8000/v1"])
    '--api_base'
    >>> given(ApiConfig, ["--seed", "1"]) is None
    True
    """
    names = {f"--{field.name}" for field in fields(config)}
    for word in argv:
        flag = word.partition("=")[0]
        if flag in names:
            return flag
    return None
