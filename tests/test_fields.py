"""The rules of single fields: what people write, and what is kept of it."""

import datetime
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import fields

# Names


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Asha Rao", "Asha Rao"),
        ("  Asha Rao\t", "Asha Rao"),
        ("नूर ज़हाँ", "नूर ज़हाँ"),
        ("山田 太郎", "山田 太郎"),
        ("Łukasz Żółć", "Łukasz Żółć"),
        ("Zoe\u0308", "Zoë"),  # two characters become one
        ("\u212bke", "\u00c5ke"),  # the sign of the angstrom becomes the letter
        ("O'Neill-Smith, Jr.", "O'Neill-Smith, Jr."),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),  # an astronaut, made of three
        ("محمد\u200f (2)", "محمد\u200f (2)"),  # a mark puts the bracket where it belongs
        ("Noor\u200e", "Noor\u200e"),
        ("\u061cنور", "\u061cنور"),
        ("بی\u200cتا", "بی\u200cتا"),  # noqa: RUF001  Persian is spelt with it
        ("a", "a"),
        ("a" * 80, "a" * 80),
        ("\U0001f600" * 80, "\U0001f600" * 80),
        ("e\u0301" * 80, "\u00e9" * 80),  # counted as kept
    ],
    ids=ascii,
)
def test_a_name_is_of_any_script(written: str, kept: str) -> None:
    assert fields.name(written) == kept


@pytest.mark.parametrize("written", ["", " ", "\u3000\u2003", "a" * 81, "\U0001f600" * 81, "\u0958" * 41], ids=ascii)
def test_a_name_has_1_to_80_characters_as_kept(written: str) -> None:
    with pytest.raises(ValueError, match="1 to 80 characters"):
        fields.name(written)


@pytest.mark.parametrize("bad", [*"\0\x1b\n\x7f\x85\u2028\u2029\ud800\udfff", *"\u202a\u202b\u202c\u202d\u202e"])
@pytest.mark.parametrize("written", ["As{}ha", "नू{}र"])
def test_a_name_has_no_controls_and_no_overrides(bad: str, written: str) -> None:
    with pytest.raises(ValueError, match="no control characters, bidirectional overrides"):
        fields.name(written.format(bad))


@pytest.mark.parametrize("bad", "\u2066\u2067\u2068\u2069")
def test_nor_isolates(bad: str) -> None:
    with pytest.raises(ValueError, match="bidirectional"):
        fields.name(f"Asha{bad}Rao")


@pytest.mark.parametrize("written", ["\u200b", "\u200e\u200f", "\u00ad", "\ufeff", "\u2060"], ids=ascii)
def test_a_name_can_be_seen(written: str) -> None:
    with pytest.raises(ValueError, match="visible"):
        fields.name(written)


@given(st.text())
def test_what_is_kept_of_a_name_is_a_name_and_stays_as_it_is(written: str) -> None:
    try:
        kept = fields.name(written)
    except ValueError:
        return
    assert 1 <= len(kept) <= 80
    assert unicodedata.is_normalized("NFC", kept)
    assert fields.name(kept) == kept
    kept.encode()


# Phones


def test_a_phone_is_the_same_however_it_is_written() -> None:
    for written in ("+91 98123-45678", "+919812345678", "(+91) 98123.45678", "[+91]98123 45678", "+91-98123 - 45678 "):
        assert fields.phone(written) == "+919812345678"
    assert fields.phone("98123 45678") == "9812345678", "without a country it is another one"


@given(
    plus=st.booleans(),
    digits=st.text("0123456789", min_size=7, max_size=15),
    between=st.lists(st.text(" .-()[]", max_size=3), min_size=17, max_size=17),
)
def test_separators_make_no_difference(plus: bool, digits: str, between: list[str]) -> None:
    phone = ("+" if plus else "") + digits
    written = "".join(separator + character for separator, character in zip(between, phone, strict=False)) + between[-1]
    assert fields.phone(written) == phone
    assert fields.phone(phone) == phone


@pytest.mark.parametrize(
    "written",
    [
        "",
        "+",
        "123456",
        "1" * 16,
        "+" + "1" * 16,
        "++1234567",
        "123+4567",
        "1234567+",
        "1234567x12",
        "1234/5678",
        "1234567\n",
        "1234\u00a05678",  # a no-break space
        "+91\u201398123456",  # an en dash
        "\u0661\u0662\u0663\u0664\u0665\u0666\u0667",  # Arabic digits
        "\uff11\uff12\uff13\uff14\uff15\uff16\uff17",  # full width
        "\u0967\u0968\u0969\u096a\u096b\u096c\u096d",  # Devanagari
        "\u00b2" * 7,
    ],
    ids=ascii,
)
def test_what_is_no_phone_is_told_what_one_is(written: str) -> None:
    with pytest.raises(ValueError, match="7 to 15 digits 0-9"):
        fields.phone(written)


# Ticket ids


@pytest.mark.parametrize(
    "written",
    ["main-7KQ2M8ZT41XVDR0B", "MAIN-7kq2m8zt41xvdr0b", " main-7KQ2M8ZT4IXVDROB\n", "main-7kq2m8zt4lxvdrob"],
)
def test_an_id_is_taken_as_it_is_meant(written: str) -> None:
    assert fields.ticket_id(written) == "main-7KQ2M8ZT41XVDR0B"


def test_an_id_may_be_of_a_theatre_with_dashes() -> None:
    assert fields.ticket_id("screen-2-7KQ2M8ZT41XVDR0B") == "screen-2-7KQ2M8ZT41XVDR0B"


@pytest.mark.parametrize(
    "written",
    [
        "",
        "17",
        "main",
        "main-",
        "-7KQ2M8ZT41XVDR0B",
        "main-7KQ2M8ZT41XVDR0",
        "main-7KQ2M8ZT41XVDR0BB",
        "main-7KQ2M8ZT41XVDR0U",
        "main--7KQ2M8ZT41XVDR0B",
        "ma_in-7KQ2M8ZT41XVDR0B",
        "main-\uff17KQ2M8ZT41XVDR0B",
        "{main}-7KQ2M8ZT41XVDR0B",
        "main:7KQ2M8ZT41XVDR0B",
        "ma in-7KQ2M8ZT41XVDR0B",
        "ma\u0131n-7KQ2M8ZT41XVDR0B",
    ],
    ids=ascii,
)
def test_what_is_no_id_is_told_what_one_looks_like(written: str) -> None:
    with pytest.raises(ValueError, match="must be a ticket id"):
        fields.ticket_id(written)


# Times


@pytest.mark.parametrize("written", ["00:00", "18:00", "23:59", "2026-11-24T18:00", "2028-02-29T00:00"])
def test_a_timing_is_kept_as_it_is(written: str) -> None:
    assert fields.timing(written) == written


@pytest.mark.parametrize(
    "written",
    [
        "",
        "18",
        "9:00",
        "24:00",
        "18:60",
        "18:00:00",
        " 18:00",
        "18:00\n",
        "18.00",
        "6 pm",
        "2026-11-24 18:00",
        "2026-02-29T18:00",
        "2026-13-01T18:00",
        "1999-12-31T18:00",
        "3000-01-01T18:00",
        "2026-11-24T18:00Z",
        "\uff11\uff18:00",
        "\u0661\u0668:00",
        "20261124T1800",
        "2026-W48-2T18:00",
    ],
    ids=ascii,
)
def test_what_is_no_timing_is_told_what_one_is(written: str) -> None:
    with pytest.raises(ValueError, match="must be HH:MM like 18:00"):
        fields.timing(written)


def test_a_showtime_is_a_date_and_a_time() -> None:
    assert fields.showtime("2026-11-24T18:00") == "2026-11-24T18:00"
    for written in ("18:00", "2026-11-24", "2026-11-24T18:0\u0660"):
        with pytest.raises(ValueError, match="2026-11-24T18:00"):
            fields.showtime(written)


def test_a_date_is_one_of_the_calendar() -> None:
    assert fields.date("2028-02-29") == datetime.date(2028, 2, 29)
    for written in ("2026-02-29", "20261124", "2026-11-24T18:00", "today", "\u0662\u0660\u0662\u0666-11-24"):
        with pytest.raises(ValueError, match="must be a date like"):
            fields.date(written)


@given(st.text(max_size=40))
def test_no_text_whatever_is_anything_but_kept_or_refused(written: str) -> None:
    for rule in (fields.name, fields.phone, fields.ticket_id, fields.theatre_id, fields.timing, fields.showtime):
        assert kept_or_refused(rule, written)


def kept_or_refused(rule: Callable[[str], str], written: str) -> bool:
    try:
        return isinstance(rule(written), str)
    except ValueError as refused:
        return str(refused).startswith("must")
