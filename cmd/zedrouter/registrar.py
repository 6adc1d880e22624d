"""Registers the EIDs of this device's guests at the map servers of their meshes, and publishes how that went.

One thread asks one map server after another, every minute and whenever something changed. A server that does not answer
is asked once per round, not once per EID.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from pillar.cmd.zedrouter.mapregister import NotRegistered, Wish, register
from pillar.loop import Loop
from pillar.pubsub import PubSub
from pillar.types.eidregistration import EIDRegistration
from pillar.types.enums import NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import ZERO_TIME, Uuid, now
from pillar.types.zedrouter import AppNetworkStatus
from pillar.workers import Cancel, Outcome, Workers

EVERY_S: Final = 60.0
_WORK: Final = "registrations"
_SERVER: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


def wishes(
    instances: Mapping[Uuid, NetworkInstanceStatus],
    apps: Mapping[Uuid, AppNetworkStatus],
    network: DeviceNetworkStatus | None,
) -> Iterator[Wish]:
    """What is to be registered now. Pure. Without an uplink nothing is: there is no address to be reached at."""
    ports = {port.IfName: port for port in (network.Ports or () if network is not None else ())}
    for uuid, app in sorted(apps.items()):
        for overlay in app.OverlayNetworkList or () if app.Activated and not app.IsZedmanager else ():
            mesh = instances.get(overlay.Network)
            if mesh is None or mesh.Type != NetworkInstanceType.MESH or not mesh.Activate or not overlay.EID:
                continue
            locators = tuple(
                info.Addr
                for name in mesh.IfNameList or ()
                if name in ports
                for info in ports[name].AddrInfoList or ()
                if info.Addr and not info.Addr.startswith("fe80:")
            )
            for server in mesh.LispConfig.MapServers or () if locators else ():
                if _SERVER.fullmatch(server.NameOrIp):  # another name is lisp.config's error
                    iid = mesh.LispConfig.IID
                    yield Wish(uuid, iid, overlay.EID, server.NameOrIp, server.Credential, locators)


class Registrar:
    """Keeps the registrations. `look` is called whenever something may have changed."""

    def __init__(self, pubsub: PubSub, loop: Loop, log: logging.Logger) -> None:
        self._table = pubsub.publication(EIDRegistration)
        self._workers = Workers(loop, 1)
        self._loop = loop
        self._log = log
        self._wanted: tuple[Wish, ...] = ()
        self._asked: tuple[Wish, ...] | None = None  # in the round that runs, or ran last
        self._timer = loop.call_later(EVERY_S, self._again)

    def look(self, wanted: tuple[Wish, ...]) -> None:
        """These are to be registered; at once where they differ from what was."""
        self._wanted = wanted
        keys = {_key(wish) for wish in wanted}
        for key in set(self._table):
            if key not in keys:
                self._table.unpublish(key)
        if wanted != self._asked:
            self._start()

    def _again(self) -> None:
        self._timer = self._loop.call_later(EVERY_S, self._again)
        self._start()

    def _start(self) -> None:
        if not self._wanted:
            self._asked = ()
            return
        round_ = self._wanted
        if self._workers.submit(_WORK, lambda cancel: _ask(round_, cancel), self._done):
            self._asked = round_

    def _done(self, outcome: Outcome[dict[Wish, str]]) -> None:
        results = outcome.value if outcome.error is None and not outcome.cancelled else {}
        for wish, error in results.items():
            if wish in self._wanted:
                self._publish(wish, error)
        if self._wanted != self._asked:
            self._start()

    def _publish(self, wish: Wish, error: str) -> None:
        before = self._table.get(_key(wish))
        same = before is not None and wish.eid == before.EID and before.Locators == wish.locators
        record = EIDRegistration(
            AppID=wish.app,
            IID=wish.iid,
            EID=wish.eid,
            MapServer=wish.server,
            Locators=wish.locators,
            Registered=not error,
            Error=error,
        )
        if error:
            at = before.ErrorTime if before is not None and before.Error == error else now()
            record = msgspec.structs.replace(record, ErrorTime=at)
        else:
            at = before.RegisteredTime if before is not None and same and before.Registered else now()
            record = msgspec.structs.replace(record, RegisteredTime=at, ErrorTime=ZERO_TIME)
        if self._table.publish(_key(wish), record):
            self._log.info("EID %s at map server %s: %s", wish.eid, wish.server, error or "registered")


def _key(wish: Wish) -> str:
    return f"{wish.app}:{wish.iid}:{wish.server}"


def _ask(round_: tuple[Wish, ...], cancel: Cancel) -> dict[Wish, str]:
    """What went wrong with each, "" for nothing; in a thread."""
    results: dict[Wish, str] = {}
    silent: dict[str, str] = {}
    for wish in round_:
        cancel.raise_if_set()
        error = silent.get(wish.server, "")
        if not error:
            try:
                register(wish, secrets.randbits(64))
            except NotRegistered as err:
                error = str(err)
                if error.startswith("no answer"):
                    silent[wish.server] = error
            except OSError as err:
                error = silent[wish.server] = f"{wish.server}: {err.strerror or err}"
        results[wish] = error
    return results
