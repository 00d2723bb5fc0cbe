"""The listening socket: made here, or handed over by whoever started us; and how a service lets go of it.

A socket that closes takes the connections with it that wait in its queue: the kernel resets them. A socket that was
handed over stays open in other hands, and what waits there is for the next to serve. Of one of our own the kernel is
made to ignore new attempts before the end, and what waits is taken over meanwhile. Where two share a port, the kernel
leaves new connections to the first until it ends.
"""

import contextlib
import ctypes
import errno
import socket
import struct
import sys
import time
from typing import Any

from gunicorn import systemd  # type: ignore[import-untyped]  # gunicorn has no types

from service.settings import Settings, is_loopback

BACKLOG = 2048  # connections that wait to be accepted; the kernel caps it at net.core.somaxconn
PORT_WAIT_S = 3.0  # the web processes of a killed master leave within about two seconds


class ListenError(Exception):
    """The service cannot listen; the message is one line that says why and what to change."""


def handed_over(settings: Settings) -> socket.socket | None:
    """The listening socket that systemd, or whatever speaks its protocol, has handed to this process; None without one.

    Raises ListenError where it is not one that this service may serve.
    https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
    """
    try:
        count = systemd.listen_fds()
    except ValueError as error:
        raise ListenError("LISTEN_FDS and LISTEN_PID must be whole numbers, as systemd sets them, or unset") from error
    if not count:
        return None
    if count > 1:
        raise ListenError(
            f"{count} sockets are handed over (LISTEN_FDS), and one can be served: leave one ListenStream"
        )
    listener = _listening(systemd.SD_LISTEN_FDS_START)
    if listener is None:
        raise ListenError("what is handed over (LISTEN_FDS) is no socket that listens on a TCP port")
    host = listener.getsockname()[0]
    if settings.protected and not is_loopback(host):
        raise ListenError(
            f"the socket that is handed over (LISTEN_FDS) is on {host}, but must be on a loopback address (127.0.0.1"
            " or ::1) while no MATINEE_STAFF_TOKEN is set: set it to 16 visible ASCII characters or more"
        )
    if settings.share_port:
        raise ListenError("MATINEE_SHARE_PORT must be off where a socket is handed over (LISTEN_FDS)")
    return listener


def _listening(descriptor: int) -> socket.socket | None:
    try:
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return None
    return found if listens and found.family in {socket.AF_INET, socket.AF_INET6} else None


def listen(host: str, port: int, *, shares: bool = False) -> socket.socket:
    """A socket that listens on the address; port 0 takes a free one.

    With `shares` other sockets of this user that do the same may listen there beside it; new connections are left to
    the first of them. Raises ListenError when the port is taken, after waiting a little for an earlier run's last
    processes.
    """
    try:
        # The lowest family is IPv4: `localhost` means 127.0.0.1.
        family, kind, protocol, _, address = min(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )
    except OSError as error:
        raise ListenError(f"MATINEE_HOST {host!r} is not an address of this machine: {error.strerror}") from error
    deadline = time.monotonic() + PORT_WAIT_S
    while True:
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shares:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise ListenError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
            if time.monotonic() > deadline:
                raise ListenError(f"port {port} on {host} is in use by another program: {_way_out(shares)}") from error
            time.sleep(0.05)
        else:
            if shares:
                leave_to_the_first(listener)
            return listener


def _way_out(shares: bool) -> str:
    if shares:
        return "end that one, set MATINEE_PORT, or have it share the port too: MATINEE_SHARE_PORT=on, as the same user"
    return "end that one, or set MATINEE_PORT"


def ignore_connection_attempts(listener: Any) -> None:
    """Have the kernel ignore new connection attempts to a listening socket (Linux); what waits there stays.

    An ignored client tries again after a second, and meets a closed port, the next run of the service, or another that
    shares the port. For that the socket is made to want that nobody forwarded what it hears, which is never so: those
    who send begin with 64 or 128 hops. Whoever begins with 255 and is on this very network is not ignored. A connection
    that is just being made inherits it, and has to be told to `hear`.
    """
    _want_hops(listener, 255)


def hear(connection: Any) -> None:
    """Have a connection take what comes from anywhere, though it was made by a socket that ignores attempts."""
    _want_hops(connection, 0)


def _want_hops(listener_or_connection: Any, left: int) -> None:
    """Have the kernel drop what comes with fewer hops left: RFC 5082. A BPF filter would take a privilege."""
    for level, option in _WANTED_HOPS if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # a socket of IPv4 has none of IPv6
            listener_or_connection.setsockopt(level, option, left)


def leave_to_the_first(listener: Any) -> None:
    """Have the kernel give all new connections of a shared port to the socket that has listened there the longest.

    So nobody waits for one that does not serve yet, and nobody is lost with one that will not. The classic BPF program
    answers which socket of the group it is to be, the first: it is always there, be it this one. It stays with the
    group, for the next socket is a part of it before anything could be attached. (Where the first of three closes, the
    kernel puts the last in its place: hence one replacement at a time, docs/operations.md.)
    https://www.kernel.org/doc/html/latest/networking/filter.html
    """
    answer_0 = struct.pack("HBBI", 0x06, 0, 0, 0)
    memory = ctypes.create_string_buffer(answer_0, len(answer_0))
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then each has its part at once
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_CHOICE, struct.pack("HP", 1, ctypes.addressof(memory)))


# Python has no names for these. Of include/uapi/linux/in.h and in6.h: IP_MINTTL and IPV6_MINHOPCOUNT.
_WANTED_HOPS = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))
# Of include/uapi/asm-generic/socket.h: SO_ATTACH_REUSEPORT_CBPF.
_ATTACH_CHOICE = 51
