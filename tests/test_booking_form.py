"""A form that is filled in is the very call that redis-py would send."""

from zoneinfo import ZoneInfo

import hiredis
import msgspec
from hypothesis import given
from hypothesis import strategies as st
from small_theatre import LIFE_MS, MAIN

from service.booking_form import BookingForm
from service.keys import IDEMPOTENCY_LIFE_MS, idempotency_key, keys_of, ticket_key
from service.model import Idempotency, Theatre
from service.programme import Programme
from service.scripts import BOOK
from service.store import _terms

PROGRAMME = Programme([MAIN], LIFE_MS)
LABEL = "2026-11-24T18:00"
TEXTS = st.text() | st.sampled_from(["100 %s %%", "Zoë Łukasz 💺", "", "\r\n$9\r\n"])
DIGESTS = st.text("0123456789abcdef")

# As in the service, one form to a moment, for theatres of every kind in turn.
ZONES = [ZoneInfo(name) for name in ("UTC", "America/Argentina/ComodRivadavia", "Etc/GMT+5")]
FORMS = {
    zone: BookingForm(BOOK, PROGRAMME.showtime(msgspec.structs.replace(MAIN, timezone=zone), LABEL).moment)
    for zone in ZONES
}


@given(
    theatre_id=st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True),
    capacity=st.integers(1, 100_000),
    zone=st.sampled_from(ZONES),
    name=TEXTS,
    phone=TEXTS,
    idempotency=st.none() | st.builds(Idempotency, DIGESTS, DIGESTS),
)
def test_whatever_is_filled_in_it_is_the_call_of_the_script(
    theatre_id: str, capacity: int, zone: ZoneInfo, name: str, phone: str, idempotency: Idempotency | None
) -> None:
    theatre = Theatre(theatre_id, theatre_id, zone, capacity, ("18:00",))
    showtime = PROGRAMME.showtime(theatre, LABEL)
    ticket_id = f"{theatre_id}-7KQ2M8ZT41XVDRNB"
    keys = [*keys_of(showtime), ticket_key(theatre_id, ticket_id)]
    args = [ticket_id, name, phone, "20261124T1800", *_terms(showtime)]
    if idempotency is not None:
        keys.append(idempotency_key(theatre_id, idempotency.digest))
        args += [idempotency.fingerprint, str(IDEMPOTENCY_LIFE_MS)]
    call: tuple[str | int, ...] = ("EVALSHA", BOOK.sha, len(keys), *keys, *args)
    packed = hiredis.pack_command(call)  # type: ignore[arg-type]  # its stub knows tuples of one element only
    assert FORMS[zone].fill(theatre, ticket_id, name, phone, idempotency) == packed
