"""Templates, files and codes, without a service around them."""

import pytest

from service import fields
from service.rendering import Pages, long_date, moment, qr_code, short_date


def test_dates_as_people_say_them() -> None:
    assert long_date("2026-11-27T18:00") == "Friday, 27 November"
    assert short_date("2026-12-01") == "Tue 1 Dec"
    assert moment("2026-11-27T17:52:09+01:00") == "17:52, Fri 27 Nov"


def test_what_was_written_by_strangers_is_escaped() -> None:
    page = Pages().render("problem.html", title="<script>", words="'\"&", house="<b>", reference="").decode()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "<b>" not in page


def test_a_fault_in_a_template_tells_no_value_of_the_page() -> None:
    """It goes to the log, where no name may stand."""
    with pytest.raises(RuntimeError) as fault:
        Pages().render("person.html", ticket={"name": "Asha Rao", "phone": "+919812345678"}, protected=True)
    told = f"{fault.value!s} {fault.value!r}"
    assert "person.html" in told
    assert "Asha" not in told
    assert "98123" not in told


def test_a_file_refers_to_others_by_the_names_they_have_now() -> None:
    pages = Pages()
    sheet = pages.assets[pages.address("matinee.css").removeprefix("/assets/")]
    font = pages.address("barlow-400.woff2").removeprefix("/assets/")
    assert f"url({font})" in sheet.body.decode()
    assert sheet.gzipped is not None
    assert pages.assets[font].gzipped is None, "a font is compressed already"


@pytest.mark.parametrize("ticket_id", ["main-7KQ2M8ZT41XVDRNB", f"{'a' * 32}-0000000000000000"])
def test_a_code_takes_every_ticket(ticket_id: str) -> None:
    assert qr_code(ticket_id).startswith("<svg")
    assert fields.ticket_id(ticket_id.upper()) == ticket_id, "what a reader makes of it is taken as meant"
