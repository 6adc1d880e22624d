"""What records name that is not there: datastores, network instances, images, files."""

from __future__ import annotations

from collections.abc import Iterator

from pillar.invariants.facts import Problem, Tree, app_name
from pillar.types.enums import SwState

_KIND = "dangling reference"
_NIL = "00000000-0000-0000-0000-000000000000"


def references(tree: Tree) -> Iterator[Problem]:
    """Every name without its thing."""
    if "zedagent/DatastoreConfig" in tree.tables or tree.ran("zedagent"):
        yield from _datastores(tree)
    if tree.ran("zedagent"):
        yield from _networks(tree)
    yield from _images(tree)
    yield from _disks(tree)
    yield from _certificates(tree)


def _datastores(tree: Tree) -> Iterator[Problem]:
    known = tree.table("zedagent/DatastoreConfig").keys()
    said: set[str] = set()
    for app, config in tree.table("zedagent/AppInstanceConfig").items():
        for image in config.StorageConfigList or ():
            if image.DatastoreID not in known and image.DatastoreID != _NIL:
                said.add(image.DatastoreID)
                which = f"image {image.Name} of {app_name(tree, app)}"
                what = f"{which} is in datastore {image.DatastoreID}, which is not configured"
                mend = "put the datastore into the device config, or correct dsId there"
                yield Problem(_KIND, f"zedagent/AppInstanceConfig/{app}", what, mend)
    for table in ("zedmanager/appImg.obj/DownloaderConfig", "baseosmgr/cert.obj/DownloaderConfig"):
        for key, config in tree.table(table).items():
            wanted = config.RefCount and config.DatastoreID not in known and config.DatastoreID != _NIL
            if wanted and config.DatastoreID not in said and not config.NameIsURL:
                what = f"is to be fetched from datastore {config.DatastoreID}, which is not configured"
                yield Problem(_KIND, f"{table}/{key}", what, "put the datastore into the device config")


def _networks(tree: Tree) -> Iterator[Problem]:
    known = tree.table("zedagent/NetworkInstanceConfig").keys()
    for app, config in tree.table("zedagent/AppInstanceConfig").items():
        for vif in (*(config.UnderlayNetworkList or ()), *(config.OverlayNetworkList or ())):
            if vif.Network != _NIL and vif.Network not in known:
                which = f"interface {vif.Name} of {app_name(tree, app)}"
                what = f"{which} is on network instance {vif.Network}, which is not configured"
                mend = "put the network instance into the device config, or correct networkId there"
                yield Problem(_KIND, f"zedagent/AppInstanceConfig/{app}", what, mend)
    if "zedrouter/NetworkInstanceStatus" not in tree.tables:
        return
    bridges = {status.BridgeName for status in tree.table("zedrouter/NetworkInstanceStatus").values()}
    for app, config in tree.table("zedmanager/DomainConfig").items():
        for vif in config.VifList or ():
            if vif.Bridge and vif.Bridge not in bridges:
                what = f"the domain of {app_name(tree, app)} is on bridge {vif.Bridge}, which no network instance has"
                mend = "zedmanager takes the bridge from zedrouter's AppNetworkStatus: see both logs"
                yield Problem(_KIND, f"zedmanager/DomainConfig/{app}", what, mend, "zedmanager")


def _images(tree: Tree) -> Iterator[Problem]:
    """What the workers say they have, and have not."""
    for scope in ("appImg.obj", "baseOs.obj", "cert.obj"):
        for key, status in tree.table(f"downloader/{scope}/DownloaderStatus").items():
            if status.State != SwState.DOWNLOADED or status.PendingDelete:
                continue
            if not _stands(tree, scope, status.ImageSha256, key, ("pending", "verifier", "verified")):
                what = f"DOWNLOADED, but no file of it is in persist/downloads/{scope}"
                mend = "downloader fetches it again at its next look; restart it if it does not"
                yield Problem(_KIND, f"downloader/{scope}/DownloaderStatus/{key}", what, mend, "downloader")
        for key, status in tree.table(f"verifier/{scope}/VerifyImageStatus").items():
            if status.State != SwState.DELIVERED or status.PendingDelete:
                continue
            directory = f"persist/downloads/{scope}/verified/{status.ImageSha256}/"
            found = [path for path in tree.files if path.lower().startswith(directory.lower())]
            where = f"verifier/{scope}/VerifyImageStatus/{key}"
            if not found:
                what = f"DELIVERED, but {directory} holds no file"
                yield Problem(_KIND, where, what, "verifier looks again when it is restarted", "verifier")
            elif not status.IsContainer and len(found) > 1:
                what = f"{directory} holds {len(found)} files, and domainmgr wants exactly one"
                yield Problem(_KIND, where, what, "remove the files that are not the image")


def _stands(tree: Tree, scope: str, sha256: str, safename: str, stages: tuple[str, ...]) -> bool:
    for stage in stages:
        base = f"persist/downloads/{scope}/{stage}/"
        if sha256 and any(path.startswith(f"{base}{sha256}/") and not _part(path) for path in tree.files):
            return True
        if f"{base}{safename}" in tree.files or f"{base}{sha256}/{safename}" in tree.files:
            return True
    return False


def _part(path: str) -> bool:
    return path.endswith((".part", ".part.json", ".part.json.new", ".part.spans"))


def _disks(tree: Tree) -> Iterator[Problem]:
    for app, status in tree.table("domainmgr/DomainStatus").items():
        if not SwState.BOOTING <= status.State <= SwState.RUNNING:
            continue
        for disk in status.DiskStatusList or ():
            below = disk.ActiveFileLocation.partition("/persist/")[2]
            if below and f"persist/{below}" not in tree.files:
                which = f"{app_name(tree, app)} is {status.State.name}"
                what = f"{which} on {disk.ActiveFileLocation}, and there is no such file"
                mend = "purge the app: its disks are made anew (increase its purge counter in the device config)"
                yield Problem(_KIND, f"domainmgr/DomainStatus/{app}", what, mend)


def _certificates(tree: Tree) -> Iterator[Problem]:
    for owner, status in tree.table("baseosmgr/CertObjStatus").items():
        for image in status.StorageStatusList or ():
            name = image.Name.rpartition("/")[2]
            if image.State == SwState.INSTALLED and f"persist/certs/{name}" not in tree.files:
                what = f"certificate {image.Name} is INSTALLED, but persist/certs/{name} is not there"
                mend = "baseosmgr installs it again when it is restarted"
                yield Problem(_KIND, f"baseosmgr/CertObjStatus/{owner}", what, mend, "baseosmgr")
