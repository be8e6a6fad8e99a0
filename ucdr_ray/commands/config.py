"""`ucdr config`: what can be set, what it means, and whether a file sets it rightly."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ucdr_ray.config import RunConfig, config_fingerprint, load_config
from ucdr_ray.errors import UserError
from ucdr_ray.problems import describe

app = typer.Typer(help="Show, explain and check the settings of a training run.", no_args_is_help=True)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML; the defaults without it.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one field; may be repeated.")
]


@app.command()
def show(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Print every setting with its value and its meaning, as YAML that `--config` takes.

    Example: ucdr config show --set train.lr=0.001 > my.yaml
    """
    typer.echo("\n".join(_annotated(load_config(config, overrides))))


@app.command()
def schema() -> None:
    """Print the JSON schema, for editors and programs.

    Example: ucdr config schema > ucdr.schema.json
    """
    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="YAML files; the defaults without any.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Check files: one line for each problem, naming field, value and what is allowed.

    Example: ucdr config check jobs/configs/*.yaml

    Example: ucdr config check my.yaml --set train.workers=4
    """
    if not files:
        typer.echo(f"ok: the defaults (fingerprint {config_fingerprint(load_config(None, overrides))[:12]})")
        return
    wrong = 0
    for file in files:
        problems = _problems(file, overrides)
        wrong += bool(problems)
        for problem in problems:
            typer.echo(problem, err=True)
        if not problems:
            typer.echo(f"ok: {file} (fingerprint {config_fingerprint(load_config(file, overrides))[:12]})")
    if wrong:
        raise UserError(f"{wrong} of {len(files)} files {'are' if wrong > 1 else 'is'} wrong")


def _problems(file: Path, overrides: list[str] | None) -> list[str]:
    try:
        load_config(file, overrides)
    except UserError as error:
        # The error's one line joins all problems; its context still has them apart.
        if isinstance(error.__context__, ValidationError):
            return [f"{file}: {line}" for line in describe(error.__context__, RunConfig)]
        return [str(error)]
    return []


def _annotated(section: BaseModel, indent: str = "") -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _annotated(value, indent + "  ")
        else:
            yield f"{indent}# {_meaning(type(section), name, field)}"
            text = yaml.safe_dump([value], default_flow_style=True, width=10_000, allow_unicode=True)
            yield f"{indent}{name}: {text.strip()[1:-1]}"


def _meaning(section: type[BaseModel], name: str, field: FieldInfo) -> str:
    schema: dict[str, Any] = section.model_json_schema()["properties"][name]
    for choice in [schema, *schema.get("anyOf", [])]:
        if "enum" in choice:
            return f"{field.description} Allowed: {', '.join(map(str, choice['enum']))}."
        bounds = [f"{words} {choice[key]}" for key, words in _BOUNDS.items() if key in choice]
        if bounds:
            return f"{field.description} Allowed: {', '.join(bounds)}."
    return str(field.description)


_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "from",
    "exclusiveMaximum": "below",
    "maximum": "up to",
}
