"""The API's documents for people: an interactive page, and what each problem means."""

from aiohttp import web

from service.handlers.desk import Desk
from service.handlers.pages import common_page
from service.lean import Answer
from service.problems import PROBLEMS

_PROBLEMS = [{"code": code, **kind._asdict()} for code, kind in PROBLEMS.items()]


async def interactive(desk: Desk, request: web.Request) -> Answer:  # noqa: ARG001  one signature for all
    """The interface as a page to try it on, made by Swagger UI from /openapi.json."""
    return common_page(desk.pages.render("docs.html"), images="'self' data:")  # the style sheet has icons in it


async def errors(desk: Desk, request: web.Request) -> Answer:  # noqa: ARG001  one signature for all
    """Every problem, what it means and what to do; where the `type` of a problem leads."""
    return common_page(desk.pages.render("errors.html", problems=_PROBLEMS))
