"""Batched, seeded augmentations: the same seed gives the same views on any number of workers.

MoCo v2's recipe (arXiv:2003.04297) with per-image parameters. Everything linear in colour (brightness, contrast,
saturation, hue, grey, negative) is folded into one 3 x 4 matrix per image, everything geometric (crop, flip,
rotation) into one sampling grid, so a batch costs one grid sample and one small matrix product.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ucdr_ray.draws import Draws
from ucdr_ray.settings import AugmentConfig

_GREY = torch.tensor([0.299, 0.587, 0.114])
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = torch.linalg.inv(_YIQ)


def augment(images: Tensor, size: int, config: AugmentConfig, rows: int, take: Tensor, seed: int) -> Tensor:
    """One random view of each image.

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1].
        size: side S of the views.
        rows: images in the global batch.
        take: (B,) int64, which rows of the global batch these images are.
        seed: seed of this step and view.

    Returns:
        (B, 3, S, S) float32 in [0, 1].
    """
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    random = Draws(rows, seed, take)
    view = _geometry(pixels, size, config, random)
    view = _edges(view, config, random)
    view = _colour(view, config, random)
    return _blur(view, config, random).clamp(0, 1)


def _geometry(pixels: Tensor, size: int, config: AugmentConfig, random: Draws) -> Tensor:
    """Random resized crop (area crop_min..1, aspect 3/4..4/3), rotation and flip as one affine sampling grid."""
    area = random.uniform(config.crop_min, 1)
    aspect = random.uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = random.uniform(-1, 1) * (1 - width), random.uniform(-1, 1) * (1 - height)
    flip = torch.where(random.chance(config.flip_p), -1.0, 1.0)
    angle = random.uniform(-config.rotate, config.rotate) * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([flip * width * cos, -height * sin, x], dim=1),
            torch.stack([flip * width * sin, height * cos, y], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta.to(pixels.device), [len(pixels), 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _edges(view: Tensor, config: AugmentConfig, random: Draws) -> Tensor:
    """Some images become line drawings: dark where the gradient of brightness is steep."""
    chosen = random.chance(config.edge_p).nonzero().squeeze(1)
    gain = random.uniform(1.5, 4)[chosen]
    if len(chosen) == 0:
        return view
    grey = torch.einsum("bchw,c->bhw", view[chosen], _GREY.to(view.device)).unsqueeze(1)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=view.device) / 4
    slope = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T]).unsqueeze(1))
    line = 1 - (slope.pow(2).sum(1, keepdim=True).sqrt() * gain.to(view.device)[:, None, None, None]).clamp(
        max=1
    )
    return view.index_copy(0, chosen.to(view.device), line.expand(-1, 3, -1, -1))


def _colour(view: Tensor, config: AugmentConfig, random: Draws) -> Tensor:
    """Jitter, grey and negative as one affine map of the colour per image."""
    jitter = random.chance(config.jitter_p)
    one = torch.ones(len(jitter))
    strength = config.jitter

    def factor() -> Tensor:
        return torch.where(jitter, random.uniform(max(0.0, 1 - strength), 1 + strength), one)

    brightness, contrast, saturation = factor(), factor(), factor()
    turn = torch.where(jitter, random.uniform(-config.hue, config.hue), 0 * one) * (2 * math.pi)
    saturation = torch.where(random.chance(config.grey_p), 0 * one, saturation)
    negative = random.chance(config.invert_p)

    chroma = torch.zeros(len(one), 3, 3)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * turn.cos()
    chroma[:, 1, 2], chroma[:, 2, 1] = -saturation * turn.sin(), saturation * turn.sin()
    matrix = (brightness * contrast)[:, None, None] * (_RGB @ chroma @ _YIQ)
    mean = torch.einsum("bchw,c->b", view, _GREY.to(view.device)).cpu() / (view.shape[2] * view.shape[3])
    shift = ((1 - contrast) * brightness * mean)[:, None].expand(-1, 3)
    matrix = torch.where(negative[:, None, None], -matrix, matrix)
    shift = torch.where(negative[:, None], 1 - shift, shift)
    flat = view.flatten(2)
    mapped = torch.baddbmm(shift.unsqueeze(2).to(flat.device), matrix.to(flat.device), flat)
    return mapped.view_as(view).clamp(0, 1)


def _blur(view: Tensor, config: AugmentConfig, random: Draws) -> Tensor:
    """Separable Gaussian blur, sigma 0.1..2 pixels of a 224-pixel image, scaled to this size."""
    chosen = random.chance(config.blur_p).nonzero().squeeze(1)
    sigma = random.uniform(0.1, 2.0)[chosen] * view.shape[-1] / 224
    if len(chosen) == 0:
        return view
    radius = max(1, math.ceil(2 * 2.0 * view.shape[-1] / 224))
    offset = torch.arange(-radius, radius + 1)
    weight = (-(offset**2) / (2 * sigma[:, None] ** 2).clamp(min=1e-4)).softmax(dim=1).to(view.device)
    picked = view[chosen.to(view.device)]
    flat = F.pad(picked, [radius] * 4, mode="replicate").flatten(0, 1).unsqueeze(0)
    kernel = weight.repeat_interleave(3, dim=0)
    groups = kernel.shape[0]
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=groups)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=groups)
    return view.index_copy(0, chosen.to(view.device), flat.view_as(picked))
