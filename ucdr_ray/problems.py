"""What is wrong with settings, in the words of whoever wrote them."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError


def _allowed_at(model: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
    return sorted(getattr(model, "model_fields", {}))


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per problem of what was to become a `model`: the field, the value, what is allowed."""
    lines = []
    for item in error.errors():
        path = tuple(item["loc"])
        name = ".".join(str(part) for part in path)
        if item["type"] == "extra_forbidden":
            allowed = _allowed_at(model, path[:-1])
            near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            lines.append(f"{name}: unknown field; {hint}allowed here: {', '.join(allowed)}")
        elif item["type"] == "value_error":
            message = str(item["msg"]).removeprefix("Value error, ")
            lines.append(f"{name}: {message}" if name else message)
        else:
            lines.append(f"{name}: {item['msg']}, got {item['input']!r}")
    return lines
