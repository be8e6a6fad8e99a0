"""UEM on a tiny encoder and banks whose groups are known."""

import torch
from torch.nn.functional import normalize

from ucdr_ray.config import load_config
from ucdr_ray.methods.base import Batch
from ucdr_ray.methods.build import build_method
from ucdr_ray.methods.uem import Uem
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import LocalMemory

NAMES, SIZES, DIM, TAU = ["photo", "sketch", "toy"], (120, 100, 80), 8, 0.07
GROUPS = ([0, 1, 2, 3, 4], [1, 2, 3, 4], [0, 2, 3, 6])
SLOT = torch.tensor([3, 0, 55, 7, 49, 4, 6, 11, 2, 39, 1, 8])


def method(*settings: str, domains: int = 2) -> Uem:
    config = load_config(None, ["method.name=uem", *[f"method.{setting}" for setting in settings]])
    torch.manual_seed(0)
    backbone = Encoder.from_backbone("random:resnet-mini", 32).backbone
    made = build_method(config, Encoder(backbone, 32, head=(16, DIM)), NAMES[:domains])
    assert isinstance(made, Uem)
    made.online.eval()
    made.target.eval()
    with torch.no_grad():  # so that L_SPR is not 0
        for parameter in made.target.head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def memory(domains: int = 2, exchange=None) -> LocalMemory:
    """Groups at right angles, some of which other domains have too."""
    draw = torch.Generator().manual_seed(3)
    sizes = list(zip(NAMES, SIZES))[:domains]
    made = LocalMemory(sizes, DIM, exchange=exchange, momentum=0.99)
    for bank, groups in zip(made.banks, GROUPS):
        rows = torch.eye(DIM)[torch.tensor(groups)[torch.arange(len(bank.keys)) % len(groups)]]
        rows = normalize(rows + 0.05 * torch.randn(rows.shape, generator=draw), dim=1)
        bank.push(torch.arange(len(rows)), rows)
    return made


def batch(domains: int = 2, rows: list[int] | None = None) -> Batch:
    """Four images of each domain, or some of them."""
    count = 4 * domains
    pixels = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    domain, some = torch.arange(count) // 4, list(range(count)) if rows is None else rows
    return Batch(pixels[some], pixels[some], domain[some], SLOT[some], global_rows=count)
