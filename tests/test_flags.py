"""infra/flags.py: config dataclasses as flags."""
from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from config import OPTIONS
from data import opt
from gopo import algorithm
from infra.flags import parse, parser_of
from start.flags import options_of
from systems.cmpo_config import WORDS
from systems.controllers import CONTROLLERS


@dataclass(frozen=True)
class Some:
    """One field of each kind."""
    most: int | None = opt(None, "how many")
    share: float = opt(0.5, "of what")
    sure: bool = opt(False, "whether")
    maybe: bool | None = opt(None, "whether, or as the model needs it")
    the_names: list[str] = field(default_factory=list, metadata={"help": "of whom"})


@dataclass(frozen=True)
class Other:
    path: str = opt("runs", "where")


def parsed(*words: str) -> tuple:
    return parse(parser_of([Some, Other], "about"), words)


def test_without_flags_all_is_default():
    assert parsed() == (Some(), Other())


def test_each_kind_takes_what_it_is():
    some, other = parsed(
        "--most", "3", "--share=1e-3", "--sure", "--maybe", "no", "--the_names", "a", "b",
        "--path", "x")
    assert some == Some(3, 1e-3, True, False, ["a", "b"])
    assert other == Other("x")


@pytest.mark.parametrize("words, value", [
    (["--sure", "no"], False), (["--sure=True"], True), (["--sure", "0"], False)])
def test_a_truth_may_be_spelled_out(words, value):
    assert parsed(*words)[0].sure is value


def test_hyphens_are_as_good_as_underscores():
    assert parsed("--the-names", "a")[0].the_names == ["a"]


@pytest.mark.parametrize("words, said", [
    (["--sure", "perhaps"], "expected yes or no, got 'perhaps'"),
    (["--most", "3.5"], "invalid int value: '3.5'"),
    (["--mos", "3"], "--mos is no flag of this command; did you mean --most?"),
    (["--share", "nan"], "--share must be a finite number, got nan"),
])
def test_what_is_refused_names_the_flag(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(*words)
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error
    assert "--" in error


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    said = capsys.readouterr().out
    assert "of what (default: 0.5)" in said
    assert "--sure [SURE]" in said


def test_an_argument_that_was_added_comes_last():
    parser = parser_of([Other], "about")
    parser.add_argument("file")
    other, rest = parse(parser, ["logs.jsonl"])
    assert other == Other()
    assert vars(rest) == {"file": "logs.jsonl"}


# --- the flags of train.py need no torch -------------------------------------------------------

def test_all_flags_are_known_before_torch_is_imported():
    asked = ("import sys; from start.flags import parser_for; parser_for('about'); "
             "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", asked]).returncode == 0


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_algorithm_learns_with_the_flags_that_are_read(name):
    assert options_of(name) is algorithm(name).Options


def test_an_algorithm_without_flags_of_its_own():
    assert options_of("gopo") is None is algorithm("gopo").Options
    assert options_of("sft") is None is algorithm("sft").Options


def test_every_controller_is_a_word_of_its_flag():
    assert WORDS["control"] == tuple(CONTROLLERS)
