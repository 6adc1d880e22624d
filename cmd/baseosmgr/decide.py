"""What an owner's certificates come to, and who installs which file. Pure: no disk, no clock, no log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from pillar.types.baseos import CertObjConfig, CertObjStatus
from pillar.types.common import filename_from_url, safename
from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME, Time
from pillar.types.zedmanager import StorageConfig, StorageStatus

SOURCE = "DownloaderStatus"  # ErrorSource of what came from the downloader
INSTALL_SOURCE = "CertObjStatus"  # and of what went wrong here


@dataclass(frozen=True)
class Facts:
    """What is known about every certificate. Keys are safenames, `owners` is keyed by file name."""

    now: Time
    downloads: Mapping[str, DownloaderStatus]
    installed: frozenset[str] = frozenset()  # safenames whose content stands in the certs directory
    refused: Mapping[str, str] = field(default_factory=dict)  # safename -> why its download was not installed
    owners: Mapping[str, str] = field(default_factory=dict)  # file name -> the safename that it belongs to


def key_of(image: StorageConfig | StorageStatus) -> str:
    """The safename under which a certificate is fetched."""
    return safename(image.Name, image.ImageSha256)


def file_of(image: StorageConfig | StorageStatus) -> str:
    """Its file name in the certs directory; empty when its URL ends in none."""
    name = filename_from_url(image.Name)
    return "" if name in (".", "..") or "\0" in name else name


def references(configs: Iterable[CertObjConfig]) -> dict[str, tuple[int, StorageConfig]]:
    """How many owners need each certificate, and one of their configs of it."""
    counted: dict[str, tuple[int, StorageConfig]] = {}
    for config in configs:
        for key, image in {key_of(image): image for image in config.StorageConfigList or ()}.items():
            count, first = counted.get(key, (0, image))
            counted[key] = (count + 1, first)
    return counted


def file_owners(configs: Iterable[CertObjConfig], statuses: Iterable[CertObjStatus]) -> dict[str, str]:
    """Which certificate each file name belongs to: the one that is installed, else the first by name."""
    wanted: dict[str, set[str]] = {}
    for config in configs:
        for image in config.StorageConfigList or ():
            if file_of(image):
                wanted.setdefault(file_of(image), set()).add(key_of(image))
    holders = {
        file_of(image): key_of(image)
        for status in statuses
        for image in status.StorageStatusList or ()
        if image.State == SwState.INSTALLED
    }
    return {name: holders[name] if holders.get(name) in keys else min(keys) for name, keys in wanted.items()}


def owner_status(config: CertObjConfig, old: CertObjStatus | None, facts: Facts) -> CertObjStatus:
    """How far this owner's certificates are."""
    before = {key_of(image): image for image in (old.StorageStatusList if old is not None else None) or ()}
    images = tuple(_image(image, before.get(key_of(image)), facts) for image in config.StorageConfigList or ())
    error = "\n".join(image.Error for image in images if image.Error)
    since = old.ErrorTime if old is not None and old.Error == error else facts.now
    return CertObjStatus(
        UUIDandVersion=config.UUIDandVersion,
        ConfigSha256=config.ConfigSha256,
        StorageStatusList=images if config.StorageConfigList is not None else None,
        State=min((image.State for image in images), default=SwState.INSTALLED),
        Error=error,
        ErrorTime=since if error else ZERO_TIME,
    )


def _image(config: StorageConfig, old: StorageStatus | None, facts: Facts) -> StorageStatus:
    key = key_of(config)
    status = StorageStatus(
        DatastoreID=config.DatastoreID,
        ImageID=config.ImageID,
        Name=config.Name,
        ImageSha256=config.ImageSha256,
        NameIsURL=config.NameIsURL,
        Size=config.Size,
        CertificateChain=config.CertificateChain,
        ImageSignature=config.ImageSignature,
        SignatureKey=config.SignatureKey,
        ReadOnly=config.ReadOnly,
        Preserve=config.Preserve,
        Maxsizebytes=config.Maxsizebytes,
        Format=config.Format,
        Devtype=config.Devtype,
        Target=config.Target,
        State=SwState.INITIAL,
        HasDownloaderRef=True,
    )
    name = file_of(config)
    owner = facts.owners.get(name, key)
    if not name:
        return _failed(replace(status, HasDownloaderRef=False), old, f"{config.Name!r} names no file", facts)
    if owner != key:
        return _failed(status, old, f"file {name} of {config.Name} already belongs to {owner}", facts)
    if key in facts.installed:
        return replace(status, State=SwState.INSTALLED, Progress=100)
    if key in facts.refused:
        return _failed(status, old, facts.refused[key], facts)
    download = facts.downloads.get(key)
    if download is None:
        return replace(status, State=SwState.DOWNLOAD_STARTED)
    status = replace(status, State=max(download.State, SwState.INITIAL), Progress=download.Progress)
    if download.LastErr and not download.PendingAdd:
        return _failed(status, old, f"downloader: {download.LastErr}", facts, SOURCE)
    return status


def _failed(
    status: StorageStatus, old: StorageStatus | None, text: str, facts: Facts, source: str = INSTALL_SOURCE
) -> StorageStatus:
    since = old.ErrorTime if old is not None and old.Error == text else facts.now
    return replace(status, Error=text, ErrorSource=source, ErrorTime=since)
