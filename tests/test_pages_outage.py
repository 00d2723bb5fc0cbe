"""The pages while Redis is away or an answer was lost: what was written stays, and sent again it is done once."""

import functools
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from http_api import Api, opened
from http_pages import ASHA, errors, key, page, read, send, timings
from redis.asyncio import ConnectionPool

from service.pipeline import Pipeline
from tests.fault_proxy import FaultProxy


@asynccontextmanager
async def service(url: str) -> AsyncIterator[Api]:
    api = await opened(ConnectionPool.from_url(url))
    try:
        yield api
    finally:
        await api.client.close()


async def test_while_redis_is_away_the_form_keeps_what_was_written(server_url: str) -> None:
    async with service(server_url) as api:
        front = await page(api, "/")
        wish = {"timing": timings(front)[2], "key": key(front), **ASHA}
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        async with service(f"unix://{folder}/redis.sock") as api:
            assert "Nothing was done" in await page(api, "/", 503)
            answer = await send(api, "/theatres/main", wish)
            assert int(answer.headers["Retry-After"]) >= 1
            text = await read(answer, 503)
            assert errors(text) == [
                "The booking system does not answer at the moment. Nothing was done; try again in a moment."
            ]
            assert f'<input type="hidden" name="timing" value="{wish["timing"]}">' in text
            assert f'value="{ASHA["name"]}"' in text
            assert f'value="{ASHA["phone"]}"' in text
            assert key(text) == wish["key"]
            text = await read(await send(api, "/theatres/main", {**wish, "phone": "12"}), 503)
            assert len(errors(text)) == 2, "that and the number"
            path = "/tickets/main-0000000000000000"
            for refused in (
                await send(api, f"{path}/move", wish),
                await send(api, f"{path}/cancel", wish),
                await send(api, "/box-office/admission", {"ticket_id": "main-0000000000000000"}),
            ):
                assert "Nothing was done" in await read(refused, 503)
    async with service(server_url) as api:
        assert (await send(api, "/theatres/main", wish)).status == 303


async def test_a_booking_whose_answer_is_lost_is_sent_again_and_made_once(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(server_url) as api:
        front = await page(api, "/")
        wish = {"timing": timings(front)[2], "key": key(front), **ASHA}
    monkeypatch.setattr("service.app.Pipeline", functools.partial(Pipeline, deadline_s=0.3))
    async with FaultProxy(server_url, lost=range(1, 10_000)) as proxy, service(proxy.url) as api:
        text = await read(await send(api, "/theatres/main", wish), 503)
        [told] = errors(text)
        assert told.endswith("it may be done or not. Send it again: it will not be done twice.")
        assert key(text) == wish["key"]
    async with service(server_url) as api:
        assert (await send(api, "/theatres/main", wish)).status == 303
        assert (await api.seats(wish["timing"]))["booked"] == 1
