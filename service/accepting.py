"""Accept those who wait, however long a turn of the event loop takes.

libuv, on which uvloop stands, accepts one connection in each turn of the loop. A turn lasts as long as there is work
for it, so while a crowd was served newcomers waited for as long as it went on. So whenever one has come, a turn is
timed, and as many are let in as belong to its length. In the short turns of a process that has little to do that is
nobody: they are left to the other web processes.
"""

import asyncio
import socket
import time
from typing import Any

from aiohttp import web

# One for so much of a turn, 5,000 a second. To let one in takes some 0.05 ms.
ONE_EACH_S = 0.0002
# In one turn, so that many newcomers do not keep those waiting who are here.
AT_ONCE = 64


class Accepting:
    """Accepts at `listener`, a socket for this alone, whenever a connection of the server has been made."""

    def __init__(self, listener: socket.socket, server: web.Server) -> None:
        self._listener = listener
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._is_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        made = server.connection_made

        def connection_made(handler: Any, transport: asyncio.Transport) -> None:
            made(handler, transport)
            if not self._is_due:
                self._is_due = True
                self._loop.call_soon(self._time_a_turn)

        server.connection_made = connection_made  # type: ignore[method-assign]  # aiohttp has no word for it

    def stop(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _time_a_turn(self) -> None:
        self._loop.call_soon(self._accept, time.monotonic())

    def _accept(self, began_s: float) -> None:
        self._is_due = False
        for _ in range(min(AT_ONCE, int((time.monotonic() - began_s) / ONE_EACH_S))):
            try:
                connection, _address = self._listener.accept()
            except OSError:  # nobody waits; or no descriptor is left, which is for the event loop to deal with
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._server, connection)
        except OSError:  # it is gone already
            connection.close()
