"""The check of the books, which must notice each way of doctoring them; and a small load from end to end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from loadtests.books import Receipts, audit
from service.keys import showtime_keys, ticket_key
from service.programme import FORGOTTEN_AFTER_MS

ROOT = Path(__file__).parent.parent
HOUR_MS = 3_600_000
CAPACITY = 3
EARLY, LATE = "2026-11-24T18:00", "2026-11-24T21:00"
EARLY_KEY, EARLY_IDS = showtime_keys("main", EARLY)
LATE_KEY, LATE_IDS = showtime_keys("main", LATE)
ADA, BOB, CY, DEE = "main-ADA", "main-BOB", "main-CY", "main-DEE"


def ticket(ticket_id: str) -> str:
    return ticket_key("main", ticket_id)


@pytest.fixture
def client(server_url: str) -> Iterator[redis.Redis]:
    """A server with three tickets at the early showtime (full), one at the late one, and one cancelled."""
    with redis.Redis.from_url(server_url) as client:
        for key, ids, booked in ((EARLY_KEY, EARLY_IDS, (ADA, BOB, CY)), (LATE_KEY, LATE_IDS, (DEE,))):
            client.hset(key, mapping={"booked": len(booked), "version": len(booked)})
            client.zadd(ids, {ticket_id: version for version, ticket_id in enumerate(booked, 1)})
            client.pexpire(key, FORGOTTEN_AFTER_MS + HOUR_MS)
            client.pexpire(ids, FORGOTTEN_AFTER_MS + HOUR_MS)
            for ticket_id in booked:
                facts = {"name": "Ada", "phone": "+919812345678", "showtime": key[-13:], "booked_at": 1}
                client.hset(ticket(ticket_id), mapping=facts)
                client.pexpire(ticket(ticket_id), HOUR_MS)
        client.hset(ticket("main-EVE"), mapping={"cancelled": "word", "version": 2})
        client.pexpire(ticket("main-EVE"), HOUR_MS)
        client.set("{main}:idempotency:digest", f"{ADA} fingerprint", px=HOUR_MS)
        yield client


@pytest.fixture
def receipts() -> Receipts:
    """What the clients of that server were told."""
    return Receipts(held={ADA: EARLY, BOB: EARLY, CY: EARLY, DEE: LATE}, cancelled={"main-EVE"})


def wrong(client: redis.Redis, receipts: Receipts | None = None) -> list[str]:
    return [str(disagreement) for disagreement in audit(client, {"main": CAPACITY}, receipts).disagreements]


def test_clean_books_agree(client: redis.Redis, receipts: Receipts) -> None:
    report = audit(client, {"main": CAPACITY}, receipts)
    assert report.disagreements == []
    assert report.line == "books: 2 showtimes, 4 tickets, 4 receipts: 0 disagreements"


def test_an_empty_server_agrees(server_url: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        assert audit(client, {"main": CAPACITY}, Receipts()).disagreements == []


DOCTORED: dict[str, tuple[Callable[[redis.Redis], object], list[str]]] = {
    "a counter one too high": (
        lambda client: client.hincrby(LATE_KEY, "booked", 1),
        [f"{LATE_KEY}: 2 booked, but 1 ids are listed"],
    ),
    "a counter one too low": (
        lambda client: client.hincrby(EARLY_KEY, "booked", -1),
        [f"{EARLY_KEY}: 2 booked, but 3 ids are listed"],
    ),
    "a counter that is lost": (
        lambda client: client.hdel(LATE_KEY, "booked"),
        [f"{LATE_KEY}: its counter is None, not a number"],
    ),
    "a list that is lost": (
        lambda client: client.delete(LATE_IDS),
        [
            f"{LATE_KEY}: 1 booked, but 0 ids are listed",
            f"{DEE}: stored for {LATE_KEY}, which does not list it",
        ],
    ),
    "a ticket that is lost": (
        lambda client: client.delete(ticket(BOB)),
        [
            f"{BOB}: listed by {EARLY_KEY}, but no such ticket is stored",
            f"{BOB}: accepted for {EARLY_KEY}, but no such ticket is stored",
        ],
    ),
    "an id that leaked": (
        lambda client: client.zadd(LATE_IDS, {ADA: 2}),
        [
            f"{LATE_KEY}: 1 booked, but 2 ids are listed",
            f"{ADA}: listed by {LATE_KEY}, but stored for {EARLY_KEY}",
        ],
    ),
    "a seat over the cap": (
        lambda client: book_by_hand(client, "main-FAY", EARLY_KEY, EARLY_IDS),
        [
            f"{EARLY_KEY}: 4 booked, over the capacity of 3",
            "main-FAY: 1 stored without a receipt, 0 bookings went unanswered",
        ],
    ),
    "an accepted ticket that is nowhere": (
        lambda client: forget(client, DEE, LATE_KEY, LATE_IDS),
        [f"{DEE}: accepted for {LATE_KEY}, but no such ticket is stored"],
    ),
    "a ticket at another showtime than its holder was told": (
        lambda client: move_by_hand(client, CY),
        [f"{CY}: accepted for {EARLY_KEY}, but stored for {LATE_KEY}"],
    ),
    "a cancelled ticket that is back": (
        lambda client: (
            client.delete(ticket("main-EVE")),
            book_by_hand(client, "main-EVE", LATE_KEY, LATE_IDS),
        ),
        [f"main-EVE: cancelled, but stored for {LATE_KEY}"],
    ),
    "a ticket that never expires": (
        lambda client: client.persist(ticket(ADA)),
        [f"{ticket(ADA)}: never expires"],
    ),
    "a showtime that never expires": (
        lambda client: client.persist(LATE_KEY),
        [f"{LATE_KEY}: never expires"],
    ),
    "a key of nobody's that never expires": (
        lambda client: client.set("stray", 1),
        ["stray: never expires"],
    ),
    "a key of the wrong type": (
        lambda client: client.set("{main}:ticket:main-GUS", 1, px=HOUR_MS),
        [
            "{main}:ticket:main-GUS: HMGET is refused: "
            "WRONGTYPE Operation against a key holding the wrong kind of value"
        ],
    ),
}


def book_by_hand(client: redis.Redis, ticket_id: str, key: str, ids: str) -> None:
    client.hincrby(key, "booked", 1)
    client.zadd(ids, {ticket_id: 9})
    client.hset(ticket(ticket_id), mapping={"showtime": key[-13:], "booked_at": 1})
    client.pexpire(ticket(ticket_id), HOUR_MS)


def forget(client: redis.Redis, ticket_id: str, key: str, ids: str) -> None:
    client.hincrby(key, "booked", -1)
    client.zrem(ids, ticket_id)
    client.pexpire(ids, FORGOTTEN_AFTER_MS + HOUR_MS)
    client.delete(ticket(ticket_id))


def move_by_hand(client: redis.Redis, ticket_id: str) -> None:
    forget(client, ticket_id, EARLY_KEY, EARLY_IDS)
    book_by_hand(client, ticket_id, LATE_KEY, LATE_IDS)


@pytest.mark.parametrize(("doctor", "expected"), DOCTORED.values(), ids=DOCTORED.keys())
def test_each_disagreement_is_reported(
    client: redis.Redis, receipts: Receipts, doctor: Callable[[redis.Redis], object], expected: list[str]
) -> None:
    doctor(client)
    assert wrong(client, receipts) == expected


def test_a_theatre_that_the_programme_lacks_is_reported(client: redis.Redis) -> None:
    report = audit(client, {"studio": CAPACITY})
    assert [str(disagreement) for disagreement in report.disagreements] == [
        f"{key}: the programme has no theatre 'main'" for key in (EARLY_KEY, LATE_KEY)
    ]


def test_expired_tickets_are_missed_by_nobody(client: redis.Redis) -> None:
    for key in (EARLY_KEY, EARLY_IDS):
        client.pexpire(key, FORGOTTEN_AFTER_MS - HOUR_MS)
    for ticket_id in (ADA, BOB, CY):
        client.delete(ticket(ticket_id))
    assert wrong(client) == []


def test_what_a_client_cannot_know_is_not_held_against_the_books(
    client: redis.Redis, receipts: Receipts
) -> None:
    move_by_hand(client, CY)
    book_by_hand(client, "main-FAY", LATE_KEY, LATE_IDS)
    receipts.unsure.add(CY)
    receipts.unanswered = 1
    assert wrong(client, receipts) == []


def test_many_keys_are_read_in_several_round_trips(client: redis.Redis, receipts: Receipts) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(2_000):
            pipe.set(f"{{main}}:idempotency:{number}", 1, px=HOUR_MS)
        pipe.execute()
    client.hincrby(LATE_KEY, "booked", 1)
    assert wrong(client, receipts) == [f"{LATE_KEY}: 2 booked, but 1 ids are listed"]


LOAD = [sys.executable, "-m", "loadtests.load", "--users", "20", "--seconds", "4"]


def test_a_small_load_leaves_books_that_agree(tmp_path: Path) -> None:
    result = subprocess.run(
        [*LOAD, "--reports", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("failures 0\n") == 2
    assert result.stdout.count(" receipts: 0 disagreements\n") == 2
    for scenario in ("rush", "day"):
        assert "book: accepted" in (tmp_path / f"{scenario}.html").read_text()


def test_an_interrupted_load_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [*LOAD[:-1], "60", "--scenario", "rush", "--reports", str(tmp_path)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as load:
        wait_until(lambda: any(tmp_path.glob("*/locust.log")))
        load.send_signal(signal.SIGINT)
        assert load.wait(60) == 130
    assert processes_naming(tmp_path) == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def processes_naming(folder: Path) -> list[str]:
    """The command lines of live processes that carry the folder's path: locust's, and the Valkey server's."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if str(folder) in line]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--users", "0", "argument --users: must be a whole number, 1 or more"),
        ("--seconds", "soon", "argument --seconds: must be a whole number, 1 or more"),
        ("--scenario", "flood", "argument --scenario: invalid choice: 'flood'"),
    ],
)
def test_a_bad_option_is_named(option: str, value: str, message: str) -> None:
    result = subprocess.run([*LOAD, option, value], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr


def test_more_users_than_the_machine_can_hold_are_refused() -> None:
    result = subprocess.run(
        [*LOAD, "--users", "99999999"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "99999999 users need" in result.stderr
