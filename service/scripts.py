"""Finds the Lua scripts and computes their SHA-1, by which Redis knows them."""

import hashlib
from pathlib import Path

import msgspec

_HERE = Path(__file__).parent
# An installed wheel carries the scripts inside the package; a checkout has them beside it.
LUA_DIR = _HERE / "lua" if (_HERE / "lua").is_dir() else _HERE.parent / "lua"


class Script(msgspec.Struct, frozen=True):
    """One Lua script: its name, source and SHA-1 digest (hexadecimal)."""

    name: str
    source: str
    sha: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """Read `lua/<name>.lua`."""
        source = (LUA_DIR / f"{name}.lua").read_text(encoding="utf-8")
        # SHA-1 is Redis's name for a script, not a safeguard.
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


BOOK = Script.load("book")
MOVE = Script.load("move")
CANCEL = Script.load("cancel")
ADMIT = Script.load("admit")
TICKET = Script.load("ticket")
SHOWTIME_TICKETS = Script.load("showtime_tickets")
AVAILABILITY = Script.load("availability")

ALL = (BOOK, MOVE, CANCEL, ADMIT, TICKET, SHOWTIME_TICKETS, AVAILABILITY)
