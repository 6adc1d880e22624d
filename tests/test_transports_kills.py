"""kill -9 at every 64 KiB boundary of an object and the bytes beside it, and at every step of the protocol.

After each kill the next process goes on; at most one chunk (1 MiB) of what had been sent is fetched again, counted at
the server's side. About half of the kills come when all that was sent is written, so nothing may be lost; the others
at once, in the middle of reading and writing.

The suite kills at a seeded sample of the points, `--full` at all of them.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_servers import REGION, Azurite, Moto, Radosgw, s3_client
from countingproxy import CountingProxy
from forker import Forker
from servers import Nginx, eventually
from support import stop

from pillar.transports import Source, partfile
from pillar.transports.pieces import PIECE_BYTES, Pieces

pytestmark = pytest.mark.timeout(1800)  # for --full; the sample takes seconds

MIB = 1024 * 1024
CHUNK = MIB
SIZE = 8 * MIB
CONTENT = random.Random(8).randbytes(SIZE)
SHA = hashlib.sha256(CONTENT).hexdigest()
LARGE = random.Random(9).randbytes(4 * PIECE_BYTES + 12345)
BOUNDARIES = range(0, SIZE + 1, 64 * 1024)
POINTS = sorted({point for edge in BOUNDARIES for point in (edge - 1, edge, edge + 1) if 0 <= point < SIZE})
SAMPLE = 10


class Store:
    """A server with the object, behind the counting proxy."""

    def __init__(self, server: Any, proxy: CountingProxy, source: Source) -> None:
        self.server, self.proxy, self.source = server, proxy, source


def _fill(server: Any) -> None:
    objects = {"a": CONTENT, "large": LARGE}
    if isinstance(server, Nginx):
        (server.root / "images").mkdir()
        for name, content in objects.items():
            (server.root / "images" / name).write_bytes(content)
    elif isinstance(server, Azurite):
        from azure.storage.blob import BlobServiceClient

        container = BlobServiceClient(server.endpoint, credential=server.key).create_container("images")
        for name, content in objects.items():
            container.upload_blob(name, content)
    else:
        client = s3_client(server)
        client.create_bucket(Bucket="images")
        for name, content in objects.items():
            client.put_object(Bucket="images", Key=name, Body=content)


def _source(kind: str, port: int, server: Any, name: str) -> Source:
    at = f"http://127.0.0.1:{port}"
    if kind == "http":
        return Source("DsHttp", f"{at}/images/{name}")
    if kind == "azure":
        at = f"{at}/{server.account}"
        login = {"fqdn": at, "api_key": server.account, "password": server.key}
        return Source("DsAzureBlob", f"{at}/images/{name}", "images", name, **login)
    login = {"fqdn": at, "api_key": server.key, "password": server.secret, "region": REGION}
    return Source("DsS3", f"{at}/images/{name}", "images", name, **login)


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture(scope="module", params=["http", "radosgw", "moto", "azure"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="pillar-kills-", ignore_cleanup_errors=True) as directory:
        here = Path(directory)
        kinds: dict[str, Any] = {"http": Nginx, "radosgw": Radosgw, "moto": Moto, "azure": Azurite}
        server = kinds[request.param](here)
        proxy = CountingProxy(server.port)
        try:
            _fill(server)
            yield Store(server, proxy, _source(request.param, proxy.port, server, "a"))
        finally:
            proxy.close()
            server.close()


def present(target: Path, size: int) -> int:
    """How many bytes of the object a new process would find."""
    part = partfile.part_path(target)
    spans = part.with_name(part.name + ".spans")
    if not part.exists():
        return 0
    if not spans.exists():
        return part.stat().st_size
    pieces = Pieces(spans, size, PIECE_BYTES)
    try:
        return pieces.present
    finally:
        pieces.close()


def killed_at(
    points: list[int], store: Store, forker: Forker, target: Path, size: int, streams: int, seed: int
) -> tuple[dict[str, Any], list[int]]:
    """Fetch, killed when so many bytes had come in all, again and again; then to the end. Returns result and losses."""
    at_once = random.Random(seed)
    losses = []
    for point in points:
        had = present(target, size)
        if point < had:
            continue
        store.proxy.allow(point - had)
        pid = forker.start(store.source, target, streams)
        assert store.proxy.wait_held(30), f"nothing more came at byte {point}"
        if at_once.random() < 0.5:
            eventually(lambda point=point: present(target, size) == point, f"{point} bytes are written", 60)
        os.kill(pid, signal.SIGKILL)
        assert forker.ended()[0] == -signal.SIGKILL
        losses.append(had + store.proxy.passed - present(target, size))
    had = present(target, size)
    store.proxy.allow(1 << 40)
    forker.start(store.source, target, streams)
    status, result = forker.ended()
    assert status == 0
    assert store.proxy.passed == result["received"] == size - had
    print(f"{len(losses)} kills, {max(losses)} bytes again at most, {sum(losses) // len(losses)} on the average")
    return result, losses


def seeded(request: pytest.FixtureRequest, points: list[int], count: int) -> tuple[list[int], int]:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return (points if request.config.getoption("--full") else sorted(random.Random(seed).sample(points, count))), seed


def test_killed_at_any_byte_at_most_a_chunk_is_fetched_again(
    store: Store, forker: Forker, tmp_path: Path, request: pytest.FixtureRequest
):
    points, seed = seeded(request, POINTS, SAMPLE)
    result, losses = killed_at(points, store, forker, tmp_path / "a", SIZE, 1, seed)
    assert result["sha256"] == SHA
    assert hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest() == SHA
    assert all(0 <= loss <= CHUNK for loss in losses), losses
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_several_streams_killed_at_any_byte_lose_no_more_than_one(
    store: Store, forker: Forker, tmp_path: Path, request: pytest.FixtureRequest
):
    large = Store(store.server, store.proxy, _renamed(store.source, "large"))
    points, seed = seeded(request, list(range(64 * 1024, len(LARGE), 256 * 1024)), 6)
    result, losses = killed_at(points, large, forker, tmp_path / "a", len(LARGE), 4, seed)
    assert result["sha256"] == hashlib.sha256(LARGE).hexdigest()
    assert all(0 <= loss <= CHUNK for loss in losses), losses


@pytest.mark.parametrize("streams", [1, 4])
def test_what_the_kernel_holds_for_a_process_that_lags_behind_is_bounded_too(
    store: Store, forker: Forker, tmp_path: Path, streams: int
):
    """The server could send all of it at once; what the client's kernel takes from it is lost with the process."""
    large = _renamed(store.source, "large")
    store.proxy.allow(1 << 40)
    pid = forker.start(large, tmp_path / "a", streams, bytes_per_s=MIB)  # half a minute, which nobody waits for
    eventually(lambda: present(tmp_path / "a", len(LARGE)) >= MIB, "it lags behind", 60)
    stop(pid)
    taken = [-1]

    def full() -> bool:
        time.sleep(0.1)  # between two looks that have to be equal
        taken.append(store.proxy.delivered)
        return taken[-1] == taken[-2]

    eventually(full, "the kernel takes no more", 60)
    os.kill(pid, signal.SIGKILL)
    assert forker.ended()[0] == -signal.SIGKILL
    assert 0 <= taken[-1] - present(tmp_path / "a", len(LARGE)) <= CHUNK
    forker.start(large, tmp_path / "a", streams)
    assert forker.ended()[1]["sha256"] == hashlib.sha256(LARGE).hexdigest()


def test_killed_at_every_step_before_the_first_byte(store: Store, forker: Forker, tmp_path: Path):
    for headers in (False, True):
        store.proxy.allow(0, headers)
        pid = forker.start(store.source, tmp_path / "a")
        assert store.proxy.wait_held(30)
        os.kill(pid, signal.SIGKILL)
        assert forker.ended()[0] == -signal.SIGKILL
        assert not (tmp_path / "a").exists()
    store.proxy.allow(1 << 40)
    forker.start(store.source, tmp_path / "a")
    assert forker.ended()[1]["sha256"] == SHA
    assert store.proxy.passed == SIZE


def _renamed(source: Source, name: str) -> Source:
    import dataclasses

    url = source.url.rpartition("/")[0] + "/" + name
    return dataclasses.replace(source, url=url, name=name if source.name else "")
