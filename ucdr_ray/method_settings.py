"""The `method` section of a training run's config: each method's settings."""

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


class Contrastive(Section):
    """What the methods that align mutual neighbours share."""

    k_in: Neighbours = Field(50, description="k of the mutual neighbours inside a domain (DUDE: 50).")
    k_cross: Neighbours = Field(50, description="k of the mutual neighbours across domains (DUDE: 50).")
    mutual: bool = Field(True, description="Keep only mutual neighbours; off: all k nearest.")
    temperature: float = Field(0.1, gt=0, le=10, description="Temperature tau of InfoNCE.")
    momentum: float = Field(0.99, ge=0, lt=1, description="Momentum of the key encoder.")
    weight_aug: float = Field(1.0, ge=0, description="Weight of L_aug.")
    weight_in: float = Field(1.0, ge=0, description="Weight of L_in.")
    weight_cross: float = Field(1.0, ge=0, description="Weight of L_cross.")
    max_negatives: int = Field(
        65_536, ge=1, description="Bank rows per domain in a denominator; above: a fresh sample."
    )
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


MethodConfig = Annotated[AlignmentConfig | DudeConfig, Field(discriminator="name")]
