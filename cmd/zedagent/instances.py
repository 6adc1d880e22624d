"""Network instances of the device config -> NetworkInstanceConfig.

The record has no place for errors, so what is wrong is returned as lines for the log and zedagent's own status.
"""

from collections.abc import Sequence
from typing import Any

from pillar.cmd.zedagent.ipspec import read_host_names, read_ipspec
from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, enum_value, ip_text, read_uuid
from pillar.types.enums import AddressType, MapServerType, NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceConfig, NetworkInstanceLispConfig
from pillar.types.zedrouter import MapServer

_CRYPTO = (AddressType.CRYPTO_IPV4, AddressType.CRYPTO_IPV6)
_ONE_VPN = "only one network instance of a device can be a VPN, and another one comes before it"


def parse_instances(
    instances: Sequence[wire.NetworkInstanceConfig],
) -> tuple[dict[str, NetworkInstanceConfig], list[str], dict[str, str]]:
    """The instances by UUID, a line for each thing that is wrong, and why an instance is refused by its id's text."""
    records: dict[str, NetworkInstanceConfig] = {}
    problems: list[str] = []
    refused: dict[str, str] = {}
    vpn = ""  # the id of the one VPN instance a device can have
    for instance in instances:
        text = instance.uuidandversion.uuid
        try:
            uuid = read_uuid(text)
        except Malformed as why:
            problems.append(f"network instance {instance.displayname!r} is left out: {why}")
            continue
        if _is_vpn(instance):
            if vpn not in ("", uuid):
                refused[text] = _ONE_VPN
                problems.append(f"network instance {uuid} {instance.displayname!r} is left out: {_ONE_VPN}")
                continue
            vpn = uuid
        records[uuid], wrong = _parse_instance(uuid, instance)
        problems.extend(f"network instance {uuid} {instance.displayname!r}: {line}" for line in wrong)
    return records, problems, refused


def _is_vpn(instance: wire.NetworkInstanceConfig) -> bool:
    return (
        instance.instType == wire.ZnetInstCloud
        and instance.cfg.type == wire.ZNetOConfigVPN
        and bool(instance.cfg.oconfig)
    )


def _parse_instance(uuid: str, instance: wire.NetworkInstanceConfig) -> tuple[NetworkInstanceConfig, list[str]]:
    wrong: list[str] = []
    address_type = enum_value(AddressType, instance.ipType)
    read: dict[str, Any] = {}
    match instance.instType:
        case wire.ZnetInstSwitch:
            if address_type:
                wrong.append(f"a switch has no addresses; IP type {address_type} is ignored")
            address_type = AddressType.NONE
        case wire.ZnetInstMesh:
            read["HasEncap"] = True
            if address_type not in _CRYPTO:
                wrong.append(f"a mesh needs a crypto IP type, not {address_type}")
            if not instance.HasField("cfg"):
                wrong.append("a mesh needs cfg, and has none")
            elif instance.cfg.HasField("lispConfig"):
                read["LispConfig"], prefix = _parse_lisp(instance.cfg.lispConfig)
                wrong.extend(prefix)
        case wire.ZnetInstCloud:
            read["OpaqueConfig"] = instance.cfg.oconfig
            if not instance.HasField("cfg") or instance.cfg.type != wire.ZNetOConfigVPN:
                wrong.append("a cloud instance needs cfg of type VPN")
            if address_type != AddressType.IPV4:
                wrong.append(f"a cloud instance needs IP type IPv4, not {address_type}")
    if address_type:
        members, bad_value = read_ipspec(instance.ip)
        names, bad_names = read_host_names(instance.dns)
        read |= {**members, "DnsNameToIPList": names}
        wrong.extend([bad_value] if bad_value else [])
        wrong.extend(f"bad dnsEntry {text} is ignored" for text in bad_names)
    record = NetworkInstanceConfig(
        UUID=uuid,
        Version=instance.uuidandversion.version,
        DisplayName=instance.displayname,
        Type=enum_value(NetworkInstanceType, instance.instType),
        Activate=instance.activate,
        Port=instance.port.name,
        IpType=address_type,
        **read,
    )
    return record, wrong


def _parse_lisp(lisp: wire.NetworkInstanceLispConfig) -> tuple[NetworkInstanceLispConfig, list[str]]:
    wrong: list[str] = []
    try:
        prefix = ip_text(lisp.allocationprefix)
    except Malformed as why:
        prefix = ""
        wrong.append(f"bad allocationprefix: {why}")
    record = NetworkInstanceLispConfig(
        MapServers=tuple(
            MapServer(ServiceType=enum_value(MapServerType, ms.zsType), NameOrIp=ms.NameOrIp, Credential=ms.Credential)
            for ms in lisp.LispMSs
        ),
        IID=lisp.LispInstanceId,
        Allocate=lisp.allocate,
        ExportPrivate=lisp.exportprivate,
        EidPrefix=prefix,
        EidPrefixLen=lisp.allocationprefixlen,
        Experimental=lisp.experimental,
    )
    return record, wrong
