"""What holds for any bytes that are decoded. `scripts/fuzz` looks for what breaks it; the suite replays what it kept.

The first byte of an input chooses the type, the rest is the text. Decoding ends in a record or in BadRecord. A record
can be written and is read back as an equal one, and where the strict reading and Go's rules both take a text they
agree about it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pillar.pubsub import BadRecord, decode, encode
from pillar.pubsub.depth import too_deep
from pillar.pubsub.lenient import LenientDecoder, Rejected
from pillar.pubsub.shape import overflow_check, shape_of
from pillar.types.common import UUIDandVersion
from pillar.types.downloader import DatastoreConfig, DownloaderStatus
from pillar.types.globalconfig import GlobalConfig
from pillar.types.metrics import metricsMap
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.zedmanager import AppInstanceConfig


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Deeper than any type says: it holds itself."""

    name: str = ""
    children: tuple[Tree, ...] | None = None


class Loose(msgspec.Struct, frozen=True):
    """Everything else that a field may be."""

    anything: Any = None
    number: float = 0.0
    counts: dict[int, int] = {}
    data: bytes = b""
    flags: frozenset[bool] = frozenset()


TYPES: tuple[type[msgspec.Struct], ...] = (
    DownloaderStatus,
    DatastoreConfig,
    AppInstanceConfig,
    DeviceNetworkStatus,
    GlobalConfig,
    metricsMap,
    UUIDandVersion,
    Tree,
    Loose,
)


def check(data: bytes) -> str:
    """One input; returns what became of it. Raises AssertionError, or whatever decoding let through."""
    if not data:
        return "empty"
    record_type, text = TYPES[data[0] % len(TYPES)], data[1:]
    try:
        record = decode(record_type, text)
    except BadRecord:
        return "refused"
    written = encode(record)
    again = decode(record_type, written)
    assert _in_go(again) == _in_go(record), f"{record_type.__name__}: {record!r} is read back as {again!r}"
    # One thing is lost: a float's minus zero is written `-0`, as Go does, and msgspec reads that as the integer.
    assert encode(again) == written or b"-0" in written, (
        f"{record_type.__name__}: {written!r} is written anew as {encode(again)!r}"
    )
    _compare_readings(record_type, text)
    return "taken"


def _in_go(record: msgspec.Struct) -> object:
    """The record, with the numbers of a field that may hold anything as Go has them: all of them floats."""
    if not isinstance(record, Loose):
        return record
    return msgspec.structs.replace(record, anything=_floats(record.anything))


def _floats(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _floats(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_floats(value) for value in tree]
    if isinstance(tree, int) and not isinstance(tree, bool) and abs(tree) < 1 << 1023:
        return float(tree)
    return tree


def _compare_readings(record_type: type[msgspec.Struct], text: bytes) -> None:
    shape = shape_of(record_type)
    if not shape.bounded or too_deep(text):
        return
    try:
        strict = msgspec.json.decode(text, type=shape.target)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    overflows = overflow_check(shape.target)
    if overflows is not None and overflows(strict):
        return
    try:
        lenient = LenientDecoder(shape.target).decode(text)
    except Rejected as err:
        raise AssertionError(f"{record_type.__name__}: only the strict reading takes {text!r}: {err}") from err
    assert strict == lenient, f"{record_type.__name__}: strict {strict!r}, by Go's rules {lenient!r}"
