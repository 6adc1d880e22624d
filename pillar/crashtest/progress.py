"""What a person sees while cases run: one line that is rewritten on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time

from pillar import terminal
from pillar.crashtest.runner import Result

_EVERY_S = 30.0  # without a terminal
_WIDTH = 30


class Progress:
    """On standard error, so that the output stays what a program reads."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._terminal = terminal.is_terminal(sys.stderr)
        self._quiet = quiet
        self._total = self._done = self._bad = self._before = 0
        self._began = self._told = time.monotonic()

    def say(self, text: str) -> None:
        """What is going on before the cases."""
        if self._terminal:
            self._line(text)

    def begin(self, total: int, known: list[Result]) -> None:
        self._total, self._done, self._before = total, len(known), len(known)
        self._bad = sum(bool(result.problems) for result in known)
        self._began = self._told = time.monotonic()
        self._show("")

    def told(self, result: Result) -> None:
        """One case more is done."""
        self._done += 1
        self._bad += bool(result.problems)
        self._show(str(result.case))

    def end(self) -> None:
        if self._terminal and not self._quiet:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self, name: str) -> None:
        now = time.monotonic()
        run = self._done - self._before
        left = (now - self._began) / run * (self._total - self._done) if run else None
        part = self._done / self._total if self._total else 1.0
        head = f"{self._done}/{self._total}, {self._bad} failed, {terminal.age(left)} left"
        if self._terminal:
            bar = "#" * round(part * _WIDTH)
            self._line(f"[{bar:{_WIDTH}}] {head}  {name}")
        elif not self._quiet and (now - self._told > _EVERY_S or self._done == self._total):
            self._told = now
            print(head, file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(f"\r\x1b[K{terminal.printable(text)[:118]}")
            sys.stderr.flush()
