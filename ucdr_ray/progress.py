"""Progress of long work on standard error: a bar with rate and estimate on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Meter:
    """Counts work done; ``rate`` is over the whole time, so that it says how long the whole will take."""

    what: str
    unit: str
    total: int
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def advance(self, count: int) -> None:
        self.done += count

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        """Such as ``ingest: 512/9,991 images, 1,200/s, 8 s left``."""
        left = (self.total - self.done) / self.rate if self.done else float("inf")
        estimate = f"{left:,.0f} s left" if self.done else "just started"
        return f"{self.what}: {self.done:,}/{self.total:,} {self.unit}, {self.rate:,.0f}/s, {estimate}"


class _LoggedMeter(Meter):
    _last: float = 0.0

    def advance(self, count: int) -> None:
        super().advance(count)
        if time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)


class _BarMeter(Meter):
    bar: Progress

    def advance(self, count: int) -> None:
        super().advance(count)
        self.bar.update(self.bar.task_ids[0], completed=self.done, rate=f"{self.rate:,.0f} {self.unit}/s")


@contextmanager
def progress(what: str, unit: str, total: int) -> Iterator[Meter]:
    """Show how ``total`` units of work get on; call ``advance`` on what this yields."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LoggedMeter(what, unit, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        bar.add_task(what, total=total, rate="")
        meter = _BarMeter(what, unit, total)
        meter.bar = bar
        yield meter
