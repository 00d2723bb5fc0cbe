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

When the block of the service ends, its books are checked against what every client was told; what disagrees is a
violation. A scenario adds violations of its own by `stage.expect`, and figures worth telling to `stage.figures`. All
chance comes from `stage.dice`, so that the seed repeats it. Write it in one of the modules that
`tests/chaos/__main__.py` imports; the rest follows from the decorator.
"""

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import redis

from loadtests.books import Receipts, audit
from tests.chaos.crowd import Crowd, showtimes
from tests.chaos.service import CAPACITY, TIMINGS, Service, Valkey
from tests.history.calls import Recorder

SHOWN_VIOLATIONS = 20  # of one check; the rest is counted


class Scenario(msgspec.Struct, frozen=True):
    """A fault and what must hold under it. `quick` ones are part of `make test`."""

    name: str
    failure: str
    promise: str
    run: Callable[["Stage"], Awaitable[None]]
    quick: bool = False


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, failure: str, promise: str, quick: bool = False
) -> Callable[[Callable[["Stage"], Awaitable[None]]], Callable[["Stage"], Awaitable[None]]]:
    """Register a coroutine as the scenario `name`."""

    def register(run: Callable[["Stage"], Awaitable[None]]) -> Callable[["Stage"], Awaitable[None]]:
        SCENARIOS[name] = Scenario(name, failure, promise, run, quick)
        return run

    return register


class Stage:
    """One run of a scenario: its dice, its folder, what it started, counted and found.

    `scale` shortens it: the subset in `make test` runs at a fraction of the size.
    """

    def __init__(self, seed: str, folder: Path, scale: float = 1.0) -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.scale = scale
        self.figures: dict[str, float | int | str] = {}
        self.violations: list[str] = []
        self.recorder = Recorder()
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
        redis_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        books_url: str | None = None,
    ) -> AsyncIterator[Service]:
        """A service for as long as the block runs; then its books are checked, then it is stopped.

        `books_url` is where the tickets are, if not where the service itself connects to.
        """
        service = Service(self.new_folder(), workers=workers, redis_url=redis_url, environment=environment)
        try:
            await service.start()
            yield service
            await service.ready()
            self._check_books(books_url or service.store_url)
        finally:
            service.stop()

    @contextlib.contextmanager
    def valkey(self, *options: str):
        """A Valkey of the scenario's own, for as long as the block runs."""
        valkey = Valkey(self.new_folder(), *options)
        valkey.start()
        try:
            yield valkey
        finally:
            valkey.stop()

    def crowd(self, service: Service, people: int = 32) -> Crowd:
        """A crowd at a service; a block of its own."""
        return Crowd(service.port, self.recorder, self.dice, showtimes(TIMINGS), people)

    def _check_books(self, url: str) -> None:
        with redis.Redis.from_url(url) as client:
            report = audit(client, {"main": CAPACITY}, self._receipts())
        found = [str(disagreement) for disagreement in report.disagreements]
        self.violations += found[:SHOWN_VIOLATIONS]
        if len(found) > SHOWN_VIOLATIONS:
            self.violations.append(f"and {len(found) - SHOWN_VIOLATIONS} more disagreements in the books")

    def _receipts(self) -> Receipts:
        receipts = Receipts()
        for call in self.recorder.calls:
            if not call.changes:
                continue
            ticket_id = call.ticket_id
            if call.kind == "book" and call.outcome == "unknown":
                receipts.unanswered += 1
            elif call.outcome == "unknown":
                receipts.unsure.add(str(ticket_id))
            elif call.outcome == "done" and ticket_id is not None:
                if call.kind == "cancel":
                    receipts.held.pop(ticket_id, None)
                    receipts.cancelled.add(ticket_id)
                else:
                    receipts.held[ticket_id] = call.showtime
        return receipts
