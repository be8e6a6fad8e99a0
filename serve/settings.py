"""Every setting of the service: the arguments of `serve run`, of Serve's YAML, and of `ucdr serve`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)


class Section(BaseModel):
    """No unknown fields: Serve's own schema lets them pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Limits(Section):
    """What one request may ask for; what exceeds it is refused with 413 or 422, which name the limit."""

    body_bytes: Annotated[ByteSize, Field(description="of a request")] = ByteSize(20_000_000)
    pixels: Annotated[PositiveInt, Field(description="of an image, before it is shrunk")] = 64_000_000
    k: Annotated[PositiveInt, Field(description="images wanted")] = 1_000
    batch: Annotated[PositiveInt, Field(description="queries of one call of search:batch")] = 256


class Replicas(Section):
    """How many copies of a deployment run: as many as keep each at about `ongoing` requests."""

    least: Annotated[PositiveInt, Field(description="copies at any time")] = 1
    most: Annotated[PositiveInt, Field(description="copies under load")] = 4
    ongoing: Annotated[PositiveFloat, Field(description="requests at a time in a copy, wanted")] = 16
    cpus: Annotated[PositiveFloat, Field(description="cores of a copy")] = 1

    @model_validator(mode="after")
    def _ordered(self) -> "Replicas":
        if self.most < self.least:
            raise ValueError(f"most ({self.most}) is below least ({self.least})")
        return self


class EncoderSettings(Section):
    """Images to vectors: in the process that answers, or in a deployment of its own, where it can have GPUs."""

    apart: Annotated[bool, Field(description="a deployment of its own")] = False
    gpus: Annotated[
        NonNegativeFloat, Field(description="of each copy, where apart; 0: it computes on cores")
    ] = 0
    batch: Annotated[PositiveInt, Field(description="images at a time")] = 32
    replicas: Annotated[Replicas, Field(description="where apart")] = Replicas()

    @model_validator(mode="after")
    def _gpus_are_apart(self) -> "EncoderSettings":
        if self.gpus and not self.apart:
            raise ValueError("gpus are for an encoder apart")
        return self


class ServiceSettings(Section):
    """The service of one index."""

    index: Annotated[Path, Field(description="folder of `ucdr index build --out`, seen by every node")]
    shape: Annotated[
        Literal["auto", "whole", "sharded"],
        Field(
            description="whole: each copy holds all of the index. sharded: a deployment for each part of its shards. "
            "auto: whole while it fits `memory`"
        ),
    ] = "auto"
    memory: Annotated[ByteSize, Field(description="that the index may take in a process")] = ByteSize(
        4_000_000_000
    )
    parts: Annotated[
        PositiveInt | None, Field(description="where sharded: how many; without it as many as `memory` needs")
    ] = None
    replicas: Annotated[Replicas, Field(description="of what answers requests")] = Replicas()
    part_replicas: Annotated[Replicas, Field(description="of each part, where sharded")] = Replicas(most=2)
    encoder: EncoderSettings = EncoderSettings()
    limits: Limits = Limits()
    deadline_ms: Annotated[PositiveFloat, Field(description="from arrival to answer")] = 2_000
    when_down: Annotated[
        Literal["partial", "strict"],
        Field(description="a part doesn't answer in time. partial: the others' answer, marked. strict: 503"),
    ] = "partial"
    queue: Annotated[
        PositiveInt, Field(description="requests that a copy takes in at a time; above, it answers 429")
    ] = 64
    tokens: Annotated[
        Path | None,
        Field(
            description="file of bearer tokens, one in a line, that may search; else those of UCDR_SERVE_TOKENS; "
            "without any, everyone may"
        ),
    ] = None
    admin_tokens: Annotated[
        Path | None,
        Field(
            description="the same for /v1/admin; else those of UCDR_SERVE_ADMIN_TOKENS; without any, nobody may"
        ),
    ] = None
    hosts: Annotated[
        list[str],
        Field(description="names by which it may be called, in the Host header; * for any"),
    ] = ["*"]
    watch_s: Annotated[
        NonNegativeFloat, Field(description="how often CURRENT is looked at for a new version; 0: never")
    ] = 2
