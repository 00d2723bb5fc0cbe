"""The assignment's own routes, as it documents them: JSON and form bodies."""

import datetime
from typing import Any

import pytest
from http_api import ASHA, STAFF, UNKNOWN_ID, Api, fields_of, problem

pytestmark = pytest.mark.usefixtures("keys_left")


@pytest.fixture(params=["json", "data"], ids=["JSON", "form"])
def body(request: pytest.FixtureRequest) -> Any:
    """A body in either form: `await api.post(path, **body(name="Asha"))`."""
    return lambda **fields: {request.param: fields}


async def test_slots_book_alter_view_delete(api: Api, body: Any) -> None:
    slots = await (await api.get("/")).json()
    assert sorted(each["timing"] for each in slots["showtimes"]) == ["15:00", "18:00", "21:00"]

    answer = await api.post("/booktickets", **body(**ASHA))
    assert answer.status == 201
    ticket = await answer.json()
    assert ticket["timing"] == "18:00"
    assert ticket["showtime"].endswith("T18:00")
    holder = {"ticket_id": ticket["ticket_id"], "phone": "+919812345678"}

    answer = await api.post("/update", **body(**holder, timing_alter="21:00"))
    assert answer.status == 200
    altered = await answer.json()
    assert (altered["ticket_id"], altered["timing"]) == (ticket["ticket_id"], "21:00")

    listed = await (await api.post("/viewontime", **body(timing="21:00"))).json()
    assert [each["ticket_id"] for each in listed["tickets"]] == [ticket["ticket_id"]]
    assert (await (await api.post("/viewontime", **body(timing=altered["showtime"]))).json()) == listed
    assert (await (await api.post("/viewontime", **body(timing="18:00"))).json()) == {"tickets": []}

    user = await (await api.post("/viewuser", **body(ticket_id=ticket["ticket_id"]))).json()
    assert (user["name"], user["phone"]) == ("Asha Rao", "+919812345678")

    answer = await api.post("/delete", **body(**holder))
    assert answer.status == 200
    told = await answer.json()
    assert (told["ticket_id"], told["timing"], told["status"]) == (ticket["ticket_id"], "21:00", "cancelled")
    await problem(await api.post("/delete", **body(**holder)), 404, "ticket_not_found")


async def test_a_clock_time_lists_every_date_that_has_tickets(api: Api, body: Any) -> None:
    first = await api.book(timing="18:00")
    date, _, _ = first["showtime"].partition("T")
    later = (datetime.date.fromisoformat(date) + datetime.timedelta(days=3)).isoformat()
    second = await api.book(timing=f"{later}T18:00")
    listed = await (await api.post("/viewontime", **body(timing="18:00"))).json()
    assert [each["ticket_id"] for each in listed["tickets"]] == [first["ticket_id"], second["ticket_id"]]


async def test_every_missing_field_is_named_at_once(api: Api, body: Any) -> None:
    for path, fields in (
        ("/booktickets", ["name", "phone", "timing"]),
        ("/update", ["ticket_id", "phone", "timing_alter"]),
        ("/delete", ["ticket_id", "phone"]),
        ("/viewontime", ["timing"]),
        ("/viewuser", ["ticket_id"]),
    ):
        told = await problem(await api.post(path, **body(surprise="!")), 422, "invalid_input")
        assert sorted(fields_of(told)) == sorted([*fields, "surprise"])


async def test_a_form_names_a_repeated_field(api: Api) -> None:
    form = "name=Asha&phone=1234567&phone=7654321&timing=18:00"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    told = await problem(await api.post("/booktickets", data=form, headers=headers), 422, "invalid_input")
    assert fields_of(told) == ["phone"]


async def test_the_wrong_phone_changes_nothing(api: Api, body: Any) -> None:
    ticket = await api.book()
    stranger = {"ticket_id": ticket["ticket_id"], "phone": "7654321"}
    await problem(await api.post("/update", **body(**stranger, timing_alter="21:00")), 403, "wrong_phone")
    await problem(await api.post("/delete", **body(**stranger)), 403, "wrong_phone")
    assert await (await api.get(f"/v1/tickets/{ticket['ticket_id']}")).json() == ticket


async def test_lists_and_users_are_for_the_box_office(public_api: Api, body: Any) -> None:
    ticket = await public_api.book()
    for path, fields in (("/viewontime", {"timing": "18:00"}), ("/viewuser", {"ticket_id": ticket["ticket_id"]})):
        await problem(await public_api.post(path, **body(**fields)), 401, "staff_only")
        assert (await public_api.post(path, headers=STAFF, **body(**fields))).status == 200


async def test_what_is_not_there_is_404(api: Api, body: Any) -> None:
    await problem(await api.post("/viewuser", **body(ticket_id=UNKNOWN_ID)), 404, "ticket_not_found")
    await problem(await api.post("/viewontime", **body(timing="04:44")), 404, "showtime_not_found")
    await problem(
        await api.post("/update", **body(ticket_id=UNKNOWN_ID, phone="1234567", timing_alter="18:00")),
        404,
        "ticket_not_found",
    )
