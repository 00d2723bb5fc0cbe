"""What goes wrong, and how the service says so: problem+json, a stable code, every bad field at once."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from http_api import ASHA, UNKNOWN_ID, Api, fields_of, problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import problems
from service.routes import ROUTES

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

# Codes that other tests show; all the rest are shown in this file.
ELSEWHERE = {
    "staff_only": "test_http_security",
    "protected_mode": "test_http_security",
    "cross_site": "test_pages_common",
    "too_many_guesses": "test_sessions",
    "wrong_phone": "test_http_tickets",
    "sold_out": "test_http_tickets",
    "showtime_closed": "test_http_tickets",
    "already_admitted": "test_http_tickets",
    "showtime_not_found": "test_http_tickets",
    "booking_cancelled": "test_http_idempotency",
    "idempotency_key_reused": "test_http_idempotency",
    "ticket_expired": "test_http_tickets",
    "unavailable": "test_http_outage",
    "outcome_unknown": "test_http_outage",
    "too_many_listeners": "test_live",
}


def test_every_code_is_shown_somewhere() -> None:
    here = Path(__file__)
    for code in problems.PROBLEMS:
        shown = here.with_stem(ELSEWHERE[code]) if code in ELSEWHERE else here
        assert f'"{code}"' in shown.read_text(encoding="utf-8"), f"{shown.name} does not show {code}"


async def test_all_bad_fields_are_named_with_what_would_be_right(api: Api) -> None:
    body = {"name": "\u202eevil", "phone": "12", "timing": "6 pm", "theatre": "?", "seat": "A1"}
    told = await problem(await api.post("/v1/tickets", json=body), 422, "invalid_input")
    messages = {error["field"]: error["message"] for error in told["errors"]}
    assert messages.keys() == body.keys()
    assert "bidirectional" in messages["name"]
    assert "7 to 15 digits" in messages["phone"]
    assert "HH:MM" in messages["timing"]
    assert "is not a field" in messages["seat"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "   "),
        ("name", "a" * 81),
        ("name", "nul\0"),
        ("name", "line\nbreak"),
        ("name", "\u2067isolated"),
        ("name", "\u200b"),
        ("phone", ""),
        ("phone", "123456"),
        ("phone", "1" * 16),
        ("phone", "++1234567"),
        ("phone", "\u0661\u0662\u0663\u0664\u0665\u0666\u0667"),
        ("phone", "1234567x"),
        ("timing", "24:00"),
        ("timing", "9:00"),
        ("timing", "18:60"),
        ("timing", "\uff11\uff18:00"),
        ("timing", "2026-02-29T18:00"),
        ("timing", "1999-12-31T18:00"),
        ("timing", "2026-11-24 18:00"),
        ("theatre", "Main Hall"),
    ],
)
async def test_a_bad_value_is_told_by_its_field(api: Api, field: str, value: str) -> None:
    told = await problem(await api.post("/v1/tickets", json={**ASHA, field: value}), 422, "invalid_input")
    assert fields_of(told) == [field]


@pytest.mark.parametrize("value", [None, 7, 1e400, True, [], {}, ["18:00"], {"at": "18:00"}])
async def test_a_value_of_the_wrong_type_is_told_by_its_field(api: Api, value: Any) -> None:
    told = await problem(await api.post("/v1/tickets", json={**ASHA, "timing": value}), 422, "invalid_input")
    assert fields_of(told) == ["timing"]


async def test_text_that_is_no_text_is_told_by_its_field(api: Api) -> None:
    body = json.dumps(ASHA).replace("Asha Rao", "\\ud800")
    told = await problem(await api.post("/v1/tickets", data=body, headers=JSON), 422, "invalid_input")
    assert fields_of(told) == ["name"]


async def test_a_number_however_long_is_told_by_its_field(api: Api) -> None:
    body = json.dumps(ASHA).replace('"18:00"', "9" * 15_000)
    told = await problem(await api.post("/v1/tickets", data=body, headers=JSON), 422, "invalid_input")
    assert fields_of(told) == ["timing"]


async def test_a_body_nested_too_deeply_says_so(api: Api) -> None:
    body = json.dumps(ASHA).replace('"18:00"', "[" * 7_000 + "]" * 7_000)
    told = await problem(await api.post("/v1/tickets", data=body, headers=JSON), 400, "malformed_body")
    assert "nested too deeply" in told["detail"]


@pytest.mark.parametrize("body", ["[]", "null", "7", '"text"', "true"])
async def test_json_of_another_shape_is_told_what_is_wanted(api: Api, body: str) -> None:
    told = await problem(await api.post("/v1/tickets", data=body, headers=JSON), 422, "invalid_input")
    assert fields_of(told) == ["body"]
    assert "name" in told["errors"][0]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"name=Asha", b'{"name": "\xff"}', b"[" * 5000, b'{"a":' * 2000, b"\0", b"{}{}", b"\xef\xbb\xbf{}"],
)
async def test_what_is_no_json_is_400(api: Api, body: bytes) -> None:
    await problem(await api.post("/v1/tickets", data=body, headers=JSON), 400, "malformed_body")


@pytest.mark.parametrize("body", ["name=%ff", "a=1&" * 40, "\u00e9=1"])
async def test_what_is_no_form_is_400(api: Api, body: str) -> None:
    await problem(await api.post("/booktickets", data=body.encode(), headers=FORM), 400, "malformed_body")


async def test_a_body_over_the_limit_is_413_and_the_connection_closes(api: Api) -> None:
    body = json.dumps({**ASHA, "name": "a" * 17_000})
    answer = await api.post("/v1/tickets", data=body, headers=JSON)
    await problem(answer, 413, "body_too_large")
    assert answer.headers["Connection"] == "close"

    async def endless() -> Any:
        for _ in range(40):
            yield b" " * 1024

    await problem(await api.post("/v1/tickets", data=endless(), headers=JSON), 413, "body_too_large")


async def test_other_media_types_are_415(api: Api) -> None:
    text = json.dumps(ASHA)
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/xml"}, {**JSON, **GZIP}):
        await problem(await api.post("/v1/tickets", data=text, headers=headers), 415, "unsupported_media_type")
    await problem(await api.post("/v1/tickets", data=ASHA), 415, "unsupported_media_type")
    multipart = FormData(ASHA)
    multipart.add_field("file", b"x", filename="x")
    await problem(await api.post("/booktickets", data=multipart), 415, "unsupported_media_type")
    utf8 = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert (await api.post("/v1/tickets", data=text, headers=utf8)).status == 201


GZIP = {"Content-Encoding": "gzip"}


async def answer_to(api: Api, request: bytes) -> tuple[int, str]:
    """Status and code of the answer to bytes as they are; it must end their connection."""
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    writer.write(request)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert b"\r\nConnection: close\r\n" in head or head.startswith(b"HTTP/1.0")
    body = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
    writer.close()
    return int(head.split()[1]), json.loads(body)["code"]


async def test_a_body_that_trickles_is_408_and_the_connection_closes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.edge.BODY_DEADLINE_S", 0.05)
    head = b"POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    assert await answer_to(api, head + b'\r\n{"name":') == (408, "body_timeout")


async def test_what_is_no_http_is_400_and_the_connection_closes(api: Api) -> None:
    for request in (b"BOOK a ticket\r\n\r\n", b"GET / HTTP/1.1\r\nTicket-Phone: " + b"9" * 9000 + b"\r\n\r\n"):
        assert await answer_to(api, request) == (400, "malformed_request")


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/tickets/", "/v2/tickets", "/booktickets/x", "/%0a"])
async def test_a_path_that_is_no_route_is_404(api: Api, path: str) -> None:
    told = await problem(await api.get(path), 404, "route_not_found")
    assert "/openapi.json" in told["detail"]


async def test_a_theatre_or_ticket_that_is_none_is_404(api: Api) -> None:
    await problem(await api.get("/v1/theatres/odeon/showtimes"), 404, "theatre_not_found")
    await problem(await api.get(f"/v1/tickets/{UNKNOWN_ID}"), 404, "ticket_not_found")


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
async def test_another_method_is_405_and_says_which_there_are(api: Api, path: str) -> None:
    real = path.format(theatre="main", showtime="2026-11-24T18:00", ticket_id=UNKNOWN_ID, file="matinee.css")
    methods = {route.method for route in ROUTES if route.path == path}
    answer = await api.request("PROPFIND", real)
    told = await problem(answer, 405, "method_not_allowed")
    allowed = set(answer.headers["Allow"].split(", "))
    assert allowed == methods | ({"HEAD"} if "GET" in methods else set())
    assert "PROPFIND" in told["detail"]


async def test_a_defect_of_ours_is_500_and_says_nothing_of_itself(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr("service.box_office.BoxOffice.ticket", fail)
    answer = await api.get(f"/v1/tickets/{UNKNOWN_ID}")
    await problem(answer, 500, "internal")
    assert "secret" not in await answer.text()
    assert "a secret of the inside" in caplog.text, "the log alone tells"


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
wishes = st.fixed_dictionaries(
    {}, optional={name: junk | st.just(value) for name, value in {**ASHA, "theatre": "main", "ticket_id": "x"}.items()}
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_no_body_whatever_is_a_500(api: Api, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted({route.path for route in ROUTES if route.body and "{" not in route.path})))
    body = data.draw(st.binary(max_size=200) | wishes.map(lambda wish: json.dumps(wish).encode()))
    headers = data.draw(st.sampled_from([JSON, FORM]))
    answer = await api.post(path, data=body, headers=headers)
    assert answer.status in (200, 201, 400, 403, 404, 409, 415, 422), (path, body, answer.status)
    if answer.status >= 400:
        assert answer.content_type == "application/problem+json"
