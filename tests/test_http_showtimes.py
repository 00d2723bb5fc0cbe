"""Theatres, showtimes and their seats; the ticket list of a showtime."""

import asyncio
import csv
import datetime
import io
from pathlib import Path

import pytest
from http_api import ASHAS_PHONE, STAFF, Api, fields_of, opened, problem
from redis.asyncio import ConnectionPool

DAY = "/v1/theatres/main/showtimes"

pytestmark = pytest.mark.usefixtures("keys_left")


async def test_the_programme(api: Api) -> None:
    [theatre] = (await (await api.get("/v1/theatres")).json())["theatres"]
    assert (theatre["id"], theatre["timezone"], theatre["capacity"]) == ("main", "UTC", 3)
    assert theatre["timings"] == ["15:00", "18:00", "21:00"]
    assert await (await api.get("/v1/theatres/main")).json() == theatre
    await problem(await api.get("/v1/theatres/odeon"), 404, "theatre_not_found")


async def test_the_showtimes_of_a_day_with_their_seats(api: Api) -> None:
    ticket = await api.book()
    date = ticket["showtime"].partition("T")[0]
    listed = await (await api.get(DAY, params={"date": date})).json()
    assert [each["timing"] for each in listed["showtimes"]] == ["15:00", "18:00", "21:00"]
    booked = {each["showtime"]: each["booked"] for each in listed["showtimes"]}
    assert booked[ticket["showtime"]] == 1
    assert sum(booked.values()) == 1
    today = await (await api.get(DAY)).json()
    assert len(today["showtimes"]) == 3


async def test_a_day_that_is_none_is_refused(api: Api) -> None:
    for written in ("tomorrow", "2026-02-30", "2026-1-1", "", "\u0662\u0660\u0662\u0666-11-24"):
        told = await problem(await api.get(DAY, params={"date": written}), 422, "invalid_input")
        assert fields_of(told) == ["date"]


async def test_one_showtime(api: Api) -> None:
    ticket = await api.book()
    seats = await api.seats(ticket["showtime"])
    assert seats["starts_at"] == ticket["starts_at"]
    assert (seats["capacity"], seats["booked"], seats["available"], seats["status"]) == (3, 1, 2, "open")
    started = datetime.datetime.fromisoformat(ticket["showtime"]) - datetime.timedelta(days=2)
    assert (await api.seats(started.strftime("%Y-%m-%dT%H:%M")))["status"] == "closed"
    far = datetime.datetime.fromisoformat(ticket["showtime"]) + datetime.timedelta(days=30)
    assert (await api.seats(far.strftime("%Y-%m-%dT%H:%M")))["status"] == "closed"
    await problem(await api.get(f"{DAY}/{ticket['showtime'][:11]}04:44"), 404, "showtime_not_found")
    told = await problem(await api.get(f"{DAY}/18:00"), 422, "invalid_input")
    assert fields_of(told) == ["showtime"]


async def test_a_showtime_tells_its_film(pool: ConnectionPool, tmp_path: Path) -> None:
    file = tmp_path / "programme.toml"
    file.write_text('[[theatre]]\nid = "main"\ntimings = ["12:00", {at = "18:00", film = "Metropolis"}]')
    api = await opened(pool, MATINEE_PROGRAMME=str(file), MATINEE_TIMINGS="", MATINEE_CAPACITY="")
    theatre = await (await api.get("/v1/theatres/main")).json()
    assert (theatre["timings"], theatre["films"]) == (["12:00", "18:00"], {"18:00": "Metropolis"})
    listed = (await (await api.get("/v1/theatres/main/showtimes")).json())["showtimes"]
    assert {showtime["timing"]: showtime["film"] for showtime in listed} == {"12:00": None, "18:00": "Metropolis"}
    await api.client.close()


async def test_an_unchanged_answer_is_not_sent_again(api: Api) -> None:
    ticket = await api.book()
    date = ticket["showtime"].partition("T")[0]
    for path in (f"{DAY}?date={date}", f"{DAY}/{ticket['showtime']}"):
        first = await api.get(path)
        etag = first.headers["ETag"]
        assert first.headers["Cache-Control"] == "no-cache"
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = await api.get(path, headers={"If-None-Match": known})
            assert (answer.status, await answer.read()) == (304, b"")
            assert answer.headers["ETag"] == etag
        assert (await api.get(path, headers={"If-None-Match": '"other"'})).status == 200


async def test_a_crowd_that_looks_at_several_days_sees_each_its_own(api: Api) -> None:
    ticket = await api.book()
    first = datetime.date.fromisoformat(ticket["showtime"].partition("T")[0])
    days = [str(first + datetime.timedelta(days=day)) for day in range(3)] * 10
    answers = await asyncio.gather(*(api.get(f"{DAY}?date={day}") for day in days))
    etags = {day: answer.headers["ETag"] for day, answer in zip(days, answers, strict=True)}
    assert len(set(etags.values())) == 3
    for day, answer in zip(days, answers, strict=True):
        listed = (await answer.json())["showtimes"]
        assert {each["showtime"].partition("T")[0] for each in listed} == {day}
        assert sum(each["booked"] for each in listed) == (day == str(first))
        assert answer.headers["ETag"] == etags[day]
    again = await asyncio.gather(*(api.get(f"{DAY}?date={day}", headers={"If-None-Match": etags[day]}) for day in days))
    assert {answer.status for answer in again} == {304}
    await api.book()
    again = await asyncio.gather(*(api.get(f"{DAY}?date={day}", headers={"If-None-Match": etags[day]}) for day in days))
    assert [answer.status for answer in again] == [200 if day == str(first) else 304 for day in days]


async def test_every_change_of_the_seats_changes_the_etag(api: Api) -> None:
    ticket = await api.book()
    path = f"{DAY}/{ticket['showtime']}"
    seen = [(await api.get(path)).headers["ETag"]]
    second = await api.book()
    seen.append((await api.get(path)).headers["ETag"])
    await api.patch(f"/v1/tickets/{second['ticket_id']}", json={"timing": "21:00"}, headers=ASHAS_PHONE)
    seen.append((await api.get(path)).headers["ETag"])
    await api.delete(f"/v1/tickets/{ticket['ticket_id']}", headers=ASHAS_PHONE)
    seen.append((await api.get(path)).headers["ETag"])
    assert len(set(seen)) == 4


async def test_the_tickets_of_a_showtime_in_order_of_booking(public_api: Api) -> None:
    tickets = [await public_api.book(name=name) for name in ("Asha", "Bela", "Chen")]
    path = f"{DAY}/{tickets[0]['showtime']}/tickets"
    await problem(await public_api.get(path), 401, "staff_only")
    answer = await public_api.get(path, headers=STAFF)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Accept"
    rows = (await answer.json())["tickets"]
    assert [row["name"] for row in rows] == ["Asha", "Bela", "Chen"]
    assert [row["ticket_id"] for row in rows] == [ticket["ticket_id"] for ticket in tickets]
    assert {row["phone"] for row in rows} == {"+919812345678"}


async def test_the_same_as_csv_without_a_formula_in_it(api: Api) -> None:
    ticket = await api.book(name="=HYPERLINK(1)", phone="+91 98123 45678")
    await api.book(name='Ana "Ani" O, Reilly')
    answer = await api.get(f"{DAY}/{ticket['showtime']}/tickets", headers={"Accept": "text/csv"})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    first, second = csv.DictReader(io.StringIO(await answer.text()))
    assert first["ticket_id"] == ticket["ticket_id"]
    assert (first["name"], first["phone"]) == ("'=HYPERLINK(1)", "'+919812345678")
    assert second["name"] == 'Ana "Ani" O, Reilly'


async def test_get_also_answers_head(api: Api) -> None:
    answer = await api.head("/v1/theatres")
    assert (answer.status, await answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0
