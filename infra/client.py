"""One client for any OpenAI-compatible server: judges, teachers and hosted agents ask through it.

`Client.ask` sends chat prompts to POST {--api_base}/chat/completions from a few threads, waits out what passes (time-outs, 429, 5xx,
garbage, cut connections), asks again after an answer that `parse` refuses, and keeps every completion in an sqlite3 file, so that the
same request is paid for once.  What could not be had is None and counted, never a score.  It knows no prompt and no skill.

Transient: no connection, a connection cut, no whole answer within --api_timeout, 408, 409, 425, 429, 5xx, a 200 that is no completion.
Sent again up to --api_retries times after a pause drawn from [0, min(60, 2^attempt)] s (full jitter), or after Retry-After, at most 60 s.
Final: any other status, no server, a server that leaves 20 prompts in a row unanswered, --max_requests spent.
Try it:  python llm.py        talks to a small server of its own on 127.0.0.1: a 429 with Retry-After, an answer, the same one from the cache"""
from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import math
import os
import random
import re
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from data import DataError, opt

T = TypeVar("T")
Messages = list[dict[str, str]]
TRANSIENT = {408, 409, 425, 429}                 # and 5xx
LONGEST_PAUSE = 60.0                             # s; a Retry-After above it is cut to it
CONNECT_TIMEOUT = 10.0                           # s, if --api_timeout is not shorter
FIRST_RETRIES = 2                                # while no server has answered at all: a wrong --api_base should not take a minute to say so
GONE_AFTER = 20                                  # prompts in a row without an answer
GRACE = 10.0                                     # s that Ctrl-C leaves to answers under way: they are paid for
LARGEST_BODY = 1 << 25                           # bytes; more is garbage
TOO_LONG = re.compile(r"context.?length|context window|too long|too large|too many tokens|maximum.{0,20} length", re.IGNORECASE)
LOGPROBS = {"logprobs": True, "top_logprobs": 20}            # 20: the most that OpenAI's API gives
BUDGET = threading.Lock()                        # guards ApiConfig.spent
APPLICATION_ID = 0x474F504F                      # "GOPO": marks a cache file as ours


@dataclass(frozen=True)
class ApiConfig:
    """How to reach an OpenAI-compatible server.  The key comes from the environment variable GOPO_API_KEY and is stored nowhere.

    All clients made from one object share its --max_requests; `spent` counts what they sent."""
    api_base: str | None = opt(None, "address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; its key, if it needs one, in the "
                                     "environment variable GOPO_API_KEY")
    api_timeout: float = opt(60.0, "seconds for one whole answer of the server, however slowly its bytes come")
    api_retries: int = opt(6, "how often a request is sent again after a failure that may pass")
    api_concurrency: int = opt(8, "requests under way at once")
    api_cache: str = opt("api_cache.sqlite", "file that keeps every request and answer as plain text (the customers' words too, never the key): nothing is "
                                             "paid for twice; delete it (and its -wal, -shm) to ask anew")
    api_extra: str = opt("{}", "JSON object added to every request, null removes a field: '{\"chat_template_kwargs\": {\"enable_thinking\": false}}' keeps "
                               "Qwen3 on vLLM from thinking aloud, '{\"max_tokens\": null, \"max_completion_tokens\": 512}' suits newer OpenAI models")
    max_requests: int | None = opt(None, "stop after that many HTTP requests of this process, retries included; run again to go on; 0 = cache only")

    def __post_init__(self):
        if self.api_base is not None and not re.fullmatch(r"https?://(\[[\da-fA-F:]+\]|[^\s/@?#\[\]:]+)(:\d{1,5})?(/[^\s@?#]*)?", self.api_base):
            raise DataError("--api_base: write http:// or https://, host, port and path alone, e.g. http://127.0.0.1:8000/v1; a key belongs in GOPO_API_KEY")
        if (self.api_base or "").rstrip("/").endswith("/completions"):
            raise DataError(f"--api_base {self.api_base}: leave out /chat/completions, e.g. http://127.0.0.1:8000/v1")
        if not 0 < self.api_timeout < math.inf:
            raise DataError(f"--api_timeout must be a number of seconds above 0, got {self.api_timeout}")
        if self.api_retries < 0:
            raise DataError(f"--api_retries must be 0 or more, got {self.api_retries}")
        if not 1 <= self.api_concurrency <= 256:
            raise DataError(f"--api_concurrency must lie in 1..256, got {self.api_concurrency}")
        if not self.api_cache:
            raise DataError("--api_cache is empty; name a file, e.g. api_cache.sqlite")
        if self.max_requests is not None and self.max_requests < 0:
            raise DataError(f"--max_requests must be 0 or more, got {self.max_requests}")
        try:
            extra = json.loads(self.api_extra)
        except ValueError:
            extra = None
        if not isinstance(extra, dict):
            raise DataError(f"--api_extra {self.api_extra}: write one JSON object")
        object.__setattr__(self, "spent", Counter())         # no field: neither a flag nor part of what makes two configs equal


@dataclass(frozen=True)
class Answer:
    text: str
    logprobs: tuple[tuple[str, dict[str, float]], ...] | None = None      # per token: (token, {token or alternative: log p}); None = the server gave none


class ApiError(DataError):
    """Asking on is of no use: no server, a refused key, no such model, a server that stays broken."""


class BudgetSpent(ApiError):
    """--max_requests reached; what was answered is in the cache."""


class _Passing(Exception):
    """A failure that may pass: what it was, and the server's Retry-After in seconds."""
    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.after = after


class _NoLogprobs(Exception):
    """The server rejects the parameter."""


# ---------------------------------------------------------------- the client

class Client:
    """Asks one model of one server.  One client serves a whole run; its threads share --api_concurrency, --max_requests and the counts."""

    def __init__(self, model: str, cfg: ApiConfig):
        if cfg.api_base is None:
            raise ApiError(f"--api_base is missing: give the address of the server that has {model!r}, e.g. --api_base http://127.0.0.1:8000/v1")
        self.model, self.cfg, self.base = model, cfg, cfg.api_base.rstrip("/")
        self._key = os.environ.get("GOPO_API_KEY", "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", self._key):
            raise ApiError("GOPO_API_KEY holds a space or a letter that no key has; set it again")
        self.stats: Counter[str] = Counter()
        self.last_failure = ""                   # why the latest attempt failed
        self._cache = _Cache(Path(cfg.api_cache))
        self._lock = threading.Lock()            # guards stats and what follows
        self._lines: set[_Line] = set()          # attempts under way
        self._unanswered_in_a_row, self._met, self._without_logprobs = 0, False, False
        self._random = random.Random()           # its own: the run's generators stay where they are
        self._local = threading.local()          # a session per thread: requests does not promise that they can be shared
        self._pool = ThreadPoolExecutor(cfg.api_concurrency, thread_name_prefix="llm")

    def ask(self, prompts: Sequence[Messages], parse: Callable[[Answer], T], *, max_tokens: int = 256, temperature: float = 0.0,
            logprobs: bool = False, attempts: int = 2, seed: int | None = None, progress: str | None = None) -> list[T | None]:
        """parse(answer) for each prompt, in their order; None where no usable answer could be had.

        parse     turns an Answer into a T, or raises ValueError: then the model is told what was wrong and asked again, `attempts` times in all;
                  it runs in several threads
        seed      sent if given; equal prompts are sent once, so ask for several samples of one prompt by several seeds
        raises    ApiError (BudgetSpent) when asking on is of no use; answers under way are waited for and cached before"""
        first = [self._body(p, max_tokens, temperature, seed) for p in prompts]
        keys = [_canonical(body) for body in first]
        different = dict(zip(keys, first))
        self._count("asked", len(different))
        stop, grace, futures = threading.Event(), None, {}
        try:
            for key, body in different.items():
                futures[key] = self._pool.submit(self._answer, body, parse, logprobs, attempts, stop)
            for future in tqdm(as_completed(futures.values()), total=len(futures), desc=progress, disable=progress is None):
                future.result()
        except KeyboardInterrupt:
            grace = GRACE
            print(f"waiting up to {GRACE:.0f} s for answers under way; Ctrl-C again to drop them", file=sys.stderr)
            raise
        finally:
            self._wind_up(futures.values(), stop, grace)
        return [futures[key].result() for key in keys]

    def report(self) -> str:
        """One line for the end of a run."""
        n, asked = self.stats, max(1, self.stats["asked"])
        why = f" (the last: {self.last_failure})" if n["unanswered"] else ""
        return (f"{self.model} at {self.base}: {n['sent']} requests sent, {n['retried']} of them retries; {n['cached']} answers from {self.cfg.api_cache}; "
                f"of {n['asked']} prompts {n['bad_answers']} ({n['bad_answers'] / asked:.1%}) got only bad answers, "
                f"{n['unanswered']} ({n['unanswered'] / asked:.1%}) none{why}")

    def close(self) -> None:
        self._pool.shutdown()
        self._cache.close()

    def _wind_up(self, futures: Iterable[Future], stop: threading.Event, grace: float | None) -> None:
        """Cancels what waits, lets what is under way finish within `grace` seconds (None: within its own deadline), then hangs up."""
        stop.set()
        try:
            wait([f for f in futures if not f.cancel()], timeout=grace)
        finally:                                 # a second Ctrl-C comes here at once
            if grace is not None:
                with self._lock:
                    lines = tuple(self._lines)
                for line in lines:
                    line.hang_up()

    def _body(self, messages: Messages, max_tokens: int, temperature: float, seed: int | None) -> dict[str, Any]:
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        return {name: value for name, value in (body | json.loads(self.cfg.api_extra)).items() if value is not None}

    def _answer(self, body: dict[str, Any], parse: Callable[[Answer], T], logprobs: bool, attempts: int, stop: threading.Event) -> T | None:
        """One prompt: complete, parse, and after a bad answer say what was wrong and ask again."""
        for _ in range(attempts):
            completion = self._complete(body, logprobs, stop)
            if completion is None:
                return None
            wrong = completion["wrong"]
            if wrong is None:
                try:
                    return parse(Answer(completion["text"], _pairs(completion["logprobs"])))
                except ValueError as error:
                    wrong = " ".join(str(error).split())[:200]
            again = [{"role": "assistant", "content": completion["text"] or "(no answer)"},      # some chat templates want the roles to take turns
                     {"role": "user", "content": f"That answer cannot be used: {wrong}. Answer again, exactly in the form that was asked for."}]
            body = body | {"messages": [*body["messages"], *again]}
        self._count("bad_answers")
        return None

    def _complete(self, body: dict[str, Any], logprobs: bool, stop: threading.Event) -> dict[str, Any] | None:
        """A completion {"text", "logprobs", "wrong"} from the cache or the server; None = unanswered."""
        if logprobs and not self._without_logprobs:
            try:
                return self._cached_or_sent(body | LOGPROBS, stop)
            except _NoLogprobs:
                self._without_logprobs = True    # for the rest of this client's life
        return self._cached_or_sent(body, stop)

    def _cached_or_sent(self, body: dict[str, Any], stop: threading.Event) -> dict[str, Any] | None:
        request = _canonical({"api_base": self.base, **body})
        completion = self._cache.get(request)
        if completion is not None:
            self._count("cached")
            return completion
        try:
            completion = self._send_until_answered(body, stop)
        except ApiError:
            stop.set()                           # here, so that this thread does not begin the next prompt
            raise
        if completion is not None:
            self._cache.put(request, completion)
        return completion

    def _send_until_answered(self, body: dict[str, Any], stop: threading.Event) -> dict[str, Any] | None:
        for attempt in range(self.cfg.api_retries + 1):
            if stop.is_set():
                return None
            self._spend(attempt)
            try:
                completion = self._send(body)
            except _Passing as failure:
                self.last_failure = str(failure)
                if not self._met and attempt >= min(FIRST_RETRIES, self.cfg.api_retries):
                    raise ApiError(f"--api_base {self.base}: no server answers there ({failure}); start it, or correct the address") from None
                if attempt < self.cfg.api_retries:
                    stop.wait(pause(attempt, failure.after, self._random))
                continue
            self._unanswered_in_a_row = 0
            return completion
        self._give_up()
        return None

    def _spend(self, attempt: int) -> None:
        """Counts a request before it is sent, or says that none is left."""
        with self._lock, BUDGET:
            if self.cfg.max_requests is not None and self.cfg.spent["requests"] >= self.cfg.max_requests:
                raise BudgetSpent(f"--max_requests {self.cfg.max_requests} reached; everything answered so far is in {self.cfg.api_cache} and is not "
                                  "sent again")
            self.cfg.spent["requests"] += 1
            self.stats["sent"] += 1
            self.stats["retried"] += attempt > 0

    def _give_up(self) -> None:
        with self._lock:
            self.stats["unanswered"] += 1
            self._unanswered_in_a_row += 1
            if self._unanswered_in_a_row >= GONE_AFTER:
                raise ApiError(f"{self.base}: server gone: {GONE_AFTER} prompts in a row without an answer (the last: {self.last_failure}); "
                               f"what was answered is in {self.cfg.api_cache}; run again to go on")

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.stats[what] += number

    # ------------------------------------------------------------ one HTTP request

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        """One attempt.  Raises _Passing, _NoLogprobs or ApiError."""
        line = self._local.line = _Line(self.cfg.api_timeout)
        with self._lock:
            self._lines.add(line)
        try:
            status, headers, content = self._post(body)
        except (requests.RequestException, HTTPError) as error:          # no such address, no connection, one that broke, no HTTP
            raise _Passing(f"no whole answer within {self.cfg.api_timeout:g} s" if line.cut else self._clean(_cause(error))) from None
        finally:
            self._met |= line.socket is not None
            line.close()
            with self._lock:
                self._lines.discard(line)
        words = self._clean(content.decode("utf-8", "replace"))
        if status == 200:
            try:
                return read_completion(content)
            except ValueError as error:
                raise _Passing(f"HTTP 200, but {error}: {words}") from None
        if status in TRANSIENT or status >= 500:
            raise _Passing(f"HTTP {status}: {words}", retry_after(headers.get("Retry-After")))
        if status in (400, 422) and "logprobs" in body and "logprobs" in words:
            raise _NoLogprobs
        if status in (400, 413, 422) and TOO_LONG.search(words):         # one prompt's fault, not the run's
            return {"text": "", "logprobs": None, "wrong": "the prompt is longer than the model reads"}
        raise self._final(status, headers, words)

    def _post(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        timeout = (min(CONNECT_TIMEOUT, self.cfg.api_timeout), self.cfg.api_timeout)
        with self._session().post(f"{self.base}/chat/completions", data=_canonical(body), headers={"Content-Type": "application/json"}, auth=self._authorise,
                                  timeout=timeout, allow_redirects=False, stream=True) as answer:
            content = b""
            for block in answer.iter_content(1 << 16):
                content += block
                if len(content) > LARGEST_BODY:
                    raise _Passing(f"an answer of more than {LARGEST_BODY} bytes")
            return answer.status_code, answer.headers, content

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            for scheme in ("http://", "https://"):
                self._local.session.mount(scheme, _Adapter(self._local))
        return self._local.session

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Called by requests even without a key: else it would take a password from ~/.netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _clean(self, words: str) -> str:
        """The server's or the library's own words: one line, 200 characters, the key not among them."""
        return " ".join((words.replace(self._key, "***") if self._key else words).split())[:200]

    def _final(self, status: int, headers: Mapping[str, str], words: str) -> ApiError:
        if 300 <= status < 400:
            return ApiError(f"--api_base {self.base}: redirects to {self._clean(headers.get('Location', 'nowhere'))}; give that address if you trust it "
                            "(a redirect is not followed: the key would go along)")
        advice = {401: "the key in GOPO_API_KEY is refused" if self._key else "set GOPO_API_KEY", 403: "the key in GOPO_API_KEY may not do this",
                  404: f"no model {self.model!r} there, or --api_base lacks its /v1"}.get(status, "the server refuses the request")
        return ApiError(f"{self.base}: HTTP {status}: {advice}; the server says: {words or 'nothing'}")


class _Line:
    """The deadline of one attempt.  A socket's own time-out starts anew with each byte; this one cuts the line, whatever drips through it."""

    def __init__(self, seconds: float):
        self.socket, self.cut = None, False
        self.timer = threading.Timer(seconds, self.hang_up)
        self.timer.daemon = True
        self.timer.start()

    def attach(self, sock: socket.socket) -> None:
        self.socket = getattr(sock, "socket", sock)                      # TLS within TLS wraps one in another
        if self.cut:                             # the deadline passed while connecting
            self.hang_up()

    def hang_up(self) -> None:
        self.cut = True
        if self.socket is not None:
            with contextlib.suppress(OSError):   # closed already
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)    # not TLS's own, which pulls the rug from under the reading thread

    def close(self) -> None:
        self.timer.cancel()


class _Adapter(HTTPAdapter):
    """Tells the thread's _Line which socket its answer comes through."""

    def __init__(self, local: threading.local):
        super().__init__()
        self.local = local

    def get_connection_with_tls_context(self, *args, **kwargs):
        pool, local = super().get_connection_with_tls_context(*args, **kwargs), self.local

        class Connection(HTTPSConnection if pool.scheme == "https" else HTTPConnection):
            def getresponse(self):
                local.line.attach(self.sock)
                return super().getresponse()
        pool.ConnectionCls = Connection
        return pool


def _cause(error: Exception) -> str:
    """What lies beneath urllib3's "Max retries exceeded": "Connection refused", the certificate, ..."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner))


def pause(attempt: int, after: float | None, rng: random.Random) -> float:
    """Seconds before attempt + 1: Retry-After if the server named one, else full jitter over [0, 2^attempt]; at most LONGEST_PAUSE."""
    if after is not None:
        return min(LONGEST_PAUSE, after + rng.uniform(0, 1))             # + : threads that were told the same should not come back together
    return rng.uniform(0, min(LONGEST_PAUSE, 2.0 ** attempt))


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or an HTTP date; None for anything else.

    >>> retry_after("7"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (7.0, None, 0.0)
    """
    if value is None or re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", value):
        return None if value is None else float(value)
    date = email.utils.parsedate_tz(value)
    try:
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
    except (ValueError, OverflowError):          # the 99th of month 77
        return None


# ---------------------------------------------------------------- what a server says

def read_completion(content: bytes) -> dict[str, Any]:
    """{"text", "logprobs", "wrong"} of a chat completion; wrong = why nobody can use the answer (cut off, refused, empty), or None.

    Raises ValueError for a body that is no completion.  Reasoning fields beside the content are not read."""
    try:
        completion = json.loads(content)
        choice = completion["choices"][0]
        message = choice["message"]
        text, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise ValueError("no chat completion") from None
    if isinstance(text, list):                   # parts: {"type": "text", "text": ".."}
        text = "".join(part["text"] for part in text if isinstance(part, dict) and part.get("type") in ("text", None) and isinstance(part.get("text"), str))
    if not isinstance(text, (str, type(None))):
        raise ValueError("a content that is no text")
    wrong = ("it was refused" if refusal or finish == "content_filter" else "it was cut off for its length" if finish == "length" else
             None if text and text.strip() else "it is empty")
    text = re.sub("[\ud800-\udfff]", "\ufffd", text or "")                # half characters cannot be written to a file
    return {"text": text, "logprobs": _read_logprobs(choice.get("logprobs")), "wrong": wrong}


def _read_logprobs(value: Any) -> list[list[Any]] | None:
    """[[token, {token: log p}], ..]: the drawn token and its alternatives; None if the server gave none or not in this form."""
    pairs = []
    try:
        for row in value["content"]:
            table: dict[str, float] = {}
            for token in [row, *(row.get("top_logprobs") or ())]:
                table.setdefault(token["token"], float(token["logprob"]))
            pairs.append([row["token"], table])
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    usable = all(isinstance(token, str) and logp <= 0.01 for _, table in pairs for token, logp in table.items())     # NaN is not; 0.01: rounding
    return pairs if pairs and usable else None


def _pairs(logprobs: list[list[Any]] | None) -> tuple[tuple[str, dict[str, float]], ...] | None:
    return None if logprobs is None else tuple((token, table) for token, table in logprobs)


def without_thoughts(text: str) -> str:
    """The answer without a leading <think>..</think> block, whose opening some chat templates put into the prompt."""
    return re.sub(r"\A(?:\s*<think>)?(?:(?!<think>).)*?</think>", "", text, count=1, flags=re.S).strip()


def parse_json(text: str, fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """{field: fields[field](value)} of an answer that is exactly one JSON object with exactly these fields; ValueError says what is wrong.

    A leading <think> block and one code fence around the object are taken off.  Duplicate keys, NaN and infinity are refused.

    >>> parse_json('```json\\n{"quality": 4}\\n```', {"quality": float})
    {'quality': 4.0}
    """
    text = without_thoughts(text)
    fence = re.fullmatch(r"```(?:json|JSON)?\s*\n(.*)\n\s*```", text, re.S)
    try:
        value = json.loads(fence[1] if fence else text, object_pairs_hook=_distinct, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not one JSON object and nothing else ({error})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("JSON, but no object")
    missing, extra = [f for f in fields if f not in value], [f for f in value if f not in fields]
    if missing or extra:
        raise ValueError(f"field {missing[0]!r} is missing" if missing else f"field {extra[0][:40]!r} was not asked for")
    return {name: _convert(name, value[name], convert) for name, convert in fields.items()}


def _convert(name: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"field {name!r}: {error}") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        raise ValueError(f"field {counts.most_common(1)[0][0][:40]!r} stands there twice")
    return dict(pairs)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:40]} is no number")
    return float(text)


# ---------------------------------------------------------------- the cache

def _canonical(value: Any) -> str:
    """One spelling for equal JSON; ASCII, so that any text can be hashed, sent and stored."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class _Cache:
    """sha256 of the canonical request -> request and completion, in one sqlite3 file that several processes may write to and be killed over."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        with self._errors():
            self.db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)       # 60 s: other processes' writes
            try:
                self._open()
            except BaseException:
                self.db.close()
                raise

    def _open(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")       # two processes may make the file at once
        tables = {name for name, in self.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        mark, = self.db.execute("PRAGMA application_id").fetchone()
        if (mark, tables) not in ((0, set()), (APPLICATION_ID, {"answers"})):
            raise DataError(f"--api_cache {self.path}: not a cache of this program; name another file, or delete it if nobody needs it")
        self.db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.db.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID")
        self.db.execute("COMMIT")
        self.db.execute("PRAGMA journal_mode = WAL")                     # readers do not wait for writers; whole after kill -9
        self.db.execute("PRAGMA synchronous = NORMAL")

    def get(self, request: str) -> dict[str, Any] | None:
        with self._errors(), self.lock:
            row = self.db.execute("SELECT answer FROM answers WHERE key = ?", (_sha256(request),)).fetchone()
            return None if row is None else json.loads(row[0])

    def put(self, request: str, completion: dict[str, Any]) -> None:
        with self._errors(), self.lock:
            self.db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (_sha256(request), request, json.dumps(completion)))

    def close(self) -> None:
        self.db.close()

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except sqlite3.OperationalError as error:                        # no folder, no space, no permission, or a -wal whose file was deleted
            raise DataError(f"--api_cache {self.path}: cannot be used ({error}); name another file, or delete {self.path.name}-wal and -shm if they "
                            "were left behind") from None
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise DataError(f"--api_cache {self.path}: damaged, or not this program's ({error}); delete it to ask anew, or name another file") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- demo

def _demo() -> None:
    import tempfile
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Desk(BaseHTTPRequestHandler):
        seen = 0

        def do_POST(self):
            Desk.seen += 1
            status, body = (429, b"slow down") if Desk.seen == 1 else (200, b'{"choices": [{"message": {"content": "{\\"politeness\\": 4}"}}]}')
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            print(f"    server: {args[0]} -> {args[1]}")

    with tempfile.TemporaryDirectory() as folder, ThreadingHTTPServer(("127.0.0.1", 0), Desk) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client("demo-model", ApiConfig(f"http://127.0.0.1:{server.server_port}/v1", api_cache=f"{folder}/cache.sqlite"))
        prompt = [{"role": "user", "content": 'How polite is "Your lamp arrives on Monday, sorry for the wait."? Answer {"politeness": 1..5}.'}]
        for round in ("asked", "asked again"):
            start = time.monotonic()
            print(f"{round}: {client.ask([prompt], lambda a: parse_json(a.text, {'politeness': int}))}   ({time.monotonic() - start:.1f} s)")
        print(client.report())
        client.close()
        server.shutdown()


if __name__ == "__main__":
    _demo()
