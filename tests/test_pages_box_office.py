"""The box office's pages without a script: signing in, the door, looking up, cancelling, lists."""

import csv
import io
from pathlib import Path

import pytest
from http_api import STAFF, TOKEN, UNKNOWN_ID, Api, opened
from http_pages import BROWSER, errors, expire, page, read, send, with_programme
from redis.asyncio import ConnectionPool, Redis

from service import sessions
from service.routes import ROUTES

pytestmark = pytest.mark.usefixtures("keys_left")

STAFF_PAGES = [(route.method, route.path) for route in ROUTES if route.page and route.access == "box office"]


async def signed_in(api: Api, **headers: str) -> dict[str, str]:
    """Sign in; the cookie as a header of the requests that follow."""
    answer = await send(api, "/box-office/sign-in", {"token": TOKEN}, **headers)
    assert (answer.status, answer.headers["Location"]) == (303, "/box-office")
    api.client.session.cookie_jar.clear()
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


async def test_the_staff_token_opens_the_door_for_a_browser(public_api: Api) -> None:
    assert "Staff token" in await page(public_api, "/box-office", 401)
    cookie = await signed_in(public_api)
    assert "At the door" in await page(public_api, "/box-office", **cookie)
    answer = await send(public_api, "/box-office/sign-out", {}, **cookie)
    assert (answer.status, answer.headers["Location"]) == (303, "/box-office")
    assert "Max-Age=0" in answer.headers["Set-Cookie"]


async def test_the_cookie_is_kept_from_scripts_other_sites_and_plain_http(public_api: Api) -> None:
    for origin, secure in ((None, False), ("https", True)):
        host = "cinema.example"
        headers = {"Host": host, "Origin": f"{origin or 'http'}://{host}"}
        answer = await send(public_api, "/box-office/sign-in", {"token": TOKEN}, **headers)
        name_and_value, *attributes = answer.headers["Set-Cookie"].split("; ")
        assert name_and_value.startswith("matinee_box_office=")
        assert TOKEN not in name_and_value
        assert {"HttpOnly", "SameSite=Strict", "Path=/box-office", f"Max-Age={12 * 3600}"} <= set(attributes)
        assert ("Secure" in attributes) == secure
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_wrong_token_is_told_so(public_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "GUESS_PAUSE_S", 0.0)
    answer = await send(public_api, "/box-office/sign-in", {"token": "not-the-staff-token"})
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "Set-Cookie" not in answer.headers
    assert errors(await read(answer, 401)) == ["This is not the staff token."]


@pytest.mark.parametrize(("method", "path"), STAFF_PAGES)
async def test_a_page_of_the_box_office_asks_to_sign_in(public_api: Api, method: str, path: str) -> None:
    """Neither a moviegoer, nor a forged cookie, nor the token of the API is let in."""
    ticket = await public_api.book()
    path = path.format(theatre="main", showtime=ticket["showtime"])
    origin = str(public_api.client.make_url("/")).rstrip("/")
    for headers in ({}, {"Cookie": f"matinee_box_office=9999999999.{'0' * 64}"}, STAFF):
        asked = {**BROWSER, "Origin": origin, **headers}
        answer = await public_api.request(method, path, headers=asked, data={"ticket_id": ticket["ticket_id"]})
        assert "Staff token" in await read(answer, 401)
    assert (await (await public_api.get(f"/v1/tickets/{ticket['ticket_id']}")).json())["status"] == "booked"


async def test_a_session_is_for_the_pages_alone(public_api: Api) -> None:
    """A cookie travels with requests that others make; so the API, which counts on a header, does not look at it."""
    cookie = await signed_in(public_api)
    assert (await public_api.get("/metrics", headers=cookie)).status == 401


async def test_protected_mode_opens_at_once(api: Api) -> None:
    text = await page(api, "/box-office")
    assert "Protected mode" in text
    assert "Sign out" not in text
    assert (await send(api, "/box-office/sign-in", {"token": "whatever"})).headers["Location"] == "/box-office"


async def test_the_door_says_yes_then_already_then_no(public_api: Api) -> None:
    ticket = await public_api.book()
    cookie = await signed_in(public_api)

    async def admit(ticket_id: str, status: int) -> str:
        return await read(await send(public_api, "/box-office/admission", {"ticket_id": ticket_id}, **cookie), status)

    text = await admit(ticket["ticket_id"].lower(), 200)
    assert 'class="result yes"' in text
    assert "Asha Rao" in text
    first = await (await public_api.get(f"/v1/tickets/{ticket['ticket_id']}")).json()
    assert first["status"] == "admitted"
    text = await admit(ticket["ticket_id"].upper(), 409)
    assert 'class="result already"' in text
    assert f"At {first['admitted_at'][11:16]}, " in text, "when it was let in first"
    assert "No such ticket." in await admit(UNKNOWN_ID, 404)
    assert "That is no ticket&#x27;s id." in await admit("17", 422)
    assert "That is no ticket&#x27;s id." in await admit("", 422)


async def test_an_expired_ticket_is_not_let_in(pool: ConnectionPool) -> None:
    api = await opened(pool)
    ticket = await api.book()
    await expire(Redis(connection_pool=pool), ticket)
    text = await read(await send(api, "/box-office/admission", {"ticket_id": ticket["ticket_id"]}), 410)
    assert "This ticket is over." in text
    await api.client.close()


async def test_a_person_is_looked_up_by_the_ticket_and_the_ticket_cancelled(public_api: Api) -> None:
    ticket = await public_api.book()
    cookie = await signed_in(public_api)
    text = await page(public_api, f"/box-office/ticket?ticket_id={ticket['ticket_id'].lower()}", **cookie)
    assert "Asha Rao" in text
    assert "+919812345678" in text
    await page(public_api, "/box-office/ticket?ticket_id=17", 422, **cookie)
    await page(public_api, f"/box-office/ticket?ticket_id={UNKNOWN_ID}", 404, **cookie)
    answer = await send(public_api, "/box-office/cancellation", {"ticket_id": ticket["ticket_id"]}, **cookie)
    assert (answer.status, answer.headers["Location"]) == (303, f"/box-office/main/{ticket['showtime']}#cancelled")
    assert (await public_api.seats(ticket["showtime"]))["booked"] == 0
    refused = await send(public_api, "/box-office/cancellation", {"ticket_id": "17"}, **cookie)
    await read(refused, 422)


async def test_the_tickets_of_a_showtime_on_a_page_and_as_csv(public_api: Api) -> None:
    asha, noor = await public_api.book(), await public_api.book(name="=Noor", phone="7654321")
    cookie = await signed_in(public_api)
    await public_api.post(f"/v1/tickets/{asha['ticket_id']}/admission", headers=STAFF)
    path = f"/box-office/main/{asha['showtime']}"
    text = await page(public_api, path, **cookie)
    assert text.index("Asha Rao") < text.index("=Noor"), "in order of booking"
    assert "2 of 3 seats booked, 1 let in" in text
    assert "+919812345678" in text
    answer = await public_api.get(f"{path}/tickets.csv", headers={**BROWSER, **cookie})
    assert (answer.content_type, answer.headers["Cache-Control"]) == ("text/csv", "no-store")
    rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [row["ticket_id"] for row in rows] == [asha["ticket_id"], noor["ticket_id"]]
    assert rows[1]["name"] == "'=Noor"
    await page(public_api, "/box-office/main/2026-01-01T13:37", 404, **cookie)


async def test_an_expired_ticket_is_listed_without_a_name(pool: ConnectionPool) -> None:
    api = await opened(pool)
    ticket = await api.book()
    redis = Redis(connection_pool=pool)
    await redis.delete(f"{{main}}:ticket:{ticket['ticket_id']}")
    text = await page(api, f"/box-office/main/{ticket['showtime']}")
    assert "Asha Rao" not in text
    assert "deleted" in text
    await api.client.close()


async def test_the_door_leads_to_the_showtimes_of_each_day(pool: ConnectionPool, tmp_path: Path) -> None:
    api = await with_programme(pool, tmp_path)
    ticket = await api.book(timing="18:00")
    day = ticket["showtime"][:10]
    text = await page(api, f"/box-office?theatre=main&date={day}")
    assert f'href="/box-office/main/{ticket["showtime"]}"' in text
    assert "People on Sunday" in text
    assert "1 of 3 booked" in text
    await page(api, "/box-office?theatre=elsewhere", 404)
    await page(api, "/box-office?date=tomorrow", 422)
    await api.client.close()
