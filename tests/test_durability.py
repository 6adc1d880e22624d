"""What has to survive a power cut is flushed before it is relied on: judged by the calls that agents really make."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from device import AGENT_NAMES, Device, device_config, sleeper
from durable import unsafe

from pillar.crashpoints import Call, Control, NoCompiler, Plan
from pillar.demo.images import ImageServer
from pillar.durable import remove_refused, replacing


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    try:
        control = Control(tmp_path_factory.mktemp("control"), {name: f"pillar.cmd.{name}" for name in AGENT_NAMES})
    except NoCompiler as err:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(err))
    with control:
        yield control


STORES = {
    "identity": """
from pillar.cmd.identitymanager.identity import generate
from pillar.cmd.identitymanager.store import save
save(root, "app:1", generate(1, b"\\xfd"))
""",
    "found identity, its writer killed before the last flush": """
import msgspec
from pillar.cmd.identitymanager.identity import generate
from pillar.cmd.identitymanager.store import load
with (root / "app:1.tmp").open("wb") as file:
    file.write(msgspec.json.encode(generate(1, b"\\xfd")))
    file.flush()
    os.fsync(file.fileno())
(root / "app:1.tmp").rename(root / "app:1.json")
assert load(root, "app:1")
""",
    "removed identity": """
from pillar.cmd.identitymanager.identity import generate
from pillar.cmd.identitymanager.store import remove, save
save(root, "app:1", generate(1, b"\\xfd"))
remove(root, "app:1")
""",
    "replaced file": """
from pillar.durable import replace_file
replace_file(root / "device.json", b"{}")
""",
    "proof of an image": """
from pillar.cmd.verifier.ledger import Entry, Ledger
Ledger(root / "verifier").write("ab", Entry(size=1, mtime_ns=1, ctime_ns=1, inode=1))
""",
    "disk of a domain": """
from pillar.cmd.domainmgr.disks import make_copy
from pillar.types.domainmgr import DiskStatus
(root / "source").write_bytes(b"disk")
image, copy = str(root / "source"), str(root / "img/disk.raw")
make_copy(DiskStatus(Format="raw", FileLocation=image, ActiveFileLocation=copy), lambda: None)
""",
    "certificate": """
from pillar.cmd.baseosmgr.install import install
(root / "source").write_bytes(b"-----BEGIN CERTIFICATE-----")
install(root / "source", root / "certs/root.pem")
""",
    "layer of a container": """
from pillar.ociimage import Layout
layout = Layout(root / "layout")
layout.prepare()
layout.keep(b"{}")
""",
    "arrived layer of a container": """
from pillar.ociimage import Layout
layout = Layout(root / "layout")
layout.prepare()
arrived = layout.incoming / ("ab" * 32)
with arrived.open("wb") as file:
    file.write(b"layer")
    file.flush()
    os.fsync(file.fileno())
layout.accept(arrived.name)
assert layout.blob(arrived.name).exists()
""",
    "root document of a container": """
from types import SimpleNamespace
from pillar.cmd.downloader.containerwork import ContainerDownload
ContainerDownload._place(SimpleNamespace(), b"{}", root / "pending/image")
""",
    "program of a domain": """
from types import SimpleNamespace
from pillar.hypervisors import DomainSpec, process
from pillar.locations import Locations
from pillar.types.domainmgr import DiskConfig, DiskStatus, DomainConfig
(root / "source").write_bytes(b"#!/bin/sh\\n")
image = str(root / "source")
disk = DiskStatus(ImageSha256="ab", ReadOnly=True, Format="raw", FileLocation=image, ActiveFileLocation=image)
process.ProcessHypervisor(Locations(root)).prepare(DomainSpec("app", DomainConfig(), (disk,)))
""",
    "end of a container": """
from pillar.hypervisors._shim import Shim
(root / "exit").mkdir()
Shim(-1, -1, -1, {"exit": str(root / "exit/app.exit"), "oom_files": []}).record(0)
""",
    "sealed copy of an image": """
from pillar.cmd.verifier.seal import seal
(root / "sealed").mkdir()
(root / "sealed/image").write_bytes(b"image")
with (root / "sealed/image").open("r+b"):
    seal(root / "sealed/image")  # somebody may still write: it takes a copy
""",
    "beginning of an object": """
from pillar.transports.base import Identity
from pillar.transports.partfile import PartFile
part = PartFile(root / "object")
part.open("source")
part.begin("source", Identity(6, "1"))
part.append(b"obj")
part.sync()
part.close()
""",
    "downloaded object": """
from pillar.transports.base import Identity
from pillar.transports.partfile import PartFile
part = PartFile(root / "object")
part.open("source")
part.begin("source", Identity(6, "1"))
part.append(b"object")
part.place(root / "object")
part.close()
""",
    "journal of a durable subscription": """
import msgspec
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True):
    text: str = ""
with PubSub(root, "hello") as hello:
    greetings = hello.publication(Greeting, persistent=True)
    for number in range(3):
        greetings.publish(str(number), Greeting(text="x"))
    greetings.unpublish("0")
    with PubSub(root, "reader") as reader:
        reader.subscription("hello", Greeting, persistent=True, durable="all", create=lambda key, new: None)
        while reader.process():
            pass
""",
}


@pytest.mark.parametrize("program", STORES.values(), ids=[name.split()[0] for name in STORES])
def test_a_store_flushes_the_bytes_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, control: Control, program: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    control.begin(Plan(root, ignore=(("*", "/source"),)))
    source = f"import os, sys\nfrom pathlib import Path\nroot = Path(sys.argv[1])\n{program}"
    environment = {**os.environ, **control.environment("store")}
    done = subprocess.run(
        [sys.executable, "-c", source, root], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    calls = control.calls()
    assert any(call.call == "rename" for call in calls)
    kept = ["/app:*.json", "/device.json", "/verifier/*", "*.pem", "/img/*", "/layout/*", "/pending/*"]
    kept += ["/persist/process/*", "/persist/status/*.json", "/object", "/object.part", "*/journal", "/exit/*.exit"]
    assert unsafe(calls, ["*"], kept, ["/app:1.json", "/persist/status/*.json"]) == []


def test_the_rule_bites() -> None:
    def trace(*calls: str) -> list[Call]:
        split = [call.split() for call in calls]
        return [Call(1, 0, 7, "a", words[0], words[-1], words[1], "+", b"") for words in split]

    good = ("create /d/x.new", "write /d/x.new", "fsync /d/x.new", "rename /d/x.new /d/x", "fsync /d")
    assert unsafe(trace(*good), ["/d/*"], ["/d/*"]) == []
    assert unsafe(trace(*good[:2], *good[3:]), ["/d/*"]) == [
        "a: /d/x got its name before its bytes were flushed (write)"
    ]
    assert unsafe(trace(*good[:3], "write /d/x.new", *good[3:]), ["/d/*"]) != []
    assert unsafe(trace(*good[:-1]), ["/d/*"], ["/d/*"]) == ["a: rename of /d/x was never flushed: /d"]
    assert unsafe(trace(*good, "unlink /d/x"), ["/d/*"], [], ["/d/*"]) == ["a: unlink of /d/x was never flushed: /d"]


def test_a_device_flushes_what_it_keeps_before_it_relies_on_it(
    root: Path, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device config, an image with a private copy of it, app and bridge numbers; then the app goes."""
    for name, value in control.environment().items():
        monkeypatch.setenv(name, value)
    control.begin(Plan(root))
    kept = ("checkpoint/*", "img/*", "status/*.json", "verifier/*", "downloads/*/verified/*")
    names = [f"/persist/{name}" for name in kept]

    def wrong() -> list[str]:
        return unsafe(control.calls(), ["/persist/*"], names, ["/persist/status/*.json"])

    server = ImageServer()
    try:
        with Device(root) as device:
            config = device_config(server, sleeper("keeps.img"))
            config["apps"][0]["drives"][0]["readonly"] = False
            app = config["apps"][0]["uuidandversion"]["uuid"]
            device.deploy(config)
            device.wait_running(app, seconds=60)
            device.deploy({**config, "apps": []})
            device.wait_gone(app)
            try:
                device.wait(lambda: not wrong(), "the last changes to be flushed")
            except BaseException as error:
                error.add_note("\n".join(wrong()))
                raise
            calls = control.calls()
    finally:
        server.close()
    assert control.lost() == 0
    written = {call.path.split("/")[2] for call in calls if call.call == "rename" and call.path.startswith("/persist/")}
    assert written >= {"checkpoint", "downloads", "img", "status", "verifier"}, written


def test_what_a_failing_disk_would_not_let_go_is_removed_later(tmp_path: Path) -> None:
    def closed(flag: str) -> None:
        done = subprocess.run(["chattr", flag, tmp_path], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no directory can be made to refuse changes here: {done.stderr}")

    target, staged = tmp_path / "entry.json", tmp_path / "entry.new"
    target.write_text("old")
    try:
        with pytest.raises(PermissionError), replacing(target, staged=staged) as file:
            file.write(b"new")
            closed("+i")
        remove_refused()
        assert staged.exists(), "it is refused as well, and no error"
    finally:
        closed("-i")
    assert target.read_text() == "old"
    remove_refused()
    assert not staged.exists()
    staged.write_text("somebody else's by now")
    remove_refused()
    assert staged.exists()
