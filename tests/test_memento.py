"""Memento, GAP-10: Q against hand calculations and scikit-learn, and the trainer itself.

The bank is tested in test_case_bank.py.  Equation numbers are Memento's (arXiv 2508.16153)."""
import copy
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

import data
from baselines.case_bank import LIVE, CaseBank, MementoConfig, nearest
from baselines.memento import Memento, QLearner, auc, q_loss
from csagent import CustomerServiceAgent
from data import DataError, Dataset, Dialogue, Episode, Turn
from expert import ExpertConfig, ExpertState
from gopo import Gopo, strategy_only
from hosted.judge import judge_for
from infra.runs import load_checkpoint, save_checkpoint
from lm.config import AgentConfig, LMConfig
from lm.models import build_tiny
from measure import training_row
from perception import Perception
from play import GopoConfig
from tests.banks import POOL, WORDS, bank_of, random_states, write_cases

ROW = {"loss_q", "q_auc", "cases", "cases_succeeded", "reused_played"}


# --- Q ------------------------------------------------------------------------------------------

def test_q_loss_by_hand():
    # Q = .5 and .8: r = 1 costs ln 2 = .6931, r = 0 costs -ln .2 = 1.6094; mean 1.1513
    logit = torch.tensor([0.0, math.log(4)])
    assert q_loss(logit, torch.tensor([1.0, 0.0])).item() == pytest.approx(1.1513, abs=1e-4)
    # -ln .8 = .2231
    mean = (0.6931 + 0.2231) / 2
    assert q_loss(logit, torch.tensor([0.0, 1.0])).item() == pytest.approx(mean, abs=1e-4)
    # no log of 0
    sure = torch.tensor([-200.0])
    assert q_loss(sure, torch.tensor([1.0])).item() == pytest.approx(200)


@given(st.lists(st.tuples(st.floats(-8, 8), st.booleans()), min_size=2, max_size=30))
def test_q_loss_and_auc_equal_scikit_learn(pairs):
    logit = torch.tensor([a for a, _ in pairs], dtype=torch.double)
    r = torch.tensor([float(b) for _, b in pairs], dtype=torch.double)
    theirs = log_loss(r, logit.sigmoid(), labels=[0, 1])
    assert q_loss(logit, r).item() == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    if 0 < r.sum() < len(r):
        assert auc(logit, r) == pytest.approx(roc_auc_score(r, logit))
    else:
        assert auc(logit, r) is None


def test_auc_by_hand():
    # successes .9, .4 against failures .4, .1: .9 above both, .4 ties one and beats one: 3.5 of 4
    assert auc(torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([1, 1, 0, 0])) == 3.5 / 4


def toy(bank: CaseBank) -> tuple[list[ExpertState], list[int], list[int]]:
    """Reusing [y] succeeds, reusing [x] fails, whatever the state: what Q is to find out."""
    rng = random.Random(0)
    sequences = [("x",) if n % 2 else ("y",) for n in range(120)]
    bank.write(random_states(120), sequences, [1] * 120, range(120))
    cases = [rng.randrange(120) for _ in range(1600)]
    return random_states(1600, 1), cases, [1 - c % 2 for c in cases]


def test_q_learns_which_case_is_useful():
    bank = bank_of(memento_read="q", memento_warm=500, memento_q_lr=0.01)
    learner = QLearner(bank)
    states, cases, outcomes = toy(bank)
    before = copy.deepcopy(bank.state_dict())
    asked = random_states(30, 9)
    near = bank.act(asked, greedy=True).skills
    rows = []
    for i in range(0, 1600, 80):
        part = slice(i, i + 80)
        rows.append(learner.update(states[part], cases[part], outcomes[part]))
    assert rows[0]["loss_q"] > 0.6
    assert rows[-1]["loss_q"] < 0.2
    assert rows[-1]["q_auc"] > 0.95
    assert bank.learned.item() == 1600
    assert ("x",) in near
    assert set(bank.act(asked, greedy=True).skills) == {("y",)}
    after = bank.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    # perception and keys are frozen
    assert moved == {"q.0.weight", "q.0.bias", "q.2.weight", "q.2.bias", "learned"}


def test_q_reads_only_once_it_has_learned():
    bank = bank_of(memento_read="q", memento_warm=90)
    states, cases, outcomes = toy(bank)
    query = bank.encode(states[:9])
    weight, near, _ = bank.read(states[:9], 4)
    nothing_barred = torch.zeros(9, 120, dtype=torch.bool)
    cosine, _, _ = nearest(query, bank.keys[:120].float(), nothing_barred, 4)
    assert torch.equal(weight, cosine)
    QLearner(bank).update(states[:90], cases[:90], outcomes[:90])
    # Eq. 16: the weight is Q
    q, case, _ = bank.read(states[:9], 4)
    wanted = bank.q(bank.value_input(query, case)).squeeze(-1).sigmoid()
    assert torch.allclose(q, wanted, atol=1e-3)
    assert (q[:, :-1] >= q[:, 1:]).all()
    assert not torch.equal(case, near)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_barred_case_takes_no_place_among_those_read(sign):
    # whichever Q is greater
    bank = bank_of(memento_read="q", memento_warm=0, memento_k=1)
    bank.q[2].weight.data *= sign
    write_cases(bank, *[("refund", ("w",), 1, 7)] * 3, ("lamp", ("x",), 1, 8))
    assert bank.act([ExpertState("refund")], greedy=True, dialogues=[7]).skills == [("x",)]


def test_an_update_without_cases_changes_nothing():
    bank = bank_of()
    assert QLearner(bank).update([], [], []) == {"loss_q": None, "q_auc": None}
    assert bank.learned.item() == 0


# --- the trainer --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def shop() -> Dataset:
    return data.load("mgshop")


@pytest.fixture(scope="module")
def perception(shop) -> Perception:
    torch.manual_seed(0)
    found = Perception(shop.intents, shop.emotions)
    found.fit(shop, epochs=4)
    return found


def memento_of(dataset, perception, agent=None, fill=True, dialogues=6, **options) -> Memento:
    torch.manual_seed(0)
    cfg = MementoConfig(**{"memento_bank": 12000, "memento_warm": 50} | options)
    bank = CaseBank(list(dataset.skills), perception, ExpertConfig(), cfg)
    if fill:
        bank.fill(dataset)
    judge = judge_for(dataset)
    return Memento(dataset, bank, agent, judge, GopoConfig(dialogues=dialogues), options=cfg)


def step_of(gopo: Memento, number: int, seed: int = 0) -> tuple[dict, list[Episode]]:
    """A row of metrics.jsonl, and the dialogues."""
    played, learned = gopo.step(number, seed)
    return training_row(number, gopo, played, learned), played


def rows_of(gopo: Memento, numbers) -> list[dict]:
    return [step_of(gopo, number)[0] for number in numbers]


def turns_of(played: list[Episode]) -> int:
    return sum(len(e.steps) for e in played)


def same_tensors(one: CaseBank, other: CaseBank) -> bool:
    """In value and type."""
    theirs = other.state_dict()
    for name, value in one.state_dict().items():
        if not torch.equal(value, theirs[name]) or value.dtype != theirs[name].dtype:
            return False
    return True


def test_a_live_run(shop, perception, capsys):
    gopo = memento_of(shop, perception, dialogues=16)
    bank = gopo.expert
    held = len(bank)
    labelled = 0
    for dialogue in shop.train:
        labelled += sum(turn.skills is not None for turn in dialogue.turns)
    assert held == labelled > 4000
    rows = []
    for number in range(1, 9):
        row, played = step_of(gopo, number)
        rows.append(row)
        held += turns_of(played)
        # every turn is a case
        assert row["cases"] == held
        # columns are fixed
        assert list(row) == list(rows[0])
        assert row.keys() >= ROW
    assert bank.dialogue[int(bank.logged):held].min() >= LIVE
    assert rows[-1]["reused_played"] > 0
    assert 0 < rows[-1]["loss_q"] < 2
    success = np.mean([row["success"] for row in rows])
    # random skills: none of 128
    assert success > 0.3
    with capsys.disabled():
        print(f"\nMemento on mgshop, 128 dialogues with template replies: {success:.0%} succeeded, "
              f"{held} cases")


def test_every_turn_of_a_dialogue_has_its_outcome(shop, perception):
    gopo = memento_of(shop, perception)
    bank = gopo.expert
    before = len(bank)
    played, _ = gopo.step(1, seed=3)
    wanted = []
    for e in played:
        wanted += [(e.number + LIVE, int(e.seen.outcome.success))] * len(e.steps)
    written = slice(before, before + len(wanted))
    found = zip(bank.dialogue[written].tolist(), bank.outcome[written].tolist())
    assert list(found) == wanted
    assert len({r for _, r in wanted}) == 2


def test_q_learns_from_the_case_that_was_reused(shop, perception):
    """What `learn` hands to Q: per turn the case whose sequence was said.

    It is read while it still has its place in a bank that is full."""
    gopo = memento_of(shop, perception, memento_bank=120)
    bank = gopo.expert
    update = gopo.learner.update
    seen = []

    def sequence(case: int) -> tuple[str, ...]:
        return tuple(bank.pool[i] for i in bank.sequences[case].tolist() if i >= 0)

    def recorded(states, cases, outcomes):
        seen.append((states, [sequence(c) for c in cases], outcomes))
        return update(states, cases, outcomes)

    gopo.learner.update = recorded
    for number in (1, 2, 3):
        row, played = step_of(gopo, number, seed=3)
        states, sequences, outcomes = seen[-1]
        steps = []
        wanted = []
        for e in played:
            steps += e.steps
            wanted += [int(e.seen.outcome.success)] * len(e.steps)
        assert states == [s.state for s in steps]
        assert sequences == [s.skills for s in steps]
        assert outcomes == wanted
        assert gopo.used == {}
    assert row["cases"] == 120
    assert row["reused_played"] > 0
    assert bank.learned.item() == sum(len(states) for states, _, _ in seen)


def test_turns_can_be_credited_one_by_one(shop, perception):
    gopo = memento_of(shop, perception, memento_credit="turn")
    _, played = step_of(gopo, 1, seed=3)
    credits = set()
    for episode in played:
        assert gopo.outcomes(episode) == [int(step.esndcg >= 0.5) for step in episode.steps]
        credits |= set(gopo.outcomes(episode))
    # a dialogue's success would be the same number for all its turns
    assert credits == {0, 1}


def three_turns(i: int) -> Dialogue:
    """The last turn is not labelled."""
    first = Turn(f"refund {WORDS[i]}", skills=("x", "y"))
    second = Turn(f"thanks {WORDS[i]}", skills=("w",))
    return Dialogue(str(i), (first, second, Turn("bye")))


def test_logs_are_judged_by_the_turn():
    # their replies change nothing: r = [ESNDCG >= .5]; an unlabelled turn is no case
    skills = {k: data.Skill(k) for k in POOL}
    logs = Dataset("d", skills, (), (), [three_turns(i) for i in range(6)], [], [])
    gopo = memento_of(logs, Perception([], [], 8), memento_bank=100)
    row, played = step_of(gopo, 1)
    bank = gopo.expert
    assert row["cases"] == len(bank) == 12 + 12
    assert row.keys() >= ROW
    assert row["success"] is None
    # the number of the logged dialogue itself
    numbers = []
    for e in played:
        numbers += [e.number] * 2
    assert bank.dialogue[12:24].tolist() == numbers
    # P = [y] of T = [x, y]: .275; P = [x, y]: 1
    for e in played:
        first, second = (step.skills[:1] for step in e.steps[:2])
        assert gopo.outcomes(e) == [int(first == ("x",)), int(second == ("w",)), None]


def test_a_replayed_dialogue_is_asked_under_its_own_index():
    skills = {k: data.Skill(k) for k in POOL}
    logs = Dataset("d", skills, (), (), [three_turns(i) for i in range(6)], [], [])
    gopo = memento_of(logs, Perception([], [], 8), memento_bank=100)
    played, _ = gopo.step(1, seed=0)
    bank = gopo.expert
    seen = []

    def act(states, generators, greedy, dialogues):
        seen.append(dialogues)
        return CaseBank.act(bank, states, generators, greedy=greedy, dialogues=dialogues)

    bank.act = act
    gopo.chooser(greedy=True)([e.steps[0].state for e in played], played)
    assert seen == [[e.number for e in played]]


def test_a_step_without_cases_has_the_same_columns(shop, perception):
    empty = memento_of(shop, perception, fill=False)
    full = memento_of(shop, perception)
    row, played = step_of(empty, 1)
    assert list(row) == list(step_of(full, 1)[0])
    assert row["loss_q"] is None
    assert row["reused_played"] is None
    for e in played:
        assert all(s.skills == () for s in e.steps)
    assert row["cases"] == turns_of(played)
    assert row["success"] == 0


@pytest.fixture(scope="module")
def speaker(shop) -> CustomerServiceAgent:
    texts = []
    for dialogue in shop.train[:30]:
        texts += [turn.user for turn in dialogue.turns]
    model, tokenizer = build_tiny(texts, [], 0, 128, 2)
    cfg = AgentConfig(group=2)
    lm = LMConfig(max_new_tokens=6)
    agent = CustomerServiceAgent(model, tokenizer, shop.skills, shop.must_not_say, cfg, lm)
    agent.freeze_embedding(["Hello."])
    return agent


def test_the_language_model_never_learns(shop, perception, speaker):
    weights = {k: v.clone() for k, v in speaker.model.state_dict().items()}
    gopo = memento_of(shop, perception, speaker, dialogues=2)
    row, _ = step_of(gopo, 1)
    assert row.keys() >= ROW
    assert "L_p" not in row
    assert not speaker.optimizer.state
    for name, value in speaker.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    # a checkpoint does without it
    assert set(gopo.parts()) == {"expert", "expert_adam"}


def test_the_strategy_stage_is_memento_as_well(shop, perception, speaker):
    gopo = memento_of(shop, perception, speaker)
    before = len(gopo.expert)
    bare = strategy_only(gopo)
    bare.step(1, seed=0, stage=1)
    assert isinstance(bare, Memento)
    assert len(gopo.expert) > before
    assert gopo.learner.optimiser.state


def test_a_resumed_run_equals_an_uninterrupted_one(shop, perception, tmp_path):
    whole = memento_of(shop, perception, memento_bank=5000)
    first = memento_of(shop, perception, memento_bank=5000)
    rows = rows_of(whole, range(1, 5))
    assert rows_of(first, (1, 2)) == rows[:2]
    save_checkpoint(tmp_path, 2, first.parts())
    second = memento_of(shop, perception, fill=False, memento_bank=5000)
    second.restore(load_checkpoint(tmp_path)[1])
    assert same_tensors(second.expert, first.expert)
    # Q's Adam and the order of cases included
    assert rows_of(second, (3, 4)) == rows[2:]
    assert same_tensors(whole.expert, second.expert)


# --- refusals -----------------------------------------------------------------------------------

def test_memento_refuses(shop, perception, monkeypatch):
    gopo = memento_of(shop, perception)
    with pytest.raises(DataError, match="--no_expert"):
        Memento(shop, gopo.expert, None, gopo.judge, GopoConfig(no_expert=True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="one process"):
        memento_of(shop, perception)


def test_memento_is_an_algorithm():
    assert issubclass(Memento, Gopo)
    assert Memento.policy is CaseBank
    assert Memento.Options is MementoConfig
