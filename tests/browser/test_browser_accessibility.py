"""axe-core finds nothing on any page, whichever its state, in both colour schemes."""

import re
from importlib import resources
from typing import Any

import pytest
from http_api import TOKEN, UNKNOWN_ID
from playwright.async_api import Page, expect
from redis.asyncio import Redis
from windows import PHONE, Serve, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser")]

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

# WCAG 2.2 A and AA, and axe's own best practices. What axe cannot decide about contrast counts too: it looks through
# neither the stubs' shadows and radio buttons nor the gradient of the velvet, so they make way for a second look.
RUN = """
async () => {
    const {violations} = await axe.run(document);
    for (const stub of document.querySelectorAll(".stub")) stub.style.filter = "none";
    for (const radio of document.querySelectorAll(".stub input")) radio.hidden = true;
    document.querySelector(".marquee").style.background = "var(--velvet)";
    const contrast = await axe.run(document, {runOnly: ["color-contrast"]});
    for (const radio of document.querySelectorAll(".stub input")) radio.hidden = false;
    return [...violations, ...contrast.violations, ...contrast.incomplete].map(
        ({id, help, nodes}) => ({id, help, where: nodes.map(node => node.html.slice(0, 160))}));
}
"""


async def check(page: Page) -> None:
    """axe on this page as it is, in light and in dark."""
    await page.evaluate(AXE)
    found: dict[str, Any] = {}
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        if violations := await page.evaluate(RUN):
            found[scheme] = violations
    assert found == {}, page.url


async def test_the_pages_of_moviegoers(serve: Serve, visit: Visit, redis: Redis) -> None:
    api = await serve()
    sold_out = await api.book(timing="15:00")
    await api.book(timing="15:00")
    await api.book(timing="15:00")
    page = await visit(api, "/")
    await page.get_by_role("radio", name=re.compile("^18:00")).first.check()
    await check(page)
    await page.get_by_label("Phone").fill("12")
    await page.get_by_role("button", name="Book this seat").click()
    await expect(page.get_by_text("Enter your name.")).to_be_visible()
    await check(page)
    await page.set_viewport_size(PHONE)
    await check(page)

    async def opened(path: str) -> None:
        await page.goto(str(api.client.make_url(path)))

    ticket = await api.book(timing="18:00")
    await opened(f"/tickets/{ticket['ticket_id']}#booked")
    await page.get_by_text("Move to another showtime").click()
    await page.get_by_text("Cancel the ticket", exact=True).first.click()
    await page.get_by_role("button", name="Cancel the ticket").click()
    await check(page)
    await api.post(f"/v1/tickets/{sold_out['ticket_id']}/admission")
    for path in (f"/tickets/{sold_out['ticket_id']}", f"/tickets/{UNKNOWN_ID}", "/nowhere", "/theatres"):
        await opened(path)
        await check(page)


async def test_the_pages_of_the_box_office(serve: Serve, visit: Visit) -> None:
    api = await serve(MATINEE_STAFF_TOKEN=TOKEN)
    ticket, another = await api.book(), await api.book(name="Noor Haddad")
    page = await visit(api, "/box-office")
    await check(page)
    await page.get_by_label("Staff token").fill("not the staff token")
    await page.get_by_role("button", name="Sign in").click()
    await check(page)
    await page.get_by_label("Staff token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    for ticket_id, told in (
        (ticket["ticket_id"], "Asha Rao"),
        (ticket["ticket_id"], "Already let in"),
        (UNKNOWN_ID, "No such ticket"),
    ):
        await page.get_by_label("Ticket id").fill(ticket_id)
        await page.get_by_role("button", name="Let in").click()
        await expect(page.get_by_role("status")).to_contain_text(told)
        await check(page)
    await page.goto(str(api.client.make_url(f"/box-office/ticket?ticket_id={another['ticket_id']}")))
    await page.get_by_text("Cancel the ticket", exact=True).first.click()
    await check(page)
    for path in (f"/box-office/main/{ticket['showtime']}", "/box-office/main/2026-01-01T13:37"):
        await page.goto(str(api.client.make_url(path)))
        await check(page)
