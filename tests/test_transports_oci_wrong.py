"""Container registries that want a login, send us elsewhere or lie, and names that are wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from container_images import ContainerDevice, manifest
from remote_servers import Registry
from servers import Authority, Fault, FaultServer

from pillar.ociimage import MANIFEST_TYPES

pytest_plugins = ("container_fixtures", "server_fixtures")


# ---- logins and TLS


def test_login_and_private_ca(device: ContainerDevice, layout: Path, tmp_path: Path):
    ca = Authority()
    server = Registry(
        tmp_path / "registry", login=("me", "s3cr3t-word"), tls=ca.issue("registry", ca=False, hosts=("127.0.0.1",))
    )
    try:
        server.push(layout, "one", "apps/one:v1")
        device.datastore(f"docker://{server.host}", ApiKey="me", Password="wrong-word")
        key = device.want("one:v1")
        device.downloader.start()
        assert "certificate verify failed" in device.error(key)
        (device.root / "config").mkdir(exist_ok=True)
        (device.root / "config" / "root-certificate.pem").write_bytes(ca.pem)
        device.datastore(f"docker://{server.host}", ApiKey="me", Password="wrong-word2")
        # Not "401": that can be part of the server's port.
        device.statuses.wait(key, LastErr=lambda text: "not allowed for user me" in text)
        device.datastore(f"docker://{server.host}")
        told = device.statuses.wait(key, LastErr=lambda text: "wants a login" in text)["LastErr"]
        assert "ApiKey (user) and Password" in told
        device.datastore(f"docker://{server.host}", ApiKey="me", Password="s3cr3t-word")
        device.statuses.wait(key, State=3, LastErr="")
    finally:
        server.close()
    device.downloader.kill()  # whose files come and go
    told_by = [
        path.read_text() for path in (*device.root.rglob("*.log"), *device.root.glob("run/downloader/**/*.json"))
    ]
    assert not any(word in text for text in told_by for word in ("s3cr3t-word", "wrong-word"))


def fake(server: FaultServer, layout: Path, *, name: str = "one") -> str:
    """The image on a server of ours; returns the path of its manifest."""
    digest, content = manifest(layout, name)
    path = f"/v2/apps/{name}/manifests/v1"
    blobs = layout / "blobs" / "sha256"
    server.put(path, (blobs / digest[7:]).read_bytes())
    for part in (content["config"], *content["layers"]):
        server.put(f"/v2/apps/{name}/blobs/{part['digest']}", (blobs / part["digest"][7:]).read_bytes())
    return path


def challenge(realm: str, token: str = "") -> Fault:
    """What every request gets that does not bring this token."""
    headers = {"WWW-Authenticate": f'Bearer realm="{realm}",service="registry",scope="x:y:z"'}
    return Fault(status=401, headers=headers, times=99, unless=f"Bearer {token}")


def typed() -> Fault:
    return Fault(headers={"Content-Type": MANIFEST_TYPES[0]}, times=99)


def test_a_token_of_the_registry_s_own_host_is_asked_for_with_the_login_and_used(
    device: ContainerDevice, fault_server: FaultServer, layout: Path
):
    path = fake(fault_server, layout)
    fault_server.put("/token", b'{"token": "the.token"}')
    fault_server.fault(path, challenge(fault_server.url("/token"), "the.token"), typed())
    device.datastore(
        fault_server.url(""),
        ApiKey="me",
        Password="pw",
    )
    key = device.want("one:v1")
    device.downloader.start()
    device.statuses.wait(key, State=3, LastErr="")
    (asked,) = [seen for seen in fault_server.seen if seen.path.startswith("/token")]
    assert asked.headers["authorization"].startswith("Basic ")
    assert asked.path == "/token?service=registry&scope=repository:apps/one:pull"  # not what the challenge says
    later = [seen for seen in fault_server.seen if "/blobs/" in seen.path]
    assert {seen.headers["authorization"] for seen in later} == {"Bearer the.token"}


def test_a_token_server_elsewhere_gets_nothing_unless_the_datastore_names_it(
    device: ContainerDevice, fault_server: FaultServer, layout: Path
):
    elsewhere = FaultServer()
    try:
        elsewhere.put("/token", b'{"token": "a"}')
        path = fake(fault_server, layout)
        fault_server.fault(path, challenge(elsewhere.url("/token"), "a"), typed())
        device.datastore(fault_server.url(""), ApiKey="me", Password="pw")
        key = device.want("one:v1")
        device.downloader.start()
        text = device.error(key)
        assert f"docker://;realm=127.0.0.1:{elsewhere.port}@127.0.0.1:{fault_server.port}" in text
        assert elsewhere.seen == []
        device.datastore(
            f"http://;realm=127.0.0.1:{elsewhere.port}@127.0.0.1:{fault_server.port}", ApiKey="me", Password="pw"
        )
        device.statuses.wait(key, State=3, LastErr="")
        assert len(elsewhere.seen) == 1
    finally:
        elsewhere.close()


# ---- registries that lie, and names that are wrong


def lie(kind: str, server: FaultServer, layout: Path) -> None:
    path = fake(server, layout)
    content = manifest(layout, "one")[1]
    blob = f"/v2/apps/one/blobs/{content['layers'][0]['digest']}"
    match kind:
        case "other manifest":
            server.fault(
                path, Fault(headers={**typed().headers, "Docker-Content-Digest": f"sha256:{'0' * 64}"}, times=99)
            )
        case "other layer":
            server.put(blob, b"x" * content["layers"][0]["size"])
        case "longer layer":
            server.put(blob, b"x" * (content["layers"][0]["size"] + 1))
        case "shorter layer":
            server.put(blob, b"x")
        case "html":
            server.put(path, b"<html>please log in</html>")
        case "wrong type":
            server.put(path, b'{"schemaVersion": 1, "name": "x"}')
            old = "application/vnd.docker.distribution.manifest.v1+prettyjws"
            server.fault(path, Fault(headers={"Content-Type": old}, times=99))
        case "artifact":
            content["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
            server.put(path, json.dumps(content).encode())
            server.fault(path, typed())
        case "odd layer":
            content["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            server.put(path, json.dumps(content).encode())
            server.fault(path, typed())
        case "odd digest":
            content["layers"][0]["digest"] = "sha256:../../../etc/passwd"
            server.put(path, json.dumps(content).encode())
            server.fault(path, typed())
        case "blob gone":
            del server.objects[blob]
        case "no token":
            server.put("/token", b"{}")
            server.fault(path, challenge(server.url("/token")))
        case "token refused":
            server.fault("/token", Fault(status=403, times=99))
            server.fault(path, challenge(server.url("/token")))
    server.fault(path, typed())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("other manifest", "the registry sent a manifest that hashes to sha256:"),
        ("other layer", "bytes that hash to sha256:"),
        ("longer layer", "bytes, only"),
        ("shorter layer", "the registry sent 1 bytes that hash to sha256:"),
        ("html", "cannot be used: it is not JSON"),
        ("wrong type", "its media type is 'application/vnd.docker.distribution.manifest.v1+prettyjws'"),
        ("artifact", "an artifact of type 'application/vnd.cncf.helm.config.v1+json', not a container image"),
        ("odd layer", "a layer has the media type"),
        ("odd digest", "is not sha256: and 64 hexadecimal digits"),
        ("blob gone", "404 Not Found"),
        ("no token", "answers without a usable token"),
        ("token refused", "refuses us without a login"),
    ],
)
def test_a_registry_that_lies_is_an_error_that_says_what_it_sent(
    device: ContainerDevice, fault_server: FaultServer, registry: Registry, layout: Path, kind: str, text: str
):
    lie(kind, fault_server, layout)
    device.datastore(fault_server.url(""))
    key = device.want("one:v1")
    device.downloader.start()
    assert text in device.error(key)
    assert not list((device.downloads / "pending").glob("*/*"))
    for name in device.blobs() if device.layout.exists() else ():
        assert hashlib.sha256((device.layout / "blobs" / "sha256" / name).read_bytes()).hexdigest() == name
    device.datastore(registry.url)  # it is mended
    device.statuses.wait(key, State=3, LastErr="")


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("one:v2", {}, "apps/one:v2: http://127.0.0.1:"),
        ("nothing", {}, "404 Not Found: no such repository or tag; MANIFEST_UNKNOWN"),
        ("One:v1", {}, "is no image name"),
        ("../x:v1", {}, "is no image name"),
        ("one:v1", {"ImageSha256": "0" * 64}, f"apps/one@sha256:{'0' * 64}"),
        (f"one@sha256:{'1' * 64}", {"ImageSha256": "0" * 64}, "named by that digest, but ImageSha256 is 000"),
        ("one:v1", {"IsContainer": False}, "iformat is not CONTAINER"),
    ],
)
def test_a_wrong_name_is_said(
    device: ContainerDevice, registry: Registry, name: str, fields: dict[str, Any], text: str
):
    device.datastore(registry.url)
    key = device.want(name, key="k", **fields)
    device.downloader.start()
    assert text in device.error(key)
