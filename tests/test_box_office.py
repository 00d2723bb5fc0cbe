"""The use cases on their own: what a timing means when, who may change a ticket, what is listed.

They run on a real store and a fakeredis server whose clock is the test's: it is noon on 10 June 2026 in theatres of
three seats with films at 15:00, 18:00 and 21:00.
"""

import asyncio
import datetime
import re
from collections.abc import AsyncIterator
from zoneinfo import ZoneInfo

import fakeredis
import pytest
from msgspec.structs import replace
from server_clock import ServerClock, server_clock
from small_theatre import HOUR_MS, LIFE_MS, MAIN, NAME, PHONE, House, opened_house

from service.box_office import Booking, BoxOffice
from service.errors import (
    AlreadyAdmitted,
    BookingCancelled,
    ShowtimeClosed,
    ShowtimeNotFound,
    SoldOut,
    TheatreNotFound,
    TicketExpired,
    TicketNotFound,
    Unavailable,
    WrongPhone,
)
from service.model import Idempotency, Theatre, Ticket

TODAY, TOMORROW = "2026-06-10", "2026-06-11"


class Office:
    """A box office, and the server behind it with its clock."""

    def __init__(self, clock: ServerClock, house: House) -> None:
        self.clock = clock
        self.house = house
        self.box_office = BoxOffice(house.store, house.programme)

    def under(self, *theatres: Theatre, ticket_life_ms: int = LIFE_MS) -> "Office":
        """The same server and tickets under another programme."""
        return Office(self.clock, self.house.with_programme(*theatres, ticket_life_ms=ticket_life_ms))

    async def at(self, instant: str) -> None:
        """Let it be that instant for the server, and let us know it."""
        self.clock.set(instant)
        await self.house.pipeline.learn_time()

    async def book(self, timing: str, name: str = NAME, phone: str = PHONE) -> Ticket:
        """Book at the main theatre."""
        theatre = self.house.programme.theatre(None)
        return (await self.box_office.book(theatre, timing, name, phone)).ticket

    async def booked(self, label: str) -> int:
        """Seats taken at a showtime, which must be as many as its ids."""
        counter, ids = await self.house.seats(self.house.programme.showtime(MAIN, label))
        assert counter == ids
        return counter


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    with server_clock(f"{TODAY}T12:00:00Z") as clock:
        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        async with opened_house(client.connection_pool) as house:
            yield Office(clock, house)


# Which showtime a timing means


async def test_a_clock_time_is_the_next_showtime_that_has_not_started(office: Office) -> None:
    assert (await office.book("18:00")).showtime.label == f"{TODAY}T18:00"
    await office.at(f"{TODAY}T17:59:58Z")
    assert (await office.book("18:00")).showtime.label == f"{TODAY}T18:00"
    await office.at(f"{TODAY}T18:00:00Z")
    assert (await office.book("18:00")).showtime.label == f"{TOMORROW}T18:00"


async def test_a_film_that_begins_while_the_wish_is_under_way_is_closed_and_the_next_is_meant(office: Office) -> None:
    """The server's clock is ahead of what we know of it: at 17:59 we ask for 18:00, and there it is past."""
    await office.at(f"{TODAY}T17:59:30Z")
    office.clock.set(f"{TODAY}T18:00:00Z")
    assert (await office.book("18:00")).showtime.label == f"{TOMORROW}T18:00"
    with pytest.raises(ShowtimeClosed, match=f"{TODAY}T18:00 has started"):
        await office.book(f"{TODAY}T18:00")
    assert (await office.booked(f"{TODAY}T18:00"), await office.booked(f"{TOMORROW}T18:00")) == (0, 1)


async def test_a_move_to_a_film_that_begins_meanwhile_goes_to_the_next_as_well(office: Office) -> None:
    ticket = await office.book(f"{TOMORROW}T15:00")
    stays = await office.book(f"{TOMORROW}T18:00")
    await office.at(f"{TODAY}T17:59:30Z")
    office.clock.set(f"{TODAY}T18:00:00Z")
    with pytest.raises(ShowtimeClosed, match=f"{TODAY}T18:00 has started"):
        await office.box_office.move(ticket.ticket_id, f"{TODAY}T18:00", PHONE)
    moved = await office.box_office.move(ticket.ticket_id, "18:00", PHONE)
    assert moved.showtime.label == f"{TOMORROW}T18:00"
    assert (await office.box_office.move(stays.ticket_id, "18:00", PHONE)) == stays, "it is there already"
    assert (await office.booked(f"{TOMORROW}T15:00"), await office.booked(f"{TOMORROW}T18:00")) == (0, 2)


async def test_a_ticket_whose_own_film_has_begun_moves_nowhere(office: Office) -> None:
    ticket = await office.book("15:00")
    await office.at(f"{TODAY}T15:00:00Z")
    for timing in ("18:00", "15:00", f"{TOMORROW}T18:00"):
        with pytest.raises(ShowtimeClosed, match=f"{TODAY}T15:00 has started"):
            await office.box_office.move(ticket.ticket_id, timing, PHONE)
    assert await office.booked(f"{TODAY}T15:00") == 1


async def test_the_horizon_is_seven_days(office: Office) -> None:
    await office.at(f"{TODAY}T15:00:00Z")
    week = "2026-06-17"
    assert (await office.book(f"{week}T15:00")).showtime.label == f"{week}T15:00", "168 hours ahead to the second"
    for change in (office.book(f"{week}T18:00"), office.book("2027-06-17T15:00")):
        with pytest.raises(ShowtimeClosed, match="opens for booking 7 days before it starts"):
            await change
    ticket = await office.book("18:00")
    with pytest.raises(ShowtimeClosed, match="opens for booking 7 days before"):
        await office.box_office.move(ticket.ticket_id, f"{week}T18:00", PHONE)
    assert await office.booked(f"{TODAY}T18:00") == 1


async def test_a_time_the_clock_skips_is_no_showtime_and_its_clock_time_means_the_next_day(office: Office) -> None:
    """In Berlin it is 02:00 and then 03:00 on 29 March 2026."""
    berlin = replace(MAIN, timezone=ZoneInfo("Europe/Berlin"), timings=("02:30", "18:00"))
    office = office.under(berlin)
    await office.at("2026-03-28T12:00:00+01:00")
    assert (await office.book("02:30")).showtime.label == "2026-03-30T02:30"
    with pytest.raises(ShowtimeNotFound, match="its clock skips that time"):
        await office.book("2026-03-29T02:30")


async def test_a_time_that_comes_twice_is_the_first_of_the_two(office: Office) -> None:
    """In Berlin the hour from 02:00 comes twice on 25 October 2026: at first in summer time."""
    office = office.under(replace(MAIN, timezone=ZoneInfo("Europe/Berlin"), timings=("02:30",)))
    await office.at("2026-10-24T12:00:00+02:00")
    assert (await office.book("02:30")).showtime.starts_at == "2026-10-25T02:30:00+02:00"
    await office.at("2026-10-25T02:30:00+02:00")
    assert (await office.book("02:30")).showtime.starts_at == "2026-10-26T02:30:00+01:00"


@pytest.mark.parametrize(
    ("zone", "label"),
    [
        ("Pacific/Kiritimati", f"{TOMORROW}T15:00"),  # UTC+14: it is 02:00 tomorrow
        ("Pacific/Niue", f"{TODAY}T15:00"),  # UTC-11: it is 01:00
        ("Asia/Kathmandu", f"{TOMORROW}T15:00"),  # UTC+5:45: it is 17:45
    ],
)
async def test_today_is_today_at_the_theatre(office: Office, zone: str, label: str) -> None:
    theatre = replace(MAIN, timezone=ZoneInfo(zone))
    office = office.under(theatre)
    assert (await office.book("15:00")).showtime.label == label
    showtimes = await office.box_office.showtimes(theatre, None)
    now = datetime.datetime.fromtimestamp(office.clock.time(), theatre.timezone)
    assert {seats.showtime.label[:10] for seats in showtimes} == {now.date().isoformat()}


async def test_the_next_showtime_of_each_timing_in_order_of_start(office: Office) -> None:
    await office.at(f"{TODAY}T16:00:00Z")
    await office.book("15:00")
    seats = await office.box_office.next_showtimes(MAIN)
    assert [each.showtime.label for each in seats] == [f"{TODAY}T18:00", f"{TODAY}T21:00", f"{TOMORROW}T15:00"]
    assert [each.booked for each in seats] == [0, 0, 1]


# Booking


async def test_an_id_names_its_theatre_and_cannot_be_guessed(office: Office) -> None:
    letters = office.box_office._letters
    ids = {next(letters) for _ in range(2000)}
    assert len(ids) == 2000
    assert all(re.fullmatch("[0-9A-HJKMNP-TV-Z]{16}", each) for each in ids), "80 bits in Crockford's base32"
    assert {letter for each in ids for letter in each} == set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    screen = replace(MAIN, id="screen-2")
    office = office.under(MAIN, screen)
    ticket = (await office.box_office.book(screen, "18:00", NAME, PHONE)).ticket
    assert ticket.ticket_id.startswith("screen-2-")
    assert await office.box_office.ticket(ticket.ticket_id) == ticket
    assert (await office.box_office.move(ticket.ticket_id, "21:00", PHONE)).showtime.theatre == screen


async def test_the_id_of_a_theatre_that_is_none_is_no_ticket(office: Office) -> None:
    with pytest.raises(TicketNotFound):
        await office.box_office.ticket("odeon-0000000000000000")
    written = office.house.pipeline.commands
    for ticket_id in ("}-0000000000000000", "0000000000000000", ""):
        with pytest.raises(TicketNotFound):
            await office.box_office.ticket(ticket_id)
    assert office.house.pipeline.commands == written, "nobody needs to ask Redis for that"


async def test_a_theatre_that_has_left_the_programme_keeps_its_tickets_and_sells_nothing(office: Office) -> None:
    odeon = replace(MAIN, id="odeon", timezone=ZoneInfo("Asia/Kolkata"))
    ids = []
    for phone in (PHONE, "+15550100"):
        ids.append((await office.under(MAIN, odeon).box_office.book(odeon, "18:00", NAME, phone)).ticket.ticket_id)
    before = await office.under(MAIN, odeon).box_office.ticket(ids[0])

    box_office = office.under(MAIN).box_office
    ticket = await box_office.ticket(ids[0])
    assert (ticket.name, ticket.phone, ticket.booked_ms) == (NAME, PHONE, before.booked_ms)
    assert (ticket.showtime.label, ticket.showtime.starts_at) == (before.showtime.label, before.showtime.starts_at)
    theatre = await box_office.theatre("odeon", ticket.showtime.label)
    assert theatre == ticket.showtime.theatre
    seats = await box_office.showtime(theatre, ticket.showtime.label)
    assert (seats.booked, seats.available, seats.status) == (2, 0, "closed")
    assert [each.ticket_id for each in await box_office.tickets(theatre, ticket.showtime.label)] == ids
    with pytest.raises(ShowtimeNotFound, match="odeon has left the programme"):
        await box_office.move(ids[0], "21:00", PHONE)
    with pytest.raises(TheatreNotFound):
        await box_office.theatre("odeon", before.showtime.label.replace("18:00", "21:00"))

    assert (await box_office.admit(ids[1])).admitted_ms
    with pytest.raises(WrongPhone):
        await box_office.cancel(ids[0], "+15550100")
    await box_office.cancel(ids[0], PHONE)
    with pytest.raises(TicketNotFound):
        await box_office.ticket(ids[0])
    assert [each.status for each in await box_office.tickets(theatre, ticket.showtime.label)] == ["admitted"]


async def test_a_showtime_that_has_left_the_programme_is_closed(office: Office) -> None:
    label = (await office.book("18:00")).showtime.label
    main = replace(MAIN, timings=("15:00", "21:00"))
    box_office = office.under(main).box_office
    assert (await box_office.showtime(main, label)).status == "closed"
    with pytest.raises(ShowtimeNotFound):
        await box_office.book(main, label, NAME, PHONE)


async def test_a_repeated_wish_tells_the_ticket_as_it_is_now(office: Office) -> None:
    wish = (MAIN, "18:00", NAME, PHONE, Idempotency("digest", "print"))
    ticket = (await office.box_office.book(*wish)).ticket
    assert await office.box_office.book(*wish) == Booking(ticket, replayed=True)
    moved = await office.box_office.move(ticket.ticket_id, "21:00", PHONE)
    assert await office.box_office.book(*wish) == Booking(moved, replayed=True)
    admitted = await office.box_office.admit(ticket.ticket_id)
    assert await office.box_office.book(*wish) == Booking(admitted, replayed=True)
    await office.at("2026-06-11T05:00:01Z")  # eight hours after 21:00
    with pytest.raises(TicketExpired):
        await office.box_office.book(*wish)


async def test_a_repeated_wish_for_a_ticket_that_was_cancelled_books_nothing(office: Office) -> None:
    wish = (MAIN, "18:00", NAME, PHONE, Idempotency("digest", "print"))
    ticket = (await office.box_office.book(*wish)).ticket
    await office.box_office.cancel(ticket.ticket_id, PHONE)
    with pytest.raises(BookingCancelled, match="use a new key"):
        await office.box_office.book(*wish)
    assert await office.booked(f"{TODAY}T18:00") == 0


# Changes of a ticket


async def test_a_change_wants_the_phone_and_the_box_office_may_leave_it_out(office: Office) -> None:
    ticket = await office.book("18:00")
    for wrong in ("+919812345679", "919812345678", ""):
        with pytest.raises(WrongPhone):
            await office.box_office.move(ticket.ticket_id, "21:00", wrong)
        with pytest.raises(WrongPhone):
            await office.box_office.cancel(ticket.ticket_id, wrong)
    assert await office.box_office.ticket(ticket.ticket_id) == ticket
    assert (await office.box_office.move(ticket.ticket_id, "21:00", None)).showtime.label == f"{TODAY}T21:00"
    assert (await office.box_office.cancel(ticket.ticket_id, None)).name == NAME
    assert await office.booked(f"{TODAY}T21:00") == 0


async def test_a_wrong_phone_is_told_before_anything_of_the_wish(office: Office) -> None:
    """Whoever does not know the phone learns nothing of the showtime that was asked for."""
    ticket = await office.book("18:00")
    for timing in ("04:44", f"{TODAY}T11:00", "2030-01-01T18:00", "18:00"):
        with pytest.raises(WrongPhone):
            await office.box_office.move(ticket.ticket_id, timing, "1234567")


async def test_a_move_to_where_the_ticket_is_changes_nothing(office: Office) -> None:
    ticket = await office.book("18:00")
    before = await office.house.everything()
    assert await office.box_office.move(ticket.ticket_id, "18:00", PHONE) == ticket
    assert await office.house.everything() == before


async def test_a_move_into_a_full_showtime_keeps_the_ticket(office: Office) -> None:
    ticket = await office.book("18:00")
    for _ in range(3):
        await office.book("21:00")
    with pytest.raises(SoldOut):
        await office.box_office.move(ticket.ticket_id, "21:00", PHONE)
    assert await office.box_office.ticket(ticket.ticket_id) == ticket


async def test_a_ticket_moves_also_from_a_showtime_that_has_left_the_programme(office: Office) -> None:
    ticket = await office.book("21:00")
    office = office.under(replace(MAIN, timings=("18:00",)))
    assert (await office.box_office.move(ticket.ticket_id, "18:00", PHONE)).showtime.label == f"{TODAY}T18:00"
    with pytest.raises(ShowtimeNotFound):
        await office.box_office.move(ticket.ticket_id, "21:00", PHONE)


async def test_moves_that_meet_are_tried_again_and_at_last_refused_with_nothing_done(office: Office) -> None:
    """Six want the same ticket elsewhere, each somewhere else: each round of looks and moves lets one pass."""
    ticket = await office.book("18:00")
    days = [f"2026-06-{day}T18:00" for day in range(11, 17)]
    outcomes = await asyncio.gather(
        *(office.box_office.move(ticket.ticket_id, day, PHONE) for day in days), return_exceptions=True
    )
    passed = [outcome.showtime.label for outcome in outcomes if isinstance(outcome, Ticket)]
    refused = [outcome for outcome in outcomes if not isinstance(outcome, Ticket)]
    assert (len(passed), len(refused)) == (4, 2)
    for error in refused:
        assert isinstance(error, Unavailable)
        assert "nothing was done" in error.detail
    assert (await office.box_office.ticket(ticket.ticket_id)).showtime.label in passed
    assert sum([await office.booked(day) for day in (f"{TODAY}T18:00", *days)]) == 1


async def test_a_cancellation_that_meets_moves_follows_the_ticket_or_is_refused(office: Office) -> None:
    ticket = await office.book("18:00")
    days = [f"2026-06-{day}T18:00" for day in range(11, 16)]
    *_, cancelled = await asyncio.gather(
        *(office.box_office.move(ticket.ticket_id, day, PHONE) for day in days),
        office.box_office.cancel(ticket.ticket_id, PHONE),
        return_exceptions=True,
    )
    assert isinstance(cancelled, Unavailable), "the ticket had moved before each of its four tries"
    assert (await office.box_office.cancel(ticket.ticket_id, PHONE)).ticket_id == ticket.ticket_id
    assert sum([await office.booked(day) for day in (f"{TODAY}T18:00", *days)]) == 0


# The life of a ticket


async def test_a_ticket_from_the_booking_to_oblivion(office: Office) -> None:
    ticket = await office.book("18:00")
    assert ticket.status == "booked"
    await office.at(f"{TODAY}T17:45:00Z")
    admitted = await office.box_office.admit(ticket.ticket_id)
    assert admitted == replace(ticket, admitted_ms=office.clock.now_ms)
    for change in (
        office.box_office.admit(ticket.ticket_id),
        office.box_office.cancel(ticket.ticket_id, PHONE),
        office.box_office.move(ticket.ticket_id, "21:00", PHONE),
    ):
        with pytest.raises(AlreadyAdmitted, match="17:45:00"):
            await change
    await office.at("2026-06-11T02:00:00Z")
    assert await office.box_office.ticket(ticket.ticket_id) == admitted, "eight hours after the start it is still there"
    await office.at("2026-06-11T02:00:01Z")
    for ask in (
        office.box_office.ticket(ticket.ticket_id),
        office.box_office.admit(ticket.ticket_id),
        office.box_office.cancel(ticket.ticket_id, PHONE),
        office.box_office.move(ticket.ticket_id, "21:00", PHONE),
    ):
        with pytest.raises(TicketExpired, match="2026-06-11T02:00:00"):
            await ask
    [listed] = await office.box_office.tickets(MAIN, f"{TODAY}T18:00")
    assert (listed.ticket_id, listed.status, listed.name, listed.phone) == (ticket.ticket_id, "expired", None, None)
    stored = repr(await office.house.everything())
    assert NAME not in stored
    assert PHONE not in stored
    await office.at("2026-06-12T02:00:00Z")
    with pytest.raises(TicketExpired):
        await office.box_office.ticket(ticket.ticket_id)
    await office.at("2026-06-12T02:00:01Z")
    with pytest.raises(TicketNotFound):
        await office.box_office.ticket(ticket.ticket_id)
    assert await office.box_office.tickets(MAIN, f"{TODAY}T18:00") == []
    assert await office.house.everything() == {}


async def test_a_ticket_booked_while_its_admission_failed_is_not_let_in(office: Office) -> None:
    """The door was told "no such ticket"; that the booking arrives then, late, lets nobody in."""
    ticket = await office.book("18:00")
    booking = office.house.pipeline.last
    await office.house.redis.flushall()
    office.house.pipeline.before_looks.append(booking)
    with pytest.raises(TicketNotFound):
        await office.box_office.admit(ticket.ticket_id)
    assert (await office.box_office.ticket(ticket.ticket_id)).status == "booked"


async def test_the_life_of_a_ticket_is_what_the_operator_says(office: Office) -> None:
    office = office.under(MAIN, ticket_life_ms=HOUR_MS)
    ticket = await office.book("18:00")
    await office.at(f"{TODAY}T19:00:01Z")
    with pytest.raises(TicketExpired):
        await office.box_office.ticket(ticket.ticket_id)


# Lists


async def test_a_clock_time_lists_every_date_that_still_has_tickets(office: Office) -> None:
    past = await office.book("18:00", "Past")
    await office.at("2026-06-11T12:00:00Z")
    later = await office.book("2026-06-17T18:00", "Later")
    first, second = await office.book("18:00", "First"), await office.book("18:00", "Second")
    await office.book("21:00", "Elsewhere")
    listed = await office.box_office.tickets_at(MAIN, "18:00")
    assert [ticket.ticket_id for ticket in listed] == [each.ticket_id for each in (past, first, second, later)]
    assert [ticket.status for ticket in listed] == ["expired", "booked", "booked", "booked"]
    assert await office.box_office.tickets_at(MAIN, f"{TOMORROW}T18:00") == [first, second]
    await office.at("2026-06-12T02:00:01Z")  # the showtime of the tenth is forgotten
    assert [ticket.name for ticket in await office.box_office.tickets_at(MAIN, "18:00")] == [None, None, "Later"]


async def test_a_timing_without_tickets_lists_none_and_one_that_is_none_is_not_found(office: Office) -> None:
    await office.book("18:00")
    assert await office.box_office.tickets_at(MAIN, "21:00") == []
    assert await office.box_office.tickets_at(MAIN, f"{TODAY}T21:00") == []
    for timing in ("04:44", f"{TODAY}T04:44"):
        with pytest.raises(ShowtimeNotFound, match="its timings are 15:00, 18:00, 21:00"):
            await office.box_office.tickets_at(MAIN, timing)


async def test_a_timing_that_has_left_the_programme_is_listed_while_it_has_tickets(office: Office) -> None:
    ticket = await office.book("21:00")
    without = replace(MAIN, timings=("15:00", "18:00"))
    office = office.under(without)
    for listed in ("21:00", f"{TODAY}T21:00"):
        assert [each.ticket_id for each in await office.box_office.tickets_at(without, listed)] == [ticket.ticket_id]
    assert (await office.box_office.showtime(without, f"{TODAY}T21:00")).booked == 1
    with pytest.raises(ShowtimeNotFound):
        await office.box_office.showtime(without, f"{TOMORROW}T21:00")
    with pytest.raises(ShowtimeNotFound):
        await office.book("21:00")
    await office.box_office.cancel(ticket.ticket_id, PHONE)
    with pytest.raises(ShowtimeNotFound):
        await office.box_office.tickets_at(without, "21:00")


async def test_the_showtimes_of_a_day_with_their_seats(office: Office) -> None:
    for _ in range(3):
        await office.book("18:00")
    await office.at(f"{TODAY}T16:00:00Z")
    seats = await office.box_office.showtimes(MAIN, datetime.date(2026, 6, 10))
    assert [(each.showtime.timing, each.booked, each.status) for each in seats] == [
        ("15:00", 0, "closed"),
        ("18:00", 3, "sold_out"),
        ("21:00", 0, "open"),
    ]
    beyond = await office.box_office.showtimes(MAIN, datetime.date(2026, 6, 17))
    assert [each.status for each in beyond] == ["open", "closed", "closed"], "168 hours ahead is 16:00 that day"
