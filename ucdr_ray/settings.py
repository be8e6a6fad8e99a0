"""The sections of a training run's config: every setting, typed, documented and cross-checked."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _emptied(cls, values: Any) -> Any:
        """A section of which nothing is left (`train:`) means its defaults."""
        if not isinstance(values, dict):
            return values
        sections = {name for name, field in cls.model_fields.items() if _is_section(field.annotation)}
        return {name: {} if name in sections and value is None else value for name, value in values.items()}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


Fraction = Annotated[float, Field(ge=0, le=1)]


class DataConfig(Section):
    domains: list[str] | None = Field(
        None, description="Domains to train on; all of the catalog's when empty."
    )
    size: int = Field(96, ge=16, le=1024, description="Side in pixels of the images that enter the encoder.")
    stored_size: int | None = Field(
        None,
        ge=16,
        le=2048,
        description="Side at which decoded images are kept for cropping; `size` when empty.",
    )
    resize: Literal["squash", "crop"] = Field(
        "squash", description="How an image becomes square: squashed, or short side then centre crop."
    )
    residency: Literal["auto", "keep", "stream"] = Field(
        "auto",
        description="Keep decoded images in the object store, stream them every epoch, or decide by size.",
    )
    keep_limit_gb: float = Field(
        4.0, gt=0, description="With `auto`: keep decoded images up to this many gigabytes."
    )

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.stored_size is not None and self.stored_size < self.size:
            raise ValueError(
                f"stored_size={self.stored_size} is smaller than size={self.size}; allowed: >= size"
            )
        if self.domains is not None and len(set(self.domains)) != len(self.domains):
            raise ValueError(f"domains={self.domains} names a domain twice; allowed: each once")
        return self


class ModelConfig(Section):
    backbone: str = Field(
        "random:resnet-mini",
        description="A transformers folder, a hub name, `moco:FILE` (MoCo v2's ResNet-50 checkpoint), `random:NAME` or "
        "`package:clip` (of the package's drawings).",
    )
    head_hidden: int = Field(512, ge=1, description="Width of the hidden layer of the MLP head.")
    dim: int = Field(128, ge=2, le=4096, description="Dimension of the embedding.")
    batch_norm: Literal["frozen", "train"] = Field(
        "frozen",
        description="Batch normalisation of the backbone: kept at its stored statistics, or trained with the batch's; "
        "with `random:` weights the default is train.",
    )
    embedding: Literal["head", "backbone"] = Field(
        "head",
        description="What retrieval uses: the head's output (the papers') or the backbone's pooled feature.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default(cls, values: Any) -> Any:
        # Random weights come with no statistics: frozen, nothing would be normalised.
        if isinstance(values, dict) and str(values.get("backbone", "random:")).startswith("random:"):
            return {"batch_norm": "train"} | values
        return values


class AugmentConfig(Section):
    """MoCo v2's values by default; invert, edge and rotate are ours, for style."""

    crop_min: float = Field(
        0.2, gt=0, le=1, description="Smallest share of the image's area that a crop keeps."
    )
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation in degrees.")
    jitter: Fraction = Field(0.4, description="Strength of brightness, contrast and saturation jitter.")
    hue: float = Field(0.1, ge=0, le=0.5, description="Strength of hue jitter, in turns.")
    jitter_p: Fraction = Field(0.8, description="Probability of colour jitter.")
    grey_p: Fraction = Field(0.2, description="Probability of turning grey.")
    invert_p: Fraction = Field(0.0, description="Probability of the colour negative.")
    edge_p: Fraction = Field(
        0.0, description="Probability of replacing the image by its edges, dark on light."
    )
    blur_p: Fraction = Field(
        0.5, description="Probability of Gaussian blur (sigma 0.1 to 2 at 224 px, in proportion)."
    )
    flip_p: Fraction = Field(0.5, description="Probability of a horizontal flip.")


class BankConfig(Section):
    """The memory bank of keys: its rule, and where its rows lie."""

    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="0: a row is its image's newest key (DUDE); above: the old key's share in an average; with "
        "method.name=uem the default is 0.99.",
    )
    shards: int | None = Field(
        None,
        ge=0,
        le=4096,
        description="Ray actors that share the rows; 0: every worker holds all; empty: 0 with one worker, else one for "
        "each node and for every four workers.",
    )
    copy_limit_gb: float = Field(
        4.0,
        ge=0,
        description="Up to this size of the whole bank each worker also keeps a copy on its device; beyond, negatives "
        "come from the shards at every step.",
    )
    exact_up_to: int = Field(
        200_000,
        ge=1,
        description="Neighbours among more rows (of two domains: the square root of their product) are searched "
        "approximately, and the recall is measured and logged each time.",
    )
    timeout: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="Seconds without an answer after which a shard counts as hung and is replaced.",
    )


class TrainConfig(Section):
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, sampling and augmentation.")
    batch: int = Field(64, ge=1, description="Images per domain in one step, over all workers together.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="SGD with momentum 0.9, or AdamW.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    head_lr_factor: float = Field(
        1.0, gt=0, description="The head learns this many times faster than the backbone."
    )
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay.")
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs of linear warm-up before the cosine to zero.")
    workers: int = Field(1, ge=0, description="Ray Train workers; 0 trains in the calling process.")
    threads: int | None = Field(
        None, ge=1, description="Torch threads per worker; empty: the node's cores shared out."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Autocast type of the encoder on a GPU."
    )
    checkpoint_every: int = Field(
        5, ge=1, description="Epochs between checkpoints; stage ends always write one."
    )
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay on disk.")
    max_failures: int = Field(
        3, ge=0, description="Restarts from the last checkpoint after a worker's death."
    )


class TrackingConfig(Section):
    enabled: bool = Field(True, description="Log to MLflow.")
    uri: str | None = Field(
        None,
        description="MLflow tracking URI; empty: `mlflow.db` (SQLite) beside the run, shared by its siblings.",
    )
    experiment: str = Field("ucdr-ray", description="MLflow experiment.")
