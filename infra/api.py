"""How an OpenAI-compatible server is reached: the flags that every command with a hosted model has.

What cannot be is refused here, by the name of its flag, before anything is sent."""
from __future__ import annotations

import json
import math
import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from data import DataError, opt

BUDGET = threading.Lock()  # guards ApiConfig.spent
LONGEST_WAIT = 86_400.0  # s of --api_timeout: a day
MOST_RETRIES = 1000
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
        if not 0 < self.api_timeout <= LONGEST_WAIT:
            raise DataError("--api_timeout must be a number of seconds above 0, at most "
                            f"{LONGEST_WAIT:.0f} (a day), got {self.api_timeout}")
        if not 0 <= self.api_retries <= MOST_RETRIES:
            raise DataError(
                f"--api_retries must lie in 0..{MOST_RETRIES}, got {self.api_retries}")
        if not 1 <= self.api_concurrency <= 256:
            raise DataError(f"--api_concurrency must lie in 1..256, got {self.api_concurrency}")
        if not self.api_cache:
            raise DataError("--api_cache is empty; name a file, e.g. api_cache.sqlite")
        if self.max_requests is not None and self.max_requests < 0:
            raise DataError(f"--max_requests must be 0 or more, got {self.max_requests}")
        read_extra(self.api_extra)
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


def read_extra(text: str) -> dict[str, Any]:
    try:
        extra = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        extra = None
    if not isinstance(extra, dict):
        raise DataError(f"--api_extra {text:.200}: write one JSON object, its numbers finite")
    if "messages" in extra:
        raise DataError("--api_extra: messages are written here; leave them out")
    if extra.get("stream"):
        raise DataError("--api_extra: a stream is not read here; leave out stream")
    return extra


def _finite(text: str) -> float:
    """A number of JSON; ValueError for NaN, Infinity and what is as large, such as 1e999."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def hosted_model(name: str, flag: str, otherwise: str) -> str:
    """MODEL of `api:MODEL`; a DataError that names the flag for anything else.

    >>> hosted_model("api:org/model", "--judge", "rules")
    'org/model'
    """
    kind, _, model = name.partition(":")
    if kind != "api" or not model.strip():
        raise DataError(
            f"{flag} {name}: write {otherwise}, or api:MODEL with the name that your --api_base "
            "server gives the model"
        )
    return model.strip()
