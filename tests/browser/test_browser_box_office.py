"""The staff at the door: signing in, letting in by hand and by camera, lists on screen and on paper."""

import pytest
from http_api import TOKEN
from playwright.async_api import Page, expect
from windows import PHONE, Serve, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser")]

# A browser without the BarcodeDetector of its platform gets one that sees what the test holds into the camera.
CAMERA = """
window.BarcodeDetector = class { async detect() { return window.held ? [{ rawValue: window.held }] : []; } };
"""


async def sign_in(page: Page) -> None:
    await page.get_by_label("Staff token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", name="At the door")).to_be_visible()


async def let_in(page: Page, ticket_id: str) -> None:
    await page.get_by_label("Ticket id").fill(ticket_id)
    await page.get_by_role("button", name="Let in").click()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_sign_in_admit_admit_again_sign_out(serve: Serve, visit: Visit, script: bool) -> None:
    api = await serve(MATINEE_STAFF_TOKEN=TOKEN)
    ticket = await api.book()
    page = await visit(api, "/box-office", java_script_enabled=script)
    await page.get_by_label("Staff token").fill("not the staff token")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("This is not the staff token.")).to_be_visible()
    await sign_in(page)
    await let_in(page, ticket["ticket_id"].lower())
    verdict = page.get_by_role("status")
    await expect(verdict).to_contain_text("Let in")
    await expect(verdict).to_contain_text("Asha Rao")
    await expect(page.get_by_label("Ticket id")).to_have_value("")
    await expect(page.get_by_label("Ticket id")).to_be_focused()
    await let_in(page, ticket["ticket_id"])
    await expect(verdict).to_contain_text("Already let in")
    first = await (await api.get(f"/v1/tickets/{ticket['ticket_id']}")).json()
    await expect(verdict).to_contain_text(f"At {first['admitted_at'][11:16]}")
    await let_in(page, "main-0000000000000000")
    await expect(verdict).to_contain_text("No such ticket.")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Staff token")).to_be_visible()
    assert await page.context.cookies() == []


async def test_a_ticket_held_into_the_camera_is_let_in_once(serve: Serve, visit: Visit) -> None:
    api = await serve()
    first, second = await api.book(), await api.book(name="Noor Haddad")
    page = await visit(api, "/", permissions=["camera"])
    await page.add_init_script(CAMERA)
    await page.goto(str(api.client.make_url("/box-office")))
    await page.get_by_role("button", name="Scan with the camera").click()
    await expect(page.get_by_label("What the camera sees")).to_be_visible()
    verdict = page.get_by_role("status")
    await page.evaluate("id => { held = id; }", first["ticket_id"].upper())
    await expect(verdict).to_contain_text("Asha Rao")
    await page.evaluate("id => { held = id; }", second["ticket_id"].upper())
    await expect(verdict).to_contain_text("Noor Haddad")
    await page.evaluate("id => { held = id; }", first["ticket_id"].upper())
    await expect(verdict).to_contain_text("Already let in")
    await page.get_by_role("button", name="Stop the camera").click()
    await expect(page.get_by_label("What the camera sees")).to_be_hidden()


async def test_a_browser_that_reads_no_codes_offers_no_camera(serve: Serve, visit: Visit) -> None:
    page = await visit(await serve(), "/box-office")
    assert not await page.evaluate("'BarcodeDetector' in window")
    await expect(page.get_by_role("button", name="Scan with the camera")).to_be_hidden()


async def test_a_session_that_ended_meanwhile_asks_to_sign_in_again(serve: Serve, visit: Visit) -> None:
    api = await serve(MATINEE_STAFF_TOKEN=TOKEN)
    page = await visit(api, "/box-office")
    await sign_in(page)
    await page.context.clear_cookies()
    await let_in(page, "main-0000000000000000")
    await expect(page.get_by_label("Staff token")).to_be_visible()


async def test_look_up_and_cancel(serve: Serve, visit: Visit) -> None:
    api = await serve()
    ticket = await api.book()
    page = await visit(api, "/box-office")
    await page.get_by_label("Ticket id").fill(ticket["ticket_id"])
    await page.get_by_role("button", name="Look up").click()
    await expect(page.get_by_role("heading")).to_have_text("Asha Rao")
    await expect(page.get_by_text("+919812345678")).to_be_visible()
    await page.get_by_text("Cancel the ticket", exact=True).first.click()
    await page.get_by_role("button", name="Cancel the ticket").click()
    await expect(page.get_by_text("The ticket is cancelled")).to_be_focused()
    await expect(page.get_by_text("Nobody has booked yet.")).to_be_visible()


async def test_the_list_of_a_showtime_on_screen_on_paper_and_as_csv(serve: Serve, visit: Visit) -> None:
    """On paper there are no phone numbers: nothing would delete them there."""
    api = await serve()
    ticket = await api.book()
    page = await visit(api, f"/box-office?date={ticket['showtime'][:10]}")
    await page.get_by_role("link", name="18:00").click()
    await expect(page.get_by_role("row")).to_have_count(2)
    await expect(page.get_by_text("+919812345678")).to_be_visible()
    await page.emulate_media(media="print")
    await expect(page.get_by_text("+919812345678")).to_be_hidden()
    await expect(page.get_by_text("Asha Rao")).to_be_visible()
    await expect(page.get_by_role("button", name="Print")).to_be_hidden()
    await page.emulate_media(media="screen")
    async with page.expect_download() as download:
        await page.get_by_role("link", name="CSV").click()
    assert (await download.value).suggested_filename == f"tickets-{ticket['showtime'].replace(':', '')}.csv"


async def test_the_door_on_a_phone(serve: Serve, visit: Visit) -> None:
    api = await serve()
    ticket = await api.book()
    page = await visit(api, "/box-office", viewport=PHONE, has_touch=True, is_mobile=True)
    await let_in(page, ticket["ticket_id"])
    await expect(page.get_by_role("status")).to_be_in_viewport()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.goto(str(api.client.make_url(f"/box-office/main/{ticket['showtime']}")))
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the table scrolls by itself"
