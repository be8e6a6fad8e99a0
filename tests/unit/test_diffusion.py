import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.generators import generator, save
from ucdr_ray.errors import UserError
from ucdr_ray.models.generator_files import load_codec, load_generator
from ucdr_ray.models.prompts import Prompts, prompt
from ucdr_ray.models.small_generator import small_tokenizer


@pytest.fixture(scope="module")
def made():
    return generator()


def told(made, content: torch.Tensor, style: str = "sketch"):
    """The text of the style's prompt with this content, for each row of it."""
    prompts = Prompts.of(made.tokenizer, [style])
    rows = len(content)
    place = torch.stack([torch.arange(rows), prompts.content.expand(rows)], dim=1)
    return made.text(prompts.ids.expand(rows, -1), place, content)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("photo", "a photo of a [z]"),
        ("infograph", "an infograph of a [z]"),
        ("art painting", "an art painting of a [z]"),
    ],
)
def test_articles_are_right(style: str, expected: str) -> None:
    assert prompt(style, "[z]") == expected


def test_a_prompt_is_the_words_with_a_place_for_the_content(made) -> None:
    prompts = Prompts.of(made.tokenizer, ["infograph", "pencil drawing"])
    for row, place, words, style in zip(
        prompts.ids, prompts.content, prompts.style, ["infograph", "pencil drawing"], strict=True
    ):
        whole = made.tokenizer(prompt(style, "cat"), padding="max_length")["input_ids"]
        cat = made.tokenizer("cat", add_special_tokens=False)["input_ids"][0]
        assert whole.index(cat) == place
        assert row[torch.arange(len(row)) != place].tolist() == [t for i, t in enumerate(whole) if i != place]
        assert made.tokenizer.decode(row[words]).strip() == style


def test_a_style_that_is_too_long_or_empty_is_refused(made) -> None:
    with pytest.raises(UserError, match="up to 16"):
        Prompts.of(made.tokenizer, ["pencil " * 20])
    with pytest.raises(UserError, match="no words"):
        Prompts.of(made.tokenizer, ["  "])


def test_a_word_in_the_place_of_the_content_gives_what_the_prompt_with_the_word_gives(made) -> None:
    ids = made.tokenizer("a sketch of a cat", padding="max_length", return_tensors="pt")["input_ids"]
    cat = made.tokenizer("cat", add_special_tokens=False)["input_ids"]
    expected = made.text_encoder(input_ids=ids).last_hidden_state
    found = told(made, made.vocabulary()[cat])
    # Behind the end of the text nothing is different either: the same padding.
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_error_of_the_predicted_noise_or_velocity(prediction: str) -> None:
    made = generator(prediction)
    torch.manual_seed(1)
    latent, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 400, 999])
    text = told(made, torch.randn(3, 24))
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[t].view(3, 1, 1, 1)
    noised = kept.sqrt() * latent + (1 - kept).sqrt() * noise
    predicted = made.unet(noised.float(), t, encoder_hidden_states=text).sample
    target = noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latent
    expected = ((predicted - target) ** 2).flatten(1).mean(1)
    found = made.loss(latent, noise, t, text)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("way", "tolerance"), [("bfloat16", 0.1), ("channels last", 1e-4), ("computed again", 1e-5)]
)
def test_cheaper_ways_give_the_same_gradient(way: str, tolerance: float) -> None:
    torch.manual_seed(3)
    latent, noise, t = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.tensor([0, 300, 700, 999])
    content = torch.randn(4, 24)

    def gradient(made) -> torch.Tensor:
        word = content.clone().requires_grad_(True)
        made.loss(latent, noise, t, told(made, word)).sum().backward()
        return word.grad

    calls = []
    other = generator()
    other.unet.up_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    if way == "bfloat16":
        other.to(torch.bfloat16)
    elif way == "channels last":
        other.unet.to(memory_format=torch.channels_last)
    else:
        other.unet.enable_gradient_checkpointing()
    expected, found = gradient(generator()), gradient(other)
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())
    assert len(calls) == (2 if way == "computed again" else 1)


@pytest.mark.parametrize("word", ["sketch", "фото", "照片", "dessin-à-l'encre"])
def test_words_of_all_writings_are_known(word: str) -> None:
    tokenizer = small_tokenizer(["a", "of", word])
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).replace(" ", "") == word
    assert len(ids) == 1 or not word.isalpha()


def test_nothing_but_the_content_gets_a_gradient_and_it_moves_the_loss() -> None:
    made = generator()
    made.train()
    content = torch.randn(2, 24, requires_grad=True)
    latent, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([300, 700])
    before = made.loss(latent, noise, t, told(made, content))
    before.sum().backward()
    assert all(parameter.grad is None for parameter in made.parameters())
    assert not made.training
    assert float(content.grad.norm(dim=1).min()) > 0
    with torch.no_grad():
        after = made.loss(latent, noise, t, told(made, content - 0.5 * content.grad / content.grad.norm()))
    assert float(after.sum()) < float(before.sum())


@pytest.mark.parametrize("vae", [True, False])
def test_a_saved_model_is_loaded_as_it_was(tmp_path: Path, vae: bool) -> None:
    made = generator(vae=vae)
    source = str(save(made, tmp_path / "model"))
    found = load_generator(source)
    codec, side = load_codec(source)
    assert (side, found.size, found.width, found.name) == (16, 16, 24, "model")
    assert found.codec.fingerprint == codec.fingerprint == made.codec.fingerprint
    latent, noise, t = (
        torch.randn(1, codec.channels, side // codec.stride, side // codec.stride),
        None,
        torch.tensor([5]),
    )
    noise = torch.randn_like(latent)
    content = torch.randn(1, 24)
    torch.testing.assert_close(
        found.loss(latent, noise, t, told(found, content)), made.loss(latent, noise, t, told(made, content))
    )


def test_latents_are_at_the_scale_of_the_network(made) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    mean, log_variance = made.codec.encode(images)
    found = made.codec.vae.encode(images.float() / 127.5 - 1).latent_dist
    scale = made.codec.vae.config.scaling_factor
    torch.testing.assert_close(mean, found.mean * scale)
    torch.testing.assert_close((log_variance / 2).exp(), found.std * scale)


def test_without_a_vae_latents_are_pixels() -> None:
    codec = generator(vae=False).codec
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    mean, log_variance = codec.encode(images)
    assert torch.equal(codec.decode(mean), images)
    assert float((log_variance / 2).exp().max()) < 1e-6


def _break(folder: Path, part: str) -> None:
    if part == "index":
        (folder / "model_index.json").unlink()
    elif part == "no unet":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "unet"}))
    elif part == "weights gone":
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    elif part == "weights cut":
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    elif part == "weights missing":
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        del state["conv_in.weight"]
        save_file(state, file, {"format": "pt"})
    elif part == "other width":
        shutil.rmtree(folder / "text_encoder")
        generator(width=32).text_encoder.save_pretrained(folder / "text_encoder")
    elif part == "other target":
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(file.read_text().replace('"epsilon"', '"sample"'))
    elif part == "two text encoders":
        index = json.loads((folder / "model_index.json").read_text())
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        (folder / "model_index.json").write_text(json.dumps(index))
    elif part == "no folder":
        shutil.rmtree(folder)
    elif part == "vocabulary gone":
        (folder / "tokenizer" / "tokenizer.json").unlink()
    elif part == "index a list":
        (folder / "model_index.json").write_text("[1, 2]")
    elif part == "index deep":
        (folder / "model_index.json").write_text(100_000 * "[")
    else:
        where, field, value = part.split()
        file = folder / where
        file.write_text(json.dumps(json.loads(file.read_text()) | {field: json.loads(value)}))


@pytest.mark.parametrize(
    "part",
    [
        "index",
        "no unet",
        "weights gone",
        "weights cut",
        "weights missing",
        "other width",
        "other target",
        "two text encoders",
        "no folder",
        "vocabulary gone",
        "index a list",
        "index deep",
        "tokenizer/tokenizer_config.json model_max_length 1e30",
        "tokenizer/tokenizer_config.json pad_token null",
        "unet/config.json sample_size [16,16]",
        "unet/config.json sample_size 0",
        "unet/config.json sample_size null",
        "unet/config.json sample_size 1000000000",
        "scheduler/scheduler_config.json num_train_timesteps 0",
        "scheduler/scheduler_config.json trained_betas [0.1,0.2]",
    ],
)
def test_a_missing_or_foreign_model_is_one_clear_error(tmp_path: Path, part: str) -> None:
    folder = save(generator(), tmp_path / "model")
    _break(folder, part)
    with pytest.raises(UserError) as caught:
        load_generator(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    if part in ("index", "no folder", "weights gone", "weights cut"):
        assert "name a folder in the diffusers format" in message
