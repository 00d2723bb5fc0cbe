"""The check of the books, which must notice each way of doctoring them; and a small load from end to end."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from loadtests.books import Receipts, audit
from service.keys import showtime_keys, ticket_key
from service.model import FORGOTTEN_AFTER_MS

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
        [f"{LATE_KEY}: its counter is None, which is no number"],
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
    "a seat over the cap that the counter hides": (
        lambda client: client.zadd(EARLY_IDS, {DEE: 4}),
        [
            f"{EARLY_KEY}: 4 seats taken, over the capacity of 3",
            f"{EARLY_KEY}: 3 booked, but 4 ids are listed",
            f"{DEE}: listed by {EARLY_KEY}, but stored for {LATE_KEY}",
        ],
    ),
    "a seat over the cap": (
        lambda client: book_by_hand(client, "main-FAY", EARLY_KEY, EARLY_IDS),
        [
            f"{EARLY_KEY}: 4 seats taken, over the capacity of 3",
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
    "a ticket without its showtime": (
        lambda client: client.hdel(ticket(DEE), "showtime"),
        [
            f"{ticket(DEE)}: neither a ticket nor the mark of a cancelled one",
            f"{DEE}: listed by {LATE_KEY}, but no such ticket is stored",
            f"{DEE}: accepted for {LATE_KEY}, but no such ticket is stored",
        ],
    ),
    "a key of the wrong type": (
        lambda client: client.set("{main}:ticket:main-GUS", 1, px=HOUR_MS),
        ["{main}:ticket:main-GUS: HMGET is refused: WRONGTYPE Operation against a key holding the wrong kind of value"],
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


def test_what_a_client_cannot_know_is_not_held_against_the_books(client: redis.Redis, receipts: Receipts) -> None:
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
    result = subprocess.run([*LOAD, "--reports", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("failures 0\n") == 2
    assert result.stdout.count(" receipts: 0 disagreements\n") == 2
    for scenario in ("rush", "day"):
        assert "book: accepted" in (tmp_path / f"{scenario}.html").read_text()


class RunningLoad:
    """A rush in the background, whose temporary folder is known to the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*LOAD, "--scenario", "rush", "--reports", str(folder)],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(lambda: any(folder.glob("*/locust.log")))

    def end(self) -> tuple[int, str]:
        """Wait for its exit code and its output."""
        output, _ = self.process.communicate(timeout=90)
        return self.process.returncode, output

    def processes(self) -> list[str]:
        """The live processes that carry the folder's path in their arguments or their environment."""
        listing = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
        return [line for line in listing.splitlines() if str(self.folder) in line]


@pytest.fixture
def load() -> Iterator[RunningLoad]:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:  # pytest's own are too long for a socket's path
        load = RunningLoad(Path(folder))
        yield load
        load.process.terminate()
        load.end()


def test_a_counter_doctored_under_load_fails_it(load: RunningLoad) -> None:
    (socket,) = load.folder.glob("*/data/valkey.sock")
    with redis.Redis.from_url(f"unix://{socket}") as client:
        wait_until(lambda: next(client.scan_iter("*:tickets"), None) is not None)
        key = next(client.scan_iter("*:tickets")).decode().removesuffix(":tickets")
        client.hincrby(key, "booked", 1)
    code, output = load.end()
    assert code == 1
    assert " receipts: 0 disagreements\n" not in output
    assert re.search(rf"    {re.escape(key)}: (\d+) booked, but (\d+) ids are listed\n", output)


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_load_leaves_no_process_behind(load: RunningLoad, interruption: signal.Signals) -> None:
    assert len(load.processes()) >= 4  # the command itself, the service, its Valkey, locust
    load.process.send_signal(interruption)
    code, output = load.end()
    assert code == 130
    assert "interrupted" in output
    assert load.processes() == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


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
    result = subprocess.run([*LOAD, "--users", "99999999"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "99999999 users need" in result.stderr
