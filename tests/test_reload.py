"""SIGHUP: the programme as its file has it now, in a real service that people use meanwhile."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtests.release import other_version
from tests.chaos.client import Answer, Client
from tests.chaos.service import ROOT, Service, until

BEFORE = """
[[theatre]]
id = "main"
capacity = 3
timings = ["18:00", "21:00"]

[[theatre]]
id = "odeon"
timezone = "Asia/Kolkata"
timings = ["18:00"]
"""
# Without the theatre odeon and the showtimes at 18:00, with fewer seats, and with one theatre more.
AFTER = """
[[theatre]]
id = "main"
capacity = 1
timings = ["21:00"]

[[theatre]]
id = "lyric"
timings = ["20:00"]
"""
PERSON = {"name": "Asha Rao", "phone": "+919812345678"}


class Chain:
    """A service with a programme that can be changed, and a client of it."""

    def __init__(self, folder: Path, tree: Path = ROOT) -> None:
        self.file = folder / "programme.toml"
        self.file.write_text(BEFORE)
        environment = {"MATINEE_PROGRAMME": str(self.file), "MATINEE_TIMINGS": ""}
        self.service = Service(folder, workers=2, redis_url=None, environment=environment, tree=tree)

    async def ask(self, method: str, path: str, fields: dict[str, str] | None = None) -> Answer:
        client = Client(self.service.port)
        try:
            return await client.ask(method, path, fields)
        finally:
            client.close()

    async def book(self, theatre: str, timing: str) -> Answer:
        return await self.ask("POST", "/v1/tickets", {**PERSON, "theatre": theatre, "timing": timing})

    async def theatres(self) -> list[str]:
        return [each["id"] for each in (await self.ask("GET", "/v1/theatres")).json["theatres"]]

    async def reload(self, programme: str) -> None:
        """Put a new file in place, tell the master, and wait until none of the old web processes is left."""
        before = set(self.service.web_processes())
        self.file.write_text(programme)
        self.service.process.send_signal(signal.SIGHUP)
        await until(lambda: not before & set(self.service.web_processes()), "the end of the old web processes")


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    chain = Chain(tmp_path)
    await chain.service.start()
    await until(lambda: len(chain.service.web_processes()) == 2, "both web processes")
    yield chain
    await asyncio.to_thread(chain.service.stop)


@contextlib.asynccontextmanager
async def crowd(port: int) -> AsyncIterator[list[int]]:
    """People who look at the programme and book at 21:00 as long as the block runs; the statuses of their answers.

    An answer that does not come fails the test.
    """
    statuses: list[int] = []
    over = False

    async def person() -> None:
        client = Client(port)
        while not over:
            for method, path, fields in (
                ("GET", "/v1/theatres", None),
                ("POST", "/v1/tickets", {**PERSON, "timing": "21:00"}),
            ):
                statuses.append((await client.ask(method, path, fields)).status)
        client.close()

    async with asyncio.TaskGroup() as people:
        for _ in range(8):
            people.create_task(person())
        yield statuses
        over = True


async def test_a_new_programme_is_taken_over_without_losing_a_request_or_a_ticket(chain: Chain) -> None:
    sold = [(await chain.book("main", "18:00")).json for _ in range(3)]
    away = (await chain.book("odeon", "18:00")).json

    async with crowd(chain.service.port) as statuses:
        await chain.reload(AFTER)
    assert set(statuses) == {200, 201, 409}
    assert 1 <= statuses.count(201) <= 3, "no more than the seats that there were"

    assert await chain.theatres() == ["lyric", "main"]
    assert (await chain.book("lyric", "20:00")).status == 201

    # The showtime with fewer seats than it sold: every ticket stays, and no more are sold until it is below that.
    [label] = {
        each["showtime"] for each in (await chain.ask("GET", "/")).json["showtimes"] if each["theatre"] == "main"
    }
    at_21 = f"/v1/theatres/main/showtimes/{label}"
    seats = (await chain.ask("GET", at_21)).json
    booked = statuses.count(201)
    assert (seats["booked"], seats["capacity"], seats["available"], seats["status"]) == (booked, 1, 0, "sold_out")
    listed = (await chain.ask("GET", f"{at_21}/tickets")).json["tickets"]
    assert len(listed) == booked
    for ticket in listed:
        assert (await chain.book("main", "21:00")).json["code"] == "sold_out"
        assert (await chain.ask("DELETE", f"/v1/tickets/{ticket['ticket_id']}")).status == 204
    assert (await chain.book("main", "21:00")).status == 201

    # The showtime that has gone: its tickets are there, more than there are seats now; new ones are not.
    at_18 = f"/v1/theatres/main/showtimes/{sold[0]['showtime']}"
    seats = (await chain.ask("GET", at_18)).json
    assert (seats["booked"], seats["capacity"], seats["status"]) == (3, 1, "closed")
    listed = (await chain.ask("GET", f"{at_18}/tickets")).json["tickets"]
    assert [each["ticket_id"] for each in listed] == [each["ticket_id"] for each in sold]
    assert (await chain.book("main", sold[0]["showtime"])).json["code"] == "showtime_not_found"

    # The theatre that has gone: the same.
    assert (await chain.ask("GET", f"/v1/tickets/{away['ticket_id']}")).json == away
    at_odeon = f"/v1/theatres/odeon/showtimes/{away['showtime']}/tickets"
    assert [each["ticket_id"] for each in (await chain.ask("GET", at_odeon)).json["tickets"]] == [away["ticket_id"]]
    assert (await chain.book("odeon", "18:00")).json["code"] == "theatre_not_found"
    assert (await chain.ask("DELETE", f"/v1/tickets/{away['ticket_id']}")).status == 204
    assert (await chain.ask("GET", at_odeon)).json["tickets"] == []


async def test_a_bad_file_changes_nothing_and_is_told_in_one_line(chain: Chain) -> None:
    before = set(chain.service.web_processes())
    chain.file.write_text(BEFORE.replace("capacity = 3", "capacity = none"))
    chain.service.process.send_signal(signal.SIGHUP)
    await until(lambda: "all stays as it was" in chain.service.log.read_text(), "the line")
    [line] = [line for line in chain.service.log.read_text().splitlines() if "all stays" in line]
    assert line.startswith(f"matinee: {chain.file}: not TOML: ")
    assert set(chain.service.web_processes()) == before
    assert await chain.theatres() == ["main", "odeon"]
    await chain.reload(AFTER)
    assert await chain.theatres() == ["lyric", "main"], "the next one is read again"


async def test_new_files_of_another_version_are_not_mixed_with_the_code_that_runs(tmp_path: Path) -> None:
    """An upgrade in the place of the running code: web processes that start afterwards are as those before."""
    tree = other_version(tmp_path / "tree")
    chain = Chain(tmp_path, tree)
    await chain.service.start()
    try:
        sold = (await chain.book("main", "18:00")).json
        path = f"/tickets/{sold['ticket_id']}"
        before = await chain.ask("GET", path)
        for file in [*(tree / "service" / "pages").glob("*.html"), *(tree / "service" / "lua").glob("*.lua")]:
            file.write_text("Another version, which the code that runs cannot use: {{ nothing }}")
        for file in (tree / "service").rglob("*.py"):
            file.write_text("raise RuntimeError('another version')")
        await chain.reload(BEFORE)
        after = await chain.ask("GET", path)
        assert (after.status, after.body) == (before.status, before.body)
        assert (await chain.book("main", "18:00")).status == 201
    finally:
        await asyncio.to_thread(chain.service.stop)
