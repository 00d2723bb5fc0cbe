"""`python -m docs.postman.make`: writes the Postman collection and its environment, from the requests beside it."""

import json
import uuid
from pathlib import Path
from typing import Any

from docs.postman.requests import FOLDERS, event

FOLDER = Path(__file__).parent
COLLECTION = FOLDER / "matinee.postman_collection.json"
ENVIRONMENT = FOLDER / "matinee.postman_environment.json"

# Where `make run` listens, and a token to start it with.
VARIABLES = {"baseUrl": "http://127.0.0.1:5000", "staffToken": "the-box-office-in-postman", "theatre": "main"}

# Runs after every request.
EVERY_ANSWER = """\
if ((pm.response.headers.get("Content-Type") || "").startsWith("application/problem+json")) {
  pm.test("the error is a problem of RFC 9457 that nobody may store", () => {
    const told = pm.response.json();
    pm.expect(told).to.include.all.keys("type", "title", "status", "detail", "code");
    pm.expect(told.status).to.equal(pm.response.code);
    pm.expect(told.type).to.equal(`/docs/errors#${told.code}`);
    pm.expect(pm.response.headers.get("Cache-Control")).to.equal("no-store");
  });
}"""

ABOUT = """\
Every route of Matinee, asked for what it does and for what it refuses.

Start the service with the staff token of the environment, since without one every caller is the box office:

    MATINEE_STAFF_TOKEN=the-box-office-in-postman make run

Then import both files of docs/postman, choose the environment and run the collection, in order. `make postman` does
the same with Newman, on a service of its own."""


def collection() -> dict[str, Any]:
    """The collection, version 2.1.0 of Postman's format."""
    return {
        "info": {
            "_postman_id": str(uuid.uuid5(uuid.NAMESPACE_URL, "matinee/collection")),
            "name": "Matinee",
            "description": ABOUT,
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "item": [
            {"name": name, "description": about, "item": [request.item() for request in requests]}
            for name, (requests, about) in FOLDERS.items()
        ],
        "event": [event("test", EVERY_ANSWER)],
        "variable": [{"key": "key", "value": ""}],
    }


def environment() -> dict[str, Any]:
    """Where the service is, and its staff token."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, "matinee/environment")),
        "name": "Matinee on this machine",
        "values": [
            {"key": key, "value": value, "type": "secret" if key == "staffToken" else "default", "enabled": True}
            for key, value in VARIABLES.items()
        ],
        "_postman_variable_scope": "environment",
    }


def written(content: dict[str, Any]) -> str:
    """As it stands in its file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    COLLECTION.write_text(written(collection()), encoding="utf-8")
    ENVIRONMENT.write_text(written(environment()), encoding="utf-8")
