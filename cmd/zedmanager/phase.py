"""Where an app is, in one word. Pure.

EVE spreads this over State, two Inprogress fields, two booleans, the lists and the error source; they stay on the
wire, and here they are read as one. For logs, for people and for tests.
"""

from __future__ import annotations

from enum import Enum

from pillar.cmd.zedmanager.images import current_images
from pillar.types.enums import Inprogress, SwState
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus


class Phase(Enum):
    """One name for each place in an app's life."""

    GONE = "gone"  # neither config nor status
    NEW = "new"  # a config nobody has acted on
    REFUSED = "refused"  # the config has errors
    FETCHING = "fetching"
    WAITING_FOR_CERTIFICATES = "waiting for certificates"
    VERIFYING = "verifying"
    WAITING_FOR_EID = "waiting for EID"
    WAITING_FOR_SPACE = "waiting for disk space"
    WAITING_FOR_NETWORK = "waiting for network"
    INSTALLED = "installed"  # inactive, or the domain is not there yet
    BOOTING = "booting"
    RUNNING = "running"
    HALTING = "halting"
    HALTED = "halted"
    RESTARTING_DOWN = "restarting, going down"
    RESTARTING_UP = "restarting, coming up"
    PURGING_DOWNLOAD = "purging, fetching"
    PURGING_DOWN = "purging, going down"
    PURGING_UP = "purging, coming up"
    REMOVING = "removing"


_PURGING = {
    Inprogress.DOWNLOAD: Phase.PURGING_DOWNLOAD,
    Inprogress.BRING_DOWN: Phase.PURGING_DOWN,
    Inprogress.BRING_UP: Phase.PURGING_UP,
}
_RESTARTING = {Inprogress.BRING_DOWN: Phase.RESTARTING_DOWN, Inprogress.BRING_UP: Phase.RESTARTING_UP}
_OF_DOMAIN = {
    SwState.INSTALLED: Phase.INSTALLED,
    SwState.BOOTING: Phase.BOOTING,
    SwState.RUNNING: Phase.RUNNING,
    SwState.HALTING: Phase.HALTING,
    SwState.HALTED: Phase.HALTED,
}


def phase(status: AppInstanceStatus | None, config: AppInstanceConfig | None) -> Phase:
    """The phase that EVE's fields mean."""
    if status is None:
        return Phase.GONE if config is None else Phase.NEW
    if config is None:
        return Phase.REMOVING
    if status.ErrorSource == "AppInstanceConfig":
        return Phase.REFUSED
    if status.PurgeInprogress in _PURGING:
        return _PURGING[status.PurgeInprogress]
    if status.RestartInprogress in _RESTARTING:
        return _RESTARTING[status.RestartInprogress]
    if status.State in _OF_DOMAIN:
        return _OF_DOMAIN[status.State]
    if status.State < SwState.DELIVERED:
        return _of_images(status)
    if any(not eid.EID for eid in status.EIDList or ()):
        return Phase.WAITING_FOR_EID
    return Phase.WAITING_FOR_SPACE if status.ErrorSource == "CheckDiskSize" else Phase.WAITING_FOR_NETWORK


def _of_images(status: AppInstanceStatus) -> Phase:
    """Of several images the one that is furthest behind counts."""
    images = [image for image in current_images(status) if image.State < SwState.DELIVERED]
    if any(image.State < SwState.DOWNLOADED for image in images):
        return Phase.FETCHING
    if any(image.ErrorSource == "CertObjStatus" for image in images):
        return Phase.WAITING_FOR_CERTIFICATES
    return Phase.VERIFYING
