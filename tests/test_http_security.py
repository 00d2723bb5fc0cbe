"""Who may do what: the staff token, protected mode, and what each role is let in to."""

import pytest
from http_api import ASHA, ASHAS_PHONE, STAFF, TOKEN, Api, problem

from service.routes import ROUTES

WRONG = {"Authorization": "Bearer not-the-token-of-this-service"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "cinema.example"},
        {"Host": "127.0.0.1.cinema.example"},
        {"Host": "192.168.1.7:5000"},
        {"Forwarded": "for=192.0.2.60"},
        {"X-Forwarded-For": "192.0.2.60"},
        {"X-Forwarded-Host": "cinema.example"},
        {"X-Forwarded-Proto": "https"},
        {"X-Real-IP": "192.0.2.60"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: "=".join(next(iter(headers.items()))),
)
async def test_protected_mode_refuses_strangers_and_says_what_to_set(api: Api, headers: dict[str, str]) -> None:
    """No staff token is set, so every caller is the box office: a web page on this machine must not be one."""
    for answer in (await api.get("/v1/theatres", headers=headers), await api.post("/v1/tickets", headers=headers)):
        told = await problem(answer, 403, "protected_mode")
        assert "MATINEE_STAFF_TOKEN" in told["detail"]


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "127.8.8.8"])
async def test_protected_mode_lets_this_machine_in(api: Api, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert (await api.get("/v1/theatres", headers=headers)).status == 200


async def test_with_a_token_set_a_proxy_and_another_origin_are_fine(public_api: Api) -> None:
    headers = {"Host": "cinema.example", "X-Forwarded-For": "192.0.2.60", "Origin": "https://elsewhere.example"}
    assert (await public_api.get("/v1/theatres", headers=headers)).status == 200


@pytest.mark.parametrize(
    "authorization",
    ["Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \u00fc", TOKEN],
)
async def test_a_wrong_token_is_401_wherever_a_token_counts(public_api: Api, authorization: str) -> None:
    headers = {"Authorization": authorization}
    await problem(await public_api.get("/metrics", headers=headers), 401, "staff_only")
    await problem(await public_api.post("/v1/tickets", json=ASHA, headers=headers), 401, "staff_only")


async def test_the_scheme_of_the_token_is_written_as_one_likes(public_api: Api) -> None:
    assert (await public_api.get("/metrics", headers={"Authorization": f"bearer  {TOKEN} "})).status == 200


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if not route.page], ids=lambda route: f"{route.method} {route.path}"
)
async def test_each_route_lets_in_whom_its_row_says(public_api: Api, route: object) -> None:
    """`access` in the table of routes is what documents and tests are made from, so it has to be true."""
    ticket = await public_api.book()
    path = route.path.format(theatre="main", showtime=ticket["showtime"], ticket_id=ticket["ticket_id"])
    wish = {
        "BookRequest": ASHA,
        "ClassicBookRequest": ASHA,
        "MoveRequest": {"timing": "21:00"},
        "ClassicUpdateRequest": {"ticket_id": ticket["ticket_id"], "phone": "+919812345678", "timing_alter": "21:00"},
        "ClassicDeleteRequest": {"ticket_id": ticket["ticket_id"], "phone": "+919812345678"},
        "ClassicTimingRequest": {"timing": "18:00"},
        "ClassicTicketRequest": {"ticket_id": ticket["ticket_id"]},
    }
    body = {"json": wish[route.body.__name__]} if route.body else {}

    async def status(**headers: str) -> int:
        return (await public_api.request(route.method, path, headers=headers, **body)).status

    if route.access == "box office":
        assert await status() == 401
        assert await status(**WRONG) == 401
        assert await status(**STAFF) == route.status
    elif route.access == "holder and phone":
        assert await status() == 403
        assert await status(**ASHAS_PHONE) == route.status
    else:
        assert await status() == route.status


async def test_no_answer_tells_the_token_or_the_server_s_versions(public_api: Api) -> None:
    for path in ("/", "/openapi.json", "/nothing", "/metrics"):
        answer = await public_api.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert TOKEN not in await answer.text()
        assert answer.headers["Server"] == "Matinee"
