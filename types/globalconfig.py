"""Settings of the whole device."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from pillar.types.enums import TriState
from pillar.types.record import Record
from pillar.types.scalars import Uint32


class PerAgentSettings(Record):
    """Log levels of one agent; "" means the default."""

    LogLevel: str = ""  # file log level
    RemoteLogLevel: str = ""  # upload level


class GlobalConfig(Record):
    """Settings of the device. Written by zedagent in the global table; key `global`.

    As they were given: zero means not set. Times in seconds. Defaults and minimums (the numbers beside the fields) are
    applied by who uses the settings.
    """

    ConfigInterval: Uint32 = 0  # config fetch; default 60, min 5
    MetricInterval: Uint32 = 0  # metrics; 60, min 5
    ResetIfCloudGoneTime: Uint32 = 0  # reboot without controller; 604800, min 120
    FallbackIfCloudGoneTime: Uint32 = 0  # same during update test; 300, min 60
    MintimeUpdateSuccess: Uint32 = 0  # update test time; 600, min 30
    StaleConfigTime: Uint32 = 0  # max age of saved config; 600, min 0
    DownloadGCTime: Uint32 = 0  # download/verify GC; 600, min 60
    VdiskGCTime: Uint32 = 0  # RW disk GC; 3600, min 60
    RktGCGracePeriod: Uint32 = 0  # rkt GC; 300, min 30
    DownloadRetryTime: Uint32 = 0  # 600, min 60
    DomainBootRetryTime: Uint32 = 0  # 600, min 10
    NetworkGeoRedoTime: Uint32 = 0  # 3600, min 60
    NetworkGeoRetryTime: Uint32 = 0  # 600, min 5
    NetworkTestDuration: Uint32 = 0  # wait for DHCP; 30, min 10
    NetworkTestInterval: Uint32 = 0  # re-test; 300, min 300
    NetworkTestBetterInterval: Uint32 = 0  # look for better config; 0 = off
    NetworkFallbackAnyEth: TriState = TriState.NONE  # default enabled
    NetworkTestTimeout: Uint32 = 0  # 15
    NetworkSendTimeout: Uint32 = 0  # 120
    UsbAccess: bool = False  # default true: host keeps USB
    SshAccess: bool = False  # default true
    SshAuthorizedKeys: str = ""  # keys text
    AllowAppVnc: bool = False
    AllowNonFreeAppImages: TriState = TriState.NONE  # default enabled
    AllowNonFreeBaseImages: TriState = TriState.NONE  # default enabled
    Dom0MinDiskUsagePercent: Uint32 = 0  # percent of /persist kept from apps; 20, min 20, max 80
    IgnoreDiskCheckForApps: bool = False
    DefaultLogLevel: str = ""  # info
    DefaultRemoteLogLevel: str = ""  # info
    AgentSettings: dict[str, PerAgentSettings] | None = None  # agent name → levels
    Errors: tuple[str, ...] | None = None  # bad config items (an error in the very last item is lost)
    # Ours, written only when it was asked for: `strict` refuses images without a signature, `permissive` is the default
    SignaturePolicy: str | UnsetType = UNSET


class ConfigItem(Record):
    """A setting as the controller sends it; never published."""

    Key: str = ""
    Value: Any = None
