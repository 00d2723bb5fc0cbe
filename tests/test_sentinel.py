"""A primary under Sentinels: asked for at each connection, and no answered booking lost when it changes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.errors import Unavailable
from service.model import Theatre
from service.pipeline import Pipeline
from service.pools import pool_for
from service.scripts import AVAILABILITY
from tests.clusters import SERVICE, PrimaryOfTwo
from tests.rush import Rush

MAIN = Theatre("main", "Main", ZoneInfo("UTC"), 20, ("15:00", "18:00", "21:00"))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Pipeline]:
    pool = pool_for(url)
    pipeline = Pipeline(pool, **options)
    await pipeline.open()
    try:
        yield pipeline
    finally:
        await pipeline.close()
        await pool.aclose()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  what a server does has no event to wait for
            await asyncio.sleep(0.01)


async def look(pipeline: Pipeline) -> list[Any]:
    return await pipeline.run(AVAILABILITY, ["{main}:showtime:20261124T1800"], [], mutates=False)


async def test_the_primary_is_found_whatever_sentinel_answers(sentinels: PrimaryOfTwo) -> None:
    async with opened(sentinels.url.replace("//", "//127.0.0.1:1,")) as pipeline:
        assert pipeline.ready
        assert (await look(pipeline))[0] == b"availability"


async def rushed(sentinels: PrimaryOfTwo, how: Callable[[], object], **options: Any) -> Rush:
    """A rush during which the primary changes, once.

    A busy machine may make the Sentinels take a server for lost that is not. What is sold there meanwhile cannot but be
    lost (docs/scaling.md), so that says nothing of the service, and the rush is repeated.
    """
    for seed in range(5):
        sentinels.clear()
        failovers = sentinels.failovers
        async with opened(sentinels.url, **options) as pipeline:
            async with Rush(sentinels, pipeline, [MAIN], seed, people=16) as rush:
                await rush.answers(500)
                await asyncio.to_thread(sentinels.change, how)
                await rush.recovers()
                await rush.answers(200)
            if sentinels.failovers == failovers + 1:
                return rush
        await asyncio.to_thread(sentinels.heal)
    raise AssertionError("the Sentinels never left it at one change")


async def test_a_lost_primary_takes_no_answered_ticket_with_it(sentinels: PrimaryOfTwo) -> None:
    rush = await rushed(sentinels, sentinels.lose, replicas=1)
    assert rush.found() == []


async def test_a_primary_that_hands_over_loses_nothing(sentinels: PrimaryOfTwo) -> None:
    rush = await rushed(sentinels, sentinels.hand_over)
    assert rush.found() == []


async def test_sentinels_that_are_away_stop_nothing_but_a_change_of_primary(
    sentinels: PrimaryOfTwo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with opened(f"{sentinels.url}?sentinel_username=default&sentinel_password=s3cret") as pipeline:
        assert (await look(pipeline))[0] == b"availability"
        primary = sentinels.primary
        for sentinel in sentinels.sentinels:
            sentinel.kill()
        assert (await look(pipeline))[0] == b"availability"
        primary.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: not pipeline.ready)
        with pytest.raises(Unavailable, match="nothing was done"):
            await look(pipeline)
        for sentinel in sentinels.sentinels:
            sentinel.start()
        await until(lambda: pipeline.ready)
    assert f"Redis is away: no Sentinel names a primary for {SERVICE}" in caplog.messages
    assert "s3cret" not in caplog.text
