"""domainmgr's figures: taking over what runs, and what a virtual machine costs besides QEMU's own start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pillar.bench.measure import RUNS, scratch
from pillar.bench.processes import agent, until
from pillar.hypervisors import _kvm, _qmp
from pillar.locations import Locations
from pillar.pubsub import PubSub, Subscription, encode
from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DiskConfig, DomainConfig, DomainStatus
from pillar.types.enums import SwState

DOMAINS = 20
SLEEPER = b"#!/bin/sh\nexec sleep 600\n"
# A boot sector that halts: the figure is about domainmgr and QEMU, not about a guest.
BOOT_DISK = (b"\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0")


def adopt() -> dict[str, float]:
    """adopt_20_s: from the start of a domainmgr until it shows 20 domains, which run already, with their ids."""
    with _device() as device:
        apps = [str(uuid.uuid4()) for _ in range(DOMAINS)]
        for app in apps:
            device.want(app, SLEEPER)
        until(lambda: all(device.id_of(app) for app in apps))
        ids = {app: device.id_of(app) for app in apps}
        taken = []
        for _ in range(RUNS):
            device.kill()
            for app in apps:  # as if the kill had come in the middle of each boot: all is to be found out again
                device.forget(app)
            until(lambda: not any(device.id_of(app) for app in apps))
            begin = time.perf_counter()
            device.start()
            until(lambda: all(device.id_of(app) == ids[app] for app in apps))
            taken.append(time.perf_counter() - begin)
    return {"adopt_20_s": statistics.median(taken)}


def vm() -> dict[str, float]:
    """vm_overhead_s: from DomainConfig to RUNNING, less what the same QEMU takes alone until it answers."""
    program = shutil.which("qemu-system-x86_64")
    if program is None or shutil.which("qemu-img") is None:
        print("vm: QEMU is not installed (apt-get install qemu-system-x86 qemu-utils): not measured", file=sys.stderr)
        return {}
    with _device() as device:
        _kvm.works(program, device.where.persist / "qemu" / "kvm.json")  # once a boot of the machine, not a start
        ours, alone = [], []
        for _ in range(RUNS):
            app = str(uuid.uuid4())
            begin = time.perf_counter()
            device.want(app, BOOT_DISK)
            until(lambda app=app: device.id_of(app) != 0)  # type: ignore[misc]
            ours.append(time.perf_counter() - begin)
            command = Path(f"/proc/{device.id_of(app)}/cmdline").read_text().split("\0")[:-1]
            device.unwant(app)
            until(lambda app=app: device.id_of(app) == 0)  # type: ignore[misc]
            alone.append(_alone(command, device.where.root / "alone"))
    return {"vm_overhead_s": statistics.median(ours) - statistics.median(alone)}


def _alone(command: list[str], home: Path) -> float:
    """Seconds from QEMU's exec to its first answer, without anything of ours."""
    home.mkdir(exist_ok=True)
    events = _qmp.open_events(home)
    begin = time.perf_counter()
    qemu = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _qmp.obeys(home, 1.0), every=0.001)
        return time.perf_counter() - begin
    finally:
        qemu.kill()
        qemu.wait()
        os.close(events)


class _Device:
    """A root with a domainmgr, fed by hand."""

    def __init__(self, where: Locations) -> None:
        self.where = where
        self._pubsub = PubSub(where.root)
        self._statuses: Subscription[DomainStatus] = self._pubsub.subscription("domainmgr", DomainStatus)
        self._configs = where.agent_dir("zedmanager") / "DomainConfig"
        self._configs.mkdir(parents=True)
        self._wanted: set[str] = set()
        self.start()

    def start(self) -> None:
        self._manager = agent("domainmgr", str(self.where.root), "--stop-grace", "0")

    def kill(self) -> None:
        self._manager.kill()
        self._manager.wait()

    def want(self, app: str, content: bytes) -> None:
        sha = hashlib.sha256(content).hexdigest()
        image = self.where.downloads("appImg.obj", "verified") / sha / "image"
        if not image.exists():
            image.parent.mkdir(parents=True)
            image.write_bytes(content)
        config = DomainConfig(
            UUIDandVersion=UUIDandVersion(UUID=app, Version="1"),
            DisplayName="bench",
            Activate=True,
            Memory=16 * 1024,
            VCpus=1,
            DiskConfigList=(DiskConfig(ImageSha256=sha, ReadOnly=True, Format="raw"),),
        )
        staged = self._configs / f".{app}"
        staged.write_bytes(encode(config))
        staged.rename(self._configs / f"{app}.json")
        self._wanted.add(app)

    def unwant(self, app: str) -> None:
        (self._configs / f"{app}.json").unlink()
        self._wanted.discard(app)

    def id_of(self, app: str) -> int:
        """The domain's id once it is RUNNING, else 0."""
        self._pubsub.wait(0)
        status = self._statuses.get(app)
        return int(status.DomainId) if status is not None and status.State == SwState.RUNNING else 0

    def forget(self, app: str) -> None:
        path = self.where.agent_dir("domainmgr") / "DomainStatus" / f"{app}.json"
        record = json.loads(path.read_bytes()) | {"State": int(SwState.BOOTING), "DomainId": 0, "Activated": False}
        path.write_text(json.dumps(record))

    def _is_empty(self) -> bool:
        self._pubsub.wait(0)
        return not self._statuses.items()

    def close(self) -> None:
        for app in sorted(self._wanted):
            self.unwant(app)
        try:
            until(self._is_empty)
        finally:
            self.kill()
            self._pubsub.close()


@contextlib.contextmanager
def _device() -> Iterator[_Device]:
    with scratch() as root:
        device = _Device(Locations(root))
        try:
            yield device
        finally:
            device.close()
