"""Training of generators: what is learnt, and that an interruption changes nothing."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from tests.tiny import make_catalog
from ucdr_ray import own_generator
from ucdr_ray.catalog import Catalog
from ucdr_ray.cli import run as ucdr
from ucdr_ray.decoded import decode, spans
from ucdr_ray.models.content import ContentWord
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_files import load_generator
from ucdr_ray.models.generator_trainer import GeneratorTrainer
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.models.small_generator import small_generator

NOTHING = torch.zeros(0, 2, dtype=torch.int64)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return make_catalog(tmp_path_factory.mktemp("own") / "catalog", {"ink drawing": 9, "photo": 20})


@pytest.fixture
def train(catalog, capfd):
    def call(out: Path, *words: str) -> tuple[int, str]:
        fixed = ["--backbone", "random:resnet-mini", "--size", "32", "--steps", "5", "--batch", "4"]
        code = ucdr(["generator", "train", str(catalog.path), "--out", str(out), *fixed, *words])
        return code, capfd.readouterr().err

    return call


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{name}": value
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path, train, monkeypatch) -> None:
    assert train(tmp_path / "whole", "--style", "photo=colour photo")[0] == 0
    monkeypatch.setattr(own_generator, "_SAVED", 2)
    step = GeneratorTrainer.step

    def interrupted(self, *given):
        if self.taken == 3:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(GeneratorTrainer, "step", interrupted)
    assert train(tmp_path / "parts", "--style", "photo=colour photo")[0] == 130
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(GeneratorTrainer, "step", step)
    code, err = train(tmp_path / "parts", "--style", "photo=ink", "--steps", "5")
    assert code == 2 and "other settings or images" in err and err.count("\n") == 1
    assert train(tmp_path / "parts", "--style", "photo=colour photo")[0] == 0
    found, expected = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert {file.name for file in tmp_path.iterdir()} == {"whole", "parts"}

    made = load_generator(str(tmp_path / "parts"))
    assert made.styles == {"ink drawing": "ink drawing", "photo": "colour photo"}
    assert isinstance(made.start, ContentWord) and made.start.feature == 256
    assert float(made.start.centre.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in made.parameters())
    size = sum(file.stat().st_size for file in (tmp_path / "parts").rglob("*") if file.is_file())
    assert size < 8e6


def test_a_model_of_small_pictures_is_one_and_says_so(tmp_path, train) -> None:
    out, summary = tmp_path / "model", tmp_path / "summary.json"
    assert train(out, "--draws", "16", "--json", str(summary))[0] == 0
    assert load_generator(str(out)).size == 16
    assert [row["size"] for row in json.loads(summary.read_text())["heeded"]] == [16] * 4


def test_features_tell_nothing_of_their_domains_mean(catalog) -> None:
    encoder = Encoder.from_backbone("random:resnet-mini", 32).eval()
    names = [domain.name for domain in catalog.domains]
    found = own_generator.material(catalog, names, encoder, 0)
    assert found.pixels.shape == (29, 3, 32, 32) and found.feature.shape == (29, 2, 4, 256)
    means = []
    for number, name in enumerate(names):
        rows = found.domain == number
        torch.testing.assert_close(found.feature[rows].mean(dim=(0, 1, 2)), found.centre, atol=1e-5, rtol=0)
        images = torch.from_numpy(decode(spans(catalog, name), 32, encoder.resize)).float() / 255
        with torch.no_grad():
            plain = encoder.feature(images)
        moved = (plain - found.feature[rows, 0, 0]).mean(0)
        torch.testing.assert_close(plain - moved, found.feature[rows, 0, 0], atol=1e-4, rtol=1e-3)
        means.append(found.centre + moved)
    torch.testing.assert_close(found.centre, torch.stack(means).mean(0), atol=1e-4, rtol=1e-3)
    assert not torch.equal(found.feature[:, :, 0], found.feature[:, :, 1])  # colours were changed


def test_what_is_heeded_is_seen_by_the_loss(catalog) -> None:
    """Of a generator that knows nothing of [z], and of one that is asked of pictures of one domain only."""
    encoder = Encoder.from_backbone("random:resnet-mini", 32).eval()
    names = [domain.name for domain in catalog.domains]
    shown = own_generator.material(catalog, names, encoder, 0)
    made = small_generator(["a", "of", "ink", "photo"])
    made.start = ContentWord(256, made.width, made.word_norm())
    prompts = Prompts.of(made.tokenizer, ["ink", "photo"])
    deaf = copy.deepcopy(made)
    torch.nn.init.zeros_(deaf.unet.conv_out.weight)
    silent = own_generator.heeded(deaf, shown, prompts, 0)
    assert all((row.content, row.style) == (0, 0) for row in silent)
    assert [(row.size, row.time_low, row.time_high) for row in silent[:4]] == [
        (32, 0, 0.5), (32, 0.5, 0.7), (32, 0.7, 0.85), (32, 0.85, 1)
    ]  # fmt: skip
    assert [row.size for row in silent[4:]] == [16] * 4
    trainer = GeneratorTrainer(made, lr=2e-3, steps=60)
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        domain = torch.randint(2, (8,), generator=draw)
        content = torch.randn(8, made.width, generator=draw)
        level = (1.2 * domain - 0.6)[:, None, None, None]
        trainer.step(level + torch.zeros(8, 3, 32, 32), *prompts.filled(domain, content), draw)
    level = torch.where(shown.domain == 1, 204, 51).to(torch.uint8)[:, None, None, None]
    plain = replace(shown, pixels=level.expand(-1, 3, 32, 32).contiguous())
    for heard in own_generator.heeded(made, plain, prompts, 0):
        if heard.time_low >= 0.5:  # where the noise lets the words decide
            assert heard.style > 0.2 and abs(heard.content) < 0.5 * heard.style


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--style", "paint=oil"],
            "--style paint=oil: write it as DOMAIN=WORDS; the domains are ink drawing",
        ),
        (["--style", "photo"], "--style photo: write it as"),
        (["--style", "photo="], "style '': no words in it"),
        (["--style", "photo=" + 20 * "colour "], "allowed: up to 16"),
        (["--backbone", "/no/backbone"], "/no/backbone"),
        (["--domains", "photo"], "at least 2"),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_nothing(tmp_path, train, words, message) -> None:
    code, err = train(tmp_path / "model", *words)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_and_a_damaged_state_are_left_alone(tmp_path, train) -> None:
    (tmp_path / "model").mkdir()
    code, err = train(tmp_path / "model")
    assert code == 2 and "never written over" in err
    (tmp_path / "new.state.safetensors").write_bytes(b"nonsense")
    code, err = train(tmp_path / "new")
    assert code == 2 and "new.state.safetensors is damaged" in err and err.count("\n") == 1
    assert (tmp_path / "new.state.safetensors").read_bytes() == b"nonsense"


def test_a_state_with_a_flipped_bit_is_not_gone_on_from(tmp_path, train, monkeypatch) -> None:
    monkeypatch.setattr(own_generator, "_SAVED", 2)
    step = GeneratorTrainer.step
    monkeypatch.setattr(
        GeneratorTrainer, "step", lambda self, *given: math.nan if self.taken == 3 else step(self, *given)
    )
    code, err = train(tmp_path / "model")
    assert code == 1 and "the loss is nan at step 3: try a lower --lr" in err
    monkeypatch.undo()
    state = tmp_path / "model.state.safetensors"
    content = bytearray(state.read_bytes())
    content[-100] ^= 1
    state.write_bytes(content)
    code, err = train(tmp_path / "model")
    assert code == 2 and "model.state.safetensors is damaged (checksum)" in err
    assert not (tmp_path / "model").exists()


def test_two_trainings_of_one_model_do_not_meet(tmp_path, train) -> None:
    with FileLock(tmp_path / ".model.lock"):
        code, err = train(tmp_path / "model")
    assert code == 2 and "another process trains a generator there" in err
    (tmp_path / "file").write_text("")
    code, err = train(tmp_path / "file" / "model")
    assert code == 2 and "is no folder that may be written to" in err


def test_it_learns_what_the_style_says() -> None:
    made = small_generator(["a", "of", "dark", "light"])
    prompts = Prompts.of(made.tokenizer, ["dark", "light"])
    trainer = GeneratorTrainer(made, lr=2e-3, steps=60)
    draw = torch.Generator().manual_seed(0)
    content = torch.randn(8, made.width, generator=draw)

    def pictures(domain: torch.Tensor) -> torch.Tensor:
        level = 1.2 * domain[:, None, None, None] - 0.6
        return level + 0.3 * torch.randn(len(domain), 3, 8, 8, generator=draw).repeat_interleave(
            4, 2
        ).repeat_interleave(4, 3)

    for _ in range(60):
        domain = torch.randint(2, (8,), generator=draw)
        trainer.step(pictures(domain), *prompts.filled(domain, content), draw)
    domain = torch.arange(8) % 2
    latent, noise = pictures(domain), torch.randn(8, 3, 32, 32, generator=draw)
    t = torch.full((8,), 900)

    def loss(told: torch.Tensor) -> float:
        with torch.no_grad():
            return float(made.loss(latent, noise, t, made.text(*prompts.filled(told, content))).mean())

    assert loss(domain) < 0.8 * loss(1 - domain)
