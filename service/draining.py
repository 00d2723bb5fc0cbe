"""The end of a web process, or of all: without losing a request.

aiohttp alone closes idle connections without a warning, and drops what a client has sent by then: measured as
20 to 39 lost requests with 40 busy clients. So a process that is told to end goes on accepting for a moment,
says `Connection: close` in each answer, so that every client knows that the connection is over, and only then
closes what is idle. (A request that crosses the closing of an idle connection is lost in HTTP/1.1.) What becomes
of the listening socket is told in `listening`.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from redis.asyncio import ConnectionPool, RedisCluster

from service.accepting import Accepting
from service.listening import hear

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEEPALIVE_S = 75.0  # longer than the 60 s of common proxies, so that the proxy is the one that closes
LINGERING_S = 2.0  # a body that was refused is read so long, and dropped, so that the client gets to read why
STILL_ACCEPTING_S = 0.1  # in this time a draining process takes over what the kernel has accepted
LAST_REQUEST_S = 1.0  # in this time an open connection may send its last request


class DrainingRunner(web.AppRunner):
    """Runs an application and ends it without losing a request.

    `listener` is a descriptor for itself of the socket that its site will listen on. `Application.on_shutdown` fires as
    the drain begins, while requests still come: readiness ends there.
    """

    __slots__ = ("_accepting", "_listener", "_pool")

    def __init__(
        self,
        app: web.Application,
        pool: ConnectionPool | RedisCluster,
        *,
        grace_s: float,
        listener: socket.socket | None = None,
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGERING_S,
            shutdown_timeout=grace_s - STILL_ACCEPTING_S - 2 * LAST_REQUEST_S,
        )
        self._pool = pool
        self._listener = listener
        self._accepting: Accepting | None = None

    async def setup(self) -> None:
        """Make the server, and have it let newcomers in however busy it is."""
        await super().setup()
        if self._listener is not None and self.server is not None:
            self._accepting = Accepting(self._listener, self.server)

    async def shutdown(self) -> None:
        """Nothing: the application heard of its end at the beginning of the drain."""

    async def cleanup(self) -> None:
        """Drain, end what still runs when its time is over, then close the application."""
        if self.server is not None:
            await self.app.shutdown()
            last_answer = _last_answer(self.server.request_handler)
            self.server.request_handler = last_answer  # of connections to come
            _make_answers_the_last(self.server, last_answer)
            await asyncio.sleep(STILL_ACCEPTING_S)
            for site in self.sites:
                await site.stop()
            if self._accepting is not None:
                self._accepting.stop()
            # Again: a connection that was just being made had its handler already, and was not among the open ones.
            _make_answers_the_last(self.server, last_answer)
            deadline = time.monotonic() + LAST_REQUEST_S
            # aiohttp has no event for the end of the last connection.
            while self.server.connections and time.monotonic() < deadline:  # noqa: ASYNC110  as said
                await asyncio.sleep(0.01)
        await super().cleanup()
        await self._pool.aclose()


def _last_answer(handle: Handler) -> Handler:
    """A handler whose answers say `Connection: close`."""

    async def answer_last(request: web.BaseRequest) -> web.StreamResponse:
        try:
            answer = await handle(request)
        except web.HTTPException as error:
            error.force_close()
            raise
        answer.force_close()
        return answer

    return answer_last


def _make_answers_the_last(server: web.Server, last_answer: Handler) -> None:
    """From now on the next answer on each open connection is its last and says so, also one that is under way.

    A connection that was being made when the listening socket began to ignore attempts is told to hear.

    Else a client whose answer took long, say for a slow disk, would send its next request just when the connection
    closes. Done by changing handlers and requests, so that it costs nothing before.
    """
    for connection in server.connections:
        if connection.transport is not None:
            hear(connection.transport.get_extra_info("socket"))
        connection._request_handler = last_answer  # each has its own reference
        request = connection._current_request
        if request is not None:
            request._message = request._message._replace(should_close=True)
