"""start/own_judge.py: S_1 by the likelihood of a model that has read the shop's replies."""
import math

import pytest

import train
from csagent import TALK, demo_agent
from data import DataError, Dialogue, Judged, Request, Turn
from experiments.likelihood import auc, made_replies, marks_of, table
from judge import RuleJudge
from start.own_judge import LikelihoodJudge, mean_logp, quality, refuse_unlearned
from start.supervised import supervised
from tests.training import refused

SKILLS = ("soothe", "price")
PAIRS = [(Request(f"Hello {i}?", (SKILLS[i % 2],), {}), TALK[:5][i % 5]) for i in range(20)]


@pytest.fixture(scope="module")
def agent():
    agent = demo_agent()
    from lm.config import WarmConfig
    supervised(agent, PAIRS, 25, WarmConfig(sft_lr=5e-3, sft_batch=16))
    return agent


def test_the_mean_log_probability_by_hand(agent):
    # likelihood() of the decoder computes the same for one prompt and several texts
    request = PAIRS[0][0]
    texts = ["I understand, that is annoying.", "is is is"]
    told = mean_logp(agent, [(request, text) for text in texts])
    assert told == pytest.approx(agent.likelihood([agent.prompt(request)], texts)[0], abs=1e-4)
    assert mean_logp(agent, [(request, "")]) == [-math.inf]
    many = mean_logp(agent, [(request, texts[0])] * 20)
    assert len(many) == 20 and many[0] == pytest.approx(told[0], abs=1e-4)


def test_s_1_by_hand():
    # perplexity e^2 where logged replies have e^1: a share of 1/e
    assert quality(-2.0, -1.0) == pytest.approx(1 / math.e)
    assert quality(-0.2, -1.0) == 1.0
    assert quality(-math.inf, -1.0) == 0.0


def test_only_s_1_changes_and_gibberish_loses_it(agent):
    rules = RuleJudge(agent.skills)
    judge = LikelihoodJudge(rules, lambda: agent, PAIRS)
    skill = (agent.skills["soothe"],)
    good = Judged("Hello 0?", {}, skill, TALK[2])
    bad = Judged("Hello 0?", {}, skill, "Terms annoying lamp the would order blue that.")
    ours, theirs = judge.score([good, bad]), rules.score([good, bad])
    for mine, rule in zip(ours, theirs):
        assert mine[1:] == rule[1:]
    # the rules see a capital, an end mark and no repeated pair
    assert theirs[1][0] == 1.0 and ours[1][0] < 0.1 < ours[0][0]
    assert judge.gre([good]) == rules.gre([good])
    assert "likelihood" in judge.name


def test_a_reply_that_cannot_be_scored_stays_so(agent):
    class Nobody:
        name = "nobody"

        def score(self, items):
            return [None] * len(items)

    judge = LikelihoodJudge(Nobody(), lambda: agent, PAIRS)
    assert judge.score([Judged("?", {}, (), "Hello.")]) == [None]


def test_it_tells_what_the_rules_do_not(agent):
    class Shop:
        skills = agent.skills

    kinds = made_replies(agent, Shop, PAIRS[:6], 0)
    assert {len(items) for items in kinds.values()} == {6}
    marks = marks_of(agent, Shop, kinds, PAIRS[6:])
    rules, own = marks["S_1, rules"], marks["S_1, likelihood"]
    assert auc(own["logged"], own["shuffled"]) > 0.9
    assert auc(rules["logged"], rules["shuffled"]) <= 0.6
    assert table(marks).count("\n") == 1 + 6 + 8


# --- refused ------------------------------------------------------------------------------------

def config(**more):
    run = {"judge": "likelihood", "replies": "lm"} | more
    return {"run": run, "gopo": {"no_expert": False},
            "warm": {"warm_steps": 1, "warm_dialogues": 1}}


class Logs:
    name = "logs"
    dev = (Dialogue("d", (Turn("Hi", reply="Hello."),)),)


class Mute:
    name = "mute"
    dev = ()


def test_what_it_cannot_judge_is_refused():
    with pytest.raises(DataError, match="--judge likelihood: mute has no dev replies"):
        refuse_unlearned(Mute, config())
    refuse_unlearned(Logs, config())
    refuse_unlearned(Logs, config(judge="rules", replies="template"))
    single = config()
    single["gopo"]["no_expert"] = True
    cold = config()
    cold["warm"]["warm_steps"] = 0
    for what, said in ((config(replies="template"), "no language model writes"),
                       (single, "a single agent's replies"), (cold, "without a warm start")):
        with pytest.raises(DataError, match=f"--judge likelihood: {said}"):
            refuse_unlearned(Logs, what)


def test_the_flag_is_refused_in_one_line(small_shop, tmp_path, capsys):
    said = refused(["--replies", "template", "--judge", "likelihood", "--output_dir",
                    str(tmp_path / "r")], capsys)
    assert "--judge likelihood: no language model writes here" in said


def test_a_step_is_judged_by_the_warm_started_model(small_shop, lm_run, tmp_path):
    from infra.runs import read_rows
    from tests.training import SHORT_LM
    flags = [*SHORT_LM, "--eval_episodes", "0", "--base", str(lm_run), "--steps", "1"]
    run = tmp_path / "run"
    assert train.main([*flags, "--judge", "likelihood", "--output_dir", str(run)]) == 0
    ours, = read_rows(run / "metrics.jsonl")
    theirs, = read_rows(lm_run / "metrics.jsonl")
    # the same replies: the step is the first, and only what they earn differs
    assert ours["std_quality"] != theirs["std_quality"]
    assert ours["std_fitness"] == theirs["std_fitness"]
