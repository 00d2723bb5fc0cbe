"""The API's documents for people: the interactive page, the list of problems, and Swagger UI as it is kept."""

import gzip
import html
import re
from hashlib import sha256
from pathlib import Path

import pytest
from http_api import TOKEN, Api, opened
from redis.asyncio import ConnectionPool

from service.problems import PROBLEMS, TYPE_BASE

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "service/pages/assets"

# Of swagger-ui-dist 5.35.0 from npm, as docs/decisions/0047-swagger-ui-kept.md says.
KEPT = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


async def text_of(api: Api, path: str) -> str:
    answer = await api.get(path)
    assert (answer.status, answer.content_type) == (200, "text/html")
    return html.unescape(await answer.text())


def test_swagger_ui_is_as_it_was_published() -> None:
    for name, digest in KEPT.items():
        assert sha256(gzip.decompress((ASSETS / f"{name}.gz").read_bytes())).hexdigest() == digest
    record = (ROOT / "docs/decisions/0047-swagger-ui-kept.md").read_text()
    assert all(digest in record for digest in KEPT.values())


async def test_the_interactive_page_has_all_it_needs_here(api: Api) -> None:
    text = await text_of(api, "/docs")
    files = re.findall(r'(?:href|src)="(/assets/[^"]+)"', text)
    assert len(files) == 5
    for path in files:
        packed = await api.get(path, headers={"Accept-Encoding": "gzip"})
        assert packed.status == 200
        assert packed.headers["Cache-Control"].endswith("immutable")
        plain = await api.get(path, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert await plain.read() == await packed.read()


async def test_it_may_load_nothing_from_elsewhere(api: Api) -> None:
    for path, images in (("/docs", "'self' data:"), ("/docs/errors", "'self'")):
        answer = await api.get(path)
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["img-src"] == images
        assert "unsafe" not in answer.headers["Content-Security-Policy"]


async def test_the_type_of_every_problem_leads_to_what_it_means(api: Api) -> None:
    page, _, anchor = TYPE_BASE.rpartition("#")
    assert (page, anchor) == ("/docs/errors", "")
    text = await text_of(api, page)
    sections = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', text, re.DOTALL))
    assert list(sections) == list(PROBLEMS)
    for code, kind in PROBLEMS.items():
        for words in (str(kind.status), kind.title, kind.meaning, kind.remedy):
            assert words in sections[code]


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
async def test_they_are_for_anybody(pool: ConnectionPool, path: str) -> None:
    api = await opened(pool, MATINEE_STAFF_TOKEN=TOKEN)
    assert "Matinee API" in await text_of(api, path)
    await api.client.close()


def test_the_document_says_the_same_of_every_problem() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    assert re.findall(r"^## `(\w+)`$", text, re.MULTILINE) == list(PROBLEMS)
    for code, kind in PROBLEMS.items():
        section = text.split(f"\n## `{code}`\n")[1].split("\n## ")[0]
        expected = f"{kind.status} {kind.title}. {kind.meaning} - {kind.remedy}"
        assert " ".join(section.split()) == expected, "docs/errors.md differs from service/problems.py"
