"""What every command prints for people: colour, aligned columns, ages, and text made harmless.

Keys and values come from files that anybody may have written, so nothing that a terminal would obey
goes out as it is: `printable` is applied by `table` to every cell and is for every other piece of
foreign text to be applied by whoever prints it. Colour is only switched on for a person at a terminal,
never in a pipe, a file, or where the environment sets NO_COLOR (https://no-color.org) or TERM=dumb.
"""

import io
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

_RESET: Final = "\x1b[0m"
_CODES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}
_NEWLINE_MARKS: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Control, format (bidirectional overrides, zero width), surrogate, private use, line and paragraph separator.
_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Palette:
    """Colours by name, or plain text when there is nobody to see them. Text must already be `printable`."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    @classmethod
    def of(cls, stream: TextIO | None = None) -> "Palette":
        """The palette that fits `stream` (default: standard output)."""
        return cls(is_terminal(stream) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")

    def __call__(self, colour: str, text: str) -> str:
        """`text` in one of: bold dim red green yellow blue magenta cyan; several are joined by a space."""
        if not self.enabled or not text or not colour:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in colour.split())}m{text}{_RESET}"

    def bold(self, text: str) -> str:
        return self("bold", text)

    def dim(self, text: str) -> str:
        return self("dim", text)

    def red(self, text: str) -> str:
        return self("red", text)

    def green(self, text: str) -> str:
        return self("green", text)

    def yellow(self, text: str) -> str:
        return self("yellow", text)

    def cyan(self, text: str) -> str:
        return self("cyan", text)


def is_terminal(stream: TextIO | None = None) -> bool:
    """Is a person looking? False for a closed stream too."""
    stream = sys.stdout if stream is None else stream
    return not stream.closed and stream.isatty()


def unfailing(stream: TextIO | None = None) -> None:
    """Have `stream` (default: standard output) escape what its encoding lacks, instead of ending the command."""
    stream = sys.stdout if stream is None else stream
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """`text` with everything a terminal would obey written out (`\\x1b`, `\\n`, `\\u202e`); the rest unchanged.

    The result is always one line. A backslash stays as it is: this is for eyes, not for reading back.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char in _NEWLINE_MARKS:
        return _NEWLINE_MARKS[char]
    if unicodedata.category(char) not in _HARMFUL:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """Columns that printable text takes: two for wide East Asian characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


Cell = str | tuple[str, str]  # text, or (text, colour as for Palette)


def table(
    rows: Iterable[Sequence[Cell]], palette: Palette, header: Sequence[str] = (), right: Iterable[int] = ()
) -> list[str]:
    """Lines with aligned columns, two spaces apart, nothing after the last one.

    Every cell is made `printable` here, so foreign text may be handed in as it is. `right` are the indexes of the
    columns that end flush (numbers). Rows may have fewer cells than others.
    """
    flush = frozenset(right)
    cells = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]
    if header:
        cells.insert(0, [(title, "bold") for title in header])
    shown = [[(printable(text), colour) for text, colour in row] for row in cells]
    widths: dict[int, int] = {}
    for row in shown:
        for column, (text, _) in enumerate(row):
            widths[column] = max(widths.get(column, 0), width(text))
    lines = []
    for row in shown:
        parts = []
        for column, (text, colour) in enumerate(row):
            padding = " " * (widths[column] - width(text))
            coloured = palette(colour, text)
            if column in flush:
                parts.append(padding + coloured)
            else:
                parts.append(coloured + (padding if column < len(row) - 1 else ""))
        lines.append("  ".join(parts).rstrip())
    return lines


def age(seconds: float | None) -> str:
    """A duration in two units at most: `0.4 s`, `12 s`, `3 m 5 s`, `2 h 10 m`, `4 d 3 h`; `-` for None.

    A negative one (a clock that was set back) shows as `0.0 s`.
    """
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """A number of bytes in binary units: `512 B`, `4.0 KiB`, `3.2 MiB`."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"
