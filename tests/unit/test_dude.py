from dataclasses import replace

import pytest
import torch

from tests.generators import generator
from ucdr_ray.config import load_config
from ucdr_ray.draws import Draws
from ucdr_ray.errors import UserError
from ucdr_ray.methods.base import Batch
from ucdr_ray.methods.dude import Dude, start_content, styles
from ucdr_ray.models.content import ContentWord, load_content, read_by
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

NAMES = ["photo", "sketch"]
SIZES = (6, 5)


def method(*settings: str, vae: bool = True) -> Dude:
    config = load_config(None, ["method.name=dude", *[f"method.{setting}" for setting in settings]]).method
    torch.manual_seed(0)
    backbone = Encoder.from_backbone("random:resnet-mini", 32).backbone
    made = Dude(Encoder(backbone, 32, head=(16, 8)), config, NAMES, generator(vae=vae))
    made.online.eval()
    made.target.eval()
    return made


def batch(step: int = 0, vae: bool = True) -> Batch:
    torch.manual_seed(1)
    domain, slot = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 5, 2, 4, 1])
    latents = torch.randn(5, 2, 2, 4 if vae else 3, 8 if vae else 16, 8 if vae else 16).half()
    draws = Draws(5, 3, torch.arange(5))
    return Batch(torch.rand(5, 3, 32, 32), torch.rand(5, 3, 32, 32), domain, slot, 5, latents, draws, step)


def memory() -> LocalMemory:
    torch.manual_seed(2)
    made = LocalMemory(list(zip(NAMES, SIZES, strict=True)), 8)
    for domain, rows in enumerate(SIZES):
        keys = torch.nn.functional.normalize(torch.randn(rows, 8), dim=1)
        made.push(torch.full((rows,), domain), torch.arange(rows), keys)
    made.rebuild(Neighbourhood(3, 3))
    return made


def test_stages_are_those_of_the_paper() -> None:
    stages = method("stages={warm_up: 50, in_domain: 30, cross_domain: 20}").stages()
    assert [(s.name, s.epochs, sorted(s.weights), s.k_in, s.k_cross) for s in stages] == [
        ("warm_up", 50, ["od"], None, None),
        ("in_domain", 30, ["aug", "in", "od"], 50, None),
        ("cross_domain", 20, ["aug", "cross", "in", "od"], 50, 50),
    ]
    assert [stage.contrasts for stage in stages] == [False, True, True]


def test_switches_of_the_ablations_take_out_what_they_name() -> None:
    assert [s.name for s in method("stages={in_domain: 0}").stages()] == ["warm_up", "cross_domain"]
    assert not any("od" in s.weights for s in method("weight_od=0", "stages={warm_up: 0}").stages())
    bare = method("weight_in=0").stages()
    assert [sorted(s.weights) for s in bare] == [["od"], ["aug", "od"], ["aug", "cross", "od"]]
    assert [(s.k_in, s.k_cross) for s in bare] == [(None, None), (None, None), (None, 50)]
    assert all(stage.latents for stage in method().stages())
    later = method("keep_od=false").stages()
    assert [stage.latents for stage in later] == [True, False, False]
    assert ["od" in s.weights for s in later] == [True, False, False]


def test_the_loss_is_the_generators_for_each_images_prompt_time_and_noise() -> None:
    made, given = method(), batch()
    (stage, *_) = made.stages()
    losses = made.step(given, stage, memory())
    # One image at a time, in a prompt written out.
    expected = 0.0
    draws = batch().draws
    flip, spread = (draws.uniform(0, 1) * 2).long(), draws.normal(4, 8, 8)
    t, noise = draws.uniform(0, 1000).long(), draws.normal(4, 8, 8)
    with torch.no_grad():
        for i in range(5):
            mean, log_variance = given.latents[i, flip[i]].float()
            latent = (mean + log_variance.exp().sqrt() * spread[i])[None]
            word = made.online(given.query[i : i + 1], False, True)[1]
            prompts = Prompts.of(made.generator.tokenizer, [NAMES[int(given.domain[i])]])
            text = made.generator.text(prompts.ids, torch.tensor([[0, int(prompts.content)]]), word)
            expected += float(made.generator.loss(latent, noise[i : i + 1], t[i : i + 1], text)) / 5
    assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert float(losses.terms["od"]) == pytest.approx(expected, rel=1e-4)


def test_times_stay_in_the_range_that_is_set() -> None:
    made, seen = method("time_low=0.6", "time_high=0.7"), []
    whole = made.generator.loss
    made.generator.loss = lambda latent, noise, t, text: seen.append(t) or whole(latent, noise, t, text)
    for step in range(20):
        draws = Draws(5, step, torch.arange(5))
        made.step(replace(batch(), draws=draws), made.stages()[0], memory())
    times = torch.cat(seen)
    assert int(times.min()) >= 600
    assert int(times.max()) < 700


def test_warm_up_trains_the_encoder_by_the_generator_alone_and_leaves_the_bank() -> None:
    made, bank = method(), memory()
    version = bank.version
    made.step(batch(), made.stages()[0], bank).total.backward()
    assert bank.version == version
    assert all(parameter.grad is not None for parameter in made.encoder.backbone.parameters())
    assert all(parameter.grad is None for parameter in made.encoder.head.parameters())
    assert all(parameter.grad is None for parameter in made.generator.parameters())
    assert all(parameter.grad is not None for parameter in made.extras()["content"].parameters())


def test_z_starts_as_it_was_trained_along_with_the_generator() -> None:
    made = generator()
    torch.manual_seed(5)
    encoder = Encoder.from_backbone("random:resnet-mini", 32)
    made.start = ContentWord(256, made.width, 1.0).requires_grad_(False)
    made.start_for = read_by(encoder)
    feature = torch.randn(3, 256)
    started = start_content(made, encoder, seed=0)
    assert torch.equal(started(feature), made.start(feature))
    assert all(parameter.requires_grad for parameter in started.parameters())
    with torch.no_grad():
        started.length.zero_()
    assert not torch.equal(started(feature), made.start(feature))
    for another in (("random:vit-tiny", 32), ("random:resnet-mini", 48), ("random:resnet-mini", 32, 1)):
        with pytest.raises(UserError, match="another backbone"):
            start_content(made, Encoder.from_backbone(*another), seed=0)


def test_styles_are_those_given_then_those_the_generator_was_told_then_the_names() -> None:
    config = load_config(None, ["method.name=dude", "method.styles={photo: snapshot}"]).method
    told = {"photo": "colour photo", "sketch": "pencil drawing"}
    assert styles(config, ["photo", "sketch", "oil_paint"], told) == [
        "snapshot",
        "pencil drawing",
        "oil paint",
    ]


def test_later_stages_add_the_terms_of_the_alignment() -> None:
    made, bank = method("stages={warm_up: 1}", "k_in=3", "k_cross=3"), memory()
    stage = made.stages()[2]
    losses = made.step(batch(), stage, bank)
    assert sorted(losses.terms) == ["aug", "cross", "in", "od"]
    assert float(losses.total.detach()) == pytest.approx(sum(map(float, losses.terms.values())), rel=1e-5)
    assert bank.version == memory().version + 1


def test_after_warm_up_the_generator_is_asked_at_every_nth_step() -> None:
    made, bank = method("od_every=3", "stages={warm_up: 1}"), memory()
    asked = [
        ["od" in made.step(batch(step), stage, bank).terms for step in range(4)] for stage in made.stages()
    ]
    assert asked == [[True] * 4, [True, False, False, True], [True, False, False, True]]


def test_an_images_loss_does_not_depend_on_who_computes_it() -> None:
    made, whole = method(), batch()
    together = made.step(whole, made.stages()[0], memory()).total.detach()
    apart = torch.zeros(())
    for rows in (torch.tensor([0, 3]), torch.tensor([1, 2, 4])):
        part = Batch(
            whole.query[rows],
            whole.key[rows],
            whole.domain[rows],
            whole.slot[rows],
            5,
            whole.latents[rows],
            Draws(5, 3, rows),
        )
        apart = apart + made.step(part, made.stages()[0], memory()).total.detach()
    torch.testing.assert_close(apart, together)


@pytest.mark.parametrize(("start", "learnt"), [("words", False), ("tuned", True), ("free", True)])
def test_style_words_are_learnt_where_they_are_to_be(start: str, learnt: bool) -> None:
    made = method(f"style_tokens={start}")
    made.step(batch(), made.stages()[0], memory()).total.backward()
    assert ("style" in made.extras()) == learnt
    if learnt:
        (words,) = made.extras()["style"].parameters()
        assert float(words.grad.norm(dim=1).min()) > 0
    plain = method().step(batch(), method().stages()[0], memory()).total
    changed = method(f"style_tokens={start}").step(batch(), method().stages()[0], memory()).total
    assert torch.allclose(plain, changed) == (start != "free")


@pytest.mark.parametrize("start", ["words", "tuned"])
def test_what_makes_the_content_is_saved_whole(tmp_path, start: str) -> None:
    made = method(f"style_tokens={start}", "styles={sketch: pencil drawing}")
    made.save_content(tmp_path / "content", "some/model", "0" * 64)
    saved = load_content(tmp_path / "content")
    assert (saved.styles, saved.generator) == ({"photo": "photo", "sketch": "pencil drawing"}, "some/model")
    assert (saved.generator_sha256, saved.backbone_sha256) == ("0" * 64, None)
    feature = torch.randn(3, made.encoder.backbone.dim)
    assert torch.equal(saved.word(feature), made.extras()["content"](feature))
    if start == "tuned":
        assert torch.equal(saved.style.words, made.extras()["style"].words)
    else:
        assert saved.style is None
    file = tmp_path / "content" / "content.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        load_content(tmp_path / "content")


def test_one_style_for_all_and_words_for_a_domain() -> None:
    fixed = method("fixed_style=photo").prompts
    assert torch.equal(fixed.ids[0], fixed.ids[1])
    named = method("styles={sketch: pencil drawing}").prompts
    tokenizer = generator().tokenizer
    assert tokenizer.decode(named.ids[1][named.style[1]]).strip() == "pencil drawing"
    assert tokenizer.decode(named.ids[0][named.style[0]]).strip() == "photo"
