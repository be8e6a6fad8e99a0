"""The endpoints: HTTP in, HTTP out. What they do is in `service.py`, what protects them in `guard.py`."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from serve.access import Tokens
from serve.asking import read_batch, read_query
from serve.guard import Guard, refused
from serve.measures import Measures
from serve.messages import Answer, BatchAnswer, BatchQuery, Examples, IndexInfo, OneQuery, Problem, Reloaded
from serve.refusal import Refusal
from serve.service import Service
from serve.settings import ServiceSettings
from ucdr_ray.images import shown

_PAGE = Path(__file__).parent / "page"
_NULL = {"name": "null", "in": "query", "schema": {"type": "string", "enum": ["on", "off"], "default": "on"}}
_WISHES = [
    {
        "name": "domains",
        "in": "query",
        "schema": {"type": "string"},
        "description": "photo,sketch: only these.",
    },
    {"name": "k", "in": "query", "schema": {"type": "integer", "minimum": 1, "default": 10}},
    {"name": "exact", "in": "query", "schema": {"type": "boolean", "default": False}},
    {"name": "min_score", "in": "query", "schema": {"type": "number", "minimum": -1, "maximum": 1}},
    {"name": "query_domain", "in": "query", "schema": {"type": "string"}},
    _NULL,
]
_FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "string", "format": "binary"},
        "domains": {"type": "string", "example": "photo,sketch"},
        "k": {"type": "integer", "minimum": 1},
        "exact": {"type": "boolean"},
        "min_score": {"type": "number", "minimum": -1, "maximum": 1},
        "query_domain": {"type": "string"},
        "null": {"type": "string", "enum": ["on", "off"]},
    },
}
_SECURED: dict[str, Any] = {"security": [{"bearer": []}, {}]}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


_SEARCHED = _refusals(400, 401, 404, 408, 413, 415, 422, 429, 500, 503)


def make_app(
    settings: ServiceSettings, service: Service, tokens: Tokens, admin: Tokens, measures: Measures
) -> ASGIApp:
    """The whole service as an ASGI application."""
    app = FastAPI(
        title="ucdr-ray",
        summary="The same thing in other worlds: a sketch finds the photo.",
        docs_url=None,  # their pages would ask other hosts for scripts
        redoc_url=None,
    )

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        return refused(refusal)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; it is counted

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return refused(Refusal(500, "an error inside; the log names it"))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        response = refused(Refusal(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return refused(Refusal(422, f"{first['loc'][-1]}: {first['msg']}"))

    @app.post(
        "/v1/search",
        responses={200: {"model": Answer}, **_SEARCHED},
        openapi_extra={
            **_SECURED,
            "parameters": _WISHES,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": OneQuery.model_json_schema()},
                    "multipart/form-data": {"schema": _FORM},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    "image/*": {"schema": {"type": "string", "format": "binary"}},
                },
            },
        },
    )
    async def search(request: Request) -> Response:
        """The nearest images of an image (a form, or bytes with the wishes in the query), a vector, an id or words."""
        clock = service.clock()
        return _json(await service.search(await read_query(request, service.dim), clock))

    @app.post(
        "/v1/search:batch",
        responses={200: {"model": BatchAnswer}, **_SEARCHED},
        openapi_extra={
            **_SECURED,
            "parameters": [_NULL],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": BatchQuery.model_json_schema()}},
            },
        },
    )
    async def search_batch(request: Request) -> Response:
        """The nearest images of many vectors, in one call."""
        clock = service.clock()
        asked = await read_batch(request, service.dim, settings.limits.batch)
        found = await service.batch(asked, clock)
        return await asyncio.to_thread(_json, found)  # may be megabytes

    @app.get(
        "/v1/images/{id}",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}}, **_refusals(401, 404, 422, 429, 500, 503)},
        openapi_extra=_SECURED,
    )
    async def image(
        id: str = PathParameter(max_length=512),
        domain: str | None = Query(None, description="Where to look first."),
    ) -> Response:
        """A small picture of an image of the index."""
        data, kind = shown(await service.image(id, domain, service.clock()))
        return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    @app.get(
        "/v1/index",
        responses={200: {"model": IndexInfo}, **_refusals(401, 500)},
        openapi_extra=_SECURED,
    )
    async def index() -> Response:
        """What is served: version, model, domains, recalls, limits."""
        return _json(service.info())

    @app.get(
        "/v1/examples",
        responses={200: {"model": Examples}, **_refusals(401, 500)},
        openapi_extra=_SECURED,
    )
    def examples() -> Response:
        """A few images of the index to begin with."""
        return _json({"examples": service.examples()})

    @app.get("/healthz", responses={200: {"content": {"application/json": {}}}})
    async def healthz() -> Response:
        """This copy lives."""
        return _json({"alive": True})

    @app.get("/readyz", responses={200: {"content": {"application/json": {}}}, **_refusals(503)})
    async def readyz() -> Response:
        """Everything that answers need does answer."""
        missing = await service.missing()
        if missing:
            raise Refusal(503, f"not ready: {', '.join(missing)}", 1)
        return _json({"ready": True})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Of this copy, for Prometheus."""
        return Response(measures.text(), media_type="text/plain; version=0.0.4")

    @app.post(
        "/v1/admin/reload",
        responses={200: {"model": Reloaded}, **_refusals(401, 403, 409, 500)},
        openapi_extra={"security": [{"bearer": []}]},
    )
    async def reload() -> Response:
        """Take up the version that CURRENT names, in every copy."""
        return _json({"index_version": await service.reload()})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response((_PAGE / "index.html").read_bytes(), media_type="text/html")

    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    make = app.openapi

    def described() -> dict[str, Any]:
        schema = make()
        schema.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"}
        }
        return schema

    app.openapi = described  # type: ignore[method-assign]
    return Guard(app, settings, tokens, admin, measures)


def _json(content: dict[str, Any]) -> Response:
    return Response(to_json(content), media_type="application/json")
