"""One client for any OpenAI-compatible server: judges, teachers and hosted agents ask through it.

`Client.ask` sends chat prompts to POST {--api_base}/chat/completions from a few threads:
- it waits out failures that may pass, and sends the request again;
- it asks the model again after an answer that the caller's `parse` refuses;
- it keeps every answer that was taken in a file (infra/cache.py), so that none is paid for twice;
  a failure is no answer, and is asked anew by the next run.
A prompt without a usable answer gives None, and is counted and named; it is never given a score.
The client knows no prompt and no skill.

A failure may pass: no connection, a connection cut, no whole answer within --api_timeout, the
statuses 408, 409, 425, 429 and 5xx, a 200 that is no completion.  The request is sent again up to
--api_retries times, after a random pause or the server's Retry-After (`infra.transport.pause`).
A prompt that the server refuses, as too long or by a filter, costs itself (infra/refusals.py).
A failure is final: any other status, no server, a server that leaves 20 prompts in a row
unanswered, or refuses all of them without saying why, --max_requests spent.
Try it:  python -m infra.client
         asks a small server of its own: a 429 with Retry-After, an answer, the same from the cache
"""
from __future__ import annotations

import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from data import DataError
from infra.answers import Answer, answer_of, parse_json, read_completion
from infra.api import BUDGET, ApiConfig, read_extra
from infra.cache import Cache, canonical
from infra.processes import any_process
from infra.refusals import embedded_status, fault_of
from infra.transport import Passing, Transport, pause, retry_after

__all__ = ["Answer", "ApiConfig", "ApiError", "BudgetSpent", "Client", "all_or_none"]
T = TypeVar("T")
Messages = list[dict[str, str]]
# While no server has answered at all: a wrong --api_base should not take a minute to say so.
FIRST_RETRIES = 2
GONE_AFTER = 20  # prompts in a row without an answer
GRACE = 10.0  # s that Ctrl-C leaves to answers under way, which are paid for
NAMED = 20  # prompts without a usable answer that are named; the others are counted
QUOTED = 2000  # letters of a bad answer that the model is shown again
LOGPROBS = {"logprobs": True, "top_logprobs": 20}  # 20: the most that OpenAI's API gives


class ApiError(DataError):
    """Asking on is of no use: no server, a refused key, no such model, a server that stays broken.
    """


class BudgetSpent(ApiError):
    """--max_requests reached; what was answered is in the cache."""


class _NoLogprobs(Exception):
    """The server rejects the parameter."""


class _Refused(Exception):
    """The server refuses this prompt.

    known  whether it said that the prompt is at fault
    """

    def __init__(self, why: str, known: bool):
        super().__init__(why)
        self.known = known


# --- the client ---------------------------------------------------------------------------------

class Client:
    """Asks one model of one server.

    One client serves a whole run.  Its threads share --api_concurrency, --max_requests and
    `stats`, which counts prompts (asked, bad_answers, refused, unanswered), requests (sent,
    retried) and answers from the cache (cached).
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
        self._extra = read_extra(cfg.api_extra)
        self._cache = Cache(Path(cfg.api_cache))
        self._transport = Transport(f"{self.base}/chat/completions", key, cfg.api_timeout)
        self._lock = threading.Lock()  # guards all below but _without_logprobs
        self._in_a_row = 0  # prompts unanswered, or refused without a reason
        self._answered = False  # whether any prompt ever was
        self._without_logprobs = False
        # why the latest prompt of each kind had no usable answer
        self._why: dict[str, str] = {}
        # request -> why nobody could use its answer: not asked again by this client
        self._bad: dict[str, tuple[str, str]] = {}
        self._lost: list[str] = []
        # of its own: the draws of the run do not depend on the network
        self._random = random.Random()
        self._pool = ThreadPoolExecutor(cfg.api_concurrency, thread_name_prefix="client")

    def ask(self, prompts: Sequence[Messages], parse: Callable[[Answer], T], *,
            max_tokens: int = 256, temperature: float = 0.0, logprobs: bool = False,
            attempts: int = 2, seed: int | Sequence[int] | None = None,
            names: Sequence[str] = (), more: Sequence[Mapping[str, Any]] = ()) -> list[T | None]:
        """parse(answer) for each prompt, in their order; None where there was no usable answer.

        parse     turns an Answer into a T, or raises ValueError; then the model is asked again
                  with the words of the error, `attempts` times in all; runs in several threads
        logprobs  ask for log-probabilities; a server that refuses them is asked without
        seed      sent if given, one for all or one for each; equal prompts with one seed are sent
                  once, so that several samples of one prompt need several seeds
        names     what each prompt is about (file, dialogue, turn), to name those without an answer
        more      other fields of each request; --api_extra counts for more
        raises    ApiError (BudgetSpent) when asking on is of no use; answers under way are first
                  waited for, and cached
        """
        bodies = {}
        keys = []
        seeds = seed if isinstance(seed, Sequence) else [seed] * len(prompts)
        others = more or [None] * len(prompts)
        for messages, own, fields in zip(prompts, seeds, others, strict=True):
            body = self._body(messages, max_tokens, temperature, own, fields)
            keys.append(canonical(body))
            bodies[keys[-1]] = body
        self._count("asked", len(bodies))
        how = _How(parse, attempts, threading.Event())
        grace = None
        futures: dict[str, Future] = {}
        try:
            for key, body in bodies.items():
                futures[key] = self._pool.submit(self._answer, body, logprobs, how)
            for future in as_completed(futures.values()):
                future.result()
        except KeyboardInterrupt:
            grace = GRACE
            print(f"waiting up to {GRACE:.0f} s for answers under way; Ctrl-C again to drop them",
                  file=sys.stderr)
            raise
        finally:
            self._wind_up(futures.values(), how.stop, grace)
        outcomes = [futures[key].result() for key in keys]
        self._name(outcomes, names)
        self._stop_if_all_are_refused(outcomes)
        return [outcome.value for outcome in outcomes]

    def report(self) -> str:
        """One line for the end of a run."""
        n = self.stats
        asked = max(1, n["asked"])

        def share(kind: str, words: str) -> str:
            why = f" (the last: {self._why.get(kind, '')})" if n[kind] else ""
            return f"{n[kind]} ({n[kind] / asked:.1%}) {words}{why}"

        parts = [share("bad_answers", "got only bad answers")]
        if n["refused"]:
            parts.append(share("refused", "were refused"))
        parts.append(share("unanswered", "none"))
        return (f"{self.model} at {self.base}: "
                f"{n['sent']} requests sent, {n['retried']} of them retries; "
                f"{n['cached']} answers from {self.cfg.api_cache}; of {n['asked']} prompts "
                f"{', '.join(parts)}")

    def losses(self) -> list[str]:
        """A line for each named prompt without a usable answer; many are only counted."""
        with self._lock:
            lines = [f"  without an answer: {name}" for name in self._lost[:NAMED]]
            if len(self._lost) > NAMED:
                lines.append(f"  and {len(self._lost) - NAMED} more")
            return lines

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
              seed: int | None, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens,
                "temperature": temperature, "seed": seed}
        body |= more or {}
        body |= self._extra
        return {name: value for name, value in body.items() if value is not None}

    def _answer(self, body: dict[str, Any], logprobs: bool, how: _How) -> _Outcome:
        """With log-probabilities if they are asked for and the server gives them."""
        if logprobs and not self._without_logprobs:
            try:
                return self._cached_or_asked(body | LOGPROBS, how)
            except _NoLogprobs:
                outcome = self._cached_or_asked(body, how)
                # for the rest of this client's life, if that was the reason
                self._without_logprobs |= outcome.kind == "answered"
                return outcome
        return self._cached_or_asked(body, how)

    def _cached_or_asked(self, body: dict[str, Any], how: _How) -> _Outcome:
        """What was taken before is in the cache; a failure of another run is asked anew."""
        request = canonical({"api_base": self.base, **body})
        kept = self._cache.get(request)
        if kept is not None:
            outcome = _read(kept, how.parse)
            if outcome.kind == "answered":
                self._count("cached")
                self._answered = True
                return outcome
        if request in self._bad:
            return self._fail(request, *self._bad[request])
        try:
            outcome, completion = self._asked(body, how)
        except ApiError:
            # here, so that this thread does not begin the next prompt
            how.stop.set()
            raise
        if outcome.kind == "answered":
            self._answered = True
            self._cache.put(request, completion, over=kept is not None)
        elif outcome.kind in ("bad_answers", "refused"):
            self._fail(request, outcome.kind, outcome.why)
        return outcome

    def _asked(self, body: dict[str, Any], how: _How) -> tuple[_Outcome, dict[str, Any]]:
        """Asks, and after a bad answer says what was wrong and asks again."""
        outcome = _Outcome("stopped")
        completion: dict[str, Any] = {}
        said = body
        for attempt in range(how.attempts):
            try:
                found = self._send_until_answered(said, how.stop)
            except _Refused as refusal:
                # a second question is longer than the first, whose answer says what is wrong
                if attempt == 0:
                    outcome = _Outcome("refused", None, str(refusal), refusal.known)
                break
            if found is None:
                return _Outcome("unanswered", None, self.last_failure), completion
            outcome, completion = _read(found, how.parse), found
            if outcome.kind == "answered":
                break
            said = said | {"messages": [*said["messages"], *_complaint(completion, outcome.why)]}
        return outcome, completion

    def _fail(self, request: str, kind: str, why: str) -> _Outcome:
        """Counts a prompt that got nothing of use, and remembers it for the rest of this run."""
        with self._lock:
            self.stats[kind] += 1
            self._why[kind] = why
            self._bad[request] = (kind, why)
        return _Outcome(kind, None, why)

    def _name(self, outcomes: Sequence[_Outcome], names: Sequence[str]) -> None:
        with self._lock:
            for name, outcome in zip(names, outcomes):
                if outcome.kind != "answered":
                    self._lost.append(f"{name}: {outcome.why}")

    def _stop_if_all_are_refused(self, outcomes: Sequence[_Outcome]) -> None:
        """ApiError if every prompt until now was refused, and no reason lies in the prompts."""
        refused = [outcome for outcome in outcomes if outcome.kind == "refused"]
        if self._answered or len(refused) < len(outcomes) or not refused:
            return
        if not any(outcome.known for outcome in refused):
            raise ApiError(f"{self.base}: every prompt is refused: {refused[-1].why}")

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
            except _Refused as refusal:
                if not refusal.known:
                    self._one_more_in_a_row(str(refusal))
                raise
            self._in_a_row = 0
            return completion
        self._count("unanswered")
        self._why["unanswered"] = self.last_failure
        self._one_more_in_a_row(self.last_failure)
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

    def _one_more_in_a_row(self, why: str) -> None:
        """ApiError if too many prompts in a row were unanswered or refused for no known reason."""
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row >= GONE_AFTER:
                raise ApiError(f"{self.base}: server gone: {GONE_AFTER} prompts in a row without "
                               f"an answer (the last: {why}); what was answered is "
                               f"in {self.cfg.api_cache}; run again to go on")

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.stats[what] += number

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        """One attempt.  Raises Passing, _Refused, _NoLogprobs or ApiError."""
        status, headers, content = self._transport.post(canonical(body))
        if status == 200:
            try:
                return read_completion(content)
            except ValueError as error:
                reason = str(error)
            status = embedded_status(content) or 200
        words = self._transport.clean(content.decode("utf-8", "replace"))
        if status == 200:
            raise Passing(f"HTTP 200, but {reason}: {words}")
        whose, why = fault_of(status, content, "logprobs" in body)
        if whose == "passing":
            raise Passing(f"HTTP {status}: {words}", retry_after(headers.get("Retry-After")))
        if whose == "logprobs":
            raise _NoLogprobs
        if whose == "everybody":
            raise self._final(status, headers, words)
        raise _Refused(f"{why} (HTTP {status}: {words})", whose == "prompt")

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


class _How(NamedTuple):
    """How the prompts of one `ask` are answered."""
    parse: Callable[[Answer], Any]
    attempts: int
    stop: threading.Event


class _Outcome(NamedTuple):
    """What became of a prompt."""
    kind: str  # answered, bad_answers, refused, unanswered, stopped
    value: Any = None
    why: str = ""
    known: bool = True  # of a refusal: whether the server said that the prompt is at fault


def _read(completion: Mapping[str, Any], parse: Callable[[Answer], Any]) -> _Outcome:
    """The answer as `parse` takes it, or what is wrong with it."""
    wrong = completion["wrong"]
    if wrong is None:
        try:
            return _Outcome("answered", parse(answer_of(completion)))
        except ValueError as error:
            wrong = " ".join(str(error).split())[:200]
    return _Outcome("bad_answers", None, wrong)


def _complaint(completion: Mapping[str, Any], wrong: str) -> Messages:
    """What follows a bad answer in the dialogue with the model: the answer, and what is wrong."""
    # some chat templates want the roles to take turns, and refuse an empty message
    said = completion["text"][:QUOTED] or "(no answer)"
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
