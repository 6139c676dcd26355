"""Load on serve.py: many clients at once, each playing simulated customers turn by turn.

    python -m tests.load --run RUN                     64 clients, 1,000 requests
    python -m tests.load --url http://127.0.0.1:8000   a server that runs already

Prints how many requests were lost (any answer but a reply), the time that an answer takes, and the
server's peak memory.  Every client sends its next request when the last is answered."""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests

from shop.mgshop import Shop
from tests.serving import session


@dataclass
class Report:
    seconds: list[float] = field(default_factory=list)       # of each request that was answered
    lost: list[str] = field(default_factory=list)            # what became of the others
    wall: float = 0.0

    def __str__(self) -> str:
        times = sorted(self.seconds) or [0.0]
        parts = [f"{share:.0%} {quantile(times, share):.2f} s" for share in (0.5, 0.95, 0.99)]
        rate = len(self.seconds) / max(self.wall, 1e-9)
        return (
            f"{len(self.seconds)} answered, {len(self.lost)} lost; answered within: "
            f"{', '.join(parts)}; longest {times[-1]:.2f} s; {rate:.1f} answers a second")


def quantile(ordered: list[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


class Load:
    """clients   threads that each wait for one answer at a time
    requests  of all clients together
    """

    def __init__(self, url: str, clients: int, requests: int, shop: str = "mgshop"):
        self.url = url
        self.clients = clients
        self.left = requests
        self.shop = shop
        self.report = Report()
        self.lock = threading.Lock()

    def run(self) -> Report:
        threads = [threading.Thread(target=self._play, args=(i,)) for i in range(self.clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.report.wall = time.perf_counter() - began
        return self.report

    def _another(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def _play(self, client: int) -> None:
        with session() as http:
            customer = client
            while True:
                for asked in self._dialogue(customer, http):
                    if not asked:
                        return
                customer += self.clients

    def _dialogue(self, number: int, http: requests.Session) -> Iterator[bool]:
        """One customer's talk; False once there are no more requests to send."""
        customer = Shop(0, "test", number, name=self.shop)
        seen = customer.reset()
        messages: list[dict] = []
        while not (seen.terminated or seen.truncated):
            if not self._another():
                yield False
                return
            messages.append({"role": "user", "content": seen.user})
            reply = self._ask(http, messages)
            if reply is None:
                return
            messages.append(reply)
            seen = customer.step(reply["content"])
            yield True

    def _ask(self, http: requests.Session, messages: list[dict]) -> dict | None:
        """The reply, or None if it was lost."""
        began = time.perf_counter()
        try:
            answer = http.post(
                f"{self.url}/v1/chat/completions", json={"messages": messages}, timeout=300)
            reply = answer.json()["choices"][0]["message"]
        except (requests.RequestException, ValueError, KeyError) as error:
            with self.lock:
                self.report.lost.append(repr(error)[:200])
            return None
        with self.lock:
            self.report.seconds.append(time.perf_counter() - began)
        return reply


# --- the long form ------------------------------------------------------------------------------

def started(run: str) -> tuple[subprocess.Popen, str]:
    """serve.py as a process of its own, and its address."""
    command = [sys.executable, "serve.py", "--run", run, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("chat:"):
            return process, line.split()[2]
    raise SystemExit("serve.py did not start")


def peak(pid: int) -> str:
    """The most memory that a process ever held, where the system tells (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "not known on this system"
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return f"{kib / 2**20:.2f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run directory, for which serve.py is started")
    parser.add_argument("--url", help="the address of a server that runs already")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--shop", default="mgshop", help="whose customers talk")
    args = parser.parse_args()
    if bool(args.run) == bool(args.url):
        parser.error("name --run or --url")
    process, url = (None, args.url) if args.url else started(args.run)
    try:
        print(Load(url, args.clients, args.requests, args.shop).run())
        if process:
            print("peak memory of the server:", peak(process.pid))
    finally:
        if process:
            process.terminate()
            process.wait()
            spent = os.times()
            print("processor time of the server, with its start: "
                  f"{spent.children_user + spent.children_system:.0f} s")


if __name__ == "__main__":
    main()
