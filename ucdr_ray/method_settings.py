"""The `method` section of a training run's config: each method's settings."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ucdr_ray.settings import Fraction, Section

Epochs = Annotated[int, Field(ge=0, le=10_000)]
Neighbours = Annotated[int, Field(ge=1, le=1_000)]


class Stages(Section):
    """Epochs of each stage, in order."""

    @model_validator(mode="after")
    def _check(self) -> "Stages":
        if sum(self.model_dump().values()) == 0:
            raise ValueError("all stages have 0 epochs; allowed: at least one stage with 1 or more")
        return self


class AlignmentStages(Stages):
    instance: Epochs = Field(50, description="Epochs of L_aug alone.")
    in_domain: Epochs = Field(30, description="Epochs of L_aug + L_in.")
    cross_domain: Epochs = Field(20, description="Epochs of L_aug + L_in + L_cross.")


class DudeStages(Stages):
    warm_up: Epochs = Field(50, description="Epochs of L_OD alone.")
    in_domain: Epochs = Field(30, description="Epochs of L_OD + L_aug + L_in.")
    cross_domain: Epochs = Field(20, description="Epochs of L_OD + L_aug + L_in + L_cross.")


class UemStages(Stages):
    idse: Epochs = Field(
        100, description="Epochs of L_INCE + alpha (L_PNCE + L_SEL) (UEM: 100; DomainNet 200); at most so many with "
        "switch=stable."
    )  # fmt: skip
    cdsm: Epochs = Field(
        50, description="Epochs of L_DAL + L_SPR + L_SN2M (UEM: 50), and those that the first stage leaves."
    )


class MethodSection(Section):
    """What the settings of every method have."""

    temperature: float = Field(0.1, gt=0, le=10, description="Temperature tau of InfoNCE.")
    max_negatives: int = Field(
        65_536, ge=1, description="Bank rows per domain in a denominator; above: a fresh sample."
    )


class Contrastive(MethodSection):
    """What the methods that align mutual neighbours share."""

    k_in: Neighbours = Field(50, description="k of the mutual neighbours inside a domain (DUDE: 50).")
    k_cross: Neighbours = Field(50, description="k of the mutual neighbours across domains (DUDE: 50).")
    mutual: bool = Field(True, description="Keep only mutual neighbours; off: all k nearest.")
    momentum: float = Field(0.99, ge=0, lt=1, description="Momentum of the key encoder.")
    weight_aug: float = Field(1.0, ge=0, description="Weight of L_aug.")
    weight_in: float = Field(1.0, ge=0, description="Weight of L_in.")
    weight_cross: float = Field(1.0, ge=0, description="Weight of L_cross.")
    refresh: bool = Field(
        True,
        description="Before each neighbour search, refill the banks with un-augmented keys (one forward pass).",
    )
    centre: bool = Field(
        True, description="Subtract each domain's mean key before searching cross-domain neighbours."
    )

    def needs(self, stages: Stages, weights: dict[str, str]) -> None:
        """ValueError where a stage has epochs and the loss that it is for has no weight."""
        for stage, weight in weights.items():
            epochs = getattr(stages, stage)
            if epochs > 0 and getattr(self, weight) == 0:
                raise ValueError(
                    f"stages.{stage}={epochs} with {weight}=0, the loss that the stage is for; "
                    f"allowed: {weight} above 0, or stages.{stage}=0"
                )


class AlignmentConfig(Contrastive):
    name: Literal["alignment"] = Field("alignment", description="The method.")
    stages: AlignmentStages = Field(default_factory=lambda: AlignmentStages.model_validate({}))

    @model_validator(mode="after")
    def _check(self) -> "AlignmentConfig":
        self.needs(self.stages, {"in_domain": "weight_in", "cross_domain": "weight_cross"})
        return self


class DudeConfig(Contrastive):
    name: Literal["dude"] = Field("dude", description="The method.")
    stages: DudeStages = Field(default_factory=lambda: DudeStages.model_validate({}))
    generator: str = Field(
        "package:drawings",
        description="The frozen text-to-image model: a folder or hub name in the format of Stable Diffusion, or "
        "`package:drawings`, the package's own.",
    )
    generator_size: int | None = Field(
        None, ge=16, le=2048, description="Side in pixels of the images it is shown; its own when empty."
    )
    generator_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of its weights; auto: bfloat16 on GPUs and on CPUs with instructions for it, else float32.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute the generator's activations again in the backward pass, instead of keeping them.",
    )
    channels_last: bool | None = Field(
        None, description="The generator's numbers in channels-last order; empty: on a GPU."
    )
    latents: str | None = Field(
        None,
        description="Folder made by `ucdr latents`; empty: made beside the catalog when training begins.",
    )
    styles: dict[str, str] = Field(
        default_factory=dict,
        description="Words for a domain's style; a domain left out is called as the generator was told in "
        "its training, or by its name.",
    )
    fixed_style: str | None = Field(None, description="One style for all domains (ablation: photo).")
    style_tokens: Literal["words", "tuned", "free"] = Field(
        "words", description="Style words as they are, tuned from the words on, or learnt from nothing."
    )
    weight_od: float = Field(1.0, ge=0, description="Weight of L_OD.")
    keep_od: bool = Field(True, description="Keep L_OD after warm-up.")
    od_every: int = Field(1, ge=1, description="After warm-up, compute L_OD at every n-th step only.")
    time_low: Fraction = Field(0.0, description="Least noise of L_OD, as a share of all times.")
    time_high: Fraction = Field(1.0, description="Most noise of L_OD, as a share of all times.")

    @model_validator(mode="after")
    def _check(self) -> "DudeConfig":
        self.needs(self.stages, {"warm_up": "weight_od", "cross_domain": "weight_cross"})
        if self.fixed_style is not None and self.style_tokens != "words":
            raise ValueError(
                f"fixed_style={self.fixed_style} with style_tokens={self.style_tokens}, which learns each domain's; "
                "allowed: one of the two"
            )
        if self.time_low >= self.time_high:
            raise ValueError(
                f"time_low={self.time_low:g} with time_high={self.time_high:g}; allowed: time_low below time_high"
            )
        return self


class UemConfig(MethodSection):
    name: Literal["uem"] = Field("uem", description="The method.")
    stages: UemStages = Field(default_factory=lambda: UemStages.model_validate({}))
    temperature: float = Field(0.07, gt=0, le=10, description="Temperature tau of Eq. 6, 7, 11 and 17.")
    reduction: Literal["paper", "mean"] = Field(
        "paper",
        description="Over a batch, as the paper prints them, L_INCE, L_PNCE and L_DAL are sums, the others means; or "
        "all means.",
    )
    weight_ince: float = Field(1.0, gt=0, description="Weight of L_INCE.")
    weight_pnce: float = Field(1.0, ge=0, description="Weight of L_PNCE, beside alpha.")
    weight_sel: float = Field(1.0, ge=0, description="Weight of L_SEL, beside alpha (ablation: 0).")
    weight_dal: float = Field(1.0, gt=0, description="Weight of L_DAL.")
    weight_spr: float = Field(1.0, ge=0, description="Weight of L_SPR (ablation, plain adversarial: 0).")
    weight_match: float = Field(1.0, gt=0, description="Weight of L_SN2M, or of what stands in its place.")
    merge: bool = Field(
        True,
        description="L_PNCE and L_SEL see both domains' prototypes, merged; off (ablation): each its own domain's.",
    )
    match: Literal["sn2m", "nearest"] = Field(
        "sn2m",
        description="What an image is drawn to in the other domain; nearest (ablation): its nearest image.",
    )
    classifier_hidden: int = Field(128, ge=1, description="Width of the domain classifier's hidden layer.")
    classifier_lr_factor: float = Field(
        1.0,
        gt=0,
        description="The classifier learns this many times faster than the head; of a short second stage, at the "
        "cosine's end, it else learns nothing, and nothing is reversed.",
    )
    max_clusters: int = Field(150, ge=1, le=10_000, description="The most clusters of a domain.")
    elbow_every: int = Field(
        10, ge=1, description="Epochs after which the number of clusters is sought anew."
    )
    switch: Literal["epoch", "stable"] = Field(
        "epoch",
        description="When alignment begins: after stages.idse epochs, or earlier, once prototypes are stable.",
    )
    stable_at: Fraction = Field(
        0.9,
        description="Adjusted Rand index of two refreshes, of each domain, from which prototypes count as stable.",
    )
    stable_for: int = Field(3, ge=1, description="Refreshes in a row that must be stable.")
    stable_from: Fraction = Field(
        0.5, description="Share of stages.idse before which none counts: until then alpha is below 1/2."
    )

    @model_validator(mode="after")
    def _check(self) -> "UemConfig":
        if self.switch == "stable" and 0 in (self.stages.idse, self.stages.cdsm):
            raise ValueError(
                "switch=stable with a stage of 0 epochs; allowed: stages.idse and stages.cdsm above 0, or switch=epoch"
            )
        # The first renewal has none before it to agree with.
        first = max(1, math.ceil(self.stable_from * self.stages.idse)) + self.stable_for
        if self.switch == "stable" and first >= self.stages.idse:
            raise ValueError(
                f"switch=stable can't end {self.stages.idse} epochs of stages.idse before epoch {first}; allowed: more "
                "of them, or a smaller stable_from or stable_for, or switch=epoch"
            )
        return self


class TkiStages(Stages):
    """Epochs are passes over all class words."""

    expansion: Epochs = Field(200, description="Epochs of L_min + lambda L_max, of the domain vectors.")
    aggregation: Epochs = Field(200, ge=1, description="Epochs of L_agg, of the projection.")


class TkiConfig(Section):
    name: Literal["tki"] = Field("tki", description="The method.")
    stages: TkiStages = Field(default_factory=lambda: TkiStages.model_validate({}))
    words: list[str] = Field(
        default_factory=list,
        description="Class words, what images show; `ucdr train --words FILE` reads them.",
    )
    domains: int = Field(20, ge=1, le=1_000, description="P, how many domain vectors are learnt (TKI: 20).")
    temperature: float = Field(0.1, gt=0, le=10, description="Temperature tau of Eq. 3 and 6 (TKI: 0.1).")
    weight_min: float = Field(1.0, ge=0, description="Weight of L_min (ablation: 0).")
    weight_max: float = Field(1.0, ge=0, description="lambda, the weight of L_max (TKI: 1; ablation: 0).")
    alpha: float = Field(10.0, gt=0, description="alpha of Eq. 1: how steeply likeness of two domains costs.")
    mu: float = Field(0.0, ge=-1, le=1, description="mu of Eq. 1: the cosine from which it does.")
    radius: float | None = Field(
        1.0,
        gt=0,
        description="r of the Poincaré ball of the projection's first layer; null: an ordinary layer.",
    )
    lr: float = Field(0.005, gt=0, description="Learning rate of Adam, in both stages (TKI: 0.005).")
    batch: int = Field(64, ge=1, description="Class words in a step, each with all domain vectors.")

    @model_validator(mode="after")
    def _check(self) -> "TkiConfig":
        if len(set(self.words)) != len(self.words):
            twice = next(word for word in self.words if self.words.count(word) > 1)
            raise ValueError(f"words has {twice!r} twice; allowed: each once")
        if self.stages.expansion > 0 and self.weight_min == self.weight_max == 0:
            raise ValueError(
                "stages.expansion with weight_min=0 and weight_max=0; allowed: one of them above 0, or "
                "stages.expansion=0"
            )
        return self


ImageMethodConfig = AlignmentConfig | DudeConfig | UemConfig
MethodConfig = Annotated[ImageMethodConfig | TkiConfig, Field(discriminator="name")]
