"""What every handler is given: the use cases, the programme, and who may do what."""

import msgspec
from aiohttp import web

from service import edge, fields
from service.box_office import BoxOffice
from service.handlers.front import Fronts
from service.lean import Answer, Headers
from service.live import Live
from service.metrics import Metrics
from service.model import Availability, Theatre, Ticket
from service.programme import Programme
from service.rendering import Pages
from service.security import Gate
from service.store import Store
from service.wire import ShowtimeAnswer, ShowtimesAnswer, TicketAnswer, encode


class Told:
    """The answer about the seats of a day. Those who shared a look at them share it too."""

    __slots__ = ("_body", "etag", "seats")

    def __init__(self, seats: list[Availability], etag: str) -> None:
        self.seats = seats
        self.etag = etag
        self._body = b""

    def body(self) -> bytes:
        """The seats as JSON, made when they are asked for first."""
        if not self._body:
            self._body = encode(ShowtimesAnswer([ShowtimeAnswer.of(each) for each in self.seats]))
        return self._body


class Desk(msgspec.Struct):
    """The service as a handler sees it.

    `draining` once the process ends and takes its last requests. `told` is the answer about a day that was made last.
    """

    box_office: BoxOffice
    programme: Programme
    gate: Gate
    store: Store
    metrics: Metrics
    live: Live
    openapi: bytes
    pages: Pages
    fronts: Fronts
    draining: bool = False
    told: Told = msgspec.field(default_factory=lambda: Told([], ""))

    def theatre(self, request: web.Request) -> Theatre:
        """The theatre in the path. Raises TheatreNotFound."""
        return self.programme.theatre(request.match_info["theatre"])

    async def showtime(self, request: web.Request) -> tuple[Theatre, str]:
        """The theatre and the label of the showtime in the path, also where they have left the programme.

        Raises InvalidInput, TheatreNotFound.
        """
        label = edge.field("showtime", fields.showtime, request.match_info["showtime"])
        return await self.box_office.theatre(request.match_info["theatre"], label), label


def path_ticket_id(request: web.Request) -> str:
    """The ticket id in the path. Raises InvalidInput."""
    return edge.field("ticket_id", fields.ticket_id, request.match_info["ticket_id"])


def json_answer(struct: msgspec.Struct, *, status: int = 200, headers: Headers = ()) -> Answer:
    """A struct as JSON that anybody may keep."""
    return Answer(encode(struct), status=status, headers=headers)


def private_answer(struct: msgspec.Struct, *, status: int = 200, headers: Headers = ()) -> Answer:
    """A struct as JSON that carries a name or a phone: nobody may store it."""
    return Answer(encode(struct), status=status, headers=(("Cache-Control", "no-store"), *headers))


def ticket_answer(ticket: Ticket, *, masked: bool, status: int = 200, headers: Headers = ()) -> Answer:
    """A ticket, as its holder (`masked`) or the box office may see it."""
    return private_answer(TicketAnswer.of(ticket, masked=masked), status=status, headers=headers)
