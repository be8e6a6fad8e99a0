"""CLIP's text side: its own forward pass, with words replaced by vectors, and what it refuses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from transformers import CLIPModel

from ucdr_ray.errors import UserError
from ucdr_ray.models.clip import ClipText
from ucdr_ray.models.clip_trainer import ClipTrainer, zero_shot
from ucdr_ray.models.small_clip import save_clip, small_clip

WORDS = ["a", "style", "of", "cat", "tree", "sketch", "photo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "small"
    save_clip(*small_clip(WORDS), out)
    return out


@pytest.fixture(scope="module")
def text(folder: Path) -> ClipText:
    return ClipText.load(str(folder))


def test_features_are_those_of_transformers(folder: Path, text: ClipText) -> None:
    texts = ["a sketch of a cat", "tree", "a photo style of a tree"]
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    ids = text.tokenizer(texts, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        pooled = model.text_model(**ids).pooler_output
        expected = torch.nn.functional.normalize(model.text_projection(pooled), dim=1)
    torch.testing.assert_close(text.encode(texts), expected, rtol=1e-4, atol=1e-5)


def test_a_word_replaced_by_its_own_vector_changes_nothing(text: ClipText) -> None:
    plain = text.features([text.prompt("a", "sketch", "style of", word) for word in ("cat", "tree")])
    own = text.model.get_input_embeddings().weight[text.prompt("sketch").tokens]
    gap = [text.prompt("a", None, "style of", word) for word in ("cat", "tree")]
    torch.testing.assert_close(text.features(gap, own.repeat(2, 1)), plain)


def test_only_the_vectors_learn(text: ClipText) -> None:
    vectors = torch.randn(2, text.width, requires_grad=True)
    gap = [text.prompt("a", None, "style of", word) for word in ("cat", "tree")]
    text.features(gap, vectors).sum().backward()
    assert vectors.grad is not None and (vectors.grad.abs().sum(1) > 0).all()
    assert all(one.grad is None for one in text.parameters())
    # and each feature heeds its own vector alone
    (one,) = torch.autograd.grad(text.features(gap, vectors)[0].sum(), vectors)
    assert one[0].abs().sum() > 0 and one[1].abs().sum() == 0


def test_a_prompt_means_the_same_whatever_stands_beside_it(text: ClipText) -> None:
    together = text.encode(["cat", "a photo style of a sketch of a tree"])
    torch.testing.assert_close(together[:1], text.encode(["cat"]), rtol=1e-4, atol=1e-5)


def test_refusals(text: ClipText, tmp_path: Path) -> None:
    for nothing in ("", "  ", "\n"):
        with pytest.raises(UserError, match="is no word to CLIP small"):
            text.prompt("a", nothing)
    with pytest.raises(UserError, match="tokens; allowed: up to 22"):
        text.prompt(*["tree"] * 23)
    with pytest.raises(UserError, match="its text side can't be loaded"):
        ClipText.load(str(tmp_path))
    with pytest.raises(UserError, match="its text side can't be loaded"):
        ClipText.load("nobody/has-this-model")


def test_a_trained_one_names_what_it_saw_and_goes_on_after_a_stop() -> None:
    torch.manual_seed(0)
    model, tokenizer = small_clip(WORDS)
    captions = torch.tensor(
        tokenizer(["a photo of a cat", "a photo of a tree"], padding="max_length")["input_ids"]
    )
    bright = torch.randint(200, 256, (8, 3, 64, 64), dtype=torch.uint8)
    dark = torch.randint(0, 56, (8, 3, 64, 64), dtype=torch.uint8)
    pixels, caption = torch.cat([bright, dark]), torch.arange(2).repeat_interleave(8)
    trainer = ClipTrainer(model, captions, 1e-3, 12, seed=0)
    losses = [trainer.step(pixels, caption) for _ in range(6)]
    other = ClipTrainer(small_clip(WORDS, seed=5)[0], captions, 1e-3, 12, seed=0)
    other.load(load(save(trainer.state())))
    rest = [trainer.step(pixels, caption) for _ in range(6)]
    assert [other.step(pixels, caption) for _ in range(6)] == pytest.approx(rest, rel=1e-4)
    assert rest[-1] < losses[0]
    assert (zero_shot(model, pixels, list(captions[:, None])) == caption).all()
