"""The whole device config -> what zedagent publishes. Pure: values in, values out.

What is wrong with one entry stays with that entry: the record says it where EVE's record has a place for it, and
`Parsed.problems` has a line for what no record can say.
"""

from dataclasses import dataclass

import msgspec

from pillar.cmd.zedagent.apps import parse_apps
from pillar.cmd.zedagent.baseos import parse_base
from pillar.cmd.zedagent.datastores import parse_datastores
from pillar.cmd.zedagent.instances import parse_instances
from pillar.cmd.zedagent.items import parse_items
from pillar.cmd.zedagent.networks import parse_networks
from pillar.cmd.zedagent.ports import parse_physical, parse_ports
from pillar.cmd.zedagent.storage import certificates
from pillar.controller import config_pb2 as wire
from pillar.types.adapters import PhysicalIOAdapterList
from pillar.types.baseos import BaseOsConfig, CertObjConfig
from pillar.types.downloader import DatastoreConfig
from pillar.types.globalconfig import GlobalConfig
from pillar.types.networkinstance import NetworkInstanceConfig
from pillar.types.nim import DevicePortConfig, NetworkXObjectConfig
from pillar.types.scalars import Time
from pillar.types.zedmanager import AppInstanceConfig


@dataclass(frozen=True)
class Published:
    """What stands in the tables whose records carry times; the parser keeps those that still hold."""

    networks: dict[str, NetworkXObjectConfig]
    ports: DevicePortConfig | None


@dataclass(frozen=True)
class Parsed:
    """The records of one device config, by key, and a line for each problem that no record can say."""

    settings: GlobalConfig
    datastores: dict[str, DatastoreConfig]
    physical: PhysicalIOAdapterList
    networks: dict[str, NetworkXObjectConfig]
    ports: DevicePortConfig | None  # None: the config has none, and the device keeps those it has
    base: dict[str, BaseOsConfig]
    instances: dict[str, NetworkInstanceConfig]
    apps: dict[str, AppInstanceConfig]
    certs: dict[str, CertObjConfig]
    problems: tuple[str, ...]


def parse_config(config: wire.EdgeDevConfig, published: Published, now: Time) -> Parsed:
    """Every section of `config`. An error that is already published keeps its time; `now` is the time of a new one."""
    settings, item_problems = parse_items(config.configItems)
    datastores, datastore_problems = parse_datastores(config.datastores)
    physical = parse_physical(config.deviceIoList)
    networks = _keep_network_times(parse_networks(config.networks, now), published.networks)
    ports = _keep_port_times(parse_ports(config.systemAdapterList, physical, networks, now), published.ports)
    base, base_problems = parse_base(config.base)
    instances, instance_problems, refused = parse_instances(config.networkInstances)
    by_text: dict[str, wire.NetworkInstanceConfig] = {}
    for instance in config.networkInstances:
        if instance.HasField("uuidandversion"):
            by_text.setdefault(instance.uuidandversion.uuid, instance)
    apps, app_problems = parse_apps(config.apps, by_text, refused)
    return Parsed(
        settings=settings,
        datastores=datastores,
        physical=physical,
        networks=networks,
        ports=ports,
        base=base,
        instances=instances,
        apps=apps,
        certs=_certs(base, apps),
        problems=(*item_problems, *datastore_problems, *base_problems, *instance_problems, *app_problems),
    )


def deactivated(apps: dict[str, AppInstanceConfig]) -> dict[str, AppInstanceConfig]:
    """The same apps, none of them wanted running: what a reboot command does to them."""
    return {key: msgspec.structs.replace(app, Activate=False) for key, app in apps.items()}


def _certs(base: dict[str, BaseOsConfig], apps: dict[str, AppInstanceConfig]) -> dict[str, CertObjConfig]:
    certs: dict[str, CertObjConfig] = {}
    owners = [(entry.UUIDandVersion, entry.StorageConfigList) for entry in base.values()]
    owners += [(app.UUIDandVersion, app.StorageConfigList) for app in apps.values()]
    for owner, images in owners:
        wanted = certificates(owner, images or ())
        if wanted is not None:
            certs[owner.UUID] = wanted
    return certs


def _keep_network_times(
    networks: dict[str, NetworkXObjectConfig], published: dict[str, NetworkXObjectConfig]
) -> dict[str, NetworkXObjectConfig]:
    """An error that was there before keeps the time it had."""
    kept: dict[str, NetworkXObjectConfig] = {}
    for key, network in networks.items():
        before = published.get(key)
        if before is not None and network.Error and network.Error == before.Error:
            network = msgspec.structs.replace(network, ErrorTime=before.ErrorTime)
        kept[key] = network
    return kept


def _keep_port_times(ports: DevicePortConfig | None, before: DevicePortConfig | None) -> DevicePortConfig | None:
    """The record as it was when only times differ: nim takes a new TimePriority for a new port configuration."""
    if ports is None or before is None:
        return ports
    since = {(port.IfName, port.ParseError): port.ParseErrorTime for port in before.Ports or () if port.ParseError}
    kept = msgspec.structs.replace(
        ports,
        Ports=tuple(
            msgspec.structs.replace(port, ParseErrorTime=since.get((port.IfName, port.ParseError), port.ParseErrorTime))
            for port in ports.Ports or ()
        ),
    )
    same = msgspec.structs.replace(kept, TimePriority=before.TimePriority)
    return same if same == before else kept
