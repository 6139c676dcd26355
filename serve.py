"""Serves a trained pair: a page to chat with it, and OpenAI's Chat Completions for programs.

Both agents answer, under the hard constraints, as `load(run).respond` does; docs/serving.md says
what may be asked.  Nothing is kept between two requests.
Try it:  python serve.py --run runs/mgshop-gopo-0        then open http://127.0.0.1:8000
         beyond this machine, with a key:
         GOPO_SERVE_KEY=... python serve.py --run RUN --host 0.0.0.0"""
from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data import DataError, opt
from infra.flags import parse, parser_of, refuse_below, refuse_not_positive
from infra.terminal import command, flush, forgive

KEY = "GOPO_SERVE_KEY"
SHORTEST_KEY = 16


@dataclass(frozen=True)
class ServeConfig:
    """What is served, and to whom."""
    run: str | None = opt(None, "a run directory written by train.py")
    host: str = opt(
        "127.0.0.1", f"address to listen on; any but this machine's own needs {KEY}, a key that "
        "every request must show")
    port: int = opt(8000, "port to listen on; 0: any that is free")
    timeout: float = opt(60.0, "seconds after which a request that has no answer is given up")
    waiting: int = opt(128, "requests that may wait; any more are refused with status 503")
    at_once: int = opt(16, "waiting requests that are answered together")
    data_dir: str | None = opt(
        None, "where corpora lie (default: the one of the training run, or GOPO_DATA)")

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must lie in [0, 65535], got {self.port}")
        refuse_not_positive(self, "timeout")
        refuse_below(self, {"waiting": 1, "at_once": 1})


def refuse_missing_packages() -> None:
    """The web server is no part of training, so its packages may be missing."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"serving needs the package {error.name}: pip install fastapi uvicorn") from None


def key_for(host: str, key: str | None, alone: bool) -> str | None:
    """The key that clients must show; None: the server is for this machine, and needs none.

    alone   nobody but this machine reaches the host
    raises  DataError: without a key the server does not go beyond this machine
    """
    if key is None and alone:
        return None
    if key is None:
        raise DataError(
            f"--host {host} can be reached from other machines: set {KEY} to a key that every "
            f"request must show, or leave --host out; {command('-c', MAKES_A_KEY)} makes one")
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise DataError(
            f"{KEY} must be at least {SHORTEST_KEY} printable ASCII characters without blanks; "
            f"{command('-c', MAKES_A_KEY)} makes one")
    return key


MAKES_A_KEY = "import secrets; print(secrets.token_urlsafe())"


def serve(cfg: ServeConfig) -> None:
    """Loads the pair and answers until it is stopped."""
    refuse_missing_packages()
    # imported here: the packages may be missing
    from serving.app import Limits, make_app
    from serving.pair import load_pair
    from serving.server import Server, address_of, is_this_machine, listening
    key = key_for(cfg.host, os.environ.get(KEY), is_this_machine(cfg.host))
    with listening(cfg.host, cfg.port) as listener:
        pair = load_pair(Path(cfg.run), cfg.data_dir)
        app = make_app(pair, key, Limits(cfg.timeout, cfg.waiting, cfg.at_once))
        address = address_of(listener, cfg.host)
        asked_for = f"the value of {KEY}" if key else "none is asked for"
        print(f"{pair.dataset.note or pair.dataset.name}\n"
              f"chat:     open {address} in a browser\n"
              f"programs: base_url {address}/v1, model {pair.name}\n"
              f"key:      {asked_for}\n"
              "Ctrl-C stops.")
        flush()
        Server(app).serve_on(listener)


def main(argv: Sequence[str] | None = None) -> int:
    forgive()
    parser = parser_of([ServeConfig], __doc__.split("\n\n")[0])
    cfg, = parse(parser, argv)
    if not cfg.run:
        parser.error("name a run directory written by train.py, e.g. --run runs/mgshop-gopo-0")
    try:
        serve(cfg)
    except (DataError, OSError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
