"""The routes of the server, on FastAPI: who may ask, how much, and what is answered.

    GET  /                     the chat page
    GET  /health               {"status": "ok"}
    GET  /v1/models            the one pair
    POST /v1/chat/completions  its next reply
    POST /v1/customers         a simulated customer's next message (customers.py)

Without a key the server is for this machine alone.  Then a request must come for this machine's
name, and its body must be declared as JSON: no page of another site can send either."""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import secrets
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from serving.customers import look
from serving.line import Line
from serving.pair import Pair
from serving.wire import (
    Answered,
    Chat,
    Letterhead,
    Refused,
    chunks,
    completion,
    error_of,
    parsed,
    read_chat,
)

MAX_BODY = 256 * 1024                            # bytes
BODY_SECONDS = 10.0                              # in which a body must have come
PAGE = Path(__file__).with_name("page.html")
THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
log = logging.getLogger("uvicorn.error")

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Limits:
    seconds: float = 60.0                        # from a request to its answer
    waiting: int = 128                           # requests that wait
    at_once: int = 16                            # requests that are answered together


class Service:
    """What the routes do for one pair."""

    def __init__(self, pair: Pair, key: str | None, limits: Limits):
        self.pair = pair
        self.key = key
        self.limits = limits
        self.started = int(time.time())
        self.line = Line(pair.answer, limits.waiting, limits.at_once)

    # --- the routes -----------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        text, lock = locked_page()
        return HTMLResponse(text, headers={
            "Content-Security-Policy": lock,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        })

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        self._admit(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._admit(request)
        asked = request.path_params["model"]
        if asked != self.pair.name:
            raise Refused(404, f"model {asked[:80]!r} is not here; see /v1/models")
        return JSONResponse(self._model())

    async def chat(self, request: Request) -> Response:
        value = await self._value(request)
        chat = read_chat(value, self.pair.name, self.pair.dataset.skills)
        try:
            answered = await self.line.ask(chat, self.limits.seconds)
        except ValueError as error:              # a DataError: the prompt is too long
            raise Refused(400, str(error)) from None
        return self._letter(chat, answered)

    async def customers(self, request: Request) -> Response:
        value = await self._value(request)
        gamma = self.pair.gopo.cfg.tse_gamma
        seen = await asyncio.to_thread(look, value, self.pair.dataset, gamma)
        return JSONResponse(seen)

    # --- who may ask ----------------------------------------------------------------------------

    def _admit(self, request: Request) -> None:
        """Refuses who does not have the key; without one, who does not ask this machine."""
        if self.key is None:
            host = request.headers.get("host", "")
            if not THIS_MACHINE.fullmatch(host):
                raise Refused(403, "without GOPO_SERVE_KEY only http://127.0.0.1 is answered")
            return
        given = request.headers.get("authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
            raise Refused(
                401, "the key is missing or wrong; send the header 'Authorization: Bearer KEY'")

    async def _value(self, request: Request) -> dict[str, Any]:
        """The body as a JSON object, of somebody who may ask."""
        self._admit(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "send the header 'Content-Type: application/json'")
        return parsed(await body_of(request))

    # --- what is answered -----------------------------------------------------------------------

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.pair.name,
            "object": "model",
            "created": self.started,
            "owned_by": "gopo",
            "gopo": self.pair.about(),
        }

    def _letter(self, chat: Chat, answered: Answered) -> Response:
        letter = Letterhead(
            f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self.pair.name)
        if not chat.stream:
            return JSONResponse(completion(answered, letter))
        events = [f"data: {json.dumps(c)}\n\n" for c in chunks(answered, letter, chat.usage)]
        return StreamingResponse(
            iter([*events, "data: [DONE]\n\n"]), media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


async def body_of(request: Request) -> bytes:
    """The body of a request, if it comes in time and is not too long."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:12]) > MAX_BODY:
        raise Refused(413, f"the body is longer than {MAX_BODY} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise Refused(413, f"the body is longer than {MAX_BODY} bytes")
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "the body was not sent to its end") from None
    return bytes(body)


def locked_page() -> tuple[str, str]:
    """The page, and the policy that lets it run its own script, ask this server, and no more."""
    text = PAGE.read_text(encoding="utf-8")
    hashes = {}
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        hashes[tag] = f"'sha256-{digest}'"
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, policy


# --- errors, and the app ------------------------------------------------------------------------

async def said_no(request: Request, error: Exception) -> Response:
    """An error as one line of JSON."""
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    elif not isinstance(error, Refused):
        log.error("an answer failed", exc_info=error)
        error = Refused(500, f"the pair failed ({type(error).__name__}); the server's log says why")
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = "1"
    if error.status in (408, 413):
        # what is left of the body is not read
        headers["Connection"] = "close"
    return JSONResponse(error_of(error), error.status, headers)


def guarded(handler: Handler) -> Handler:
    """The handler, whose errors become answers here, and not in the server's own words."""
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        # Broad for a reason: a client is told in one line, and the log has the rest.
        except Exception as error:
            return await said_no(request, error)
    return answer


def make_app(pair: Pair, key: str | None = None, limits: Limits | None = None) -> FastAPI:
    """The server's app; `key` is what clients must show, None: nothing."""
    service = Service(pair, key, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(service.line.work())
        yield
        worker.cancel()

    # no pages of FastAPI's own: they load scripts from elsewhere
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    routes: Mapping[str, tuple[str, Handler]] = {
        "/": ("GET", service.page),
        "/health": ("GET", service.health),
        "/v1/models": ("GET", service.models),
        "/v1/models/{model:path}": ("GET", service.model),
        "/v1/chat/completions": ("POST", service.chat),
        "/v1/customers": ("POST", service.customers),
    }
    for path, (method, handler) in routes.items():
        app.add_route(path, guarded(handler), methods=[method])
    app.add_exception_handler(HTTPException, said_no)
    return app
