"""The long fault campaigns of an index: 1,000 mutants of its files of each kind, and writers killed at any moment."""

import random
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from tests.index_changes import CHANGES, Ground, Reader, answers, begun
from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.index.build import build
from ucdr_ray.index.change import delete, rollback
from ucdr_ray.index.kinds import APPROXIMATE
from ucdr_ray.index.merge import Hit
from ucdr_ray.index.search import Index
from ucdr_ray.index.shard import one_thread
from ucdr_ray.index.versions import current, versions

pytestmark = pytest.mark.campaign
KILLS, MUTANTS = 25, 1_000
HEADER = 64
# How far a change came: "complete" is a version that is not in use yet; "new", one that is.
STAGES = ("writing", "publishing", "complete", "new")


@dataclass(frozen=True)
class Made:
    catalog: Catalog
    embeddings: Embeddings

    @property
    def queries(self) -> np.ndarray:
        """Rows of both domains, some of which a `Trial` deletes before it begins, and some when it does."""
        return np.concatenate([self.embeddings.vectors(name)[:6] for name in ("photo", "sketch")])

    def ids(self, start: int) -> list[str]:
        """Every tenth of each domain."""
        return [
            id_ for name in ("photo", "sketch") for id_ in self.embeddings.ids(name).to_pylist()[start::10]
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    one_thread()
    root = tmp_path_factory.mktemp("made")
    catalog = make_catalog(root / "catalog", {"photo": 1200, "sketch": 150}, rows_per_part=600, side=4)
    return Made(catalog, make_embeddings(root / "embeddings", catalog))


Mutation = Callable[[bytes, bytes, random.Random], bytes]


def flipped(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    """With another bit."""
    place = chance.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :]


def cut(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    """Without its end."""
    return whole[: chance.randrange(len(whole))]


def extended(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    """With more at its end."""
    size = chance.randrange(1, 100)
    return whole + chance.choice([bytes(size), chance.randbytes(size), whole[:size], other])


def headed(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    """With something else in its header: anything, another file's, or numbers that are nothing, or huge."""
    place, size = chance.randrange(min(HEADER, len(whole))), chance.choice([1, 4, 8])
    end = min(place + size, HEADER, len(whole))
    new = chance.choice(
        [chance.randbytes(size), other[place:end], bytes(size), b"\xff" * size, b"\x7f" * size]
    )
    return whole[:place] + new[: end - place] + whole[end:]


def spliced(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    """With a stretch of another file, or of its own, in place of one as long; or with the end of another file."""
    least = min(len(whole), len(other))
    size = chance.randrange(1, least + 1)
    place = chance.randrange(least - size + 1)
    if chance.random() < 0.2:
        return whole[:place] + other[place:]
    start = chance.choice([place, chance.randrange(len(other) - size + 1)])
    return whole[:place] + other[start : start + size] + whole[place + size :]


MUTATIONS: tuple[Mutation, ...] = (flipped, cut, extended, headed, spliced)


def tried(
    out: Path, files: list[Path], others: list[Path], queries: np.ndarray, chance: random.Random
) -> dict[str, int]:
    """Mutants of files of an index: each is refused, and its file named, or holds the same bytes as before.

    Args:
        others: files that stretches are taken from.
    """
    answer = answers(Index.open(out), queries)
    wholes = {file: file.read_bytes() for file in [*files, *others]}
    refused = same = 0
    while refused < MUTANTS:
        file, other = chance.choice(files), chance.choice(others)
        mutant = MUTATIONS[(refused + same) % len(MUTATIONS)](wholes[file], wholes[other], chance)
        file.write_bytes(mutant)
        if mutant == wholes[file]:
            assert answers(Index.open(out), queries) == answer
            same += 1
        else:
            with pytest.raises(UserError, match=re.escape(str(file))):
                Index.open(out)
            refused += 1
        file.write_bytes(wholes[file])
    assert answers(Index.open(out), queries) == answer
    return {"tried": refused + same, "refused": refused, "identical": same}


@pytest.mark.parametrize("kind", ["exact", *APPROXIMATE])
def test_a_mutant_of_an_index_file_is_refused_or_the_same(
    kind: str, made: Made, tmp_path: Path, tell: Callable[..., None]
) -> None:
    out = tmp_path / "index"
    build(made.embeddings, made.catalog, out, kind, recall=0.9)
    files = sorted(out.rglob("*.faiss"))
    assert len(files) == (2 if kind == "exact" else 3), "vectors of two shards, and a shortcut of the larger"
    tell(f"mutants of an index, {kind}", **tried(out, files, files, made.queries, random.Random(kind)))


SMALL = [
    "CURRENT",
    "manifest.json",
    "metadata.parquet",
    "deleted.parquet",
    "encoder.json",
    "encoder.safetensors",
    "open_set.safetensors",
]


@pytest.mark.parametrize("name", SMALL)
def test_a_mutant_of_any_other_file_is_refused_or_the_same(
    name: str, made: Made, tmp_path: Path, tell: Callable[..., None]
) -> None:
    out = tmp_path / "index"
    build(made.embeddings, made.catalog, out, null=1.0)
    folder = delete(out, made.ids(0)).folder
    small = [path for path in [out / "CURRENT", *sorted(folder.rglob("*"))] if path.name in SMALL]
    files = [path for path in small if path.name == name]
    tell(f"mutants of {name}", **tried(out, files, small, made.queries, random.Random(name)))


class Trial:
    """One change of an index that has shortcuts and deleted rows, ended early and often, while a process reads it."""

    def __init__(self, verb: str, made: Made, out: Path) -> None:
        self._out, self._verb, self._queries = out, verb, made.queries
        self._ground = Ground(out, made.embeddings, made.catalog, made.ids(5))
        CHANGES["build"](self._ground)
        self._base = delete(out, made.ids(0)).version
        self._old = self._found(self._base)
        self._new, self._less = self._undisturbed(verb), self._undisturbed("delete")
        assert self._old not in (self._new, self._less), "answers tell which version gave them"
        self._whole = {name: self._found(name) for name in versions(out)}
        self._reader = Reader(out, self._queries)
        self.kills: Counter[str] = Counter()

    def begun(self, steps: int | None = None) -> BaseProcess:
        """The change, begun in a process of its own, which kills itself after so many steps."""
        return begun(self._ground, self._verb, steps)

    def wait_for_publishing(self, process: BaseProcess) -> None:
        """Until the files of the new version are moved to where they stay, or the change is over."""
        while process.is_alive() and self._stage() == "writing":
            time.sleep(0.001)

    def timed(self) -> tuple[float, float]:
        """Seconds that the change takes, and its publishing."""
        process, begun = self.begun(), time.monotonic()
        self.wait_for_publishing(process)
        publishing = time.monotonic()
        process.join()
        end = time.monotonic()
        assert not self.ended(process)
        return end - begun, end - publishing

    def ended(self, process: BaseProcess) -> bool:
        """Look at what is left once the process has ended, and whether it was killed; then all is as before it began.

        Every version is whole, the next writer is not kept out, and clears away what is not.
        """
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0
        stage = self._stage()
        assert current(self._out) in (self._base, versions(self._out)[-1])
        assert killed or stage == "new"
        for name in (None, *(name for name in versions(self._out) if name not in self._whole)):
            index = Index.open(self._out, name)  # verifies every checksum
            self._whole[index.version] = self._old if index.version == self._base else self._new
            assert answers(index, self._queries) == self._whole[index.version]
        rollback(self._out, self._base)
        after = CHANGES["delete"](self._ground)
        assert answers(after, self._queries) == self._less
        self._whole[after.version] = self._less
        left = {path.name for path in (*self._out.iterdir(), *self._out.rglob(".*"))}
        assert left - {".lock"} == {"CURRENT", "versions"}
        rollback(self._out, self._base)
        self.kills[stage] += killed
        return killed

    def read(self) -> int:
        """How often the reader opened the index and searched in it, each time with one version's whole answer."""
        times, seen = self._reader.end()
        assert self._base in seen and seen == {name: self._whole[name] for name in seen}
        return times

    def _undisturbed(self, verb: str) -> list[list[Hit]]:
        found = answers(CHANGES[verb](self._ground), self._queries)
        rollback(self._out, self._base)
        return found

    def _found(self, version: str) -> list[list[Hit]]:
        return answers(Index.open(self._out, version), self._queries)

    def _stage(self) -> str:
        folder = self._out / "versions"
        if current(self._out) != self._base:
            return "new"
        if versions(self._out)[-1] not in self._whole:
            return "complete"
        return "publishing" if list(folder.glob(".*.tmp")) else "writing"


@pytest.fixture(params=CHANGES)
def verb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_change_killed_at_any_moment_leaves_a_whole_version(
    verb: str, made: Made, tmp_path: Path, tell: Callable[..., None]
) -> None:
    trial, chance = Trial(verb, made, tmp_path / "index"), random.Random(verb)
    spans = [statistics.median(times) for times in zip(*(trial.timed() for _ in range(3)))]
    while (number := trial.kills.total()) < KILLS:  # of a change that was done by then, there is none
        process = trial.begun()
        if number % 2:
            trial.wait_for_publishing(
                process
            )  # a small part of the whole: every other moment is drawn from it alone
        time.sleep(chance.uniform(0, spans[number % 2]))
        process.kill()
        trial.ended(process)
    tell(f"kills of ucdr index {verb}", tried=KILLS, **told(trial))


def test_a_change_killed_before_any_of_its_steps_leaves_a_whole_version(
    verb: str, made: Made, tmp_path: Path, tell: Callable[..., None]
) -> None:
    """What lies between some steps of publishing is too short for a random moment to hit it."""
    trial, steps = Trial(verb, made, tmp_path / "index"), 0
    while trial.ended(trial.begun(steps)):
        steps += 1
    assert all(trial.kills[stage] for stage in STAGES)
    tell(f"kills of ucdr index {verb}, by step", tried=steps, **told(trial))


def told(trial: Trial) -> dict[str, int]:
    return {stage: trial.kills[stage] for stage in STAGES} | {"read": trial.read()}
