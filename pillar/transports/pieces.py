"""Which bytes of a part file are there while several streams fill it.

The object is cut into pieces of equal size, given to streams in order. `<name>.part.spans` holds one little-endian
32-bit number per piece: how many bytes of it are there, counted from its beginning. A number is written after the
bytes it counts, so after `kill -9` it never promises too much and loses only what was in a stream's hands.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 8 * 1024 * 1024
_COUNT = struct.Struct("<I")


@dataclass(frozen=True)
class Claim:
    """What one stream is to bring: the bytes from `at` to before `end`, the rest of piece `index`."""

    index: int
    at: int
    end: int


class Pieces:
    """The pieces of one object of `size` bytes. For any number of threads."""

    def __init__(self, path: Path, size: int, piece: int) -> None:
        self.path = path
        self.size = size
        self.piece = piece
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._lock = threading.Lock()
        self._claimed: set[int] = set()
        self._first_open = 0  # every piece before it is complete
        self._counts = [0] * -(-size // piece)
        stored = os.pread(self._fd, _COUNT.size * len(self._counts), 0)
        for index in range(len(stored) // _COUNT.size):
            (count,) = _COUNT.unpack_from(stored, index * _COUNT.size)
            self._counts[index] = min(count, self._length(index))

    def claim(self) -> Claim | None:
        """The first piece that is neither complete nor somebody's; None when there is none."""
        with self._lock:
            for index in range(self._first_open, len(self._counts)):
                if self._counts[index] < self._length(index) and index not in self._claimed:
                    self._claimed.add(index)
                    start = index * self.piece
                    return Claim(index, start + self._counts[index], start + self._length(index))
        return None

    def wrote(self, index: int, until: int) -> None:
        """Byte `until` of the object and what is before it in piece `index` is in the part file. Raises OSError."""
        count = until - index * self.piece
        os.pwrite(self._fd, _COUNT.pack(count), index * _COUNT.size)
        with self._lock:
            self._counts[index] = count

    def release(self, index: int) -> None:
        """Somebody else may claim what is missing of it."""
        with self._lock:
            self._claimed.discard(index)

    @property
    def whole(self) -> int:
        """How many bytes are there without a gap from the object's beginning."""
        with self._lock:
            while self._first_open < len(self._counts) and self._is_complete(self._first_open):
                self._first_open += 1
            partial = self._counts[self._first_open] if self._first_open < len(self._counts) else 0
            return min(self.size, self._first_open * self.piece + partial)

    @property
    def present(self) -> int:
        """How many bytes are there in all."""
        with self._lock:
            return sum(self._counts)

    def forget_from(self, whole: int) -> None:
        """Nothing behind the first `whole` bytes counts. Raises OSError."""
        with self._lock:
            self._first_open = 0
            for index in range(len(self._counts)):
                count = max(0, min(self._counts[index], whole - index * self.piece))
                self._counts[index] = count
                os.pwrite(self._fd, _COUNT.pack(count), index * _COUNT.size)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _length(self, index: int) -> int:
        return min(self.piece, self.size - index * self.piece)

    def _is_complete(self, index: int) -> bool:
        return self._counts[index] == self._length(index)
