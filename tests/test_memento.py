"""Memento, GAP-10: each equation against a hand calculation or NumPy, the bank as a data structure, and the trainer itself.

Equation numbers are Memento's (arXiv 2508.16153)."""
import copy
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

import data
from baselines.memento import (
    LIVE,
    CaseBank,
    Memento,
    MementoConfig,
    QLearner,
    auc,
    mu,
    nearest,
    q_loss,
    vote,
)
from csagent import CustomerServiceAgent
from data import DataError, Dataset, Dialogue, Turn
from expert import ExpertConfig, ExpertState, Perception
from gopo import Gopo, strategy_only
from hosted.judge import judge_for
from infra.runs import load_checkpoint, save_checkpoint
from lm.config import AgentConfig, LMConfig
from lm.models import build_tiny
from measure import training_row
from play import GopoConfig
from policies import keyed

POOL = ["w", "x", "y", "z"]
WORDS = ["refund", "sofa", "lamp", "late", "angry", "thanks", "blue", "where", "price", "stock", "broken", "voucher"]
ROW = {"loss_q", "q_auc", "cases", "cases_succeeded", "reused_played"}


def bank_of(seed=0, history=1, **options) -> CaseBank:
    torch.manual_seed(seed)
    eyes = Perception(["refund", "other"], ["angry", "neutral"], 16)
    return CaseBank(POOL, eyes, ExpertConfig(history=history), MementoConfig(**({"memento_read": "cosine", "memento_bank": 200} | options)))


def random_states(n: int, seed=0) -> list[ExpertState]:
    rng = random.Random(seed)
    said = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))
    return [ExpertState(said(), ((said(), "Yes."),) * rng.randint(0, 1), tuple(rng.sample(POOL, rng.randint(0, 2)))) for _ in range(n)]


def random_bank(n: int, seed=0, **options) -> CaseBank:
    bank, rng = bank_of(**options), random.Random(seed)
    bank.write(random_states(n, seed), [tuple(rng.sample(POOL, rng.randint(0, 3))) for _ in range(n)], [rng.randint(0, 1) for _ in range(n)], range(n))
    return bank


# ---------------------------------------------------------------- equations

def test_nearest_by_hand():      # cosines of (1, 0) with (.6, .8), (1, 0), (0, 1): .6, 1, 0; the second is barred for the second query
    keys = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    cosine, case, allowed = nearest(torch.tensor([[1.0, 0.0]] * 2), keys, torch.tensor([[False] * 3, [False, True, False]]), 2)
    assert case.tolist() == [[1, 0], [0, 2]] and allowed.all() and cosine[0].tolist() == pytest.approx([1, 0.6])
    assert nearest(keys, keys, torch.ones(3, 3, dtype=torch.bool), 9)[2].tolist() == [[False] * 3] * 3         # nothing left: nothing allowed


def test_of_equal_cases_the_newest():
    keys = torch.tensor([[1.0, 0.0]] * 40)
    assert nearest(keys[:1], keys, torch.zeros(1, 40, dtype=torch.bool), 3)[1].tolist() == [[39, 38, 37]]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 150))
def test_the_four_nearest_equal_numpys(seed, n):
    bank, states = random_bank(n, seed), random_states(5, seed + 1)
    weight, case, _ = bank.read(states, 4)
    keys, queries = bank.encode(random_states(n, seed)).numpy().astype(float), bank.encode(states).numpy().astype(float)
    for query, found, cosines in zip(queries, case.tolist(), weight.tolist()):
        exact = [sum(a * b for a, b in zip(query, key)) for key in keys]
        assert found == sorted(range(n), key=lambda i: (-exact[i], -i))[:4] and cosines == pytest.approx([exact[i] for i in found])


def test_q_loss_by_hand():      # Q = .5 and .8: r = 1 costs ln 2 = .6931, r = 0 costs -ln .2 = 1.6094; mean 1.1513
    logit = torch.tensor([0.0, math.log(4)])
    assert q_loss(logit, torch.tensor([1.0, 0.0])).item() == pytest.approx(1.1513, abs=1e-4)
    assert q_loss(logit, torch.tensor([0.0, 1.0])).item() == pytest.approx((0.6931 + 0.2231) / 2, abs=1e-4)     # -ln .8 = .2231
    assert q_loss(torch.tensor([-200.0]), torch.tensor([1.0])).item() == pytest.approx(200)                  # no log of 0


@given(st.lists(st.tuples(st.floats(-8, 8), st.booleans()), min_size=2, max_size=30))
def test_q_loss_and_auc_equal_scikit_learn(pairs):
    logit, r = torch.tensor([a for a, _ in pairs], dtype=torch.double), torch.tensor([float(b) for _, b in pairs], dtype=torch.double)
    assert q_loss(logit, r).item() == pytest.approx(log_loss(r, logit.sigmoid(), labels=[0, 1]), rel=1e-5, abs=1e-7)
    both = 0 < r.sum() < len(r)
    assert auc(logit, r) == (pytest.approx(roc_auc_score(r, logit)) if both else None)


def test_auc_by_hand():      # successes .9, .4 against failures .4, .1: .9 above both, .4 ties one and beats one: 3.5 of 4
    assert auc(torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([1, 1, 0, 0])) == 3.5 / 4


def test_mu_by_hand():      # e^(1/.5) : e^0 : 0
    e2 = math.exp(2)
    assert mu(torch.tensor([1.0, 0.0, -math.inf]), 0.5).tolist() == pytest.approx([e2 / (e2 + 1), 1 / (e2 + 1), 0])


def test_vote_by_hand():      # [w]: +.9 - .5; [x]: -.8; [w, x] is another sequence than [x, w]: +.7; the second [w] is counted with the first
    w, x, wx, xw = [0, -1, -1, -1, -1], [1, -1, -1, -1, -1], [0, 1, -1, -1, -1], [1, 0, -1, -1, -1]
    score = vote(torch.tensor([[w, x, wx, w, xw]]), torch.tensor([[0.9, 0.8, 0.7, 0.5, 0.4]]), torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]]))
    assert score[0].tolist() == pytest.approx([0.4, -0.8, 0.7, -math.inf, -0.4])


# ---------------------------------------------------------------- reading and reusing

def test_greedy_reuses_by_hand():
    """The nearest case failed; two that are less like the state, one sequence, succeeded."""
    bank = bank_of()
    bank.write([ExpertState("refund late"), ExpertState("refund late angry"), ExpertState("refund late where"), ExpertState("blue lamp")],
               [("w",), ("y", "x"), ("y", "x"), ("z",)], [0, 1, 1, 1], range(4))
    choice = bank.act([ExpertState("refund late")], greedy=True)
    cosine = bank.encode([ExpertState("refund late")]) @ bank.encode([ExpertState("refund late angry"), ExpertState("refund late where")]).T
    assert choice.skills == [("y", "x")] and choice.score == pytest.approx([cosine.sum().item()])
    assert choice.cases == [1 + cosine.argmax().item()]                      # the one with the greater weight
    bank.write([ExpertState("refund late")], [("x", "y")], [1], [4])          # an exact match that succeeded cannot outvote two
    assert bank.act([ExpertState("refund late")], greedy=True).skills == [("y", "x")]


def test_if_all_failed_the_least_like_case_is_followed():
    bank = bank_of()
    bank.write([ExpertState("refund late"), ExpertState("refund")], [("w",), ("x",)], [0, 0], [0, 1])
    choice = bank.act([ExpertState("refund late")], greedy=True)
    assert choice.skills == [("x",)] and -1 < choice.score[0] < 0


def test_an_empty_bank_picks_nothing():
    choice = bank_of().act([ExpertState("refund")] * 2, torch.Generator().manual_seed(0))
    assert choice.skills == [(), ()] and choice.cases == [-1, -1] and bank_of().state_values([ExpertState("refund")]) == [0.0]


def test_a_dialogue_never_retrieves_itself():
    bank = bank_of()
    bank.write([ExpertState("refund late"), ExpertState("refund late"), ExpertState("blue lamp")], [("w",), ("w",), ("x",)], [1, 1, 1], [7, 7, LIVE + 7])
    same, other = ExpertState("refund late"), [7, LIVE + 7, 3]
    assert bank.act([same] * 3, greedy=True, dialogues=other).skills == [("x",), ("w",), ("w",)]
    drawn = {k for n in range(50) for k in bank.act([same], torch.Generator().manual_seed(n), dialogues=[7]).skills}
    assert drawn == {("x",)}
    bank.write([], [], [], [])
    alone = bank_of()
    alone.write([same], [("w",)], [1], [7])
    assert alone.act([same] * 2, greedy=True, dialogues=[7, 8]).skills == [(), ("w",)]      # one state of a batch may have no case, another one


def test_draws_follow_eq_7():
    """Four cases, three sequences; frequencies against softmax of the votes computed here."""
    bank = bank_of(memento_k=2, memento_alpha=0.4)
    states = [ExpertState("refund"), ExpertState("refund late"), ExpertState("refund angry"), ExpertState("late lamp")]
    sequences, outcomes, asked = [("w",), ("x",), ("w",), ("y", "z")], [1, 0, 1, 1], ExpertState("refund")
    bank.write(states, sequences, outcomes, range(4))
    cosine = (bank.encode(states) @ bank.encode([asked]).T).squeeze(1).tolist()
    votes = {}
    for a, c, r in zip(sequences, cosine, outcomes):
        votes[a] = votes.get(a, 0) + (c if r else -c)
    total = sum(math.exp(v / 0.4) for v in votes.values())
    drawn = bank.act([asked] * 4000, torch.Generator().manual_seed(0)).skills
    for a, v in votes.items():
        assert drawn.count(a) / 4000 == pytest.approx(math.exp(v / 0.4) / total, abs=0.03)
    assert set(bank.act([asked] * 50, greedy=True).skills) == {("w",)}


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(["cosine", "q"]))
def test_a_draw_depends_on_its_own_generator_alone(seed, read):
    bank, states, draws = random_bank(120, seed, memento_read=read, memento_warm=0), random_states(20, seed + 1), keyed(seed)
    together = bank.act(states, [draws(n, 0) for n in range(20)], dialogues=range(20))
    assert len(set(together.skills)) > 1
    for n in (0, 7, 19):
        alone = bank.act([states[n]], [draws(n, 0)], dialogues=[n])
        assert (alone.skills[0], alone.cases[0]) == (together.skills[n], together.cases[n])


def test_cosines_do_not_round():
    """Keys lie on a grid, so a cosine is the same number in whatever order its products are summed."""
    bank, states = random_bank(100), random_states(30, 5)
    keys, query = bank.keys[:100].float(), bank.encode(states)
    assert torch.equal(keys, bank.encode(random_states(100))) and (keys.norm(dim=-1) - 1).abs().max() < 5e-3
    assert torch.equal(query @ keys.T, (query.double() @ keys.double().T).float()) and torch.equal(query @ keys.T, query.flip(-1) @ keys.flip(-1).T)


def test_the_state_is_read():
    bank, base = bank_of(history=2), ExpertState("refund late", (("blue lamp", "Yes."), ("thanks", "Bye.")), ("w",))
    code = lambda s: bank.encode([s])[0]
    assert torch.equal(code(base), code(base._replace(history=(("old", "."), *base.history))))                # older than k turns
    assert torch.equal(code(base), code(base._replace(history=(("blue lamp", "No."), ("thanks", "No.")))))    # replies are no part of a case
    like = [code(base) @ code(base._replace(**{f: v})) for f, v in (("history", (("price", "."), base.history[1])), ("history", (base.history[0], ("price", "."))),
                                                                   ("previous", ("x",)), ("user", "broken sofa"))]
    assert like[1] < like[0] < 1 and like[2] < 1 and like[3] < like[0]       # the older the message the less it counts
    assert code(ExpertState("refund")).norm().item() == pytest.approx(1, abs=5e-3)


def test_state_values_by_hand():      # V(s): weights 1 (failed) and c (succeeded), so c / (1 + c)
    bank = bank_of()
    bank.write([ExpertState("refund late"), ExpertState("refund")], [("w",), ("x",)], [0, 1], [0, 1])
    c = (bank.encode([ExpertState("refund late")]) @ bank.encode([ExpertState("refund")]).T).item()
    assert bank.state_values([ExpertState("refund late")]) == pytest.approx([c / (1 + c)], abs=5e-3)


# ---------------------------------------------------------------- writing

def test_the_bank_grows_and_drops_the_oldest_played_case():
    logs = Dataset("d", {}, (), (), [Dialogue(str(i), (Turn(f"refund {i}", skills=("w",)), Turn("thanks"))) for i in range(3)], [], [])
    bank = bank_of(memento_bank=7)
    bank.fill(logs)
    assert len(bank) == 3 and bank.dialogue[:3].tolist() == [0, 1, 2] and bank.outcome[:3].tolist() == [1, 1, 1]        # an unlabelled turn is no case
    for n in range(3):                                                       # two at a time: room for four
        bank.write(random_states(2, n), [("x", "y", "z", "w"), ()], [0, 1], [LIVE + 2 * n, LIVE + 2 * n + 1])
        assert len(bank) == min(7, 5 + 2 * n)
    assert bank.dialogue.tolist() == [0, 1, 2, LIVE + 2, LIVE + 3, LIVE + 4, LIVE + 5] and bank.outcome.tolist() == [1, 1, 1, 0, 1, 0, 1]
    assert bank.sequences[3:5].tolist() == [[1, 2, 3, 0, -1], [-1] * 5]
    assert torch.equal(bank.keys[5:].float(), bank.encode(random_states(2, 2)))
    bank.write(random_states(9, 5), [("z",)] * 9, [1] * 9, range(100, 109))   # more than there is room for: the newest four
    assert bank.dialogue.tolist() == [0, 1, 2, 105, 106, 107, 108]
    bank.fill(logs)
    assert len(bank) == 3


def test_logged_cases_take_at_most_half():
    logs = Dataset("d", {}, (), (), [Dialogue(str(i), (Turn(f"refund {i}", skills=("w",)),)) for i in range(40)], [], [])
    bank = bank_of(memento_bank=20)
    bank.fill(logs)
    assert len(bank) == 10 and bank.dialogue[:10].tolist() == list(range(0, 40, 4))       # evenly spaced over the split


# ---------------------------------------------------------------- Q

def toy(bank: CaseBank) -> tuple[list[ExpertState], list[int], list[int]]:
    """Reusing [y] succeeds, reusing [x] fails, whatever the state: what Q is to find out."""
    rng, states = random.Random(0), random_states(120)
    bank.write(states, [("x",) if n % 2 else ("y",) for n in range(120)], [1] * 120, range(120))
    cases = [rng.randrange(120) for _ in range(1600)]
    return random_states(1600, 1), cases, [1 - c % 2 for c in cases]


def test_q_learns_which_case_is_useful():
    bank = bank_of(memento_read="q", memento_warm=500, memento_q_lr=0.01)
    learner = QLearner(bank)
    states, cases, outcomes = toy(bank)
    before, asked = copy.deepcopy(bank.state_dict()), random_states(30, 9)
    near = bank.act(asked, greedy=True).skills
    rows = [learner.update(states[i:i + 80], cases[i:i + 80], outcomes[i:i + 80]) for i in range(0, 1600, 80)]
    assert rows[0]["loss_q"] > 0.6 and rows[-1]["loss_q"] < 0.2 and rows[-1]["q_auc"] > 0.95
    assert bank.learned.item() == 1600 and ("x",) in near and set(bank.act(asked, greedy=True).skills) == {("y",)}
    moved = {k for k, v in bank.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"q.0.weight", "q.0.bias", "q.2.weight", "q.2.bias", "learned"}       # perception and keys are frozen


def test_q_reads_only_once_it_has_learned():
    bank = bank_of(memento_read="q", memento_warm=90)
    states, cases, outcomes = toy(bank)
    by_cosine = bank.read(states[:9], 4)
    assert torch.equal(by_cosine[0], nearest(bank.encode(states[:9]), bank.keys[:120].float(), torch.zeros(9, 120, dtype=torch.bool), 4)[0])
    QLearner(bank).update(states[:90], cases[:90], outcomes[:90])
    q, case, _ = bank.read(states[:9], 4)
    wanted = bank.q(bank.value_input(bank.encode(states[:9]), case)).squeeze(-1).sigmoid()                    # Eq. 16: the weight is Q
    assert torch.allclose(q, wanted, atol=1e-3) and (q[:, :-1] >= q[:, 1:]).all() and not torch.equal(case, by_cosine[1])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_barred_case_takes_no_place_among_those_read(sign):      # whichever Q is greater
    bank = bank_of(memento_read="q", memento_warm=0, memento_k=1)
    bank.q[2].weight.data *= sign
    bank.write([ExpertState("refund")] * 3 + [ExpertState("lamp")], [("w",)] * 3 + [("x",)], [1] * 4, [7, 7, 7, 8])
    assert bank.act([ExpertState("refund")], greedy=True, dialogues=[7]).skills == [("x",)]


def test_value_input_by_hand():
    bank = bank_of()
    bank.write([ExpertState("refund"), ExpertState("late")], [("z", "x"), ()], [1, 0], [0, 1])
    query, D = bank.encode([ExpertState("lamp")]), bank.keys.shape[1]
    found = bank.value_input(query, torch.tensor([[0, 1]]))
    assert found.shape == (1, 2, 3 * D + 5) and found[0, :, 3 * D:].tolist() == [[0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]       # z and x as a set; r
    s, c = query[0] * D ** 0.5, bank.keys[0].float() * D ** 0.5
    assert torch.allclose(found[0, 0, :3 * D], torch.cat([s, c, s * c]))


def test_an_update_without_cases_changes_nothing():
    bank = bank_of()
    assert QLearner(bank).update([], [], []) == {"loss_q": None, "q_auc": None} and bank.learned.item() == 0


# ---------------------------------------------------------------- the trainer

@pytest.fixture(scope="module")
def shop() -> Dataset:
    return data.load("mgshop")


@pytest.fixture(scope="module")
def eyes(shop) -> Perception:
    torch.manual_seed(0)
    perception = Perception(shop.intents, shop.emotions)
    perception.fit(shop, epochs=4)
    return perception


def memento_of(dataset, perception, agent=None, fill=True, dialogues=6, **options) -> Memento:
    torch.manual_seed(0)
    cfg = MementoConfig(**({"memento_bank": 12000, "memento_warm": 50} | options))
    bank = CaseBank(list(dataset.skills), perception, ExpertConfig(), cfg)
    if fill:
        bank.fill(dataset)
    return Memento(dataset, bank, agent, judge_for(dataset), GopoConfig(dialogues=dialogues), options=cfg)


def step_of(gopo: Memento, number: int, seed: int) -> tuple[dict, list]:
    """A row of metrics.jsonl, and the dialogues."""
    played, learned = gopo.step(number, seed)
    return training_row(number, gopo, played, learned), played


def test_a_live_run(shop, eyes, capsys):
    gopo = memento_of(shop, eyes, dialogues=16)
    held, rows = len(gopo.expert), []
    assert held == sum(t.skills is not None for d in shop.train for t in d.turns) > 4000
    for number in range(1, 9):
        row, played = step_of(gopo, number, 0)
        rows.append(row)
        held += sum(len(e.steps) for e in played)
        assert row["cases"] == held and list(row) == list(rows[0]) and row.keys() >= ROW        # every turn is a case; columns are fixed
    assert gopo.expert.dialogue[int(gopo.expert.logged):held].min() >= LIVE and rows[-1]["reused_played"] > 0 and 0 < rows[-1]["loss_q"] < 2
    success = np.mean([r["success"] for r in rows])
    assert success > 0.3                                                     # random skills: none of 128
    with capsys.disabled():
        print(f"\nMemento on mgshop, 128 dialogues with template replies: {success:.0%} succeeded, {held} cases")


def test_every_turn_of_a_dialogue_has_its_outcome(shop, eyes):
    gopo = memento_of(shop, eyes)
    before = len(gopo.expert)
    played, _ = gopo.step(1, seed=3)
    wanted = [(e.number + LIVE, int(e.seen.outcome.success)) for e in played for _ in e.steps]
    assert list(zip(gopo.expert.dialogue[before:before + len(wanted)].tolist(), gopo.expert.outcome[before:].tolist())) == wanted
    assert len({r for _, r in wanted}) == 2


def test_q_learns_from_the_case_that_was_reused(shop, eyes):
    """What `learn` hands to Q: per turn the case whose sequence was said, while it still has its place in a bank that is full."""
    gopo, seen = memento_of(shop, eyes, memento_bank=120), []
    bank, update = gopo.expert, gopo.learner.update
    sequence = lambda c: tuple(bank.pool[i] for i in bank.sequences[c].tolist() if i >= 0)
    gopo.learner.update = lambda states, cases, outcomes: seen.append((states, [sequence(c) for c in cases], outcomes)) or update(states, cases, outcomes)
    for number in (1, 2, 3):
        row, played = step_of(gopo, number, 3)
        states, sequences, outcomes = seen[-1]
        steps = [s for e in played for s in e.steps]
        assert states == [s.state for s in steps] and sequences == [s.skills for s in steps]
        assert outcomes == [int(e.seen.outcome.success) for e in played for _ in e.steps] and gopo.used == {}
    assert row["cases"] == 120 and row["reused_played"] > 0 and bank.learned.item() == sum(len(states) for states, _, _ in seen)


def test_logs_are_judged_by_the_turn():      # their replies change nothing: r = [ESNDCG >= .5]; an unlabelled turn is no case
    turns = lambda i: (Turn(f"refund {WORDS[i]}", skills=("x", "y")), Turn(f"thanks {WORDS[i]}", skills=("w",)), Turn("bye"))
    logs = Dataset("d", {k: data.Skill(k) for k in POOL}, (), (), [Dialogue(str(i), turns(i)) for i in range(6)], [], [])
    gopo = memento_of(logs, Perception([], [], 8), memento_bank=100)
    row, played = step_of(gopo, 1, 0)
    bank = gopo.expert
    assert row["cases"] == len(bank) == 12 + 12 and row.keys() >= ROW and row["success"] is None
    assert bank.dialogue[12:24].tolist() == [e.number for e in played for _ in range(2)]             # the number of the logged dialogue itself
    for episode in played:                                                   # P = [y] of T = [x, y]: .275; P = [x, y]: 1
        assert gopo.outcomes(episode) == [int(episode.steps[0].skills[:1] == ("x",)), int(episode.steps[1].skills[:1] == ("w",)), None]
    seen = []
    bank.act = lambda states, generators, greedy, dialogues: seen.append(dialogues) or CaseBank.act(bank, states, generators, greedy=greedy, dialogues=dialogues)
    gopo.chooser(greedy=True)([e.steps[0].state for e in played], played)
    assert seen == [[e.number for e in played]]                              # a replayed dialogue is asked under its own index


def test_a_step_without_cases_has_the_same_columns(shop, eyes):
    empty, full = memento_of(shop, eyes, fill=False), memento_of(shop, eyes)
    row, played = step_of(empty, 1, 0)
    assert list(row) == list(step_of(full, 1, 0)[0]) and row["loss_q"] is None and row["reused_played"] is None
    assert all(s.skills == () for e in played for s in e.steps) and row["cases"] == sum(len(e.steps) for e in played) and row["success"] == 0


@pytest.fixture(scope="module")
def speaker(shop) -> CustomerServiceAgent:
    model, tokenizer = build_tiny([t.user for d in shop.train[:30] for t in d.turns], [], 0, 128, 2)
    agent = CustomerServiceAgent(model, tokenizer, shop.skills, shop.must_not_say, AgentConfig(group=2), LMConfig(max_new_tokens=6))
    agent.freeze_embedding(["Hello."])
    return agent


def test_the_language_model_never_learns(shop, eyes, speaker):
    weights = {k: v.clone() for k, v in speaker.model.state_dict().items()}
    gopo = memento_of(shop, eyes, speaker, dialogues=2)
    row, _ = step_of(gopo, 1, 0)
    assert row.keys() >= ROW and "L_p" not in row and not speaker.optimizer.state
    assert all(torch.equal(v, weights[k]) for k, v in speaker.model.state_dict().items())
    assert set(gopo.parts()) == {"expert", "expert_adam"}                    # so a checkpoint does without it


def test_the_strategy_stage_is_memento_too(shop, eyes, speaker):
    gopo = memento_of(shop, eyes, speaker)
    before, alone = len(gopo.expert), strategy_only(gopo)
    alone.step(1, seed=0, stage=1)
    assert isinstance(alone, Memento) and len(gopo.expert) > before and gopo.learner.optimiser.state


def test_a_resumed_run_equals_an_uninterrupted_one(shop, eyes, tmp_path):
    whole, first = memento_of(shop, eyes, memento_bank=5000), memento_of(shop, eyes, memento_bank=5000)
    rows = [step_of(whole, n, 0)[0] for n in range(1, 5)]
    for n in (1, 2):
        assert step_of(first, n, 0)[0] == rows[n - 1]
    save_checkpoint(tmp_path, 2, first.parts())
    second = memento_of(shop, eyes, fill=False, memento_bank=5000)
    second.restore(load_checkpoint(tmp_path)[1])
    assert all(torch.equal(v, first.expert.state_dict()[k]) and v.dtype == first.expert.state_dict()[k].dtype for k, v in second.expert.state_dict().items())
    assert [step_of(second, n, 0)[0] for n in (3, 4)] == rows[2:]                # Q's Adam and the order of cases included
    for key, value in whole.expert.state_dict().items():
        assert torch.equal(value, second.expert.state_dict()[key])


@pytest.mark.parametrize("bad", [{"memento_read": "euclid"}, {"memento_k": 0}, {"memento_near": 7}, {"memento_bank": 1}, {"memento_bank": 2 ** 20}, {"memento_alpha": 0},
                                 {"memento_warm": -1}, {"memento_width": 0}, {"memento_q_lr": 0}, {"memento_batch": 0}, {"memento_alpha": float("nan")}])
def test_memento_config_refuses(bad):
    with pytest.raises(ValueError, match=f"--{next(iter(bad))}"):
        MementoConfig(**bad)


def test_memento_refuses(shop, eyes, monkeypatch):
    bank = bank_of()
    for arguments in ({"given": [("w",)]}, {"stops": False}):
        with pytest.raises(ValueError, match="log-probabilities"):
            bank.act([ExpertState("refund")], **arguments)
    gopo = memento_of(shop, eyes)
    with pytest.raises(DataError, match="--no_expert"):
        Memento(shop, gopo.expert, None, gopo.judge, GopoConfig(no_expert=True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="one process"):
        memento_of(shop, eyes)
    assert issubclass(Memento, Gopo) and Memento.policy is CaseBank and Memento.Options is MementoConfig
