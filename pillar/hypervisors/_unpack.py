"""A layer of a container image becomes files below one directory, and nothing outside of it is touched.

The kernel keeps us inside: every path is opened with openat2(RESOLVE_IN_ROOT), so an absolute link or one with ".." in
the middle of a path leads to a place within the tree, as it will when the container runs, and no other process can
change that between a check and its use. What remains is to refuse what only a broken or hostile layer has:

    names with "..", links that climb out of the tree, hard links to files that the image does not have,
    devices (those in /dev are left out: the container gets a /dev of its own), types that tar does not know

Whiteouts (`.wh.<name>`, `.wh..wh..opq`) take away what lower layers brought, never what the same layer brings. Of the
extended attributes only `security.capability` and `user.*` are kept: `trusted.overlay.*` and its like are the host's.

umoci would unpack too, but it bends hostile names into the tree and carries on, makes device nodes anywhere, needs
the layout's index to list the image, and is one program more to install.
"""

import contextlib
import ctypes
import errno
import gzip
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pillar.hypervisors import CannotRun, HypervisorError

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
KEPT_ATTRIBUTES = ("security.capability", "user.")
_PAX_XATTR = "SCHILY.xattr."
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class BadLayer(CannotRun):
    """A layer that no machine can use as it is; the text names the layer and the entry."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open a path as a process with `root` (a descriptor) as its root directory would. Raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    file = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if file >= 0:
        return int(file)
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        raise CannotRun("containers need a kernel with openat2 (Linux 5.6 or newer)")
    raise OSError(number, os.strerror(number), path)


def unpack(blob: IO[bytes], media_type: str, sha256: str, root: Path) -> None:
    """Apply one layer to the tree below `root`. Raises BadLayer, HypervisorError or OSError, and the tree is spoilt."""
    checked = _Hashing(blob)
    try:
        with _decompressed(checked, media_type) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            _Tree(root, f"layer sha256:{sha256}").apply(archive)
            while stream.read(1 << 20):  # what follows the end mark: the sum below is of everything
                pass
        while checked.read(1 << 20):
            pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadLayer(f"layer sha256:{sha256} is damaged: {error}") from error
    if checked.sha256 != sha256:
        raise HypervisorError(
            f"layer sha256:{sha256} was changed after its verification: it hashes to {checked.sha256}"
        )


def sync_file_system(path: Path) -> None:
    """Everything written to the file system of `path` is on its disk when this returns. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(file) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(file)


class _Hashing:
    """A file read from start to end, and the sha256 of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def _decompressed(blob: _Hashing, media_type: str) -> Iterator[IO[bytes]]:
    source = cast(IO[bytes], blob)
    if media_type.endswith(("+gzip", ".gzip")):
        with gzip.GzipFile(fileobj=source) as stream:
            yield cast(IO[bytes], stream)
    elif media_type.endswith(("+zstd", ".zstd")):
        with _zstd(source) as stream:
            yield stream
    else:
        yield source


@contextmanager
def _zstd(blob: IO[bytes]) -> Iterator[IO[bytes]]:
    """Python 3.11 has no zstd: the program reads an unnamed copy of the blob."""
    import tempfile

    program = shutil.which("zstd")
    if program is None:
        raise CannotRun("a layer is compressed with zstd; install zstd (apt install zstd)")
    with tempfile.TemporaryFile() as packed:
        shutil.copyfileobj(blob, packed, 1 << 20)
        packed.seek(0)
        with subprocess.Popen([program, "-dc"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stderr is not None
            try:
                yield child.stdout
                if child.wait() != 0:
                    raise EOFError(f"zstd: {child.stderr.read().decode(errors='replace').strip()}")
            finally:
                child.kill()


class _Tree:
    """The directory that layers are applied to; one object per layer."""

    def __init__(self, root: Path, layer: str) -> None:
        self._path = root
        self._layer = layer
        self._made: set[tuple[str, ...]] = set()  # what this layer brought: its whiteouts do not mean that
        self._times: dict[tuple[str, ...], float] = {}  # of directories: they change while entries are made in them
        self._parent: tuple[tuple[str, ...], int] | None = None  # the directory opened last
        self._root = -1

    def apply(self, archive: tarfile.TarFile) -> None:
        self._root = os.open(self._path, _DIRECTORY)
        try:
            for member in archive:
                try:
                    self._entry(archive, member)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPERM):
                        raise OSError(error.errno, error.strerror, f"{self._path}/{member.name}") from error
                    raise self._bad(member, f"cannot be unpacked: {error.strerror}") from error
            self._set_times()
        finally:
            self._forget_parent()
            os.close(self._root)

    def _entry(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._parts(member, member.name, "its name")
        if not path:
            os.chmod(self._path, member.mode & 0o7777)
            os.chown(self._path, member.uid, member.gid)
            return
        *parents, name = path
        if name.startswith(WHITEOUT):
            self._whiteout(tuple(parents), name)
            return
        if member.isdev() and not member.isfifo():
            if path[0] == "dev":
                return
            raise self._bad(member, "is a device, which no image needs outside of /dev")
        directory = self._directory(member, tuple(parents))
        if not (member.isdir() and _is_directory(directory, name)):
            self._remove(directory, name)
            self._make(archive, member, path, directory)
        self._made.update(path[:end] for end in range(1, len(path) + 1))
        self._describe(member, path, directory)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: tuple[str, ...], directory: int) -> None:
        name = path[-1]
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=directory)
        elif member.issym():
            self._check_link(member, path)
            os.symlink(member.linkname, name, dir_fd=directory)
        elif member.islnk():
            self._hard_link(member, name, directory)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=directory)
        elif member.isreg():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
                content = archive.extractfile(member)
                if content is not None:
                    shutil.copyfileobj(content, file, 1 << 20)
        else:
            raise self._bad(member, f"has the type {member.type!r}, which cannot be unpacked")

    def _describe(self, member: tarfile.TarInfo, path: tuple[str, ...], directory: int) -> None:
        """Owner, permissions, attributes and times; in this order, because a new owner clears set-uid bits."""
        if member.islnk():  # it is the other name's file
            return
        name = path[-1]
        os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, member.mode & 0o7777, dir_fd=directory)
        if member.isreg():
            self._attributes(member, name, directory)
        if member.isdir():
            self._times[path] = member.mtime
        else:
            os.utime(name, (member.mtime, member.mtime), dir_fd=directory, follow_symlinks=False)

    def _attributes(self, member: tarfile.TarInfo, name: str, directory: int) -> None:
        for key, value in member.pax_headers.items():
            attribute = key.removeprefix(_PAX_XATTR)
            if attribute == key or not attribute.startswith(KEPT_ATTRIBUTES):
                continue
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.setxattr(file, attribute, value.encode("utf-8", "surrogateescape"))
            finally:
                os.close(file)

    def _hard_link(self, member: tarfile.TarInfo, name: str, directory: int) -> None:
        target = self._parts(member, member.linkname, f"its link to {member.linkname!r}")
        if not target:
            raise self._bad(member, "is a hard link to the root directory")
        try:
            holder = open_in_root(self._root, "/".join(target[:-1]) or ".", _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise self._bad(member, f"is a hard link to {member.linkname!r}, which the image does not have") from None
        try:
            os.link(target[-1], name, src_dir_fd=holder, dst_dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            raise self._bad(member, f"is a hard link to {member.linkname!r}, which the image does not have") from None
        finally:
            os.close(holder)

    def _check_link(self, member: tarfile.TarInfo, path: tuple[str, ...]) -> None:
        """An absolute target is one inside the container; a relative one may climb to the root and no further."""
        if member.linkname.startswith("/"):
            return
        depth = len(path) - 1
        for part in member.linkname.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            if depth < 0:
                raise self._bad(member, f"is a link to {member.linkname!r}, which leads out of the image")

    def _whiteout(self, parents: tuple[str, ...], name: str) -> None:
        try:
            directory = open_in_root(self._root, "/".join(parents) or ".", os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return  # there is nothing to take away
        try:
            if name == OPAQUE:
                gone = os.listdir(directory)
            elif name.startswith(WHITEOUT * 2):
                return  # aufs kept its own records under such names
            else:
                gone = [name.removeprefix(WHITEOUT)]
            for victim in gone:
                if victim not in ("", ".", "..") and (*parents, victim) not in self._made:
                    self._remove(directory, victim)
        finally:
            os.close(directory)

    def _remove(self, directory: int, name: str) -> None:
        try:
            mode = os.lstat(name, dir_fd=directory).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            self._forget_parent_but(directory)
            shutil.rmtree(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
            if stat.S_ISLNK(mode):
                self._forget_parent_but(directory)

    def _directory(self, member: tarfile.TarInfo, parents: tuple[str, ...]) -> int:
        """The directory an entry is made in, with those above it where a layer leaves them out."""
        if self._parent is not None and self._parent[0] == parents:
            return self._parent[1]
        self._forget_parent()
        found = os.open(".", _DIRECTORY, dir_fd=self._root)
        for end in range(1, len(parents) + 1):
            path = "/".join(parents[:end])
            try:
                following = open_in_root(self._root, path, _DIRECTORY)
            except FileNotFoundError:
                try:
                    os.mkdir(parents[end - 1], 0o755, dir_fd=found)
                    following = open_in_root(self._root, path, _DIRECTORY)
                except OSError as error:
                    os.close(found)
                    raise self._bad(member, f"stands below {path!r}, which is a link to nothing") from error
            except NotADirectoryError:
                os.close(found)
                raise self._bad(member, f"stands below {path!r}, which is no directory") from None
            except BaseException:
                os.close(found)
                raise
            os.close(found)
            found = following
        self._parent = (parents, found)
        return found

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _forget_parent_but(self, in_use: int) -> None:
        """A directory or a link went: paths may lead elsewhere now. The one in use stays open for its entry."""
        if self._parent is not None and self._parent[1] != in_use:
            self._forget_parent()

    def _set_times(self) -> None:
        for path, mtime in reversed(self._times.items()):
            with contextlib.suppress(OSError):  # a later entry of the layer took its place
                directory = open_in_root(self._root, "/".join(path), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.utime(directory, (mtime, mtime))
                finally:
                    os.close(directory)

    def _parts(self, member: tarfile.TarInfo, name: str, what: str) -> tuple[str, ...]:
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise self._bad(member, f"leads out of the image ({what} has '..' in it)")
        return parts

    def _bad(self, member: tarfile.TarInfo, what: str) -> BadLayer:
        return BadLayer(f"{self._layer}: the entry {member.name!r} {what}")


def _is_directory(directory: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode)
    except FileNotFoundError:
        return False
