"""The job behind `ucdr train` with a method that trains on words alone: a run from its folder to its encoder.

In this process and without Ray: there is no image to decode, and CLIP stays as it is. What is interrupted begins anew.
"""

import time
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ucdr_ray.cluster.monitor import Monitor
from ucdr_ray.cluster.run_tracking import log_finished, outcome, tracked
from ucdr_ray.config import RunConfig
from ucdr_ray.engine import pick_device
from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write
from ucdr_ray.method_settings import TkiConfig
from ucdr_ray.methods.tki import Prompts, aggregate, expand, features
from ucdr_ray.models.backbone import CLIP, build_backbone
from ucdr_ray.models.clip import ClipText
from ucdr_ray.models.encoder import Encoder, ProjectionSpec
from ucdr_ray.models.hyperbolic import Projection
from ucdr_ray.run import Run, begin, check_folder
from ucdr_ray.tracking import resolve_uri

_MOST_WORDS = 20_000  # with 20 domain vectors of CLIP's 512 numbers each, 800 MB of features


def read_words(path: Path) -> list[str]:
    """The class words of a text file, one class on each line; empty lines count for nothing.

    Raises:
        UserError: there is no such file, or it holds no words, or too many.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"--words {path}: {reason}") from None
    words = [line.strip() for line in lines if line.strip()]
    if not 0 < len(words) <= _MOST_WORDS:
        raise UserError(
            f"--words {path}: {len(words):,} words; allowed: 2 to {_MOST_WORDS:,}, one on each line"
        )
    return words


def train_on_words(config: RunConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train a run to its end.

    Args:
        out: the run's folder.
        resume: begin an unfinished run anew; a finished one is left as it is.

    Returns:
        What the verb's `--json` holds, as of `cluster.training.train`.

    Raises:
        UserError: folder, config or model don't fit.
    """
    method = config.method
    assert isinstance(method, TkiConfig)
    if len(method.words) < 2:
        raise UserError(
            f"method.words has {len(method.words)} words; allowed: at least 2, what the images show (--words FILE)"
        )
    backbone = build_backbone(config.model.backbone)
    if backbone.family != CLIP:
        raise UserError(
            f"model.backbone={config.model.backbone} is a {backbone.family}; allowed with method tki: a CLIP "
            "in the format of transformers, which reads text too"
        )
    text = ClipText.load(config.model.backbone)
    prompts = Prompts.of(text, method.words)
    if "size" not in config.data.model_fields_set:
        own = config.data.model_copy(update={"size": int(backbone.spec.transformers["image_size"])})
        config = config.model_copy(update={"data": own})
    uri = resolve_uri(config.tracking.uri, Path(out).parent) if config.tracking.enabled else None
    device, seed = pick_device(config.train), config.train.seed
    run = check_folder(Path(out), resume)
    with run.held():
        if begin(run, config, None, resume):
            data = config.data
            encoder = Encoder(backbone, data.size, data.resize, ProjectionSpec(method.radius), text=text)
            with run.going(), tracked(config, run, uri) as tracker:
                run.add_start(0)
                with Monitor(run, method.stages.model_dump(), tracker):
                    vectors, t, h = _train(text.to(device), prompts, method, seed, _Rows(run, method))
                text.to("cpu")
                encoder.head.load_state_dict(h.state_dict())
                tensors = {"vectors": vectors.cpu(), "prompts": t.cpu()}
                atomic_write(run.words, save(tensors))
                encoder.eval().save(run.encoder)
                log_finished(run, tracker)
    return outcome(run)


def _train(
    text: ClipText, prompts: Prompts, method: TkiConfig, seed: int, report: "_Rows"
) -> tuple[Tensor, Tensor, Projection]:
    """Both stages: vectors (P, W), features of all prompts (P, C, D), and h."""
    vectors = expand(text, prompts, method, seed, report)
    t = features(text, prompts, vectors, method.batch)
    return vectors, t, aggregate(t, method, seed, report)


class _Rows:
    """Writes each epoch's row, as those who look at a run want it."""

    def __init__(self, run: Run, method: TkiConfig) -> None:
        self._run, self._before = run, {"expansion": 0, "aggregation": method.stages.expansion}
        self._prompts = method.domains * len(method.words)
        self._since = time.monotonic()

    def __call__(self, stage: str, epoch: int, losses: dict[str, float]) -> None:
        seconds = time.monotonic() - self._since
        self._since += seconds
        self._run.add_metrics(
            {
                "epoch": self._before[stage] + epoch,
                "stage": stage,
                "loss": sum(losses.values()),
                **{f"loss_{name}": loss for name, loss in losses.items()},
                "prompts_per_s": self._prompts / seconds,
                "seconds": seconds,
            }
        )
