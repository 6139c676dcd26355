"""Rules of a turn in the request: a server that enforces them keeps them, and one that does not is
found out."""
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eval as evaluation
from data import Dataset, Request
from hosted.agents import HostedAgent
from hosted.enforced import BEGIN, END, PROOF, after, enforced_by, fields_for, grammar, schema
from infra.client import BudgetSpent
from lm.constraints import Constraints, compile_constraints, violations
from tests.conftest import small_shops
from tests.enforcing_server import accepts, enforcing, under_grammar
from tests.fake_client import POOL, REFUND
from tests.helpers import property_test
from tests.hostile_server import HostileServer

SHOP = Dataset("d", POOL, ("ask",), ("angry",), [], [], [], must_not_say=("I promise",))
CONTEXT = {"refund_1": "20 euros"}
REQUEST = Request("Where is it?", ("sorry", "refund"), CONTEXT)
RULES = compile_constraints([POOL["sorry"], REFUND], CONTEXT, SHOP.must_not_say)
WISH = "I PRO mise {refund_1}, {price_9}, guaranteed. Bye"
KEPT = f"I PRO mis {{refund_1}}, price_9, guarantee. Bye{REFUND.must_say[0]}"


def reply(text):
    return f"{BEGIN}{text}{END}"


# --- the grammar ----------------------------------------------------------------------------------

def test_states_by_hand():
    """Of "abc" and "bad": after b, a the text ends with "ba"; a "d" then completes "bad"."""
    bad = ("abc", "bad")
    assert after("", "xb", bad) == "b"
    assert after("b", "a", bad) == "ba"
    assert after("ba", "d", bad) is None
    # "bab" ends with "ab", which begins "abc"
    assert after("ba", "b", bad) == "ab"


@pytest.mark.parametrize("text, fits", [
    ("Sorry. You get {refund_1}. Refunds take five working days.", True),
    ("Refunds take five working days. Bye", True),
    ("You get {refund_1}.", False),                               # lacks what must be said
    ("I promise. Refunds take five working days.", False),
    ("I  P R O M I S E. Refunds take five working days.", False),
    ("I\u00a0promise. Refunds take five working days.", False),
    ("Guar Refunds take five working days. anteed", True),
    ("{price_1} Refunds take five working days.", False),
    ("{refund_1 Refunds take five working days.", False),
    ('"} Refunds take five working days.', False),
    ("", False),
])
def test_what_a_grammar_lets_through(text, fits):
    assert accepts(grammar(RULES), reply(text)) == fits


LETTERS = st.text("abAB .{}s1_", max_size=14)
WORDS = st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3, unique=True)
SLOTS = st.sampled_from([frozenset(), frozenset(("s_1",))])


@property_test
@given(WORDS, WORDS, SLOTS, LETTERS)
def test_what_it_lets_through_breaks_no_rule(must_say, must_not_say, slots, text):
    """`violations` shares no code with the grammar."""
    rules = Constraints(tuple(must_say), tuple(must_not_say), slots)
    if accepts(grammar(rules), reply(text)):
        assert violations(text, rules) == []


@property_test
@given(WORDS, SLOTS, st.text("abAB .", max_size=14))
def test_what_breaks_no_rule_is_let_through(must_not_say, slots, text):
    rules = Constraints((), tuple(must_not_say), slots)
    assert accepts(grammar(rules), reply(text)) == (violations(text, rules) == [])


@property_test
@given(WORDS, SLOTS, st.text("abAB .{}", max_size=14))
def test_the_schema_demands_what_must_be_said_and_knows_the_slots(must_say, slots, text):
    """In order, which the rules do not ask for: what fits breaks no rule but a forbidden one."""
    rules = Constraints(tuple(must_say), (), slots)
    pattern = schema(rules)["properties"]["reply"]["pattern"]
    if re.search(pattern, text):
        assert violations(text, rules) == []
    assert re.search(pattern, " ".join(must_say))


def test_what_a_wish_becomes():
    assert json.loads(under_grammar(grammar(RULES), WISH))["reply"] == KEPT
    assert violations(KEPT, RULES) == []
    assert len(violations(WISH, RULES)) == 4


def test_a_phrase_with_quotes_and_a_forbidden_slot():
    rules = Constraints(('Say "yes" to {a}.',), ("{b}",), frozenset(("a",)))
    text = r'Say \"yes\" to {a}.'
    assert accepts(grammar(rules), reply(text))
    assert json.loads(reply(text))["reply"] == rules.must_say[0]


# --- servers --------------------------------------------------------------------------------------

def wishes(body):
    """The model's wish; of the first request, the greeting that it asks for."""
    return "Hello" if "Say hello" in json.dumps(body["messages"]) else WISH


@pytest.mark.parametrize("ways, found, said", [
    (("grammar", "schema"), "grammar", "enforces the rules of each turn"),
    (("schema",), "schema", "enforces what must be said and the slots"),
    ((), None, "ignores structured_outputs and response_format"),
])
def test_a_server_is_tried_once_and_it_is_said(make_client, ways, found, said):
    lines = []
    with HostileServer(enforcing(wishes, *ways)) as server:
        client = make_client(server)
        assert enforced_by(client, lines.append) == found
        assert len(server.log) == {"grammar": 1}.get(found, 2)
        # nothing of it counts as the run's
        assert not client.stats["sent"]
    line, = lines
    assert said in line


@pytest.mark.parametrize("status, body", [
    (400, b'{"error": {"message": "Unrecognized request argument supplied: structured_outputs"}}'),
    (422, b'{"detail": [{"loc": ["body", "structured_outputs"], "msg": "extra"}]}'),
    (400, b'{"error": {"code": "unknown_parameter", "message": "structured_outputs"}}'),
])
def test_a_server_that_refuses_the_field_is_asked_in_the_other_way(make_client, status, body):
    script = [(status, {}, body)]
    with HostileServer(enforcing(wishes, "schema"), script=script) as server:
        assert enforced_by(make_client(server), list) == "schema"


def test_a_spent_budget_is_no_answer(make_client):
    with HostileServer(enforcing(wishes)) as server, pytest.raises(BudgetSpent):
        enforced_by(make_client(server, max_requests=0), list)


@pytest.mark.parametrize("way, broken", [
    ("grammar", 0),
    # the least that fits, which happens to promise nothing
    ("schema", 0),
    (None, 4),
])
def test_an_agent_keeps_the_rules_where_the_server_does(make_client, way, broken):
    with HostileServer(enforcing(wishes, "grammar", "schema")) as server:
        agent = HostedAgent(make_client(server), SHOP, enforced=way)
        said = agent.generate([REQUEST])[0][0].text
        assert len(violations(said, RULES)) == broken
        body = server.log[0]["body"]
    assert {name: body[name] for name in fields_for(way, RULES)} == fields_for(way, RULES)
    assert way or not {"structured_outputs", "response_format"} & set(body)


def test_no_model_says_the_proof_by_itself():
    assert PROOF not in WISH


# --- eval.py --------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, said", [
    ([], "enforces the rules of each turn (structured_outputs): hard constraints"),
    (["--constraints", "soft"], None),
])
def test_eval_asks_for_hard_rules(strategy_run, tmp_path, capsys, quick, flags, said):
    with HostileServer(enforcing(wishes, "grammar")) as server, small_shops():
        table = tmp_path / "table.json"
        assert evaluation.main([
            "--run", str(strategy_run), "--episodes", "1", "--rows", "teacher",
            "--json", str(table), "--cs_agent", "api:m", "--api_base", server.url,
            "--api_cache", str(tmp_path / "c.sqlite"), *flags]) == 0
    out = capsys.readouterr().out
    assert out.count("structured_outputs") == bool(said)
    assert said is None or said in out
    rows = json.loads(table.read_text())
    rows = rows.get("rows", rows)
    broken = rows["gopo + api:m"]["violations"]["mean"]
    assert (broken == 0) == bool(said)
