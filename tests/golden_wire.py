"""The recorded conversations of EVE's publishers and subscribers, and the records they were about."""

from __future__ import annotations

import base64
import functools
import json
import re
import socket
from pathlib import Path
from typing import Annotated, Any

import msgspec

from pillar.pubsub import Publication, PubSub, decode
from pillar.pubsub.codec import encode_tree
from pillar.topics import find_type

GOLDEN = Path(__file__).parent / "golden"
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
UInt64 = Annotated[int, msgspec.Meta(ge=0)]


class Sub(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    Z: int = 0
    A: str = ""


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    Zeta: str = ""
    Alpha: Int64 = 0
    Big: UInt64 = 0
    List: tuple[str, ...] | None = None
    Subs: tuple[Sub, ...] | None = None
    M: dict[str, int] | None = None
    Bytes: bytes | None = None
    Nest: Sub = Sub()
    F: float = 0.0
    T: str = "0001-01-01T00:00:00Z"
    Ptr: Sub | None = None
    Flag: bool = False


class LargeItem(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"StrVal": "pubsub-large-StrVal", "Bytes": "pubsub-large-Bytes"},
):
    Other: str = ""
    StrVal: str = ""
    Bytes: bytes | None = None
    Last: int = 0


class Scenario:
    """One transcript: what the publisher was told to do, and every packet in order."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        header, *packets = [json.loads(line) for line in path.read_text().strip().split("\n")]
        self.header: dict[str, Any] = header
        self.year = 2019 if header["publisher"] == "2019" else 2026
        self.steps: list[list[str]] = header["publisher_steps"]
        self.packets: list[tuple[str, bytes]] = [(packet["from"], packet["text"].encode()) for packet in packets]
        self.calls: list[dict[str, Any]] = header.get("subscriber_handler_calls", [])
        self.by_hand = header["subscriber"] == "raw client"

    @functools.cached_property
    def type(self) -> type[Any]:
        """The record's type: one of these, one of EVE 2019's, or one of EVE 2026's as its subscriber printed it."""
        topic = self.header["topic"]
        if topic in ("Item", "LargeItem"):
            return {"Item": Item, "LargeItem": LargeItem}[topic]
        if self.year == 2019:
            found = find_type(topic)
            assert found is not None
            return found
        example = next(call["value"] for call in self.calls if call["op"] == "create")
        return msgspec.defstruct(
            topic,
            [(name, *_zero(value)) for name, value in example.items()],
            frozen=True,
            kw_only=True,
            forbid_unknown_fields=True,
        )

    def segments(self) -> list[list[bytes]]:
        """The publisher's packets: those of the first copy, then those after each later step."""
        counts = [seen["datagrams"] for seen in self.header["datagrams_seen_after_step"]]
        said = [text for _, text in self.packets]
        return [said[start:end] for start, end in zip([1, *counts[:-1]], counts, strict=True)]


def _zero(value: Any) -> tuple[Any, Any]:
    if isinstance(value, bool):
        return bool, False
    if isinstance(value, str):
        return str, "0001-01-01T00:00:00Z" if value.startswith("0001") else ""
    if isinstance(value, (int, float)):
        return int, 0
    return tuple[str, ...] | None, None


def scenarios(pattern: str = "*") -> list[Scenario]:
    return [Scenario(path) for path in sorted((GOLDEN / "socket").glob(pattern + ".jsonl"))]


def open_publication(pubsub: PubSub, scenario: Scenario, **options: Any) -> Publication[Any]:
    return pubsub.publication(
        scenario.type, scope=scenario.header["scope"], persistent=scenario.header["persistent"], **options
    )


def run_step(publication: Publication[Any], step: list[str]) -> None:
    """One step of a recording's publisher."""
    match step:
        case ["publish", key, _] if key.startswith("."):
            pass  # EVE publishes it and no listing shows it; here such a key is refused
        case ["publish", key, value]:
            publication.publish(key, decode(publication.record_type, value.encode()))
        case ["unpublish", key, *error]:
            assert publication.unpublish(key) == (not error)
        case ["restarted"]:
            publication.signal_restarted()
        case ["clear"]:
            publication.clear_restarted()
        case ["burst", key, count]:
            for number in range(1, int(count) + 1):
                publication.publish(key, Item(Zeta="burst", Alpha=number))
        case _:
            raise AssertionError(step)


def key_and_value(packet: bytes) -> tuple[str, bytes]:
    """The key and the JSON of an update or a delete."""
    words = packet.split(b" ")
    return base64.b64decode(words[2]).decode(), base64.b64decode(words[3]) if len(words) > 3 else b""


def as_eve_rounds(value: bytes) -> bytes:
    """What our exact integers become in EVE, where each number on the wire has been a float64."""
    return encode_tree(_rounded(msgspec.json.decode(value)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return float(value)
    return value


def without_paths(value: bytes) -> bytes:
    """Large fields travel in files with random names in the publisher's own root."""
    return re.sub(rb'\\"/[^"]*/(pubsub-large/[^"]*/pubsub-file-(?:Bytes|StrVal))[a-z0-9_]+\\"', rb"\1", value)


def drain(client: socket.socket) -> list[bytes]:
    """Every packet that waits; an empty one at the end when the other side hung up."""
    packets = []
    while True:
        try:
            packets.append(client.recv(65536))
        except BlockingIOError:
            return packets
        if not packets[-1]:
            return packets
