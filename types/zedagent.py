"""The device as a whole: its dealings with the controller, reboots, vault and LED."""

from __future__ import annotations

from pillar.types.common import UUIDandVersion
from pillar.types.enums import ConfigGetStatus, DataSecAtRestStatus
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Duration, Int64, Time, Uint32
from pillar.types.zedmanager import AppInstanceConfig
from pillar.types.zedrouter import UnderlayNetworkConfig


class ZedAgentStatus(Record):
    """How zedagent gets on with the controller. Written by zedagent; key `zedagent`."""

    Name: str = ""
    ConfigGetStatus: ConfigGetStatus = ConfigGetStatus.NONE  # last config fetch
    RebootCmd: bool = False  # controller asked for reboot
    RebootReason: str = ""

    def key(self) -> str:
        return self.Name


class NodeAgentStatus(Record):
    """Reboots and updates. Written by nodeagent; key `nodeagent`."""

    Name: str = ""
    CurPart: str = ""  # current partition
    UpdateInprogress: bool = False  # update test running
    RemainingTestTime: Duration = 0  # ns left of the update test
    DeviceReboot: bool = False  # reboot scheduled
    RebootReason: str = ""  # of last boot
    RebootStack: str = ""  # stack trace
    RebootTime: Time = ZERO_TIME
    RestartCounter: Uint32 = 0  # boots

    def key(self) -> str:
        return self.Name


class VaultStatus(Record):
    """State of an encrypted vault. Written by vaultmgr; keyed by Name."""

    Name: str = ""
    Status: DataSecAtRestStatus = DataSecAtRestStatus.UNKNOWN
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME

    def key(self) -> str:
        return self.Name


class LedBlinkCounter(Record):
    """What the LED tells. Written by several in the global table; key `ledconfig`."""

    # 1 started, 2 has address, 3 reached controller but rejected, 4 connected, 10 onboarding conflict
    BlinkCounter: Int64 = 0


class UrlCloudCfg(Record):
    """URLs of a controller; never published."""

    ConfigUrl: str = ""
    MetricsUrl: str = ""
    StatusUrl: str = ""
    LogUrl: str = ""


class EdgeDevConfig(Record):
    """A device config in the form that preceded the controller's protobuf; never published."""

    Id: UUIDandVersion = UUIDandVersion()
    DevConfigSha256: str = ""
    DevConfigSignature: str = ""
    Apps: tuple[AppInstanceConfig, ...] | None = None
    Networks: tuple[UnderlayNetworkConfig, ...] | None = None


class DeviceConfigResponse(Record):
    """Envelope of EdgeDevConfig; never published."""

    Config: EdgeDevConfig = EdgeDevConfig()
