"""How deep a JSON text is nested, found before a recursive decoder looks at it."""

from __future__ import annotations

import re

MAX_DEPTH = 512  # levels; EVE's deepest record has nine

_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"')
_OPENING = b"[{"
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'"[]{}')


def too_deep(data: bytes) -> bool:
    """Whether the text nests deeper than MAX_DEPTH; two passes over the bytes unless it has few brackets."""
    if len(data) <= MAX_DEPTH or data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return False
    if b"\\" in data:
        data = _ESCAPED.sub(b"", data)
    brackets = _STRING.sub(b"", data.translate(None, _NOT_STRUCTURE))
    depth = 0
    for byte in brackets:
        if byte in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        else:
            depth -= 1
    return False
