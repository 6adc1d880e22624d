"""Hash a file while it is written: a thread follows the beginning that is whole and hashes it from the page cache.

So a download costs the longer of network and hash, not their sum, and several streams may fill the file in any order.
Who writes little never starts the thread: what it has not reached is hashed by whoever asks for the digest.
"""

from __future__ import annotations

import hashlib
import os
import threading

BLOCK_BYTES = 1024 * 1024


class Follower:
    """The sha256 of the first bytes of `fd`. `advance` and `digest` belong to one thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = hashlib.sha256()
        self._done = 0  # bytes in the hash
        self._whole = 0  # bytes of the file that are final
        self._error: OSError | EOFError | None = None
        self._stop = False
        self._changed = threading.Condition()
        self._hashing = threading.Lock()  # `_hash` and `_done` belong together
        self._thread: threading.Thread | None = None
        self._buffer = bytearray()

    def advance(self, whole: int) -> None:
        """The first `whole` bytes are final."""
        with self._changed:
            self._whole = whole
            if whole - self._done < BLOCK_BYTES:
                return
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="hash", daemon=True)
            self._thread.start()

    def digest(self, whole: int) -> str:
        """The sha256 of the first `whole` bytes, which is all there will be. Raises OSError."""
        self.close()
        if self._error is not None:
            raise self._error
        while self._done < whole:
            self._block(whole)
        return self._hash.hexdigest()

    def catch_up(self, whole: int) -> int:
        """Hash up to byte `whole` now; for a beginning that is read back. Raises EOFError, OSError."""
        while self._done < whole:
            self._block(whole)
        self._whole = max(self._whole, whole)
        return self._done

    def so_far(self) -> tuple[int, str]:
        """How many bytes are in the hash, and their sha256. Raises OSError, EOFError."""
        if self._thread is None:
            self.catch_up(self._whole)
        with self._hashing:
            return self._done, self._hash.copy().hexdigest()

    def close(self) -> None:
        """End the thread; needed before the file is closed."""
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._stop = False

    def _follow(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stop or self._whole - self._done >= BLOCK_BYTES)
                    if self._stop:
                        return
                    whole = self._whole
                self._block(whole)
        except (OSError, EOFError) as err:  # the second: somebody else shortened it
            self._error = err  # raised where the digest is asked for

    def _block(self, whole: int) -> None:
        if not self._buffer:
            self._buffer = bytearray(BLOCK_BYTES)
        view = memoryview(self._buffer)[: min(BLOCK_BYTES, whole - self._done)]
        count = os.preadv(self._fd, [view], self._done)
        if not count:
            raise EOFError(f"the part file ends at byte {self._done} of {whole}")
        with self._hashing:
            self._hash.update(view[:count])
            self._done += count
