"""zedmanager's tables: what it follows, what it publishes, and the facts about one app gathered from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from pillar.cmd.zedmanager.changes import take_image
from pillar.cmd.zedmanager.disk import OBJTYPE, Disk
from pillar.cmd.zedmanager.facts import DiskSpace, Facts, Published, VerifiedImage
from pillar.cmd.zedmanager.images import image_name, name_apart
from pillar.cmd.zedmanager.references import ImageFacts, Shared, content_of
from pillar.cmd.zedmanager.refetch import ImageRetry
from pillar.pubsub import Publication, PubSub, Subscription
from pillar.types.baseos import CertObjStatus
from pillar.types.common import eid_key
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.eid import EIDConfig, EIDStatus
from pillar.types.eid_error import EIDError
from pillar.types.enums import SwState
from pillar.types.globalconfig import GlobalConfig
from pillar.types.scalars import now
from pillar.types.uuidtonum import UuidToNum
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageStatus
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus

PURGE_COUNTER: Final = "purgeCmdCounter"

Mark = Callable[[str], None]


class Tables:
    """All tables of zedmanager. `app` and `image` are told which app's or image's facts changed."""

    def __init__(
        self, pubsub: PubSub, *, app: Mark, image: Mark, certificates: Mark, loaded: Callable[[], None]
    ) -> None:
        # Publications first: they are the ledger, and a second zedmanager is refused before it does anything.
        self.statuses = pubsub.publication(AppInstanceStatus)
        self.download_configs = pubsub.publication(DownloaderConfig, scope=OBJTYPE)
        self.verify_configs = pubsub.publication(VerifyImageConfig, scope=OBJTYPE)
        self.eid_configs = pubsub.publication(EIDConfig)
        self.network_configs = pubsub.publication(AppNetworkConfig)
        self.domain_configs = pubsub.publication(DomainConfig)
        self.retries = pubsub.publication(ImageRetry)
        self.counters = pubsub.publication(UuidToNum, persistent=True)

        def follow(agent: str, record: type[Any], mark: Mark, scope: str = "") -> Subscription[Any]:
            return pubsub.subscription(
                agent,
                record,
                scope=scope,
                create=lambda key, new: mark(key),
                modify=lambda key, new, old: mark(key),
                delete=lambda key, last: mark(key),
                synchronized=loaded,
            )

        def app_of_eid(key: str) -> None:
            app(key.rpartition(":")[0])

        self.configs: Subscription[AppInstanceConfig] = follow("zedagent", AppInstanceConfig, app)
        self.downloads: Subscription[DownloaderStatus] = follow("downloader", DownloaderStatus, image, OBJTYPE)
        self.verifications: Subscription[VerifyImageStatus] = follow(
            "verifier", VerifyImageStatus, self._verification(image), OBJTYPE
        )
        self.certificates: Subscription[CertObjStatus] = follow("baseosmgr", CertObjStatus, certificates)
        self.eids: Subscription[EIDStatus] = follow("identitymanager", EIDStatus, app_of_eid)
        self.eid_errors: Subscription[EIDError] = follow("identitymanager", EIDError, app_of_eid)
        self.networks: Subscription[AppNetworkStatus] = follow("zedrouter", AppNetworkStatus, app)
        self.domains: Subscription[DomainStatus] = follow("domainmgr", DomainStatus, app)
        self._verified: dict[str, set[str]] = {}  # sha256 -> keys of VerifyImageStatus

    def _verification(self, image: Mark) -> Mark:
        def mark(key: str) -> None:
            keys = self._verified.setdefault(content_of(key), set())
            if key in self.verifications:
                keys.add(key)
            else:
                keys.discard(key)
            for related in self.related(key):
                image(related)
            image(key)

        return mark

    @property
    def inputs(self) -> tuple[Subscription[Any], ...]:
        return (
            self.configs, self.downloads, self.verifications, self.certificates, self.eids, self.eid_errors,
            self.networks, self.domains,
        )  # fmt: skip

    @property
    def outputs(self) -> tuple[Publication[Any], ...]:
        return (
            self.statuses, self.download_configs, self.verify_configs, self.eid_configs, self.network_configs,
            self.domain_configs, self.retries, self.counters,
        )  # fmt: skip

    @staticmethod
    def is_known(table: Subscription[Any]) -> bool:
        """Was this table read, or is it certain that its agent has never published in it?"""
        return table.is_synchronized or not os.path.lexists(table.table.path)

    def unread(self) -> list[str]:
        """The tables that exist and could not be read yet."""
        return [table.table.name for table in self.inputs if not self.is_known(table)]

    def apps(self) -> set[str]:
        """Every app that any of our tables or zedagent's knows."""
        per_app = (self.statuses, self.network_configs, self.domain_configs, self.counters)
        eids = {key.rpartition(":")[0] for key in self.eid_configs}
        return eids.union(self.configs.keys(), *(table.keys() for table in per_app))

    def images(self) -> set[str]:
        """Every image that is configured, kept by a worker, or on record as wrong."""
        tables = (self.download_configs, self.verify_configs, self.retries)
        return set(self.downloads.keys()).union(self.verifications.keys(), *(table.keys() for table in tables))

    def related(self, name: str) -> Iterator[str]:
        """Verifications of the same content under whatever name."""
        yield from self._verified.get(content_of(name), ())

    def verifications_of(self, names: Iterable[str]) -> dict[str, VerifyImageStatus]:
        """The verifications of these images and of their contents."""
        keys = {key for name in names for key in (name, *self.related(name))}
        return _found(self.verifications, keys)

    def purge_counter(self, app: str) -> int | None:
        record = self.counters.get(app)
        return record.Number if record is not None and record.NumType == PURGE_COUNTER else None

    def published(self, app: str) -> Published:
        """What is published for one app."""
        return Published(
            eids=_found(self.eid_configs, _eid_keys(app, self.eid_configs)),
            network=self.network_configs.get(app),
            domain=self.domain_configs.get(app),
            purge_counter=self.purge_counter(app),
        )

    def facts(self, app: str, disk: Disk, space: Callable[[], DiskSpace | None], *, overdue: bool) -> Facts:
        """Everything that concerns one app, now. `space` is asked only when the app is to be admitted."""
        config, status = self.configs.get(app), self.statuses.get(app)
        published = self.published(app)
        images = (status.StorageStatusList if status is not None else None) or ()
        wanted = (config.StorageConfigList if config is not None else None) or ()
        both = (*images, *(take_image(image, None) for image in wanted))
        names, apart = {image_name(image) for image in both}, {name_apart(image) for image in both}
        verifications = self.verifications_of(names)
        overlays = (config.OverlayNetworkList if config is not None else None) or ()
        eids = {eid_key(app, overlay.IID) for overlay in overlays}
        eids.update(published.eids, _eid_keys(app, self.eids.keys()))
        trouble = self.certificates.get(app)
        signed = any(image.SignatureKey or image.CertificateChain for image in wanted)
        return Facts(
            key=app,
            now=now(),
            config=config,
            config_known=self.configs.is_synchronized,
            status=status,
            published=published,
            downloads=_found(self.downloads, names),
            verifications=verifications,
            verify_configs=_found(self.verify_configs, {*names, *apart, *verifications}),
            download_configs=_found(self.download_configs, names),
            retries=_found(self.retries, names),
            certificates=disk.certificates() if signed else frozenset(),
            certificates_error=trouble.Error if trouble is not None else "",
            verified=_verified(disk, verifications.values()),
            eids=_found(self.eids, eids),
            eid_errors=_found(self.eid_errors, eids),
            network=self.networks.get(app),
            domain=self.domains.get(app),
            disk=space() if config is not None and published.domain is None else None,
            overdue=overdue,
        )

    def image_facts(self, name: str, uses: Sequence[StorageStatus], *, allow_non_free: bool) -> ImageFacts:
        """Everything that concerns one image, now."""
        verifications = self.verifications_of([name])
        names = {image_name(image) for image in uses} | {name_apart(image) for image in uses}
        return ImageFacts(
            name=name,
            uses=uses,
            download=self.downloads.get(name),
            verifications=verifications,
            verify_configs=_found(self.verify_configs, {name, *names, *verifications}),
            published=Shared(
                retry=self.retries.get(name),
                download=self.download_configs.get(name),
                verify=self.verify_configs.get(name),
            ),
            allow_non_free=allow_non_free,
            downloads_known=self.is_known(self.downloads),
            verifications_known=self.is_known(self.verifications),
        )

    def store_purge_counter(self, app: str, number: int | None) -> None:
        """Keep the number of the last purge over reboots; None forgets it."""
        if number is None:
            self.counters.unpublish(app)
        elif number != self.purge_counter(app):
            before = self.counters.get(app)
            moment = now()
            self.counters.publish(
                app,
                UuidToNum(
                    UUID=app,
                    Number=number,
                    NumType=PURGE_COUNTER,
                    CreateTime=before.CreateTime if before is not None else moment,
                    LastUseTime=moment,
                    InUse=True,
                ),
            )


def space_for(settings: GlobalConfig, disk: Disk, others: Iterable[tuple[str, int]]) -> DiskSpace | None:
    """The room for apps; None when the settings say that it is not to be checked, or when it cannot be told."""
    total = None if settings.IgnoreDiskCheckForApps else disk.total_bytes()
    if total is None:
        return None
    return DiskSpace(total_bytes=total, reserved_percent=settings.Dom0MinDiskUsagePercent, others=tuple(others))


def _found(table: Publication[Any] | Subscription[Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: record for key in sorted(keys) if (record := table.get(key)) is not None}


def _verified(disk: Disk, verifications: Iterable[VerifyImageStatus]) -> dict[str, VerifiedImage]:
    delivered = {status.ImageSha256.lower() for status in verifications if status.State >= SwState.DELIVERED}
    return {sha256: disk.verified(sha256) for sha256 in sorted(delivered)}


def _eid_keys(app: str, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key.startswith(f"{app}:")]
