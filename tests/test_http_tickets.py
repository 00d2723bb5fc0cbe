"""/v1/tickets: the life of a ticket, from the booking to the door, as a client sees it."""

import asyncio
import datetime

import pytest
import redis.asyncio
from http_api import ASHA, ASHAS_PHONE, STAFF, UNKNOWN_ID, Api, fields_of, opened, problem
from redis.asyncio import ConnectionPool
from small_theatre import MAIN

from service.programme import Programme

pytestmark = pytest.mark.usefixtures("keys_left")


async def test_a_booking_answers_the_ticket_and_where_it_is(api: Api) -> None:
    answer = await api.post("/v1/tickets", json=ASHA)
    assert answer.status == 201
    assert answer.headers["Cache-Control"] == "no-store"
    ticket = await answer.json()
    assert answer.headers["Location"] == f"/v1/tickets/{ticket['ticket_id']}"
    assert ticket["ticket_id"].startswith("main-")
    assert (ticket["theatre"], ticket["timing"], ticket["status"]) == ("main", "18:00", "booked")
    assert (ticket["name"], ticket["phone"]) == ("Asha Rao", "+919812345678")
    assert ticket["admitted_at"] is None
    starts = datetime.datetime.fromisoformat(ticket["starts_at"])
    assert starts.strftime("%Y-%m-%dT%H:%M") == ticket["showtime"]
    assert datetime.datetime.fromisoformat(ticket["expires_at"]) - starts == datetime.timedelta(hours=8)
    assert starts > datetime.datetime.now(datetime.UTC), "18:00 is the next showtime at that time"


async def test_a_full_timing_books_that_very_showtime(api: Api) -> None:
    first = await api.book()
    later = datetime.datetime.fromisoformat(first["showtime"]) + datetime.timedelta(days=2)
    ticket = await api.book(timing=later.strftime("%Y-%m-%dT%H:%M"))
    assert ticket["showtime"] == later.strftime("%Y-%m-%dT%H:%M")


async def test_names_of_any_script_and_phones_as_people_write_them(api: Api) -> None:
    for name, phone, kept in (
        ("Łukasz Żółć", "(020) 7946-0958", "02079460958"),
        ("नूर ज़हाँ", "+44.20.7946.0958", "+442079460958"),
        ("  山田 太郎 ", "1234567", "1234567"),
    ):
        ticket = await api.book(name=name, phone=phone)
        assert (ticket["name"], ticket["phone"]) == (name.strip(), kept)


async def test_the_seat_after_the_last_is_sold_out(api: Api) -> None:
    tickets = [await api.book() for _ in range(3)]
    await problem(await api.post("/v1/tickets", json=ASHA), 409, "sold_out")
    seats = await api.seats(tickets[0]["showtime"])
    assert (seats["booked"], seats["available"], seats["status"]) == (3, 0, "sold_out")


async def test_a_crowd_at_once_gets_every_seat_once(api: Api) -> None:
    answers = await asyncio.gather(*(api.post("/v1/tickets", json=ASHA) for _ in range(40)))
    assert sorted(answer.status for answer in answers) == [201] * 3 + [409] * 37
    ids = {(await answer.json()).get("ticket_id") for answer in answers if answer.status == 201}
    assert len(ids) == 3


async def test_a_ticket_is_looked_up_by_its_id_however_it_is_typed(api: Api) -> None:
    ticket = await api.book()
    for written in (ticket["ticket_id"], ticket["ticket_id"].lower(), ticket["ticket_id"].replace("0", "o")):
        answer = await api.get(f"/v1/tickets/{written}")
        assert answer.status == 200
        assert await answer.json() == ticket


async def test_a_ticket_that_never_was_is_404_and_what_is_no_id_422(api: Api) -> None:
    await problem(await api.get(f"/v1/tickets/{UNKNOWN_ID}"), 404, "ticket_not_found")
    await problem(await api.get("/v1/tickets/elsewhere-0000000000000000"), 404, "ticket_not_found")
    assert fields_of(await problem(await api.get("/v1/tickets/17"), 422, "invalid_input")) == ["ticket_id"]


async def test_the_holder_sees_a_masked_phone_and_the_box_office_all_of_it(public_api: Api) -> None:
    ticket = await public_api.book()
    assert ticket["phone"].endswith("78")
    assert "98123" not in ticket["phone"]
    path = f"/v1/tickets/{ticket['ticket_id']}"
    assert (await (await public_api.get(path)).json())["phone"] == ticket["phone"]
    assert (await (await public_api.get(path, headers=STAFF)).json())["phone"] == "+919812345678"


async def test_the_user_of_a_ticket_is_for_the_box_office(public_api: Api) -> None:
    ticket = await public_api.book()
    path = f"/v1/tickets/{ticket['ticket_id']}/user"
    refused = await public_api.get(path)
    await problem(refused, 401, "staff_only")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    answer = await public_api.get(path, headers=STAFF)
    assert answer.headers["Cache-Control"] == "no-store"
    user = await answer.json()
    assert (user["name"], user["phone"], user["showtime"]) == ("Asha Rao", "+919812345678", ticket["showtime"])


async def test_a_move_frees_the_old_seat_and_takes_the_new_one(api: Api) -> None:
    ticket = await api.book(timing="18:00")
    answer = await api.patch(f"/v1/tickets/{ticket['ticket_id']}", json={"timing": "21:00"}, headers=ASHAS_PHONE)
    assert answer.status == 200
    moved = await answer.json()
    assert (moved["ticket_id"], moved["timing"]) == (ticket["ticket_id"], "21:00")
    assert (await api.seats(ticket["showtime"]))["booked"] == 0
    assert (await api.seats(moved["showtime"]))["booked"] == 1
    assert await (await api.get(f"/v1/tickets/{ticket['ticket_id']}")).json() == moved


async def test_a_move_into_a_full_showtime_keeps_the_old_seat(api: Api) -> None:
    ticket = await api.book(timing="18:00")
    full = [await api.book(timing="21:00") for _ in range(3)]
    path = f"/v1/tickets/{ticket['ticket_id']}"
    await problem(await api.patch(path, json={"timing": "21:00"}, headers=ASHAS_PHONE), 409, "sold_out")
    assert (await (await api.get(path)).json())["showtime"] == ticket["showtime"]
    assert (await api.seats(ticket["showtime"]))["booked"] == 1
    assert (await api.seats(full[0]["showtime"]))["booked"] == 3


async def test_a_move_to_where_the_ticket_is_changes_nothing(api: Api) -> None:
    ticket = await api.book()
    answer = await api.patch(f"/v1/tickets/{ticket['ticket_id']}", json={"timing": "18:00"}, headers=ASHAS_PHONE)
    assert await answer.json() == ticket
    assert (await api.seats(ticket["showtime"]))["booked"] == 1


async def test_a_cancelled_ticket_is_gone_and_its_seat_free_at_once(api: Api) -> None:
    tickets = [await api.book() for _ in range(3)]
    answer = await api.delete(f"/v1/tickets/{tickets[0]['ticket_id']}", headers=ASHAS_PHONE)
    assert (answer.status, await answer.read()) == (204, b"")
    await problem(await api.get(f"/v1/tickets/{tickets[0]['ticket_id']}"), 404, "ticket_not_found")
    await problem(await api.delete(f"/v1/tickets/{tickets[0]['ticket_id']}"), 404, "ticket_not_found")
    await api.book()


@pytest.mark.parametrize("method", ["patch", "delete"])
async def test_a_change_is_signed_with_the_phone(public_api: Api, method: str) -> None:
    ticket = await public_api.book()
    path = f"/v1/tickets/{ticket['ticket_id']}"
    body = {"json": {"timing": "21:00"}} if method == "patch" else {}
    change = getattr(public_api, method)
    await problem(await change(path, **body), 403, "wrong_phone")
    await problem(await change(path, headers={"Ticket-Phone": "7654321"}, **body), 403, "wrong_phone")
    told = await problem(await change(path, headers={"Ticket-Phone": "call me"}, **body), 422, "invalid_input")
    assert fields_of(told) == ["Ticket-Phone"]
    # The box office may leave it out, but what it gives is checked too.
    await problem(await change(path, headers={**STAFF, "Ticket-Phone": "7654321"}, **body), 403, "wrong_phone")
    assert (await change(path, headers=STAFF, **body)).status in (200, 204)


async def test_a_ticket_is_let_in_once(public_api: Api) -> None:
    ticket = await public_api.book()
    path = f"/v1/tickets/{ticket['ticket_id']}"
    await problem(await public_api.post(f"{path}/admission"), 401, "staff_only")
    answer = await public_api.post(f"{path}/admission", headers=STAFF)
    assert answer.status == 200
    admitted = await answer.json()
    assert admitted["status"] == "admitted"
    again = await problem(await public_api.post(f"{path}/admission", headers=STAFF), 409, "already_admitted")
    assert again["admitted_at"] == admitted["admitted_at"]
    body = {"timing": "21:00"}
    await problem(await public_api.patch(path, json=body, headers=ASHAS_PHONE), 409, "already_admitted")
    await problem(await public_api.delete(path, headers=ASHAS_PHONE), 409, "already_admitted")


async def test_a_crowd_at_the_door_with_one_ticket_gets_one_person_in(api: Api) -> None:
    ticket = await api.book()
    path = f"/v1/tickets/{ticket['ticket_id']}/admission"
    answers = await asyncio.gather(*(api.post(path) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 9


async def test_beyond_the_horizon_nothing_is_booked_yet(api: Api) -> None:
    soon = datetime.datetime.fromisoformat((await api.book())["showtime"])
    last = soon + datetime.timedelta(days=6)
    await api.book(timing=last.strftime("%Y-%m-%dT%H:%M"))
    beyond = (soon + datetime.timedelta(days=8)).strftime("%Y-%m-%dT%H:%M")
    await problem(await api.post("/v1/tickets", json={**ASHA, "timing": beyond}), 409, "showtime_closed")


async def test_a_showtime_that_has_started_is_closed(api: Api) -> None:
    yesterday = datetime.datetime.fromisoformat((await api.book())["showtime"]) - datetime.timedelta(days=2)
    timing = yesterday.strftime("%Y-%m-%dT%H:%M")
    await problem(await api.post("/v1/tickets", json={**ASHA, "timing": timing}), 409, "showtime_closed")


async def test_a_timing_the_theatre_does_not_have_is_404(api: Api) -> None:
    told = await problem(await api.post("/v1/tickets", json={**ASHA, "timing": "04:44"}), 404, "showtime_not_found")
    assert "15:00" in told["detail"], "it says which timings there are"
    await problem(await api.post("/v1/tickets", json={**ASHA, "theatre": "odeon"}), 404, "theatre_not_found")


async def test_a_ticket_is_there_then_gone_and_nothing_personal_is_left(pool: ConnectionPool) -> None:
    """200, then 410 and listed as expired. Redis itself ends the ticket, at the instant the booking told it.

    The film is to come, for else it could not be booked, so here the life of a ticket ends before it, in 0.7 s.
    """
    client = redis.asyncio.Redis(connection_pool=pool)
    evening = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
    showtime = f"{evening}T18:00"
    starts_ms = Programme([MAIN], 0).showtime(MAIN, showtime).starts_ms
    seconds, microseconds = await client.time()
    life_ms = seconds * 1000 + microseconds // 1000 + 700 - starts_ms
    api = await opened(pool, Programme([MAIN], life_ms))
    try:
        ticket = await api.book(timing=showtime)
        path = f"/v1/tickets/{ticket['ticket_id']}"
        assert (await api.get(path)).status == 200
        [key] = [key async for key in client.scan_iter(match="*:ticket:*")]
        while await client.exists(key):  # noqa: ASYNC110  Redis alone knows when
            await asyncio.sleep(0.005)

        for answer in (
            await api.get(path),
            await api.get(f"{path}/user"),
            await api.patch(path, json={"timing": "21:00"}, headers=ASHAS_PHONE),
            await api.delete(path, headers=ASHAS_PHONE),
            await api.post(f"{path}/admission"),
        ):
            told = await problem(answer, 410, "ticket_expired")
            assert "name and phone are deleted" in told["detail"]
        listed = await (await api.get(f"/v1/theatres/main/showtimes/{showtime}/tickets")).json()
        [row] = listed["tickets"]
        assert (row["ticket_id"], row["status"]) == (ticket["ticket_id"], "expired")
        assert (row["name"], row["phone"], row["booked_at"]) == (None, None, None)
        for key in [key async for key in client.scan_iter()]:
            kind = await client.type(key)
            stored = await (client.hgetall(key) if kind == b"hash" else client.zrange(key, 0, -1))
            assert b"Asha" not in repr(stored).encode()
            assert b"98123" not in repr(stored).encode()
    finally:
        await api.client.close()
