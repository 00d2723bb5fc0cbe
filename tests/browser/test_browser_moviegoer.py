"""A moviegoer at the page: by mouse, by keyboard, by thumb, with a script and without."""

import io
import re

import pytest
import zxingcpp
from http_pages import expire
from PIL import Image
from playwright.async_api import Page, expect
from redis.asyncio import Redis
from windows import PHONE, Serve, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser")]

PHONE_NUMBER = "+91 98123 45678"


async def choose(page: Page, timing: str) -> str:
    """Tear off the first stub at that time; return its showtime."""
    radio = page.get_by_role("radio", name=re.compile(f"^{timing}")).first
    await radio.check()
    return await radio.input_value()


async def fill_in(page: Page, name: str = "Asha Rao", phone: str = PHONE_NUMBER) -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Phone").fill(phone)
    await page.get_by_role("button", name="Book this seat").click()


async def booked(page: Page, timing: str = "18:00") -> str:
    """Book by the page; return the ticket's id."""
    await choose(page, timing)
    await fill_in(page)
    await expect(page.get_by_text("Booked. Keep this page")).to_be_visible()
    return await page.locator(".id").inner_text()


async def test_book(serve: Serve, visit: Visit) -> None:
    api = await serve()
    page = await visit(api, "/")
    showtime = await choose(page, "18:00")
    ticket = page.get_by_role("region", name="Admit one")
    await expect(ticket).to_contain_text("18:00")
    await expect(ticket).to_contain_text("People on Sunday")
    await fill_in(page)
    await expect(page).to_have_url(re.compile(r"/tickets/main-[0-9A-Z]{16}#booked$"))
    await expect(page.get_by_text("Booked. Keep this page")).to_be_focused()
    await expect(page.get_by_role("article")).to_contain_text("Asha Rao")
    await expect(page.get_by_role("article")).not_to_contain_text("98123")
    assert (await api.seats(showtime))["booked"] == 1


async def test_the_code_on_the_ticket_is_the_ticket(serve: Serve, visit: Visit) -> None:
    """A reader of codes finds the id in a picture of the page, on paper that is bright in a dark room too."""
    page = await visit(await serve(), "/", color_scheme="dark")
    ticket_id = await booked(page)
    picture = Image.open(io.BytesIO(await page.get_by_role("article").screenshot()))
    [code] = zxingcpp.read_barcodes(picture)
    assert code.text == ticket_id.upper()


async def test_what_was_wrong_is_said_beside_the_field(serve: Serve, visit: Visit) -> None:
    page = await visit(await serve(), "/")
    await choose(page, "18:00")
    await fill_in(page, name="Asha Rao", phone="12")
    phone = page.get_by_label("Phone")
    await expect(phone).to_be_focused()
    await expect(phone).to_have_attribute("aria-invalid", "true")
    await expect(phone).to_have_accessible_description(re.compile("^It must be 7 to 15 digits"))
    await expect(page.get_by_label("Name")).to_have_value("Asha Rao")
    await expect(page.get_by_role("radio", name=re.compile("18:00")).first).to_be_checked()
    await phone.fill(PHONE_NUMBER)
    await page.get_by_role("button", name="Book this seat").click()
    await expect(page.get_by_text("Booked. Keep this page")).to_be_visible()


async def test_sold_out_while_the_form_was_open(serve: Serve, visit: Visit) -> None:
    """The live seats take the stub away; a form that was sent all the same is refused in place."""
    api = await serve()
    page, slow = await visit(api, "/"), await visit(api, "/", java_script_enabled=False)
    showtime = await choose(page, "21:00")
    assert await choose(slow, "21:00") == showtime
    for _ in range(3):
        await api.book(timing=showtime)
    stub = page.locator(f"[id='at-{showtime}']")
    await expect(stub).to_be_disabled()
    await expect(stub).not_to_be_checked()
    await expect(page.get_by_role("status")).to_have_text("21:00: Sold out.")
    await fill_in(slow)
    told = slow.get_by_text("This showtime has just sold out.")
    await expect(told).to_be_focused()
    await expect(slow.get_by_label("Name")).to_have_value("Asha Rao")
    await slow.get_by_role("radio", name=re.compile("^18:00")).first.check()
    await slow.get_by_role("button", name="Book this seat").click()
    await expect(slow.get_by_text("Booked. Keep this page")).to_be_visible()


async def test_seats_move_in_a_second_window(serve: Serve, visit: Visit) -> None:
    api = await serve()
    watching, booking = await visit(api, "/"), await visit(api, "/")
    stub = watching.locator(".stub").first
    await expect(watching.get_by_text("live seats")).to_be_visible()
    await expect(stub).to_contain_text("3 seats left")
    day = watching.locator(".day").first
    before = int((await day.locator(".left").inner_text()).split()[0])
    await booking.get_by_role("radio").first.check()
    await fill_in(booking)
    await expect(stub).to_contain_text("2 seats left")
    await expect(day.locator(".left")).to_have_text(f"{before - 1} seats left")
    await booking.get_by_text("Cancel the ticket", exact=True).first.click()
    await booking.get_by_label("Phone number of the booking").locator("visible=true").fill(PHONE_NUMBER)
    await booking.get_by_role("button", name="Cancel the ticket").click()
    await expect(stub).to_contain_text("3 seats left")


async def test_a_press_too_many_books_once(serve: Serve, visit: Visit) -> None:
    api = await serve()
    page = await visit(api, "/")
    showtime = await choose(page, "15:00")
    await page.get_by_label("Name").fill("Asha Rao")
    await page.get_by_label("Phone").fill(PHONE_NUMBER)
    await page.get_by_role("button", name="Book this seat").dblclick()
    await expect(page.get_by_text("Booked. Keep this page")).to_be_visible()
    await page.go_back()
    await page.get_by_role("button", name="Book this seat").click()
    await expect(page.get_by_text("Booked. Keep this page")).to_be_visible()
    assert (await api.seats(showtime))["booked"] == 1


async def test_move(serve: Serve, visit: Visit) -> None:
    api = await serve()
    page = await visit(api, "/")
    await booked(page)
    await page.get_by_text("Move to another showtime").click()
    showtime = await page.get_by_role("option", name=re.compile("^21:00")).nth(2).get_attribute("value")
    await page.get_by_label("New showtime").select_option(showtime)
    await page.get_by_role("button", name="Move the ticket").click()
    phone = page.get_by_label("Phone number of the booking").locator("visible=true")
    await expect(phone).to_be_focused()
    await expect(phone).to_have_accessible_description("Enter your phone number.")
    await expect(page.get_by_label("New showtime")).to_have_value(showtime)
    await phone.fill("9812345678")
    await page.get_by_role("button", name="Move the ticket").click()
    await expect(phone).to_have_accessible_description("This is not the phone number that the ticket was booked with.")
    await phone.fill(PHONE_NUMBER)
    await page.get_by_role("button", name="Move the ticket").click()
    await expect(page.get_by_text("Moved.")).to_be_focused()
    await expect(page.get_by_role("article")).to_contain_text("21:00")
    assert (await api.seats(showtime))["booked"] == 1


async def test_cancel(serve: Serve, visit: Visit) -> None:
    page = await visit(await serve(), "/")
    await booked(page)
    address = page.url
    await page.get_by_text("Cancel the ticket", exact=True).first.click()
    await page.get_by_label("Phone number of the booking").locator("visible=true").fill(PHONE_NUMBER)
    await page.get_by_role("button", name="Cancel the ticket").click()
    await expect(page.get_by_text("Your ticket is cancelled")).to_be_focused()
    await page.goto(address)
    await expect(page.get_by_role("heading")).to_have_text("No such ticket")


async def test_an_expired_link(serve: Serve, visit: Visit, redis: Redis) -> None:
    api = await serve()
    ticket = await api.book()
    await expire(redis, ticket)
    page = await visit(api, f"/tickets/{ticket['ticket_id']}")
    await expect(page.get_by_role("heading")).to_have_text("The ticket has expired")
    await page.get_by_role("link", name="To the showtimes").click()
    await expect(page.get_by_role("heading", name="Lichtspiele Lumen")).to_be_visible()


async def test_the_link_is_handed_on_without_the_notice(serve: Serve, visit: Visit) -> None:
    page = await visit(await serve(), "/", permissions=["clipboard-read", "clipboard-write"])
    await booked(page)
    await page.get_by_role("button", name="Copy the ticket's link").click()
    await expect(page.get_by_text("Copied.")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == page.url.removesuffix("#booked")


async def test_by_keyboard_alone(serve: Serve, visit: Visit) -> None:
    """From the address bar to a moved ticket without a pointer; the focus is seen at each step."""
    page = await visit(await serve(), "/")
    keys = page.keyboard

    async def tab_to(role: str, name: str) -> None:
        for _ in range(20):
            await keys.press("Tab")
            target = page.get_by_role(role, name=re.compile(name)).locator("visible=true")
            if await target.evaluate_all("found => found.includes(document.activeElement)"):
                seen = (
                    "getComputedStyle(document.activeElement.closest('.stub') ?? document.activeElement).outlineStyle"
                )
                assert await page.evaluate(seen) == "solid"
                return
        pytest.fail(f"no {role} {name} within reach")

    await keys.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await keys.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    await tab_to("radio", "")
    await keys.press("Space")
    await keys.press("ArrowDown")
    chosen = page.locator("[name=timing]:checked")
    await expect(chosen).to_be_focused()
    showtime = await chosen.input_value()
    await tab_to("textbox", "Name")
    await keys.type("Asha Rao")
    await keys.press("Tab")
    await keys.type(PHONE_NUMBER)
    await keys.press("Enter")
    await expect(page.get_by_text("Booked. Keep this page")).to_be_focused()
    await expect(page.get_by_role("article")).to_contain_text(showtime[-5:])
    await page.get_by_text("Move to another showtime").focus()
    await keys.press("Enter")
    await tab_to("combobox", "New showtime")
    await keys.press("ArrowDown")
    await tab_to("textbox", "Phone number of the booking")
    await keys.type(PHONE_NUMBER)
    await tab_to("button", "Move the ticket")
    await keys.press("Enter")
    await expect(page.get_by_text("Moved.")).to_be_focused()


async def test_without_javascript(serve: Serve, visit: Visit) -> None:
    """Book, move and cancel, by forms alone; what only a script can do is not offered."""
    page = await visit(await serve(), "/", java_script_enabled=False)
    await expect(page.get_by_text("live seats")).to_be_hidden()
    await expect(page.get_by_text("Which showtime?")).to_be_visible()
    await choose(page, "18:00")
    await expect(page.get_by_text("The showtime you chose")).to_be_visible()
    await fill_in(page)
    await expect(page.get_by_text("Booked. Keep this page")).to_be_visible()
    await expect(page.get_by_role("button", name="Copy")).to_be_hidden()
    await page.get_by_text("Move to another showtime").click()
    await page.get_by_label("New showtime").select_option(index=4)
    await page.get_by_label("Phone number of the booking").first.fill(PHONE_NUMBER)
    await page.get_by_role("button", name="Move the ticket").click()
    await expect(page.get_by_text("Moved.")).to_be_visible()
    await page.get_by_text("Cancel the ticket", exact=True).first.click()
    await page.get_by_label("Phone number of the booking").last.fill(PHONE_NUMBER)
    await page.get_by_role("button", name="Cancel the ticket").click()
    await expect(page.get_by_text("Your ticket is cancelled")).to_be_visible()


@pytest.mark.parametrize("width", [320, PHONE["width"]])
async def test_on_a_phone(serve: Serve, visit: Visit, width: int) -> None:
    """Nothing to scroll sideways, targets for thumbs, and a chosen showtime leads on to the ticket."""
    page = await visit(await serve(), "/", viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True)
    await expect(page.get_by_role("link", name="Fill in your ticket")).to_be_hidden()
    await page.locator(".stub").first.tap()
    onward = page.get_by_role("link", name="Fill in your ticket")
    await expect(onward).to_be_in_viewport()
    await fits(page)
    await onward.tap()
    await expect(page.get_by_role("region", name="Admit one")).to_be_in_viewport()
    await fill_in(page)
    await expect(page.get_by_text("Booked. Keep this page")).to_be_visible()
    await fits(page)


async def fits(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = await page.evaluate(
        """[...document.querySelectorAll('button, input:not([type=hidden]), select, summary, .onward a')]
           .filter(each => each.checkVisibility() && each.getBoundingClientRect().height < 44)
           .map(each => each.outerHTML)"""
    )
    assert small == []
