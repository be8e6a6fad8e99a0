"""Typed manifests: strict schemas read from JSON, and files held against their recorded checksums."""

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator

from ucdr_ray.errors import UserError
from ucdr_ray.files import read_json, sha256_file

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Immutable, with no unknown fields and no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


AnyRecord = TypeVar("AnyRecord", bound=Record)
LARGE = 1 << 26  # bytes of a file that is not read again while it stays as it was
# In this process: which file, as it was then, to its checksum.
_right: dict[tuple[int, ...], str] = {}


class FileRecord(Record):
    """A file below a root, by relative path, size and checksum."""

    file: str
    bytes: NonNegativeInt
    sha256: Sha256

    @field_validator("file")
    @classmethod
    def _stays_below_the_root(cls, value: str) -> str:
        path = Path(value)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise ValueError(f"{value!r} is not a path below its folder")
        return value

    @classmethod
    def of(cls, root: Path, file: str, **fields: Any) -> Self:
        """The record of an existing file; ``fields`` are those that a subclass adds."""
        return cls(file=file, bytes=(root / file).stat().st_size, sha256=sha256_file(root / file), **fields)

    def check(self, root: Path, what: str) -> None:
        """Hold the file against this record.

        A large one that this process found right before, by whatever name, is not read again if neither its size nor
        its time of modification is another: versions of an index share such files.

        Raises:
            UserError: it is missing, unreadable, or differs in a single bit; names the file.
        """
        path = root / self.file
        try:
            stat = path.stat()
            state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            same = stat.st_size == self.bytes and (
                _right.get(state) == self.sha256 or sha256_file(path) == self.sha256
            )
            if same and self.bytes >= LARGE:
                _right[state] = self.sha256
        except OSError as error:
            raise UserError(f"damaged {what}: cannot read {path}: {error.strerror}") from None
        if not same:
            raise UserError(f"damaged {what}: {path} does not match its checksum")


def files_under(root: Path, folder: str) -> list[FileRecord]:
    """Records of every file below ``root/folder``, by name."""
    files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    return [FileRecord.of(root, path.relative_to(root).as_posix()) for path in files]


def read_record(schema: type[AnyRecord], path: Path, what: str) -> AnyRecord:
    """Read a JSON file into ``schema``.

    Raises:
        UserError: missing, not JSON, or not of this schema; one line with the first field that is wrong.
    """
    content = read_json(path, what)
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        raise UserError(f"bad {what} at {path}: {where}: {first['msg']}") from None
