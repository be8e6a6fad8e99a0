import numpy as np
import torch

from tests.generators import generator
from ucdr_ray.evaluation.content_page import rendered
from ucdr_ray.evaluation.disentangle import probed
from ucdr_ray.evaluation.protocols import DomainVectors
from ucdr_ray.models.content import ContentWord, content_encoder
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.prompts import Prompts


def test_a_picture_depends_on_its_content_its_style_and_the_seed_alone() -> None:
    made = generator(vae=False)
    prompts = Prompts.of(made.tokenizer, ["photo", "sketch", "infograph"])
    content = torch.randn(2, made.width, generator=torch.Generator().manual_seed(0))
    content = torch.cat([content, content[:1]])
    drawn = rendered(made, prompts, content, None, steps=3)
    assert drawn.shape == (3, 3, 3, 16, 16) and drawn.dtype == np.uint8
    again = rendered(made, prompts, content, None, steps=3)
    assert np.array_equal(drawn, again)
    for one, other in ((drawn[0, 0], drawn[1, 0]), (drawn[0, 0], drawn[0, 1])):
        assert not np.array_equal(one, other)
    assert not np.array_equal(drawn, rendered(made, prompts, content, None, steps=3, seed=1))


def test_an_encoder_of_content_gives_the_directions_of_z() -> None:
    encoder = Encoder.from_backbone("random:resnet-mini", 32)
    content = ContentWord(encoder.backbone.dim, 12, 3.0)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = content_encoder(encoder, content).encode(images)
    with torch.no_grad():
        word = content(encoder.eval().feature(images.float() / 255))
    torch.testing.assert_close(found, word / 3)
    assert encoder.dim == encoder.backbone.dim  # itself it stays as it was


def test_probes_find_what_the_embedding_holds() -> None:
    draw = np.random.default_rng(0)
    names, objects = ["photo", "sketch"], ["cat", "dog", "tree"]

    def vectors(domain: int, of_domain: float, of_object: float) -> DomainVectors:
        labels = draw.integers(3, size=60)
        found = draw.standard_normal((60, 8))
        found[:, domain] += of_domain
        found[np.arange(60), 2 + labels] += of_object
        return DomainVectors(
            found.astype(np.float32), [objects[i] for i in labels], [str(i) for i in range(60)]
        )

    style = probed({name: vectors(i, 9.0, 0.0) for i, name in enumerate(names)})
    assert style.domain > 0.98 and style.object is not None and style.object < 0.55
    meaning = probed({name: vectors(i, 0.0, 9.0) for i, name in enumerate(names)})
    assert meaning.domain < 0.65 and meaning.object is not None and meaning.object > 0.98
    bare = {
        name: DomainVectors(vectors(i, 9.0, 0.0).vectors, [None] * 60, []) for i, name in enumerate(names)
    }
    assert probed(bare).object is None
