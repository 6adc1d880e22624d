"""What a config changes about an app: take it over, begin a restart, begin a purge. Pure.

The status is the ledger that the config is compared with. It has copies of everything that matters here, so a change is
noticed whether zedmanager ran at the time or not. Taking the config over and setting the flag are one publish, so
each change is acted on once.

    purge     number of images; an image's sha256, ReadOnly, Preserve, Format, Maxsizebytes, Devtype
              number of networks; a network's MAC, IP, network; an overlay's EID details
              adapters (their order matters); the purge counter
    restart   any member of FixedResources; the restart counter
    neither   ACLs, names, version, where an image comes from, its target, cloud-init data, Activate
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import replace

from pillar.cmd.zedmanager.facts import Facts, Plan
from pillar.cmd.zedmanager.images import current_images, image_name, outgoing_images
from pillar.types.common import UUIDandVersion
from pillar.types.eid import EIDConfigDetails, EIDStatusDetails
from pillar.types.enums import Inprogress, SwState
from pillar.types.record import Record
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageConfig, StorageStatus

_IMAGE: Final = ("ImageSha256", "ReadOnly", "Preserve", "Format", "Maxsizebytes", "Devtype")
_UNDERLAY: Final = ("AppMacAddr", "AppIPAddr", "Network")
_OVERLAY: Final = (*_UNDERLAY, *EIDConfigDetails.__struct_fields__)


def config_errors(key: str, config: AppInstanceConfig) -> tuple[str, ...]:
    """Why this config cannot be acted on at all; empty when it can."""
    errors = list(config.Errors or ())
    if key != config.UUIDandVersion.UUID:
        errors.append(f"the config's UUID is {config.UUIDandVersion.UUID}, expected its key {key}")
    if config.FixedResources.Memory <= 0:
        errors.append(f"invalid memory size {config.FixedResources.Memory} KiB")
    if config.FixedResources.VCpus <= 0:
        errors.append(f"invalid number of CPUs {config.FixedResources.VCpus}")
    return tuple(errors)


def take_config(facts: Facts, config: AppInstanceConfig) -> Plan:
    """The plan to begin with: the config taken into the status, and the restart or purge it asks for noted there."""
    status = facts.status
    if status is None or _untouched(facts, status):
        return Plan(status=new_status(facts.key, config, facts.published.purge_counter), wants=facts.published)
    purge = purge_reasons(status, config)
    restart = restart_reasons(status, config)
    taken = _copied(status, config)
    if purge:
        taken = replace(taken, PurgeInprogress=Inprogress.DOWNLOAD, RestartInprogress=Inprogress.NONE)
    elif restart and _started(facts) and status.PurgeInprogress in (Inprogress.NONE, Inprogress.BRING_UP):
        # Before a start or in the middle of a purge there is nothing to restart: the next start has the new config.
        taken = replace(taken, RestartInprogress=Inprogress.BRING_DOWN)
    if not config.Activate:  # it stops anyway, and its next start is with the new config
        taken = replace(taken, RestartInprogress=Inprogress.NONE)
    reasons = tuple(f"purge: {why}" for why in purge) or tuple(f"restart: {why}" for why in restart)
    return Plan(status=taken, wants=facts.published, reasons=reasons)


def new_status(key: str, config: AppInstanceConfig, purge_counter: int | None) -> AppInstanceStatus:
    """The status of an app seen for the first time, or for the first time since a reboot.

    Another purge counter than the one carried out last means: the purge was asked for and not finished.
    """
    purge = purge_counter is not None and purge_counter != config.PurgeCmd.Counter
    blank = AppInstanceStatus(UUIDandVersion=UUIDandVersion(UUID=key), State=SwState.INITIAL)
    return replace(_copied(blank, config), PurgeInprogress=Inprogress.DOWNLOAD if purge else Inprogress.NONE)


def purge_reasons(status: AppInstanceStatus, config: AppInstanceConfig) -> list[str]:
    """Why this config wants the app set up anew."""
    wanted = tuple(take_image(image, None) for image in config.StorageConfigList or ())
    reasons = [
        *_differences("image", current_images(status), wanted, _IMAGE),
        *_differences("underlay", status.UnderlayNetworkList, config.UnderlayNetworkList, _UNDERLAY),
        *_differences("overlay", status.OverlayNetworkList, config.OverlayNetworkList, _OVERLAY),
    ]
    if (status.IoAdapterList or ()) != (config.IoAdapterList or ()):
        reasons.append("adapters")
    if status.PurgeCmd.Counter != config.PurgeCmd.Counter:
        reasons.append(f"counter {status.PurgeCmd.Counter} -> {config.PurgeCmd.Counter}")
    return reasons


def restart_reasons(status: AppInstanceStatus, config: AppInstanceConfig) -> list[str]:
    """Why this config wants the app started anew."""
    reasons = []
    if status.FixedResources != config.FixedResources:
        fields = config.FixedResources.__struct_fields__
        changed = [f for f in fields if getattr(status.FixedResources, f) != getattr(config.FixedResources, f)]
        reasons.append("resources " + ", ".join(changed))
    if status.RestartCmd.Counter != config.RestartCmd.Counter:
        reasons.append(f"counter {status.RestartCmd.Counter} -> {config.RestartCmd.Counter}")
    return reasons


def take_images(have: Iterable[StorageStatus], want: Iterable[StorageConfig]) -> tuple[StorageStatus, ...]:
    """The config's images in its order, each with what is known of it; one that is wanted twice is there twice.

    Images that are wanted no more follow, marked PURGING: a domain may still use them.
    """
    left = list(have)
    taken = []
    for config in want:
        known = _known(take_image(config, None), left)
        if known is not None:
            left.remove(known)
        taken.append(take_image(config, known))
    return (*taken, *(replace(image, State=SwState.PURGING) for image in left))


def take_image(config: StorageConfig, known: StorageStatus | None) -> StorageStatus:
    """One image's status with the config's fields; the sha256 in lower case, as it is compared."""
    status = known if known is not None else StorageStatus(State=SwState.INITIAL)
    if status.State == SwState.PURGING:  # wanted again
        status = replace(status, State=SwState.INITIAL)
    fields = {field: getattr(config, field) for field in StorageConfig.__struct_fields__}
    fields["ImageSha256"] = config.ImageSha256.lower()
    taken = replace(status, **fields, IsContainer=config.Format == "container")
    if image_name(taken) != image_name(status):  # it refers to nothing under its new name yet
        taken = replace(taken, HasDownloaderRef=False, HasVerifierRef=False)
    return taken


def _known(wanted: StorageStatus, have: Iterable[StorageStatus]) -> StorageStatus | None:
    """The status of the wanted image: the same name and content, else a renamed one with the same content."""
    same = [image for image in have if image.ImageSha256 == wanted.ImageSha256]
    named = [image for image in same if image.Name == wanted.Name]
    return next(iter(named or (same if wanted.ImageSha256 else ())), None)


def _copied(status: AppInstanceStatus, config: AppInstanceConfig) -> AppInstanceStatus:
    """The status with everything that it copies from the config."""
    uuid = status.UUIDandVersion.UUID
    images = take_images(status.StorageStatusList or (), config.StorageConfigList or ())
    overlays = config.OverlayNetworkList or ()
    return replace(
        status,
        UUIDandVersion=UUIDandVersion(UUID=uuid, Version=config.UUIDandVersion.Version),
        DisplayName=config.DisplayName,
        FixedResources=config.FixedResources,
        StorageStatusList=images,
        EIDList=_resized(status.EIDList or (), [overlay.IID for overlay in overlays]),
        OverlayNetworkList=config.OverlayNetworkList,
        UnderlayNetworkList=config.UnderlayNetworkList,
        IoAdapterList=config.IoAdapterList,
        RestartCmd=config.RestartCmd,
        PurgeCmd=config.PurgeCmd,
        IsContainer=any(image.IsContainer for image in images),
    )


def _resized(eids: tuple[EIDStatusDetails, ...], iids: list[int]) -> tuple[EIDStatusDetails, ...]:
    """One entry per overlay; those that are known stay."""
    return tuple(eids[i] if i < len(eids) else EIDStatusDetails(IID=iid) for i, iid in enumerate(iids))


def _untouched(facts: Facts, status: AppInstanceStatus) -> bool:
    """Was nothing ever done for this app, so that it may begin anew with any config?"""
    published = facts.published
    return (
        status.State <= SwState.INITIAL
        and status.PurgeInprogress == Inprogress.NONE
        and not any(image.HasDownloaderRef or image.HasVerifierRef for image in outgoing_images(status))
        and not any(image.HasDownloaderRef or image.HasVerifierRef for image in current_images(status))
        and not (published.eids or published.network or published.domain)
    )


def _started(facts: Facts) -> bool:
    """Is there a domain that has, or will have, the old config?"""
    asked = facts.published.domain is not None and facts.published.domain.Activate
    return asked or (facts.domain is not None and facts.domain.Activated)


def _differences(
    what: str, have: Iterable[Record] | None, want: Iterable[Record] | None, fields: Iterable[str]
) -> list[str]:
    """In words, where two lists differ, entry by entry."""
    old, new = tuple(have or ()), tuple(want or ())
    if len(old) != len(new):
        return [f"{len(old)} -> {len(new)} {what}s"]
    pairs = enumerate(zip(old, new, strict=True))
    return [f"{what} {i}: {field}" for i, (a, b) in pairs for field in fields if _value(a, field) != _value(b, field)]


def _value(record: Record, field: str) -> Any:
    return getattr(record, field) or None  # EVE writes nothing in several ways: null, "", 0
