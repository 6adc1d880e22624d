"""baseosmgr's shell: tables and files. What they come to is decided in `decide`."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from pillar.agent import Agent
from pillar.clocks import RetryClock
from pillar.cmd.baseosmgr import decide
from pillar.cmd.baseosmgr.install import NotACertificate, install
from pillar.imagestore import ImageStore, name_problem
from pillar.keyqueue import KeyQueue
from pillar.refcount import wanted_refcount
from pillar.types.baseos import CertObjConfig, CertObjStatus
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.enums import SwState, TriState
from pillar.types.globalconfig import GlobalConfig
from pillar.types.scalars import now
from pillar.types.zedmanager import StorageConfig

CERT_OBJ = "cert.obj"
BLOCKED_RETRY_S = 10.0
EVERYTHING = "certificates"  # certificates are few and owners share them: one look at all of them


class BaseOsMgr(Agent):
    """installs the certificates that CertObjConfig asks for; see the package's docstring"""

    name = "baseosmgr"

    def start(self) -> None:
        self.queue = KeyQueue(self.loop, self.step, self.log)
        self.store = ImageStore(self.where, CERT_OBJ)
        self.retries = RetryClock()
        self.refused: dict[str, str] = {}  # safename -> why what was downloaded could not be installed
        self.blocked: dict[str, str] = {}  # safename -> why the file system would not have it
        self.where.certs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.statuses = self.pubsub.publication(CertObjStatus)
        self.orders = self.pubsub.publication(DownloaderConfig, scope=CERT_OBJ)
        self.configs = self.pubsub.subscription(
            "zedagent",
            CertObjConfig,
            create=lambda key, new: self._mark(),
            modify=lambda key, new, old: self._mark(),
            delete=lambda key, last: self._mark(),
            synchronized=self._mark,
        )
        self.downloads = self.pubsub.subscription(
            "downloader",
            DownloaderStatus,
            scope=CERT_OBJ,
            create=lambda key, new: self._mark(),
            modify=lambda key, new, old: self._mark(),
            delete=lambda key, last: self._mark(),
            synchronized=self._mark,
        )
        self.pubsub.folder(self.where.certs, self._mark)  # a file that somebody removed is put back
        self.statuses.signal_restarted()
        self.orders.signal_restarted()

    def settings_changed(self, old: GlobalConfig) -> None:
        self._mark()

    def _mark(self) -> None:
        self.queue.mark(EVERYTHING)

    def step(self, key: str) -> None:
        """Compare what is wanted with what is there, and do what is missing."""
        if not self.configs.is_synchronized:
            return  # nothing is known to be unwanted yet
        configs = self.configs.items()
        wanted = decide.references(configs.values())
        owners = decide.file_owners(configs.values(), self.statuses.items().values())
        installed = self._install(owners, wanted)
        self._order(wanted)
        for name in self._installed().keys() - owners.keys():
            (self.where.certs / name).unlink(missing_ok=True)
        refused = {**self.refused, **self.blocked}
        facts = decide.Facts(now(), self.downloads.items(), frozenset(installed), refused, owners)
        for owner, config in configs.items():
            old = self.statuses.get(owner)
            status = decide.owner_status(config, old, facts)
            if self.statuses.publish(owner, status) and (old is None or old.Error != status.Error):
                self.log.info("%s: %s%s", owner, status.State.name, f", {status.Error}" if status.Error else "")
        for owner in set(self.statuses.keys()) - set(configs):
            self.log.info("%s withdrawn", owner)
            self.statuses.unpublish(owner)

    def _installed(self) -> dict[str, str]:
        """What the published statuses say was installed: file name -> safename."""
        return {
            decide.file_of(image): decide.key_of(image)
            for status in self.statuses.items().values()
            for image in status.StorageStatusList or ()
            if image.State == SwState.INSTALLED and decide.file_of(image)
        }

    def _install(self, owners: dict[str, str], wanted: dict[str, tuple[int, StorageConfig]]) -> set[str]:
        """Put every downloaded certificate in its place; returns the safenames that stand there."""
        before = self._installed()
        standing = set()
        self.blocked.clear()
        for name, key in owners.items():
            if before.get(name) == key and (self.where.certs / name).is_file():
                standing.add(key)  # whatever the downloader says of it by now
            sha256 = wanted[key][1].ImageSha256
            download = self.downloads.get(key)
            if download is None or download.State != SwState.DOWNLOADED or name_problem(key, sha256):
                continue
            found = self.store.find(sha256, key)
            if found is not None and self._install_one(key, wanted[key][1].Name, found.path, name):
                standing.add(key)
        return standing

    def _install_one(self, key: str, url: str, source: Path, name: str) -> bool:
        """Whether it stands there afterwards."""
        try:
            if install(source, self.where.certs / name):
                self.log.info("%s installed as %s", key, name)
        except NotACertificate as err:
            if not self.retries.waiting(key):
                wait = self.retries.failed(key, float(self.settings.DownloadRetryTime))
                self.log.warning("%s %s; fetched again in %.0f s", key, err, wait)
            self.refused[key] = f"{url} {err}"
            return False
        except OSError as err:
            self.blocked[key] = f"cannot install {name}: {err.strerror or err}"
            self.queue.mark_later(EVERYTHING, BLOCKED_RETRY_S)
            return False
        self.retries.forget(key)
        self.refused.pop(key, None)
        return True

    def _order(self, wanted: dict[str, tuple[int, StorageConfig]]) -> None:
        """Have the downloader keep exactly what is wanted, and drop what was refused until its time comes."""
        known = self.downloads.is_synchronized
        for key in {*wanted, *self.orders.keys(), *self.downloads.keys()}:
            count, image = wanted.get(key, (0, None))
            status = self.downloads.get(key)
            if image is not None and (not decide.file_of(image) or self._is_dropped(key, status)):
                self.orders.unpublish(key)
                continue
            refcount = wanted_refcount(count, status, published=key in self.orders, status_known=known)
            if refcount is None:
                self.orders.unpublish(key)
            elif image is not None:
                self.orders.publish(key, self._order_of(key, image, refcount))
            else:
                self.orders.publish(key, self._echo(key, status, refcount))
        for key in set(self.refused) - set(wanted):
            del self.refused[key]
            self.retries.forget(key)

    def _is_dropped(self, key: str, status: DownloaderStatus | None) -> bool:
        """Refused content has to leave the downloader, and rests a while, before it is asked for again."""
        if key not in self.refused:
            return False
        if status is not None and status.State == SwState.DOWNLOADED:
            return True
        remaining = self.retries.remaining(key)
        if remaining:
            self.queue.mark_later(EVERYTHING, remaining)
            return status is None
        return False

    def _order_of(self, key: str, image: StorageConfig, refcount: int) -> DownloaderConfig:
        return DownloaderConfig(
            DatastoreID=image.DatastoreID,
            ImageID=image.ImageID,
            Safename=key,
            Name=image.Name,
            NameIsURL=image.NameIsURL,
            AllowNonFreePort=self.settings.AllowNonFreeBaseImages != TriState.DISABLED,
            Size=image.Size,
            ImageSha256=image.ImageSha256,
            RefCount=refcount,
        )

    def _echo(self, key: str, status: DownloaderStatus | None, refcount: int) -> DownloaderConfig:
        """The config of a certificate that nobody needs any more and the downloader still keeps."""
        last = self.orders.get(key)
        if last is not None:
            return replace(last, RefCount=refcount)
        assert status is not None  # wanted_refcount asks for an echo only of what there is
        return DownloaderConfig(
            DatastoreID=status.DatastoreID,
            ImageID=status.ImageID,
            Safename=key,
            Name=status.Name,
            NameIsURL=status.NameIsURL,
            ImageSha256=status.ImageSha256,
            RefCount=refcount,
        )
