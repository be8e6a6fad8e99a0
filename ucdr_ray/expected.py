"""What benchmarks are published to hold, and how a source differs: "which classes, which split"."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import Field, NonNegativeInt

from ucdr_ray.errors import UserError
from ucdr_ray.records import Record, read_record

NAMES = ("pacs", "office31", "office_home", "domainnet", "domainnet7")
_FOLDER = Path(str(files("ucdr_ray"))) / "published"
_SHOWN = 6

Counts = Mapping[str, Mapping[str | None, int]]  # domain -> class (None: no class) -> images


class PublishedDomain(Record):
    """Counts of one domain, as far as they are published."""

    images: NonNegativeInt | None = None
    per_class: dict[str, int] = Field(default_factory=dict)
    aliases: list[str] = Field(default_factory=list)


class Subset(Record):
    """A part of a benchmark that goes around under its name; images by domain."""

    name: str
    images: dict[str, int]


class Published(Record):
    """A benchmark. With ``over_per_class``, every class has more images than that in every domain."""

    title: str
    classes: list[str]
    domains: dict[str, PublishedDomain]
    over_per_class: NonNegativeInt | None = None
    subsets: list[Subset]


@dataclass(frozen=True)
class Difference:
    """One way in which a source is not the benchmark; ``hint`` says what it may be instead, or what to do."""

    domain: str
    what: str
    published: str
    found: str
    hint: str = ""


def published(name: str) -> Published:
    """A benchmark by its name in ``NAMES``. Raises ``UserError``."""
    if name not in NAMES:
        raise UserError(f"--expect {name}: known are {', '.join(NAMES)}")
    return read_record(Published, _FOLDER / f"{name}.json", "published counts")


def read_classes(text: str) -> list[str]:
    """Class names from a file, one a line, ``#`` for remarks; ``text`` may also name a list that is shipped.

    Raises:
        UserError: no such file, or no class in it.
    """
    shipped = {path.stem: path for path in sorted(_FOLDER.glob("*.txt"))}
    path = Path(text) if Path(text).exists() or text not in shipped else shipped[text]
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(
            f"--classes {text}: {reason} (lists that are shipped: {', '.join(shipped)})"
        ) from None
    classes = [line for line in lines if line and not line.startswith("#")]
    if not classes:
        raise UserError(f"--classes {path}: no class in it")
    return classes


def differences(benchmark: Published, counts: Counts) -> list[Difference]:
    """Everything in which ``counts`` is not ``benchmark``; names are compared without case, blanks and marks."""
    theirs = {
        _plain(alias): name for name, domain in benchmark.domains.items() for alias in (name, *domain.aliases)
    }
    mine: dict[str, str] = {}
    found: list[Difference] = []
    for domain in counts:
        name = theirs.get(_plain(domain))
        if name is None or name in mine:
            hint = f"its domains are {', '.join(benchmark.domains)}; --domains takes some only"
            found.append(Difference(domain, "domain", "none", f"{_total(counts[domain]):,} images", hint))
        else:
            mine[name] = domain
    for name, facts in benchmark.domains.items():
        if name not in mine:
            size = f"{facts.images:,} images" if facts.images else "a domain"
            found.append(Difference(name, "domain", size, "missing"))
        else:
            found.extend(_in_domain(benchmark, name, mine[name], counts[mine[name]]))
    return found


def recognise(counts: Counts) -> str | None:
    """The name of the benchmark that ``counts`` agree with, if there is one."""
    return next((name for name in NAMES if not differences(published(name), counts)), None)


def _in_domain(
    benchmark: Published, name: str, mine: str, counts: Mapping[str | None, int]
) -> Iterator[Difference]:
    facts, total = benchmark.domains[name], _total(counts)
    if facts.images is not None and total != facts.images:
        same = [subset.name for subset in benchmark.subsets if subset.images.get(name) == total]
        yield Difference(
            mine, "images", f"{facts.images:,}", f"{total:,}", f"as in {same[0]}" if same else ""
        )
    if counts.get(None):
        hint = "images without a class: expected <domain>/<class>/<file>, or labels in the list"
        yield Difference(mine, "images without class", "0", f"{counts[None]:,}", hint)
    classes = {_plain(kind): count for kind, count in counts.items() if kind is not None}
    spelt = {_plain(kind): kind for kind in counts if kind is not None}
    if classes and all(kind.isdecimal() for kind in classes):
        if len(classes) != len(benchmark.classes):
            yield Difference(
                mine, "classes", str(len(benchmark.classes)), str(len(classes)), "labels are numbers here"
            )
        return
    wanted = {_plain(kind): kind for kind in benchmark.classes}
    if extra := [spelt[kind] for kind in classes if kind not in wanted]:
        hint = "the benchmark is a selection: add --classes domainnet7" if benchmark.over_per_class else ""
        yield Difference(mine, "classes that are not of it", "0", _some(extra), hint)
    if classes and (missing := [wanted[kind] for kind in wanted if kind not in classes]):
        yield Difference(mine, "missing classes", "0", _some(missing))
    for kind in [kind for kind in wanted if kind in classes]:
        exact = facts.per_class.get(wanted[kind])
        if exact is not None and classes[kind] != exact:
            yield Difference(mine, f"images of {spelt[kind]}", f"{exact:,}", f"{classes[kind]:,}")
        if benchmark.over_per_class and classes[kind] <= benchmark.over_per_class:
            yield Difference(
                mine, f"images of {spelt[kind]}", f"over {benchmark.over_per_class}", f"{classes[kind]:,}"
            )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _total(counts: Mapping[str | None, int]) -> int:
    return sum(counts.values())


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}: {shown}{more}"
