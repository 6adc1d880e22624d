"""The demo's device: the config it is given, and its tables as an onlooker sees them.

The config is what an EVE controller would send (EdgeDevConfig in protobuf-JSON): one datastore, one local
network instance, one app with one image and one interface.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from pillar.demo.eco import Image
from pillar.pubsub import PubSub
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus

APP_NAME = "hello"
VM_MEMORY_KIB = 128 * 1024


def config(image: Image, url: str, app_id: str) -> dict[str, Any]:
    """A device config with one ECO, as protobuf-JSON."""
    whole = _config(url, app_id)
    app = whole["apps"][0]
    app["drives"] = [_drive(image, _datastore(whole), "Disk")]
    return whole


def vm_config(kernel: Image, ramdisk: Image, url: str, app_id: str, *, user_data: bytes = b"") -> dict[str, Any]:
    """A device config with one ECO that is a virtual machine: a kernel and its ramdisk, and a script for its start."""
    whole = _config(url, app_id)
    app = whole["apps"][0]
    app["fixedresources"] = {"memory": VM_MEMORY_KIB, "vcpus": 1}
    app["drives"] = [_drive(kernel, _datastore(whole), "Kernel"), _drive(ramdisk, _datastore(whole), "RamDisk")]
    if user_data:
        app["userData"] = base64.b64encode(user_data).decode()
    return whole


def _config(url: str, app_id: str) -> dict[str, Any]:
    """A device config with one ECO that has no drives yet."""
    datastore, network = str(uuid.uuid4()), str(uuid.uuid4())
    return {
        "id": {"uuid": str(uuid.uuid4()), "version": "1"},
        "datastores": [{"id": datastore, "dType": "DsHttp", "fqdn": url}],
        "networkInstances": [
            {
                "uuidandversion": {"uuid": network, "version": "1"},
                "displayname": "local",
                "instType": "ZnetInstLocal",
                "activate": True,
                "ipType": "IPV4",
                "ip": {
                    "subnet": "10.1.0.0/24",
                    "gateway": "10.1.0.1",
                    "dhcpRange": {"start": "10.1.0.2", "end": "10.1.0.200"},
                },
            }
        ],
        "apps": [
            {
                "uuidandversion": {"uuid": app_id, "version": "1"},
                "displayname": APP_NAME,
                "fixedresources": {"memory": 65536, "vcpus": 1},
                "drives": [],
                "interfaces": [{"name": "eth0", "networkId": network}],
                "activate": True,
            }
        ],
    }


def _datastore(whole: dict[str, Any]) -> str:
    return str(whole["datastores"][0]["id"])


def _drive(image: Image, datastore: str, target: str) -> dict[str, Any]:
    return {
        "image": {
            "uuidandversion": {"uuid": str(uuid.uuid4()), "version": "1"},
            "name": image.name,
            "sha256": image.sha256,
            "iformat": "RAW",
            "siginfo": {},
            "dsId": datastore,
            "sizeBytes": str(len(image.content)),
        },
        "readonly": True,
        "drvtype": "HDD",
        "target": target,
    }


class Seen(NamedTuple):
    """One change that an onlooker saw."""

    agent: str
    topic: str
    key: str
    text: str  # what the record says, in a few words; "gone" after a delete
    progress: int | None = None  # percent of a download


class Onlooker:
    """Follows the tables of the way to RUNNING, as `pillar watch` would, and calls `tell` with what is new in words."""

    def __init__(self, root: str, tell: Callable[[Seen], None]) -> None:
        self._pubsub = PubSub(root)
        self._tell = tell
        self._last: dict[tuple[str, str, str], str] = {}
        # In the order of the flow: what happens within one look is told in this order.
        self._follow("zedagent", AppInstanceConfig, lambda record: "configured: " + record.DisplayName)
        self._follow("zedmanager", DownloaderConfig, _wanted, "appImg.obj")
        self.downloads = self._follow("downloader", DownloaderStatus, _download, "appImg.obj")
        self._follow("zedmanager", VerifyImageConfig, _wanted, "appImg.obj")
        self._follow("verifier", VerifyImageStatus, _verification, "appImg.obj")
        self._follow("zedmanager", AppNetworkConfig, _activation)
        self.networks = self._follow("zedrouter", AppNetworkStatus, _network)
        self._follow("zedmanager", DomainConfig, _activation)
        self.domains = self._follow("domainmgr", DomainStatus, _domain)
        self.apps = self._follow("zedmanager", AppInstanceStatus, _app)

    def wait(self, seconds: float) -> None:
        """Wait for changes, for at most this long, and tell them."""
        self._pubsub.wait(seconds)

    def close(self) -> None:
        """Stop looking."""
        self._pubsub.close()

    def _follow(self, agent: str, record_type: type[Any], words: Callable[[Any], str], scope: str = "") -> Any:
        def show(key: str, record: Any, old: object = None) -> None:
            self._show(agent, record_type.__name__, key, words(record), getattr(record, "Progress", None))

        def gone(key: str, last: object) -> None:
            self._show(agent, record_type.__name__, key, "gone")

        return self._pubsub.subscription(agent, record_type, scope=scope, create=show, modify=show, delete=gone)

    def _show(self, agent: str, topic: str, key: str, text: str, progress: int | None = None) -> None:
        if self._last.get((agent, topic, key)) != text or progress is not None:
            self._last[agent, topic, key] = text
            self._tell(Seen(agent, topic, key, text, progress))


def _wanted(record: DownloaderConfig | VerifyImageConfig) -> str:
    return f"{record.RefCount} in use"


def _activation(record: AppNetworkConfig | DomainConfig) -> str:
    return "active" if record.Activate else "inactive"


def _app(record: AppInstanceStatus) -> str:
    return _with_error(SwState(record.State).name, record.Error)


def _domain(record: DomainStatus) -> str:
    return _with_error(SwState(record.State).name, record.LastErr)


def _network(record: AppNetworkStatus) -> str:
    addresses = [vif.AllocatedIPAddr for vif in record.UnderlayNetworkList or ()]
    text = f"app number {record.AppNum}, address {', '.join(addresses)}" if record.Activated else "being prepared"
    return _with_error(text, record.Error)


def _download(record: DownloaderStatus) -> str:
    state = SwState(record.State).name if record.State else "waiting"
    return _with_error(f"{state}, {record.RefCount} in use" if record.RefCount == 0 else state, record.LastErr)


def _verification(record: VerifyImageStatus) -> str:
    state = "verifying" if record.PendingAdd else SwState(record.State).name
    return _with_error(f"{state}, {record.RefCount} in use" if record.RefCount == 0 else state, record.LastErr)


def _with_error(text: str, error: str) -> str:
    return f"{text}: {error}" if error else text
