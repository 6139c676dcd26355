"""Whose fault an HTTP error of a chat server is: one prompt's, or everybody's.

A prompt that is too long, or that a content filter refuses, must not end a run: the next one may be
answered.  A refused key or a missing model must end it at once.  Servers say which it is in their
own ways, so the status and the *structure* of the answer are read: the codes and the messages of
its JSON, wherever they stand, and however long they are.  What a server echoes of the request is
passed over.  Pure functions; the client (infra/client.py) acts on what they find.

    prompt      too long, filtered: it costs itself
    refused     refused, and nobody can say why: it costs itself, unless every prompt is refused
    logprobs    the server does not know the parameter: asked again without it
    passing     worth sending again
    everybody   no prompt will be answered
Try it:  python -m infra.refusals        what becomes of some servers' errors"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

TRANSIENT = {408, 409, 425, 429}  # and 5xx
# Such a status may be one prompt's fault, whatever the server calls it.
OWN = {400, 418, 422, 424}
DEEPEST = 8  # levels of JSON that are looked at
LONGEST = 100_000  # letters of a message that are looked at

# --- what servers call it, in small letters and without marks ------------------------------------

TOO_LONG_CODES = {
    "contextlengthexceeded", "contextlengtherror", "contextwindowexceedederror",
    "contextwindowexceeded", "exceedcontextsizeerror", "stringabovemaxlength", "requesttoolarge",
    "prompttoolong", "inputtoolong", "maxtokensexceeded", "tokenlimitexceeded",
}
FILTER_CODES = {
    "contentfilter", "contentfiltered", "contentfiltererror", "contentpolicyviolation",
    "contentpolicyviolationerror", "responsibleaipolicyviolation", "invalidprompt",
    "datainspectionfailed", "prohibitedcontent", "safety", "blockedbysafety", "moderationblocked",
    "guardrailintervened", "1301",
}
EVERYBODY_CODES = {
    "invalidapikey", "apikeyinvalid", "authenticationerror", "unauthenticated", "permissiondenied",
    "permissionerror", "modelnotfound", "deploymentnotfound", "insufficientquota", "billingerror",
    "billinghardlimitreached", "billingnotactive", "accountdeactivated", "accessterminated",
    "unsupportedparameter", "unsupportedvalue", "unknownparameter", "missingrequiredparameter",
    "unsupportedcountryregionterritory",
}
TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size|limit)"
    r"|(prompt|input|message|request|content|text|body|payload|conversation|quer)\w*\W.{0,60}?"
    r"(too (long|large|big)|exceed|longer than|must have (less|fewer)|must be (<|less|shorter))"
    r"|too many (input |prompt )?tokens|token (count|limit)|number of (input |prompt )?tokens"
    r"|(too long|too large|exceeds?|longer than).{0,80}(context|input|prompt|token|length)"
    r"|maximum.{0,20} length|range of input length",
    re.IGNORECASE | re.DOTALL,
)
# Of statuses that also speak of limits which have nothing to do with one prompt.
SURELY_TOO_LONG = re.compile(
    r"request too large|context.{0,20}(length|window|size)|too many (input |prompt )?tokens"
    r"|(prompt|input)\w*\W.{0,40}?(too (long|large)|longer than)",
    re.IGNORECASE | re.DOTALL,
)
RATE = re.compile(r"rate.?limit|per (second|minute|min|hour|day)|try again|quota", re.IGNORECASE)
# The request is at fault: so many tokens of an answer are more than the model writes.
ANSWER_LENGTH = re.compile(r"max_(completion_|new_|output_)?tokens", re.IGNORECASE)
OF_THE_PROMPT = re.compile(r"context|input|prompt|messages", re.IGNORECASE)
FILTERED = re.compile(
    r"content.{0,3}(filter|polic|management|moderation|safety|exists risk)|moderation|flagged"
    r"|safety (system|setting|filter|polic|reason)|violat|inappropriate|prohibited|harmful"
    r"|high risk|responsible ai|guardrail|sensitive",
    re.IGNORECASE,
)
EVERYBODY = re.compile(
    r"api.?key|credit|quota|billing|balance|payment|account|subscription|unauthor|not authori"
    r"|permission|access denied|deactivat|expired"
    r"|model\b.{0,60}?(not found|not exist|not support|not avail|unavailable)|no such model",
    re.IGNORECASE | re.DOTALL,
)
WHY = {
    "too long": "the prompt is longer than the model reads",
    "filtered": "a content filter refused the prompt",
    "refused": "the server refused the prompt",
}


class Fault(NamedTuple):
    whose: str                                   # prompt, refused, logprobs, passing, everybody
    why: str = ""                                # of prompt and refused: in words


class Error(NamedTuple):
    """What a server says went wrong."""
    codes: frozenset[str]                        # small letters and digits alone
    words: str                                   # all messages, one after the other


# --- reading ------------------------------------------------------------------------------------

CODE_KEYS = {"code", "type", "status", "error_type", "error_code", "reason", "blockreason", "name"}
WORD_KEYS = {
    "message", "msg", "error", "detail", "details", "errors", "reasons", "raw", "param", "loc",
    "title", "description", "error_description", "innererror", "metadata", "cause", "body",
}


def error_of(content: bytes) -> Error:
    """Codes and messages of an answer, JSON or not.

    >>> error_of(b'[{"error": {"code": "content_filter", "message": "No."}}]')
    Error(codes=frozenset({'contentfilter'}), words='No.')
    """
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Error(frozenset(), text[:LONGEST])
    codes: set[str] = set()
    words: list[str] = []
    for key, said in _said(value, "", 0):
        if key in CODE_KEYS:
            codes.add(re.sub(r"[^a-z0-9]", "", said.lower()))
        else:
            words.append(said)
    return Error(frozenset(codes), "\n".join(words)[:LONGEST])


def _said(value: Any, key: str, depth: int) -> Iterator[tuple[str, str]]:
    """(key, text) of every code and message in a JSON value; echoes of the request are left."""
    if isinstance(value, (str, int)):
        yield key, str(value)
    elif depth >= DEEPEST:
        return
    elif isinstance(value, list):
        for part in value:
            yield from _said(part, key, depth + 1)
    elif isinstance(value, dict):
        for name, part in value.items():
            name = name.lower()
            if name in CODE_KEYS or name in WORD_KEYS:
                yield from _said(part, name, depth + 1)


# --- judging ------------------------------------------------------------------------------------

def fault_of(status: int, content: bytes, logprobs: bool = False) -> Fault:
    """Whose fault an answer of this status is.

    logprobs  whether the request asked for log-probabilities
    """
    error = error_of(content)
    own = _own_fault(status, error)
    if own:
        return Fault("prompt", WHY[own])
    if status in (400, 422) and logprobs and "logprobs" in error.words:
        return Fault("logprobs")
    if error.codes & EVERYBODY_CODES:
        return Fault("everybody")
    if status in TRANSIENT or status >= 500:
        return Fault("passing")
    if status in OWN and not EVERYBODY.search(error.words) and not _asks_too_much(error.words):
        return Fault("refused", WHY["refused"])
    return Fault("everybody")


def _own_fault(status: int, error: Error) -> str | None:
    """Whether this prompt is too long or filtered; None: no sign of it."""
    if status < 400 or status in (401, 402, 404):
        return None
    if error.codes & TOO_LONG_CODES or status == 413:
        return "too long"
    if error.codes & FILTER_CODES or status == 451:
        return "filtered"
    if status in TRANSIENT or status >= 500:
        return _of_a_busy_server(status, error.words)
    if status in OWN and TOO_LONG.search(error.words) and not _asks_too_much(error.words):
        return "too long"
    of_all = EVERYBODY.search(error.words)
    if status in OWN | {403} and FILTERED.search(error.words) and not of_all:
        return "filtered"
    return None


def _of_a_busy_server(status: int, words: str) -> str | None:
    """Some servers answer 500 or 429 to what no waiting makes shorter."""
    if not SURELY_TOO_LONG.search(words):
        return None
    if status == 429 and "request too large" not in words.lower() and RATE.search(words):
        return None
    return "too long"


def _asks_too_much(words: str) -> bool:
    """Whether the answer that is asked for is too long, and not the prompt."""
    return bool(ANSWER_LENGTH.search(words)) and not OF_THE_PROMPT.search(words)


def embedded_status(content: bytes) -> int | None:
    """The status within {"error": {"code": 400, ...}}, which some routers send with HTTP 200."""
    try:
        error = json.loads(content)["error"]
        code = error["code"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    if type(code) is int and 400 <= code < 600:
        return code
    return 400 if error_of(content).codes & (TOO_LONG_CODES | FILTER_CODES) else None


def demo() -> None:
    examples = [
        (400, b'{"error": {"type": "exceed_context_size_error", "message": "4390 tokens"}}'),
        (422, b'{"error": "Input validation error: `inputs` must have less than 4096 tokens."}'),
        (400, b'{"error": {"code": "content_filter", "message": "refused"}}'),
        (400, b'{"error": {"message": "temperature: 0 is not possible here"}}'),
        (400, b'{"error": {"message": "API key not valid.", "status": "INVALID_ARGUMENT"}}'),
        (404, b'{"error": {"message": "model \'m\' not found"}}'),
        (429, b'{"error": {"message": "Rate limit reached: try again in 3 s"}}'),
    ]
    for status, content in examples:
        fault = fault_of(status, content)
        print(f"HTTP {status} {content.decode()}\n    {fault.whose} {fault.why}")


if __name__ == "__main__":
    demo()
