"""CMPO where a language model decides and speaks: Eq. 9 over its tokens, and short runs of it."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import data
import train
from data import DataError
from gopo import Seeds, load
from infra.runs import load_checkpoint, read_config, read_rows
from lm.config import BUILT, LMConfig
from policies import keyed
from start import stages
from start.base import FOLLOWING, check_base
from systems.cmpo import CMPO
from systems.cmpo_config import CMPOConfig
from systems.cmpo_words import SpokenTurns
from systems.decision import uniform_anchor
from systems.interactcs import cmpo_objective, cmpo_tokens
from systems.shown import Shown
from tests import small_world
from tests.agents import gradients
from tests.small_world import made_of_words
from tests.training import refused, rows_of


@pytest.fixture(scope="module")
def cmpo() -> CMPO:
    return made_of_words()


@pytest.fixture(scope="module")
def played(cmpo):
    """Three groups of four, and the model that played them."""
    cmpo.words.freeze()
    return cmpo.play(
        cmpo.copies("train", [3, 4, 5], 0), cmpo.chooser(), draws=keyed(7), judge_by="nobody")


# --- what is played -------------------------------------------------------------------------------

def test_what_is_decided_is_paid_and_said(cmpo, played):
    taken = set()
    for episode in played:
        talk = cmpo.talk(episode)
        for step, paid in zip(episode.steps, talk.issued):
            decision = step.replies[0].decision
            taken.add(decision)
            assert paid == (decision == "voucher")
            assert paid == ("in your account" in step.reply)
        assert sum(talk.issued) <= 1
        assert episode.seen.outcome.valid
    assert taken == {"chat", "voucher"}


def test_a_control_copy_only_chats_and_is_not_told_so(cmpo, played):
    for episode in played[3::4]:
        assert cmpo.talk(episode).control
        asked = [step.prepared.request for step in episode.steps]
        assert {request.decisions for request in asked} == {("chat",)}
        # it reads what the others read: nothing was issued, and nothing says that it may not
        assert {request.context["_voucher"] for request in asked} == {"none"}


def test_after_the_voucher_the_customer_is_only_chatted_with(played):
    later = []
    for episode in played:
        decisions = [step.replies[0].decision for step in episode.steps]
        if "voucher" in decisions[:-1]:
            later.append(episode.steps[decisions.index("voucher") + 1].prepared.request)
    assert {request.decisions for request in later} == {("chat",)}
    assert {request.context["_voucher"] for request in later} == {"issued"}


def test_the_environment_reads_the_decision_and_nobody_else(cmpo, played):
    episode = played[0]
    assert episode.env.heard.startswith("<")
    for step in episode.steps:
        assert not step.reply.startswith("<")
        assert all("<" not in reply for _, reply in step.state.history)


def test_copies_of_a_customer_differ_in_what_the_agent_drew(cmpo):
    seeds = Seeds(1, 2, 3, 4, 5)
    played = cmpo._practise([3, 4], 0, seeds)
    for group in (played[:3], played[4:7]):
        said = set()
        for episode in group:
            said.add(tuple(step.reply for step in episode.steps))
        assert len(said) == 3
        assert len({episode.steps[0].state.user for episode in group}) == 1


# --- Eq. 9 ----------------------------------------------------------------------------------------

def turns_of(cmpo: CMPO, played) -> SpokenTurns:
    """All turns, with an advantage that differs from turn to turn."""
    flat = SpokenTurns()
    for number, episode in enumerate(played):
        for place, step in enumerate(episode.steps):
            flat.add(step.prepared, step.replies[0], 0.3 * place - 0.2 * number + 1, number)
    return flat


def learned(cmpo: CMPO, turns: SpokenTurns, anchor: float = 0.0, **flags) -> torch.Tensor:
    """The gradient of one update that takes no step."""
    cmpo.words.options = replace(cmpo.options, **flags)
    n = len(set(turns.dialogue))
    step = cmpo.agent.step

    def run():
        kept = cmpo.agent.step

        def measured(optimizer, terms):
            return kept(optimizer, terms) | {"grad_norm": 0.0}

        cmpo.agent.step = measured
        cmpo.words.learn(turns, n, turns.open(), anchor)

    found = gradients(cmpo.agent, run)
    cmpo.agent.step = step
    return found


def gradient_of(cmpo: CMPO, loss: torch.Tensor) -> torch.Tensor:
    """Of a scalar, in the order of the agent's parameters."""
    cmpo.agent.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in cmpo.agent.params])


def test_the_pull_to_the_warm_start_has_no_gradient_there(cmpo, played):
    turns = turns_of(cmpo, played)
    turns.advantage = [0.0] * len(turns.advantage)
    assert float(learned(cmpo, turns, kl=1.0).abs().max()) < 1e-6
    # and one away from it
    kept = [p.data.clone() for p in cmpo.agent.params]
    for p in cmpo.agent.params:
        p.data.mul_(1.1)
    assert float(learned(cmpo, turns, kl=1.0).abs().max()) > 1e-3
    for p, value in zip(cmpo.agent.params, kept):
        p.data = value


@pytest.mark.parametrize("ratio", ["turn", "token"])
def test_the_update_is_eq_9_over_the_decision_and_the_words(cmpo, played, ratio):
    turns = turns_of(cmpo, played)
    found = learned(cmpo, turns, kl=0.0, ratio=ratio)
    rows = list(range(len(turns.replies)))
    _, logp, mask = cmpo.words._read(turns, rows)
    A, dialogue = torch.tensor(turns.advantage), torch.tensor(turns.dialogue)
    if ratio == "turn":
        whole = logp.sum(-1)
        J = cmpo_objective(whole, whole.detach(), whole.detach(), A, dialogue, beta=0.0)
    else:
        old = logp.detach()
        J = cmpo_tokens(logp, old, old, A, dialogue, mask, beta=0.0)
    assert torch.allclose(found, gradient_of(cmpo, -J), atol=1e-4)
    # the decision is one of the drawn tokens
    assert all(len(reply.logp) == row.sum() for reply, row in zip(turns.replies, mask))


def test_the_anchor_is_that_of_the_first_token(cmpo, played):
    # where both were possible the first draw was between two tokens: p(voucher) is known from it
    turns = turns_of(cmpo, played)
    rows = list(range(len(turns.replies)))
    weight = torch.full((len(rows),), 0.5)
    log_p = cmpo.words._read(turns, rows)[0]
    found = cmpo.words._anchor(turns, rows, log_p, weight, Shown(1.0))
    wanted = 0.0
    for prepared, reply in zip(turns.prepared, turns.replies):
        if len(prepared.request.decisions) > 1:
            p = torch.tensor(reply.logp[0]).exp()
            wanted += 0.5 * float(uniform_anchor(p.log(), (1 - p).log()))
    assert found.item() == pytest.approx(wanted, rel=1e-3)
    assert wanted > 0


def test_a_ratio_of_more_than_one_epoch_begins_at_1_and_moves(cmpo, played):
    other = made_of_words()
    other.words.freeze()
    other.words.options = replace(other.options, cmpo_epochs=1)
    turns = turns_of(other, played)
    assert other.words.learn(turns, 12, turns.open(), 0.0).sums["clipped"] == 0
    other.words.options = replace(other.options, cmpo_epochs=3)
    assert other.words.learn(turns, 12, turns.open(), 0.0).sums["clipped"] > 0


def test_the_reference_stays_and_the_model_comes_back(cmpo, played):
    other = made_of_words()
    other.words.freeze()
    first = [p.detach().clone() for p in other.agent.params]
    turns = turns_of(other, played)
    other.words.learn(turns, 12, turns.open(), 0.0)
    moved = [p.detach().clone() for p in other.agent.params]
    assert any(not torch.equal(a, b) for a, b in zip(first, moved))
    with other.words.as_reference():
        assert all(torch.equal(a, p) for a, p in zip(first, other.agent.params))
    assert all(torch.equal(a, p) for a, p in zip(moved, other.agent.params))


def chances(cmpo: CMPO, played) -> float:
    """Mean p(voucher) where both decisions were possible."""
    turns = turns_of(cmpo, played)
    asked = [i for i, p in enumerate(turns.prepared) if len(p.request.decisions) > 1]
    tag, = cmpo.agent.encode("<voucher>")
    with torch.no_grad():
        log_p = cmpo.words._read(turns, asked)[0]
    return float(log_p[:, 0, tag].exp().mean())


def test_a_high_price_makes_vouchers_rare(played):
    # 1.25 in units of R_O is more than any star that a voucher brings
    cmpo = made_of_words(control="fixed", lambda0=1.25, decision_anchor=0.0, customers=3)
    before = chances(cmpo, played)
    for number in range(1, 4):
        cmpo.step(number, 0)
    assert chances(cmpo, played) < 0.6 * before


# --- refusals -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "small", "tests.small_world:load")
        patch.setitem(BUILT, "nano", (64, 1))
        patch.setattr(stages, "DEV", 1)
        yield


SMALL = [
    "--dataset", "small", "--algo", "cmpo", "--genrm", "none", "--customers", "2", "--model",
    "nano", "--pretrain_steps", "2", "--warm_steps", "2", "--sft_batch", "8", "--precision", "fp32",
    "--max_new_tokens", "28", "--save_every", "1", "--eval_every", "9", "--expert_decay", "2"]


def test_what_does_not_go_together_is_refused_before_a_run_begins(registered, tmp_path, capsys):
    run = tmp_path / "run"
    said = refused([*SMALL, "--constraints", "soft", "--output_dir", str(run)], capsys)
    assert "--constraints soft cannot keep a control copy" in said
    assert "--control_copies 0" in said
    assert len(said.splitlines()) == 1
    assert not run.exists()


def test_a_shop_that_does_not_say_what_issues_a_voucher_is_refused():
    mute = replace(small_world.load(), offers=None)
    with pytest.raises(DataError, match="small does not say; use --dataset fds"):
        CMPO.refuse_words(mute, LMConfig(), CMPOConfig())


def test_a_pull_that_spares_skills_is_refused_where_words_decide():
    with pytest.raises(DataError, match="--kl_spares vouchers: a language model's vouchers are"):
        CMPO.refuse_words(small_world.load(), LMConfig(), CMPOConfig(kl_spares="vouchers"))


# --- runs -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(registered, tmp_path_factory):
    """A run of two steps, with its table."""
    run = tmp_path_factory.mktemp("cmpo") / "whole"
    flags = [*SMALL, "--steps", "2", "--eval_episodes", "2"]
    assert train.main([*flags, "--output_dir", str(run)]) == 0
    return run


def test_a_run_resumes_bit_for_bit_without_a_second_copy(whole, tmp_path):
    halves = tmp_path / "halves"
    flags = [*SMALL, "--eval_episodes", "0", "--base", str(whole), "--output_dir", str(halves)]
    assert train.main([*flags, "--steps", "1"]) == 0
    assert train.main(["--resume", str(halves), "--steps", "2"]) == 0
    assert rows_of(whole) == rows_of(halves)
    one, two = (load_checkpoint(run)[1] for run in (whole, halves))
    assert one.keys() == {"expert", "expert_adam", "agent", "agent_adam", "price"}
    for part in ("agent", "price"):
        assert all(torch.equal(one[part][k], two[part][k]) for k in one[part])
    rows = read_rows(whole / "metrics.jsonl")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 1e-6
    assert {row["format_ok"] for row in rows} == {1}


def test_its_table_has_the_rate_sampled_and_greedy(whole):
    results = json.loads((whole / "results.json").read_text())
    assert set(results) == {"untrained", "warm_start", "cmpo", "cmpo_sampled"}
    assert results["cmpo"]["satisfaction"]["mean"] >= 1


def test_a_trained_agent_answers_in_words_and_issues_once(whole):
    answer = load(whole)
    said = ["It was cold.", "The voucher is in your account.", "And now?"]
    skills, reply = answer.respond(said, {})
    assert skills == ()
    assert "<" not in reply
    assert "in your account" not in reply


def test_a_base_that_does_not_decide_lends_no_language_model(whole, capsys):
    config = read_config(whole)
    other = config | {"run": config["run"] | {"algo": "sft"}, "options": None}
    stages = [*FOLLOWING["untrained"]]
    assert set(stages).isdisjoint(check_base(whole, other))
    assert "begins its replies with a decision" in capsys.readouterr().out
