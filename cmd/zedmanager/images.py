"""Names and lookups for the images of an app. Pure.

Two images are the same when name and sha256 are: they share a download. Verifying is about the content alone, so an
image whose content was verified under another name (another datastore, or a file found again after a reboot, whose
path the verifier does not know) takes that verification instead of being fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pillar.types.common import safename
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageStatus
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


def verify_name(image: StorageStatus, verifications: Mapping[str, VerifyImageStatus]) -> str:
    """Under which key this image is verified: its own name, unless only another one with its content is good.

    A signed image never takes another name's verification, which may not have looked at the signature.
    """
    own = image_name(image)
    if not image.ImageSha256 or is_signed(image) or is_good(verifications.get(own)):
        return own
    others = [name for name, status in verifications.items() if _same_content(image, status) and is_good(status)]
    return min(others, key=lambda name: (-verifications[name].State, name), default=own)


def is_good(status: VerifyImageStatus | None) -> bool:
    """Is this content verified, or about to be: found after a reboot and being read again?"""
    return status is not None and not status.LastErr and status.State in (SwState.DOWNLOADED, SwState.DELIVERED)


def minimum_state(images: Iterable[StorageStatus]) -> SwState:
    """The state of an app whose images are on their way; without any there is nothing to wait for."""
    return min((image.State for image in images), default=SwState.DELIVERED)


def _same_content(image: StorageStatus, status: VerifyImageStatus) -> bool:
    return status.ImageSha256.lower() == image.ImageSha256
