"""EVE's enumerations, by EVE's names and numbers.

They are open: a number without a name here (written by a newer agent, or 255 in EVE's own data) is kept and
written back; its name is then the number. Numbers that the Go type cannot hold are refused.
"""

from __future__ import annotations

import enum
from typing import Any


class OpenEnum(enum.IntEnum):
    """An integer with names for some values; uint8 in Go."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        if type(value) is not int or value not in cls._numbers():
            numbers = cls._numbers()
            raise ValueError(f"is {value!r}, expected {cls.__name__}, a number from {numbers[0]} to {numbers[-1]}")
        member = int.__new__(cls, value)
        member._name_ = str(value)
        member._value_ = value
        return member

    @classmethod
    def _numbers(cls) -> range:
        return range(2**8)


class OpenEnum32(OpenEnum):
    """An enumeration that is an int32 in Go."""

    @classmethod
    def _numbers(cls) -> range:
        return range(-(2**31), 2**31)


class SwState(OpenEnum):
    """How far an image, a domain or an app got; the controller's ZSwState has the same numbers."""

    NONE = 0  # not set
    INITIAL = 1
    DOWNLOAD_STARTED = 2
    DOWNLOADED = 3
    DELIVERED = 4  # verified
    INSTALLED = 5  # ready to be activated
    BOOTING = 6
    RUNNING = 7
    HALTING = 8
    HALTED = 9
    RESTARTING = 10
    PURGING = 11
    MAXSTATE = 12


class Inprogress(OpenEnum):
    """Where the restart or purge of an app stands."""

    NONE = 0
    DOWNLOAD = 1  # purge only: fetching the new images
    BRING_DOWN = 2
    BRING_UP = 3


class TriState(OpenEnum):
    """A setting that may be left to its default."""

    NONE = 0  # use the default
    DISABLED = 1
    ENABLED = 2


class VmMode(OpenEnum):
    """Virtualization mode."""

    PV = 0
    HVM = 1


class IoType(OpenEnum):
    """Class of an adapter. Network types are ETH, WLAN and WWAN."""

    NONE = 0
    ETH = 1
    USB = 2
    COM = 3
    AUDIO = 4
    WLAN = 5
    WWAN = 6
    HDMI = 7
    OTHER = 255


class PhyIoType(OpenEnum32):
    """Class of an adapter as the controller sends it; the numbers of IoType."""

    NOOP = 0
    ETH = 1
    USB = 2
    COM = 3
    AUDIO = 4
    WLAN = 5
    WWAN = 6
    HDMI = 7
    OTHER = 255


class PhyIoMemberUsage(OpenEnum32):
    """What the controller wants an adapter used for."""

    NONE = 0
    MGMT_AND_APPS = 1
    SHARED = 2
    DEDICATED = 3
    DISABLED = 4
    MGMT = 5


class DhcpType(OpenEnum):
    """How a port or network gets its addresses."""

    NOOP = 0
    STATIC = 1
    NONE = 2  # passed through to a switch
    DEPRECATED = 3
    CLIENT = 4


class NetworkType(OpenEnum):
    """Address family of a network object."""

    NOOP = 0
    IPV4 = 4
    IPV6 = 6
    CRYPTO_EID = 14
    CRYPTO_V4 = 24
    CRYPTO_V6 = 26


class NetworkProxyType(OpenEnum):
    """Protocol a proxy serves."""

    HTTP = 0
    HTTPS = 1
    SOCKS = 2
    FTP = 3
    NOPROXY = 4
    LAST = 255


class NetworkInstanceType(OpenEnum32):
    """Kind of a network instance; SWITCH to MESH are supported by EVE."""

    FIRST = 0  # invalid
    SWITCH = 1
    LOCAL = 2
    CLOUD = 3  # VPN
    MESH = 4  # LISP
    HONEYPOT = 5
    TRANSPARENT = 6
    LAST = 255


class AddressType(OpenEnum32):
    """Address family of a network instance."""

    NONE = 0
    IPV4 = 1
    IPV6 = 2
    CRYPTO_IPV4 = 3
    CRYPTO_IPV6 = 4
    LAST = 255


class ChangeInProgressType(OpenEnum32):
    """What is being done to a network instance."""

    NONE = 0
    CREATE = 1
    MODIFY = 2
    DELETE = 3
    LAST = 255


class ACEDirection(OpenEnum):
    """Which way an access rule looks."""

    BOTH = 0
    INGRESS = 1
    EGRESS = 2


class MapServerType(OpenEnum):
    """Kind of a LISP map server."""

    INVALID = 0
    MAP_SERVER = 1
    SUPPORT_SERVER = 2
    LAST = 255


class CurrIntfStatusType(OpenEnum):
    """State of the uplink in use."""

    NONE = 0
    DOWN = 1
    UP = 2


class DevicePortConfigVersion(OpenEnum):
    """What a port config can say."""

    INITIAL = 0
    IS_MGMT = 1  # NetworkPortConfig.IsMgmt is honoured


class NetworkServiceType(OpenEnum):
    """Kind of a network service, from before network instances."""

    FIRST = 0  # invalid
    STRONGSWAN = 1
    LISP = 2
    BRIDGE = 3
    NAT = 4
    LB = 5
    LAST = 255


class VpnState(OpenEnum):
    """State of a VPN connection or link."""

    INVALID = 0
    INITIAL = 1
    CONNECTING = 2
    ESTABLISHED = 3
    INSTALLED = 4
    REKEYED = 5
    DELETED = 10
    MAX = 255


class ConfigGetStatus(OpenEnum):
    """How the last fetch of the device config went."""

    NONE = 0
    SUCCESS = 1
    FAIL = 2
    TEMPORARY_FAIL = 3
    READ_SAVED = 4


class DataSecAtRestStatus(OpenEnum32):
    """State of the vault."""

    UNKNOWN = 0
    DISABLED = 1
    ENABLED = 2
    ERROR = 4


class MetricItemType(OpenEnum):
    """Kind of a metric sent to the controller."""

    OTHER = 0
    GAUGE = 1
    COUNTER = 2
    STATE = 3
