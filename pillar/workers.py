"""Blocking work in threads, whose results come back on the main thread.

One piece of work per key at a time. A thread is started when there is work and ends when there is none,
so an idle agent has none. Threads are daemons: they do not hold up the end of the process, because any
work may be cut off by kill -9 anyway and must be safe to start again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from pillar.loop import Loop

R = TypeVar("R")


class Cancelled(Exception):
    """Raised inside work whose Cancel was set."""


class Cancel:
    """Tells a piece of work that its result is no longer wanted; the work has to look."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep that ends early when cancelled; True then."""
        return self._event.wait(seconds)

    def raise_if_set(self) -> None:
        """Raises Cancelled when the result is no longer wanted."""
        if self._event.is_set():
            raise Cancelled


class Outcome(Generic[R]):
    """How a piece of work ended: exactly one of a value, an error, or cancelled.

    Work that returned a value although it was cancelled counts as cancelled: nobody wants the value.
    """

    __slots__ = ("_value", "cancelled", "error")

    def __init__(self, value: R | None = None, error: BaseException | None = None, cancelled: bool = False) -> None:
        self._value = value
        self.error = error
        self.cancelled = cancelled

    @property
    def ok(self) -> bool:
        return self.error is None and not self.cancelled

    @property
    def value(self) -> R:
        """What the work returned. Raises its error, or Cancelled, when it returned nothing."""
        if self.error is not None:
            raise self.error
        if self.cancelled:
            raise Cancelled
        return self._value  # type: ignore[return-value]  # only unset with an error or cancelled

    def __repr__(self) -> str:
        if self.cancelled:
            return "Outcome(cancelled)"
        return f"Outcome(error={self.error!r})" if self.error is not None else "Outcome(ok)"


class Workers:
    """At most `limit` pieces of work at a time; more wait in the order they came. Call it from the main thread."""

    def __init__(self, loop: Loop, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a pool of {limit} threads can do no work")
        self._loop = loop
        self._limit = limit
        self._in_flight: dict[str, Cancel] = {}
        self._waiting: dict[str, tuple[Callable[[], None], Callable[[Outcome[Any]], None]]] = {}  # key: (run, give up)
        self._active = 0

    def submit(self, key: str, work: Callable[[Cancel], R], done: Callable[[Outcome[R]], None]) -> bool:
        """Run `work(cancel)` in a thread, then `done(outcome)` on the main thread.

        Whatever the work raises is in the outcome. When `done` runs the key is free again, so it may submit
        the next piece. False, and nothing happens, when the key has work in flight (or waiting, or cancelled
        but not yet ended).
        """
        if key in self._in_flight:
            return False
        cancel = self._in_flight[key] = Cancel()

        def run() -> None:
            outcome: Outcome[R]
            try:
                cancel.raise_if_set()
                value = work(cancel)
                outcome = Outcome(cancelled=True) if cancel.is_set() else Outcome(value)
            except Cancelled:
                outcome = Outcome(cancelled=True)
            except BaseException as err:  # noqa: BLE001  the boundary of work: `done` is told, on the main thread
                outcome = Outcome(cancelled=True) if cancel.is_set() else Outcome(error=err)
            self._loop.call_soon_threadsafe(lambda: finish(outcome))

        def finish(outcome: Outcome[R]) -> None:
            self._active -= 1
            end(outcome)

        def end(outcome: Outcome[R]) -> None:
            del self._in_flight[key]
            self._start_next()
            done(outcome)

        self._waiting[key] = (run, end)
        self._start_next()
        return True

    def cancel(self, key: str) -> None:
        """Tell the work of `key` to stop; its `done` is called with a cancelled outcome once it has.

        Work that still waits for a thread ends in the loop's next turn.
        """
        cancel = self._in_flight.get(key)
        if cancel is None:
            return
        cancel.set()
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            self._loop.call_soon(partial(waiting[1], Outcome(cancelled=True)))

    def busy(self, key: str) -> bool:
        return key in self._in_flight

    def keys(self) -> set[str]:
        """Keys with work in flight or waiting."""
        return set(self._in_flight)

    def cancel_all(self) -> None:
        """For the agent's stop: tell everything to end; nobody waits for it."""
        for cancel in self._in_flight.values():
            cancel.set()

    def _start_next(self) -> None:
        while self._waiting and self._active < self._limit:
            key = next(iter(self._waiting))
            run, give_up = self._waiting.pop(key)
            self._active += 1
            try:
                threading.Thread(target=run, name=f"work {key}", daemon=True).start()
            except RuntimeError as err:  # the machine has no thread for us now: an error like any other of the work
                self._active -= 1
                self._loop.call_soon(partial(give_up, Outcome(error=err)))
