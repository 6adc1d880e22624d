"""State and counters of the LISP data plane."""

from __future__ import annotations

from pillar.types.record import Record
from pillar.types.scalars import IpAddr, Uint32, Uint64
from pillar.types.zedrouter import MapServer


class LispConfig(Record):
    """Settings of a LISP service; an older form of NetworkInstanceLispConfig."""

    MapServers: tuple[MapServer, ...] | None = None
    IID: Uint32 = 0
    Allocate: bool = False
    ExportPrivate: bool = False
    EidPrefix: IpAddr = ""
    EidPrefixLen: Uint32 = 0
    Experimental: bool = False


class LispRlocState(Record):
    """A locator and whether it answers."""

    Rloc: IpAddr = ""
    Reachable: bool = False


class LispMapCacheEntry(Record):
    """Where an EID is reached."""

    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    Rlocs: tuple[LispRlocState, ...] | None = None


class LispDatabaseMap(Record):
    """The map cache of one instance id."""

    IID: Uint64 = 0
    MapCacheEntries: tuple[LispMapCacheEntry, ...] | None = None


class LispDecapKey(Record):
    """Keys held for a locator."""

    Rloc: IpAddr = ""
    Port: Uint64 = 0
    KeyCount: Uint64 = 0


class LispInfoStatus(Record):
    """State of the LISP data plane. Written by lisp-ztr; key `global`."""

    ItrCryptoPort: Uint64 = 0
    EtrNatPort: Uint64 = 0
    Interfaces: tuple[str, ...] | None = None
    DatabaseMaps: tuple[LispDatabaseMap, ...] | None = None  # per IID
    DecapKeys: tuple[LispDecapKey, ...] | None = None


class LispDataplaneConfig(Record):
    """Which LISP data plane runs. Written by zedrouter; key `global`."""

    Legacy: bool = False  # python data plane


class EidMap(Record):
    """EIDs of one instance id."""

    IID: Uint64 = 0
    Eids: tuple[IpAddr, ...] | None = None


class LispPktStat(Record):
    """Packets and bytes, as the LISP data plane counts them."""

    Pkts: Uint64 = 0
    Bytes: Uint64 = 0


class LispRlocStatistics(Record):
    """Traffic with one locator."""

    Rloc: IpAddr = ""
    Stats: LispPktStat = LispPktStat()
    SecondsSinceLastPacket: Uint64 = 0


class EidStatistics(Record):
    """Traffic of one EID."""

    IID: Uint64 = 0
    Eid: IpAddr = ""
    RlocStats: tuple[LispRlocStatistics, ...] | None = None


class LispMetrics(Record):
    """Counters of the LISP data plane. Written by lisp-ztr; key `global`."""

    EidMaps: tuple[EidMap, ...] | None = None
    EidStats: tuple[EidStatistics, ...] | None = None
    ItrPacketSendError: LispPktStat = LispPktStat()
    InvalidEidError: LispPktStat = LispPktStat()
    NoDecryptKey: LispPktStat = LispPktStat()
    OuterHeaderError: LispPktStat = LispPktStat()
    BadInnerVersion: LispPktStat = LispPktStat()
    GoodPackets: LispPktStat = LispPktStat()
    ICVError: LispPktStat = LispPktStat()
    LispHeaderError: LispPktStat = LispPktStat()
    CheckSumError: LispPktStat = LispPktStat()
    DecapReInjectError: LispPktStat = LispPktStat()
    DecryptError: LispPktStat = LispPktStat()
