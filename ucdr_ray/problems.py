"""What is wrong with settings, in the words of whoever wrote them."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def _at(model: Any, path: tuple[Any, ...]) -> tuple[Any, list[str]]:
    """The model or union at a path, and the path as its writer knows it: pydantic adds which of a union it took."""
    written = []
    for part in path:
        if members := {_name(one): one for one in get_args(model) if _name(one) is not None}:
            model = members.get(part)
            continue
        written.append(str(part))
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
    return model, written


def _name(model: Any) -> Any:
    field = getattr(model, "model_fields", {}).get("name")
    return None if field is None else field.default


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per problem of what was to become a `model`: the field, the value, what is allowed."""
    lines = []
    for item in error.errors():
        path = tuple(item["loc"])
        name = ".".join(_at(model, path)[1])
        if item["type"] == "extra_forbidden":
            allowed = sorted(getattr(_at(model, path[:-1])[0], "model_fields", {}))
            near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            lines.append(f"{name}: unknown field; {hint}allowed here: {', '.join(allowed)}")
        elif item["type"] == "value_error":
            message = str(item["msg"]).removeprefix("Value error, ")
            lines.append(f"{name}: {message}" if name else message)
        else:
            lines.append(f"{name}: {item['msg']}, got {item['input']!r}")
    return lines
