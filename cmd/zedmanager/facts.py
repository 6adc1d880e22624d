"""What a decision about one app is made from, and what comes out of it. Values only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pillar.cmd.zedmanager.refetch import ImageRetry
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.eid import EIDConfig, EIDStatus
from pillar.types.eid_error import EIDError
from pillar.types.scalars import ZERO_TIME, Time
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What zedmanager has published for one app (and, as a result, what it should publish)."""

    eids: Mapping[str, EIDConfig] = {}  # by EID key
    network: AppNetworkConfig | None = None
    domain: DomainConfig | None = None
    purge_counter: int | None = None  # the last purge that was carried out, kept over reboots


class VerifiedImage(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the verified directory of one image."""

    path: str = ""  # the one file
    size_bytes: int = 0  # of the disk inside: more than the file's for qcow2
    error: str = ""  # why there is no usable file


class DiskSpace(msgspec.Struct, frozen=True, kw_only=True):
    """The room for the apps' private disks."""

    total_bytes: int  # of the file system of /persist
    reserved_percent: int  # of it kept from apps
    others: tuple[tuple[str, int], ...] = ()  # installed apps, by name, with the bytes their disks may grow to


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that concerns one app, as the tables and the disk say it now."""

    key: str  # the app's UUID
    now: Time = ZERO_TIME
    config: AppInstanceConfig | None = None
    config_known: bool = True  # zedagent's table was read: a missing config means a deleted app
    status: AppInstanceStatus | None = None  # as published last, by this process or the one before it
    published: Published = Published()
    # Images, by safename. Verifications of the same content under other names are here too.
    downloads: Mapping[str, DownloaderStatus] = {}
    verifications: Mapping[str, VerifyImageStatus] = {}
    verify_configs: Mapping[str, VerifyImageConfig] = {}  # what we published, for all apps
    download_configs: Mapping[str, DownloaderConfig] = {}
    retries: Mapping[str, ImageRetry] = {}
    certificates: frozenset[str] = frozenset()  # names of files in /persist/certs
    certificates_error: str = ""  # what CertObjStatus complains about
    verified: Mapping[str, VerifiedImage] = {}  # by sha256, of the images that are verified
    eids: Mapping[str, EIDStatus] = {}  # by EID key, also of EIDs that are not wanted any more
    eid_errors: Mapping[str, EIDError] = {}  # by EID key, what identitymanager complains about
    network: AppNetworkStatus | None = None
    domain: DomainStatus | None = None
    disk: DiskSpace | None = None  # None: not to be checked
    overdue: bool = False  # it has waited for the same thing longer than that thing's patience


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that stands in the way, as the app's Error shows it."""

    source: str  # the table that says so, as in EVE; CheckDiskSize for the disk
    text: str
    time: Time = ZERO_TIME  # since when, if the source says; else from when it is first seen


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Whom an app waits for. Said in its Error when `patience_s` is over; 0: the progress is visible anyway."""

    source: str
    text: str
    patience_s: float = 30.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A decision in the making; each stage of the flow returns it changed. Complete, it is what to publish."""

    status: AppInstanceStatus | None
    wants: Published
    waiting: Wait | None = None  # None: the stages so far are done
    problems: tuple[Problem, ...] = ()
    prepared: bool = False  # everything but the domain is there
    reasons: tuple[str, ...] = ()  # why a restart or purge begins now, for the log

    @property
    def app(self) -> AppInstanceStatus:
        """The status of an app that is not being forgotten."""
        assert self.status is not None
        return self.status

    def noting(self, **fields: object) -> Plan:
        """With these fields of the status changed."""
        return msgspec.structs.replace(self, status=msgspec.structs.replace(self.app, **fields))

    def wanting(self, **fields: object) -> Plan:
        """With other wishes."""
        return msgspec.structs.replace(self, wants=msgspec.structs.replace(self.wants, **fields))

    def waiting_for(self, wait: Wait) -> Plan:
        """With `wait` before the next stage; the first one met is the one that is told."""
        return self if self.waiting is not None else msgspec.structs.replace(self, waiting=wait)

    def blaming(self, *problems: Problem) -> Plan:
        """With more to complain about."""
        return msgspec.structs.replace(self, problems=(*self.problems, *problems))
