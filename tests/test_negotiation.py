"""Which of two answers a client would rather have."""

import pytest

from service.negotiation import prefers_html, takes_gzip


@pytest.mark.parametrize(
    "accept",
    [
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",  # browsers
        "text/html",
        "text/*",
        "TEXT/HTML ; Q=0.9, application/json;q=0.8",
        "text/html, */*;q=0.1",
        "application/json;q=0, text/html;q=0.001",
        "text/html;level=1;q=0.7, application/json;q=0.6",
    ],
)
def test_a_page_for_whom_html_weighs_more(accept: str) -> None:
    assert prefers_html(accept)


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",  # curl
        "application/json, text/plain, */*",
        "text/html, application/json",  # a tie
        "text/html;q=0.5, application/json;q=0.9",
        "text/html;q=0, */*",
        "text/*;q=0.5, application/*;q=0.6",
        "text/html;q=nonsense",
        "text/htmlx",
        "image/png",
        "text/html;q=0.8, " + "image/png," * 2000 + "*/*;q=0.9",
    ],
)
def test_json_for_all_others(accept: str | None) -> None:
    assert not prefers_html(accept)


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip, deflate, br", True),
        ("*", True),
        ("gzip;q=0.1", True),
        (None, False),
        ("", False),
        ("br", False),
        ("gzip;q=0, *", False),
    ],
)
def test_an_answer_is_compressed_for_those_who_say_so(header: str | None, taken: bool) -> None:
    assert takes_gzip(header) == taken
