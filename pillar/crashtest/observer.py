"""An independent onlooker: follows the statuses through their tables only, and knows which way they may go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pillar.crashtest.config import GOOD
from pillar.crashtest.keys import Keys
from pillar.pubsub import PubSub, Subscription
from pillar.supervisor.record import SupervisorStatus
from pillar.types.baseos import CertObjStatus
from pillar.types.domainmgr import DomainStatus
from pillar.types.downloader import DownloaderStatus, GlobalDownloadStatus
from pillar.types.eid import EIDStatus
from pillar.types.enums import SwState as S
from pillar.types.verifier import VerifyImageStatus
from pillar.types.zedmanager import AppInstanceStatus
from pillar.types.zedrouter import AppNetworkStatus

# Upwards; whoever looks may miss steps, never see one back.
_UP: Final = (S.NONE, S.INITIAL, S.DOWNLOAD_STARTED, S.DOWNLOADED, S.DELIVERED, S.INSTALLED, S.BOOTING, S.RUNNING)
_OVER: Final = (S.RESTARTING, S.PURGING)  # shown over the others while one is under way
_DOWN: Final = (S.HALTING, S.HALTED)


def legal(topic: str, old: S, new: S, *, unasked: bool = False) -> bool:
    """Whether a status may be seen to go from one state to another; `unasked`: nobody referred to it before.

    An image that was found at a start is good by its content, whoever wants it; who asks for a signature makes the
    verifier look at it once more, unless the ledger remembers that signature. No app relies on it before that.
    """
    if old == new or (topic == "VerifyImageStatus" and unasked and (old, new) == (S.DELIVERED, S.DOWNLOADED)):
        return True
    if topic == "AppInstanceStatus" and (old in _OVER or new in _OVER):
        return True
    if topic in ("AppInstanceStatus", "DomainStatus"):
        if new in _DOWN:
            return old in _UP[3:] or old == S.HALTING
        if old in _DOWN:  # activated again
            return new in (S.INSTALLED, S.BOOTING, S.RUNNING)
    if topic == "DownloaderStatus" and new in (S.NONE, S.INITIAL):
        return old in (S.NONE, S.INITIAL, S.DOWNLOAD_STARTED)  # failed; what is there stays there
    return old in _UP and new in _UP and _UP.index(old) < _UP.index(new)


class Observer:
    """The tables of one device as a subscriber sees them, and what it saw in them since `forget`."""

    def __init__(self, root: Path) -> None:
        self._pubsub = PubSub(root)
        self.wrong: list[str] = []  # steps that no status may take, errors of an app that has none
        self.pids: set[int] = set()  # of domains
        self.keys = Keys()
        self.patient = False  # errors are to be expected: the machine is made to fail
        self.apps: Subscription[AppInstanceStatus] = self._follow("zedmanager", AppInstanceStatus)
        self.domains: Subscription[DomainStatus] = self._follow("domainmgr", DomainStatus)
        self.downloads: Subscription[DownloaderStatus] = self._follow("downloader", DownloaderStatus, "appImg.obj")
        self.verified: Subscription[VerifyImageStatus] = self._follow("verifier", VerifyImageStatus, "appImg.obj")
        self.certificates = self._pubsub.subscription("baseosmgr", CertObjStatus)
        self.certificate_files = self._pubsub.subscription("downloader", DownloaderStatus, scope="cert.obj")
        self.networks = self._pubsub.subscription("zedrouter", AppNetworkStatus)
        self.identities = self._pubsub.subscription(
            "identitymanager",
            EIDStatus,
            create=lambda key, new: self.keys.look(key, new),
            modify=lambda key, new, old: self.keys.look(key, new),
        )
        self.space = self._pubsub.subscription("downloader", GlobalDownloadStatus)
        self.supervised = self._pubsub.subscription("pillar", SupervisorStatus)

    def close(self) -> None:
        self._pubsub.close()

    def forget(self, *, patient: bool = False) -> None:
        """A new story begins."""
        self.look()
        self.wrong = []
        self.pids = set()
        self.keys.begin(self.identities.items().items())
        self.patient = patient

    def look(self, seconds: float = 0.0) -> None:
        """Take in what was published meanwhile, waiting this long for something new."""
        self._pubsub.wait(seconds)
        while self._pubsub.process():
            pass

    def restarts(self) -> dict[str, int]:
        """How often the supervisor started each agent again."""
        return {name: status.Restarts for name, status in self.supervised.items().items()}

    def all_run(self) -> bool:
        """Every agent is ready."""
        statuses = self.supervised.items().values()
        return bool(statuses) and all(status.State == "running" for status in statuses)

    def _follow(self, agent: str, record_type: type[Any], scope: str = "") -> Subscription[Any]:
        topic = record_type.__name__

        def created(key: str, new: Any) -> None:
            self._seen(topic, key, None, new)

        def modified(key: str, new: Any, old: Any) -> None:
            self._seen(topic, key, old, new)

        return self._pubsub.subscription(agent, record_type, scope=scope, create=created, modify=modified)

    def _seen(self, topic: str, key: str, old: Any, new: Any) -> None:
        if old is not None and old.State != S.NONE and not self.patient:
            unasked = topic == "VerifyImageStatus" and old.RefCount == 0
            if not legal(topic, old.State, new.State, unasked=unasked):
                self.wrong.append(f"{topic} {key} went from {old.State.name} to {new.State.name}")
        if topic == "DomainStatus" and new.DomainId:
            self.pids.add(int(new.DomainId))
        if (
            topic == "AppInstanceStatus"
            and key == GOOD
            and new.Error
            and "waiting for" not in new.Error
            and not self.patient
        ):
            line = f"{topic} {key} says {new.Error!r} (state {new.State.name})"
            if line not in self.wrong:
                self.wrong.append(line)
