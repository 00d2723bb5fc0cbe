"""People who book, look, move and cancel, all at once, and note what they asked for and were told."""

import asyncio
import datetime
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

from tests.history.calls import Call, Kind, Outcome

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


class Crowd:
    """`people` at as many windows, for as long as the block runs. All that they note goes into `calls`.

    Half of the bookings come with an Idempotency-Key and are repeated until there is a clear answer; whoever else is
    told that an outcome is unknown leaves that ticket alone from then on, as the checker wants it.
    """

    def __init__(
        self,
        window: Callable[[], Window],
        calls: list[Call],
        dice: random.Random,
        labels: Sequence[str],
        people: int = 32,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.calls = calls
        self.answered = 0  # requests, whatever the answer
        self._window = window
        self._labels = labels
        self._dice = [random.Random(dice.random()) for _ in range(people)]
        self._numbers = numbers or itertools.count(1)  # of the guests: each has a name and a phone of their own
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._person(dice)) for dice in self._dice]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def answers(self, more: int, within_s: float = 60) -> None:
        """Wait for so many more answers. Raises TimeoutError."""
        goal = self.answered + more
        async with asyncio.timeout(within_s):
            while self.answered < goal:  # noqa: ASYNC110  an event for each answer would slow the crowd
                await asyncio.sleep(0.005)

    async def recovers(self, within_s: float = 60) -> float:
        """Wait until a change succeeds that is asked for after now; how long that took, seconds. Or TimeoutError."""
        began, known = time.monotonic(), len(self.calls)
        async with asyncio.timeout(within_s):
            while not any(call.changes and call.outcome == "done" for call in self.calls[known:]):  # noqa: ASYNC110  too
                await asyncio.sleep(0.005)
        return round(time.monotonic() - began, 2)

    async def _person(self, dice: random.Random) -> None:
        window = self._window()
        mine: list[Call] = []  # the last done call of each ticket in hand: it tells where the ticket is
        while not self._over.is_set():
            wish = dice.random() if len(mine) < HELD_AT_MOST else 1.0
            if wish < 0.15:
                await self._ask(window, "seats", dice.choice(self._labels))
            elif wish < 0.55 or not mine:
                await self._book(window, dice, mine)
            elif wish < 0.65:
                held = dice.choice(mine)
                await self._ask(window, "view", held.showtime, held)
            else:
                held = mine.pop(dice.randrange(len(mine)))
                if wish < 0.80:
                    label = dice.choice([label for label in self._labels if label != held.showtime])
                    await self._move(window, label, held, mine)
                else:
                    await self._ask(window, "cancel", held.showtime, held)
        window.close()

    async def _book(self, window: Window, dice: random.Random, mine: list[Call]) -> None:
        number = next(self._numbers)
        guest = Call("book", "", 0.0, name=f"Guest {number}", phone=f"+49{number:011}")
        key = f"key-{number}" if dice.random() < 0.5 else None
        call = await self._ask(window, "book", dice.choice(self._labels), guest, key)
        if call.outcome == "done":
            mine.append(call)

    async def _move(self, window: Window, label: str, held: Call, mine: list[Call]) -> None:
        call = await self._ask(window, "move", label, held)
        if call.outcome != "unknown":
            mine.append(call if call.outcome == "done" else held)

    async def _ask(
        self, window: Window, kind: Kind, label: str, held: Call | None = None, key: str | None = None
    ) -> Call:
        """Send a call, and with a key again and again, until an answer says what was done; note what came of it."""
        call = Call(kind, label, time.monotonic())
        if held is not None:
            call.ticket_id, call.name, call.phone = held.ticket_id, held.name, held.phone
            call.left = held.showtime if kind == "move" else None
        self.calls.append(call)
        in_doubt = False
        while True:
            outcome, code = await window.ask(call, key)
            self.answered += 1
            in_doubt = in_doubt or outcome == "unknown"
            if code not in UNCLEAR:
                break
            await asyncio.sleep(PAUSE_S)
            if key is None or self._over.is_set():
                break
        # A refusal after a doubtful first attempt does not say what became of that one.
        call.outcome, call.code = "unknown" if in_doubt and outcome != "done" else outcome, code
        call.answered = time.monotonic()
        return call
