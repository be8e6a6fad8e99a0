"""What a whole training with DUDE costs, in seconds of steps that were measured side by side."""

import statistics
from dataclasses import dataclass

import torch
from dude_cost import Cost, batch_of, cost, last_stage, method_of

from ucdr_ray.bfloat16 import fast_bfloat16
from ucdr_ray.config import RunConfig, load_config
from ucdr_ray.drawings import DUDE
from ucdr_ray.drawings.train_generator import SYNONYMS
from ucdr_ray.method_settings import AlignmentConfig, DudeConfig
from ucdr_ray.models.generator_files import PACKAGED, load_generator


def precision() -> torch.dtype:
    """The generator's on a CPU, as training chooses it."""
    return torch.bfloat16 if fast_bfloat16(torch.device("cpu")) else torch.float32


@dataclass(frozen=True)
class Price:
    """Seconds of steps of the recipe's batch, by the generator's side where L_OD is in them."""

    alone: float  # contrastive terms, no L_OD
    warm_up: dict[int, float]  # L_OD alone
    both: dict[int, float]

    def of(self, config: RunConfig, own_side: int) -> float:
        """A whole training's, per epoch's steps."""
        method = config.method
        if isinstance(method, AlignmentConfig):
            return (
                method.stages.instance + method.stages.in_domain + method.stages.cross_domain
            ) * self.alone
        assert isinstance(method, DudeConfig)
        side, stages = method.generator_size or own_side, method.stages
        share = 1 / method.od_every if method.keep_od and method.weight_od > 0 else 0
        later = self.alone + share * (self.both[side] - self.alone)
        return stages.warm_up * self.warm_up[side] + (stages.in_domain + stages.cross_domain) * later


def measured(rounds: int, sides: list[int]) -> tuple[Cost, Price]:
    """Steps of the recipe with the generator's pictures of the given sides; of the last, what L_OD costs in it."""
    config, device = load_config(DUDE), torch.device("cpu")
    generator = load_generator(PACKAGED, precision())
    names = list(SYNONYMS)
    method = method_of(config, names, generator, device)
    rows = config.train.batch * len(names)
    warm_up, both, alone = {}, {}, []
    for side in sides:
        batch = batch_of(config, rows, len(names), (generator.codec.channels, side, side), device)
        whole = cost(method, batch, rounds)
        bare, both[side] = last_stage(method, batch, 800, rounds)
        warm_up[side] = whole.seconds["whole"]
        alone.append(bare)
    return whole, Price(statistics.fmean(alone), warm_up, both)
