"""Two clocks that agents keep per object: when to try again, and since when nobody uses it.

Both are on the monotonic clock and in memory only: a stored wall time lies after a clock step, and the age of
something in a process that was not running says little. A restarted agent tries at once and counts use from then.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_RETRY_S = 1.0


class RetryClock:
    """Back-off: the first failure waits FIRST_RETRY_S, each further one in a row twice as long, up to a cap."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def failed(self, key: str, cap_s: float) -> float:
        """An attempt came to nothing; returns the seconds until the next one."""
        failures = self._failures.get(key, 0)
        wait = min(FIRST_RETRY_S * 2.0 ** min(failures, 30), cap_s)
        self._failures[key] = failures + 1
        self._due[key] = self._clock() + wait
        return wait

    def waiting(self, key: str) -> bool:
        """Is the next attempt still to come?"""
        return self._clock() < self._due.get(key, 0.0)

    def remaining(self, key: str) -> float | None:
        """Seconds until the next attempt, at least 0; None when nothing failed."""
        due = self._due.get(key)
        return None if due is None else max(0.0, due - self._clock())

    def forget(self, key: str) -> None:
        """Something came of it, or it is another attempt now: the next failure is a first one."""
        self._due.pop(key, None)
        self._failures.pop(key, None)


class UseClock:
    """Since when an object has not been used."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[str, float] = {}

    def used(self, key: str) -> None:
        self._used[key] = self._clock()

    def idle(self, key: str) -> float:
        """Seconds since the last use; the first question counts as one."""
        return self._clock() - self._used.setdefault(key, self._clock())

    def forget(self, key: str) -> None:
        self._used.pop(key, None)
