"""An encoder from a CLIP: its image side is that of transformers, it reads text, and its folder holds both."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from ucdr_ray.errors import UserError
from ucdr_ray.models.encoder import Encoder, ProjectionSpec
from ucdr_ray.models.small_clip import save_clip, small_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "small"
    save_clip(*small_clip(["a", "cat", "tree"]), out)
    return out


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.from_backbone(str(folder))


@pytest.fixture(scope="module")
def projected(encoder: Encoder) -> Encoder:
    torch.manual_seed(0)
    return Encoder(encoder.backbone, encoder.size, head=ProjectionSpec(1.0), text=encoder._text[0]).eval()


IMAGES = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_images_and_text_are_those_of_transformers(folder: Path, encoder: Encoder) -> None:
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = (IMAGES / 255 - 0.5) / 0.5
    ids = encoder._text[0].tokenizer(["a cat", "tree"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=pixels, **ids)
    assert encoder.size == 64 and encoder.dim == 128
    torch.testing.assert_close(encoder.encode(IMAGES), out.image_embeds, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(encoder.encode_text(["a cat", "tree"]), out.text_embeds, rtol=1e-3, atol=1e-4)


def test_the_folder_holds_both_sides(projected: Encoder, tmp_path: Path) -> None:
    projected.save(tmp_path / "one")
    loaded = Encoder.load(tmp_path / "one")
    loaded.save(tmp_path / "two")  # before its text side was read
    again = Encoder.load(tmp_path / "two")
    for other in (loaded, again):
        assert other.fingerprint == projected.fingerprint and other.reads_text
        torch.testing.assert_close(other.encode(IMAGES), projected.encode(IMAGES))
        torch.testing.assert_close(other.encode_text(["tree"]), projected.encode_text(["tree"]))
    again.save(tmp_path / "three")
    assert Encoder.load(tmp_path / "three").fingerprint == projected.fingerprint


def test_the_projection_is_on_both_sides(encoder: Encoder, projected: Encoder) -> None:
    torch.testing.assert_close(projected.encode(IMAGES), projected.head(encoder.encode(IMAGES)).detach())
    texts = ["a cat", "tree"]
    torch.testing.assert_close(
        projected.encode_text(texts), projected.head(encoder.encode_text(texts)).detach()
    )


def test_a_changed_text_side_is_noticed(projected: Encoder, tmp_path: Path) -> None:
    projected.save(tmp_path / "one")
    tokenizer = tmp_path / "one" / "text" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("cat", "cot", 1))
    with pytest.raises(UserError, match="text is damaged"):
        Encoder.load(tmp_path / "one")


def test_an_encoder_of_images_alone_says_so() -> None:
    encoder = Encoder.from_backbone("random:resnet-mini", 32)
    assert not encoder.reads_text
    with pytest.raises(UserError, match="reads images only"):
        encoder.encode_text(["cat"])
