"""The page over real HTTP in headless Chromium."""

import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import sync_playwright

from tests.serving import Site
from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.index.build import build

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = os.environ.get("UCDR_AXE")  # axe.min.js of the npm package axe-core


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe() -> str:
    if AXE is None:
        pytest.skip("UCDR_AXE does not name axe.min.js (npm pack axe-core)")
    return Path(AXE).read_text(encoding="utf-8")


class Served:
    """A service in a thread of this process."""

    def __init__(self, index: Path, **settings) -> None:
        self.site = Site(index, **settings)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._server = uvicorn.Server(uvicorn.Config(self.site.app, port=port, log_level="error"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="session")
def index(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page")
    catalog = make_catalog(root / "catalog", {"photo": 40, "sketch": 23, "oil painting": 9}, side=64)
    build(make_embeddings(root / "embeddings", catalog), catalog, root / "index")
    return root / "index"


@pytest.fixture(scope="session")
def served(index):
    running = Served(index)
    yield running
    running.stop()


@pytest.fixture(params=["desktop", "phone"])
def page(request, browser, served):
    """The page, opened; whatever it logs or asks elsewhere fails the test."""
    size = {"desktop": (1200, 900), "phone": (375, 740)}[request.param]
    opened = browser.new_page(viewport={"width": size[0], "height": size[1]})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(served.address)
    opened.wait_for_selector("#examples:not([hidden])")
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith((served.address, "blob:"))] == []
    opened.close()
