"""The Postman collection: as its requests say, and with every route in it, for what it does and for what it refuses."""

import json
import re
from pathlib import Path

import pytest

from docs.postman.make import COLLECTION, ENVIRONMENT, collection, environment, written
from docs.postman.requests import FOLDERS, Request
from service.problems import PROBLEMS
from service.routes import ROUTES, Route

REQUESTS = [request for requests, _ in FOLDERS.values() for request in requests]
PATHS = {re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path)): route.path for route in ROUTES}

# Its stream has no end; the collection asks for its head, which Postman's runner can wait for.
HEAD_ALONE = "/v1/theatres/{theatre}/showtimes/stream"


def asked(request: Request) -> tuple[str, str]:
    """The route of a request: its method and its path as the table has it; a path that is none stays itself."""
    path = next((path for pattern, path in PATHS.items() if pattern.fullmatch(request.path)), request.path)
    return ("GET" if (request.method, path) == ("HEAD", HEAD_ALONE) else request.method), path


def test_the_files_are_made_from_the_requests() -> None:
    assert COLLECTION.read_text() == written(collection()), "run: .venv/bin/python -m docs.postman.make"
    assert ENVIRONMENT.read_text() == written(environment()), "run: .venv/bin/python -m docs.postman.make"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_asked(route: Route) -> None:
    statuses = [request.status for request in REQUESTS if asked(request) == (route.method, route.path)]
    assert route.status in statuses
    refusals = [code for code in route.problems if code not in ("malformed_request", "protected_mode", "internal")]
    if set(refusals) - {"unavailable", "outcome_unknown"}:  # an outage is not a client's to make
        assert any(status >= 400 for status in statuses), "and for something that it refuses"


def test_every_code_that_a_client_can_bring_about_is_met() -> None:
    beyond_a_client = {"unavailable", "outcome_unknown", "internal", "body_timeout", "too_many_listeners"}
    of_its_setting = {"protected_mode", "cross_site", "too_many_guesses", "ticket_expired", "malformed_request"}
    met = {request.code for request in REQUESTS} - {""}
    assert met >= PROBLEMS.keys() - beyond_a_client - of_its_setting - {"body_too_large"}
    assert met <= PROBLEMS.keys()
    for request in REQUESTS:
        assert not request.code or PROBLEMS[request.code].status == request.status, request.name


def test_the_readme_counts_them() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert f"{len(REQUESTS)} requests with test scripts" in readme


def test_names_are_told_apart() -> None:
    for folder, (requests, _) in FOLDERS.items():
        names = [request.name for request in requests]
        assert len(set(names)) == len(names), folder


def test_what_npm_installs_is_pinned_and_says_nothing_of_where_from() -> None:
    folder = Path(COLLECTION).parent
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    assert wanted["newman"] == "6.2.2"
    lock = json.loads((folder / "package-lock.json").read_text())
    assert lock["packages"][""]["dependencies"] == wanted
    for name, package in lock["packages"].items():
        assert not name or ("integrity" in package and "resolved" not in package), name
