"""The main loop of every agent: one thread, one epoll, one callback at a time.

It waits for descriptors, timers (monotonic clock), signals, calls handed over by worker threads, and
one source of table events (PubSub). Between callbacks it calls the heartbeat, which touches the file
that says "still running"; a callback that keeps the loop for longer than its limit is reported while
it still runs, by a small thread that sleeps as long as the loop does.

A callback that raises is a bug of its own and must not stop the others: it goes to `on_error`, which
the agent base logs. A descriptor whose callback raised rests for a second, or it would spin.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Final, Protocol

Callback = Callable[[], None]

SLICE_S: Final = 0.02  # a source with a lot to do gives way to timers and descriptors after this
HANDLER_LIMIT_S: Final = 1.0  # a callback that takes longer is reported
REST_S: Final = 1.0  # after its callback raised, a descriptor or the source is left alone for this long
_COMPACT_ABOVE: Final = 64  # cancelled timers that may stay in the heap before it is rebuilt


class Source(Protocol):
    """What PubSub offers to the loop."""

    def fileno(self) -> int: ...

    def process(self, budget_s: float, /) -> bool:
        """Handle what is ready for at most the budget; True when more is waiting."""
        ...

    def timeout(self) -> float | None:
        """Seconds until `process` wants to be called whatever the descriptor says; None: never."""
        ...


class Timer:
    """One call in the future; `cancel` may be called at any time, also after it ran."""

    __slots__ = ("_callback", "_loop", "due")

    def __init__(self, loop: Loop, due: float, callback: Callback) -> None:
        self.due = due  # on the monotonic clock
        self._loop = loop
        self._callback: Callback | None = callback

    @property
    def active(self) -> bool:
        """Will it still be called?"""
        return self._callback is not None

    def cancel(self) -> None:
        if self._callback is not None:
            self._callback = None
            self._loop._timer_cancelled()

    def _take(self) -> Callback | None:
        callback, self._callback = self._callback, None
        return callback


class Loop:
    """Runs callbacks on the thread that calls `run`.

    Only `call_soon_threadsafe` may be called from other threads. `on_error(what, error)` is told about a
    callback that raised (default: it is raised out of `run`); `on_slow(what, seconds, where)` is called on
    another thread while a callback is over its limit.
    """

    def __init__(self) -> None:
        self.on_error: Callable[[str, Exception], None] | None = None
        self.on_slow: Callable[[str, float, str], None] | None = None
        self.handler_limit_s = HANDLER_LIMIT_S
        self._epoll = select.epoll()
        self._readers: dict[int, tuple[Callback, int]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = itertools.count()
        self._cancelled = 0
        self._soon: deque[Callback] = deque()
        self._handed_over: deque[Callback] = deque()  # appended by other threads; deque.append is atomic
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._source: Source | None = None
        self._source_ready = False
        self._beat: Callback | None = None
        self._beat_every_s = 0.0
        self._next_beat = 0.0
        self._signals: dict[int, Callback] = {}
        self._signal_pipe: tuple[int, int] | None = None
        self._stopping = False
        self._exit_status = 0
        self._watch = _SlowWatch(self)
        self.add_reader(self._eventfd, self._drain_handed_over)

    # ---- what the loop waits for

    def add_reader(self, fd: int, callback: Callback, events: int = select.EPOLLIN) -> None:
        """Call `callback` whenever `fd` is readable (or has one of `events`); replaces an earlier callback."""
        self.remove_reader(fd)
        self._epoll.register(fd, events)
        self._readers[fd] = (callback, events)

    def remove_reader(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed. Unknown descriptors are ignored."""
        if self._readers.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except (OSError, ValueError):
                return  # it was resting after an error, or its owner closed it first: the kernel has forgotten it

    def set_source(self, source: Source) -> None:
        """Drive `source` from this loop: its descriptor, its deadlines and what it has left over."""
        self._source = source
        self._source_ready = True
        self.add_reader(source.fileno(), self._mark_source_ready)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call once, `seconds` from now at the earliest."""
        timer = Timer(self, time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._serial), timer))
        return timer

    def call_soon(self, callback: Callback) -> None:
        """Call once, in the next turn; in the order of the calls."""
        self._soon.append(callback)

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """As `call_soon`, from any thread. After `close` it does nothing."""
        if self._eventfd < 0:
            return
        self._handed_over.append(callback)
        try:
            os.eventfd_write(self._eventfd, 1)
        except OSError:
            return  # full: the loop wakes up anyway; closed since we looked: nobody waits for it

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        """Call `callback` in the loop when the process gets this signal. Main thread only."""
        if self._signal_pipe is None:
            self._signal_pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.register_at_fork(after_in_child=self._forget_signals)
            self.add_reader(self._signal_pipe[0], self._drain_signals)
            signal.set_wakeup_fd(self._signal_pipe[1], warn_on_full_buffer=False)
        self._signals[number] = callback
        signal.signal(number, _noted)

    def _forget_signals(self) -> None:
        """In a forked child (a library's: we never fork ourselves): its signals are its own.

        It would share the pipe: a SIGTERM to the child ended the agent. pyroute2 ends its helper that way.
        """
        if self._signal_pipe is not None:
            signal.set_wakeup_fd(-1)
            for number in self._signals:
                signal.signal(number, signal.SIG_DFL)

    def heartbeat(self, seconds: float, callback: Callback) -> None:
        """Call `callback` now and then about every `seconds`, between any two callbacks."""
        self._beat, self._beat_every_s, self._next_beat = callback, seconds, 0.0

    # ---- running

    def run(self) -> int:
        """Turn until `stop`; returns the exit status that `stop` was given."""
        self._watch.start()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._watch.stop()
        return self._exit_status

    def stop(self, exit_status: int = 0) -> None:
        """End `run` after the callback that runs now. The first caller's status counts."""
        if not self._stopping:
            self._stopping, self._exit_status = True, exit_status

    def close(self) -> None:
        """Give the descriptors back; the loop cannot be used any more."""
        if self._signal_pipe is not None:
            signal.set_wakeup_fd(-1)
            for fd in self._signal_pipe:
                os.close(fd)
            self._signal_pipe = None
        self._epoll.close()
        eventfd, self._eventfd = self._eventfd, -1
        os.close(eventfd)

    def _turn(self) -> None:
        self._heartbeat_when_due()
        for fd, _ in self._epoll.poll(self._patience()):
            reader = self._readers.get(fd)  # an earlier callback of this turn may have removed it
            if reader is not None and not self._call(reader[0]):
                self._rest(fd)
            if self._stopping:
                return
        self._run_source()
        self._run_timers()
        for _ in range(len(self._soon)):  # what they add is for the next turn
            if self._stopping:
                return
            self._call(self._soon.popleft())

    def _patience(self) -> float:
        """Seconds epoll may sleep."""
        if self._soon or self._source_ready:
            return 0.0
        now = time.monotonic()
        wait = self._next_beat - now if self._beat is not None else 3600.0
        if self._timers:
            wait = min(wait, self._timers[0][0] - now)
        if self._source is not None:
            deadline = self._source.timeout()
            if deadline is not None:
                wait = min(wait, deadline)
                self._source_ready = deadline <= 0
        return max(wait, 0.0)

    def _run_source(self) -> None:
        if self._source is None or self._stopping:
            return
        if not self._source_ready:
            deadline = self._source.timeout()
            if deadline is None or deadline > 0:
                return
        self._source_ready = False
        source = self._source

        def process() -> None:
            self._source_ready = source.process(SLICE_S)

        if not self._call(process, "table events"):
            self.call_later(REST_S, self._mark_source_ready)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now and not self._stopping:
            callback = heapq.heappop(self._timers)[2]._take()
            if callback is None:
                self._cancelled -= 1
            else:
                self._call(callback)

    def _call(self, callback: Callback, what: str = "") -> bool:
        """Run one callback; False when it raised."""
        self._watch.begin(callback, what)
        try:
            callback()
        except Exception as err:  # the boundary of every handler: the other ones must go on
            if self.on_error is None:
                raise
            self.on_error(what or _name(callback), err)
            return False
        finally:
            self._watch.end()
            self._heartbeat_when_due()
        return True

    def _heartbeat_when_due(self) -> None:
        if self._beat is None:
            return
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._beat_every_s
            self._beat()

    def _rest(self, fd: int) -> None:
        reader = self._readers.get(fd)
        if reader is None:
            return  # its callback removed it before it raised
        try:
            self._epoll.unregister(fd)
        except OSError:
            return  # closed by its owner

        def again() -> None:
            if self._readers.get(fd) is reader:
                self._epoll.register(fd, reader[1])

        self.call_later(REST_S, again)

    def _mark_source_ready(self) -> None:
        self._source_ready = True

    def _timer_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > _COMPACT_ABOVE and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].active]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _drain_handed_over(self) -> None:
        os.eventfd_read(self._eventfd)
        while self._handed_over:
            self._soon.append(self._handed_over.popleft())

    def _drain_signals(self) -> None:
        assert self._signal_pipe is not None
        for number in os.read(self._signal_pipe[0], 4096):
            callback = self._signals.get(number)
            if callback is not None:
                callback()


class _SlowWatch:
    """Reports a callback that keeps the loop too long, from outside the loop, while it still runs.

    The thread looks every half limit as long as callbacks run and sleeps for good while the loop does.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._running: tuple[float, Callback, str] | None = None  # replaced whole: readable without a lock
        self._wake = threading.Event()
        self._asleep = False
        self._stopped = False
        self._main = 0

    def start(self) -> None:
        self._main = threading.get_ident()
        self._stopped = False
        if self._loop.on_slow is not None:
            threading.Thread(target=self._watch, name="slow-watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def begin(self, callback: Callback, what: str) -> None:
        self._running = (time.monotonic(), callback, what)
        if self._asleep:
            self._asleep = False
            self._wake.set()

    def end(self) -> None:
        self._running = None

    def _watch(self) -> None:
        idle = 0
        reported: tuple[float, Callback, str] | None = None
        next_report = 0.0
        while not self._stopped:
            running = self._running
            if running is None:
                idle += 1
                if idle > 3:
                    self._wake.clear()
                    self._asleep = True
                    if self._running is None:  # else one began before it could see that we sleep
                        self._wake.wait()
                    self._asleep = False
                    idle = 0
            else:
                idle = 0
                took = time.monotonic() - running[0]
                if running is not reported:
                    next_report = self._loop.handler_limit_s
                if took >= next_report and self._loop.on_slow is not None:
                    reported, next_report = running, took * 2
                    self._loop.on_slow(running[2] or _name(running[1]), took, self._place())
            time.sleep(self._loop.handler_limit_s / 2)

    def _place(self) -> str:
        """Where the main thread is right now, innermost call first."""
        frame = sys._current_frames().get(self._main)
        if frame is None:
            return "an unknown place"
        calls = traceback.extract_stack(frame)[-3:]
        return " < ".join(f"{os.path.basename(call.filename)}:{call.lineno} {call.name}" for call in reversed(calls))


def _noted(number: int, frame: FrameType | None) -> None:
    """The Python side of a signal: nothing, the byte in the wake-up pipe says it all."""


def _name(callback: Callback) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)
