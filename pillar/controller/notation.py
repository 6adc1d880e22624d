"""Texts in a device config, read the way EVE's own parser (Go of 2019) reads them.

Python's readers differ where it matters: `ipaddress` refuses the leading zeros that EVE took, `uuid` takes texts that
EVE refused, `int` takes spaces and underscores. Every function raises Malformed with the words in which EVE's error
texts end.
"""

import ipaddress
import json
import re
from typing import TypeVar

from pillar.types.enums import OpenEnum, OpenEnum32

_CANONICAL = re.compile(rb"(.{8})-(.{4})-(.{4})-(.{4})-(.{12})", re.DOTALL)
_URN = b"urn:uuid:"
_MAC_BYTES = (6, 8, 20)

E = TypeVar("E", bound=OpenEnum)


class Malformed(ValueError):
    """A text that cannot be read; str() is the reason in EVE's words."""


def read_uuid(text: str) -> str:
    """The canonical lower-case form of a UUID given plain, as 32 hex digits, in braces or as a URN."""
    raw = text.encode()
    match len(raw):
        case 32 | 36:
            return _plain_uuid(raw)
        case 38:
            if not (raw.startswith(b"{") and raw.endswith(b"}")):
                raise Malformed(f"uuid: incorrect UUID format {text}")
            return _plain_uuid(raw[1:-1])
        case 41 | 45:
            if not raw.startswith(_URN):
                raise Malformed(f"uuid: incorrect UUID format: {text}")
            return _plain_uuid(raw[len(_URN) :])
        case _:
            raise Malformed(f"uuid: incorrect UUID length: {text}")


def canonical_uuid(text: str) -> str:
    """As `read_uuid`, but a text that is no UUID stays as it is: for comparing what people typed."""
    try:
        return read_uuid(text)
    except Malformed:
        return text


def _plain_uuid(raw: bytes) -> str:
    if len(raw) == 36:
        groups = _CANONICAL.fullmatch(raw)
        if groups is None:
            raise Malformed(f"uuid: incorrect UUID format {raw.decode(errors='replace')}")
        raw = b"".join(groups.groups())
    for byte in raw:
        if chr(byte) not in "0123456789abcdefABCDEF":
            raise Malformed(f"encoding/hex: invalid byte: U+{byte:04X} {chr(byte)!r}")
    text = raw.decode().lower()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def read_ip(text: str) -> str:
    """An IPv4 or IPv6 address in its usual text; an IPv4 address inside IPv6 (`::ffff:1.2.3.4`) comes out as IPv4."""
    return ip_text(_packed_ip(text))


def _packed_ip(text: str) -> bytes:
    """4 or 16 bytes. Leading zeros are allowed and decimal; a zone (`%eth0`) is not an address."""
    first = re.search(r"[.:]", text)
    if first is None or not text.isascii():
        raise Malformed(f"invalid IP address: {text}")
    if first.group() == ".":
        octets = text.split(".")
        if len(octets) != 4 or not all(
            re.fullmatch(r"0*[0-9]{1,3}", octet) and _decimal(octet) <= 255 for octet in octets
        ):
            raise Malformed(f"invalid IP address: {text}")
        return bytes(_decimal(octet) for octet in octets)
    if not re.fullmatch(r"[0-9a-fA-F:.]+", text):
        raise Malformed(f"invalid IP address: {text}")
    head, colon, tail = text.rpartition(":")
    if "." in tail:
        inner = _packed_ip(tail)
        tail = f"{inner[0]:02x}{inner[1]:02x}:{inner[2]:02x}{inner[3]:02x}"
    words = [word.lstrip("0") or "0" if word else "" for word in f"{head}{colon}{tail}".split(":")]
    try:
        return ipaddress.IPv6Address(":".join(words)).packed
    except ValueError:
        raise Malformed(f"invalid IP address: {text}") from None


def ip_text(packed: bytes) -> str:
    """The text of 4 or 16 address bytes; no bytes are no address: "". Raises Malformed for another length."""
    if not packed:
        return ""
    if len(packed) not in (4, 16):
        raise Malformed(f"an address has 4 or 16 bytes, not {len(packed)}")
    address = ipaddress.ip_address(packed)
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(inner or address)


def is_ipv4(text: str) -> bool:
    """Whether a text from `read_ip` is an IPv4 address."""
    return ":" not in text


def read_cidr(text: str) -> tuple[str, bytes]:
    """Network address and mask bytes of `10.1.2.3/24`; host bits are dropped."""
    address, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]+", length):
        raise Malformed(f"invalid CIDR address: {text}")
    try:
        packed = _packed_ip(address)
    except Malformed:
        raise Malformed(f"invalid CIDR address: {text}") from None
    bits = len(packed) * 8
    ones = _decimal(length)
    if ones > bits:
        raise Malformed(f"invalid CIDR address: {text}")
    mask = ((1 << ones) - 1 << bits - ones).to_bytes(len(packed), "big")
    network = bytes(byte & kept for byte, kept in zip(packed, mask, strict=True))
    return ip_text(network), mask


def mask_length(mask: bytes) -> int:
    """How many leading bits a mask made by `read_cidr` has."""
    return sum(byte.bit_count() for byte in mask)


def read_mac(text: str) -> bytes:
    """6, 8 or 20 bytes of a hardware address with `:`, `-` (every byte) or `.` (every two bytes)."""
    if re.fullmatch(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2})*", text) or re.fullmatch(
        r"[0-9a-fA-F]{4}(?:\.[0-9a-fA-F]{4})+", text
    ):
        raw = bytes.fromhex(re.sub(r"[:.-]", "", text))
        if len(raw) in _MAC_BYTES:
            return raw
    raise Malformed(f"address {text}: invalid MAC address")


def read_int32(text: str) -> int:
    """A signed decimal of 32 bits, wrapped to unsigned as EVE stores it: -1 is 4294967295."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise Malformed(f"strconv.ParseInt: parsing {_quoted(text)}: invalid syntax")
    number = _decimal(text)
    if not -(2**31) <= number < 2**31:
        raise Malformed(f"strconv.ParseInt: parsing {_quoted(text)}: value out of range")
    return number % 2**32


def read_uint32(text: str) -> int:
    """An unsigned decimal of 32 bits, without a sign."""
    if not re.fullmatch(r"[0-9]+", text):
        raise Malformed(f"strconv.ParseUint: parsing {_quoted(text)}: invalid syntax")
    number = _decimal(text)
    if number >= 2**32:
        raise Malformed(f"strconv.ParseUint: parsing {_quoted(text)}: value out of range")
    return number


def read_bool(text: str) -> bool:
    """One of Go's twelve spellings of true and false."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise Malformed(f"strconv.ParseBool: parsing {_quoted(text)}: invalid syntax")


def _decimal(text: str) -> int:
    """A number written in decimal; 2**63 stands for all that have more than 15 digits (int() refuses 4300)."""
    sign, digits = text[: len(text) - len(text.lstrip("+-"))], text.lstrip("+-").lstrip("0") or "0"
    number = int(digits) if len(digits) <= 15 else 2**63
    return -number if sign == "-" else number


def enum_value(enum: type[E], number: int) -> E:
    """The member with a number from the wire, cut to the enumeration's width as Go's conversion does."""
    return enum(number if issubclass(enum, OpenEnum32) else number % 2**8)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
