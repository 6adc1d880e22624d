"""EVE's defaults and minimums for GlobalConfig: what an agent goes by.

The published record holds what the controller asked for; zero means "the default". Agents never use it
directly, they use `effective(record)`. Times are seconds, as in EVE.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pillar.types.enums import TriState
from pillar.types.globalconfig import GlobalConfig

DEFAULTS: Final = GlobalConfig(
    ConfigInterval=60,
    MetricInterval=60,
    ResetIfCloudGoneTime=7 * 24 * 3600,
    FallbackIfCloudGoneTime=300,
    MintimeUpdateSuccess=600,
    StaleConfigTime=600,
    DownloadGCTime=600,
    VdiskGCTime=3600,
    RktGCGracePeriod=300,
    DownloadRetryTime=600,
    DomainBootRetryTime=600,
    NetworkGeoRedoTime=3600,
    NetworkGeoRetryTime=600,
    NetworkTestDuration=30,
    NetworkTestInterval=300,
    NetworkTestBetterInterval=0,  # off
    NetworkFallbackAnyEth=TriState.ENABLED,
    NetworkTestTimeout=15,
    NetworkSendTimeout=120,
    UsbAccess=True,
    SshAccess=True,
    AllowAppVnc=False,
    AllowNonFreeAppImages=TriState.ENABLED,
    AllowNonFreeBaseImages=TriState.ENABLED,
    Dom0MinDiskUsagePercent=20,
    IgnoreDiskCheckForApps=False,
    DefaultLogLevel="info",
    DefaultRemoteLogLevel="info",
)

MINIMUMS: Final = {
    "ConfigInterval": 5,
    "MetricInterval": 5,
    "ResetIfCloudGoneTime": 120,
    "FallbackIfCloudGoneTime": 60,
    "MintimeUpdateSuccess": 30,
    "DownloadGCTime": 60,
    "VdiskGCTime": 60,
    "RktGCGracePeriod": 30,
    "DownloadRetryTime": 60,
    "DomainBootRetryTime": 10,
    "NetworkGeoRedoTime": 60,
    "NetworkGeoRetryTime": 5,
    "NetworkTestDuration": 10,
    "NetworkTestInterval": 300,
    "Dom0MinDiskUsagePercent": 20,
}

MAX_DISK_PERCENT: Final = 80  # of /persist kept from apps
STRICT: Final = "strict"  # the two values of SignaturePolicy
PERMISSIVE: Final = "permissive"

# Zero or "" in these means "not set", as in EVE; a false bool is a value, and 0 switches NetworkTestBetterInterval off.
_ZERO_IS_DEFAULT: Final = (
    *MINIMUMS,
    "StaleConfigTime",
    "NetworkFallbackAnyEth",
    "NetworkTestTimeout",
    "NetworkSendTimeout",
    "AllowNonFreeAppImages",
    "AllowNonFreeBaseImages",
    "DefaultLogLevel",
    "DefaultRemoteLogLevel",
)


def effective(asked: GlobalConfig | None) -> GlobalConfig:
    """What holds when the controller asked for this (None: for nothing): defaults for zeros, then the minimums.

    A record on disk has all fields, so a false UsbAccess or SshAccess in it is meant; only without a record do
    their defaults (true) hold.
    """
    if asked is None:
        return DEFAULTS
    changes: dict[str, Any] = {}
    for field in _ZERO_IS_DEFAULT:
        if not getattr(asked, field):
            changes[field] = getattr(DEFAULTS, field)
    for field, minimum in MINIMUMS.items():
        if changes.get(field, getattr(asked, field)) < minimum:
            changes[field] = minimum
    if asked.Dom0MinDiskUsagePercent > MAX_DISK_PERCENT:
        changes["Dom0MinDiskUsagePercent"] = MAX_DISK_PERCENT
    return msgspec.structs.replace(asked, **changes)


def signatures_required(settings: GlobalConfig) -> bool:
    """Whether an image without a signature is refused. A policy that nobody knows is taken for the strict one."""
    return settings.SignaturePolicy not in (msgspec.UNSET, "", PERMISSIVE)


def log_level_name(settings: GlobalConfig, names: tuple[str, ...]) -> str:
    """The level asked for an agent under any of its names (AgentSettings), else the default one."""
    for name in names:
        own = (settings.AgentSettings or {}).get(name)
        if own is not None and own.LogLevel:
            return own.LogLevel
    return settings.DefaultLogLevel
