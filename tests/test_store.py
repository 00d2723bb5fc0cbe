"""The store and its scripts: what each call answers, what it leaves in Redis and for how long, and what a repeat does.

Every test runs on fakeredis and on real servers, and afterwards every key that is left has a time to live.
"""

import asyncio
import contextlib
import datetime
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace
from redis.asyncio import ConnectionPool
from small_theatre import DAY_MS, HOUR_MS, LIFE_MS, MAIN, NAME, PHONE, Call, House, opened_house

from service.errors import (
    AlreadyAdmitted,
    BookingCancelled,
    IdempotencyKeyReused,
    OutcomeUnknown,
    ShowtimeClosed,
    SoldOut,
    TicketExpired,
    TicketNotFound,
)
from service.keys import showtime_keys, ticket_key
from service.model import FORGOTTEN_AFTER_MS, Idempotency, Showtime, Ticket
from service.scripts import Script
from service.store import Booked, Changed, Found, Moved, Replayed, Store
from tests.fault_proxy import FaultProxy

ID = "main-000000000000000A"


@pytest.fixture
async def house(pool: ConnectionPool, keys_left: None) -> AsyncIterator[House]:
    async with opened_house(pool) as house:
        yield house


@pytest.fixture
def evening(house: House) -> Showtime:
    return house.showtime("18:00")


@pytest.fixture
def night(house: House) -> Showtime:
    return house.showtime("21:00")


def compact(showtime: Showtime) -> str:
    return showtime.label.replace("-", "").replace(":", "")


async def fill(house: House, showtime: Showtime) -> list[str]:
    """Sell the showtime out; return the ids."""
    return [await house.book(showtime) for _ in range(MAIN.capacity)]


async def server_ms(house: House) -> int:
    seconds, microseconds = await house.redis.time()
    return seconds * 1000 + microseconds // 1000


async def begun(house: House, showtime: Showtime) -> str:
    """Book a ticket for a film that has begun: it was sold in time, so the booking is told of a later start."""
    later = await server_ms(house) + HOUR_MS
    moment = replace(showtime.moment, starts_ms=later, expires_ms=later + LIFE_MS, forgotten_ms=later + DAY_MS)
    return await house.book(replace(showtime, moment=moment))


# Booking


async def test_a_booking_counts_the_seat_and_stores_the_ticket(house: House, evening: Showtime) -> None:
    before_ms = await server_ms(house)
    booked = await house.store.book(ID, evening, NAME, PHONE)
    assert isinstance(booked, Booked)
    assert booked.version == 1
    assert before_ms <= booked.booked_ms <= await server_ms(house), "the server's clock counts"
    showtime, label = f"{{main}}:showtime:{compact(evening)}", compact(evening).encode()
    stored = {key: value for key, (value, _) in (await house.everything()).items()}
    assert stored == {
        showtime: {
            b"booked": b"1",
            b"version": b"1",
            b"forgotten": b"%d" % evening.moment.forgotten_ms,
            b"zone": b"UTC",
        },
        f"{showtime}:tickets": [(ID.encode(), 1.0)],
        f"{{main}}:ticket:{ID}": {
            b"name": NAME.encode(),
            b"phone": PHONE.encode(),
            b"showtime": label,
            b"booked_at": b"%d" % booked.booked_ms,
        },
    }


async def test_the_seat_after_the_last_is_sold_out_and_leaves_no_trace(house: House, evening: Showtime) -> None:
    await fill(house, evening)
    before = await house.everything()
    with pytest.raises(SoldOut, match=evening.label):
        await house.book(evening)
    assert await house.everything() == before


async def test_a_showtime_that_has_started_is_closed(house: House) -> None:
    with pytest.raises(ShowtimeClosed, match="has started"):
        await house.book(house.showtime(days=-1))
    assert await house.everything() == {}


async def test_a_freed_seat_is_bookable(house: House, evening: Showtime) -> None:
    first, *_ = await fill(house, evening)
    await house.cancel(first)
    assert await house.seats(evening) == (2, 2)
    await house.book(evening)
    assert await house.seats(evening) == (3, 3)
    with pytest.raises(SoldOut):
        await house.book(evening)


async def test_every_change_of_the_seats_makes_the_next_version(
    house: House, evening: Showtime, night: Showtime
) -> None:
    first = await house.store.book(ID, evening, NAME, PHONE)
    second = await house.store.book(ID[:-1] + "B", evening, NAME, PHONE)
    assert (first, second.version) == (Booked(1, first.booked_ms), 2)
    assert await house.move(ID, night) == Moved(from_version=3, to_version=1)
    assert await house.move(ID, evening) == Moved(from_version=2, to_version=4)
    await house.store.admit(MAIN, ID[:-1] + "B")
    assert await house.cancel(ID) == 5, "an admission changes no seat"
    evenings, nights = await house.store.availability([evening, night])
    assert (evenings.version, nights.version) == (5, 2)


async def test_a_lowered_capacity_cancels_nothing_and_sells_nothing(house: House, evening: Showtime) -> None:
    ids = await fill(house, evening)
    lowered = house.with_programme(replace(MAIN, capacity=1))
    [seats] = await lowered.store.availability([lowered.showtime()])
    assert (seats.booked, seats.available, seats.status) == (3, 0, "sold_out")
    for ticket_id in ids[:2]:
        with pytest.raises(SoldOut):
            await lowered.store.book(ID, lowered.showtime(), NAME, PHONE)
        await lowered.cancel(ticket_id)
    with pytest.raises(SoldOut):
        await lowered.store.book(ID, lowered.showtime(), NAME, PHONE)
    await lowered.cancel(ids[2])
    await lowered.store.book(ID, lowered.showtime(), NAME, PHONE)


@pytest.mark.parametrize(
    "name",
    [
        'Ana "Ani" O\'Hara, \\n',
        "नूर ज़हाँ",
        "\U0001f600" * 80,
        "%s %d %% %1",
        "}{main}:ticket:*",
        "\x00\x01\r\n\x7f",
        "a",
    ],
    ids=ascii,
)
async def test_a_name_comes_back_byte_for_byte(house: House, evening: Showtime, name: str) -> None:
    """The edge lets no control characters in; the scripts would not mind them."""
    ticket_id = await house.book(evening, name)
    assert (await house.store.ticket(MAIN, ticket_id)).ticket.name == name
    [listed] = await house.store.tickets(evening)
    assert (listed.name, listed.phone) == (name, PHONE)
    assert (await house.store.admit(MAIN, ticket_id)).name == name


# A full showtime is asked about once by all who come at a moment


async def results(*bookings: Awaitable[str]) -> Counter[str]:
    """How often each end came about: `booked` or the name of the error."""
    ends = await asyncio.gather(*bookings, return_exceptions=True)
    return Counter("booked" if isinstance(end, str) else type(end).__name__ for end in ends)


async def test_those_who_come_together_to_a_full_showtime_share_one_question(house: House, evening: Showtime) -> None:
    await fill(house, evening)
    assert await results(house.book(evening)) == {"SoldOut": 1}
    commands = house.pipeline.commands
    assert await results(*(house.book(evening) for _ in range(50))) == {"SoldOut": 50}
    assert house.pipeline.commands <= commands + 2, "one of them the pipeline's own, perhaps"


async def test_a_seat_that_came_free_is_sold_once_to_those_who_share_a_question(
    house: House, evening: Showtime
) -> None:
    [ticket_id, *_] = await fill(house, evening)
    assert await results(house.book(evening)) == {"SoldOut": 1}
    await house.cancel(ticket_id)
    assert await results(*(house.book(evening) for _ in range(50))) == {"booked": 1, "SoldOut": 49}
    assert await house.seats(evening) == (3, 3)


async def test_whoever_comes_after_a_question_was_written_asks_anew(house: House, evening: Showtime) -> None:
    """A cancellation that was answered before a booking is asked for is seen by it, whatever is under way."""
    [ticket_id, *_] = await fill(house, evening)
    assert await results(house.book(evening)) == {"SoldOut": 1}
    for _ in range(20):
        early = [asyncio.create_task(house.book(evening)) for _ in range(5)]
        while not house.pipeline.in_flight:  # noqa: ASYNC110  until they are written, and not longer
            await asyncio.sleep(0)
        await house.cancel(ticket_id)
        late = await asyncio.gather(house.book(evening), *early, return_exceptions=True)
        [ticket_id] = [end for end in late if isinstance(end, str)]


async def test_one_who_shares_a_question_may_leave_and_so_may_the_one_who_asks_it(
    house: House, evening: Showtime
) -> None:
    await fill(house, evening)
    assert await results(house.book(evening)) == {"SoldOut": 1}
    bookings = [asyncio.create_task(house.book(evening)) for _ in range(5)]
    await asyncio.sleep(0)  # now they have asked
    for leaving in (bookings[0], bookings[3]):
        leaving.cancel()
    assert await results(*bookings) == {"CancelledError": 2, "SoldOut": 3}


async def test_a_question_that_could_not_be_asked_keeps_nobody_waiting(house: House, evening: Showtime) -> None:
    await fill(house, evening)
    assert await results(house.book(evening)) == {"SoldOut": 1}
    await house.pipeline.close()
    for _ in range(2):
        assert await results(*(house.book(evening) for _ in range(3))) == {"Unavailable": 3}


async def test_who_shares_a_question_without_an_answer_does_not_wait_for_another_one(server_url: str) -> None:
    pool = ConnectionPool.from_url(server_url)
    async with opened_house(pool) as house:
        evening = house.showtime()
        await fill(house, evening)
        assert await results(house.book(evening)) == {"SoldOut": 1}
        house.pipeline._deadline_s = 0.3
        await house.redis.client_pause(60_000, all=False)
        try:
            assert await results(*(house.book(evening) for _ in range(5))) == {"OutcomeUnknown": 1, "Unavailable": 4}
        finally:
            await house.redis.client_unpause()
    await pool.aclose()


async def test_theatres_that_show_at_the_same_time_sell_their_own_seats(house: House) -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    theatres = [
        replace(MAIN, id="rex", capacity=1),
        replace(MAIN, id="gloria", capacity=3),
        replace(MAIN, id="odeon", capacity=2, timezone=tokyo),
    ]
    house = house.with_programme(*theatres)
    label = house.showtime().label
    sold = Counter[str]()
    for number in range(5):
        for theatre in theatres:
            showtime = house.programme.showtime(theatre, label)
            with contextlib.suppress(SoldOut):
                await house.store.book(f"{theatre.id}-{number:016d}", showtime, NAME, PHONE)
                sold[theatre.id] += 1
    assert sold == {"rex": 1, "gloria": 3, "odeon": 2}
    for theatre in theatres:
        moment = house.programme.showtime(theatre, label).moment
        assert await house.redis.pexpiretime(ticket_key(theatre.id, f"{theatre.id}-{0:016d}")) == moment.expires_ms
        assert await house.redis.hget(showtime_keys(theatre.id, label)[0], "zone") == theatre.timezone.key.encode()


async def test_of_more_full_showtimes_than_are_kept_in_mind_each_sells_its_seats(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.FULL_KEPT", 2)
    showtimes = [house.showtime(timing, days) for timing in MAIN.timings for days in (2, 3)]
    for _ in range(MAIN.capacity):
        for showtime in showtimes:
            await house.book(showtime)
    for showtime in showtimes * 2:
        assert await results(*(house.book(showtime) for _ in range(3))) == {"SoldOut": 3}
    assert [await house.seats(showtime) for showtime in showtimes] == [(3, 3)] * 6
    assert len(house.store._full) == 2
    for showtime in showtimes:
        await house.cancel((await house.store.tickets(showtime))[0].ticket_id)
        await house.book(showtime)
    assert not house.store._full, "a booking shows that there was a seat"


async def test_a_repeat_with_a_key_shares_no_question(house: House, evening: Showtime) -> None:
    key = Idempotency("digest", "fingerprint")
    await house.store.book("main-0000000000000009", evening, NAME, PHONE, key)
    await house.book(evening)
    await house.book(evening)
    assert await results(house.book(evening)) == {"SoldOut": 1}
    strangers = [asyncio.create_task(house.book(evening)) for _ in range(5)]
    assert await house.store.book("main-0000000000000010", evening, NAME, PHONE, key) == Replayed(
        "main-0000000000000009"
    )
    assert await results(*strangers) == {"SoldOut": 5}


# A look at the same seats at the same time is one


async def test_those_who_look_together_share_one_look(house: House, evening: Showtime, night: Showtime) -> None:
    await house.book(evening)
    commands = house.pipeline.commands
    looks = await asyncio.gather(*(house.store.availability([evening, night]) for _ in range(50)))
    assert house.pipeline.commands <= commands + 2, "one of them the pipeline's own, perhaps"
    assert all(look is looks[0] for look in looks)
    assert [seats.booked for seats in looks[0]] == [1, 0]


async def test_a_look_at_other_seats_is_another_one(house: House, evening: Showtime, night: Showtime) -> None:
    await house.book(evening)
    evenings, nights, both = await asyncio.gather(
        house.store.availability([evening]),
        house.store.availability([night]),
        house.store.availability([night, evening]),
    )
    assert [seats.booked for seats in (*evenings, *nights, *both)] == [1, 0, 0, 1]


async def test_a_look_sees_every_booking_that_was_answered_before_it(house: House) -> None:
    large = house.with_programme(replace(MAIN, capacity=1000))
    showtime = large.showtime()
    seen = answered = 0

    async def look() -> None:
        nonlocal seen
        known = answered
        [seats] = await large.store.availability([showtime])
        assert seats.booked >= known
        seen += 1

    async def book() -> None:
        nonlocal answered
        await large.book(showtime)
        answered += 1

    for _ in range(20):
        await asyncio.gather(*(action() for _ in range(5) for action in (look, book, look)))
    assert (seen, answered) == (200, 100)


async def test_one_who_leaves_a_shared_look_takes_nothing_from_the_others(house: House, evening: Showtime) -> None:
    looks = [asyncio.create_task(house.store.availability([evening])) for _ in range(5)]
    await asyncio.sleep(0)  # now they have asked
    for leaving in (looks[0], looks[3]):
        leaving.cancel()
    ends = await asyncio.gather(*looks, return_exceptions=True)
    assert [type(end).__name__ for end in ends] == ["CancelledError", "list", "list", "CancelledError", "list"]


async def test_a_look_that_fails_fails_for_all(house: House, evening: Showtime) -> None:
    await house.pipeline.close()
    for _ in range(2):
        ends = await asyncio.gather(*(house.store.availability([evening]) for _ in range(3)), return_exceptions=True)
        assert [type(end).__name__ for end in ends] == ["Unavailable"] * 3


# The Idempotency-Key of a booking


async def test_a_key_books_once_and_then_tells_the_ticket(house: House, evening: Showtime, night: Showtime) -> None:
    wish = Idempotency("digest", "fingerprint")
    await house.store.book(ID, evening, NAME, PHONE, wish)
    before = await house.everything()
    assert before["{main}:idempotency:digest"][0] == f"{ID} fingerprint".encode()
    assert await house.store.book("main-B", evening, NAME, PHONE, wish) == Replayed(ID)
    assert await house.store.book("main-C", night, NAME, PHONE, wish) == Replayed(ID), "tomorrow 18:00 is another one"
    with pytest.raises(IdempotencyKeyReused):
        await house.store.book("main-D", evening, NAME, PHONE, Idempotency("digest", "another"))
    assert await house.everything() == before


async def test_a_key_answers_also_when_the_showtime_is_full_or_has_started(house: House, evening: Showtime) -> None:
    wish = Idempotency("digest", "fingerprint")
    await house.store.book(ID, evening, NAME, PHONE, wish)
    for _ in range(2):
        await house.book(evening)
    assert await house.store.book("main-B", evening, NAME, PHONE, wish) == Replayed(ID)
    started = replace(evening, moment=replace(evening.moment, starts_ms=await server_ms(house)))
    assert await house.store.book("main-C", started, NAME, PHONE, wish) == Replayed(ID)


async def test_a_refusal_is_not_kept_under_the_key(house: House, evening: Showtime) -> None:
    wish = Idempotency("digest", "fingerprint")
    first, *_ = await fill(house, evening)
    with pytest.raises(SoldOut):
        await house.store.book(ID, evening, NAME, PHONE, wish)
    await house.cancel(first)
    assert isinstance(await house.store.book(ID, evening, NAME, PHONE, wish), Booked)


async def test_a_key_belongs_to_its_theatre(house: House, evening: Showtime) -> None:
    wish = Idempotency("digest", "fingerprint")
    await house.store.book(ID, evening, NAME, PHONE, wish)
    other = house.with_programme(replace(MAIN, id="odeon"))
    assert isinstance(await other.store.book("odeon-A", other.showtime(), NAME, PHONE, wish), Booked)


# Repeats: what a lost reply, a lost connection and late bytes of one bring about


async def test_a_repeated_booking_answers_what_the_first_did(house: House, evening: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    call = house.pipeline.last
    first = await house.pipeline.repeat()
    assert first[:2] == [b"booked", 1]
    for later in (fill_up, admit):
        await later(house, evening)
        before = await house.everything()
        assert await house.pipeline.repeat(call) == first
        assert await house.everything() == before


async def fill_up(house: House, evening: Showtime) -> None:
    for _ in range(2):
        await house.book(evening)


async def admit(house: House, _evening: Showtime) -> None:
    await house.store.admit(MAIN, ID)


async def test_a_repeated_booking_with_a_key_is_the_first_one_too(house: House, evening: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE, Idempotency("digest", "fingerprint"))
    before = await house.everything()
    assert (await house.pipeline.repeat())[:2] == [b"booked", 1], "not `replayed`: nobody asked twice"
    assert await house.everything() == before


async def test_a_booking_that_arrives_after_its_ticket_moved_takes_no_seat(
    house: House, evening: Showtime, night: Showtime
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    call = house.pipeline.last
    await house.move(ID, night)
    before = await house.everything()
    assert (await house.pipeline.repeat(call))[0] == b"booked"
    assert await house.everything() == before


async def test_a_booking_that_arrives_after_its_ticket_was_cancelled_takes_no_seat(
    house: House, evening: Showtime
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    call = house.pipeline.last
    await house.cancel(ID)
    before = await house.everything()
    assert await house.pipeline.repeat(call) == [b"cancelled"]
    with pytest.raises(BookingCancelled):
        await house.store.book(ID, evening, NAME, PHONE)
    assert await house.everything() == before


async def test_a_repeated_move_answers_what_the_first_did(house: House, evening: Showtime, night: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    moved = await house.move(ID, night)
    call = house.pipeline.last
    for later in (None, admit):
        if later:
            await later(house, evening)
        before = await house.everything()
        assert await house.pipeline.repeat(call) == [b"moved", moved.from_version, moved.to_version]
        assert await house.everything() == before


async def test_a_repeated_move_answers_so_also_when_its_showtime_has_filled_up(
    house: House, evening: Showtime, night: Showtime
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    moved = await house.move(ID, night)
    call = house.pipeline.last
    for _ in range(2):
        await house.book(night)
    assert await house.pipeline.repeat(call) == [b"moved", moved.from_version, moved.to_version]


@pytest.mark.parametrize("back", [False, True], ids=["moved on", "moved on and back"])
async def test_a_move_that_arrives_after_another_changes_nothing(
    house: House, evening: Showtime, night: Showtime, back: bool
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    await house.move(ID, night)
    call = house.pipeline.last
    await house.move(ID, house.showtime("15:00"))
    if back:
        await house.move(ID, evening)
    before = await house.everything()
    assert await house.pipeline.repeat(call) == [b"changed"]
    assert await house.everything() == before


async def test_a_move_that_arrives_after_the_cancellation_changes_nothing(
    house: House, evening: Showtime, night: Showtime
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    await house.move(ID, night)
    call = house.pipeline.last
    await house.cancel(ID)
    before = await house.everything()
    assert await house.pipeline.repeat(call) == [b"not_found"]
    assert await house.everything() == before


async def test_a_repeated_cancellation_answers_what_the_first_did(house: House, evening: Showtime) -> None:
    await fill(house, evening)
    ticket_id = "main-0000000000000001"
    version = await house.cancel(ticket_id)
    call = house.pipeline.last
    for later in (None, house.book):
        if later:
            await later(evening)
        before = await house.everything()
        assert await house.pipeline.repeat(call) == [b"cancelled", version]
        assert await house.everything() == before, "the seat was freed once, and its next holder keeps it"


async def test_another_cancellation_finds_no_ticket(house: House, evening: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    ticket = (await house.store.ticket(MAIN, ID)).ticket
    await house.store.cancel(ticket)
    before = await house.everything()
    with pytest.raises(TicketNotFound):
        await house.store.cancel(ticket)
    assert await house.everything() == before


async def test_a_cancellation_that_arrives_when_its_tombstone_is_gone_finds_nothing(
    house: House, evening: Showtime
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    await house.cancel(ID)
    await house.redis.delete(f"{{main}}:ticket:{ID}")  # as its hour's end does
    assert await house.pipeline.repeat() == [b"not_found"]
    assert await house.seats(evening) == (0, 0)


async def test_a_repeated_admission_answers_what_the_first_did(house: House, evening: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    ticket = await house.store.admit(MAIN, ID)
    before = await house.everything()
    reply = await house.pipeline.repeat()
    assert reply[:2] == [b"admitted", ticket.admitted_ms]
    with pytest.raises(AlreadyAdmitted):
        await house.store.admit(MAIN, ID)
    assert await house.everything() == before


# Moving


async def test_a_move_takes_the_new_seat_and_frees_the_old(house: House, evening: Showtime, night: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    before = (await house.store.ticket(MAIN, ID)).ticket
    await house.move(ID, night)
    found = await house.store.ticket(MAIN, ID)
    assert found == Found(replace(before, showtime=night), moves=1)
    assert (await house.seats(evening), await house.seats(night)) == ((0, 0), (1, 1))


async def test_a_move_into_a_full_showtime_keeps_the_old_seat(house: House, evening: Showtime, night: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    await fill(house, night)
    before = await house.everything()
    with pytest.raises(SoldOut, match=f"{night.label}; the ticket stays at {evening.label}"):
        await house.move(ID, night)
    assert await house.everything() == before


async def test_two_moves_that_swap_between_full_showtimes_keep_both_seats(
    house: House, evening: Showtime, night: Showtime
) -> None:
    early, late = await fill(house, evening), await fill(house, night)
    before = await house.everything()
    both = (house.move(early[0], night), house.move(late[0], evening))
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SoldOut, SoldOut], "neither seat is free until the other moves"
    assert await house.everything() == before


async def test_a_ticket_moved_by_somebody_else_meanwhile_is_looked_at_again(
    house: House, evening: Showtime, night: Showtime
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    seen = await house.store.ticket(MAIN, ID)
    await house.move(ID, night)
    before = await house.everything()
    with pytest.raises(Changed):
        await house.store.move(seen, house.showtime("15:00"))
    with pytest.raises(Changed):
        await house.store.cancel(seen.ticket)
    assert await house.everything() == before


async def test_a_ticket_that_never_was_is_not_found_by_any_change(
    house: House, evening: Showtime, night: Showtime
) -> None:
    unknown = Ticket("main-0000000000000000", evening, NAME, PHONE, 1)
    for change in (
        house.store.move(Found(unknown, 0), night),
        house.store.cancel(unknown),
        house.store.admit(MAIN, unknown.ticket_id),
    ):
        with pytest.raises(TicketNotFound):
            await change
    assert await house.everything() == {}


async def test_a_ticket_whose_film_has_begun_stays(house: House, night: Showtime) -> None:
    started = house.showtime(days=-1)
    ticket_id = await begun(house, started)
    with pytest.raises(ShowtimeClosed, match=started.label):
        await house.move(ticket_id, night)
    assert (await house.seats(started), await house.seats(night)) == ((1, 1), (0, 0))


async def test_a_move_to_a_film_that_has_begun_is_closed(house: House, evening: Showtime) -> None:
    ticket_id = await house.book(evening)
    started = house.showtime(days=-1)
    with pytest.raises(ShowtimeClosed, match=started.label):
        await house.move(ticket_id, started)
    assert (await house.seats(evening), await house.seats(started)) == ((1, 1), (0, 0))


async def test_an_admitted_ticket_neither_moves_nor_is_cancelled(
    house: House, evening: Showtime, night: Showtime
) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    admitted = await house.store.admit(MAIN, ID)
    before = await house.everything()
    at = datetime.datetime.fromtimestamp(admitted.admitted_ms // 1000, datetime.UTC).isoformat()
    for change in (house.move(ID, night), house.cancel(ID), house.store.admit(MAIN, ID)):
        with pytest.raises(AlreadyAdmitted) as told:
            await change
        assert told.value.admitted_at == at
    assert await house.everything() == before


# Looking


async def test_a_ticket_as_it_is_looked_up(house: House, evening: Showtime) -> None:
    booked = await house.store.book(ID, evening, NAME, PHONE)
    ticket = Ticket(ID, evening, NAME, PHONE, booked.booked_ms)
    assert await house.store.ticket(MAIN, ID) == Found(ticket, moves=0)
    assert ticket.status == "booked"
    before_ms = await server_ms(house)
    admitted = await house.store.admit(MAIN, ID)
    assert before_ms <= admitted.admitted_ms <= await server_ms(house)
    assert admitted == replace(ticket, admitted_ms=admitted.admitted_ms)
    assert (await house.store.ticket(MAIN, ID)).ticket == admitted
    assert admitted.status == "admitted"
    with pytest.raises(TicketNotFound):
        await house.store.ticket(MAIN, "main-0000000000000000")


async def test_a_cancelled_ticket_is_as_one_that_never_was(house: House, evening: Showtime) -> None:
    await house.store.book(ID, evening, NAME, PHONE)
    await house.cancel(ID)
    with pytest.raises(TicketNotFound):
        await house.store.ticket(MAIN, ID)
    assert await house.store.tickets(evening) == []
    assert NAME.encode() not in repr(await house.everything()).encode()
    assert PHONE not in repr(await house.everything())


async def test_tickets_are_listed_in_order_of_booking_and_a_moved_one_last(
    house: House, evening: Showtime, night: Showtime
) -> None:
    assert await house.store.tickets(evening) == []
    first = await house.book(night, "First")
    ids = [await house.book(evening, name) for name in ("Zoe", "Asha")]
    await house.move(first, evening)
    await house.store.admit(MAIN, ids[1])
    listed = await house.store.tickets(evening)
    assert [ticket.ticket_id for ticket in listed] == [*ids, first]
    assert [ticket.status for ticket in listed] == ["booked", "admitted", "booked"]
    assert listed == [(await house.store.ticket(MAIN, ticket_id)).ticket for ticket_id in (*ids, first)]


# Beside another version


async def test_a_field_that_another_version_added_disturbs_nothing_and_stays_until_the_cancellation(
    house: House, evening: Showtime, night: Showtime
) -> None:
    """The next version may add fields to what it stores (CONTRIBUTING: Change what is stored)."""
    ids = [await house.book(evening, name) for name in ("Zoe", "Asha", "Noor")]
    stored = [key for key, (value, _) in (await house.everything()).items() if isinstance(value, dict)]
    assert len(stored) == 1 + len(ids)
    for key in stored:
        await house.redis.hset(key, "of_the_next_version", "told to nobody")
    moved, admitted, cancelled = ids
    await house.move(moved, night)
    await house.store.admit(MAIN, admitted)
    await house.cancel(cancelled)
    assert [ticket.ticket_id for ticket in await house.store.tickets(evening)] == [admitted]
    assert (await house.store.ticket(MAIN, moved)).ticket.showtime == night
    assert await house.seats(evening) == (1, 1)
    assert await house.seats(night) == (1, 1)
    for key in stored:
        assert await house.redis.hexists(key, "of_the_next_version") == (not key.endswith(cancelled)), key


def for_another(call: Call, ticket_id: str) -> Call:
    """The same change of another ticket, to be sent whenever the test wants."""
    script, keys, args = call
    return script, [key.replace(args[0], ticket_id) for key in keys], [ticket_id, *args[1:]]


async def test_a_change_between_two_looks_is_in_the_list(house: House) -> None:
    """The ids are seen first and their tickets then; whoever books in between makes the store look again."""
    large = house.with_programme(replace(MAIN, capacity=100))
    await large.book(large.showtime())
    booking = house.pipeline.last
    house.pipeline.before_looks.extend(for_another(booking, f"main-{n}") for n in range(3))
    listed = await large.store.tickets(large.showtime())
    assert not house.pipeline.before_looks, "somebody booked before each look but the last"
    assert [ticket.ticket_id for ticket in listed] == ["main-0000000000000001", "main-0", "main-1", "main-2"]


async def test_a_showtime_that_never_rests_is_listed_as_it_was_seen_last(house: House) -> None:
    """Better a list that is a moment old, without those that are gone, than none."""
    large = house.with_programme(replace(MAIN, capacity=100))
    first, second = await large.book(large.showtime()), await large.book(large.showtime())
    booking = house.pipeline.last
    await large.cancel(second)
    bookings = [for_another(booking, f"main-{n}") for n in range(3)]
    house.pipeline.before_looks.extend([*bookings, for_another(house.pipeline.last, "main-1")])
    listed = await large.store.tickets(large.showtime())
    assert not house.pipeline.before_looks, "somebody changed something before each look"
    assert [ticket.ticket_id for ticket in listed] == [first, "main-0", "main-2"]


async def test_the_seats_of_many_showtimes_are_told_in_one_call(house: House) -> None:
    showtimes = [house.showtime(timing, days) for days in range(1, 8) for timing in MAIN.timings]
    for n, showtime in enumerate(showtimes[:6]):
        for _ in range(n % 4):
            await house.book(showtime)
    written = house.pipeline.commands
    seats = await house.store.availability(showtimes)
    assert house.pipeline.commands == written + 1
    assert [each.showtime for each in seats] == showtimes
    assert [each.booked for each in seats] == [0, 1, 2, 3, 0, 1, *[0] * 15]
    assert [each.available for each in seats[:4]] == [3, 2, 1, 0]
    assert [each.status for each in seats[:4]] == ["open", "open", "open", "sold_out"]
    assert {each.version for each in seats[6:]} == {0}
    [now_ms] = {each.now_ms for each in seats}
    assert abs(now_ms - await server_ms(house)) < 60_000
    assert await house.store.availability([]) == []
    assert house.pipeline.commands == written + 1, "no showtime, no question"


# How long each key lives


async def expiries(house: House) -> dict[str, int]:
    """By key the instant it expires; -1 would be never."""
    return {key: expires_ms for key, (_, expires_ms) in (await house.everything()).items()}


async def test_every_key_expires_to_the_millisecond(house: House, evening: Showtime) -> None:
    assert evening.moment.expires_ms == evening.starts_ms + 8 * HOUR_MS
    assert evening.moment.forgotten_ms == evening.starts_ms + 32 * HOUR_MS
    await house.store.book(ID, evening, NAME, PHONE)
    await house.book(evening)
    showtime = f"{{main}}:showtime:{compact(evening)}"
    assert await expiries(house) == {
        showtime: evening.moment.forgotten_ms,
        f"{showtime}:tickets": evening.moment.forgotten_ms,
        f"{{main}}:ticket:{ID}": evening.moment.expires_ms,
        "{main}:ticket:main-0000000000000001": evening.moment.expires_ms,
    }


async def test_a_moved_ticket_expires_with_its_new_showtime(house: House, evening: Showtime) -> None:
    other = house.showtime("15:00", days=4)
    await house.store.book(ID, evening, NAME, PHONE)
    await house.move(ID, other)
    left, there = (f"{{main}}:showtime:{compact(showtime)}" for showtime in (evening, other))
    assert await expiries(house) == {
        left: evening.moment.forgotten_ms,
        there: other.moment.forgotten_ms,
        f"{there}:tickets": other.moment.forgotten_ms,
        f"{{main}}:ticket:{ID}": other.moment.expires_ms,
    }
    # Redis deletes a list with its last id; the next one is made anew, and has to be told again when to go.
    await house.move(ID, evening)
    assert (await expiries(house))[f"{left}:tickets"] == evening.moment.forgotten_ms
    await house.cancel(ID)
    await house.book(evening)
    assert (await expiries(house))[f"{left}:tickets"] == evening.moment.forgotten_ms


async def test_a_tombstone_lives_an_hour_and_a_key_a_day(house: House, evening: Showtime) -> None:
    before_ms = await server_ms(house)
    await house.store.book(ID, evening, NAME, PHONE, Idempotency("digest", "fingerprint"))
    await house.cancel(ID)
    after_ms = await server_ms(house)
    expire = await expiries(house)
    assert before_ms + DAY_MS <= expire["{main}:idempotency:digest"] <= after_ms + DAY_MS
    assert before_ms + HOUR_MS <= expire[f"{{main}}:ticket:{ID}"] <= after_ms + HOUR_MS


@pytest.mark.parametrize("way", ["booked", "moved"])
async def test_a_showtime_outlives_its_last_ticket_when_tickets_come_to_live_longer(house: House, way: str) -> None:
    await house.book(house.showtime())
    longer = house.with_programme(ticket_life_ms=72 * HOUR_MS)
    evening = longer.showtime()
    if way == "booked":
        await longer.store.book(ID, evening, NAME, PHONE)
    else:
        await longer.store.book(ID, longer.showtime("21:00"), NAME, PHONE)
        await longer.move(ID, evening)
    key = f"{{main}}:showtime:{compact(evening)}"
    expire = await expiries(house)
    assert expire[f"{{main}}:ticket:{ID}"] == evening.starts_ms + 72 * HOUR_MS
    assert expire[key] == expire[f"{key}:tickets"] == evening.starts_ms + 96 * HOUR_MS
    # A shorter life again: the ticket that lives longest still counts.
    await house.book(house.showtime())
    expire = await expiries(house)
    assert expire["{main}:ticket:main-0000000000000002"] == house.showtime().moment.expires_ms
    assert expire[key] == expire[f"{key}:tickets"] == evening.moment.forgotten_ms


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  Redis alone knows when
            await asyncio.sleep(0.005)


async def test_the_life_of_a_ticket_to_its_end_and_beyond(
    pool: ConnectionPool, keys_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200, then 410 and listed as expired, then 404: all by expiry of keys, on the server's own clock.

    The film is to come, for else nothing could be booked; so the life of a ticket ends before it, by as much as
    makes that end 0.7 s from now, and what the showtime's keys live longer is 1 s instead of a day.
    """
    monkeypatch.setattr("service.programme.FORGOTTEN_AFTER_MS", 1000)
    monkeypatch.setattr("service.store.FORGOTTEN_AFTER_MS", 1000)
    async with opened_house(pool) as first:
        life_ms = await server_ms(first) + 700 - first.showtime().starts_ms
        house = first.with_programme(ticket_life_ms=life_ms)
        evening = house.showtime()
        with pytest.raises(TicketNotFound):
            await house.store.ticket(MAIN, ID)
        await house.store.book(ID, evening, NAME, PHONE)
        assert (await house.store.ticket(MAIN, ID)).ticket.status == "booked"

        async def expired() -> bool:
            return not await house.redis.exists(f"{{main}}:ticket:{ID}")

        await until(expired)
        with pytest.raises(TicketExpired, match="name and phone are deleted"):
            await house.store.ticket(MAIN, ID)
        assert await house.store.tickets(evening) == [Ticket(ID, evening)]
        assert Ticket(ID, evening).status == "expired"
        with pytest.raises(TicketNotFound):
            await house.store.admit(MAIN, ID)
        left = repr(await house.everything())
        assert ID in left, "the showtime still knows that there was a ticket, and nothing of whom"
        assert NAME not in left
        assert PHONE not in left

        async def forgotten() -> bool:
            return await house.everything() == {}

        await until(forgotten)
        with pytest.raises(TicketNotFound):
            await house.store.ticket(MAIN, ID)
        assert await house.store.tickets(evening) == []


async def test_an_expired_ticket_is_known_as_long_as_its_showtime_is(house: House) -> None:
    """The look-up asks the showtimes that were over lately, and those alone, so that it stays small."""
    over, keys = house.store._showtimes_over("main", house.store.now_ms() // 60_000)
    now_ms = house.store.now_ms()
    slack_ms = 3 * 60_000
    assert 3 <= len(over) <= 4
    assert all(
        now_ms - FORGOTTEN_AFTER_MS - slack_ms <= showtime.moment.expires_ms <= now_ms + slack_ms for showtime in over
    )
    assert keys == [f"{{main}}:showtime:{compact(showtime)}:tickets" for showtime in over]


# When something is wrong


async def test_a_flushed_script_cache_heals_inside_each_call(house: House, evening: Showtime, night: Showtime) -> None:
    await house.book(night)

    async def flushed(call: Callable[[], Awaitable[object]]) -> None:
        await house.redis.script_flush()
        await call()

    await flushed(lambda: house.store.book(ID, evening, NAME, PHONE))
    await flushed(lambda: house.store.ticket(MAIN, ID))
    await flushed(lambda: house.move(ID, night))
    await flushed(lambda: house.store.tickets(night))
    await flushed(lambda: house.store.availability([evening, night]))
    await flushed(lambda: house.cancel(ID))
    await flushed(lambda: house.store.admit(MAIN, "main-0000000000000001"))
    assert (await house.seats(evening), await house.seats(night)) == ((0, 0), (1, 1))


@pytest.mark.parametrize("name", ["BOOK", "MOVE", "CANCEL", "ADMIT", "TICKET", "SHOWTIME_TICKETS", "AVAILABILITY"])
async def test_a_reply_that_nobody_knows_is_a_defect_told_without_its_data(
    house: House, evening: Showtime, night: Showtime, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"return {{'surprise', '{PHONE}'}}"
    sha = await house.redis.script_load(source)
    monkeypatch.setattr(f"service.store.{name}", Script(name.lower(), source, sha))
    ticket = Ticket(ID, evening, NAME, PHONE, 1)
    calls: dict[str, Callable[[Store], Awaitable[object]]] = {
        "BOOK": lambda store: store.book(ID, evening, NAME, PHONE),
        "MOVE": lambda store: store.move(Found(ticket, 0), night),
        "CANCEL": lambda store: store.cancel(ticket),
        "ADMIT": lambda store: store.admit(MAIN, ID),
        "TICKET": lambda store: store.ticket(MAIN, ID),
        "SHOWTIME_TICKETS": lambda store: store.tickets(evening),
        "AVAILABILITY": lambda store: store.availability([evening]),
    }
    with pytest.raises(RuntimeError, match=f"^{name.lower()}.lua replied b'surprise'$"):
        await calls[name](house.store)


async def test_an_unknown_outcome_tells_the_ticket_it_is_about(server_url: str) -> None:
    """The caller can ask for it later. All replies are lost here, the first one and those to its repeats."""
    async with FaultProxy(server_url, lost=range(1, 1000)) as proxy:
        pool = ConnectionPool.from_url(proxy.url)
        async with opened_house(pool) as house:
            house.pipeline._deadline_s = 0.3
            with pytest.raises(OutcomeUnknown) as told:
                await house.store.book(ID, house.showtime(), NAME, PHONE)
            assert told.value.ticket_id == ID


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Niue", "Asia/Kathmandu", "Pacific/Chatham"])
async def test_a_theatre_far_away_keeps_its_own_time(pool: ConnectionPool, keys_left: None, zone: str) -> None:
    async with opened_house(pool, replace(MAIN, timezone=ZoneInfo(zone))) as house:
        evening = house.showtime()
        await house.store.book(ID, evening, NAME, PHONE)
        assert (await house.store.ticket(evening.theatre, ID)).ticket.showtime == evening
        assert (await expiries(house))[f"{{main}}:ticket:{ID}"] == evening.moment.expires_ms
