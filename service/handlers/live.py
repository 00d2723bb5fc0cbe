"""Seats that tell of themselves: the stream of a theatre's showtimes."""

import datetime
import socket

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from service import edge, fields
from service.handlers.desk import Desk
from service.lean import SERVER
from service.live import Listener, Live
from service.model import Theatre
from service.problems import HttpError

# A client that is gone without a word (no network, no power) keeps its place no longer than this.
UNACKNOWLEDGED_MS = 60_000

COME_AGAIN_S = 10

_HEADERS = (
    SERVER,
    (hdrs.CONTENT_TYPE, "text/event-stream"),
    (hdrs.CACHE_CONTROL, "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),  # nginx would collect the events
)


async def stream(desk: Desk, request: web.Request) -> web.StreamResponse:
    """The seats of the coming showtimes as they change: server-sent events."""
    theatre = desk.theatre(request)
    date: datetime.date | None = edge.query(request, {"date": fields.date}).get("date")
    if not desk.store.ready:
        await desk.box_office.coming_showtimes(theatre)  # which raises Unavailable where Redis is away
    if desk.live.is_full:
        desk.metrics.shed["listener"] += 1
        headers = {"Retry-After": str(COME_AGAIN_S)}
        raise HttpError("too_many_listeners", "As many clients listen as this process takes.", headers)
    if request.method == hdrs.METH_HEAD:
        return web.StreamResponse(headers=_HEADERS)
    day = None if date is None else date.isoformat()
    return EventStream(desk.live, theatre, day, request.headers.get("Last-Event-ID"))


class EventStream(web.StreamResponse):
    """An answer that goes on until the client or the process goes.

    aiohttp asks an answer to write its end as soon as the handler has returned it; here that waits for the end of the
    stream. So the time that is counted for the request ends with its head.
    """

    def __init__(self, live: Live, theatre: Theatre, date: str | None, known: str | None) -> None:
        super().__init__(headers=_HEADERS)
        self.force_close()  # so that a process that drains need not wait for the connection's next request
        self._live = live
        self._theatre = theatre
        self._date = date
        self._known = known

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the head."""
        writer = await super().prepare(request)
        transport = request.transport
        assert transport is not None  # noqa: S101  the head was written to it
        _give_up_on_silence(transport.get_extra_info("socket"))
        chunked = request.version >= HttpVersion11
        self._listener = Listener(transport, chunked=chunked, date=self._date, known=self._known)
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Stream, then write the end."""
        await self._live.follow(self._theatre, self._listener)
        await super().write_eof(data)


def _give_up_on_silence(connection: socket.socket | None) -> None:
    """Have the kernel end a connection whose other side acknowledges nothing (Linux; elsewhere after its own time)."""
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
