"""What goes over the wire: a chat completion request, read, and its answer, written.

The format is OpenAI's Chat Completions.  A trained pair needs more than messages: the shop's facts
B_t and the skills of the turn before.  Both may come with the request, and what the pair chose
goes back in a field `gopo` of the reply (docs/serving.md).
Pure functions of JSON values, which know no server and no model.  Whatever a client sends, the
only error that they raise is `Refused`: an HTTP status and one line.
Exercise: send the same dialogue with and without the field `gopo` of the earlier replies, and
compare `previous` of the answers."""
from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpora.jsonl import facts_of
from data import MAX_SKILLS, DataError
from infra.answers import HALF_CHARACTERS

MAX_MESSAGES = 200
MAX_FACTS = 500
ROLES = ("user", "assistant", "system", "developer", "tool", "function")
READ = {"model", "messages", "stream", "stream_options", "context"}
# What a pair cannot do is refused; the values here ask for nothing.
ONLY = {
    "n": (1,),
    "logprobs": (False,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class Refused(Exception):
    """An HTTP status and one line for the client."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = " ".join(HALF_CHARACTERS.sub("\ufffd", message).split())[:500]


@dataclass(frozen=True)
class Chat:
    """A dialogue that waits for its next reply; T customer messages, T - 1 replies."""
    history: tuple[str, ...]                     # customer, agent, ..., customer
    # a^E of each reply, where the client sent it back
    skills: tuple[tuple[str, ...] | None, ...] = ()
    # B_t of each customer message, where the request has it
    contexts: tuple[dict[str, str] | None, ...] = (None,)
    stream: bool = False
    usage: bool = False                          # the stream ends with the numbers of tokens
    ignored: tuple[str, ...] = ()                # what the request asks and a pair does not do


@dataclass(frozen=True)
class Answered:
    """A reply and the strategy behind it."""
    text: str
    strategy: dict[str, Any]                     # the field `gopo`
    finish: str = "stop"                         # or "length"
    prompt_tokens: int = 0
    reply_tokens: int = 0


# --- reading ------------------------------------------------------------------------------------

def parsed(body: bytes) -> dict[str, Any]:
    """A body as a JSON object."""
    try:
        value = json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise Refused(400, "the body is JSON that is nested too deeply") from None
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body must be a JSON object, {...}")
    return value


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def read_chat(value: Mapping[str, Any], model: str, pool: Collection[str]) -> Chat:
    """A request as a Chat.

    model   the name of the one pair that is served
    pool    ids of the skills that it knows
    raises  Refused
    """
    _refuse_model(value.get("model"), model)
    for name, harmless in ONLY.items():
        given = value.get(name)
        if given is not None and given not in harmless:
            raise Refused(400, f"{name}: a pair gives one reply in plain text; leave {name} out")
    talk = _Talk(frozenset(pool))
    for number, message in enumerate(_messages(value)):
        talk.add(message, f"messages[{number}]")
    if len(talk.history) % 2 == 0:
        raise Refused(400, "messages: the last text must be the customer's (role user)")
    if value.get("context") is not None:
        talk.contexts[-1] = _facts(value["context"], "context")
    ignored = sorted(name for name in value if name not in READ and name not in ONLY)
    return Chat(
        tuple(talk.history),
        tuple(talk.skills),
        tuple(talk.contexts),
        _flag(value, "stream", "stream"),
        _usage(value.get("stream_options")),
        (*talk.ignored, *ignored),
    )


def _refuse_model(asked: Any, model: str) -> None:
    if asked is None:
        return
    if not isinstance(asked, str):
        raise Refused(400, f"model: must be a string; this server has {model!r}")
    if asked != model:
        raise Refused(404, f"model {asked[:80]!r} is not here; this server has {model!r}")


def _messages(value: Mapping[str, Any]) -> list[Any]:
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, 'messages: must be a list such as [{"role": "user", "content": "Hi"}]')
    if len(messages) > MAX_MESSAGES:
        raise Refused(400, f"messages: {len(messages)}; at most {MAX_MESSAGES} are read")
    return messages


def _flag(value: Mapping[str, Any], name: str, at: str) -> bool:
    given = value.get(name)
    if given is not None and not isinstance(given, bool):
        raise Refused(400, f"{at}: must be true or false")
    return bool(given)


def _usage(options: Any) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise Refused(400, 'stream_options: must be an object such as {"include_usage": true}')
    return _flag(options, "include_usage", "stream_options.include_usage")


class _Talk:
    """Messages, folded one after the other into turns."""

    def __init__(self, pool: frozenset[str]):
        self.pool = pool
        self.history: list[str] = []
        self.skills: list[tuple[str, ...] | None] = []
        self.contexts: list[dict[str, str] | None] = []
        self.facts: dict[str, str] | None = None     # B_t, if a message of the request held it
        self.open = False                            # facts of this turn have been read
        self.ignored: list[str] = []

    def add(self, message: Any, at: str) -> None:
        if not isinstance(message, dict):
            raise Refused(400, f'{at}: must be an object with "role" and "content"')
        role = message.get("role")
        if role not in ROLES:
            raise Refused(400, f"{at}.role: must be one of {', '.join(ROLES)}")
        if role == "assistant" and message.get("content") is None and message.get("tool_calls"):
            return                               # it called a tool and said nothing
        text = _text(message.get("content"), f"{at}.content")
        if role == "user":
            self._customer(text)
        elif role == "assistant":
            self._agent(text, self._returned(message.get("gopo"), f"{at}.gopo"), at)
        else:
            self._shop(text, role, at)

    def _customer(self, text: str) -> None:
        if len(self.history) % 2:                # two messages at a stretch are one turn
            self.history[-1] += f"\n{text}"
            return
        self.history.append(text)
        self.contexts.append(self.facts)

    def _agent(self, text: str, skills: tuple[str, ...] | None, at: str) -> None:
        if not self.history:
            raise Refused(400, f"{at}: a dialogue begins with the customer (role user)")
        self.open = False
        if len(self.history) % 2 == 0:
            self.history[-1] += f"\n{text}"
            self.skills[-1] = skills or self.skills[-1]
            return
        self.history.append(text)
        self.skills.append(skills)

    def _shop(self, text: str, role: str, at: str) -> None:
        """B_t from a system or tool message that is a JSON object; other text is left unread."""
        try:
            value = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self.ignored.append(f"{at}: a {role} message that is no JSON object of facts")
            return
        facts = _facts(value, at)
        # facts of one turn add up, those of a later turn take their place
        self.facts = (self.facts or {}) | facts if self.open else facts
        self.open = True
        if len(self.history) % 2:
            self.contexts[-1] = self.facts

    def _returned(self, strategy: Any, at: str) -> tuple[str, ...] | None:
        """The skills of an earlier reply, if the client sent its field `gopo` back."""
        if strategy is None:
            return None
        if not isinstance(strategy, dict):
            raise Refused(400, f"{at}: must be the object that came with the reply")
        skills = strategy.get("skills")
        if skills is None:
            return None
        if not isinstance(skills, list) or len(skills) > MAX_SKILLS:
            raise Refused(400, f"{at}.skills: must be a list of at most {MAX_SKILLS} skill ids")
        for skill in skills:
            if not isinstance(skill, str) or skill not in self.pool:
                raise Refused(400, f"{at}.skills: {skill!r:.60} is no skill of this pair")
        return tuple(skills)


def _text(content: Any, at: str) -> str:
    """A content that is a string, or a list of parts of type text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(400, f"{at}: must be a string")
    texts = []
    for number, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or part.get("type") != "text":
            raise Refused(400, f"{at}[{number}]: only parts of type text can be read")
        texts.append(text)
    return "".join(texts)


def _facts(value: Any, at: str) -> dict[str, str]:
    """B_t by the rules of logs."""
    if not isinstance(value, dict):
        raise Refused(400, f"{at}: must be an object of facts, as {{\"price_1\": \"30 euros\"}}")
    if len(value) > MAX_FACTS:
        raise Refused(400, f"{at}: {len(value)} facts; at most {MAX_FACTS} are read")
    try:
        return facts_of(value, at)
    except DataError as error:
        raise Refused(400, str(error)) from None


# --- writing ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Letterhead:
    """What every object of one answer carries."""
    id: str
    created: int                                 # seconds since 1970
    model: str
    more: dict[str, Any] = field(default_factory=dict)

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_of(answered: Answered) -> dict[str, int]:
    """Tokens of the language model; 0 where a phrase book speaks."""
    prompt, reply = answered.prompt_tokens, answered.reply_tokens
    return {
        "prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}


def completion(answered: Answered, letter: Letterhead) -> dict[str, Any]:
    """The answer as one object."""
    message = {"role": "assistant", "content": answered.text, "gopo": answered.strategy}
    choice = {
        "index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish}
    return letter.head("chat.completion") | {"choices": [choice], "usage": usage_of(answered)}


def chunks(answered: Answered, letter: Letterhead, usage: bool) -> Iterator[dict[str, Any]]:
    """The answer as a stream: its words one by one, then the strategy, then perhaps the usage."""
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return letter.head("chat.completion.chunk") | {"choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    for word in re.findall(r"\s*\S+|\s+", answered.text):
        yield chunk({"content": word})
    yield chunk({"gopo": answered.strategy}, answered.finish)
    if usage:
        head = letter.head("chat.completion.chunk")
        yield head | {"choices": [], "usage": usage_of(answered)}


def error_of(refused: Refused) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    said = {"message": refused.message, "type": kind, "param": None, "code": None}
    return {"error": said}
