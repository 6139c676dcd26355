"""Tests of infra/refusals.py and of the client with it: what one bad prompt costs, and what ends
a run.  The errors are worded as servers word them, each in its own structure."""
import json

import pytest

from infra.cache import canonical
from infra.client import ApiError
from infra.refusals import error_of, fault_of
from tests.asking import choice, said, say, stored, text_of
from tests.hostile_server import HostileServer, echo

pytestmark = pytest.mark.usefixtures("quick")

# A long echo in front: what was wrong is not among the first 200 letters.
ECHO = "the request was: " + "x" * 1000


def error(message="", **fields):
    return {"error": {"message": message} | fields}


TOO_LONG = {
    "llama.cpp": (400, error("request (4390 tokens) exceeds the available context size",
                             code=400, type="exceed_context_size_error")),
    "TGI": (422, {"error": "Input validation error: `inputs` must have less than 4096 tokens. "
                           "Given: 5000", "error_type": "validation"}),
    "TGI, with the answer": (422, {"error": "Input validation error: `inputs` tokens + "
                                            "`max_new_tokens` must be <= 4097"}),
    "Gemini": (400, [error("The input token count (9000) exceeds the maximum number of tokens "
                           "allowed (8192).", code=400, status="INVALID_ARGUMENT")]),
    "OpenAI": (400, error("Please reduce.", code="context_length_exceeded",
                          type="invalid_request_error", param="messages")),
    "OpenAI, a string": (400, error("Invalid", code="string_above_max_length")),
    "vLLM": (400, {"object": "error", "code": 400, "type": "BadRequestError",
                   "message": "This model's maximum context length is 4096 tokens."}),
    "vLLM, the engine": (400, error("The decoder prompt (length 5000) is longer than the maximum "
                                    "model length of 4096.", type="BadRequestError")),
    "vLLM, the answer": (400, error("'max_tokens' or 'max_completion_tokens' is too large: 896. "
                                    "This model's maximum context length is 4096 tokens and your "
                                    "request has 3500 input tokens", param="max_tokens")),
    "Mistral": (400, {"object": "error", "code": "3051", "type": "invalid_request_error",
                      "message": "Prompt contains 40000 tokens, too large for model with 32768 "
                                 "maximum context length"}),
    "Anthropic": (400, {"type": "error", "error": {
        "type": "invalid_request_error",
        "message": "prompt is too long: 208310 tokens > 200000 maximum"}}),
    "Ollama": (400, {"error": "the input length exceeds the context length"}),
    "Ollama, 500": (500, {"error": "prompt too long; exceeded max context length by 9 tokens"}),
    "LM Studio": (400, {"error": "Trying to keep the first 5000 tokens when context the overflows."
                                 " However, the model is loaded with context length of only 4096"}),
    "Groq": (413, error("Request too large for model `m` in organization `o` on tokens per minute "
                        "(TPM): Limit 6000, Requested 8000. Upgrade at /settings/billing",
                        code="rate_limit_exceeded", type="tokens")),
    "OpenAI, a minute's": (429, error("Request too large for m on tokens per min (TPM): Limit "
                                      "30000, Requested 40000.", code="rate_limit_exceeded")),
    "nginx": (413, "<html><h1>413 Request Entity Too Large</h1></html>"),
    "behind an echo": (400, error(f"{ECHO}; the prompt is too long", code=None)),
    "a FastAPI": (422, {"detail": [{"loc": ["body", "messages", 0], "type": "value_error",
                                    "msg": "prompt is too long", "input": "x" * 999}]}),
}
FILTERED = {
    "Azure": (400, error("The response was filtered due to the prompt triggering Azure OpenAI's "
                         "content management policy.", type=None, param="prompt", status=400,
                         code="content_filter",
                         innererror={"code": "ResponsibleAIPolicyViolation"})),
    "OpenAI": (400, error("Your prompt was flagged.", code="invalid_prompt")),
    "DeepSeek": (400, error("Content Exists Risk", type="invalid_request_error")),
    "DashScope": (400, error("Input data may contain inappropriate content.",
                             code="data_inspection_failed")),
    "OpenRouter": (403, error("m requires moderation and your input was flagged", code=403,
                              metadata={"reasons": ["harassment"], "flagged_input": "..."})),
    "innermost": (400, error(ECHO, innererror={"code": "ResponsibleAIPolicyViolation"})),
    "the law": (451, error("Unavailable")),
}
EVERYBODY = {
    "a key": (401, error("Incorrect API key provided", code="invalid_api_key")),
    "Gemini's key": (400, error("API key not valid.", code=400, status="INVALID_ARGUMENT",
                                details=[{"reason": "API_KEY_INVALID"}])),
    "no right": (403, error("You may not use this model")),
    "a flagged account": (403, error("Your account was flagged for violating our policies")),
    "no model": (404, error("The model `m` does not exist", code="model_not_found")),
    "no model, 400": (400, error("model 'm' not found, try pulling it first")),
    "no money": (400, error("Your credit balance is too low to access the API.")),
    "no quota": (429, error("You exceeded your current quota", code="insufficient_quota")),
    "a parameter": (400, error("Unsupported parameter: 'max_tokens' is not supported with this "
                               "model.", code="unsupported_parameter", param="max_tokens")),
    "a long answer": (400, error("max_tokens is too large: 100000. This model supports at most "
                                 "4096 completion tokens", param="max_tokens")),
}
PASSING = {
    "a rate": (429, error("Rate limit reached on tokens per min (TPM): Limit 10000, Used 9000, "
                          "Requested 1500. Please try again in 3s", code="rate_limit_exceeded")),
    "busy": (503, error("The model is loading")),
    "broken": (500, "<html>nothing</html>"),
    "slow": (504, error("Deadline exceeded for the request")),
}


def body_of(value) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def whose(answers, name, **more) -> str:
    status, value = answers[name]
    return fault_of(status, body_of(value), **more).whose


# --- one error ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", TOO_LONG)
def test_a_long_prompt(name):
    status, value = TOO_LONG[name]
    fault = fault_of(status, body_of(value), logprobs=True)
    assert fault == ("prompt", "the prompt is longer than the model reads")


@pytest.mark.parametrize("name", FILTERED)
def test_a_filtered_prompt(name):
    status, value = FILTERED[name]
    assert fault_of(status, body_of(value)) == ("prompt", "a content filter refused the prompt")


@pytest.mark.parametrize("name", EVERYBODY)
def test_what_no_prompt_can_help(name):
    assert whose(EVERYBODY, name) == "everybody"


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass(name):
    assert whose(PASSING, name) == "passing"


@pytest.mark.parametrize("status", [400, 418, 422, 424])
@pytest.mark.parametrize("body", [b"", b"no", b"{}", b'{"error": null}', b"\xff", b"[" * 9999])
def test_a_refusal_without_a_reason(status, body):
    assert fault_of(status, body).whose == "refused"


def test_the_parameter_is_known_by_its_name_and_not_by_an_echo():
    refused = error(ECHO, param="top_logprobs")
    assert fault_of(400, body_of(refused), logprobs=True).whose == "logprobs"
    assert fault_of(400, body_of(refused), logprobs=False).whose == "refused"
    located = {"detail": [{"loc": ["body", "top_logprobs"], "msg": "extra fields"}]}
    assert fault_of(422, body_of(located), logprobs=True).whose == "logprobs"
    echoed = error("temperature?") | {"input": {"logprobs": True, "messages": "too long a prompt"}}
    assert fault_of(400, body_of(echoed), logprobs=True).whose == "refused"


def test_an_error_is_read_wherever_it_stands():
    assert error_of(b'{"detail": "prompt is too long"}').words == "prompt is too long"
    assert error_of(b'"no"') == (frozenset(), "no")
    deep = {"error": {"details": [{"innererror": {"code": "Content_Filter"}}]}}
    assert error_of(body_of(deep)).codes == {"contentfilter"}
    assert error_of(b'{"input": "api key"}').words == ""


# --- what it costs ------------------------------------------------------------------------------

def refusing(status, value):
    """A server that refuses what holds TRIGGER, and echoes the rest."""
    class Server(HostileServer):
        def note(self, path, headers, body):
            fate = super().note(path, headers, body)
            wrong = "TRIGGER" in said(body)
            return (status, {}, body_of(value)) if wrong else fate

    return Server(echo)


@pytest.mark.parametrize(("status", "value", "why"), [
    (*TOO_LONG["llama.cpp"], "the prompt is longer than the model reads"),
    (*FILTERED["Azure"], "a content filter refused the prompt"),
    (400, error("never heard of"), "the server refused the prompt"),
])
def test_a_refused_prompt_costs_itself_and_is_named(status, value, why, make_client):
    words = ["a", "b TRIGGER", "c"]
    names = [f"logs.jsonl, line {i}" for i in (1, 2, 3)]
    with refusing(status, value) as server:
        client = make_client(server, api_concurrency=1)
        answers = client.ask([say(word) for word in words], text_of, names=names)
        assert answers == ["a", None, "c"]
        # it is not asked a second time, which would be longer
        assert len(server.log) == 3
        assert (client.stats["refused"], client.stats["bad_answers"]) == (1, 0)
        assert f"1 (33.3%) were refused (the last: {why}" in client.report()
        line, = client.losses()
        assert "logs.jsonl, line 2: " in line
        assert why in line
        assert f"HTTP {status}" in line
        kept = sorted(said(request) for request, _ in stored(client.cfg.api_cache))
        assert kept == ["a", "c"]


def test_a_mended_server_is_asked_again(make_client):
    with refusing(*TOO_LONG["vLLM"]) as server:
        assert make_client(server).ask([say("TRIGGER")], text_of) == [None]
    with HostileServer(echo, port=int(server.url.split(":")[2].split("/")[0])) as mended:
        assert make_client(mended).ask([say("TRIGGER")], text_of) == ["TRIGGER"]


def test_a_refusal_of_every_prompt_ends_the_run(make_client):
    with refusing(400, error("never heard of")) as server:
        with pytest.raises(ApiError, match="every prompt is refused: .*never heard of"):
            make_client(server).ask([say(f"TRIGGER {i}") for i in range(5)], text_of)


def test_refusals_that_do_not_end_are_everybodys(make_client):
    """Once prompts were answered as well: the server has changed its mind."""
    with refusing(400, error("never heard of")) as server:
        client = make_client(server, api_concurrency=1)
        assert client.ask([say("a")], text_of) == ["a"]
        with pytest.raises(ApiError, match="20 prompts in a row without an answer"):
            client.ask([say(f"TRIGGER {i}") for i in range(50)], text_of)
        assert len(server.log) == 21


def test_prompts_that_are_all_too_long_are_all_refused(make_client):
    with refusing(*TOO_LONG["TGI"]) as server:
        client = make_client(server)
        assert client.ask([say(f"TRIGGER {i}") for i in range(30)], text_of) == [None] * 30
        assert client.stats["refused"] == 30


@pytest.mark.parametrize("code", [400, "content_filter", "context_length_exceeded"])
def test_an_error_within_200(code, make_client):
    """Routers send the error of the server behind them with HTTP 200."""
    wrong = error("the prompt is too long", code=code)
    with refusing(200, wrong) as server:
        client = make_client(server)
        assert client.ask([say("TRIGGER"), say("b")], text_of) == [None, "b"]
        assert client.stats["refused"] == 1
        assert client.stats["retried"] == 0


def test_a_long_prompt_does_not_cost_the_log_probabilities(make_client):
    with refusing(*TOO_LONG["OpenAI"]) as server:
        client = make_client(server, api_concurrency=1)
        client.ask([say("TRIGGER"), say("b")], text_of, logprobs=True)
        assert all("logprobs" in request["body"] for request in server.log)


def test_a_bad_answer_whose_second_question_is_refused_stays_a_bad_answer(make_client):
    """The second question holds the answer too, and may be too long."""
    def never(answer):
        raise ValueError("no number")

    bodies = [None, (400, {}, body_of(TOO_LONG["TGI"][1]))]
    with HostileServer(echo, script=bodies) as server:
        client = make_client(server)
        assert client.ask([say("a" * 9000)], never) == [None]
        assert client.stats["bad_answers"] == 1
        assert "no number" in client.report()
        assert len(server.log[1]["body"]["messages"][1]["content"]) == 2000


# --- a failure is no answer ---------------------------------------------------------------------

def harmony(text):
    return f"<|channel|>analysis<|message|>so<|end|><|channel|>final<|message|>{text}"


def digit(answer):
    if not answer.text.isdigit():
        raise ValueError("no digits")
    return int(answer.text)


@pytest.mark.parametrize(("sick", "why"), [
    (choice(None), "it is empty"),
    ({"choices": [{"message": {"content": None, "reasoning_content": "7"}}]}, "only thought"),
    (choice(""), "it is empty"),
    (choice("<think>so", finish_reason="length"), "cut off"),
    (choice(harmony("7")), "no digits"),
    (choice("7<|im_end|>"), "no digits"),
])
def test_a_bad_answer_is_never_remembered(sick, why, make_client):
    is_sick = [True]
    with HostileServer(lambda body: sick if is_sick[0] else choice("7")) as server:
        first = make_client(server)
        assert first.ask([say("a number?")], digit, names=["d1"]) == [None]
        assert why in first.report()
        assert why in first.losses()[0]
        assert stored(first.cfg.api_cache) == []
        is_sick[0] = False
        assert make_client(server).ask([say("a number?")], digit) == [7]


def test_a_bad_answer_of_an_older_cache_is_replaced(make_client):
    with HostileServer(lambda body: choice("7")) as server:
        client = make_client(server)
        body = client._body(say("a number?"), 256, 0.0, None)
        request = canonical({"api_base": client.base, **body})
        bad = {"text": "", "logprobs": None, "wrong": "it is empty"}
        client._cache.put(request, bad)
        assert client.ask([say("a number?")], digit) == [7]
        (_, kept), = stored(client.cfg.api_cache)
        assert kept["text"] == "7"


def test_many_losses_are_counted_and_the_first_are_named(make_client):
    names = [f"d{i}" for i in range(25)]
    with HostileServer(lambda body: choice(None)) as server:
        client = make_client(server)
        client.ask([say(name) for name in names], digit, names=names)
        lines = client.losses()
    assert len(lines) == 21
    assert lines[0] == "  without an answer: d0: it is empty"
    assert lines[-1] == "  and 5 more"
