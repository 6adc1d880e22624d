"""The configs that apps share, counted from who refers: DownloaderConfig and VerifyImageConfig of each image. Pure.

A use is one image of one app; an app that has the same image twice uses it twice. The uses are read from the published
statuses, so the counts are right again after any kill. Whether there is a config at all is pillar.refcount's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from pillar.cmd.zedmanager.images import image_name, is_signed, name_apart, signature_of, verify_name
from pillar.cmd.zedmanager.refetch import ImageRetry, refetch, withdrawn
from pillar.refcount import staying, wanted_refcount
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import StorageStatus


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What is, or is to be, published for one image."""

    retry: ImageRetry | None = None
    download: DownloaderConfig | None = None
    verify: VerifyImageConfig | None = None


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that concerns one image, as the tables say it now."""

    name: str  # safename
    uses: Sequence[StorageStatus] = ()  # of this image, and of others with its content
    download: DownloaderStatus | None = None
    verifications: Mapping[str, VerifyImageStatus] = {}  # of this image and of its content, by safename
    verify_configs: Mapping[str, VerifyImageConfig] = {}  # ours for those
    published: Shared
    allow_non_free: bool = True  # ports that cost money may be used
    downloads_known: bool = True  # the downloader's table was read
    verifications_known: bool = True


def decide_image(facts: ImageFacts) -> Shared:
    """The configs of one image as its uses ask for them, and the record of its being fetched again."""
    name, published = facts.name, facts.published
    verify = facts.verifications.get(name)
    users = [image for image in facts.uses if image_name(image) == name]
    retry = refetch(
        name,
        published.retry,
        used=bool(users),
        referred=any(image.HasDownloaderRef or image.HasVerifierRef for image in users),
        download=facts.download,
        verify=verify,
    )
    if withdrawn(retry):
        return Shared(retry=retry)
    kept = staying(facts.verifications, facts.verify_configs)
    downloading = [image for image in users if image.HasDownloaderRef]
    verifying = [
        image for image in facts.uses if image.HasVerifierRef and verify_name(image, kept, facts.verify_configs) == name
    ]
    return Shared(
        retry=retry,
        download=downloader_config(
            name,
            downloading,
            published.download,
            facts.download,
            allow_non_free=facts.allow_non_free,
            status_known=facts.downloads_known,
        ),
        verify=verify_config(name, verifying, published.verify, verify, status_known=facts.verifications_known),
    )


def downloader_config(
    name: str,
    users: Sequence[StorageStatus],
    published: DownloaderConfig | None,
    status: DownloaderStatus | None,
    *,
    allow_non_free: bool,
    status_known: bool = True,
) -> DownloaderConfig | None:
    """The config for the download `name` that `users` refer to; None when there must be none."""
    refs = wanted_refcount(len(users), status, published=published is not None, status_known=status_known)
    if refs is None:
        return None
    if users:
        image = _same_source(users, published)
        return DownloaderConfig(
            DatastoreID=image.DatastoreID,
            ImageID=image.ImageID,
            Safename=name,
            Name=image.Name,
            NameIsURL=image.NameIsURL,
            IsContainer=image.IsContainer,
            AllowNonFreePort=allow_non_free,
            Size=image.Size,
            ImageSha256=image.ImageSha256,
            RefCount=refs,
        )
    if published is not None:
        return replace(published, RefCount=refs)
    assert status is not None  # nobody refers and there is no config, so it is the status that asks for one
    return DownloaderConfig(
        DatastoreID=status.DatastoreID,
        ImageID=status.ImageID,
        Safename=name,
        Name=status.Name,
        NameIsURL=status.NameIsURL,
        IsContainer=status.IsContainer,
        AllowNonFreePort=allow_non_free,
        Size=status.Size,
        ImageSha256=status.ImageSha256,
        RefCount=refs,
    )


def verify_config(
    name: str,
    users: Sequence[StorageStatus],
    published: VerifyImageConfig | None,
    status: VerifyImageStatus | None,
    *,
    status_known: bool = True,
) -> VerifyImageConfig | None:
    """The config for the verification `name` that `users` refer to; None when there must be none.

    One config has one signature. Of several the one that is published stays, and who names another one does not
    count here: it finds its name taken and is verified apart.
    """
    image = _same_signature(users, published) if users else None
    if image is not None:
        users = [user for user in users if not is_signed(user) or signature_of(user) == signature_of(image)]
    refs = wanted_refcount(len(users), status, published=published is not None, status_known=status_known)
    if refs is None:
        return None
    if image is not None:
        return VerifyImageConfig(
            Safename=name,
            Name=image.Name,
            ImageSha256=image.ImageSha256,
            RefCount=refs,
            CertificateChain=image.CertificateChain,
            ImageSignature=image.ImageSignature,
            SignatureKey=image.SignatureKey,
            IsContainer=image.IsContainer,
            ContainerImageID=image.ContainerImageID,
        )
    if published is not None:
        return replace(published, RefCount=refs)
    assert status is not None  # as above
    return VerifyImageConfig(
        Safename=name,
        ImageSha256=status.ImageSha256,
        RefCount=refs,
        IsContainer=status.IsContainer,
        ContainerImageID=status.ContainerImageID,
    )


class References:
    """Which images the apps use, as their statuses say: an index, to be told of each status published."""

    def __init__(self) -> None:
        self._images: dict[str, tuple[StorageStatus, ...]] = {}
        self._apps: dict[str, dict[str, None]] = {}  # sha256, or safename without one -> apps (an ordered set)

    def note(self, app: str, images: Iterable[StorageStatus]) -> set[str]:
        """Take over what one app uses now; returns the safenames whose counts may differ."""
        before, after = self._images.get(app, ()), tuple(images)
        had, has = {_content(image) for image in before}, {_content(image) for image in after}
        for content in had - has:
            users = self._apps[content]
            del users[app]
            if not users:
                del self._apps[content]
        for content in has - had:
            self._apps.setdefault(content, {})[app] = None
        if after:
            self._images[app] = after
        else:
            self._images.pop(app, None)
        if [_reference(image) for image in before] == [_reference(image) for image in after]:
            return set()
        changed = (*before, *after)
        return {image_name(image) for image in changed} | {name_apart(image) for image in changed}

    def of(self, name: str) -> list[StorageStatus]:
        """Every image of any app that has this name, or the same content under another one; oldest app first."""
        content = content_of(name)
        apps = self._apps.get(content) or self._apps.get(name) or {}
        return [image for app in apps for image in self._images[app] if _content(image) in (content, name)]

    def apps(self, name: str) -> list[str]:
        """The apps that have this image, or another one with its content."""
        return list(self._apps.get(content_of(name)) or self._apps.get(name) or {})


def content_of(name: str) -> str:
    """The sha256 in a safename."""
    return name.rpartition(".")[2]


def _content(image: StorageStatus) -> str:
    return image.ImageSha256 or image_name(image)


def _reference(image: StorageStatus) -> tuple[object, ...]:
    """What of an image the shared configs depend on."""
    return (
        image_name(image), image.HasDownloaderRef, image.HasVerifierRef, image.DatastoreID, image.ImageID, image.Size,
        image.NameIsURL, image.ImageSignature, image.SignatureKey, image.CertificateChain, image.IsContainer,
        image.ContainerImageID,
    )  # fmt: skip


def _same_source(users: Sequence[StorageStatus], published: DownloaderConfig | None) -> StorageStatus:
    """The user whose source is used already, so that a fetch is not begun again from another one; else the first.

    ImageID is the image's UUID in the app that asked first; it stays when that app leaves before the others, as it
    says nothing about the source.
    """
    if published is not None:
        source = (published.DatastoreID, published.Name, published.NameIsURL, published.Size)
        for user in users:
            if (user.DatastoreID, user.Name, user.NameIsURL, user.Size) == source:
                return replace(user, ImageID=published.ImageID)
    return users[0]


def _same_signature(users: Sequence[StorageStatus], published: VerifyImageConfig | None) -> StorageStatus:
    """The user whose signature is being checked already; else a signed one, which serves the others too."""
    if published is not None:
        for user in users:
            if signature_of(user) == signature_of(published):
                return user
    return next((user for user in users if is_signed(user)), users[0])
