"""The lean way of a request, over real sockets: nobody can tell it from aiohttp's own."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import TestServer
from aiohttp.web_protocol import RequestHandler

from service.lean import Answer, open_lane, whole_body

BODY = b'{"seats":20}'
HEADERS = (("Cache-Control", "no-store"), ("Location", "/v1/tickets/main-1"))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler, *, lane: bool = True) -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_route("*", "/fixed", handler)
    app.router.add_route("*", "/by/{router}", handler)
    if lane:
        open_lane(app, {("GET", "/fixed"): handler, ("POST", "/fixed"): handler})
    async with TestServer(app) as server:
        yield server


async def exchange(server: TestServer, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Send bytes on a connection of their own; the status line, the headers and whatever follows until the end."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:-2])
    writer.write_eof()
    body = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return head[0], headers, body


async def lean(request: web.Request) -> Answer:
    return Answer(BODY, status=201, headers=HEADERS)


async def ordinary(request: web.Request) -> web.Response:
    headers = {"Server": "Matinee", "Content-Type": "application/json", **dict(HEADERS)}
    return web.Response(body=BODY, status=201, headers=headers)


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /fixed HTTP/1.1",
        "GET /by/router HTTP/1.1",
        "HEAD /fixed HTTP/1.1",
        "GET /fixed HTTP/1.0",
        "GET /fixed HTTP/1.1\r\nConnection: close",
        "GET /fixed HTTP/1.0\r\nConnection: keep-alive",
    ],
)
async def test_a_client_cannot_tell_a_lean_answer_from_aiohttps_own(request_line: str) -> None:
    request = f"{request_line}\r\nHost: x\r\n\r\n".encode()
    answers = []
    for handler in (lean, ordinary):
        async with served(handler) as server:
            status_line, headers, body = await exchange(server, request)
            headers.pop("Date")
            headers.pop("X-Request-ID", None)  # aiohttp alone has none
            answers.append((status_line, headers, body))
    assert answers[0] == answers[1]


async def test_a_lean_answer_is_one_write() -> None:
    written: list[bytes] = []

    async def handler(request: web.Request) -> Answer:
        assert request.transport is not None
        send = request.transport.write

        def note(data: bytes) -> None:
            written.append(bytes(data))
            send(data)

        request.transport.write = note  # type: ignore[method-assign]  # to see each write
        return Answer(BODY)

    async with served(handler) as server:
        await exchange(server, b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [data[-len(BODY) :] for data in written] == [BODY]


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_has_no_length_of_one(status: int) -> None:
    async def handler(request: web.Request) -> Answer:
        return Answer(status=status, headers=(("ETag", '"1"'),))

    async with served(handler) as server:
        status_line, headers, body = await exchange(server, b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_line.split()[1] == str(status)
    assert headers["ETag"] == '"1"'
    assert "Content-Type" not in headers
    assert body == b""


async def test_what_is_added_to_an_answer_later_arrives() -> None:
    async def handler(request: web.Request) -> Answer:
        answer = Answer(BODY, headers=HEADERS)
        answer.headers["X-Later"] = "yes"
        answer.set_cookie("flavour", "vanilla")
        return answer

    async with served(handler) as server:
        _, headers, body = await exchange(server, b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (headers["X-Later"], headers["Location"], body) == ("yes", "/v1/tickets/main-1", BODY)
    assert headers["Set-Cookie"].startswith("flavour=vanilla")


async def test_a_signal_before_answers_is_heard() -> None:
    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = "yes"

    app = web.Application()
    app.router.add_get("/by/{router}", lean)
    app.on_response_prepare.append(sign)
    async with TestServer(app) as server:
        _, headers, body = await exchange(server, b"GET /by/router HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (headers["X-Signed"], body) == ("yes", BODY)


async def test_an_answer_that_ends_its_connection_says_so_and_does() -> None:
    async def handler(request: web.Request) -> Answer:
        answer = Answer(BODY)
        answer.force_close()
        return answer

    async with served(handler) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Connection: close\r\n" in await asyncio.wait_for(reader.read(), 10)
        writer.close()


async def test_a_header_with_a_line_break_is_never_sent() -> None:
    async def handler(request: web.Request) -> Answer:
        return Answer(BODY, headers=(("Location", "/x\r\nSet-Cookie: stolen"),))

    async with served(handler) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_client_that_does_not_read_holds_up_its_own_next_answer_only() -> None:
    answered = 0

    async def handler(request: web.Request) -> Answer:
        nonlocal answered
        answered += 1
        return Answer(b"x" * 1_000_000)

    async with served(handler) as server:
        _, writer = await asyncio.open_connection(server.host, server.port, limit=1)
        writer.write(b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        status_line, _, body = await exchange(server, b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status_line.split()[1], len(body)) == ("200", 1_000_000)
        assert answered < 50
        writer.close()


async def test_a_client_that_left_before_its_answer_harms_nobody() -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> Answer:
        if "leave" in request.query:
            assert request.transport is not None
            request.transport.abort()
            left.set()
        return Answer(BODY)

    async with served(handler) as server:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET /fixed?leave HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(left.wait(), 10)
        _, _, body = await exchange(server, b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
        assert body == BODY
        writer.close()


# The lane


async def test_the_lane_takes_exact_paths_and_the_router_all_others() -> None:
    async def handler(request: web.Request) -> Answer:
        return Answer(b"lane" if request._match_info is None else b"router")

    async with served(handler) as server:
        for line, way in (
            ("GET /fixed", b"lane"),
            ("GET /fixed?a=b", b"router"),
            ("GET /%66ixed", b"router"),
            ("PUT /fixed", b"router"),
            ("GET /by/router", b"router"),
        ):
            _, _, body = await exchange(server, f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert body == way, line


async def test_a_client_that_waits_to_continue_is_told_to() -> None:
    async def handler(request: web.Request) -> Answer:
        return Answer(await request.read())

    async with served(handler) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"POST /fixed HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        writer.write(b"seat")
        await reader.readuntil(b"HTTP/1.1 200 OK\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(4) == b"seat"
        writer.close()


# The body


async def test_a_body_is_whole_or_not_yet_there() -> None:
    async def handler(request: web.Request) -> Answer:
        body = whole_body(request)
        return Answer(b"waiting for " + await request.read() if body is None else b"whole " + body)

    async with served(handler) as server:
        head = b"POST /fixed HTTP/1.1\r\nHost: x\r\n"
        _, _, body = await exchange(server, head + b"Content-Length: 4\r\n\r\nseat")
        assert body == b"whole seat"
        _, _, body = await exchange(server, head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nse\r\n2\r\nat\r\n0\r\n\r\n")
        assert body == b"whole seat"
        _, _, body = await exchange(server, head + b"\r\n")
        assert body == b"whole "

        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(head + b"Content-Length: 4\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)  # the head must travel alone for this case; together they would be whole
        writer.write(b"seat")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(16) == b"waiting for seat"
        writer.close()


async def test_requests_on_one_connection_keep_their_own_bodies() -> None:
    async def handler(request: web.Request) -> Answer:
        return Answer(whole_body(request) or b"?")

    async with served(handler) as server:
        requests = [b"POST /fixed HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % n for n in range(10)]
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"".join(requests))
        for n in range(10):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == b"%d" % n
        writer.close()


# What we know of aiohttp's inside, and what breaks if it changes


def test_aiohttps_private_parts_are_as_we_know_them() -> None:
    assert "_buffer" in StreamReader.__slots__
    assert inspect.iscoroutinefunction(RequestHandler._drain_helper)
    assert inspect.iscoroutinefunction(web.Application._handle)
    assert list(inspect.signature(web.Application._handle).parameters) == ["self", "request"]
    assert "self._handle" in inspect.getsource(web.Application._make_handler)
    assert {"_eof_sent", "_payload_writer", "_keep_alive", "_cookies", "_compression", "_chunked"} <= set(
        vars(web.StreamResponse)
    )
    source = inspect.getsource(web.Response.write_eof)
    assert source.index("if self._eof_sent:") < source.index("self._req")
