"""The verifier's work on one image, in a worker's thread: take, hash, check, place. Safe to start again anywhere."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pillar.cmd.verifier import container, signature
from pillar.cmd.verifier.decide import Bad, Good, Refused, no_file_text
from pillar.cmd.verifier.ledger import Ledger, look
from pillar.cmd.verifier.seal import seal
from pillar.cmd.verifier.signature import SignatureRefused, Trust
from pillar.durable import sync_directory
from pillar.imagestore import STAGES, Found, ImageStore
from pillar.ociimage import BrokenImage, Layout
from pillar.quarantine import Quarantine
from pillar.transports.partfile import is_part
from pillar.types.common import filename_from_safename
from pillar.types.verifier import VerifyImageConfig
from pillar.workers import Cancel

HASH_BYTES = 1024 * 1024
PRIVATE_DIRECTORY, PRIVATE_FILE, OPEN_DIRECTORY = 0o500, 0o400, 0o700


@dataclass(frozen=True)
class Verification:
    """One image to bring to `verified`. `config` is None for one that stands there and is only looked at again.

    With `strict`, an image whose config names no signature is refused.
    """

    store: ImageStore
    layout: Layout
    ledger: Ledger
    quarantine: Quarantine
    trust: Trust
    sha256: str
    safename: str
    config: VerifyImageConfig | None
    strict: bool = False

    def run(self, cancel: Cancel) -> Good | Bad | Refused:
        """Judge what there is, the furthest first. Raises Cancelled; OSError when the file system refuses."""
        wrong = kept = ""
        for stage in reversed(STAGES):
            found = self.store.find_in(stage, self.sha256, self.safename)
            while found is not None:
                digest = self._digest(found, cancel)
                if digest == self.sha256.lower():
                    found = self._take(found)
                    try:
                        return self._with_blobs(found, cancel)
                    except BrokenImage as err:
                        self._throw_away(found)
                        return (
                            Bad(f"sha256 mismatch: {err}")
                            if err.present
                            else Refused(f"{no_file_text(self.sha256)}: {err}")
                        )
                wrong, kept = digest, self._put_away(found, digest)
                found = self.store.find_in(stage, self.sha256, self.safename)
        if wrong:
            return Bad(
                f"sha256 mismatch: the image has {wrong}, the config says {self.sha256.lower()}; it is in {kept}"
            )
        return Refused(no_file_text(self.sha256))

    def _with_blobs(self, found: Found, cancel: Cancel) -> Good | Refused:
        """Of a container image everything that the file leads to has to be right too. Raises BrokenImage."""
        root = container.root_of(self.layout, self.sha256, found.path, claimed=self._is_container())
        if root is None:
            return self._let_through(found)
        size = container.check(self.layout, self.ledger, self.quarantine, root, cancel)
        result = self._let_through(found)
        container.publish(self.layout, self.store)
        return Good(size) if isinstance(result, Good) else result

    def _is_container(self) -> bool:
        return self.config is not None and self.config.IsContainer

    def _digest(self, found: Found, cancel: Cancel) -> str:
        """The file's sha256: as remembered, or read. Taken out of pending first, where others may write."""
        if found.stage == "pending":
            found = self._move(found, "verifier", self.safename)
        if self.ledger.proves(self.sha256, found.path.lstat()):
            return self.sha256.lower()
        found.path.parent.chmod(OPEN_DIRECTORY)
        seal(found.path, cancel.raise_if_set)
        fd = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            before = os.fstat(fd)
            digest = hashlib.sha256()
            while block := os.read(fd, HASH_BYTES):
                digest.update(block)
                cancel.raise_if_set()
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if look(before) != look(after):
            return f"{digest.hexdigest()} (written to while it was read)"
        if digest.hexdigest() == self.sha256.lower():
            self.ledger.write(self.sha256, look(after, self._signatures()))
        return digest.hexdigest()

    def _take(self, found: Found) -> Found:
        """Where the file is by now: what was in pending is in verifier since it was hashed."""
        if found.stage != "pending":
            return found
        return self.store.find_in("verifier", self.sha256, self.safename) or found

    def _let_through(self, found: Found) -> Good | Refused:
        """The content is right; is the signature? Then the image goes to its place."""
        config = self.config
        if self.strict and config is not None and not signature.is_signed(config):
            return Refused(signature.MISSING)
        if config is not None and signature.is_signed(config):
            mark = signature.fingerprint(config)
            try:
                signature.check(config, bytes.fromhex(self.sha256), self.trust)
            except SignatureRefused as err:
                self._record(found, tuple(known for known in self._signatures() if known != mark))
                return Refused(f"signature: {err}")
            self._record(found, tuple({*self._signatures(), mark}))
        if found.stage != "verified":
            found = self._move(found, "verified", self._file_name())
        self._close(found)
        if not self._record(found, self._signatures()):
            self.ledger.forget(self.sha256)
            return Refused(f"{found.path}: is not the file that was hashed; it is looked at again")
        self._tidy()
        return Good(found.size)

    def _record(self, found: Found, signatures: tuple[str, ...]) -> bool:
        """Remember how it looks after a rename or a chmod; False: it is another file than the one that was hashed."""
        known, status = self.ledger.get(self.sha256), found.path.lstat()
        now = look(status, signatures)
        if known is None or (known.inode, known.size, known.mtime_ns) != (now.inode, now.size, now.mtime_ns):
            return False
        self.ledger.write(self.sha256, now)
        return True

    def _signatures(self) -> tuple[str, ...]:
        entry = self.ledger.get(self.sha256)
        return entry.signatures if entry is not None else ()

    def _move(self, found: Found, stage: Literal["verifier", "verified"], name: str) -> Found:
        """Rename into the next stage's directory of this sha256, which then holds this one file."""
        directory = self.store.directory(stage, self.sha256)
        directory.mkdir(mode=OPEN_DIRECTORY, parents=True, exist_ok=True)
        directory.chmod(OPEN_DIRECTORY)
        for stranger in directory.iterdir():  # a directory, a link, a part: find_in saw no image here
            remove(stranger)
        found.path.parent.chmod(OPEN_DIRECTORY)
        found.path.chmod(PRIVATE_FILE)
        target = directory / name
        found.path.rename(target)
        directory.chmod(PRIVATE_DIRECTORY)
        sync_directory(directory)
        with contextlib.suppress(OSError):  # another file of this sha256 may wait there
            found.path.parent.rmdir()
        return Found(stage, target, found.size)

    def _close(self, found: Found) -> None:
        """Put right what a kill between rename and chmod left. Only if needed: a chmod changes the file's ctime."""
        if found.path.stat().st_mode & 0o777 != PRIVATE_FILE:
            found.path.chmod(PRIVATE_FILE)
        found.path.parent.chmod(PRIVATE_DIRECTORY)

    def _tidy(self) -> None:
        """Remove what the other stages still have of an image that is verified now, and what came in its place once."""
        self.quarantine.remove(self.sha256)
        remove(self.store.directory("verifier", self.sha256))
        pending = self.store.directory("pending", self.sha256)
        if pending.is_dir():
            for path in pending.iterdir():
                if not is_part(path.name):  # a part is the downloader's
                    remove(path)
            with contextlib.suppress(OSError):
                pending.rmdir()

    def _put_away(self, found: Found, digest: str) -> str:
        """Out of the stages, into quarantine; returns where that is, for a person."""
        found = self._take(found)
        self.ledger.forget(self.sha256)
        found.path.parent.chmod(OPEN_DIRECTORY)
        kept = self.quarantine.take(found.path, self.sha256, digest.partition(" ")[0])
        with contextlib.suppress(OSError):
            found.path.parent.rmdir()
        return f"{kept.parent.name}/{kept.name}"

    def _throw_away(self, found: Found) -> None:
        """The root document of a container that is not complete: small, and fetched again with what is missing."""
        found = self._take(found)
        self.ledger.forget(self.sha256)
        found.path.parent.chmod(OPEN_DIRECTORY)
        found.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            found.path.parent.rmdir()

    def _file_name(self) -> str:
        try:
            name = filename_from_safename(self.safename)
        except ValueError:
            name = self.safename
        return name if name not in ("", ".", "..") else self.sha256


def remove_image(store: ImageStore, ledger: Ledger, sha256: str, *, verified: bool) -> None:
    """Remove an image from the verifier's directories; its verified file only when that is asked for."""
    if verified:
        remove(store.directory("verified", sha256))
        ledger.forget(sha256)
    remove(store.directory("verifier", sha256))


def remove(path: Path) -> None:
    """Remove a file or a directory with everything in it; nothing happens when it is not there. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        path.chmod(OPEN_DIRECTORY)
        for inner in path.iterdir():
            remove(inner)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
