"""Tests of exercises.py: `python -m pytest -k exercise`.

An exercise that raises NotImplementedError is skipped as not attempted.  The checks (checks.py) are
tested as well: the project's own functions must pass them, and typical mistakes (mistakes.py) must
not.
"""
import pytest
import torch
from hypothesis import Phase, settings

import csagent
import expert
import rewards
import tse as metrics
from lesson import checking, exercises
from lesson.checks import CHECKS
from lesson.mistakes import MISTAKES

# arguments on which a function that has been begun runs
SAMPLES = {
    "esndcg": (["a"], ["a", "b"]),
    "gae": ([1.0], [0.5, 0.0], 0.9, 0.5),
    "policy_loss": (torch.tensor([[-1.0]]), torch.tensor([1.0]), torch.ones(1, 1)),
    "negative_entropy": (torch.zeros(1, 1, 2), torch.ones(1, 1)),
    "tse": ((1, 2, 3),),
    "clipped_loss": (*torch.zeros(4, 1, 1), 0.1, 0.2),
}


def attempt(name):
    """The student's function, or a skip."""
    function = getattr(exercises, name)
    try:
        function(*SAMPLES[name])
    except NotImplementedError:
        pytest.skip("not attempted")
    return function


def each_check(name):
    def title(check):
        return check.__name__.removeprefix(f"{name}_")
    return pytest.mark.parametrize("check", CHECKS[name], ids=title)


@each_check("esndcg")
def test_exercise_1_esndcg(check):
    check(attempt("esndcg"))


@each_check("gae")
def test_exercise_2_gae(check):
    check(attempt("gae"))


@each_check("policy_loss")
def test_exercise_3_policy_loss(check):
    check(attempt("policy_loss"))


@each_check("negative_entropy")
def test_exercise_4_negative_entropy(check):
    check(attempt("negative_entropy"))


@each_check("tse")
def test_exercise_5_tse(check):
    check(attempt("tse"))


@each_check("clipped_loss")
def test_exercise_6_clipped_loss(check):
    check(attempt("clipped_loss"))


# --- are the checks any good?  Never skipped -----------------------------------------------------

OURS = {
    "esndcg": rewards.esndcg,
    "gae": expert.gae,
    "policy_loss": csagent.policy_loss,
    "negative_entropy": csagent.negative_entropy,
    "tse": metrics.tse,
    "clipped_loss": expert.clipped_loss,
}
NUMBERED = list(enumerate(exercises.EXERCISES, 1))
ALL_MISTAKES = []
for exercise, mistakes in MISTAKES.items():
    ALL_MISTAKES += [(exercise, mistake) for mistake in mistakes]


def arguments(function):
    code = function.__code__
    return code.co_varnames[:code.co_argcount]


def test_the_six_exercises_are_there_and_explained():
    names = [f.__name__ for f in exercises.EXERCISES]
    assert names == list(CHECKS) == list(SAMPLES) == list(MISTAKES)


@pytest.mark.parametrize(("number", "function"), NUMBERED)
def test_an_exercise_says_what_to_do(number, function):
    name = function.__name__
    plug_in = f"from lesson.exercises import {name}"
    parts = ("Eq", "returns", "By hand", "Hint:", "Plug in:", plug_in, "See:     python ")
    for part in (f"Exercise {number}, ", *parts):
        assert part in function.__doc__, f"{name}: {part!r}"
    assert arguments(function) == arguments(OURS[name])


@pytest.mark.parametrize("name", CHECKS)
def test_exercise_not_begun_is_skipped(monkeypatch, name):
    def not_begun(*_, **__):
        raise NotImplementedError
    monkeypatch.setattr(exercises, name, not_begun)
    with pytest.raises(pytest.skip.Exception, match="not attempted"):
        attempt(name)


@pytest.mark.parametrize("name", CHECKS)
def test_exercise_solved_passes(monkeypatch, name):
    monkeypatch.setattr(exercises, name, OURS[name])
    for check in CHECKS[name]:
        check(attempt(name))


@pytest.mark.parametrize(("name", "mistake"), ALL_MISTAKES)
def test_exercise_done_wrong_fails_and_says_what_to_read(monkeypatch, name, mistake):
    monkeypatch.setattr(exercises, name, MISTAKES[name][mistake])
    # a student gets the simplest failing case; here the search for it would only cost time
    quick = settings(checking.patient, phases=[Phase.generate])
    monkeypatch.setattr(checking, "patient", quick)
    messages = []
    for check in CHECKS[name]:
        try:
            check(attempt(name))
        except AssertionError as error:
            messages.append(str(error))
    assert messages, "no check notices"
    for message in messages:
        assert "Eq. " in message or "Eqs. " in message or "README" in message, messages
