"""The prototypes of all domains as training goes on: renewed, told to all workers, compared with those before.

For UEM (Wang, Du, Zhu, NeurIPS 2024), sec. 3.2.1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ucdr_ray.neighbors.memory import Memory
from ucdr_ray.neighbors.prototypes import Prototypes, assign, elbow
from ucdr_ray.world import World


class Structure(nn.Module):
    """Prototypes of K domains, and how stable they are; all of it in buffers, which a checkpoint holds.

    Worker 0 makes the prototypes, and all get its numbers: worker and shard count change nothing.

    Args:
        names: of the domains.
        dim: dimension D of a bank's row.
        most: the largest number of clusters.
        elbow_every: epochs after which the number of clusters is sought anew.
    """

    vectors: Tensor  # (K, most, D), of which the first `count` rows of each domain are prototypes
    means: Tensor  # (K, D) of all rows of each bank
    count: Tensor  # (K,) int64; 0: none yet
    sought: Tensor  # (K,) int64, how many the elbow said
    stability: Tensor  # (K,) of the last renewal; not a number at the first

    def __init__(
        self, names: Sequence[str], dim: int, most: int, elbow_every: int, seed: int, world: World
    ) -> None:
        super().__init__()
        domains = len(names)
        self.names, self.most, self.elbow_every = list(names), most, elbow_every
        self.seed, self.world = seed, world
        self.register_buffer("vectors", torch.zeros(domains, most, dim))
        self.register_buffer("means", torch.zeros(domains, dim))
        self.register_buffer("count", torch.zeros(domains, dtype=torch.int64))
        self.register_buffer("sought", torch.zeros(domains, dtype=torch.int64))
        self.register_buffer("stability", torch.full((domains,), torch.nan))

    def prototypes(self, domain: int) -> Prototypes:
        """Those of a domain."""
        return Prototypes(self.vectors[domain, : int(self.count[domain])], self.means[domain])

    @torch.no_grad()
    def renew(self, epoch: int, memory: Memory) -> dict[str, float]:
        """Cluster every bank anew, all workers together.

        Stability is the adjusted Rand index between two partitions of the bank's sampled rows: by the prototypes
        before and by those now. While the number of clusters stays, k-means goes on from the prototypes before: so what
        has changed is the rows. Begun anew, on the same rows, it finds another partition nearly every time where
        clusters are not plain to see (PACS: .5 to .7), and images would be drawn elsewhere each epoch.

        Returns:
            `clusters/a` of each domain a, and `stability/a` but the first time.
        """
        if self.world.rank == 0:
            for domain in range(len(self.names)):
                self._cluster(domain, epoch, memory)
        self.world.copy_first(self.buffers())
        report: dict[str, float] = {}
        for name, count, stability in zip(
            self.names, self.count.tolist(), self.stability.tolist(), strict=True
        ):
            report[f"clusters/{name}"] = count
            if not math.isnan(stability):
                report[f"stability/{name}"] = stability
        return report

    def _cluster(self, domain: int, epoch: int, memory: Memory) -> None:
        seed = int(np.random.SeedSequence([self.seed, epoch, domain]).generate_state(1)[0]) >> 1
        from sklearn.metrics import adjusted_rand_score  # a second, for this method only

        sample, mean = memory.drawn(domain, seed)
        before = self.prototypes(domain)
        if epoch % self.elbow_every == 0 or not len(before):
            self.sought[domain] = elbow(sample, seed, self.most)
        now = Prototypes.fit(sample, mean, seed, count=int(self.sought[domain]), before=before.vectors)
        if len(before):
            partitions = [assign(sample, some.vectors).cpu().numpy() for some in (before, now)]
            self.stability[domain] = float(adjusted_rand_score(*partitions))
        self.vectors[domain].zero_()
        self.vectors[domain, : len(now)] = now.vectors
        self.means[domain], self.count[domain] = now.mean, len(now)
