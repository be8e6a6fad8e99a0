"""TKI on a small CLIP with random weights: what each stage brings about, and what it refuses."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from ucdr_ray.errors import UserError
from ucdr_ray.losses.words import domain_diversity
from ucdr_ray.method_settings import TkiConfig
from ucdr_ray.methods.tki import Prompts, aggregate, expand, features
from ucdr_ray.models.clip import ClipText
from ucdr_ray.models.small_clip import small_clip

WORDS = ["cat", "tree", "house", "car", "bird"]


@pytest.fixture(scope="module")
def text() -> ClipText:
    from transformers import CLIPTextModelWithProjection

    model, tokenizer = small_clip(["a", "style", "of", *WORDS])
    found = CLIPTextModelWithProjection(model.config.text_config)
    found.load_state_dict(model.state_dict(), strict=False)
    return ClipText(found, tokenizer, "small")


def config(**changed: object) -> TkiConfig:
    stages = {"expansion": 30, "aggregation": 60}
    return TkiConfig.model_validate({"stages": stages, "words": WORDS, "domains": 4, "lr": 0.02} | changed)


def nothing(*_: object) -> None:
    pass


def test_expansion_lowers_both_losses_and_reports_each_epoch(text: ClipText) -> None:
    told: list[tuple[str, int, dict[str, float]]] = []
    prompts = Prompts.of(text, WORDS)
    vectors = expand(text, prompts, config(), 0, lambda *row: told.append(row))
    assert vectors.shape == (4, text.width)
    assert [row[1] for row in told] == list(range(1, 31)) and {row[0] for row in told} == {"expansion"}
    first, last = told[0][2], told[-1][2]
    assert last["max"] < first["max"]
    assert last["max"] + last["min"] < first["max"] + first["min"]


def test_without_l_max_domains_stay_alike(text: ClipText) -> None:
    prompts = Prompts.of(text, WORDS)
    apart = {}
    for weight in (0, 1):
        vectors = expand(text, prompts, config(weight_max=weight), 0, nothing)
        apart[weight] = domain_diversity(text.features([prompts.domain] * 4, vectors), 10, 0).item()
    assert apart[1] < apart[0]


def test_aggregation_brings_prompts_of_a_class_together(text: ClipText) -> None:
    prompts = Prompts.of(text, WORDS)
    vectors = expand(text, prompts, config(), 0, nothing)
    t = features(text, prompts, vectors, batch=2)
    assert t.shape == (4, 5, text.dim)
    torch.testing.assert_close(t, features(text, prompts, vectors, batch=64), rtol=1e-4, atol=1e-5)
    for radius in (1.0, None):
        h = aggregate(t, config(radius=radius), 0, nothing)

        def margin(some: torch.Tensor) -> float:
            """By how much prompts of one class are more alike than those of two."""
            likeness = torch.einsum("pid,qjd->pqij", some, some)
            same = likeness[~torch.eye(4, dtype=torch.bool)].diagonal(dim1=1, dim2=2).mean()
            other = likeness[..., ~torch.eye(5, dtype=torch.bool)].mean()
            return float(same - other)

        with torch.no_grad():
            assert margin(h(t.flatten(0, 1)).view_as(t)) > margin(normalize(t, dim=2)) + 0.1


@pytest.mark.parametrize("batch", [2, 64])
def test_same_seed_same_result_and_another_seed_another(text: ClipText, batch: int) -> None:
    prompts, short = Prompts.of(text, WORDS), {"expansion": 2, "aggregation": 2}

    def projected(seed: int) -> torch.Tensor:
        settings = config(stages=short, batch=batch)
        vectors = expand(text, prompts, settings, seed, nothing)
        h = aggregate(features(text, prompts, vectors, 64), settings, seed, nothing)
        with torch.no_grad():
            return h(torch.ones(1, text.dim))

    torch.testing.assert_close(projected(0), projected(0))
    assert cosine_similarity(projected(0), projected(1)).item() < 0.999


def test_words_that_are_refused(text: ClipText) -> None:
    with pytest.raises(UserError, match="'' is no word to CLIP small"):
        Prompts.of(text, ["cat", ""])
    with pytest.raises(UserError, match="'cat' and 'Cat ' are the same to CLIP"):
        Prompts.of(text, ["cat", "tree", "Cat "])
    with pytest.raises(UserError, match="tokens; allowed: up to"):
        Prompts.of(text, ["cat " * 30])
    for changed, message in (
        ({"words": ["cat", "cat"]}, "'cat' twice"),
        ({"domains": 0}, "greater than or equal to 1"),
        ({"weight_min": 0, "weight_max": 0}, "one of them above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**changed)
