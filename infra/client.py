"""One client for any OpenAI-compatible server: judges, teachers and hosted agents ask through it.

`Client.ask` sends chat prompts to POST {--api_base}/chat/completions from a few threads:
- it waits out failures that may pass, and sends the request again;
- it asks the model again after an answer that the caller's `parse` refuses;
- it keeps every completion in a file (infra/cache.py), so that no request is paid for twice.
A prompt without a usable answer gives None and is counted; it is never given a score.  The client
knows no prompt and no skill.

A failure may pass: no connection, a connection cut, no whole answer within --api_timeout, the
statuses 408, 409, 425, 429 and 5xx, a 200 that is no completion.  The request is sent again up to
--api_retries times, after a random pause or the server's Retry-After (`infra.transport.pause`).
A failure is final: any other status, no server, a server that leaves 20 prompts in a row
unanswered, --max_requests spent.
Try it:  python -m infra.client
         asks a small server of its own: a 429 with Retry-After, an answer, the same from the cache
"""
from __future__ import annotations

import json
import math
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data import DataError, opt
from infra.answers import Answer, answer_of, parse_json, read_completion
from infra.cache import Cache, canonical
from infra.processes import any_process
from infra.transport import Passing, Transport, pause, retry_after

T = TypeVar("T")
Messages = list[dict[str, str]]
TRANSIENT = {408, 409, 425, 429}  # and 5xx
# While no server has answered at all: a wrong --api_base should not take a minute to say so.
FIRST_RETRIES = 2
GONE_AFTER = 20  # prompts in a row without an answer
GRACE = 10.0  # s that Ctrl-C leaves to answers under way, which are paid for
TOO_LONG = re.compile(
    r"context.?length|context window|too long|too large|too many tokens|maximum.{0,20} length",
    re.IGNORECASE,
)
LOGPROBS = {"logprobs": True, "top_logprobs": 20}  # 20: the most that OpenAI's API gives
BUDGET = threading.Lock()  # guards ApiConfig.spent
# scheme, host (or an IPv6 address in brackets), port, path; no user, password, query or fragment
ADDRESS = re.compile(
    r"https?://(\[[\da-fA-F:]+\]|[^\s/@?#\[\]:]+)(:\d{1,5})?(/[^\s@?#]*)?"
)


@dataclass(frozen=True)
class ApiConfig:
    """How to reach an OpenAI-compatible server.

    The key comes from the environment variable GOPO_API_KEY and is stored nowhere.  All clients
    made from one object share its --max_requests; `spent` counts what they sent.
    """
    api_base: str | None = opt(
        None,
        "address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; its key, if it "
        "needs one, in the environment variable GOPO_API_KEY",
    )
    api_timeout: float = opt(
        60.0, "seconds for one whole answer of the server, however slowly its bytes come"
    )
    api_retries: int = opt(6, "how often a request is sent again after a failure that may pass")
    api_concurrency: int = opt(8, "requests under way at once")
    api_cache: str = opt(
        "api_cache.sqlite",
        "file that keeps every request and answer as plain text (with the customers' words, never "
        "with the key): nothing is paid for twice; delete it (and its -wal, -shm) to ask anew",
    )
    api_extra: str = opt(
        "{}",
        "JSON object added to every request, null removes a field: "
        "'{\"chat_template_kwargs\": {\"enable_thinking\": false}}' keeps Qwen3 on vLLM from "
        "thinking aloud, '{\"max_tokens\": null, \"max_completion_tokens\": 512}' suits newer "
        "OpenAI models",
    )
    max_requests: int | None = opt(
        None,
        "stop after that many HTTP requests of this process, retries included; run again to go "
        "on; 0 = cache only",
    )

    def __post_init__(self):
        if self.api_base is not None:
            _check_address(self.api_base)
        if not 0 < self.api_timeout < math.inf:
            got = f"got {self.api_timeout}"
            raise DataError(f"--api_timeout must be a number of seconds above 0, {got}")
        if self.api_retries < 0:
            raise DataError(f"--api_retries must be 0 or more, got {self.api_retries}")
        if not 1 <= self.api_concurrency <= 256:
            raise DataError(f"--api_concurrency must lie in 1..256, got {self.api_concurrency}")
        if not self.api_cache:
            raise DataError("--api_cache is empty; name a file, e.g. api_cache.sqlite")
        if self.max_requests is not None and self.max_requests < 0:
            raise DataError(f"--max_requests must be 0 or more, got {self.max_requests}")
        _read_extra(self.api_extra)
        # no field: it is neither a flag nor part of what makes two configs equal
        object.__setattr__(self, "spent", Counter())


def _check_address(base: str) -> None:
    if not ADDRESS.fullmatch(base):
        # the address is not repeated: it may hold a password
        raise DataError("--api_base: write http:// or https://, host, port and path alone, "
                        "e.g. http://127.0.0.1:8000/v1; a key belongs in GOPO_API_KEY")
    if base.rstrip("/").endswith("/completions"):
        raise DataError(f"--api_base {base}: leave out /chat/completions, "
                        "e.g. http://127.0.0.1:8000/v1")


def _read_extra(text: str) -> dict[str, Any]:
    try:
        extra = json.loads(text)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise DataError(f"--api_extra {text}: write one JSON object")
    return extra


class ApiError(DataError):
    """Asking on is of no use: no server, a refused key, no such model, a server that stays broken.
    """


class BudgetSpent(ApiError):
    """--max_requests reached; what was answered is in the cache."""


class _NoLogprobs(Exception):
    """The server rejects the parameter."""


# --- the client ---------------------------------------------------------------------------------

class Client:
    """Asks one model of one server.

    One client serves a whole run.  Its threads share --api_concurrency, --max_requests and
    `stats`, which counts prompts (asked, bad_answers, unanswered), requests (sent, retried) and
    answers from the cache (cached).
    """

    def __init__(self, model: str, cfg: ApiConfig):
        if cfg.api_base is None:
            raise ApiError(f"--api_base is missing: give the address of the server that has "
                           f"{model!r}, e.g. --api_base http://127.0.0.1:8000/v1")
        key = os.environ.get("GOPO_API_KEY", "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise ApiError("GOPO_API_KEY holds a space or a letter that no key has; set it again")
        self.model = model
        self.cfg = cfg
        self.base = cfg.api_base.rstrip("/")
        self.stats: Counter[str] = Counter()
        self.last_failure = ""  # why the latest attempt failed
        self._has_key = bool(key)
        self._extra = _read_extra(cfg.api_extra)
        self._cache = Cache(Path(cfg.api_cache))
        self._transport = Transport(f"{self.base}/chat/completions", key, cfg.api_timeout)
        self._lock = threading.Lock()  # guards stats and _unanswered_in_a_row
        self._unanswered_in_a_row = 0
        self._without_logprobs = False
        # of its own: the draws of the run do not depend on the network
        self._random = random.Random()
        self._pool = ThreadPoolExecutor(cfg.api_concurrency, thread_name_prefix="client")

    def ask(self, prompts: Sequence[Messages], parse: Callable[[Answer], T], *,
            max_tokens: int = 256, temperature: float = 0.0, logprobs: bool = False,
            attempts: int = 2, seed: int | None = None) -> list[T | None]:
        """parse(answer) for each prompt, in their order; None where there was no usable answer.

        parse     turns an Answer into a T, or raises ValueError; then the model is asked again
                  with the words of the error, `attempts` times in all; runs in several threads
        logprobs  ask for log-probabilities; a server that refuses them is asked without
        seed      sent if given; equal prompts are sent once, so that several samples of one
                  prompt need several seeds
        raises    ApiError (BudgetSpent) when asking on is of no use; answers under way are first
                  waited for, and cached
        """
        bodies = {}
        keys = []
        for messages in prompts:
            body = self._body(messages, max_tokens, temperature, seed)
            keys.append(canonical(body))
            bodies[keys[-1]] = body
        self._count("asked", len(bodies))
        stop = threading.Event()
        grace = None
        futures: dict[str, Future] = {}
        try:
            for key, body in bodies.items():
                futures[key] = self._pool.submit(
                    self._answer, body, parse, logprobs, attempts, stop)
            for future in as_completed(futures.values()):
                future.result()
        except KeyboardInterrupt:
            grace = GRACE
            print(f"waiting up to {GRACE:.0f} s for answers under way; Ctrl-C again to drop them",
                  file=sys.stderr)
            raise
        finally:
            self._wind_up(futures.values(), stop, grace)
        return [futures[key].result() for key in keys]

    def report(self) -> str:
        """One line for the end of a run."""
        n = self.stats
        asked = max(1, n["asked"])
        why = f" (the last: {self.last_failure})" if n["unanswered"] else ""
        return (f"{self.model} at {self.base}: "
                f"{n['sent']} requests sent, {n['retried']} of them retries; "
                f"{n['cached']} answers from {self.cfg.api_cache}; of {n['asked']} prompts "
                f"{n['bad_answers']} ({n['bad_answers'] / asked:.1%}) got only bad answers, "
                f"{n['unanswered']} ({n['unanswered'] / asked:.1%}) none{why}")

    def close(self) -> None:
        self._pool.shutdown()
        self._cache.close()

    def _wind_up(self, futures: Iterable[Future], stop: threading.Event,
                 grace: float | None) -> None:
        """Cancels what waits, and lets what is under way finish.

        grace  seconds after which it hangs up; None = each request has its own deadline
        """
        stop.set()
        try:
            wait([future for future in futures if not future.cancel()], timeout=grace)
        finally:
            # a second Ctrl-C comes here at once
            if grace is not None:
                self._transport.hang_up()

    # --- one prompt -----------------------------------------------------------------------------

    def _body(self, messages: Messages, max_tokens: int, temperature: float,
              seed: int | None) -> dict[str, Any]:
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens,
                "temperature": temperature, "seed": seed}
        body |= self._extra
        return {name: value for name, value in body.items() if value is not None}

    def _answer(self, body: dict[str, Any], parse: Callable[[Answer], T], logprobs: bool,
                attempts: int, stop: threading.Event) -> T | None:
        """Completes and parses; after a bad answer says what was wrong, and asks again."""
        for _ in range(attempts):
            completion = self._complete(body, logprobs, stop)
            if completion is None:
                return None
            wrong = completion["wrong"]
            if wrong is None:
                try:
                    return parse(answer_of(completion))
                except ValueError as error:
                    wrong = " ".join(str(error).split())[:200]
            body = body | {"messages": [*body["messages"], *_complaint(completion, wrong)]}
        self._count("bad_answers")
        return None

    def _complete(self, body: dict[str, Any], logprobs: bool,
                  stop: threading.Event) -> dict[str, Any] | None:
        """What `read_completion` returns, from the cache or the server; None = unanswered."""
        if logprobs and not self._without_logprobs:
            try:
                return self._cached_or_sent(body | LOGPROBS, stop)
            except _NoLogprobs:
                # for the rest of this client's life
                self._without_logprobs = True
        return self._cached_or_sent(body, stop)

    def _cached_or_sent(self, body: dict[str, Any],
                        stop: threading.Event) -> dict[str, Any] | None:
        request = canonical({"api_base": self.base, **body})
        completion = self._cache.get(request)
        if completion is not None:
            self._count("cached")
            return completion
        try:
            completion = self._send_until_answered(body, stop)
        except ApiError:
            # here, so that this thread does not begin the next prompt
            stop.set()
            raise
        if completion is not None:
            self._cache.put(request, completion)
        return completion

    # --- one request, sent until it is answered -------------------------------------------------

    def _send_until_answered(self, body: dict[str, Any],
                             stop: threading.Event) -> dict[str, Any] | None:
        retries = self.cfg.api_retries
        for attempt in range(retries + 1):
            if stop.is_set():
                return None
            self._spend(attempt)
            try:
                completion = self._send(body)
            except Passing as failure:
                self.last_failure = str(failure)
                if not self._transport.connected and attempt >= min(FIRST_RETRIES, retries):
                    raise ApiError(f"--api_base {self.base}: no server answers there ({failure}); "
                                   "start it, or correct the address") from None
                if attempt < retries:
                    stop.wait(pause(attempt, failure.after, self._random))
                continue
            self._unanswered_in_a_row = 0
            return completion
        self._give_up()
        return None

    def _spend(self, attempt: int) -> None:
        """Counts a request before it is sent; BudgetSpent if none is left."""
        limit = self.cfg.max_requests
        with self._lock, BUDGET:
            if limit is not None and self.cfg.spent["requests"] >= limit:
                raise BudgetSpent(f"--max_requests {limit} reached; everything answered so far is "
                                  f"in {self.cfg.api_cache} and is not sent again")
            self.cfg.spent["requests"] += 1
            self.stats["sent"] += 1
            self.stats["retried"] += attempt > 0

    def _give_up(self) -> None:
        """Counts an unanswered prompt; ApiError if there were too many in a row."""
        with self._lock:
            self.stats["unanswered"] += 1
            self._unanswered_in_a_row += 1
            if self._unanswered_in_a_row >= GONE_AFTER:
                raise ApiError(f"{self.base}: server gone: {GONE_AFTER} prompts in a row without "
                               f"an answer (the last: {self.last_failure}); what was answered is "
                               f"in {self.cfg.api_cache}; run again to go on")

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.stats[what] += number

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        """One attempt.  Raises Passing, _NoLogprobs or ApiError."""
        status, headers, content = self._transport.post(canonical(body))
        words = self._transport.clean(content.decode("utf-8", "replace"))
        if status == 200:
            try:
                return read_completion(content)
            except ValueError as error:
                raise Passing(f"HTTP 200, but {error}: {words}") from None
        if status in TRANSIENT or status >= 500:
            raise Passing(f"HTTP {status}: {words}", retry_after(headers.get("Retry-After")))
        if status in (400, 422) and "logprobs" in body and "logprobs" in words:
            raise _NoLogprobs
        if status in (400, 413, 422) and TOO_LONG.search(words):
            # one prompt's fault, and not the run's
            wrong = "the prompt is longer than the model reads"
            return {"text": "", "logprobs": None, "wrong": wrong}
        raise self._final(status, headers, words)

    def _final(self, status: int, headers: Mapping[str, str], words: str) -> ApiError:
        """Says what the user can do about a status that will not pass."""
        if 300 <= status < 400:
            where = self._transport.clean(headers.get("Location", "nowhere"))
            return ApiError(f"--api_base {self.base}: redirects to {where}; give that address if "
                            "you trust it (a redirect is not followed: the key would go along)")
        advice = "the server refuses the request"
        if status == 401 and self._has_key:
            advice = "the key in GOPO_API_KEY is refused"
        elif status == 401:
            advice = "set GOPO_API_KEY"
        elif status == 403:
            advice = "the key in GOPO_API_KEY may not do this"
        elif status == 404:
            advice = f"no model {self.model!r} there, or --api_base lacks its /v1"
        said = words or "nothing"
        return ApiError(f"{self.base}: HTTP {status}: {advice}; the server says: {said}")


def _complaint(completion: Mapping[str, Any], wrong: str) -> Messages:
    """What follows a bad answer in the dialogue with the model: the answer, and what is wrong."""
    # some chat templates want the roles to take turns, and refuse an empty message
    said = completion["text"] or "(no answer)"
    again = "Answer again, exactly in the form that was asked for."
    return [{"role": "assistant", "content": said},
            {"role": "user", "content": f"That answer cannot be used: {wrong}. {again}"}]


# --- demo ---------------------------------------------------------------------------------------

def _demo() -> None:
    import tempfile
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Desk(BaseHTTPRequestHandler):
        seen = 0

        def do_POST(self):
            Desk.seen += 1
            self.rfile.read(int(self.headers["Content-Length"]))
            if Desk.seen == 1:
                self.reply(429, b"slow down")
            else:
                content = json.dumps({"politeness": 4})
                completion = {"choices": [{"message": {"content": content}}]}
                self.reply(200, json.dumps(completion).encode())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            print(f"    server: {args[0]} -> {args[1]}")

    def politeness(answer: Answer) -> dict[str, int]:
        return parse_json(answer.text, {"politeness": int})

    question = ('How polite is "Your lamp arrives on Monday, sorry for the wait."? '
                'Answer {"politeness": 1..5}.')
    with (tempfile.TemporaryDirectory() as folder,
          ThreadingHTTPServer(("127.0.0.1", 0), Desk) as server):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1"
        client = Client("demo-model", ApiConfig(address, api_cache=f"{folder}/cache.sqlite"))
        for time_asked in ("asked", "asked again"):
            start = time.monotonic()
            answers = client.ask([[{"role": "user", "content": question}]], politeness)
            print(f"{time_asked}: {answers}   ({time.monotonic() - start:.1f} s)")
        print(client.report())
        client.close()
        server.shutdown()


def all_or_none(play: Callable[[], list]) -> list:
    """`play()`, in every process or in none.

    Of several processes, one whose judge is gone would leave the others waiting: all of them stop.
    """
    failed = None
    played: list = []
    try:
        played = play()
    except ApiError as error:
        failed = error
    if any_process(failed is not None):
        raise failed or ApiError("another process could not ask its judge")
    return played


if __name__ == "__main__":
    _demo()
