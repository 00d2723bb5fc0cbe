"""The patterns that the API's document shows of fields are the rules that are applied."""

import datetime
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import fields
from service.directory import CURSOR, Cursor

RULES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "phone": (fields.PHONE, fields.phone),
    "ticket_id": (fields.TICKET_ID, fields.ticket_id),
    "theatre_id": (fields.THEATRE_ID, fields.theatre_id),
    "timing": (fields.TIMING, fields.timing),
    "showtime": (fields.SHOWTIME, fields.showtime),
    "date": (fields.DATE, fields.date),
    "cursor": (CURSOR, Cursor.read),
    "idempotency_key": (fields.IDEMPOTENCY_KEY, fields.idempotency_key),
}

each_rule = pytest.mark.parametrize(("pattern", "rule"), RULES.values(), ids=RULES)


def is_accepted(rule: Callable[[str], Any], written: str) -> bool:
    try:
        rule(written)
    except ValueError:
        return False
    return True


@each_rule
@settings(max_examples=40)
@given(data=st.data())
def test_what_matches_the_pattern_is_accepted(data: st.DataObject, pattern: str, rule: Callable[[str], Any]) -> None:
    written = data.draw(st.from_regex(pattern, fullmatch=True))
    assert is_accepted(rule, written)


@each_rule
@settings(max_examples=40)
@given(data=st.data())
def test_what_does_not_match_is_refused(data: st.DataObject, pattern: str, rule: Callable[[str], Any]) -> None:
    """Also what differs from something right in one place."""
    right = data.draw(st.from_regex(pattern, fullmatch=True))
    at = data.draw(st.integers(0, len(right)))
    near = right[:at] + data.draw(st.text(max_size=2)) + right[at + data.draw(st.integers(0, 2)) :]
    written = data.draw(st.sampled_from([near, data.draw(st.text())]))
    assert is_accepted(rule, written) == bool(re.fullmatch(pattern, written))


NAME = re.compile(fields.NAME)


@given(st.from_regex(NAME, fullmatch=True) | st.text() | st.text(alphabet=" \t\u200bAe\u0301", max_size=90))
def test_a_name_is_what_its_pattern_allows(written: str) -> None:
    """Composed, as it is kept: the pattern counts what is written, so the parts of a letter count one by one."""
    written = unicodedata.normalize("NFC", written)
    assert is_accepted(fields.name, written) == bool(NAME.fullmatch(written))


def test_the_days_are_those_of_the_calendar() -> None:
    years = {2000, 2001, 2004, *range(2090, 2110), 2200, 2300, 2400, 2800, 2999}
    days = {day.isoformat() for day in map(datetime.date.fromordinal, range(730_000, 1_100_000)) if day.year in years}
    date = re.compile(fields.DATE)
    written = (f"{year}-{month:02}-{day:02}" for year in years for month in range(14) for day in range(33))
    assert {each for each in written if date.fullmatch(each)} == days
    assert not date.fullmatch("1999-12-31")
    assert not date.fullmatch("3000-01-01")
