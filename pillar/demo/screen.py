"""How the demo is shown: aligned, coloured lines at a terminal, plain ones in a pipe, objects for programs."""

from __future__ import annotations

import json
import sys
import time

from pillar.terminal import Palette, is_terminal, printable

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue")
_BAR = 30  # columns


class Screen:
    """Prints what happens, with the seconds since the start."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._live = not as_json and is_terminal()
        self._palette = Palette.of() if not as_json else Palette(enabled=False)
        self._start = time.monotonic()
        self._colours: dict[str, str] = {}
        self._bar_shown = False

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def step(self, step: str, text: str, **facts: object) -> None:
        """Something the demo itself does; `facts` go to programs."""
        if self._as_json:
            self._object(step=step, text=text, **facts)
        else:
            self._line(self._palette.bold("* " + printable(text)))

    def change(self, agent: str, topic: str, text: str) -> None:
        """Something an agent published."""
        if self._as_json:
            self._object(step="change", agent=agent, topic=topic, text=text)
        else:
            colour = self._colours.setdefault(agent, _COLOURS[len(self._colours) % len(_COLOURS)])
            self._line(f"{self._palette(colour, f'{agent:<15}')} {topic:<18} {printable(text)}")

    def progress(self, agent: str, topic: str, percent: int) -> None:
        """How far a download is: a bar that stays in its line at a terminal, nothing elsewhere."""
        if self._live and 0 < percent < 100:
            done = _BAR * percent // 100
            bar = "█" * done + "░" * (_BAR - done)
            print(f"\r{self._clock()} {agent:<15} {topic:<18} {bar} {percent:3d} %", end="", flush=True)
            self._bar_shown = True

    def plain(self, text: str) -> None:
        """A line for people only."""
        if not self._as_json:
            self._end_bar()
            print(text, flush=True)

    def _line(self, text: str) -> None:
        self._end_bar()
        print(f"{self._clock()} {text}", flush=True)

    def _clock(self) -> str:
        return self._palette.dim(f"{self.seconds:6.2f} s")

    def _end_bar(self) -> None:
        if self._bar_shown:
            print()
            self._bar_shown = False

    def _object(self, **facts: object) -> None:
        print(json.dumps({"seconds": round(self.seconds, 3), **facts}), flush=True)


def complain(text: str, *, as_json: bool) -> None:
    """The one line that says what went wrong."""
    if as_json:
        print(json.dumps({"step": "failed", "text": text}), flush=True)
    else:
        print(Palette.of(sys.stderr).red(f"demo: {text}"), file=sys.stderr)
