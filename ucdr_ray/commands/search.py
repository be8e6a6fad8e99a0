"""`ucdr search`: images or words in, the most similar images out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write

if TYPE_CHECKING:
    from ucdr_ray.commands.queries import Query
    from ucdr_ray.index.judging import Judged
    from ucdr_ray.index.merge import Hit
    from ucdr_ray.index.search import Answer, Index

_SHEET_COLUMNS = 10
_MOST = 1_000_000


def search(
    index: Annotated[
        Path, typer.Argument(metavar="INDEX", help="The folder that `ucdr index build --out` wrote.")
    ],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="The queries: image files.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help="A query in words, such as 'a sketch of a dog', of an index whose encoder is from a CLIP; may be "
            "given several times.",
        ),
    ] = None,
    domains: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Search only these domains; all of the index without it."),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="K", help="How many images to find.")] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every image, also where the index has a shortcut.")
    ] = False,
    null: Annotated[
        Literal["on", "off"],
        typer.Option(help="Where the index was built with --null, say so where nothing matches; off: never."),
    ] = "on",
    query_domain: Annotated[
        str | None,
        typer.Option(
            metavar="A", help="For that, what the queries are from; what each looks like without it."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="The picture to write: each query, and the top k of each domain. "
            "Without it search.png, and none with --json -.",
        ),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the answers; - for standard output.")
    ] = None,
) -> None:
    """Find the images most similar to each query, by cosine; all domains asked compete for the K places.

    Ties are broken by domain, id and slot. The JSON also holds the top K of each domain. Words are from no domain that
    an index knows: whether anything matches them is not judged.

    Example: ucdr search index/pacs cat.jpg --domains sketch,photo -k 10 --sheet cat.png

    Example: ucdr search index/clip --text "a dog" --text "a sketch of a house"
    """
    if not 1 <= k <= _MOST:
        raise UserError(f"-k {k}: allowed are 1 to {_MOST:,}")
    if sheet is None and json_file != "-":
        sheet = Path("search.png")
    from ucdr_ray.commands.queries import encode, read
    from ucdr_ray.files import write_json
    from ucdr_ray.index.judging import judge
    from ucdr_ray.index.search import Index

    queries = read(images or [], text or [])
    opened = Index.open(index)
    names = [name.strip() for name in domains.split(",")] if domains is not None else opened.manifest.domains
    for name in names:
        opened.domain(name)
    vectors = encode(opened, queries)
    answers = opened.search(vectors, names, k, exact)
    verdicts: list[Judged | None] = [None] * len(queries)
    shown = len(images or [])
    if null == "on" and shown:
        found = [one.by_domain for one in answers[:shown]]
        verdicts[:shown] = judge(opened, vectors[:shown], found, query_domain) or verdicts[:shown]
    answers = [_kept(answer, one, k) for answer, one in zip(answers, verdicts, strict=True)]
    result = _result(opened, names, k, queries, answers, verdicts)
    if json_file == "-":
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        if json_file is not None:
            write_json(Path(json_file), result)
        _print(result)
    if sheet is not None:
        _write_sheet(sheet, opened, queries, answers)
        typer.echo(f"sheet: {sheet}", err=json_file == "-")


def _kept(answer: "Answer", judged: "Judged | None", k: int) -> "Answer":
    """Without what is from domains that have nothing of the kind, where that was judged."""
    if judged is None:
        return answer
    from dataclasses import replace

    from ucdr_ray.index.merge import merge

    by_domain = judged.kept(answer.by_domain)
    return replace(answer, hits=merge(by_domain.values(), k), by_domain=by_domain)


def _result(
    index: "Index",
    domains: list[str],
    k: int,
    queries: list["Query"],
    answers: list["Answer"],
    verdicts: list["Judged | None"],
) -> dict[str, Any]:
    first = answers[0]
    return {
        "index": {
            "path": str(index.folder.parents[1]),
            "version": first.index_version,
            "dim": index.manifest.dim,
        },
        "model": first.model.model_dump(),
        "metric": index.manifest.metric,
        "domains": domains,
        "k": k,
        "shards": {"answered": first.shards_answered, "total": first.shards_total},
        "notes": first.notes,
        "queries": [
            {
                query.key: query.said,
                "hits": _ranked(answer.hits),
                "by_domain": {name: _ranked(hits) for name, hits in answer.by_domain.items()},
                "null": None if one is None else one.reason(domains),
                "judged": None if one is None else one.told(),
            }
            for query, answer, one in zip(queries, answers, verdicts, strict=True)
        ],
    }


def _ranked(hits: list["Hit"]) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "score": hit.score,
            "domain": hit.domain,
            "id": hit.id,
            "slot": hit.slot,
            "source": hit.source,
        }
        for rank, hit in enumerate(hits, 1)
    ]


def _print(result: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for query in result["queries"]:
        table = Table(title=Text(_said(query)), title_justify="left", box=SIMPLE_HEAD)
        for heading in ("rank", "score", "domain", "id", "source"):
            table.add_column(
                heading, justify="right" if heading in ("rank", "score") else "left", overflow="fold"
            )
        for hit in query["hits"]:
            cells = (str(hit["rank"]), f"{hit['score']:.4f}", hit["domain"], hit["id"][:8], hit["source"])
            table.add_row(*map(Text, cells))  # a name with brackets is no markup
        if query["null"] is None:
            console.print(table)
        for line in _judged(query):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    shards = result["shards"]
    lines = [
        *result["notes"],
        f"index version {result['index']['version']}, model {result['model']['name']} "
        f"{result['model']['fingerprint'][:12]}, {shards['answered']} of {shards['total']} shards answered",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _said(query: dict[str, Any]) -> str:
    return str(query["image"] if "image" in query else f"“{query['text']}”")


def _judged(query: dict[str, Any]) -> list[str]:
    """Lines on whether anything matches, where that was judged."""
    said = query["judged"]
    if said is None:
        return []
    if query["null"] is not None:
        return [f"{_said(query)}: nothing here matches: {query['null']}"]
    if said["query_domain"] is None:
        return [f"{_said(query)}: not judged whether it matches: it is from no domain that the index knows"]
    return [
        f"{_said(query)}: nothing in {name} matches it"
        for name, one in said["by_domain"].items()
        if one["null"]
    ]


def _write_sheet(path: Path, index: "Index", queries: list["Query"], answers: list["Answer"]) -> None:
    """One row of pictures for each query and domain: the query, then the domain's top k."""
    from ucdr_ray.evaluation.contact import card, contact_sheet, png, stack
    from ucdr_ray.images import decode

    rows = []
    for query, answer in zip(queries, answers, strict=True):
        picture = card(query.said) if query.content is None else decode(query.content)
        name_of = query.said if query.content is None else Path(query.said).name
        for name, hits in answer.by_domain.items():
            thumbnails = [decode(index.domain(name).thumbnail(hit.slot)) for hit in hits]
            captions = [f"{rank}. {hit.score:.3f}" for rank, hit in enumerate(hits, 1)]
            title = f"{name_of} → {name}"
            rows.append(
                contact_sheet(
                    picture,
                    thumbnails,
                    captions,
                    title=title,
                    columns=min(_SHEET_COLUMNS, max(len(hits), 1)),
                )
            )
    atomic_write(path, png(stack(rows)))
