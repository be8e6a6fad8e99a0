"""`ucdr neighbors`: how sparse the mutual neighbour graph is, by k."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ucdr_ray.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from ucdr_ray.commands.searched import Searched
    from ucdr_ray.neighbors.sparsity import Degrees, Sparsity

_MOST = 1000  # as of method.k_in and method.k_cross
_SHOWN = 50  # DUDE's k: the one nearest to it is shown in detail


def neighbors(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|EMBEDDINGS",
            help="A run of `ucdr train`: the bank of its newest checkpoint, in which its training searches; "
            "or what `ucdr embed --out` wrote.",
        ),
    ],
    k: Annotated[
        str, typer.Option("-k", metavar="K,…", help="Numbers of neighbours; a run's own are added.")
    ] = "1,5,10,20,50,100",
    domains: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these domains; all without it.")
    ] = None,
    centre: Annotated[
        bool | None,
        typer.Option(
            "--centre/--no-centre",
            help="Subtract each domain's mean before searching across domains. "
            "Without either: as the run does; embeddings stay as they are.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="The picture to write. Without it neighbors.png, and none with --json -.",
        ),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all numbers; - for standard output.")
    ] = None,
) -> None:
    """Show how sparse the mutual neighbours are, by k: which share of the images has any, and how many.

    Two images are mutual neighbours at k if each is among the k images of its own domain that are nearest to the
    other. Staged alignment learns across domains from nothing else: too small a k leaves images without any, too
    large a k pairs what is not alike. Without the mutual filter every image has k neighbours, but some images are
    named by nobody, and can have no mutual one. For every ordered pair of domains and inside each; exact, and
    without labels.

    Example: ucdr neighbors runs/pacs -k 1,5,10,20,50 --plot pacs.png

    Example: ucdr neighbors embeddings/zero --centre --json zero.json
    """
    asked = _numbers(k)
    wanted = [name.strip() for name in domains.split(",")] if domains else None
    if plot is None and json_file != "-":
        plot = Path("neighbors.png")
    from ucdr_ray.commands.searched import searched
    from ucdr_ray.evaluation.sparsity_plot import sparsity_plot
    from ucdr_ray.files import atomic_write, check_target, write_json
    from ucdr_ray.models.device import fastest_device
    from ucdr_ray.neighbors.sparsity import comparisons, sparsity
    from ucdr_ray.progress import progress

    if json_file is not None and json_file != "-":
        check_target("--json", Path(json_file))
    if plot is not None:
        check_target("--plot", plot, (".png",))
    if json_file is not None and plot is not None and Path(json_file) == plot:
        raise UserError(f"--json and --plot: both {plot}")
    opened = searched(source, wanted)
    centred = opened.centre if centre is None else centre
    own = [opened.k_in, opened.k_cross] if opened.k_in and opened.k_cross else []
    ks = sorted({*asked, *own})
    vectors = [(name, rows.to(fastest_device())) for name, rows in opened.domains.items()]
    with progress("neighbors", "comparisons", comparisons([len(rows) for _, rows in vectors])) as meter:
        found = sparsity(vectors, ks, centred, meter.advance)
    result = _result(source, opened, centred, ks, found)
    title = f"{source}{opened.note}, {'' if centred else 'not '}centred"
    shown = min(ks, key=lambda number: abs(number - (opened.k_cross or _SHOWN)))
    if json_file == "-":
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        if json_file is not None:
            write_json(Path(json_file), result)
        _print(found, title, ks, own, shown)
    if plot is not None:
        atomic_write(plot, sparsity_plot(found, shown, sorted(set(own)), title))
        typer.echo(f"plot: {plot}", err=json_file == "-")


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= _MOST for part in parts):
        raise UserError(f"-k {text}: allowed are whole numbers from 1 to {_MOST:,}, such as 1,10,50")
    return [int(part) for part in parts]


def _result(
    path: Path, source: "Searched", centred: bool, ks: list[int], found: list["Sparsity"]
) -> dict[str, Any]:
    from ucdr_ray.neighbors.sparsity import BINS

    def by_k(degrees: dict[int, "Degrees"]) -> dict[str, Any]:
        return {str(k): asdict(value) for k, value in degrees.items()}

    return {
        "source": str(path),
        "checkpoint": source.checkpoint,
        "centred": centred,
        "k": ks,
        "k_in": source.k_in,
        "k_cross": source.k_cross,
        "bins": BINS,
        "domains": {name: len(rows) for name, rows in source.domains.items()},
        "pairs": {
            f"{p.domain}->{p.other}": {"rows": p.rows, "mutual": by_k(p.mutual), "named": by_k(p.named)}
            for p in found
        },
    }


def _print(found: list["Sparsity"], title: str, ks: list[int], own: list[int], shown: int) -> None:
    from rich.console import Console

    from ucdr_ray.neighbors.sparsity import BINS

    headings = [f"{k}{'*' * (k in own)}" for k in ks]
    bins = 1 + max(place for p in found for place, rows in enumerate(p.mutual[shown].histogram) if rows)
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"{title}\n")
    tables: dict[str, tuple[Sequence[str], Callable[[Sparsity], list[str]]]] = {
        "with a mutual neighbour, % of images, by k": (
            headings, lambda p: [f"{100 * p.mutual[k].share:.1f}" for k in ks]
        ),
        "mutual neighbours of an image, mean, by k": (
            headings, lambda p: [_mean(p.mutual[k].mean) for k in ks]
        ),
        "named by nobody, % of images, by k": (
            headings, lambda p: [f"{100 * (1 - p.named[k].share):.1f}" for k in ks]
        ),
        f"by number of mutual neighbours, % of images, k = {shown}": (
            BINS[:bins], lambda p: [f"{100 * rows / p.rows:.1f}" for rows in p.mutual[shown].histogram[:bins]]
        ),
    }  # fmt: skip
    for name, (columns, cells) in tables.items():
        say(name)
        console.print(_table(columns, found, cells))
    if own:
        say(f"* of the run: k_in = {own[0]}, k_cross = {own[1]}")


def _mean(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _table(
    headings: Sequence[str],
    found: list["Sparsity"],
    cells: Callable[["Sparsity"], list[str]],
) -> "Table":
    """A row for each pair of domains, then one for the inside of each."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from ucdr_ray.evaluation.sparsity_plot import label

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("images → neighbours")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for inside in (False, True):
        for pair in found:
            if (pair.domain == pair.other) is inside:
                table.add_row(Text(label(pair)), *cells(pair))
        table.add_section()
    return table
