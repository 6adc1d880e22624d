"""Domains and their disks: what zedmanager orders and what domainmgr runs."""

from __future__ import annotations

from pillar.types.common import IoAdapter, UUIDandVersion
from pillar.types.enums import SwState, VmMode
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Int64, Secret, Time, Uint32, Uint64
from pillar.types.zedrouter import VifInfo


class DiskConfig(Record):
    """A disk wanted for a domain."""

    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    ReadOnly: bool = False  # disk is never copied; used in place
    Preserve: bool = False  # RW copy survives inactivate/activate, removed at delete
    Maxsizebytes: Uint64 = 0  # grow copy to this size if larger than image (0 = no)
    Format: str = ""  # lower-case image format: raw, qcow, qcow2, vhd, vmdk, ova, vhdx, container, fmtunknown
    Devtype: str = ""  # lower-case drive type: hdd, cdrom, net, unclassified, hdd_empty


class DiskStatus(Record):
    """A disk of a domain as it is."""

    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    ReadOnly: bool = False  # disk is never copied; used in place
    Preserve: bool = False  # RW copy survives inactivate/activate, removed at delete
    FileLocation: str = ""  # verified image path
    Maxsizebytes: Uint64 = 0  # grow copy to this size if larger than image (0 = no)
    Format: str = ""  # lower-case image format: raw, qcow, qcow2, vhd, vmdk, ova, vhdx, container, fmtunknown
    Devtype: str = ""  # lower-case drive type: hdd, cdrom, net, unclassified, hdd_empty
    Vdev: str = ""  # xvda, xvdb, ... ; hdc for the ISO
    ActiveFileLocation: str = ""  # file handed to the hypervisor


class DomainConfig(Record):
    """A domain to run, the fields of VmConfig among its own. Written by zedmanager; keyed by the app's UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    Activate: bool = False
    AppNum: Int64 = 0  # 0 to 255, for names, MACs and marks; 0 = not yet allocated or the device itself
    Kernel: str = ""  # path of kernel; replaced by an image with target kernel
    Ramdisk: str = ""  # path of ramdisk; replaced by image with target ramdisk
    Memory: Int64 = 0  # KiB
    MaxMem: Int64 = 0  # KiB; 0 = unset
    VCpus: Int64 = 0  # 0 treated as 1 by domainmgr, but refused by zedmanager
    MaxCpus: Int64 = 0  # 0 = VCpus; zedagent never sets it
    RootDev: str = ""  # PV root device, default /dev/xvda1
    ExtraArgs: str = ""  # extra kernel args; zedagent never sets it
    BootLoader: str = ""  # PV boot loader; anything ending in pygrub becomes pygrub
    CPUs: str = ""  # CPU pinning list; not set by zedagent
    DeviceTree: str = ""  # device tree path; replaced by image with target device_tree
    DtDev: tuple[str, ...] | None = None  # device tree devices; not set by zedagent
    IRQs: tuple[Int64, ...] | None = None  # IRQs; not set by zedagent
    IOMem: tuple[str, ...] | None = None  # I/O memory ranges; not set by zedagent
    VirtualizationMode: VmMode = VmMode.PV
    EnableVnc: bool = False
    VncDisplay: Uint32 = 0  # 0 = automatic
    VncPasswd: Secret = ""  # VNC password, clear text
    DiskConfigList: tuple[DiskConfig, ...] | None = None  # only images with a disk target, in config order
    VifList: tuple[VifInfo, ...] | None = None  # vifs in order underlays first, then overlays
    IoAdapterList: tuple[IoAdapter, ...] | None = None
    CloudInitUserData: Secret = ""  # base64 text; domainmgr decodes it. A secret: people put passwords there
    IsContainer: bool = False  # image is a container handled by rkt
    ContainerImageID: str = ""  # rkt image id, `sha512-...`

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class DomainStatus(Record):
    """A domain as it is. Written by domainmgr; keyed by the app's UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    State: SwState = SwState.NONE  # INSTALLED, BOOTING, RUNNING, HALTING, HALTED
    Activated: bool = False  # actual: running / provisioned
    AppNum: Int64 = 0  # 0 to 255, for names, MACs and marks; 0 = not yet allocated or the device itself
    PendingAdd: bool = False
    PendingModify: bool = False
    PendingDelete: bool = False
    DomainName: str = ""  # `<DisplayName>.<AppNum>`
    DomainId: Int64 = 0  # hypervisor id, 0 = none
    BootTime: Time = ZERO_TIME  # last activation
    DiskStatusList: tuple[DiskStatus, ...] | None = None  # disks plus optional cloud-init ISO
    VifList: tuple[VifInfo, ...] | None = None  # vifs in order underlays first, then overlays
    IoAdapterList: tuple[IoAdapter, ...] | None = None  # reserved groups
    VirtualizationMode: VmMode = VmMode.PV
    EnableVnc: bool = False
    VncDisplay: Uint32 = 0
    VncPasswd: Secret = ""  # VNC password, clear text
    TriedCount: Int64 = 0  # boot attempts
    LastErr: str = ""  # for a person; "" means nothing is wrong now
    LastErrTime: Time = ZERO_TIME
    BootFailed: bool = False  # retry boot later
    AdaptersFailed: bool = False  # retry adapter reservation
    IsContainer: bool = False  # image is a container handled by rkt
    ContainerImageID: str = ""  # rkt image id, `sha512-...`
    PodUUID: str = ""  # rkt pod

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class ImageStatus(Record):
    """A read-write copy of an image on disk. Written by domainmgr; keyed by the base name of the file."""

    Filename: str = ""  # base name
    FileLocation: str = ""  # path in /persist/img
    RefCount: Uint64 = 0  # number of users; 0 = keep but unused
    LastUse: Time = ZERO_TIME  # time of last refcount change; clock for garbage collection
    Size: Uint64 = 0

    def key(self) -> str:
        return self.Filename
