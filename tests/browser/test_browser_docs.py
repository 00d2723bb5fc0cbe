"""The API's documents in a browser: a request sent from the page, live seats, and the list of problems.

As for every page here: nothing leaves the machine, the Content-Security-Policy is kept, no script fails.
"""

from importlib import resources

import pytest
from http_api import TOKEN
from playwright.async_api import Locator, Page, expect
from windows import Serve, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser")]

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


async def send(page: Page, operation: str) -> Locator:
    """Unfold an operation, send its example, and give what was answered."""
    block = page.locator(f"[id$={operation}]")
    await block.locator(".opblock-summary-control").click()
    await block.get_by_role("button", name="Try it out").click()
    await block.get_by_role("button", name="Execute").click()
    return block.locator(".live-responses-table .response")


async def test_requests_are_sent_from_the_page(serve: Serve, visit: Visit) -> None:
    page = await visit(await serve(MATINEE_STAFF_TOKEN=TOKEN), "/docs")
    booked = await send(page, "tickets_book")
    await expect(booked.locator(".response-col_status")).to_contain_text("201")
    await expect(booked.locator("pre").first).to_contain_text('"status": "booked"')

    counts = await send(page, "operations_metrics")
    await expect(counts.locator(".response-col_status")).to_contain_text("401")
    await page.get_by_role("button", name="Authorize").click()
    await page.get_by_label("auth-bearer-value").fill(TOKEN)
    await page.get_by_role("button", name="Apply credentials").click()
    await page.get_by_role("button", name="Close").click()
    await page.locator("[id$=operations_metrics]").get_by_role("button", name="Execute").click()
    await expect(counts.locator(".response-col_status")).to_contain_text("200")

    seats = await send(page, "live_stream")  # which has no end, so the page shows its first event
    await expect(seats.locator("pre").first).to_contain_text("event: seats")


async def test_a_problem_is_found_by_its_type(serve: Serve, visit: Visit) -> None:
    api = await serve()
    told = await (await api.post("/v1/tickets", json={"name": "Asha"})).json()
    page = await visit(api, told["type"])
    section = page.locator("section:target")
    await expect(section).to_contain_text("invalid_input")
    await expect(section).to_be_in_viewport()
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await page.evaluate(AXE)
        assert await page.evaluate("axe.run().then(found => found.violations.map(each => each.help))") == [], scheme
