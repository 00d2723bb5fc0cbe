"""`make postman`: runs the collection with Newman against a service of its own, and takes the pictures of that run.

Newman and what its report wants to load from elsewhere are installed by npm, once, into `.postman/`; the report is left
there. The pictures in `docs/pictures/` are taken from it by the system's Chromium. Exit code 0 only if every test held.
"""

import argparse
import asyncio
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Route, async_playwright

from docs.postman.make import COLLECTION, ENVIRONMENT, FOLDER, VARIABLES
from loadtests.starter import ROOT, LoadError, Service, started

CACHE = ROOT / ".postman"
MODULES = CACHE / "node_modules"
REPORT = CACHE / "report.html"
PICTURES = ROOT / "docs" / "pictures"
NODE_AT_LEAST = 16

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync")
WINDOW = {"width": 1250, "height": 1060}
COLOURS = 64

# What the report asks CDNs for, by the ends of the addresses, and where npm has put it.
FILES = {
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
    "bootstrap.bundle.min.js": "bootstrap/dist/js/bootstrap.bundle.min.js",
    "jquery.min.js": "jquery/dist/jquery.min.js",
    "all.min.css": "@fortawesome/fontawesome-free/css/all.min.css",
    "fa-solid-900.woff2": "@fortawesome/fontawesome-free/webfonts/fa-solid-900.woff2",
    "default.min.css": "@highlightjs/cdn-assets/styles/default.min.css",
    "highlight.min.js": "@highlightjs/cdn-assets/highlight.min.js",
    "clipboard.min.js": "clipboard/dist/clipboard.min.js",
    "remarkable.min.js": "remarkable/dist/remarkable.min.js",
    "datatables.min.css": "datatables.net-bs4/css/dataTables.bootstrap4.min.css",
    "datatables.min.js": "datatables.net/js/jquery.dataTables.min.js",
}

# Headers that tell nothing of the service, left out of the report.
PLUMBING = ("User-Agent", "Accept", "Cache-Control", "Postman-Token", "Host", "Accept-Encoding", "Connection")
PLUMBING += ("Content-Length", "Date", "Server", "Transfer-Encoding")

SETTLED_MS = 1000  # longer than it takes to unfold

# The requests on pictures of their own, by the pictures' names.
SHOWN = {"postman-booked": "Book a ticket with a form", "postman-refused": "Book with nothing right"}


def main() -> int:
    """The command: 0 if every test of the collection held, 1 if one did not, 2 if it could not run."""
    parser = argparse.ArgumentParser(prog="make postman", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--no-pictures", action="store_true", help="leave docs/pictures as it is; needs no Chromium")
    options = parser.parse_args()
    try:
        node, chromium = find_node(), None if options.no_pictures else find_chromium()
        install()
        with tempfile.TemporaryDirectory(prefix="matinee-postman-") as name:
            settings = {"MATINEE_STAFF_TOKEN": VARIABLES["staffToken"], "MATINEE_WORKERS": "1"}
            with started(Path(name), **settings) as service:
                code = newman(node, service)
        print(f"report: {REPORT.relative_to(ROOT)}")
        if code == 0 and chromium is not None:
            asyncio.run(take_pictures(chromium))
    except LoadError as error:
        print(f"postman: {error}", file=sys.stderr)
        return 2
    return 1 if code else 0


def find_node() -> str:
    """Node.js and npm, or a line that says how to get them."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise LoadError("node and npm are missing (Debian: apt install nodejs npm; macOS: brew install node)")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE_AT_LEAST:
        raise LoadError(f"node {version} is too old: Newman needs {NODE_AT_LEAST} or newer")
    return node


def find_chromium() -> str:
    """The system's Chromium, or a line that says how to get it."""
    for name in CHROMIUMS:
        if found := shutil.which(name):
            return found
    raise LoadError("chromium is missing (Debian: apt install chromium; or make postman PICTURES=no)")


def install() -> None:
    """Install what package-lock.json says into the cache, if it is not there yet. No script of a package is run."""
    lock = (FOLDER / "package-lock.json").read_bytes()
    installed = CACHE / "installed.json"
    if installed.exists() and installed.read_bytes() == lock:
        return
    print(f"Installing Newman into {CACHE.relative_to(ROOT)} (once; takes up to a minute)", flush=True)
    CACHE.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(FOLDER / name, CACHE / name)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"npm could not install Newman:\n{done.stdout}{done.stderr}")
    installed.write_bytes(lock)


def newman(node: str, service: Service) -> int:
    """Run the collection; Newman's exit code."""
    command = [node, str(MODULES / "newman/bin/newman.js"), "run", str(COLLECTION), "--environment", str(ENVIRONMENT)]
    command += ["--env-var", f"baseUrl={service.url}", "--timeout-request", "15000"]
    command += ["--reporters", "cli,htmlextra", "--color", "off", "--reporter-htmlextra-export", str(REPORT)]
    command += ["--reporter-htmlextra-title", "Newman run of the Postman collection"]
    command += ["--reporter-htmlextra-titleSize", "5", "--reporter-htmlextra-browserTheme", "light"]
    command += ["--reporter-htmlextra-timezone", "UTC", "--reporter-htmlextra-skipHeaders", ",".join(PLUMBING)]
    return subprocess.run(command, cwd=CACHE, env={**os.environ, "NO_UPDATE_NOTIFIER": "1"}, check=False).returncode


async def take_pictures(chromium: str) -> None:
    """The summary of the report, and two of its requests with their answers. Nothing is fetched from elsewhere."""
    PICTURES.mkdir(exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = await browser.new_page(viewport=WINDOW, reduced_motion="reduce")
        await page.route(re.compile("^https?://"), _fill)
        await page.goto(REPORT.as_uri())
        await page.click("#switch")  # to the light
        await page.add_style_tag(content="#topOfRequestsScreen { display: none !important }")  # it floats over all
        await page.evaluate("document.fonts.ready")
        _save(await page.screenshot(), "postman-run")
        await page.click("#pills-requests-tab")
        await page.locator("[id^=folder-][data-toggle]").first.click()
        for name, request in SHOWN.items():
            card = page.locator("#execution-data .card.iteration-0", has_text=f"Iteration: 1 - {request} ")
            await card.get_by_role("link").first.click()
            await page.wait_for_timeout(SETTLED_MS)
            _save(await card.screenshot(), name)
        await browser.close()


async def _fill(route: Route) -> None:
    name = route.request.url.rpartition("/")[2].partition("?")[0]
    if name in FILES:
        await route.fulfill(path=MODULES / FILES[name])
    else:
        await route.abort()


def _save(picture: bytes, name: str) -> None:
    """As a palette of few colours: a page has no more, and the file becomes a third."""
    path = PICTURES / f"{name}.png"
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"picture: {path.relative_to(ROOT)}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
