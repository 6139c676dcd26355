"""The app on a socket, by uvicorn: addresses, limits of connections, a clean end."""
from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from data import DataError

HEAD_SECONDS = 10.0                              # in which a connection must begin a request
MAX_HEAD = 32 * 1024                             # bytes of a request's headers
MAX_CONNECTIONS = 512


def is_this_machine(host: str) -> bool:
    """Whether nobody but this machine reaches the address.

    >>> is_this_machine("127.0.0.1"), is_this_machine("localhost"), is_this_machine("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; DataError that names the flag if there is none to be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise DataError(f"--host {host}: no address of this machine ({error.strerror})") from None
    try:
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise DataError(
            f"--port {port} of {host} cannot be had ({error.strerror}); stop what listens there, "
            "or take another --port (0: any that is free)") from None


def address_of(listener: socket.socket, host: str) -> str:
    """What is typed into a browser on this machine."""
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{listener.getsockname()[1]}"


class Impatient(H11Protocol):
    """Closes a connection that does not finish the head of a request in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._patience.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        """From the first byte: who drips bytes gets no more time."""
        if not getattr(self, "_patience", None) or self._patience.cancelled():
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """uvicorn with these limits; says nothing but what goes wrong."""

    def __init__(self, app: FastAPI):
        super().__init__(uvicorn.Config(
            app,
            http=Impatient,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        ))

    def serve_on(self, listener: socket.socket) -> Any:
        """Until Ctrl-C or SIGTERM, or until `should_exit` is set."""
        return self.run(sockets=[listener])
