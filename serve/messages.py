"""What goes over the wire: requests and answers, with examples, from which the OpenAPI is made."""

from typing import Annotated, Literal, Self

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

    null: Annotated[
        Literal["on", "off"],
        Field(
            description="Where the index was built to judge it, say so where it lacks what the query shows. "
            "off: never; also as a parameter of the query, ?null=off."
        ),
    ] = "on"
    query_domain: Annotated[
        Name | None,
        Field(
            description="For that, what the query is from; what it looks like without it.",
            examples=["sketch"],
        ),
    ] = None


class OneQuery(Wishes):
    """A query by vector, as the index's own encoder makes them (any length above zero), by an image of the index, or in
    words, where `/v1/index` says `reads_text`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "7d1f…", "domains": ["photo"], "k": 5}]})

    vector: Annotated[Vector | None, Field(description="As many numbers as the index has dimensions.")] = None
    id: Annotated[Name | None, Field(description="Of an image in the index.")] = None
    text: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=1_000,
            description="Words for what is looked for. Whether anything matches them is not judged.",
            examples=["a sketch of a dog"],
        ),
    ] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(one is not None for one in (self.vector, self.id, self.text)) != 1:
            raise ValueError("exactly one of vector, id and text is needed")
        if self.text is not None and self.query_domain is not None:
            raise ValueError("query_domain: does not go with text, which is from no domain")
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


class Verdict(Message):
    """Of one domain asked."""

    null: Annotated[bool, Field(description="It has nothing of the kind that the query shows.")]
    distance: Annotated[float, Field(description="(1 - cosine) times the distance of the nearest image.")]
    threshold: Annotated[
        float | None,
        Field(
            description="The largest distance that counts as near; null: the domain has no such part at all."
        ),
    ]


class Judged(Message):
    """Whether the domains asked have what the query shows, judged as if it were from `query_domain`."""

    query_domain: Annotated[
        str | None, Field(description="null: from none that the index knows: not judged.")
    ]
    inferred: Annotated[bool, Field(description="The domain was not given, but told by how the query looks.")]
    by_domain: Annotated[dict[str, Verdict], Field(description="Without those that can't be judged.")]


class Found(Message):
    """What was found for one query."""

    hits: Annotated[list[FoundImage], Field(description="The best of all domains asked.")]
    by_domain: Annotated[dict[str, list[FoundImage]], Field(description="The best of each.")]
    null: Annotated[
        Null | None, Field(description="Set where nothing in the index matches; there are no hits then.")
    ]
    judged: Annotated[
        Judged | None, Field(description="null: the index was not built to judge this, or null=off.")
    ] = None


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
    judges: Annotated[bool, Field(description="It was built to say where nothing in a domain matches.")]
    reads_text: Annotated[bool, Field(description="It can be asked in words.")]
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
