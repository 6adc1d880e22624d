"""Reference counts against who refers, numbers that may be given once only, counters of restart and purge."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from pillar.invariants.facts import Problem, Tree, app_name, images_of_apps
from pillar.types.common import safename

_KIND = "reference count"


def counts(tree: Tree) -> Iterator[Problem]:
    """Every count that does not add up."""
    if "zedmanager/AppInstanceStatus" in tree.tables:
        yield from _downloads(tree)
        yield from _verifications(tree)
        yield from _app_counters(tree)
    if "zedagent/CertObjConfig" in tree.tables:
        yield from _certificates(tree)
    for scope, asker in (("appImg.obj", "zedmanager"), ("cert.obj", "baseosmgr")):
        yield from _taken_over(tree, f"{asker}/{scope}/DownloaderConfig", f"downloader/{scope}/DownloaderStatus")
        yield from _taken_over(tree, f"{asker}/{scope}/VerifyImageConfig", f"verifier/{scope}/VerifyImageStatus")
    yield from _copies(tree)
    yield from _numbers(tree)
    yield from _addresses(tree)


def _downloads(tree: Tree) -> Iterator[Problem]:
    users = Counter(
        safename(image.Name, image.ImageSha256) for _, image in images_of_apps(tree) if image.HasDownloaderRef
    )
    table = "zedmanager/appImg.obj/DownloaderConfig"
    for key in sorted(users.keys() | tree.table(table).keys()):
        config = tree.table(table).get(key)
        yield from _compare(table, key, config.RefCount if config is not None else None, users[key], "zedmanager")


def _verifications(tree: Tree) -> Iterator[Problem]:
    """By content: an image may be verified under the name of another one with its content, or under a name apart."""
    users: Counter[str] = Counter()
    for _, image in images_of_apps(tree):
        if image.HasVerifierRef:
            users[image.ImageSha256.lower() or safename(image.Name, "")] += 1
    table = "zedmanager/appImg.obj/VerifyImageConfig"
    counted: Counter[str] = Counter()
    keys = defaultdict(list)
    for key, config in tree.table(table).items():
        content = config.ImageSha256.lower() or key
        counted[content] += config.RefCount
        keys[content].append(key)
    for content in sorted(users.keys() | counted.keys()):
        key = min(keys[content], default=f"*.{content}")
        yield from _compare(table, key, counted[content] if keys[content] else None, users[content], "zedmanager")


def _certificates(tree: Tree) -> Iterator[Problem]:
    users: Counter[str] = Counter()
    for config in tree.table("zedagent/CertObjConfig").values():
        users.update({safename(image.Name, image.ImageSha256) for image in config.StorageConfigList or ()})
    table = "baseosmgr/cert.obj/DownloaderConfig"
    for key, config in tree.table(table).items():
        yield from _compare(table, key, config.RefCount, users[key], "baseosmgr")


def _compare(table: str, key: str, counted: int | None, users: int, agent: str) -> Iterator[Problem]:
    if (counted or 0) == users:
        return
    told = f"RefCount is {counted}" if counted is not None else "there is no such record"
    what = f"{told}, but {users} {'user refers' if users == 1 else 'users refer'} to it"
    mend = f"{agent} counts anew when it is restarted"
    yield Problem(_KIND, f"{table}/{key}", what, mend, agent)


def _taken_over(tree: Tree, config_table: str, status_table: str) -> Iterator[Problem]:
    """The worker repeats the RefCount that it has seen."""
    agent = status_table.partition("/")[0]
    for key, status in tree.table(status_table).items():
        config = tree.table(config_table).get(key)
        if config is not None and config.RefCount != status.RefCount:
            what = f"RefCount is {status.RefCount}, the config's is {config.RefCount}"
            yield Problem(_KIND, f"{status_table}/{key}", what, f"{agent} takes it over when it looks again", agent)


def _copies(tree: Tree) -> Iterator[Problem]:
    users = Counter(
        disk.ActiveFileLocation.rpartition("/")[2]
        for status in tree.table("domainmgr/DomainStatus").values()
        for disk in status.DiskStatusList or ()
        if not disk.ReadOnly and "/persist/img/" in disk.ActiveFileLocation
    )
    for key, image in tree.table("domainmgr/ImageStatus").items():
        if image.RefCount != users[key]:
            what = f"RefCount is {image.RefCount}, but it is a disk of {users[key]} domains"
            mend = "domainmgr counts anew when it looks again"
            yield Problem(_KIND, f"domainmgr/ImageStatus/{key}", what, mend, "domainmgr")


def _app_counters(tree: Tree) -> Iterator[Problem]:
    """The restart and purge counters that were acted on, once nothing is under way."""
    stored = tree.stored.get("zedmanager/UuidToNum", {})
    for app, status in tree.table("zedmanager/AppInstanceStatus").items():
        config = tree.table("zedagent/AppInstanceConfig").get(app)
        if config is None or status.Error or status.RestartInprogress or status.PurgeInprogress:
            continue
        where = f"zedmanager/AppInstanceStatus/{app}"
        for name, asked, done in (
            ("restart", config.RestartCmd.Counter, status.RestartCmd.Counter),
            ("purge", config.PurgeCmd.Counter, status.PurgeCmd.Counter),
        ):
            if asked != done:
                who = app_name(tree, app)
                what = f"{name} {asked} of {who} was asked for, {done} was carried out, none is under way"
                mend = "zedmanager acts on it when it looks again; restart it if it does not"
                yield Problem("restart counter", where, what, mend, "zedmanager")
        record = stored.get(app)
        if record is not None and record.NumType == "purgeCmdCounter" and record.Number != status.PurgeCmd.Counter:
            what = f"purge counter {record.Number} is stored, {status.PurgeCmd.Counter} was carried out"
            mend = "the app is purged once more when zedmanager meets it without a status"
            yield Problem("restart counter", f"zedmanager/UuidToNum/{app}", what, mend, "zedmanager")


def _numbers(tree: Tree) -> Iterator[Problem]:
    """App and bridge numbers name interfaces and MACs: none may be given twice, and what is shown is what is stored."""
    owners = defaultdict(list)
    stored = tree.stored.get("zedrouter/UuidToNum", {})
    for uuid, record in stored.items():
        owners[record.NumType, record.Number].append(uuid)
    for (kind, number), uuids in owners.items():
        if len(uuids) > 1:
            what = f"{kind} {number} is given to {' and '.join(sorted(uuids))}"
            mend = "zedrouter gives one of them another number when it is restarted"
            yield Problem("number given twice", f"zedrouter/UuidToNum/{min(uuids)}", what, mend, "zedrouter")
    for table, field in (
        ("zedrouter/AppNetworkStatus", "AppNum"),
        ("zedrouter/NetworkInstanceStatus", "BridgeNum"),
    ):
        for uuid, status in tree.table(table).items():
            shown, record = getattr(status, field), stored.get(uuid)
            if shown and (record is None or record.Number != shown):
                has = f"number {record.Number} is stored" if record is not None else "no number is stored"
                what = f"{field} is {shown}, but {has} for it in persist/status/zedrouter/UuidToNum"
                yield Problem("number not stored", f"{table}/{uuid}", what, "restart zedrouter", "zedrouter")


def _addresses(tree: Tree) -> Iterator[Problem]:
    owners = defaultdict(set)
    for app, status in tree.table("zedrouter/AppNetworkStatus").items():
        for vif in status.UnderlayNetworkList or ():
            if vif.AllocatedIPAddr:
                owners[vif.Network, vif.AllocatedIPAddr].add(app)
    for (network, address), apps in owners.items():
        if len(apps) > 1:
            what = f"{address} on network instance {network} is given to {' and '.join(sorted(apps))}"
            mend = "restart one of the apps after zedrouter was restarted"
            yield Problem("address given twice", f"zedrouter/AppNetworkStatus/{min(apps)}", what, mend)
