"""A line of progress: rewritten in a terminal, and in a log a new one now and then."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_SHARE, _SECONDS = 0.1, 300  # of a log: how far lines are apart, at most
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def written(number: float) -> str:
    """Writes a number of bytes with three digits or so: "19.3 GB"."""
    power = 0
    while number >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.1f} {_UNITS[power]}" if power and number < 99.95 else f"{number:.0f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Writes a time as "40 s", "12 min" or "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


class Progress:
    """Tells of a number of bytes that grows: what of how much, the rate and the time left.

    Call it with the bytes done. `done`: those that were there before, which the rate does not count.
    """

    def __init__(
        self, what: str, total: int | None, done: int = 0, stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.what, self.total, self.before = what, total, done
        self.stream, self.clock = stream or sys.stdout, clock
        self.rewrites = self.stream.isatty()
        self.started = self.told_at = clock()
        self.told, self.width = done, 0

    def __call__(self, done: int) -> None:
        now = self.clock()
        if self.rewrites:
            is_due = now - self.told_at >= 0.2
        else:
            share = (done - self.told) / self.total if self.total else 0.0
            is_due = share >= _SHARE or now - self.told_at >= _SECONDS
        if is_due or done == self.total:
            self._tell(done, now)

    def close(self) -> None:
        """Ends the line that is rewritten."""
        if self.rewrites and self.width:
            print(file=self.stream, flush=True)
            self.width = 0

    def _tell(self, done: int, now: float) -> None:
        rate = (done - self.before) / max(now - self.started, 1e-3)
        parts = [f"{written(done)} of {written(self.total)}" if self.total else written(done)]
        if rate:
            parts.append(f"{written(rate)}/s")
            if self.total and done < self.total:
                parts.append(f"{duration((self.total - done) / rate)} left")
        share = f"{int(100 * done / self.total):3} %, " if self.total else ""
        line = f"{self.what}: {share}{', '.join(parts)}"
        if self.rewrites:
            print(f"\r{line:{self.width}}", end="", file=self.stream, flush=True)
            self.width = len(line)
        else:
            print(line, file=self.stream, flush=True)
        self.told, self.told_at = done, now
