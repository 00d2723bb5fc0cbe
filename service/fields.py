"""The rules of single fields: names, phones, ticket ids, dates. Each takes what the client wrote, gives what we keep.

A rule that is broken raises ValueError with what would be right; the caller knows the field's name. The patterns in
capitals are the rules as the API's document tells them, alike for Python and for ECMA-262: what matches is accepted,
and what is accepted matches.
"""

import datetime
import re
import unicodedata
from functools import lru_cache

NAME_LENGTH = 80
LIMIT_MAX = 500

# Control characters, line and paragraph separators, and the characters that embed, override or isolate the direction of
# text: they can make one name look like another (Unicode TR36). Marks (U+200E, U+200F, U+061C) and joiners (U+200C,
# U+200D) cannot, and names are written with them. Lone surrogates are none either, but in a pattern they mean nothing.
_FORBIDDEN = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
# Spaces, and what shows nothing (Unicode's Default_Ignorable_Code_Point, in the Basic Multilingual Plane).
_BLANK = (
    r"\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
)
# Something visible; then, without the spaces around it, up to 80 characters.
NAME = rf"^(?=[\s\S]*[^{_FORBIDDEN}{_BLANK}])\s*[^{_FORBIDDEN}\s](?:[^{_FORBIDDEN}]{{0,78}}[^{_FORBIDDEN}\s])?\s*$"
_NOT_IN_NAMES = re.compile(rf"[{_FORBIDDEN}\ud800-\udfff]")
_VISIBLE = re.compile(f"[^{_BLANK}]")

# What people write between digits; ASCII only, like the digits.
_SEPARATOR = r"[ .()\[\]-]"
PHONE = rf"^{_SEPARATOR}*(?:\+{_SEPARATOR}*)?[0-9](?:{_SEPARATOR}*[0-9]){{6,14}}{_SEPARATOR}*$"
_PHONE = re.compile(r"\+?[0-9]{7,15}")
_PHONE_SEPARATORS = str.maketrans("", "", " .-()[]")

# Crockford's base32: no I, L, O and U, so that nothing read aloud or typed from paper is mistaken. The first three are
# taken for the digits they look like.
TICKET_ID = r"^\s*[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*-[0-9A-TV-Za-tv-z]{16}\s*$"
_TICKET_ID = re.compile(TICKET_ID)
_LOOK_ALIKES = str.maketrans("OIL", "011")

THEATRE_ID = r"^[a-z0-9]+(?:-[a-z0-9]+)*$"
_THEATRE_ID = re.compile(THEATRE_ID)

# The days of the years 2000 to 2999, as the programme counts them, each month with its own.
_DAY = (
    r"(?:2[0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))|2(?:[0-9](?:0[48]|[2468][048]|[13579][26])|[048]00)-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
DATE = f"^{_DAY}$"
CLOCK = f"^{_CLOCK}$"
SHOWTIME = f"^{_DAY}T{_CLOCK}$"
TIMING = f"^(?:{_DAY}T)?{_CLOCK}$"
_DATE, _SHOWTIME, _TIMING = map(re.compile, (DATE, SHOWTIME, TIMING))

_NUMBER = re.compile(r"[0-9]{1,9}")

# Visible ASCII characters. In double quotes they are a string of RFC 9651, 3.3.3, as the IETF's draft has it
# (draft-ietf-httpapi-idempotency-key); two quotes alone are an empty one.
IDEMPOTENCY_KEY = r'^(?:[\x21\x23-\x7e][\x21-\x7e]*|"(?:[\x21\x23-\x7e][\x21-\x7e]*|"[\x21-\x7e]+)?)$'
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


def name(written: str) -> str:
    """1 to 80 characters of any script, trimmed and in Unicode NFC."""
    kept = written.strip()
    if kept.isascii() and kept.isprintable() and 1 <= len(kept) <= NAME_LENGTH:
        return kept
    if not _NOT_IN_NAMES.search(kept):
        kept = unicodedata.normalize("NFC", kept)
    if not 1 <= len(kept) <= NAME_LENGTH:
        raise ValueError(f"must have 1 to {NAME_LENGTH} characters")
    if _NOT_IN_NAMES.search(kept):
        raise ValueError("must have no control characters, bidirectional overrides or lone surrogates")
    if not _VISIBLE.search(kept):
        raise ValueError("must have a visible character")
    return kept


def phone(written: str) -> str:
    """`+` and 7 to 15 digits, or the digits alone (E.164 allows 15)."""
    if _PHONE.fullmatch(written):
        return written
    kept = written.translate(_PHONE_SEPARATORS)
    if not _PHONE.fullmatch(kept):
        raise ValueError("must be 7 to 15 digits 0-9, a + in front allowed, like +91 98123 45678")
    return kept


def ticket_id(written: str) -> str:
    """A ticket id. Upper and lower case and the look-alikes O, I, L are taken as meant."""
    if not _TICKET_ID.fullmatch(written):
        raise ValueError("must be a ticket id as the booking answered it, like main-7KQ2M8ZT41XVDRNB")
    theatre, dash, random = written.strip().rpartition("-")
    return theatre.lower() + dash + random.upper().translate(_LOOK_ALIKES)


def theatre_id(written: str) -> str:
    """A theatre's id: whether the programme has it is another question."""
    if not _THEATRE_ID.fullmatch(written):
        raise ValueError("must be a theatre's id, like main")
    return written


def showtime(written: str) -> str:
    """A showtime in local time, `YYYY-MM-DDTHH:MM`."""
    if not _SHOWTIME.fullmatch(written):
        raise ValueError("must be a date and time like 2026-11-24T18:00")
    return written


@lru_cache(maxsize=4096)
def timing(written: str) -> str:
    """`HH:MM` (24 h), or a local `YYYY-MM-DDTHH:MM` of the years 2000 to 2999."""
    if not _TIMING.fullmatch(written):
        raise ValueError("must be HH:MM like 18:00, or a date and time like 2026-11-24T18:00")
    return written


def date(written: str) -> datetime.date:
    """A calendar date, `YYYY-MM-DD`, of the years 2000 to 2999."""
    if not _DATE.fullmatch(written):
        raise ValueError("must be a date like 2026-11-24")
    return datetime.date.fromisoformat(written)


def limit(written: str) -> int:
    """How many items an answer may have, 1 to 500."""
    if not _NUMBER.fullmatch(written) or not 1 <= int(written) <= LIMIT_MAX:
        raise ValueError(f"must be a whole number from 1 to {LIMIT_MAX}")
    return int(written)


def idempotency_key(written: str) -> str:
    """1 to 255 visible ASCII characters. In double quotes, as the IETF draft has it, it is the same key as without."""
    quoted = _QUOTED.fullmatch(written)
    kept = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else written
    if not _IDEMPOTENCY_KEY.fullmatch(kept):
        raise ValueError("must be 1 to 255 visible ASCII characters")
    return kept
