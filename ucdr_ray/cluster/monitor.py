"""What a training run reports, seen from the driver: progress on standard error, metrics into MLflow."""

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from ucdr_ray.run import Run, rate
from ucdr_ray.tracking import Tracker

_POLL_SECONDS = 0.5
_QUIET_SECONDS = 3.0
_RECENT = 3  # epochs that the estimate goes by


class Monitor:
    """Follows what the workers write into the run's folder.

    MLflow gets each epoch once, also those that an earlier process trained and did not live to send.
    """

    def __init__(self, run: Run, stages: dict[str, int], tracker: Tracker) -> None:
        self._run, self._epochs, self._tracker = run, sum(stages.values()), tracker
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._seen, self._starts = len(run.metrics()), len(run.starts())
        self._restarts = len(run.bank_restarts())
        self._sent = set(tracker.epochs)
        self._began, self._said = False, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        starts = self._run.starts()[self._starts :]
        self._starts += len(starts)
        for epoch in starts:
            if self._began:
                self._say(f"train: a worker died; all go on after epoch {epoch}")
            self._began = True
        for shard, problem in self._run.bank_restarts()[self._restarts :]:
            self._restarts += 1
            empty = f"; it begins empty: {problem}" if problem else ""
            self._say(f"train: shard {shard} of the memory bank was lost and is replaced{empty}")
        rows = self._run.metrics()
        for row in rows:
            if row["epoch"] > self._seen:
                self._seen = int(row["epoch"])
                # Of epochs that take a moment, one now and then will do.
                quiet = time.monotonic() - self._said < _QUIET_SECONDS
                if not quiet or row["seconds"] > _POLL_SECONDS or self._seen == self._epochs:
                    self._say(self._line(row, rows))
                    self._said = time.monotonic()
            if row["epoch"] not in self._sent:
                self._sent.add(int(row["epoch"]))
                values = {name: value for name, value in row.items() if isinstance(value, int | float)}
                self._tracker.log_metrics(values, int(row["epoch"]))

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _line(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
        terms = " ".join(
            f"{name.removeprefix('loss_')} {row[name]:.3f}" for name in row if name.startswith("loss")
        )
        pairs = [row[name] for name in row if name.startswith("share/") and _across(name)]
        shares = f", {sum(pairs) / len(pairs):.0%} with neighbours across" if pairs else ""
        recent = [other["seconds"] for other in rows[-_RECENT:]]
        left = sum(recent) / len(recent) * (self._epochs - self._seen)
        epoch = f"epoch {self._seen}/{self._epochs} {row['stage']}"
        return f"train: {epoch}, {terms}, {rate([row])}{shares}, {left:,.0f} s left"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()


def _across(name: str) -> bool:
    query, _, gallery = name.removeprefix("share/").partition("->")
    return query != gallery
