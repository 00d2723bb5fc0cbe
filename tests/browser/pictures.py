"""`make pictures`: the documents' pictures of the pages, each taken from a service in a real browser.

Its name keeps it out of `make test`. What is on a picture depends on the day it is taken.
"""

import re
from pathlib import Path

import pytest
from http_pages import page as front_page
from http_pages import timings
from playwright.async_api import expect
from windows import DESKTOP, PHONE, Serve, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="session")]

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"

PROGRAMME = """
[[theatre]]
id = "lumen"
name = "Lichtspiele Lumen"
timezone = "Europe/Berlin"
timings = [
    {at = "14:30", film = "The Cabinet of Dr. Caligari"},
    {at = "17:00", film = "Metropolis"},
    {at = "20:15", film = "Nosferatu"},
    {at = "22:45", film = "People on Sunday"},
]
"""

# How many of the next showtimes' twenty seats are taken, so that the pictures show each state.
TAKEN = (8, 13, 20, 3, 5, 1, 19, 7, 2, 20, 11, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("size", "window"), [("desktop", DESKTOP), ("phone", PHONE)])
async def test_pictures(serve: Serve, visit: Visit, scheme: str, size: str, window: dict[str, int]) -> None:
    api = await serve(PROGRAMME)
    coming = timings(await front_page(api, "/"))
    names = ("Noor Haddad", "Mara Lindqvist", "Łukasz Żółć", "Tomás Álvarez", "Asha Rao")
    for showtime, taken in zip(coming, TAKEN, strict=False):
        for number in range(taken):
            await api.book(timing=showtime, name=names[number % len(names)])
    scale = 1 if size == "desktop" else 2
    page = await visit(api, "/", viewport=window, color_scheme=scheme, device_scale_factor=scale)
    await expect(page.get_by_text("live seats")).to_be_visible()
    radio = page.get_by_role("radio", name=re.compile("^17:00")).first
    await radio.check()
    day = (await radio.input_value())[: len("2026-11-24")]
    await page.evaluate("document.fonts.ready")
    await page.screenshot(path=FOLDER / f"front-{size}-{scheme}.png")
    await page.get_by_label("Name").fill("Asha Rao")
    await page.get_by_label("Phone").fill("+91 98123 45678")
    if size == "phone":
        await page.locator("#ticket").scroll_into_view_if_needed()
        await page.screenshot(path=FOLDER / f"form-{size}-{scheme}.png")
    await page.get_by_role("button", name="Book this seat").click()
    await expect(page.get_by_text("Booked.")).to_be_visible()
    await page.screenshot(path=FOLDER / f"ticket-{size}-{scheme}.png")
    ticket_id = await page.locator(".id").inner_text()
    await page.goto(str(api.client.make_url(f"/box-office?date={day}")))
    await page.get_by_label("Ticket id").fill(ticket_id)
    await page.get_by_role("button", name="Let in").click()
    await expect(page.get_by_role("status")).to_contain_text("Asha Rao")
    await page.screenshot(path=FOLDER / f"door-{size}-{scheme}.png")
    await page.get_by_role("link", name="17:00").click()
    await expect(page.get_by_role("row").first).to_be_visible()
    await page.screenshot(path=FOLDER / f"list-{size}-{scheme}.png")
