"""The moviegoer's pages without a script: forms go out, a redirect or the page with what was wrong comes back."""

import asyncio
import datetime
import re
from pathlib import Path

import pytest
import redis.asyncio
from http_api import UNKNOWN_ID, Api, opened
from http_pages import ASHA, book, errors, expire, key, page, read, send, timings, with_programme
from redis.asyncio import ConnectionPool

pytestmark = pytest.mark.usefixtures("keys_left")


async def test_the_page_offers_the_showtimes_of_a_week_with_their_seats(pool: ConnectionPool, tmp_path: Path) -> None:
    api = await with_programme(pool, tmp_path)
    await api.book(timing="18:00")
    text = await page(api, "/")
    assert '<h1><a href="/theatres/main">Lichtspiele Lumen</a></h1>' in text
    offered = timings(text)
    assert len(offered) == 7 * 3, "each timing once for every one of the next seven days"
    assert offered == sorted(offered)
    assert "Tomorrow" in text
    assert "Metropolis" in text
    assert text.count("2 seats left") == 1
    await api.client.close()


async def test_a_booking_leads_on_to_the_ticket(api: Api) -> None:
    front = await page(api, "/")
    answer = await send(api, "/theatres/main", {"timing": timings(front)[1], "key": key(front), **ASHA})
    assert answer.status == 303
    assert re.fullmatch(r"/tickets/main-[0-9A-Z]{16}#booked", answer.headers["Location"])
    text = await page(api, answer.headers["Location"])
    assert "Asha Rao" in text
    assert "98123" not in text, "the phone is masked"
    assert "78</dd>" in text
    assert "<svg" in text


async def test_a_form_sent_twice_books_once(api: Api) -> None:
    front = await page(api, "/")
    wish = {"timing": timings(front)[0], "key": key(front), **ASHA}
    answers = await asyncio.gather(*(send(api, "/theatres/main", wish) for _ in range(5)))
    assert {answer.status for answer in answers} == {303}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert (await api.seats(wish["timing"]))["booked"] == 1


async def test_a_form_filled_in_anew_books_anew(api: Api) -> None:
    """A browser that goes back shows the same form with the same key."""
    front = await page(api, "/")
    wish = {"timing": timings(front)[0], "key": key(front), **ASHA}
    first = await send(api, "/theatres/main", wish)
    second = await send(api, "/theatres/main", {**wish, "name": "Noor"})
    assert first.headers["Location"] != second.headers["Location"]
    assert (await api.seats(wish["timing"]))["booked"] == 2


async def test_every_page_has_a_key_of_its_own(api: Api) -> None:
    assert key(await page(api, "/")) != key(await page(api, "/"))


async def test_what_is_wrong_is_said_beside_each_field_and_what_was_right_is_kept(api: Api) -> None:
    front = await page(api, "/")
    text = await read(await send(api, "/theatres/main", {"phone": "12", "key": key(front)}), 422)
    assert errors(text) == [
        "Choose a showtime.",
        "Enter your name.",
        "It must be 7 to 15 digits 0-9, a + in front allowed, like +91 98123 45678.",
    ]
    assert 'aria-describedby="phone-error phone-hint"' in text
    assert text.count('aria-invalid="true"') == 2
    assert "<title>Please check" in text
    assert key(text) == key(front)
    choice = timings(front)[2]
    text = await read(await send(api, "/theatres/main", {"timing": choice, "name": '"<b>', "phone": "12"}), 422)
    assert re.search(rf'value="{choice}" data-day="[^"]+" checked', text)
    assert 'value="&quot;&lt;b&gt;"' in text
    assert "<b>" not in text


async def test_sold_out_while_the_form_was_open(api: Api) -> None:
    front = await page(api, "/")
    choice = timings(front)[0]
    for _ in range(3):
        await api.book(timing=choice)
    answer = await send(api, "/theatres/main", {"timing": choice, "key": key(front), **ASHA})
    text = await read(answer, 409)
    assert errors(text) == ["This showtime has just sold out. Choose another one."]
    assert choice not in timings(text), "it can no longer be chosen"
    assert 'value="Asha Rao"' in text
    assert 'value="+91 98123-45678"' in text
    answer = await send(api, "/theatres/main", {"timing": timings(text)[0], "key": key(text), **ASHA})
    assert answer.status == 303


async def test_a_showtime_that_left_the_programme_or_is_none(api: Api) -> None:
    yesterday = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)).strftime("%Y-%m-%d")
    for timing, status, told in (
        ("2026-01-01T13:37", 404, "This showtime is no longer on the programme. Choose another one."),
        (f"{yesterday}T18:00", 409, "This showtime cannot be booked: it has begun, or is more than a week away."),
        ("18:00", 422, "It must be a date and time like 2026-11-24T18:00."),
    ):
        text = await read(await send(api, "/theatres/main", {"timing": timing, **ASHA}), status)
        assert errors(text)[0].startswith(told)


async def test_a_cancelled_booking_is_not_made_again_by_going_back(api: Api) -> None:
    front = await page(api, "/")
    wish = {"timing": timings(front)[0], "key": key(front), **ASHA}
    path = (await send(api, "/theatres/main", wish)).headers["Location"].partition("#")[0]
    assert (await send(api, f"{path}/cancel", {"phone": ASHA["phone"]})).status == 303
    text = await read(await send(api, "/theatres/main", wish), 409)
    assert errors(text) == ["This booking was made and then cancelled. Press the button again to book anew."]
    assert (await send(api, "/theatres/main", {**wish, "key": key(text)})).status == 303


async def test_a_ticket_moves_for_whoever_knows_its_phone(public_api: Api) -> None:
    path = await book(public_api)
    text = await page(public_api, path)
    free = re.findall(r'<option value="([^"]+)">', text)
    assert len(free) == 7 * 3 - 1, "all but its own"
    wrong = await read(await send(public_api, f"{path}/move", {"timing": free[3], "phone": "7654321"}), 403)
    assert errors(wrong) == ["This is not the phone number that the ticket was booked with."]
    assert '<details class="change" open>' in wrong
    assert f'<option value="{free[3]}" selected>' in wrong
    missing = await read(await send(public_api, f"{path}/move", {"timing": free[3]}), 422)
    assert errors(missing) == ["Enter your phone number."]
    answer = await send(public_api, f"{path}/move", {"timing": free[3], "phone": "+919812345678"})
    assert (answer.status, answer.headers["Location"]) == (303, f"{path}#moved")
    assert (await public_api.seats(free[3]))["booked"] == 1


async def test_a_move_into_a_full_showtime_keeps_the_old_seat(api: Api) -> None:
    path = await book(api)
    full = re.findall(r'<option value="([^"]+)">', await page(api, path))[0]
    for _ in range(3):
        await api.book(timing=full)
    text = await read(await send(api, f"{path}/move", {"timing": full, "phone": ASHA["phone"]}), 409)
    assert errors(text) == ["This showtime has just sold out. Choose another one."]
    assert f'<option value="{full}" disabled>' in text


async def test_a_ticket_is_cancelled_for_whoever_knows_its_phone(public_api: Api) -> None:
    path = await book(public_api)
    wrong = await read(await send(public_api, f"{path}/cancel", {"phone": "7654321"}), 403)
    assert errors(wrong) == ["This is not the phone number that the ticket was booked with."]
    answer = await send(public_api, f"{path}/cancel", {"phone": ASHA["phone"]})
    assert (answer.status, answer.headers["Location"]) == (303, "/theatres/main#cancelled")
    assert "There is no such ticket" in await page(public_api, path, 404)


async def test_an_admitted_ticket_shows_when_and_offers_no_change(api: Api) -> None:
    path = await book(api)
    assert (await api.post(f"/v1{path}/admission")).status == 200
    text = await page(api, path)
    assert "Let in" in text
    assert "<form" not in text
    told = errors(await read(await send(api, f"{path}/cancel", {"phone": ASHA["phone"]}), 409))
    assert told == [], "the ticket itself says it"


async def test_a_ticket_that_never_was_and_what_is_no_ticket(api: Api) -> None:
    assert "There is no such ticket" in await page(api, f"/tickets/{UNKNOWN_ID}", 404)
    await page(api, "/tickets/17", 422)


async def test_an_expired_ticket_says_that_it_is_over(pool: ConnectionPool) -> None:
    api = await opened(pool)
    ticket = await api.book()
    client = redis.asyncio.Redis(connection_pool=pool)
    await expire(client, ticket)
    text = await page(api, f"/tickets/{ticket['ticket_id']}", 410)
    assert "This ticket is over. The name and the phone number on it have been deleted." in text
    await api.client.close()
