"""Accept all who wait, in one turn of the event loop.

libuv, on which uvloop stands, accepts one connection in each turn of the loop. A turn lasts as long as there is work
for it, so while a crowd is served newcomers waited up to three seconds, and a process that ends could not take over in
time what waited. So whenever one has come, the others are looked for (docs/decisions/0078).
"""

import asyncio
import socket
from typing import Any

from aiohttp import web

# In one turn, so that many newcomers do not keep those waiting who are here. They take some 3 ms.
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
                self._loop.call_soon(self._accept)

        server.connection_made = connection_made  # type: ignore[method-assign]  # aiohttp has no word for it

    def stop(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        self._is_due = False
        for _ in range(AT_ONCE):
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
