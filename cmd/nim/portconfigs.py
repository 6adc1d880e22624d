"""Which port config is in force: several sources, one list, the newest first.

    zedagent     from the controller, key `zedagent`
    override     files in /run/global/DevicePortConfig, put there by a person or at boot
    lastresort   own: every interface that could be a port, with DHCP; as old as can be, so anything else wins

A config heard before is kept in the stored list until its source, having spoken since this nim started, no longer has
it: after a reboot the last known config stays in force until zedagent has read its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from pillar.cmd.nim.facts import Link, could_be_port
from pillar.types.enums import DevicePortConfigVersion, DhcpType
from pillar.types.nim import DevicePortConfig, DevicePortConfigList, NetworkPortConfig
from pillar.types.scalars import Time, is_zero, parse_time

ZEDAGENT = "zedagent"
LAST_RESORT = "lastresort"
EPOCH: Time = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Source:
    """The configs of one origin. `complete` means that what is missing here has been withdrawn."""

    configs: Mapping[str, DevicePortConfig] = field(default_factory=dict)
    complete: bool = False


def filled_in(config: DevicePortConfig, key: str, written: Time = EPOCH) -> DevicePortConfig:
    """`config` with what a person may leave out: Key, TimePriority (when it was `written`), Name (a port's IfName)."""
    ports = config.Ports
    if ports is not None:
        ports = tuple(port if port.Name else msgspec.structs.replace(port, Name=port.IfName) for port in ports)
    return msgspec.structs.replace(
        config,
        Key=config.Key or key,
        TimePriority=written if is_zero(config.TimePriority) else config.TimePriority,
        Ports=ports,
    )


def last_resort(links: tuple[Link, ...], taken: frozenset[str]) -> DevicePortConfig:
    """Every interface that could be a port and is not `taken` (by an app or a switch): DHCP, for management, free."""
    return DevicePortConfig(
        Version=DevicePortConfigVersion.IS_MGMT,
        Key=LAST_RESORT,
        TimePriority=EPOCH,
        Ports=tuple(
            NetworkPortConfig(IfName=link.name, Name=link.name, IsMgmt=True, Free=True, Dhcp=DhcpType.CLIENT)
            for link in sorted(links, key=lambda link: link.name)
            if could_be_port(link) and link.name not in taken
        ),
    )


def merge(
    stored: DevicePortConfigList, zedagent: Source, overrides: Source, fallback: DevicePortConfig | None
) -> DevicePortConfigList:
    """The list as it is now: one entry per key, newest TimePriority first, the first one in force.

    At equal times the controller comes before an override and that before the last resort. What testing left in a
    stored entry (LastFailed, LastSucceeded, LastError) stays with it for as long as the config is the same.
    """
    before = {config.Key: config for config in stored.PortConfigList or ()}
    merged: dict[str, DevicePortConfig] = {}
    for key, config in before.items():
        source = zedagent if key == ZEDAGENT else overrides
        if key != LAST_RESORT and not source.complete:
            merged[key] = config
    given = [*overrides.configs.values(), *zedagent.configs.values(), *([fallback] if fallback else [])]
    for config in given:
        known = before.get(config.Key)
        merged[config.Key] = known if known is not None and _same_wish(known, config) else config
    ordered = sorted(merged.values(), key=lambda config: (_rank(config), config.Key))
    ordered.sort(key=lambda config: parse_time(config.TimePriority), reverse=True)  # stable: rank decides among equals
    return DevicePortConfigList(CurrentIndex=0 if ordered else -1, PortConfigList=tuple(ordered))


def in_force(configs: DevicePortConfigList) -> DevicePortConfig | None:
    """The config that CurrentIndex names, None when there is none."""
    listed = configs.PortConfigList or ()
    return listed[configs.CurrentIndex] if 0 <= configs.CurrentIndex < len(listed) else None


def _rank(config: DevicePortConfig) -> int:
    return {ZEDAGENT: 0, LAST_RESORT: 2}.get(config.Key, 1)


def _same_wish(known: DevicePortConfig, given: DevicePortConfig) -> bool:
    return known == msgspec.structs.replace(
        given, LastFailed=known.LastFailed, LastSucceeded=known.LastSucceeded, LastError=known.LastError
    )
