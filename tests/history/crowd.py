"""People who book, look, move and cancel, all at once, and note what they asked for and were told."""

import asyncio
import datetime
import random
import time
from collections.abc import Iterator, Sequence
from typing import Protocol, Self

from tests.history.calls import Call, Outcome

HELD_AT_MOST = 12  # tickets of one person; then one is given back
PAUSE_S = 0.02  # before a repeat, so that an outage is no busy loop
UNCLEAR = frozenset({"not sent", "no answer", "unavailable", "outcome_unknown"})  # worth a repeat


class Window(Protocol):
    """Where one person asks. `ask` sends what the call says and fills in what the answer tells."""

    async def ask(self, call: Call, key: str | None) -> tuple[Outcome, str]:
        """The outcome, and the code of a refusal or a failure. `key` is the booking's Idempotency-Key."""

    def close(self) -> None:
        """The person goes home."""


def open_labels(timings: Sequence[str], days: int = 6) -> list[str]:
    """Showtimes that can be booked now and do not start while a test runs: from tomorrow on."""
    today = datetime.datetime.now(datetime.UTC).date()
    return [f"{today + datetime.timedelta(days=day)}T{timing}" for day in range(1, days + 1) for timing in timings]


class Person:
    """One caller at a window, who notes every call and what came of it in `calls`.

    `numbers` are of the guests that are booked for: each has a name and a phone of their own.
    """

    def __init__(self, window: Window, calls: list[Call], numbers: Iterator[int]) -> None:
        self.window = window
        self.answered = 0  # requests, whatever the answer
        self.patient = True  # whether a booking with a key is repeated until there is a clear answer
        self._calls = calls
        self._numbers = numbers

    async def book(self, label: str, *, with_key: bool = False) -> Call:
        """Book for a new guest."""
        number = next(self._numbers)
        guest = Call("book", label, 0.0, name=f"Guest {number}", phone=f"+49{number:011}")
        return await self._ask(guest, f"key-{number}" if with_key else None)

    async def move(self, held: Call, label: str) -> Call:
        """Move the ticket that a call has booked or moved."""
        return await self._ask(
            Call("move", label, 0.0, held.ticket_id, left=held.showtime, name=held.name, phone=held.phone)
        )

    async def cancel(self, held: Call) -> Call:
        """Cancel such a ticket."""
        return await self._ask(Call("cancel", held.showtime, 0.0, held.ticket_id, name=held.name, phone=held.phone))

    async def view(self, held: Call) -> Call:
        """Look at such a ticket."""
        return await self._ask(Call("view", held.showtime, 0.0, held.ticket_id, name=held.name, phone=held.phone))

    async def seats(self, label: str) -> Call:
        """Look how many seats are taken."""
        return await self._ask(Call("seats", label, 0.0))

    async def _ask(self, call: Call, key: str | None = None) -> Call:
        call.sent = time.monotonic()
        self._calls.append(call)
        in_doubt = False
        while True:
            asked = time.monotonic()
            outcome, code = await self.window.ask(call, key)
            call.longest_s = max(call.longest_s, time.monotonic() - asked)
            self.answered += 1
            in_doubt = in_doubt or outcome == "unknown"
            if code not in UNCLEAR:
                break
            await asyncio.sleep(PAUSE_S)
            if key is None or not self.patient:
                break
        # A refusal after a doubtful first attempt does not say what became of that one.
        call.outcome, call.code = "unknown" if in_doubt and outcome != "done" else outcome, code
        call.answered = time.monotonic()
        return call


class Crowd:
    """`people` people who book, look, move and cancel at random, for as long as the block runs.

    Half of the bookings come with an Idempotency-Key and are repeated until there is a clear answer; whoever else is
    told that an outcome is unknown leaves that ticket alone from then on, as the checker wants it.
    """

    def __init__(self, people: Sequence[Person], calls: list[Call], dice: random.Random, labels: Sequence[str]) -> None:
        self._people = people
        self._calls = calls
        self._dice = [random.Random(dice.random()) for _ in people]
        self._labels = labels
        self._over = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._live(*each)) for each in zip(self._people, self._dice, strict=True)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        for person in self._people:
            person.patient = False
        await asyncio.gather(*self._tasks)

    @property
    def answered(self) -> int:
        """Requests of all of them, whatever the answer."""
        return sum(person.answered for person in self._people)

    async def answers(self, more: int, within_s: float = 60) -> None:
        """Wait for so many more answers. Raises TimeoutError."""
        goal = self.answered + more
        async with asyncio.timeout(within_s):
            while self.answered < goal:  # noqa: ASYNC110  an event for each answer would slow the crowd
                await asyncio.sleep(0.005)

    async def recovers(self, within_s: float = 60) -> float:
        """Wait until a change succeeds that is asked for after now; how long that took, seconds. Or TimeoutError."""
        began, known = time.monotonic(), len(self._calls)
        async with asyncio.timeout(within_s):
            while not self._has_changed(known):  # noqa: ASYNC110  an event for each call would slow the crowd
                await asyncio.sleep(0.005)
        return round(time.monotonic() - began, 2)

    def _has_changed(self, since: int) -> bool:
        """Whether a change has succeeded of those asked for since there were so many calls."""
        return any(call.changes and call.outcome == "done" for call in self._calls[since:])

    async def _live(self, person: Person, dice: random.Random) -> None:
        mine: list[Call] = []  # the last done call of each ticket in hand: it tells where the ticket is
        while not self._over:
            wish = dice.random() if len(mine) < HELD_AT_MOST else 1.0
            if wish < 0.15:
                await person.seats(dice.choice(self._labels))
            elif wish < 0.55 or not mine:
                booking = await person.book(dice.choice(self._labels), with_key=dice.random() < 0.5)
                mine += [booking] if booking.outcome == "done" else []
            elif wish < 0.65:
                await person.view(dice.choice(mine))
            else:
                held = mine.pop(dice.randrange(len(mine)))
                if wish < 0.80:
                    label = dice.choice([label for label in self._labels if label != held.showtime])
                    move = await person.move(held, label)
                    mine += {"done": [move], "refused": [held], "unknown": []}[move.outcome]
                elif (await person.cancel(held)).outcome == "refused":
                    mine.append(held)
        person.window.close()
