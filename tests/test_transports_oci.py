"""Container images from a real registry, with downloader and verifier as real processes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from container_images import LAYER_BYTES, ContainerDevice, digests, manifest, unpack
from containers import needs_runc
from device import Device
from remote_servers import CountingProxy, Registry
from servers import eventually

from pillar.below import files_below
from pillar.demo import device as demo
from pillar.demo.eco import Image
from pillar.ociimage import MANIFEST_TYPES, Index, Layout, NotAnImage, as_oci, choose, read_document
from pillar.transports import TransportFailed
from pillar.transports.oci import parse

pytest_plugins = ("container_fixtures",)

MIB = 1024 * 1024
OVERHEAD = 64 * 1024  # headers and documents, of both attempts
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


# ---- the whole way


def test_an_image_by_tag_is_fetched_verified_and_can_be_unpacked(
    device: ContainerDevice, registry: Registry, layout: Path, tmp_path: Path
):
    device.datastore(registry.url)
    key = device.want("one:v1")
    device.downloader.start()
    digest, content = manifest(layout, "one")
    status = device.statuses.wait(key, State=3, LastErr="")
    total = sum(part["size"] for part in (content["config"], *content["layers"]))
    assert status["ContainerImageID"] == digest
    assert status["Size"] == total + (layout / "blobs" / "sha256" / digest[7:]).stat().st_size
    assert device.blobs() == digests(layout, "one")
    for name in device.blobs():
        assert hashlib.sha256((device.layout / "blobs" / "sha256" / name).read_bytes()).hexdigest() == name
    device.verify(key)
    device.verifier.start()
    delivered = device.verified.wait(key, State=4, LastErr="")
    assert (delivered["ImageSha256"], delivered["Size"]) == (digest[7:], status["Size"])
    rootfs = unpack(device.layout, digest[7:], tmp_path / "bundle")
    assert (rootfs / "who").read_bytes() == b"one"
    assert (rootfs / "big").stat().st_size == LAYER_BYTES


def test_a_layer_of_two_images_is_fetched_once_and_stays_until_the_last_of_them_goes(
    device: ContainerDevice, registry: Registry, layout: Path
):
    proxy = CountingProxy(registry.port)
    try:
        device.datastore(f"http://127.0.0.1:{proxy.port}")
        first, second = device.want("one:v1"), device.want("two:v1")
        device.downloader.start()
        for key in (first, second):
            device.statuses.wait(key, State=3, LastErr="")
        assert proxy.sent < LAYER_BYTES + 4 * 70_000 + OVERHEAD
    finally:
        proxy.close()
    assert device.blobs() == digests(layout, "one") | digests(layout, "two")
    device.configs.remove(first)
    device.statuses.wait_gone(first)
    eventually(lambda: device.blobs() == digests(layout, "two"), "what only the first had is gone")
    device.configs.remove(second)
    device.statuses.wait_gone(second)
    eventually(lambda: device.blobs() == set(), "nothing is left")


def test_with_imagesha256_it_is_fetched_by_that_digest_though_the_tag_moved_on(
    device: ContainerDevice, registry: Registry, layout: Path
):
    registry.push(layout, "one", "apps/moving:v1")
    registry.push(layout, "two", "apps/moving:v1")
    device.datastore(registry.url)
    sha256 = manifest(layout, "one")[0][7:]
    key = device.want("moving:v1", ImageSha256=sha256.upper())
    device.downloader.start()
    device.statuses.wait(key, State=3, ContainerImageID=f"sha256:{sha256}")
    assert (
        next((device.downloads / "pending").glob("*/*")).read_bytes()
        == (layout / "blobs" / "sha256" / sha256).read_bytes()
    )


@pytest.mark.parametrize("kind", ["index", "docker"])
def test_an_index_gives_the_image_of_this_platform_and_docker_s_form_is_unpacked_too(
    device: ContainerDevice, registry: Registry, layout: Path, tmp_path: Path, kind: str
):
    if kind == "docker":
        registry.push(layout, "two", "apps/docker:v1", "--format", "v2s2")
        key = device.want("docker:v1")
    else:
        for tag in ("one", "two"):
            registry.push(layout, tag, f"apps/many:{tag}")
        entries = []
        for tag, architecture in (("one", "s390x"), ("two", "amd64"), ("two", "arm64"), ("two", "riscv64")):
            got = requests.get(
                f"{registry.url}/v2/apps/many/manifests/{tag}", headers={"Accept": MANIFEST_TYPES[0]}, timeout=10
            )
            entries.append({
                "mediaType": MANIFEST_TYPES[0], "digest": got.headers["Docker-Content-Digest"],
                "size": len(got.content), "platform": {"os": "linux", "architecture": architecture},
            })  # fmt: skip
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
        put = requests.put(
            f"{registry.url}/v2/apps/many/manifests/v1", data=index, headers={"Content-Type": INDEX_TYPE}, timeout=10
        )
        assert put.status_code == 201, put.text
        key = device.want("many:v1", ImageSha256=hashlib.sha256(index.encode()).hexdigest())
    device.datastore(registry.url)
    device.downloader.start()
    status = device.statuses.wait(key, State=3, LastErr="")
    sha256 = status["ContainerImageID"].removeprefix("sha256:")
    device.verify(key, ImageSha256=status["ImageSha256"])
    device.verifier.start()
    device.verified.wait(key, State=4, LastErr="")
    assert (unpack(device.layout, sha256, tmp_path / "bundle") / "who").read_bytes() == b"two"


def test_the_verifier_finds_a_changed_or_missing_blob(device: ContainerDevice, registry: Registry, layout: Path):
    device.datastore(registry.url)
    key = device.want("one:v1")
    device.downloader.start()
    device.statuses.wait(key, State=3, LastErr="")
    layer = manifest(layout, "one")[1]["layers"][0]["digest"][7:]
    blob = device.layout / "blobs" / "sha256" / layer
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.write(b"swapped")
    device.verify(key)
    device.verifier.start()
    text = device.verified.wait(key, LastErr=lambda text: text != "")["LastErr"]
    assert text.startswith(f"sha256 mismatch: the blob sha256:{layer} hashes to ")
    assert not blob.exists()
    assert not list((device.downloads / "verified").glob("*/*"))


def verified(device: ContainerDevice, registry: Registry) -> str:
    """Fetch the container one:v1 and have it verified; its key."""
    device.datastore(registry.url)
    key = device.want("one:v1")
    device.downloader.start()
    device.statuses.wait(key, State=3, LastErr="")
    device.verify(key)
    device.verifier.start()
    device.verified.wait(key, State=4, LastErr="")
    return key


def test_a_restarted_verifier_offers_a_good_container_at_once_though_nobody_is_there_to_ask(
    device: ContainerDevice, registry: Registry
):
    key = verified(device, registry)
    device.verifier.kill()
    shutil.rmtree(device.verify_configs.directory)
    device.verifier.start()
    assert (device.verified.read(key) or {})["State"] == 4, "its blobs are known to be good and not to be read again"


def test_a_blob_changed_while_the_verifier_was_away_is_found_when_it_comes_back(
    device: ContainerDevice, registry: Registry, layout: Path
):
    key = verified(device, registry)
    device.verifier.kill()
    layer = manifest(layout, "one")[1]["layers"][0]["digest"][7:]
    (device.layout / "blobs" / "sha256" / layer).unlink()
    device.verifier.start()
    text = device.verified.wait(key, LastErr=lambda text: text != "", State=3)["LastErr"]
    assert "no downloaded image" in text
    assert f"sha256:{layer} is not here" in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("docker://docker.io/alpine", "https registry-1.docker.io library/alpine latest"),
        ("docker://docker.io/grafana/grafana:9", "https registry-1.docker.io grafana/grafana 9"),
        ("docker://registry.example.com:5000/a/b/c:v1.2_x-y", "https registry.example.com:5000 a/b/c v1.2_x-y"),
        ("http://[::1]:5000/a", "http [::1]:5000 a latest"),
        (f"docker://h/a:b@sha256:{'c' * 64}", f"https h a sha256:{'c' * 64}"),
    ],
)
def test_names_of_images(url: str, expected: str):
    got = parse(url)
    assert f"{got.scheme} {got.host} {got.repository} {got.version}" == expected


@pytest.mark.parametrize(
    "url", ["docker://h", "ftp://h/a", "docker://me:pw@h/a", "docker://h/a:", "docker://h/a@sha256:1"]
)
def test_what_is_no_name_of_an_image(url: str):
    with pytest.raises(TransportFailed) as refused:
        parse(url)
    assert "pw" not in str(refused.value)


def test_the_nearest_platform_of_an_index_is_taken():
    def index(*names: str) -> Index:
        digest = {"mediaType": MANIFEST_TYPES[0], "size": 1}
        keys = ("os", "architecture", "variant")
        entries = [
            {**digest, "digest": f"sha256:{number:064}", "platform": dict(zip(keys, name.split("/"), strict=False))}
            for number, name in enumerate(names)
        ]
        read = read_document(json.dumps({"manifests": entries}).encode())
        assert isinstance(read, Index)
        return read

    several = index("linux/amd64", "linux/arm", "linux/arm/v7", "linux/arm64/v8", "unknown/unknown")
    for wanted, number in (("linux/arm/v7", 2), ("linux/arm/v6", 1), ("linux/arm64", 3), ("linux/amd64", 0)):
        assert choose(several, wanted).sha256 == f"{number:064}"
    with pytest.raises(NotAnImage, match="no image for linux/riscv64, only for linux/amd64, linux/arm,"):
        choose(several, "linux/riscv64")


def test_docker_s_manifest_in_oci_s_form_names_the_same_blobs(layout: Path):
    content = manifest(layout, "one")[1]
    docker = json.loads(json.dumps(content))
    docker["mediaType"] = MANIFEST_TYPES[1]
    docker["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for layer in docker["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    turned = json.loads(as_oci(json.dumps(docker).encode()))
    assert turned == {**content, "mediaType": MANIFEST_TYPES[0]}


# ---- killed


def stored(device: ContainerDevice) -> int:
    """Bytes of blobs on the disk, complete or not."""
    files = files_below(device.layout)
    return sum(status.st_size for path, status in files if path.parent.name in ("sha256", "incoming"))


KILL_POINTS = [at + off for at in range(0, LAYER_BYTES, 64 * 1024) for off in (-1, 0, 1) if at + off > 0]
KILL_STEPS = [1, 400, 900, 1_400, 2_000]  # bytes of the registry's: documents, the config, the first layer's header


def test_killed_anywhere_at_most_a_mebibyte_is_fetched_again(device: ContainerDevice, registry: Registry, layout: Path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    kill_at_each(sorted(chosen.sample(KILL_POINTS, 3) + chosen.sample(KILL_STEPS, 2)), device, registry, layout)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_at_every_64_kib_at_most_a_mebibyte_is_fetched_again(
    device: ContainerDevice, registry: Registry, layout: Path
):
    kill_at_each(KILL_STEPS + KILL_POINTS, device, registry, layout)


def kill_at_each(points: list[int], device: ContainerDevice, registry: Registry, layout: Path) -> None:
    whole = digests(layout, "one")
    size = sum((layout / "blobs" / "sha256" / name).stat().st_size for name in whole)
    proxy = CountingProxy(registry.port)
    losses = []
    try:
        device.datastore(f"http://127.0.0.1:{proxy.port}")
        for point in points:
            before = proxy.sent
            proxy.hold_at(point)
            key = device.want("one:v1")
            device.downloader.start()
            eventually(proxy.holding.is_set, "the proxy holds", 60)
            if point % 2:  # the others are killed at once, with bytes in the kernel's and in the process's hands
                eventually(lambda point=point: stored(device) >= point - OVERHEAD, "what came is on the disk")
            device.downloader.kill()
            proxy.release()
            device.downloader.start()
            device.statuses.wait(key, State=3, LastErr="")
            assert device.blobs() == whole
            again = proxy.sent - before - size
            assert again <= MIB + OVERHEAD, f"killed after {point} bytes: {again} were fetched again"
            losses.append(again)
            device.configs.remove(key)
            device.statuses.wait_gone(key)
            eventually(lambda: device.blobs() == set(), "it is gone again")
            device.downloader.kill()
    finally:
        proxy.close()
    print(f"{len(losses)} kills, {max(losses)} bytes again at most, {sum(losses) // len(losses)} on the average")


# ---- on a whole device


@pytest.mark.parametrize("named", ["by tag", "by digest"])
def test_a_container_app_gets_as_far_as_the_program_that_its_image_lacks(
    registry: Registry, layout: Path, root: Path, tmp_path: Path, named: str
):
    needs_runc()
    sha256 = manifest(layout, "one")[0].removeprefix("sha256:")
    image = Image("apps/one:v1", b"", sha256 if named == "by digest" else "")
    app_id = str(uuid.uuid4())
    config = demo.config(image, registry.url, app_id)
    config["datastores"][0]["dType"] = "DsContainerRegistry"
    config["apps"][0]["drives"][0]["image"]["iformat"] = "CONTAINER"
    with Device(root) as whole:
        whole.deploy(config)
        status = whole.wait_error(app_id, 'exec: "/bin/one": stat /bin/one: no such file or directory')
        assert status.ContainerImageID == f"sha256:{sha256}"
        assert whole.domain(app_id).ContainerImageID == f"sha256:{sha256}"
    oci = root / "persist" / "downloads" / "appImg.obj" / "oci"
    assert (unpack(oci, sha256, tmp_path / "bundle") / "who").read_bytes() == b"one"


# ---- the layout by itself


def test_several_may_prepare_one_layout_and_keep_the_same_document(tmp_path: Path):
    layout = Layout(tmp_path / "oci")
    start = threading.Barrier(8)

    def keep(_: int) -> str:
        start.wait(timeout=10)
        layout.prepare()
        return layout.keep(b"{}" * 10_000)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(keep, range(8)))) == 1
    assert len(list(layout.blobs.iterdir())) == 1


def test_what_a_killed_writer_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path):
    layout = Layout(tmp_path / "oci")
    layout.prepare()
    old, new = (layout.blobs / f".{name}.new" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"{")
    os.utime(old, (1, 1))
    assert layout.sweep([]) == []
    assert (old.exists(), new.exists()) == (False, True)
