"""A proxy between the service and Redis that loses or holds chosen calls, the same ones in every run.

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
    message (RESP3) that nobody asked for. Those in `held` do not get through: the caller's connection ends, and what
    it had sent waits on the way to the server until `release`. `delay_s` is asked how late each piece arrives. With a
    `pace_s` the server seems to take so long for each script call.
    """

    def __init__(
        self,
        upstream: str,
        *,
        lost: Collection[int] = (),
        pushed: Collection[int] = (),
        held: Collection[int] = (),
        delay_s: Callable[[], float] | None = None,
        pace_s: float = 0.0,
        when_lost: Callable[[], object] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.upstream = upstream.removeprefix("unix://")
        self.lost = lost
        self.pushed = pushed
        self.held = held
        self.delay_s = delay_s
        self.pace_s = pace_s
        self.when_lost = when_lost
        self.tls = tls
        self.script_calls = 0
        self.connections = 0
        self.url = ""
        self._free_at = 0.0
        self._links: set[_Link] = set()
        self._late: list[_Link] = []
        self._serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in [*self._links, *self._late]:
            link.abort()
        await asyncio.gather(*filter(None, self._serving), return_exceptions=True)

    def silence(self) -> None:
        """From now on nothing passes on the connections there are, and neither end hears of it; new ones are well."""
        for link in self._links:
            link.silent = True

    async def release(self) -> int:
        """Let what was held reach the server, and wait until it has dealt with it; how many commands that were."""
        late, self._late = self._late, []
        for link in late:
            link.server_out.write(bytes(link.waiting))
            replies = hiredis.Reader()
            for _ in link.numbers:
                while replies.gets() is False:
                    replies.feed(await link.server_in.read(1 << 16))
            link.abort()
        return sum(len(link.numbers) for link in late)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        try:
            link = _Link(client_in, client_out, *await asyncio.open_unix_connection(self.upstream))
        except OSError:  # the server is away
            client_out.transport.abort()
            return
        self.connections += 1
        self._links.add(link)
        both = [asyncio.create_task(self._forward(link)), asyncio.create_task(self._back(link))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        self._links.discard(link)
        if link.waiting:
            client_out.transport.abort()
            self._late.append(link)
        else:
            link.abort()
        self._serving.discard(asyncio.current_task())

    async def _forward(self, link: "_Link") -> None:
        commands = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while data := await link.client_in.read(1 << 16):
                commands.feed(data)
                first = self.script_calls + 1
                while (command := commands.gets()) is not False:
                    is_script_call = command[0] == b"EVALSHA"
                    self.script_calls += is_script_call
                    link.numbers.append(self.script_calls if is_script_call else 0)
                if any(number in self.held for number in range(first, self.script_calls + 1)):
                    link.waiting += data
                    return
                if self.pace_s:
                    self._pass_at_pace(link, data)
                else:
                    self._pass_on(link, link.server_out, data)

    async def _back(self, link: "_Link") -> None:
        buffer = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await link.server_in.read(1 << 16):
                buffer += data
                while buffer and (end := frame_end(buffer, 0)) >= 0:
                    number = link.numbers.popleft() if buffer[:1] != b">" else 0
                    if number in self.lost:
                        self.when_lost()
                        return
                    if number in self.pushed:
                        link.client_out.write(PUSH)
                    self._pass_on(link, link.client_out, bytes(buffer[:end]))
                    del buffer[:end]

    def _pass_at_pace(self, link: "_Link", data: bytes) -> None:
        """Pass on one command after the other, each when the server would have got to it."""
        link.paced += data
        loop = asyncio.get_running_loop()
        while link.paced and (end := frame_end(link.paced, 0)) >= 0:
            command = bytes(link.paced[:end])
            del link.paced[:end]
            busy_s = self.pace_s if b"EVALSHA" in command[:30] else 0.0
            self._free_at = max(self._free_at, loop.time()) + busy_s + 1e-6  # a timer is no queue
            loop.call_at(self._free_at, link.server_out.write, command)

    def _pass_on(self, link: "_Link", sink: asyncio.StreamWriter, data: bytes) -> None:
        if link.silent:
            return
        if self.delay_s is None:
            sink.write(data)
            return
        loop = asyncio.get_running_loop()
        # Never before what was passed on earlier: a timer is no queue.
        link.due[sink] = max(loop.time() + self.delay_s(), link.due.get(sink, 0.0) + 1e-6)
        loop.call_at(link.due[sink], sink.write, data)


class _Link:
    """One connection of a caller and the one to the server that belongs to it."""

    def __init__(
        self,
        client_in: asyncio.StreamReader,
        client_out: asyncio.StreamWriter,
        server_in: asyncio.StreamReader,
        server_out: asyncio.StreamWriter,
    ) -> None:
        self.client_in, self.client_out = client_in, client_out
        self.server_in, self.server_out = server_in, server_out
        self.numbers: deque[int] = deque()  # of the commands without a reply; 0 for what is no script call
        self.waiting = bytearray()
        self.paced = bytearray()
        self.due: dict[asyncio.StreamWriter, float] = {}  # when the last delayed piece goes on
        self.silent = False

    def abort(self) -> None:
        """End both connections."""
        self.client_out.transport.abort()
        self.server_out.transport.abort()
