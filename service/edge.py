"""Reading requests: at most 16 KiB, under a deadline, as JSON or a form, every bad field named at once."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET

from service.errors import FieldError, InvalidInput
from service.lean import whole_body
from service.problems import HttpError

BODY_LIMIT = 16 * 1024

# aiohttp has no deadline for bodies: one that trickles a byte a second would hold its connection for hours.
BODY_DEADLINE_S = 10.0

FORM_FIELDS_LIMIT = 32

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

MISSING = "is missing"

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
V = TypeVar("V")


class Reader(Generic[RequestT]):
    """Reads bodies into one request struct; built once per route.

    `rules` maps each field to the rule of `fields.py` that takes what the client wrote and gives what we keep.
    """

    def __init__(
        self, struct: type[RequestT], rules: Mapping[str, Callable[[str], Any]], *, forms: bool = False
    ) -> None:
        self._decode = msgspec.json.Decoder(struct).decode
        self._struct = struct
        self._rules = rules
        self._forms = forms
        fields = msgspec.structs.fields(struct)
        self._known = [field.name for field in fields]
        self._required = [field.name for field in fields if field.required]

    async def read(self, request: web.Request) -> RequestT:
        """The request's body with every field kept as its rule says.

        Raises HttpError (400, 408, 413, 415) and InvalidInput.
        """
        is_form = _is_form(request.headers, forms=self._forms)
        body = _arrived_body(request)
        if body is None:
            body = await _wait_for_body(request)
        if is_form:
            return self._checked(_decode_form(body))
        try:
            struct = self._decode(body)
            for name, rule in self._rules.items():
                written = getattr(struct, name)
                if written is not UNSET and (kept := rule(written)) is not written:
                    setattr(struct, name, kept)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
            # The quick way stops at the first bad field; the client is owed all of them.
            return self._checked(_decode_json(body))
        return struct

    def _checked(self, body: Any) -> RequestT:
        """Check field by field what the quick way refused."""
        if not isinstance(body, dict):
            raise InvalidInput([FieldError("body", f"must be an object with {', '.join(self._known)}")])
        problems = [FieldError(name, MISSING) for name in self._required if name not in body]
        kept: dict[str, Any] = {}
        for name, value in body.items():
            if name not in self._known:
                # What the client named a field may be anything; it is cut and made printable before it is repeated.
                shown = ascii(name[:40])[1:-1]
                problems.append(FieldError(shown, f"is not a field; the fields are {', '.join(self._known)}"))
            elif not isinstance(value, str):
                problems.append(FieldError(name, "must be a string"))
            else:
                try:
                    kept[name] = self._rules[name](value)
                except ValueError as problem:
                    problems.append(FieldError(name, str(problem)))
        if problems:
            raise InvalidInput(problems)
        return self._struct(**kept)


class Form(msgspec.Struct):
    """A form of a page: what was written, what is kept of it, and what would be right, by field.

    An empty field counts as missing, and a field that nobody asked for is passed over: browsers add some.
    """

    written: dict[str, str]
    kept: dict[str, Any] = {}
    errors: dict[str, str] = {}

    @classmethod
    async def read(cls, request: web.Request, rules: Mapping[str, Callable[[str], Any]]) -> "Form":
        """The request's body, each field by its rule. Raises HttpError (400, 408, 413, 415) and InvalidInput."""
        if not _is_form(request.headers, forms=True):
            raise HttpError("unsupported_media_type", f"Send the form as {FORM}.")
        body = _arrived_body(request)
        form = cls(_decode_form(await _wait_for_body(request) if body is None else body))
        for name, rule in rules.items():
            written = form.written.setdefault(name, "")
            if not written.strip():
                form.errors[name] = MISSING
                continue
            try:
                form.kept[name] = rule(written)
            except ValueError as problem:
                form.errors[name] = str(problem)
        return form


def _is_form(headers: Mapping[str, str], *, forms: bool) -> bool:
    """Whether the body is a form, else JSON. Raises HttpError 415."""
    if hdrs.CONTENT_ENCODING in headers:
        raise HttpError("unsupported_media_type", "Send the body without Content-Encoding.")
    media_type = headers.get(hdrs.CONTENT_TYPE, "")
    if media_type == JSON:
        return False
    media_type = media_type.partition(";")[0].strip().lower()
    if media_type == JSON:
        return False
    if media_type == FORM and forms:
        return True
    also = f" or {FORM}" if forms else ""
    raise HttpError("unsupported_media_type", f"Send the body as {JSON}{also}.")


def _arrived_body(request: web.Request) -> bytes | None:
    """The body, if all of it came with the head. Raises HttpError 413."""
    body = whole_body(request)
    if body is not None and len(body) > BODY_LIMIT:
        raise _too_large()
    return body


async def _wait_for_body(request: web.Request) -> bytes:
    """The body as it comes, at most BODY_LIMIT bytes. Raises HttpError: 413 over the limit, 408 when it trickles."""
    if (request.content_length or 0) > BODY_LIMIT:
        raise _too_large()
    chunks = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.content.iter_any():
                chunks += chunk
                if len(chunks) > BODY_LIMIT:
                    raise _too_large()
    except TimeoutError:
        raise HttpError("body_timeout", f"The body did not arrive within {BODY_DEADLINE_S:.0f} seconds.") from None
    return bytes(chunks)


def field(name: str, rule: Callable[[str], V], written: str) -> V:
    """Keep one field that stands in the path or a header. Raises InvalidInput naming it."""
    try:
        return rule(written)
    except ValueError as problem:
        raise InvalidInput([FieldError(name, str(problem))]) from None


def query(request: web.Request, rules: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The parameters of the query that have a rule, as it keeps them; what is left out is left out here too.

    Raises InvalidInput naming every bad one.
    """
    kept: dict[str, Any] = {}
    problems = []
    for name, rule in rules.items():
        written = request.query.getall(name, ())
        if len(written) > 1:
            problems.append(FieldError(name, "is given more than once"))
        elif written:
            try:
                kept[name] = rule(written[0])
            except ValueError as problem:
                problems.append(FieldError(name, str(problem)))
    if problems:
        raise InvalidInput(problems)
    return kept


def _too_large() -> HttpError:
    return HttpError("body_too_large", f"The body may have at most {BODY_LIMIT} bytes.")


def _decode_json(body: bytes) -> Any:
    # The standard library's decoder takes what msgspec refuses whole (lone surrogates), so the field can be named.
    # Numbers are of no use here, and as a float the longest one is read in no time.
    try:
        return json.loads(body.decode(), parse_int=float)
    except RecursionError:
        raise HttpError("malformed_body", "The body is nested too deeply; its fields are strings.") from None
    except ValueError:
        raise HttpError("malformed_body", "The body is not JSON in UTF-8.") from None


def _decode_form(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FORM_FIELDS_LIMIT
        )
    except ValueError:
        raise HttpError("malformed_body", f"The body is not a form of at most {FORM_FIELDS_LIMIT} fields.") from None
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidInput([FieldError(ascii(name[:40])[1:-1], "is given more than once") for name in repeated])
    return dict(pairs)
