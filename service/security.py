"""Who is asking: the staff token, and protected mode where none is set."""

import hmac
import ipaddress
import time
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from multidict import istr  # aiohttp's own; a name of this type is found in half the time

from service.problems import HttpError
from service.sessions import Sessions

# A proxy that sets one of these makes every peer look like loopback.
_FORWARDED = tuple(map(istr, ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")))

_FETCH_SITE = istr("Sec-Fetch-Site")

# What a 401 asks for (RFC 9110, section 11.6.1).
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="box office"'}

# The cookie of a browser that the box office signed in at.
COOKIE = "matinee_box_office"

_SET_TOKEN = "Set MATINEE_STAFF_TOKEN on the service to allow this."  # noqa: S105  a hint, not a token


class Gate:
    """Tells the box office from everybody else.

    With a staff token, the box office is whoever sends it. Without one the service is in protected mode: it listens on
    loopback alone and takes every caller for the box office, so it refuses what a web page (DNS rebinding, cross-site
    requests) or a proxy on the same machine could send in a stranger's name.
    """

    def __init__(self, staff_token: str | None) -> None:
        self._token = None if staff_token is None else staff_token.encode()
        self.protected = staff_token is None
        self.sessions = None if staff_token is None else Sessions(staff_token)

    def check(self, request: web.Request) -> None:
        """Refuse what protected mode must not let through. Raises HttpError 403."""
        if not self.protected:
            return
        headers = request.headers
        host = headers.get(hdrs.HOST, "")
        if not _is_loopback(host):
            raise _refused("The Host is not this machine.")
        for name in _FORWARDED:
            if name in headers:
                raise _refused(f"The request came through a proxy ({name}).")
        if headers.get(_FETCH_SITE, "none") not in ("none", "same-origin"):
            raise _refused("Another web site sent this request (Sec-Fetch-Site).")
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise _refused("Another web site sent this request (Origin).")

    def is_staff(self, request: web.Request) -> bool:
        """Whether the box office is asking. Raises HttpError 401 for a wrong token."""
        if self._token is None:
            return True
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        if authorization is None:
            return False
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "bearer" and hmac.compare_digest(given, self._token):
            return True
        raise _staff_only("The staff token is wrong.")

    def require_staff(self, request: web.Request) -> None:
        """Let only the box office pass. Raises HttpError 401."""
        if not self.is_staff(request):
            raise _staff_only("Send the staff token as Authorization: Bearer.")

    def require_signed_in(self, request: web.Request) -> None:
        """Let only browsers pass that the box office signed in at. Raises HttpError 401."""
        if self.sessions and not self.sessions.knows(request.cookies.get(COOKIE, ""), int(time.time())):
            raise _staff_only("Sign in with the staff token.")


def check_same_site(request: web.Request) -> None:
    """Let only forms of our own pages pass. Raises HttpError 403.

    Browsers say where a form was sent from: in Sec-Fetch-Site, which a proxy that renames the host leaves right; over
    plain HTTP and in older ones in Origin alone. What says neither is no browser, and holds nobody's cookie.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        origin = request.headers.get(hdrs.ORIGIN)
        is_ours = origin is None or urlsplit(origin).netloc.lower() == request.headers.get(hdrs.HOST, "").lower()
    else:
        is_ours = site in ("same-origin", "none")
    if not is_ours:
        raise HttpError("cross_site", "Another web site sent this form; open the page itself and send it from there.")


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refused(why: str) -> HttpError:
    return HttpError("protected_mode", f"{why} {_SET_TOKEN}")


def _staff_only(detail: str) -> HttpError:
    return HttpError("staff_only", detail, CHALLENGE)
