"""A queue of keys to look at again: level-triggered reconciling, as in Kubernetes' controllers.

Handlers only mark a key; `step(key)` reads the tables as they are then and decides. However often a key
was marked, one step follows the last mark. A step that raises is logged with its key and tried again with
back-off, so one bad record never stops the others and nothing stays undone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from pillar.loop import Loop, Timer

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 60.0
SLICE_S: Final = 0.02  # many marked keys give way to other callbacks after this


class KeyQueue:
    """Calls `step` on the loop's thread, one key at a time, in the order of the first marks."""

    def __init__(self, loop: Loop, step: Callable[[str], None], log: logging.Logger) -> None:
        self._loop = loop
        self._step = step
        self._log = log
        self._marked: dict[str, None] = {}  # an ordered set
        self._scheduled = False
        self._later: dict[str, Timer] = {}
        self._failures: dict[str, int] = {}

    def mark(self, key: str) -> None:
        """Run `step(key)` soon, once however often it was marked until then."""
        self._marked[key] = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def mark_later(self, key: str, seconds: float) -> None:
        """Mark `key` at the latest in `seconds`; an earlier such deadline stands."""
        timer = self._later.get(key)
        if timer is not None:
            if timer.due <= time.monotonic() + seconds:
                return
            timer.cancel()
        self._later[key] = self._loop.call_later(seconds, lambda: self._due(key))

    def __len__(self) -> int:
        """Keys that are marked now (not those marked for later)."""
        return len(self._marked)

    def _due(self, key: str) -> None:
        self._later.pop(key, None)
        self.mark(key)

    def _run(self) -> None:
        self._scheduled = False
        until = time.monotonic() + SLICE_S
        while self._marked:
            key = next(iter(self._marked))
            del self._marked[key]  # before the step: a mark made meanwhile counts
            self._step_once(key)
            if time.monotonic() >= until:
                break
        if self._marked and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _step_once(self, key: str) -> None:
        try:
            self._step(key)
        except Exception:  # noqa: BLE001  the boundary of a key: the other keys must go on
            failures = self._failures.get(key, 0)
            wait = min(FIRST_RETRY_S * 2**failures, LAST_RETRY_S)
            # One that fails before its time, as something changed, does not tell how long the trouble lasts: a burst of
            # changes while a disk is full for a second must not put the next try off by a minute.
            if key not in self._later:
                self._failures[key] = min(failures + 1, 16)
            self.mark_later(key, wait)  # an earlier try stands
            left = self._later[key].due - time.monotonic()
            self._log.exception("%s: step failed, trying again in %.0f s", key, left)
        else:
            self._failures.pop(key, None)
