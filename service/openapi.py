"""The OpenAPI 3.1 document, made from the table of routes and the structs of `wire`."""

from typing import Any

import msgspec

from service import __version__, fields, problems, wire
from service.handlers import theatres
from service.lean import JSON
from service.routes import ROUTES, Route

_SECURITY = {
    "staff": {
        "type": "http",
        "scheme": "bearer",
        "description": "The box office's token, MATINEE_STAFF_TOKEN of the service. Without one the service is in "
        "protected mode and takes every caller for the box office.",
    }
}

# Everything a request may carry outside its body, by name.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "theatre": {
        "in": "path",
        "description": "A theatre's id.",
        "schema": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
        "example": "main",
    },
    "showtime": {
        "in": "path",
        "description": "A showtime in the theatre's local time.",
        "schema": {"type": "string", "pattern": "^2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}$"},
        "example": "2026-11-24T18:00",
    },
    "ticket_id": {
        "in": "path",
        "description": "The id that the booking answered.",
        "schema": {"type": "string"},
        "example": "main-7KQ2M8ZT41XVDRNB",
    },
    "date": {
        "in": "query",
        "description": "A day in the theatre's local time; today if left out.",
        "schema": {"type": "string", "format": "date"},
        "example": "2026-11-24",
    },
    "limit": {
        "in": "query",
        "description": "How many theatres the answer may have.",
        "schema": {"type": "integer", "minimum": 1, "maximum": fields.LIMIT_MAX, "default": theatres.PAGE},
    },
    "cursor": {
        "in": "query",
        "description": "Where the page begins: the one of a link that an earlier answer gave.",
        "schema": {"type": "string"},
        "example": "Pm1haW4",
    },
    "name": {
        "in": "query",
        "description": "Only theatres whose name contains this, whatever its case and accents: `koln` finds Köln.",
        "schema": {"type": "string", "minLength": 1, "maxLength": fields.NAME_LENGTH},
        "example": "koln",
    },
    "Last-Event-ID": {
        "in": "header",
        "description": "The id of the last event the client saw: no snapshot while that is the current one.",
        "schema": {"type": "string"},
    },
    "If-None-Match": {
        "in": "header",
        "description": "The ETag of the client's copy: 304 while it is the current one.",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "Names the booking: a repeat with the same key and body within 24 hours answers the first "
        "ticket again, with `Idempotency-Replayed: true`. Double quotes around it do not count.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": '^(?!""$)[\\x21-\\x7e]+$'},
    },
    "Ticket-Phone": {
        "in": "header",
        "description": "The phone number the ticket was booked with. Only the box office may leave it out.",
        "schema": {"type": "string"},
        "example": "+919812345678",
    },
}


def document() -> bytes:
    """The whole document as JSON."""
    structs = {route.answer for route in ROUTES} | {route.body for route in ROUTES} | {wire.Problem}
    named = sorted((struct for struct in structs if struct is not None), key=lambda struct: struct.__name__)
    _, schemas = msgspec.json.schema_components(named, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        if route.page:
            continue
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Matinee",
            "version": __version__,
            "description": "A booking service for movie theatres.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _SECURITY},
    }
    return wire.encode(whole)


def _operation(route: Route) -> dict[str, Any]:
    summary, _, description = (route.handler.__doc__ or "").partition("\n")
    family = route.handler.__module__.rpartition(".")[2]
    operation: dict[str, Any] = {
        "operationId": f"{family}_{route.handler.__name__}",
        "summary": summary.strip().rstrip("."),
        "tags": [family],
        "responses": _responses(route),
    }
    if description.strip():
        operation["description"] = " ".join(description.split())
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    if parameters := [_parameter(name) for name in (*names, *route.parameters)]:
        operation["parameters"] = parameters
    if route.body is not None:
        types = ["application/json", *(["application/x-www-form-urlencoded"] if route.forms else [])]
        content = {media_type: {"schema": _reference(route.body)} for media_type in types}
        operation["requestBody"] = {"required": True, "content": content}
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
        responses["304"] = {"description": "The client's copy is the current one."}
    by_status: dict[int, list[str]] = {}
    for code in route.problems:
        by_status.setdefault(problems.PROBLEMS[code][0], []).append(code)
    for status, codes in sorted(by_status.items()):
        told = "; ".join(f"`{code}`: {problems.PROBLEMS[code][1]}" for code in codes)
        schema = {"allOf": [_reference(wire.Problem), {"properties": {"code": {"enum": codes}}}]}
        responses[str(status)] = {"description": f"{told}.", "content": {problems.CONTENT_TYPE: {"schema": schema}}}
    return responses


def _success(route: Route) -> dict[str, Any]:
    if route.status == 204:  # noqa: PLR2004  No Content
        return {"description": "Done."}
    if route.answer is None:
        schema = {"type": "object" if route.media_type == JSON else "string"}
        return {"description": "Done.", "content": {route.media_type: {"schema": schema}}}
    response: dict[str, Any] = {
        "description": (route.answer.__doc__ or "").partition("\n")[0],
        "content": {"application/json": {"schema": _reference(route.answer)}},
    }
    for media_type in route.also:
        response["content"][media_type] = {"schema": {"type": "string"}}
    headers: dict[str, Any] = {}
    if route.conditional:
        headers["ETag"] = {"description": "Changes with the answer.", "schema": {"type": "string"}}
    if "cursor" in route.parameters:
        headers["Link"] = {
            "description": "Other pages, RFC 8288: `first`, and `prev` and `next` where there is one.",
            "schema": {"type": "string"},
        }
    if "Idempotency-Key" in route.parameters:
        headers["Location"] = {"description": "The ticket's address.", "schema": {"type": "string"}}
        headers["Idempotency-Replayed"] = {
            "description": "`true` where an earlier request with the same key made this ticket.",
            "schema": {"type": "string", "enum": ["true"]},
        }
    if headers:
        response["headers"] = headers
    return response


def _reference(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
