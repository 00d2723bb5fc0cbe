"""A window straight at the store: no HTTP, and every answer brings the versions."""

import itertools
from hashlib import md5

from service.errors import MatineeError, OutcomeUnknown, StoreTrouble
from service.model import Idempotency
from service.programme import Programme
from service.store import Changed, Replayed, Store
from tests.history.calls import Call, Outcome

_ids = itertools.count()


class StoreWindow:
    """One person who calls the store's methods, as the box office does."""

    def __init__(self, store: Store, programme: Programme) -> None:
        self._store = store
        self._programme = programme
        self._theatre = programme.theatre(None)

    async def ask(self, call: Call, key: str | None) -> tuple[Outcome, str]:
        """Call the method; tell an error as its code."""
        try:
            await getattr(self, f"_{call.kind}")(call, key)
        except OutcomeUnknown as error:
            return "unknown", error.code
        except StoreTrouble as error:
            return "refused", error.code
        except MatineeError as error:
            return "refused", error.code
        except Changed:
            return "refused", "changed"
        return "done", ""

    def close(self) -> None:
        """Nothing is held open."""

    async def _book(self, call: Call, key: str | None) -> None:
        ticket_id = f"{self._theatre.id}-{next(_ids):016}"
        if key is None:
            call.ticket_id = ticket_id
        digest = md5((key or "").encode()).hexdigest()
        idempotency = None if key is None else Idempotency(digest, digest)
        showtime = self._programme.showtime(self._theatre, call.showtime)
        booked = await self._store.book(ticket_id, showtime, call.name, call.phone, idempotency)
        if isinstance(booked, Replayed):
            call.ticket_id = booked.ticket_id
        else:
            call.ticket_id, call.versions = ticket_id, {call.showtime: booked.version}

    async def _move(self, call: Call, _key: None) -> None:
        found = await self._store.ticket(self._theatre, str(call.ticket_id))
        moved = await self._store.move(found, self._programme.showtime(self._theatre, call.showtime))
        call.versions = {str(call.left): moved.from_version, call.showtime: moved.to_version}

    async def _cancel(self, call: Call, _key: None) -> None:
        found = await self._store.ticket(self._theatre, str(call.ticket_id))
        call.versions = {call.showtime: await self._store.cancel(found.ticket)}

    async def _view(self, call: Call, _key: None) -> None:
        ticket = (await self._store.ticket(self._theatre, str(call.ticket_id))).ticket
        call.told = f"{ticket.name} at {ticket.showtime.label}"

    async def _seats(self, call: Call, _key: None) -> None:
        [seats] = await self._store.availability([self._programme.showtime(self._theatre, call.showtime)])
        call.seen, call.versions = seats.booked, {call.showtime: seats.version}
