"""What the HTTP tests share: a small theatre, a client that speaks JSON, and the words of the examples."""

from typing import Any

import contract
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import ConnectionPool

from service.app import create_app
from service.programme import Programme, programme_from
from service.settings import Settings

ASHA = {"name": "Asha Rao", "phone": "+91 98123-45678", "timing": "18:00"}
ASHAS_PHONE = {"Ticket-Phone": "+919812345678"}
TOKEN = "a-staff-token-for-the-tests"
STAFF = {"Authorization": f"Bearer {TOKEN}"}
UNKNOWN_ID = "main-0000000000000000"


class Api:
    """A client of a service of its own. Every request is `await api.get(path)` and the like."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.get, self.post, self.patch = client.get, client.post, client.patch
        self.put, self.delete, self.head, self.request = client.put, client.delete, client.head, client.request

    async def book(self, headers: dict[str, str] | None = None, **fields: str) -> dict[str, Any]:
        """Book a ticket, which must succeed."""
        answer = await self.post("/v1/tickets", json={**ASHA, **fields}, headers=headers)
        assert answer.status == 201, await answer.text()
        return await answer.json()

    async def seats(self, showtime: str) -> dict[str, Any]:
        """One showtime of the main theatre."""
        answer = await self.get(f"/v1/theatres/main/showtimes/{showtime}")
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def opened(pool: ConnectionPool, programme: Programme | None = None, **variables: str) -> Api:
    """A service on the server of `pool`, with settings as an operator would write them.

    A `programme` given takes the place of the one that the settings make. Every answer is held against the API's
    document.
    """
    settings = Settings.from_environment({"MATINEE_TIMINGS": "15:00,18:00,21:00", "MATINEE_CAPACITY": "3", **variables})
    server = TestServer(create_app(settings, programme or programme_from(settings), pool))
    client = TestClient(server, trace_configs=[contract.tracing()])
    await client.start_server()
    return Api(client)


async def problem(answer: ClientResponse, status: int, code: str) -> dict[str, Any]:
    """The problem an answer tells, which must be this one, in the form of RFC 9457."""
    text = await answer.text()
    assert answer.status == status, text
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    told = await answer.json()
    assert (told["status"], told["code"]) == (status, code)
    assert told["type"].endswith(code)
    assert told["title"]
    assert told["detail"]
    return told


def fields_of(told: dict[str, Any]) -> list[str]:
    """The bad fields that a problem names."""
    return [error["field"] for error in told["errors"]]
