"""The OpenAPI 3.1 document, made from the table of routes, the structs of `wire` and the table of problems."""

from collections.abc import Iterable
from http import HTTPStatus
from itertools import groupby
from typing import Any

import msgspec

from service import __version__, examples, fields, problems, wire
from service.directory import CURSOR
from service.handlers import theatres
from service.lean import JSON
from service.routes import HTML, ROUTES, Route

_ABOUT = """\
Books, moves, cancels and admits tickets for movie theatres. A theatre never sells a seat twice: each change is one
atomic script in Redis.

**Who may do what.** Anybody books. Whoever has a ticket's id sees it, and changes it with the phone number that it
was booked with. The box office sends the staff token. Without a staff token the service is in protected mode: it serves
its own machine only and takes every caller for the box office.

**Problems.** Every error is `application/problem+json` (RFC 9457) with a stable `code`; [the list](/docs/errors) says
what each one means and what to do. A path that is none of these is 404 `route_not_found`, another method of one is 405
`method_not_allowed` with `Allow`. Where there is GET there is HEAD.

**Requests.** Every answer has `X-Request-ID`, and every problem `request_id`: what the operator's log calls the
request. A client may name it with that header: 1 to 128 letters, digits and `- . _ ~ : / + =`. A W3C `traceparent`
that comes is given back with the id of what was done here.

**Times.** A timing is `HH:MM`, the next showtime at that time, or a full local `YYYY-MM-DDTHH:MM` in the theatre's
zone.
"""

_TAGS = {
    "tickets": "Book, look up, move, cancel, admit.",
    "showtimes": "Showtimes and their seats; the tickets of a showtime, for the box office.",
    "live": "Seats that tell of themselves: server-sent events.",
    "theatres": "The programme.",
    "classic": "The same by the routes of the classic interface, which take JSON and forms.",
    "operations": "Health, counts, and this document.",
}

_SECURITY = {
    "staff": {
        "type": "http",
        "scheme": "bearer",
        "description": "The box office's token, MATINEE_STAFF_TOKEN of the service. Without one the service is in "
        "protected mode and takes every caller for the box office.",
    }
}


def _text(pattern: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "string", **({} if pattern is None else {"pattern": pattern}), **more}


# Everything a request may carry outside its body, by name.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "theatre": {"in": "path", "description": "A theatre's id.", "schema": _text(fields.THEATRE_ID), "example": "main"},
    "showtime": {
        "in": "path",
        "description": "A showtime in the theatre's local time.",
        "schema": _text(fields.SHOWTIME),
        "example": examples.SHOWTIME,
    },
    "ticket_id": {
        "in": "path",
        "description": "The id that the booking answered.",
        "schema": _text(fields.TICKET_ID),
        "example": examples.TICKET_ID,
    },
    "date": {
        "in": "query",
        "description": "A day in the theatre's local time. Left out: today; of the stream, all coming days.",
        "schema": _text(fields.DATE, format="date"),
        "example": "2026-11-24",
    },
    "limit": {
        "in": "query",
        "description": "How many theatres the answer may have.",
        "schema": {"type": "integer", "minimum": 1, "maximum": fields.LIMIT_MAX, "default": theatres.PAGE},
        "example": 20,
    },
    "cursor": {
        "in": "query",
        "description": "Where the page begins: the one of a link that an earlier answer gave.",
        "schema": _text(CURSOR),
        "example": "3e6d61696e",
    },
    "name": {
        "in": "query",
        "description": "Only theatres whose name contains this, whatever its case and accents: `koln` finds Köln.",
        "schema": _text(fields.NAME),
        "example": "koln",
    },
    "If-None-Match": {
        "in": "header",
        "description": "The ETag of the client's copy: 304 while it is the current one.",
        "schema": _text(),
        "example": examples.ETAG,
    },
    "Last-Event-ID": {
        "in": "header",
        "description": "The id of the last event the client saw: no snapshot while that is the current one.",
        "schema": _text(),
        "example": examples.ETAG.strip('"'),
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "Names the booking, for instance a UUID: a repeat with the same key and body within 24 hours "
        "answers the first ticket again, with `Idempotency-Replayed: true`. Double quotes around it do not count.",
        "schema": _text(fields.IDEMPOTENCY_KEY, minLength=1, maxLength=255),
    },
    "Ticket-Phone": {
        "in": "header",
        "description": "The phone number the ticket was booked with. Only the box office may leave it out.",
        "schema": _text(fields.PHONE),
        "example": examples.PHONE,
    },
}

# Every header that an answer may carry for its reader, and an example.
_HEADERS: dict[str, tuple[str, str]] = {
    "Allow": ("The methods of the path.", "GET, HEAD"),
    "Cache-Control": ("Who may keep the answer: nobody where it carries a name or a phone.", "no-store"),
    "Content-Disposition": ("With CSV: a name for the file.", 'attachment; filename="tickets-2026-11-24T1800.csv"'),
    "ETag": ("Names this state of the answer: it changes with it.", examples.ETAG),
    "Idempotency-Replayed": ("`true` where an earlier request with the same key made this ticket.", "true"),
    "Link": (
        "Other pages, RFC 8288: `first`, and `prev` and `next` where there is one.",
        '</v1/theatres>; rel="first", </v1/theatres?cursor=3e6d61696e>; rel="next"',
    ),
    "Location": ("The ticket's address.", f"/v1/tickets/{examples.TICKET_ID}"),
    "Retry-After": ("Seconds after which to try again.", "1"),
    "Vary": ("What of the request the answer depends on.", "Accept"),
    "X-Request-ID": ("What this request is called, in the operator's log too.", examples.REQUEST_ID),
    "traceparent": (
        "Where a valid one came: the same trace, and the id of what was done here. W3C Trace Context.",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    "WWW-Authenticate": ("How to show who one is.", 'Bearer realm="box office"'),
}
# One event of the stream. OpenAPI 3.1 has no word for "each item of"; tools that know streams take it as that.
_EVENT = {
    "type": "object",
    "description": "One event, and there is no last one. A line with a colon alone is a sign of life.",
    "required": ["id", "event", "data"],
    "properties": {
        "id": _text(description="The state of the seats; what `Last-Event-ID` brings back."),
        "event": {"const": "seats"},
        "data": _text(
            description="The showtimes that changed; in the first event all.",
            contentMediaType=JSON,
            contentSchema={"$ref": "#/components/schemas/ShowtimesAnswer"},
        ),
        "retry": _text(description="Milliseconds after which to come back."),
    },
}

# Those that are not there each time.
_SOMETIMES = frozenset({"Content-Disposition", "Idempotency-Replayed", "traceparent"})

# Those that every answer has, or may have.
_ALWAYS = ("X-Request-ID", "traceparent")

# The pages for people and their browsers are not for programs.
_API = tuple(route for route in ROUTES if not route.page)

# What answers where there is no operation.
_ELSEWHERE = (("route_not_found",), ("method_not_allowed",))


def document() -> bytes:
    """The whole document as JSON."""
    structs = {route.answer for route in _API} | {route.body for route in _API} | {wire.Problem}
    named = sorted((struct for struct in structs if struct is not None), key=lambda struct: struct.__name__)
    _, schemas = msgspec.json.schema_components(named, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in _API:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Matinee",
            "version": __version__,
            "summary": "A booking service for movie theatres.",
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": _SECURITY,
            "headers": {name: _header(name) for name in _HEADERS},
            "examples": {code: _problem_example(code) for code in problems.PROBLEMS},
            "responses": {_name(codes, page): _problem_response(codes, page) for page, codes in _all_problems()},
        },
    }
    return wire.encode(whole)


def operation_id(route: Route) -> str:
    """The name of a route in the document: `tickets_book`."""
    return f"{_family(route)}_{route.handler.__name__}"


def _family(route: Route) -> str:
    return route.handler.__module__.rpartition(".")[2]


def _operation(route: Route) -> dict[str, Any]:
    summary, _, description = (route.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": summary.strip().rstrip("."),
        "tags": [_family(route)],
        "responses": _responses(route),
    }
    if description.strip():
        operation["description"] = " ".join(description.split())
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    if parameters := [_parameter(name) for name in (*names, *route.parameters)]:
        operation["parameters"] = parameters
    if route.body is not None:
        types = [JSON, *(["application/x-www-form-urlencoded"] if route.forms else [])]
        body = {"schema": _reference(route.body), "example": examples.BODIES[route.body]}
        operation["requestBody"] = {"required": True, "content": dict.fromkeys(types, body)}
    if route.access == "box office":
        operation["security"] = [{"staff": []}]
    elif "staff_only" in route.problems:
        operation["security"] = [{}, {"staff": []}]
    return operation


def _parameter(name: str) -> dict[str, Any]:
    described = _PARAMETERS[name]
    return {"name": name, "required": described["in"] == "path", **described}


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {str(route.status): _success(route)}
    if route.conditional:
        told = "The client's copy is the current one."
        responses["304"] = {"description": told, "headers": _headers(route.headers)}
    for codes in _by_status(route):
        name = _name(codes, route.for_people)
        responses[str(problems.PROBLEMS[codes[0]].status)] = {"$ref": f"#/components/responses/{name}"}
    return responses


def _success(route: Route) -> dict[str, Any]:
    response: dict[str, Any] = {"description": "Done."}
    if route.status != HTTPStatus.NO_CONTENT:
        response["content"] = {
            media_type: _content(route, media_type) for media_type in (route.media_type, *route.also)
        }
    if route.answer is not None:
        response["description"] = (route.answer.__doc__ or "").partition("\n")[0]
    response["headers"] = _headers(route.headers)
    if links := _links(route):
        response["links"] = links
    return response


def _content(route: Route, media_type: str) -> dict[str, Any]:
    if media_type != JSON:
        return _content_of_text(media_type)
    if route.answer is None:
        return {"schema": {"type": "object"}, "example": {"openapi": "3.1.0"}}
    return {"schema": _reference(route.answer), "example": examples.BODIES[route.answer]}


def _content_of_text(media_type: str) -> dict[str, Any]:
    schema = _EVENT if media_type == "text/event-stream" else _text()
    return {"schema": schema, "example": examples.TEXTS[media_type]}


def _links(route: Route) -> dict[str, Any]:
    """From a booking, to all that can be done with its ticket."""
    if route.status != HTTPStatus.CREATED:
        return {}
    links: dict[str, Any] = {}
    for other in _API:
        wanted = () if other.body is None else other.body.__struct_fields__
        known = {
            "ticket_id": "$response.body#/ticket_id",
            "phone": "$request.body#/phone",
            "timing": examples.ANOTHER_TIMING,
            "timing_alter": examples.ANOTHER_TIMING,
        }
        link: dict[str, Any] = {"operationId": operation_id(other)}
        if "{ticket_id}" in other.path:
            link["parameters"] = {"path.ticket_id": known["ticket_id"]}
            if "Ticket-Phone" in other.parameters:
                link["parameters"]["header.Ticket-Phone"] = known["phone"]
        elif "ticket_id" not in wanted:
            continue
        if wanted:
            link["requestBody"] = {field: known[field] for field in wanted}
        links[operation_id(other)] = link
    return links


def _by_status(route: Route) -> list[tuple[str, ...]]:
    """The route's problem codes, those of one status together."""
    return [tuple(codes) for _, codes in groupby(route.problems, lambda code: problems.PROBLEMS[code].status)]


def _all_problems() -> list[tuple[bool, tuple[str, ...]]]:
    """Every set of codes that an answer may choose from, and whether it may be a page instead."""
    told = {(route.for_people, codes) for route in _API for codes in _by_status(route)}
    return sorted({*told, *((True, codes) for codes in _ELSEWHERE)})


def _name(codes: Iterable[str], page: bool) -> str:
    return "-or-".join(codes) + ("-as-page" if page else "")


def _problem_response(codes: tuple[str, ...], page: bool) -> dict[str, Any]:
    """An answer that tells one of these problems; as a `page` where the client prefers HTML."""
    told = "; ".join(f"`{code}`: {problems.PROBLEMS[code].title}" for code in codes)
    schema = {"allOf": [_reference(wire.Problem), {"properties": {"code": {"enum": codes}}}]}
    shown = {code: {"$ref": f"#/components/examples/{code}"} for code in codes}
    content: dict[str, Any] = {problems.CONTENT_TYPE: {"schema": schema, "examples": shown}}
    if page:
        content[HTML] = _content_of_text(HTML)
    given = sorted({name for code in codes for name in problems.describe(examples.ERRORS[code])[1]})
    return {"description": f"{told}.", "headers": _headers(given), "content": content}


def _problem_example(code: str) -> dict[str, Any]:
    kind = problems.PROBLEMS[code]
    problem, _ = problems.describe(examples.ERRORS[code])
    problem.request_id = examples.REQUEST_ID
    return {"summary": kind.title, "description": f"{kind.meaning} {kind.remedy}", "value": problem}


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, *_ALWAYS)}


def _header(name: str) -> dict[str, Any]:
    description, example = _HEADERS[name]
    return {"description": description, "required": name not in _SOMETIMES, "schema": _text(), "example": example}


def _reference(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
