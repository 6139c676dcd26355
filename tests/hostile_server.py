"""A chat-completions server on 127.0.0.1 that misbehaves on purpose.

The tests use it, and it lets you train against a bad server by hand.  A Python function answers
POST .../v1/chat/completions.  Before that, a request may fail in one of `WAYS`: as a script says,
or at a given rate.  Request n of seed s has the same fate in every run; which prompt is request n
depends on the client's threads.
Try it:  python -m tests.hostile_server --failure_rate .3 --seed 0 --answer echo
         prints its address and serves until Ctrl-C"""
from __future__ import annotations

import argparse
import hashlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WAYS = ("429", "500", "garbage", "slow", "half")
Answerer = Callable[[dict[str, Any]], "str | dict[str, Any]"]


class HostileServer:
    """with HostileServer(answer) as server: ... server.url ... server.log

    answer        request -> the completion's text, or a dict: a whole response body if it has
                  "choices", else an object to send as JSON text
    failure_rate  share of requests that fail, each in one of `ways` (equal shares)
    script        the fate of request 0, 1, ...: a way, None = answered, or (status, headers,
                  body); after its end, failure_rate decides
    drip          seconds between two bytes of a "slow" answer; as many bytes as the answer has
                  letters, so choose the client's time-out below that
    retry_after   the Retry-After of a 429
    log           a dict for each request, in order of arrival: number, path, headers, body, did
                  (a way, "ok", or the status of the script)
    """

    def __init__(self, answer: Answerer, failure_rate: float = 0.0, seed: int = 0,
                 ways: Sequence[str] = WAYS, script: Iterable[Any] | None = None,
                 drip: float = 0.5, retry_after: str = "0", port: int = 0):
        self.answer = answer
        self.failure_rate = failure_rate
        self.seed = seed
        self.ways = tuple(ways)
        self.script = list(script or ())
        self.drip = drip
        self.retry_after = retry_after
        self.log: list[dict[str, Any]] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hostile": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> HostileServer:
        how = {"poll_interval": 0.02}
        threading.Thread(target=self._server.serve_forever, kwargs=how, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        # ends the dripping
        self.closing.set()
        self._server.shutdown()
        self.close()

    def close(self) -> None:
        """Gives the port back; for a server that was never entered."""
        self._server.server_close()

    def note(self, path: str, headers: dict[str, str], body: Any) -> Any:
        """Enters a request into the log, and returns its fate."""
        with self._lock:
            number = len(self.log)
            fate = self.fate(number)
            did = fate[0] if isinstance(fate, tuple) else fate or "ok"
            entry = {"number": number, "path": path, "headers": headers, "body": body, "did": did}
            self.log.append(entry)
        return fate

    def fate(self, number: int) -> Any:
        if number < len(self.script):
            return self.script[number]
        rng = random.Random(f"{self.seed} {number}")
        return rng.choice(self.ways) if rng.random() < self.failure_rate else None

    def did(self) -> list[Any]:
        return [entry["did"] for entry in self.log]


class _Handler(BaseHTTPRequestHandler):
    hostile: HostileServer
    # connections are kept open, as real servers do
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fate = self.hostile.note(self.path, dict(self.headers), body)
        error = b'{"error": {"message": "on purpose"}}'
        if isinstance(fate, tuple):
            status, headers, content = fate
            self._reply(status, content, headers)
        elif fate == "429":
            self._reply(429, error, {"Retry-After": self.hostile.retry_after})
        elif fate == "500":
            self._reply(500, error)
        elif fate == "garbage":
            self._reply(200, b"\xff<html>{\"choices\": nonsense")
        else:
            self._answer(fate, self._completion(body))

    def _completion(self, body: dict[str, Any]) -> bytes:
        said = self.hostile.answer(body)
        if not (isinstance(said, dict) and "choices" in said):
            text = said if isinstance(said, str) else json.dumps(said)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            said = {"object": "chat.completion", "choices": [choice]}
        return json.dumps(said).encode()

    def _answer(self, fate: str | None, content: bytes) -> None:
        length = {"Content-Length": str(len(content))}
        if fate is None:
            self._reply(200, content)
        elif fate == "half":
            # closes the connection in the middle of what it announced
            self._reply(200, content[:len(content) // 2], length)
            self.close_connection = True
        elif fate == "slow":
            self._reply(200, b"", length)
            self._drip(content)
        elif fate == "slow head":
            # not even the status line comes through in time
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
            self._drip(head + content)

    def _reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(content))} | (headers or {})
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _drip(self, content: bytes) -> None:
        self.close_connection = True
        for i in range(len(content)):
            if self.hostile.closing.wait(self.hostile.drip):
                return
            self.wfile.write(content[i:i + 1])

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            # the client hung up, as it should on a slow answer
            self.close_connection = True

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def log_message(self, format, *args):
        pass


# --- answers, by name ---------------------------------------------------------------------------

def echo(request: dict[str, Any]) -> str:
    """The last message."""
    return request["messages"][-1]["content"]


def fixed(text: str, request: dict[str, Any]) -> str:
    """The same text to whatever is asked."""
    return text


def chosen(*forms: dict[str, Any]) -> Answerer:
    """Fills in the first form whose field names all stand in the request; else the first form.

    A field whose value is a list gets the entry that a hash of the request picks; any other value
    is sent as it stands.  {"quality": [1, 2, 3, 4, 5], "reason": "simulated"} makes a judge whose
    marks depend on the letters of the request, and on nothing else.
    """
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked = json.dumps(request["messages"])

        def fits(form: dict[str, Any]) -> bool:
            return all(field in asked for field in form)

        form = next(filter(fits, forms), forms[0])
        return {field: pick(field, values, asked) for field, values in form.items()}
    return answer


def pick(field: str, values: Any, asked: str) -> Any:
    """One of the values, by a hash of field and request; values that are no list as they are."""
    if not isinstance(values, list):
        return values
    digest = hashlib.sha256(f"{field} {asked}".encode()).digest()
    return values[int.from_bytes(digest[:4], "big") % len(values)]


def answerer(name: str) -> Answerer:
    """"echo", "fixed:TEXT", or a .json file with a form for `chosen`, or a list of forms."""
    if name == "echo":
        return echo
    if name.startswith("fixed:"):
        return partial(fixed, name.removeprefix("fixed:"))
    if not name.endswith(".json"):
        raise SystemExit(f"--answer {name}: write echo, fixed:TEXT, or a file FORM.json "
                         'such as {"quality": [1, 2, 3, 4, 5]}')
    forms = json.loads(Path(name).read_text("utf-8"))
    return chosen(*forms) if isinstance(forms, list) else chosen(forms)


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--failure_rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=(*WAYS, "slow head"))
    parser.add_argument(
        "--answer", default="echo",
        help="echo, fixed:TEXT, or FORM.json: for each field a list of values to choose from by a "
             "hash; a list of such forms: the first whose fields the request names")
    parser.add_argument("--drip", type=float, default=0.5,
                        help="seconds between two bytes of a slow answer")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = flags().parse_args(argv)
    with HostileServer(answerer(args.answer), args.failure_rate, args.seed, args.ways,
                       drip=args.drip, port=args.port) as server:
        print(server.url, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            failed = sum(did != "ok" for did in server.did())
            print(f"{len(server.log)} requests, {failed} of them failed on purpose",
                  file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
