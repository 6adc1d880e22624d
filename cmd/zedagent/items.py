"""Config items (key and value as text) -> GlobalConfig.

Every parse starts from the defaults, so an item that is no longer sent falls back. A value that cannot be read leaves
the default and is logged; an unknown key and a bad percentage also stand in the record's Errors. The texts are EVE's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, read_bool, read_int32, read_uint32
from pillar.globalconfig import DEFAULTS, MAX_DISK_PERCENT, PERMISSIVE, STRICT, effective
from pillar.types.enums import TriState
from pillar.types.globalconfig import GlobalConfig, PerAgentSettings

_LEVELS = ("panic", "fatal", "error", "warn", "warning", "info", "debug", "trace")
_TRISTATES = {
    "none": TriState(0),
    **dict.fromkeys(("disabled", "disable", "off"), TriState(1)),
    **dict.fromkeys(("enabled", "enable", "on"), TriState(2)),
}


def _read_tristate(text: str) -> TriState:
    if text not in _TRISTATES:
        raise Malformed(f"Bad value: {text}")
    return _TRISTATES[text]


def _read_policy(text: str) -> str:
    if text not in (STRICT, PERMISSIVE):
        raise Malformed(f"Bad value: {text} (it is {STRICT} or {PERMISSIVE})")
    return text


_Reader = Callable[[str], Any]

_ITEMS: dict[str, tuple[str, _Reader]] = {
    "timer.config.interval": ("ConfigInterval", read_int32),
    "timer.metric.interval": ("MetricInterval", read_int32),
    "timer.send.timeout": ("NetworkSendTimeout", read_int32),
    "timer.reboot.no.network": ("ResetIfCloudGoneTime", read_int32),
    "timer.update.fallback.no.network": ("FallbackIfCloudGoneTime", read_int32),
    "timer.test.baseimage.update": ("MintimeUpdateSuccess", read_int32),
    "timer.use.config.checkpoint": ("StaleConfigTime", read_int32),
    "timer.gc.download": ("DownloadGCTime", read_int32),
    "timer.gc.vdisk": ("VdiskGCTime", read_int32),
    "timer.gc.rkt.graceperiod": ("RktGCGracePeriod", read_int32),
    "timer.download.retry": ("DownloadRetryTime", read_int32),
    "timer.boot.retry": ("DomainBootRetryTime", read_int32),
    "timer.port.georedo": ("NetworkGeoRedoTime", read_int32),
    "timer.port.georetry": ("NetworkGeoRetryTime", read_int32),
    "timer.port.testduration": ("NetworkTestDuration", read_int32),
    "timer.port.testinterval": ("NetworkTestInterval", read_int32),
    "timer.port.timeout": ("NetworkTestTimeout", read_int32),
    "timer.port.testbetterinterval": ("NetworkTestBetterInterval", read_int32),
    "network.fallback.any.eth": ("NetworkFallbackAnyEth", _read_tristate),
    "network.allow.wwan.app.download": ("AllowNonFreeAppImages", _read_tristate),
    "network.allow.wwan.baseos.download": ("AllowNonFreeBaseImages", _read_tristate),
    "debug.enable.usb": ("UsbAccess", read_bool),
    "app.allow.vnc": ("AllowAppVnc", read_bool),
    "storage.apps.ignore.disk.check": ("IgnoreDiskCheckForApps", read_bool),
    "verifier.signature.policy": ("SignaturePolicy", _read_policy),  # ours
    "debug.default.loglevel": ("DefaultLogLevel", str),
    "debug.default.remote.loglevel": ("DefaultRemoteLogLevel", str),
}


def parse_items(items: Iterable[wire.ConfigItem]) -> tuple[GlobalConfig, list[str]]:
    """The settings with defaults and minimums applied, and a line for each item whose default holds instead."""
    read: dict[str, Any] = {}
    agents: dict[str, PerAgentSettings] = {}
    errors: list[str] = []
    problems: list[str] = []
    for item in items:
        try:
            error = _read_item(item.key, item.value, read, agents)
        except Malformed as why:
            problems.append(f"config item {item.key}: {why}; its default holds")
            continue
        if error:
            errors.append(error)
    asked = msgspec.structs.replace(DEFAULTS, **read, AgentSettings=agents or None, Errors=tuple(errors) or None)
    return effective(asked), problems


def _read_item(key: str, value: str, read: dict[str, Any], agents: dict[str, PerAgentSettings]) -> str:
    """Take one item; returns what belongs into Errors. Raises Malformed for a value that is left out."""
    if key in _ITEMS:
        field, reader = _ITEMS[key]
        read[field] = reader(value)
    elif key == "debug.enable.ssh":
        if value.startswith("ssh"):
            read |= {"SshAuthorizedKeys": value, "SshAccess": True}
        else:
            read["SshAccess"] = read_bool(value)
    elif key == "storage.dom0.disk.minusage.percent":
        return _read_percent(key, value, read)
    else:
        match key.split("."):
            case ["debug", agent, "loglevel"]:
                _set_level(agents, agent, "LogLevel", value)
            case ["debug", agent, "remote", "loglevel"]:
                _set_level(agents, agent, "RemoteLogLevel", value)
            case _:
                return f"Unknown configItem {key} value {value}\n"
    return ""


def _read_percent(key: str, value: str, read: dict[str, Any]) -> str:
    try:
        percent = read_uint32(value)
    except Malformed as why:
        return f"bad int value {value} for {key}: {why}\n"
    read["Dom0MinDiskUsagePercent"] = min(percent, MAX_DISK_PERCENT)
    if percent > MAX_DISK_PERCENT:
        return (
            f"dom0MinDiskUsagePercent ({percent}) > maxAllowed ({MAX_DISK_PERCENT}). Setting it to {MAX_DISK_PERCENT}."
        )
    return ""


def _set_level(agents: dict[str, PerAgentSettings], agent: str, field: str, level: str) -> None:
    if level.lower() not in _LEVELS:
        raise Malformed(f"not a log level: {level!r}")
    agents[agent] = msgspec.structs.replace(agents.get(agent, PerAgentSettings()), **{field: level})
