"""The study of strategies without a language model (experiments/strategy.py): its constant rows."""
import pytest

import data
from experiments import strategy
from start.pairs import labelled_states

pytestmark = pytest.mark.usefixtures("small_shop")


def test_a_constant_and_the_most_frequent_sequence_are_rows():
    shop = data.load("mgshop")
    assert len(set(strategy.best_constant(shop))) == 5
    sequences = {teacher for _, teacher in labelled_states(shop.train)}
    assert strategy.most_frequent(shop) in sequences
