"""The check of the books, which must notice each way of doctoring them; and a small load from end to end."""

import asyncio
import datetime
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
from redis.asyncio import ConnectionPool
from small_theatre import LIFE_MS, MAIN, NAME, PHONE, opened_house

from loadtests import chain, versions
from loadtests.books import Receipts, audit
from loadtests.durability import Mode, report
from loadtests.path import BARE
from loadtests.starter import LoadError
from service.keys import CANCELLED_LIFE_MS, showtime_keys, ticket_key
from service.programme import Programme, programme_from
from service.scripts import BOOK, CANCEL, MOVE, Script
from service.settings import Settings

ROOT = Path(__file__).parent.parent
CAPACITY = 3
PROGRAMME = Programme([MAIN], LIFE_MS)
DATE = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
EARLY, LATE = f"{DATE}T18:00", f"{DATE}T21:00"
EARLY_KEY, EARLY_IDS = showtime_keys("main", EARLY)
LATE_KEY, LATE_IDS = showtime_keys("main", LATE)
ADA, BOB, CY, DEE, EVE, FAY = (f"main-{name:0>16}" for name in ("ADA", "B0B", "CY", "DEE", "EVE", "FAY"))


async def fill(url: str) -> None:
    """Three tickets at the early showtime (full), one at the late one, and one cancelled."""
    pool = ConnectionPool.from_url(url)
    async with opened_house(pool) as house:
        for ticket_id, label in ((ADA, EARLY), (BOB, EARLY), (CY, EARLY), (DEE, LATE), (EVE, LATE)):
            await house.store.book(ticket_id, house.programme.showtime(MAIN, label), NAME, PHONE)
        await house.cancel(EVE)
    await pool.aclose()


@pytest.fixture
def client(server_url: str) -> Iterator[redis.Redis]:
    asyncio.run(fill(server_url))
    with redis.Redis.from_url(server_url) as client:
        yield client


@pytest.fixture
def receipts() -> Receipts:
    """What the clients of that server were told."""
    return Receipts(held={ADA: EARLY, BOB: EARLY, CY: EARLY, DEE: LATE}, cancelled={EVE})


def wrong(client: redis.Redis, receipts: Receipts | None = None) -> list[str]:
    return [str(disagreement) for disagreement in audit(client, {"main": CAPACITY}, receipts).disagreements]


def test_books_and_receipts_that_agree(client: redis.Redis, receipts: Receipts) -> None:
    report = audit(client, {"main": CAPACITY}, receipts)
    assert report.disagreements == []
    assert report.line == "books: 2 showtimes, 4 tickets, 4 receipts: 0 disagreements"


def test_what_the_service_itself_would_find_is_found(client: redis.Redis) -> None:
    client.hincrby(LATE_KEY, "booked", 1)
    assert wrong(client) == [f"{LATE_KEY}: 2 booked, but 1 ids are listed"]


def by_hand(client: redis.Redis, script: Script, keys: list[str], *arguments: object) -> None:
    """Run a script behind the clients' backs."""
    client.eval(script.source, len(keys), *keys, *map(str, arguments))


def book_by_hand(client: redis.Redis, ticket_id: str) -> None:
    late = PROGRAMME.showtime(MAIN, LATE).moment
    facts = (ticket_id, NAME, PHONE, late.stored, CAPACITY, late.starts_ms, late.expires_ms, late.forgotten_ms)
    by_hand(client, BOOK, [LATE_KEY, LATE_IDS, ticket_key("main", ticket_id)], *facts)


def move_by_hand(client: redis.Redis, ticket_id: str) -> None:
    early, late = PROGRAMME.showtime(MAIN, EARLY).moment, PROGRAMME.showtime(MAIN, LATE).moment
    keys = [ticket_key("main", ticket_id), EARLY_KEY, EARLY_IDS, LATE_KEY, LATE_IDS]
    facts = (0, early.starts_ms, CAPACITY, late.starts_ms, late.expires_ms, late.forgotten_ms)
    by_hand(client, MOVE, keys, ticket_id, early.stored, late.stored, *facts)


def cancel_by_hand(client: redis.Redis, ticket_id: str) -> None:
    keys = [ticket_key("main", ticket_id), LATE_KEY, LATE_IDS]
    by_hand(client, CANCEL, keys, ticket_id, PROGRAMME.showtime(MAIN, LATE).moment.stored, "word", CANCELLED_LIFE_MS)


AGAINST_RECEIPTS: dict[str, tuple[Callable[[redis.Redis], object], list[str]]] = {
    "an accepted ticket that is nowhere": (
        lambda client: cancel_by_hand(client, DEE),
        [f"{DEE}: accepted for {LATE_KEY}, but no showtime lists such a ticket"],
    ),
    "a ticket at another showtime than its holder was told": (
        lambda client: move_by_hand(client, CY),
        [f"{CY}: accepted for {EARLY_KEY}, but listed by {LATE_KEY}"],
    ),
    "a cancelled ticket that is back": (
        lambda client: (client.delete(ticket_key("main", EVE)), book_by_hand(client, EVE)),
        [f"{EVE}: cancelled, but listed by {LATE_KEY}"],
    ),
    "a ticket that nobody asked for": (
        lambda client: book_by_hand(client, FAY),
        [f"{FAY}: 1 stored without a receipt, 0 bookings went unanswered"],
    ),
}


@pytest.mark.parametrize(("doctor", "expected"), AGAINST_RECEIPTS.values(), ids=AGAINST_RECEIPTS.keys())
def test_books_that_agree_in_themselves_are_held_against_the_receipts(
    client: redis.Redis, receipts: Receipts, doctor: Callable[[redis.Redis], object], expected: list[str]
) -> None:
    doctor(client)
    assert wrong(client) == []
    assert wrong(client, receipts) == expected


def test_what_a_client_cannot_know_is_not_held_against_the_books(client: redis.Redis, receipts: Receipts) -> None:
    move_by_hand(client, CY)
    book_by_hand(client, FAY)
    receipts.unsure.add(CY)
    receipts.unanswered = 1
    assert wrong(client, receipts) == []


LOAD = [sys.executable, "-m", "loadtests.load", "--users", "20", "--seconds", "4"]


def test_a_small_load_leaves_books_that_agree(tmp_path: Path) -> None:
    command = [*LOAD, "--seconds", "4", "--reports", str(tmp_path)]  # on a busy machine the first comes after two
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("failures 0\n") == 2
    assert result.stdout.count(" receipts: 0 disagreements\n") == 2
    for scenario in ("rush", "day"):
        assert "book: accepted" in (tmp_path / f"{scenario}.html").read_text()


def test_a_small_release_fails_no_request() -> None:
    command = [
        sys.executable,
        "-m",
        "loadtests.release",
        "--requests",
        "600",
        "--rounds",
        "1",
        "--way",
        "shared-socket",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    row = re.search(r"^second start, socket handed over +1 +\S+ +([\d,]+) +0 .* 0 disagreements$", result.stdout, re.M)
    assert row, result.stdout
    assert int(row[1].replace(",", "")) >= 600


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


def test_the_durability_table_shows_ratios_to_the_first_mode_turn_by_turn(capsys: pytest.CaptureFixture[str]) -> None:
    every_second = Mode("everysec", 1, {1: [100.0, 200.0], 64: [1000.0, 1000.0]}, {1: [1.0, 2.0], 64: [5.0, 6.0]})
    always = Mode("always", 2, {1: [10.0, 40.0], 64: [900.0, 700.0]}, {1: [8.0, 9.0], 64: [7.0, 8.0]})
    report([every_second, always])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[2][:4] == ["always", "25", "0.15", "0.10-0.20"]
    assert rows[5][:4] == ["always", "800", "0.80", "0.70-0.90"]


# A chain, and two versions in turns


def test_the_programme_of_a_chain_is_one_that_the_service_takes(tmp_path: Path) -> None:
    file = chain.programme(tmp_path, 200)
    programme = programme_from(Settings.from_environment({"MATINEE_PROGRAMME": str(file)}))
    assert list(programme.theatres)[::199] == ["hall-00000", "hall-00199"]
    assert programme.theatre("hall-00100").timings == chain.TIMINGS
    assert len(programme.directory.page(10, "koln").theatres) == 2


def test_the_table_of_a_chain_shows_ratios_turn_by_turn() -> None:
    one, other = ([chain.Turn(web, store, 1.0, 1.0, 0.0) for web, store in turns] for turns in TURNS)
    rows = [line.split() for line in chain.table({"a booking": {"one theatre": one, "chain": other}})]
    assert rows[1] == ["a", "booking,", "web", "20.0", "30.0", "1.50", "1.10-2.00"]
    assert rows[2] == ["a", "booking,", "store", "5.0", "5.0", "1.00", "1.00-1.00"]


TURNS = (((10.0, 5.0), (20.0, 5.0), (40.0, 5.0)), ((20.0, 5.0), (30.0, 5.0), (44.0, 5.0)))


def test_two_versions_are_compared_turn_by_turn(capsys: pytest.CaptureFixture[str]) -> None:
    turns = {"before": [(10.0, 15.0), (20.0, 24.0)], "after": [(10.0, 12.0), (10.0, 14.4)]}
    versions.report_path(
        {
            name: [dict.fromkeys(versions.SIDES, cost) | {BARE: bare} for bare, cost in found]
            for name, found in turns.items()
        }
    )
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].split() == ["book", "1.35", "1.32", "1.00", "0.80-1.20"]


def test_a_version_that_git_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="git does not give the service of no-such-commit: fatal"):
        versions.unpacked("no-such-commit", tmp_path / "before")
