"""--dataset package.module:function: what it returns is trained on, or refused by its place."""
import itertools
import sys

import pytest

import data
from corpora.function import load_function
from data import DataError, is_function
from infra.domain import as_trained, save_domain
from start.flags import parse_flags
from start.resolve import name_of
from tests.training import refused

HEAD = """
from data import Dataset, Dialogue, Skill, Turn
SKILLS = {"state": Skill("state")}
"""
PARCELS = HEAD + '''
def make():
    turn = Turn("Where is it?", intent="ask", skills=("state",), context={}, reply="On its way.")
    talks = [Dialogue(str(i), (turn,)) for i in range(9)]
    return Dataset("parcels", SKILLS, ("ask",), (), talks[:3], talks[3:6], talks[6:])
'''
numbers = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module(text) -> the name of a module with this text, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text):
        name = f"own_data_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def test_a_function_is_a_dataset(module):
    dataset = data.load(f"{module(PARCELS)}:make")
    assert (dataset.name, len(dataset.train)) == ("parcels", 3)
    assert dataset.play("test", 0).reset().user == "Where is it?"


def test_what_was_trained_on_other_data_is_refused(module, tmp_path):
    """Equal in two processes; another word, and it is another."""
    first = load_function(f"{module(PARCELS)}:make")
    again = load_function(f"{module(PARCELS)}:make")
    other = load_function(f"{module(PARCELS.replace('On its', 'In its'))}:make")
    save_domain(first, tmp_path / "dataset.json")
    assert as_trained(again, tmp_path).skills == first.skills
    with pytest.raises(DataError, match="--dataset parcels: it is not as it was when"):
        as_trained(other, tmp_path)


WRONG = {
    "None": ("return None", "returned None; return a data.Dataset"),
    "no dialogue": (
        'return Dataset("d", SKILLS, (), (), [], [], [])', "returned train: an empty list"),
    "another skill": (
        'return of(Turn("Hi", skills=("dance",)))',
        "returned train[0].turns[0].skills: 'dance' is none of the dataset's skills"),
    "another intent": (
        'return of(Turn("Hi", intent="x"))', "turns[0].intent: 'x' is none of the dataset's"),
    "a skill twice": (
        'return of(Turn("Hi", skills=("state", "state")))', "skills: more than 5, or one twice"),
    "no text": ("return of(Turn(None))", "returned train[0].turns[0]: a Turn; write a data.Turn"),
    "a number": (
        'return of(Turn("Hi", context={"price_1": 3}))', "turns[0].context: write a dict of texts"),
    "no turn": ("return of()", "returned train[0]: a Dialogue; write a data.Dialogue with at"),
    "no skill": (
        'return Dataset("d", {"a": SKILLS["state"]}, (), (), [], [], [])',
        "returned skills['a']: a Skill; write a data.Skill with this id"),
}
OF = '''
def of(*turns):
    talks = [Dialogue("0", turns)]
    return Dataset("d", SKILLS, ("ask",), (), talks, talks, talks)
'''


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_returns_in_one_line(wrong, module):
    body, said = WRONG[wrong]
    name = f"{module(f'{HEAD}{OF}def make():    {body}')}:make"
    with pytest.raises(DataError) as error:
        load_function(name)
    assert str(error.value).startswith(f"--dataset {name} returned ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_called_is_refused_in_one_line(module, capsys):
    said = refused(["--dataset", "no_such.module:make"], capsys)
    assert "--dataset no_such.module:make: cannot import no_such.module: No module named" in said
    assert len(said.splitlines()) == 1
    broken = module("def make(:")
    assert f"cannot import {broken}: invalid" in refused(["--dataset", f"{broken}:make"], capsys)
    empty = module("make = 3\ndef other(x): pass\n")
    assert f"{empty} has no function make" in refused(["--dataset", f"{empty}:make"], capsys)
    assert "called without arguments: missing a required argument: 'x'" in refused(
        ["--dataset", f"{empty}:other"], capsys)


def test_nothing_of_python_itself_is_called():
    """A run directory may come from somebody else."""
    with pytest.raises(DataError, match="os is a part of Python; name a module of your own"):
        load_function("os:abort")


def test_paths_are_no_functions():
    assert is_function("my.shops:make")
    for other in ("C:/logs.jsonl", r"C:\x\shop.json", "mgshop", "a:b:c", "a/b:c"):
        assert not is_function(other)
    assert name_of(parse_flags(["--dataset", "my.shops:make"], "")) == "make-gopo-0"
