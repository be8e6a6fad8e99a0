"""`ucdr serve`: search over HTTP, and a page to use it."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from ucdr_ray.errors import UserError

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def serve(
    index: Annotated[
        Path, typer.Argument(metavar="INDEX", help="The folder that `ucdr index build --out` wrote.")
    ],
    host: Annotated[
        str,
        typer.Option(help="Where to listen. 0.0.0.0 lets other machines in: then use --tokens."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    shape: Annotated[
        Literal["auto", "whole", "sharded"],
        typer.Option(
            help="whole: each copy holds the index. sharded: a process for each part of it. auto: whole while it fits "
            "--memory."
        ),
    ] = "auto",
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="That the index may take in a process.")
    ] = "4GB",
    parts: Annotated[
        int | None, typer.Option(min=1, help="How many, if sharded; as many as --memory needs without it.")
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, help="Copies that answer at any time; more start under load.")
    ] = 1,
    deadline_ms: Annotated[
        float, typer.Option(min=1, help="From a request's arrival to its answer.")
    ] = 2_000,
    strict: Annotated[
        bool, typer.Option("--strict", help="Answer 503 where a part is down, instead of a marked answer.")
    ] = False,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may search: bearer tokens, one in a line.")
    ] = None,
    admin_tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may have a new version taken up: the same.")
    ] = None,
) -> None:
    """Serve search over HTTP, with a page at /, until Ctrl-C. A new version of the index is taken up while it runs.

    For a cluster, and for every setting: serve/config and docs/operations.md.

    Example: ucdr serve index/pacs --port 8080 --tokens tokens.txt
    """
    from serve.access import ADMIN_TOKENS, TOKENS, Tokens
    from serve.local import run
    from serve.settings import Replicas, ServiceSettings

    try:
        settings = ServiceSettings(
            index=index,
            shape=shape,
            memory=TypeAdapter(ByteSize).validate_python(memory),
            parts=parts,
            replicas=Replicas(least=replicas, most=max(replicas, 4)),
            deadline_ms=deadline_ms,
            when_down="strict" if strict else "partial",
            tokens=tokens,
            admin_tokens=admin_tokens,
            # A page from elsewhere can make a browser call loopback under a name of its own: only our names pass.
            hosts=list(dict.fromkeys([*_LOOPBACK, host])) if _is_loopback(host) else ["*"],
        )
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "--memory"
        raise UserError(f"{where}: {first['msg']}") from None

    Tokens.read(settings.tokens, TOKENS)
    Tokens.read(settings.admin_tokens, ADMIN_TOKENS)

    def ready(address: str) -> None:
        typer.echo(f"serving {index} at {address}  (search by image there; Ctrl-C ends it)")

    typer.echo(f"starting the service of {index} …", err=True)
    run(settings, host, port, ready)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
