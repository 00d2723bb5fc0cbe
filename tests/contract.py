"""Holds every answer that an HTTP test gets against the API's document: status, headers, media type, body."""

import functools
import json
import re
from typing import Any

import jsonschema
from aiohttp import ClientResponse, TraceConfig, TraceRequestEndParams
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from service import openapi
from service.routes import ROUTES

DOCUMENT: dict[str, Any] = json.loads(openapi.document())
PAGES = [re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path)) for route in ROUTES if route.page]
PATHS = {re.compile(re.sub(r"\{\w+\}", "[^/]+", path)): path for path in DOCUMENT["paths"]}

# What HTTP itself needs, and what is a page's own; all other headers are for the reader of the document.
PLUMBING = {
    *("server", "date", "connection", "content-type", "content-length", "content-encoding", "transfer-encoding"),
    *("x-accel-buffering", "x-content-type-options", "content-security-policy", "referrer-policy", "vary"),
    *("cross-origin-opener-policy", "permissions-policy", "set-cookie"),
}

# What the service says before it has looked at the path, or where there is no operation.
ANYWHERE = {
    "405": "method_not_allowed-as-page",
    "404": "route_not_found-as-page",
    "403": "protected_mode",
    "400": "malformed_request",
}

REGISTRY = Registry().with_resource("document", Resource(contents=DOCUMENT, specification=DRAFT202012))


def look_up(thing: dict[str, Any]) -> dict[str, Any]:
    """The thing itself, or what it refers to."""
    while "$ref" in thing:
        place: Any = DOCUMENT
        for part in thing["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        thing = place
    return thing


@functools.lru_cache(maxsize=1024)
def validator(reference: str) -> jsonschema.Draft202012Validator:
    """Of the schema at a JSON pointer into the document."""
    return jsonschema.Draft202012Validator({"$ref": f"document#{reference}"}, registry=REGISTRY)


def operation_of(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """The operation of a request and its pointer; None where there is none. The first path that fits counts."""
    for pattern, template in PATHS.items():
        if pattern.fullmatch(path):
            verb = {"HEAD": "get"}.get(method, method.lower())
            operation = DOCUMENT["paths"][template].get(verb)
            return None if operation is None else (f"/paths/{template.replace('/', '~1')}/{verb}", operation)
    return None


def check(method: str, path: str, status: int, headers: Any, body: bytes | None) -> None:
    """Fail where the document does not allow an answer. `body` is None where there is none to look at."""
    if any(page.fullmatch(path) for page in PAGES) and operation_of(method, path) is None:
        return  # pages are not in the document
    told = f"{method} {path}: {status}"
    found = operation_of(method, path)
    if found is None:
        assert str(status) in ANYWHERE, f"{told}, where the document has nothing"
        pointer = f"/components/responses/{ANYWHERE[str(status)]}"
        response = DOCUMENT["components"]["responses"][ANYWHERE[str(status)]]
    else:
        pointer, operation = found
        assert str(status) in operation["responses"], f"{told} is not in the document"
        response = operation["responses"][str(status)]
        pointer = response.get("$ref", f"#{pointer}/responses/{status}").removeprefix("#")
        response = look_up(response)
    described = {name.lower(): look_up(header) for name, header in response.get("headers", {}).items()}
    for name, header in described.items():
        assert name in headers or not header["required"], f"{told} has no {name}"
    strange = {name.lower() for name in headers} - PLUMBING - described.keys()
    assert not strange, f"{told} has the headers {strange}, which the document does not"
    if body is None or not body:
        return
    media_type = headers["Content-Type"].partition(";")[0]
    assert media_type in response.get("content", {}), f"{told} is {media_type}, which the document does not say"
    if media_type.endswith("json"):
        escaped = media_type.replace("/", "~1")
        errors = list(validator(f"{pointer}/content/{escaped}/schema").iter_errors(json.loads(body)))
        assert not errors, f"{told}: {errors[0].message}"


async def _look(_session: object, _context: object, ended: TraceRequestEndParams) -> None:
    answer: ClientResponse = ended.response
    has_end = answer.content_type != "text/event-stream"
    body = await answer.read() if has_end and ended.method != "HEAD" else None
    check(ended.method, ended.url.raw_path, answer.status, answer.headers, body)


def tracing() -> TraceConfig:
    """For a client's `trace_configs`: an answer that the document does not allow fails the request."""
    trace = TraceConfig()
    trace.on_request_end.append(_look)
    return trace
