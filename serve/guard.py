"""What stands before every endpoint: who may ask, how much, how long; and what every answer carries."""

import asyncio
import logging
import traceback

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access import Tokens
from serve.measures import Measures
from serve.refusal import Refusal
from serve.settings import ServiceSettings

log = logging.getLogger("ucdr_ray.serve")

_OPEN = {"/", "/healthz", "/readyz", "/openapi.json"}  # without a token; so is the page's folder
_PAGE = "/page/"
_SEARCHES = {"/v1/search", "/v1/search:batch"}
_ROUTES = {*_OPEN, *_SEARCHES, "/v1/index", "/v1/examples", "/v1/admin/reload", "/metrics"}
_IMAGES = "/v1/images/"
_PICTURES = 4  # times as many thumbnails under way as searches: a page asks for dozens, and each costs little
_ADMIN = "/v1/admin/"

# A page of ours needs nothing from elsewhere, and nothing of ours belongs into a page from elsewhere.
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]


class Guard:
    """An ASGI application around another."""

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, tokens: Tokens, admin: Tokens, measures: Measures
    ) -> None:
        self._app = app
        self._settings = settings
        self._tokens = tokens
        self._admin = admin
        self._measures = measures
        self._under_way = 0
        self._pictures = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _below(str(scope["path"]), str(scope.get("root_path", "")))
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in _HEADERS if name not in names),
                ]
            await send(message)

        counted, picture = path in _SEARCHES, path.startswith(_IMAGES)
        self._under_way += counted
        self._pictures += picture
        self._measures.under_way(self._under_way)
        try:
            headers = dict(scope["headers"])
            self._allowed(path, headers)
            for here, most in (
                (counted and self._under_way, self._settings.queue),
                (picture and self._pictures, _PICTURES * self._settings.queue),
            ):
                if here > most:
                    raise Refusal(429, f"this copy already answers {most} requests; try again later", 1)
            await self._app(scope, self._limited(receive, headers), answer)
        except Refusal as refusal:
            if status == 0:
                await refused(refusal)(scope, receive, answer)
        except asyncio.CancelledError:  # nobody is there to answer to
            status = status or 499
            raise
        except Exception as error:
            # The place, but neither the text nor the paths, which might hold what is nobody's business.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s in %s, line %s", type(error).__name__, frame.name, frame.lineno)
            if status == 0:
                await refused(Refusal(500, "an error inside; the log names it"))(scope, receive, answer)
        finally:
            self._under_way -= counted
            self._pictures -= picture
            self._measures.under_way(self._under_way)
            self._measures.request(_route(path), status)

    def _allowed(self, path: str, headers: dict[bytes, bytes]) -> None:
        if "*" not in self._settings.hosts and _name(headers.get(b"host", b"")) not in self._settings.hosts:
            raise Refusal(400, f"Host: {', '.join(self._settings.hosts)} are allowed")
        given = headers.get(b"authorization", b"").decode("latin-1")
        if path.startswith(_ADMIN):
            if not self._admin:
                raise Refusal(403, "the service was started without admin tokens: nobody may do this")
            if not self._admin.allow(given):
                raise Refusal(401, "an admin's token is needed: Authorization: Bearer …")
            return
        if not self._tokens or path in _OPEN or path.startswith(_PAGE):
            return
        if not (self._tokens.allow(given) or self._admin.allow(given)):
            raise Refusal(401, "a token is needed: Authorization: Bearer …")

    def _limited(self, receive: Receive, headers: dict[bytes, bytes]) -> Receive:
        """Gives the body until it is too large or comes too slowly."""
        most = int(self._settings.limits.body_bytes)
        too_large = Refusal(413, f"the body is above the limit of {most} bytes")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise too_large
        end = asyncio.get_running_loop().time() + self._settings.deadline_ms / 1e3
        taken, whole = 0, False

        async def limited() -> Message:
            nonlocal taken, whole
            if whole:  # from here on it is only asked whether the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise Refusal(
                    408, f"the body did not come within {self._settings.deadline_ms:g} ms"
                ) from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if taken > most:
                    raise too_large
            return message

        return limited


def refused(refusal: Refusal) -> JSONResponse:
    """The answer that is none."""
    headers = {"retry-after": str(refusal.retry_after)} if refusal.retry_after is not None else {}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": refusal.problem}, refusal.status, headers)


def _below(path: str, root: str) -> str:
    """The path that the application sees, where it lies under a prefix."""
    return path.removeprefix(root) or "/" if root and f"{path}/".startswith(f"{root}/") else path


def _name(host: bytes) -> str:
    """Without the port."""
    text = host.decode("latin-1").lower()
    return text[: text.find("]") + 1] if text.startswith("[") else text.partition(":")[0]


def _route(path: str) -> str:
    """One of few names, so that nobody can make more of them."""
    if path in _ROUTES:
        return path
    if path.startswith(_IMAGES):
        return _IMAGES + "{id}"
    return "/page" if path.startswith(_PAGE) else "other"
