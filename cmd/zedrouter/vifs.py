"""One vif of one app: its name, MAC, bridge and address, and what is wrong with it. Pure."""

import ipaddress
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from pillar.cmd.zedrouter import names
from pillar.cmd.zedrouter.acl import rule_errors
from pillar.cmd.zedrouter.addresses import NoAddress, allocate, allocates, in_range, in_subnet
from pillar.types.enums import NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.scalars import IpAddr, mac_from_text, mac_text
from pillar.types.zedrouter import (
    AppNetworkStatus,
    OverlayNetworkConfig,
    OverlayNetworkStatus,
    UnderlayNetworkConfig,
    UnderlayNetworkStatus,
)


class Vif(NamedTuple):
    """Who has which MAC and address on an instance."""

    mac: str
    address: IpAddr
    owner: str  # for a person


def underlay_status(
    config: UnderlayNetworkConfig,
    position: int,
    app: AppNetworkStatus,
    instance: NetworkInstanceStatus | None,
    present: Iterable[Vif],
    reserved: Collection[IpAddr],
    before: IpAddr,
    activate: bool,
) -> tuple[UnderlayNetworkStatus, list[str]]:
    """(status, errors) of the underlay at `position`, from 1.

    `present` is everything else on the instance, `reserved` the addresses that configs name there, `before` the
    address this vif had. Without `activate` the vif gets its name and MAC but no address.
    """
    present = tuple(present)
    errors = [config.Error] if config.Error else []
    mac = config.AppMacAddr or names.underlay_mac(position, app.AppNum)
    errors += _instance_errors(instance)
    address = ""
    if instance is not None and instance.BridgeNum and activate:
        same_mac = next((vif for vif in present if vif.mac == mac_text(mac)), None)
        if same_mac is not None:
            errors.append(f"MAC {mac_text(mac)} is already used by {same_mac.owner} on this network instance")
        else:
            address, found = _address(config.AppIPAddr, instance, present, reserved, before)
            errors += found
    if instance is not None and instance.BridgeNum:
        errors += rule_errors(config.ACLs, instance, bool(address))
    status = UnderlayNetworkStatus(
        **{name: getattr(config, name) for name in UnderlayNetworkConfig.__struct_fields__},
        **_attachment(instance),
        Vif=names.underlay_vif(position, app.AppNum),
        Mac=mac_text(mac),
        AllocatedIPAddr=address,
        HostName=app.UUIDandVersion.UUID,
    )
    return status, errors


def overlay_status(
    config: OverlayNetworkConfig,
    position: int,
    app: AppNetworkStatus,
    instance: NetworkInstanceStatus | None,
    present: Iterable[Vif],
    activate: bool,
) -> tuple[OverlayNetworkStatus, list[str]]:
    """(status, errors) of the overlay at `position`, from 1. Its address is the EID, which identitymanager made."""
    present = tuple(present)
    errors = [config.Error] if config.Error else []
    mac = config.AppMacAddr or names.overlay_mac(position, app.AppNum)
    errors += _instance_errors(instance)
    address = config.EID
    if not address:
        errors.append("it has no EID yet")
    elif instance is not None and instance.BridgeNum:
        errors += _overlay_errors(address, mac_text(mac), instance, present) if activate else []
        errors += rule_errors(config.ACLs, instance, True)
    given = {name: getattr(config, name) for name in OverlayNetworkConfig.__struct_fields__}
    status = OverlayNetworkStatus(
        **given | {"AppIPAddr": address},
        **_attachment(instance),
        Vif=names.overlay_vif(position, app.AppNum),
        Mac=mac_text(mac),
        HostName=app.UUIDandVersion.UUID,
    )
    return status, errors


def _attachment(instance: NetworkInstanceStatus | None) -> dict[str, Any]:
    if instance is None:
        return {}
    return {
        "Bridge": instance.BridgeName,
        "BridgeMac": mac_from_text(instance.BridgeMac),
        "BridgeIPAddr": instance.BridgeIPAddr,
    }


def _instance_errors(instance: NetworkInstanceStatus | None) -> list[str]:
    if instance is None:
        return ["its network instance has no status yet"]
    if instance.Error:
        return [f"network instance {instance.DisplayName or instance.UUID} is in error: {instance.Error}"]
    return []


def _overlay_errors(address: IpAddr, mac: str, instance: NetworkInstanceStatus, present: Collection[Vif]) -> list[str]:
    errors = []
    if instance.Type != NetworkInstanceType.MESH:
        errors.append(f"network instance {instance.DisplayName or instance.UUID} is no mesh")
    version = ipaddress.ip_address(address).version
    if version != (4 if instance.Ipv4Eid else 6):
        errors.append(f"EID {address} is IPv{version}, but the mesh has IPv{4 if instance.Ipv4Eid else 6} EIDs")
    for vif in present:
        if vif.address == address:
            errors.append(f"EID {address} is already used by {vif.owner}")
        if vif.mac == mac:
            errors.append(f"MAC {mac} is already used by {vif.owner} on this network instance")
    return errors


def _address(
    static: IpAddr,
    instance: NetworkInstanceStatus,
    present: Collection[Vif],
    reserved: Collection[IpAddr],
    before: IpAddr,
) -> tuple[IpAddr, list[str]]:
    """(the guest's address or "", errors): the static one, else the one it has, else a free one."""
    if not allocates(instance):
        return "", []  # on a switch the outside world gives addresses
    taken = {vif.address: vif.owner for vif in present if vif.address}
    if static:
        if not in_subnet(instance, static):
            return "", [f"address {static} is outside the subnet of the network instance"]
        if static in taken:
            return "", [f"address {static} is already used by {taken[static]}"]
        return static, []
    if before and before not in taken and in_range(instance, before):
        return before, []
    try:
        return allocate(instance, taken, reserved), []
    except NoAddress as err:
        return "", [str(err)]
