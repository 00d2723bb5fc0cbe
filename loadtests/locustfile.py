"""Two scenarios for locust, on the versioned routes of the interface.

OnSaleRush
    The minute the sale opens: everybody wants the same few showtimes. Each user, about once a second:
    book 8, browse 2. Bookings are refused once the seats are gone, and that is the right answer.

MixedDay
    An ordinary day over all showtimes of a date, some of them far more popular than others. Each user, about
    once a second: browse 10, book 4, view an own ticket 3, move one 1, cancel one 1.

`make load` runs both against a service of its own. By hand, against one that will be full of bookings:

    locust -f loadtests/locustfile.py --host http://127.0.0.1:5000 OnSaleRush

The statistics file each answer under what came of it: `book: accepted`, `book: sold out` and `book: closed`
are three lines, and neither of the last two is a failure. Whatever else comes back is one.
"""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import requests
from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopTest

from loadtests.books import Receipts

REFUSALS = {"sold_out": "sold out", "showtime_closed": "closed"}
CLEAR = range(200, 500)  # an answer with such a status says for certain what was done
RUSH_SHOWTIMES = 4

# All users run in this one process, as greenlets that change hands only while they wait for the network.
receipts = Receipts()
showtimes: list[tuple[str, str]] = []  # theatre id and label, the most popular first


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # locust leaves its hooks untyped
def add_arguments(parser: LocustArgumentParser) -> None:
    """Add the options of this file to locust's own."""
    parser.add_argument("--seed", type=int, default=None, help="Seed of the users' choices.")
    parser.add_argument("--receipts", default="", help="JSON file to write what the clients were told to.")


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # locust leaves its hooks untyped
def learn_showtimes(environment: Environment, **_: Any) -> None:
    """Ask the service for tomorrow's showtimes: open now, and none starts while the test runs."""
    random.seed(getattr(environment.parsed_options, "seed", None))
    date = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    showtimes.clear()
    for theatre in _get(f"{environment.host}/v1/theatres")["theatres"]:
        day = _get(f"{environment.host}/v1/theatres/{theatre['id']}/showtimes?date={date}")
        showtimes.extend((showtime["theatre"], showtime["showtime"]) for showtime in day["showtimes"])


@events.quitting.add_listener  # type: ignore[untyped-decorator]  # locust leaves its hooks untyped
def write_receipts(environment: Environment, **_: Any) -> None:
    """Hand over what the clients were told, for the check of the books."""
    if path := getattr(environment.parsed_options, "receipts", ""):
        Path(path).write_bytes(msgspec.json.encode(receipts))


def _get(url: str) -> Any:
    try:
        answer = requests.get(url, timeout=10)
        answer.raise_for_status()
        return answer.json()
    except requests.RequestException as error:
        raise StopTest(f"the showtimes can't be learnt: {error}") from error


class Customer(FastHttpUser):
    """A person with a phone and a connection that is kept open; what it holds, it has a receipt for."""

    abstract = True
    wait_time = between(0.5, 1.5)

    def on_start(self) -> None:
        """Give the person a phone, by which tickets are moved and cancelled."""
        self.phone = f"+4915{random.randrange(10**9):09}"
        self.tickets: list[str] = []

    def ask(self, act: str, method: str, path: str, success: int, **request: Any) -> tuple[int, bytes]:
        """Send one request and file the answer in the statistics by what came of it.

        Returns status and body; the status is 0 where no answer came.
        """
        with self.client.request(method, path, name=act, catch_response=True, **request) as response:
            status, body = response.status_code, response.content or b""
            code = _code(body) if status in range(400, 600) else None
            if status == success:
                if method != "GET":
                    response.request_meta["name"] = f"{act}: accepted"
                response.success()
            elif status == 409 and code in REFUSALS:
                response.request_meta["name"] = f"{act}: {REFUSALS[code]}"
                response.success()
            else:
                response.failure(f"{status} {code}" if status else response.error)
        return status, body

    def look(self, theatre: str, label: str) -> None:
        """See what is free in a theatre on the day of a showtime."""
        day = label.partition("T")[0]
        self.ask("browse", "GET", f"/v1/theatres/{theatre}/showtimes?date={day}", 200)

    def buy(self, theatre: str, label: str) -> None:
        """Book a seat and keep the receipt."""
        person = {"name": "Ada Lovelace", "phone": self.phone, "theatre": theatre, "timing": label}
        receipts.unanswered += 1
        status, body = self.ask("book", "POST", "/v1/tickets", 201, json=person)
        if status in CLEAR:
            receipts.unanswered -= 1
        if status == 201:
            ticket_id = msgspec.json.decode(body)["ticket_id"]
            receipts.held[ticket_id] = label
            self.tickets.append(ticket_id)


class OnSaleRush(Customer):
    """One of thousands who want a seat at the same few showtimes, now."""

    @task(8)
    def book(self) -> None:
        """Book at one of the wanted showtimes, sold out or not."""
        self.buy(*random.choice(showtimes[:RUSH_SHOWTIMES]))

    @task(2)
    def browse(self) -> None:
        """See what is left."""
        self.look(*random.choice(showtimes[:RUSH_SHOWTIMES]))


class MixedDay(Customer):
    """One of many with time to choose. Whoever has no ticket to view, move or cancel, browses instead."""

    @task(10)
    def browse(self) -> None:
        """Look at a day."""
        self.look(*_popular_showtime())

    @task(4)
    def book(self) -> None:
        """Book at a popular showtime rather than at another."""
        self.buy(*_popular_showtime())

    @task(3)
    def view(self) -> None:
        """Look at an own ticket."""
        if not self.tickets:
            self.browse()
            return
        self.ask("view", "GET", f"/v1/tickets/{random.choice(self.tickets)}", 200)

    @task(1)
    def move(self) -> None:
        """Move an own ticket to another showtime; if that is sold out, the old seat is kept."""
        if not self.tickets:
            self.browse()
            return
        ticket_id = self._take_ticket()
        theatre, old = ticket_id.rpartition("-")[0], receipts.held[ticket_id]
        label = random.choice([label for where, label in showtimes if where == theatre and label != old])
        receipts.unsure.add(ticket_id)
        status, _ = self.ask(
            "move",
            "PATCH",
            f"/v1/tickets/{ticket_id}",
            200,
            json={"timing": label},
            headers={"Ticket-Phone": self.phone},
        )
        if status in CLEAR:
            receipts.unsure.discard(ticket_id)
            receipts.held[ticket_id] = label if status == 200 else old
            self.tickets.append(ticket_id)

    @task(1)
    def cancel(self) -> None:
        """Give an own ticket back."""
        if not self.tickets:
            self.browse()
            return
        ticket_id = self._take_ticket()
        receipts.unsure.add(ticket_id)
        status, _ = self.ask("cancel", "DELETE", f"/v1/tickets/{ticket_id}", 204, headers={"Ticket-Phone": self.phone})
        if status in CLEAR:
            receipts.unsure.discard(ticket_id)
        if status == 204:
            del receipts.held[ticket_id]
            receipts.cancelled.add(ticket_id)

    def _take_ticket(self) -> str:
        return self.tickets.pop(random.randrange(len(self.tickets)))


def _popular_showtime() -> tuple[str, str]:
    # The square favours the first ones: the first quarter gets half of the wishes, and sells out early.
    return showtimes[int(len(showtimes) * random.random() ** 2)]


def _code(problem: bytes) -> str | None:
    try:
        return str(msgspec.json.decode(problem)["code"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return None  # not one of the service's own answers: the status has to do
