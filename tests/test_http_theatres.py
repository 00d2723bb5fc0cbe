"""GET /v1/theatres over HTTP: pages, links, and a search by name."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import fakeredis
import pytest
from http_api import Api, fields_of, opened, problem

THEATRES = '[[theatre]]\nid = "hall-{0:03}"\nname = "{1} {0}"\ntimings = ["18:00"]\n'


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Api]:
    """A chain of 250 theatres, every tenth of them in Köln."""
    file = tmp_path / "programme.toml"
    file.write_text("\n".join(THEATRES.format(n, "Köln" if n % 10 == 0 else "Bonn") for n in range(250)))
    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    api = await opened(client.connection_pool, MATINEE_TIMINGS="", MATINEE_CAPACITY="", MATINEE_PROGRAMME=str(file))
    yield api
    await api.client.close()
    await client.aclose()


async def ask(api: Api, path: str) -> tuple[list[str], dict[str, str]]:
    """The ids of a page, and its links by relation."""
    answer = await api.get(path)
    assert answer.status == 200, await answer.text()
    links = re.findall(r'<([^>]*)>; rel="(\w+)"', answer.headers["Link"])
    return [each["id"] for each in (await answer.json())["theatres"]], {relation: to for to, relation in links}


async def test_the_links_lead_through_the_whole_programme_and_back(chain: Api) -> None:
    ids, links = await ask(chain, "/v1/theatres")
    assert set(links) == {"first", "next"}
    assert ids == [f"hall-{n:03}" for n in range(100)]
    ids, links = await ask(chain, links["next"])
    last, links_of_last = await ask(chain, links["next"])
    assert ids + last == [f"hall-{n:03}" for n in range(100, 250)]
    assert set(links_of_last) == {"first", "prev"}
    assert (await ask(chain, links_of_last["prev"]))[0] == ids
    assert (await ask(chain, links_of_last["first"]))[0][0] == "hall-000"


async def test_a_search_keeps_its_words_and_its_limit_in_the_links(chain: Api) -> None:
    ids, links = await ask(chain, "/v1/theatres?name=KOLN&limit=10")
    assert ids == [f"hall-{n:03}" for n in range(0, 100, 10)]
    ids, links = await ask(chain, links["next"])
    assert ids == [f"hall-{n:03}" for n in range(100, 200, 10)]
    ids, links = await ask(chain, links["next"])
    assert ids == [f"hall-{n:03}" for n in range(200, 250, 10)]
    assert "next" not in links


async def test_a_search_without_a_match_is_an_empty_list(chain: Api) -> None:
    assert await ask(chain, "/v1/theatres?name=odeon") == ([], {"first": "/v1/theatres?name=odeon"})


async def test_bad_parameters_are_all_named(chain: Api) -> None:
    told = await problem(await chain.get("/v1/theatres?limit=501&cursor=main&name=%20"), 422, "invalid_input")
    assert fields_of(told) == ["limit", "name", "cursor"]
    for bad in ("limit=0", "limit=ten", "limit=", "limit=1&limit=2"):
        assert fields_of(await problem(await chain.get(f"/v1/theatres?{bad}"), 422, "invalid_input")) == ["limit"]
