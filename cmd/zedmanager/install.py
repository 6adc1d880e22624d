"""do_install: have every image of an app fetched and verified; do_uninstall: need them no more. Pure.

An image refers to its download from the first moment on, unless its content is verified already, and to its
verification from the moment there is something to verify. Both flags stand in the status and are what the shared
configs are counted from (references).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from pillar.cmd.zedmanager.facts import Facts, Plan, Problem, Wait
from pillar.cmd.zedmanager.images import image_name, is_good, is_signed, verify_name
from pillar.cmd.zedmanager.refetch import ImageRetry, RetryState, explanation, withdrawn
from pillar.pubsub.errors import BadKey
from pillar.pubsub.names import check_key
from pillar.refcount import staying
from pillar.types.common import filename_from_url
from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME, is_zero
from pillar.types.verifier import VerifyImageStatus
from pillar.types.zedmanager import StorageStatus

_NO_ERROR: dict[str, Any] = {"Error": "", "ErrorSource": "", "ErrorTime": ZERO_TIME}
_VERIFY_PATIENCE_S = 600.0  # a large image takes its time to be read


def do_install(facts: Facts, plan: Plan) -> Plan:
    """Bring every image of the config to DELIVERED; those that a purge will drop stay as they are."""
    images: list[StorageStatus] = []
    for image in plan.app.StorageStatusList or ():
        if image.State == SwState.PURGING:
            images.append(image)
            continue
        image, wait = do_image(facts, image)
        images.append(image)
        if image.Error:
            plan = plan.blaming(Problem(source=image.ErrorSource, text=image.Error, time=image.ErrorTime))
        if wait is not None:
            plan = plan.waiting_for(wait)
    container = next((image.ContainerImageID for image in images if image.ContainerImageID), "")
    return plan.noting(StorageStatusList=tuple(images), ContainerImageID=container)


def do_uninstall(plan: Plan) -> Plan:
    """Forget the app. Its references vanish with its status, the purge counter with its config."""
    return replace(plan, status=None, wants=replace(plan.wants, purge_counter=None))


def do_image(facts: Facts, image: StorageStatus) -> tuple[StorageStatus, Wait | None]:
    """One image's next state, and whom it waits for (None: it is verified)."""
    name = image_name(image)
    try:
        check_key(name, persistent=False)
    except BadKey as err:
        image = _failed(facts, image, "StorageConfig", f"image {image.Name}: {err}")
        return replace(image, State=SwState.INITIAL), Wait(source="StorageConfig", text="a shorter image name")
    retry = facts.retries.get(name)
    if withdrawn(retry):
        assert retry is not None
        return do_withdrawn(facts, image, retry)
    verifications = staying(facts.verifications, facts.verify_configs)
    key = verify_name(image, verifications, facts.verify_configs)
    verify = verifications.get(key)
    if verify is not None and is_good(verify):
        # A status nobody referred to yet was found after a reboot: its sha256 is right, its signature is looked at
        # when the verifier sees who asks.
        config = facts.verify_configs.get(key)
        asked = config is not None and config.RefCount > 0 and verify.RefCount > 0
        return do_verified(facts, image, verify, retry, trusted=asked or not is_signed(image))
    return do_download(facts, image, verify, retry)


def do_verified(
    facts: Facts, image: StorageStatus, verify: VerifyImageStatus, retry: ImageRetry | None, *, trusted: bool
) -> tuple[StorageStatus, Wait | None]:
    """The content is verified, or being read again after a reboot: only the verification is referred to.

    A download that the image already refers to stays, as in EVE: it costs nothing any more.
    """
    done = verify.State >= SwState.DELIVERED and trusted
    verified = facts.verified.get(image.ImageSha256)
    location = verified.path if verified is not None and verified.path and not image.Vdev else image.ActiveFileLocation
    image = replace(
        image,
        HasVerifierRef=True,
        State=SwState.DELIVERED if done else SwState.DOWNLOADED,
        Progress=100,
        ContainerImageID=verify.ContainerImageID or image.ContainerImageID,
        ActiveFileLocation=location,
    )
    image = replace(image, **_NO_ERROR) if done else _retried(facts, image, retry)
    text = f"the verifier to check image {image.Name}"
    return image, None if done else Wait(source="VerifyImageStatus", text=text, patience_s=_VERIFY_PATIENCE_S)


def do_download(
    facts: Facts, image: StorageStatus, verify: VerifyImageStatus | None, retry: ImageRetry | None
) -> tuple[StorageStatus, Wait | None]:
    """The content is not verified: it is fetched, then (certificates first) handed to the verifier."""
    name = image_name(image)
    image = replace(image, HasDownloaderRef=True, HasVerifierRef=verify is not None)
    again = f"; {explanation(retry)}" if retry is not None else ""
    if verify is not None:
        image = replace(image, State=SwState.DOWNLOADED, Progress=100)
        if verify.LastErr:
            text = explanation(retry) if retry is not None else verify.LastErr
            image = _failed(facts, image, "VerifyImageStatus", f"verifier: {text}", verify.LastErrTime)
        else:
            image = replace(image, **_NO_ERROR)
        text = f"the verifier to check image {image.Name}"
        return image, Wait(source="VerifyImageStatus", text=text, patience_s=_VERIFY_PATIENCE_S)
    download = staying(facts.downloads, facts.download_configs).get(name)
    if download is None:
        image = replace(image, State=SwState.DOWNLOAD_STARTED, Progress=0)
        image = _retried(facts, image, retry)
        return image, Wait(source="DownloaderStatus", text=f"the downloader to begin with image {image.Name}")
    image = replace(
        image,
        State=min(download.State, SwState.DOWNLOADED) or SwState.DOWNLOAD_STARTED,
        Progress=download.Progress,
        ContainerImageID=download.ContainerImageID or image.ContainerImageID,
    )
    waiting = Wait(source="DownloaderStatus", text=f"the download of image {image.Name}", patience_s=0)
    if download.LastErr:
        return _failed(
            facts, image, "DownloaderStatus", f"downloader: {download.LastErr}{again}", download.LastErrTime
        ), waiting
    image = _retried(facts, image, retry)
    if download.State < SwState.DOWNLOADED or _pending(download):
        return replace(image, State=min(image.State, SwState.DOWNLOAD_STARTED)), waiting
    image = replace(image, State=SwState.DOWNLOADED, Progress=100)
    missing = [file for file in certificate_names(image) if file not in facts.certificates]
    if missing:
        text = f"image {image.Name}: waiting for certificates {', '.join(missing)}"
        text += f": {facts.certificates_error}" if facts.certificates_error else ""
        waits = Wait(source="CertObjStatus", text="certificates", patience_s=0)
        return _failed(facts, image, "CertObjStatus", text), waits
    waiting = Wait(source="VerifyImageStatus", text=f"the verifier to begin with image {image.Name}")
    key = verify_name(image, facts.verifications, facts.verify_configs)
    if key in facts.verifications:  # an earlier verification that is being cleared away
        return image, waiting
    return replace(image, HasVerifierRef=True), waiting


def do_withdrawn(facts: Facts, image: StorageStatus, retry: ImageRetry) -> tuple[StorageStatus, Wait]:
    """The content was wrong: refer to nothing until both workers have let go of it."""
    text = f"verifier: {explanation(retry)}"
    image = replace(
        image, HasDownloaderRef=False, HasVerifierRef=False, State=SwState.DOWNLOAD_STARTED, Progress=0,
        ContainerImageID="",
    )  # fmt: skip
    waits = Wait(source="DownloaderStatus", text=f"downloader and verifier to drop image {image.Name}", patience_s=0)
    return _failed(facts, image, "VerifyImageStatus", text, retry.LastErrTime), waits


def certificate_names(image: StorageStatus) -> Iterator[str]:
    """File names, below /persist/certs, of the certificates that verifying this image needs."""
    for url in (image.SignatureKey, *(image.CertificateChain or ())):
        if url:
            yield filename_from_url(url)


def _retried(facts: Facts, image: StorageStatus, retry: ImageRetry | None) -> StorageStatus:
    """While an image is fetched again its error says so."""
    if retry is None or retry.State != RetryState.FETCHING:
        return replace(image, **_NO_ERROR)
    return _failed(facts, image, "VerifyImageStatus", f"verifier: {explanation(retry)}", retry.LastErrTime)


def _failed(facts: Facts, image: StorageStatus, source: str, text: str, time: str = ZERO_TIME) -> StorageStatus:
    """With an error; its time is when it was first seen, and does not move while the error is the same."""
    if (image.Error, image.ErrorSource) == (text, source) and not is_zero(image.ErrorTime):
        return image
    return replace(image, Error=text, ErrorSource=source, ErrorTime=facts.now if is_zero(time) else time)


def _pending(status: DownloaderStatus) -> bool:
    return status.PendingAdd or status.PendingModify or status.PendingDelete
