"""DPO: its loss by hand, which replies are a pair, and a step that prefers the better one."""
import math
from dataclasses import replace

import pytest
import torch

import data
from baselines.dpo import DPO, DPOConfig, Pair, dpo_loss, margins, pairs_of
from data import DataError
from expert import ExpertConfig
from judge import RuleJudge
from play import GopoConfig
from shop import sale
from start.flags import parse_flags
from systems import more_learner
from tests.test_more_train import SMALL, agent_of, equal, weights


@pytest.fixture(scope="module")
def world():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sale, "SIZES", SMALL)
        yield data.load("sale")


def made(world, agent=None, **flags) -> DPO:
    options = DPOConfig(**({"dpo_contexts": 3} | flags))
    expert = DPO.new_policy(world, ExpertConfig(), options)
    dpo = DPO(world, expert, agent or agent_of(world), RuleJudge(world.skills),
              GopoConfig(no_expert=True), options=options)
    dpo.grpo.freeze()
    return dpo


# --- Rafailov et al. 2023, Eq. 7 ------------------------------------------------------------------

def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, requires_grad=True)


def test_the_loss_by_hand():
    # margin = .5 ((-1 + 2) - (-3 + 2)) = 1; -log sigma(1) = log(1 + e^-1) = .3133
    loss = dpo_loss(row(-1.0), row(-3.0), row(-2.0), row(-2.0), 0.5)
    assert loss.item() == pytest.approx(0.3133, abs=1e-4)
    # pi = pi_ref: log 2, whatever both say
    assert dpo_loss(row(-7.0), row(-1.0), row(-7.0), row(-1.0), 3.0).item() == pytest.approx(
        math.log(2))
    # the mean over pairs: margins 1 and -1; log(1 + e) = 1.3133
    both = dpo_loss(row(-1.0, -3.0), row(-3.0, -1.0), row(-2.0, -2.0), row(-2.0, -2.0), 0.5)
    assert both.item() == pytest.approx((0.3133 + 1.3133) / 2, abs=1e-4)


def test_its_gradient_by_hand():
    # dL/d log pi(y_w) = -beta sigma(-margin) = -.5 / (1 + e) = -.1345, and + for y_l
    chosen, rejected = row(-1.0), row(-3.0)
    ref_chosen, ref_rejected = row(-2.0), row(-2.0)
    dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5).backward()
    assert chosen.grad.item() == pytest.approx(-0.1345, abs=1e-4)
    assert rejected.grad.item() == pytest.approx(0.1345, abs=1e-4)
    assert ref_chosen.grad is None
    assert ref_rejected.grad is None


@pytest.mark.parametrize("four, beta", [
    ((row(1.0), row(1.0, 2.0), row(1.0), row(1.0)), 0.1),
    ((row(), row(), row(), row()), 0.1),
    ((row(1.0), row(1.0), row(1.0), row(1.0)), 0.0),
])
def test_shapes_and_beta_are_refused(four, beta):
    with pytest.raises(ValueError, match="dpo"):
        margins(*four, beta)


# --- pairs ----------------------------------------------------------------------------------------

def test_the_best_and_the_worst_are_a_pair():
    nan = math.nan
    R = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [nan, 1.0, 0.0], [nan, nan, 5.0]])
    assert pairs_of(R) == [Pair(0, 1, 0), Pair(2, 1, 2)]


# --- learning -------------------------------------------------------------------------------------

def test_a_step_prefers_the_better_reply_and_keeps_the_reference(world):
    dpo = made(world, agent_of(world, agent_lr=1e-2), dpo_beta=1.0)
    held = [p.clone() for p in dpo.grpo.reference]
    rows = []
    for _ in range(3):
        # the same states again: pi_ref draws the same replies
        rows.append(dpo.step(1, 0)[1])
    assert rows[0]["loss"] == pytest.approx(math.log(2))
    assert (rows[0]["margin"], rows[0]["preferred"]) == (0, 0)
    assert rows[0]["reward"] == rows[2]["reward"]
    assert rows[2]["margin"] > 0.1
    assert rows[2]["preferred"] > 0.6
    assert rows[2]["loss"] < rows[0]["loss"]
    assert equal(held, dpo.grpo.reference)


def test_what_pads_a_reply_may_be_banned_there(world, monkeypatch):
    read = more_learner.token_logp

    def banned(logits, ids):
        # of what pads, id 0, which no reply holds
        return read(logits, ids).masked_fill(ids == 0, -math.inf)

    monkeypatch.setattr(more_learner, "token_logp", banned)
    dpo = made(world, agent_of(world))
    speak = dpo.speak

    def of_two_lengths(*where):
        prepared, replies = speak(*where)
        for group in replies:
            group[0] = cut(group[0], 2)
        return prepared, replies

    dpo.speak = of_two_lengths
    row = dpo.step(1, 0)[1]
    assert row["loss"] == pytest.approx(math.log(2))
    assert row["grad_norm"] > 0


def cut(reply, tokens: int):
    """The beginning of a reply."""
    parts = {name: getattr(reply, name)[:tokens] for name in ("ids", "mask", "logp", "bans")}
    return replace(reply, **parts)


def test_where_all_replies_are_alike_nothing_is_learned(world):
    dpo = made(world)
    dpo.rate = lambda contexts, replies: torch.zeros(6, 3, 3)
    before = weights(dpo.agent)
    told = dpo.step(1, 0)[1]
    assert (told["pairs"], told["loss"]) == (0, None)
    assert equal(before, dpo.agent.params)


# --- flags ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, message", [
    ({"dpo_beta": 0.0}, "--dpo_beta must be positive"),
    ({"dpo_contexts": 0}, "--dpo_contexts must be at least 1"),
    ({"dpo_rewards": "FUN"}, "FUN"),
])
def test_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        DPOConfig(**flags)


def test_what_has_no_facts_is_refused_by_its_own_flag(world):
    bare = replace(world, facts=None, tasks=None)
    with pytest.raises(DataError, match="--dpo_rewards RSN,FID,COV: sale has no facts"):
        DPO.refuse_options(bare, DPOConfig(), True)


def test_flags_of_dpo_are_refused_elsewhere(capsys):
    with pytest.raises(SystemExit):
        parse_flags(["--algo", "more", "--dpo_beta", "0.2"], "")
    assert "--dpo_beta is none of --algo more's flags" in capsys.readouterr().err
    configs = parse_flags(["--algo", "dpo", "--dpo_beta", "0.2"], "")
    assert configs.options.dpo_beta == 0.2
    assert configs.gopo.no_expert
