"""Progress of long work on standard error: a bar with rate and estimate on a terminal, lines now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """Such as ``90 s`` or ``2.5 minutes``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} minutes"


class Meter:
    """Counts work done. The rate leaves out everything up to the first piece, which includes starting workers."""

    def __init__(self, what: str, unit: str, total: int) -> None:
        self.what, self.unit, self.total = what, unit, total
        self.done = 0
        self.started = time.monotonic()
        self._since, self._before = self.started, 0

    def advance(self, count: int) -> None:
        """Say that ``count`` more units are done."""
        if not self.done:
            self._since, self._before = time.monotonic(), count
        self.done += count
        self.show()

    def show(self) -> None:
        """Bring what is on display up to date."""

    @property
    def rate(self) -> float:
        """Units a second; 0 as long as that can't be said."""
        return (self.done - self._before) / max(time.monotonic() - self._since, 1e-3)

    def line(self) -> str:
        """Such as ``ingest: 1,024/9,991 images, 1,200/s, 8 s left``."""
        share = f"{self.what}: {self.done:,}/{self.total:,} {self.unit}"
        if not self.rate:
            return f"{share}, just started"
        pace = f"{self.rate:,.0f}/s" if self.rate >= 1 else f"{1 / self.rate:,.1f} s each"
        return f"{share}, {pace}, {(self.total - self.done) / self.rate:,.0f} s left"


class _Log(Meter):
    def __init__(self, what: str, unit: str, total: int) -> None:
        super().__init__(what, unit, total)
        self._last = 0.0

    def show(self) -> None:
        if time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)


class _Bar(Meter):
    def __init__(self, what: str, unit: str, total: int, bar: Progress) -> None:
        super().__init__(what, unit, total)
        self._bar, self._task = bar, bar.add_task(what, total=total, rate="")

    def show(self) -> None:
        pace = (
            f"{self.rate:,.0f} {self.unit}/s" if self.rate >= 1 else f"{1 / max(self.rate, 1e-9):,.1f} s each"
        )
        rate = pace if self.rate else ""
        self._bar.update(self._task, completed=self.done, rate=rate)


@contextmanager
def progress(what: str, unit: str, total: int) -> Iterator[Meter]:
    """Show how ``total`` units of work get on; call ``advance`` on what this yields."""
    console = Console(stderr=True)
    if console.is_terminal:
        parts = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *parts, console=console) as bar:
            yield _Bar(what, unit, total, bar)
        return
    meter = _Log(what, unit, total)
    yield meter
    seconds = time.monotonic() - meter.started
    print(f"{what}: {meter.done:,} {unit} in {seconds:,.1f} s", file=sys.stderr, flush=True)
