"""TKI (Yan, Yin, Xu, Deng, Huang): retrieval across any domains from CLIP and a list of words, without an image.

Sec. 4.1, domain expansion: P vectors, each in the place of a word in "A [DOMAIN]_p style of [CLASS]_i.", learn to mean
P different domains (Eq. 1) and no class (Eq. 3); together Eq. 5.

Sec. 4.2, domain aggregation: a projection h of CLIP's common space learns to bring the prompts of a class together,
whatever the domain (Eq. 6). It is trained on text, and used on images: z = h(I(x)), of unit length.

Training is in one process: CLIP stays as it is, and there are P C prompts, not millions of images. A step costs as much
as its prompts in CLIP's text encoder, P of them for each of `batch` class words; Eq. 6 as the square of their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ucdr_ray.errors import UserError
from ucdr_ray.losses.words import aggregation, category_correlation, domain_diversity
from ucdr_ray.method_settings import TkiConfig
from ucdr_ray.models.clip import ClipText, Prompt
from ucdr_ray.models.hyperbolic import Projection

Report = Callable[
    [str, int, dict[str, float]], None
]  # stage, epoch of the stage from 1 on, means of its losses
_INITIAL = 0.02  # deviation of the vectors before training


@dataclass(frozen=True)
class Prompts:
    """Lambda_pi = "a [DOMAIN]_p style of [CLASS]_i.", and its two parts: they differ in p by the vector alone."""

    whole: list[Prompt]  # of each class
    domain: Prompt
    classes: list[Prompt]

    @classmethod
    def of(cls, text: ClipText, words: Sequence[str]) -> "Prompts":
        """Those of the class words.

        Raises:
            UserError: a word that is nothing to CLIP, or the same to it as another one, or too long.
        """
        classes = [text.prompt(word) for word in words]
        seen: dict[tuple[int, ...], str] = {}
        for word, prompt in zip(words, classes, strict=True):
            if (other := seen.setdefault(tuple(prompt.tokens), word)) != word:
                raise UserError(f"words: {other!r} and {word!r} are the same to CLIP; allowed: each once")
        whole = [text.prompt("a", None, "style of", word, ".") for word in words]
        return cls(whole, text.prompt("a", None, "style of"), classes)


def expand(text: ClipText, prompts: Prompts, config: TkiConfig, seed: int, report: Report) -> Tensor:
    """Domain expansion: the vectors v_p.

    Args:
        report: is told each epoch's L_max and L_min.

    Returns:
        (P, W) vectors.
    """
    draw = torch.Generator().manual_seed(seed)
    vectors = (_INITIAL * torch.randn(config.domains, text.width, generator=draw)).requires_grad_()
    with torch.no_grad():
        classes = text.features(prompts.classes)
    optimizer = torch.optim.Adam([vectors], lr=config.lr)
    for epoch in range(1, config.stages.expansion + 1):
        sums = {"max": 0.0, "min": 0.0}
        for some in torch.randperm(len(prompts.whole), generator=draw).split(config.batch):
            l_max = domain_diversity(
                text.features([prompts.domain] * config.domains, vectors), config.alpha, config.mu
            )
            # Of the chosen classes, among all of them: the prototypes t_j depend on no vector.
            t = of_all(text, [prompts.whole[i] for i in some.tolist()], vectors)
            l_min = category_correlation(t, classes, some, config.temperature)
            optimizer.zero_grad()
            (config.weight_min * l_min + config.weight_max * l_max).backward()
            optimizer.step()
            for name, loss in (("max", l_max), ("min", l_min)):
                sums[name] += float(loss.detach()) * len(some) / len(prompts.whole)
        report("expansion", epoch, sums)
    return vectors.detach()


def of_all(text: ClipText, prompts: Sequence[Prompt], vectors: Tensor) -> Tensor:
    """t_pi of these prompts with each vector: (P, n, D)."""
    count = len(vectors)
    rows = vectors.repeat_interleave(len(prompts), dim=0)
    return text.features(list(prompts) * count, rows).unflatten(0, (count, len(prompts)))


def aggregate(t: Tensor, config: TkiConfig, seed: int, report: Report) -> Projection:
    """Domain aggregation: h, from the features of all prompts.

    Args:
        t: (P, C, D) t_pi.
        report: is told each epoch's L_agg.
    """
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        h = Projection(t.shape[2], config.radius).to(t.device)
    optimizer = torch.optim.Adam(h.parameters(), lr=config.lr)
    for epoch in range(1, config.stages.aggregation + 1):
        total = 0.0
        for some in torch.randperm(t.shape[1], generator=draw).split(config.batch):
            chosen = t[:, some]
            loss = aggregation(h(chosen.flatten(0, 1)).view_as(chosen), config.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(some) / t.shape[1]
        report("aggregation", epoch, {"agg": total})
    return h.eval()


@torch.no_grad()
def features(text: ClipText, prompts: Prompts, vectors: Tensor, batch: int) -> Tensor:
    """(P, C, D): t_pi of all domains and classes."""
    parts = [of_all(text, prompts.whole[i : i + batch], vectors) for i in range(0, len(prompts.whole), batch)]
    return torch.cat(parts, dim=1)
