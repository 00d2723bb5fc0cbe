"""The rules of single fields: names, phones, ticket ids, dates. Each takes what the client wrote, gives what we keep.

A rule that is broken raises ValueError with what would be right; the caller knows the field's name.
"""

import datetime
import re
import unicodedata
from functools import lru_cache

NAME_LENGTH = 80
LIMIT_MAX = 500

# What people write between digits; ASCII only, like the digits.
_PHONE_SEPARATORS = str.maketrans("", "", " .-()[]")
_PHONE = re.compile(r"\+?[0-9]{7,15}")

# Control characters, surrogates, line and paragraph separators, and the characters that embed, override or isolate the
# direction of text: they can make one name look like another (Unicode TR36). Marks (U+200E, U+200F, U+061C) and joiners
# (U+200C, U+200D) cannot, and names are written with them.
_NOT_IN_NAMES = re.compile("[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Crockford's base32: no I, L, O and U, so that nothing read aloud or typed from paper is mistaken.
_TICKET_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*-[0-9A-HJKMNP-TV-Z]{16}")
_THEATRE_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LOOK_ALIKES = str.maketrans("OIL", "011")

# The years 2000 to 2999, as the programme counts them.
_TIMING = re.compile(r"(?:2[0-9]{3}-[0-9]{2}-[0-9]{2}T)?[0-9]{2}:[0-9]{2}")
_DATE = re.compile(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}")

_NUMBER = re.compile(r"[0-9]{1,9}")

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
# A string of RFC 9651, 3.3.3; draft-ietf-httpapi-idempotency-key makes the header's value one.
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
    if not any(character.isprintable() and not character.isspace() for character in kept):
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
    theatre, dash, random = written.strip().rpartition("-")
    kept = theatre.lower() + dash + random.upper().translate(_LOOK_ALIKES)
    if not _TICKET_ID.fullmatch(kept):
        raise ValueError("must be a ticket id as the booking answered it, like main-7KQ2M8ZT41XVDRNB")
    return kept


def theatre_id(written: str) -> str:
    """A theatre's id: whether the programme has it is another question."""
    if not _THEATRE_ID.fullmatch(written):
        raise ValueError("must be a theatre's id, like main")
    return written


def showtime(written: str) -> str:
    """A showtime in local time, `YYYY-MM-DDTHH:MM`."""
    if len(written) != len("2026-11-24T18:00"):
        raise ValueError("must be a date and time like 2026-11-24T18:00")
    return timing(written)


@lru_cache(maxsize=4096)
def timing(written: str) -> str:
    """`HH:MM` (24 h), or a local `YYYY-MM-DDTHH:MM` of the years 2000 to 2999."""
    if _TIMING.fullmatch(written):
        try:
            datetime.datetime.fromisoformat(written if len(written) > len("18:00") else f"2000-01-01T{written}")
            return written
        except ValueError:
            pass
    raise ValueError("must be HH:MM like 18:00, or a date and time like 2026-11-24T18:00")


def date(written: str) -> datetime.date:
    """A calendar date, `YYYY-MM-DD`, of the years 2000 to 2999."""
    if _DATE.fullmatch(written):
        try:
            return datetime.date.fromisoformat(written)
        except ValueError:
            pass
    raise ValueError("must be a date like 2026-11-24")


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
