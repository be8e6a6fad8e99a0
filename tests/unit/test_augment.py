import pytest
import torch

from ucdr_ray.augment import augment
from ucdr_ray.settings import AugmentConfig

NOTHING = {"crop_min": 1, "jitter_p": 0, "grey_p": 0, "blur_p": 0, "flip_p": 0}


def off(**values):
    return AugmentConfig.model_validate(NOTHING | values)


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (12, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def view(images, config, size=40, seed=1, take=None):
    take = torch.arange(len(images)) if take is None else take
    return augment(images[take], size, config, len(images), take, seed)


def test_everything_off_only_squeezes_the_crops_aspect(images):
    flat = images[:, :, :1, :1].expand(-1, -1, 40, 40)
    torch.testing.assert_close(view(flat, off()), flat.float() / 255)


def test_same_seed_same_views_on_any_share_of_the_batch(images):
    config = AugmentConfig.model_validate({"rotate": 20, "invert_p": 0.3, "edge_p": 0.3})
    whole = view(images, config)
    parts = [
        view(images, config, take=torch.tensor(rows)) for rows in ([0, 1, 2], [3, 4, 5, 6, 7, 8, 9, 10, 11])
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(whole, view(images, config, seed=2))
    assert whole.min() >= 0 and whole.max() <= 1 and whole.shape == (12, 3, 40, 40)


def test_grey_keeps_brightness_and_drops_colour(images):
    grey = view(images, off(grey_p=1))
    same = view(images, off())
    torch.testing.assert_close(grey[:, 0], grey[:, 1], atol=1e-3, rtol=0)
    weights = torch.tensor([0.299, 0.587, 0.114])
    expected = torch.einsum("bchw,c->bhw", same, weights)
    torch.testing.assert_close(grey[:, 0], expected, atol=5e-3, rtol=0)


def test_negative_is_one_minus_the_image(images):
    torch.testing.assert_close(view(images, off(invert_p=1)), 1 - view(images, off()), atol=2e-3, rtol=0)


def test_flip_mirrors(images):
    torch.testing.assert_close(
        view(images, off(flip_p=1)).mean((2, 3)), view(images, off()).mean((2, 3)), atol=2e-2, rtol=0
    )
    ramp = torch.linspace(0, 255, 40).to(torch.uint8).expand(12, 3, 40, 40).contiguous()
    slope = view(ramp, off(flip_p=1))[..., 30] - view(ramp, off(flip_p=1))[..., 5]
    assert (slope < 0).all()


def test_edges_are_dark_lines_on_white():
    square = torch.full((4, 3, 40, 40), 250, dtype=torch.uint8)
    square[:, :, 10:30, 10:30] = 20
    lines = view(square, off(edge_p=1))
    assert (lines[:, :, 18:22, 18:22] > 0.95).all(), "inside of the square is blank"
    assert (lines.amin((1, 2, 3)) < 0.2).all(), "its outline is drawn"


def test_blur_keeps_the_mean_and_lowers_contrast(images):
    big = torch.nn.functional.interpolate(images.float(), size=112).to(torch.uint8)
    blurred, sharp = view(big, off(blur_p=1), 112), view(big, off(), 112)
    torch.testing.assert_close(blurred.mean((2, 3)), sharp.mean((2, 3)), atol=1e-2, rtol=0)
    assert (blurred.std((2, 3)) <= sharp.std((2, 3)) + 1e-3).all()


def test_probabilities_are_met():
    red = torch.zeros(4000, 3, 16, 16, dtype=torch.uint8)
    red[:, 0] = 200
    out = augment(red, 16, off(grey_p=0.3), 4000, torch.arange(4000), 5)
    grey = (out[:, 0] - out[:, 1]).abs().amax((1, 2)) < 1e-3
    assert float(grey.float().mean()) == pytest.approx(0.3, abs=0.03)
