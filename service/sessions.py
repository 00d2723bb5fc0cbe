"""The box office signed in at a browser: a signed cookie, without anything kept on the server."""

import asyncio
import hmac
import math
import re

from service.problems import HttpError

LIFE_S = 12 * 3600  # a long day at the door

# A wrong token is answered late, and only so many are looked at meanwhile: in each web process eight guesses a second.
GUESS_PAUSE_S = 1.0
GUESSES_AT_ONCE = 8

_COOKIE = re.compile(r"([0-9]{10,12})\.([0-9a-f]{64})", re.ASCII)


class Sessions:
    """Hands out cookies for the staff token, and knows them again.

    A cookie is when it ends, in seconds since the epoch, and a signature of that. The key is derived from the staff
    token, so every web process knows the cookies of all others, and another token ends them all.
    """

    def __init__(self, staff_token: str) -> None:
        self._token = staff_token.encode()
        self._key = hmac.digest(self._token, b"matinee: sessions of the box office", "sha256")
        self._guesses = 0

    async def sign_in(self, token: str, now_s: int) -> str | None:
        """A cookie for the right token; None for a wrong one, after a pause.

        Raises HttpError 429, without a look at the token, while too many wrong ones wait for their answers.
        """
        if self._guesses >= GUESSES_AT_ONCE:
            detail = "Many wrong staff tokens are being tried; this one was not looked at."
            raise HttpError("too_many_guesses", detail, {"Retry-After": str(math.ceil(GUESS_PAUSE_S))})
        if hmac.compare_digest(token.strip().encode("utf-8", "surrogateescape"), self._token):
            ends_s = str(now_s + LIFE_S)
            return f"{ends_s}.{self._signature(ends_s)}"
        self._guesses += 1
        try:
            await asyncio.sleep(GUESS_PAUSE_S)
        finally:
            self._guesses -= 1
        return None

    def knows(self, cookie: str, now_s: int) -> bool:
        """Whether the cookie is one of ours and has not ended."""
        match = _COOKIE.fullmatch(cookie)
        return match is not None and hmac.compare_digest(match[2], self._signature(match[1])) and now_s < int(match[1])

    def _signature(self, ends_s: str) -> str:
        return hmac.digest(self._key, ends_s.encode(), "sha256").hex()
