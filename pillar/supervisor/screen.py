"""What `pillar up` shows in the foreground: one aligned line per change, in colour on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Final

from pillar.terminal import Palette, printable

STATE_COLOURS: Final = {
    "starting": "cyan",
    "running": "green",
    "waiting": "yellow",
    "failed": "bold red",
    "stopping": "cyan",
    "stopped": "dim",
}


class Screen:
    """Lines on standard output; shows nothing more once it is closed, and never stops the supervisor."""

    def __init__(self, shown: bool, names: list[str]) -> None:
        self._shown = shown
        self._width = max((len(name) for name in names), default=0)
        self._palette = Palette.of() if shown else Palette(False)

    def line(self, agent: str, state: str, text: str) -> None:
        """One change of one agent."""
        if not self._shown:
            return
        clock = self._palette.dim(time.strftime("%H:%M:%S"))
        coloured = self._palette(STATE_COLOURS.get(state, ""), f"{state:8}")
        try:
            print(f"{clock}  {agent:{self._width}}  {coloured}  {printable(text)}", flush=True)
        except (OSError, ValueError):
            self._shown = False
            sys.stdout = None  # else the interpreter fails to flush it at its end
