"""`matinee audit`: it notices each way of doctoring a database, mends what is safe, and is not misled by a busy one."""

import asyncio
import contextlib
import datetime
import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from redis.asyncio import ConnectionPool
from small_theatre import DAY_MS, HOUR_MS, LIFE_MS, MAIN, NAME, PHONE, House, opened_house

from service.audit import Report, audit
from service.errors import SoldOut
from service.keys import CANCELLED_LIFE_MS, IDEMPOTENCY_LIFE_MS, idempotency_key, keys_of, ticket_key
from service.model import Idempotency, Theatre
from service.programme import Programme
from service.repair import repair
from service.store import Changed

PROGRAMME = Programme([MAIN], LIFE_MS)
DATE = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
FULL, LATE = (PROGRAMME.showtime(MAIN, f"{DATE}T{timing}") for timing in ("18:00", "21:00"))
FULL_KEY, FULL_IDS = keys_of(FULL)
LATE_KEY, LATE_IDS = keys_of(LATE)
ADA, BOB, CY, DEE, EVE, FAY = (f"main-{name:0>16}" for name in ("ADA", "B0B", "CY", "DEE", "EVE", "FAY"))
RECORD = idempotency_key("main", "0" * 32)
FINGERPRINT = "f" * 32


def ticket(ticket_id: str) -> str:
    return ticket_key("main", ticket_id)


async def fill(url: str) -> None:
    """Three tickets at one showtime, which is full; one at a later one; one cancelled; one booked with a key."""
    pool = ConnectionPool.from_url(url)
    async with opened_house(pool) as house:
        for ticket_id in (ADA, BOB, CY):
            await house.store.book(ticket_id, FULL, NAME, PHONE)
        await house.store.book(DEE, LATE, NAME, PHONE, Idempotency("0" * 32, FINGERPRINT))
        await house.store.book(EVE, LATE, NAME, PHONE)
        await house.cancel(EVE)
    await pool.aclose()


@pytest.fixture
def client(server_url: str) -> Iterator[redis.Redis]:
    asyncio.run(fill(server_url))
    with redis.Redis.from_url(server_url) as client:
        yield client


def lines(report: Report) -> list[str]:
    return [str(disagreement) for disagreement in report.disagreements]


def test_fields_of_another_version_are_no_disagreement(client: redis.Redis) -> None:
    for key in (LATE_KEY, ticket(DEE)):
        client.hset(key, "of_the_next_version", "told to nobody")
    assert lines(audit(client, PROGRAMME)) == []


def test_clean_books_agree(client: redis.Redis) -> None:
    report = audit(client, PROGRAMME)
    assert lines(report) == []
    assert report.line == "books: 2 showtimes, 4 tickets: 0 disagreements"
    assert report.remarks == []
    assert report.keys == client.dbsize()


def test_an_empty_server_agrees(server_url: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        assert audit(client, PROGRAMME).line == "books: 0 showtimes, 0 tickets: 0 disagreements"


def test_every_live_ticket_is_seen_where_it_is_listed(client: redis.Redis) -> None:
    seen: dict[str, str] = {}
    audit(client, PROGRAMME, seen=seen.__setitem__)
    assert seen == {ADA: FULL_KEY, BOB: FULL_KEY, CY: FULL_KEY, DEE: LATE_KEY}


def store_by_hand(client: redis.Redis, ticket_id: str, showtime: Any) -> None:
    """A ticket without a seat."""
    facts = {"name": NAME, "phone": PHONE, "showtime": showtime.moment.stored, "booked_at": 1}
    client.hset(ticket(ticket_id), mapping=facts)
    client.pexpireat(ticket(ticket_id), showtime.moment.expires_ms)


def make_room(client: redis.Redis) -> None:
    """Take Cy out of the full showtime, all of him."""
    client.delete(ticket(CY))
    client.zrem(FULL_IDS, CY)
    client.hincrby(FULL_KEY, "booked", -1)


# What was done to the books, what the audit says, and what is left of that after a repair.
DOCTORED: dict[str, tuple[Callable[[redis.Redis], object], list[str], list[str]]] = {
    "a counter one too high": (
        lambda client: client.hincrby(LATE_KEY, "booked", 1),
        [f"{LATE_KEY}: 2 booked, but 1 ids are listed"],
        [],
    ),
    "a counter one too low": (
        lambda client: client.hincrby(FULL_KEY, "booked", -1),
        [f"{FULL_KEY}: 2 booked, but 3 ids are listed"],
        [],
    ),
    "a counter that is lost": (
        lambda client: client.hdel(LATE_KEY, "booked"),
        [f"{LATE_KEY}: its counter is None, which is no number"],
        [],
    ),
    "a version that went back": (
        lambda client: client.hset(FULL_KEY, "version", 1),
        [f"{FULL_KEY}: its version is 1, but an id was listed at version 3"],
        [],
    ),
    "a showtime that is lost but for its list": (
        lambda client: client.delete(LATE_KEY),
        [
            f"{LATE_KEY}: its counter is None, which is no number",
            f"{LATE_KEY}: its version is None, but an id was listed at version 1",
            f"{LATE_KEY}: its time zone is lost",
            f"{LATE_KEY}: is forgotten at None, which is no time",
        ],
        [],
    ),
    "a time zone that is lost": (
        lambda client: client.hdel(LATE_KEY, "zone"),
        [f"{LATE_KEY}: its time zone is lost"],
        [],
    ),
    "a time zone that is none": (
        lambda client: client.hset(LATE_KEY, "zone", "Mars/Phobos"),
        [f"{LATE_KEY}: its time zone is Mars/Phobos, which is none"],
        [f"{LATE_KEY}: its time zone is Mars/Phobos, which is none"],
    ),
    "a list that is lost": (
        lambda client: client.delete(FULL_IDS),
        [
            f"{FULL_KEY}: 3 booked, but 0 ids are listed",
            *(f"{each}: stored for {FULL_KEY}, which does not list it" for each in (ADA, BOB, CY)),
        ],
        [],
    ),
    "a ticket that is not listed": (
        lambda client: client.zrem(LATE_IDS, DEE),
        [f"{LATE_KEY}: 1 booked, but 0 ids are listed", f"{DEE}: stored for {LATE_KEY}, which does not list it"],
        [],
    ),
    "a ticket that is not listed, and no seat for it": (
        lambda client: store_by_hand(client, FAY, FULL),
        [f"{FAY}: stored for {FULL_KEY}, which does not list it"],
        [f"{FAY}: stored for {FULL_KEY}, which does not list it"],
    ),
    "a ticket that is lost": (
        lambda client: client.delete(ticket(BOB)),
        [f"{BOB}: listed by {FULL_KEY}, but no such ticket is stored"],
        [f"{BOB}: listed by {FULL_KEY}, but no such ticket is stored"],
    ),
    "a cancelled ticket that is listed": (
        lambda client: (client.zadd(LATE_IDS, {EVE: 2}), client.hincrby(LATE_KEY, "booked", 1)),
        [f"{EVE}: listed by {LATE_KEY}, but cancelled"],
        [],
    ),
    "an id that leaked in a move": (
        lambda client: (client.zadd(LATE_IDS, {ADA: 2}), client.hincrby(LATE_KEY, "booked", 1)),
        [f"{ADA}: listed by {LATE_KEY}, but stored for {FULL_KEY}"],
        [],
    ),
    "a ticket listed by the wrong showtime alone": (
        lambda client: (
            make_room(client),
            client.zrem(FULL_IDS, BOB),
            client.hincrby(FULL_KEY, "booked", -1),
            client.zadd(LATE_IDS, {BOB: 2}),
            client.hincrby(LATE_KEY, "booked", 1),
        ),
        [
            f"{BOB}: listed by {LATE_KEY}, but stored for {FULL_KEY}",
            f"{BOB}: stored for {FULL_KEY}, which does not list it",
        ],
        [],
    ),
    "a seat over the cap that the counter hides": (
        lambda client: (store_by_hand(client, FAY, FULL), client.zadd(FULL_IDS, {FAY: 3})),
        [
            f"{FULL_KEY}: 4 seats taken, over the capacity of 3",
            f"{FULL_KEY}: 3 booked, but 4 ids are listed",
        ],
        [f"{FULL_KEY}: 4 seats taken, over the capacity of 3"],
    ),
    "an id of another theatre": (
        lambda client: (client.zadd(LATE_IDS, {"studio-0000000000000000": 2}), client.hincrby(LATE_KEY, "booked", 1)),
        [f"{LATE_KEY}: lists studio-0000000000000000, which is no ticket id of its theatre"],
        [f"{LATE_KEY}: lists studio-0000000000000000, which is no ticket id of its theatre"],
    ),
    "a ticket that never expires": (
        lambda client: client.persist(ticket(ADA)),
        [f"{ticket(ADA)}: never expires"],
        [],
    ),
    "a ticket that expires a millisecond late": (
        lambda client: client.pexpireat(ticket(ADA), FULL.moment.expires_ms + 1),
        [f"{ticket(ADA)}: expires 1 ms too late"],
        [],
    ),
    "a ticket that expires a millisecond early": (
        lambda client: client.pexpireat(ticket(ADA), FULL.moment.expires_ms - 1),
        [f"{ticket(ADA)}: expires 1 ms too early"],
        [],
    ),
    "a ticket that outlives what its showtime knows of": (
        lambda client: client.pexpireat(ticket(ADA), FULL.moment.expires_ms + HOUR_MS),
        [f"{ticket(ADA)}: expires 3,600,000 ms too late"],
        [],
    ),
    "a showtime that never expires": (
        lambda client: client.persist(LATE_KEY),
        [f"{LATE_KEY}: never expires"],
        [],
    ),
    "a list that is forgotten a millisecond early": (
        lambda client: client.pexpireat(LATE_IDS, LATE.moment.forgotten_ms - 1),
        [f"{LATE_IDS}: expires 1 ms too early"],
        [],
    ),
    "a showtime that says another end than tickets can have": (
        lambda client: (
            client.hset(LATE_KEY, "forgotten", LATE.moment.forgotten_ms + 7),
            client.pexpireat(LATE_KEY, LATE.moment.forgotten_ms + 7),
            client.pexpireat(LATE_IDS, LATE.moment.forgotten_ms + 7),
        ),
        [f"{LATE_KEY}: is forgotten at {LATE.moment.forgotten_ms + 7}, which no life of tickets gives"],
        [f"{LATE_KEY}: is forgotten at {LATE.moment.forgotten_ms + 7}, which no life of tickets gives"],
    ),
    "a tombstone that stays": (
        lambda client: client.persist(ticket(EVE)),
        [f"{ticket(EVE)}: never expires"],
        [],
    ),
    "a tombstone that stays too long": (
        lambda client: client.pexpire(ticket(EVE), CANCELLED_LIFE_MS + DAY_MS),
        [re.compile(rf"{re.escape(ticket(EVE))}: expires 86,[34]\d\d,\d\d\d ms too late")],
        [],
    ),
    "a ticket without its showtime": (
        lambda client: client.hdel(ticket(DEE), "showtime"),
        [
            f"{DEE}: listed by {LATE_KEY}, but no such ticket is stored",
            f"{ticket(DEE)}: neither a ticket nor the mark of a cancelled one",
        ],
        [
            f"{DEE}: listed by {LATE_KEY}, but no such ticket is stored",
            f"{ticket(DEE)}: neither a ticket nor the mark of a cancelled one",
        ],
    ),
    "a ticket whose time of booking is lost": (
        lambda client: client.hset(ticket(DEE), "booked_at", "noon"),
        [f"{DEE}: its time of booking is noon, which is no number"],
        [f"{DEE}: its time of booking is noon, which is no number"],
    ),
    "a ticket that no booking could have made": (
        lambda client: client.set("{main}:ticket:main-GUS", 1, px=HOUR_MS),
        ["{main}:ticket:main-GUS: cannot be read: WRONGTYPE Operation against a key holding the wrong kind of value"],
        ["{main}:ticket:main-GUS: cannot be read: WRONGTYPE Operation against a key holding the wrong kind of value"],
    ),
    "an idempotency record that is none": (
        lambda client: client.set(RECORD, "nonsense", keepttl=True),
        [f"{RECORD}: is no ticket id with a fingerprint"],
        [f"{RECORD}: is no ticket id with a fingerprint"],
    ),
    "an idempotency record that stays": (
        lambda client: client.persist(RECORD),
        [f"{RECORD}: never expires"],
        [],
    ),
    "a record of another type": (
        lambda client: (client.delete(RECORD), client.rpush(RECORD, 1), client.pexpire(RECORD, HOUR_MS)),
        [f"{RECORD}: cannot be read: WRONGTYPE Operation against a key holding the wrong kind of value"],
        [f"{RECORD}: cannot be read: WRONGTYPE Operation against a key holding the wrong kind of value"],
    ),
    "a list of another type": (
        lambda client: (client.delete(LATE_IDS), client.set(LATE_IDS, 1)),
        [
            f"{LATE_IDS}: cannot be read: WRONGTYPE Operation against a key holding the wrong kind of value",
            f"{DEE}: stored for {LATE_KEY}, which does not list it",
        ],
        [
            f"{LATE_IDS}: cannot be read: WRONGTYPE Operation against a key holding the wrong kind of value",
            f"{DEE}: stored for {LATE_KEY}, which does not list it",
        ],
    ),
    "keys of somebody else": (
        lambda client: (client.set("stray\n", 1), client.set("{main}:seat:1", 1)),
        ["stray\\n: no key of Matinee", "{main}:seat:1: no key of Matinee"],
        ["stray\\n: no key of Matinee", "{main}:seat:1: no key of Matinee"],
    ),
}


def agree(found: list[str], expected: list[Any]) -> bool:
    """Whether they are the same lines, in any order, for SCAN has one of its own."""
    unmatched = list(found)
    for each in expected:
        same = [line for line in unmatched if (each == line if isinstance(each, str) else each.fullmatch(line))]
        if not same:
            return False
        unmatched.remove(same[0])
    return not unmatched


@pytest.mark.parametrize(("doctor", "expected", "left"), DOCTORED.values(), ids=DOCTORED.keys())
def test_each_disagreement_is_reported_and_mended_where_that_is_safe(
    client: redis.Redis, doctor: Callable[[redis.Redis], object], expected: list[Any], left: list[str]
) -> None:
    doctor(client)
    report = audit(client, PROGRAMME)
    assert agree(lines(report), expected), lines(report)

    told = list(repair(client, PROGRAMME, report.disagreements))
    assert len(told) == len(expected), "one line for each finding"
    assert sum(not mended for _, mended in told) == len(left), told
    assert all(NAME not in line and PHONE not in line for line, _ in told)

    again = audit(client, PROGRAMME)
    assert agree(lines(again), left), lines(again)
    assert [line for line, mended in repair(client, PROGRAMME, again.disagreements) if mended] == []


def test_a_theatre_that_has_left_the_programme_is_audited_by_its_time_zone(client: redis.Redis) -> None:
    other = Programme([Theatre("studio", "Studio", MAIN.timezone, 3, MAIN.timings)], LIFE_MS)
    report = audit(client, other)
    assert (lines(report), report.remarks) == ([], ["theatres that are not in the programme: main"])
    client.hincrby(LATE_KEY, "booked", 1)
    client.pexpireat(ticket(ADA), FULL.moment.expires_ms + 1)
    report = audit(client, other)
    assert agree(
        lines(report), [f"{LATE_KEY}: 2 booked, but 1 ids are listed", f"{ticket(ADA)}: expires 1 ms too late"]
    )
    fates = dict(repair(client, other, report.disagreements))
    assert fates[f"{LATE_KEY}: 2 booked, but 1 ids are listed: left: it is not of a theatre of the programme"] is False


def test_what_changed_between_audit_and_repair_is_left_alone(client: redis.Redis) -> None:
    client.persist(ticket(ADA))
    client.zrem(LATE_IDS, DEE)
    client.zadd(LATE_IDS, {EVE: 2})
    report = audit(client, PROGRAMME)
    client.pexpireat(ticket(ADA), FULL.moment.expires_ms)
    client.zadd(LATE_IDS, {DEE: 1})
    client.zrem(LATE_IDS, EVE)
    told = [line for line, mended in repair(client, PROGRAMME, report.disagreements) if not mended]
    assert len(told) == 3
    assert all("left: it has changed since" in line for line in told)
    assert lines(audit(client, PROGRAMME)) == []


def test_an_overdue_ticket_without_an_expiry_goes_when_it_is_mended(server_url: str) -> None:
    """Its name and phone should have been gone long ago."""
    yesterday = PROGRAMME.showtime(MAIN, f"{DATE - datetime.timedelta(days=3)}T15:00")
    with redis.Redis.from_url(server_url) as client:
        store_by_hand(client, ADA, LATE)
        client.hset(ticket(ADA), "showtime", yesterday.moment.stored)
        client.persist(ticket(ADA))
        for key in keys_of(yesterday):
            client.delete(key)
        report = audit(client, PROGRAMME)
        assert f"{ticket(ADA)}: never expires" in lines(report)
        list(repair(client, PROGRAMME, report.disagreements))
        assert not client.exists(ticket(ADA))


def test_expired_tickets_are_missed_by_nobody(server_url: str) -> None:
    yesterday = PROGRAMME.showtime(MAIN, f"{DATE - datetime.timedelta(days=3)}T15:00")
    an_hour_ago_ms = (int(time.time()) - 3600) * 1000
    programme = Programme([MAIN], an_hour_ago_ms - yesterday.starts_ms)
    key, ids = keys_of(yesterday)
    with redis.Redis.from_url(server_url) as client:
        facts = {"booked": 1, "version": 1, "forgotten": an_hour_ago_ms + DAY_MS, "zone": "UTC"}
        client.hset(key, mapping=facts)
        client.zadd(ids, {ADA: 1})
        for each in (key, ids):
            client.pexpireat(each, an_hour_ago_ms + DAY_MS)
        assert lines(audit(client, programme)) == []


def test_tickets_booked_under_another_life_are_no_disagreement(client: redis.Redis) -> None:
    report = audit(client, Programme([MAIN], 2 * LIFE_MS))
    assert lines(report) == []
    assert report.remarks == ["4 tickets were booked while MATINEE_TICKET_LIFE was another"]


def test_many_keys_are_read_in_several_round_trips(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(2_000):
            pipe.set(idempotency_key("main", f"{number:032x}"), f"{ADA} {FINGERPRINT}", px=IDEMPOTENCY_LIFE_MS)
        pipe.execute()
    client.hincrby(LATE_KEY, "booked", 1)
    heard: list[tuple[int, int]] = []
    report = audit(client, PROGRAMME, progress=lambda read, found: heard.append((read, found)))
    assert lines(report) == [f"{LATE_KEY}: 2 booked, but 1 ids are listed"]
    assert len(heard) >= 4
    assert heard[-1] == (client.dbsize(), 1)


BUSY = Theatre("main", "Main theatre", ZoneInfo("UTC"), 20, tuple(f"{hour:02}:00" for hour in range(24)))


def test_a_busy_service_gives_no_false_alarm(server_url: str) -> None:
    """People book, move and cancel while audits follow one another; whatever is read halfway is read again."""
    over = threading.Event()
    changes: list[str] = []

    async def crowd() -> None:
        pool = ConnectionPool.from_url(server_url)
        async with opened_house(pool, BUSY) as house:
            await asyncio.gather(*(person(house, seed) for seed in range(64)))
        await pool.aclose()

    async def person(house: House, seed: int) -> None:
        dice = random.Random(seed)
        held: list[str] = []
        for number in itertools.count():
            if over.is_set():
                return
            with contextlib.suppress(SoldOut, Changed):
                if len(held) < 7:
                    ticket_id = f"main-{seed:04d}{number:012d}"
                    await house.store.book(ticket_id, house.showtime(dice.choice(BUSY.timings)), NAME, PHONE)
                    held.append(ticket_id)
                    changes.append("book")
                elif dice.random() < 0.7:
                    await house.move(dice.choice(held), house.showtime(dice.choice(BUSY.timings)))
                    changes.append("move")
                else:
                    await house.cancel(held.pop(dice.randrange(len(held))))
                    changes.append("cancel")

    thread = threading.Thread(target=lambda: asyncio.run(crowd()))
    thread.start()
    found, audits = [], 0
    try:
        with redis.Redis.from_url(server_url) as client:
            while len(changes) < 4000 or audits < 5:
                assert thread.is_alive()
                found += lines(audit(client, Programme([BUSY], LIFE_MS)))
                audits += 1
    finally:
        over.set()
        thread.join()
    assert found == []
    assert {"book", "move", "cancel"} == set(changes)
