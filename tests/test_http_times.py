"""Time through HTTP: the clock goes back and forth, theatres are far away, hours pass.

The server is a fakeredis whose clock the test sets. A service that is opened anew knows its time at once.
"""

import datetime
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import fakeredis
import pytest
from http_api import ASHA, Api, opened, problem
from server_clock import ServerClock, server_clock

DAY = "/v1/theatres/main/showtimes"


class Server:
    """One server of tickets, whatever becomes of the service and of the time."""

    def __init__(self, clock: ServerClock) -> None:
        self.clock = clock
        self.client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())

    @asynccontextmanager
    async def at(self, instant: str, **variables: str) -> AsyncIterator[Api]:
        """The service at that instant."""
        self.clock.set(instant)
        api = await opened(self.client.connection_pool, **variables)
        try:
            yield api
        finally:
            await api.client.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with server_clock("2026-01-01T00:00:00Z") as clock:
        yield Server(clock)


BERLIN = {"MATINEE_TIMEZONE": "Europe/Berlin", "MATINEE_TIMINGS": "01:00,02:30,18:00"}


async def test_in_spring_a_time_is_skipped(server: Server) -> None:
    """In Berlin 29 March 2026 has no 02:30: the clock goes from 02:00 to 03:00."""
    async with server.at("2026-03-28T12:00:00+01:00", **BERLIN) as api:
        listed = (await (await api.get(DAY, params={"date": "2026-03-29"})).json())["showtimes"]
        assert [each["timing"] for each in listed] == ["01:00", "18:00"]
        assert [each["starts_at"] for each in listed] == ["2026-03-29T01:00:00+01:00", "2026-03-29T18:00:00+02:00"]
        skipped = "2026-03-29T02:30"
        told = await problem(await api.get(f"{DAY}/{skipped}"), 404, "showtime_not_found")
        assert "its clock skips that time" in told["detail"]
        await problem(await api.post("/v1/tickets", json={**ASHA, "timing": skipped}), 404, "showtime_not_found")
        assert (await api.book(timing="02:30"))["starts_at"] == "2026-03-30T02:30:00+02:00"
        ticket = await api.book(timing="01:00")
        assert ticket["starts_at"] == "2026-03-29T01:00:00+01:00"
        assert ticket["expires_at"] == "2026-03-29T10:00:00+02:00", "eight hours, not eight on the clock"
        answer = await api.post("/viewontime", data={"timing": "02:30"})
        assert [each["showtime"] for each in (await answer.json())["tickets"]] == ["2026-03-30T02:30"]


async def test_in_autumn_a_time_comes_twice_and_the_first_counts(server: Server) -> None:
    """In Berlin the hour from 02:00 comes twice on 25 October 2026."""
    async with server.at("2026-10-25T02:29:00+02:00", **BERLIN) as api:
        ticket = await api.book(timing="02:30")
        assert (ticket["starts_at"], ticket["expires_at"]) == ("2026-10-25T02:30:00+02:00", "2026-10-25T09:30:00+01:00")
    async with server.at("2026-10-25T02:29:00+01:00", **BERLIN) as api:
        assert (await api.seats("2026-10-25T02:30"))["status"] == "closed", "the clock shows 02:29, for the second time"
        assert (await api.book(timing="02:30"))["starts_at"] == "2026-10-26T02:30:00+01:00"
        answer = await api.post("/v1/tickets", json={**ASHA, "timing": "2026-10-25T02:30"})
        await problem(answer, 409, "showtime_closed")


@pytest.mark.parametrize(
    ("zone", "today", "offset"),
    [
        ("Pacific/Kiritimati", "2026-06-11", "+14:00"),
        ("Pacific/Chatham", "2026-06-11", "+12:45"),
        ("Asia/Kathmandu", "2026-06-10", "+05:45"),
        ("America/St_Johns", "2026-06-10", "-02:30"),
        ("Pacific/Niue", "2026-06-10", "-11:00"),
    ],
)
async def test_a_theatre_far_away_has_its_own_day(server: Server, zone: str, today: str, offset: str) -> None:
    async with server.at("2026-06-10T12:00:00Z", MATINEE_TIMEZONE=zone) as api:
        for listed in (await (await api.get(DAY)).json())["showtimes"]:
            assert listed["showtime"].startswith(today)
            assert listed["starts_at"] == f"{listed['showtime']}:00{offset}"
        ticket = await api.book(timing="18:00")
        starts = datetime.datetime.fromisoformat(ticket["starts_at"])
        now = datetime.datetime.fromisoformat("2026-06-10T12:00:00+00:00")
        assert datetime.timedelta(0) < starts - now <= datetime.timedelta(days=1)
        assert ticket["booked_at"] == now.astimezone(starts.tzinfo).isoformat()


async def test_a_leap_day_is_a_day(server: Server) -> None:
    async with server.at("2028-02-28T20:00:00Z") as api:
        assert (await api.book(timing="18:00"))["showtime"] == "2028-02-29T18:00"
        assert (await api.book(timing="2028-03-01T18:00"))["expires_at"] == "2028-03-02T02:00:00+00:00"


async def test_the_horizon_is_seven_days_of_twenty_four_hours(server: Server) -> None:
    """A week over the change of the clock has 167 or 169 hours; the horizon stays 168."""
    async with server.at("2026-03-22T18:00:00+01:00", **BERLIN) as api:
        assert (await api.book(timing="2026-03-29T18:00"))["showtime"] == "2026-03-29T18:00"
    async with server.at("2026-10-18T18:00:00+02:00", **BERLIN) as api:
        answer = await api.post("/v1/tickets", json={**ASHA, "timing": "2026-10-25T18:00"})
        told = await problem(answer, 409, "showtime_closed")
        assert "7 days before" in told["detail"]
        assert (await api.seats("2026-10-25T18:00"))["status"] == "closed"


async def test_the_whole_life_of_a_ticket(server: Server) -> None:
    async with server.at("2026-06-10T17:59:00Z") as api:
        ticket = await api.book(timing="18:00")
        path = f"/v1/tickets/{ticket['ticket_id']}"
        listing = f"{DAY}/{ticket['showtime']}/tickets"
    async with server.at("2026-06-11T02:00:00Z") as api:
        assert await (await api.get(path)).json() == ticket
        assert (await (await api.post("/viewontime", data={"timing": "18:00"})).json())["tickets"] == [ticket]
    async with server.at("2026-06-11T02:00:01Z") as api:
        await problem(await api.get(path), 410, "ticket_expired")
        await problem(await api.post("/viewuser", data={"ticket_id": ticket["ticket_id"]}), 410, "ticket_expired")
        [row] = (await (await api.get(listing)).json())["tickets"]
        assert (row["status"], row["name"], row["phone"]) == ("expired", None, None)
    async with server.at("2026-06-12T02:00:01Z") as api:
        await problem(await api.get(path), 404, "ticket_not_found")
        assert (await (await api.get(listing)).json())["tickets"] == []
