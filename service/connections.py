"""The connections of a web process: how many there may be, how long a head may take, and what is no HTTP.

aiohttp holds as many connections as come, until the process has no descriptor left for the one to Redis, and gives the
first head as long as an idle connection. What is added here runs once per connection; of a request it sees only that
data came, for less than a tenth of a microsecond.
"""

import logging
import resource
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from service.lean import Answer, identity
from service.tracing import Identity, new_id

log = logging.getLogger(__name__)

Tell = Callable[[Identity], Answer]

# A client that has connected sends its first head within so long, however it trickles.
HEAD_DEADLINE_S = 10.0

# Idle ones take 9 KB each. Beyond so many, those that have idled the longest go.
CONNECTIONS_MAX = 8192
LEAVE_AT_ONCE = 1 / 64  # of them: a sweep looks at all, so it should not be needed for every newcomer

SPARE_DESCRIPTORS = 128  # for Redis, files, the listening socket, and connections that are being closed


def connections_max() -> int:
    """How many connections this process may hold."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(CONNECTIONS_MAX, soft - SPARE_DESCRIPTORS))


def tend_connections(
    app: web.Application, *, malformed: Tell, crowded: Tell, failed: Tell, most: int | None = None
) -> None:
    """Bound the connections to an application by `most`, by default what the process can hold.

    `malformed` makes the answer to what is no HTTP or has a head too long; `crowded` the one to a newcomer when all
    connections are busy; `failed` the one to a request that failed outside of its handler. No body is unpacked.
    """
    make_server = app._make_handler

    def make_own_server(**options: Any) -> web.Server:
        # A body with Content-Encoding is refused; unpacked, a damaged one would end the connection with a traceback.
        server = make_server(auto_decompress=False, **options)
        server.__class__ = _Server
        assert isinstance(server, _Server)  # noqa: S101  as it says a line above
        server.malformed, server.crowded, server.failed = malformed, crowded, failed
        server.most = most or connections_max()
        server.leaving = 0
        return server

    app._make_handler = make_own_server  # type: ignore[method-assign]  # asked for when the server starts


_receive = RequestHandler.data_received
_finish = RequestHandler.finish_response


class _Connection(RequestHandler):
    __slots__ = ("leaves",)

    def connection_made(self, transport: Any) -> None:
        self.leaves = False
        super().connection_made(transport)
        # aiohttp has set its timer for idle connections; the first head has less time.
        if self._keepalive_handle is not None and self._keepalive_timeout > HEAD_DEADLINE_S:
            self._keepalive_handle.cancel()
            self._next_keepalive_close_time = self._loop.time() + HEAD_DEADLINE_S
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def data_received(self, data: bytes) -> None:
        # What follows on what was no HTTP is not parsed: each piece would be another error.
        waiting = self._messages
        if not waiting or waiting[-1][0].__class__ is not _ErrInfo:
            _receive(self, data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_errors()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, or for the rest of a head."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def idle_since(self) -> float:
        """When it was last answered, or was made, on the clock of the event loop."""
        limit_s = self._keepalive_timeout if self._request_count else min(self._keepalive_timeout, HEAD_DEADLINE_S)
        return self._next_keepalive_close_time - limit_s

    def leave(self) -> None:
        """Close it; it is counted no more."""
        self.leaves = True
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  aiohttp's signature
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or what failed in aiohttp.

        aiohttp's own way logs a traceback each time, and with it what the client sent, perhaps a phone number; or the
        client's address.
        """
        assert isinstance(self._manager, _Server)  # noqa: S101  made by it
        called = identity(request)
        if status == HTTPStatus.BAD_REQUEST:
            self.close()  # what else comes is not looked at
            self._forget_errors(exc)
            refusal = self._manager.malformed(called)
        else:
            log.error("a request failed outside of its handler", exc_info=exc, extra=called.fields)
            if request.writer.output_size:
                raise ConnectionError("a part of the answer has left")
            refusal = self._manager.failed(called)
        refusal.force_close()
        return refusal

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Have every answer say which request it is for; ours do by themselves, aiohttp's own do not."""
        if resp.__class__ is not Answer:
            resp.headers.update(identity(request).headers)
        return _finish(self, request, resp, start_time)

    def _forget_errors(self, *errors: BaseException | None) -> None:
        """Let go of what was received of heads that are no HTTP.

        An error of the parser and the frame it went through hold each other, and with it all that was read at once:
        a megabyte for each such request, until Python's rare full collection.
        """
        waiting = [message.exc for message, _ in self._messages if isinstance(message, _ErrInfo)]
        for error in (*errors, *waiting):
            if error is not None:
                error.__traceback__ = None


class _Server(web.Server):
    malformed: Tell
    crowded: Tell
    failed: Tell
    most: int
    leaving: int

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: Any) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) - self.leaving > self.most and not self._make_room():
            assert isinstance(handler, _Connection)  # noqa: S101  made by `__call__`
            nobody = Identity(new_id())
            transport.write(self.crowded(nobody).closing(nobody))
            self.leaving += 1
            handler.leave()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        if isinstance(handler, _Connection) and handler.leaves:
            self.leaving -= 1
        super().connection_lost(handler, exc)

    def _make_room(self) -> bool:
        """Let those go that have idled the longest; whether there are any."""
        idle = [each for each in self._connections if isinstance(each, _Connection) and each.is_idle]
        idle.sort(key=lambda each: each.idle_since)
        going = idle[: max(1, int(self.most * LEAVE_AT_ONCE))]
        self.leaving += len(going)
        for each in going:
            each.leave()
        return bool(going)
