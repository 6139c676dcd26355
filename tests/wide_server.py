"""Random answers of a server through the labeller, the judge and the hosted agents.

Of four prompts one gets a random answer, always the same: a status, a body of wrong structure or
types, broken JSON, a stream cut off.  The others are answered well.  What must hold:
- the answer costs its own prompt, and the others have their values; only an error that is
  everybody's ends the run, with one line;
- a prompt without a value is counted once, and named;
- once the server is mended, every prompt has its value, and no answered request is sent again.
Anything else is printed with the number of the answer, and is a failure.
Try it:  python -m tests.wide_server --count 200          the three roles, each with every answer"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data import DataError, Dataset, Dialogue, Episode, Judged, Replay, Request, Turn
from expert import ExpertState
from hosted import label
from hosted.agents import HostedAgent, HostedExpert
from hosted.judge import LLMJudge
from infra import client as client_module
from infra.client import ApiConfig, Client
from tests.fake_client import FORM, POOL
from tests.hostile_server import HostileServer
from tests.label_logs import PRICE, dialogue, good, logs, rows_of

WORDS = ("a", "b", "TRIGGER", "d")               # the customers' messages
SHOP = Dataset("d", POOL, (), (), [], [], [])


class Random(NamedTuple):
    """One random answer."""
    kind: str
    status: int
    headers: dict[str, str]
    body: bytes
    ends: bool = False                           # it may end the run: everybody's


# --- random answers -----------------------------------------------------------------------------

VALUES = (None, True, 0, -1, 1.5, 10 ** 400, "", "x", "\ud83d", [], [[]], {}, {"a": None}, [None])
JUNK = (
    b"", b"null", b"[]", b"{}", b"\xff\xfe", b"<html>502</html>", b"[" * 50_000, b'{"choices": [',
    b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n', b"1e999", b"NaN",
    b'{"choices": null, "promptFeedback": {"blockReason": "SAFETY"}}',
    b'{"error": null, "choices": []}', b'"text"', b"\x00" * 64, b"9" * 6000,
)
MESSAGES = (
    "request (4390 tokens) exceeds the available context size", "prompt is too long", "no",
    "content management policy", "Content Exists Risk", "something nobody has heard of", "", None,
    5, ["a"], {"text": "too long"}, "x" * 5000 + " maximum context length", "\ud83d",
)
TEXTS = (
    "{}<|im_end|>", "<think>so", "<|channel|>final<|message|>{}", "{}{}", "Sure! {}", "```\n{}",
    "\ufeff{}", "'{}'", " ", '{{"a": NaN}}', "[{}]", "{{" * 3000, '{{"\\ud83d": 1}}',
)


def random_answer(rng: random.Random, text: str) -> Random:
    """A random answer to a prompt whose good answer is `text`."""
    make = rng.choice((junk, wrong_type, wrong_text, cut_off, own_error, busy, everybody))
    return make(rng, text)


def completion(text: Any, **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "1", "usage": {"total_tokens": 5},
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | fields]}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def junk(rng: random.Random, text: str) -> Random:
    kind = rng.choice(("application/json", "text/html", "text/event-stream"))
    return Random("junk", rng.choice((200, 200, 500)), {"Content-Type": kind}, rng.choice(JUNK))


def wrong_type(rng: random.Random, text: str) -> Random:
    """A completion in which one value is another, or missing, or one field too much."""
    value = completion(text, logprobs={"content": [{"token": "x", "logprob": -1.0}]})
    places = list(_places(value))
    holder, key = rng.choice(places)
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    return Random("wrong type", 200, {}, encoded(value))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value within a JSON value."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return
    for key, part in items:
        yield value, key
        yield from _places(part)


def wrong_text(rng: random.Random, text: str) -> Random:
    """A completion whose text is hardly the good one."""
    said = rng.choice(TEXTS).replace("{}", text)
    finish = rng.choice(("stop", "length", "content_filter", None, 7))
    return Random("wrong text", 200, {}, encoded(completion(said, finish_reason=finish)))


def cut_off(rng: random.Random, text: str) -> Random:
    """A body that ends before its announced end, or in the middle of its JSON."""
    whole = encoded(completion(text))
    part = whole[:rng.randrange(len(whole))]
    headers = {"Connection": "close"}
    if rng.random() < 0.5:
        headers["Content-Length"] = str(len(whole))
    return Random("cut off", 200, headers, part)


def own_error(rng: random.Random, text: str) -> Random:
    """One prompt's error, in one of the structures that servers have."""
    said = rng.choice(MESSAGES)
    code = rng.choice((400, None, "content_filter", "invalid_request_error", "3051"))
    error = {"code": code, "message": said, "type": rng.choice(VALUES)}
    value = rng.choice((
        {"error": error}, [{"error": error}], {"error": said}, error, {"detail": said},
        {"detail": [{"loc": ["body", "messages"], "msg": said}]}, {"error": {"innererror": error}},
        {"error": {"metadata": {"raw": json.dumps(error)}}}, said,
    ))
    return Random("own error", rng.choice((400, 400, 413, 422, 424)), {}, encoded(value))


def busy(rng: random.Random, text: str) -> Random:
    headers = {"Retry-After": rng.choice(("0", "soon", "-1", "Wed, 99 Foo 2015 99:99:99 GMT"))}
    body = rng.choice((encoded({"error": {"message": rng.choice(MESSAGES)}}), rng.choice(JUNK)))
    return Random("busy", rng.choice((408, 409, 429, 500, 502, 503, 529)), headers, body)


def everybody(rng: random.Random, text: str) -> Random:
    status, said = rng.choice((
        (401, "bad key"), (402, "pay"), (403, "no"), (404, "no model"), (405, "no"), (301, ""),
        (400, "API key not valid"), (429, "insufficient_quota"), (400, "model_not_found"),
    ))
    body = encoded({"error": {"message": said, "code": said}})
    return Random("everybody's", status, {"Location": "http://127.0.0.1/"}, body, ends=True)


# --- a server with one such answer --------------------------------------------------------------

def well(body: dict[str, Any]) -> str:
    """The good answer of each role."""
    system = body["messages"][0]["content"]
    if "You label" in system:
        return good(body["messages"])
    if "You judge" in system:
        return FORM
    return '{"skills": ["sorry"]}' if "You plan" in system else '{"reply": "Sorry for that."}'


class WideServer(HostileServer):
    """Gives the random answer of its `rng` to the prompt with TRIGGER, while it is `sick`."""

    def __init__(self):
        super().__init__(well)
        self.sick = True
        self.seed_of_answer = ""
        self.given: Random | None = None
        self.unhappy = 0                         # requests that got the random answer

    def note(self, path, headers, body):
        super().note(path, headers, body)
        asked = json.dumps(body["messages"][:2])
        if not self.sick or "TRIGGER" not in asked:
            return None
        first = body | {"messages": body["messages"][:2]}
        self.given = random_answer(random.Random(self.seed_of_answer), well(first))
        self.unhappy += 1
        return self.given.status, self.given.headers, self.given.body


# --- the roles ----------------------------------------------------------------------------------

class Played(NamedTuple):
    """What a role made of the four prompts."""
    values: list[Any]                            # None: no answer; empty: the run ended
    named: list[str]                             # the lines that name prompts without one
    ended: str = ""                              # the one line with which it ended


def labelling(folder: Path, url: str) -> Played:
    rows = [dialogue(f"d{i}", {"user": word, "reply": PRICE}) for i, word in enumerate(WORDS)]
    path = folder / "logs.jsonl"
    if not path.exists():
        logs(folder, rows)
    flags = ["--api_base", url, "--model", "m", "--api_cache", str(folder / "c.sqlite"),
             "--api_retries", "1", "--api_timeout", "5", "--intents", "buy,return",
             "--emotions", "calm,angry", "--check", "0"]
    for old in folder.glob("logs.labelled.*"):
        old.unlink()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = label.main([str(path), *flags])
    if status:
        line, = [x for x in err.getvalue().splitlines() if x.startswith("label.py: ")]
        return Played([], [], line)
    turns = [row["turns"][0] for row in rows_of(folder / "logs.labelled.jsonl")]
    values = [turn["skills"] and (turn["skills"], turn["intent"]) for turn in turns]
    named = [line for line in out.getvalue().splitlines() if "without an answer" in line]
    return Played(values, named)


def asking(folder: Path, url: str, ask: Callable[[Client], list[Any]]) -> Played:
    """A role that is a function of a client."""
    cfg = ApiConfig(url, api_cache=str(folder / "c.sqlite"), api_retries=1, api_timeout=5.0)
    client = Client("m", cfg)
    try:
        values = ask(client)
        lost = sum(client.stats[kind] for kind in ("bad_answers", "refused", "unanswered"))
        assert lost == len(client.losses()), client.report()
        return Played(values, client.losses())
    except DataError as error:
        return Played([], [], str(error))
    finally:
        client.close()


def judging(folder: Path, url: str) -> Played:
    items = [Judged(word, {}, (), "Sorry.", where=f"w, turn {word}") for word in WORDS]
    return asking(folder, url, lambda client: LLMJudge(client, POOL).score(items))


def speaking(folder: Path, url: str) -> Played:
    requests = [Request(word, ("sorry",), where=f"w, turn {word}") for word in WORDS]

    def ask(client: Client) -> list[Any]:
        groups = HostedAgent(client, SHOP).generate(requests)
        return [group[0].text or None for group in groups]

    return asking(folder, url, ask)


def planning(folder: Path, url: str) -> Played:
    talks = [Replay(Dialogue(word, (Turn(word),), source="w")) for word in WORDS]
    episodes = [Episode(i, talk, talk.reset()) for i, talk in enumerate(talks)]

    def ask(client: Client) -> list[Any]:
        chosen = HostedExpert(client, SHOP)([ExpertState(word) for word in WORDS], episodes)
        return [skills or None for skills in chosen]

    return asking(folder, url, ask)


ROLES = {"label": labelling, "judge": judging, "agent": speaking, "expert": planning}


# --- what must hold -----------------------------------------------------------------------------

def wrong_with(first: Played, again: Played, given: Random, resent: int) -> str | None:
    """What does not hold; None if all does."""
    if "\n" in first.ended:
        return f"more than one line: {first.ended}"
    if first.ended and not given.ends:
        return f"one prompt ended the run: {first.ended}"
    right = again.values
    if again.ended or len(right) != len(WORDS) or None in right:
        return f"the mended server does not help: {again}"
    if first.ended:
        return None
    others = [(a, b) for a, b, word in zip(first.values, right, WORDS) if word != "TRIGGER"]
    if any(a != b for a, b in others):
        return f"another prompt lost its value: {first.values}"
    own = first.values[WORDS.index("TRIGGER")]
    if (own is None) != (len(first.named) == 1):
        return f"named {first.named}, value {own}"
    if own is None and "d2" not in first.named[0] and "TRIGGER" not in first.named[0]:
        return f"not named: {first.named}"
    if own is not None and own != right[WORDS.index("TRIGGER")]:
        return f"a wrong value was taken: {own}"
    if resent != (own is None):
        return f"{resent} requests sent again"
    return None


def play(number: int, seed: int, name: str, server: WideServer) -> tuple[str, str | None]:
    """(what became of random answer `number` in this role, what does not hold)."""
    server.sick = True
    server.seed_of_answer = f"{seed} {number}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            first = ROLES[name](Path(folder), server.url)
            server.sick = False
            sent = len(server.log)
            again = ROLES[name](Path(folder), server.url)
        # Broad for a reason: a traceback of whatever kind is what is looked for.
        except Exception as error:
            return "traceback", f"{type(error).__name__}: {error}"
    became = "answered"
    if first.ended:
        became = "ended the run"
    elif None in first.values:
        became = "cost itself"
    wrong = wrong_with(first, again, server.given, len(server.log) - sent)
    return f"{server.given.kind}: {became}", wrong


def wide(count: int, seed: int, roles: Sequence[str] = tuple(ROLES)) -> tuple[Counter, list[str]]:
    """(how often what became of them, failures) of `count` random answers in each role."""
    counts: Counter = Counter()
    failures = []
    with WideServer() as server:
        for number in range(count):
            for name in roles:
                became, wrong = play(number, seed, name, server)
                counts[became] += 1
                if wrong:
                    given = server.given
                    failures.append(f"answer {number} of seed {seed}, {name}: {wrong}; it was "
                                    f"HTTP {given.status} {given.body[:200]!r}")
    return counts, failures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    client_module.pause = lambda *_: 0.0
    counts, failures = wide(args.count, args.seed)
    for became, number in sorted(counts.items()):
        print(f"{number:5d}  {became}")
    print("\n".join([*failures, f"{counts.total()} runs, {len(failures)} failures"]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
