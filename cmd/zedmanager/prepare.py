"""do_prepare: EIDs, room on the disk, then the network; do_unprepare: no EIDs any more. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from pillar.cmd.zedmanager.domain import is_up
from pillar.cmd.zedmanager.facts import Facts, Plan, Problem, Wait
from pillar.cmd.zedmanager.images import current_images
from pillar.types.common import eid_key
from pillar.types.eid import EIDConfig, EIDConfigDetails, EIDOverlayConfig, EIDStatus, EIDStatusDetails
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageStatus
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus, OverlayNetworkConfig


def do_prepare(facts: Facts, plan: Plan, config: AppInstanceConfig) -> Plan:
    """Everything that must be there before the domain: afterwards the app is INSTALLED."""
    for stage in (do_eids, do_disk, do_network):
        plan = stage(facts, plan, config)
        if plan.waiting is not None:
            return plan
    return replace(plan, prepared=True)


def do_eids(facts: Facts, plan: Plan, config: AppInstanceConfig) -> Plan:
    """Ask for the EID of each overlay. Overlays with one instance id share one; the first one describes it."""
    overlays = config.OverlayNetworkList or ()
    wanted: dict[str, EIDConfig] = {}
    for overlay in overlays:
        wanted.setdefault(eid_key(facts.key, overlay.IID), eid_config(config, overlay))
    plan = plan.wanting(eids=wanted)
    for key in wanted:
        status = facts.eids.get(key)
        error = facts.eid_errors.get(key)
        if error is not None:
            text = f"EID of instance {error.IID}: {error.Error}"
            plan = plan.blaming(Problem(source="EIDStatus", text=text, time=error.ErrorTime))
        if status is None or _pending(status) or not status.EID:
            plan = plan.waiting_for(Wait(source="EIDStatus", text=f"identitymanager to make the EID {key}"))
    if plan.waiting is not None:
        return plan
    return plan.noting(EIDList=tuple(eid_details(facts.eids[eid_key(facts.key, o.IID)]) for o in overlays))


def do_disk(facts: Facts, plan: Plan, config: AppInstanceConfig) -> Plan:
    """Refuse an app whose private disks could grow beyond the room for apps; one that has its domain was admitted.

    What other apps may grow to counts as used. Looked at again when an app goes, and by a timer.
    """
    if facts.disk is None or plan.wants.domain is not None:
        return plan
    problem = disk_problem(facts, plan.app)
    if problem is None:
        return plan
    return plan.blaming(problem).waiting_for(Wait(source=problem.source, text="room on the disk", patience_s=0))


def disk_problem(facts: Facts, status: AppInstanceStatus) -> Problem | None:
    """Why the app's disks do not fit, None when they do."""
    assert facts.disk is not None
    needed = 0
    for image in current_images(status):
        found = facts.verified.get(image.ImageSha256)
        if is_copied(image) and (found is None or found.error):
            text = f"image {image.Name}: {found.error if found is not None else 'it is not verified'}"
            return Problem(source="CheckDiskSize", text=text)
        needed += image_bytes(image, found.size_bytes if found is not None else 0)
    disk = facts.disk
    reserved = disk.total_bytes * disk.reserved_percent // 100
    used = sum(size for _, size in disk.others)
    if needed == 0 or needed + used <= disk.total_bytes - reserved:
        return None
    users = "".join(f", {name} {size}" for name, size in disk.others) or ", no other app"
    text = (
        f"disk space for apps: {needed} bytes needed, {max(disk.total_bytes - reserved - used, 0)} free:"
        f" {disk.total_bytes} in all, {reserved} reserved ({disk.reserved_percent} %), {used} used by apps{users}"
    )
    return Problem(source="CheckDiskSize", text=text)


def do_network(facts: Facts, plan: Plan, config: AppInstanceConfig) -> Plan:
    """Ask for the network. An app that is not active has one too, but does not wait for it."""
    # A domain that is being stopped keeps its network until it is down.
    active = config.Activate or is_up(facts.domain)
    plan = plan.wanting(network=app_network_config(plan.app, config, active=active))
    if not config.Activate:
        return plan
    network = facts.network
    if network is None or network_pending(network):
        return plan.waiting_for(Wait(source="AppNetworkStatus", text="zedrouter to set up the network"))
    if network.Error:  # which `report` shows
        return plan.waiting_for(Wait(source="AppNetworkStatus", text="the network's error to go away", patience_s=0))
    if not network.Activated:
        return plan.waiting_for(Wait(source="AppNetworkStatus", text="zedrouter to activate the network"))
    return plan


def do_unprepare(plan: Plan) -> Plan:
    """Withdraw the EIDs. Who needs them gone, because others shall take their place, waits for that."""
    return plan.wanting(eids={})


def eid_config(config: AppInstanceConfig, overlay: EIDOverlayConfig) -> EIDConfig:
    details = {field: getattr(overlay, field) for field in EIDConfigDetails.__struct_fields__}
    return EIDConfig(UUIDandVersion=config.UUIDandVersion, DisplayName=config.DisplayName, **details)


def eid_details(status: EIDStatus) -> EIDStatusDetails:
    return EIDStatusDetails(**{field: getattr(status, field) for field in EIDStatusDetails.__struct_fields__})


def app_network_config(status: AppInstanceStatus, config: AppInstanceConfig, *, active: bool) -> AppNetworkConfig:
    """What zedrouter is asked for. `status` has the EIDs that were made for the overlays."""
    overlays = tuple(
        OverlayNetworkConfig(
            Name=overlay.Name,
            EID=overlay.EID or eid.EID,
            LispSignature=overlay.LispSignature or eid.LispSignature,
            ACLs=overlay.ACLs,
            AppMacAddr=overlay.AppMacAddr,
            AppIPAddr=overlay.AppIPAddr or overlay.EID or eid.EID,
            Network=overlay.Network,
            Error=overlay.Error,
            MgmtIID=overlay.IID,
        )
        for overlay, eid in zip(config.OverlayNetworkList or (), status.EIDList or (), strict=True)
    )
    return AppNetworkConfig(
        UUIDandVersion=config.UUIDandVersion,
        DisplayName=config.DisplayName,
        Activate=active,
        OverlayNetworkList=overlays,
        UnderlayNetworkList=config.UnderlayNetworkList or (),
    )


def network_pending(status: AppNetworkStatus) -> bool:
    """Is zedrouter at work on it, so that the rest of the status is not final?"""
    return status.PendingAdd or status.PendingModify or status.PendingDelete


def is_copied(image: StorageStatus) -> bool:
    """Does the app get a disk of its own from this image?"""
    return not (image.ReadOnly or image.IsContainer)


def image_bytes(image: StorageStatus, size_bytes: int) -> int:
    """What an app's own copy of an image of `size_bytes` may grow to on the disk."""
    return max(size_bytes, image.Maxsizebytes) if is_copied(image) else 0


def _pending(status: EIDStatus) -> bool:
    return status.PendingAdd or status.PendingModify or status.PendingDelete
