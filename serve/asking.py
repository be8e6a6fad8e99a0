"""Requests as they come in, JSON, a form or bare bytes, to what is asked; everything else is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from serve.messages import BatchQuery, OneQuery, Wishes
from serve.refusal import Refusal

_FIELDS = 16  # of a form
_AROUND, _NUMBER = 1 << 20, 40  # bytes of JSON: around the numbers, and of each, however it is set
_NAMES = 5_000  # each of a million unknown ones would be a fault with a message
_FAULTS = 10_000  # that are worth looking at to name the first
AnyMessage = TypeVar("AnyMessage", bound=BaseModel)
AnyWishes = TypeVar("AnyWishes", bound=Wishes)


@dataclass(frozen=True)
class ImageQuery:
    """An encoded image, not looked at yet, and what is wanted."""

    image: bytes
    wishes: Wishes


async def read_query(request: Request, dim: int) -> ImageQuery | OneQuery:
    """What `POST /v1/search` asks of an index of ``dim`` dimensions. Raises Refusal."""
    kind = _kind(request)
    if kind == "application/json":
        _no_parameters(request)
        return _with_null(request, _parsed(OneQuery, await request.body(), dim))
    if kind == "multipart/form-data":
        _no_parameters(request)
        query = await _form(request)
        return ImageQuery(query.image, _with_null(request, query.wishes))
    if kind == "application/octet-stream" or kind.startswith("image/"):
        return ImageQuery(await request.body(), _wishes(request.query_params))
    raise Refusal(
        415,
        "Content-Type: application/json, multipart/form-data, application/octet-stream and image/* are allowed",
    )


async def read_batch(request: Request, dim: int, most: int) -> BatchQuery:
    """What `POST /v1/search:batch` asks with ``most`` vectors of ``dim`` numbers or less. Raises Refusal."""
    if _kind(request) != "application/json":
        raise Refusal(415, "Content-Type: application/json is allowed")
    _no_parameters(request)
    return _with_null(request, _parsed(BatchQuery, await request.body(), dim * most))


async def _form(request: Request) -> ImageQuery:
    try:
        async with request.form(max_files=1, max_fields=_FIELDS, max_part_size=1 << 16) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise Refusal(422, "image: a form needs a file of this name")
            names = [name for name, value in form.multi_items() if isinstance(value, UploadFile)]
            fields = QueryParams(
                [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
            )
            assert names == ["image"]  # one file is allowed
            return ImageQuery(await image.read(), _wishes(fields))
    except MultiPartException as error:
        raise Refusal(400, f"not a form: {error.message}") from None
    except Exception as error:
        # Starlette wraps what its parser says in its own HTTP exception.
        if (detail := getattr(error, "detail", None)) is not None:
            raise Refusal(400, f"not a form: {detail}") from None
        raise


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _no_parameters(request: Request) -> None:
    for name in request.query_params:
        if name != "null":
            raise Refusal(422, f"{_shown(name)}: belongs into the body of this request")


def _with_null(request: Request, wishes: AnyWishes) -> AnyWishes:
    """The same with what ``?null=`` says."""
    if "null" not in request.query_params:
        return wishes
    said = _wishes(QueryParams([("null", value) for value in request.query_params.getlist("null")]))
    return wishes.model_copy(update={"null": said.null})


def _wishes(fields: QueryParams) -> Wishes:
    values: dict[str, str | list[str]] = {}
    for name in fields:
        several = fields.getlist(name)
        if name == "domains":
            values[name] = [word for some in several for word in some.split(",") if word]
        elif len(several) > 1:
            raise Refusal(422, f"{_shown(name)}: is given {len(several)} times; once is allowed")
        else:
            values[name] = several[0]
    try:
        return Wishes.model_validate(values, strict=False)
    except ValidationError as error:
        raise Refusal(422, problem(error)) from None


def _parsed(message: type[AnyMessage], body: bytes, numbers: int) -> AnyMessage:
    # What is parsed takes many times its bytes: no more of them than sense can be in.
    if len(body) > (most := _AROUND + _NUMBER * numbers):
        raise Refusal(413, f"the body has {len(body)} bytes; for {numbers} numbers, {most} are allowed")
    if (names := body.count(b'"') // 2) > _NAMES:
        raise Refusal(422, f"the body has {names} names and strings; {_NAMES} are allowed")
    try:
        return message.model_validate_json(body)
    except ValidationError as error:
        syntax = error.errors(include_url=False)[0]["type"] == "json_invalid"
        raise Refusal(400 if syntax else 422, problem(error)) from None


def problem(error: ValidationError) -> str:
    """One line about the first thing that is wrong."""
    if error.error_count() > _FAULTS:
        return f"{error.error_count()} things are wrong with this request"
    first: Mapping = error.errors(include_url=False)[0]
    where = ".".join(_shown(str(step)) for step in first["loc"])
    text = str(first["msg"]).removeprefix("Value error, ")
    if "recursion limit" in text:
        text += "; nesting of at most three levels makes sense here"
    return f"{where}: {text}" if where else text


def _shown(name: str) -> str:
    return name if len(name) <= 40 and name.isprintable() else f"{name[:40]!r}…"
