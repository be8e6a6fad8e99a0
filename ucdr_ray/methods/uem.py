"""UEM (Wang, Du, Zhu, NeurIPS 2024): retrieval across unlabelled domains whose categories may differ.

Sec. 3.2, IDSE: inside each domain, images are told apart (Eq. 6) and drawn to prototypes (Eq. 7, 11), more and more as
these come to mean something (Eq. 10). Both domains have the same prototypes, in two places (Eq. 8, 9): so neither
makes a structure of its own.

Sec. 3.3, CDSM: an adversary (Eq. 13) brings the domains together, while each keeps the structure that IDSE made
(Eq. 14), and images are drawn to a prototype in the other domain, and to an image there that has the same (Eq. 15-17).

The paper has two domains, A and B. Of more, each pair is treated so; where a domain's loss depends on the other one of
a pair, it is the mean over the others.
"""

from dataclasses import replace
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from ucdr_ray.losses.adversarial import domain_adversarial
from ucdr_ray.losses.infonce import info_nce
from ucdr_ray.losses.prototype import alpha, instance_nce, prototype_nce, semantic_enhanced
from ucdr_ray.losses.sn2m import nearest_prototype, sn2m
from ucdr_ray.losses.structure import structure_preserving
from ucdr_ray.method_settings import UemConfig
from ucdr_ray.methods.base import Batch, Losses, Method, Stage, row_sum, weighted
from ucdr_ray.methods.structure import Structure
from ucdr_ray.methods.switch import Switch
from ucdr_ray.models.classifier import DomainClassifier, EncoderWithClassifier
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.matching import Unified, unify
from ucdr_ray.neighbors.memory import Memory
from ucdr_ray.neighbors.prototypes import assign
from ucdr_ray.world import World


class Uem(Method):
    """Both stages; what is trained, `online`, is the encoder and the domain classifier; `target` is f' of Eq. 14."""

    views = 1  # the paper names one view x_i; what it is compared with is the bank's m_i
    target_frozen = True

    def __init__(
        self,
        encoder: Encoder,
        config: UemConfig,
        domains: list[str],
        precision: torch.dtype,
        seed: int,
        world: World,
    ) -> None:
        super().__init__(encoder, len(domains), precision)
        self.config, self.names, self.world = config, domains, world
        self.extra_lr_factor = config.classifier_lr_factor
        self.pairs = list(combinations(range(len(domains)), 2))
        device = next(encoder.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = DomainClassifier(encoder.head_dim, config.classifier_hidden, len(self.pairs))
        self.online = EncoderWithClassifier(encoder, classifier).to(device)
        most, every = config.max_clusters, config.elbow_every
        self.structure = Structure(domains, encoder.head_dim, most, every, seed, world).to(device)
        self.switch = Switch(config).to(device)
        self.unified: dict[tuple[int, int], Unified] = {}  # (a, b): a and b, as seen from a
        self.alpha = 0.0

    def stages(self) -> list[Stage]:
        """Eq. 12, then Eq. 18. Where the first ends sooner, the second gets its epochs."""
        c, idse = self.config, self.switch.epochs
        stages = [
            Stage("idse", idse, {"ince": c.weight_ince, "pnce": c.weight_pnce, "sel": c.weight_sel}),
            Stage(
                "cdsm",
                c.stages.idse + c.stages.cdsm - idse,
                {"dal": c.weight_dal, "spr": c.weight_spr, c.match: c.weight_match},
            ),
        ]
        stages = [replace(one, weights={k: v for k, v in one.weights.items() if v > 0}) for one in stages]
        return [stage for stage in stages if stage.epochs > 0]

    def begin_epoch(self, epoch: int, memory: Memory) -> dict[str, float]:
        """Prototypes of all banks, translated and merged (Eq. 8, 9); alpha (Eq. 10); f' when IDSE has ended."""
        report = self.structure.renew(epoch, memory)
        for a, b in self.pairs:
            unified = unify(self.structure.prototypes(a), self.structure.prototypes(b))
            self.unified[a, b], self.unified[b, a] = unified, unified.swapped()
            report[f"merged/{self.names[a]}->{self.names[b]}"] = int(unified.merged.sum())
        if epoch < self.switch.epochs:
            self.alpha = alpha(epoch, self.config.stages.idse)
            self.switch.look(epoch, self.structure.stability)
            return report | {"alpha": self.alpha}
        if epoch == self.switch.epochs:
            self.start_target()
        return report

    def step(self, batch: Batch, stage: Stage, memory: Memory) -> Losses:
        """Losses of one batch, whose embeddings are averaged into the bank first (Eq. 5).

        So of m_i, the image's history in Eq. 6, a share of 1 - beta is z itself.
        """
        z, logit = self._encode(self.online, batch.query, "dal" in stage.weights)
        memory.push(batch.domain, batch.slot, z.detach())
        if stage.name == "idse":
            scheduled = {"pnce": self.alpha, "sel": self.alpha}
            weights = {name: weight * scheduled.get(name, 1) for name, weight in stage.weights.items()}
            return weighted(self.enhance(z, batch, stage, memory), replace(stage, weights=weights))
        terms = {"dal": self.confuse(logit, batch)}
        if "spr" in stage.weights:
            terms["spr"] = self.preserve(z, batch)
        terms[self.config.match], measures = self.match(z, batch, memory)
        return replace(weighted(terms, stage), measures=measures)

    def enhance(self, z: Tensor, batch: Batch, stage: Stage, memory: Memory) -> dict[str, Tensor]:
        """All domains' L_INCE (Eq. 6), L_PNCE (Eq. 7) and L_SEL (Eq. 11)."""
        terms = {name: z.new_zeros(()) for name in stage.weights}
        tau, images = self.config.temperature, self._images(batch)
        for a in range(self.domains):
            mine = batch.domain == a
            x, m = z[mine], memory.rows(a, batch.slot[mine])
            keys, own = self.world.joined(m)
            place = torch.arange(own.start, own.stop, device=z.device)
            terms["ince"] += self._over(instance_nce(x, keys, place, tau), images, True)
            # An image's cluster is that of its row now; since prototypes were made it has hardly moved.
            cluster = assign(m, self.structure.prototypes(a).vectors)
            seen = self.seen(a)
            for prototypes, became in seen:
                if "pnce" in terms:
                    loss = prototype_nce(x, prototypes, became[cluster], tau)
                    terms["pnce"] += self._over(loss, images, True) / len(seen)
                if "sel" in terms:
                    loss = semantic_enhanced(x, prototypes, tau)
                    terms["sel"] += self._over(loss, images, False) / len(seen)
        return terms

    def seen(self, a: int) -> list[tuple[Tensor, Tensor]]:
        """For each other domain (C', D) P_a' and (C_a,) which of its rows a cluster became.

        Without merging, once, P_a alone: what Eq. 7 is first written with.
        """
        if self.config.merge:
            return [(one.a, one.place_a) for (first, _), one in self.unified.items() if first == a]
        own = self.structure.prototypes(a).vectors
        return [(own, torch.arange(len(own), device=own.device))]

    def confuse(self, logit: Tensor, batch: Batch) -> Tensor:
        """L_DAL (Eq. 13) of each pair of domains."""
        total = logit.new_zeros(())
        for pair, (a, b) in enumerate(self.pairs):
            mine = (batch.domain == a) | (batch.domain == b)
            loss = domain_adversarial(logit[mine, pair], batch.domain[mine] == a)
            total = total + self._over(loss, 2 * self._images(batch), True) / (self.domains - 1)
        return total

    def preserve(self, z: Tensor, batch: Batch) -> Tensor:
        """All domains' L_SPR (Eq. 14), of all pairs of the batch's images."""
        with torch.no_grad():
            before = self._encode(self.target, batch.query)
        total = z.new_zeros(())
        for a in range(self.domains):
            mine = batch.domain == a
            now, own = self.world.joined(z[mine])
            change = structure_preserving(now, self.world.joined(before[mine])[0])
            # A pair of two workers' images draws on both: the gradient is of all rows' sum, the value of one's own.
            whole = change.sum()
            share = whole + (change[own].sum() - whole).detach()
            total = total + self._over(share[None], self._images(batch), False)
        return total

    def match(self, z: Tensor, batch: Batch, memory: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """All domains' L_SN2M (Eq. 17), and the share of images whose nearest one in the other domain is trusted.

        In its place, as an ablation: every image is drawn to its nearest one in the other domain.

        "All there" are up to `max_negatives` rows; of a larger bank, for each step, so many at random.
        """
        tau, images = self.config.temperature, self._images(batch)
        total, measures = z.new_zeros(()), {}
        for a, b in permutations(range(self.domains), 2):
            mine = batch.domain == a
            x, bank = z[mine], memory.candidates(a, batch.slot[mine], b).keys
            if self.config.match == "nearest":
                similarity = x @ bank.T
                nearest = torch.zeros_like(similarity, dtype=torch.bool)
                nearest.scatter_(1, similarity.detach().argmax(1, keepdim=True), True)
                loss = info_nce(similarity, nearest, tau)
            else:
                both = self.unified[a, b]
                own = nearest_prototype(x, self.structure.prototypes(a).vectors)
                loss, trusted = sn2m(x, bank, both.b, both.place_a[own], tau)
                measures[f"reliable/{self.names[a]}->{self.names[b]}"] = row_sum(trusted.float(), images)
            total = total + self._over(loss, images, False) / (self.domains - 1)
        return total, measures

    def _images(self, batch: Batch) -> int:
        """B: images of each domain in the batch, all workers together."""
        return batch.global_rows // self.domains

    def _over(self, loss: Tensor, images: int, summed: bool) -> Tensor:
        """A loss over all images: the paper's sum where it has one, else their mean."""
        return row_sum(loss, 1 if summed and self.config.reduction == "paper" else images)

    def update_target(self) -> None:
        """f' stays as it was when IDSE ended."""

    def copy_statistics(self) -> None:
        """So do its statistics."""

    def extras(self) -> dict[str, nn.Module]:
        return {"classifier": self._judged.classifier, "structure": self.structure, "switch": self.switch}

    @property
    def encoder(self) -> Encoder:
        return self._judged.encoder

    @property
    def _judged(self) -> EncoderWithClassifier:
        inner = getattr(self.online, "module", self.online)
        assert isinstance(inner, EncoderWithClassifier)
        return inner
