"""One app's network: from its config and everybody's statuses to its own status. Pure.

    config gone                     -> no status; its addresses and numbers are free again
    not to be activated             -> vifs are named, no address is held
    an instance is not configured   -> MissingNetwork and Error, not Activated; goes on by itself when it comes
    the instance of an active app is withdrawn -> MissingNetwork, and it keeps what it has: the instance stays for it
    a port map clashes              -> Error, not Activated, until the other one has gone
    anything wrong with one vif     -> Error, but Activated: the other vifs work
    an active app asks for more or fewer vifs, or for a clashing port map -> Error, and it keeps what it has

EVE's zedrouter does the same once per event and retries after 60 s; here every reason is looked at again whenever
anything it depends on has changed.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from pillar.cmd.zedrouter import names
from pillar.cmd.zedrouter.acl import PortMap, port_maps
from pillar.cmd.zedrouter.vifs import Vif, overlay_status, underlay_status
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.scalars import ZERO_TIME, IpAddr, Time, Uuid, mac_text
from pillar.types.zedrouter import (
    AppNetworkConfig,
    AppNetworkStatus,
    OverlayNetworkConfig,
    OverlayNetworkStatus,
    UnderlayNetworkConfig,
    UnderlayNetworkStatus,
)


@dataclass(frozen=True)
class World:
    """What else there is: everything an app's status depends on besides its own config and status."""

    configured: Collection[Uuid] = ()  # network instances that have a config
    instances: Mapping[Uuid, NetworkInstanceStatus] = field(default_factory=dict)
    others: Mapping[Uuid, AppNetworkStatus] = field(default_factory=dict)  # statuses of the other apps
    static: Mapping[Uuid, Collection[IpAddr]] = field(default_factory=dict)  # addresses that configs name, per instance
    trouble: Mapping[str, str] = field(default_factory=dict)  # what the kernel refuses this app, by vif
    leased: Collection[tuple[str, str, IpAddr]] = ()  # (bridge, MAC, address) that a guest has asked for and got


def app_network_status(
    config: AppNetworkConfig, previous: AppNetworkStatus | None, app_num: int, world: World, now: Time
) -> AppNetworkStatus:
    """The status of an app whose config is there. `app_num` is 0 for the device's own management app."""
    status, errors = _decide(config, previous, app_num, world)
    error = "\n".join(errors)
    error_time = ZERO_TIME
    if error:
        error_time = previous.ErrorTime if previous is not None and previous.Error == error else now
    return msgspec.structs.replace(status, Error=error, ErrorTime=error_time)


def _decide(
    config: AppNetworkConfig, previous: AppNetworkStatus | None, app_num: int, world: World
) -> tuple[AppNetworkStatus, list[str]]:
    bare = AppNetworkStatus(
        UUIDandVersion=config.UUIDandVersion,
        AppNum=app_num,
        DisplayName=config.DisplayName,
        IsZedmanager=config.IsZedmanager,
        LegacyDataPlane=config.LegacyDataPlane,
    )
    if config.IsZedmanager:
        return _management(config, bare)
    absent = [uuid for uuid in dict.fromkeys(n.Network for n in networks(config)) if uuid not in world.configured]
    missing = [f"network instance {uuid} is not configured; waiting for it" for uuid in absent]
    clashes = list(_port_map_clashes(config, world)) if config.Activate and not missing else []
    if previous is not None and previous.Activated and config.Activate:
        # Mostly the app is being taken down too, and only its domain has to end first: no error while nothing is lost.
        lost = [text for uuid, text in zip(absent, missing, strict=True) if uuid not in world.instances]
        refused = _refused(config, previous) + lost + clashes
        if refused or absent:
            kept = msgspec.structs.replace(
                previous,
                UUIDandVersion=config.UUIDandVersion,
                DisplayName=config.DisplayName,
                MissingNetwork=bool(missing),
            )
            return kept, refused
    if missing and config.Activate:
        return msgspec.structs.replace(bare, MissingNetwork=True), missing
    if clashes:
        return bare, clashes
    return _with_vifs(config, previous, bare, world)


def _with_vifs(
    config: AppNetworkConfig, previous: AppNetworkStatus | None, bare: AppNetworkStatus, world: World
) -> tuple[AppNetworkStatus, list[str]]:
    """Every vif on its own: one that fails says so and takes no other with it."""
    errors: list[str] = []
    own: list[tuple[Uuid, Vif]] = []  # what this app's earlier vifs took
    overlays: list[OverlayNetworkStatus] = []
    for position, overlay in enumerate(config.OverlayNetworkList or (), 1):
        instance = world.instances.get(overlay.Network)
        present = [*_present(overlay.Network, world), *(vif for network, vif in own if network == overlay.Network)]
        over, found = overlay_status(overlay, position, bare, instance, present, config.Activate)
        own.append((overlay.Network, Vif(over.Mac, over.AppIPAddr, "this app")))
        found += [world.trouble[over.Vif]] if over.Vif in world.trouble else []
        errors += [f"overlay {position}{_named(overlay.Name)}: {error}" for error in found]
        overlays.append(over)
    underlays: list[UnderlayNetworkStatus] = []
    before = previous.UnderlayNetworkList or () if previous is not None else ()
    for position, underlay in enumerate(config.UnderlayNetworkList or (), 1):
        instance = world.instances.get(underlay.Network)
        present = [*_present(underlay.Network, world), *(vif for network, vif in own if network == underlay.Network)]
        had = before[position - 1] if position <= len(before) else None
        address = had.AllocatedIPAddr if had is not None and had.Network == underlay.Network else ""
        reserved = world.static.get(underlay.Network, ())
        under, found = underlay_status(underlay, position, bare, instance, present, reserved, address, config.Activate)
        own.append((underlay.Network, Vif(under.Mac, under.AllocatedIPAddr, "this app")))
        found += [world.trouble[under.Vif]] if under.Vif in world.trouble else []
        if (under.Bridge, under.Mac, under.AllocatedIPAddr) in world.leased:
            under = msgspec.structs.replace(under, Assigned=True)
        errors += [f"underlay {position}{_named(underlay.Name)}: {error}" for error in found]
        underlays.append(under)
    if config.Activate:
        errors += _double_port_maps(config)
    status = msgspec.structs.replace(
        bare,
        Activated=config.Activate,
        OverlayNetworkList=tuple(overlays),
        UnderlayNetworkList=tuple(underlays),
    )
    return status, errors if config.Activate else []


def _management(config: AppNetworkConfig, bare: AppNetworkStatus) -> tuple[AppNetworkStatus, list[str]]:
    """The device's own LISP overlay, which is on no instance."""
    overlays = config.OverlayNetworkList or ()
    if len(overlays) != 1 or config.UnderlayNetworkList:
        wrong = f"{len(overlays)} overlays and {len(config.UnderlayNetworkList or ())} underlays"
        return bare, [f"the device's management network needs exactly one overlay and no underlay, not {wrong}"]
    overlay = overlays[0]
    status = OverlayNetworkStatus(
        **{name: getattr(overlay, name) for name in OverlayNetworkConfig.__struct_fields__},
        Vif=names.management_vif(bare.AppNum),
        Mac=mac_text(overlay.AppMacAddr or names.management_mac(bare.AppNum)),
        HostName=config.UUIDandVersion.UUID,
    )
    return msgspec.structs.replace(bare, Activated=config.Activate, OverlayNetworkList=(status,)), []


Network = OverlayNetworkConfig | UnderlayNetworkConfig | OverlayNetworkStatus | UnderlayNetworkStatus


def networks(app: AppNetworkConfig | AppNetworkStatus) -> Iterator[Network]:
    """Overlays, then underlays: the order in which EVE goes through them."""
    yield from app.OverlayNetworkList or ()
    yield from app.UnderlayNetworkList or ()


def vifs_on(status: AppNetworkStatus) -> Iterator[tuple[Uuid, str, Vif]]:
    """(network instance, interface name, vif) of every vif that a status shows on a bridge."""
    owner = status.DisplayName or status.UUIDandVersion.UUID
    for overlay in status.OverlayNetworkList or ():
        if overlay.Bridge:
            yield overlay.Network, overlay.Vif, Vif(overlay.Mac, overlay.AppIPAddr, owner)
    for underlay in status.UnderlayNetworkList or ():
        if underlay.Bridge:
            yield underlay.Network, underlay.Vif, Vif(underlay.Mac, underlay.AllocatedIPAddr, owner)


def _present(network: Uuid, world: World) -> Iterator[Vif]:
    """Everything on this instance that is not this app's, the bridge included."""
    instance = world.instances.get(network)
    if instance is not None and instance.BridgeMac:
        yield Vif(instance.BridgeMac, instance.BridgeIPAddr, "the bridge")
    for status in world.others.values():
        for uuid, _, vif in vifs_on(status):
            if uuid == network:
                yield vif


def _refused(config: AppNetworkConfig, previous: AppNetworkStatus) -> list[str]:
    changes = []
    for what, wanted, had in (
        ("overlay", config.OverlayNetworkList, previous.OverlayNetworkList),
        ("underlay", config.UnderlayNetworkList, previous.UnderlayNetworkList),
    ):
        if len(wanted or ()) != len(had or ()):
            changes.append(
                f"cannot change from {len(had or ())} to {len(wanted or ())} {what} networks while the app is active"
            )
    return changes


def _port_map_clashes(config: AppNetworkConfig, world: World) -> Iterator[str]:
    """Port maps that another active app has, on the same instance or through the same uplink, or that lead nowhere."""
    theirs = [
        (app.DisplayName or app.UUIDandVersion.UUID, network.Network, set(port_maps(network.ACLs)))
        for app in world.others.values()
        if app.Activated
        for network in networks(app)
    ]
    for network in networks(config):
        instance = world.instances.get(network.Network)
        for port_map in dict.fromkeys(port_maps(network.ACLs)):
            if instance is not None and not instance.Error and not instance.IfNameList:
                yield f"port map of {port_map}: network instance {instance.DisplayName or instance.UUID} has no uplink"
            for app, other, taken in theirs:
                if port_map in taken and (other == network.Network or _share_uplink(network.Network, other, world)):
                    yield f"port map of {port_map} is already used by app {app}"


def _share_uplink(one: Uuid, other: Uuid, world: World) -> bool:
    lists = [world.instances[uuid].IfNameList or () for uuid in (one, other) if uuid in world.instances]
    return len(lists) == 2 and not set(lists[0]).isdisjoint(lists[1])


def _double_port_maps(config: AppNetworkConfig) -> list[str]:
    seen: set[PortMap] = set()
    errors = []
    for network in networks(config):
        for port_map in port_maps(network.ACLs):
            if port_map in seen:
                errors.append(f"port map of {port_map} is in this app's rules more than once")
            seen.add(port_map)
    return list(dict.fromkeys(errors))


def _named(name: str) -> str:
    return f" ({name})" if name else ""
