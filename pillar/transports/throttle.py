"""A cap on how many bytes a second come in, shared by all who take from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 0.2  # how long a wait may go on before it is asked whether it is still wanted


class Throttle:
    """At most `bytes_per_s` on the average; 0 is no cap. For any number of threads."""

    def __init__(
        self,
        bytes_per_s: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._lock = threading.Lock()

    def took(self, count: int, check: Callable[[], None] = lambda: None) -> None:
        """Return when `count` more bytes may have come; `check` may raise meanwhile."""
        if not self.bytes_per_s:
            return
        with self._lock:
            self._free_at = max(self._free_at, self._clock()) + count / self.bytes_per_s
            due = self._free_at
        while (left := due - self._clock()) > 0:
            check()
            self._sleep(min(left, LOOK_S))
