"""Queries for the contact sheets, drawn by seed, and what they find before and after training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ucdr_ray.catalog import Catalog
from ucdr_ray.errors import JobError
from ucdr_ray.evaluation.contact import contact_sheet
from ucdr_ray.evaluation.protocols import DomainVectors, tie_order
from ucdr_ray.images import Reject, decode

TOP = 10
Pictures = Callable[[str, Sequence[int]], list[Image.Image]]  # domain, slots -> their images


def pictures_of(catalog: Catalog) -> Pictures:
    """Images as the catalog has them. The function raises JobError where one can't be decoded."""

    def pictures(domain: str, slots: Sequence[int]) -> list[Image.Image]:
        rows = catalog.take(domain, slots, ["image", "source"])
        found = []
        for data, source in zip(rows["image"].to_pylist(), rows["source"].to_pylist(), strict=True):
            try:
                found.append(decode(data, max_pixels=None))
            except Reject as reject:
                raise JobError(f"cannot show the image from {source}: {reject.reason}") from None
        return found

    return pictures


@dataclass(frozen=True)
class Found:
    """The top of a gallery for one query: slots and cosines, best first, and whether each is right, if it is known."""

    slots: list[int]
    scores: list[float]
    right: list[bool] | None

    @property
    def hits(self) -> int:
        return sum(self.right or [])


@dataclass(frozen=True)
class Example:
    """One query of ``query_domain`` into ``gallery_domain``, before and after training."""

    query_domain: str
    gallery_domain: str
    slot: int
    label: str | None
    before: Found
    after: Found


def search(query: DomainVectors, slot: int, gallery: DomainVectors, k: int = TOP) -> Found:
    """The k best of a gallery by cosine (unit vectors), ties in the order of the metrics."""
    order = tie_order(gallery.ids)
    scores = gallery.vectors[order] @ query.vectors[slot]
    best = np.argsort(-scores, kind="stable")[:k]
    slots = order[best].tolist()
    label = query.labels[slot]
    right = None if label is None else [gallery.labels[row] == label for row in slots]
    return Found(slots, scores[best].tolist(), right)


def choose(
    before: Mapping[str, DomainVectors],
    after: Mapping[str, DomainVectors],
    pairs: Sequence[tuple[str, str]],
    per_pair: int,
    seed: int,
) -> list[Example]:
    """Up to ``per_pair`` random queries of each (query, gallery), not the best ones.

    Where the gallery has labels, queries that have something to find.
    """
    examples = []
    for pair, (query, gallery) in enumerate(pairs):
        known = {label for label in before[gallery].labels if label is not None}
        labels = before[query].labels
        candidates = [slot for slot, label in enumerate(labels) if not known or label in known]
        rng = np.random.default_rng([seed, pair])
        for slot in rng.permutation(candidates)[:per_pair].astype(int).tolist():
            found = [search(state[query], slot, state[gallery]) for state in (before, after)]
            examples.append(Example(query, gallery, slot, labels[slot], *found))
    return examples


def sheets(
    examples: Sequence[Example], labels: Mapping[str, Sequence[str | None]], pictures: Pictures
) -> list[tuple[Image.Image, Image.Image]]:
    """The contact sheets of each example: before, after.

    Args:
        labels: of each domain, by slot: the captions; without them, the cosines.
        pictures: called once per domain, with all the slots that are needed.
    """
    needed: dict[str, set[int]] = {}
    for example in examples:
        needed.setdefault(example.query_domain, set()).add(example.slot)
        needed.setdefault(example.gallery_domain, set()).update(example.before.slots, example.after.slots)
    images: dict[tuple[str, int], Image.Image] = {}
    for domain, slots in needed.items():
        ordered = sorted(slots)
        images |= {
            (domain, slot): image for slot, image in zip(ordered, pictures(domain, ordered), strict=True)
        }

    def sheet(example: Example, found: Found, when: str) -> Image.Image:
        if found.right is None:
            captions, title = [f"{score:.2f}" for score in found.scores], f"{when} training"
        else:
            captions = [labels[example.gallery_domain][slot] or "no label" for slot in found.slots]
            title = f"{when}: {example.label}, {found.hits} of {len(found.slots)} right"
        return contact_sheet(
            images[example.query_domain, example.slot],
            [images[example.gallery_domain, slot] for slot in found.slots],
            captions,
            found.right,
            title,
            side=72,
        )

    return [(sheet(e, e.before, "before"), sheet(e, e.after, "after")) for e in examples]
