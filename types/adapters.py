"""Physical adapters and which of them may be given to apps."""

from __future__ import annotations

from pillar.types.enums import IoType, PhyIoMemberUsage, PhyIoType
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, Uuid


class PhysicalAddress(Record):
    """Where an adapter is found; "" for what does not apply."""

    PciLong: str = ""
    Ifname: str = ""
    Serial: str = ""
    Irq: str = ""
    Ioports: str = ""  # port range text
    UnknownType: str = ""  # value of an unrecognised address key


class PhyIOUsagePolicy(Record):
    """What using an adapter means."""

    FreeUplink: bool = False


class PhysicalIOAdapter(Record):
    """An adapter as the controller knows it."""

    Ptype: PhyIoType = PhyIoType.NOOP
    Phylabel: str = ""  # label on the box; becomes bundle name
    Phyaddr: PhysicalAddress = PhysicalAddress()
    Logicallabel: str = ""  # controller label (system adapters match on it)
    Assigngrp: str = ""  # assignment group
    Usage: PhyIoMemberUsage = PhyIoMemberUsage.NONE  # intended use
    UsagePolicy: PhyIOUsagePolicy = PhyIOUsagePolicy()  # policy


class PhysicalIOAdapterList(Record):
    """All adapters the controller knows. Written by zedagent; key `zedagent`."""

    Initialized: bool = False  # always true when published
    AdapterList: tuple[PhysicalIOAdapter, ...] | None = None


class IoBundle(Record):
    """A receptacle on the box and who uses it."""

    Type: IoType = IoType.NONE
    Name: str = ""  # = Phylabel
    Logicallabel: str = ""
    AssignmentGroup: str = ""  # members must move together
    Usage: PhyIoMemberUsage = PhyIoMemberUsage.NONE  # intended use
    FreeUplink: bool = False
    Ifname: str = ""
    PciLong: str = ""
    Irq: str = ""
    Ioports: str = ""
    Serial: str = ""
    Unique: str = ""  # firmware node link, for sanity checks
    MacAddr: str = ""  # MAC text
    UsedByUUID: Uuid = NIL_UUID  # owning app
    IsPCIBack: bool = False  # detached for pass-through
    IsPort: bool = False  # part of a device port


class AssignableAdapters(Record):
    """All receptacles. Written by domainmgr; key `global`."""

    Initialized: bool = False  # controller list has been processed
    IoBundleList: tuple[IoBundle, ...] | None = None  # one per receptacle
