"""The whole public interface as one table. The router and openapi.json are both made from it."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from aiohttp import hdrs, web

from service import lean, problems, wire
from service.connections import tend_connections
from service.errors import MatineeError
from service.handlers import classic, docs, door, live, moviegoer, operations, pages, showtimes, theatres, tickets
from service.handlers.desk import Desk
from service.lean import JSON
from service.logs import ACCESS
from service.metrics import Metrics
from service.tracing import Identity

HTML = "text/html"

log = logging.getLogger(__name__)
access = logging.getLogger(ACCESS)

Handler = Callable[[Desk, web.Request], Awaitable[web.StreamResponse]]

# Who may call: anyone; whoever has the ticket's id; that and the phone it was booked with; the box office.
Access = Literal["anyone", "holder", "holder and phone", "box office"]

_BODY = ("malformed_body", "body_timeout", "body_too_large", "unsupported_media_type", "invalid_input")
_ANYWHERE = ("malformed_request", "protected_mode", "internal")
_READ = ("unavailable",)
_CHANGE = ("unavailable", "outcome_unknown")
_BOOK = (*_CHANGE, "showtime_not_found", "showtime_closed", "sold_out")
_REPLAY = ("idempotency_key_reused", "booking_cancelled", "ticket_expired")
_TICKET = ("invalid_input", "ticket_not_found", "ticket_expired")


class Route(msgspec.Struct, frozen=True):
    """One method of one path. The first line of the handler's docstring is its summary.

    `answer` is the struct of the answer with `status`, None for one that is no struct. `media_type` is what it is
    written as, and `also` what a client may have instead by `Accept`. `codes` are the problems it may answer with,
    besides those that follow from the rest. `parameters` are names of query parameters and headers, `headers` those
    of the answer. A `page` is for people and their browsers; the API's document leaves it out.
    """

    method: str
    path: str
    handler: Handler
    answer: type[msgspec.Struct] | None
    codes: tuple[str, ...] = ()
    access: Access = "anyone"
    body: type[msgspec.Struct] | None = None
    status: int = 200
    parameters: tuple[str, ...] = ()
    forms: bool = False
    conditional: bool = False
    media_type: str = JSON
    also: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    page: bool = False

    @property
    def for_people(self) -> bool:
        """Whether a browser may come by, which is told of errors by a page."""
        return self.page or HTML in self.also

    @property
    def problems(self) -> list[str]:
        """Every problem code that an answer of this route may carry."""
        codes = {*_ANYWHERE, *self.codes}
        if self.body is not None:
            codes.update(_BODY)
        if self.access != "anyone" or self.body is not None:
            codes.add("staff_only")
        if self.access == "holder and phone":
            codes.update(("wrong_phone", "invalid_input"))
        return [code for code in problems.PROBLEMS if code in codes]


def _page(method: str, path: str, handler: Handler, *, access: Access = "anyone", status: int = 200) -> Route:
    """A route for people and their browsers: it answers with pages, and takes forms."""
    return Route(method, path, handler, None, access=access, status=status, media_type=HTML, page=True)


_SHOWTIME = "/v1/theatres/{theatre}/showtimes/{showtime}"
_ONE_TICKET = "/v1/tickets/{ticket_id}"
_PHONE = ("Ticket-Phone",)
_KEPT = ("Cache-Control",)
_NEGOTIATED = ("Cache-Control", "Vary")
_TAGGED = ("ETag", "Cache-Control")
_PLACED = ("Location", "Idempotency-Replayed", "Cache-Control")

ROUTES: tuple[Route, ...] = (
    Route("GET", "/", showtimes.welcome, wire.WelcomeAnswer, _READ, also=(HTML,), headers=_NEGOTIATED),
    Route(
        "GET",
        "/v1/theatres",
        theatres.page,
        wire.TheatresAnswer,
        ("invalid_input",),
        parameters=("limit", "cursor", "name"),
        headers=("Link",),
    ),
    Route("GET", "/v1/theatres/{theatre}", theatres.one, wire.TheatreAnswer, ("theatre_not_found",)),
    Route(
        "GET",
        "/v1/theatres/{theatre}/showtimes",
        showtimes.of_day,
        wire.ShowtimesAnswer,
        (*_READ, "theatre_not_found", "invalid_input"),
        parameters=("date", "If-None-Match"),
        headers=_TAGGED,
        conditional=True,
    ),
    # Before the route of one showtime, whose pattern it fits.
    Route(
        "GET",
        "/v1/theatres/{theatre}/showtimes/stream",
        live.stream,
        None,
        (*_READ, "too_many_listeners", "theatre_not_found", "invalid_input"),
        parameters=("date", "Last-Event-ID"),
        media_type="text/event-stream",
        headers=_KEPT,
    ),
    Route(
        "GET",
        _SHOWTIME,
        showtimes.one,
        wire.ShowtimeAnswer,
        (*_READ, "theatre_not_found", "showtime_not_found", "invalid_input"),
        parameters=("If-None-Match",),
        headers=_TAGGED,
        conditional=True,
    ),
    Route(
        "GET",
        f"{_SHOWTIME}/tickets",
        showtimes.tickets,
        wire.TicketsAnswer,
        (*_READ, "theatre_not_found", "showtime_not_found", "invalid_input"),
        access="box office",
        also=("text/csv",),
        headers=(*_NEGOTIATED, "Content-Disposition"),
    ),
    Route(
        "POST",
        "/v1/tickets",
        tickets.book,
        wire.TicketAnswer,
        (*_BOOK, *_REPLAY, "theatre_not_found"),
        body=wire.BookRequest,
        status=201,
        parameters=("Idempotency-Key",),
        headers=_PLACED,
    ),
    Route("GET", _ONE_TICKET, tickets.view, wire.TicketAnswer, (*_READ, *_TICKET), "holder", headers=_KEPT),
    Route(
        "PATCH",
        _ONE_TICKET,
        tickets.move,
        wire.TicketAnswer,
        (*_BOOK, *_TICKET, "already_admitted"),
        access="holder and phone",
        body=wire.MoveRequest,
        parameters=_PHONE,
        headers=_KEPT,
    ),
    Route(
        "DELETE",
        _ONE_TICKET,
        tickets.cancel,
        None,
        (*_CHANGE, *_TICKET, "already_admitted"),
        access="holder and phone",
        status=204,
        parameters=_PHONE,
    ),
    Route("GET", f"{_ONE_TICKET}/user", tickets.user, wire.UserAnswer, (*_READ, *_TICKET), "box office", headers=_KEPT),
    Route(
        "POST",
        f"{_ONE_TICKET}/admission",
        tickets.admit,
        wire.TicketAnswer,
        (*_CHANGE, *_TICKET, "already_admitted"),
        access="box office",
        headers=_KEPT,
    ),
    Route(
        "POST",
        "/booktickets",
        classic.book,
        wire.TicketAnswer,
        (*_BOOK, *_REPLAY),
        body=wire.ClassicBookRequest,
        status=201,
        parameters=("Idempotency-Key",),
        headers=_PLACED,
        forms=True,
    ),
    Route(
        "POST",
        "/update",
        classic.update,
        wire.TicketAnswer,
        (*_BOOK, *_TICKET, "already_admitted", "wrong_phone"),
        access="holder",
        body=wire.ClassicUpdateRequest,
        headers=_KEPT,
        forms=True,
    ),
    Route(
        "POST",
        "/delete",
        classic.delete,
        wire.CancelledAnswer,
        (*_CHANGE, *_TICKET, "already_admitted", "wrong_phone"),
        access="holder",
        body=wire.ClassicDeleteRequest,
        headers=_KEPT,
        forms=True,
    ),
    Route(
        "POST",
        "/viewontime",
        classic.view_on_time,
        wire.TicketsAnswer,
        (*_READ, "showtime_not_found"),
        access="box office",
        body=wire.ClassicTimingRequest,
        headers=_KEPT,
        forms=True,
    ),
    Route(
        "POST",
        "/viewuser",
        classic.view_user,
        wire.UserAnswer,
        (*_READ, *_TICKET),
        access="box office",
        body=wire.ClassicTicketRequest,
        headers=_KEPT,
        forms=True,
    ),
    Route("GET", "/livez", operations.alive, wire.HealthAnswer, headers=_KEPT),
    Route("GET", "/readyz", operations.ready, wire.HealthAnswer, _READ, headers=_KEPT),
    Route("GET", "/metrics", operations.metrics, None, access="box office", media_type="text/plain", headers=_KEPT),
    Route("GET", "/openapi.json", operations.openapi, None, headers=_KEPT),
    _page("GET", "/docs", docs.interactive),
    _page("GET", "/docs/errors", docs.errors),
    _page("GET", "/theatres", moviegoer.theatres),
    _page("GET", "/theatres/{theatre}", moviegoer.theatre),
    _page("POST", "/theatres/{theatre}", moviegoer.book, status=303),
    _page("GET", "/tickets/{ticket_id}", moviegoer.ticket, access="holder"),
    _page("POST", "/tickets/{ticket_id}/move", moviegoer.move, access="holder and phone", status=303),
    _page("POST", "/tickets/{ticket_id}/cancel", moviegoer.cancel, access="holder and phone", status=303),
    _page("POST", "/box-office/sign-in", door.sign_in, status=303),
    _page("POST", "/box-office/sign-out", door.sign_out, status=303),
    _page("GET", "/box-office", door.door, access="box office"),
    _page("POST", "/box-office/admission", door.admit, access="box office"),
    _page("GET", "/box-office/ticket", door.look_up, access="box office"),
    _page("POST", "/box-office/cancellation", door.cancel, access="box office", status=303),
    _page("GET", "/box-office/{theatre}/{showtime}", door.tickets, access="box office"),
    _page("GET", "/box-office/{theatre}/{showtime}/tickets.csv", door.tickets_csv, access="box office"),
    _page("GET", "/assets/{file}", pages.asset),
)


def add_routes(app: web.Application, desk: Desk, *, access_log: bool = False) -> None:
    """Make the router: every route, 405 with `Allow` for its other methods, 404 for all other paths."""

    def guarded(handler: Handler, method: str, path: str, for_people: bool) -> lean.Handler:
        ours = _guarded(handler, desk, method, path, for_people)
        return _written_down(ours, path) if access_log else ours

    by_path: dict[str, list[Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, []).append(route)
    fixed: dict[tuple[str, str], lean.Handler] = {}
    for path, routes in by_path.items():
        resource = app.router.add_resource(path)
        allowed = []
        for route in routes:
            handler = guarded(route.handler, route.method, route.path, route.for_people)
            # aiohttp leaves the body of an answer to HEAD out.
            for method in (hdrs.METH_GET, hdrs.METH_HEAD) if route.method == hdrs.METH_GET else (route.method,):
                resource.add_route(method, handler)
                allowed.append(method)
            if "{" not in path:
                fixed[route.method, path] = handler
        refuse = _refusing_method(", ".join(allowed))
        resource.add_route(hdrs.METH_ANY, guarded(refuse, "other", path, routes[0].for_people))
    nowhere = guarded(_refusing_path, "any", "none", for_people=True)
    app.router.add_route(hdrs.METH_ANY, r"/{path:[\s\S]*}", nowhere)
    lean.open_lane(app, fixed)
    tend_connections(app, malformed=problems.malformed, crowded=_counting(desk.metrics), failed=problems.failed)


def _counting(metrics: Metrics) -> Callable[[Identity], lean.Answer]:
    def crowded(called: Identity) -> lean.Answer:
        metrics.shed["connection"] += 1
        return problems.crowded(called)

    return crowded


def _guarded(handler: Handler, desk: Desk, method: str, path: str, for_people: bool) -> lean.Handler:
    """A handler behind the gate, counted, whose errors become answers. A middleware would cost 2.5 µs more."""
    check, count, clock = desk.gate.check, desk.metrics.route(method, path).add, time.perf_counter
    explain = pages.explain if for_people else _tell

    async def guarded(request: web.Request) -> web.StreamResponse:
        began = clock()
        answer: web.StreamResponse
        try:
            check(request)
            answer = await handler(desk, request)
        except MatineeError as error:
            answer = explain(desk, request, error)
        except Exception:
            called = lean.identity(request)
            told = {"method": method, "route": path, **called.fields}
            log.exception("%s %s failed: request %s", method, path, called.request_id, extra=told)
            answer = explain(desk, request, problems.internal())
        count(answer.status, clock() - began)
        return answer

    return guarded


def _written_down(handler: lean.Handler, path: str) -> lean.Handler:
    """A handler with a line of the access log: the route's path, for the real one may have a ticket's id in it."""

    async def written_down(request: web.Request) -> web.StreamResponse:
        began = time.perf_counter()
        answer = await handler(request)
        duration_ms = round((time.perf_counter() - began) * 1000, 3)
        fields = {"method": request.method, "route": path, "status": answer.status, "duration_ms": duration_ms}
        words = (request.method, path, answer.status, duration_ms)
        access.info("%s %s %d, %.1f ms", *words, extra={**fields, **lean.identity(request).fields})
        return answer

    return written_down


def _tell(desk: Desk, request: web.Request, error: MatineeError) -> web.StreamResponse:  # noqa: ARG001  as for pages
    return problems.answer(error, lean.identity(request))


def _refusing_method(allowed: str) -> Handler:
    async def refuse(desk: Desk, request: web.Request) -> web.StreamResponse:  # noqa: ARG001  one signature for all
        detail = f"{request.method} is not a method of this path; it has {allowed}."
        raise problems.HttpError("method_not_allowed", detail, {hdrs.ALLOW: allowed})

    return refuse


async def _refusing_path(desk: Desk, request: web.Request) -> web.StreamResponse:  # noqa: ARG001  one signature for all
    raise problems.HttpError("route_not_found", "There is nothing here; /openapi.json lists all routes.")
