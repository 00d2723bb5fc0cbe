"""What the browser tests share: how the browser starts, and what its windows look like."""

from collections.abc import Awaitable, Callable

from http_api import Api
from playwright.async_api import Page

# Quiet as well as safe: the browser itself asks nobody anything.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
WAIT_MS = 15_000  # a bound for a hanging test

DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}

Visit = Callable[..., Awaitable[Page]]
Serve = Callable[..., Awaitable[Api]]
