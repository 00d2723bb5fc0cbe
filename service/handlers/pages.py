"""What all pages for people share: their headers, their files, and how they tell what went wrong."""

from aiohttp import hdrs, web

from service import problems
from service.errors import MatineeError
from service.handlers.desk import Desk
from service.lean import Answer, Headers, identity
from service.negotiation import prefers_html, takes_gzip

HTML = "text/html; charset=utf-8"


def _policy(images: str) -> Headers:
    """Nothing from elsewhere, nothing inline: what a name or a film's title might smuggle in has nowhere to run."""
    policy = (
        "default-src 'none'; style-src 'self'; script-src 'self'; font-src 'self'; connect-src 'self';"
        f" img-src {images}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    return (("Content-Security-Policy", policy),)


_NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
_ALIKE: Headers = (
    _NO_SNIFFING,
    # A ticket's address is its key, so no other site may see it. With `no-referrer` browsers would also hide from us
    # that a form is ours: they then send `Origin: null`.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(self), geolocation=(), microphone=()"),
)
_GUARDED: Headers = (*_policy("'self'"), *_ALIKE)
_PRIVATE: Headers = (("Cache-Control", "no-store"), *_GUARDED)
_ASKED_ANEW: Headers = (("Cache-Control", "private, no-cache"), ("Vary", "Accept, Accept-Encoding"))
_COMMON: Headers = (*_ASKED_ANEW, *_GUARDED)

# What each problem means for the person in front of the page, where its title alone does not help.
WORDS = {
    "sold_out": "This showtime has just sold out. Choose another one.",
    "showtime_closed": "This showtime cannot be booked: it has begun, or is more than a week away. Choose another one.",
    "showtime_not_found": "This showtime is no longer on the programme. Choose another one.",
    "wrong_phone": "This is not the phone number that the ticket was booked with.",
    "already_admitted": "This ticket was used at the door, so it can no longer be changed.",
    "booking_cancelled": "This booking was made and then cancelled. Press the button again to book anew.",
    "unavailable": "The booking system does not answer at the moment. Nothing was done; try again in a moment.",
    "outcome_unknown": "The booking system did not answer in time, so it may be done or not. Send it again: it will"
    " not be done twice.",
    "ticket_not_found": "There is no such ticket. It may have been cancelled, or its address was not copied whole.",
    "ticket_expired": "This ticket is over. The name and the phone number on it have been deleted.",
    "theatre_not_found": "There is no such theatre here.",
    "route_not_found": "There is nothing at this address.",
}


def private_page(body: bytes, *, status: int = 200, headers: Headers = ()) -> Answer:
    """A page that may carry a name, a phone or a ticket's id: nobody may store it."""
    return Answer(body, status=status, media_type=HTML, headers=(*headers, *_PRIVATE))


def common_page(body: bytes, *, packed: bool = False, images: str | None = None) -> Answer:
    """A page that is about nobody, compressed by gzip if it is `packed`: asked for anew each time.

    `images` says from where it may show pictures, if not from here alone.
    """
    headers = _COMMON if images is None else (*_ASKED_ANEW, *_policy(images), *_ALIKE)
    if packed:
        headers = ((hdrs.CONTENT_ENCODING, "gzip"), *headers)
    return Answer(body, media_type=HTML, headers=headers)


def see_other(location: str, headers: Headers = ()) -> Answer:
    """Lead on to the page that shows what was done."""
    return Answer(status=303, media_type=HTML, headers=((hdrs.LOCATION, location), *headers, *_PRIVATE))


def explain(desk: Desk, request: web.Request, error: MatineeError) -> Answer:
    """An error as a page, or as a problem for a client that would rather not have one."""
    if not prefers_html(request.headers.get(hdrs.ACCEPT)):
        return problems.answer(error, identity(request))
    problem, headers = problems.describe(error)
    headers.pop(hdrs.CACHE_CONTROL)
    template = "sign_in.html" if problem.code == "staff_only" else "problem.html"
    words = WORDS.get(problem.code, problem.detail)
    house = desk.programme.theatre(None).name if len(desk.programme.theatres) == 1 else "Theatres"
    reference = identity(request).request_id if problem.code == "internal" else ""
    body = desk.pages.render(template, title=problem.title, words=words, house=house, wrong="", reference=reference)
    answer = private_page(body, status=problem.status, headers=tuple(headers.items()))
    if problem.code in problems.CLOSING:
        answer.force_close()
    return answer


async def asset(desk: Desk, request: web.Request) -> Answer:
    """A file of the pages; its name changes with its content, so a browser asks for it once."""
    file = request.match_info["file"]
    found, kept = desk.pages.assets.get(file), "public, max-age=31536000, immutable"
    if found is None:
        # During a release a page of the one version may ask the other for its files.
        found, kept = desk.pages.counterpart(file), "no-store"
    if found is None:
        raise problems.HttpError("route_not_found", "There is no such file.")
    headers: Headers = (("Cache-Control", kept), _NO_SNIFFING)
    if found.gzipped is None:
        return Answer(found.plain, media_type=found.media_type, headers=headers)
    headers = (("Vary", "Accept-Encoding"), *headers)
    if not takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING)):
        return Answer(found.plain, media_type=found.media_type, headers=headers)
    return Answer(found.gzipped, media_type=found.media_type, headers=((hdrs.CONTENT_ENCODING, "gzip"), *headers))
