"""A tiny pure model of everything around zedmanager's decisions: tables as dicts, and honest agents that act on them.

The decisions are the real ones. Each actor takes one small step at a time, in an order drawn from a seed, and
zedmanager may be killed between any two of its writes: what it was about to write is then lost.
"""

from __future__ import annotations

import random
from typing import Any

from msgspec.structs import replace

from pillar.cmd.zedmanager.decide import decide
from pillar.cmd.zedmanager.facts import DiskSpace, Facts, Plan, Published, VerifiedImage
from pillar.cmd.zedmanager.images import image_name, name_apart
from pillar.cmd.zedmanager.references import ImageFacts, References, Shared, content_of, decide_image
from pillar.types.common import AppInstanceOpsCmd, UUIDandVersion, VmConfig, eid_key
from pillar.types.domainmgr import DiskStatus, DomainStatus
from pillar.types.downloader import DownloaderStatus
from pillar.types.eid import EIDOverlayConfig, EIDStatus
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageConfig
from pillar.types.zedrouter import AppNetworkStatus, OverlayNetworkStatus, UnderlayNetworkConfig, UnderlayNetworkStatus

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
NET = "cccccccc-0000-4000-8000-000000000003"
SHA1, SHA2 = "1" * 64, "2" * 64
T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"

TABLES = (
    "config", "status", "download_config", "download", "verify_config", "verify", "eid_config", "eid",
    "network_config", "network", "domain_config", "domain", "counter", "retry",
)  # fmt: skip

# Which states an app may pass into. Falling back to fetching is legal: an image may be lost at any time.
_WAYS_UP = {SwState.DOWNLOAD_STARTED, SwState.DOWNLOADED, SwState.DELIVERED, SwState.INSTALLED, SwState.INITIAL}
LEGAL = {
    None: {*_WAYS_UP, SwState.PURGING, SwState.HALTED, SwState.HALTING},  # a lost status, found while removing
    SwState.INITIAL: {*_WAYS_UP, SwState.PURGING, SwState.HALTED, SwState.HALTING},
    SwState.DOWNLOAD_STARTED: {*_WAYS_UP, SwState.PURGING, SwState.HALTED},
    SwState.DOWNLOADED: {*_WAYS_UP, SwState.PURGING, SwState.HALTED},
    SwState.DELIVERED: {*_WAYS_UP, SwState.PURGING, SwState.HALTED},
    SwState.INSTALLED: {
        *_WAYS_UP, SwState.BOOTING, SwState.RUNNING, SwState.RESTARTING, SwState.PURGING, SwState.HALTED,
        SwState.HALTING,
    },
    SwState.BOOTING: {SwState.RUNNING, SwState.RESTARTING, SwState.PURGING, SwState.HALTING, SwState.HALTED},
    SwState.RUNNING: {SwState.RESTARTING, SwState.PURGING, SwState.HALTING, SwState.HALTED},
    SwState.HALTING: {SwState.HALTED, SwState.RESTARTING, SwState.PURGING, SwState.INSTALLED, SwState.BOOTING},
    SwState.HALTED: {
        *_WAYS_UP, SwState.BOOTING, SwState.RUNNING, SwState.RESTARTING, SwState.PURGING, SwState.HALTING,
    },
    SwState.RESTARTING: {
        SwState.RUNNING, SwState.BOOTING, SwState.PURGING, SwState.HALTING, SwState.HALTED, SwState.INSTALLED,
    },
    SwState.PURGING: {
        SwState.RUNNING, SwState.BOOTING, SwState.INSTALLED, SwState.HALTING, SwState.HALTED, SwState.RESTARTING,
    },
}  # fmt: skip


def disk_image(name: str = "disk.img", sha256: str = SHA1, **fields: Any) -> StorageConfig:
    return StorageConfig(Name=name, ImageSha256=sha256, Size=1000, Format="raw", Devtype="hdd", Target="disk", **fields)


def app_config(key: str = A, **fields: Any) -> AppInstanceConfig:
    plain: dict[str, Any] = {
        "UUIDandVersion": UUIDandVersion(UUID=key, Version="1"),
        "DisplayName": f"app-{key[0]}",
        "FixedResources": VmConfig(Memory=1024, VCpus=1),
        "StorageConfigList": (disk_image(),),
        "Activate": True,
        "UnderlayNetworkList": (UnderlayNetworkConfig(Name="eth0", Network=NET),),
    }
    return AppInstanceConfig(**(plain | fields))


def overlay(**fields: Any) -> EIDOverlayConfig:
    return EIDOverlayConfig(Name="lisp0", Network=NET, Allocate=True, **fields)


def counter(n: int) -> AppInstanceOpsCmd:
    return AppInstanceOpsCmd(Counter=n)


class World:
    """All tables, as dicts; `wrong_content` is how many fetches of an image come with the wrong content."""

    def __init__(self, seed: int = 0, **apps: AppInstanceConfig) -> None:
        self.random = random.Random(seed)
        self.tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
        for config in apps.values():
            self.tables["config"][config.key()] = config
        self.disk: DiskSpace | None = DiskSpace(total_bytes=10**9, reserved_percent=20)
        self.certificates: frozenset[str] = frozenset()
        self.wrong_content: dict[str, int] = {}
        self.fetches: dict[str, int] = {}
        self.boots: list[str] = []
        self.states: list[tuple[str, SwState | None, SwState | None]] = []
        self.history: list[AppInstanceStatus] = []
        self.images_verified: set[str] = set()  # contents in verified/
        self.kill_after: int | None = None  # writes that zedmanager may still make before it dies

    # ---- zedmanager: the real decisions, and writes in the shell's order

    def references(self) -> References:
        references = References()
        for app, status in sorted(self.tables["status"].items()):
            references.note(app, status.StorageStatusList or ())
        return references

    def facts(self, app: str, **fields: Any) -> Facts:
        t = self.tables
        config, status = t["config"].get(app), t["status"].get(app)
        names = {image_name(image) for image in (status.StorageStatusList if status else None) or ()}
        names |= {f"{image.Name}.{image.ImageSha256}" for image in (config.StorageConfigList if config else None) or ()}
        contents = {content_of(name) for name in names}
        verifications = {key: s for key, s in t["verify"].items() if key in names or content_of(key) in contents}
        plain: dict[str, Any] = {
            "key": app,
            "now": T0,
            "config": config,
            "status": status,
            "published": Published(
                eids={key: c for key, c in t["eid_config"].items() if key.startswith(app)},
                network=t["network_config"].get(app),
                domain=t["domain_config"].get(app),
                purge_counter=t["counter"].get(app),
            ),
            "downloads": {key: s for key, s in t["download"].items() if key in names},
            "verifications": verifications,
            "verify_configs": dict(t["verify_config"]),
            "download_configs": dict(t["download_config"]),
            "retries": {key: r for key, r in t["retry"].items() if key in names},
            "certificates": self.certificates,
            "verified": {sha: VerifiedImage(path=f"/v/{sha}/f", size_bytes=1000) for sha in self.images_verified},
            "eids": {key: s for key, s in t["eid"].items() if key.startswith(app)},
            "network": t["network"].get(app),
            "domain": t["domain"].get(app),
            "disk": self.disk,
        }
        return Facts(**(plain | fields))

    def write(self, table: str, key: str, record: Any) -> bool:
        """One publish or unpublish; False when nothing changed. The kill, if one is due, falls before the write."""
        rows = self.tables[table]
        if rows.get(key) == record:
            return False
        if self.kill_after is not None:
            if self.kill_after == 0:
                raise Killed
            self.kill_after -= 1
        if record is None:
            del rows[key]
        else:
            rows[key] = record
        if table == "status":
            self.note_state(key, record)
        return True

    def note_state(self, app: str, status: AppInstanceStatus | None) -> None:
        if status is not None:
            self.history.append(status)
        self.states.append((app, None, status.State if status is not None else None))

    def step_app(self, app: str) -> bool:
        facts = self.facts(app)
        plan = decide(facts)
        self.check_decided_again(facts, plan)
        changed = self.write("counter", app, plan.wants.purge_counter)
        before = facts.status.State if facts.status is not None else None
        if plan.status is not None:
            assert plan.status.State == before or plan.status.State in LEGAL[before], (before, plan.status.State)
            changed |= self.write("status", app, plan.status)
        for key in {*facts.published.eids, *plan.wants.eids}:
            changed |= self.write("eid_config", key, plan.wants.eids.get(key))
        changed |= self.write("network_config", app, plan.wants.network)
        changed |= self.write("domain_config", app, plan.wants.domain)
        if plan.status is None:
            changed |= self.write("status", app, None)
        return changed

    def step_image(self, name: str) -> bool:
        t = self.tables
        content = content_of(name)
        wants = decide_image(
            ImageFacts(
                name=name,
                uses=self.references().of(name),
                download=t["download"].get(name),
                verifications={key: s for key, s in t["verify"].items() if content_of(key) == content},
                verify_configs=dict(t["verify_config"]),
                published=Shared(
                    retry=t["retry"].get(name),
                    download=t["download_config"].get(name),
                    verify=t["verify_config"].get(name),
                ),
            )
        )
        changed = self.write("retry", name, wants.retry)
        changed |= self.write("download_config", name, wants.download)
        changed |= self.write("verify_config", name, wants.verify)
        return changed

    def check_decided_again(self, facts: Facts, plan: Plan) -> None:
        """Nothing changes when the same is decided with the decision's own results as facts."""
        if facts.config is None and plan.status is None:
            return
        again = decide(replace(facts, status=plan.status, published=plan.wants))
        assert again.status == plan.status
        assert again.wants == plan.wants

    # ---- the other agents, honest and simple

    def downloader(self, name: str) -> bool:
        config, status = self.tables["download_config"].get(name), self.tables["download"].get(name)
        if config is None:
            return self.write_other("download", name, None)
        if status is None:
            self.fetches[name] = self.fetches.get(name, 0) + 1
            status = DownloaderStatus(Safename=name, Name=config.Name, PendingAdd=True, ImageSha256=config.ImageSha256)
        elif status.PendingAdd and status.State == SwState.NONE:
            status = replace(status, State=SwState.DOWNLOAD_STARTED, Progress=50)
        elif status.PendingAdd:
            status = replace(status, State=SwState.DOWNLOADED, Progress=100, PendingAdd=False)
        expired = config.RefCount == 0 and not status.PendingAdd
        return self.write_other("download", name, replace(status, RefCount=config.RefCount, Expired=expired))

    def verifier(self, name: str) -> bool:
        config, status = self.tables["verify_config"].get(name), self.tables["verify"].get(name)
        if config is None:
            return status is not None and status.RefCount > 0 and self.write_other("verify", name, None)
        there = [d for key, d in self.tables["download"].items() if content_of(key) == content_of(name)]
        there = [d for d in there if d.State == SwState.DOWNLOADED and not d.PendingAdd]
        wrong = next((d.Safename for d in there if self.wrong_content.get(d.Safename, 0) > 0), "")
        if status is None:
            status = VerifyImageStatus(
                Safename=name, ImageSha256=config.ImageSha256, State=SwState.DOWNLOADED, PendingAdd=True
            )
        elif status.PendingAdd:
            status = replace(status, PendingAdd=False)
            if not there and config.ImageSha256 not in self.images_verified:
                status = replace(status, LastErr="no downloaded image", LastErrTime=T1)
            elif wrong:
                self.wrong_content[wrong] -= 1
                status = replace(status, LastErr="sha256 mismatch: 33 instead of 11", LastErrTime=T1)
            elif config.SignatureKey and config.ImageSignature != b"good":
                status = replace(status, LastErr="bad signature", LastErrTime=T1)
            else:
                self.images_verified.add(config.ImageSha256)
                status = replace(status, State=SwState.DELIVERED)
        expired = config.RefCount == 0 and not status.PendingAdd
        refcount = max(config.RefCount, 1) if expired else config.RefCount
        return self.write_other("verify", name, replace(status, RefCount=refcount, Expired=expired))

    def identitymanager(self, key: str) -> bool:
        config, status = self.tables["eid_config"].get(key), self.tables["eid"].get(key)
        if config is None:
            return self.write_other("eid", key, None)
        if status is None:
            return self.write_other(
                "eid", key, EIDStatus(UUIDandVersion=config.UUIDandVersion, IID=config.IID, PendingAdd=True)
            )
        return self.write_other("eid", key, replace(status, PendingAdd=False, EID="fd00::1"))

    def zedrouter(self, app: str) -> bool:
        config, status = self.tables["network_config"].get(app), self.tables["network"].get(app)
        if config is None:
            return self.write_other("network", app, None)
        if status is None:
            return self.write_other(
                "network", app, AppNetworkStatus(UUIDandVersion=config.UUIDandVersion, PendingAdd=True, AppNum=7)
            )
        under = tuple(UnderlayNetworkStatus(Name=u.Name, Vif="nbu1x7") for u in config.UnderlayNetworkList or ())
        over = tuple(OverlayNetworkStatus(Name=o.Name, EID=o.EID) for o in config.OverlayNetworkList or ())
        status = replace(
            status, PendingAdd=False, Activated=config.Activate, UnderlayNetworkList=under, OverlayNetworkList=over
        )
        return self.write_other("network", app, status)

    def domainmgr(self, app: str) -> bool:
        config, status = self.tables["domain_config"].get(app), self.tables["domain"].get(app)
        if config is None or (status is not None and status.PendingDelete):
            if status is None or status.PendingDelete:
                return self.write_other("domain", app, None)
            return self.write_other("domain", app, replace(status, PendingDelete=True, Activated=False))
        if status is None:
            disks = tuple(
                DiskStatus(ImageSha256=d.ImageSha256, Vdev=f"xvd{'abc'[i]}")
                for i, d in enumerate(config.DiskConfigList or ())
            )
            status = DomainStatus(
                UUIDandVersion=config.UUIDandVersion, State=SwState.INSTALLED, PendingAdd=True, DiskStatusList=disks
            )
            return self.write_other("domain", app, status)
        if status.PendingAdd:
            return self.write_other("domain", app, replace(status, PendingAdd=False))
        moves = {
            (True, SwState.INSTALLED): {"State": SwState.BOOTING},
            (True, SwState.HALTED): {"State": SwState.BOOTING},
            (True, SwState.BOOTING): {"State": SwState.RUNNING, "Activated": True, "BootTime": T1},
            (True, SwState.HALTING): {"State": SwState.HALTED, "Activated": False},
            (False, SwState.BOOTING): {"State": SwState.HALTING},
            (False, SwState.RUNNING): {"State": SwState.HALTING},
            (False, SwState.HALTING): {"State": SwState.HALTED, "Activated": False},
        }
        move: dict[str, Any] = moves.get((config.Activate, status.State), {})
        if status.State == SwState.HALTED and status.LastErr:  # it ended by itself
            move = {} if config.Activate else {"LastErr": ""}
        if move.get("State") == SwState.BOOTING:
            self.boots.append(app)
        return self.write_other("domain", app, replace(status, **move))

    def write_other(self, table: str, key: str, record: Any) -> bool:
        rows = self.tables[table]
        if rows.get(key) == record:
            return False
        if record is None:
            del rows[key]
        else:
            rows[key] = record
        return True

    # ---- time

    def keys(self, *tables: str) -> set[str]:
        return {key for table in tables for key in self.tables[table]}

    def moves(self) -> list[tuple[Any, str]]:
        t = self.tables
        apps = self.keys("config", "status", "network_config", "domain_config", "counter")
        images = [image for status in t["status"].values() for image in status.StorageStatusList or ()]
        uses = {image_name(image) for image in images} | {name_apart(image) for image in images}
        names = self.keys("download_config", "download", "verify_config", "verify", "retry") | uses
        return [
            *((self.step_app, key) for key in sorted(apps)),
            *((self.step_image, key) for key in sorted(names)),
            *((self.downloader, key) for key in sorted(self.keys("download_config", "download"))),
            *((self.verifier, key) for key in sorted(self.keys("verify_config", "verify"))),
            *((self.identitymanager, key) for key in sorted(self.keys("eid_config", "eid"))),
            *((self.zedrouter, key) for key in sorted(self.keys("network_config", "network"))),
            *((self.domainmgr, key) for key in sorted(self.keys("domain_config", "domain"))),
        ]

    def settle(self, at_most: int = 400, without: tuple[str, ...] = ()) -> World:
        """Let everybody act, in a random order, until nobody has anything to do; agents in `without` are dead."""
        for _ in range(at_most):
            moves = [move for move in self.moves() if move[0].__name__ not in without]
            self.random.shuffle(moves)
            if sum(act(key) for act, key in moves) == 0:  # everybody has their turn, so not any()
                self.check_references()
                return self
        raise AssertionError(f"no end: {self.summary()}")

    def run(self, steps: int) -> World:
        """Some single steps in a random order."""
        for _ in range(steps):
            moves = self.moves()
            if moves:
                act, key = self.random.choice(moves)
                act(key)
        return self

    def check_references(self) -> None:
        """Every count is the number of uses, and every image that is used has its config."""
        t = self.tables
        uses = [image for status in t["status"].values() for image in status.StorageStatusList or ()]
        for name, config in t["download_config"].items():
            assert config.RefCount == sum(image.HasDownloaderRef and image_name(image) == name for image in uses), name
        total = sum(config.RefCount for config in t["verify_config"].values())
        assert total == sum(image.HasVerifierRef for image in uses)
        for image in uses:
            if image.HasDownloaderRef:
                assert image_name(image) in t["download_config"]

    def summary(self) -> dict[str, Any]:
        return {table: rows for table, rows in self.tables.items() if rows}

    def status(self, app: str = A) -> AppInstanceStatus:
        status: AppInstanceStatus = self.tables["status"][app]
        return status

    def copy(self, seed: int) -> World:
        """The same state, to go on differently from."""
        other = World(seed)
        other.tables = {table: dict(rows) for table, rows in self.tables.items()}
        other.images_verified = set(self.images_verified)
        return other


class Killed(Exception):
    """zedmanager was killed before a write."""


def eid_of(app: str) -> str:
    return eid_key(app, 0)
