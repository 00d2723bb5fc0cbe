"""The theatres of the programme."""

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from service import edge, fields
from service.directory import Cursor
from service.handlers.desk import Desk, json_answer
from service.lean import Answer
from service.wire import TheatreAnswer, TheatresAnswer

PAGE = 100  # theatres in an answer where the client does not say
_RULES = {"limit": fields.limit, "name": fields.name, "cursor": Cursor.read}


async def page(desk: Desk, request: web.Request) -> Answer:
    """The programme, a page of theatres at a time.

    The theatres come in order of id. The `Link` header (RFC 8288) leads to the first, the previous and the next page,
    where there is one.
    """
    wish: dict[str, Any] = edge.query(request, _RULES)
    found = desk.programme.directory.page(wish.get("limit", PAGE), wish.get("name", ""), wish.pop("cursor", None))
    links = [_link("first", wish)]
    if found.previous is not None:
        links.append(_link("prev", {**wish, "cursor": found.previous.text}))
    if found.next is not None:
        links.append(_link("next", {**wish, "cursor": found.next.text}))
    theatres = TheatresAnswer([TheatreAnswer.of(theatre) for theatre in found.theatres])
    return json_answer(theatres, headers=(("Link", ", ".join(links)),))


async def one(desk: Desk, request: web.Request) -> Answer:
    """One theatre of the programme."""
    return json_answer(TheatreAnswer.of(desk.theatre(request)))


def _link(relation: str, wish: dict[str, Any]) -> str:
    return f'</v1/theatres{"?" if wish else ""}{urlencode(wish)}>; rel="{relation}"'
