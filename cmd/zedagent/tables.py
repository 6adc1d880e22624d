"""zedagent's tables, and the order in which a config goes into them."""

from collections.abc import Mapping
from typing import TypeVar

from pillar.cmd.zedagent.parse import Parsed, Published
from pillar.pubsub import Publication, PubSub
from pillar.types.adapters import PhysicalIOAdapterList
from pillar.types.baseos import BaseOsConfig, CertObjConfig
from pillar.types.deviceconfig import DeviceConfigStatus
from pillar.types.downloader import DatastoreConfig
from pillar.types.globalconfig import GlobalConfig
from pillar.types.networkinstance import NetworkInstanceConfig
from pillar.types.nim import DevicePortConfig, NetworkXObjectConfig
from pillar.types.zedagent import ZedAgentStatus
from pillar.types.zedmanager import AppInstanceConfig

KEY = "zedagent"
GLOBAL_KEY = "global"

T = TypeVar("T")


class Tables:
    """Everything zedagent publishes. Opening loads what an earlier zedagent left; raises TableHeld."""

    def __init__(self, pubsub: PubSub) -> None:
        self.settings: Publication[GlobalConfig] = pubsub.publication(GlobalConfig, agent="")
        self.physical: Publication[PhysicalIOAdapterList] = pubsub.publication(PhysicalIOAdapterList)
        self.networks: Publication[NetworkXObjectConfig] = pubsub.publication(NetworkXObjectConfig)
        self.ports: Publication[DevicePortConfig] = pubsub.publication(DevicePortConfig)
        self.datastores: Publication[DatastoreConfig] = pubsub.publication(DatastoreConfig)
        self.certs: Publication[CertObjConfig] = pubsub.publication(CertObjConfig)
        self.base: Publication[BaseOsConfig] = pubsub.publication(BaseOsConfig)
        self.instances: Publication[NetworkInstanceConfig] = pubsub.publication(NetworkInstanceConfig)
        self.apps: Publication[AppInstanceConfig] = pubsub.publication(AppInstanceConfig)
        self.status: Publication[ZedAgentStatus] = pubsub.publication(ZedAgentStatus)
        self.config_status: Publication[DeviceConfigStatus] = pubsub.publication(DeviceConfigStatus)

    def published(self) -> Published:
        """The records whose times the parser keeps."""
        return Published(networks=self.networks.items(), ports=self.ports.get(KEY))

    def publish(self, parsed: Parsed) -> list[str]:
        """Bring every table to `parsed`; returns what changed, a word per record. Safe to repeat after any error."""
        changes = _withdraw(self.apps, parsed.apps)
        changes += _withdraw(self.base, parsed.base)
        changes += _put(self.settings, {GLOBAL_KEY: parsed.settings})
        changes += _put(self.physical, {KEY: parsed.physical})
        changes += _put(self.networks, parsed.networks)
        changes += _put(self.ports, {KEY: parsed.ports} if parsed.ports is not None else {})
        changes += _put(self.datastores, parsed.datastores)
        changes += _put(self.certs, parsed.certs)
        changes += _put(self.base, parsed.base)
        changes += _put(self.instances, parsed.instances)
        changes += _put(self.apps, parsed.apps)
        changes += _withdraw(self.certs, parsed.certs)
        changes += _withdraw(self.instances, parsed.instances)
        changes += _withdraw(self.datastores, parsed.datastores)
        changes += _withdraw(self.networks, parsed.networks)
        return changes

    def setting_errors(self) -> tuple[str, ...]:
        """What was wrong with the config items before."""
        settings = self.settings.get(GLOBAL_KEY)
        return (settings.Errors if settings is not None else None) or ()

    def signal_restarted(self) -> None:
        """Say that the first look at the device config is over."""
        for publication in (
            self.settings,
            self.physical,
            self.networks,
            self.ports,
            self.datastores,
            self.certs,
            self.base,
            self.instances,
            self.apps,
            self.status,
            self.config_status,
        ):
            publication.signal_restarted()


def _put(publication: Publication[T], records: Mapping[str, T]) -> list[str]:
    topic = type(next(iter(records.values()))).__name__ if records else ""
    changed = [key for key, record in records.items() if publication.publish(key, record)]
    return [f"{topic} {key}" for key in changed]


def _withdraw(publication: Publication[T], records: Mapping[str, T]) -> list[str]:
    gone = {key: record for key, record in publication.items().items() if key not in records}
    for key in gone:
        publication.unpublish(key)
    return [f"{type(record).__name__} {key} withdrawn" for key, record in gone.items()]
