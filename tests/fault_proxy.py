"""A proxy between the service and Redis that loses chosen replies, the same ones in every run.

It counts whole commands and replies, not bytes or time: "lose the reply of the third script call" means the
same on a slow machine and on a fast one. The server has run the command by then; only its answer is lost, and
the connection with it.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Collection
from typing import Self

import hiredis

PUSH = b">3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n$4\r\nnews\r\n"


def frame_end(data: bytes | bytearray, start: int) -> int:
    """Where the RESP reply that begins at `start` ends; -1 if it is not whole yet."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return -1
    kind, end = data[start : start + 1], line_end + 2
    if kind in b"$=!":
        length = int(data[start + 1 : line_end])
        end += length + 2 if length >= 0 else 0
        return end if end <= len(data) else -1
    if kind in b"*~>%":
        parts = int(data[start + 1 : line_end]) * (2 if kind == b"%" else 1)
        for _ in range(parts):
            end = frame_end(data, end)
            if end < 0:
                return -1
    return end


class FaultProxy:
    """Listens on a free port of loopback for the server at the Unix socket `upstream`.

    The script calls are numbered from 1 over all connections; those in `lost` lose their reply. `when_lost`
    runs between the loss and the end of the connection. Before the replies of those in `pushed` goes a push
    message (RESP3) that nobody asked for.
    """

    def __init__(
        self,
        upstream: str,
        *,
        lost: Collection[int] = (),
        pushed: Collection[int] = (),
        when_lost: Callable[[], object] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.upstream = upstream.removeprefix("unix://")
        self.lost = lost
        self.pushed = pushed
        self.when_lost = when_lost
        self.tls = tls
        self.script_calls = 0
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*filter(None, self._serving), return_exceptions=True)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        server_in, server_out = await asyncio.open_unix_connection(self.upstream)
        self._writers |= {client_out, server_out}
        numbers: deque[int] = deque()  # of the commands without a reply; 0 for what is no script call
        both = [
            asyncio.create_task(self._forward(client_in, server_out, numbers)),
            asyncio.create_task(self._back(server_in, client_out, numbers)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        for writer in (client_out, server_out):
            writer.transport.abort()
            self._writers.discard(writer)
        self._serving.discard(asyncio.current_task())

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, numbers: deque[int]) -> None:
        commands = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    is_script_call = command[0] == b"EVALSHA"
                    self.script_calls += is_script_call
                    numbers.append(self.script_calls if is_script_call else 0)
                sink.write(data)

    async def _back(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, numbers: deque[int]) -> None:
        buffer = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                buffer += data
                while buffer and (end := frame_end(buffer, 0)) >= 0:
                    number = numbers.popleft() if buffer[:1] != b">" else 0
                    if number in self.lost:
                        self.when_lost()
                        return
                    if number in self.pushed:
                        sink.write(PUSH)
                    sink.write(bytes(buffer[:end]))
                    del buffer[:end]
