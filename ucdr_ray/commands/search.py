"""`ucdr search`: images in, the most similar images of other domains out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from ucdr_ray.index.judging import Judged
    from ucdr_ray.index.merge import Hit
    from ucdr_ray.index.search import Answer, Index

_BATCH = 64  # queries at a time through the encoder
_SHEET_COLUMNS = 10
_MOST = 1_000_000


def search(
    index: Annotated[
        Path, typer.Argument(metavar="INDEX", help="The folder that `ucdr index build --out` wrote.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The queries: image files.")],
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

    Ties are broken by domain, id and slot. The JSON also holds the top K of each domain.

    Example: ucdr search index/pacs cat.jpg --domains sketch,photo -k 10 --sheet cat.png
    """
    if not 1 <= k <= _MOST:
        raise UserError(f"-k {k}: allowed are 1 to {_MOST:,}")
    if sheet is None and json_file != "-":
        sheet = Path("search.png")
    from ucdr_ray.files import write_json
    from ucdr_ray.index.judging import judge
    from ucdr_ray.index.search import Index

    opened = Index.open(index)
    names = [name.strip() for name in domains.split(",")] if domains is not None else opened.manifest.domains
    for name in names:
        opened.domain(name)
    contents = [_read(image) for image in images]
    vectors = _encode(opened, images, contents)
    answers = opened.search(vectors, names, k, exact)
    judged = (
        judge(opened, vectors, [one.by_domain for one in answers], query_domain) if null == "on" else None
    )
    if judged is not None:
        answers = [_kept(answer, one, k) for answer, one in zip(answers, judged, strict=True)]
    result = _result(opened, names, k, images, answers, judged)
    if json_file == "-":
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        if json_file is not None:
            write_json(Path(json_file), result)
        _print(result)
    if sheet is not None:
        _write_sheet(sheet, opened, images, contents, answers)
        typer.echo(f"sheet: {sheet}", err=json_file == "-")


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the query {image}: {error.strerror}") from None


def _encode(index: "Index", images: list[Path], contents: list[bytes]) -> "np.ndarray":
    """Vectors float32 (Q, dim) of the queries, by the index's own encoder."""
    import numpy as np
    import torch

    from ucdr_ray.images import Reject, to_array
    from ucdr_ray.models.device import fastest_device

    device = fastest_device()
    encoder = index.encoder.to(device)
    pixels = []
    for image, content in zip(images, contents, strict=True):
        try:
            pixels.append(torch.from_numpy(to_array(content, encoder.size, encoder.resize)))
        except Reject as reject:
            raise UserError(f"cannot use the query {image}: {reject.reason}") from None
    parts = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
    return np.concatenate([encoder.encode(torch.stack(part).to(device)).cpu().numpy() for part in parts])


def _kept(answer: "Answer", judged: "Judged", k: int) -> "Answer":
    """Without what is from domains that have nothing of the kind."""
    from dataclasses import replace

    from ucdr_ray.index.merge import merge

    by_domain = judged.kept(answer.by_domain)
    return replace(answer, hits=merge(by_domain.values(), k), by_domain=by_domain)


def _result(
    index: "Index",
    domains: list[str],
    k: int,
    images: list[Path],
    answers: list["Answer"],
    judged: "list[Judged] | None",
) -> dict[str, Any]:
    first = answers[0]
    verdicts: list[Judged | None] = [None] * len(images) if judged is None else list(judged)
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
                "image": str(image),
                "hits": _ranked(answer.hits),
                "by_domain": {name: _ranked(hits) for name, hits in answer.by_domain.items()},
                "null": None if one is None else one.reason(domains),
                "judged": None if one is None else one.told(),
            }
            for image, answer, one in zip(images, answers, verdicts, strict=True)
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
        table = Table(title=Text(query["image"]), title_justify="left", box=SIMPLE_HEAD)
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


def _judged(query: dict[str, Any]) -> list[str]:
    """Lines on whether anything matches, where that was judged."""
    said = query["judged"]
    if said is None:
        return []
    if query["null"] is not None:
        return [f"{query['image']}: nothing here matches: {query['null']}"]
    if said["query_domain"] is None:
        return [f"{query['image']}: not judged whether it matches: it is from no domain that the index knows"]
    return [
        f"{query['image']}: nothing in {name} matches it"
        for name, one in said["by_domain"].items()
        if one["null"]
    ]


def _write_sheet(
    path: Path, index: "Index", images: list[Path], contents: list[bytes], answers: list["Answer"]
) -> None:
    """One row of pictures for each query and domain: the query, then the domain's top k."""
    from ucdr_ray.evaluation.contact import contact_sheet, png, stack
    from ucdr_ray.images import decode

    rows = []
    for image, content, answer in zip(images, contents, answers, strict=True):
        for name, hits in answer.by_domain.items():
            thumbnails = [decode(index.domain(name).thumbnail(hit.slot)) for hit in hits]
            captions = [f"{rank}. {hit.score:.3f}" for rank, hit in enumerate(hits, 1)]
            title = f"{image.name} → {name}"
            rows.append(
                contact_sheet(
                    decode(content),
                    thumbnails,
                    captions,
                    title=title,
                    columns=min(_SHEET_COLUMNS, max(len(hits), 1)),
                )
            )
    atomic_write(path, png(stack(rows)))
