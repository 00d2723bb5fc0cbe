"""An HTTP client that knows whether a request had gone out when its connection failed, and repeats nothing."""

import asyncio
import re
from typing import Any

import msgspec


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
