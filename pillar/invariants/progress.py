"""Apps that are neither where they should be nor on their way: whoever owes them the next move does not make it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pillar.invariants.facts import Level, Problem, Tree, app_name
from pillar.types.common import eid_key, safename
from pillar.types.enums import Inprogress, SwState

PATIENCE_S: Final = 600.0  # work that shows nothing new for so long is taken for stuck


class Owed(NamedTuple):
    """Who has to make the next move for an app."""

    agent: str
    what: str  # after "waits for"
    table: str = ""  # where that agent shows how far it is
    key: str = ""
    working: bool = False  # it says that it is at it


def progress(tree: Tree) -> Iterator[Problem]:
    """Every app that can make no transition and is not at an end; and, as notes, the errors that apps report."""
    if not tree.ran("zedmanager"):
        return
    for app, config in tree.table("zedagent/AppInstanceConfig").items():
        status = tree.table("zedmanager/AppInstanceStatus").get(app)
        if status is None:
            continue  # `pairs` tells
        where = f"zedmanager/AppInstanceStatus/{app}"
        yield from _contradictions(tree, app, config, status)
        if status.Error:
            what = f"{app_name(tree, app)} is {status.State.name} and reports: {' '.join(status.Error.split())}"
            yield Problem("app in error", where, what, f"see {status.ErrorSource or 'the agents'}", "", "note")
            continue
        if is_at_its_end(config, status):
            continue
        owed = next_move(tree, app, config, status)
        if owed.agent in tree.live and owed.working and _idle_s(tree, owed) < PATIENCE_S:
            continue
        what = f"{app_name(tree, app)} is {status.State.name} and waits for {owed.what}"
        if owed.working and owed.agent in tree.live:
            what += f"; nothing has changed there for {_idle_s(tree, owed):.0f} s"
        elif owed.agent not in tree.live and tree.live:
            what += f"; {owed.agent} does not run"
        mend = f"{owed.agent} moves when it looks again; restart it if it does not, and see its log"
        yield Problem("stuck app", where, what, mend, owed.agent)


def is_at_its_end(config: Any, status: Any) -> bool:
    """Has the app what its config asks for?"""
    if status.RestartInprogress != Inprogress.NONE or status.PurgeInprogress != Inprogress.NONE:
        return False
    if config.Activate:
        return bool(status.Activated) and status.State == SwState.RUNNING
    return not status.Activated and status.State in (SwState.INSTALLED, SwState.HALTED)


def next_move(tree: Tree, app: str, config: Any, status: Any) -> Owed:
    """Who has to act now, by what the tables say: the first stage that is not done, as zedmanager goes through them."""
    for image in status.StorageStatusList or ():
        if image.State < SwState.DELIVERED:
            return _image(tree, image)
    for overlay in config.OverlayNetworkList or ():
        key = eid_key(app, overlay.IID)
        eid = tree.table("identitymanager/EIDStatus").get(key)
        if eid is None or not eid.EID:
            working = eid is not None and eid.PendingAdd
            return Owed("identitymanager", f"the EID {key}", "identitymanager/EIDStatus", key, working)
    if (wanted := tree.table("zedmanager/AppNetworkConfig").get(app)) is None:
        return Owed("zedmanager", "zedmanager to ask for its network")
    network = tree.table("zedrouter/AppNetworkStatus").get(app)
    if network is None or (wanted.Activate and not network.Activated):
        return Owed("zedrouter", "its network", "zedrouter/AppNetworkStatus", app)
    domain_config = tree.table("zedmanager/DomainConfig").get(app)
    if domain_config is None:
        return Owed("zedmanager", "zedmanager to ask for its domain")
    return _domain(tree, app, domain_config)


def _image(tree: Tree, image: Any) -> Owed:
    name = safename(image.Name, image.ImageSha256)
    if image.HasVerifierRef:
        table = "verifier/appImg.obj/VerifyImageStatus"
        same = {
            key: status
            for key, status in tree.table(table).items()
            if key == name or (image.ImageSha256 and status.ImageSha256.lower() == image.ImageSha256.lower())
        }
        if any(status.State == SwState.DELIVERED and not status.LastErr for status in same.values()):
            return Owed("zedmanager", f"zedmanager to see that {image.Name} is verified")
        key = min(same, default=name)
        return Owed("verifier", f"{image.Name} to be verified", table, key, any(s.PendingAdd for s in same.values()))
    if image.HasDownloaderRef:
        table = "downloader/appImg.obj/DownloaderStatus"
        status = tree.table(table).get(name)
        if status is not None and status.State == SwState.DOWNLOADED:
            return Owed("zedmanager", f"zedmanager to see that {image.Name} is downloaded")
        at_it = status is not None and bool(
            status.PendingAdd or status.LastErr or status.State == SwState.DOWNLOAD_STARTED
        )
        so_far = f" ({status.Progress} %)" if status is not None else ""
        return Owed("downloader", f"{image.Name} to be downloaded{so_far}", table, name, at_it)
    return Owed("zedmanager", f"zedmanager to ask for {image.Name}")


def _domain(tree: Tree, app: str, config: Any) -> Owed:
    table = "domainmgr/DomainStatus"
    domain = tree.table(table).get(app)
    if domain is not None and domain.Activated == config.Activate:
        return Owed("zedmanager", "zedmanager to see what its domain does")
    wish = "start" if config.Activate else "stop"
    at_it = domain is not None and bool(
        domain.State in (SwState.BOOTING, SwState.HALTING)
        or domain.PendingAdd
        or domain.PendingModify
        or domain.LastErr
    )
    return Owed("domainmgr", f"its domain to {wish}", table, app, at_it)


def _idle_s(tree: Tree, owed: Owed) -> float:
    """For how long neither the record nor a part file of it has changed."""
    ages = [tree.age(owed.table, owed.key)]
    if owed.agent == "downloader":
        ages += [tree.now - file.changed for path, file in tree.files.items() if f"/{owed.key}.part" in path]
    return min(ages)


def _contradictions(tree: Tree, app: str, config: Any, status: Any) -> Iterator[Problem]:
    """What zedmanager shows of a domain against what domainmgr says, once nothing is under way."""
    domain = tree.table("domainmgr/DomainStatus").get(app)
    if domain is None or domain.PendingDelete or domain.State < SwState.BOOTING:
        if status.State == SwState.RUNNING:
            what = f"{app_name(tree, app)} is RUNNING for zedmanager, and domainmgr has no running domain of it"
            mend = "zedmanager takes it over when it looks again"
            yield Problem("state", f"zedmanager/AppInstanceStatus/{app}", what, mend, "zedmanager")
        return
    if status.RestartInprogress or status.PurgeInprogress or domain.State == status.State:
        return
    what = f"{app_name(tree, app)} is {status.State.name} for zedmanager, its domain is {domain.State.name}"
    mend = "zedmanager takes it over when it looks again"
    yield Problem("state", f"zedmanager/AppInstanceStatus/{app}", what, mend, "zedmanager")


def domains(tree: Tree) -> Iterator[Problem]:
    """What runs, against what domainmgr says that runs (the `process` backend; others keep no lock of their own)."""
    for app, runs in tree.domains.items():
        status = tree.table("domainmgr/DomainStatus").get(app)
        if runs and status is None and tree.ran("domainmgr"):
            what = f"a program of {app_name(tree, app)} runs, and domainmgr has no status of it"
            mend = "domainmgr stops it when it looks again; restart it if it does not"
            yield Problem("domain", f"persist/process/{app}.lock", what, mend, "domainmgr")
        elif not runs and status is not None and status.State == SwState.RUNNING:
            what = f"{app_name(tree, app)} is RUNNING, and its process {status.DomainId} is gone"
            mend = "domainmgr sees it when it looks again; restart it if it does not"
            # Where no agent runs, the machine may have been off since, or this may be a copy of the tree.
            level: Level = "wrong" if tree.live else "note"
            yield Problem("domain", f"domainmgr/DomainStatus/{app}", what, mend, "domainmgr", level)
