"""The directory: pages of theatres that miss none and repeat none, and a search that forgives case and accents."""

from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.directory import Cursor, Directory
from service.model import Theatre


def theatre(theatre_id: str, name: str | None = None) -> Theatre:
    return Theatre(theatre_id, name or theatre_id, ZoneInfo("UTC"), 20, ("18:00",))


def ids(theatres: list[Theatre]) -> list[str]:
    return [each.id for each in theatres]


words = st.lists(st.sampled_from(("kino", "rex", "palace", "köln", "a")), min_size=1, max_size=3).map(" ".join)
named = st.dictionaries(st.from_regex(r"[a-z]{1,3}(-[0-9])?", fullmatch=True), words, max_size=40)


@given(names=named, limit=st.integers(1, 7), piece=st.sampled_from(("", "kino", "ex pal", "KOLN", "nowhere")))
def test_the_pages_of_a_search_are_all_that_match_in_order_there_and_back(
    names: dict[str, str], limit: int, piece: str
) -> None:
    directory = Directory([theatre(*item) for item in names.items()])
    expected = sorted(key for key, name in names.items() if piece.lower() in name.replace("ö", "o"))
    there = [directory.page(limit, piece)]
    while there[-1].next:
        there.append(directory.page(limit, piece, there[-1].next))
    assert [key for page in there for key in ids(page.theatres)] == expected
    assert all(len(page.theatres) == limit for page in there[:-1]), "only the last page may be short"
    back = [there[-1]]
    while back[-1].previous:
        back.append(directory.page(limit, piece, back[-1].previous))
    assert back[::-1] == there, "on whole pages the way back is the same"


def test_a_cursor_outlives_its_theatre() -> None:
    before = Directory(map(theatre, "abcde"))
    place = before.page(2).next
    assert ids(Directory(map(theatre, "acde")).page(2, cursor=place).theatres) == ["c", "d"]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("koln", True),
        ("KÖLN", True),
        ("o\u0308ln", True),
        ("o  koln", True),
        ("strasse", True),
        ("łn", False),
        ("in k", False),
    ],
)
def test_a_search_forgives_case_accents_and_spaces(written: str, found: bool) -> None:
    directory = Directory([theatre("a", "Kino"), theatre("b", "Kino Köln, Straße 1"), theatre("c", "Köhln")])
    assert ids(directory.page(9, written).theatres) == (["b"] if found else [])


def test_a_search_does_not_run_from_one_name_into_the_next() -> None:
    directory = Directory([theatre("a", "left"), theatre("b", "right")])
    assert directory.page(9, "left right").theatres == []


@pytest.mark.parametrize("text", ["", "main", "3e", "3e6D61", "3e4d41", "3f6d61", "3e6d6", "3e 6d61", "\x00", "é"])
def test_what_no_answer_gave_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be the cursor of a link"):
        Cursor.read(text)


def test_cursors_read_back() -> None:
    cursors = [Cursor(name, back) for name in ("a", "main", "screen-2", "z" * 32) for back in (True, False)]
    assert [Cursor.read(cursor.text) for cursor in cursors] == cursors
    assert all(one.text != other.text for one, other in pairwise(cursors))
