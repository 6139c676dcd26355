"""One HTTP request to a server that cannot be trusted to answer: a deadline for the whole answer,
no redirects, no key in any message, and how long to wait before the next attempt.

A socket's own time-out starts anew with each byte, and a server that sends one byte a second can
hold a client for hours.  Here a timer cuts the connection when the time of an attempt is over.
It knows neither prompts nor completions."""
from __future__ import annotations

import contextlib
import email.utils
import random
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

LONGEST_PAUSE = 60.0  # s; a Retry-After above it is cut to it
CONNECT_TIMEOUT = 10.0  # s, unless --api_timeout is shorter
LARGEST_BODY = 1 << 25  # bytes; more is garbage
BLOCK = 1 << 16  # bytes read at a time


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes


class Passing(Exception):
    """A failure that may pass if the request is sent again.

    after  the server's Retry-After in seconds, if it gave one
    """

    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.after = after


class Transport:
    """Sends JSON to one address, from any number of threads."""

    def __init__(self, url: str, key: str, seconds: float):
        """seconds: for one whole answer, however slowly its bytes come."""
        self.url = url
        self.seconds = seconds
        # whether any request has got as far as a server
        self.connected = False
        self._key = key
        # a session for each thread: requests does not promise that threads can share one
        self._local = threading.local()
        self._lock = threading.Lock()
        self._under_way: set[Deadline] = set()

    def post(self, body: str) -> Response:
        """One attempt.  Raises Passing if no whole answer came."""
        deadline = Deadline(self.seconds)
        self._local.deadline = deadline
        with self._lock:
            self._under_way.add(deadline)
        try:
            return self._post(body)
        except (requests.RequestException, HTTPError) as error:
            # no such address, no connection, one that broke, or no HTTP
            if deadline.passed:
                raise Passing(f"no whole answer within {self.seconds:g} s") from None
            raise Passing(self.clean(_cause(error))) from None
        finally:
            self.connected |= deadline.socket is not None
            deadline.cancel()
            with self._lock:
                self._under_way.discard(deadline)

    def _post(self, body: str) -> Response:
        with self._session().post(
            self.url,
            data=body,
            headers={"Content-Type": "application/json"},
            auth=self._authorise,
            timeout=(min(CONNECT_TIMEOUT, self.seconds), self.seconds),
            allow_redirects=False,
            stream=True,
        ) as answer:
            content = b""
            for block in answer.iter_content(BLOCK):
                content += block
                if len(content) > LARGEST_BODY:
                    raise Passing(f"an answer of more than {LARGEST_BODY} bytes")
            return Response(answer.status_code, answer.headers, content)

    def hang_up(self) -> None:
        """Cuts all connections under way."""
        with self._lock:
            deadlines = tuple(self._under_way)
        for deadline in deadlines:
            deadline.hang_up()

    def clean(self, words: str) -> str:
        """The server's or the library's own words: one line, 200 letters, without the key."""
        if self._key:
            words = words.replace(self._key, "***")
        return " ".join(words.split())[:200]

    def _session(self) -> requests.Session:
        """This thread's session."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            for scheme in ("http://", "https://"):
                self._local.session.mount(scheme, _Adapter(self._local))
        return self._local.session

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Adds the key.  Without such a function requests would take a password from ~/.netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Deadline:
    """Hangs up when the time of one attempt is over, whatever still drips through the line."""

    def __init__(self, seconds: float):
        self.socket: socket.socket | None = None
        self.passed = False
        self.timer = threading.Timer(seconds, self.hang_up)
        self.timer.daemon = True
        self.timer.start()

    def attach(self, sock: socket.socket) -> None:
        """Names the socket to hang up; at once if the time was over while it connected."""
        # TLS within TLS wraps one socket in another
        self.socket = getattr(sock, "socket", sock)
        if self.passed:
            self.hang_up()

    def hang_up(self) -> None:
        self.passed = True
        if self.socket is None:
            return
        # OSError: it is closed already
        with contextlib.suppress(OSError):
            # Not TLS's own shutdown: it removes what the reading thread is working with.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def cancel(self) -> None:
        self.timer.cancel()


class _Adapter(HTTPAdapter):
    """Tells the thread's Deadline which socket its answer comes through."""

    def __init__(self, local: threading.local):
        super().__init__()
        self.local = local

    def get_connection_with_tls_context(self, *args, **kwargs):
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        local = self.local
        base = HTTPSConnection if pool.scheme == "https" else HTTPConnection

        class Connection(base):
            def getresponse(self):
                local.deadline.attach(self.sock)
                return super().getresponse()

        pool.ConnectionCls = Connection
        return pool


def _cause(error: Exception) -> str:
    """What is beneath urllib3's "Max retries exceeded": "Connection refused", the certificate..."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner))


# --- before the next attempt --------------------------------------------------------------------

def pause(attempt: int, after: float | None, rng: random.Random) -> float:
    """Seconds to wait after attempt 0, 1, ..., at most LONGEST_PAUSE.

    after  the server's Retry-After; a random second is added to it, for threads that were given
           the same number should not come back together
    Without it, full jitter: uniform on [0, 2^attempt].
    """
    if after is not None:
        return min(LONGEST_PAUSE, after + rng.uniform(0, 1))
    return rng.uniform(0, min(LONGEST_PAUSE, 2.0 ** attempt))


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date; None for anything else.

    >>> retry_after("7"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (7.0, None, 0.0)
    """
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", value):
        return float(value)
    date = email.utils.parsedate_tz(value)
    if date is None:
        return None
    try:
        return max(0.0, email.utils.mktime_tz(date) - time.time())
    except (ValueError, OverflowError):
        # such as the 99th of month 77
        return None
