"""Newcomers are let in however busy the event loop is: on uvloop, which accepts one in each of its turns."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest
import uvloop
from aiohttp import web
from redis.asyncio import ConnectionPool

from service import accepting, problems
from service.accepting import AT_ONCE, ONE_EACH_S
from service.connections import tend_connections
from service.draining import DrainingRunner

LONG_S = AT_ONCE * ONE_EACH_S  # a turn in which as many may come as ever
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Door:
    """A server, and clients that have knocked."""

    def __init__(self, runner: DrainingRunner, address: tuple[str, int], stack: ExitStack) -> None:
        assert runner.server is not None
        self.runner = runner
        self.server = runner.server
        self._address = address
        self._stack = stack

    def knock(self, count: int) -> list[socket.socket]:
        """Connect, without a turn of the event loop: the kernel does so by itself."""
        return [self._stack.enter_context(socket.create_connection(self._address)) for _ in range(count)]

    async def turns(self, count: int, lasting_s: float) -> int:
        """How many are let in after so many turns of the loop, each with so much other work."""
        for _ in range(count):
            time.sleep(lasting_s)  # noqa: ASYNC251  it is to keep the loop from its turn
            await asyncio.sleep(0)
        return len(self.server.connections)


@asynccontextmanager
async def open_door() -> AsyncIterator[Door]:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    tend_connections(app, malformed=problems.malformed, crowded=problems.crowded, failed=problems.failed)
    listener = socket.create_server(("127.0.0.1", 0))
    runner = DrainingRunner(app, ConnectionPool(), grace_s=5, listener=listener.dup())
    await runner.setup()
    await web.SockSite(runner, listener, backlog=4 * AT_ONCE).start()
    with ExitStack() as clients:
        yield Door(runner, listener.getsockname(), clients)
    await runner.cleanup()


def on_uvloop(test: Callable[[Door], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), open_door() as door:
            await test(door)

    uvloop.run(run())


def test_fifty_who_come_together_are_let_in_within_ten_turns_of_a_busy_loop() -> None:
    async def test(door: Door) -> None:
        door.knock(50)
        assert await door.turns(10, LONG_S) == 50

    on_uvloop(test)


def test_more_than_are_let_in_at_once_come_in_soon_after() -> None:
    async def test(door: Door) -> None:
        door.knock(3 * AT_ONCE)
        assert await door.turns(4, LONG_S) < 3 * AT_ONCE, "those who are here have their turn in between"
        assert await door.turns(30, LONG_S) == 3 * AT_ONCE

    on_uvloop(test)


def test_those_who_wait_are_left_to_others_where_turns_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one of several web processes would take them all. (When this fails, uvloop takes several in a turn.)"""
    monkeypatch.setattr(accepting, "ONE_EACH_S", 20.0)  # so that every turn is a short one

    async def test(door: Door) -> None:
        door.knock(50)
        assert await door.turns(10, 0) <= 10

    on_uvloop(test)


def test_everybody_is_served() -> None:
    async def test(door: Door) -> None:
        streams = [await asyncio.open_connection(sock=client) for client in door.knock(50)]
        for _, writer in streams:
            writer.write(REQUEST)
        for reader, writer in streams:
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
            writer.close()

    on_uvloop(test)


def test_who_left_before_being_let_in_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def test(door: Door) -> None:
        for leaving in door.knock(20)[::2]:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leaving.close()  # by a reset
        await door.turns(20, LONG_S)
        while len(door.server.connections) != 10:  # noqa: ASYNC110  it has no event for that
            await asyncio.sleep(0.01)

    on_uvloop(test)
    assert not caplog.records


def test_who_knocks_after_the_end_is_refused() -> None:
    async def test(door: Door) -> None:
        door.knock(5)
        assert await door.turns(10, LONG_S) == 5
        await door.runner.cleanup()
        with pytest.raises(ConnectionRefusedError):
            door.knock(1)

    on_uvloop(test)
