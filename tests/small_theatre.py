"""What the tests below HTTP share: a theatre of three seats, a pipeline that can repeat, and a look into Redis."""

import datetime
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import hiredis
import redis.asyncio
from redis.asyncio import ConnectionPool

from service.model import Showtime, Theatre
from service.pipeline import Pipeline
from service.programme import Programme
from service.scripts import Script
from service.store import Store

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
LIFE_MS = 8 * HOUR_MS
MAIN = Theatre("main", "Main theatre", ZoneInfo("UTC"), 3, ("15:00", "18:00", "21:00"))
NAME, PHONE = "Asha Rao", "+919812345678"

# What a script call is made of: all that a repeat of it needs.
Call = tuple[Script, Sequence[str], Sequence[Any]]


class RepeatingPipeline(Pipeline):
    """A pipeline that can send its last change once more, as one does that lost a reply, at once or much later."""

    last: Call
    reply: Any

    def __init__(self, pool: ConnectionPool) -> None:
        super().__init__(pool)
        self.before_looks: deque[Call] = deque()  # one goes out just before each look

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], *, mutates: bool) -> Any:
        if mutates:
            self.last = (script, *_words(args)) if isinstance(args, bytes) else (script, tuple(keys), tuple(args))
        elif self.before_looks:
            super().run(*self.before_looks.popleft(), mutates=True)
        return super().run(script, keys, args, mutates=mutates)

    async def repeat(self, call: Call | None = None) -> list[Any]:
        """The reply to the last change, or to `call`, sent once more."""
        return await super().run(*(call or self.last), mutates=True)

    async def learn_time(self) -> None:
        """Ask for the server's time now, as it does by itself every 0.4 s."""
        sent_at = time.monotonic()
        self._set_clock(await self._own(self._loop.time() + self._deadline_s, "TIME"), sent_at)


def _words(packed: bytes) -> tuple[list[str], list[str]]:
    """The keys and the arguments of a call that is packed already."""
    reader = hiredis.Reader(encoding="utf-8")
    reader.feed(packed)
    _, _, keys, *words = reader.gets()
    return words[: int(keys)], words[int(keys) :]


class House:
    """A store on an empty server, and the server itself behind its back."""

    def __init__(self, pool: ConnectionPool, pipeline: RepeatingPipeline, programme: Programme) -> None:
        self.pipeline = pipeline
        self.programme = programme
        self.store = Store(pipeline, programme)
        self.redis = redis.asyncio.Redis(connection_pool=pool)
        self.issued = 0

    def with_programme(self, *theatres: Theatre, ticket_life_ms: int = LIFE_MS) -> "House":
        """The same server and pipeline after the operator has changed the programme."""
        return House(self.redis.connection_pool, self.pipeline, Programme(theatres or [MAIN], ticket_life_ms))

    @property
    def theatre(self) -> Theatre:
        """The first one, as the programme has it."""
        return self.programme.theatre(None)

    def showtime(self, timing: str = "18:00", days: int = 2) -> Showtime:
        """A showtime of the first theatre, `days` from today."""
        date = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=days)
        return self.programme.showtime(self.theatre, f"{date}T{timing}")

    async def book(self, showtime: Showtime, name: str = NAME, phone: str = PHONE) -> str:
        """Book under an id of our own; return the id."""
        self.issued += 1
        ticket_id = f"main-{self.issued:016d}"
        await self.store.book(ticket_id, showtime, name, phone)
        return ticket_id

    async def move(self, ticket_id: str, to: Showtime) -> Any:
        """Move a ticket from where it is."""
        return await self.store.move(await self.store.ticket(self.theatre, ticket_id), to)

    async def cancel(self, ticket_id: str) -> int:
        """Cancel a ticket where it is."""
        return await self.store.cancel((await self.store.ticket(self.theatre, ticket_id)).ticket)

    async def seats(self, showtime: Showtime) -> tuple[int, int]:
        """The counter of a showtime and the number of its ids, which no script may let differ."""
        key = f"{{main}}:showtime:{showtime.label.replace('-', '').replace(':', '')}"
        return int(await self.redis.hget(key, "booked") or 0), await self.redis.zcard(f"{key}:tickets")

    async def everything(self) -> dict[str, Any]:
        """All that Redis holds: by key its value and the instant it expires, milliseconds since 1970."""
        found = {}
        async for key in self.redis.scan_iter():
            kind = await self.redis.type(key)
            if kind == b"hash":
                value: Any = await self.redis.hgetall(key)
            elif kind == b"zset":
                value = await self.redis.zrange(key, 0, -1, withscores=True)
            else:
                value = await self.redis.get(key)
            found[key.decode()] = value, await self.redis.pexpiretime(key)
        return found


@asynccontextmanager
async def opened_house(
    pool: ConnectionPool, theatre: Theatre = MAIN, ticket_life_ms: int = LIFE_MS
) -> AsyncIterator[House]:
    """A store of one theatre on the server of `pool`."""
    pipeline = RepeatingPipeline(pool)
    await pipeline.open()
    try:
        yield House(pool, pipeline, Programme([theatre], ticket_life_ms))
    finally:
        await pipeline.close()
