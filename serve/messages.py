"""What goes over the wire: requests and answers, with examples, from which the OpenAPI is made."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

Vector = Annotated[list[float], Field(min_length=1, max_length=65_536)]
Name = Annotated[str, Field(min_length=1, max_length=512)]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Wishes(Message):
    """What a request may say besides what it looks for."""

    domains: Annotated[
        list[Name] | None,
        Field(
            min_length=1,
            max_length=1_000,
            description="Search only these; all of the index without it.",
            examples=[["photo"]],
        ),
        FailFast(),
    ] = None
    k: Annotated[
        int, Field(ge=1, description="How many images to find, in all and in each domain.", examples=[10])
    ] = 10
    exact: Annotated[
        bool, Field(description="Compare with every image, also where the index has a shortcut.")
    ] = False
    min_score: Annotated[
        float | None, Field(ge=-1, le=1, description="Leave out what scores less.", examples=[0.3])
    ] = None


class OneQuery(Wishes):
    """A query by vector, as the index's own encoder makes them (any length above zero), or by an image of the index."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "7d1f…", "domains": ["photo"], "k": 5}]})

    vector: Annotated[Vector | None, Field(description="As many numbers as the index has dimensions.")] = None
    id: Annotated[Name | None, Field(description="Of an image in the index.")] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.vector is None) == (self.id is None):
            raise ValueError("exactly one of vector and id is needed")
        return self


class BatchQuery(Wishes):
    """Many vectors at once, with the same wishes."""

    vectors: Annotated[
        list[Annotated[Vector, FailFast()]], Field(min_length=1, max_length=65_536), FailFast()
    ]  # a body may hold millions of faults


class FoundImage(Message):
    """A found image; its thumbnail is at ``/v1/images/{id}``."""

    id: str
    domain: str
    score: Annotated[float, Field(description="Cosine, from -1 to 1.")]
    source: str


class Null(Message):
    """Nothing here matches, and why it is thought so."""

    reason: str


class Found(Message):
    """What was found for one query."""

    hits: Annotated[list[FoundImage], Field(description="The best of all domains asked.")]
    by_domain: Annotated[dict[str, list[FoundImage]], Field(description="The best of each.")]
    null: Annotated[
        Null | None, Field(description="Set where nothing in the index matches; there are no hits then.")
    ]


class Shards(Message):
    answered: int
    total: int


class Model(Message):
    name: str
    fingerprint: str


class Timings(Message):
    """Milliseconds."""

    decode: float
    encode: float
    search: float
    total: float


class Rests(Message):
    """What an answer rests on."""

    index_version: str
    model: Model
    shards: Shards
    partial: Annotated[bool, Field(description="Some shards did not answer: there may be better images.")]
    notes: list[str]
    timings_ms: Timings


class Answer(Found, Rests):
    """One query's."""


class BatchAnswer(Rests):
    """Those of many queries, in their order."""

    results: list[Found]


class DomainInfo(Message):
    images: int
    shards: int


class Recall(Message):
    """Share of the exact top ``k`` that was found when the version was made."""

    query: str
    gallery: str
    k: int
    recall: float


class IndexInfo(Message):
    """What is served."""

    index_version: str
    created: str
    model: Model
    dim: int
    metric: str
    kind: str
    images: int
    bytes: int
    domains: dict[str, DomainInfo]
    recalls: list[Recall]
    limits: dict[str, float]


class Example(Message):
    id: str
    domain: str


class Examples(Message):
    """A few images of the index to begin with."""

    examples: list[Example]


class Reloaded(Message):
    index_version: str


class Problem(Message):
    """Why there is no answer: what, where, and what is allowed."""

    error: str
