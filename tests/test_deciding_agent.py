"""A hosted model that decides and then writes, alone and as a row of the budget study."""
from __future__ import annotations

import json

import pytest
import torch

import data
from data import DECISION, DECISIONS, Request
from experiments import budget
from experiments.budget import Study
from experiments.budget_hosted import hosted_service
from experiments.budget_rows import TABLE, names_of, ours_beside, row_name
from hosted.deciding import DecidingAgent
from infra.answers import Answer
from shop import fds
from tests.conftest import small_shops
from tests.fake_client import Fake, shown
from tests.hostile_server import HostileServer

ISSUES = "I have added a voucher to your account."


def answer(decision, reply):
    return json.dumps({"decision": decision, "reply": reply})


@pytest.fixture(scope="module")
def shop():
    with small_shops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds, "SIZES", {"train": 4, "dev": 4, "test": 4})
        yield data.load("fds")


def said(shop, text):
    """What becomes of a model's answer."""
    agent = DecidingAgent(Fake(lambda prompt: text), shop)
    request = Request("It was cold.", (), {"order_1": "4010"}, decisions=DECISIONS)
    return agent.generate([request])[0][0]


# --- one turn -------------------------------------------------------------------------------------

def test_the_decision_goes_to_the_store_and_the_words_to_the_customer(shop):
    reply = said(shop, answer("voucher", ISSUES))
    assert (reply.text, reply.decision) == (ISSUES, "voucher")
    assert reply.tagged == f"<voucher> {ISSUES}"
    reply = said(shop, answer("chat", "Which order, 4010?"))
    assert reply.text == "Which order, {order_1}?"
    assert reply.tagged == "<chat> Which order, {order_1}?"


def test_a_voucher_that_the_words_do_not_tell_is_told_by_the_store(shop):
    reply = said(shop, answer("voucher", "There you are."))
    assert reply.text == f"There you are. {ISSUES} It is valid for 30 days."
    assert DECISION in shop.offers(reply.text, {})


@pytest.mark.parametrize("text", [
    answer("coupon", "Hello."), answer("chat", ""), '{"reply": "Hello."}',
    '{"reply": "Hello.", "decision": null}', "<voucher> Hello.",
])
def test_what_is_no_answer_is_an_empty_reply_and_counted(shop, text):
    agent = DecidingAgent(Fake(lambda prompt: text), shop)
    with pytest.raises(ValueError):
        agent.read(Answer(text))
    reply = agent.generate([Request("Hm", (), {}, decisions=DECISIONS)])[0][0]
    assert (reply.text, reply.decision, agent.unanswered) == ("", None, 1)


def test_the_model_reads_talk_and_facts_and_what_it_may_decide(shop):
    agent = DecidingAgent(Fake(str), shop)
    first = Request("Hm", (), {"_voucher": "none"}, (("u", "a"),), "complain", "angry", "",
                    DECISIONS)
    about, around = shown(agent.prompt(agent.prepare([first])[0]))
    # neither intent nor emotion: perception is ours
    assert about == {
        "history": [{"customer": "u", "agent": "a"}], "customer": "Hm",
        "facts": {"_voucher": "none"}}
    assert '"voucher" issues the one voucher' in around[0]["content"]
    second = Request("Hm", (), {"_voucher": "issued"}, decisions=DECISIONS[:1])
    _, around = shown(agent.prompt(agent.prepare([second])[0]))
    assert "was issued already" in around[0]["content"]


def test_a_shop_without_a_voucher_to_decide_on_is_refused():
    other = data.Dataset("logs", {}, (), (), [], [], [])
    with pytest.raises(data.DataError, match="logs has no voucher to decide on"):
        DecidingAgent(Fake(str), other)


# --- whole dialogues ------------------------------------------------------------------------------

def served(shop, model):
    gopo = hosted_service(shop, Fake(model))
    played = gopo.play(
        gopo.episodes("test", range(2), 0), gopo.chooser(greedy=True), temperature=0.0)
    return gopo, played


def test_a_second_voucher_is_asked_not_to_be_and_is_a_format_error(shop):
    def generous(prompt):
        return answer("voucher", ISSUES)

    gopo, played = served(shop, generous)
    for episode in played:
        assert episode.seen.outcome.vouchers == 1
        assert not episode.seen.outcome.valid
    rules = [prompt[0]["content"] for prompt, _ in gopo.speaker.client.asked]
    assert "was issued already" not in rules[0]
    assert "was issued already" in rules[-1]


def test_words_that_promise_beside_chat_issue_nothing_and_are_a_lie(shop):
    _, played = served(shop, lambda prompt: answer("chat", ISSUES))
    assert [episode.seen.outcome.vouchers for episode in played] == [0, 0]
    # one of the two is upset, and deaf for business
    assert [episode.env.lied for episode in played] == [True, False]


# --- as a row of the study ------------------------------------------------------------------------

def test_a_hosted_row_stands_beside_the_papers_of_the_same_name():
    gpt, deepseek = TABLE[:2]
    found = [row_name("gpt-4.1"), row_name("deepseek-ai/DeepSeek-V3.2"), row_name("gpt-4.1-mini")]
    assert ours_beside(gpt, found) == "api_gpt-4.1"
    assert ours_beside(deepseek, found) == "api_deepseek-ai_DeepSeek-V3.2"
    assert ours_beside(gpt, ["api_gpt-4.1-mini"]) == ""
    assert names_of({"api_b", "sft", "api_a", "never"}) == ["never", "sft", "api_a", "api_b"]


def stands_in(request):
    """A model that always chats; as a judge it gives every mark 1."""
    system = request["messages"][0]["content"]
    if "You judge the agent" not in system:
        return answer("chat", "Which order is it?")
    names = [line.split(",")[0][2:] for line in system.splitlines() if line.startswith("- ")]
    return json.dumps(dict.fromkeys(names, 1))


def test_the_study_has_a_row_of_a_hosted_model_that_was_asked_for(tmp_path, capsys, monkeypatch):
    threads = torch.get_num_threads()
    with small_shops(), HostileServer(stands_in) as server:
        monkeypatch.setattr(fds, "SIZES", {"train": 4, "dev": 4, "test": 4})
        api = budget.ApiConfig(
            api_base=server.url, api_cache=str(tmp_path / "cache.sqlite"))
        study = Study(
            tmp_path / "out", seeds=1, episodes=2, rows=("never", "free"),
            models=("gpt-4.1",), api=api)
        tasks = {task.name: task for task in budget.tasks_of(study)}
        assert list(tasks) == ["never-0", "free-0", "api_gpt-4.1-0"]
        for task in tasks.values():
            assert task.work(*task.arguments) == 0
            assert task.done()
        budget.write(study, "api:gpt-4.1")
    torch.set_num_threads(threads)
    tables = (study.folder / "tables.md").read_text()
    assert "| GPT-4.1 | 1.91 | 83.8 | 25.29 | 10.59 | 70.0 | `api_gpt-4.1`, 1 seeds |" in tables
    # 14 marks of 1, 9 marks of 1; two dialogues
    assert "| `api_gpt-4.1` | 14.00 (2) | 9.00 (2) | — | — | 0.000 |" in tables
    assert "Filled in by LLM judge gpt-4.1" in tables
    cell = json.loads(study.cell("api_gpt-4.1", 0).read_text())
    assert cell["greedy"]["voucher"] == [0, 0]
    assert cell["greedy"]["process"] is None
    assert cell["unanswered"] == 0
    capsys.readouterr()


@pytest.mark.parametrize("flags, said", [
    (["--api", "gpt-4.1"], "--api gpt-4.1 needs --api_base"),
    (["--api", "a", "api:a", "--api_base", "http://127.0.0.1:9/v1"], "the same model twice"),
    (["--judge", "api:m"], "--judge api:m needs --api_base"),
    (["--judge", "likelihood"], "--judge likelihood: write rules, or api:MODEL"),
])
def test_what_cannot_be_asked_is_refused_in_one_line(flags, said, tmp_path, capsys):
    assert budget.main(["--rows", "never", "--out", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
