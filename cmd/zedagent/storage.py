"""Drives of an app or a base OS -> StorageConfig, and the certificates their signatures need -> CertObjConfig."""

from collections.abc import Sequence

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, read_uuid
from pillar.types.baseos import CertObjConfig
from pillar.types.common import UUIDandVersion
from pillar.types.scalars import NIL_UUID
from pillar.types.zedmanager import StorageConfig

_CERTIFICATE_BYTES = 100 * 1024  # nobody says how large a certificate is; this much is reserved for each


def parse_drives(drives: Sequence[wire.Drive], owner: str) -> tuple[tuple[StorageConfig, ...], list[str]]:
    """One StorageConfig per drive, in their order, and what is wrong with them (texts that name `owner`).

    A drive is listed even when it is wrong, so that the others keep their places. An id that is not a UUID becomes
    the nil UUID without an error, as in EVE: the downloader then says that there is no such datastore.
    """
    images: list[StorageConfig] = []
    errors: list[str] = []
    for number, drive in enumerate(drives, start=1):
        where = f"{owner}: drive {number} ({drive.image.name})" if drive.image.name else f"{owner}: drive {number}"
        if not drive.HasField("image"):
            errors.append(f"{where} has no image.\n")
        else:
            if not drive.image.HasField("uuidandversion"):
                errors.append(f"{where}: its image has no uuidandversion.\n")
            if not drive.image.HasField("siginfo"):
                errors.append(f"{where}: its image has no siginfo (an unsigned one has an empty siginfo).\n")
        images.append(_parse_drive(drive))
    return tuple(images), errors


def _parse_drive(drive: wire.Drive) -> StorageConfig:
    image, signature = drive.image, drive.image.siginfo
    return StorageConfig(
        DatastoreID=_uuid_or_nil(image.dsId),
        ImageID=_uuid_or_nil(image.uuidandversion.uuid),
        Name=image.name,
        Size=image.sizeBytes % 2**64,
        CertificateChain=(signature.intercertsurl,) if signature.intercertsurl else None,
        ImageSignature=signature.signature or None,
        SignatureKey=signature.signercerturl,
        ImageSha256=image.sha256,
        ReadOnly=drive.readonly,
        Preserve=drive.preserve,
        Maxsizebytes=drive.maxsizebytes % 2**64,
        Format=enum_text(wire.Format, image.iformat).lower() if drive.HasField("image") else "",
        Devtype=enum_text(wire.DriveType, drive.drvtype).lower(),
        Target=enum_text(wire.Target, drive.target).lower(),
    )


def certificates(owner: UUIDandVersion, images: Sequence[StorageConfig]) -> CertObjConfig | None:
    """The certificates to fetch for the signatures of `images`, each as a pseudo image; None when none is signed."""
    wanted: list[StorageConfig] = []
    for image in images:
        for url in (image.SignatureKey, *(image.CertificateChain or ())):
            if url:
                wanted.append(
                    StorageConfig(DatastoreID=image.DatastoreID, Name=url, NameIsURL=True, Size=_CERTIFICATE_BYTES)
                )
    return CertObjConfig(UUIDandVersion=owner, StorageConfigList=tuple(wanted)) if wanted else None


def enum_text(enum: EnumTypeWrapper, number: int) -> str:
    """The name of an enumeration's value, or the number as text when it has no name here."""
    named = enum.DESCRIPTOR.values_by_number.get(number)
    return named.name if named is not None else str(number)


def _uuid_or_nil(text: str) -> str:
    try:
        return read_uuid(text)
    except Malformed:
        return NIL_UUID
