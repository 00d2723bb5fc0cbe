"""Which request this is: the id that a client, a proxy and the log call it by, and its place in a distributed trace.

`X-Request-ID` is taken as it came where it is sane, else made. `traceparent` is W3C Trace Context: this service calls
nobody by HTTP, so there is nothing to continue but the log, and the answer.
"""

import itertools
import os
import random
import re
import secrets
from collections.abc import Mapping

import msgspec
from multidict import MultiMapping, istr

REQUEST_ID = istr("X-Request-ID")
TRACEPARENT = istr("traceparent")
NAMED = f"{REQUEST_ID}: "  # how a line of a head begins

# What UUIDs, hexadecimal and base64 are written with: nothing that a log, a shell or a page would take for its own.
REQUEST_ID_PATTERN = r"[A-Za-z0-9._~:/+=-]{1,128}"

_REQUEST_ID = re.compile(REQUEST_ID_PATTERN)
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KNOWN_FLAGS = 0b11  # sampled, random-trace-id; those that the standard has not defined must not be passed on


class Trace(msgspec.Struct, frozen=True):
    """A request's place in a trace: of whose call it is part (`parent_id`), and the id of what is done here."""

    trace_id: str
    parent_id: str
    span_id: str
    flags: int


class Identity(msgspec.Struct, frozen=True):
    """What a request is called."""

    request_id: str
    trace: Trace | None = None

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Those of the answer."""
        given = ((REQUEST_ID, self.request_id),)
        trace = self.trace
        if trace is None:
            return given
        return (*given, (TRACEPARENT, f"00-{trace.trace_id}-{trace.span_id}-{trace.flags:02x}"))

    @property
    def head(self) -> str:
        """The same as they are written."""
        if self.trace is None:
            return f"{NAMED}{self.request_id}\r\n"
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers)

    @property
    def fields(self) -> Mapping[str, str]:
        """Those of a line of the log."""
        named = {"request_id": self.request_id}
        if self.trace is not None:
            named |= {name: getattr(self.trace, name) for name in ("trace_id", "parent_id", "span_id")}
        return named


def new_id() -> str:
    """An id for a request that came without one: 64 random bits of this process, and a number."""
    return f"{_process}-{_number()}"


def _begin() -> None:
    global _process  # noqa: PLW0603  a forked process is another one
    _process = secrets.token_hex(8)


_process: str
_number = itertools.count(1).__next__
_begin()
os.register_at_fork(after_in_child=_begin)


def identify(sent: MultiMapping[str]) -> Identity:
    """Read the identity that a request came with; what is missing or not sane is made or left out."""
    if REQUEST_ID not in sent and TRACEPARENT not in sent:
        return Identity(new_id())
    request_id = _only(sent, REQUEST_ID)
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = new_id()
    return Identity(request_id, _trace(_only(sent, TRACEPARENT)))


def _only(sent: MultiMapping[str], name: str) -> str:
    values = sent.getall(name) if name in sent else ()
    return values[0] if len(values) == 1 else ""


def _trace(traceparent: str) -> Trace | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "00" and more:  # only a later version may have more fields
        return None
    return Trace(trace_id, parent_id, f"{random.getrandbits(64) | 1:016x}", int(flags, 16) & _KNOWN_FLAGS)
