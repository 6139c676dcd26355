"""Labels of an imperfect labeller (experiments/label_noise.py)."""
import pytest

import data
from data import DataError, Dataset, Dialogue, Message, Observation, Turn
from experiments.label_noise import CALMING, Fault, flawed, wrong
from tests.helpers import IDS

TEACHER = ("apologise", "confirm_order", "reassure")


def share_with(skill: str, fault: Fault, n: int = 2000) -> float:
    """How often the labeller writes this skill down for TEACHER."""
    return sum(skill in wrong(TEACHER, fault, str(i)) for i in range(n)) / n


def test_a_blind_spot_leaves_out_the_share_asked_for_and_nothing_else():
    fault = Fault(0.3)
    assert share_with("apologise", fault) == pytest.approx(0.7, abs=0.04)
    assert share_with("reassure", fault) == pytest.approx(0.7, abs=0.04)
    assert share_with("confirm_order", fault) == 1


def test_all_or_nothing_is_left_out():
    assert wrong(TEACHER, Fault(1.0), "x") == ("confirm_order",)
    assert wrong(TEACHER, Fault(0.0), "x") == TEACHER
    assert wrong(None, Fault(1.0), "x") is None  # nobody labelled it


def test_the_same_turn_is_mislabelled_in_the_same_way():
    def labels(fault):
        return [wrong(TEACHER, fault, str(i)) for i in range(50)]

    assert labels(Fault(0.5)) == labels(Fault(0.5))
    assert len(set(labels(Fault(0.5)))) == 4     # of two skills each is there or not


def test_a_confusion_writes_the_first_skill_as_the_second():
    fault = Fault(0.4, ("apologise", "empathise"), "confuse")
    assert share_with("empathise", fault) == pytest.approx(0.4, abs=0.04)
    assert share_with("apologise", fault) == pytest.approx(0.6, abs=0.04)
    assert wrong(("empathise",), Fault(1.0, fault.skills, "confuse"), "x") == ("empathise",)
    # never one skill twice
    assert wrong(("apologise", "empathise"), Fault(1.0, fault.skills, "confuse"), "x") == (
        "empathise",)


def small(environment=None) -> Dataset:
    pool = dict.fromkeys([*IDS, *CALMING])
    logs = [Dialogue("1", (Turn("Hi", skills=("apologise", "a")), Turn("Bye")))]
    return Dataset("d", pool, (), (), logs, logs, logs, environment=environment)


def test_logs_and_training_customers_are_mislabelled_and_held_out_ones_are_not():
    seen = Observation("Hi", {}, labels=data.Labels(teacher=("apologise", "a")))

    def environment(split, number, seed):
        return Message(seen)

    shop = flawed(small(environment), Fault(1.0))
    assert shop.train[0].turns[0].skills == shop.dev[0].turns[0].skills == ("a",)
    assert shop.train[0].turns[1].skills is None
    assert shop.test[0].turns[0].skills == ("apologise", "a")
    teachers = {s: shop.play(s, 0).reset().labels.teacher for s in ("train", "dev", "test")}
    assert teachers == {"train": ("a",), "dev": ("apologise", "a"), "test": ("apologise", "a")}


def test_without_noise_nothing_is_wrapped():
    dataset = small()
    assert flawed(dataset, Fault()) is dataset


@pytest.mark.parametrize("fields, said", [
    ({"share": 1.2}, "--label_noise must lie in"),
    ({"kind": "lose"}, "--noise_kind must be omit or confuse"),
    ({"kind": "confuse"}, "--noise_kind confuse needs two --noise_skills"),
])
def test_a_fault_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Fault(**fields)


def test_a_skill_that_is_not_in_the_pool_is_refused():
    with pytest.raises(DataError, match="--noise_skills: d has no skill nap"):
        flawed(small(Message), Fault(0.5, ("nap",)))


def test_logs_have_no_true_labels_to_measure_by():
    with pytest.raises(DataError, match="--label_noise needs a live shop"):
        flawed(small(), Fault(0.5))
