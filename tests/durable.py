"""What a power cut may take back, read from a trace of calls. Pure.

A rename that makes a file visible before its bytes are on the disk may leave an empty or a cut file; a rename or
removal whose directory was never flushed may be undone. Neither shows on a machine that stays up, so the order of the
calls is judged.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from pillar.crashpoints import Call


def unsafe(
    calls: Iterable[Call], durable: Sequence[str], flushed: Sequence[str] = (), removed: Sequence[str] = ()
) -> list[str]:
    """In words, each rename or removal that a power cut may spoil.

    All are patterns of paths below the root. `durable`: the content must be on the disk when it gets that name.
    `flushed`: so must the name be; after the last change of a directory with such names in it the directory is
    flushed. `removed`: that such a name is gone must be on the disk too. Of a file that is written in place
    (an account, a journal) and is `flushed`, the last bytes must be.
    """
    dirty: dict[str, str] = {}  # path -> the call that wrote, since it was flushed
    changed: dict[str, str] = {}  # directory -> its last change that was not flushed
    found = []
    for call in calls:
        if call.result != "+":
            continue
        directory = call.path.rpartition("/")[0] or "/"
        match call.call:
            case "create" | "write" | "truncate":
                dirty[call.path] = call.call
            case "fsync":
                dirty.pop(call.path, None)
                changed.pop(call.path, None)
            case "rename" | "link":
                before = dirty.pop(call.other, None) if call.call == "rename" else dirty.get(call.other)
                dirty.pop(call.path, None)
                if before and _fits(call.path, durable):
                    found.append(f"{call.agent}: {call.path} got its name before its bytes were flushed ({before})")
                elif before:
                    dirty[call.path] = before
                if _fits(call.path, flushed):
                    changed[directory] = f"{call.agent}: {call.call} of {call.path}"
            case "unlink":
                dirty.pop(call.path, None)
                if _fits(call.path, removed):
                    changed[directory] = f"{call.agent}: unlink of {call.path}"
    found += [f"{path} was not flushed after the last {call}" for path, call in dirty.items() if _fits(path, flushed)]
    return found + [f"{what} was never flushed: {where}" for where, what in changed.items()]


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
