"""Queries for the contact sheets, drawn by seed, and what they find before and after training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

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
    """The top of a gallery for one query: slots and cosines, best first, and whether each is right."""

    slots: list[int]
    scores: list[float]
    right: list[bool]

    @property
    def hits(self) -> int:
        return sum(self.right)


@dataclass(frozen=True)
class Example:
    """One query of ``query_domain`` into ``gallery_domain``, before and after training."""

    query_domain: str
    gallery_domain: str
    slot: int
    label: str
    before: Found
    after: Found


def search(query: DomainVectors, slot: int, gallery: DomainVectors, k: int = TOP) -> Found:
    """The k best of a gallery by cosine (unit vectors), ties in the order of the metrics."""
    order = tie_order(gallery.ids)
    scores = gallery.vectors[order] @ query.vectors[slot]
    best = np.argsort(-scores, kind="stable")[:k]
    slots = order[best].tolist()
    return Found(slots, scores[best].tolist(), [gallery.labels[row] == query.labels[slot] for row in slots])


def choose(
    before: Mapping[str, DomainVectors], after: Mapping[str, DomainVectors], per_pair: int, seed: int
) -> list[Example]:
    """Up to ``per_pair`` random queries of each ordered pair that have something to find; not the best ones."""
    examples = []
    for pair, (query, gallery) in enumerate(permutations(before, 2)):
        known = {label for label in before[gallery].labels if label is not None}
        candidates = [slot for slot, label in enumerate(before[query].labels) if label in known]
        rng = np.random.default_rng([seed, pair])
        for slot in rng.permutation(candidates)[:per_pair].astype(int).tolist():
            label = str(before[query].labels[slot])
            found = [search(state[query], slot, state[gallery]) for state in (before, after)]
            examples.append(Example(query, gallery, slot, label, *found))
    return examples


def sheets(
    examples: Sequence[Example], labels: Mapping[str, Sequence[str | None]], pictures: Pictures
) -> list[tuple[Image.Image, Image.Image]]:
    """The contact sheets of each example: before, after.

    Args:
        labels: of each domain, by slot: the captions.
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
        return contact_sheet(
            images[example.query_domain, example.slot],
            [images[example.gallery_domain, slot] for slot in found.slots],
            [labels[example.gallery_domain][slot] or "no label" for slot in found.slots],
            found.right,
            f"{when}: {example.label}, {found.hits} of {len(found.slots)} right",
            side=72,
        )

    return [(sheet(e, e.before, "before"), sheet(e, e.after, "after")) for e in examples]
