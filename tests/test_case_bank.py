"""Memento's case bank, GAP-10: its equations by hand or by NumPy, reading, reusing and writing.

Equation numbers are Memento's (arXiv 2508.16153)."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.case_bank import LIVE, MementoConfig, mu, nearest, vote
from data import DataError, Dataset, Dialogue, Turn
from expert import ExpertState
from infra.flags import recorded
from policies import keyed
from tests.agents import seeded
from tests.banks import bank_of, random_bank, random_states, write_cases

LATE = ExpertState("refund late")


def logs_of(dialogues: list[Dialogue]) -> Dataset:
    return Dataset("d", {}, (), (), dialogues, [], [])


# --- equations ----------------------------------------------------------------------------------

def test_nearest_by_hand():
    # cosines of (1, 0) with (.6, .8), (1, 0), (0, 1): .6, 1, 0; query 2 may not have case 2
    keys = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0]] * 2)
    barred = torch.tensor([[False] * 3, [False, True, False]])
    cosine, case, allowed = nearest(queries, keys, barred, 2)
    assert case.tolist() == [[1, 0], [0, 2]]
    assert allowed.all()
    assert cosine[0].tolist() == pytest.approx([1, 0.6])


def test_where_all_is_barred_nothing_is_allowed():
    keys = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    _, _, allowed = nearest(keys, keys, torch.ones(3, 3, dtype=torch.bool), 9)
    assert allowed.tolist() == [[False] * 3] * 3


def test_of_equal_cases_the_newest():
    keys = torch.tensor([[1.0, 0.0]] * 40)
    _, case, _ = nearest(keys[:1], keys, torch.zeros(1, 40, dtype=torch.bool), 3)
    assert case.tolist() == [[39, 38, 37]]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 150))
def test_the_four_nearest_equal_numpys(seed, n):
    bank = random_bank(n, seed)
    states = random_states(5, seed + 1)
    weight, case, _ = bank.read(states, 4)
    keys = bank.encode(random_states(n, seed)).numpy().astype(float)
    queries = bank.encode(states).numpy().astype(float)
    for query, found, cosines in zip(queries, case.tolist(), weight.tolist()):
        exact = []
        for key in keys:
            exact.append(sum(a * b for a, b in zip(query, key)))
        order = sorted(range(n), key=lambda i: (-exact[i], -i))
        assert found == order[:4]
        assert cosines == pytest.approx([exact[i] for i in found])


def test_mu_by_hand():
    # e^(1 / .5) : e^0 : 0
    e2 = math.exp(2)
    found = mu(torch.tensor([1.0, 0.0, -math.inf]), 0.5)
    assert found.tolist() == pytest.approx([e2 / (e2 + 1), 1 / (e2 + 1), 0])


def test_vote_by_hand():
    # [w]: +.9 - .5; [x]: -.8; [w, x] is another sequence than [x, w]: +.7; the second [w] is
    # counted with the first
    w = [0, -1, -1, -1, -1]
    x = [1, -1, -1, -1, -1]
    wx = [0, 1, -1, -1, -1]
    xw = [1, 0, -1, -1, -1]
    weight = torch.tensor([[0.9, 0.8, 0.7, 0.5, 0.4]])
    outcome = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]])
    score = vote(torch.tensor([[w, x, wx, w, xw]]), weight, outcome)
    assert score[0].tolist() == pytest.approx([0.4, -0.8, 0.7, -math.inf, -0.4])


# --- reading and reusing ------------------------------------------------------------------------

def test_greedy_reuses_by_hand():
    """The nearest case failed; two that are less like the state, one sequence, succeeded."""
    bank = bank_of()
    write_cases(
        bank,
        ("refund late", ("w",), 0, 0),
        ("refund late angry", ("y", "x"), 1, 1),
        ("refund late where", ("y", "x"), 1, 2),
        ("blue lamp", ("z",), 1, 3))
    choice = bank.act([LATE], greedy=True)
    like = [ExpertState("refund late angry"), ExpertState("refund late where")]
    cosine = bank.encode([LATE]) @ bank.encode(like).T
    assert choice.skills == [("y", "x")]
    assert choice.score == pytest.approx([cosine.sum().item()])
    # the one with the greater weight
    assert choice.cases == [1 + cosine.argmax().item()]
    # an exact match that succeeded cannot outvote two
    write_cases(bank, ("refund late", ("x", "y"), 1, 4))
    assert bank.act([LATE], greedy=True).skills == [("y", "x")]


def test_if_all_failed_the_least_like_case_is_followed():
    bank = bank_of()
    write_cases(bank, ("refund late", ("w",), 0, 0), ("refund", ("x",), 0, 1))
    choice = bank.act([LATE], greedy=True)
    assert choice.skills == [("x",)]
    assert -1 < choice.score[0] < 0


def test_an_empty_bank_picks_nothing():
    choice = bank_of().act([ExpertState("refund")] * 2, seeded(0))
    assert choice.skills == [(), ()]
    assert choice.cases == [-1, -1]
    assert bank_of().state_values([ExpertState("refund")]) == [0.0]


def test_a_dialogue_never_retrieves_itself():
    bank = bank_of()
    write_cases(
        bank,
        ("refund late", ("w",), 1, 7),
        ("refund late", ("w",), 1, 7),
        ("blue lamp", ("x",), 1, LIVE + 7))
    chosen = bank.act([LATE] * 3, greedy=True, dialogues=[7, LIVE + 7, 3])
    assert chosen.skills == [("x",), ("w",), ("w",)]
    drawn = set()
    for n in range(50):
        drawn |= set(bank.act([LATE], seeded(n), dialogues=[7]).skills)
    assert drawn == {("x",)}
    bank.write([], [], [], [])


def test_one_state_of_a_batch_may_have_no_case_and_another_one():
    bank = bank_of()
    write_cases(bank, ("refund late", ("w",), 1, 7))
    assert bank.act([LATE] * 2, greedy=True, dialogues=[7, 8]).skills == [(), ("w",)]


def test_draws_follow_eq_7():
    """Four cases, three sequences; frequencies against softmax of the votes computed here."""
    bank = bank_of(memento_k=2, memento_alpha=0.4)
    users = ("refund", "refund late", "refund angry", "late lamp")
    states = [ExpertState(user) for user in users]
    sequences = [("w",), ("x",), ("w",), ("y", "z")]
    outcomes = [1, 0, 1, 1]
    asked = ExpertState("refund")
    bank.write(states, sequences, outcomes, range(4))
    cosine = (bank.encode(states) @ bank.encode([asked]).T).squeeze(1).tolist()
    votes = {}
    for a, c, r in zip(sequences, cosine, outcomes):
        votes[a] = votes.get(a, 0) + (c if r else -c)
    total = sum(math.exp(v / 0.4) for v in votes.values())
    drawn = bank.act([asked] * 4000, seeded(0)).skills
    for a, v in votes.items():
        assert drawn.count(a) / 4000 == pytest.approx(math.exp(v / 0.4) / total, abs=0.03)
    assert set(bank.act([asked] * 50, greedy=True).skills) == {("w",)}


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(["cosine", "q"]))
def test_a_draw_depends_on_its_own_generator_alone(seed, read):
    bank = random_bank(120, seed, memento_read=read, memento_warm=0)
    states = random_states(20, seed + 1)
    draws = keyed(seed)
    together = bank.act(states, [draws(n, 0) for n in range(20)], dialogues=range(20))
    assert len(set(together.skills)) > 1
    for n in (0, 7, 19):
        alone = bank.act([states[n]], [draws(n, 0)], dialogues=[n])
        assert alone.skills[0] == together.skills[n]
        assert alone.cases[0] == together.cases[n]


def test_cosines_do_not_round():
    """Keys lie on a grid: a cosine is the same in whatever order its products are summed."""
    bank = random_bank(100)
    keys = bank.keys[:100].float()
    query = bank.encode(random_states(30, 5))
    cosine = query @ keys.T
    assert torch.equal(keys, bank.encode(random_states(100)))
    assert (keys.norm(dim=-1) - 1).abs().max() < 5e-3
    assert torch.equal(cosine, (query.double() @ keys.double().T).float())
    assert torch.equal(cosine, query.flip(-1) @ keys.flip(-1).T)


HISTORY = (("blue lamp", "Yes."), ("thanks", "Bye."))
BASE = ExpertState("refund late", HISTORY, ("w",))


def test_replies_and_old_messages_are_no_part_of_a_case():
    bank = bank_of(history=2)
    key = bank.encode([BASE])
    # older than k turns
    longer = BASE._replace(history=(("old", "."), *HISTORY))
    assert torch.equal(key, bank.encode([longer]))
    answered = BASE._replace(history=(("blue lamp", "No."), ("thanks", "No.")))
    assert torch.equal(key, bank.encode([answered]))


def test_the_state_is_read():
    bank = bank_of(history=2)
    others = [
        BASE._replace(history=(("price", "."), HISTORY[1])),
        BASE._replace(history=(HISTORY[0], ("price", "."))),
        BASE._replace(previous=("x",)),
        BASE._replace(user="broken sofa"),
    ]
    key = bank.encode([BASE])[0]
    like = [key @ bank.encode([other])[0] for other in others]
    # the older the message the less it counts
    assert like[1] < like[0] < 1
    assert like[2] < 1
    assert like[3] < like[0]
    assert bank.encode([ExpertState("refund")])[0].norm().item() == pytest.approx(1, abs=5e-3)


def test_state_values_by_hand():
    # V(s): weights 1 (failed) and c (succeeded), therefore c / (1 + c)
    bank = bank_of()
    write_cases(bank, ("refund late", ("w",), 0, 0), ("refund", ("x",), 1, 1))
    c = (bank.encode([LATE]) @ bank.encode([ExpertState("refund")]).T).item()
    assert bank.state_values([LATE]) == pytest.approx([c / (1 + c)], abs=5e-3)


def test_value_input_by_hand():
    bank = bank_of()
    write_cases(bank, ("refund", ("z", "x"), 1, 0), ("late", (), 0, 1))
    query = bank.encode([ExpertState("lamp")])
    D = bank.keys.shape[1]
    found = bank.value_input(query, torch.tensor([[0, 1]]))
    assert found.shape == (1, 2, 3 * D + 5)
    # z and x as a set; r
    assert found[0, :, 3 * D:].tolist() == [[0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]
    s = query[0] * D ** 0.5
    c = bank.keys[0].float() * D ** 0.5
    assert torch.allclose(found[0, 0, :3 * D], torch.cat([s, c, s * c]))


# --- writing ------------------------------------------------------------------------------------

def test_the_bank_grows_and_drops_the_oldest_played_case():
    dialogues = []
    for i in range(3):
        turns = (Turn(f"refund {i}", skills=("w",)), Turn("thanks"))
        dialogues.append(Dialogue(str(i), turns))
    logs = logs_of(dialogues)
    bank = bank_of(memento_bank=7)
    bank.fill(logs)
    # an unlabelled turn is no case
    assert len(bank) == 3
    assert bank.dialogue[:3].tolist() == [0, 1, 2]
    assert bank.outcome[:3].tolist() == [1, 1, 1]
    # two at a time: there is room for four
    for n in range(3):
        first = LIVE + 2 * n
        bank.write(random_states(2, n), [("x", "y", "z", "w"), ()], [0, 1], [first, first + 1])
        assert len(bank) == min(7, 5 + 2 * n)
    assert bank.dialogue.tolist() == [0, 1, 2, LIVE + 2, LIVE + 3, LIVE + 4, LIVE + 5]
    assert bank.outcome.tolist() == [1, 1, 1, 0, 1, 0, 1]
    assert bank.sequences[3:5].tolist() == [[1, 2, 3, 0, -1], [-1] * 5]
    assert torch.equal(bank.keys[5:].float(), bank.encode(random_states(2, 2)))
    # more than there is room for: the newest four
    bank.write(random_states(9, 5), [("z",)] * 9, [1] * 9, range(100, 109))
    assert bank.dialogue.tolist() == [0, 1, 2, 105, 106, 107, 108]
    bank.fill(logs)
    assert len(bank) == 3


def test_logged_cases_take_at_most_half():
    dialogues = [Dialogue(str(i), (Turn(f"refund {i}", skills=("w",)),)) for i in range(40)]
    bank = bank_of(memento_bank=20)
    bank.fill(logs_of(dialogues))
    assert len(bank) == 10
    # evenly spaced over the split
    assert bank.dialogue[:10].tolist() == list(range(0, 40, 4))


# --- refusals -----------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [{"given": [("w",)]}, {"stops": False}])
def test_a_bank_neither_scores_nor_forbids_the_stop(arguments):
    with pytest.raises(ValueError, match="log-probabilities"):
        bank_of().act([ExpertState("refund")], **arguments)


@pytest.mark.parametrize("bad", [
    {"memento_read": "euclid"},
    {"memento_credit": "week"},
    {"memento_k": 0},
    {"memento_bank": 1},
    {"memento_bank": 2 ** 20},
    {"memento_alpha": 0},
    {"memento_alpha": float("nan")},
    {"memento_warm": -1},
    {"memento_q_lr": 0},
])
def test_memento_config_refuses(bad):
    with pytest.raises(ValueError, match=f"--{next(iter(bad))}"):
        MementoConfig(**bad)


def test_settings_of_older_runs_are_passed_over_or_named():
    old = {"memento_k": 3, "memento_near": 16, "memento_width": 64, "memento_batch": 32}
    assert recorded(MementoConfig, old) == MementoConfig(memento_k=3)
    with pytest.raises(DataError, match="this version has no setting memento_width = 512"):
        recorded(MementoConfig, old | {"memento_width": 512})
