"""One self-contained HTML page from which a person sees whether the alignment worked."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import jinja2
from PIL import Image

from ucdr_ray.evaluation import report_maps as maps
from ucdr_ray.evaluation import report_plots as plots
from ucdr_ray.evaluation import report_tables as tables
from ucdr_ray.evaluation.disentangle import Disentangled
from ucdr_ray.evaluation.open_set import evaluate_open_set
from ucdr_ray.evaluation.protocols import DomainVectors, evaluate_pairs, unit
from ucdr_ray.evaluation.report_examples import Example, Pictures, choose, sheets
from ucdr_ray.evaluation.words_map import Words, words_maps

CUTOFFS = (1, 10, 50, 200)
_METRICS = (
    "map@all",
    *(f"precision@{k}" for k in CUTOFFS),
    *(f"capped_precision@{k}" for k in CUTOFFS if k > 1),  # at 1 they are the same
)
_MOST_SHEETS = 60


@dataclass(frozen=True)
class About:
    """What the page says of the run, as text.

    Attributes:
        title: the run's name.
        facts: name -> value, in the order shown.
        domains: name, images, labelled images and classes of each domain.
        config: the whole configuration, YAML.
    """

    title: str
    facts: Mapping[str, str]
    domains: Sequence[tuple[str, int, int, int]]
    config: str


def build_report(
    about: About,
    epochs: Sequence[Mapping[str, Any]],
    before: Mapping[str, DomainVectors],
    after: Mapping[str, DomainVectors],
    pictures: Pictures,
    seed: int = 0,
    disentangled: Disentangled | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    words: Words | None = None,
) -> str:
    """The page.

    Args:
        epochs: rows of ``metrics.jsonl``; may be empty.
        before: the backbone without training; after: the trained encoder; the same domains and rows. Where a domain
            has no labels at all, the page shows nothing that rests on labels.
        pictures: gives the images of some slots of a domain.
        seed: of the queries shown and of the maps.
        disentangled: of runs with a generator.
        pairs: (query, gallery) each, such as a split's; all without it.
        words: of runs that were trained on them.

    Raises:
        UserError: as `evaluate_pairs`.
    """
    if not all(any(label is not None for label in domain.labels) for domain in before.values()):
        before, after = _without_labels(before), _without_labels(after)
        results = None
    else:
        results = {
            "zero": evaluate_pairs(before, CUTOFFS, pairs=pairs),
            "zero, centred": evaluate_pairs(before, CUTOFFS, centred=True, pairs=pairs),
            "trained": evaluate_pairs(after, CUTOFFS, pairs=pairs),
            "trained, centred": evaluate_pairs(after, CUTOFFS, centred=True, pairs=pairs),
        }
    who = list(pairs or permutations(before, 2))
    examples = choose(before, after, who, max(1, min(3, _MOST_SHEETS // len(who))), seed)
    labels = {name: domain.labels for name, domain in before.items()}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ucdr_ray.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        about=about,
        figures=results and _figures(results),
        nothing=results and _nothing(results["trained"], after, who),
        maps=_maps(before, after, seed),
        disentangled=disentangled and _disentangled(disentangled, results is not None),
        words=_words(words, seed),
        curves=_curves(epochs),
        sheets=_by_pair(examples, sheets(examples, labels, pictures), results),
        seed=seed,
    )


def _without_labels(domains: Mapping[str, DomainVectors]) -> dict[str, DomainVectors]:
    return {name: replace(domain, labels=[None] * len(domain.labels)) for name, domain in domains.items()}


def _figures(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "verdict": tables.verdict(results["zero"], results["zero, centred"], results["trained"]),
        "models": list(results),
        "summary": tables.summary(results, _METRICS),
        "pair_tables": {metric: tables.by_pair(results, metric) for metric in ("map@all", "precision@1")},
        "queries": tables.query_note(results["zero"]),
    }


def _nothing(
    trained: Mapping[str, Any], after: Mapping[str, DomainVectors], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any] | None:
    """How well it is told that a gallery lacks something; None where none lacks anything."""
    if not any(counts["without_relevant"] for counts in trained["queries"].values()):
        return None
    found = evaluate_open_set({name: unit(domain) for name, domain in after.items()}, pairs=pairs)
    curve = plots.trade_off(found)
    return {"rows": tables.refusals(found), "curve": curve and _uri(curve, "png")}


def _disentangled(found: Disentangled, labelled: bool) -> dict[str, Any]:
    rows = []
    for what, better in (("domain", "lower"), ("object", "higher")):
        for of, probes in (("embedding", found.embedding), ("[z]", found.content)):
            before, after = (getattr(probe, what) for probe in probes)
            if None in (before, after) or (what == "object" and not labelled):
                continue
            told = {"before": tables.percent(before), "after": tables.percent(after)}
            rows.append({"what": f"{what}, {of}", "better": better} | told)
    return {"page": _uri(found.page, "png"), "probes": rows}


def _words(words: Words | None, seed: int) -> list[dict[str, str]]:
    found = words_maps(words, seed) if words is not None else []
    return [{"title": title, "image": _uri(png, "png")} for title, png in found]


def _maps(
    before: Mapping[str, DomainVectors], after: Mapping[str, DomainVectors], seed: int
) -> dict[str, Any]:
    sample = maps.draw_sample(before, after, seed)
    figures, mixed = [], []
    for when, vectors in (("before", sample.before), ("after", sample.after)):
        points = maps.project(vectors, seed)
        mixed.append(maps.mixing(vectors, sample.domains))
        for what, groups, names in (
            ("domain", sample.domains, list(before)),
            ("class", sample.labels, sample.named),
        ):
            if not names:
                continue
            title = f"{when} training, by {what}"
            figures.append({"title": title, "image": _uri(maps.scatter(points, groups, names, title), "png")})
    return {"figures": figures, "points": len(sample.domains), "mixing": mixed}


def _curves(epochs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    if not epochs:
        return []
    across = [{k: v for k, v in row.items() if not _inside(k)} for row in epochs]
    inside = [{k: v for k, v in row.items() if k in ("epoch", "stage") or _inside(k)} for row in epochs]
    drawn = [
        plots.curves(epochs, "loss", "Loss and its terms", share=False),
        plots.curves(across, "share/", "Images with a mutual neighbour in another domain", share=True),
        plots.curves(inside, "share/", "Images with a mutual neighbour in their own domain", share=True),
    ]
    titles = ("loss", "mutual neighbours across domains", "mutual neighbours inside domains")
    return [
        {"title": title, "image": _uri(png, "png")}
        for title, png in zip(titles, drawn, strict=True)
        if png is not None
    ]


def _inside(name: str) -> bool:
    query, arrow, gallery = name.removeprefix("share/").partition("->")
    return bool(arrow) and query == gallery


def _by_pair(
    examples: Sequence[Example],
    images: Sequence[tuple[Image.Image, Image.Image]],
    results: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    shown: dict[str, dict[str, Any]] = {}
    for example, (first, second) in zip(examples, images, strict=True):
        pair = f"{example.query_domain}->{example.gallery_domain}"
        entry = shown.setdefault(
            pair, {"title": pair.replace("->", " → "), "points": 0, "sheets": [], "figures": None}
        )
        alt = f"image {example.slot} of {example.query_domain}"
        if results is not None:
            values = [results[name]["pairs"][pair]["map@all"] for name in ("zero", "trained")]
            entry["points"] = (values[1] or 0) - (values[0] or 0)
            entry["figures"] = {
                "before": tables.percent(values[0]),
                "after": tables.percent(values[1]),
                "gain": tables.difference(*values),
            }
            alt = f"{example.label}: {example.before.hits} right before training, {example.after.hits} after"
        entry["sheets"].append({"alt": alt, "before": _webp(first), "after": _webp(second)})
    gains = [entry["points"] for entry in shown.values()]
    for entry in shown.values():  # the best and the worst pair stand open; all, where nobody knows
        entry["open"] = entry["points"] in (min(gains), max(gains))
    return list(shown.values())


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=4)
    return _uri(buffer.getvalue(), "webp")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
