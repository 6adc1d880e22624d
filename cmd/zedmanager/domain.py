"""What domainmgr is asked for, and what its answers mean. Pure."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pillar.cmd.zedmanager.facts import Facts, Problem
from pillar.cmd.zedmanager.images import current_images
from pillar.types.common import VmConfig
from pillar.types.domainmgr import DiskConfig, DomainConfig, DomainStatus
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageStatus
from pillar.types.zedrouter import VifInfo

_DISK_TARGETS = ("disk", "tgtunknown", "")
_PATHS = {"kernel": "Kernel", "ramdisk": "Ramdisk", "device_tree": "DeviceTree"}


def domain_config(
    facts: Facts, status: AppInstanceStatus, config: AppInstanceConfig
) -> tuple[DomainConfig | None, tuple[Problem, ...]]:
    """The domain of this app, or why there can be none. `config` says whether it runs.

    Images with target kernel, ramdisk or device_tree replace the paths of the resources; the others are disks,
    whose files domainmgr finds by their sha256.
    """
    resources: dict[str, Any] = {field: getattr(config.FixedResources, field) for field in VmConfig.__struct_fields__}
    disks: list[DiskConfig] = []
    problems: list[Problem] = []
    for image in current_images(status):
        found = facts.verified.get(image.ImageSha256)
        if image.Target not in _DISK_TARGETS and image.Target not in _PATHS:
            text = f"image {image.Name}: unknown target {image.Target!r}"
            problems.append(Problem(source="DomainStatus", text=text))
        elif not image.IsContainer and (found is None or found.error):
            text = f"image {image.Name}: {found.error if found is not None else 'it is not verified'}"
            problems.append(Problem(source="DomainStatus", text=text))
        elif image.Target in _PATHS:
            resources[_PATHS[image.Target]] = found.path if found is not None else ""
        else:
            disks.append(_disk_config(image))
    if problems:
        return None, tuple(problems)
    app_num, vifs = _network(facts)
    wanted = DomainConfig(
        UUIDandVersion=config.UUIDandVersion,
        DisplayName=config.DisplayName,
        Activate=config.Activate,
        AppNum=app_num,
        **resources,
        DiskConfigList=tuple(disks),
        VifList=vifs,
        IoAdapterList=config.IoAdapterList,
        CloudInitUserData=config.CloudInitUserData,
        IsContainer=status.IsContainer,
        ContainerImageID=status.ContainerImageID,
    )
    return wanted, ()


def is_up(domain: DomainStatus | None) -> bool:
    """Does something run, or is it on its way up or down?"""
    moving = (SwState.BOOTING, SwState.RUNNING, SwState.HALTING)
    return domain is not None and (domain.Activated or domain.State in moving)


def is_down(domain: DomainStatus | None) -> bool:
    """Was the domain stopped as asked, so that asking for a start begins a new life?

    One that ended by itself or could not be started says so in LastErr until domainmgr has seen that it is
    to be down; asking for a start before that would change nothing.
    """
    if domain is None:
        return True
    if is_up(domain) or is_pending(domain):
        return False
    return domain.State != SwState.HALTED or not domain.LastErr or domain.AdaptersFailed


def is_pending(domain: DomainStatus) -> bool:
    """Is domainmgr at work on it?"""
    return domain.PendingAdd or domain.PendingModify or domain.PendingDelete


def place_disks(images: tuple[StorageStatus, ...], domain: DomainStatus) -> dict[int, tuple[str, str]]:
    """Vdev and file of the images that the domain has as disks, by their position in `images`.

    domainmgr keeps the order, so the first disk with an image's sha256 that no earlier image has is this one's.
    """
    left = list(domain.DiskStatusList or ())
    placed = {}
    for i, image in enumerate(images):
        if image.Target not in _DISK_TARGETS:
            continue
        disk = next((disk for disk in left if disk.ImageSha256.lower() == _sha256(image)), None)
        if disk is not None:
            left.remove(disk)
            placed[i] = (disk.Vdev, disk.ActiveFileLocation)
    return placed


def _disk_config(image: StorageStatus) -> DiskConfig:
    disk = DiskConfig(**{field: getattr(image, field) for field in DiskConfig.__struct_fields__})
    return replace(disk, ImageSha256=_sha256(image))


def _sha256(image: StorageStatus) -> str:
    """A container that is named by a tag is verified under what that turned out to be."""
    by_tag = image.IsContainer and not image.ImageSha256
    return image.ContainerImageID.removeprefix("sha256:") if by_tag else image.ImageSha256


def _network(facts: Facts) -> tuple[int, tuple[VifInfo, ...] | None]:
    """AppNum and vifs of the activated network, underlays first; before it is, or after, those asked for last."""
    network = facts.network
    if network is not None and network.Activated:
        under = [VifInfo(Bridge=u.Bridge, Vif=u.Vif, Mac=u.Mac) for u in network.UnderlayNetworkList or ()]
        over = [VifInfo(Bridge=o.Bridge, Vif=o.Vif, Mac=o.Mac) for o in network.OverlayNetworkList or ()]
        return network.AppNum, (*under, *over)
    last = facts.published.domain
    return (last.AppNum, last.VifList) if last is not None else (0, None)
