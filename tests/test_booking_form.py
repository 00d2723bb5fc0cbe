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
TEXTS = st.text() | st.sampled_from(["100 %s %%", "Zoë Łukasz 💺", "", "\r\n$9\r\n"])


@given(
    theatre_id=st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True),
    capacity=st.integers(1, 100_000),
    zone=st.sampled_from(["UTC", "America/Argentina/ComodRivadavia", "Etc/GMT+5"]),
    name=TEXTS,
    phone=TEXTS,
    idempotency=st.none() | st.builds(Idempotency, st.text("0123456789abcdef"), st.text("0123456789abcdef")),
)
def test_whatever_is_filled_in_it_is_the_call_of_the_script(
    theatre_id: str, capacity: int, zone: str, name: str, phone: str, idempotency: Idempotency | None
) -> None:
    theatre = Theatre(theatre_id, theatre_id, ZoneInfo(zone), capacity, ("18:00",))
    showtime = PROGRAMME.showtime(theatre, "2026-11-24T18:00")
    ticket_id = f"{theatre_id}-7KQ2M8ZT41XVDRNB"
    keys = [*keys_of(showtime), ticket_key(theatre_id, ticket_id)]
    args = [ticket_id, name, phone, "20261124T1800", *_terms(showtime)]
    if idempotency is not None:
        keys.append(idempotency_key(theatre_id, idempotency.digest))
        args += [idempotency.fingerprint, str(IDEMPOTENCY_LIFE_MS)]
    call: tuple[str | int, ...] = ("EVALSHA", BOOK.sha, len(keys), *keys, *args)
    packed = hiredis.pack_command(call)  # type: ignore[arg-type]  # its stub knows tuples of one element only
    assert BookingForm(BOOK, showtime.moment).fill(theatre, ticket_id, name, phone, idempotency) == packed


def test_the_theatres_of_a_zone_fill_in_the_same_form() -> None:
    form = BookingForm(BOOK, PROGRAMME.showtime(MAIN, "2026-11-24T18:00").moment)
    for theatre_id in ("rex", "gloria"):
        theatre = msgspec.structs.replace(MAIN, id=theatre_id)
        call = form.fill(theatre, f"{theatre_id}-7KQ2M8ZT41XVDRNB", "Asha Rao", "+919812345678")
        assert f"{{{theatre_id}}}:showtime:20261124T1800:tickets\r\n".encode() in call
