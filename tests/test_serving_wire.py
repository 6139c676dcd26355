"""serving/wire.py: what is read of a request, what is refused, and what goes back."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.wire import (
    MAX_FACTS,
    MAX_MESSAGES,
    Answered,
    Chat,
    Letterhead,
    Refused,
    chunks,
    completion,
    error_of,
    parsed,
    read_chat,
)
from tests.helpers import property_test
from tests.serving import said

POOL = ("greet", "recommend", "close")
FACTS = {"price_1": "30 euros"}


def read(value) -> Chat:
    return read_chat(value, "pair", POOL)


def user(text="Hi", **more):
    return {"role": "user", "content": text} | more


def agent(text="Hello.", **more):
    return {"role": "assistant", "content": text} | more


def talk(*messages, **more):
    return {"messages": list(messages)} | more


# --- reading ------------------------------------------------------------------------------------

def test_messages_become_turns():
    chat = read(talk(user("Hi"), agent("Hello."), user("Price?"), model="pair", stream=True))
    assert chat.history == ("Hi", "Hello.", "Price?")
    assert chat.skills == (None,)
    assert chat.contexts == (None, None)
    assert chat.stream
    assert not chat.usage
    assert chat.ignored == ()


def test_messages_at_a_stretch_are_one_turn():
    chat = read(talk(user("Hi"), user("It is me."), agent("Yes?"), agent("Go on."), user("Price?")))
    assert chat.history == ("Hi\nIt is me.", "Yes?\nGo on.", "Price?")
    assert len(chat.skills) == 1


def test_a_content_may_come_in_parts():
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    assert read(talk(user(parts))).history == ("Hi there",)


def test_skills_come_back_with_the_replies():
    first = agent(gopo={"skills": ["greet", "recommend"], "perceived": {}})
    chat = read(talk(user(), first, user(), agent(), user()))
    assert chat.skills == (("greet", "recommend"), None)
    # an empty list is known, and not the same as nothing
    assert read(talk(user(), agent(gopo={"skills": []}), user())).skills == ((),)


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
def test_facts_may_be_a_message(role):
    """They hold from where they stand until others come."""
    facts = {"role": role, "content": json.dumps(FACTS)}
    later = {"role": role, "content": '{"price_1": 31}'}
    assert read(talk(facts, user())).contexts == (FACTS,)
    assert read(talk(user(), facts)).contexts == (FACTS,)
    chat = read(talk(facts, user(), agent(), user(), agent(), user(), later))
    assert chat.contexts == (FACTS, FACTS, {"price_1": "31"})
    # the field of the request is of the last turn, and counts for more
    chat = read(talk(facts, user(), agent(), user(), context={"price_1": None, "eta_1": "Monday"}))
    assert chat.contexts == (FACTS, {"eta_1": "Monday"})


def test_facts_of_one_turn_add_up():
    call = {"role": "assistant", "content": None, "tool_calls": [{}]}
    tools = [{"role": "tool", "content": text} for text in ('{"a_1": "x"}', '{"b_1": "y"}')]
    chat = read(talk(user(), call, *tools))
    assert chat.history == ("Hi",)
    assert chat.contexts == ({"a_1": "x", "b_1": "y"},)


def test_what_a_pair_does_not_do_is_listed():
    system = {"role": "system", "content": "You are a pirate."}
    chat = read(talk(system, user(), temperature=0.2, max_tokens=5, n=1, tools=[], user="u"))
    assert chat.ignored == (
        "messages[0]: a system message that is no JSON object of facts",
        "max_tokens", "temperature", "user")


BAD = {
    "no messages": ({}, "messages: must be a list"),
    "empty": (talk(), "messages: must be a list"),
    "a string": ({"messages": "Hi"}, "messages: must be a list"),
    "no object": (talk("Hi"), r"messages\[0\]: must be an object"),
    "role": (talk(user(role="pirate")), r"messages\[0\]\.role: must be one of user, "),
    "no role": (talk({"content": "Hi"}), r"messages\[0\]\.role"),
    "content": (talk(user(5)), r"messages\[0\]\.content: must be a string"),
    "null": (talk(user(None)), r"messages\[0\]\.content: must be a string"),
    "picture": (talk(user([{"type": "image_url"}])), r"content\[0\]: only parts of type text"),
    "part": (talk(user(["Hi"])), r"content\[0\]: only parts of type text"),
    "agent first": (talk(agent(), user()), r"messages\[0\]: a dialogue begins with the customer"),
    "agent last": (talk(user(), agent()), "the last text must be the customer's"),
    "facts alone": (talk({"role": "tool", "content": "{}"}), "the last text must be the custom"),
    "too many": (talk(*[user()] * (MAX_MESSAGES + 1)), "at most 200 are read"),
    "model": (said("Hi", model=5), "model: must be a string"),
    "stream": (said("Hi", stream="yes"), "stream: must be true or false"),
    "options": (said("Hi", stream_options=[]), "stream_options: must be an object"),
    "usage": (said("Hi", stream_options={"include_usage": 1}), "include_usage: must be true"),
    "two replies": (said("Hi", n=2), "n: a pair gives one reply in plain text; leave n out"),
    "true": (said("Hi", n="1"), "n: a pair gives one reply"),
    "tools": (said("Hi", tools=[{}]), "tools: a pair gives one reply"),
    "json": (said("Hi", response_format={"type": "json_object"}), "response_format: a pair"),
    "context": (said("Hi", context=["x"]), "context: must be an object of facts"),
    "slot": (said("Hi", context={"two words": "x"}), "context: 'two words' cannot be a slot"),
    "list": (said("Hi", context={"a": ["x"]}), "context.a: a list"),
    "facts": (said("Hi", context=dict.fromkeys(map("s_{}".format, range(MAX_FACTS + 1)), "x")),
              "context: 501 facts; at most 500"),
    "tool facts": (talk(user(), {"role": "tool", "content": '{"a": true}'}), r"messages\[1\]\.a"),
    "gopo": (talk(user(), agent(gopo=[]), user()), r"messages\[1\]\.gopo: must be the object"),
    "skills": (talk(user(), agent(gopo={"skills": "greet"}), user()), r"gopo\.skills: must be a"),
    "unknown": (talk(user(), agent(gopo={"skills": ["fly"]}), user()), "'fly' is no skill"),
    "number": (talk(user(), agent(gopo={"skills": [5]}), user()), "5 is no skill"),
    "six": (talk(user(), agent(gopo={"skills": ["greet"] * 6}), user()), "at most 5 skill ids"),
}


@pytest.mark.parametrize("value, message", BAD.values(), ids=BAD)
def test_bad_requests_are_refused_in_one_line(value, message):
    with pytest.raises(Refused, match=message) as refused:
        read(value)
    assert refused.value.status == 400
    assert "\n" not in refused.value.message


def test_another_model_is_not_here():
    with pytest.raises(Refused, match="model 'gpt' is not here; this server has 'pair'") as refused:
        read(said("Hi", model="gpt"))
    assert refused.value.status == 404


@pytest.mark.parametrize("body, message", [
    (b"", "no JSON"), (b"{", "no JSON"), (b"\xff", "no JSON"), (b"[]", "a JSON object"),
    (b"5", "a JSON object"), (b'{"a": NaN}', "NaN is no number"), (b"[" * 100_000, "too deeply"),
    (b'{"a": 1' + b"0" * 5000 + b"}", "no JSON"),
])
def test_a_body_that_is_no_object_is_refused(body, message):
    with pytest.raises(Refused, match=message) as refused:
        parsed(body)
    assert refused.value.status == 400


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
NAMES = st.sampled_from([
    "role", "content", "gopo", "skills", "type", "text", "tool_calls", "user", "assistant", "tool",
    "system", "greet", '{"a": 1}', "stream", "context", "model", "pair"])


def tree(inner):
    return st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)


ANYTHING = st.recursive(LEAVES | NAMES, tree, max_leaves=20)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]), "content": ANYTHING},
    optional={"gopo": ANYTHING, "tool_calls": ANYTHING})
REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE | ANYTHING, max_size=5)},
    optional={"context": ANYTHING, "stream": ANYTHING, "stream_options": ANYTHING,
              "model": ANYTHING, "n": ANYTHING, "tools": ANYTHING, "top_p": ANYTHING})


@property_test
@given(REQUEST)
def test_whatever_is_sent_is_read_or_refused_in_one_line(value):
    try:
        chat = read(value)
    except Refused as refused:
        assert 400 <= refused.status < 500
        assert refused.message
        assert "\n" not in refused.message
        json.dumps(error_of(refused)).encode()
    else:
        assert len(chat.history) == 2 * len(chat.contexts) - 1 == 2 * len(chat.skills) + 1


# --- writing ------------------------------------------------------------------------------------

LETTER = Letterhead("chatcmpl-1", 7, "pair")
REPLY = Answered("Hello  there.\nA kettle?", {"skills": ["greet"]}, "stop", 9, 4)


def test_a_completion_as_clients_read_it():
    value = completion(REPLY, LETTER)
    assert value["object"] == "chat.completion"
    assert value["choices"][0]["message"] == {
        "role": "assistant", "content": REPLY.text, "gopo": {"skills": ["greet"]}}
    assert value["usage"] == {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def test_a_stream_says_the_same():
    parts = list(chunks(REPLY, LETTER, usage=True))
    *said_so_far, last = [part["choices"][0] for part in parts[:-1]]
    assert "".join(choice["delta"]["content"] for choice in said_so_far) == REPLY.text
    assert len(said_so_far) == 5                 # the role, and four words
    assert last == {
        "index": 0, "delta": {"gopo": {"skills": ["greet"]}}, "logprobs": None,
        "finish_reason": "stop"}
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["total_tokens"] == 13
    assert len(list(chunks(REPLY, LETTER, usage=False))) == len(parts) - 1
