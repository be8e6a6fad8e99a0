"""`ucdr …`: one verb per job; here they come together, and here errors become exit codes."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from ucdr_ray.commands import (
    catalog,
    config,
    demo,
    disentangle,
    draw,
    embed,
    evaluate,
    generator,
    index,
    index_change,  # noqa: F401  (adds its commands to those of index)
    ingest,
    latents,
    neighbors,
    report,
    search,
    serve,
    split,
    train,
)
from ucdr_ray.errors import JobError, UserError

# In the order in which one uses them; typer alone would list the groups last.
_VERBS: dict[str, Any] = {
    "demo": demo.demo,
    "draw": draw.draw,
    "ingest": ingest.ingest,
    "catalog": catalog.app,
    "split": split.split,
    "config": config.app,
    "generator": generator.app,
    "latents": latents.latents,
    "train": train.train,
    "embed": embed.embed,
    "index": index.app,
    "search": search.search,
    "serve": serve.serve,
    "evaluate": evaluate.evaluate,
    "neighbors": neighbors.neighbors,
    "disentangle": disentangle.disentangle,
    "report": report.report,
}


class _InOrder(TyperGroup):
    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(_VERBS)


app = typer.Typer(
    name="ucdr",
    cls=_InOrder,
    help="Learn, without labels, features under which images of different domains find each other; then search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _verb in _VERBS.items():
    if isinstance(_verb, typer.Typer):
        app.add_typer(_verb, name=_name)
    else:
        app.command(_name)(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ucdr-ray {version('ucdr-ray')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="UCDR_DEBUG", help="Show where an error came from.")
    ] = False,
) -> None:
    if debug:
        os.environ["UCDR_DEBUG"] = "1"  # workers inherit it
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("ucdr_ray").setLevel(logging.DEBUG if debug else logging.INFO)


# Such errors of the file system come of the call: a path that is not what it should be.
_CALL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def _line(error: Exception) -> str:
    # Ray raises a task's error as a subclass whose text is the remote traceback; the error itself is its cause.
    cause = getattr(error, "cause", None)
    found = cause if isinstance(cause, UserError | JobError | OSError) else error
    text = str(found)
    if isinstance(found, OSError) and found.strerror:
        file = found.filename2 or found.filename
        named = isinstance(file, str | bytes)
        text = f"{os.fsdecode(file)}: {found.strerror}" if named else found.strerror
    return "; ".join(text.strip().splitlines()) or type(found).__name__


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` without arguments).

    Returns:
        0 done, 1 the job failed, 2 the call or its input is wrong, 130 interrupted.
    """
    try:
        ended = app(
            arguments, prog_name="ucdr", standalone_mode=False
        )  # else typer says its own errors, in a box
    except TyperException as error:
        context = getattr(error, "ctx", None)
        if text := error.format_message().strip().rstrip("."):  # without one, it has printed the help
            verb = context.command_path if context else "ucdr"
            typer.echo(f"error: {'; '.join(text.splitlines())}; see {verb} --help", err=True)
        return error.exit_code
    except typer.Abort:
        typer.echo("error: an answer was needed, and standard input is at its end", err=True)
        return 1
    except (UserError, JobError, OSError) as error:
        if os.environ.get("UCDR_DEBUG"):
            raise
        typer.echo(f"error: {_line(error)}", err=True)
        return 2 if isinstance(error, (UserError, *_CALL)) else 1
    except Exception as error:  # not foreseen, such as a file edited by hand: still one line
        if os.environ.get("UCDR_DEBUG"):
            raise
        typer.echo(f"error: {type(error).__name__}: {_line(error)}; ucdr --debug shows where", err=True)
        return 1
    except SystemExit as end:  # who read the output has closed it
        ended = end.code
    code = ended if isinstance(ended, int) else 0
    if code == 130:
        typer.echo("interrupted", err=True)
    return code


def main() -> None:
    """The console script."""
    sys.exit(run())
