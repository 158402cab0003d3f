"""A page of the real frontend, in a headless Chromium, on the real server.

Skips with one line when Playwright or a Chromium is missing, or the frontend is older than these tests. Requests that
leave the machine are refused, so that nothing depends on them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Any

import pytest
from support.browser.canvas import FLAGS, NEW_USER, SETTINGS, Canvas

FRONTEND = (1, 49)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium to drive."""
    pytest.importorskip("playwright.sync_api", reason="no Playwright: `uv sync` installs it")
    if tuple(map(int, (frontend := version("comfyui-frontend-package")).split(".")[:2])) < FRONTEND:
        pytest.skip(f"frontend {frontend} is older than these tests, which click through the pages of ComfyUI 0.33")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: `apt-get install chromium`, or put a chromium or google-chrome on PATH")


class Restarted:
    """A browser that is started once more where its process has died, as a Chromium on a busy machine does at times."""

    def __init__(self, launch: Callable[[], Any]) -> None:
        self.launch = launch
        self.browser = launch()

    def new_page(self, **options: Any) -> Any:
        """A new page of the browser, or of the next one; raises what the second start raises."""
        try:
            return self.browser.new_page(**options)
        except Exception:
            if self.browser.is_connected():
                raise
            self.browser = self.launch()
            return self.browser.new_page(**options)


@pytest.fixture(scope="module")  # no longer than its users: while it is open, an event loop counts as running
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = Restarted(lambda: playwright.chromium.launch(executable_path=chromium, args=FLAGS))
        yield running
        running.browser.close()


@pytest.fixture(scope="session")
def settings(server: Any) -> None:
    """No first-run dialogs in the way."""
    server.request("/settings", SETTINGS)


@contextmanager
def shown(browser: Any, server: Any, width: int = 1900, height: int = 1000) -> Iterator[Canvas]:
    """The frontend in a window of a size, loaded and idle."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(120_000)  # milliseconds: other work may keep the machine busy
    here: Callable[[str], bool] = lambda url: not url.startswith((server.url, "data:", "blob:"))  # noqa: E731
    page.route(here, lambda route: route.abort())
    canvas = Canvas(page, server.url)
    page.goto(server.url)
    ready = "window.LiteGraph?.registered_node_types?.KSampler && window.app?.graph?.nodes.length"
    page.wait_for_function(f"!!({ready})", timeout=120_000)
    page.wait_for_timeout(1000)  # until the start graph is drawn
    yield canvas
    page.close()


@pytest.fixture
def canvas(browser: Any, server: Any, settings: None) -> Iterator[Canvas]:
    """The frontend, loaded and idle."""
    with shown(browser, server) as canvas:
        yield canvas


@pytest.fixture
def window(browser: Any, server: Any, settings: None) -> Iterator[Callable[..., AbstractContextManager[Canvas]]]:
    """`with window(width, height, nodes_2) as canvas:` the frontend as a new user has it, in either way to draw."""

    @contextmanager
    def opened(width: int, height: int, nodes_2: bool) -> Iterator[Canvas]:
        server.request("/settings", {**NEW_USER, "Comfy.VueNodes.Enabled": nodes_2})
        with shown(browser, server, width, height) as canvas:
            yield canvas

    yield opened
    server.request("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": False})
