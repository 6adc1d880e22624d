"""The scalars of EVE's records: what Go writes as a plain string or number, with its range and its canonical form.

Strings with a form of their own carry two rules. `pattern` is the canonical form, which strict reading checks;
`parse` (in `extra`) takes every form that Go takes and returns the canonical one, or raises ValueError.

    Uuid      "7b026db8-a1ea-4bcd-9329-4b73a3101175"; never empty, NIL_UUID means none
    IpAddr    "10.0.0.1", "fd00::1"; "" means none
    Time      "2019-11-14T12:53:43.999999999Z", any offset; ZERO_TIME means never. Text, because Python's
              datetime would lose the nanoseconds; parse_time gives a datetime
    Mac       the six bytes of an Ethernet address (base64 in the file); None means none
    Duration  nanoseconds
    Secret    a password or key: masked by every command, never logged (see secrets.py)
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import time as clock
import uuid as uuids
from typing import Annotated

from msgspec import Meta

from pillar.types.record import Record

Int8 = Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)]
Int16 = Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Uint8 = Annotated[int, Meta(ge=0, le=2**8 - 1)]
Uint16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
Uint32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Uint64 = Annotated[int, Meta(ge=0)]  # the codec checks the upper bound, which msgspec cannot
Duration = Int64  # nanoseconds

NIL_UUID = "00000000-0000-0000-0000-000000000000"
ZERO_TIME = "0001-01-01T00:00:00Z"

_HEX4 = "(?:0|[1-9a-f][0-9a-f]{0,3})"
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"

# Canonical addresses, and no other text: what this leaves out (two runs of zeros, addresses mapped from IPv4)
# is rare and goes through parse_ip, which compares with what Go would write.
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IP = (
    rf"^(?:|{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}"
    rf"|(?!(?:.*:)?0:0(?::|\Z))(?!::ffff:)(?:{_HEX4}(?::{_HEX4}){{7}}"
    rf"|(?=(?:[0-9a-f]*:){{2,6}}[0-9a-f]*\Z)(?:{_HEX4}(?::{_HEX4})*)?::(?:{_HEX4}(?::{_HEX4})*)?))\Z"
)

_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_OFFSET = r"[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"^{_DATE}T{_CLOCK}(?:\.[0-9]{{0,8}}[1-9])?(?:Z|(?![+-]00:00){_OFFSET})\Z"
_TIME_READ = re.compile(rf"^({_DATE}T{_CLOCK})(?:[.,]([0-9]+))?(Z|{_OFFSET})\Z")
_HASHLIKE = re.compile(r"^(?:urn:uuid:)?(?:\{(.*)\}|(.*))\Z")


def parse_uuid(text: str) -> str:
    """The canonical text of a UUID written plain, in braces, as a URN or without hyphens.

    Raises ValueError for anything else, the empty string included.
    """
    found = _HASHLIKE.match(text)
    inner = (found[1] or found[2] or "") if found else ""
    hexadecimal = (
        inner.replace("-", "") if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", inner) else inner
    )
    if not re.fullmatch(r"[0-9a-fA-F]{32}", hexadecimal):
        raise ValueError(f"is {_shown(text)}, expected a UUID")
    return str(uuids.UUID(hexadecimal))


def parse_ip(text: str) -> str:
    """The text Go writes for this address; "" stays "". Raises ValueError when it is no address."""
    if text == "":
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or (isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None):
        raise ValueError(f"is {_shown(text)}, expected an IP address")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def parse_rfc3339(text: str) -> str:
    """The text Go writes for this time: at most nine digits of a second, no trailing zeros, Z for UTC.

    Raises ValueError when it is not RFC 3339 or no date of the calendar.
    """
    found = _TIME_READ.match(text)
    if found is None:
        raise ValueError(f"is {_shown(text)}, expected a time like 2019-11-14T12:53:43.5Z")
    fraction = (found[2] or "")[:9].rstrip("0")
    offset = "Z" if found[3] in ("+00:00", "-00:00") else found[3]
    return found[1] + (f".{fraction}" if fraction else "") + offset


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


Uuid = Annotated[str, Meta(pattern=_UUID, extra={"parse": parse_uuid, "zero": NIL_UUID, "form": "uuid"})]
IpAddr = Annotated[str, Meta(pattern=_IP, extra={"parse": parse_ip, "form": "ip"})]
Time = Annotated[str, Meta(pattern=_TIME, extra={"parse": parse_rfc3339, "zero": ZERO_TIME, "form": "time"})]
Mac = bytes | None
Secret = Annotated[str, Meta(extra={"secret": True})]
SecretBytes = Annotated[bytes | None, Meta(extra={"secret": True})]


class IpNet(Record):
    """A network, as Go's net.IPNet: 10.1.0.0/24 is IP 10.1.0.0 and the mask ff ff ff 00."""

    IP: IpAddr = ""  # "" with a null mask: no network
    Mask: bytes | None = None  # 4 or 16 bytes


def now() -> Time:
    """This moment in UTC to the nanosecond, in canonical form."""
    return time_from_ns(clock.time_ns())


def time_from_ns(nanoseconds: int) -> Time:
    """The time that many nanoseconds after 1970 (the clock of time.time_ns and st_mtime_ns), in UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    whole = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    fraction = f"{rest:09}".rstrip("0")
    return f"{whole.isoformat()}{'.' + fraction if fraction else ''}Z"


def parse_time(text: Time) -> datetime.datetime:
    """An aware datetime, cut to microseconds. Raises ValueError when the text is no time."""
    canonical = parse_rfc3339(text)
    found = _TIME_READ.match(canonical)
    assert found is not None  # canonical text matches
    fraction = f".{found[2][:6]:0<6}" if found[2] else ""
    return datetime.datetime.fromisoformat(found[1] + fraction + ("+00:00" if found[3] == "Z" else found[3]))


def is_zero(text: Time) -> bool:
    """Whether this is Go's zero time: never, not yet."""
    return text == ZERO_TIME


def mac_text(mac: Mac) -> str:
    """ "00:16:3e:00:00:01" for the bytes, "" for none."""
    return mac.hex(":") if mac else ""


def mac_from_text(text: str) -> Mac:
    """The bytes of a MAC in colon text; None for "". Raises ValueError when it is no MAC."""
    if text == "":
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text):
        raise ValueError(f"is {_shown(text)}, expected a MAC address like 00:16:3e:00:00:01")
    return bytes.fromhex(text.replace(":", ""))


def ip_net(text: str) -> IpNet:
    """The network of a "10.1.0.0/24" text. Raises ValueError when it is none."""
    network = ipaddress.ip_network(text, strict=False)
    return IpNet(IP=str(network.network_address), Mask=network.netmask.packed)


def ip_network(net: IpNet) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network as Python's, None for no network. Raises ValueError when the mask is no prefix of the address."""
    if net.IP == "" or not net.Mask:
        return None
    ones = bin(int.from_bytes(net.Mask, "big")).count("1")
    network = ipaddress.ip_network(f"{net.IP}/{ones}", strict=False)
    if network.netmask.packed != net.Mask:
        raise ValueError(f"mask {net.Mask.hex()} does not fit {net.IP}")
    return network
