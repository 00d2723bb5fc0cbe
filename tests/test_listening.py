"""The listening socket: where it may be, what may be handed over, and how connections are let go."""

import os
import re
import select
import socket
import sys

import pytest

from service import listening
from service.listening import (
    ListenError,
    handed_over,
    hear,
    ignore_connection_attempts,
    listen,
)
from service.settings import Settings

WAIT_S = 25  # a bound for a hanging test, far beyond what a slow machine takes
TOKEN = "correct-horse-battery"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="as the kernel of Linux does it")


def settings(**variables: str) -> Settings:
    return Settings.from_environment({f"MATINEE_{name}": text for name, text in variables.items()})


@on_linux
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connection_attempts_are_ignored_but_not_what_already_waits(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        address = listener.getsockname()[:2]
        with socket.create_connection(address, timeout=WAIT_S) as waiting:
            ignore_connection_attempts(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.2)
            waiting.sendall(b"served")
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(WAIT_S)
                assert accepted.recv(100) == b"served"


@on_linux
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_that_heard_of_it_hears_again(address: str) -> None:
    """One that was being made as the socket began to ignore attempts has inherited that."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2], timeout=WAIT_S)
        accepted, _ = listener.accept()
        with client, accepted:
            ignore_connection_attempts(accepted)
            client.sendall(b"served")
            accepted.settimeout(0.1)
            with pytest.raises(TimeoutError):
                accepted.recv(100)
            hear(accepted)
            accepted.settimeout(WAIT_S)
            assert accepted.recv(100) == b"served", "the client's system sends it again"


def test_a_taken_port_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PORT_WAIT_S", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"^port {port} on 127\.0\.0\.1 is in use .* set MATINEE_PORT$"):
            listen("127.0.0.1", port)
        with pytest.raises(
            ListenError, match=r"or have it share the port too: MATINEE_SHARE_PORT=on, as the same user$"
        ):
            listen("127.0.0.1", port, shares=True)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_one_clear_line(host: str) -> None:
    with pytest.raises(ListenError, match=rf"{re.escape(host)}.*"):
        listen(host, 0)


def test_localhost_is_the_address_that_people_type() -> None:
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@on_linux
def test_a_port_is_shared_by_those_who_both_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PORT_WAIT_S", 0)
    with listen("127.0.0.1", 0, shares=True) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port, shares=True) as second:
            assert second.getsockname() == first.getsockname()
        with pytest.raises(ListenError):
            listen("127.0.0.1", port)


@on_linux
def test_a_shared_port_is_the_first_ones_until_it_ends() -> None:
    with listen("127.0.0.1", 0, shares=True) as first:
        address = first.getsockname()
        with listen(*address, shares=True) as second:
            assert accepted_of(32, first, second) == (32, 0)
            first.close()
            assert accepted_of(8, second) == (8,)
            with socket.socket() as third:  # it could not attach anything before it is in the group
                third.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                third.bind(address)
                third.listen()
                assert accepted_of(32, second, third) == (32, 0)


def accepted_of(count: int, *listeners: socket.socket) -> tuple[int, ...]:
    """How many of so many connections come to each of the listeners, which all share a port."""
    address = listeners[-1].getsockname()
    clients = [socket.create_connection(address, timeout=WAIT_S) for _ in range(count)]
    found = dict.fromkeys(listeners, 0)
    while sum(found.values()) < count:
        waiting, _, _ = select.select(listeners, [], [], WAIT_S)
        assert waiting, found
        for listener in waiting:
            listener.accept()[0].close()
            found[listener] += 1
    for client in clients:
        client.close()
    return tuple(found.values())


def hand_over(monkeypatch: pytest.MonkeyPatch, given: socket.socket, count: int = 1) -> None:
    """As systemd does, but for the number of the descriptor, which is taken here."""
    monkeypatch.setattr("gunicorn.systemd.SD_LISTEN_FDS_START", os.dup(given.fileno()))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(count))


def test_a_socket_that_is_handed_over_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        hand_over(monkeypatch, given)
        with handed_over(settings()) as taken:
            assert taken.getsockname() == given.getsockname()
        assert handed_over(settings()) is None, "a child must not take it for its own"


def test_what_is_meant_for_another_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        hand_over(monkeypatch, given)
        monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
        assert handed_over(settings()) is None


def test_protected_mode_takes_no_socket_that_the_world_may_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as given:
        hand_over(monkeypatch, given)
        with pytest.raises(ListenError, match=r"on a loopback address .* while no MATINEE_STAFF_TOKEN is set"):
            handed_over(settings())
        hand_over(monkeypatch, given)
        with handed_over(settings(STAFF_TOKEN=TOKEN)) as taken:
            assert taken.getsockname() == given.getsockname()


@pytest.mark.parametrize("name", ["LISTEN_FDS", "LISTEN_PID"])
@pytest.mark.parametrize("text", ["", "one"])
def test_numbers_that_are_none_are_one_clear_line(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ListenError, match=r"^LISTEN_FDS and LISTEN_PID must be whole numbers"):
        handed_over(settings())


@pytest.mark.parametrize(
    ("family", "listens", "count", "variables", "line"),
    [
        (socket.AF_INET, True, 2, {}, r"^2 sockets are handed over \(LISTEN_FDS\), and one can be served"),
        (socket.AF_INET, False, 1, {}, r"is no socket that listens on a TCP port$"),
        (socket.AF_UNIX, True, 1, {}, r"is no socket that listens on a TCP port$"),
        (
            socket.AF_INET,
            True,
            1,
            {"SHARE_PORT": "on", "REDIS_URL": "redis://redis"},
            r"^MATINEE_SHARE_PORT must be off",
        ),
    ],
    ids=("two", "not listening", "not TCP", "shared"),
)
def test_what_cannot_be_served_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    family: socket.AddressFamily,
    listens: bool,
    count: int,
    variables: dict[str, str],
    line: str,
) -> None:
    with socket.socket(family) as given:
        given.bind("" if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if listens:
            given.listen()
        hand_over(monkeypatch, given, count)
        with pytest.raises(ListenError, match=line):
            handed_over(settings(**variables))
