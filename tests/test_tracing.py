"""Which request it is: its id in every answer and every problem, and its place in a trace."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from http_api import ASHA, Api, opened
from multidict import CIMultiDict
from redis.asyncio import ConnectionPool

from service import connections
from service.routes import ROUTES
from service.tracing import Trace, identify

MADE = re.compile("[0-9a-f]{16}-[0-9]+")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
async def api(pool: ConnectionPool) -> AsyncIterator[Api]:
    api = await opened(pool)
    yield api
    await api.client.close()


def sent(**headers: str) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("name", ["7", "8e03978e-40d5-43dd-bc93-6894a57f9324", "a" * 128, "Zm9v+/8=", "1-5759e988:~_."])
def test_a_sane_request_id_is_taken_as_it_came(name: str) -> None:
    assert identify(sent(x_request_id=name)).request_id == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 129, "two words", "line\nbreak", "<script>", '"quoted"', "ü", "\udcff", "a,b", "9\t", "a;b", "{a}"],
)
def test_any_other_request_id_is_replaced(name: str) -> None:
    assert MADE.fullmatch(identify(sent(x_request_id=name)).request_id)


def test_two_request_ids_are_none() -> None:
    headers = CIMultiDict([("X-Request-ID", "one"), ("x-request-id", "two")])
    assert MADE.fullmatch(identify(headers).request_id)


def test_made_ids_are_not_made_twice() -> None:
    assert len({identify(sent()).request_id for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (TRACEPARENT, 1),
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"00-{TRACE}-{PARENT}-ff", 3),  # flags that are not defined are not passed on
        (f"cc-{TRACE}-{PARENT}-01-what-a-later-version-adds", 1),
        (f"cc-{TRACE}-{PARENT}-01", 1),
    ],
)
def test_a_valid_traceparent_is_continued(traceparent: str, flags: int) -> None:
    identity = identify(sent(traceparent=traceparent))
    trace = identity.trace
    assert trace is not None
    assert trace == Trace(TRACE, PARENT, trace.span_id, flags)
    assert re.fullmatch("[0-9a-f]{16}", trace.span_id)
    assert trace.span_id not in (PARENT, "0" * 16)
    assert dict(identity.headers)["traceparent"] == f"00-{TRACE}-{trace.span_id}-{flags:02x}"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01 ",
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0x",
        f"cc-{TRACE}-{PARENT}-01.more",
    ],
)
def test_an_invalid_traceparent_is_ignored(traceparent: str) -> None:
    assert identify(sent(traceparent=traceparent)).trace is None


def test_two_traceparents_are_none() -> None:
    assert identify(CIMultiDict([("traceparent", TRACEPARENT)] * 2)).trace is None


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_every_route_answers_with_the_id_and_the_trace_of_its_request(api: Api) -> None:
    """Whatever the answer: 200s, pages, redirects, files, the stream, and the problems of empty requests."""
    statuses = set()
    for route in ROUTES:
        path = route.path.format(theatre="main", showtime="2026-11-24T18:00", ticket_id="x", file="none.css")
        for method in (route.method, "HEAD") if route.method == "GET" else (route.method, "PROPFIND"):
            headers = {"X-Request-ID": f"{method}-{route.path.count('/')}", "traceparent": TRACEPARENT}
            async with api.client.request(method, path, headers=headers) as answer:
                assert answer.headers.getall("X-Request-ID") == [headers["X-Request-ID"]], (method, path)
                assert answer.headers.getall("traceparent")[0].startswith(f"00-{TRACE}-"), (method, path)
                statuses.add(answer.status)
                if answer.content_type == "application/problem+json" and method != "HEAD":
                    assert (await answer.json())["request_id"] == headers["X-Request-ID"]
    assert statuses >= {200, 404, 405, 415, 422}


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_answers_without_a_body_and_repeated_ones_have_an_id_of_their_own(api: Api) -> None:
    ticket = await api.book()
    assert MADE.fullmatch((await api.delete(f"/v1/tickets/{ticket['ticket_id']}")).headers["X-Request-ID"])
    showtimes = "/v1/theatres/main/showtimes"
    tag = (await api.get(showtimes)).headers["ETag"]
    unchanged = [await api.get(showtimes, headers={"If-None-Match": tag}) for _ in range(2)]
    assert [answer.status for answer in unchanged] == [304, 304]
    for _ in range(3):
        await api.book(timing=ticket["showtime"])
    sold_out = [await api.post("/v1/tickets", json={**ASHA, "timing": ticket["showtime"]}) for _ in range(2)]
    assert [answer.status for answer in sold_out] == [409, 409]
    ids = [answer.headers["X-Request-ID"] for answer in (*unchanged, *sold_out)]
    assert len(set(ids)) == 4
    assert [(await answer.json())["request_id"] for answer in sold_out] == ids[2:]


async def raw(api: Api, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes and read until the server closes: status, headers, body."""
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"BOOK a ticket\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nNo-Colon\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"GET /livez HTTP/1.0\r\nHost: localhost\r\nX-Request-ID: old\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nExpect: the-unexpected\r\nConnection: close\r\n\r\n", 417),
    ],
)
async def test_what_aiohttp_answers_by_itself_has_an_id_too(api: Api, request_bytes: bytes, status: int) -> None:
    found, headers, body = await raw(api, request_bytes)
    assert found == status
    assert MADE.fullmatch(headers["X-Request-ID"]) or headers["X-Request-ID"] == "old"
    if headers["Content-Type"] == "application/problem+json":
        assert json.loads(body)["request_id"] == headers["X-Request-ID"]


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_a_connection_that_there_is_no_room_for_has_an_id(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has asked yet, and yet it is a problem that somebody may ask the operator about."""
    entered, released = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> web.Response:
        entered.set()
        await released.wait()
        return web.Response()

    monkeypatch.setattr(connections, "connections_max", lambda: 1)
    monkeypatch.setattr("service.box_office.BoxOffice.showtimes", wait)
    api = await opened(pool)
    try:
        busy = asyncio.create_task(api.get("/v1/theatres/main/showtimes"))
        await asyncio.wait_for(entered.wait(), 20)
        status, headers, body = await raw(api, b"")
        assert status == 503
        assert json.loads(body)["request_id"] == headers["X-Request-ID"]
    finally:
        released.set()
        await asyncio.wait({busy})
        counts = await (await api.get("/metrics")).text()
        await api.client.close()
    assert 'matinee_shed_total{what="connection"} 1.0' in counts
