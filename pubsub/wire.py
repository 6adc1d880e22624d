"""EVE's packets between a publisher and a subscriber, as values: nothing here touches a socket or a file.

    subscriber   request <topic>
    publisher    hello <topic>                       2026: and `true` when it is persistent, else `false`
                 update <topic> <key> <record>       key and record in base64
                 delete <topic> <key>
                 complete <topic>                    all that was there has been sent
                 restarted <topic>                   2026: and the counter, in decimal

One message is one packet of a SOCK_SEQPACKET socket: words of ASCII with one space between them. A record travels as
the generic JSON into which EVE turns it first: members sorted by name, and from the 2026 publisher an empty list as
null, at every depth. Integers stay exact here; EVE sends each number through a float64, which rounds those above 2^53.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Literal, NamedTuple

import msgspec

from pillar.pubsub.codec import encode_tree

Dialect = Literal[2019, 2026]

MAX_REQUEST_BYTES = 256  # EVE's publisher of 2026 reads no more; the one of 2019 reads 65536
# EVE's subscriber reads into 65536 bytes and takes a full buffer for a cut packet: the one of 2019 ends its process.
# The publisher of 2026 ends its own process at 65535.
MAX_PACKET_BYTES: dict[Dialect, int] = {2019: 65535, 2026: 65534}


class Request(NamedTuple):
    """A subscriber asks for the table behind the socket."""

    topic: str


class Hello(NamedTuple):
    """The publisher's answer; without a third word it speaks the dialect of 2019, and `persistent` is None."""

    topic: str
    persistent: bool | None

    @property
    def dialect(self) -> Dialect:
        """What the publisher speaks."""
        return 2019 if self.persistent is None else 2026


class Update(NamedTuple):
    """What stands under a key now, as JSON."""

    topic: str
    key: str
    data: bytes


class Delete(NamedTuple):
    """The key is gone."""

    topic: str
    key: str


class Complete(NamedTuple):
    """Everything that was there when the subscriber came has been sent."""

    topic: str


class Restarted(NamedTuple):
    """The restart counter; None in the dialect of 2019, which only says that it is set."""

    topic: str
    counter: int | None


Packet = Request | Hello | Update | Delete | Complete | Restarted


class BadPacket(ValueError):
    """The packet is none of EVE's; the text says why, never the value of a record.

    `key` is the key the packet was about, None when it could not be read.
    """

    def __init__(self, reason: str, key: str | None = None) -> None:
        super().__init__(reason)
        self.key = key


def hello(topic: str, dialect: Dialect, *, persistent: bool) -> bytes:
    """The publisher's first packet."""
    if dialect == 2019:
        return f"hello {topic}".encode()
    return f"hello {topic} {'true' if persistent else 'false'}".encode()


def request(topic: str) -> bytes:
    """The subscriber's only packet."""
    return f"request {topic}".encode()


def update(topic: str, key: str, data: bytes) -> bytes:
    """A record, already in its form for the wire (see `record`)."""
    return b"update %s %s %s" % (topic.encode(), base64.b64encode(key.encode()), base64.b64encode(data))


def update_bytes(topic: str, key: str, data_bytes: int) -> int:
    """How long the packet of a record of so many bytes is."""
    return len(f"update {topic}  ".encode()) + _base64_bytes(len(key.encode())) + _base64_bytes(data_bytes)


def delete(topic: str, key: str) -> bytes:
    """The key is gone."""
    return b"delete %s %s" % (topic.encode(), base64.b64encode(key.encode()))


def complete(topic: str) -> bytes:
    """The first copy of the table has been sent whole."""
    return f"complete {topic}".encode()


def restarted(topic: str, dialect: Dialect, counter: int) -> bytes:
    """The restart counter as it is now; in the dialect of 2019 only that it is not 0."""
    return f"restarted {topic}".encode() if dialect == 2019 else f"restarted {topic} {counter}".encode()


def record(data: bytes, dialect: Dialect) -> bytes:
    """A checkpoint's JSON as it travels: sorted, and empty lists as null where the dialect has that."""
    return encode_tree(tree(data, dialect), floats=_MAY_HOLD_FLOATS.search(data) is not None)


def tree(data: bytes, dialect: Dialect) -> Any:
    """The plain JSON values of a record as it travels."""
    value = msgspec.json.decode(data)
    return _without_empty_lists(value) if dialect == 2026 and b"[]" in data else value


def parse(packet: bytes) -> Packet:
    """The message in a packet, as tolerant as EVE's readers are: they ignore words that follow a complete message.

    Raises BadPacket.
    """
    try:
        words = packet.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise BadPacket(f"holds byte {packet[_first_not_ascii(packet)]:#04x}, which is not ASCII") from None
    verb = words[0]
    if len(words) < _WORDS.get(verb, 1) or verb not in _WORDS or not words[1]:
        raise BadPacket(_why_not(verb, words))
    topic = words[1]
    if verb == "update":
        if len(words) != 4:
            raise BadPacket(_why_not(verb, words))
        key = _key(words[2])
        return Update(topic, key, _base64(words[3], "record", key))
    if verb == "delete":
        return Delete(topic, _key(words[2]))
    if verb == "complete":
        return Complete(topic)
    if verb == "restarted":
        return Restarted(topic, _counter(words[2]) if len(words) > 2 else None)
    if verb == "hello":
        return Hello(topic, _boolean(words[2]) if len(words) > 2 else None)
    return Request(topic)


def parse_request(packet: bytes) -> Request:
    """A subscriber's first packet, as strictly as EVE's publishers read it: exactly two words.

    Raises BadPacket.
    """
    message = parse(packet)
    if not isinstance(message, Request):
        raise BadPacket(f"is `{packet.split(b' ')[0].decode('ascii')}`, wanted `request`")
    if packet.count(b" ") != 1:
        raise BadPacket(f"has {packet.count(b' ') + 1} words, `request <topic>` has two")
    return message


# A float where a value stands; text that looks like one may be found too.
_MAY_HOLD_FLOATS = re.compile(rb"[:\[,]\s*-?\d+[.eE]")

_WORDS = {"request": 2, "hello": 2, "update": 4, "delete": 3, "complete": 2, "restarted": 2}


def _why_not(verb: str, words: list[str]) -> str:
    if verb not in _WORDS:
        return f"starts with {verb[:20]!r}, which is no message"
    if len(words) > 1 and not words[1]:
        return f"`{verb}` names no topic"
    return f"`{verb}` has {len(words)} words, wanted {_WORDS[verb]}"


def _key(text: str) -> str:
    try:
        return _base64(text, "key").decode()
    except UnicodeDecodeError:
        raise BadPacket("its key is not UTF-8") from None


def _base64(text: str, what: str, key: str | None = None) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as err:
        raise BadPacket(f"its {what} is not base64: {err}", key) from None


def _counter(text: str) -> int:
    if not text.isdigit() or len(text) > 19:
        raise BadPacket(f"restart counter {text[:20]!r} is no decimal number")
    return int(text)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise BadPacket(f"`hello` says {text[:20]!r}, wanted true or false")
    return text == "true"


def _without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty_lists(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_empty_lists(item) for item in value] or None
    return value


def _base64_bytes(size: int) -> int:
    return (size + 2) // 3 * 4


def _first_not_ascii(packet: bytes) -> int:
    return next(place for place, byte in enumerate(packet) if byte > 127)
