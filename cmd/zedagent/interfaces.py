"""An app's interfaces -> UnderlayNetworkConfig (ordinary instances) and EIDOverlayConfig (mesh instances).

The first error of an interface ends it: what was read before stays in the entry, its ACLs stay null, and the text goes
into the entry's Error and into the app's Errors. The texts are EVE's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, enum_value, is_ipv4, read_ip, read_mac, read_uuid
from pillar.types.eid import EIDOverlayConfig
from pillar.types.enums import ACEDirection
from pillar.types.zedrouter import ACE, ACEAction, ACEMatch, UnderlayNetworkConfig

Instances = Mapping[str, wire.NetworkInstanceConfig]


class _Wrong(Exception):
    """An interface cannot be used; str() is the text for people."""


def parse_interfaces(
    app: wire.AppInstanceConfig, instances: Instances, refused: Mapping[str, str]
) -> tuple[tuple[UnderlayNetworkConfig, ...] | None, tuple[EIDOverlayConfig, ...] | None, list[str]]:
    """The app's underlays, overlays and the errors of both, underlays first.

    `instances` are the config's network instances by their id's text, which an interface repeats exactly. `refused`
    says why an instance of the config is not published.
    """
    underlays: list[UnderlayNetworkConfig] = []
    overlays: list[EIDOverlayConfig] = []
    for nic in app.interfaces:
        instance = instances.get(nic.networkId)
        if instance is not None and instance.instType == wire.ZnetInstMesh:
            overlays.append(_parse_overlay(nic, instance.cfg.lispConfig))
        else:  # an unknown instance too: EVE lists such an interface on both sides, so its error appears twice
            underlays.append(_parse_underlay(nic, app, instance, refused.get(nic.networkId, "")))
    errors = [underlay.Error for underlay in underlays if underlay.Error]
    errors += [overlay.Error for overlay in overlays if overlay.Error]
    return tuple(underlays) or None, tuple(overlays) or None, errors


def app_label(app: wire.AppInstanceConfig) -> str:
    """How error texts name an app."""
    return f"App {app.displayname}-{app.uuidandversion.uuid}"


def _parse_underlay(
    nic: wire.NetworkAdapter, app: wire.AppInstanceConfig, instance: wire.NetworkInstanceConfig | None, refused: str
) -> UnderlayNetworkConfig:
    read: dict[str, Any] = {"Name": nic.name}
    try:
        _read_underlay(nic, app_label(app), instance, refused, read)
    except _Wrong as wrong:
        read["Error"] = str(wrong)
    return UnderlayNetworkConfig(**read)


def _read_underlay(
    nic: wire.NetworkAdapter,
    label: str,
    instance: wire.NetworkInstanceConfig | None,
    refused: str,
    read: dict[str, Any],
) -> None:
    if instance is None:
        raise _Wrong(f"{label}: Can't find {nic.networkId} in network instances.\n")
    try:
        read["Network"] = read_uuid(nic.networkId)
    except Malformed as why:
        raise _Wrong(f"{label}: Malformed Network UUID {nic.networkId}. Err: {why}\n") from why
    if refused:
        raise _Wrong(f"{label}: network instance {nic.networkId} is refused: {refused}\n")
    if nic.macAddress:
        try:
            read["AppMacAddr"] = read_mac(nic.macAddress)
        except Malformed as why:
            raise _Wrong(f"{label}: bad MAC:{nic.macAddress}, Err: {why}\n") from why
    if nic.addr:
        try:
            read["AppIPAddr"] = read_ip(nic.addr)
        except Malformed as why:
            raise _Wrong(f"{label}: bad AppIPAddr:{nic.addr}\n") from why
        if not is_ipv4(read["AppIPAddr"]):
            raise _Wrong(f"Static IPv6 addressing ({nic.addr}) not yet supported.\n")
    read["ACLs"] = _parse_acls(nic.acls)


def _parse_overlay(nic: wire.NetworkAdapter, mesh: wire.NetworkInstanceLispConfig) -> EIDOverlayConfig:
    read: dict[str, Any] = {"Name": nic.name}
    try:
        _read_overlay(nic, mesh, read)
    except _Wrong as wrong:
        read["Error"] = f"parseOverlayNetworkConfigEntry: {wrong}"
    return EIDOverlayConfig(**read)


def _read_overlay(nic: wire.NetworkAdapter, mesh: wire.NetworkInstanceLispConfig, read: dict[str, Any]) -> None:
    try:
        read["Network"] = read_uuid(nic.networkId)
    except Malformed as why:
        raise _Wrong(f"Malformed UUID ignored: {why}") from why
    if nic.macAddress:
        try:
            read["AppMacAddr"] = read_mac(nic.macAddress)
        except Malformed as why:
            raise _Wrong(f"bad MAC {nic.macAddress}: {why}\n") from why
    if nic.cryptoEid:
        read["EID"] = _overlay_ip("CryptoEid", nic.cryptoEid)
        if nic.addr:
            read["AppIPAddr"] = _overlay_ip("Addr", nic.addr)
    elif nic.addr:
        read["EID"] = _overlay_ip("Addr", nic.addr)
    read.setdefault("AppIPAddr", read.get("EID", ""))
    read["ACLs"] = _parse_acls(nic.acls)
    if mesh.allocate and "EID" not in read:
        read |= _allocation(mesh)
        return  # what belongs to an EID is made with it
    read["LispSignature"] = nic.lispsignature
    read["PemCert"] = nic.pemcert or None
    read["PemPrivateKey"] = nic.pemprivatekey or None


def _allocation(mesh: wire.NetworkInstanceLispConfig) -> dict[str, Any]:
    """How the device is to make the EID of an interface that was given none. Its signature names the mesh's IID."""
    bits = mesh.allocationprefixlen
    if bits % 8 or bits > 8 * len(mesh.allocationprefix):
        raise _Wrong(
            f"the mesh's allocationprefixlen is {bits}, expected whole bytes of its allocationprefix, "
            f"which has {8 * len(mesh.allocationprefix)} bits\n"
        )
    return {
        "IID": mesh.LispInstanceId,
        "Allocate": True,
        "ExportPrivate": mesh.exportprivate,
        "AllocationPrefix": mesh.allocationprefix[: bits // 8] or None,
        "AllocationPrefixLen": bits,
    }


def _overlay_ip(what: str, text: str) -> str:
    try:
        return read_ip(text)
    except Malformed as why:
        raise _Wrong(f"bad {what} {text}\n") from why


def _parse_acls(acls: Sequence[wire.ACE]) -> tuple[ACE, ...]:
    return tuple(
        ACE(
            Matches=tuple(ACEMatch(Type=match.type, Value=match.value) for match in acl.matches),
            Actions=tuple(
                ACEAction(
                    Drop=action.drop,  # EVE forgets it, and an app that should be cut off can talk
                    Limit=action.limit,
                    LimitRate=action.limitrate,
                    LimitUnit=action.limitunit,
                    LimitBurst=action.limitburst,
                    PortMap=action.portmap,
                    TargetPort=action.appPort,
                )
                for action in acl.actions
            ),
            Name=acl.name,
            RuleID=acl.id,
            Dir=enum_value(ACEDirection, acl.dir),
        )
        for acl in acls
    )
