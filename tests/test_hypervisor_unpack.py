"""Layers of container images become files below one directory; hostile ones change nothing outside of it."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import needs

from pillar.hypervisors import HypervisorError
from pillar.hypervisors._unpack import BadLayer, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

TAR = "application/vnd.oci.image.layer.v1.tar"
Entry = tuple[str, dict[str, Any], bytes]


def file(name: str, content: bytes = b"", **fields: Any) -> Entry:
    return name, {"size": len(content), "mode": 0o644, **fields}, content


def directory(name: str, **fields: Any) -> Entry:
    return name, {"type": tarfile.DIRTYPE, "mode": 0o755, **fields}, b""


def link(name: str, target: str, **fields: Any) -> Entry:
    return name, {"type": tarfile.SYMTYPE, "linkname": target, **fields}, b""


def hard_link(name: str, target: str) -> Entry:
    return name, {"type": tarfile.LNKTYPE, "linkname": target}, b""


def layer(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields, content in entries:
            member = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Tree:
    """A root to unpack into, with something beside it that must stay as it is."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "rootfs"
        self.root.mkdir()
        self.outside = directory / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("untouched")

    def apply(self, *entries: Entry) -> None:
        self.unpack(layer(*entries))

    def unpack(self, data: bytes, media_type: str = TAR, sha256: str = "") -> None:
        unpack(io.BytesIO(data), media_type, sha256 or hashlib.sha256(data).hexdigest(), self.root)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    def is_untouched(self) -> bool:
        return [path.name for path in self.outside.iterdir()] == ["secret"] and (
            self.outside / "secret"
        ).read_text() == "untouched"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_files_keep_content_owner_permissions_and_times(tree: Tree) -> None:
    tree.apply(
        directory("etc", mtime=1_000_000),
        file("etc/passwd", b"root:x:0:0", uid=7, gid=8, mode=0o640, mtime=1_234_567),
        file("bin/su", b"#!", mode=0o4755, uid=1),
        link("bin/sh", "/bin/busybox", uid=5),
        hard_link("etc/same", "etc/passwd"),
        ("run/pipe", {"type": tarfile.FIFOTYPE, "mode": 0o600}, b""),
    )
    passwd = (tree.root / "etc/passwd").stat()
    assert (passwd.st_uid, passwd.st_gid, stat.S_IMODE(passwd.st_mode), passwd.st_mtime) == (7, 8, 0o640, 1_234_567)
    assert (tree.root / "etc/same").stat().st_ino == passwd.st_ino
    assert stat.S_IMODE((tree.root / "bin/su").stat().st_mode) == 0o4755
    assert os.readlink(tree.root / "bin/sh") == "/bin/busybox"
    assert (tree.root / "bin/sh").lstat().st_uid == 5
    assert stat.S_ISFIFO((tree.root / "run/pipe").stat().st_mode)
    assert (tree.root / "etc").stat().st_mtime == 1_000_000


def test_capabilities_of_files_are_kept_and_the_hosts_attributes_are_not(tree: Tree) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    pax = {
        "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.trusted.overlay.opaque": "y",
    }
    tree.apply(file("ping", b"x", pax_headers=pax))
    assert os.getxattr(tree.root / "ping", "security.capability") == capability
    assert os.listxattr(tree.root / "ping") == ["security.capability"]


def test_an_upper_layer_replaces_and_takes_away(tree: Tree) -> None:
    tree.apply(file("a/old"), file("a/both", b"1"), file("b/one"), file("b/two"), file("c"), link("d", "a"))
    tree.apply(
        file("a/.wh.old"),
        file("a/both", b"2"),
        file("b/new"),
        file("b/.wh..wh..opq"),  # after an entry of its own layer, which stays
        directory("c"),
        directory("d"),
        file("gone/.wh.nothing"),
        file(".wh..wh.plnk"),
    )
    assert tree.files() == {"a", "a/both", "b", "b/new", "c", "d"}
    assert (tree.root / "a/both").read_text() == "2"
    assert not (tree.root / "d").is_symlink()


def test_a_directory_that_comes_again_keeps_its_entries(tree: Tree) -> None:
    tree.apply(directory("etc", mode=0o755), file("etc/a"))
    tree.apply(directory("etc", mode=0o700))
    assert tree.files() == {"etc", "etc/a"}
    assert stat.S_IMODE((tree.root / "etc").stat().st_mode) == 0o700


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "./usr/../usr/lib"])
def test_links_to_directories_lead_to_places_in_the_tree(tree: Tree, target: str) -> None:
    tree.apply(directory("usr"), directory("usr/lib"), link("lib", target))
    tree.apply(file("lib/libc.so", b"x"))
    assert (tree.root / "usr/lib/libc.so").read_text() == "x"
    assert (tree.root / "lib").is_symlink()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (lambda out: [file("../outside/evil")], r"leads out of the image"),
        (lambda out: [file("a/../../outside/evil")], r"leads out of the image"),
        (lambda out: [link("a", "../outside")], r"is a link to '../outside', which leads out"),
        (lambda out: [link("a/b", "x/../../../outside")], r"which leads out"),
        (lambda out: [hard_link("a", "../outside/secret")], r"leads out of the image"),
        (lambda out: [hard_link("a", str(out / "secret"))], r"is a hard link to '.*secret', which the image does not"),
        (lambda out: [link("l", str(out)), hard_link("a", "l/secret")], r"which the image does not have"),
        (lambda out: [link("l", str(out)), file("l/evil")], r"stands below 'l', which is a link to nothing"),
        (lambda out: [link("l", "/proc/self/cwd"), file("l/evil")], r"stands below 'l'"),
        (lambda out: [file("f"), file("f/evil")], r"stands below 'f', which is no directory"),
        (lambda out: [("sda", {"type": tarfile.BLKTYPE, "devmajor": 8}, b"")], r"'sda' is a device"),
        (lambda out: [("x/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")], r"is a device"),
        (lambda out: [("odd", {"type": b"Z"}, b"")], r"has the type b'Z'"),
        (lambda out: [file("a", b"x", pax_headers={"SCHILY.xattr.security.capability": "no"})], r"cannot be unpacked"),
    ],
)
def test_what_leads_out_of_the_tree_is_refused_and_changes_nothing(
    tree: Tree, entries: Callable[[Path], list[Entry]], reason: str
) -> None:
    with pytest.raises(BadLayer, match=reason) as refused:
        tree.apply(file("good"), *entries(tree.outside))
    assert "layer sha256:" in str(refused.value)
    assert tree.is_untouched()


def test_whiteouts_do_not_reach_out_of_the_tree(tree: Tree) -> None:
    tree.apply(
        link("l", str(tree.outside)), file("l/.wh.secret"), file("l/.wh..wh..opq"), file(".wh..."), file(".wh..")
    )
    tree.apply(file(".wh..."), file(".wh.."), file(".wh."))
    assert tree.is_untouched()
    assert tree.files() == {"l"}


def test_an_absolute_name_is_a_place_in_the_tree(tree: Tree) -> None:
    tree.apply(file(f"{tree.outside}/evil"))
    assert tree.is_untouched()


def test_a_link_that_takes_a_files_place_is_not_written_through(tree: Tree) -> None:
    tree.apply(link("conf", str(tree.outside / "secret")))
    tree.apply(file("conf", b"overwritten"))
    assert tree.is_untouched()
    assert (tree.root / "conf").read_text() == "overwritten"


def test_devices_in_dev_are_left_out(tree: Tree) -> None:
    tree.apply(directory("dev"), ("dev/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b""))
    assert tree.files() == {"dev"}


@pytest.mark.parametrize("cut", [10, 700, 1500])
def test_a_damaged_layer_is_named(tree: Tree, cut: int) -> None:
    data = gzip.compress(layer(file("a", os.urandom(4000))))
    with pytest.raises(BadLayer, match=r"layer sha256:[0-9a-f]{64} is damaged"):
        tree.unpack(data[:cut], TAR + "+gzip")


def test_a_layer_changed_after_its_verification_is_an_error(tree: Tree) -> None:
    with pytest.raises(HypervisorError, match="was changed after its verification"):
        tree.unpack(layer(file("a")), sha256="0" * 64)


def test_a_layer_of_several_gzip_members_and_one_of_zstd(tree: Tree) -> None:
    data = layer(file("a", b"1"))
    tree.unpack(gzip.compress(data[:512]) + gzip.compress(data[512:]), TAR + "+gzip")
    assert tree.files() == {"a"}
    zstd = needs("zstd", "zstd")
    packed = subprocess.run([zstd, "-c"], input=layer(file("b")), capture_output=True, check=True).stdout
    tree.unpack(packed, TAR + "+zstd")
    assert tree.files() == {"a", "b"}
    with pytest.raises(BadLayer, match="is damaged"):
        tree.unpack(packed[:20], TAR + "+zstd")


def test_a_full_disk_is_told_and_no_descriptor_stays_open(tree: Tree) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tree.root], check=True)
    try:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="No space left") as full:
            tree.apply(file("deep/in/here", b"x" * 200_000))
        assert "here" in str(full.value.filename)
        assert len(os.listdir("/proc/self/fd")) <= before  # what earlier tests forgot may be collected here
    finally:
        subprocess.run(["umount", tree.root], check=True)


def test_unpacked_trees_are_those_of_umoci(tree: Tree, tmp_path: Path) -> None:
    """The same image, through umoci as root and through us: every file with the same type, owner, mode, content."""
    from container_images import make_layout, manifest

    layout = make_layout(tmp_path)
    _, content = manifest(layout, "one")
    for described in content["layers"]:
        sha256 = described["digest"].removeprefix("sha256:")
        with (layout / "blobs/sha256" / sha256).open("rb") as blob:
            unpack(blob, described["mediaType"], sha256, tree.root)
    theirs = tmp_path / "theirs"
    umoci = needs("umoci", "umoci")
    subprocess.run([umoci, "unpack", "--image", f"{layout}:one", theirs], check=True, capture_output=True)
    assert _described(tree.root) == _described(theirs / "rootfs")
    shutil.rmtree(theirs)


def _described(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    found = {}
    for path in sorted(root.rglob("*")):
        looks = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(looks.st_mode) else b""
        found[str(path.relative_to(root))] = (looks.st_mode, looks.st_uid, looks.st_gid, content)
    return found
