"""People at the box office's window: they book, look, move and cancel over HTTP, and keep what they were told."""

import asyncio
import datetime
import random
import time
from collections.abc import Sequence
from typing import Self

import msgspec

from tests.chaos.client import Answer, Client, NoAnswerError, NotSentError
from tests.history.calls import Call, Outcome, Recorder

HELD_AT_MOST = 12  # tickets of one person; then one is given back
PAUSE_S = 0.02  # before a repeat, so that an outage is no busy loop


def showtimes(timings: Sequence[str], days: int = 6) -> list[str]:
    """Labels that are open now and do not start while a test runs: from tomorrow on."""
    today = datetime.datetime.now(datetime.UTC).date()
    return [f"{today + datetime.timedelta(days=day)}T{timing}" for day in range(1, days + 1) for timing in timings]


class Held(msgspec.Struct):
    """A ticket in somebody's hand."""

    ticket_id: str
    showtime: str
    name: str
    phone: str


class Crowd:
    """`people` callers, each with a connection of its own, for as long as the block runs.

    A person who is told that an outcome is unknown either repeats with the Idempotency-Key until there is an answer,
    or leaves that ticket alone from then on, as the history's checker wants it.
    """

    def __init__(
        self, port: int, recorder: Recorder, dice: random.Random, labels: Sequence[str], people: int = 32
    ) -> None:
        self.answered = 0  # requests, whatever the answer
        self.last_done = 0.0  # when a change last succeeded, on the monotonic clock
        self.held: list[Held] = []
        self.connects = 0
        self._port = port
        self._recorder = recorder
        self._dice = dice
        self._labels = labels
        self._people = people
        self._over = asyncio.Event()
        self._numbers = iter(range(1, 1_000_000_000))

    async def __aenter__(self) -> Self:
        seeds = [self._dice.random() for _ in range(self._people)]
        self._tasks = [asyncio.create_task(self._person(random.Random(seed))) for seed in seeds]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def answers(self, more: int, within_s: float = 60) -> None:
        """Wait for so many more answers."""
        goal = self.answered + more
        async with asyncio.timeout(within_s):
            while self.answered < goal:  # noqa: ASYNC110  an event for each answer would slow the clients
                await asyncio.sleep(0.005)

    async def recovers(self, within_s: float = 60) -> float:
        """Wait until a change succeeds that was asked for after now; return how long that took, seconds."""
        began = time.monotonic()
        done = len(self._recorder.calls)
        async with asyncio.timeout(within_s):
            while not any(call.changes and call.outcome == "done" for call in self._recorder.calls[done:]):  # noqa: ASYNC110  as above
                await asyncio.sleep(0.005)
        return time.monotonic() - began

    async def _person(self, dice: random.Random) -> None:
        client = Client(self._port)
        mine: list[Held] = []
        while not self._over.is_set():
            if len(mine) >= HELD_AT_MOST:
                await self._cancel(client, mine.pop(dice.randrange(len(mine))))
                continue
            wish = dice.random()
            if wish < 0.15:
                await self._seats(client, dice.choice(self._labels))
            elif wish < 0.55 or not mine:
                await self._book(client, dice, mine)
            elif wish < 0.65:
                await self._view(client, dice.choice(mine))
            elif wish < 0.80:
                held = mine.pop(dice.randrange(len(mine)))
                label = dice.choice([label for label in self._labels if label != held.showtime])
                if await self._move(client, held, label):
                    mine.append(held)
            else:
                await self._cancel(client, mine.pop(dice.randrange(len(mine))))
        self.held += mine
        self.connects += client.connects
        client.close()

    async def _book(self, client: Client, dice: random.Random, mine: list[Held]) -> None:
        number = next(self._numbers)
        name, phone = f"Guest {number}", f"+49{number:011}"
        label = dice.choice(self._labels)
        call = self._recorder.sent("book", label, name=name, phone=phone)
        key = {"Idempotency-Key": f"key-{number}"} if dice.random() < 0.5 else None
        wish = {"name": name, "phone": phone, "timing": label}
        await self._send(client, call, "POST", "/v1/tickets", wish, key, repeats=key is not None)
        if call.outcome == "done" and call.ticket_id is not None:
            mine.append(Held(call.ticket_id, label, name, phone))

    async def _move(self, client: Client, held: Held, label: str) -> bool:
        """Whether the ticket is still known to be where we think it is."""
        call = self._recorder.sent("move", label, ticket_id=held.ticket_id, left=held.showtime)
        phone = {"Ticket-Phone": held.phone}
        await self._send(client, call, "PATCH", f"/v1/tickets/{held.ticket_id}", {"timing": label}, phone)
        if call.outcome == "done":
            held.showtime = label
        return call.outcome != "unknown"

    async def _cancel(self, client: Client, held: Held) -> None:
        call = self._recorder.sent("cancel", held.showtime, ticket_id=held.ticket_id)
        await self._send(client, call, "DELETE", f"/v1/tickets/{held.ticket_id}", None, {"Ticket-Phone": held.phone})

    async def _view(self, client: Client, held: Held) -> None:
        call = self._recorder.sent("view", held.showtime, ticket_id=held.ticket_id, name=held.name, phone=held.phone)
        await self._send(client, call, "GET", f"/v1/tickets/{held.ticket_id}")

    async def _seats(self, client: Client, label: str) -> None:
        call = self._recorder.sent("seats", label)
        await self._send(client, call, "GET", f"/v1/theatres/main/showtimes/{label}")

    async def _send(
        self,
        client: Client,
        call: Call,
        method: str,
        path: str,
        fields: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        *,
        repeats: bool = False,
    ) -> None:
        """Ask until there is an answer that says what was done, or, without `repeats`, once; note what came of it."""
        in_doubt = False
        while True:
            try:
                answer = await client.ask(method, path, fields, headers)
            except NotSentError:
                outcome, code = "refused", "not sent"
            except NoAnswerError:
                outcome, code = "unknown", "no answer"
            else:
                outcome, code = _meaning(answer), answer.code
                if outcome == "done":
                    _read(call, answer)
            self.answered += 1
            in_doubt = in_doubt or outcome == "unknown"
            clear = outcome == "done" or code not in {"not sent", "no answer", "unavailable", "outcome_unknown"}
            if not clear:
                await asyncio.sleep(PAUSE_S)
            if clear or not repeats or self._over.is_set():
                break
        # A refusal after a doubtful first attempt does not say what became of that one.
        self._recorder.answered(call, "unknown" if in_doubt and outcome != "done" else outcome, code)


def _meaning(answer: Answer) -> Outcome:
    if answer.status < 300:
        return "done"
    # `unavailable` says that nothing was done, and is held to it.
    return "unknown" if answer.status >= 500 and answer.code != "unavailable" else "refused"


def _read(call: Call, answer: Answer) -> None:
    if call.kind == "seats":
        call.seen = answer.json["booked"]
    elif call.kind == "book":
        call.ticket_id = answer.json["ticket_id"]
    elif call.kind == "view":
        call.told = f"{answer.json['name']} at {answer.json['showtime']}"
