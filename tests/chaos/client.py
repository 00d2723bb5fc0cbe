"""An HTTP client that knows whether a request had gone out when its connection failed, and repeats nothing."""

import asyncio
import re
from typing import Any

import msgspec

from tests.history.calls import Call, Outcome


class NotSentError(Exception):
    """No connection could be made: the service has seen nothing of the request."""


class NoAnswerError(Exception):
    """The request had gone out, and the connection ended or fell silent before a whole answer came."""


class Answer(msgspec.Struct, frozen=True):
    """Status, head and body as they came."""

    status: int
    head: str
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The problem's code; empty where the answer is none."""
        return str(self.json["code"]) if self.status >= 400 else ""

    def header(self, name: str) -> str | None:
        """A header's value."""
        found = re.search(rf"^{name}: *(.*?)\r$", self.head, re.IGNORECASE | re.MULTILINE)
        return found[1] if found else None


class Client:
    """One caller with one lasting connection to a port of loopback, made when it is needed."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.port = port
        self.timeout_s = timeout_s
        self.connects = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, fields: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request and wait for its answer. Raises NotSentError, NoAnswerError."""
        body = b"" if fields is None else msgspec.json.encode(fields)
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += ["Content-Type: application/json"] if body else []
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        reader, writer = await self._connected()
        try:
            async with asyncio.timeout(self.timeout_s):
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                return await self._answer(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.close()
            raise NoAnswerError(repr(error)) from None
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            try:
                async with asyncio.timeout(self.timeout_s):
                    self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            except (OSError, TimeoutError) as error:
                raise NotSentError(repr(error)) from None
            self.connects += 1
        return self._streams

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head[9:12])
        length = re.search(r"^content-length: (\d+)", head, re.IGNORECASE | re.MULTILINE)
        body = await reader.readexactly(int(length[1])) if length else b""
        if re.search(r"^connection: close", head, re.IGNORECASE | re.MULTILINE):
            self.close()
        return Answer(status, head, body)


class HttpWindow:
    """A person at the service's window: the calls of a history over HTTP."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, call: Call, key: str | None) -> tuple[Outcome, str]:
        """Send the call as a request; an answer that is not there is an outcome too."""
        one = f"/v1/tickets/{call.ticket_id}"
        signed = {"Ticket-Phone": call.phone}
        try:
            match call.kind:
                case "book":
                    wish = {"name": call.name, "phone": call.phone, "timing": call.showtime}
                    answer = await self._client.ask(
                        "POST", "/v1/tickets", wish, {"Idempotency-Key": key} if key else None
                    )
                case "move":
                    answer = await self._client.ask("PATCH", one, {"timing": call.showtime}, signed)
                case "cancel":
                    answer = await self._client.ask("DELETE", one, None, signed)
                case "view":
                    answer = await self._client.ask("GET", one)
                case "seats":
                    answer = await self._client.ask("GET", f"/v1/theatres/main/showtimes/{call.showtime}")
        except NotSentError:
            return "refused", "not sent"
        except NoAnswerError:
            return "unknown", "no answer"
        return _told(call, answer)

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()


def _told(call: Call, answer: Answer) -> tuple[Outcome, str]:
    if answer.status >= 400:
        # `unavailable` says that nothing was done, and is held to it.
        known = answer.status < 500 or answer.code == "unavailable"
        honest = answer.status != 503 or answer.header("Retry-After") is not None
        return "refused" if known else "unknown", answer.code if honest else "no_retry_after"
    if call.kind == "book":
        call.ticket_id = answer.json["ticket_id"]
    if call.kind == "seats":
        call.seen = answer.json["booked"]
    elif call.kind != "cancel":
        call.told = f"{answer.json['name']} at {answer.json['showtime']}"
    return "done", ""
