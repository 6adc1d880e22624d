"""Container images for the tests, made with umoci, and the device that fetches them."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from agentproc import AgentProcess, Table
from servers import needs

STORE = "bc51aa4c-897f-4394-9f3a-760fe1affc4e"
LAYER_BYTES = 8 * 1024 * 1024


def make_layout(directory: Path) -> Path:
    """An OCI layout with the images `one` and `two`: a large layer of both, a small one of each."""
    layout = directory / "layout"
    _umoci("init", "--layout", layout)
    _umoci("new", "--image", f"{layout}:base")
    _layer(layout, "base", directory, {"big": random.Random(11).randbytes(LAYER_BYTES)})
    for name in ("one", "two"):
        _umoci("tag", "--image", f"{layout}:base", name)
        _layer(layout, name, directory, {"who": name.encode(), "more": random.Random(name).randbytes(70_000)})
        _umoci("config", "--image", f"{layout}:{name}", "--config.cmd", f"/bin/{name}")
    return layout


def _layer(layout: Path, tag: str, directory: Path, files: dict[str, bytes]) -> None:
    bundle = directory / f"bundle-{tag}"
    _umoci("unpack", "--rootless", "--image", f"{layout}:{tag}", bundle)
    for name, content in files.items():
        (bundle / "rootfs" / name).write_bytes(content)
    _umoci("repack", "--image", f"{layout}:{tag}", bundle)


def _umoci(command: str, *arguments: object) -> None:
    words = [needs("umoci", "umoci"), command, *map(str, arguments)]
    subprocess.run(words, check=True, timeout=60, capture_output=True)


def unpack(layout: Path, name: str, target: Path) -> Path:
    """The root file system of an image of a layout, as umoci unpacks it."""
    _umoci("unpack", "--rootless", "--image", f"{layout}:{name}", target)
    return target / "rootfs"


def manifest(layout: Path, tag: str) -> tuple[str, dict[str, Any]]:
    """Digest and content of an image's manifest."""
    index = json.loads((layout / "index.json").read_bytes())
    digest = next(
        entry["digest"]
        for entry in index["manifests"]
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag
    )
    content = (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
    return digest, json.loads(content)


def digests(layout: Path, tag: str) -> set[str]:
    """Of everything that an image consists of, in hex."""
    digest, content = manifest(layout, tag)
    parts = [digest, content["config"]["digest"], *(layer["digest"] for layer in content["layers"])]
    return {part.removeprefix("sha256:") for part in parts}


class ContainerDevice:
    """A root with downloader and verifier, and the tables around them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stores = Table(root, "zedagent", "DatastoreConfig")
        self.configs = Table(root, "zedmanager", "DownloaderConfig", "appImg.obj")
        self.statuses = Table(root, "downloader", "DownloaderStatus", "appImg.obj")
        self.verify_configs = Table(root, "zedmanager", "VerifyImageConfig", "appImg.obj")
        self.verified = Table(root, "verifier", "VerifyImageStatus", "appImg.obj")
        self.downloads = root / "persist" / "downloads" / "appImg.obj"
        self.layout = self.downloads / "oci"
        self.downloader = AgentProcess(root, "downloader")
        self.verifier = AgentProcess(root, "verifier")

    def datastore(self, fqdn: str, **fields: Any) -> None:
        record = {"UUID": STORE, "DsType": "DsContainerRegistry", "Fqdn": fqdn, "Dpath": "apps"}
        self.stores.write(STORE, **{**record, **fields})

    def want(self, name: str, key: str = "", **fields: Any) -> str:
        key = key or name.replace("/", " ")
        record = {"DatastoreID": STORE, "Safename": key, "Name": name, "IsContainer": True, "RefCount": 1}
        self.configs.write(key, **{**record, **fields})
        return key

    def error(self, key: str) -> str:
        text: str = self.statuses.wait(key, LastErr=lambda text: text != "", State=1)["LastErr"]
        return text

    def verify(self, key: str, **fields: Any) -> None:
        container = (self.statuses.read(key) or {})["ContainerImageID"]
        record = {"Safename": key, "Name": key, "IsContainer": True, "ContainerImageID": container, "RefCount": 1}
        self.verify_configs.write(key, **{**record, **fields})

    def blobs(self) -> set[str]:
        """Those in place; what is still being written has a name with a dot."""
        return {path.name for path in (self.layout / "blobs" / "sha256").iterdir() if path.name[0] != "."}
