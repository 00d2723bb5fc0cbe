"""What all pages have in common: who gets one, their headers, their files, their weight, and their errors."""

import gzip
import re
from pathlib import Path

import pytest
from http_api import UNKNOWN_ID, Api, problem
from http_pages import BROWSER, page, read, send, with_programme
from redis.asyncio import ConnectionPool

from service.routes import ROUTES

pytestmark = pytest.mark.usefixtures("keys_left")

FIRST_VIEW_BYTES = 60_000
FIRST_VIEW_REQUESTS = 8


async def test_a_browser_gets_the_page_and_a_program_the_json(api: Api) -> None:
    for accept in ("*/*", "application/json", "text/html, application/json"):
        answer = await api.get("/", headers={"Accept": accept})
        assert (answer.content_type, answer.headers["Vary"]) == ("application/json", "Accept")
    assert (await api.get("/")).content_type == "application/json"
    answer = await api.get("/", headers=BROWSER)
    assert answer.content_type == "text/html"
    assert "Accept" in answer.headers["Vary"]
    assert "Main theatre" in await answer.text()


async def test_head_answers_what_get_does(api: Api) -> None:
    answer = await api.head("/", headers=BROWSER)
    assert (answer.status, answer.content_type, await answer.read()) == (200, "text/html", b"")


async def test_a_page_runs_nothing_but_its_own_files(api: Api) -> None:
    ticket = await api.book()
    for path in ("/", "/theatres", f"/tickets/{ticket['ticket_id']}", f"/tickets/{UNKNOWN_ID}", "/box-office", "/no"):
        answer = await api.get(path, headers=BROWSER)
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert "unsafe" not in str(policy)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin", "a ticket's address goes nowhere else"
        text = await answer.text()
        assert " style=" not in text
        assert "<style" not in text
        assert "<script>" not in text
        assert not re.search(r'(src|href)="https?:', text)


async def test_what_is_about_somebody_is_stored_by_nobody(api: Api) -> None:
    ticket = await api.book()
    for path in (
        f"/tickets/{ticket['ticket_id']}",
        "/box-office",
        f"/box-office/main/{ticket['showtime']}",
        "/nothing",
    ):
        answer = await api.get(path, headers=BROWSER)
        assert answer.headers["Cache-Control"] == "no-store", path
    refused = await send(api, "/theatres/main", {"name": "Asha Rao"})
    assert refused.headers["Cache-Control"] == "no-store"


async def test_a_file_of_the_pages_is_asked_for_once(api: Api) -> None:
    text = await page(api, "/")
    files = set(re.findall(r'(?:href|src)="(/assets/[^"]+)"', text.replace("&#x2f;", "/")))
    assert len(files) >= 4
    for path in files:
        assert re.search(r"\.[0-9a-f]{12}\.", path), "the name changes with the content"
        answer = await api.get(path)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for name in ("other.000000000000.css", "matinee.css", "matinee.0000.css", "..%2frendering.py"):
        await problem(await api.get(f"/assets/{name}"), 404, "route_not_found")


async def test_a_page_of_another_version_gets_this_one_s_files_for_the_moment(api: Api) -> None:
    """While a release is rolled out, a page may come from the one version and its style sheet from the other."""
    [sheet] = re.findall(r'href="(/assets/matinee[^"]+css)"', (await page(api, "/")).replace("&#x2f;", "/"))
    own, others = await api.get(sheet), await api.get("/assets/matinee.000000000000.css")
    assert others.status == 200
    assert await others.read() == await own.read()
    assert others.headers["Cache-Control"] == "no-store", "the next time it may be the right one"


async def test_files_come_compressed_to_those_who_take_it(api: Api) -> None:
    text = (await page(api, "/")).replace("&#x2f;", "/")
    [sheet] = re.findall(r'href="(/assets/matinee[^"]+css)"', text)
    plain = await api.get(sheet, headers={"Accept-Encoding": "identity"})
    packed = await api.get(sheet, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert await plain.read() == await packed.read()
    assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"]) / 2


async def test_the_first_view_is_light(pool: ConnectionPool, tmp_path: Path) -> None:
    """The page of a busy theatre with all that a browser loads for it, as it travels."""
    timings = ", ".join(f'{{at = "{hour}:00", film = "A film with a rather long title"}}' for hour in range(12, 24, 2))
    programme = f'[[theatre]]\nid = "main"\nname = "Lichtspiele Lumen"\ntimings = [{timings}]'
    api = await with_programme(pool, tmp_path, programme)
    headers = {**BROWSER, "Accept-Encoding": "gzip"}
    answer = await api.get("/", headers=headers)
    weights = {"/": int(answer.headers["Content-Length"])}
    for path in re.findall(r'(?:href|src)="(/assets/[^"]+)"', (await answer.text()).replace("&#x2f;", "/")):
        weights[path] = int((await api.get(path, headers=headers)).headers["Content-Length"])
    await api.client.close()
    assert len(weights) <= FIRST_VIEW_REQUESTS, weights
    assert sum(weights.values()) <= FIRST_VIEW_BYTES, weights


async def test_the_page_itself_is_compressed(api: Api) -> None:
    answer = await api.client.session.get(
        api.client.make_url("/"), headers={**BROWSER, "Accept-Encoding": "gzip"}, auto_decompress=False
    )
    assert answer.headers["Content-Encoding"] == "gzip"
    assert b"Main theatre" in gzip.decompress(await answer.read())


async def test_an_error_is_a_page_for_a_browser_and_a_problem_for_a_program(api: Api) -> None:
    text = await page(api, "/no/such/place", 404)
    assert "There is nothing at this address." in text
    await problem(await api.get("/no/such/place"), 404, "route_not_found")
    text = await page(api, "/theatres/elsewhere", 404)
    assert "There is no such theatre here." in text
    await problem(await api.get("/theatres/elsewhere"), 404, "theatre_not_found")
    refused = await api.request("DELETE", "/theatres/main", headers=BROWSER)
    assert "GET" in refused.headers["Allow"]
    await read(refused, 405)
    # What is for programs alone stays with problems, whoever asks.
    await problem(await api.get(f"/v1/tickets/{UNKNOWN_ID}", headers=BROWSER), 404, "ticket_not_found")


async def test_protected_mode_explains_itself_to_a_browser(api: Api) -> None:
    text = await page(api, "/", 403, Host="cinema.example")
    assert "MATINEE_STAFF_TOKEN" in text


@pytest.mark.parametrize("method_and_path", [(r.method, r.path) for r in ROUTES if r.page and r.method == "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: "=".join(next(iter(headers.items()))),
)
async def test_a_form_that_another_site_sends_does_nothing(
    public_api: Api, method_and_path: tuple[str, str], headers: dict[str, str]
) -> None:
    ticket = await public_api.book()
    sign_in = await send(public_api, "/box-office/sign-in", {"token": "a-staff-token-for-the-tests"})
    assert sign_in.status == 303
    path = method_and_path[1].format(theatre="main", ticket_id=ticket["ticket_id"])
    form = {"ticket_id": ticket["ticket_id"], "phone": "+919812345678", "timing": "21:00", "name": "Asha"}
    answer = await send(public_api, path, form, **headers, Cookie=cookie(sign_in.headers["Set-Cookie"]))
    text = await read(answer, 403)
    assert "Another web site sent this form" in text
    assert "Set-Cookie" not in answer.headers
    assert (await public_api.seats(ticket["showtime"]))["booked"] == 1
    assert (await (await public_api.get(f"/v1/tickets/{ticket['ticket_id']}")).json()) == ticket
    await problem(await public_api.post(path, data=form, headers=headers), 403, "cross_site")


def cookie(set_cookie: str) -> str:
    return set_cookie.partition(";")[0]


async def test_a_proxy_that_renames_the_host_does_no_harm(public_api: Api) -> None:
    """The browser's own word, Sec-Fetch-Site, goes before a comparison of names."""
    form = {"name": "Asha", "phone": "1234567"}
    headers = {"Origin": "https://cinema.example", "Sec-Fetch-Site": "same-origin", "Host": "10.0.0.7:5000"}
    assert (await send(public_api, "/theatres/main", form, **headers)).status == 422


async def test_what_is_no_form_is_refused(api: Api) -> None:
    origin = {"Origin": str(api.client.make_url("/")).rstrip("/")}
    await problem(await api.post("/theatres/main", json={}, headers=origin), 415, "unsupported_media_type")
    large = await send(api, "/theatres/main", {"name": "x" * 20_000})
    await read(large, 413)


async def test_theatres_are_chosen_from_a_list(pool: ConnectionPool, tmp_path: Path) -> None:
    tables = [f'[[theatre]]\nid = "t-{n:03}"\nname = "Kino <{n}>"\ntimings = ["18:00"]' for n in range(120)]
    api = await with_programme(pool, tmp_path, "\n".join(tables))
    assert 'href="/theatres"' in (await page(api, "/")), "one theatre of several says where the others are"
    text = await page(api, "/theatres")
    assert text.count('href="/theatres/t-') == 50
    assert "Kino &lt;7&gt;" in text
    [further] = re.findall(r'rel="next" href="([^"]+)"', text)
    text = await page(api, further.replace("&amp;", "&"))
    assert "Kino &lt;99&gt;" in text
    assert 'rel="prev"' in text
    text = await page(api, "/theatres?name=%3C119")
    assert text.count('href="/theatres/t-') == 1
    assert "No theatre has that" in await page(api, "/theatres?name=elsewhere")
    await page(api, "/theatres?cursor=nonsense", 422)
    await api.client.close()
