"""Names and lookups for the images of an app. Pure.

Two images are the same when name and sha256 are: they share a download. Verifying is about the content alone, so an
image whose content was verified under another name (another datastore, or a file found again after a reboot, whose
path the verifier does not know) takes that verification instead of being fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pillar.types.common import safename
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import AppInstanceStatus, StorageStatus


def image_name(image: StorageStatus) -> str:
    """The safename: the key of the image's DownloaderConfig and, as a rule, of its VerifyImageConfig."""
    return safename(image.Name, image.ImageSha256)


def current_images(status: AppInstanceStatus) -> tuple[StorageStatus, ...]:
    """The images of the config, in its order."""
    return tuple(image for image in status.StorageStatusList or () if image.State != SwState.PURGING)


def outgoing_images(status: AppInstanceStatus) -> tuple[StorageStatus, ...]:
    """Images that a purge will drop when the domain does not use them any more."""
    return tuple(image for image in status.StorageStatusList or () if image.State == SwState.PURGING)


def is_signed(image: StorageStatus) -> bool:
    """Does the config ask for more than the right sha256?"""
    return bool(image.ImageSignature) or bool(image.SignatureKey)


def verify_name(
    image: StorageStatus, verifications: Mapping[str, VerifyImageStatus], configs: Mapping[str, VerifyImageConfig]
) -> str:
    """Under which key this image is verified: as a rule its own name.

    Unless only another one with its content is good, and no signature is asked for: then that one. And unless its
    name is taken by an app that names another signature: then a name with its signature in it, so that neither
    passes for the other, nor a bad signature stops the good one.
    """
    own, apart = image_name(image), name_apart(image)
    if image.ImageSha256 and not is_signed(image) and not is_good(verifications.get(own)):
        others = [name for name, status in verifications.items() if _same_content(image, status) and is_good(status)]
        if others:
            return min(others, key=lambda name: (-verifications[name].State, name))
    holder = configs.get(own)
    taken = holder is not None and signature_of(holder) != signature_of(image)
    if taken and not is_signed(image) and is_good(verifications.get(own)):
        return own
    return apart if taken or _in_use(configs.get(apart)) else own


def name_apart(image: StorageStatus) -> str:
    """The key for verifying this image beside one of the same name with another signature."""
    from hashlib import sha256  # OpenSSL behind it is slow to load, and few images are signed

    mark = sha256(repr(signature_of(image)).encode()).hexdigest()[:8]
    return safename(f"{image.Name}#{mark}", image.ImageSha256)


def signature_of(asked: StorageStatus | VerifyImageConfig) -> tuple[bytes, str, tuple[str, ...]]:
    """All that an image's signature depends on."""
    return asked.ImageSignature or b"", asked.SignatureKey, asked.CertificateChain or ()


def is_good(status: VerifyImageStatus | None) -> bool:
    """Is this content verified, or about to be: found after a reboot and being read again?"""
    return status is not None and not status.LastErr and status.State in (SwState.DOWNLOADED, SwState.DELIVERED)


def minimum_state(images: Iterable[StorageStatus]) -> SwState:
    """The state of an app whose images are on their way; without any there is nothing to wait for."""
    return min((image.State for image in images), default=SwState.DELIVERED)


def _same_content(image: StorageStatus, status: VerifyImageStatus) -> bool:
    return status.ImageSha256.lower() == image.ImageSha256


def _in_use(config: VerifyImageConfig | None) -> bool:
    return config is not None and config.RefCount > 0
