"""Telling whoever started the service."""

import os
import socket
import tempfile

import pytest

from service.readiness import VARIABLE, Supervisor


def test_an_address_may_have_an_at_sign_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one at the beginning means Linux's abstract namespace; `user@1000` is a folder's name."""
    with (
        tempfile.TemporaryDirectory(prefix="user@") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        ear.bind(f"{folder}/notify")
        ear.setblocking(False)  # what was told lies there already
        monkeypatch.setenv(VARIABLE, f"{folder}/notify")
        Supervisor().tell("READY=1")
        assert ear.recv(100) == b"READY=1"
        assert VARIABLE not in os.environ


def test_nobody_is_told_where_nobody_wants_to_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    Supervisor().tell("READY=1")
    monkeypatch.setenv(VARIABLE, "/nobody/is/here")
    Supervisor().tell("READY=1")
    assert VARIABLE not in os.environ
