"""Tells whoever started the service when it serves and when it ends, by systemd's protocol.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import os
import socket

VARIABLE = "NOTIFY_SOCKET"


class Supervisor:
    """Who started the service; nobody where it does not want to hear. It is told what `sd_notify` tells.

    The address is taken out of the environment: gunicorn would say `READY` before a web process serves.
    """

    def __init__(self) -> None:
        address = os.environ.pop(VARIABLE, "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # of Linux's abstract namespace

    def tell(self, state: str) -> None:
        """Say `READY=1`, `STOPPING=1` or the like; one who does not listen any more is nobody."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            try:
                ear.connect(self._address)
                ear.sendall(state.encode())
            except OSError:
                self._address = ""
