"""intervals.py: against loops, variances worked out by hand, scipy and sacrebleu."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from experiments.evals import Eval, Measured, load_evals
from experiments.intervals import bleu_of, bootstrap, mean_of, paired, resample, student
from tests.made_up import REFERENCES, REPLIES, made_up, statistics
from tse import bleu, bleu_tokenizer, interval

NAN = math.nan


def with_gaps(shape, share):
    """Normal numbers, of which this share is unknown."""
    unknown = np.random.default_rng(1).random(shape) < share
    return np.where(unknown, NAN, np.random.default_rng(2).normal(size=shape))


def test_means_and_draws_by_hand():
    # 2 seeds x 2 customers; a draw of seed 1 twice and customer 0 twice sees one cell
    x = np.array([[1.0, 2.0], [3.0, NAN]])
    of_seeds = np.array([[1.0, 1], [0, 2], [2, 0], [0, 2]])
    of_customers = np.array([[1.0, 1], [2, 0], [1, 1], [0, 2]])
    found = mean_of(x, of_seeds, of_customers)
    assert found == pytest.approx([(2 + 2) / 2, 3, 1.5, NAN], nan_ok=True)
    crossed = bootstrap(np.array([[0.0, 1], [2, 3]]), 4000)
    assert crossed["mean"] == 1.5
    assert crossed["over"] == "seeds and customers"
    # one cell alone: 1 draw in 16
    assert (crossed["low"], crossed["high"]) == (0, 3)


def mean_by_loop(x, seeds, customers):
    """What one draw of `bootstrap` stands for."""
    each = []
    for c in np.repeat(np.arange(x.shape[1]), customers):
        values = [x[s, c] for s in np.repeat(np.arange(x.shape[0]), seeds)]
        known = [v for v in values if not math.isnan(v)]
        if known:
            each.append(sum(known) / len(known))
    return sum(each) / len(each)


def test_bootstrap_is_the_loop_it_stands_for():
    x = with_gaps((3, 7), 0.3)
    # a customer nobody served
    x[:, 4] = NAN
    taken_seeds, taken_customers = resample(3, 7, 200, 5)
    means = []
    for seeds, customers in zip(taken_seeds[1:].astype(int), taken_customers[1:].astype(int)):
        assert seeds.sum() == 3
        assert customers.sum() == 7
        means.append(mean_by_loop(x, seeds, customers))
    found = bootstrap(x, 200, 5)
    wanted = list(np.percentile(means, [2.5, 97.5]))
    assert [found["low"], found["high"]] == pytest.approx(wanted)
    # all ways to draw 3 of 3
    assert len(np.unique(taken_seeds, axis=0)) == 10
    # the same customers however many seeds there are
    assert np.array_equal(resample(8, 7, 200, 5)[1], taken_customers)


def test_variance_of_the_draws_is_the_one_worked_out():
    """var = mean r^2 / S + mean c^2 / C + mean e^2 / (S C).

    r, c, e are the effects of seed, customer and both together."""
    x = np.random.default_rng(3).normal(size=(4, 30))
    x += np.random.default_rng(4).normal(size=(4, 1))
    r = x.mean(1) - x.mean()
    c = x.mean(0) - x.mean()
    e = x - x.mean() - r[:, None] - c
    wanted = (r**2).mean() / 4 + (c**2).mean() / 30 + (e**2).mean() / 120
    drawn = mean_of(x, *resample(4, 30, 40_000, 0))
    assert drawn[0] == pytest.approx(x.mean())
    assert drawn[1:].var() == pytest.approx(wanted, rel=0.03)
    # one seed: customers only
    alone = mean_of(x[:1], *resample(1, 30, 40_000, 0))
    assert alone[1:].var() == pytest.approx(x[0].var() / 30, rel=0.03)
    assert bootstrap(x[:1])["over"] == "customers"


def test_pairs_are_narrower_where_rows_go_together():
    rng = np.random.default_rng(0)
    customer = rng.normal(0, 1, (1, 60))
    a = customer + rng.normal(0, 0.1, (3, 60)) + 0.3
    b = customer + rng.normal(0, 0.1, (3, 60))

    def width(found):
        return found["high"] - found["low"]

    together = paired(a, b)
    assert width(together) < 0.3 * width(bootstrap(a))
    assert together["low"] > 0
    assert together["mean"] == pytest.approx((a - b).mean())
    assert paired(a, b) == pytest.approx(bootstrap(a - b))
    assert paired(a, a)["high"] == 0
    with pytest.raises(ValueError, match="same seeds and customers"):
        paired(a, b[:2])


def test_student_is_scipys_paired_test(tmp_path):
    read = load_evals(made_up(tmp_path / "mgshop", {"ppo": 0.55, "gopo": 0.72}, curves=False))
    found = Measured(read).difference("ppo", "gopo", "tse")

    def means(row):
        return [e.metrics["tse"].mean() for e in read[row].values()]

    wanted = ttest_rel(means("ppo"), means("gopo")).confidence_interval(0.95)
    assert found["t"] == pytest.approx([wanted.low, wanted.high])
    # three seeds: wider than the bootstrap
    assert found["t"][0] < found["low"]
    assert found["high"] < found["t"][1]
    assert student([0.4]) is None
    assert student([0.4, 0.4]) == [0.4, 0.4]
    # by hand: s / sqrt(2) = 1/2, one degree of freedom
    half = 12.706 * 0.5
    assert student([0.0, 1.0]) == pytest.approx([0.5 - half, 0.5 + half], abs=1e-3)


@given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=12))
@settings(max_examples=30)
def test_one_seed_has_the_mean_of_tse_interval(values):
    found = bootstrap(np.array([values], dtype=float), 50)
    assert found["mean"] == pytest.approx(interval(values, draws=2)["mean"])


@given(
    st.permutations([0, 1, 2]),
    st.permutations(range(6)),
    st.floats(0.1, 9),
    st.floats(-9, 9),
)
@settings(max_examples=20)
def test_order_does_not_matter_and_units_do_not(seeds, customers, scale, shift):
    x = with_gaps((3, 6), 0.2)
    one = bootstrap(x, 100)
    two = bootstrap(scale * x + shift, 100)
    assert bootstrap(x[seeds][:, customers], 100)["mean"] == pytest.approx(one["mean"])
    assert one["low"] <= one["high"]
    for key in ("mean", "low", "high"):
        assert two[key] == pytest.approx(scale * one[key] + shift)


# the customer of each reply
OWNER = [0, 1, 1, 2, 0]


def said_to(*customers):
    """(replies, references) of these customers."""
    replies = []
    references = []
    for customer in customers:
        for reply, reference, owner in zip(REPLIES, REFERENCES, OWNER):
            if owner == customer:
                replies.append(reply)
                references.append(reference)
    return replies, references


def test_bleu_is_sacrebleus():
    stats = np.array([statistics(*said_to(customer)) for customer in range(3)])
    assert bleu_tokenizer(REFERENCES) == "13a"
    assert len(stats[0]) == 10
    found = bootstrap(stats[None], 300, statistic=bleu_of)
    assert found["mean"] == pytest.approx(bleu(REPLIES, REFERENCES))
    assert found["low"] < found["mean"] < found["high"]

    of_seeds = np.array([[2.0, 0], [1, 1]])
    of_customers = np.array([[3.0, 0, 0], [0, 2, 1]])
    drawn = bleu_of(np.stack([stats, stats[::-1]]), of_seeds, of_customers)
    first = bleu(*said_to(0, 0, 0))
    second = (bleu(*said_to(1, 1, 2)) + bleu(*said_to(1, 1, 0))) / 2
    assert drawn == pytest.approx([first, second])
    # nothing said
    silent = bleu_of(np.zeros((1, 2, 10)), *resample(1, 2, 3, 0))
    assert silent.tolist() == [0, 0, 0, 0]


def test_nothing_known_is_no_number():
    nothing = bootstrap(np.full((2, 3), NAN))
    assert nothing["mean"] is None
    assert nothing["low"] is None
    measured = Measured(
        {
            "a": {
                0: Eval({"N_1": np.array([NAN, 4, 2])}, None),
                # this seed served nobody: it has no turn to tell
                1: Eval({"N_1": np.full(3, NAN)}, None),
            },
            "gopo": {1: Eval({"N_1": np.ones(3)}, None)},
        }
    )
    cell = measured.cell("a", "N_1")
    assert cell["mean"] == 3
    assert cell["seeds"] == [3]
    assert cell["over"] == "customers"
    assert measured.cell("a", "tse") is None
    assert measured.cell("a", "bleu") is None
    assert measured.cell("b", "N_1") is None
    assert measured.difference("a", "gopo", "N_1") is None
