"""Which port config is in force: several sources, one list, the newest first.

    zedagent     from the controller, key `zedagent`
    override     files in /run/global/DevicePortConfig, put there by a person or at boot
    lastresort   own: every interface that could be a port, with DHCP; as old as can be, so anything else wins

A config heard before is kept in the stored list until its source, having spoken since this nim started, no longer has
it: after a reboot the last known config stays in force until zedagent has read its own.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from pillar.cmd.nim.facts import Link, could_be_port
from pillar.types.enums import DevicePortConfigVersion, DhcpType
from pillar.types.nim import DevicePortConfig, DevicePortConfigList, NetworkPortConfig
from pillar.types.scalars import ZERO_TIME, Time, is_zero, parse_time

ZEDAGENT = "zedagent"
LAST_RESORT = "lastresort"
EPOCH: Time = "1970-01-01T00:00:00Z"
_USELESS_KEPT = 5  # of the controller's configs, those that never worked


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
    """The list as it is now: newest TimePriority first, the first one in force.

    At equal times the controller comes before an override and that before the last resort. One entry per key, but of
    the controller's also older ones, up to the first that ever worked: there is something to go back to. What testing
    left in a stored entry (LastFailed, LastSucceeded, LastError) stays with it for as long as the config is the same.
    """
    known = stored.PortConfigList or ()
    merged: list[DevicePortConfig] = []
    for config in (*overrides.configs.values(), *zedagent.configs.values(), *([fallback] if fallback else [])):
        # Of the controller's only the newest: one that it comes back to is to be tried anew.
        before = next((one for one in known if one.Key == config.Key), None)
        merged.append(_with_stamps(config, before) if before is not None and same_wish(before, config) else config)
    given = {config.Key for config in merged}
    for config in known:
        if config.Key == ZEDAGENT and ZEDAGENT in given:
            if not any(same_wish(config, one) for one in merged):
                merged.append(config)
        elif config.Key not in given | {LAST_RESORT}:
            source = zedagent if config.Key == ZEDAGENT else overrides
            if not source.complete:
                merged.append(config)
    current = next((config for config in merged if config.Key == ZEDAGENT), None)

    def age(config: DevicePortConfig) -> datetime.datetime:
        # The controller's present one is its newest, whatever a clock said that was wrong before.
        newest = current if current is not None and config.Key == ZEDAGENT else config
        return min(parse_time(config.TimePriority), parse_time(newest.TimePriority))

    merged.sort(key=lambda config: (_rank(config), config.Key))
    merged.sort(key=age, reverse=True)  # stable: among equals it is the rank, then the order above
    kept = _compressed(merged)
    return DevicePortConfigList(CurrentIndex=0 if kept else -1, PortConfigList=kept)


def _compressed(ordered: list[DevicePortConfig]) -> tuple[DevicePortConfig, ...]:
    """Without the controller's configs below the first that ever worked, and without too many that never did."""
    kept: list[DevicePortConfig] = []
    useless = 0
    enough = False
    for config in ordered:
        if config.Key == ZEDAGENT:
            works = not is_zero(config.LastSucceeded)
            useless += not works
            if enough or (useless > _USELESS_KEPT and not works):
                continue
            enough = works
        kept.append(config)
    return tuple(kept)


def in_force(configs: DevicePortConfigList) -> DevicePortConfig | None:
    """The config that CurrentIndex names, None when there is none."""
    listed = configs.PortConfigList or ()
    return listed[configs.CurrentIndex] if 0 <= configs.CurrentIndex < len(listed) else None


def _rank(config: DevicePortConfig) -> int:
    return {ZEDAGENT: 0, LAST_RESORT: 2}.get(config.Key, 1)


def same_wish(one: DevicePortConfig, other: DevicePortConfig) -> bool:
    """Do both ask for the same, whatever was found out about them?

    The controller's time is new with each of its restarts, and the last resort is the same one whichever interfaces
    there are; an override that was written again is to be tried again.
    """
    if one.Key != other.Key:
        return False
    if one.Key == LAST_RESORT:
        return True
    if one.Key != ZEDAGENT and one.TimePriority != other.TimePriority:
        return False
    return one.Version == other.Version and _timeless(one.Ports) == _timeless(other.Ports)


def _timeless(ports: tuple[NetworkPortConfig, ...] | None) -> tuple[NetworkPortConfig, ...]:
    return tuple(msgspec.structs.replace(port, ParseErrorTime=ZERO_TIME) for port in ports or ())


def _with_stamps(config: DevicePortConfig, before: DevicePortConfig) -> DevicePortConfig:
    return msgspec.structs.replace(
        config, LastFailed=before.LastFailed, LastSucceeded=before.LastSucceeded, LastError=before.LastError
    )
