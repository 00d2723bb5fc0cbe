"""The names of the keys: one slot of a cluster to a theatre, and nothing in them that a person said."""

import datetime

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot
from small_theatre import LIFE_MS, MAIN

from service.keys import idempotency_key, keys_of, showtime_keys, spread, ticket_key
from service.model import compact
from service.programme import Programme


def test_the_keys_of_a_theatre() -> None:
    assert showtime_keys("main", "2026-11-24T18:00") == (
        "{main}:showtime:20261124T1800",
        "{main}:showtime:20261124T1800:tickets",
    )
    assert ticket_key("main", "main-7KQ2M8ZT41XVDRNB") == "{main}:ticket:main-7KQ2M8ZT41XVDRNB"
    assert idempotency_key("main", "0f1e") == "{main}:idempotency:0f1e"
    showtime = Programme([MAIN], LIFE_MS).showtime(MAIN, "2026-11-24T18:00")
    assert keys_of(showtime) == showtime_keys("main", "2026-11-24T18:00")


@given(
    theatre_id=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True),
    at=st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2999, 12, 31)),
)
def test_all_keys_of_a_theatre_are_in_its_slot_and_a_showtime_is_read_back(
    theatre_id: str, at: datetime.datetime
) -> None:
    label = at.strftime("%Y-%m-%dT%H:%M")
    keys = [*showtime_keys(theatre_id, label), ticket_key(theatre_id, "any-id"), idempotency_key(theatre_id, "digest")]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(theatre_id.encode())}
    assert len(set(keys)) == len(keys)
    assert spread(compact(label)) == label
