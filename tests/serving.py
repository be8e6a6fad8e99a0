"""The service without Ray: the same application, called in process, with parts of the index as objects."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from serve.access import Tokens
from serve.api import make_app
from serve.encoding import Here
from serve.looking import Searcher
from serve.measures import Measures
from serve.part import PartHost
from serve.router import Router
from serve.service import Service
from serve.settings import ServiceSettings
from serve.whole import Whole

SHAPES = [0, 1, 3]  # parts; 0: whole


class LocalPart(PartHost):
    """A part in this process. `before` is awaited before each search and look-up: it may sleep, or raise."""

    before: Callable[[], Awaitable[None]] | None = None

    async def search(self, *question: Any) -> Any:
        if self.before is not None:
            await self.before()
        return await super().search(*question)

    async def row(self, *question: Any) -> Any:
        if self.before is not None:
            await self.before()
        return await super().row(*question)


class Site:
    """A service, to be made inside the event loop that calls it."""

    def __init__(
        self,
        index: Path,
        parts: int = 0,
        tokens: tuple[str, ...] = (),
        admin: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        self.settings = ServiceSettings(index=index, watch_s=0, **settings)
        self.parts = [LocalPart(index, number, parts, 0) for number in range(parts)]
        encoding = Here(8)
        self.searcher: Searcher = (
            Router(index, self.parts, self.settings.when_down == "strict", encoding.encoders.of)
            if parts
            else Whole(index, prepare=encoding.encoders.of)
        )
        measures = Measures("test")
        self.service = Service(self.settings, self.searcher, encoding, measures)
        self.app = make_app(self.settings, self.service, Tokens(list(tokens)), Tokens(list(admin)), measures)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")


def ask(site: Site, path: str, method: str = "POST", **request: Any) -> httpx.Response:
    """One request, in an event loop of its own."""

    async def once() -> httpx.Response:
        async with site.client() as client:
            return await client.request(method, path, **request)

    return asyncio.run(once())
