"""One rendering of a theatre's page for all who look at it at the same time."""

import asyncio
import gzip
import re
from typing import Any

from redis.asyncio import ConnectionPool
from small_theatre import MAIN, House, opened_house

from service.box_office import BoxOffice
from service.handlers.front import Fronts
from service.rendering import Pages


class CountingPages(Pages):
    """Pages that count how often one is rendered."""

    rendered = 0

    def render(self, template: str, **values: Any) -> bytes:
        self.rendered += 1
        return super().render(template, **values)


def fronts_of(house: House) -> tuple[Fronts, CountingPages]:
    pages = CountingPages()
    return Fronts(BoxOffice(house.store, house.programme), house.programme, pages), pages


def keys(texts: list[bytes]) -> set[str]:
    return {re.search(rb'name="key" value="([^"]+)"', text)[1].decode() for text in texts}


async def test_a_crowd_shares_a_rendering_and_each_has_a_key_of_its_own(pool: ConnectionPool) -> None:
    async with opened_house(pool) as house:
        fronts, pages = fronts_of(house)
        texts = await asyncio.gather(*(fronts.page(MAIN, packed=False) for _ in range(100)))
        assert pages.rendered == 1
        assert len(keys(texts)) == 100
        assert len({re.sub(rb'value="[^"]+">\s*</body>', b"", text) for text in texts}) == 1
        await fronts.page(MAIN, packed=False)
        assert pages.rendered == 1, "no seat has changed"


async def test_whoever_looks_after_a_booking_sees_it(pool: ConnectionPool) -> None:
    """However fast one follows the other, and however long a rendering took."""
    async with opened_house(pool) as house:
        fronts, pages = fronts_of(house)
        showtime = house.showtime()
        for left in (2, 1):
            await fronts.page(MAIN, packed=False)
            await house.book(showtime)
            text = (await fronts.page(MAIN, packed=False)).decode()
            assert text.count(f"{left} seat{'' if left == 1 else 's'} left</span><svg") == 1
        await house.book(showtime)
        text = (await fronts.page(MAIN, packed=False)).decode()
        assert "Sold out" in text
        assert pages.rendered == 4


async def test_a_crowd_that_books_meanwhile_is_not_made_to_wait_by_renderings(pool: ConnectionPool) -> None:
    """While seats change all the time, far fewer pages are rendered than looked at, and every look sees its moment."""
    async with opened_house(pool) as house:
        fronts, pages = fronts_of(house)
        showtime = house.showtime()
        seen: list[int] = []

        async def look() -> None:
            text = (await fronts.page(MAIN, packed=False)).decode()
            stub = re.search(rf'value="{showtime.label}".*?class="seats">(\d|Sold)', text, re.DOTALL)
            seen.append(0 if stub[1] == "Sold" else int(stub[1]))

        async def look_on() -> None:
            for _ in range(50):
                await look()

        async def sell() -> None:
            for _ in range(3):
                await house.book(showtime)
                await look()

        await asyncio.gather(sell(), *(look_on() for _ in range(10)))
        assert pages.rendered <= 4, "one for each state of the seats"
        assert set(seen) <= {0, 1, 2, 3}
        assert seen[-1] == 0


async def test_the_compressed_page_is_the_page(pool: ConnectionPool) -> None:
    async with opened_house(pool) as house:
        fronts, _ = fronts_of(house)
        plain = await fronts.page(MAIN, packed=False)
        packed = await fronts.page(MAIN, packed=True)
        assert len(packed) < len(plain) / 4
        unpacked = gzip.decompress(packed)
        assert keys([plain]) != keys([unpacked])
        [one], [another] = keys([plain]), keys([unpacked])
        assert unpacked == plain.replace(one.encode(), another.encode())
