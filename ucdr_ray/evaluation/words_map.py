"""What a training on words made of them: the features of its prompts, laid out by t-SNE (TKI, Fig. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ucdr_ray.evaluation import report_maps as maps


@dataclass(frozen=True)
class Words:
    """Features float32 (P, C, D) of prompts: P domain vectors with each of C class words."""

    prompts: np.ndarray
    classes: Sequence[str]


def words_maps(words: Words, seed: int) -> list[tuple[str, bytes]]:
    """Titles and PNGs of one layout of at most 1,000 prompts, coloured by domain vector and by class."""
    rng = np.random.default_rng(seed)
    domains, classes, dim = words.prompts.shape
    named = np.sort(rng.permutation(classes)[: maps.NAMED])
    # Whole classes, those with a colour first, so that each shows under every domain vector.
    order = [*named, *np.setdiff1d(np.arange(classes), named)][: max(maps.NAMED, maps.POINTS // domains)]
    points = maps.project(words.prompts[:, order].reshape(-1, dim), seed)
    of_class = np.tile([words.classes[row] for row in order], domains)
    of_domain = np.repeat([f"[DOMAIN] {number + 1}" for number in range(domains)], len(order))
    shown = [f"[DOMAIN] {number + 1}" for number in range(min(domains, maps.NAMED))]
    return [
        (title, maps.scatter(points, groups, names, title))
        for title, groups, names in (
            ("prompts, by class word", of_class, [words.classes[row] for row in named]),
            ("prompts, by domain vector", of_domain, shown),
        )
    ]
