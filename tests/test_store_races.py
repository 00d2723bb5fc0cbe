"""What must hold however the calls of several processes meet: on real servers, from processes of their own.

While a race runs, an observer looks at both showtimes in one moment, again and again: the counter equals the number of
ids and is never over the capacity. Afterwards the history is replayed: every change of a showtime's seats has made a
version, so sorted by version they must lead, without gap or double, from nothing to what is stored.
"""

import datetime
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle

import pytest
import redis
from race_worker import Done, Play, perform

from loadtests.books import audit
from service.keys import showtime_keys, ticket_key

PROCESSES = 4

LOOK = """
return {
  tonumber(redis.call('HGET', KEYS[1], 'booked') or 0), redis.call('ZCARD', KEYS[2]),
  tonumber(redis.call('HGET', KEYS[3], 'booked') or 0), redis.call('ZCARD', KEYS[4]),
}
"""


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Processes that have the service loaded; a fork of one that has is the cheapest start there is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["race_worker"])
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as executor:
        yield executor


class Race:
    """Races on one empty server, and all that was changed in them, by showtime."""

    def __init__(self, url: str, processes: ProcessPoolExecutor) -> None:
        self.url = url
        self.processes = processes
        self.client = redis.Redis.from_url(url)
        day = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
        self.labels = (f"{day}T18:00", f"{day}T21:00")
        self.sales = 0
        # By showtime: version → what made it: outcome, item, and by how much `booked` changed.
        self.history: defaultdict[str, dict[int, tuple[str, str, int]]] = defaultdict(dict)

    def run(self, items: Sequence[str], *roles: str, capacity: int = 1000) -> list[Done]:
        """Let every process play one of the roles, in turn, on all the items at the same time; watch and wait."""
        self.client.delete("here")
        plays = [
            Play(self.url, PROCESSES, me, role, list(items), self.labels, capacity)
            for me, role in zip(range(PROCESSES), cycle(roles), strict=False)
        ]
        running = [self.processes.submit(perform, play) for play in plays]
        keys = [key for label in self.labels for key in showtime_keys("main", label)]
        look = self.client.register_script(LOOK)
        while not all(each.done() for each in running):
            first, first_ids, second, second_ids = look(keys)
            assert (first, second) == (first_ids, second_ids)
            assert max(first, second) <= capacity
        outcomes = [done for each in running for done in each.result()]
        for done in outcomes:
            for seat in done.seats:
                change = (done.outcome, done.item, seat.by)
                assert self.history[seat.showtime].setdefault(seat.version, change) == change, (
                    "two changes, one version"
                )
        self.client.delete("here")
        return outcomes

    def sell(self, count: int, role: str = "book", capacity: int = 1000) -> list[str]:
        """Sell `count` tickets, a multiple of the processes; return their ids."""
        self.sales += 1
        numbers = [f"{self.sales}{number:09d}" for number in range(count // PROCESSES)]
        outcomes = self.run(numbers, role, capacity=capacity)
        assert {done.outcome for done in outcomes} == {"booked"}
        return [done.detail for done in outcomes]

    def seats(self) -> list[int]:
        """The counters of the two showtimes."""
        return [int(self.client.hget(showtime_keys("main", label)[0], "booked") or 0) for label in self.labels]

    def check(self, capacity: int = 1000) -> None:
        """The history leads to what is stored, and what is stored agrees with itself."""
        for label in self.labels:
            booked = 0
            changes = sorted(self.history[label].items())
            assert [version for version, _ in changes] == list(range(1, len(changes) + 1)), "a change is missing"
            for version, (_, _, by) in changes:
                booked += by
                assert 0 <= booked <= capacity, f"{label} at version {version}"
            assert int(self.client.hget(showtime_keys("main", label)[0], "booked") or 0) == booked
        assert audit(self.client, {"main": capacity}).disagreements == []


@pytest.fixture
def race(server_url: str, processes: ProcessPoolExecutor) -> Race:
    return Race(server_url, processes)


def by_item(outcomes: list[Done]) -> dict[str, Counter[str]]:
    """How often each outcome came about, by item."""
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for done in outcomes:
        counted[done.item][done.outcome] += 1
    return counted


def test_two_hundred_bookings_at_once_for_twenty_seats_sell_twenty(race: Race) -> None:
    outcomes = race.run([f"{number:010d}" for number in range(50)], "book", capacity=20)
    assert Counter(done.outcome for done in outcomes) == {"booked": 20, "SoldOut": 180}
    assert race.seats() == [20, 0]
    sold = {done.detail for done in outcomes if done.outcome == "booked"}
    assert len(sold) == 20
    for done in outcomes:
        ticket_id = done.detail or "main-never"
        assert race.client.exists(ticket_key("main", ticket_id)) == (ticket_id in sold)
    race.check(capacity=20)


def test_a_mixed_day_keeps_the_counters_equal_to_the_ids_throughout(race: Race) -> None:
    tickets = race.sell(40, capacity=60)
    outcomes = race.run(tickets * 10, "anything", capacity=60)
    assert {"booked", "moved", "cancelled", "SoldOut", "TicketNotFound"} == {done.outcome for done in outcomes}
    assert set(Counter(done.item for done in outcomes if done.outcome == "cancelled").values()) == {1}
    race.check(capacity=60)


def test_a_ticket_cancelled_by_four_at_once_frees_one_seat(race: Race) -> None:
    tickets = race.sell(100)
    outcomes = by_item(race.run(tickets, "cancel"))
    assert [outcomes[ticket] for ticket in tickets] == [{"cancelled": 1, "TicketNotFound": 3}] * 100
    assert race.seats() == [0, 0]
    race.check()


def test_a_ticket_moved_and_cancelled_at_once_is_cancelled_wherever_it_is(race: Race) -> None:
    tickets = race.sell(100)
    outcomes = by_item(race.run(tickets, "cancel", "move"))
    for ticket in tickets:
        assert outcomes[ticket]["cancelled"] == 1
        assert outcomes[ticket]["moved"] + outcomes[ticket]["TicketNotFound"] == 3
    assert race.seats() == [0, 0]
    race.check()


def test_moves_between_full_showtimes_keep_every_seat(race: Race) -> None:
    tickets = [*race.sell(20, "book", capacity=20), *race.sell(20, "book_second", capacity=20)]
    outcomes = race.run(tickets, "move", capacity=20)
    assert {done.outcome for done in outcomes} == {"SoldOut"}, "not even two that would swap"
    race.check(capacity=20)


def test_moves_to_and_fro_over_one_free_seat_lose_no_ticket(race: Race) -> None:
    """Every move waits for another that makes room."""
    early, late = race.sell(20, "book", capacity=20), race.sell(20, "book_second", capacity=20)
    race.run(early[:1], "cancel")
    outcomes = race.run([*early[1:], *late], "move", capacity=20)
    assert {done.outcome for done in outcomes} == {"moved", "SoldOut"}
    assert sum(race.seats()) == 39
    race.check(capacity=20)


def test_a_ticket_shown_at_four_doors_at_once_is_let_in_once(race: Race) -> None:
    tickets = race.sell(100)
    outcomes = race.run(tickets, "admit")
    assert by_item(outcomes) == {ticket: {"admitted": 1, "AlreadyAdmitted": 3} for ticket in tickets}
    times = {done.item: int(done.detail) for done in outcomes if done.outcome == "admitted"}
    for done in outcomes:
        if done.outcome == "AlreadyAdmitted":
            first = datetime.datetime.fromtimestamp(times[done.item] // 1000, datetime.UTC)
            assert done.detail == first.isoformat(), "everybody else is told the one time"
    race.check()


def test_a_ticket_admitted_and_cancelled_at_once_is_one_of_both(race: Race) -> None:
    tickets = race.sell(100)
    outcomes = by_item(race.run(tickets, "admit", "cancel"))
    for ticket in tickets:
        if outcomes[ticket]["admitted"]:
            assert outcomes[ticket] == {"admitted": 1, "AlreadyAdmitted": 3}
        else:
            assert outcomes[ticket] == {"cancelled": 1, "TicketNotFound": 3}
    race.check()


def test_a_key_sent_four_times_at_once_books_one_ticket(race: Race) -> None:
    keys = [f"key-{number}" for number in range(100)]
    outcomes = race.run(keys, "book_with_key")
    assert by_item(outcomes) == {key: {"booked": 1, "replayed": 3} for key in keys}
    for key in keys:
        assert len({done.detail for done in outcomes if done.item == key}) == 1, "all are told the same ticket"
    assert race.seats() == [100, 0]
    race.check()
