"""Small records that many others hold, and the functions that make names and keys."""

from __future__ import annotations

from pillar.types.enums import IoType, VmMode
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, Int64, IpAddr, Secret, Uint32, Uuid


class UUIDandVersion(Record):
    """Who a record is about. The record's key is the UUID alone; the version is the controller's text, for people."""

    UUID: Uuid = NIL_UUID
    Version: str = ""


class AppInstanceOpsCmd(Record):
    """A restart or purge command of the controller: another counter means do it (again)."""

    Counter: Uint32 = 0
    ApplyTime: str = ""  # received, unused


class IoAdapter(Record):
    """An adapter wanted by an app: an assignment group, looked up without regard to case."""

    Type: IoType = IoType.NONE
    Name: str = ""  # name of the assignment group


class VmConfig(Record):
    """What a domain gets of the machine. Element FixedResources of an app; DomainConfig has these fields itself."""

    Kernel: str = ""  # path; an image with target kernel replaces it
    Ramdisk: str = ""  # path; an image with target ramdisk replaces it
    Memory: Int64 = 0  # KiB
    MaxMem: Int64 = 0  # KiB; 0 = unset
    VCpus: Int64 = 0  # domainmgr takes 0 as 1, zedmanager refuses it
    MaxCpus: Int64 = 0  # 0 = VCpus; zedagent never sets it
    RootDev: str = ""  # PV root device; "" = /dev/xvda1
    ExtraArgs: str = ""  # for the kernel; zedagent never sets it
    BootLoader: str = ""  # PV; whatever ends in pygrub is pygrub
    CPUs: str = ""  # list of CPUs to pin to; not set by zedagent
    DeviceTree: str = ""  # path; an image with target device_tree replaces it
    DtDev: tuple[str, ...] | None = None  # device tree devices; not set by zedagent
    IRQs: tuple[Int64, ...] | None = None  # not set by zedagent
    IOMem: tuple[str, ...] | None = None  # memory ranges; not set by zedagent
    VirtualizationMode: VmMode = VmMode.PV
    EnableVnc: bool = False
    VncDisplay: Uint32 = 0  # 0 = automatic
    VncPasswd: Secret = ""


class IpRange(Record):
    """Addresses from Start to End, both included; both "" means none."""

    Start: IpAddr = ""
    End: IpAddr = ""


class DnsNameToIP(Record):
    """A name and the addresses it stands for."""

    HostName: str = ""
    IPs: tuple[IpAddr, ...] | None = None


def safename(name: str, sha256: str) -> str:
    """Key and file name of an image: its URL or relative name with `/` as a space, then `.` and the sha256.

    An empty sha256 (certificates have none) gives the ending `.sha`. The result may exceed what a table takes
    as a key when the name is very long.
    """
    return f"{name.replace('/', ' ')}.{sha256 or 'sha'}"


def filename_from_safename(safename: str) -> str:
    """The file's own name: what follows the last space, cut at the last dot.

    Raises ValueError when there is no dot, so it was no safename.
    """
    name, dot, _ = safename.rpartition(" ")[2].rpartition(".")
    if not dot:
        raise ValueError(f"{safename!r} is no safename: it has no dot")
    return name


def filename_from_url(url: str) -> str:
    """What follows the last slash."""
    return url.rpartition("/")[2]


def kib(size_bytes: int) -> int:
    """KiB needed for that many bytes, rounded up."""
    return -(-size_bytes // 1024)


def eid_key(uuid: str, iid: int) -> str:
    """Key of EIDConfig and EIDStatus: the app's UUID, a colon, the LISP instance id in decimal."""
    return f"{uuid}:{iid}"
