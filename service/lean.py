"""The lean way of a request: straight to its handler, a body that is all there, an answer that leaves as one piece.

aiohttp's router, `await request.read()` and `web.Response` with its headers are the larger part of what it costs a
booking (docs/performance.md). This file, `connections` and `draining` alone use aiohttp's private parts;
`tests/test_lean.py`, `tests/test_connections.py` and `tests/test_serve.py` fail when an upgrade changes them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_protocol import RequestHandler

from service.tracing import NAMED, REQUEST_ID, TRACEPARENT, Identity, identify, new_id

CRLF = "\r\n"

# A client takes an answer that is too large for the buffers within so long, however slowly it reads.
READING_DEADLINE_S = 30.0
JSON = "application/json"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Headers = tuple[tuple[str, str], ...]

_IDENTITY = "identity"  # where a request keeps it

# Without it aiohttp tells everybody its own version and Python's.
SERVER = (hdrs.SERVER, "Matinee")

# Answers without a body, whose heads tell neither its type nor its length.
_EMPTY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def open_lane(app: web.Application, handlers: Mapping[tuple[str, str], Handler]) -> None:
    """Lead requests of fixed paths straight to their handlers: by method and path, exactly as they are written.

    All others, and those that wait for `100 Continue`, go through aiohttp's router, which must know these handlers too.
    In the lane a request has no `match_info`.
    """
    by_router = app._handle

    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        handler = handlers.get((request._method, request._message.path))
        if handler is None or hdrs.EXPECT in request.headers:
            return by_router(request)
        return handler(request)

    # A method is replaced, which types have no word for. The server asks the application for it when it starts.
    app._handle = handle  # type: ignore[method-assign, assignment]  # types have no word for it


def identity(request: web.BaseRequest) -> Identity:
    """What the request is called; found out once."""
    known = request._state
    found: Identity | None = known.get(_IDENTITY)
    if found is None:
        found = known[_IDENTITY] = identify(request.headers)
    return found


def whole_body(request: web.BaseRequest) -> bytes | None:
    """The body, if all of it came with the head, as nearly all do; else None, and it must be waited for.

    It is looked at, not taken: aiohttp's own way of taking it runs the parser once more, on nothing.
    """
    content = request.content
    if not content.is_eof():
        return None
    return b"" if content is EMPTY_PAYLOAD else b"".join(content._buffer)


class Answer(web.Response):
    """A status, a body and a few headers.

    It is written the quick way where nothing stands against it. For whatever else aiohttp or a handler asks of it
    (HEAD, HTTP/1.0, a cookie, a header added later) it first becomes an ordinary `web.Response`.
    """

    __http_exception__ = False  # aiohttp asks for it; without it here that would go through `__getattr__`

    def __init__(self, body: bytes = b"", *, status: int = 200, media_type: str = JSON, headers: Headers = ()) -> None:
        self._status = status
        self._body = self._whole = body
        self._media_type = media_type
        self._given = headers

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there: the attributes that only an ordinary response has."""
        if "_headers" in self.__dict__ or name.startswith("__"):
            raise AttributeError(name)
        typed = () if self._status in _EMPTY else ((hdrs.CONTENT_TYPE, self._media_type),)
        headers = (SERVER, *typed, *self._given)
        super().__init__(status=self._status, body=self._whole or None, headers=headers)
        return getattr(self, name)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the whole answer; aiohttp calls `write_eof` next, which finds nothing left to do."""
        protocol = request.protocol
        transport = protocol.transport
        if transport is None or transport.is_closing() or not self._is_quick(request):
            self.headers.update(identity(request).headers)
            return await super().prepare(request)
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        head = (
            f"{_opening(self._status, self._media_type)}{_name(request)}{_lines(self._given)}"
            f"{'' if self._keep_alive else 'Connection: close' + CRLF}"
            f"{'' if self._status in _EMPTY else f'Content-Length: {len(self._whole)}{CRLF}'}"
            f"Date: {rfc822_formatted_time()}{CRLF}{CRLF}"
        )
        transport.write(head.encode() + self._whole)
        self._payload_writer = request._payload_writer
        self._eof_sent = True
        if protocol.writing_paused:  # a client that sends and does not read must not fill our memory
            await _read_by_client(protocol)
        return self._payload_writer

    def closing(self, identity: Identity) -> bytes:
        """The whole answer for a connection that ends with it, to be written without a request."""
        return (
            f"{_opening(self._status, self._media_type)}{identity.head}{_lines(self._given)}Connection: close{CRLF}"
            f"Content-Length: {len(self._whole)}{CRLF}{CRLF}"
        ).encode() + self._whole

    def _is_quick(self, request: web.BaseRequest) -> bool:
        if "_headers" in self.__dict__ or self._cookies is not None or self._compression or self._chunked:
            return False
        if request._method == hdrs.METH_HEAD or request._version != HttpVersion11:
            return False
        match = getattr(request, "_match_info", None)  # none in the lane, nor where aiohttp refuses a request
        return match is None or not any(app.on_response_prepare for app in match._apps)


def _name(request: web.BaseRequest) -> str:
    """The lines of the head that say which request it is. Most came without a name, and nobody asked for one before."""
    sent = request.headers
    if _IDENTITY in request._state or REQUEST_ID in sent or TRACEPARENT in sent:
        return identity(request).head
    return f"{NAMED}{new_id()}{CRLF}"


async def _read_by_client(protocol: RequestHandler) -> None:
    """Wait until most of what was written has left; a client that reads too slowly is cut off."""
    try:
        async with asyncio.timeout(READING_DEADLINE_S):
            await protocol._drain_helper()
    except TimeoutError:
        if protocol.transport is not None:
            protocol.transport.abort()


@lru_cache(maxsize=256)
def _opening(status: int, media_type: str) -> str:
    typed = () if status in _EMPTY else ((hdrs.CONTENT_TYPE, media_type),)
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}{CRLF}" + _lines((SERVER, *typed))


def _lines(headers: Headers) -> str:
    lines = ""
    for name, value in headers:
        if not value.isprintable():  # a line break in it would begin another header
            raise ValueError(f"the header {name} must be printable")
        lines += f"{name}: {value}{CRLF}"
    return lines
