"""Finds the Lua scripts and computes their SHA-1, by which Redis knows them."""

import hashlib
from pathlib import Path

import msgspec

_HERE = Path(__file__).parent
# An installed wheel carries the scripts inside the package; a checkout has them beside it.
LUA_DIR = _HERE / "lua" if (_HERE / "lua").is_dir() else _HERE.parent / "lua"


class Script(msgspec.Struct, frozen=True):
    """One Lua script: its name, source and SHA-1 digest (hexadecimal).

    `refusals` are the status words by which one that changes something says that it did not. Every other reply of it
    promises something, and comes from a run that wrote: where replicas are waited for, they must have it first.
    """

    name: str
    source: str
    sha: str
    refusals: frozenset[bytes] = frozenset()

    @classmethod
    def load(cls, name: str, *refusals: bytes) -> "Script":
        """Read `lua/<name>.lua`."""
        source = (LUA_DIR / f"{name}.lua").read_text(encoding="utf-8")
        # SHA-1 is Redis's name for a script, not a safeguard.
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(), frozenset(refusals))


BOOK = Script.load("book", b"key_reused", b"cancelled", b"closed", b"sold_out")
MOVE = Script.load("move", b"not_found", b"changed", b"already_admitted", b"started", b"closed", b"sold_out")
CANCEL = Script.load("cancel", b"not_found", b"changed", b"already_admitted")
ADMIT = Script.load("admit", b"not_found", b"already_admitted")
TICKET = Script.load("ticket")
SHOWTIME_TICKETS = Script.load("showtime_tickets")
AVAILABILITY = Script.load("availability")
SHOWTIME_ZONE = Script.load("showtime_zone")

# What `matinee audit --repair` runs, and no web process.
MEND_SHOWTIME = Script.load("mend_showtime")
MEND_EXPIRY = Script.load("mend_expiry")

REPAIRS = (MEND_SHOWTIME, MEND_EXPIRY)
ALL = (BOOK, MOVE, CANCEL, ADMIT, TICKET, SHOWTIME_TICKETS, AVAILABILITY, SHOWTIME_ZONE)
