"""Base OS images, their partitions, and certificate objects."""

from __future__ import annotations

from pillar.types.common import UUIDandVersion
from pillar.types.downloader import DownloaderConfig
from pillar.types.enums import SwState
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Int32, Time
from pillar.types.zedmanager import StorageConfig, StorageStatus


class OsVerParams(Record):
    """A parameter of a base OS version."""

    OSVerKey: str = ""
    OSVerValue: str = ""


class BaseOsConfig(Record):
    """A base OS wanted. Written by zedagent; keyed by UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    BaseOsVersion: str = ""  # short version
    ConfigSha256: str = ""  # never filled by zedagent
    ConfigSignature: str = ""  # never filled by zedagent
    OsParams: tuple[OsVerParams, ...] | None = None  # key/value
    StorageConfigList: tuple[StorageConfig, ...] | None = None
    RetryCount: Int32 = 0  # unused
    Activate: bool = False

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class BaseOsStatus(Record):
    """A base OS as it is. Written by baseosmgr; keyed by UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    BaseOsVersion: str = ""  # short version
    ConfigSha256: str = ""  # never filled by zedagent
    Activated: bool = False  # actual: running / provisioned
    Reboot: bool = False  # reboot wanted
    TooEarly: bool = False  # deferred: previous update still in test
    OsParams: tuple[OsVerParams, ...] | None = None
    StorageStatusList: tuple[StorageStatus, ...] | None = None
    PartitionLabel: str = ""  # IMGA or IMGB
    PartitionDevice: str = ""
    PartitionState: str = ""  # unused, updating, inprogress, active
    State: SwState = SwState.NONE
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class CertConfig(Record):
    """Downloads of a certificate and its chain; never published."""

    ServerCert: DownloaderConfig = DownloaderConfig()
    CertChain: tuple[DownloaderConfig, ...] | None = None


class CertObjConfig(Record):
    """Certificates that signed images need. Written by zedagent; keyed by the UUID of the app or base OS."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    ConfigSha256: str = ""  # never filled by zedagent
    StorageConfigList: tuple[StorageConfig, ...] | None = None

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class CertObjStatus(Record):
    """Those certificates as they are. Written by baseosmgr; keyed like the config."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    ConfigSha256: str = ""  # never filled by zedagent
    StorageStatusList: tuple[StorageStatus, ...] | None = None  # certificates
    State: SwState = SwState.NONE
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class ZbootConfig(Record):
    """What nodeagent says about a partition. Keyed by PartitionLabel."""

    PartitionLabel: str = ""  # IMGA or IMGB
    TestComplete: bool = False  # update test passed

    def key(self) -> str:
        return self.PartitionLabel


class ZbootStatus(Record):
    """A partition as it is. Written by baseosmgr; keyed by PartitionLabel."""

    PartitionLabel: str = ""  # IMGA or IMGB
    PartitionDevname: str = ""
    PartitionState: str = ""  # unused, updating, inprogress, active
    ShortVersion: str = ""
    LongVersion: str = ""
    CurrentPartition: bool = False  # running from it
    TestComplete: bool = False  # acknowledged

    def key(self) -> str:
        return self.PartitionLabel
