"""Fetching a container image: its documents, then every blob that is not here yet, each under the resume contract.

The root document is placed in `pending` last, so an image in there is complete.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from dataclasses import replace as copied
from pathlib import Path

from pillar.cmd.downloader.container import Claims
from pillar.cmd.downloader.decide import Done
from pillar.cmd.downloader.work import Download
from pillar.durable import replace_file
from pillar.imagestore import ImageStore
from pillar.ociimage import (
    Descriptor,
    Index,
    Layout,
    Manifest,
    NotAnImage,
    choose,
    read_document,
)
from pillar.transports import Route, Source, TransportFailed
from pillar.transports.fetch import Fetch, TooLarge
from pillar.transports.oci import DS_TYPE, Login, Reference, RegistryTransport, parse
from pillar.transports.partfile import part_path
from pillar.workers import Cancel


@dataclass
class ContainerDownload(Download):
    """One container image on its way. `target` is where its root document would stand if it had no digest."""

    store: ImageStore = field(kw_only=True)
    layout: Layout = field(kw_only=True)
    claims: Claims = field(kw_only=True)
    stored: int = field(default=0, init=False)  # bytes on disk that this download brought
    _transport: RegistryTransport | None = field(default=None, init=False)

    def abort(self) -> None:
        super().abort()
        with self._lock:
            transport = self._transport
        if transport is not None:
            transport.abort()

    def _over(self, route: Route, cancel: Cancel) -> Done:
        source = self.plan.source
        reference = parse(source.url)
        wanted = self.sha256.lower()
        if wanted and reference.sha256 and reference.sha256 != wanted:
            raise TransportFailed(f"{reference}: named by that digest, but ImageSha256 is {wanted}")
        if wanted:  # a tag may have moved on; what it was is still there under its digest
            reference = copied(reference, sha256=wanted)
        image = _Image(self, reference, Login(source.api_key, source.password), route, cancel)
        self.layout.prepare()
        try:
            root, manifest = image.documents()
        except NotAnImage as err:
            raise TransportFailed(f"{reference} cannot be used: {err}") from err
        total = len(root) + sum(blob.size for blob in manifest.blobs)
        if total > self.limit:
            raise TooLarge(f"the image has {total} bytes, only {self.limit} may be stored")
        image.blobs(manifest, total)
        sha256 = hashlib.sha256(root).hexdigest()
        self._place(root, self.store.pending_file(sha256, self.target.name))
        return Done(total, f"sha256:{sha256}")

    def begin(self, transport: RegistryTransport | None, fetch: Fetch | None = None) -> None:
        """What `abort` has to end now."""
        with self._lock:
            self._transport, self._fetch = transport, fetch
            aborted = self._aborted
        if aborted:
            self.abort()

    def _place(self, root: bytes, target: Path) -> None:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(target, root, staged=part_path(target))


@dataclass
class _Image:
    """One attempt at an image over one route."""

    download: ContainerDownload
    reference: Reference
    login: Login
    route: Route
    cancel: Cancel

    def documents(self) -> tuple[bytes, Manifest]:
        """The root document and the manifest for this platform; both are kept. Raises NotAnImage, TransportFailed."""
        root, document = self._document(self.reference.version)
        manifest = document
        if isinstance(document, Index):
            chosen = choose(document)
            _, manifest = self._document(f"sha256:{chosen.sha256}", chosen.media_type)
        if not isinstance(manifest, Manifest):
            raise NotAnImage("its index leads to another index")
        return root, manifest

    def blobs(self, manifest: Manifest, total: int) -> None:
        """Have every blob. Raises TransportFailed and what `Fetch` raises."""
        done = 0
        for blob in manifest.blobs:
            with self.download.claims.hold(blob.sha256, self.cancel.raise_if_set):
                if not self.download.layout.blob(blob.sha256).exists():
                    self._blob(blob, done, total)
            done += blob.size
            self.download._progress(done, total)

    def _document(self, version: str, media_type: str = "") -> tuple[bytes, Manifest | Index]:
        self.cancel.raise_if_set()
        transport = self._open(f"manifests/{version}")
        self.download.begin(transport)
        try:
            told, data = transport.document()
        finally:
            self.download.begin(None)
            transport.close()
        document = read_document(data, media_type or told)
        self.download.layout.keep(data)
        return data, document

    def _open(self, path: str) -> RegistryTransport:
        return RegistryTransport(self.reference, path, self.login, self.route, self.download.limits)

    def _blob(self, blob: Descriptor, done: int, total: int) -> None:
        download = self.download
        before = download.stored

        def progress(here: int, size: int | None) -> None:
            download.stored = before + here
            download._progress(done + here, total)

        fetch = Fetch(
            lambda: self._open(f"blobs/sha256:{blob.sha256}"),
            Source(DS_TYPE, f"sha256:{blob.sha256}"),  # from whichever repository: a part can be continued from any
            download.layout.incoming / blob.sha256,
            expect_sha256=blob.sha256,
            limit=blob.size,
            check=self.cancel.raise_if_set,
            progress=progress,
            streams=download.streams,
            throttle=download.throttle,
        )
        download.begin(None, fetch)
        try:
            got = fetch.run()
        except TooLarge as err:
            raise TransportFailed(
                f"{self.reference}: the blob sha256:{blob.sha256} is to have {blob.size} bytes, {err}"
            ) from err
        finally:
            download.begin(None)
        if got.sha256 != blob.sha256:
            fetch.target.unlink(missing_ok=True)
            raise TransportFailed(
                f"{self.reference}: the registry sent {got.size} bytes that hash to sha256:{got.sha256} as the blob "
                f"sha256:{blob.sha256} of {blob.size} bytes"
            )
        download.layout.accept(blob.sha256)
