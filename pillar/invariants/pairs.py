"""A config without the status that answers it, and a status whose config is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from pillar.invariants.facts import Problem, Tree, app_name


class Pair(NamedTuple):
    """Two tables with the same keys: the order, and its answer."""

    config: str
    status: str

    @property
    def asks(self) -> str:
        return self.config.partition("/")[0]

    @property
    def answers(self) -> str:
        return self.status.partition("/")[0]


PAIRS: Final = (
    Pair("zedagent/AppInstanceConfig", "zedmanager/AppInstanceStatus"),
    Pair("zedagent/NetworkInstanceConfig", "zedrouter/NetworkInstanceStatus"),
    Pair("zedagent/CertObjConfig", "baseosmgr/CertObjStatus"),
    Pair("zedmanager/appImg.obj/DownloaderConfig", "downloader/appImg.obj/DownloaderStatus"),
    Pair("baseosmgr/cert.obj/DownloaderConfig", "downloader/cert.obj/DownloaderStatus"),
    Pair("zedmanager/appImg.obj/VerifyImageConfig", "verifier/appImg.obj/VerifyImageStatus"),
    Pair("zedmanager/EIDConfig", "identitymanager/EIDStatus"),
    Pair("zedmanager/AppNetworkConfig", "zedrouter/AppNetworkStatus"),
    Pair("zedmanager/DomainConfig", "domainmgr/DomainStatus"),
)
_KEPT: Final = ("DownloaderStatus", "VerifyImageStatus")
_OF_ZEDMANAGER: Final = ("zedmanager/EIDConfig", "zedmanager/AppNetworkConfig", "zedmanager/DomainConfig")


def pairs(tree: Tree) -> Iterator[Problem]:
    """Orders without an answer, answers without an order, and what zedmanager asks for apps it does not know."""
    for pair in PAIRS:
        if tree.ran(pair.answers):
            yield from _unanswered(tree, pair)
        if pair.config in tree.tables:
            yield from _unasked(tree, pair)
    if "zedmanager/AppInstanceStatus" in tree.tables:
        yield from _without_app(tree)


def _unanswered(tree: Tree, pair: Pair) -> Iterator[Problem]:
    for key in tree.table(pair.config).keys() - tree.table(pair.status).keys():
        what = f"nobody has answered it: there is no {pair.status}/{key}"
        mend = f"{pair.answers} answers when it looks again; if it runs and does not, see its log"
        yield Problem("config without status", f"{pair.config}/{key}", what, mend, pair.answers)


def _unasked(tree: Tree, pair: Pair) -> Iterator[Problem]:
    for key in tree.table(pair.status).keys() - tree.table(pair.config).keys():
        status = tree.table(pair.status)[key]
        agent = pair.answers
        if pair.status == "zedrouter/NetworkInstanceStatus":
            users = [app_name(tree, app) for app in _apps_on(tree, key)]
            if users:
                what = f"its config is gone, {', '.join(users)} still on it"
                yield Problem("status without config", f"{pair.status}/{key}", what, "take the apps off it", "", "note")
                continue
        if pair.status == "zedmanager/AppInstanceStatus":
            agent = _removing(tree, key)
        elif pair.status.endswith(_KEPT) and not status.Expired and not status.PendingDelete:
            agent = pair.asks  # its rule: as long as the worker keeps an object it has a config, with RefCount 0
        what = f"there is no {pair.config}/{key} that asks for it"
        mend = f"{agent} puts it right when it looks again; if it runs and does not, see its log"
        yield Problem("status without config", f"{pair.status}/{key}", what, mend, agent)


def _removing(tree: Tree, app: str) -> str:
    """Who has to move for this app to go away: whoever still holds something of it."""
    for status, agent in (("domainmgr/DomainStatus", "domainmgr"), ("zedrouter/AppNetworkStatus", "zedrouter")):
        if app in tree.table(status) and app not in tree.table(f"zedmanager/{status.split('/')[1][:-6]}Config"):
            return agent
    return "zedmanager"


def _apps_on(tree: Tree, network: str) -> Iterator[str]:
    for app, status in tree.table("zedrouter/AppNetworkStatus").items():
        vifs = (*(status.UnderlayNetworkList or ()), *(status.OverlayNetworkList or ()))
        if any(vif.Network == network for vif in vifs):
            yield app


def _without_app(tree: Tree) -> Iterator[Problem]:
    known = tree.table("zedmanager/AppInstanceStatus").keys()
    for table in _OF_ZEDMANAGER:
        for key in tree.table(table):
            app = key.rpartition(":")[0] if table.endswith("EIDConfig") else key
            if app not in known:
                what = f"zedmanager asks for this, but has no AppInstanceStatus of {app_name(tree, app)}"
                mend = "zedmanager withdraws it when it looks again; if it runs and does not, see its log"
                yield Problem("dangling reference", f"{table}/{key}", what, mend, "zedmanager")
