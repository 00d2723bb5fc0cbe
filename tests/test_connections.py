"""The connections of a process: slow heads, too many at once, what is no HTTP, clients that do not read."""

import asyncio
import gc
import inspect
import re
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.test_utils import TestServer
from aiohttp.web_protocol import RequestHandler

from service import connections, lean, problems
from service.connections import connections_max, tend_connections
from service.lean import Answer

REQUEST = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"x" * (16 << 20)  # more than the buffers of two sockets

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served(TestServer):
    """A server of paths: /here answers at once, /slow when all is over, /large with more than the buffers hold."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(app)
        self.slow_ones = asyncio.Semaphore(0)  # one for each request of /slow that has begun

    async def connect(self) -> Streams:
        return await asyncio.open_connection(self.host, self.port)

    async def used(self) -> Streams:
        """A connection that has had an answer."""
        reader, writer = await self.connect()
        assert await answered(reader, writer)
        return reader, writer


@asynccontextmanager
async def served(most: int | None = None) -> AsyncIterator[Served]:
    released = asyncio.Event()

    async def here(request: web.Request) -> Answer:
        return Answer(b"here")

    async def slow(request: web.Request) -> Answer:
        server.slow_ones.release()
        await released.wait()
        return Answer(b"slow")

    async def large(request: web.Request) -> Answer:
        return Answer(LARGE)

    app = web.Application()
    for handler in (here, slow, large):
        app.router.add_get(f"/{handler.__name__}", handler)
    tend_connections(app, malformed=problems.malformed, crowded=problems.crowded, failed=problems.failed, most=most)
    async with Served(app) as server:
        try:
            yield server
        finally:
            released.set()


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether a request on this connection is answered; not, where the server has closed it."""
    try:
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\nhere")
    except (asyncio.IncompleteReadError, OSError):
        return False
    return True


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What the server still said, once it has closed the connection."""
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:  # it closed while we were writing
        return b""


# Slow clients


@pytest.mark.parametrize("head", [b"", b"GET /here HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_first_head_that_does_not_come_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 0.2)
    async with served() as server:
        reader, writer = await server.connect()
        writer.write(head)
        assert await closed(reader) == b""


async def test_a_head_that_trickles_has_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 0.2)
    async with served() as server:
        reader, writer = await server.connect()
        ended = asyncio.create_task(closed(reader))
        writer.write(b"GET /here HTTP/1.1\r\nX-Slow: ")
        while not ended.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert await ended == b""


async def test_after_its_first_head_a_connection_may_idle_and_be_busy_as_long_as_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEAD_DEADLINE_S", 0.05)
    async with served() as server:
        idle = await server.used()
        busy_reader, busy_writer = await server.connect()
        busy_writer.write(REQUEST.replace(b"/here", b"/slow"))
        await asyncio.sleep(0.2)
        assert await answered(*idle)
        assert not busy_reader.at_eof()


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "READING_DEADLINE_S", 0.2)
    async with served() as server:
        reader, writer = await server.connect()
        writer.write(REQUEST.replace(b"/here", b"/large"))
        reader._transport.pause_reading()
        while server.runner.server.connections:  # noqa: ASYNC110  the server has no event for it
            await asyncio.sleep(0.01)
        reader._transport.resume_reading()
        with pytest.raises((EOFError, OSError)):
            await reader.readexactly(len(LARGE))


async def test_a_client_that_reads_slowly_enough_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as server:
        reader, writer = await server.connect()
        writer.write(REQUEST.replace(b"/here", b"/large") + REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(LARGE)) == LARGE
        await reader.readuntil(b"\r\n\r\nhere")


# Too many


async def test_when_there_are_too_many_those_go_that_have_idled_the_longest() -> None:
    async with served(most=8) as server:
        held = [await server.used() for _ in range(8)]
        assert await answered(*held[0]), "the first is no longer the one that idles the longest"
        newest = await server.used()
        assert [await answered(*each) for each in (*held, newest)] == [True, False] + [True] * 7


async def test_one_that_has_just_connected_is_not_the_first_to_go() -> None:
    async with served(most=8) as server:
        held = [await server.used() for _ in range(8)]
        fresh = await server.connect()
        newest = await server.used()
        assert [await answered(*each) for each in (fresh, newest, *held)] == [True, True, False, False] + [True] * 6


async def test_a_crowd_of_idle_connections_shuts_nobody_out() -> None:
    async with served(most=64) as server:
        for _ in range(500):
            await server.used()
        assert len(server.runner.server.connections) <= 64 + 1


async def test_a_burst_takes_the_place_of_a_few_only() -> None:
    async with served(most=256) as server:
        held = [await server.used() for _ in range(256)]
        await asyncio.gather(*(server.used() for _ in range(20)))
        assert sum([await answered(*each) for each in held]) >= 256 - 24


async def test_where_all_are_busy_a_newcomer_is_told_so() -> None:
    async with served(most=2) as server:
        busy = [await server.connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(REQUEST.replace(b"/here", b"/slow"))
            await server.slow_ones.acquire()
        reader, _ = await server.connect()
        said = await closed(reader)
        assert said.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert re.search(rb"\r\nRetry-After: [123]\r\n", said)
        assert b'"code":"unavailable"' in said
        assert not any(busy_reader.at_eof() for busy_reader, _ in busy)


def test_a_process_keeps_descriptors_for_itself() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < connections_max() <= soft - connections.SPARE_DESCRIPTORS


# What is no HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /here HTTP/1.1\r\nTicket-Phone: +91981\x002345678\r\n\r\n",
        b"GET /here HTTP/1.1\r\nTicket-Phone: " + b"9" * 9000 + b"\r\n\r\n",
        b"POST /here HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
async def test_what_is_no_http_gets_our_answer_and_no_word_in_the_log(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as server:
        reader, writer = await server.connect()
        writer.write(request_bytes)
        said = await closed(reader)
    assert said.split()[1] == b"400"
    assert b'"code":"malformed_request"' in said
    assert caplog.text == ""


async def test_what_is_no_http_leaves_nothing_in_memory(no_collections: None) -> None:
    async with served() as server:
        for _ in range(10):
            reader, writer = await server.connect()
            writer.write(b"GET /" + bytes([120]) * 100_000)
            await closed(reader)
            writer.close()
        reader, writer = await server.connect()
        writer.write(b"\x16\x03\x01" * 10_000)
        writer.transport.abort()
        while server.runner.server.connections:  # noqa: ASYNC110  the server has no event for it
            await asyncio.sleep(0.01)
    assert [each for each in gc.get_objects() if isinstance(each, HttpProcessingError)] == []


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Only what nobody refers to is freed, as in the minutes between two full collections."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# What we know of aiohttp's inside


def test_aiohttps_private_parts_are_as_we_know_them() -> None:
    assert {"_waiter", "_keepalive_handle", "_keepalive_timeout", "_next_keepalive_close_time", "_manager"} <= set(
        RequestHandler.__slots__
    )
    assert "self._connections[handler] = transport" in inspect.getsource(web.Server.connection_made)
    assert callable(RequestHandler._process_keepalive)
