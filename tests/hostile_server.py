"""A chat-completions server on 127.0.0.1 that misbehaves on purpose: the tests' own, and a way to train against a bad server by hand.

It answers POST .../v1/chat/completions by a Python function; before that, by a script or at a seeded rate, it fails in one of `WAYS`.
Request n of seed s fails in the same way in every run (which prompt request n carries is up to the client's threads).
Try it:  python hostile_server.py --port 0 --failure_rate .3 --seed 0 --answer echo     prints its address and serves until Ctrl-C"""
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WAYS = ("429", "500", "garbage", "slow", "half")
Answerer = Callable[[dict[str, Any]], "str | dict[str, Any]"]


class HostileServer:
    """with HostileServer(answer) as server: ... server.url ... server.log

    answer        request -> the completion's text; or a dict: a whole response body if it has "choices", else an object to send as JSON text
    failure_rate  share of requests that fail, each in one of `ways` (equal shares)
    script        what befalls request 0, 1, ..: a way, None = answered, or (status, headers, body); after its end, failure_rate
    drip          seconds between two bytes of a "slow" answer: their number is the answer's length, so choose the client's time-out below
    retry_after   what a 429 asks for
    log           a dict a request, in order of arrival: number, path, headers, body, did (a way, "ok" or the status of the script)"""

    def __init__(self, answer: Answerer, failure_rate: float = 0.0, seed: int = 0, ways: Sequence[str] = WAYS,
                 script: Iterable[Any] | None = None, drip: float = 0.5, retry_after: str = "0", port: int = 0):
        self.answer, self.failure_rate, self.seed, self.ways, self.script = answer, failure_rate, seed, tuple(ways), list(script or ())
        self.drip, self.retry_after = drip, retry_after
        self.log: list[dict[str, Any]] = []
        self.closing, self._lock = threading.Event(), threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hostile": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> HostileServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()                       # ends the dripping
        self._server.shutdown()
        self._server.server_close()

    def note(self, path: str, headers: dict[str, str], body: Any) -> Any:
        """Enters a request into the log; returns what shall befall it."""
        with self._lock:
            number = len(self.log)
            fate = self.fate(number)
            self.log.append({"number": number, "path": path, "headers": headers, "body": body, "did": fate[0] if isinstance(fate, tuple) else fate or "ok"})
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
    protocol_version = "HTTP/1.1"                # connections are kept, as real servers do

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fate = self.hostile.note(self.path, dict(self.headers), body)
        if isinstance(fate, tuple):
            self._reply(fate[0], fate[2], fate[1])
        elif fate in ("429", "500"):
            self._reply(int(fate), b'{"error": {"message": "on purpose"}}', {"Retry-After": self.hostile.retry_after} if fate == "429" else {})
        elif fate == "garbage":
            self._reply(200, b"\xff<html>{\"choices\": nonsense")
        else:
            self._answer(fate, self._completion(body))

    def _completion(self, body: dict[str, Any]) -> bytes:
        said = self.hostile.answer(body)
        if not (isinstance(said, dict) and "choices" in said):
            text = said if isinstance(said, str) else json.dumps(said)
            said = {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
        return json.dumps(said).encode()

    def _answer(self, fate: str | None, content: bytes) -> None:
        if fate is None:
            self._reply(200, content)
        elif fate == "half":                     # closes the connection in the middle of what it announced
            self._reply(200, content[:len(content) // 2], {"Content-Length": str(len(content))})
            self.close_connection = True
        elif fate == "slow":
            self._reply(200, b"", {"Content-Length": str(len(content))})
            self._drip(content)
        elif fate == "slow head":                # not even the status line comes through in time
            self._drip(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    def _reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
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
        except ConnectionError:                  # the client hung up, as it should on a slow answer
            self.close_connection = True

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def log_message(self, format, *args):
        pass


# ---------------------------------------------------------------- answers, by name

def echo(request: dict[str, Any]) -> str:
    """The last message."""
    return request["messages"][-1]["content"]


def chosen(*forms: dict[str, Any]) -> Answerer:
    """The first form whose field names all stand in the request, filled in: of a list, the entry that a hash of the request picks; else as it stands.

    {"quality": [1, 2, 3, 4, 5], "reason": "simulated"} makes a judge that is no judge: its marks depend on the request's letters, and on nothing else."""
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked = json.dumps(request["messages"])

        def pick(field: str, values: Any) -> Any:
            if not isinstance(values, list):
                return values
            return values[int.from_bytes(hashlib.sha256(f"{field} {asked}".encode()).digest()[:4], "big") % len(values)]
        form = next((form for form in forms if all(field in asked for field in form)), forms[0])
        return {field: pick(field, values) for field, values in form.items()}
    return answer


def answerer(name: str) -> Answerer:
    """"echo", "fixed:TEXT", or a .json file with a form for `chosen`, or a list of them."""
    if name == "echo":
        return echo
    if name.startswith("fixed:"):
        return lambda request: name.removeprefix("fixed:")
    if not name.endswith(".json"):
        raise SystemExit(f"--answer {name}: write echo, fixed:TEXT, or a file FORM.json such as {{\"quality\": [1, 2, 3, 4, 5]}}")
    forms = json.loads(Path(name).read_text("utf-8"))
    return chosen(*forms) if isinstance(forms, list) else chosen(forms)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--failure_rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=(*WAYS, "slow head"))
    parser.add_argument("--answer", default="echo", help="echo, fixed:TEXT, or FORM.json: for each field a list of values to choose from by a hash; "
                                                            "a list of such forms: the first whose fields the request names")
    parser.add_argument("--drip", type=float, default=0.5, help="seconds between two bytes of a slow answer")
    args = parser.parse_args(argv)
    with HostileServer(answerer(args.answer), args.failure_rate, args.seed, args.ways, drip=args.drip, port=args.port) as server:
        print(server.url, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print(f"{len(server.log)} requests, {sum(d != 'ok' for d in server.did())} of them failed on purpose", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
