"""Private copies, verified images, leftovers and logs of domains, on a real disk."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pillar.cmd.domainmgr import disks, images, logs
from pillar.locations import Locations
from pillar.types.domainmgr import DiskStatus, DomainStatus, ImageStatus
from pillar.workers import Cancel, Cancelled

UUID = "6f1c0a3e-0000-4000-8000-000000000001"
SHA = "ab" * 32


def never() -> None:
    """The copy is wanted to the end."""


def verified(where: Locations, content: bytes, sha: str = SHA) -> Path:
    directory = where.downloads("appImg.obj", "verified") / sha
    directory.mkdir(parents=True)
    image = directory / "name.img"
    image.write_bytes(content)
    return image


def located(where: Locations, **fields: object) -> DiskStatus:
    disk = DiskStatus(ImageSha256=SHA, Format="raw", Vdev="xvda", **fields)  # type: ignore[arg-type]
    (found,) = disks.locate(UUID, (disk,), where)
    return found


def test_a_copy_is_whole_and_grown_without_using_the_space(tmp_path: Path) -> None:
    where = Locations(tmp_path)
    content = os.urandom(3_000_000)
    verified(where, content)
    disk = located(where, Maxsizebytes=1 << 30)
    disks.make_copy(disk, never)
    copy = Path(disk.ActiveFileLocation)
    assert copy.name == f"{SHA}-{UUID}.raw"
    assert copy.stat().st_size == 1 << 30
    assert copy.stat().st_blocks * 512 < 1 << 24
    with copy.open("rb") as file:
        assert file.read(len(content)) == content
    assert list(where.images.iterdir()) == [copy]


def test_a_copy_that_is_no_longer_wanted_leaves_the_old_one(tmp_path: Path) -> None:
    where = Locations(tmp_path)
    verified(where, b"new")
    disk = located(where)
    where.images.mkdir(parents=True)
    copy = Path(disk.ActiveFileLocation)
    copy.write_bytes(b"old")
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        disks.make_copy(disk, cancel.raise_if_set)
    assert copy.read_bytes() == b"old"
    assert list(where.images.iterdir()) == [copy]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Locations(tmp_path)
    verified(where, b"content")
    disk = located(where)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(disks.DiskError, match=r"cannot copy .*: No space left on device"):
        disks.make_copy(disk, never)
    assert list(where.images.iterdir()) == []


def test_a_copy_works_where_the_kernel_cannot_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Locations(tmp_path)
    verified(where, b"content" * 100_000)
    disk = located(where)

    def refused(*arguments: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refused)
    disks.make_copy(disk, never)
    assert Path(disk.ActiveFileLocation).read_bytes() == b"content" * 100_000


def no_directory(where: Locations) -> None:
    """Nothing was verified."""


def no_file(where: Locations) -> None:
    verified(where, b"x").unlink()


def two_files(where: Locations) -> None:
    verified(where, b"x").with_name("other").touch()


@pytest.mark.parametrize(
    ("arrange", "problem"),
    [(no_directory, "is not verified"), (no_file, "holds 0 files"), (two_files, "holds 2 files")],
)
def test_an_image_must_be_exactly_one_verified_file(
    tmp_path: Path, arrange: Callable[[Locations], None], problem: str
) -> None:
    where = Locations(tmp_path)
    arrange(where)
    with pytest.raises(disks.DiskError, match=problem):
        disks.verified_image(SHA, where)


@pytest.mark.parametrize("sha", ["", "../../etc", "a/b", "..", "a b"])
def test_a_sha_that_is_none_leads_nowhere(tmp_path: Path, sha: str) -> None:
    with pytest.raises(disks.DiskError):
        disks.verified_image(sha, Locations(tmp_path))


def test_the_sha_is_compared_without_regard_to_case(tmp_path: Path) -> None:
    where = Locations(tmp_path)
    image = verified(where, b"x")
    assert disks.verified_image(SHA.upper(), where) == image


def test_copies_are_known_by_their_app_and_leftovers_are_swept(tmp_path: Path) -> None:
    where = Locations(tmp_path)
    where.images.mkdir(parents=True)
    mine = {f"{SHA}-{UUID}.raw", f"{SHA}-{UUID}-xvdb.qcow2"}
    others = {f"{SHA}-x{UUID}.raw", f"{SHA}-{UUID}x.raw", "notes"}
    for name in mine | others | {f"{SHA}-{UUID}.raw.tmp"}:
        (where.images / name).touch()
    disks.sweep(where)
    assert {path.name for path in disks.copies_of(UUID, where)} == mine
    keep = DiskStatus(ActiveFileLocation=str(where.images / f"{SHA}-{UUID}.raw"))
    disks.delete_unlisted_copies(UUID, (keep,), where)
    assert {path.name for path in where.images.iterdir()} == others | {f"{SHA}-{UUID}.raw"}


def test_only_copies_that_are_not_preserved_end_with_a_run(tmp_path: Path) -> None:
    where = Locations(tmp_path)
    image = verified(where, b"x")
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    kept.touch()
    gone.touch()
    listed = (
        DiskStatus(ReadOnly=True, FileLocation=str(image), ActiveFileLocation=str(image)),
        DiskStatus(Preserve=True, ActiveFileLocation=str(kept)),
        DiskStatus(ActiveFileLocation=str(gone)),
    )
    disks.delete_copies(listed, preserved=False)
    assert (image.exists(), kept.exists(), gone.exists()) == (True, True, False)


def test_the_users_of_a_copy_are_counted_and_last_use_is_when_they_changed(tmp_path: Path) -> None:
    copy = tmp_path / "a"
    copy.write_bytes(b"1234")
    (tmp_path / "b.tmp").touch()
    disk = DiskStatus(ActiveFileLocation=str(copy))
    used = images.users(tmp_path, [DomainStatus(DiskStatusList=(disk,)), DomainStatus()])
    table = images.table(tmp_path, images.sizes(tmp_path), used, {}, "2026-01-01T00:00:00Z")
    assert table == {
        "a": ImageStatus(Filename="a", FileLocation=str(copy), RefCount=1, LastUse="2026-01-01T00:00:00Z", Size=4)
    }
    later = images.table(tmp_path, {"a": 9}, used, table, "2026-01-02T00:00:00Z")
    assert (later["a"].LastUse, later["a"].Size) == ("2026-01-01T00:00:00Z", 9)
    unused = images.table(tmp_path, {"a": 9}, {}, later, "2026-01-03T00:00:00Z")
    assert (unused["a"].LastUse, unused["a"].RefCount) == ("2026-01-03T00:00:00Z", 0)


def test_a_log_is_cut_in_place_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "eco.log"
    writer = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(writer, b"".join(b"line %6d\n" % number for number in range(100)))
        assert not logs.trim(log, limit_bytes=1200, kept_bytes=24)
        assert logs.trim(log, limit_bytes=1000, kept_bytes=24)
        assert (tmp_path / "eco.log.1").read_bytes() == b"line     98\nline     99\n"
        os.write(writer, b"after\n")
        assert log.read_bytes() == b"after\n"
        assert not logs.trim(tmp_path / "none.log")
    finally:
        os.close(writer)
