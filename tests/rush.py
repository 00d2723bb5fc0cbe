"""Crowds at the store of several theatres while servers come and go, each with its history, and what it shows."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Self
from zoneinfo import ZoneInfo

import redis

from loadtests.books import audit
from service.cluster import Cluster
from service.keys import showtime_keys
from service.model import Theatre
from service.pipeline import Pipeline
from service.programme import Programme
from service.store import Store
from tests.clusters import ClusterOfSix, PrimaryOfTwo, until
from tests.history.calls import Call, Outcome
from tests.history.checker import check
from tests.history.crowd import Crowd, Person, open_labels
from tests.history.ending import read_ending
from tests.history.store_window import StoreWindow

LIFE_MS = 8 * 3_600_000
# One on each shard of three.
THEATRES = [
    Theatre(name, name.title(), ZoneInfo("UTC"), 20, ("15:00", "18:00", "21:00")) for name in ("odeon", "lux", "plaza")
]


class _Window(StoreWindow):
    """A window at the store that also looks up what a repeat does not tell: the version that the first one made."""

    def __init__(self, store: Store, programme: Programme, servers: ClusterOfSix | PrimaryOfTwo) -> None:
        super().__init__(store, programme)
        self._servers = servers

    async def ask(self, call: Call, key: str | None) -> tuple[Outcome, str]:
        outcome, code = await super().ask(call, key)
        if call.kind == "book" and outcome == "done" and not call.versions:
            theatre_id = str(call.ticket_id).rpartition("-")[0]
            ids = showtime_keys(theatre_id, call.showtime)[1]
            score = await asyncio.to_thread(self._score, theatre_id, ids, str(call.ticket_id))
            call.versions = {call.showtime: score}
        return outcome, code

    def _score(self, theatre_id: str, ids: str, ticket_id: str) -> int:
        found: list[float] = []
        until(lambda: found.append(self._servers.owner(theatre_id).client.zscore(ids, ticket_id)) or found, "a score")
        return int(found[0])


class Rush:
    """A crowd at each theatre, for as long as the block runs; every choice is repeated by the `seed`."""

    def __init__(
        self,
        servers: ClusterOfSix | PrimaryOfTwo,
        pipeline: Cluster | Pipeline,
        theatres: Sequence[Theatre],
        seed: int,
        people: int = 8,
    ) -> None:
        dice = random.Random(seed)
        self._servers = servers
        self._theatres = theatres
        self.seed = seed
        self.calls: dict[str, list[Call]] = {}
        self.crowds: dict[str, Crowd] = {}
        numbers = itertools.count(1)
        for theatre in self._theatres:
            programme = Programme([theatre], LIFE_MS)
            store = Store(pipeline, programme)
            calls = self.calls[theatre.id] = []
            everybody = [Person(_Window(store, programme, servers), calls, numbers) for _ in range(people)]
            self.crowds[theatre.id] = Crowd(everybody, calls, dice, open_labels(theatre.timings))

    async def __aenter__(self) -> Self:
        for crowd in self.crowds.values():
            await crowd.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(crowd.__aexit__() for crowd in self.crowds.values()))

    async def answers(self, more: int) -> None:
        """Wait for so many more answers at each theatre."""
        await asyncio.gather(*(crowd.answers(more) for crowd in self.crowds.values()))

    async def recovers(self) -> None:
        """Wait until every theatre sells again."""
        await asyncio.gather(*(crowd.recovers() for crowd in self.crowds.values()))

    def outcomes(self) -> Counter[str]:
        return Counter(call.outcome for calls in self.calls.values() for call in calls)

    def found(self) -> list[str]:
        """All that is wrong: by the histories, and by the books of every node."""
        capacities = {theatre.id: theatre.capacity for theatre in self._theatres}
        wrong = []
        for node in self._servers.primaries():
            with redis.Redis(port=node.port) as client:
                wrong += map(str, audit(client, capacities).disagreements)
        for theatre in self._theatres:
            calls = self.calls[theatre.id]
            with redis.Redis(port=self._servers.owner(theatre.id).port) as client:
                ending = read_ending(client, theatre.id)
            by_phone = {ticket.phone: ticket_id for ticket_id, ticket in ending.tickets.items()}
            for call in calls:
                if call.kind == "book" and call.outcome == "unknown" and call.ticket_id is None:
                    call.ticket_id = by_phone.get(call.phone)  # the crowd went home before a repeat told
            wrong += check(calls, ending, theatre.capacity)
        return [f"seed {self.seed}: {dict(self.outcomes())}", *wrong] if wrong else []
