"""The encoder: backbone, head, and what an image must look like to enter. One folder holds it all."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint, read_json, sha256_file, staged_folder, write_json
from ucdr_ray.models.backbone import CLIP, Backbone, BackboneSpec, build_backbone
from ucdr_ray.models.clip import ClipText

_LARGEST = 4096  # side of an image in pixels


@dataclass(frozen=True)
class ProjectionSpec:
    """TKI's h in the place of a head: `hyperbolic.Projection` of CLIP's common space; `radius` of its ball."""

    radius: float | None


class Encoder(nn.Module):
    """f and its head: pixels in [0, 1] to unit vectors.

    Args:
        backbone: pooled features.
        size: side S of the images.
        resize: how an image becomes S x S (`images.to_array`).
        head: (hidden, dim) of the MLP head, or TKI's projection; None: the normalised pooled feature itself.
        embedding: what `encode` returns, the head's output or the backbone's feature.
        text: of a CLIP backbone, the side that reads words, or the folder where it lies.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        size: int,
        resize: Literal["squash", "crop"] = "squash",
        head: tuple[int, int] | ProjectionSpec | None = None,
        embedding: Literal["head", "backbone"] = "head",
        name: str | None = None,
        text: ClipText | Path | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.size = size
        self.resize: Literal["squash", "crop"] = resize
        self.embedding = embedding
        self.name = name or backbone.spec.name
        self._head = head
        self.head: nn.Module = nn.Identity()
        if isinstance(head, ProjectionSpec):
            from ucdr_ray.models.hyperbolic import Projection  # seconds, for this kind only

            self.head = Projection(backbone.dim, head.radius)
        elif head is not None:
            hidden, dim = head
            self.head = nn.Sequential(nn.Linear(backbone.dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self._text = [text]  # in a list, so that its weights are not among the encoder's
        self.register_buffer("mean", torch.tensor(backbone.spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.spec.std).view(3, 1, 1), persistent=False)
        self._fingerprint: str | None = None

    @property
    def dim(self) -> int:
        """Length of the vectors that `encode` returns."""
        return self.head_dim if self.embedding == "head" else self.backbone.dim

    @property
    def head_dim(self) -> int:
        """Length of the vectors that `forward` returns."""
        return self._head[1] if isinstance(self._head, tuple) else self.backbone.dim

    @property
    def reads_text(self) -> bool:
        """Whether `encode_text` has anything to read with."""
        return self._text[0] is not None

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(N, dim) float32 unit rows of texts, comparable with those of images.

        Raises:
            UserError: the encoder reads no text, or a text is nothing to it, or too long.
        """
        if self._text[0] is None:
            raise UserError(f"encoder {self.name} reads images only; allowed: an encoder from a CLIP")
        text = self._text[0]
        if isinstance(text, Path):
            self._text[0] = text = ClipText.load(str(text), self.name)
        feature = text.encode(texts).to(self.mean.device)
        if self.embedding == "head":
            with torch.no_grad():
                feature = self.head(feature)
        return F.normalize(feature.float(), dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, head_dim) unit rows, with gradient: what the losses see."""
        return self.embed(self.feature(pixels))

    def feature(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, F): the backbone's pooled features."""
        pixels = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.backbone(pixels)

    def embed(self, feature: Tensor) -> Tensor:
        """(B, F) features -> (B, head_dim) unit rows."""
        return F.normalize(self.head(feature).float(), dim=1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, dim) float32 unit rows: what retrieval uses. Restores training mode."""
        training = self.training
        self.eval()
        pixels = ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        feature = self.backbone(pixels)
        if self.embedding == "head":
            feature = self.head(feature)
        self.train(training)
        return F.normalize(feature.float(), dim=1)

    @classmethod
    def from_backbone(cls, source: str, size: int | None = None, seed: int = 0) -> "Encoder":
        """The backbone alone, without training: the baseline. Raises UserError as `build_backbone` does."""
        backbone = build_backbone(source, seed)
        size = size or int(backbone.spec.transformers.get("image_size") or 224)
        return cls(backbone, size, text=ClipText.load(source) if backbone.family == CLIP else None)

    def _description(self) -> dict[str, Any]:
        return {
            "format": "ucdr-encoder",
            "version": 1,
            "name": self.name,
            "backbone": self.backbone.spec.to_dict(),
            "size": self.size,
            "resize": self.resize,
            "head": asdict(self._head) if isinstance(self._head, ProjectionSpec) else self._head,
            "embedding": self.embedding,
        }

    def save(self, folder: Path) -> None:
        """Write `encoder.json`, `encoder.safetensors` and, of a CLIP, `text/`; the folder appears whole or not."""
        with staged_folder(Path(folder)) as staging:
            state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
            save_file(state, staging / "encoder.safetensors")
            if isinstance(self._text[0], Path):
                shutil.copytree(self._text[0], staging / "text")
            elif self._text[0] is not None:
                self._text[0].save(staging / "text")
            write_json(
                staging / "encoder.json",
                self._description()
                | {"sha256": sha256_file(staging / "encoder.safetensors"), "text": _sums(staging / "text")},
            )

    @classmethod
    def load(cls, folder: Path) -> "Encoder":
        """Read what `save` wrote.

        Raises:
            UserError: missing, damaged (checksum) or foreign.
        """
        folder = Path(folder)
        text = read_json(folder / "encoder.json", "encoder")
        if not isinstance(text, dict) or text.get("format") != "ucdr-encoder" or text.get("version") != 1:
            raise UserError(f"{folder / 'encoder.json'} is not an encoder of version 1")
        weights = folder / "encoder.safetensors"
        if not weights.is_file():
            raise UserError(f"no encoder weights at {weights}")
        if sha256_file(weights) != text.get("sha256"):
            raise UserError(f"{weights} is damaged: its checksum differs from encoder.json")
        if _sums(folder / "text") != text.get("text", {}):
            raise UserError(f"{folder / 'text'} is damaged: its checksums differ from encoder.json")
        try:
            spec = BackboneSpec(**text["backbone"])
            if type(text["size"]) is not int or not 1 <= text["size"] <= _LARGEST:
                raise TypeError(f"size {text['size']!r}; allowed: 1 to {_LARGEST}")
            head = text["head"] or None
            if head is not None:
                head = ProjectionSpec(**head) if isinstance(head, dict) else tuple(head)
            words = folder / "text" if (folder / "text").is_dir() else None
            encoder = cls(
                Backbone(spec), text["size"], text["resize"], head, text["embedding"], text["name"], words
            )
            encoder.load_state_dict(load_file(weights))
        except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder} doesn't hold a whole encoder: {str(error).splitlines()[0]}") from None
        return encoder.eval()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over description and weights: equal iff the same images give the same vectors."""
        if self._fingerprint is None or self.training:
            digest = {
                name: fingerprint(
                    [list(value.shape), value.detach().cpu().contiguous().numpy().tobytes().hex()]
                )
                for name, value in self.state_dict().items()
            }
            self._fingerprint = fingerprint([json.loads(json.dumps(self._description())), digest])
        return self._fingerprint


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder; empty where there is none."""
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir())} if folder.is_dir() else {}
