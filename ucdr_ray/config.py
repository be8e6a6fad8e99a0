"""The config of a training run; its sections and their fields stand in `settings.py`.

YAML in (`load_config`), JSON schema out (`RunConfig.model_json_schema()`); `--set a.b=c` overrides one field.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint
from ucdr_ray.method_settings import AlignmentConfig, ImageMethodConfig, MethodConfig, TkiConfig
from ucdr_ray.problems import describe
from ucdr_ray.settings import (
    AugmentConfig,
    BankConfig,
    DataConfig,
    ModelConfig,
    Section,
    TrackingConfig,
    TrainConfig,
)
from ucdr_ray.yaml_text import parse_yaml


class RunConfig(Section):
    """A whole training run."""

    data: DataConfig = Field(default_factory=lambda: DataConfig.model_validate({}))
    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}))
    augment: AugmentConfig = Field(default_factory=lambda: AugmentConfig.model_validate({}))
    method: MethodConfig = Field(default_factory=lambda: AlignmentConfig.model_validate({}))
    bank: BankConfig = Field(default_factory=lambda: BankConfig.model_validate({}))
    train: TrainConfig = Field(default_factory=lambda: TrainConfig.model_validate({}))
    tracking: TrackingConfig = Field(default_factory=lambda: TrackingConfig.model_validate({}))

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """Without a name the method is the alignment. The bank's rule is the method's: UEM averages (its Eq. 5)."""
        if not isinstance(values, dict) or not isinstance(method := values.get("method") or {}, dict):
            return values
        values = values | {"method": {"name": "alignment"} | method}
        if method.get("name") == "uem" and isinstance(bank := values.get("bank") or {}, dict):
            values["bank"] = {"momentum": 0.99} | bank
        return values

    @property
    def image_method(self) -> ImageMethodConfig:
        """The method's settings; TypeError of one that trains on words."""
        if isinstance(self.method, TkiConfig):
            raise TypeError(f"method {self.method.name} trains on words")
        return self.method

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if isinstance(self.method, TkiConfig):
            return self._check_words()
        warm, epochs = self.train.warmup_epochs, sum(self.method.stages.model_dump().values())
        if warm > epochs:
            raise ValueError(
                f"train.warmup_epochs={warm:g}; allowed: up to the {epochs} epochs of all stages"
            )
        if self.train.workers > self.train.batch:
            raise ValueError(
                f"train.workers={self.train.workers} exceeds train.batch={self.train.batch} images per domain; "
                "allowed: at most one worker per image"
            )
        if self.train.precision == "bfloat16" and self.train.device == "cpu":
            raise ValueError("train.precision=bfloat16 with train.device=cpu; allowed: float32 on a CPU")
        return self

    def _check_words(self) -> "RunConfig":
        """What says how images are trained on says nothing here, so a value of one's own is a mistake."""
        unused = {
            "augment": type(self.augment).model_fields.keys(),
            "bank": type(self.bank).model_fields.keys(),
            "data": type(self.data).model_fields.keys() - {"size", "resize"},
            "train": type(self.train).model_fields.keys() - {"seed", "device"},
            "model": type(self.model).model_fields.keys() - {"backbone", "batch_norm"},
        }
        for section, fields in unused.items():
            here = getattr(self, section)
            for name in sorted(fields):
                if getattr(here, name) != type(here).model_fields[name].get_default(
                    call_default_factory=True
                ):
                    raise ValueError(
                        f"{section}.{name}={getattr(here, name)} with method.name=tki, which trains on words; "
                        f"allowed: no {section}.{name}"
                    )
        return self


_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+|[+-]?(nan|inf)")


def _set(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override}: write it as section.field=value, for example train.lr=0.001")
    *parents, last = path.strip().split(".")
    node: Any = tree
    for parent in parents:
        if node.get(parent) is None:  # nowhere, or an emptied section
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise UserError(f"--set {override}: {parent} is a value, not a section")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: {error}".replace("\n", " ")) from None
    if isinstance(value, str) and _EXPONENT.fullmatch(value):  # YAML 1.1 reads 1e-3 as text
        value = float(value)
    node[last] = value


def load_config(path: Path | None = None, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file (or the defaults), apply `a.b=c` overrides, check everything.

    Raises:
        UserError: naming each bad field, its value and what is allowed.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = parse_yaml(Path(path).read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise UserError(f"no config at {path}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"unreadable config {path}: {error}".replace("\n", " ")) from None
        if not isinstance(tree, dict):
            raise UserError(f"config {path} holds a {type(tree).__name__}; allowed: sections of fields")
    for override in overrides or []:
        _set(tree, override)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        where = f"{path}: " if path else ""
        raise UserError(where + "; ".join(describe(error, RunConfig))) from None


def dump_config(config: RunConfig) -> str:
    """The whole config as YAML; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def config_fingerprint(config: RunConfig) -> str:
    """SHA-256 of all that decides the weights: tracking, workers' placement and checkpoint rhythm left out.

    Several workers count where they decide it: batch statistics are of a worker's share of the batch, and images are
    streamed in an order of each worker's own.
    """
    tree = config.model_dump(mode="json")
    del tree["tracking"]
    free = {"threads", "checkpoint_every", "keep_checkpoints", "max_failures"}
    apart = config.model.batch_norm == "train" or config.data.residency == "stream"
    if config.train.workers <= 1 or not apart:
        free.add("workers")
    tree["bank"] = {name: tree["bank"][name] for name in ("momentum", "exact_up_to")}
    tree["train"] = {name: value for name, value in tree["train"].items() if name not in free}
    for name in ("latents", "gradient_checkpointing", "channels_last"):
        tree["method"].pop(name, None)
    return fingerprint(tree)
