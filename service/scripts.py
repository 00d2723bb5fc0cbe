"""Finds the Lua scripts and computes their SHA-1, by which Redis knows them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

_HERE = Path(__file__).parent
# An installed wheel carries the scripts inside the package; a checkout has them beside it.
LUA_DIR = _HERE / "lua" if (_HERE / "lua").is_dir() else _HERE.parent / "lua"


class Form:
    """A call of a script with blanks, packed once: for calls that differ from each other in few words.

    `keys` and `args` are those of the call, None for each blank; the attribute `keys` has the keys that are known.
    To pack the fourteen words of a booking costs hiredis 2 µs; to fill in the four that are the ticket's, half of that.
    """

    __slots__ = ("_template", "keys")

    def __init__(self, script: "Script", keys: Sequence[str | None], args: Sequence[str | None]) -> None:
        self.keys = tuple(key for key in keys if key is not None)
        words = ("EVALSHA", script.sha, str(len(keys)), *keys, *args)
        # https://redis.io/docs/latest/develop/reference/protocol-spec/: the length of each word in bytes, then the word
        self._template = b"*%d\r\n" % len(words) + b"".join(
            b"$%d\r\n%b\r\n" if word is None else _packed(word).replace(b"%", b"%%") for word in words
        )

    def fill(self, *words: str) -> bytes:
        """The call with the blanks filled in, in their order."""
        facts: list[int | bytes] = []
        for word in words:
            written = word.encode()
            facts += (len(written), written)
        return self._template % tuple(facts)


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

    def form(self, keys: Sequence[str | None], args: Sequence[str | None]) -> Form:
        """A call of it with blanks, where None stands."""
        return Form(self, keys, args)


def _packed(word: str) -> bytes:
    written = word.encode()
    return b"$%d\r\n%b\r\n" % (len(written), written)


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
